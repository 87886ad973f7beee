//! Moments as people say them: `-2h`, `03:12`, `2026-11-23 03:12`, RFC 3339.

use jiff::{Timestamp, Zoned, civil, tz::TimeZone};

/// The moment meant; times of day and dates without an offset are this host's. A time of day is the last such one.
pub fn parse(text: &str) -> Result<Timestamp, String> {
    parse_at(text, &Timestamp::now().to_zoned(TimeZone::system()))
}

fn parse_at(text: &str, now: &Zoned) -> Result<Timestamp, String> {
    let text = text.trim();
    if let Some(ago) = text.strip_prefix('-') {
        return earlier(ago, now);
    }
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(moment);
    }
    let zone = now.time_zone();
    let zoned = |date: civil::DateTime| date.to_zoned(zone.clone()).map_err(|error| error.to_string());
    // A date first: what has one also parses as a time.
    if let Ok(date) = text.parse::<civil::DateTime>() {
        return Ok(zoned(date)?.timestamp());
    }
    if let Ok(time) = text.parse::<civil::Time>() {
        let today = zoned(now.date().to_datetime(time))?;
        let last = if today <= *now {
            today
        } else {
            zoned(now.date().yesterday().map_err(|error| error.to_string())?.to_datetime(time))?
        };
        return Ok(last.timestamp());
    }
    earlier(text, now).map_err(|_| {
        format!(
            "cannot read {text:?} as a time; try 03:12, -2h, \"2026-11-23 03:12\" or 2026-11-23T03:12:00Z"
        )
    })
}

fn earlier(ago: &str, now: &Zoned) -> Result<Timestamp, String> {
    let ago = humantime::parse_duration(ago).map_err(|error| error.to_string())?;
    now.timestamp().checked_sub(ago).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_the_last_ones_meant() {
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        let now: Zoned = "2026-11-23T02:00:00Z".parse::<Timestamp>().expect("a moment").to_zoned(zone);
        for (text, moment) in [
            ("-2h", "2026-11-23T00:00:00Z"),
            ("90m", "2026-11-23T00:30:00Z"),
            ("02:12", "2026-11-23T01:12:00Z"),
            ("03:12", "2026-11-22T02:12:00Z"),
            ("03:12:30", "2026-11-22T02:12:30Z"),
            ("2026-11-20 03:12", "2026-11-20T02:12:00Z"),
            ("2026-11-20T03:12", "2026-11-20T02:12:00Z"),
            ("2026-11-20T03:12:00Z", "2026-11-20T03:12:00Z"),
            ("2026-11-20T03:12:00+02:00", "2026-11-20T01:12:00Z"),
        ] {
            assert_eq!(parse_at(text, &now).map(|at| at.to_string()), Ok(moment.to_owned()), "{text}");
        }
        for text in ["", "yesterday", "25:00", "-", "--2h"] {
            assert!(parse_at(text, &now).is_err(), "{text}");
        }
    }
}
