//! `dataset_args` of `clevr`: the keys of the Python package, and `cache_dir`, which is this
//! project's own.
//!
//! The keys of images are checked together with other data sets' in [`keys`](crate::image::keys).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::image::keys::{ImageKeys, check_ids, wrong};
use crate::image::prepare::Preparation;
use mblm::Result;
use mblm::data::DatasetArgs;

/// The predicted parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetMode {
    /// Question, image, question and answer.
    #[default]
    Qiqa,
    /// The answer alone.
    A,
}

/// The conversion of questions, images and answers to ids.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClevrOptions {
    /// The predicted parts, which set the weights unless `qiqa_loss_mask` does.
    pub target_mode: TargetMode,
    /// The loss weights of question, image, question and answer, special ids included [default: 1
    /// for predicted parts].
    pub qiqa_loss_mask: Option<[f32; 4]>,
    /// Whether one character encodes an answer: see [`class_of`](super::class_of).
    pub answer_categorical: bool,
    /// Height of the image in pixels, after cropping.
    pub resize_to_h: Option<u32>,
    /// Width of the image in pixels, after cropping.
    pub resize_to_w: Option<u32>,
    /// Share of the height that is cropped at the top, and again at the bottom.
    pub crop_h_perc: Option<f64>,
    /// Share of the width that is cropped at the left, and again at the right.
    pub crop_w_perc: Option<f64>,
    /// The number of equal bins for a channel's values; a value becomes the mean of its bin's
    /// borders.
    pub downsample_channels: Option<u32>,
    /// The value that replaces the smallest binned value of an image; the others follow in order.
    pub shift_channels_start: Option<u32>,
    /// The id after each part.
    pub eom_token_id: Option<u32>,
    /// The id before each text.
    pub som_text_token_id: Option<u32>,
    /// The id before the image.
    pub som_image_token_id: Option<u32>,
    /// Quality, 0 to 95, of the JPEG file whose bytes replace the pixels.
    pub enable_jpeg_stream_with_quality: Option<u8>,
    /// Whether that file holds RGB instead of YCbCr.
    pub jpeg_in_rgb_color_space: bool,
    /// A folder for prepared images, which are prepared once, when the data set is opened.
    pub cache_dir: Option<PathBuf>,
}

impl Default for ClevrOptions {
    fn default() -> Self {
        Self {
            target_mode: TargetMode::default(),
            qiqa_loss_mask: None,
            answer_categorical: false,
            resize_to_h: None,
            resize_to_w: None,
            crop_h_perc: None,
            crop_w_perc: None,
            downsample_channels: None,
            shift_channels_start: None,
            eom_token_id: None,
            som_text_token_id: None,
            som_image_token_id: None,
            enable_jpeg_stream_with_quality: None,
            jpeg_in_rgb_color_space: true,
            cache_dir: None,
        }
    }
}

impl ClevrOptions {
    /// Returns the weights of the four parts.
    pub fn weights(&self) -> [f32; 4] {
        self.qiqa_loss_mask.unwrap_or(match self.target_mode {
            TargetMode::Qiqa => [1.0; 4],
            TargetMode::A => [0.0, 0.0, 0.0, 1.0],
        })
    }

    /// Fails if the options are invalid by themselves or for this vocabulary.
    pub(super) fn validate(&self, args: &DatasetArgs) -> Result<()> {
        let weights = self.weights();
        if let Some(weight) = weights.iter().find(|weight| !(weight.is_finite() && **weight >= 0.0)) {
            return wrong("qiqa_loss_mask", "four weights of at least 0", weight);
        }
        if weights.iter().all(|weight| *weight == 0.0) {
            return wrong("qiqa_loss_mask", "at least one weight above 0", "four zeros");
        }
        if self.target_mode == TargetMode::A && weights[..3].iter().any(|weight| *weight != 0.0) {
            tracing::warn!(
                "dataset_args.target_mode is a, but qiqa_loss_mask {weights:?} also weighs other parts than the \
                 answer; the mask is used, as in the Python package"
            );
        }
        check_ids(
            args,
            &[
                ("eom_token_id", self.eom_token_id),
                ("som_text_token_id", self.som_text_token_id),
                ("som_image_token_id", self.som_image_token_id),
            ],
        )?;
        self.preparation().map(drop)
    }

    /// Returns the preparation of each image.
    pub(super) fn preparation(&self) -> Result<Preparation> {
        self.keys().preparation()
    }

    fn keys(&self) -> ImageKeys {
        ImageKeys {
            crop_h_perc: self.crop_h_perc,
            crop_w_perc: self.crop_w_perc,
            resize_to_h: self.resize_to_h,
            resize_to_w: self.resize_to_w,
            downsample_channels: self.downsample_channels,
            shift_channels_start: self.shift_channels_start,
            enable_jpeg_stream_with_quality: self.enable_jpeg_stream_with_quality,
            jpeg_in_rgb_color_space: self.jpeg_in_rgb_color_space,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mblm::data::Split;
    use serde_json::{Value, json};

    fn parse(options: Value) -> Result<ClevrOptions> {
        let args = DatasetArgs {
            num_tokens: 260,
            options: options.as_object().cloned().unwrap(),
            ..DatasetArgs::new("", Split::Train, 100)
        };
        let options: ClevrOptions = args.parse_options()?;
        options.validate(&args)?;
        Ok(options)
    }

    #[test]
    fn the_mode_gives_the_weights_unless_they_are_given() {
        assert_eq!(parse(json!({})).unwrap().weights(), [1.0; 4]);
        assert_eq!(
            parse(json!({"target_mode": "a"})).unwrap().weights(),
            [0.0, 0.0, 0.0, 1.0]
        );
        let given = parse(json!({"target_mode": "a", "qiqa_loss_mask": [0, 0.25, 0, 1]})).unwrap();
        assert_eq!(given.weights(), [0.0, 0.25, 0.0, 1.0]);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (options, part) in [
            (json!({"crop_height": 1}), "unknown field `crop_height`"),
            (json!({"target_mode": "q"}), "unknown variant `q`"),
            (json!({"qiqa_loss_mask": [1, 1, 1]}), "dataset_args: "),
            (
                json!({"qiqa_loss_mask": [0, 0, 0, 0]}),
                "qiqa_loss_mask: expected at least one weight above 0",
            ),
            (json!({"qiqa_loss_mask": [0, 0, 0, -1]}), "found -1"),
            (
                json!({"crop_h_perc": 0.1}),
                "crop_h_perc: expected crop_w_perc beside it",
            ),
            (json!({"crop_h_perc": 0.5, "crop_w_perc": 0.1}), "below 0.5, found 0.5"),
            (json!({"resize_to_h": 8}), "resize_to_h: expected resize_to_w beside it"),
            (
                json!({"resize_to_h": 8, "resize_to_w": 0}),
                "expected 1 to 65535 pixels",
            ),
            (json!({"downsample_channels": 0}), "at least 1 bin"),
            (
                json!({"shift_channels_start": 3}),
                "expected downsample_channels beside it",
            ),
            (
                json!({"shift_channels_start": 250, "downsample_channels": 16}),
                "room for the values of 16 bins below 256, found 250",
            ),
            (
                json!({"enable_jpeg_stream_with_quality": 96}),
                "expected 0 to 95, found 96",
            ),
            (
                json!({"eom_token_id": 260}),
                "eom_token_id: expected an id below params.num_tokens, which is 260",
            ),
        ] {
            let message = parse(options.clone()).unwrap_err().to_string();
            assert!(message.contains(part), "{options}: {message}");
        }
    }
}
