//! The images of a split: their names in a folder, and their preparation.

use std::path::PathBuf;

use super::prepare::Preparation;

/// The images of a split by number, as files.
pub(crate) struct Listing {
    pub(crate) folder: PathBuf,
    pub(crate) names: Vec<Box<str>>,
    pub(crate) preparation: Preparation,
}

impl Listing {
    /// Returns the file of an image.
    pub(crate) fn path(&self, image: usize) -> PathBuf {
        self.folder.join(&*self.names[image])
    }
}
