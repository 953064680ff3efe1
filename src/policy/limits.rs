//! How much is given to whom, and when definitions may be changed.

use std::time::{SystemTime, UNIX_EPOCH};

use super::model::{LimitPolicy, WindowPolicy};

/// What holds for a session: the least of what policies say for its roles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowLimit {
    /// Of one statement.
    pub rows: Option<u64>,
    /// Of a login, in an hour.
    pub rows_per_hour: Option<u64>,
}

impl RowLimit {
    /// The least of those for these roles.
    pub fn of(policies: &[LimitPolicy], roles: &[Box<str>]) -> RowLimit {
        let concerns =
            |policy: &&LimitPolicy| policy.roles.is_empty() || policy.roles.iter().any(|r| roles.iter().any(|h| **h == **r));
        let mine = || policies.iter().filter(concerns);
        RowLimit { rows: mine().filter_map(|p| p.rows).min(), rows_per_hour: mine().filter_map(|p| p.rows_per_hour).min() }
    }

    pub fn is_none(&self) -> bool {
        self.rows.is_none() && self.rows_per_hour.is_none()
    }
}

/// Whether an unrestricted user may change definitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// No policy says when.
    Free,
    /// A window is open.
    Open,
    /// None is.
    Closed,
    /// One is, for who says why.
    NeedsTicket,
}

/// Whether this user may now.
pub fn may_change(windows: &[WindowPolicy], user: &str, has_ticket: bool, now: SystemTime) -> Change {
    let mine = || windows.iter().filter(|w| w.users.is_empty() || w.users.iter().any(|u| u == user));
    if mine().next().is_none() {
        return Change::Free;
    }
    let open = || mine().filter(|window| is_open(window, now));
    if open().any(|window| has_ticket || !window.ticket) {
        Change::Open
    } else if open().next().is_some() {
        Change::NeedsTicket
    } else {
        Change::Closed
    }
}

fn is_open(window: &WindowPolicy, now: SystemTime) -> bool {
    let minutes = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 60;
    let (day, minute) = (minutes / 1440, minutes % 1440);
    // The first of January 1970 was a Thursday.
    let on = |day: u64| window.days.contains(&((day + 3) % 7));
    let (from, to) = (window.minutes.start, window.minutes.end);
    if from < to {
        on(day) && (from..to).contains(&minute)
    } else {
        on(day) && minute >= from || minute < to && day > 0 && on(day - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::policy::load;

    fn read(text: &str) -> crate::policy::model::PolicyModel {
        load::read(vec![("p.toml".into(), text.to_owned())], &[]).expect("it is read")
    }

    #[test]
    fn a_window_is_open_when_it_says() {
        let model = read(
            "[[window]]\nusers = ['owner']\ndays = ['sat']\nfrom = '22:00'\nto = '04:00'\nticket = true\n\
             [[window]]\nusers = ['owner', 'other']\ndays = ['wed']\nto = '12:00'\n",
        );
        // Thursday, 1970-01-01, and so many days and minutes later.
        let at = |day: u64, hour: u64, minute: u64| UNIX_EPOCH + Duration::from_secs(((day * 24 + hour) * 60 + minute) * 60);
        let may = |user, ticket, now| may_change(&model.windows, user, ticket, now);
        for (user, ticket, now, expected) in [
            ("owner", true, at(2, 22, 0), Change::Open),
            ("owner", false, at(2, 22, 0), Change::NeedsTicket),
            ("owner", true, at(2, 21, 59), Change::Closed),
            ("owner", true, at(3, 3, 59), Change::Open),
            ("owner", true, at(3, 4, 0), Change::Closed),
            ("owner", true, at(2, 3, 0), Change::Closed),
            ("owner", false, at(6, 11, 59), Change::Open),
            ("other", false, at(6, 12, 0), Change::Closed),
            ("other", true, at(2, 22, 0), Change::Closed),
            ("somebody", false, at(0, 0, 0), Change::Free),
        ] {
            assert_eq!(may(user, ticket, now), expected, "{user} {now:?}");
        }
    }

    #[test]
    fn the_least_limit_holds() {
        let model = read("[[limit]]\nrows = 100\n[[limit]]\nroles = ['app']\nrows = 10\nrows_per_hour = 50\n");
        assert_eq!(RowLimit::of(&model.limits, &["app".into()]), RowLimit { rows: Some(10), rows_per_hour: Some(50) });
        assert_eq!(RowLimit::of(&model.limits, &["x".into()]), RowLimit { rows: Some(100), rows_per_hour: None });
        assert!(RowLimit::of(&[], &[]).is_none());
    }
}
