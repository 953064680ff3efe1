//! What a statement is about, for the audit log: its relations, the kinds of data in the columns that it names, those that read as masks.

use std::collections::BTreeSet;

use pg_query::{Node, NodeEnum};

use crate::audit::record::Record;
use crate::catalog::Catalog;
use crate::policy::{Permit, PolicySet};
use crate::sql::analyse::scope::{RteKind, Usage};
use crate::sql::analyse::{Analysis, Statement};
use crate::sql::tree::{qualified_column, walk};

/// Fields of a record ([`Record::with`]).
pub(super) fn touched(analysis: &Analysis, permit: &Permit, policies: &PolicySet, catalog: &Catalog) -> Box<[u8]> {
    let (mut relations, mut classes, mut masked) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let named = named(analysis);
    for (id, rte) in analysis.rtes.iter().enumerate() {
        let RteKind::Relation { oid, usage } = rte.kind else { continue };
        let Some(relation) = catalog.relation(oid) else { continue };
        let name = format!("{}.{}", relation.schema, relation.name);
        // What is written may be any column, and so may a whole row's.
        let all = usage != Usage::Select || rte.whole_row;
        let is_named = |column: &str| all || named.contains(&(rte.alias.clone(), column.to_owned()));
        for (_, class) in policies.classes_of(relation, catalog).into_iter().filter(|(column, _)| is_named(column)) {
            classes.insert(class.to_owned());
        }
        for mask in permit.masks(id).iter().filter(|mask| is_named(&mask.name)) {
            masked.insert(format!("{name}.{}", mask.name));
        }
        relations.insert(name);
    }
    let fields = Record::fields(|record| {
        let lists = [("relations", &relations), ("classes", &classes), ("masked", &masked)];
        let some = lists.into_iter().filter(|(_, list)| !list.is_empty());
        some.fold(record, |record, (field, list)| record.texts(field, list.iter().map(String::as_str)))
    });
    fields.into()
}

/// Whether its record is waited for.
pub(super) fn waits_for_record(analysis: &Analysis, policies: &PolicySet, catalog: &Catalog) -> bool {
    let relations = analysis.rtes.iter().filter_map(|rte| match rte.kind {
        RteKind::Relation { oid, usage: _ } => catalog.relation(oid),
        RteKind::Derived | RteKind::Function | RteKind::Cte | RteKind::Excluded | RteKind::Version(_) | RteKind::Merged => None,
    });
    { relations }.any(|relation| policies.waits_for_records(relation, catalog))
}

/// The client's, where there is one.
pub(super) fn query_of(statement: &Statement) -> Option<&Node> {
    match statement {
        Statement::Query(query)
        | Statement::Prepare { name: _, query }
        | Statement::Declare { name: _, options: _, query }
        | Statement::Explain { options: _, query }
        | Statement::CopyTo { query, options: _ } => Some(query),
        Statement::CreateTemporary(create) => Some(&create.query),
        _ => None, // tidy: no query of the client's
    }
}

/// Columns that are named anywhere, by alias.
fn named(analysis: &Analysis) -> BTreeSet<(String, String)> {
    let Some(query) = query_of(&analysis.statement) else { return BTreeSet::new() };
    let mut named = BTreeSet::new();
    walk(query, &mut |node| {
        if let Some(NodeEnum::ColumnRef(reference)) = &node.node
            && let Some((alias, name)) = qualified_column(reference)
        {
            named.insert((alias.to_owned(), name.to_owned()));
        }
    });
    named
}
