//! MERGE. It has no WHERE: what a row of the source fails in ON is inserted, and a row of the target that fails there is "not
//! matched by source". So the source is read through fences, the target's filter stands in ON, and again in each WHEN NOT
//! MATCHED BY SOURCE.

use pg_query::NodeEnum;
use pg_query::protobuf::{CmdType, MergeMatchKind, MergeStmt, MergeWhenClause};

use super::rewrite::{Level, Rewriter};
use super::write::{target_name, violation};
use crate::finding::Denial;
use crate::policy::RowFilter;
use crate::sql::analyse::scope::RteId;
use crate::sql::sentinel::slot_node;
use crate::sql::tree::and;

impl Rewriter<'_> {
    pub(super) fn merge(&mut self, merge: &mut MergeStmt) -> Result<(), Denial> {
        self.with(&mut merge.with_clause)?;
        let MergeStmt { relation, source_relation, join_condition, merge_when_clauses, returning_clause, with_clause: _ } = merge;
        let id = self.target(relation.as_ref())?;
        let Some(filter) = self.permit.rows(id).cloned() else {
            return Err(Denial::disagreement("a write to an ungoverned relation"));
        };
        let Some(source) = source_relation else { return Err(unsupported()) };
        let (mut members, pending) = self.rewrite_from_of_dml(std::slice::from_mut(&mut **source))?;
        self.wanted.extend(pending);
        let sources = members.clone();
        members.insert(id);
        let by_source = merge_when_clauses.iter().any(|w| match &w.node {
            Some(NodeEnum::MergeWhenClause(w)) => w.match_kind == MergeMatchKind::MergeWhenNotMatchedBySource as i32,
            Some(_) | None => false,
        });
        self.in_scope.push(Level::of(members.clone()));
        let mut conditions = vec![self.policy(id)?];
        if let Some(condition) = join_condition.take() {
            // Rows that are not matched by source reach the join whosever they are: a conjunct without columns is evaluated
            // for them.
            conditions.extend(self.conditions_at(*condition, !by_source)?);
        }
        *join_condition = and(conditions).map(Box::new);
        for clause in merge_when_clauses {
            let Some(NodeEnum::MergeWhenClause(clause)) = &mut clause.node else { return Err(unsupported()) };
            self.in_scope.pop();
            match MergeMatchKind::try_from(clause.match_kind) {
                Ok(MergeMatchKind::MergeWhenMatched) => {
                    self.in_scope.push(Level { members: members.clone(), filtered: true });
                    self.sub_links_of(&mut clause.condition)?;
                }
                Ok(MergeMatchKind::MergeWhenNotMatchedByTarget) => {
                    self.in_scope.push(Level { members: sources.clone(), filtered: true });
                    self.sub_links_of(&mut clause.condition)?;
                }
                Ok(MergeMatchKind::MergeWhenNotMatchedBySource) => self.filter_unmatched(id, clause)?,
                Ok(MergeMatchKind::Undefined) | Err(_) => return Err(unsupported()),
            }
            self.action(id, &filter, clause)?;
        }
        self.in_scope.pop();
        self.in_scope.push(Level { members, filtered: true });
        self.returning(returning_clause)?;
        self.in_scope.pop();
        Ok(())
    }

    /// The condition of a WHEN NOT MATCHED BY SOURCE, which sees every row of the target.
    fn filter_unmatched(&mut self, id: RteId, clause: &mut MergeWhenClause) -> Result<(), Denial> {
        self.in_scope.push(Level::of([id].into()));
        let mut conditions = vec![self.policy(id)?];
        if let Some(condition) = clause.condition.take() {
            conditions.extend(self.conditions_at(*condition, false)?);
        }
        clause.condition = and(conditions).map(Box::new);
        self.filtered();
        Ok(())
    }

    fn action(&mut self, id: RteId, filter: &RowFilter, clause: &mut MergeWhenClause) -> Result<(), Denial> {
        let MergeWhenClause { match_kind: _, command_type, r#override: _, condition: _, target_list, values } = clause;
        match CmdType::try_from(*command_type) {
            Ok(CmdType::CmdInsert) => {
                for value in values.iter_mut() {
                    self.sub_links(value)?;
                }
                let tenant = self.tenant_column(id, filter)?;
                let column = target_list.iter().enumerate().find_map(|(i, c)| match &c.node {
                    Some(NodeEnum::ResTarget(t)) if t.name == tenant => Some((i, t.indirection.is_empty())),
                    Some(_) | None => None,
                });
                match column {
                    // DEFAULT VALUES has neither columns nor values.
                    None => {
                        target_list.push(target_name(&tenant));
                        values.push(slot_node(filter.type_));
                    }
                    Some((_, false)) => return Err(Denial::policy(violation(&filter.table))),
                    Some((position, true)) => {
                        let value = values.get_mut(position).ok_or_else(unsupported)?;
                        let supplied = std::mem::take(value);
                        *value = self.checked_tenant(supplied, filter);
                    }
                }
                Ok(())
            }
            Ok(CmdType::CmdUpdate) => self.assignments(id, filter, target_list),
            Ok(CmdType::CmdDelete | CmdType::CmdNothing) => Ok(()),
            Ok(CmdType::Undefined | CmdType::CmdUnknown | CmdType::CmdSelect | CmdType::CmdMerge | CmdType::CmdUtility)
            | Err(_) => Err(unsupported()),
        }
    }
}

fn unsupported() -> Denial {
    Denial::unsupported("this MERGE cannot be secured")
}
