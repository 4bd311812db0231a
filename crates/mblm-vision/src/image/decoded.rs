//! Decodes images from PNG and JPEG files, and resizes them.
//!
//! Gray and palette images become RGB, transparency is dropped, and channels of 16 bits keep their
//! higher 8. Bytes after the end of an image, which cropping tools and phones leave, are ignored.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use png::{BitDepth, ColorType, DecodingError, Transformations};

use super::jpeg_reader;
use super::pixels::{Image, sides};
use super::resize::resize;
use mblm::{Error, Result};

/// The first bytes of a PNG file.
const SIGNATURE: [u8; 8] = [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n'];
/// The largest number of decoded bytes per byte of a file: the limit of the compression, rounded
/// up.
const MAX_PER_BYTE: usize = 1100;

impl Image {
    /// Reads a PNG or JPEG file with any name.
    ///
    /// # Errors
    /// A file that is missing, truncated, damaged, or neither PNG nor JPEG.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|error| missing(path, &error))?;
        Self::decode(&bytes).map_err(|message| Error::file(path, message))
    }

    /// Decodes the bytes of a PNG or JPEG file.
    ///
    /// # Errors
    /// The problem with them.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        if bytes.starts_with(&jpeg_reader::START) {
            return Self::decode_jpeg(bytes);
        }
        let found = &bytes[..bytes.len().min(SIGNATURE.len())];
        match SIGNATURE.starts_with(found) {
            true => Self::decode_png(bytes),
            false => Err(format!("expected a PNG or JPEG file, found {}", other_kind(bytes))),
        }
    }

    /// Decodes the bytes of a JPEG file strictly: data that ends early, or that the decoder would
    /// complete with a warning, is an error.
    ///
    /// # Errors
    /// The problem with them.
    pub fn decode_jpeg(bytes: &[u8]) -> Result<Self, String> {
        jpeg_reader::decode(bytes)
    }

    fn decode_png(bytes: &[u8]) -> Result<Self, String> {
        let mut decoder = png::Decoder::new(std::io::Cursor::new(bytes));
        decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
        decoder.set_ignore_text_chunk(true);
        let mut reader = decoder.read_info().map_err(unreadable)?;
        let (width, height) = png_sides(reader.info())?;
        if reader.info().raw_bytes() / MAX_PER_BYTE > bytes.len() {
            let found = bytes.len();
            return Err(format!(
                "the file is truncated: {found} bytes cannot hold {width} × {height} pixels; copy it again"
            ));
        }
        let (color, depth) = reader.output_color_type();
        if depth != BitDepth::Eight {
            return Err(format!("expected 8 bits a channel, found {} bits", depth as u8));
        }
        let mut pixels = vec![0; reader.output_buffer_size().ok_or("the image is too large")?];
        reader.next_frame(&mut pixels).map_err(unreadable)?;
        reader.finish().map_err(unreadable)?;
        let rgb: Vec<u8> = match color {
            ColorType::Rgb => pixels,
            ColorType::Rgba => pixels.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect(),
            ColorType::Grayscale => pixels.iter().flat_map(|value| [*value; 3]).collect(),
            ColorType::GrayscaleAlpha => pixels.chunks_exact(2).flat_map(|p| [p[0]; 3]).collect(),
            ColorType::Indexed => return Err("the image's palette cannot be read".into()),
        };
        match rgb.len() == width * height * 3 {
            true => Ok(Self { width, height, rgb }),
            false => Err(format!("expected {width} × {height} pixels, found {}", rgb.len() / 3)),
        }
    }

    /// Resizes the image to at least one pixel a side, with a Lanczos filter.
    #[must_use]
    pub fn resized(&self, width: usize, height: usize) -> Self {
        resize(self, width.max(1), height.max(1))
    }
}

/// A supported kind of image file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// JPEG.
    Jpeg,
    /// PNG.
    Png,
}

/// Returns the kind of a file that is neither PNG nor JPEG, by its first bytes.
fn other_kind(bytes: &[u8]) -> &'static str {
    match bytes {
        [] => "an empty file",
        [b'G', b'I', b'F', b'8', ..] => "a GIF file: convert it to PNG",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "a WebP file: convert it to PNG",
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => "a HEIC or AVIF file: convert it to PNG or JPEG",
        [b'B', b'M', ..] => "a BMP file: convert it to PNG",
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => "a TIFF file: convert it to PNG",
        _ => "the first bytes of another format",
    }
}

/// Checks the start and structure of an image file: it must begin as PNG or JPEG, and a PNG file
/// must have its end. Pixels are not read.
///
/// # Errors
/// A file that is missing, cut off, or of another kind.
pub(crate) fn inspect(path: &Path) -> Result<Kind> {
    let mut file = File::open(path).map_err(|error| missing(path, &error))?;
    let mut start = Vec::new();
    (&mut file)
        .take(16)
        .read_to_end(&mut start)
        .map_err(|error| missing(path, &error))?;
    let of = |message: String| Error::file(path, message);
    if start.starts_with(&jpeg_reader::START) {
        return Ok(Kind::Jpeg);
    }
    if start.is_empty() || !SIGNATURE.starts_with(&start[..start.len().min(SIGNATURE.len())]) {
        return Err(of(format!("expected a PNG or JPEG file, found {}", other_kind(&start))));
    }
    inspect_png(path).map(|_| Kind::Png)
}

/// Returns width and height of a PNG file that has its end; pixels are not read.
pub(crate) fn inspect_png(path: &Path) -> Result<(usize, usize)> {
    let file = File::open(path).map_err(|error| missing(path, &error))?;
    let of = |message: String| Error::file(path, message);
    let size = {
        let mut decoder = png::Decoder::new(BufReader::with_capacity(64, &file));
        let info = decoder.read_header_info().map_err(|error| of(unreadable(error)))?;
        png_sides(info).map_err(of)?
    };
    match has_end(&file) {
        Ok(true) => Ok(size),
        Ok(false) => Err(of(
            "the file is truncated: a PNG ends with an IEND chunk, this one does not; copy it again".into(),
        )),
        Err(error) => Err(Error::file(path, error)),
    }
}

/// Returns whether the chunks of a PNG file lead to an IEND chunk within the file.
fn has_end(mut file: &File) -> std::io::Result<bool> {
    let length = file.metadata()?.len();
    let mut at = SIGNATURE.len() as u64;
    // each chunk: a length, a name, that many bytes, a checksum
    while at + 12 <= length {
        file.seek(SeekFrom::Start(at))?;
        let mut head = [0; 8];
        file.read_exact(&mut head)?;
        let [a, b, c, d, name @ ..] = head;
        if &name == b"IEND" {
            return Ok(true);
        }
        at += 12 + u64::from(u32::from_be_bytes([a, b, c, d]));
    }
    Ok(false)
}

fn png_sides(info: &png::Info) -> Result<(usize, usize), String> {
    sides(info.width as usize, info.height as usize)
}

fn missing(path: &Path, error: &std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => Error::file(path, "no such image"),
        _ => Error::file(path, error),
    }
}

fn unreadable(error: DecodingError) -> String {
    match error {
        DecodingError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            "the file is truncated: its pixels end early; copy it again".into()
        }
        error => format!("expected a PNG file: {error}"),
    }
}
