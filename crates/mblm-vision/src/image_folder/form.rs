//! What the bytes of a sample are, and the image that they stand for.

use crate::image::Image;
use mblm::Result;

/// What the bytes of a sample are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Values of an image of one size, all red ones, then all green, then all blue ones: (3, height, width).
    Pixels {
        /// Pixels across.
        width: usize,
        /// Pixels down.
        height: usize,
    },
    /// A JPEG file of any length.
    Jpeg,
}

impl Form {
    /// Bytes of an image; `None` where each has its own number.
    pub fn bytes(self) -> Option<usize> {
        match self {
            Self::Pixels { width, height } => Some(3 * width * height),
            Self::Jpeg => None,
        }
    }

    /// The image that bytes are.
    ///
    /// # Errors
    /// Why they are none: too few or too many values, or what the decoder says of the file, whose warnings count.
    pub fn decode(self, bytes: &[u8]) -> Result<Image, String> {
        match self {
            Self::Pixels { width, height } if bytes.len() < 3 * width * height => {
                Err(format!("ended after {} of {} bytes", bytes.len(), 3 * width * height))
            }
            Self::Pixels { width, height } => Image::from_channels(width, height, bytes),
            Self::Jpeg => Image::decode_jpeg(bytes),
        }
    }
}
