//! The curves of a run, from the rows of its `loss.csv`.
//!
//! The training loss of single batches is noisy, so a smoothed loss is drawn over it: twice the
//! mean over the `2h + 1` rows around a row, h = rows / 60. Near the ends h shrinks to the rows
//! available on both sides, so that the curve does not lag; the outermost rows have no smoothed
//! loss.

use mblm::train::outputs::{LossKind, LossRow};

/// A point of a curve: its position along the run, and its value.
pub(crate) type Point = (f64, f64);

/// The quantity on the horizontal axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Across {
    /// Batches since the beginning
    Batches,
    /// Elements seen: bytes or samples, by the run's target_elements_strategy
    Elements,
    /// Time since the first row, including breaks between a stop and a resume
    Time,
}

/// The unit of losses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Unit {
    /// Bits per byte, or per answer of the CNN + LSTM
    Bits,
    /// Nats, as in loss.csv
    Nats,
}

/// The curves of a run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Curves {
    pub(crate) name: String,
    /// Loss of each logged batch.
    pub(crate) training: Vec<Point>,
    pub(crate) smoothed: Vec<Point>,
    pub(crate) validation: Vec<Point>,
    /// The loss on test data, at the end of the run.
    pub(crate) test: Option<Point>,
    pub(crate) rate: Vec<Point>,
}

impl Curves {
    /// The curves of one worker's rows. Losses that are not finite are left out.
    pub(crate) fn new(name: String, rows: &[LossRow], across: Across, unit: Unit) -> Self {
        let began = rows.first().map_or(0.0, |row| row.time);
        let place = |row: &LossRow| match across {
            Across::Batches => row.cum_batch.map(|batch| batch as f64),
            Across::Elements => row.elements_seen.map(|elements| elements as f64),
            Across::Time => Some(row.time - began),
        };
        let loss = |row: &LossRow| match unit {
            Unit::Bits => row.loss / std::f64::consts::LN_2,
            Unit::Nats => row.loss,
        };
        let of = |kind: LossKind, value: &dyn Fn(&LossRow) -> Option<f64>| -> Vec<Point> {
            let rows = rows.iter().filter(|row| row.kind == kind);
            rows.filter_map(|row| Some((place(row)?, value(row).filter(|value| value.is_finite())?)))
                .collect()
        };
        let training = of(LossKind::Training, &|row| Some(loss(row)));
        let end = rows.iter().filter_map(place).fold(0.0, f64::max);
        let test = rows.iter().rfind(|row| row.kind == LossKind::Test).map(loss);
        Self {
            name,
            smoothed: smooth(&training, training.len() / 60),
            validation: of(LossKind::Validation, &|row| Some(loss(row))),
            test: test.filter(|loss| loss.is_finite()).map(|loss| (end, loss)),
            rate: of(LossKind::Training, &|row| row.lr),
            training,
        }
    }

    /// The number of losses that are drawn.
    pub(crate) fn losses(&self) -> usize {
        self.training.len() + self.validation.len() + usize::from(self.test.is_some())
    }
}

/// Smooths by twice the mean over `half` points on each side, and drops the outermost points.
fn smooth(points: &[Point], half: usize) -> Vec<Point> {
    let twice = mean(&mean(points, half), half);
    let outermost = (half / 2).min(twice.len() / 2);
    twice[outermost..twice.len() - outermost].to_vec()
}

/// The mean over `half` points on each side; near the ends, over as many points as both sides have.
fn mean(points: &[Point], half: usize) -> Vec<Point> {
    let mut sums = vec![0.0];
    let mut sum = 0.0;
    sums.extend(points.iter().map(|(_, value)| {
        sum += value;
        sum
    }));
    let mean = |index: usize| {
        let half = half.min(index).min(points.len() - 1 - index);
        (sums[index + half + 1] - sums[index - half]) / (2 * half + 1) as f64
    };
    let places = points.iter().enumerate();
    places.map(|(index, (x, _))| (*x, mean(index))).collect()
}

/// Chooses about `most` points of a smooth curve at even distances, including the last one.
pub(super) fn sample(points: &[Point], most: usize) -> Vec<Point> {
    let step = points.len().div_ceil(most).max(1);
    let mut chosen: Vec<Point> = points.iter().step_by(step).copied().collect();
    if points.len() % step != 1 % step {
        chosen.extend(points.last());
    }
    chosen
}

