//! How data without splits of its own is split: by position. The last share, `held_out`, is kept for validation and test, of T bytes or
//! files H = ⌊held_out · T⌋; the first ⌈H/2⌉ of them are the validation split, the others the test split.
//!
//! ```
//! use mblm::data::{Split, splits};
//!
//! let share = splits::held_out_share(Some(0.3))?;
//! let of = |split| splits::split_by_position(10, share, split);
//! assert_eq!((of(Split::Train), of(Split::Validation), of(Split::Test)), (0..7, 7..9, 9..10));
//! # Ok::<(), mblm::Error>(())
//! ```

use std::ops::Range;
use std::path::Path;

use super::dataset::Split;
use crate::{Error, Result};

/// The share kept for validation and test where none is given.
pub const DEFAULT_HELD_OUT: f64 = 0.05;

/// The share kept for validation and test: `held_out`, or [`DEFAULT_HELD_OUT`].
///
/// # Errors
/// A share below 0, or of 1 and more.
pub fn held_out_share(held_out: Option<f64>) -> Result<f64> {
    let held_out = held_out.unwrap_or(DEFAULT_HELD_OUT);
    match (0.0..1.0).contains(&held_out) {
        true => Ok(held_out),
        false => Err(Error::config(format!(
            "dataset_args: held_out is {held_out}: expected the share kept for validation and test, 0 or more and below 1"
        ))),
    }
}

/// Fails if a share is given for a folder that has a folder for each split, `validation` among them.
///
/// # Errors
/// A share that is given.
pub fn refuse_held_out(held_out: Option<f64>, dir: &Path, validation: &Path) -> Result<()> {
    match held_out {
        None => Ok(()),
        Some(_) => Err(Error::config(format!(
            "dataset_args: held_out splits data without splits of its own, but {} has the folders train and {}; remove held_out \
             or those folders",
            dir.display(),
            validation.file_name().unwrap_or_default().display()
        ))),
    }
}

/// Which of `total` bytes, or files, belong to a split when the last share `held_out` is kept for validation and test.
pub fn split_by_position(total: u64, held_out: f64, split: Split) -> Range<u64> {
    // exact below 2^53 bytes; never above the total, since held_out < 1
    let held = ((total as f64 * held_out) as u64).min(total);
    let validation = total - held;
    let test = validation + held.div_ceil(2);
    match split {
        Split::Train => 0..validation,
        Split::Validation => validation..test,
        Split::Test => test..total,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn splits_by_position_are_neighbours(total in 0u64..1 << 50, held_out in 0.0..1.0) {
            let [train, validation, test] =
                [Split::Train, Split::Validation, Split::Test].map(|split| split_by_position(total, held_out, split));
            prop_assert_eq!((train.start, test.end), (0, total));
            prop_assert_eq!((train.end, validation.end), (validation.start, test.start));
            let (validation, test) = (validation.end - validation.start, test.end - test.start);
            prop_assert!(validation == test || validation == test + 1);
            prop_assert!(((validation + test) as f64 - total as f64 * held_out).abs() <= 1.0);
        }
    }
}
