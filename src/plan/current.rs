//! `WHERE CURRENT OF cursor`, to which no condition can be added.
//!
//! The cursor's own query was rewritten, so that it stands on a row of the tenant that declared it, and PostgreSQL sees to it
//! that it is a plain scan of the table that is written. But UPDATE and DELETE go for the latest version of the row, which
//! another session may have given to another tenant since. So the row that is written must pass the policy in RETURNING,
//! which sees it before the statement ends: one that does not raises, and nothing has happened. Which cursor it is need not
//! be known for that, nor what has become of the session since.

use pg_query::protobuf::{DeleteStmt, ReturningClause, UpdateStmt, WithClause};
use pg_query::{Node, NodeEnum};

use super::quiet::is_quiet;
use super::rewrite::{Level, Rewriter};
use super::write::CheckPlace;
use crate::finding::Denial;
use crate::policy::RowFilter;
use crate::sql::analyse::scope::RteId;
use crate::sql::tree::{as_string, case, each_column, null};

impl Rewriter<'_> {
    pub(super) fn update_current(&mut self, update: &mut UpdateStmt, place: CheckPlace) -> Result<(), Denial> {
        let UpdateStmt { relation, target_list, where_clause: _, from_clause, returning_clause, with_clause } = update;
        let id = self.target(relation.as_ref())?;
        let filter = self.rows_of_current(id, from_clause, with_clause.as_ref(), place)?;
        let tenant = self.tenant_column(id, &filter)?;
        let alias = self.analysis.rtes[id].alias.clone();
        self.in_scope.push(Level { members: [id].into(), filtered: true });
        for entry in target_list.iter_mut() {
            let Some(NodeEnum::ResTarget(t)) = &mut entry.node else { continue };
            if t.name == tenant && !crate::mutant!("write.current-tenant-assigned") {
                // RETURNING sees the new row: what it was would be lost.
                return Err(Denial::unsupported("an assignment to the tenant column WHERE CURRENT OF cannot be secured"));
            }
            let Some(value) = t.val.as_deref_mut() else { continue };
            if !reads(value, &alias) || is_quiet(value, self) || crate::mutant!("write.current-unguarded") {
                continue;
            }
            if matches!(&value.node, Some(NodeEnum::MultiAssignRef(_))) || has_sub_select(value) {
                return Err(Denial::unsupported("this assignment WHERE CURRENT OF cannot be secured"));
            }
            // It runs before RETURNING.
            let loud = std::mem::take(value);
            *value = case(vec![(self.policy(id)?, loud)], Some(null()));
        }
        self.assignments(id, &filter, target_list)?;
        self.in_scope.pop();
        self.check_current(id, &filter, returning_clause, place)
    }

    pub(super) fn delete_current(&mut self, delete: &mut DeleteStmt, place: CheckPlace) -> Result<(), Denial> {
        let DeleteStmt { relation, using_clause, where_clause: _, returning_clause, with_clause } = delete;
        let id = self.target(relation.as_ref())?;
        let filter = self.rows_of_current(id, using_clause, with_clause.as_ref(), place)?;
        self.check_current(id, &filter, returning_clause, place)
    }

    /// The filter, where it is one that RETURNING can test: the tenant, which an UPDATE leaves as it is.
    fn rows_of_current(
        &self,
        id: RteId,
        from: &[Node],
        with: Option<&WithClause>,
        place: CheckPlace,
    ) -> Result<RowFilter, Denial> {
        let Some(filter) = self.permit.rows(id) else {
            return Err(Denial::disagreement("a write to an ungoverned relation"));
        };
        if place != CheckPlace::Top || with.is_some() || !from.is_empty() {
            return Err(Denial::unsupported("WHERE CURRENT OF with other relations in the statement cannot be secured"));
        }
        if filter.using.is_some() || filter.check.is_some() {
            let message = format!("WHERE CURRENT OF cannot be secured where \"{}\" has rules besides the tenant", filter.table);
            return Err(Denial::unsupported(message));
        }
        Ok(filter.clone())
    }

    fn check_current(
        &mut self,
        id: RteId,
        filter: &RowFilter,
        clause: &mut Option<ReturningClause>,
        place: CheckPlace,
    ) -> Result<(), Denial> {
        self.in_scope.push(Level { members: [id].into(), filtered: true });
        self.returning(clause)?;
        self.in_scope.pop();
        if crate::mutant!("write.current-unchecked") {
            return Ok(());
        }
        let policy = self.policy(id)?;
        self.check_returned(id, filter, policy, clause, place)
    }
}

/// Whether an expression reads a column of that entry, or its whole row.
fn reads(expression: &Node, alias: &str) -> bool {
    let mut found = false;
    each_column(expression, &mut |c| found |= c.fields.first().and_then(as_string) == Some(alias));
    found
}

fn has_sub_select(expression: &Node) -> bool {
    let mut found = false;
    crate::sql::tree::walk(expression, &mut |n| found |= matches!(&n.node, Some(NodeEnum::SubLink(_))));
    found
}
