//! The prepared images of a split: prepared on access and kept in memory while there is room, or
//! read from a folder of prepared images.
//!
//! The bytes are the same in both cases.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use rayon::prelude::*;

use super::cache::Cache;
use super::decoded::inspect_png;
use super::listing::Listing;
use super::pixels::Image;
use super::prepare::{Output, Preparation};
use mblm::data::{OnOpening, Opening};
use mblm::{Error, Result};

/// The memory for prepared images, in bytes: ten thousand of 64 × 64 pixels take 120 MB. Later
/// images are prepared on each access. Evicting others would gain nothing, since every epoch reads
/// all.
const KEPT: usize = 512 << 20;
/// The number of images between two reports of progress.
pub(crate) const REPORT_EVERY: usize = 256;

/// The images of a split by number.
pub(crate) struct Images {
    listing: Listing,
    cache: Option<Cache>,
    kept: RwLock<Kept>,
}

/// Prepared images in memory.
struct Kept {
    images: Vec<Option<Arc<[u8]>>>,
    bytes: usize,
}

impl Images {
    /// Describes the images with these names in a folder.
    pub(crate) fn new(folder: PathBuf, names: Vec<Box<str>>, preparation: Preparation) -> Self {
        let kept = Kept {
            images: vec![None; names.len()],
            bytes: 0,
        };
        Self {
            listing: Listing {
                folder,
                names,
                preparation,
            },
            cache: None,
            kept: RwLock::new(kept),
        }
    }

    /// Uses a folder of prepared images from now on.
    pub(crate) fn set_cache(&mut self, cache: Cache) {
        self.cache = Some(cache);
    }

    /// Returns the list of the images.
    pub(crate) fn listing(&self) -> &Listing {
        &self.listing
    }

    pub(crate) fn names(&self) -> &[Box<str>] {
        &self.listing.names
    }

    pub(crate) fn preparation(&self) -> &Preparation {
        &self.listing.preparation
    }

    pub(crate) fn path(&self, image: usize) -> PathBuf {
        self.listing.path(image)
    }

    /// Returns the unprepared image.
    pub(crate) fn original(&self, image: usize) -> Result<Image> {
        Image::open(&self.path(image))
    }

    /// Returns the bytes of an image in a sample.
    pub(crate) fn bytes(&self, image: usize) -> Result<Arc<[u8]>> {
        // a poisoned lock is safe to use: at worst an image is missing from the count
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner).images[image].clone();
        if let Some(bytes) = kept {
            return Ok(bytes);
        }
        let bytes = match self.cache.as_ref().and_then(|cache| cache.get(image)) {
            Some(bytes) => bytes,
            None => self.listing.preparation.read(&self.path(image))?,
        };
        let bytes: Arc<[u8]> = bytes.into();
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if kept.images[image].is_none() && kept.bytes + bytes.len() <= KEPT {
            kept.bytes += bytes.len();
            kept.images[image] = Some(bytes.clone());
        }
        Ok(bytes)
    }

    /// Decodes and prepares images with all threads and keeps as many as there is room for. Returns
    /// the length of each in bytes, or its problem. Reports the progress to `on_opening`.
    pub(crate) fn prepare(&self, images: &[usize], on_opening: Option<&OnOpening>) -> Vec<Result<usize>> {
        let size = |image: &usize| self.path(*image).metadata().map_or(0, |metadata| metadata.len());
        let total = images.par_iter().map(size).sum();
        let mut done = 0;
        let mut lens = Vec::with_capacity(images.len());
        for group in images.chunks(REPORT_EVERY) {
            let prepared: Vec<Result<usize>> = group.par_iter().map(|image| self.prepared_len(*image)).collect();
            lens.extend(prepared);
            done += group.iter().map(size).sum::<u64>();
            if let (Some(report), Some(last)) = (on_opening, group.last()) {
                let path = &self.path(*last);
                report(Opening { path, done, total });
            }
        }
        lens
    }

    /// Returns an image's length in the cache; an image that could not be prepared is read again
    /// for its error.
    pub(crate) fn cached_len(&self, image: usize) -> Result<usize> {
        match self.cache.as_ref().map(|cache| cache.len(image)) {
            Some(len) if len > 0 => Ok(len),
            _ => self.prepared_len(image),
        }
    }

    /// Returns the prepared length of an image. A file that is used unchanged is also decoded, to
    /// find damage.
    fn prepared_len(&self, image: usize) -> Result<usize> {
        if self.preparation().output == Output::File {
            self.original(image)?;
        }
        Ok(self.bytes(image)?.len())
    }

    /// Returns the size in pixels of each image, from the first bytes of its file, or its problem;
    /// in order.
    pub(crate) fn inspect(&self) -> Result<Vec<Result<(usize, usize)>>> {
        let entries = std::fs::read_dir(&self.listing.folder).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::file(
                &self.listing.folder,
                "no such folder; expected the images of the split here",
            ),
            _ => Error::file(&self.listing.folder, error),
        })?;
        let mut present = HashSet::new();
        for entry in entries {
            let entry = entry.map_err(|error| Error::file(&self.listing.folder, error))?;
            present.extend(entry.file_name().into_string());
        }
        let images = self.listing.names.par_iter().enumerate();
        Ok(images
            .map(|(image, name)| match present.contains(&**name) {
                true => inspect_png(&self.path(image)),
                false => Err(Error::file(self.path(image), "no such image")),
            })
            .collect())
    }
}
