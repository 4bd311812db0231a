//! Comparison with Pillow's pixels and bytes; valid and damaged files of all kinds.

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::jpeg::Jpeg;
use super::pixels::Image;
use super::resize::resize;
use super::testing::{noise, png};
use mblm::checkpoint::hex;

fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes)[..8])
}

#[test]
fn resizing_gives_pillows_pixels() {
    // SHA-256 of Image.resize((w, h), LANCZOS).tobytes() of the same images, Pillow 12.2
    for (width, height, seed, w, h, expected) in [
        (48, 32, 1, 13, 9, "26858b632bd54f73"),
        (13, 9, 2, 48, 32, "b1295502a4424179"),
        (17, 40, 3, 17, 11, "3ae8af3b8fb2f492"),
        (17, 40, 4, 5, 40, "e0b9184ccc62764b"),
        (1, 1, 5, 7, 3, "9b887cce6c168da1"),
        (7, 5, 6, 1, 1, "d82fd3549acf1261"),
        (64, 3, 7, 63, 64, "2dff97cae34cdde0"),
    ] {
        let resized = resize(&noise(width, height, seed), w, h);
        assert_eq!((resized.width, resized.height), (w, h));
        assert_eq!(digest(&resized.rgb), expected, "{width} × {height} to {w} × {h}");
    }
}

#[test]
fn jpeg_files_are_pillows() {
    // SHA-256 of the concatenated files of all qualities, Pillow 12.2 with libjpeg-turbo
    for (rgb, qualities, expected) in [
        (true, 24..=95, JPEG_PINS[0]),
        (false, 24..=95, JPEG_PINS[1]),
        (true, 0..=23, JPEG_PINS[2]),
        (false, 0..=23, JPEG_PINS[3]),
    ] {
        let encode = |quality| Jpeg { quality, rgb }.encode(&noise(37, 21, 8)).unwrap();
        let files: Vec<u8> = qualities.clone().flat_map(encode).collect();
        assert_eq!(digest(&files), expected, "rgb {rgb}, qualities {qualities:?}");
    }
}

const JPEG_PINS: [&str; 4] = [
    "e62dfe17a68521f0",
    "f06679ea7447a6cd",
    "5aa4f719adfa10f4",
    "0dba1f059f15b67a",
];

#[test]
fn gray_palette_and_transparent_images_are_read() {
    let encode = |color, depth, palette: Option<&'static [u8]>, data: &[u8]| {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 2, 1);
        encoder.set_color(color);
        encoder.set_depth(depth);
        if let Some(palette) = palette {
            encoder.set_palette(palette);
        }
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(data).unwrap();
        writer.finish().unwrap();
        Image::decode(&bytes)
    };
    use png::{BitDepth, ColorType};
    let rgb = |color, data: &[u8]| encode(color, BitDepth::Eight, None, data).unwrap().rgb;
    assert_eq!(rgb(ColorType::Rgba, &[1, 2, 3, 4, 5, 6, 7, 8]), [1, 2, 3, 5, 6, 7]);
    assert_eq!(rgb(ColorType::Grayscale, &[9, 8]), [9, 9, 9, 8, 8, 8]);
    assert_eq!(rgb(ColorType::GrayscaleAlpha, &[9, 0, 8, 0]), [9, 9, 9, 8, 8, 8]);
    let palette = encode(ColorType::Indexed, BitDepth::Eight, Some(&[1, 2, 3, 4, 5, 6]), &[1, 0]);
    assert_eq!(palette.unwrap().rgb, [4, 5, 6, 1, 2, 3]);
    let deep = encode(ColorType::Grayscale, BitDepth::Sixteen, None, &[1, 2, 3, 4]).unwrap();
    assert_eq!(deep.rgb, [1, 1, 1, 3, 3, 3], "the higher byte of each");
    // the header of an image of 8192 × 8192 pixels, with too little data
    let mut huge = png(&noise(2, 1, 1));
    (huge[16..20]).copy_from_slice(&8192u32.to_be_bytes());
    (huge[20..24]).copy_from_slice(&8192u32.to_be_bytes());
    let mut sum = flate2::Crc::new();
    sum.update(&huge[12..29]);
    huge[29..33].copy_from_slice(&sum.sum().to_be_bytes());
    assert!(
        Image::decode(&huge)
            .unwrap_err()
            .contains("cannot hold 8192 × 8192 pixels")
    );
    assert!(
        Image::decode(b"GIF89a")
            .unwrap_err()
            .contains("expected a PNG or JPEG file")
    );
}

/// Returns a JPEG file of 37 × 21 pixels, with every value of the channels.
fn jpeg(quality: u8) -> Vec<u8> {
    Jpeg { quality, rgb: true }.encode(&noise(37, 21, 8)).unwrap()
}

#[test]
fn jpeg_files_are_read() {
    let image = noise(37, 21, 8);
    // a constant image equals its mean: no rounding at any quality
    let plain = Image {
        rgb: vec![128; image.rgb.len()],
        ..image.clone()
    };
    for rgb in [true, false] {
        let file = Jpeg { quality: 20, rgb }.encode(&plain).unwrap();
        assert_eq!(Image::decode(&file).unwrap(), plain);
        // a quantization step at quality 95 is at most 12 of 255
        let file = Jpeg { quality: 95, rgb }.encode(&image).unwrap();
        let read = Image::decode(&file).unwrap();
        assert_eq!((read.width, read.height), (37, 21));
        let differences = read.rgb.iter().zip(&image.rgb).map(|(a, b)| f64::from(a.abs_diff(*b)));
        let mean = differences.sum::<f64>() / image.rgb.len() as f64;
        // subsampled chroma cannot follow noise
        assert!(mean < if rgb { 3.0 } else { 60.0 }, "{mean}");
    }
    // bytes after the end do not belong to the image
    let with_more = [&jpeg(50)[..], b"more"].concat();
    assert_eq!(Image::decode(&with_more).unwrap(), Image::decode(&jpeg(50)).unwrap());
}

