//! How small gzip and zstd make data that follow other data: a scale for what a model predicts.
//!
//! With d the data, b what stands before them and |·| the length of the compressed form, gzip's
//! size is |b d| − |b|, where b is cut to the 32 KiB that gzip looks back. zstd gets b as a prefix
//! that it may refer to.

use std::io::{self, Write};

use flate2::Compression as Level;
use flate2::write::GzEncoder;

use super::Compression;

/// The distance that gzip looks back, in bytes.
const GZIP_WINDOW: usize = 32 << 10;
/// The level of zstd: the highest that needs no more memory for decompression.
const ZSTD_LEVEL: i32 = 19;

impl Compression {
    /// Returns the bytes that `data` take compressed at the highest usual level, by a program that
    /// has seen `before`.
    ///
    /// # Errors
    /// The library fails, as for data that do not fit into memory.
    pub fn size_after(self, before: &[u8], data: &[u8]) -> io::Result<usize> {
        match self {
            Self::Gzip => {
                let before = &before[before.len().saturating_sub(GZIP_WINDOW)..];
                let size = |parts: &[&[u8]]| -> io::Result<usize> {
                    let mut encoder = GzEncoder::new(Vec::new(), Level::best());
                    for part in parts {
                        encoder.write_all(part)?;
                    }
                    Ok(encoder.finish()?.len())
                };
                Ok(size(&[before, data])?.saturating_sub(size(&[before])?))
            }
            Self::Zstd => {
                let mut encoder = zstd::Encoder::with_ref_prefix(Vec::new(), ZSTD_LEVEL, before)?;
                let reach = (before.len() + data.len()).max(1 << 10);
                encoder.window_log((usize::BITS - reach.leading_zeros()).clamp(10, 27))?;
                encoder.long_distance_matching(true)?;
                encoder.write_all(data)?;
                Ok(encoder.finish()?.len())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_that_were_seen_take_almost_nothing() {
        let noise = |seed: u32| -> Vec<u8> {
            (0..20_000u32)
                .map(|at| ((at ^ seed).wrapping_mul(2_654_435_761) >> 21) as u8)
                .collect()
        };
        let (before, data) = (noise(0), noise(7_777_777));
        for compression in [Compression::Gzip, Compression::Zstd] {
            let fresh = compression.size_after(&[], &data).unwrap();
            let other = compression.size_after(&before, &data).unwrap();
            let seen = compression.size_after(&data, &data).unwrap();
            assert!(seen * 20 < fresh, "{compression}: {seen} of {fresh}");
            assert!(other * 2 > fresh, "{compression}: {other} of {fresh}");
            assert!(compression.size_after(&before, &[]).unwrap() < 100);
        }
    }
}
