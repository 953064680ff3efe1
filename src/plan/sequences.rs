//! Sequences: what a statement surely advances, and whose last values a client may ask for.
//!
//! `currval` and `lastval` read what a backend keeps of its last `nextval`, and backends are shared. They are a client's own
//! only where it has advanced the sequence itself since it got the backend: that it did must follow from the statement's
//! shape, for every run that succeeds.

use pg_query::protobuf::{FuncCall, InsertStmt, LimitOption, SelectStmt, SetOperation};
use pg_query::{Node, NodeEnum};
use smallvec::SmallVec;

use super::Plan;
use crate::catalog::Catalog;
use crate::sql::analyse::scope::{RteKind, Usage};
use crate::sql::analyse::{Analysis, Argument};
use crate::sql::tree::{as_string, walk};

/// The sequences that a client has advanced on the backend that it has, in its transaction.
#[derive(Clone, Debug, Default)]
pub struct OwnSequences(SmallVec<[u32; 4]>);

impl OwnSequences {
    /// The statement of that plan was sent: what depends on it is not run unless it succeeds.
    pub fn advance(&mut self, plan: &Plan) {
        for sequence in &plan.advances {
            if !self.0.contains(sequence) {
                self.0.push(*sequence);
            }
        }
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn holds(&self, sequence: u32) -> bool {
        self.0.contains(&sequence) || crate::mutant!("write.last-values-of-others")
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The sequences that the query advances whenever it succeeds.
pub(super) fn advanced(query: &Node, analysis: &Analysis, catalog: &Catalog) -> Vec<u32> {
    match &query.node {
        Some(NodeEnum::InsertStmt(insert)) => by_defaults(insert, analysis, catalog),
        Some(NodeEnum::SelectStmt(select)) => by_calls(select, analysis, catalog),
        Some(_) | None => vec![],
    }
}

/// INSERT of one row or more, whose defaults are computed before anything else may happen to it.
fn by_defaults(insert: &InsertStmt, analysis: &Analysis, catalog: &Catalog) -> Vec<u32> {
    let alias = insert.relation.as_ref().and_then(|r| r.alias.as_ref()).map_or("", |a| a.aliasname.as_str());
    let Some(RteKind::Relation { oid, usage: Usage::Insert }) = analysis.rte(alias).map(|(_, rte)| &rte.kind) else {
        return vec![];
    };
    let Some(relation) = catalog.relation(*oid) else { return vec![] };
    let rows = match insert.select_stmt.as_deref().map(|n| &n.node) {
        None => vec![],
        Some(Some(NodeEnum::SelectStmt(values))) if is_plain_values(values) && !returns_sets(insert, catalog) => {
            values.values_lists.iter().collect()
        }
        Some(Some(_) | None) => return vec![],
    };
    let is_filled = |column: &str| match insert.cols.iter().position(|c| assigned(c) == Some(column)) {
        None => true,
        Some(at) => rows.iter().any(|row| is_default(row, at)),
    };
    let fills = catalog.sequences_of(*oid).filter(|s| s.fills);
    let filled = fills.filter(|s| relation.column_numbered(s.column).is_some_and(|c| is_filled(&c.name)));
    filled.map(|s| s.sequence).collect()
}

/// VALUES, all rows of them.
fn is_plain_values(select: &SelectStmt) -> bool {
    let rest = SelectStmt { values_lists: vec![], with_clause: None, ..select.clone() };
    !select.values_lists.is_empty() && is_empty(&rest)
}

/// `SELECT nextval('..')` with nothing that could leave the row out.
fn by_calls(select: &SelectStmt, analysis: &Analysis, catalog: &Catalog) -> Vec<u32> {
    let bare = SelectStmt { target_list: vec![], ..select.clone() };
    if !is_empty(&bare) || calls_of_sets(&select.target_list, catalog) {
        return vec![];
    }
    let sequences: Vec<u32> = (analysis.functions.iter())
        .filter(|f| f.name == "nextval")
        .filter_map(|f| match f.arguments.first() {
            Some(Argument::Sequence(oid)) => Some(*oid),
            Some(Argument::Text(_) | Argument::Parameter(_) | Argument::Other) | None => None,
        })
        .collect();
    // Each call is a target by itself, not an arm of a CASE.
    let calls = select.target_list.iter().filter(|t| match &t.node {
        Some(NodeEnum::ResTarget(t)) => {
            matches!(t.val.as_deref().map(|v| &v.node), Some(Some(NodeEnum::FuncCall(c))) if is_nextval(c))
        }
        Some(_) | None => false,
    });
    if calls.count() == sequences.len() { sequences } else { vec![] }
}

/// Whether nothing is left of it.
fn is_empty(select: &SelectStmt) -> bool {
    let nothing = SelectStmt { limit_option: select.limit_option, op: select.op, ..SelectStmt::default() };
    *select == nothing
        && matches!(LimitOption::try_from(select.limit_option), Ok(LimitOption::Undefined | LimitOption::Default))
        && matches!(SetOperation::try_from(select.op), Ok(SetOperation::Undefined | SetOperation::SetopNone))
}

fn is_nextval(call: &FuncCall) -> bool {
    call.funcname.iter().filter_map(as_string).eq(["pg_catalog", "nextval"])
}

fn returns_sets(insert: &InsertStmt, catalog: &Catalog) -> bool {
    let Some(NodeEnum::SelectStmt(values)) = insert.select_stmt.as_deref().and_then(|n| n.node.as_ref()) else { return false };
    calls_of_sets(&values.values_lists, catalog)
}

/// Whether anything in there could be a set, which may have no row.
fn calls_of_sets(nodes: &[Node], catalog: &Catalog) -> bool {
    let mut found = false;
    for node in nodes {
        walk(node, &mut |n| {
            if let Some(NodeEnum::FuncCall(call)) = &n.node {
                let name = call.funcname.iter().filter_map(as_string).next_back().unwrap_or_default();
                found |= catalog.functions_named(name).any(|f| f.returns_set);
            }
        });
    }
    found
}

fn assigned(entry: &Node) -> Option<&str> {
    match &entry.node {
        Some(NodeEnum::ResTarget(t)) => Some(&t.name),
        Some(_) | None => None,
    }
}

fn is_default(row: &Node, at: usize) -> bool {
    match &row.node {
        Some(NodeEnum::List(list)) => {
            matches!(list.items.get(at).map(|i| &i.node), Some(Some(NodeEnum::SetToDefault(_))))
        }
        Some(_) | None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_a_clients_own_that_it_has_not_advanced() {
        let own = OwnSequences::default();
        assert!(!own.holds(7) && own.is_empty());
        assert!(OwnSequences(SmallVec::from_slice(&[7])).holds(7));
    }
}
