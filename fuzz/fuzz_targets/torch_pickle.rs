//! Fuzzes torch files: the input is a zip archive if it begins like one, else the archive's
//! `data.pkl`.
//!
//! A changed byte usually breaks an archive, so most inputs are a pickle alone.
#![no_main]

use std::io::{Cursor, Write};
use std::path::Path;

use mblm::checkpoint::Weights;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// The sizes in bytes of the storages `data/0` and `data/1`.
const STORAGES: [usize; 2] = [96, 8];

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    mblm_fuzz::limited(data.len(), || {
        let file = match data.starts_with(b"PK") {
            true => data.to_vec(),
            false => archive(data).expect("a small archive fits into memory"),
        };
        if let Ok(weights) = Weights::from_bytes(file, Path::new("fuzz.pth")) {
            mblm_fuzz::load_all(&weights);
        }
    });
});

/// Returns a torch file with this pickle.
fn archive(pickle: &[u8]) -> zip::result::ZipResult<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    zip.start_file("m/data.pkl", options)?;
    zip.write_all(pickle)?;
    for (key, length) in STORAGES.into_iter().enumerate() {
        zip.start_file(format!("m/data/{key}"), options)?;
        zip.write_all(&vec![0x3f; length])?;
    }
    Ok(zip.finish()?.into_inner())
}
