//! A table as a heat map: shares from 0 (white) to 1 (blue), each with its number in percent.

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::image::Draw;
use super::pen::{COLOURS, GRID, Pen, SIZE, TEXT};

/// The left, top, right and bottom edges of the table in the figure.
const LEFT: f64 = 110.0;
const TOP: f64 = 70.0;
const RIGHT: f64 = SIZE.0 as f64 - 24.0;
const BOTTOM: f64 = SIZE.1 as f64 - 80.0;

/// Numbers above this share are white.
const DARK: f64 = 0.55;

/// A table of shares.
pub(crate) struct HeatMap {
    pub(crate) title: String,
    pub(crate) x_label: String,
    pub(crate) y_label: String,
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<String>,
    /// Shares from 0 to 1, row by row; `None` if nothing was measured.
    pub(crate) shares: Vec<Vec<Option<f64>>>,
}

impl HeatMap {
    /// The rectangle of a cell.
    fn cell(&self, row: usize, column: usize) -> [f64; 4] {
        let width = (RIGHT - LEFT) / self.columns.len().max(1) as f64;
        let height = (BOTTOM - TOP) / self.rows.len().max(1) as f64;
        let (x, y) = (LEFT + width * column as f64, TOP + height * row as f64);
        [x, y, x + width, y + height]
    }
}

/// The color of a share, from white to blue.
fn colour(share: f64) -> RGBColor {
    let towards = |blue: u8| (255.0 + (f64::from(blue) - 255.0) * share.clamp(0.0, 1.0)).round() as u8;
    let RGBColor(red, green, blue) = COLOURS[0];
    RGBColor(towards(red), towards(green), towards(blue))
}

impl Draw for HeatMap {
    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, scale: f64) -> Result<()>
    where
        DB::ErrorType: 'static,
    {
        let pen = Pen { scale };
        let at = |x: f64, y: f64| ((x * scale).round() as i32, (y * scale).round() as i32);
        let middle = Pos::new(HPos::Center, VPos::Center);
        let text = |text: &str, size: f64, pos: Pos, place: (i32, i32)| {
            area.draw(&Text::new(text.to_string(), place, pen.text(size).pos(pos)))
        };
        area.fill(&WHITE)?;
        let centre = (LEFT + RIGHT) / 2.0;
        text(&self.title, 20.0, middle, at(f64::from(SIZE.0) / 2.0, 30.0))?;
        text(&self.x_label, 14.0, middle, at(centre, f64::from(SIZE.1) - 26.0))?;
        text(
            &self.y_label,
            14.0,
            Pos::new(HPos::Left, VPos::Center),
            at(14.0, TOP - 18.0),
        )?;
        for (row, name) in self.rows.iter().enumerate() {
            let [x, top, _, bottom] = self.cell(row, 0);
            let place = at(x - 12.0, (top + bottom) / 2.0);
            text(name, 13.0, Pos::new(HPos::Right, VPos::Center), place)?;
        }
        for (column, name) in self.columns.iter().enumerate() {
            let [left, _, right, _] = self.cell(0, column);
            text(name, 13.0, middle, at((left + right) / 2.0, BOTTOM + 20.0))?;
        }
        for (row, shares) in self.shares.iter().enumerate() {
            for (column, share) in shares.iter().enumerate() {
                let [left, top, right, bottom] = self.cell(row, column);
                let corners = [at(left, top), at(right, bottom)];
                if let Some(share) = share {
                    area.draw(&Rectangle::new(corners, colour(*share).filled()))?;
                    let ink = if *share > DARK { WHITE } else { TEXT };
                    let style = pen.text(16.0).color(&ink).pos(middle);
                    let place = at((left + right) / 2.0, (top + bottom) / 2.0);
                    area.draw(&Text::new(format!("{:.0}", share * 100.0), place, style))?;
                }
                area.draw(&Rectangle::new(
                    corners,
                    ShapeStyle::from(GRID).stroke_width(pen.pixels(1.0)),
                ))?;
            }
        }
        area.present()?;
        Ok(())
    }
}
