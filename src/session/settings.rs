//! A client's settings: the authoritative map, with snapshots at BEGIN and SAVEPOINT.
//!
//! A backend carries the [`Settings`] that it has as a label. Where the label equals the client's map nothing is sent;
//! where it differs, one prelude of SET and RESET makes the backend's settings those of the map.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Settings that differ from the server's defaults: name in lower case, to values in the order that SET lists them.
pub type Values = Box<[Box<str>]>;

/// One immutable map of settings, shared by pointer: sessions snapshot it and backends carry it as their label.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub struct Settings(BTreeMap<Box<str>, Arc<Values>>);

impl Settings {
    pub fn get(&self, name: &str) -> Option<&Values> {
        self.0.get(name).map(|v| &**v)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Values)> {
        self.0.iter().map(|(n, v)| (&**n, &**v))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Settings of a startup message: the last one of a name counts.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> Arc<Self> {
        let entry = |(name, value): (String, String)| {
            let values = startup_values(&name, &value);
            (name.to_ascii_lowercase().into_boxed_str(), Arc::new(values))
        };
        Arc::new(Settings(pairs.into_iter().map(entry).collect()))
    }

    fn with(self: &Arc<Self>, name: &str, values: Option<Values>) -> Arc<Self> {
        let mut map = self.0.clone();
        match values {
            Some(values) => map.insert(name.into(), Arc::new(values)),
            None => map.remove(name),
        };
        Arc::new(Settings(map))
    }
}

/// Whether a backend that carries `label` needs no prelude for `wanted`. By pointer first: the usual case.
pub fn same(label: &Arc<Settings>, wanted: &Arc<Settings>) -> bool {
    Arc::ptr_eq(label, wanted) || label == wanted
}

/// Writes the statements that turn a backend with settings `from` into one with settings `to`.
pub fn write_prelude(from: &Settings, to: &Settings, out: &mut String) {
    for (name, _) in from.iter() {
        if to.get(name).is_none() {
            out.push_str("RESET ");
            write_name(name, out);
            out.push(';');
        }
    }
    for (name, values) in to.iter() {
        if from.get(name) != Some(values) {
            write_set(name, values, out);
            out.push(';');
        }
    }
}

/// Writes `SET name TO 'value', ..`. Needs `standard_conforming_strings = on`, which the proxy keeps on.
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
        out.push('\'');
        for c in value.chars() {
            if c == '\'' {
                out.push('\'');
            }
            out.push(c);
        }
        out.push('\'');
    }
}

/// Each part of a dotted name as a quoted identifier, so that no name is read as a keyword.
fn write_name(name: &str, out: &mut String) {
    for (i, part) in name.split('.').enumerate() {
        if i > 0 {
            out.push('.');
        }
        out.push('"');
        for c in part.chars() {
            if c == '"' {
                out.push('"');
            }
            out.push(c);
        }
        out.push('"');
    }
}

/// What SET changes and ROLLBACK restores.
#[derive(Clone, Debug)]
struct Frame {
    /// What stays after COMMIT.
    session: Arc<Settings>,
    /// What holds now: `session` with SET LOCAL on top.
    effective: Arc<Settings>,
}

/// The settings of one client.
#[derive(Debug)]
pub struct Tracker {
    /// From the startup message: what RESET goes back to.
    base: Arc<Settings>,
    /// At the last commit: what a backend has when no transaction is open.
    committed: Arc<Settings>,
    now: Frame,
    savepoints: Vec<(Box<str>, Frame)>,
}

impl Tracker {
    /// `base`: the settings of the startup message.
    pub fn new(base: Arc<Settings>) -> Self {
        let now = Frame { session: base.clone(), effective: base.clone() };
        Tracker { committed: base.clone(), base, now, savepoints: Vec::new() }
    }

    /// What a backend must have before a transaction starts.
    pub fn committed(&self) -> &Arc<Settings> {
        &self.committed
    }

    /// What holds now, SET LOCAL included.
    pub fn effective(&self) -> &Arc<Settings> {
        &self.now.effective
    }

    pub fn base(&self) -> &Arc<Settings> {
        &self.base
    }

    /// SET (`values`: `None` is TO DEFAULT).
    pub fn set(&mut self, name: &str, values: Option<&[Box<str>]>, local: bool) {
        let name = name.to_ascii_lowercase();
        let values = values.map(Values::from).or_else(|| self.base.get(&name).cloned());
        self.now.effective = self.now.effective.with(&name, values.clone());
        if !local {
            self.now.session = self.now.session.with(&name, values);
        }
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
            self.now = self.savepoints[i].1.clone();
        }
    }

    /// A transaction, named or implicit, ended well.
    pub fn commit(&mut self) {
        self.savepoints.clear();
        if !Arc::ptr_eq(&self.committed, &self.now.session) {
            self.committed = self.now.session.clone();
        }
        if !Arc::ptr_eq(&self.now.effective, &self.committed) {
            self.now.effective = self.committed.clone();
        }
    }

    /// A transaction, named or implicit, was undone.
    pub fn rollback(&mut self) {
        self.savepoints.clear();
        self.now = Frame { session: self.committed.clone(), effective: self.committed.clone() };
    }

    /// Whether some ROLLBACK, ROLLBACK TO or COMMIT could change what holds now: used to tell whether a statement may be
    /// reviewed before the reply of the one before it.
    pub fn may_change_at_end(&self) -> bool {
        !Arc::ptr_eq(&self.now.effective, &self.committed) || !Arc::ptr_eq(&self.now.session, &self.committed)
    }
}

/// The values of a setting as a startup message writes them. Only settings whose elements are identifiers are lists to SET:
/// there, one quoted value is one element.
pub fn startup_values(name: &str, value: &str) -> Values {
    if name.eq_ignore_ascii_case("search_path") || name.eq_ignore_ascii_case("temp_tablespaces") {
        split_identifiers(value)
    } else {
        Box::new([value.into()])
    }
}

/// The schemas of a search_path, `"$user"` replaced by the role that the server knows.
pub fn search_path(values: &[Box<str>], role: &str) -> Arc<[Box<str>]> {
    values.iter().map(|v| if &**v == "$user" { role.into() } else { v.clone() }).collect()
}

/// Splits a list of identifiers as PostgreSQL's SplitIdentifierString does: quoted parts as they are, others folded to lower
/// case, blanks trimmed.
pub fn split_identifiers(text: &str) -> Values {
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

    fn base(entries: &[(&str, &str)]) -> Arc<Settings> {
        entries.iter().fold(Arc::default(), |s: Arc<Settings>, (n, v)| s.with(n, Some(Box::new([Box::from(*v)]))))
    }

    fn value<'a>(settings: &'a Settings, name: &str) -> Option<&'a str> {
        settings.get(name).map(|v| &*v[0])
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
        assert!(same(t.effective(), t.committed()));
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
        assert_eq!(sql, r#"RESET "a";SET "b" TO 'it''s';SET "x"."y" TO '\z';"#);
    }

    #[test]
    fn lists_split_as_postgresql_splits_them() {
        let parts: Vec<_> = split_identifiers(r#" "$user", Public ,"A""b,c""#).iter().map(|s| s.to_string()).collect();
        assert_eq!(parts, ["$user", "public", "A\"b,c"]);
    }
}
