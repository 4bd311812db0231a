//! The form of a sample's bytes, and their conversion to an image.

use crate::image::Image;
use mblm::Result;

/// The form of a sample's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The pixels of images of one size, all red values, then all green, then all blue: (3, height,
    /// width).
    Pixels {
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
    },
    /// A JPEG file of any length.
    Jpeg,
}

impl Form {
    /// Returns the number of bytes of an image; `None` if it varies.
    pub fn bytes(self) -> Option<usize> {
        match self {
            Self::Pixels { width, height } => Some(3 * width * height),
            Self::Jpeg => None,
        }
    }

    /// Decodes bytes to an image.
    ///
    /// # Errors
    /// Too few or too many values, or an error or warning of the JPEG decoder.
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
