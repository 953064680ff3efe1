//! A client's settings: the authoritative map, with snapshots at BEGIN and SAVEPOINT.
//!
//! A backend carries the [`Settings`] that it has as a label. Where the label equals the client's map nothing is sent;
//! where it differs, one prelude of SET and RESET makes the backend's settings those of the map.

use std::collections::BTreeMap;
use std::sync::Arc;

pub use crate::backend::connection::Settings;

/// Settings that a startup message asks for: the last one of a name counts. Values as the server keeps them.
pub fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> Settings {
    let mut map: BTreeMap<String, String> = pairs.into_iter().map(|(n, v)| (n.to_ascii_lowercase(), v)).collect();
    // The proxy's own connections have a name of their own, which a client that gives none must not see.
    map.entry("application_name".to_owned()).or_default();
    Settings::new(map)
}

fn with(settings: &Settings, name: &str, value: Option<&str>) -> Settings {
    if settings.map().get(name).map(String::as_str) == value {
        return settings.clone();
    }
    let mut map = settings.map().clone();
    match value {
        Some(value) => map.insert(name.to_owned(), value.to_owned()),
        None => map.remove(name),
    };
    Settings::new(map)
}

/// Writes the statements that turn a backend with settings `from` into one with settings `to`. Needs
/// `standard_conforming_strings = on`, which the proxy keeps on.
pub fn write_prelude(from: &Settings, to: &Settings, out: &mut String) {
    for name in from.map().keys().filter(|_| !crate::mutant!("session.settings-of-others-stay")) {
        // What DateStyle does not say it leaves as it is.
        let is_partial =
            name == "datestyle" && !crate::mutant!("session.date-style-in-parts") && to.map().get(name) != from.map().get(name);
        if !to.map().contains_key(name) || is_partial {
            out.push_str("RESET ");
            write_name(name, out);
            out.push(';');
        }
    }
    let mut first = true;
    for (name, value) in to.map() {
        if from.map().get(name) != Some(value) {
            out.push_str(if first { "SELECT " } else { "," });
            first = false;
            write_call(name, value, false, out);
        }
    }
}

/// Writes a statement that gives one setting this value.
pub fn write_set_config(name: &str, value: &str, local: bool, out: &mut String) {
    out.push_str("SELECT ");
    write_call(name, value, local, out);
}

/// Takes the value as the server keeps it, lists included, which SET does not.
fn write_call(name: &str, value: &str, local: bool, out: &mut String) {
    out.push_str("pg_catalog.set_config(");
    write_literal(name, out);
    out.push(',');
    write_literal(value, out);
    out.push_str(if local { ",true)" } else { ",false)" });
}

/// Writes `SET name TO 'value', ..`, for review.
pub fn write_set(name: &str, values: &[Box<str>], out: &mut String) {
    out.push_str("SET ");
    write_name(name, out);
    out.push_str(" TO ");
    if values.is_empty() {
        out.push_str("''");
    }
    for (i, value) in values.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        write_literal(value, out);
    }
}

fn write_literal(value: &str, out: &mut String) {
    out.push('\'');
    for c in value.chars() {
        if c == '\'' {
            out.push('\'');
        }
        out.push(c);
    }
    out.push('\'');
}

/// Each part of a dotted name as a quoted identifier, so that no name is read as a keyword.
fn write_name(name: &str, out: &mut String) {
    for (i, part) in name.split('.').enumerate() {
        if i > 0 {
            out.push('.');
        }
        write_identifier(part, out);
    }
}

/// What SET changes and ROLLBACK restores.
#[derive(Clone, Debug)]
struct Frame {
    /// What stays after COMMIT.
    session: Settings,
    /// What holds now: `session` with SET LOCAL on top.
    effective: Settings,
}

/// The settings of one client.
#[derive(Debug)]
pub struct Tracker {
    /// From the startup message: what RESET goes back to.
    base: Settings,
    /// At the last commit: what a backend has when no transaction is open.
    committed: Settings,
    now: Frame,
    savepoints: Vec<(Box<str>, Frame)>,
}

impl Tracker {
    /// `base`: the settings of the startup message.
    pub fn new(base: Settings) -> Self {
        let now = Frame { session: base.clone(), effective: base.clone() };
        Tracker { committed: base.clone(), base, now, savepoints: Vec::new() }
    }

    /// What a backend must have before a transaction starts.
    pub fn committed(&self) -> &Settings {
        &self.committed
    }

