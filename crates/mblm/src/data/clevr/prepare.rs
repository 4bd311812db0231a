//! From an image file to the bytes of a sample's image part: decode, crop, resize, bin, shift, then JPEG if asked.

use std::path::Path;

use serde::Serialize;

use super::channels::{Bins, shift};
use super::jpeg::Jpeg;
use super::picture::Picture;
use super::resize::resize;
use crate::{Error, Result};

/// What is done with each image, in this order.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Preparation {
    /// Shares of height and width that are cut from each side, below one half.
    pub(super) crop: Option<(f64, f64)>,
    /// Width and height afterwards.
    pub(super) size: Option<(usize, usize)>,
    pub(super) bins: Option<Bins>,
    pub(super) shift: Option<u8>,
    pub(super) jpeg: Option<Jpeg>,
}

impl Preparation {
    /// The bytes of an image: pixels (3, H, W), or a JPEG file.
    pub(super) fn read(&self, path: &Path) -> Result<Vec<u8>> {
        let picture = Picture::open(path)?;
        self.apply(picture).map_err(|message| Error::file(path, message))
    }

    fn apply(&self, mut picture: Picture) -> Result<Vec<u8>, String> {
        let (left, top) = self.margins(picture.width, picture.height);
        if (left, top) != (0, 0) {
            picture = picture.cut(left, top);
        }
        if let Some((width, height)) = self.size {
            picture = resize(&picture, width, height);
        }
        if let Some(bins) = &self.bins {
            bins.apply(&mut picture.rgb);
        }
        if let Some(start) = self.shift {
            shift(&mut picture.rgb, start)?;
        }
        match self.jpeg {
            Some(jpeg) => jpeg.encode(&picture),
            None => Ok(picture.channels()),
        }
    }

    /// What is cut off each side: left and right, above and below. A picture of at least one pixel keeps at least one, because
    /// the shares are below one half.
    fn margins(&self, width: usize, height: usize) -> (usize, usize) {
        let margin = |size: usize, share: f64| {
            let size = size as f64;
            (size * share).min(size / 2.0) as usize
        };
        self.crop.map_or((0, 0), |(h, w)| (margin(width, w), margin(height, h)))
    }

    /// How many bytes an image of this size becomes; `None` for a JPEG file, which has to be made to know it.
    pub(super) fn len(&self, (width, height): (usize, usize)) -> Option<usize> {
        let (left, top) = self.margins(width, height);
        let (width, height) = self.size.unwrap_or((width - 2 * left, height - 2 * top));
        self.jpeg.is_none().then_some(width * height * 3)
    }
}
