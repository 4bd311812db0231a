//! A contact sheet as PNG: a grid of small images, each above a text, a right line and a wrong
//! line.

use crate::image::Image;
use anyhow::{Result, anyhow};
use plotters::prelude::*;

use mblm_app::drawing::{FONT, encode, register_letters};

/// Cells side by side.
const COLUMNS: usize = 4;
/// The size of an image's space in pixels, and the gap between cells.
const IMAGE: (usize, usize) = (300, 200);
const GAP: usize = 16;
/// Heights of letters and lines in pixels.
const LETTER: i32 = 14;
const LINE: i32 = 19;
/// The largest number of characters per line, and of lines per text.
const CHARACTERS: usize = 40;
const LINES: usize = 4;

/// An image and its text.
pub(crate) struct Cell {
    pub(crate) image: Image,
    pub(crate) text: String,
    pub(crate) right: String,
    pub(crate) wrong: String,
}

/// Returns the bytes of the PNG file; without cells it is one blank line.
pub(crate) fn contact_sheet(cells: &[Cell]) -> Result<Vec<u8>> {
    register_letters()?;
    let cell = (IMAGE.0 + GAP, IMAGE.1 + (LINES + 2) * LINE as usize + GAP);
    let rows = cells.len().div_ceil(COLUMNS).max(1);
    let (width, height) = (cell.0 * COLUMNS + GAP, cell.1 * rows + GAP);
    let mut pixels = vec![u8::MAX; width * height * 3];
    for (place, cell_) in cells.iter().enumerate() {
        let (left, top) = corner(place, cell);
        paste(&fitted(&cell_.image), &mut pixels, width, left, top);
    }
    let size = (width as u32, height as u32);
    {
        let area = BitMapBackend::with_buffer(&mut pixels, size).into_drawing_area();
        for (place, cell_) in cells.iter().enumerate() {
            let (left, top) = corner(place, cell);
            let mut y = (top + IMAGE.1) as i32 + 4;
            let question = wrapped(&cell_.text).into_iter().map(|line| (line, BLACK));
            let answers = [
                (cell_.right.clone(), RGBColor(0, 110, 40)),
                (cell_.wrong.clone(), RGBColor(180, 20, 20)),
            ];
            for (line, color) in question.chain(answers) {
                let style = (FONT, LETTER).into_font().color(&color);
                area.draw(&Text::new(line, (left as i32, y), style))
                    .map_err(|error| anyhow!("{error}"))?;
                y += LINE;
            }
        }
        area.present().map_err(|error| anyhow!("{error}"))?;
    }
    encode(&pixels, size.0, size.1)
}

/// Returns the upper left corner of a cell.
fn corner(place: usize, cell: (usize, usize)) -> (usize, usize) {
    (GAP + place % COLUMNS * cell.0, GAP + place / COLUMNS * cell.1)
}

/// Returns the image, scaled to fit its space.
fn fitted(image: &Image) -> Image {
    let (width, height) = (image.width as f64, image.height as f64);
    let scale = (IMAGE.0 as f64 / width).min(IMAGE.1 as f64 / height);
    let side = |length: f64, most: usize| ((length * scale).round() as usize).clamp(1, most);
    image.resized(side(width, IMAGE.0), side(height, IMAGE.1))
}

/// Copies an image that fits into a larger one of `width` pixels a row.
fn paste(image: &Image, pixels: &mut [u8], width: usize, left: usize, top: usize) {
    for (y, row) in image.rgb.chunks_exact(image.width * 3).enumerate() {
        let start = ((top + y) * width + left) * 3;
        pixels[start..start + row.len()].copy_from_slice(row);
    }
}

/// Returns the text as lines, broken between words and truncated if it is too long.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let fits = |line: &&mut String| line.chars().count() + word.chars().count() < CHARACTERS;
        if let Some(line) = lines.last_mut().filter(fits) {
            line.push(' ');
            line.push_str(word);
        } else if lines.len() < LINES {
            lines.push(word.chars().take(CHARACTERS).collect());
        } else {
            lines[LINES - 1].push('…');
            break;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_between_words() {
        let text = "How many things are red cubes that are in front of the tiny rubber sphere or shiny cylinders?";
        let lines = wrapped(text);
        assert_eq!(lines.join(" "), text);
        assert!(
            lines.len() == 3 && lines.iter().all(|line| line.chars().count() <= CHARACTERS),
            "{lines:?}"
        );
        let long = wrapped(&"word ".repeat(100));
        assert!(long.len() == LINES && long[LINES - 1].ends_with('…'), "{long:?}");
        assert_eq!(wrapped(&"x".repeat(100))[0].len(), CHARACTERS);
        assert!(wrapped("").is_empty());
    }

    #[test]
    fn images_stand_side_by_side() {
        let cell = |value| Cell {
            image: Image {
                width: 48,
                height: 32,
                rgb: vec![value; 48 * 32 * 3],
            },
            text: "What is it?".into(),
            right: "right: cube".into(),
            wrong: "given: sphere".into(),
        };
        let cells: Vec<Cell> = (0..5).map(|value| cell(value * 20)).collect();
        let sheet = Image::decode(&contact_sheet(&cells).unwrap()).unwrap();
        let pixel = |x: usize, y: usize| sheet.rgb[(y * sheet.width + x) * 3];
        // points inside the second image of the first row, and inside the first image of the second
        // row
        assert_eq!(pixel(GAP + IMAGE.0 + GAP + 9, GAP + 9), 20);
        assert_eq!(pixel(GAP + 9, sheet.height / 2 + GAP + 9), 80);
        // letters are not white
        let under = (IMAGE.1 + GAP) * sheet.width * 3..(IMAGE.1 + 2 * GAP) * sheet.width * 3;
        assert!(sheet.rgb[under].iter().any(|value| *value < 128));
        assert!(contact_sheet(&[]).is_ok());
    }
}
