//! Fewer values per channel: binning, and shifting the remaining values.
//!
//! With n bins the borders are b_i = i · 255 / n. A value v is in the last bin whose lower border
//! is ≤ v, and becomes ⌊(b_i + b_{i+1}) / 2⌋. With 255 or more bins every value stays the same. A
//! shift by s replaces the k-th smallest distinct value of an image by s + k.

use serde::Serialize;

/// The binned value for each value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Bins(Vec<u8>);

impl Bins {
    /// Returns `count` bins, at least one; `None` if they are too many to change any value.
    pub(crate) fn new(count: u32) -> Option<Self> {
        if !(1..255).contains(&count) {
            return None;
        }
        let step = 255.0 / f64::from(count);
        let border = |index: u32| if index == count { 255.0 } else { f64::from(index) * step };
        let bin_of = |value: u8| {
            // the border of bin 0 is 0, so every value is in a bin
            (0..count)
                .rev()
                .find(|&bin| border(bin) <= f64::from(value))
                .unwrap_or(0)
        };
        let mean = |bin: u32| 0.5 * border(bin) + 0.5 * border(bin + 1);
        Some(Self((0..=u8::MAX).map(|value| mean(bin_of(value)) as u8).collect()))
    }

    /// Bins the values in place.
    pub(crate) fn apply(&self, values: &mut [u8]) {
        for value in values {
            *value = self.0[usize::from(*value)];
        }
    }
}

/// Replaces the distinct values, in ascending order, by `start`, `start` + 1, …; fails if they do
/// not fit into a byte.
pub(crate) fn shift(values: &mut [u8], start: u8) -> Result<(), String> {
    let mut present = [false; 256];
    for &value in values.iter() {
        present[usize::from(value)] = true;
    }
    let distinct = present.iter().filter(|present| **present).count();
    if usize::from(start) + distinct > 256 {
        return Err(format!(
            "{distinct} distinct values do not fit between shift_channels_start {start} and 255; use fewer downsample_channels"
        ));
    }
    let mut shifted = [0; 256];
    let values_present = (0..=u8::MAX).filter(|value| present[usize::from(*value)]);
    for (new, value) in (start..=u8::MAX).zip(values_present) {
        shifted[usize::from(value)] = new;
    }
    for value in values {
        *value = shifted[usize::from(*value)];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_become_the_means_of_their_bins() {
        // from the package's documentation: 0…127 → 63 (63.75 as a byte), the rest → 191
        let bins = Bins::new(2).unwrap();
        let mut values = [0, 127, 128, 255];
        bins.apply(&mut values);
        assert_eq!(values, [63, 63, 191, 191]);
        let mut values = [0, 84, 85, 169, 170, 255];
        Bins::new(3).unwrap().apply(&mut values);
        assert_eq!(values, [42, 42, 127, 127, 212, 212]);
        let mut values = [0, 200, 255];
        Bins::new(1).unwrap().apply(&mut values);
        assert_eq!(values, [127; 3]);
        assert!(Bins::new(254).is_some());
        assert_eq!(Bins::new(255), None);
        assert_eq!(Bins::new(0), None);
    }

    #[test]
    fn distinct_values_move_together() {
        let mut values = [200, 7, 90, 7];
        shift(&mut values, 140).unwrap();
        assert_eq!(values, [142, 140, 141, 140]);
        shift(&mut values, 253).unwrap();
        assert_eq!(values, [255, 253, 254, 253]);
        let message = shift(&mut values, 254).unwrap_err();
        assert!(message.contains("3 distinct values"), "{message}");
    }
}
