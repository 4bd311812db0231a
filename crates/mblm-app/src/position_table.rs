//! Bits per byte by position in the context, as a table with a bar for each row or as JSON.

use std::ops::Range;

use mblm::eval::Score;
use serde_json::{Value, json};

/// The length of the longest bar, in columns.
const BAR_COLUMNS: f64 = 40.0;

/// Returns the lines of the table; none if there are no rows.
pub(crate) fn lines(rows: &[(Range<usize>, Score)]) -> Vec<String> {
    let most = rows.iter().map(|(_, score)| score.bits_per_byte()).fold(0.0, f64::max);
    let mut lines = Vec::with_capacity(rows.len() + 1);
    if !rows.is_empty() {
        lines.push(format!(
            "\n{:>14} {:>14}  position in the context",
            "bytes", "bits per byte"
        ));
    }
    lines.extend(rows.iter().map(|(positions, score)| {
        let bits = score.bits_per_byte();
        let name = match positions.len() {
            1 => positions.start.to_string(),
            _ => format!("{}-{}", positions.start, positions.end - 1),
        };
        // at most BAR_COLUMNS; NaN becomes 0
        let bar = "█".repeat((bits / most * BAR_COLUMNS).round() as usize);
        format!("{:>14} {bits:>14.4}  {name:<15} {bar}", score.bytes)
    }));
    lines
}

/// Returns the rows as JSON.
pub(crate) fn json(rows: &[(Range<usize>, Score)]) -> Value {
    let rows = rows.iter().map(|(positions, score)| {
        json!({
            "first": positions.start, "last": positions.end - 1, "bytes": score.bytes,
            "bits_per_byte": score.bits_per_byte(),
        })
    });
    rows.collect()
}
