//! A warning for compressed files whose bytes are used undecoded.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use mblm_formats::compressed::{HEAD, Packed};

/// Warns if a file whose bytes are used undecoded is compressed; an unreadable file gives no
/// warning.
pub fn warn_if_packed(path: &Path) {
    let mut head = Vec::with_capacity(HEAD);
    // skips pipes and devices, which can be read only once
    let read = path
        .is_file()
        .then(|| File::open(path)?.take(HEAD as u64).read_to_end(&mut head));
    if !matches!(read, Some(Ok(_))) {
        return;
    }
    if let Some(Packed { what, command }) = Packed::of(&head) {
        tracing::warn!(
            "{}: {what}, whose bytes are read unchanged; `{command}` unpacks it",
            path.display()
        );
    }
}