    /// DateStyle as the server reports it: whole, whatever was written.
    pub fn note_date_style(&mut self, reported: &str) {
        let written = self.now.effective.map().get("datestyle").cloned();
        let Some(written) = written.filter(|written| written != reported) else { return };
        if self.now.session.map().get("datestyle") == Some(&written) {
            self.now.session = with(&self.now.session, "datestyle", Some(reported));
        }
        self.now.effective = with(&self.now.effective, "datestyle", Some(reported));
    }

    /// What holds now, SET LOCAL included.
    pub fn effective(&self) -> &Settings {
        &self.now.effective
    }

    pub fn base(&self) -> &Settings {
        &self.base
    }

    /// SET (`values`: `None` is TO DEFAULT).
    pub fn set(&mut self, name: &str, values: Option<&[Box<str>]>, local: bool) {
        let name = name.to_ascii_lowercase();
        let value = match values {
            Some(values) => Some(kept(&name, values)),
            None if crate::mutant!("session.default-is-the-servers") => None,
            None => self.base.map().get(&name).cloned(),
        };
        self.now.effective = with(&self.now.effective, &name, value.as_deref());
        if !local || crate::mutant!("session.set-local-stays") {
            self.now.session = with(&self.now.session, &name, value.as_deref());
        }
    }

    /// What does, inside a transaction, what [`Tracker::reset_all`] notes: what SET LOCAL hides goes back as well.
    pub fn reset_all_text(&self) -> String {
        let mut sql = String::new();
        write_prelude(&self.now.session, &self.base, &mut sql);
        sql.push(';');
        write_prelude(&self.now.effective, &self.base, &mut sql);
        sql
    }

    /// RESET ALL. Local settings go too, as in PostgreSQL.
    pub fn reset_all(&mut self) {
        self.now = Frame { session: self.base.clone(), effective: self.base.clone() };
    }

    pub fn savepoint(&mut self, name: &str) {
        self.savepoints.push((name.into(), self.now.clone()));
    }

    pub fn release(&mut self, name: &str) {
        if let Some(i) = self.savepoints.iter().rposition(|(n, _)| &**n == name) {
            self.savepoints.truncate(i);
        }
    }

    pub fn rollback_to(&mut self, name: &str) {
        if let Some(i) = self.savepoints.iter().rposition(|(n, _)| &**n == name) {
            self.savepoints.truncate(i + 1);
            if crate::mutant!("session.savepoints-keep-no-settings") {
                return;
            }
            self.now = self.savepoints[i].1.clone();
        }
    }

    /// A transaction, named or implicit, ended well.
    pub fn commit(&mut self) {
        self.savepoints.clear();
        // Clones of equal maps share them, so that later comparisons are of pointers.
        if self.committed != self.now.session {
            self.committed = self.now.session.clone();
        }
        if self.now.effective != self.committed {
            self.now.effective = self.committed.clone();
        }
    }

    /// A transaction, named or implicit, was undone.
    pub fn rollback(&mut self) {
        if crate::mutant!("session.rollback-keeps-settings") {
            return self.commit();
        }
        self.savepoints.clear();
        self.now = Frame { session: self.committed.clone(), effective: self.committed.clone() };
    }

    /// Whether the end of the transaction could change what holds now.
    pub fn may_change_at_end(&self) -> bool {
        self.now.effective != self.committed || self.now.session != self.committed
    }
}

/// The values of SET as one text, as the server keeps them.
fn kept(name: &str, values: &[Box<str>]) -> String {
    let mut out = String::new();
    for (i, value) in values.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        if is_identifier_list(name) && !is_plain(value) { write_identifier(value, &mut out) } else { out.push_str(value) }
    }
    out
}

