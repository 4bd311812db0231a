//! `dataset_args` of `pictures`: the keys of `clevr` for the preparation of images, and keys for
//! folders.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::form::Form;
use crate::image::keys::{ImageKeys, check_ids, wrong};
use crate::image::prepare::Preparation;
use mblm::Result;
use mblm::data::DatasetArgs;

/// The number of ids that are bytes; special ids come after them.
const BYTES: u32 = 256;

/// The conversion of images to ids.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImageFolderOptions {
    /// Height of all images in pixels, after cropping; required for samples of pixels.
    pub resize_to_h: Option<u32>,
    /// Width of all images in pixels, after cropping; required for samples of pixels.
    pub resize_to_w: Option<u32>,
    /// Share of the height that is cropped at the top, and again at the bottom.
    pub crop_h_perc: Option<f64>,
    /// Share of the width that is cropped at the left, and again at the right.
    pub crop_w_perc: Option<f64>,
    /// The number of equal bins for a channel's values; a value becomes the mean of its bin's
    /// borders.
    pub downsample_channels: Option<u32>,
    /// The id before an image.
    pub som_image_token_id: Option<u32>,
    /// The id after an image.
    pub eom_token_id: Option<u32>,
    /// Quality, 0 to 95, of the JPEG file whose bytes replace the pixels.
    pub enable_jpeg_stream_with_quality: Option<u8>,
    /// Whether that file holds RGB instead of YCbCr.
    pub jpeg_in_rgb_color_space: bool,
    /// Whether samples are the unchanged bytes of the folder's JPEG files; PNG files are then
    /// ignored.
    pub jpeg_files: bool,
    /// Whether images that are damaged or of another kind are skipped with a warning; else they are
    /// an error.
    pub skip_bad_images: bool,
    /// A folder for prepared images, which are prepared once, when the data set is opened.
    pub cache_dir: Option<PathBuf>,
    /// The share of images held out for validation and test, in a folder without named splits
    /// [default: 0.05].
    pub held_out: Option<f64>,
}

impl Default for ImageFolderOptions {
    fn default() -> Self {
        Self {
            resize_to_h: None,
            resize_to_w: None,
            crop_h_perc: None,
            crop_w_perc: None,
            downsample_channels: None,
            som_image_token_id: None,
            eom_token_id: None,
            enable_jpeg_stream_with_quality: None,
            jpeg_in_rgb_color_space: true,
            jpeg_files: false,
            skip_bad_images: false,
            cache_dir: None,
            held_out: None,
        }
    }
}

impl ImageFolderOptions {
    /// Reads the options in `args` and checks them, also for its vocabulary.
    pub(super) fn read(args: &DatasetArgs) -> Result<Self> {
        let options: Self = args.parse_options()?;
        let ids = [
            ("eom_token_id", options.eom_token_id),
            ("som_image_token_id", options.som_image_token_id),
        ];
        check_ids(args, &ids)?;
        for (name, id) in ids {
            if let Some(id) = id.filter(|id| *id < BYTES) {
                return wrong(name, "an id above 255, because ids up to 255 are bytes", id);
            }
        }
        options.preparation()?;
        options.form()?;
        Ok(options)
    }

    /// Returns the preparation of each image.
    pub(super) fn preparation(&self) -> Result<Preparation> {
        if !self.jpeg_files {
            return ImageKeys {
                crop_h_perc: self.crop_h_perc,
                crop_w_perc: self.crop_w_perc,
                resize_to_h: self.resize_to_h,
                resize_to_w: self.resize_to_w,
                downsample_channels: self.downsample_channels,
                shift_channels_start: None,
                enable_jpeg_stream_with_quality: self.enable_jpeg_stream_with_quality,
                jpeg_in_rgb_color_space: self.jpeg_in_rgb_color_space,
            }
            .preparation();
        }
        for (name, given) in [
            ("resize_to_h", self.resize_to_h.is_some()),
            ("resize_to_w", self.resize_to_w.is_some()),
            ("crop_h_perc", self.crop_h_perc.is_some()),
            ("crop_w_perc", self.crop_w_perc.is_some()),
            ("downsample_channels", self.downsample_channels.is_some()),
            (
                "enable_jpeg_stream_with_quality",
                self.enable_jpeg_stream_with_quality.is_some(),
            ),
            ("cache_dir", self.cache_dir.is_some()),
        ] {
            if given {
                let found = format!("{name} beside it; remove one of them");
                return wrong(
                    "jpeg_files",
                    "no key that prepares images, because the files are read unchanged",
                    found,
                );
            }
        }
        Ok(Preparation::none())
    }

    /// Returns the form of a sample's bytes.
    ///
    /// # Errors
    /// Pixels without a size.
    pub fn form(&self) -> Result<Form> {
        if self.jpeg_files || self.enable_jpeg_stream_with_quality.is_some() {
            return Ok(Form::Jpeg);
        }
        match (self.resize_to_w, self.resize_to_h) {
            (Some(width), Some(height)) => Ok(Form::Pixels {
                width: width as usize,
                height: height as usize,
            }),
            _ => wrong(
                "resize_to_w, resize_to_h",
                "the size of all images (or enable_jpeg_stream_with_quality or jpeg_files, for JPEG files of any size)",
                "none",
            ),
        }
    }
}
