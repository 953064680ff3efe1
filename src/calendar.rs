//! Days of the Gregorian calendar, since 1970-01-01 (Howard Hinnant, `civil_from_days` and `days_from_civil`).

/// Year, month and day.
pub fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // From March on.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day)
}

/// Negative before 1970.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// `2026-01-31`, of seconds since 1970.
pub fn day(seconds: u64) -> String {
    let (year, month, day) = date(seconds / 86_400);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Seconds since 1970 of a point in time as RFC 3339 writes it, with its offset. `None`: it is none, or is before 1970.
pub fn seconds(text: &str) -> Option<u64> {
    let time: toml::value::Datetime = text.parse().ok()?;
    let (date, clock, offset) = (time.date?, time.time?, time.offset?);
    let days = days(date.year.into(), date.month.into(), date.day.into());
    let seconds =
        days * 86_400 + i64::from(clock.hour) * 3_600 + i64::from(clock.minute) * 60 + clock.second.map_or(0, i64::from);
    let ahead = match offset {
        toml::value::Offset::Z => 0,
        toml::value::Offset::Custom { minutes } => i64::from(minutes) * 60,
    };
    u64::try_from(seconds - ahead).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T00:00:00Z", Some(951_782_400)),
            ("2100-03-01T01:30:00+01:30", Some(4_107_542_400)),
            ("2026-12-01T12:00:00", None),
            ("2026-12-01", None),
            ("1969-12-31T00:00:00Z", None),
            ("soon", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
        assert_eq!([0, 951_782_400, 4_107_542_400].map(day), ["1970-01-01", "2000-02-29", "2100-03-01"]);
        assert!((0..100_000).all(|n| {
            let (y, m, d) = date(n);
            days(y as i64, m as i64, d as i64) == n as i64
        }));
    }
}