/// Whether PostgreSQL, too, would write it without quotes (but for keywords, which need none here).
fn is_plain(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// Quotes always: what is one element to SET stays one element.
fn write_identifier(name: &str, out: &mut String) {
    out.push('"');
    for c in name.chars() {
        if c == '"' {
            out.push('"');
        }
        out.push(c);
    }
    out.push('"');
}

/// Settings whose elements are identifiers: to SET, one quoted value is one element.
fn is_identifier_list(name: &str) -> bool {
    name.eq_ignore_ascii_case("search_path") || name.eq_ignore_ascii_case("temp_tablespaces")
}

/// A value as a startup message writes it, as the values that SET would list.
pub fn startup_values(name: &str, value: &str) -> Box<[Box<str>]> {
    if is_identifier_list(name) { split_identifiers(value) } else { Box::new([value.into()]) }
}

/// The schemas of a search_path as the server keeps it, `"$user"` replaced by the role that the server knows.
pub fn search_path(value: &str, role: &str) -> Arc<[Box<str>]> {
    split_identifiers(value).iter().map(|v| if &**v == "$user" { role.into() } else { v.clone() }).collect()
}

/// Splits a list of identifiers as PostgreSQL's SplitIdentifierString does: quoted parts as they are, others folded to lower
/// case, blanks trimmed.
pub fn split_identifiers(text: &str) -> Box<[Box<str>]> {
    let mut out: Vec<Box<str>> = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_ascii_whitespace() || *c == ',').is_some() {}
        let Some(first) = chars.peek().copied() else { break };
        let mut part = String::new();
        if first == '"' {
            chars.next();
            while let Some(c) = chars.next() {
                if c == '"' && chars.next_if_eq(&'"').is_none() {
                    break;
                }
                part.push(c);
            }
        } else {
            while let Some(c) = chars.next_if(|c| *c != ',') {
                part.push(c.to_ascii_lowercase());
            }
            part.truncate(part.trim_end().len());
        }
        out.push(part.into());
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_style_leaves_what_it_does_not_say() {
        let mut out = String::new();
        write_prelude(&base(&[("datestyle", "German, DMY")]), &base(&[("datestyle", "DMY")]), &mut out);
        assert_eq!(out, "RESET \"datestyle\";SELECT pg_catalog.set_config('datestyle','DMY',false)");
    }

    fn base(entries: &[(&str, &str)]) -> Settings {
        Settings::new(entries.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect())
    }

    fn value<'a>(settings: &'a Settings, name: &str) -> Option<&'a str> {
        settings.map().get(name).map(String::as_str)
    }

    fn one(value: &str) -> [Box<str>; 1] {
        [value.into()]
    }

    #[test]
    fn rollback_restores_what_the_transaction_set() {
        let mut t = Tracker::new(base(&[("timezone", "UTC")]));
        t.set("TimeZone", Some(&one("Asia/Tokyo")), false);
        assert_eq!(value(t.effective(), "timezone"), Some("Asia/Tokyo"));
        t.rollback();
        assert_eq!(value(t.effective(), "timezone"), Some("UTC"));
        assert_eq!(value(t.committed(), "timezone"), Some("UTC"));
    }

    #[test]
    fn local_settings_end_with_the_transaction() {
        let mut t = Tracker::new(base(&[]));
        t.set("work_mem", Some(&one("1MB")), true);
        assert_eq!(value(t.effective(), "work_mem"), Some("1MB"));
        t.commit();
        assert_eq!(value(t.effective(), "work_mem"), None);
        assert_eq!(t.effective(), t.committed());
    }

    #[test]
    fn rollback_to_a_savepoint_restores_its_settings_and_keeps_it() {
        let mut t = Tracker::new(base(&[]));
        t.set("a", Some(&one("1")), false);
        t.savepoint("s");
        t.set("a", Some(&one("2")), false);
        t.savepoint("s");
        t.set("a", Some(&one("3")), false);
        t.rollback_to("s");
        assert_eq!(value(t.effective(), "a"), Some("2"));
        t.release("s");
        t.rollback_to("s");
        assert_eq!(value(t.effective(), "a"), Some("1"));
        t.commit();
        assert_eq!(value(t.committed(), "a"), Some("1"));
    }

    #[test]
    fn reset_goes_back_to_the_startup_value() {
        let mut t = Tracker::new(base(&[("application_name", "shop")]));
        t.set("application_name", Some(&one("x")), false);
        t.set("application_name", None, false);
        assert_eq!(value(t.effective(), "application_name"), Some("shop"));
    }

    #[test]
    fn the_prelude_quotes_and_covers_both_directions() {
        let mut sql = String::new();
        write_prelude(&base(&[("a", "1"), ("b", "2")]), &base(&[("b", "it's"), ("x.y", "\\z")]), &mut sql);
        let expected = r#"RESET "a";SELECT pg_catalog.set_config('b','it''s',false),pg_catalog.set_config('x.y','\z',false)"#;
        assert_eq!(sql, expected);
    }

    #[test]
    fn lists_split_as_postgresql_splits_them() {
        let parts: Vec<_> = split_identifiers(r#" "$user", Public ,"A""b,c""#).iter().map(|s| s.to_string()).collect();
        assert_eq!(parts, ["$user", "public", "A\"b,c"]);
    }
}
