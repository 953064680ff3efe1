//! Whether a text of an unrestricted user changes definitions, as far as it can be read. What a function does inside is not seen.

use pg_query::NodeEnum;
use pg_query::protobuf::{RangeVar, SelectStmt, VariableSetKind, VariableSetStmt, a_const};

use super::parse;

/// The setting by which a user says why definitions are changed.
pub const TICKET: &str = "bulkhead.ticket";

/// What a text does to definitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Leaves them as they are.
    Leaves,
    Changes,
    /// It says why others of the session will; empty: it takes that back.
    Ticket(String),
}

/// What cannot be read is taken for a change.
pub fn kind(text: &str) -> Kind {
    if parse::is_deep(text) {
        return Kind::Changes;
    }
    let Ok(tree) = parse::parse(text) else { return Kind::Changes };
    let mut ticket = None;
    for statement in tree.stmts.iter().filter_map(|raw| raw.stmt.as_deref()?.node.as_ref()) {
        match statement {
            // SET LOCAL ends with its transaction, and so does what it says.
            NodeEnum::VariableSetStmt(set) if set.name.eq_ignore_ascii_case(TICKET) && !set.is_local => {
                ticket = Some(ticket_of(set))
            }
            NodeEnum::VariableSetStmt(set) if set.kind == VariableSetKind::VarResetAll as i32 => ticket = Some(String::new()),
            NodeEnum::DiscardStmt(_) => ticket = Some(String::new()),
            other if leaves(other) => {}
            _ => return Kind::Changes, // tidy: what is not known to leave them changes them
        }
    }
    ticket.map_or(Kind::Leaves, Kind::Ticket)
}

/// Whether a table is none of the catalog's.
fn is_own(relation: Option<&RangeVar>) -> bool {
    relation.is_some_and(|r| !r.schemaname.starts_with("pg_") && !r.relname.starts_with("pg_"))
}

/// INTO stands in the first of several that UNION joins.
fn makes_a_table(select: &SelectStmt) -> bool {
    let side = |side: &Option<Box<SelectStmt>>| side.as_deref().is_some_and(makes_a_table);
    let below = side(&select.larg) || side(&select.rarg);
    select.into_clause.is_some() || below && !crate::mutant!("watch.into-behind-union")
}

/// Settings by which the server reads texts otherwise than this proxy does.
const READINGS: [&str; 3] = ["standard_conforming_strings", "client_encoding", "backslash_quote"];

/// Whether what comes after a text may be read otherwise than it is here: it sets one of these, or may.
pub fn may_change_reading(text: &str) -> bool {
    // All of them have this in them; most statements have not.
    let bytes = text.as_bytes();
    let is_set = |at: usize| bytes.get(at..at + 3).is_some_and(|word| word.eq_ignore_ascii_case(b"set"));
    if !memchr::memchr2_iter(b's', b'S', bytes).any(is_set) {
        return false;
    }
    let lower = text.to_ascii_lowercase();
    let mentions = |word: &str| lower.contains(word);
    let names = mentions("set") && mentions("names");
    if !READINGS.iter().any(|setting| mentions(setting)) && !mentions("set_config") && !mentions("pg_settings") && !names {
        return false;
    }
    let Ok(tokens) = parse::scan(text) else { return true };
    let words: Vec<&str> = tokens.iter().filter_map(|t| lower.get(t.start as usize..t.end as usize)).collect();
    words.iter().enumerate().any(|(at, word)| {
        let next = |n: usize| words.get(at + n).copied().unwrap_or_default();
        let is_usual = |value: &str| matches!(value.trim_matches('\''), "on" | "true" | "1" | "utf8" | "utf-8" | "unicode");
        match word.trim_matches('"') {
            "set_config" => {
                let is_named = next(2).starts_with('\'') && next(3) == ",";
                !is_named || READINGS.contains(&next(2).trim_matches('\'')) && !is_usual(next(4))
            }
            "pg_settings" => mentions("update"),
            "names" => at > 0 && words[at - 1] == "set" && !is_usual(next(1)),
            setting if READINGS.contains(&setting) => matches!(next(1), "=" | "to") && !is_usual(next(2)),
            _ => false, // tidy: words, not syntax kinds
        }
    })
}

fn ticket_of(set: &VariableSetStmt) -> String {
    let constant = match set.args.first().and_then(|arg| arg.node.as_ref()) {
        Some(NodeEnum::AConst(constant)) => constant.val.as_ref(),
        Some(_) | None => None,
    };
    match constant {
        Some(a_const::Val::Sval(text)) => text.sval.clone(),
        Some(a_const::Val::Ival(number)) => number.ival.to_string(),
        Some(a_const::Val::Fval(_) | a_const::Val::Boolval(_) | a_const::Val::Bsval(_)) | None => String::new(),
    }
}