/// Returns a gray image of one value, 9 × 8 pixels, as other programs write it.
fn gray_jpeg(progressive: bool) -> Vec<u8> {
    let mut encoder = mozjpeg::Compress::new(mozjpeg::ColorSpace::JCS_GRAYSCALE);
    encoder.set_size(9, 8);
    match progressive {
        true => encoder.set_progressive_mode(),
        false => encoder.set_fastest_defaults(),
    }
    let mut encoder = encoder.start_compress(Vec::new()).unwrap();
    encoder.write_scanlines(&[136; 72]).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn gray_and_progressive_jpeg_files_are_read() {
    for progressive in [false, true] {
        let image = Image::decode(&gray_jpeg(progressive)).unwrap();
        assert_eq!((image.width, image.height), (9, 8));
        assert_eq!(image.rgb, [136; 216]);
    }
}

#[test]
fn a_jpeg_file_that_ends_early_does_not_decode() {
    let whole = jpeg(30);
    for len in 0..whole.len() {
        let message = Image::decode_jpeg(&whole[..len]).unwrap_err();
        assert!(
            message.contains("JPEG file"),
            "{len} of {} bytes: {message}",
            whole.len()
        );
    }
    let message = Image::decode_jpeg(&whole[..whole.len() / 2]).unwrap_err();
    assert!(message.contains("remature end"), "{message}");
    let message = Image::decode_jpeg(&png(&noise(2, 2, 1))).unwrap_err();
    assert!(message.contains("begins with the bytes FF D8"), "{message}");
    // a header of 16,384 × 4096 pixels, with too little data
    let mut huge = whole;
    let frame = huge.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    huge[frame + 5..][..4].copy_from_slice(&[0x10, 0, 0x40, 0]);
    let message = Image::decode_jpeg(&huge).unwrap_err();
    assert!(message.contains("cannot hold 16384 × 4096 pixels"), "{message}");
}

#[test]
fn channels_are_put_together_again() {
    let image = noise(5, 3, 2);
    assert_eq!(Image::from_channels(5, 3, &image.channels()).unwrap(), image);
    let message = Image::from_channels(5, 3, &[0; 44]).unwrap_err();
    assert!(
        message.contains("expected 3 × 3 × 5 = 45 values, found 44"),
        "{message}"
    );
    assert!(Image::from_channels(0, 3, &[]).is_err());
    assert!(Image::from_channels(usize::MAX, 3, &[]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn any_bytes_are_read_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..200), changes in prop::collection::vec(any::<(u16, u8)>(), 1..6),
        cut: u16, quality in 0u8..=95
    ) {
        let _ = Image::decode_jpeg(&bytes);
        let _ = Image::decode_jpeg(&[&[0xff, 0xd8, 0xff], &bytes[..]].concat());
        let mut file = jpeg(quality);
        for (place, value) in changes {
            let place = usize::from(place) % file.len();
            file[place] = value;
        }
        file.truncate(file.len() - usize::from(cut) % 40);
        if let Ok(image) = Image::decode(&file) {
            prop_assert_eq!(image.rgb.len(), image.width * image.height * 3);
        }
    }
}

/// 11 × 9 pixels of noise in a CMYK JPEG file by Pillow, and the RGB that Pillow reads from it.
#[test]
fn four_inks_become_the_colours_that_pillow_gives() {
    let image = Image::decode(include_bytes!("cmyk.jpg")).unwrap();
    assert_eq!((image.width, image.height), (11, 9));
    assert_eq!(image.rgb[..9], [1, 12, 122, 8, 36, 119, 39, 21, 46]);
    assert_eq!(image.rgb[(4 * 11 + 5) * 3..][..3], [23, 24, 1]);
    assert_eq!(image.rgb.iter().map(|value| u64::from(*value)).sum::<u64>(), 20763);
}

#[test]
fn what_stands_behind_an_image_is_passed_over() {
    let whole = png(&noise(5, 4, 2));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jpg");
    std::fs::write(&path, [&whole[..], b"more of it"].concat()).unwrap();
    assert_eq!(super::decoded::inspect(&path).unwrap(), super::decoded::Kind::Png);
    assert_eq!(Image::open(&path).unwrap(), noise(5, 4, 2));
    for cut in [whole.len() - 1, whole.len() - 12, 40] {
        std::fs::write(&path, &whole[..cut]).unwrap();
        assert!(super::decoded::inspect(&path).is_err(), "{cut}");
    }
    for (content, part) in [
        (&b""[..], "an empty file"),
        (b"GIF89a", "GIF"),
        (b"RIFF\0\0\0\0WEBP", "WebP"),
        (b"BM\0\0", "BMP"),
    ] {
        std::fs::write(&path, content).unwrap();
        let message = super::decoded::inspect(&path).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
}
