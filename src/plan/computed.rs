//! Columns that are computed when they are read (PostgreSQL 18): naming one runs its expression, which may raise, where the
//! name stands. Whoever names one reads the relation through a fence.

use std::collections::BTreeSet;

use pg_query::{Node, NodeEnum};

use crate::catalog::Catalog;
use crate::finding::Denial;
use crate::policy::Permit;
use crate::sql::analyse::scope::{RteId, RteKind, Usage};
use crate::sql::analyse::{Analysis, WHOLE_ROW};
use crate::sql::tree::{as_string, each_column, qualified_column, walk};

/// The governed relations whose computed columns a statement in normal form names.
///
/// # Errors
/// 0A000 where it is the target of UPDATE, DELETE or MERGE, which cannot be fenced.
pub(super) fn fences(
    statement: &Node,
    analysis: &Analysis,
    permit: &Permit,
    catalog: &Catalog,
) -> Result<BTreeSet<RteId>, Denial> {
    if catalog.snapshot().virtual_columns.is_empty() {
        return Ok(BTreeSet::new());
    }
    let mut named: Vec<(RteId, String)> = vec![];
    each_column(statement, &mut |c| {
        if let Some((alias, column)) = qualified_column(c)
            && let Some((id, _)) = analysis.rte(alias)
        {
            named.push((id, column.to_owned()));
        }
    });
    // USING names columns of what stands below it.
    walk(statement, &mut |n| {
        let Some(NodeEnum::JoinExpr(join)) = &n.node else { return };
        for column in join.using_clause.iter().filter_map(as_string) {
            named.extend((0..analysis.rtes.len()).map(|id| (id, column.to_owned())));
        }
    });
    let mut found = BTreeSet::new();
    for (id, column) in named {
        let rte = &analysis.rtes[id];
        let RteKind::Relation { oid, usage } = rte.kind else { continue };
        let computed = |c: &crate::sql::analyse::scope::RteColumn| {
            (column == WHOLE_ROW || c.name == column) && catalog.is_virtual(oid, c.number)
        };
        if permit.rows(id).is_none() || !rte.columns.iter().any(computed) {
            continue;
        }
        match usage {
            Usage::Select => {
                found.insert(id);
            }
            // Only rows of the tenant's own are read.
            Usage::Insert => {}
            Usage::Update | Usage::Delete | Usage::Merge(_) => {
                return Err(Denial::unsupported(format!(
                    "a column of {} that is computed when it is read cannot be secured in this statement",
                    rte.alias
                )));
            }
        }
    }
    Ok(found)
}
