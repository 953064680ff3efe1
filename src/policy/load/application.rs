//! `[[application]]`

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::File;
use crate::calendar;
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
        let time = calendar::seconds(&text.value).map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
        if time.is_none() {
            let problem = Problem::new(format!("`{key}` is not a point in time")).help("like this: \"2026-12-01T12:00:00Z\"");
            entry.report(problem, text.span, "with date, time and offset (or Z)");
        }
        time
    }
}
