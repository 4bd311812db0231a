//! Prepares an image file as the bytes of a sample: decode, crop, resize, bin, shift, then
//! optionally JPEG.

use std::path::Path;

use serde::Serialize;

use super::channels::{Bins, shift};
use super::jpeg::Jpeg;
use super::pixels::Image;
use super::resize::resize;
use mblm::{Error, Result};

/// The form of a prepared image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Output {
    /// Its pixels, (3, H, W).
    Pixels,
    /// The bytes of a new JPEG file.
    Jpeg(Jpeg),
    /// The bytes of the image's file, unchanged.
    File,
}

/// The preparation of each image, in this order.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Preparation {
    /// Shares of height and width that are cropped from each side, below one half.
    pub(crate) crop: Option<(f64, f64)>,
    /// Width and height after resizing.
    pub(crate) size: Option<(usize, usize)>,
    pub(crate) bins: Option<Bins>,
    pub(crate) shift: Option<u8>,
    pub(crate) output: Output,
}

impl Preparation {
    /// Returns a preparation that leaves files unchanged.
    pub(crate) fn none() -> Self {
        Self {
            crop: None,
            size: None,
            bins: None,
            shift: None,
            output: Output::File,
        }
    }

    /// Returns the bytes of an image: pixels (3, H, W), or a JPEG file.
    pub(crate) fn read(&self, path: &Path) -> Result<Vec<u8>> {
        if self.output == Output::File {
            return std::fs::read(path).map_err(|error| Error::file(path, error));
        }
        let image = Image::open(path)?;
        self.apply(image).map_err(|message| Error::file(path, message))
    }

    fn apply(&self, mut image: Image) -> Result<Vec<u8>, String> {
        let (left, top) = self.margins(image.width, image.height);
        if (left, top) != (0, 0) {
            image = image.cut(left, top);
        }
        if let Some((width, height)) = self.size {
            image = resize(&image, width, height);
        }
        if let Some(bins) = &self.bins {
            bins.apply(&mut image.rgb);
        }
        if let Some(start) = self.shift {
            shift(&mut image.rgb, start)?;
        }
        match self.output {
            Output::Jpeg(jpeg) => jpeg.encode(&image),
            Output::Pixels | Output::File => Ok(image.channels()),
        }
    }

    /// Returns the pixels cropped at left and right, and at top and bottom. At least one pixel
    /// remains, because the shares are below one half.
    fn margins(&self, width: usize, height: usize) -> (usize, usize) {
        let margin = |size: usize, share: f64| {
            let size = size as f64;
            (size * share).min(size / 2.0) as usize
        };
        self.crop.map_or((0, 0), |(h, w)| (margin(width, w), margin(height, h)))
    }

    /// Returns the length in bytes for an image of this size; `None` for JPEG files.
    pub(crate) fn len(&self, (width, height): (usize, usize)) -> Option<usize> {
        let (left, top) = self.margins(width, height);
        let (width, height) = self.size.unwrap_or((width - 2 * left, height - 2 * top));
        (self.output == Output::Pixels).then_some(width * height * 3)
    }
}
