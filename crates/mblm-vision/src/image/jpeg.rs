//! JPEG files with the same bytes as Pillow's: baseline, fixed Huffman tables, chroma at half the
//! resolution (RGB: all channels at full resolution).
//!
//! mozjpeg with its fastest defaults is libjpeg, whose bytes equal Pillow's for every quality of at
//! least 24. At lower qualities the quantization tables of Annex K, b · s / 100 with s = ⌊5000 /
//! quality⌋, would exceed a byte. Like Pillow, this encoder clamps them to 1…255, so the file stays
//! baseline.

use std::panic::{AssertUnwindSafe, catch_unwind};

use mozjpeg::qtable::{AnnexK_Chroma, AnnexK_Luma};
use mozjpeg::{ColorSpace, Compress};
use serde::Serialize;

use super::pixels::Image;

/// The largest side of an image in the format.
const LARGEST: usize = 65_500;
/// The lowest quality with tables that fit into bytes.
const BASELINE: u8 = 24;

/// The compression of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Jpeg {
    /// 0 to 95.
    pub(crate) quality: u8,
    /// Whether the file holds RGB instead of YCbCr.
    pub(crate) rgb: bool,
}

impl Jpeg {
    /// Returns the bytes of the file.
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
            // The tables are scaled in f32. The small addend rounds halves up; the next larger
            // fraction is 0.01 away.
            let quality = 5000.0 / (f32::from(scale) + 0.002);
            encoder.set_luma_qtable(&AnnexK_Luma.scaled(quality, quality));
            encoder.set_chroma_qtable(&AnnexK_Chroma.scaled(quality, quality));
        }
        let mut encoder = encoder.start_compress(Vec::new())?;
        encoder.write_scanlines(&image.rgb)?;
        encoder.finish()
    }
}
