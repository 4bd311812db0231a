//! Lanczos resizing, bit for bit as in Pillow up to 12. (Pillow 13 begins with the vertical pass if
//! that is less work, which changes some values by one; the data set's published numbers are from
//! earlier versions.)
//!
//! Along one axis, from n to m pixels, let the scale be s = n / m, the filter scale f = max(s, 1)
//! and the support r = 3 f. Output pixel i has its center at c = (i + ½) s and sums the inputs from
//! ⌊c − r + ½⌋ to ⌊c + r + ½⌋ (clipped at the borders). Input j has the weight L((j − c + ½) / f),
//! L(x) = sinc(x) sinc(x / 3) on [−3, 3), normalized to sum 1. Weights are rounded to integers with
//! 22 fractional bits; sums are rounded and clamped to 0…255. The horizontal pass comes first and
//! rounds to bytes; an axis of unchanged length is skipped.
//!
//! Images are (H, W, 3).

use std::f64::consts::PI;

use super::pixels::Image;

/// Half the width of the filter, in pixels of the smaller image.
const SUPPORT: f64 = 3.0;
/// Fractional bits of a weight: 32, minus 8 for a value and 2 for sums beyond 255.
const PRECISION: u32 = 32 - 8 - 2;
const CHANNELS: usize = 3;

/// Resizes `image` to `width` × `height` pixels, at least 1 each.
pub(crate) fn resize(image: &Image, width: usize, height: usize) -> Image {
    let horizontal = match image.width == width {
        true => image.rgb.clone(),
        false => across(&image.rgb, image.width, &weights(image.width, width)),
    };
    let rgb = match image.height == height {
        true => horizontal,
        false => down(&horizontal, width, &weights(image.height, height)),
    };
    Image { width, height, rgb }
}

/// The inputs of one output pixel: the first index, and the weight of each.
struct Window {
    first: usize,
    weights: Vec<i32>,
}

/// Returns the windows of all outputs.
fn weights(from: usize, to: usize) -> Vec<Window> {
    let scale = from as f64 / to as f64;
    let filter_scale = scale.max(1.0);
    let support = SUPPORT * filter_scale;
    let inverse = 1.0 / filter_scale;
    (0..to)
        .map(|index| {
            let center = (index as f64 + 0.5) * scale;
            // casts truncate towards 0 and clamp negative values to 0
            let first = (center - support + 0.5) as usize;
            let end = ((center + support + 0.5) as usize).min(from);
            let weights: Vec<f64> = (first..end)
                .map(|input| lanczos((input as f64 - center + 0.5) * inverse))
                .collect();
            let sum = weights.iter().fold(0.0, |sum, weight| sum + weight);
            let normalised = weights
                .iter()
                .map(|weight| if sum == 0.0 { *weight } else { weight / sum });
            Window {
                first,
                weights: normalised.map(fixed).collect(),
            }
        })
        .collect()
}

fn lanczos(x: f64) -> f64 {
    match (-SUPPORT..SUPPORT).contains(&x) {
        true => sinc(x) * sinc(x / SUPPORT),
        false => 0.0,
    }
}

fn sinc(x: f64) -> f64 {
    match x == 0.0 {
        true => 1.0,
        false => libm::sin(x * PI) / (x * PI),
    }
}

/// Rounds a weight to 22 fractional bits, half away from zero.
fn fixed(weight: f64) -> i32 {
    let scaled = weight * f64::from(1u32 << PRECISION);
    (if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
}

/// Converts a sum with 22 fractional bits to a byte.
fn byte(sum: i64) -> u8 {
    // in range after the clamp
    ((sum + (1 << (PRECISION - 1))) >> PRECISION).clamp(0, 255) as u8
}

/// Applies the horizontal pass to rows of `width` pixels.
fn across(rgb: &[u8], width: usize, windows: &[Window]) -> Vec<u8> {
    let rows = rgb.chunks_exact(width * CHANNELS);
    let mut out = Vec::with_capacity(rows.len() * windows.len() * CHANNELS);
    for row in rows {
        for window in windows {
            let mut sums = [0i64; CHANNELS];
            let pixels = row[window.first * CHANNELS..].chunks_exact(CHANNELS);
            for (pixel, weight) in pixels.zip(&window.weights) {
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += i64::from(*value) * i64::from(*weight);
                }
            }
            out.extend(sums.map(byte));
        }
    }
    out
}

/// Applies the vertical pass to rows of `width` pixels.
fn down(rgb: &[u8], width: usize, windows: &[Window]) -> Vec<u8> {
    let row = width * CHANNELS;
    let mut out = Vec::with_capacity(windows.len() * row);
    let mut sums = vec![0i64; row];
    for window in windows {
        sums.fill(0);
        let rows = rgb[window.first * row..].chunks_exact(row);
        for (values, weight) in rows.zip(&window.weights) {
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += i64::from(*value) * i64::from(*weight);
            }
        }
        out.extend(sums.iter().copied().map(byte));
    }
    out
}
