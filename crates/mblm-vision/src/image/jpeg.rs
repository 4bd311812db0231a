//! The bytes of a JPEG file, as Pillow writes them: baseline, fixed Huffman tables, chroma at half the resolution (RGB: all
//! channels at full resolution).
//!
//! mozjpeg with its fastest defaults is libjpeg, whose bytes equal Pillow's for every quality of at least 24. Below that the
//! quantisation tables of Annex K would exceed a byte, b · s / 100 with s = ⌊5000 / quality⌋; Pillow cuts them to 1…255, so that
//! the file stays baseline, and so does this.

use std::panic::{AssertUnwindSafe, catch_unwind};

use mozjpeg::qtable::{AnnexK_Chroma, AnnexK_Luma};
use mozjpeg::{ColorSpace, Compress};
use serde::Serialize;

use super::pixels::Image;

/// The largest side of an image that the format allows.
const LARGEST: usize = 65_500;
/// The first quality whose tables fit into bytes.
const BASELINE: u8 = 24;

/// How an image is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Jpeg {
    /// 0 to 95.
    pub(crate) quality: u8,
    /// RGB instead of YCbCr.
    pub(crate) rgb: bool,
}

impl Jpeg {
    /// The file's bytes.
    pub(crate) fn encode(self, image: &Image) -> Result<Vec<u8>, String> {
        let sides = [image.width, image.height];
        if sides.iter().any(|side| !(1..=LARGEST).contains(side)) {
            return Err(format!(
                "a JPEG file holds 1 to {LARGEST} pixels a side, not {} × {}",
                image.width, image.height
            ));
        }
        // the C library reports errors by unwinding
        catch_unwind(AssertUnwindSafe(|| self.encode_unwinding(image)))
            .map_err(|_| "the JPEG encoder failed".to_string())?
            .map_err(|error| format!("the JPEG encoder failed: {error}"))
    }

    fn encode_unwinding(self, image: &Image) -> std::io::Result<Vec<u8>> {
        let mut encoder = Compress::new(ColorSpace::JCS_RGB);
        encoder.set_fastest_defaults();
        encoder.set_size(image.width, image.height);
        if self.rgb {
            encoder.set_color_space(ColorSpace::JCS_RGB);
        }
        encoder.set_quality(f32::from(self.quality));
        if self.quality < BASELINE {
            let scale = 5000 / u16::from(self.quality.max(1));
            // the tables are scaled in f32: a little more, so that halves are rounded up; the next larger part is 0.01 away
            let quality = 5000.0 / (f32::from(scale) + 0.002);
            encoder.set_luma_qtable(&AnnexK_Luma.scaled(quality, quality));
            encoder.set_chroma_qtable(&AnnexK_Chroma.scaled(quality, quality));
        }
        let mut encoder = encoder.start_compress(Vec::new())?;
        encoder.write_scanlines(&image.rgb)?;
        encoder.finish()
    }
}
