//! `[[application]]`

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::File;
use crate::config::document::{Key, Table, key};
use crate::config::problem::Problem;
use crate::policy::model::ApplicationPolicy;
use crate::sql::form::form;

pub const APPLICATION_KEYS: &[Key] = &[
    key("names", "[\"shop-web\"]", "By the application_name that it connects with. Default: every application."),
    key("roles", "[\"app\"]", "Of these roles. Default: every role."),
    key("statements", "[\"select name from customers where id = ?\"]", "What it says; constants and parameters are ? (or any)."),
    key("binds", "true", "It binds its values: a simple query with a constant in it is not its own (rule bound-values)."),
    key(
        "learns_until",
        "\"2026-12-01T12:00:00Z\"",
        "Until then, what is new passes, if it is no graft on what is known: a deploy.",
    ),
];

impl File<'_> {
    pub(super) fn application(&self, entry: &Table<'_>) -> ApplicationPolicy {
        let mut statements = vec![];
        for text in entry.texts("statements").unwrap_or_default() {
            match form(&text.value) {
                Ok(form) if form.is_empty() => entry.report(Problem::new("an empty statement"), text.span, "nothing"),
                Ok(form) => statements.push(form),
                Err(denial) => {
                    let problem = Problem::new("a statement of [[application]] cannot be read");
                    entry.report(problem, text.span, denial.error.message.to_string());
                }
            }
        }
        ApplicationPolicy {
            names: entry.texts("names").unwrap_or_default().into_iter().map(|name| name.value).collect(),
            roles: self.roles(entry),
            statements,
            binds: entry.flag("binds").unwrap_or(false),
            learns_until: self.time(entry, "learns_until"),
            place: self.place(entry.span.clone()),
        }
    }

    /// A point in time, as RFC 3339 writes it, with its offset.
    fn time(&self, entry: &Table<'_>, key: &str) -> Option<SystemTime> {
        let text = entry.text(key)?;
        let time = text.value.parse().ok().and_then(|time: toml::value::Datetime| instant(&time));
        if time.is_none() {
            let problem = Problem::new(format!("`{key}` is not a point in time")).help("like this: \"2026-12-01T12:00:00Z\"");
            entry.report(problem, text.span, "with date, time and offset (or Z)");
        }
        time
    }
}

/// `None`: a part is missing, or it is before 1970.
fn instant(time: &toml::value::Datetime) -> Option<SystemTime> {
    let (date, clock, offset) = (time.date?, time.time?, time.offset?);
    let days = days(date.year.into(), date.month.into(), date.day.into());
    let seconds =
        days * 86_400 + i64::from(clock.hour) * 3_600 + i64::from(clock.minute) * 60 + clock.second.map_or(0, i64::from);
    let behind = match offset {
        toml::value::Offset::Z => 0,
        toml::value::Offset::Custom { minutes } => i64::from(minutes) * 60,
    };
    let since = u64::try_from(seconds - behind).ok()?;
    Some(UNIX_EPOCH + Duration::from_secs(since))
}

/// Since 1970-01-01, in the Gregorian calendar (Howard Hinnant, `days_from_civil`).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T00:00:00Z", Some(951_782_400)),
            ("2100-03-01T01:30:00+01:30", Some(4_107_542_400)),
            ("2026-12-01T12:00:00", None),
            ("2026-12-01", None),
            ("1969-12-31T00:00:00Z", None),
        ] {
            let time: toml::value::Datetime = text.parse().expect("a time");
            assert_eq!(instant(&time), seconds.map(|s| UNIX_EPOCH + Duration::from_secs(s)), "{text}");
        }
    }
}
