//! Whether a text of an unrestricted user changes definitions, as far as it can be read. What a function does inside is not seen.

use pg_query::NodeEnum;
use pg_query::protobuf::{VariableSetStmt, a_const};

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
            NodeEnum::VariableSetStmt(set) if set.name.eq_ignore_ascii_case(TICKET) => ticket = Some(ticket_of(set)),
            other if leaves(other) => {}
            _ => return Kind::Changes, // tidy: what is not known to leave them changes them
        }
    }
    ticket.map_or(Kind::Leaves, Kind::Ticket)
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
        NodeEnum::SelectStmt(select) => select.into_clause.is_none(),
        NodeEnum::PrepareStmt(s) => s.query.as_deref().and_then(|q| q.node.as_ref()).is_some_and(leaves),
        NodeEnum::ExplainStmt(s) => s.query.as_deref().and_then(|q| q.node.as_ref()).is_some_and(leaves),
        NodeEnum::InsertStmt(_)
        | NodeEnum::UpdateStmt(_)
        | NodeEnum::DeleteStmt(_)
        | NodeEnum::MergeStmt(_)
        | NodeEnum::CopyStmt(_)
        | NodeEnum::TransactionStmt(_)
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
            ("SET bulkhead.ticket = 'CHG-1'; DROP TABLE t", Kind::Changes),
        ] {
            assert_eq!(kind(text), expected, "{text}");
        }
    }
}
