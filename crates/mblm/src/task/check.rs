//! Reports of the content and the problems of a split: `mblm data check`.

use std::ops::ControlFlow;

use serde_json::{Value, json};

use crate::data::{Dataset, Split};

/// The progress of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checking {
    /// Bytes read.
    pub done: u64,
    /// Bytes to read in all.
    pub total: u64,
}

/// The result of checking a split.
#[derive(Clone, Debug)]
pub struct CheckReport {
    /// Samples of the split.
    pub samples: usize,
    /// Its content, as lines for people.
    pub notes: Vec<String>,
    /// The first problems, each with its file.
    pub problems: Vec<String>,
    /// The number of all problems.
    pub problem_count: usize,
    /// All of the above and more as one object, with the task's own keys.
    pub json: Value,
}

/// Formats a number with thousands separators, for people: 1_234_567.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push('_');
        }
        grouped.push(digit);
    }
    grouped
}

/// Reads every sample of the first epoch; `watch` is told of each and may stop the check.
pub fn read_samples(
    dataset: &dyn Dataset,
    split: Split,
    limit: usize,
    watch: &mut dyn FnMut(Checking) -> ControlFlow<()>,
) -> CheckReport {
    let (samples, total) = (dataset.len(0), dataset.bytes());
    let (mut problems, mut problem_count, mut done) = (Vec::new(), 0, 0);
    for index in 0..samples {
        match dataset.sample(index, 0) {
            Ok(sample) => done += sample.ids.len() as u64,
            Err(error) => {
                problem_count += 1;
                if problems.len() < limit {
                    problems.push(error.to_string());
                }
            }
        }
        if watch(Checking { done, total }).is_break() {
            break;
        }
    }
    let description = dataset.describe();
    CheckReport {
        samples,
        json: json!({
            "split": split.name(), "samples": samples, "description": description, "problems": problems,
            "problem_count": problem_count,
        }),
        notes: vec![description],
        problems,
        problem_count,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Sample;
    use crate::{Error, Result};

    /// Ten samples; every third cannot be read.
    struct Damaged;

    impl Dataset for Damaged {
        fn len(&self, _: usize) -> usize {
            10
        }

        fn sample(&self, index: usize, _: usize) -> Result<Sample> {
            match index % 3 {
                0 => Err(Error::input(format!("sample {index} is damaged"))),
                _ => Ok(Sample {
                    ids: vec![0; 4],
                    ..Sample::default()
                }),
            }
        }

        fn bytes(&self) -> u64 {
            40
        }

        fn describe(&self) -> String {
            "damaged".into()
        }
    }

    #[test]
    fn thousands_are_separated() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1000), "1_000");
        assert_eq!(grouped(1_234_567), "1_234_567");
    }

    #[test]
    fn all_problems_are_counted_and_the_first_ones_kept() {
        let mut heard = Vec::new();
        let report = read_samples(&Damaged, Split::Test, 2, &mut |checking| {
            heard.push(checking.done);
            ControlFlow::Continue(())
        });
        assert_eq!(heard, [0, 4, 8, 8, 12, 16, 16, 20, 24, 24]);
        assert_eq!((report.samples, report.problem_count), (10, 4));
        assert_eq!(report.problems, ["sample 0 is damaged", "sample 3 is damaged"]);
        assert_eq!(report.notes, ["damaged"]);
        assert_eq!(report.json["problem_count"], 4);
        assert_eq!(report.json["split"], "test");
    }

    #[test]
    fn a_check_that_is_broken_off_reports_what_it_read() {
        let report = read_samples(&Damaged, Split::Train, 9, &mut |checking| match checking.done {
            8.. => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
        assert_eq!(report.problem_count, 1);
    }
}
