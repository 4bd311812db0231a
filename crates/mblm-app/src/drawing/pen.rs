//! The common parts of all figures: size, fonts, colors, and a panel with axes.

use anyhow::Result;
use plotters::chart::ChartContext;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::axis::Axis;

/// Width and height in pixels at scale 1.
pub(super) const SIZE: (u32, u32) = (1000, 720);

/// The name of the font of labels.
pub const FONT: &str = "sans-serif";

/// Colors that color-blind people can tell apart (Okabe and Ito).
pub(super) const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(60, 60, 60),
];

/// The color of text.
pub(super) const TEXT: RGBColor = RGBColor(50, 50, 50);
/// The color of grid lines and frames.
pub(super) const GRID: RGBColor = RGBColor(228, 228, 228);

/// A chart on these axes.
pub(super) type Chart<'a, DB> = ChartContext<'a, DB, Cartesian2d<Axis, Axis>>;

/// The sizes of drawn elements at one scale.
#[derive(Clone, Copy)]
pub(super) struct Pen {
    pub(super) scale: f64,
}

impl Pen {
    pub(super) fn pixels(self, size: f64) -> u32 {
        (size * self.scale).round() as u32
    }

    pub(super) fn text(self, size: f64) -> TextStyle<'static> {
        (FONT, size * self.scale).into_font().color(&TEXT)
    }

    pub(super) fn stroke(self, color: RGBAColor, width: f64) -> ShapeStyle {
        ShapeStyle {
            color,
            filled: false,
            stroke_width: self.pixels(width).max(1),
        }
    }

    /// The radius of circles and crosses.
    pub(super) fn radius(self) -> u32 {
        self.pixels(4.0)
    }

    /// The middle of the line that begins at a position of the legend.
    pub(super) fn middle(self, (x, y): (i32, i32)) -> (i32, i32) {
        (x + self.pixels(12.0) as i32, y)
    }

    /// The line that begins at a position of the legend.
    pub(super) fn swatch(self, (x, y): (i32, i32)) -> [(i32, i32); 2] {
        [(x, y), (x + self.pixels(24.0) as i32, y)]
    }

    /// Draws an empty panel with its grid, numbers and labels.
    pub(super) fn chart<'a, DB: DrawingBackend>(
        self,
        area: &'a DrawingArea<DB, Shift>,
        x: Axis,
        y: Axis,
        y_label: &str,
        x_label: Option<&str>,
    ) -> Result<Chart<'a, DB>>
    where
        DB::ErrorType: 'static,
    {
        let mut chart = ChartBuilder::on(area)
            .margin_right(self.pixels(24.0))
            .margin_top(self.pixels(8.0))
            .margin_left(self.pixels(8.0))
            .margin_bottom(self.pixels(6.0))
            .x_label_area_size(self.pixels(if x_label.is_some() { 46.0 } else { 26.0 }))
            .y_label_area_size(self.pixels(64.0))
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(self.stroke(GRID.to_rgba(), 1.0))
            .axis_style(self.stroke(RGBColor(150, 150, 150).to_rgba(), 1.0))
            .label_style(self.text(13.0))
            .axis_desc_style(self.text(14.0))
            .set_all_tick_mark_size(self.pixels(4.0))
            .x_desc(x_label.unwrap_or_default())
            .y_desc(y_label)
            .draw()?;
        Ok(chart)
    }
}
