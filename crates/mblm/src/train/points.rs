//! The points of validation and logging, evenly spread over a run's batches, both ends included.

/// Returns the batch indices `⌊linspace(first, last, amount)⌋`, ascending and distinct.
///
/// More points than batches give one point per batch.
pub fn spread(first: u64, batches: u64, amount: usize) -> Vec<u64> {
    let amount = (amount as u64).min(batches);
    if amount == 1 {
        return vec![first];
    }
    // exact integer arithmetic: i · (batches − 1) / (amount − 1), rounded down
    let span = u128::from(batches.saturating_sub(1));
    let mut points: Vec<u64> = (0..amount)
        .map(|index| first + (u128::from(index) * span / u128::from(amount - 1)) as u64)
        .collect();
    points.dedup();
    points
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn first_and_last_are_included_and_the_rest_truncated() {
        assert_eq!(spread(0, 10, 4), [0, 3, 6, 9]);
        assert_eq!(spread(5, 11, 3), [5, 10, 15]);
        assert_eq!(spread(0, 8, 4), [0, 2, 4, 7]);
    }

    #[test]
    fn few_batches_clip_the_points() {
        assert_eq!(spread(0, 3, 100), [0, 1, 2]);
        assert_eq!(spread(7, 1, 5), [7]);
        assert_eq!(spread(0, 9, 1), [0]);
        assert!(spread(0, 9, 0).is_empty());
        assert!(spread(0, 0, 3).is_empty());
    }
}
