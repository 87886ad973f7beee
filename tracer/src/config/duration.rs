//! How long? `500ms`, `30s`, `5m`, `1h 30m`; a number alone is seconds.

use std::time::Duration;

/// Reads one.
///
/// # Errors
/// What is wrong, for people.
pub fn parse(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    match text.parse::<u64>() {
        Ok(seconds) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(Duration::from_secs(seconds)),
        _ => humantime::parse_duration(text).map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_alone_is_seconds() {
        for (text, seconds) in [
            ("500ms", 0.5),
            ("30s", 30.0),
            ("30", 30.0),
            ("0", 0.0),
            ("5m", 300.0),
            ("2h", 7200.0),
            ("1d", 86_400.0),
            ("1m 30s", 90.0),
        ] {
            assert_eq!(parse(text).map(|d| d.as_secs_f64()), Ok(seconds), "{text}");
        }
        for text in ["", "-1", "1.5", "soon", "99999999999999999999"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
