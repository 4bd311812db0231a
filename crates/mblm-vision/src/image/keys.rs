//! The keys of `dataset_args` for the preparation of images, named as in the Python package.
//!
//! Unlike in the package, these are errors: one side of a crop or size without the other, a shift
//! without bins, a vocabulary without room for a special id.

use super::channels::Bins;
use super::jpeg::Jpeg;
use super::prepare::{Output, Preparation};
use mblm::data::DatasetArgs;
use mblm::{Error, Result};

/// The best quality that Pillow recommends and the package allows.
const BEST_QUALITY: u8 = 95;
/// The number of values of an 8-bit channel, and of ids for bytes.
const BYTES: usize = 256;

/// The values of the keys; unset for keys that a data set does not have.
#[derive(Clone, Debug, Default)]
pub(crate) struct ImageKeys {
    pub(crate) crop_h_perc: Option<f64>,
    pub(crate) crop_w_perc: Option<f64>,
    pub(crate) resize_to_h: Option<u32>,
    pub(crate) resize_to_w: Option<u32>,
    pub(crate) downsample_channels: Option<u32>,
    pub(crate) shift_channels_start: Option<u32>,
    pub(crate) enable_jpeg_stream_with_quality: Option<u8>,
    pub(crate) jpeg_in_rgb_color_space: bool,
}

impl ImageKeys {
    /// Returns the preparation of each image.
    ///
    /// # Errors
    /// Keys that are invalid by themselves or in combination.
    pub(crate) fn preparation(&self) -> Result<Preparation> {
        let crop = both(["crop_h_perc", "crop_w_perc"], [self.crop_h_perc, self.crop_w_perc])?;
        if let Some(share) = crop.iter().flatten().find(|share| !(0.0..0.5).contains(*share)) {
            return wrong("crop_h_perc, crop_w_perc", "shares from 0 to below 0.5", share);
        }
        let size = both(["resize_to_w", "resize_to_h"], [self.resize_to_w, self.resize_to_h])?;
        if size.is_some_and(|[w, h]| !(1..=u32::from(u16::MAX)).contains(&w) || !(1..=u32::from(u16::MAX)).contains(&h))
        {
            return wrong("resize_to_w, resize_to_h", "1 to 65535 pixels", format!("{size:?}"));
        }
        let bins = match self.downsample_channels {
            Some(0) => return wrong("downsample_channels", "at least 1 bin", 0),
            count => count.and_then(Bins::new),
        };
        let shift = match (self.shift_channels_start, self.downsample_channels) {
            (None, _) => None,
            (Some(_), None) => {
                return wrong(
                    "shift_channels_start",
                    "downsample_channels beside it",
                    "none; give both or neither",
                );
            }
            (Some(start), Some(bins)) => match u8::try_from(start) {
                Ok(first) if u64::from(start) + u64::from(bins.min(255)) <= BYTES as u64 => Some(first),
                _ => {
                    let expected = format!("room for the values of {bins} bins below {BYTES}");
                    return wrong("shift_channels_start", &expected, start);
                }
            },
        };
        let output = match self.enable_jpeg_stream_with_quality {
            Some(quality) if quality > BEST_QUALITY => {
                return wrong("enable_jpeg_stream_with_quality", "0 to 95", quality);
            }
            Some(quality) => Output::Jpeg(Jpeg {
                quality,
                rgb: self.jpeg_in_rgb_color_space,
            }),
            None => Output::Pixels,
        };
        Ok(Preparation {
            crop: crop.map(|[height, width]| (height, width)),
            size: size.map(|[width, height]| (width as usize, height as usize)),
            bins,
            shift,
            output,
        })
    }
}

/// Fails for a vocabulary without room for all bytes and the special ids, given with their keys.
pub(crate) fn check_ids(args: &DatasetArgs, ids: &[(&str, Option<u32>)]) -> Result<()> {
    if args.num_tokens < BYTES {
        return Err(Error::config(format!(
            "params.num_tokens is {}: expected at least {BYTES}, an id for each byte",
            args.num_tokens
        )));
    }
    for (name, id) in ids {
        if let Some(id) = id.filter(|id| *id as usize >= args.num_tokens) {
            let expected = format!("an id below params.num_tokens, which is {}", args.num_tokens);
            return wrong(name, &expected, id);
        }
    }
    Ok(())
}

/// Returns both values or none; fails for one alone.
fn both<T>(names: [&str; 2], values: [Option<T>; 2]) -> Result<Option<[T; 2]>> {
    match values {
        [None, None] => Ok(None),
        [Some(a), Some(b)] => Ok(Some([a, b])),
        [Some(_), None] => wrong(
            names[0],
            &format!("{} beside it", names[1]),
            "none; give both or neither",
        ),
        [None, Some(_)] => wrong(
            names[1],
            &format!("{} beside it", names[0]),
            "none; give both or neither",
        ),
    }
}

/// Returns the error of a key with an invalid value.
pub(crate) fn wrong<T>(key: &str, expected: &str, found: impl std::fmt::Display) -> Result<T> {
    Err(Error::config(format!(
        "io.dataset_args.{key}: expected {expected}, found {found}"
    )))
}
