//! Sizes in messages: bytes in a fitting unit, and lists of consumers.

/// Formats bytes in a fitting unit with `digits` digits.
pub(super) fn sized(bytes: u64, digits: usize) -> String {
    let (unit, size) = match bytes {
        0..1_048_576 => ("KiB", 1u64 << 10),
        1_048_576..107_374_183 => ("MiB", 1 << 20),
        _ => ("GiB", 1 << 30),
    };
    format!("{:.digits$} {unit}", bytes as f64 / size as f64)
}

/// Formats consumers, each with its size and, in parentheses, the settings that lower it.
pub(super) fn list(consumers: &[(String, u64, &str)], digits: usize) -> String {
    let each = |(what, bytes, settings): &(String, u64, &str)| format!("{what} {} ({settings})", sized(*bytes, digits));
    consumers.iter().map(each).collect::<Vec<_>>().join(", ")
}
