//! An image in memory: cut, taken apart into channels and put together again.

/// Pixels of the largest image that is read: what is larger is no image of these data sets.
const MAX_PIXELS: usize = 1 << 26;
/// Pixels of 8-bit red, green and blue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// The values, (height, width, 3).
    pub rgb: Vec<u8>,
}

impl Image {
    /// An image from [`channels`](Self::channels), (3, height, width).
    ///
    /// # Errors
    /// Another number of values, or no pixels.
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

    /// The part without `left` pixels on the left and as many on the right, `top` above and as many below.
    pub(crate) fn cut(&self, left: usize, top: usize) -> Self {
        let (width, height) = (self.width - 2 * left, self.height - 2 * top);
        let rows = self.rgb.chunks_exact(self.width * 3).skip(top).take(height);
        Self {
            width,
            height,
            rgb: rows.flat_map(|row| &row[left * 3..][..width * 3]).copied().collect(),
        }
    }

    /// All red values, then all green, then all blue ones: (3, height, width).
    #[must_use]
    pub fn channels(&self) -> Vec<u8> {
        let channel = |channel| self.rgb.iter().skip(channel).step_by(3).copied();
        (0..3).flat_map(channel).collect()
    }
}

/// Fails for sides that are no image's.
pub(super) fn sides(width: usize, height: usize) -> Result<(usize, usize), String> {
    match width.checked_mul(height) {
        Some(1..=MAX_PIXELS) => Ok((width, height)),
        _ => Err(format!(
            "expected a picture of 1 to {MAX_PIXELS} pixels, found {width} × {height}"
        )),
    }
}
