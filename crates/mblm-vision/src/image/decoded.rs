//! Images from PNG and JPEG files, and at another size.
//!
//! Files have 8 bits a channel; gray and palette images become RGB, transparency is dropped.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use png::{BitDepth, ColorType, DecodingError, Transformations};

use super::jpeg_reader;
use super::pixels::{Image, sides};
use super::resize::resize;
use mblm::{Error, Result};

/// The last chunk of a PNG file: no bytes, its name, its checksum.
const END: [u8; 12] = [0, 0, 0, 0, b'I', b'E', b'N', b'D', 0xae, 0x42, 0x60, 0x82];
/// The first bytes of a PNG file.
const SIGNATURE: [u8; 8] = [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n'];
/// Bytes that a byte of a file can stand for at most: the bound of its compression, rounded up.
const MAX_PER_BYTE: usize = 1100;

impl Image {
    /// Reads a PNG or JPEG file, whatever its name.
    ///
    /// # Errors
    /// A file that is missing, truncated, damaged, neither PNG nor JPEG or has more than 8 bits a channel.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|error| missing(path, &error))?;
        Self::decode(&bytes).map_err(|message| Error::file(path, message))
    }

    /// Reads the bytes of a PNG or JPEG file.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        if bytes.starts_with(&jpeg_reader::START) {
            return Self::decode_jpeg(bytes);
        }
        let found = &bytes[..bytes.len().min(SIGNATURE.len())];
        match SIGNATURE.starts_with(found) {
            true => Self::decode_png(bytes),
            false => Err("expected a PNG or JPEG file, found the first bytes of neither".into()),
        }
    }

    /// Reads the bytes of a JPEG file, strictly: data that ends early, or that the decoder would fill up with a warning, is an
    /// error.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn decode_jpeg(bytes: &[u8]) -> Result<Self, String> {
        jpeg_reader::decode(bytes)
    }

    fn decode_png(bytes: &[u8]) -> Result<Self, String> {
        let mut decoder = png::Decoder::new(std::io::Cursor::new(bytes));
        decoder.set_transformations(Transformations::EXPAND);
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
        let mut pixels = vec![0; reader.output_buffer_size().ok_or("the picture is too large")?];
        reader.next_frame(&mut pixels).map_err(unreadable)?;
        reader.finish().map_err(unreadable)?;
        let rgb: Vec<u8> = match color {
            ColorType::Rgb => pixels,
            ColorType::Rgba => pixels.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect(),
            ColorType::Grayscale => pixels.iter().flat_map(|value| [*value; 3]).collect(),
            ColorType::GrayscaleAlpha => pixels.chunks_exact(2).flat_map(|p| [p[0]; 3]).collect(),
            ColorType::Indexed => return Err("a palette that could not be resolved".into()),
        };
        match rgb.len() == width * height * 3 {
            true => Ok(Self { width, height, rgb }),
            false => Err(format!("expected {width} × {height} pixels, found {}", rgb.len() / 3)),
        }
    }

    /// The image at another size of at least one pixel a side, by Lanczos' filter.
    #[must_use]
    pub fn resized(&self, width: usize, height: usize) -> Self {
        resize(self, width.max(1), height.max(1))
    }
}

/// Width and height of a PNG file whose beginning and end are there; what lies between is not read.
pub(crate) fn inspect(path: &Path) -> Result<(usize, usize)> {
    let mut file = File::open(path).map_err(|error| missing(path, &error))?;
    let of = |message: String| Error::file(path, message);
    let size = {
        let mut decoder = png::Decoder::new(BufReader::with_capacity(64, &file));
        let info = decoder.read_header_info().map_err(|error| of(unreadable(error)))?;
        png_sides(info).map_err(of)?
    };
    let mut end = [0; END.len()];
    let seek = file.seek(SeekFrom::End(-(END.len() as i64)));
    match seek.and_then(|_| file.read_exact(&mut end)) {
        Ok(()) if end == END => Ok(size),
        Ok(()) => Err(of(
            "the file is truncated: a PNG ends with an IEND chunk, this one does not; copy it again".into(),
        )),
        Err(error) => Err(Error::file(path, error)),
    }
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
