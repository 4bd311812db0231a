//! An image in memory: cropping, splitting into channels and joining.

/// The largest accepted image in pixels; no image of these data sets is larger.
const MAX_PIXELS: usize = 1 << 26;
/// An image of 8-bit red, green and blue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// The values, (height, width, 3).
    pub rgb: Vec<u8>,
}

impl Image {
    /// Builds an image from [`channels`](Self::channels), (3, height, width).
    ///
    /// # Errors
    /// A wrong number of values, or no pixels.
    pub fn from_channels(width: usize, height: usize, values: &[u8]) -> Result<Self, String> {
        let (width, height) = sides(width, height)?;
        let pixels = width * height;
        if values.len() != 3 * pixels {
            return Err(format!(
                "expected 3 × {height} × {width} = {} values, found {}",
                3 * pixels,
                values.len()
            ));
        }
        let rgb = (0..pixels).flat_map(|pixel| (0..3).map(move |channel| values[channel * pixels + pixel]));
        Ok(Self {
            width,
            height,
            rgb: rgb.collect(),
        })
    }

    /// Returns the image without `left` pixels on the left and right, and `top` at the top and
    /// bottom.
    pub(crate) fn cut(&self, left: usize, top: usize) -> Self {
        let (width, height) = (self.width - 2 * left, self.height - 2 * top);
        let rows = self.rgb.chunks_exact(self.width * 3).skip(top).take(height);
        Self {
            width,
            height,
            rgb: rows.flat_map(|row| &row[left * 3..][..width * 3]).copied().collect(),
        }
    }

    /// Returns all red values, then all green, then all blue: (3, height, width).
    #[must_use]
    pub fn channels(&self) -> Vec<u8> {
        let channel = |channel| self.rgb.iter().skip(channel).step_by(3).copied();
        (0..3).flat_map(channel).collect()
    }
}

/// Checks the sides of an image.
pub(super) fn sides(width: usize, height: usize) -> Result<(usize, usize), String> {
    match width.checked_mul(height) {
        Some(1..=MAX_PIXELS) => Ok((width, height)),
        _ => Err(format!(
            "expected an image of 1 to {MAX_PIXELS} pixels, found {width} × {height}"
        )),
    }
}
