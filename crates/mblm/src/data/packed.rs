//! A warning where the bytes of a packed file are taken as they are.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use mblm_formats::compressed::{HEAD, Packed};

/// Says in a warning that a file is packed, for what reads its bytes as they are. A file that cannot be read is somebody else's error.
pub fn warn_if_packed(path: &Path) {
    let mut head = Vec::with_capacity(HEAD);
    // what can be read only once is left alone
    let read = path
        .is_file()
        .then(|| File::open(path)?.take(HEAD as u64).read_to_end(&mut head));
    if !matches!(read, Some(Ok(_))) {
        return;
    }
    if let Some(Packed { what, command }) = Packed::of(&head) {
        tracing::warn!(
            "{}: {what}, whose bytes are taken as they are; `{command}` gives what is in it",
            path.display()
        );
    }
}
