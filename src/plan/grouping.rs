//! GROUP BY of a primary key, under which PostgreSQL lets other columns of the table stand ungrouped. A fence hides the key
//! from it: what stands ungrouped is grouped by as well, which makes no other groups.

use std::collections::BTreeSet;

use pg_query::protobuf::{SelectStmt, a_const};
use pg_query::{Node, NodeEnum};

use super::rewrite::Rewriter;
use crate::sql::analyse::is_aggregate;
use crate::sql::analyse::scope::{RteId, RteKind};
use crate::sql::tree::{as_string, column, each_child, qualified_column};

impl Rewriter<'_> {
    pub(super) fn group_by_dependents(&self, select: &mut SelectStmt, members: &BTreeSet<RteId>) {
        let grouped: BTreeSet<(String, String)> = select.group_clause.iter().filter_map(|key| key_column(key, select)).collect();
        let by_key = members.iter().filter(|id| self.fences.contains(id) && self.groups_by_primary_key(**id, &grouped));
        let aliases: Vec<&str> = by_key.map(|id| self.analysis.rtes[*id].alias.as_str()).collect();
        if aliases.is_empty() || crate::mutant!("fence.keys-lost") {
            return;
        }
        let mut read = BTreeSet::new();
        let places = select.target_list.iter().chain(&select.sort_clause).chain(select.having_clause.as_deref());
        places.for_each(|place| self.ungrouped(place, &mut read));
        read.retain(|(alias, _)| aliases.contains(&alias.as_str()));
        select.group_clause.extend(read.difference(&grouped).map(|(alias, name)| column(&[alias, name])));
    }

    fn groups_by_primary_key(&self, id: RteId, grouped: &BTreeSet<(String, String)>) -> bool {
        let rte = &self.analysis.rtes[id];
        let RteKind::Relation { oid, usage: _ } = rte.kind else { return false };
        let key = self.catalog.relation(oid).and_then(|r| r.unique_keys.iter().find(|k| k.primary));
        let is_grouped = |number: &i16| {
            let name = rte.columns.iter().find(|c| c.number == *number).map(|c| c.name.clone());
            name.is_some_and(|name| grouped.contains(&(rte.alias.clone(), name)))
        };
        key.is_some_and(|k| k.columns.iter().all(is_grouped))
    }

    /// The columns that are read outside of aggregates.
    fn ungrouped(&self, node: &Node, found: &mut BTreeSet<(String, String)>) {
        match &node.node {
            Some(NodeEnum::ColumnRef(c)) => found.extend(qualified_column(c).map(|(a, n)| (a.to_owned(), n.to_owned()))),
            Some(NodeEnum::FuncCall(f)) if is_aggregate(f, self.catalog) => {}
            Some(_) | None => each_child(node, &mut |child| self.ungrouped(child, found)),
        }
    }
}

/// The column that a key of GROUP BY is, also by the name or the position of an output column.
fn key_column(key: &Node, select: &SelectStmt) -> Option<(String, String)> {
    let target = |n: &Node| match &n.node {
        Some(NodeEnum::ResTarget(t)) => t.val.as_deref().cloned().map(|val| (t.name.clone(), val)),
        Some(_) | None => None,
    };
    let of_column = |n: &Node| match &n.node {
        Some(NodeEnum::ColumnRef(c)) => qualified_column(c).map(|(a, n)| (a.to_owned(), n.to_owned())),
        Some(_) | None => None,
    };
    match &key.node {
        Some(NodeEnum::ColumnRef(c)) => of_column(key).or_else(|| {
            let [name] = c.fields.as_slice() else { return None };
            let named = select.target_list.iter().filter_map(target).find(|(n, _)| Some(n.as_str()) == as_string(name));
            named.and_then(|(_, value)| of_column(&value))
        }),
        Some(NodeEnum::AConst(c)) => {
            let Some(a_const::Val::Ival(position)) = &c.val else { return None };
            let index = usize::try_from(position.ival).ok()?.checked_sub(1)?;
            select.target_list.get(index).and_then(target).and_then(|(_, value)| of_column(&value))
        }
        Some(_) | None => None,
    }
}
