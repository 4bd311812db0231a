//! Timestamps in local time as in Python's `str(datetime.now())`: `2026-11-25 07:31:02.123456`.

use jiff::ZonedDateTime;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// The current time in the format of a run's files.
pub fn timestamp() -> String {
    Moment::now().timestamp()
}

/// A point in time, shared by all files that record it.
#[derive(Clone, Debug)]
pub(super) struct Moment(ZonedDateTime);

impl Moment {
    pub(super) fn now() -> Self {
        Self(ZonedDateTime::now())
    }

    /// With microseconds.
    pub(super) fn timestamp(&self) -> String {
        self.0.strftime("%Y-%m-%d %H:%M:%S%.6f").to_string()
    }

    /// Whole seconds, for people.
    pub(super) fn second(&self) -> String {
        self.0.strftime("%Y-%m-%d %H:%M:%S").to_string()
    }

    /// Seconds since 1970 in UTC.
    pub(super) fn unix(&self) -> f64 {
        self.0.timestamp().as_microsecond() as f64 / 1e6
    }
}

/// Seconds since 1970 in an unknown time zone, for differences; `None` if it is not a timestamp.
pub(super) fn seconds(timestamp: &str) -> Option<f64> {
    let time: DateTime = timestamp.parse().ok()?;
    let timestamp = TimeZone::UTC.to_timestamp(time).ok()?;
    Some(timestamp.as_microsecond() as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_look_like_pythons_and_are_read_back() {
        let moment = Moment::now();
        let text = moment.timestamp();
        let shape: String = text
            .chars()
            .map(|char| if char.is_ascii_digit() { '0' } else { char })
            .collect();
        assert_eq!(shape, "0000-00-00 00:00:00.000000");
        assert!(text.starts_with(&moment.second()));
        assert!(seconds(&text).is_some());
        assert!(moment.unix() > 1.7e9);
    }

    #[test]
    fn differences_are_seconds() {
        let at = |text| seconds(text).unwrap();
        assert_eq!(at("1970-01-02 00:00:01.5"), 86_401.5);
        assert_eq!(at("2026-11-25 07:31:02.250000") - at("2026-11-24 07:31:02"), 86_400.25);
        assert_eq!(at("2024-03-01 00:00:00") - at("2024-02-28 00:00:00"), 2.0 * 86_400.0);
        for text in ["", "-1", "yesterday", "2026-13-01 00:00:00"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }
}