fn leaves(statement: &NodeEnum) -> bool {
    match statement {
        NodeEnum::SelectStmt(select) => !makes_a_table(select),
        NodeEnum::PrepareStmt(s) => s.query.as_deref().and_then(|q| q.node.as_ref()).is_some_and(leaves),
        NodeEnum::ExplainStmt(s) => s.query.as_deref().and_then(|q| q.node.as_ref()).is_some_and(leaves),
        // The catalog's rows are definitions.
        NodeEnum::InsertStmt(s) => is_own(s.relation.as_ref()),
        NodeEnum::UpdateStmt(s) => is_own(s.relation.as_ref()),
        NodeEnum::DeleteStmt(s) => is_own(s.relation.as_ref()),
        NodeEnum::MergeStmt(s) => is_own(s.relation.as_ref()),
        NodeEnum::CopyStmt(s) => !s.is_program && (!s.is_from || is_own(s.relation.as_ref())),
        NodeEnum::TransactionStmt(_)
        | NodeEnum::VariableSetStmt(_)
        | NodeEnum::VariableShowStmt(_)
        | NodeEnum::ExecuteStmt(_)
        | NodeEnum::DeallocateStmt(_)
        | NodeEnum::DeclareCursorStmt(_)
        | NodeEnum::FetchStmt(_)
        | NodeEnum::ClosePortalStmt(_)
        | NodeEnum::ListenStmt(_)
        | NodeEnum::UnlistenStmt(_)
        | NodeEnum::NotifyStmt(_)
        | NodeEnum::LockStmt(_)
        | NodeEnum::DiscardStmt(_)
        | NodeEnum::ConstraintsSetStmt(_)
        | NodeEnum::VacuumStmt(_)
        | NodeEnum::CheckPointStmt(_) => true,
        _ => false, // tidy: what is not known to leave them changes them
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_definitions_is_told() {
        for (text, expected) in [
            ("SELECT 1; UPDATE t SET a = 1; COMMIT", Kind::Leaves),
            ("", Kind::Leaves),
            ("EXPLAIN ANALYZE SELECT 1", Kind::Leaves),
            ("CREATE TABLE t (a int)", Kind::Changes),
            ("SELECT 1; DROP TABLE t", Kind::Changes),
            ("SELECT 1 INTO t", Kind::Changes),
            ("EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1", Kind::Changes),
            ("TRUNCATE t", Kind::Changes),
            ("GRANT ALL ON t TO u", Kind::Changes),
            ("DO $$ BEGIN END $$", Kind::Changes),
            ("not SQL", Kind::Changes),
            ("SET bulkhead.ticket = 'CHG-1'", Kind::Ticket("CHG-1".to_owned())),
            ("RESET bulkhead.ticket", Kind::Ticket(String::new())),
            ("DISCARD ALL", Kind::Ticket(String::new())),
            ("RESET ALL", Kind::Ticket(String::new())),
            ("SET LOCAL bulkhead.ticket = 'x'", Kind::Leaves),
            ("SELECT 1 AS a INTO t UNION SELECT 2", Kind::Changes),
            ("EXPLAIN ANALYZE SELECT 1 AS a INTO t UNION SELECT 2", Kind::Changes),
            ("WITH x AS (SELECT 1) SELECT * INTO t FROM x UNION ALL SELECT 2", Kind::Changes),
            ("UPDATE pg_class SET relname = 'x'", Kind::Changes),
            ("COPY t TO PROGRAM 'x'", Kind::Changes),
            ("SET bulkhead.ticket = 'CHG-1'; DROP TABLE t", Kind::Changes),
        ] {
            assert_eq!(kind(text), expected, "{text}");
        }
    }

    #[test]
    fn what_changes_how_texts_are_read_is_told() {
        for text in [
            "SET standard_conforming_strings = off",
            "set \"standard_conforming_strings\" to off",
            "SET client_encoding = 'SJIS'",
            "SET NAMES 'SJIS'",
            "SELECT set_config('standard_conforming_' || 'strings', 'off', false)",
            "SELECT set_config('client_encoding', 'SJIS', false)",
            "SELECT set_config($1, $2, false)",
            "UPDATE pg_settings SET setting = 'off' WHERE name LIKE 'standard%'",
        ] {
            assert!(may_change_reading(text), "{text}");
        }
        for text in [
            "SET standard_conforming_strings = on",
            "SET client_encoding = 'UTF8'",
            "SELECT pg_catalog.set_config('search_path', '', false)",
            "SELECT names FROM t",
            "SHOW client_encoding",
        ] {
            assert!(!may_change_reading(text), "{text}");
        }
    }
}
