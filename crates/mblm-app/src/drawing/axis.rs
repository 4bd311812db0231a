//! Axes: a range of numbers, linear or logarithmic, with marks at round numbers: multiples of 1, 2
//! or 5 times a power of ten on a linear axis, and numbers such as 1, 2, 3, 5, 10 on a logarithmic
//! one.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

/// A logarithmic axis gets the marks of a linear one if its ends have a ratio of at most this.
const NARROW: f64 = 5.0;

/// An axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
    /// The approximate number of marks.
    marks: usize,
}

impl Axis {
    /// An axis over `low..high`. A range that cannot be drawn is adjusted: an empty or huge one, or
    /// one that is not positive on a logarithmic axis.
    pub(super) fn new(low: f64, high: f64, logarithmic: bool, marks: usize) -> Self {
        let limits = if logarithmic { (1e-30, 1e30) } else { (-1e300, 1e300) };
        let (low, high) = (low.clamp(limits.0, limits.1), high.clamp(limits.0, limits.1));
        let high = match high > low {
            true => high,
            false if logarithmic => low * 1.1,
            false => low + low.abs().max(1.0) * 0.1,
        };
        Self {
            low,
            high,
            logarithmic,
            marks,
        }
    }

    /// An axis over `low..high` with a small margin at both ends.
    pub(super) fn with_margin(low: f64, high: f64, logarithmic: bool, marks: usize) -> Self {
        let axis = Self::new(low, high, logarithmic, marks);
        let (low, high) = match logarithmic {
            true => {
                let factor = (axis.high / axis.low).powf(0.04);
                (axis.low / factor, axis.high * factor)
            }
            false => {
                let margin = (axis.high - axis.low) * 0.04;
                (axis.low - margin, axis.high + margin)
            }
        };
        Self { low, high, ..axis }
    }

    /// Clamps a value to the ends of the axis.
    pub(super) fn clamp(&self, value: f64) -> f64 {
        value.clamp(self.low, self.high)
    }

    /// The position of a value between the ends, 0 to 1.
    fn share(&self, value: f64) -> f64 {
        let (low, high, value) = match self.logarithmic {
            true => (self.low.ln(), self.high.ln(), value.max(f64::MIN_POSITIVE).ln()),
            false => (self.low, self.high, value),
        };
        ((value - low) / (high - low)).clamp(0.0, 1.0)
    }

    /// The numbers at the marks.
    fn marked(&self) -> Vec<f64> {
        if self.logarithmic && self.high / self.low > NARROW {
            let decades = (self.low.log10().floor() as i32)..=(self.high.log10().ceil() as i32);
            let within = |mantissas: &[f64]| -> Vec<f64> {
                let all = decades
                    .clone()
                    .flat_map(|exponent| mantissas.iter().map(move |m| m * 10f64.powi(exponent)));
                all.filter(|value| (self.low..=self.high).contains(value)).collect()
            };
            let finest_first: [&[f64]; 3] = [&[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0], &[1.0, 2.0, 3.0, 5.0], &[1.0]];
            let fits = |marked: &Vec<f64>| marked.len() <= self.marks + 2;
            let found = finest_first.into_iter().map(within).find(fits);
            return found.unwrap_or_else(|| {
                let powers = within(&[1.0]);
                let every = powers.len().div_ceil(self.marks.max(1)).max(1);
                powers.into_iter().step_by(every).collect()
            });
        }
        let step = self.step();
        let (first, last) = ((self.low / step).ceil() as i64, (self.high / step).floor() as i64);
        (first..=last).map(|index| index as f64 * step).collect()
    }

    /// The distance of linear marks, a round number.
    fn step(&self) -> f64 {
        let rough = (self.high - self.low) / self.marks.max(1) as f64;
        let power = 10f64.powf(rough.log10().floor());
        let factor = [1.0, 2.0, 5.0]
            .into_iter()
            .find(|factor| factor * power >= rough * 0.999);
        factor.unwrap_or(10.0) * power
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        limit.0 + (self.share(*value) * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.marked()
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        number(*value)
    }
}

/// Formats a number briefly: `0.25`, `1500`, `20k`, `1.5M`, `3e-4`.
pub(super) fn number(value: f64) -> String {
    let short = |value: f64, suffix: &str| {
        let text = format!("{value:.3}");
        format!("{}{suffix}", text.trim_end_matches('0').trim_end_matches('.'))
    };
    let size = value.abs();
    if size < 1e-12 {
        "0".into()
    } else if size < 1e-2 {
        let text = format!("{value:.2e}");
        match text.split_once('e') {
            Some((mantissa, exponent)) => {
                format!("{}e{exponent}", mantissa.trim_end_matches('0').trim_end_matches('.'))
            }
            None => text,
        }
    } else if size < 1e4 {
        short(value, "")
    } else if size < 1e6 {
        short(value / 1e3, "k")
    } else if size < 1e9 {
        short(value / 1e6, "M")
    } else {
        short(value / 1e9, "G")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let cases = [
            (0.0, "0"),
            (0.25, "0.25"),
            (-1.0, "-1"),
            (3.0 * 0.0001, "3e-4"),
            (0.00015, "1.5e-4"),
            (1500.0, "1500"),
            (20_000.0, "20k"),
            (1_500_000.0, "1.5M"),
            (2e10, "20G"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn marks_are_round_and_within() {
        assert_eq!(Axis::new(0.0, 10.0, false, 5).marked(), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(
            Axis::new(1.9, 3.1, false, 6).marked(),
            [2.0, 2.2, 2.4000000000000004, 2.6, 2.8000000000000003, 3.0]
        );
        assert_eq!(Axis::new(0.8, 25.0, true, 4).marked(), [1.0, 2.0, 3.0, 5.0, 10.0, 20.0]);
        assert_eq!(
            Axis::new(1.4, 8.9, true, 6).marked(),
            [1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0]
        );
        assert_eq!(Axis::new(1e-6, 1.0, true, 6).marked().len(), 7);
        // a narrow range gets linear marks
        assert_eq!(Axis::new(1.0, 3.0, true, 4).marked(), [1.0, 1.5, 2.0, 2.5, 3.0]);
    }

    #[test]
    fn places_are_shares_of_the_range() {
        let linear = Axis::new(0.0, 8.0, false, 5);
        assert_eq!(linear.map(&2.0, (0, 400)), 100);
        assert_eq!(linear.map(&2.0, (400, 0)), 300);
        assert_eq!(linear.map(&9.0, (0, 400)), 400);
        let logarithmic = Axis::new(1.0, 100.0, true, 5);
        assert_eq!(logarithmic.map(&10.0, (0, 400)), 200);
        assert_eq!(logarithmic.map(&0.0, (0, 400)), 0);
    }

    #[test]
    fn any_range_can_be_drawn() {
        for (low, high) in [
            (0.0, 0.0),
            (5.0, 5.0),
            (-3.0, -3.0),
            (2.0, 1.0),
            (0.0, 1e300),
            (1e-300, 1e-299),
            (-1e308, 1e308),
        ] {
            for logarithmic in [false, true] {
                let axis = Axis::with_margin(low, high, logarithmic, 6);
                assert!(axis.low < axis.high, "{axis:?}");
                assert!(axis.marked().len() < 12, "{axis:?}");
                let place = axis.map(&low, (0, 100));
                assert!((0..=100).contains(&place));
            }
        }
    }
}
