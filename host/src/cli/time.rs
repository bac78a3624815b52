//! Times as people write and read them: `30s`, `1h 15m`, `2030-01-31T12:00:00Z`.

use core::time::Duration;
use std::time::{SystemTime, UNIX_EPOCH};

use humantime::{format_duration, format_rfc3339_millis, parse_duration, parse_rfc3339_weak};

/// A duration in milliseconds.
pub(super) fn millis(text: &str) -> Result<u64, String> {
    let wrong = |why: &dyn core::fmt::Display| format!("{why}; write it like 500ms, 30s or 1h 15m");
    let duration = parse_duration(text).map_err(|error| wrong(&error))?;
    let millis = u64::try_from(duration.as_millis()).map_err(|error| wrong(&error))?;
    if Duration::from_millis(millis) != duration {
        return Err(wrong(&"it is not a whole number of milliseconds"));
    }
    Ok(millis)
}

/// A duration in milliseconds for people.
pub(super) fn span(millis: u64) -> String {
    format_duration(Duration::from_millis(millis)).to_string()
}

/// A moment in milliseconds since the Unix epoch, in UTC where the text names no zone.
pub(super) fn moment(text: &str) -> Result<u64, String> {
    let wrong = "write it like 2030-01-31T12:00:00Z, or in milliseconds since 1970";
    if let Ok(millis) = text.parse() {
        return Ok(millis);
    }
    let moment = parse_rfc3339_weak(text).map_err(|error| format!("{error}; {wrong}"))?;
    let since = moment.duration_since(UNIX_EPOCH).map_err(|_| wrong)?;
    u64::try_from(since.as_millis()).map_err(|_| wrong.to_owned())
}

/// A moment for people, in UTC.
pub(super) fn told(moment_ms: u64) -> String {
    // Beyond the year 9999 there is no text.
    let moment = UNIX_EPOCH.checked_add(Duration::from_millis(moment_ms));
    let shown = moment.filter(|moment| *moment < year_10000());
    shown.map_or_else(
        || format!("{moment_ms} ms"),
        |moment| format_rfc3339_millis(moment).to_string(),
    )
}

fn year_10000() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(253_402_300_800)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_or_told_how() {
        for (text, expected) in [
            ("0s", 0),
            ("500ms", 500),
            ("1h 15m", 4_500_000),
            ("2days", 172_800_000),
        ] {
            assert_eq!(millis(text), Ok(expected), "{text}");
        }
        assert_eq!(span(90_500), "1m 30s 500ms");
        for text in ["", "30", "-1s", "soon", "1us", "99999999999999years"] {
            let told = millis(text).unwrap_err();
            assert!(told.contains("30s"), "{text}: {told}");
        }
    }

    #[test]
    fn moments_are_read_and_told() {
        for text in [
            "2030-01-31T12:00:00Z",
            "2030-01-31 12:00:00",
            "1896091200000",
        ] {
            assert_eq!(moment(text), Ok(1_896_091_200_000), "{text}");
        }
        for text in ["", "tomorrow", "-5", "2030-13-01T00:00:00Z"] {
            let told = moment(text).unwrap_err();
            assert!(told.contains("2030-01-31T12:00:00Z"), "{text}: {told}");
        }
        assert_eq!(told(1_896_091_200_000), "2030-01-31T12:00:00.000Z");
        assert_eq!(told(u64::MAX), format!("{} ms", u64::MAX));
    }
}
