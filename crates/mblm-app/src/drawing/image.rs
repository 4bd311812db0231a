//! Writes figures as SVG, or as PNG at twice the size in pixels. Needs no library or font of the
//! system: a PNG uses DejaVu Sans, which is built in, and an SVG uses the fonts of its viewer.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

use super::pen::{FONT, SIZE};
use crate::usage::Usage;

/// Pixels of a PNG per pixel of the figure.
const PNG_SCALE: u32 = 2;

/// A figure that can be drawn.
pub(crate) trait Draw {
    /// Draws on an area whose size is [`SIZE`] times `scale`.
    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, scale: f64) -> Result<()>
    where
        DB::ErrorType: 'static;
}

/// A format of image files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Svg,
    Png,
}

impl Format {
    /// Chooses the format by the extension of a file's name.
    pub(crate) fn of(path: &Path) -> Result<Self, Usage> {
        let extension = path
            .extension()
            .map(|extension| extension.to_string_lossy().to_lowercase());
        match extension.as_deref() {
            Some("svg") => Ok(Self::Svg),
            Some("png") => Ok(Self::Png),
            _ => Err(Usage(format!(
                "{}: expected the name of a figure, which ends in .svg or .png",
                path.display()
            ))),
        }
    }

    /// Returns the bytes of the file.
    pub(crate) fn render(self, figure: &impl Draw) -> Result<Vec<u8>> {
        register_letters()?;
        match self {
            Self::Svg => {
                let mut text = String::new();
                figure.draw(&SVGBackend::with_string(&mut text, SIZE).into_drawing_area(), 1.0)?;
                Ok(text.into_bytes())
            }
            Self::Png => {
                let (width, height) = (SIZE.0 * PNG_SCALE, SIZE.1 * PNG_SCALE);
                let mut pixels = vec![0; (width * height * 3) as usize];
                let area = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
                figure.draw(&area, f64::from(PNG_SCALE))?;
                drop(area);
                encode(&pixels, width, height)
            }
        }
    }
}

/// Registers the built-in font under the name [`FONT`].
pub fn register_letters() -> Result<()> {
    // the drawing library keeps fonts by name: registering the same font again changes nothing
    register_font(FONT, FontStyle::Normal, dejavu::sans::regular())
        .map_err(|_| anyhow!("the font that is in the program cannot be read"))
}

/// Encodes pixels of three bytes as PNG.
pub fn encode(pixels: &[u8], width: u32, height: u32) -> Result<Vec<u8>> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()?;
    Ok(file)
}