/// Chooses about `most` points that look like the whole curve: the lowest and the highest of each
/// group of neighbors.
pub(super) fn thin(points: &[Point], most: usize) -> Vec<Point> {
    if points.len() <= most {
        return points.to_vec();
    }
    let group = points.len().div_ceil(most / 2);
    let extremes = |group: &[Point]| {
        let by_value = |a: &(usize, &Point), b: &(usize, &Point)| a.1.1.total_cmp(&b.1.1);
        let lowest = group.iter().enumerate().min_by(by_value);
        let highest = group.iter().enumerate().max_by(by_value);
        let mut both: Vec<(usize, Point)> = [lowest, highest]
            .into_iter()
            .flatten()
            .map(|(i, point)| (i, *point))
            .collect();
        both.sort_by_key(|(index, _)| *index);
        both.into_iter().map(|(_, point)| point)
    };
    points.chunks(group).flat_map(extremes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kind: LossKind, batch: Option<u64>, loss: f64) -> LossRow {
        LossRow {
            rank: 0,
            time: 1000.0 + 60.0 * batch.unwrap_or(9) as f64,
            elements_seen: batch.map(|batch| (batch + 1) * 512),
            kind,
            cum_batch: batch,
            loss,
            lr: (kind == LossKind::Training).then_some(1e-3),
        }
    }

    fn rows() -> Vec<LossRow> {
        use LossKind::*;
        vec![
            row(Training, Some(0), 2.0),
            row(Training, Some(4), f64::NAN),
            row(Training, Some(8), 1.0),
            row(Validation, Some(8), 1.5),
            row(Test, None, 0.5),
        ]
    }

    #[test]
    fn places_and_units_are_those_asked_for() {
        let of = |across, unit| Curves::new("run".into(), &rows(), across, unit);
        let batches = of(Across::Batches, Unit::Nats);
        assert_eq!(batches.training, [(0.0, 2.0), (8.0, 1.0)]);
        assert_eq!(batches.rate, [(0.0, 1e-3), (4.0, 1e-3), (8.0, 1e-3)]);
        assert_eq!(batches.validation, [(8.0, 1.5)]);
        assert_eq!(batches.test, Some((8.0, 0.5)));
        assert_eq!(batches.losses(), 4);
        assert_eq!(of(Across::Elements, Unit::Nats).validation, [(4608.0, 1.5)]);
        assert_eq!(of(Across::Time, Unit::Nats).test, Some((540.0, 0.5)));
        let bits = of(Across::Batches, Unit::Bits).validation[0].1;
        assert!((bits - 1.5 / 2f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn smoothing_keeps_straight_lines_and_calms_jumps() {
        let line: Vec<Point> = (0..50).map(|i| (f64::from(i), 3.0 - 0.5 * f64::from(i))).collect();
        let smoothed = smooth(&line, 7);
        assert_eq!(smoothed.len(), 50 - 2 * 3);
        for (x, value) in smoothed {
            assert!((value - (3.0 - 0.5 * x)).abs() < 1e-12);
        }
        let jumps: Vec<Point> = (0..51).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        for (x, value) in smooth(&jumps, 10) {
            let most = if (20.0..=30.0).contains(&x) { 0.01 } else { 0.15 };
            assert!((value - 0.5).abs() < most, "{x}: {value}");
        }
        assert_eq!(smooth(&jumps, 0), jumps);
        assert_eq!(smooth(&[], 3), []);
    }

    #[test]
    fn thinning_keeps_order_and_extremes() {
        let mut points: Vec<Point> = (0..10_000).map(|i| (f64::from(i), f64::from(i).sin())).collect();
        points[5678].1 = 9.0;
        points[1234].1 = -9.0;
        let thinned = thin(&points, 500);
        assert!((400..=500).contains(&thinned.len()), "{}", thinned.len());
        assert!(thinned.contains(&(5678.0, 9.0)) && thinned.contains(&(1234.0, -9.0)));
        assert!(thinned.iter().is_sorted_by_key(|(x, _)| *x));
        assert_eq!(thin(&points[..500], 500), points[..500]);
    }

    #[test]
    fn samples_keep_both_ends() {
        let points: Vec<Point> = (0..1000).map(|i| (f64::from(i), 0.0)).collect();
        for most in [1, 7, 100, 999, 1000, 2000] {
            let chosen = sample(&points, most);
            assert!(chosen.len() <= most + 1, "{most}");
            assert_eq!((chosen[0], *chosen.last().unwrap()), (points[0], points[999]));
            assert!(chosen.windows(2).all(|pair| pair[0].0 < pair[1].0), "{most}");
        }
        assert_eq!(sample(&[], 5), []);
    }
}
