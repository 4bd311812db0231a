//! Decodes JPEG files strictly. Data that ends early and invalid codes are errors here; the decoder
//! only warns of them and fills the rest of the image with gray.
//!
//! Baseline and progressive files of one, three or four channels are read. The C library reports
//! errors through a callback, which unwinds through the library (it is built for that) and is
//! caught here.

use std::any::Any;
use std::fs::File;
use std::io::Read;
use std::mem::zeroed;
use std::os::raw::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use mozjpeg::{ColorSpace, Decompress};
use mozjpeg_sys::{jpeg_common_struct, jpeg_error_mgr, jpeg_std_error};

use super::pixels::{Image, sides};
use mblm::Error;

/// The error for other files.
const NO_JPEG: &str = "expected a JPEG file, which begins with the bytes FF D8";
/// The first bytes of every JPEG file.
pub(super) const START: [u8; 2] = [0xff, 0xd8];
/// The last bytes of every JPEG file.
const END: [u8; 2] = [0xff, 0xd9];
/// The largest number of pixels per byte of a file: a block of 8 × 8 takes at least one bit; twice
/// that, since channels may be subsampled.
const MAX_PER_BYTE: usize = 2 * 64 * 8;
/// The buffer size of a message of the C library, with its final 0 (`JMSG_LENGTH_MAX`).
const MESSAGE: usize = 200;

/// Decodes the bytes of a JPEG file, or returns the problem with them.
pub(super) fn decode(bytes: &[u8]) -> Result<Image, String> {
    if !bytes.starts_with(&START) {
        return Err(NO_JPEG.into());
    }
    catch_unwind(AssertUnwindSafe(|| decode_unwinding(bytes))).unwrap_or_else(|reason| Err(words(&*reason)))
}

/// Returns the length of a JPEG file whose first bytes are valid; the rest is not read.
pub(crate) fn inspect(path: &Path) -> Result<usize, Error> {
    let of = |error: std::io::Error| Error::file(path, error);
    let mut start = Vec::new();
    let mut file = File::open(path).map_err(of)?;
    (&mut file)
        .take(START.len() as u64)
        .read_to_end(&mut start)
        .map_err(of)?;
    let len = file.metadata().map_err(of)?.len();
    match start == START {
        true => usize::try_from(len).map_err(|_| Error::file(path, "the file is too large")),
        false => Err(Error::file(path, NO_JPEG)),
    }
}

fn decode_unwinding(bytes: &[u8]) -> Result<Image, String> {
    let unreadable = |error: std::io::Error| format!("the JPEG file cannot be decoded: {error}");
    let header = Decompress::with_err(strict()).from_mem(bytes).map_err(unreadable)?;
    let (width, height) = header.size();
    let (width, height) = sides(width, height)?;
    if width * height / MAX_PER_BYTE > bytes.len() {
        let found = bytes.len();
        return Err(format!(
            "the file is truncated: {found} bytes cannot hold {width} × {height} pixels"
        ));
    }
    let four = matches!(header.color_space(), ColorSpace::JCS_CMYK | ColorSpace::JCS_YCCK);
    let mut pixels = match four {
        true => header.to_colorspace(ColorSpace::JCS_CMYK),
        false => header.rgb(),
    }
    .map_err(unreadable)?;
    let mut rgb: Vec<u8> = pixels.read_scanlines().map_err(unreadable)?;
    if four {
        rgb = rgb_of_cmyk(&rgb);
    }
    let rest = pixels.finish_into_inner().map_err(unreadable)?.len();
    // if the file lacks its end, the decoder silently adds one
    if !bytes[..bytes.len() - rest].ends_with(&END) {
        return Err("the file is truncated: a JPEG file ends with the bytes FF D9, this one does not".into());
    }
    match rgb.len() == width * height * 3 {
        true => Ok(Image { width, height, rgb }),
        false => Err(format!("expected {width} × {height} pixels, found {}", rgb.len() / 3)),
    }
}

/// Converts the CMYK of JPEG files, with 255 for no ink (Adobe's convention, which Pillow assumes
/// for all files), to RGB: r = k − ⌊k·(255 − c) / 255⌉.
fn rgb_of_cmyk(cmyk: &[u8]) -> Vec<u8> {
    // a·b / 255, rounded
    let scaled = |a: u8, b: u8| {
        let product = u32::from(a) * u32::from(b) + 128;
        (((product >> 8) + product) >> 8) as u8
    };
    let (pixels, _) = cmyk.as_chunks::<4>();
    pixels
        .iter()
        .flat_map(|&[c, m, y, k]| [c, m, y].map(|ink| k.saturating_sub(scaled(255 - ink, k))))
        .collect()
}

/// Returns the reason of the unwinding as text.
fn words(reason: &(dyn Any + Send)) -> String {
    match reason.downcast_ref::<String>() {
        Some(message) => format!("the JPEG file cannot be decoded: {message}"),
        None => "the JPEG file cannot be decoded".into(),
    }
}

/// Returns an error manager whose errors and warnings both end the decoding.
fn strict() -> jpeg_error_mgr {
    // SAFETY: the struct is plain data of C: numbers, pointers that may be null and functions that
    // may be missing
    let mut manager: jpeg_error_mgr = unsafe { zeroed() };
    // SAFETY: it only writes the fields of the struct it is given, among them its tables of
    // messages, which are static
    unsafe { jpeg_std_error(&mut manager) };
    manager.error_exit = Some(unwind);
    manager.emit_message = Some(unwind_on_warning);
    manager
}

extern "C-unwind" fn unwind(info: &mut jpeg_common_struct) {
    // does not call the panic hook, so nothing is printed
    resume_unwind(Box::new(message(info)));
}

/// Levels below 0 are warnings; other levels describe the file's structure.
extern "C-unwind" fn unwind_on_warning(info: &mut jpeg_common_struct, level: c_int) {
    if level < 0 {
        unwind(info);
    }
}

/// Returns the C library's message.
fn message(info: &mut jpeg_common_struct) -> String {
    /// The function's type in C: it writes into the buffer.
    type Format = unsafe extern "C-unwind" fn(&mut jpeg_common_struct, &mut [u8; MESSAGE]);
    // SAFETY: the library calls back with the manager that it was given, which lives as long as the
    // decompressor
    let Some(format) = (unsafe { info.err.as_ref() }).and_then(|manager| manager.format_message) else {
        return "unknown error".into();
    };
    let mut buffer = [0; MESSAGE];
    // SAFETY: both types are the C function `void format_message(j_common_ptr, char *)`, which
    // writes to its second argument
    let format: Format = unsafe { std::mem::transmute(format) };
    // SAFETY: it is the library's own function, given the structure it was called back with, and a
    // buffer of the size it asks for
    unsafe { format(info, &mut buffer) };
    let end = buffer.iter().position(|byte| *byte == 0).unwrap_or(MESSAGE);
    String::from_utf8_lossy(&buffer[..end]).into_owned()
}
