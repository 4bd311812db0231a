//! Finds the images of a folder, and those of a split.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::image::Kind;

use mblm::data::splits::{held_out_share, named_folders, refuse_held_out, split_by_position};
use mblm::data::{DatasetArgs, Split, regular_files};
use mblm::{Error, Result};

/// The images below a folder, and those of a split.
pub(super) struct Found {
    pub(super) folder: PathBuf,
    /// All paths in the folder, in name order.
    pub(super) names: Vec<Box<str>>,
    /// The indices of the split's images, in the same order.
    pub(super) own: Vec<usize>,
}

/// Finds the images of the split that `args` ask for; `None` if there is no such split. With
/// `jpeg_only` PNG files do not count.
pub(super) fn find(args: &DatasetArgs, held_out: Option<f64>, jpeg_only: bool) -> Result<Option<Found>> {
    let dir = &args.dir;
    if dir.is_file() {
        return Err(Error::file(dir, "expected a folder of images, found a file"));
    }
    if let Some(named) = named_folders(dir)? {
        refuse_held_out(held_out, dir, named.of(Split::Validation))?;
        let Some(folder) = named.of(args.split).first().cloned() else {
            return Ok(None);
        };
        let names = images(&folder, jpeg_only, true)?;
        let own = (0..names.len()).collect();
        return Ok(Some(Found { folder, names, own }));
    }
    let share = held_out_share(held_out)?;
    // warns once, though every split searches the folder
    let names = images(dir, jpeg_only, args.split == Split::Train)?;
    let range = split_by_position(names.len() as u64, share, args.split);
    if range.is_empty() && args.split != Split::Train {
        return Ok(None);
    }
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by_cached_key(|image| (Sha256::digest(slashes(&names[*image])), *image));
    // indices into a list in memory, so they fit
    let mut own = order[range.start as usize..range.end as usize].to_vec();
    own.sort_unstable();
    let folder = dir.clone();
    Ok(Some(Found { folder, names, own }))
}

/// Returns the images below a folder; with `warn` other files are counted in a warning.
fn images(folder: &Path, jpeg_only: bool, warn: bool) -> Result<Vec<Box<str>>> {
    let endings = match jpeg_only {
        true => ".jpg or .jpeg",
        false => ".png, .jpg or .jpeg",
    };
    let mut names = Vec::new();
    let mut others = 0;
    for path in regular_files(folder)? {
        if !(is_jpeg(&path) || !jpeg_only && has_ending(&path, "png")) {
            others += 1;
            continue;
        }
        let name = path.strip_prefix(folder).ok().and_then(Path::to_str);
        let name = name.ok_or_else(|| Error::file(&path, "expected a name in UTF-8; rename the file"))?;
        names.push(name.into());
    }
    if names.is_empty() {
        return Err(Error::file(
            folder,
            format!("expected images, files whose names end in {endings}, found none among {others} files"),
        ));
    }
    if others > 0 && warn {
        let others = match others {
            1 => "1 other file is".to_string(),
            count => format!("{count} other files are"),
        };
        tracing::warn!(
            "{}: {others} left out: expected names that end in {endings}",
            folder.display()
        );
    }
    Ok(names)
}

/// Returns whether a file's name has a JPEG extension.
fn is_jpeg(path: &Path) -> bool {
    has_ending(path, "jpg") || has_ending(path, "jpeg")
}

/// Returns whether a file's extension contradicts its kind.
pub(super) fn is_misnamed(path: &Path, kind: Kind) -> bool {
    match kind {
        Kind::Jpeg => !is_jpeg(path),
        Kind::Png => is_jpeg(path),
    }
}

fn has_ending(path: &Path, ending: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(ending))
}

/// Returns a path with forward slashes on every system.
fn slashes(name: &str) -> String {
    name.replace(std::path::MAIN_SEPARATOR, "/")
}
