//! Images for tests.

use super::Image;

/// An image of pseudo-random values: the high bytes of a linear congruential generator.
pub(crate) fn noise(width: usize, height: usize, seed: u32) -> Image {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    Image {
        width,
        height,
        rgb: std::iter::repeat_with(next).take(width * height * 3).collect(),
    }
}

pub(crate) fn png(image: &Image) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, image.width as u32, image.height as u32);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&image.rgb).unwrap();
    writer.finish().unwrap();
    bytes
}
