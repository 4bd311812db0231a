//! Numbers and booleans in the spellings that the published package accepts: PyYAML's YAML 1.1,
//! then pydantic.
//!
//! | wanted | taken too |
//! |---|---|
//! | an integer | a whole decimal number (`1.0e+3`, `256.0`), a text that is one (`"256"`, `3e6`, `1_000`) |
//! | a decimal number | an integer, a text that is a number (`"3e-3"`) |
//! | a boolean | 0 and 1, the texts `yes`, `no`, `on`, `off`, `true`, `false` and their first letters |

/// Whole numbers below this are exact as 64-bit floats.
const EXACT: f64 = (1u64 << 53) as f64;

/// Returns the integer that a text stands for.
pub(super) fn integer(text: &str) -> Option<i128> {
    let digits = number_text(text)?;
    digits.parse().ok().or_else(|| whole(digits.parse().ok()?))
}

/// Returns the decimal number that a text stands for.
pub(super) fn float(text: &str) -> Option<f64> {
    number_text(text)?.parse().ok()
}

/// Returns the boolean that a text stands for.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "on" | "true" | "y" | "t" | "1" => Some(true),
        "no" | "off" | "false" | "n" | "f" | "0" => Some(false),
        _ => None,
    }
}

/// Returns the integer equal to a decimal number.
pub(super) fn whole(number: f64) -> Option<i128> {
    (number.fract() == 0.0 && number.abs() < EXACT).then_some(number as i128)
}

/// Returns the text of a number without surrounding blanks and without underscores between its
/// digits; `None` for text that does not begin like a number.
fn number_text(text: &str) -> Option<String> {
    let text = text.trim();
    let digits = text.trim_start_matches(['+', '-']);
    if !digits.starts_with(|first: char| first.is_ascii_digit() || first == '.')
        || digits.ends_with('_')
        || text.contains("__")
    {
        return None;
    }
    Some(text.replace('_', ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_the_package_reads_them() {
        assert_eq!(whole(1e3), Some(1000));
        assert_eq!(whole(-256.0), Some(-256));
        assert_eq!(whole(2.5), None);
        assert_eq!(whole(f64::NAN), None);
        assert_eq!(whole(1e300), None);
        for (written, value) in [
            ("256", 256),
            (" 7 ", 7),
            ("1_000", 1000),
            ("3e6", 3_000_000),
            ("-2", -2),
            ("4.0", 4),
        ] {
            assert_eq!(integer(written), Some(value), "{written}");
        }
        for written in ["", "abc", "1__0", "1_", "0x", "2.5", "inf", "nan", "1 000"] {
            assert_eq!(integer(written), None, "{written}");
        }
        assert_eq!(float("3e-3"), Some(3e-3));
        assert_eq!(float("nan"), None);
    }

    #[test]
    fn booleans_are_read_as_the_package_reads_them() {
        for (written, value) in [("yes", true), ("Off", false), ("TRUE", true), ("n", false)] {
            assert_eq!(boolean(written), Some(value), "{written}");
        }
        assert_eq!(boolean("maybe"), None);
    }
}
