//! INSERT, UPDATE, DELETE: the tenant's column is filled or checked, rows of others are out of reach, and a write that
//! violates a policy raises 42501 (by an expression that fails with a sentinel) instead of dropping rows silently.

use pg_query::protobuf::{
    self as pg, DeleteStmt, InsertStmt, OnConflictAction, ReturningClause, SelectStmt, SetOperation, UpdateStmt,
};
use pg_query::{Node, NodeEnum};

use super::rewrite::{Level, Position, Rewriter, null_of, place_rule};
use super::sentinel;
use crate::finding::Denial;
use crate::policy::RowFilter;
use crate::sql::analyse::scope::RteId;
use crate::sql::sentinel::slot_node;
use crate::sql::template::TenantType;
use crate::sql::tree::{
    and, bool_constant, boxed, case, cast, column, int_constant, is_current_of, node, null, operator, target, text_constant,
    type_name,
};

impl Rewriter<'_> {
    pub(super) fn insert(&mut self, insert: &mut InsertStmt) -> Result<(), Denial> {
        self.insert_with_check(insert, CheckPlace::Top)
    }

    pub(super) fn insert_in_with(&mut self, insert: &mut InsertStmt) -> Result<(), Denial> {
        self.insert_with_check(insert, CheckPlace::With)
    }

    fn insert_with_check(&mut self, insert: &mut InsertStmt, place: CheckPlace) -> Result<(), Denial> {
        self.with(&mut insert.with_clause)?;
        let InsertStmt { relation, cols, select_stmt, on_conflict_clause, returning_clause, with_clause: _, r#override: _ } =
            insert;
        let id = self.target(relation.as_ref())?;
        if let Some(NodeEnum::SelectStmt(s)) = select_stmt.as_deref_mut().and_then(|n| n.node.as_mut()) {
            self.select(s, Position::Outermost)?;
        }
        let Some(filter) = self.permit.rows(id).cloned() else {
            return Err(Denial::disagreement("a write to an ungoverned relation"));
        };
        self.fill_tenant(id, &filter, cols, select_stmt)?;
        if let Some(conflict) = on_conflict_clause {
            self.on_conflict(id, &filter, conflict)?;
        }
        self.returning(returning_clause)?;
        self.check_new_rows(id, &filter, returning_clause, place)
    }

    pub(super) fn target(&self, relation: Option<&pg::RangeVar>) -> Result<RteId, Denial> {
        let name = relation.and_then(|r| r.alias.as_ref()).map(|a| a.aliasname.as_str()).unwrap_or_default();
        self.rte(name).map(|(id, _)| id).ok_or_else(|| Denial::disagreement(format!("unknown target {name}")))
    }

    pub(super) fn tenant_column(&self, id: RteId, filter: &RowFilter) -> Result<String, Denial> {
        let rte = &self.analysis.rtes[id];
        rte.columns
            .iter()
            .find(|c| c.number == filter.tenant_column)
            .map(|c| c.name.clone())
            .ok_or_else(|| Denial::disagreement(format!("no tenant column in {}", filter.table)))
    }

    /// Appends the tenant's column, or checks what the client supplies for it.
    fn fill_tenant(
        &self,
        id: RteId,
        filter: &RowFilter,
        cols: &mut Vec<Node>,
        source: &mut Option<Box<Node>>,
    ) -> Result<(), Denial> {
        let name = self.tenant_column(id, filter)?;
        let position = cols.iter().position(|c| matches!(&c.node, Some(NodeEnum::ResTarget(t)) if t.name == name));
        let Some(source) = source else {
            // DEFAULT VALUES
            *cols = vec![target_name(&name)];
            *source = boxed(values(vec![vec![slot_node(filter.type_)]]));
            return Ok(());
        };
        let Some(NodeEnum::SelectStmt(select)) = &mut source.node else {
            return Err(Denial::unsupported("this INSERT cannot be secured"));
        };
        match position {
            None if crate::mutant!("write.tenant-not-appended") => Ok(()),
            None => {
                cols.push(target_name(&name));
                each_row(select, &mut |row| {
                    row.push(slot_node(filter.type_));
                    Ok(())
                })
            }
            Some(position) => {
                if let Some(NodeEnum::ResTarget(t)) = &cols[position].node
                    && !t.indirection.is_empty()
                    && !crate::mutant!("write.tenant-in-parts")
                {
                    return Err(Denial::policy(violation(&filter.table)));
                }
                each_row(select, &mut |row| {
                    let Some(value) = row.get_mut(position) else {
                        return Err(Denial::unsupported("this INSERT cannot be secured"));
                    };
                    let supplied = std::mem::take(value);
                    *value = self.checked_tenant(supplied, filter);
                    Ok(())
                })
            }
        }
    }

    /// What stands where the client supplies the tenant: DEFAULT is the slot; a governed relation's own tenant column is
    /// right already; anything else must equal the slot, or raises the sentinel.
    pub(super) fn checked_tenant(&self, value: Node, filter: &RowFilter) -> Node {
        if crate::mutant!("write.tenant-unchecked") {
            return value;
        }
        match &value.node {
            Some(NodeEnum::SetToDefault(_)) => slot_node(filter.type_),
            Some(_) | None => checked(value, filter),
        }
    }

    /// DO UPDATE meets the conflicting row whosever it is: a foreign one raises (guard.md, A11).
    fn on_conflict(&mut self, id: RteId, filter: &RowFilter, conflict: &mut pg::OnConflictClause) -> Result<(), Denial> {
        let pg::OnConflictClause { action, infer, target_list, where_clause, location: _ } = conflict;
        if let Some(infer) = infer {
            self.sub_links_of(&mut infer.where_clause)?;
        }
        if *action != OnConflictAction::OnconflictUpdate as i32 {
            return Ok(());
        }
        // RETURNING cannot tell a row that was changed from one that is new.
        if filter.changed != filter.check && !crate::mutant!("write.conflict-other-rules") {
            return Err(Denial::unsupported(format!(
                "ON CONFLICT DO UPDATE cannot be secured where the rules for new rows of \"{}\" differ from those for changed ones",
                filter.table
            )));
        }
        self.assignments(id, filter, target_list)?;
        self.sub_links_of(where_clause)?;
        let user = where_clause.take().map_or_else(|| bool_constant(true), |w| *w);
        let alias = self.analysis.rtes[id].alias.clone();
        if crate::mutant!("write.conflict-unguarded") {
            *where_clause = boxed(user);
            return Ok(());
        }
        let raise = cast(raised(column(&[&alias, "tableoid"]), filter), type_name(&["pg_catalog", "bool"]));
        *where_clause = boxed(case(vec![(self.policy(id)?, user)], Some(raise)));
        Ok(())
    }

    /// SET lists: a value for the tenant's column must equal the slot.
    pub(super) fn assignments(&mut self, id: RteId, filter: &RowFilter, list: &mut [Node]) -> Result<(), Denial> {
        let tenant = self.tenant_column(id, filter)?;
        for entry in list.iter_mut() {
            self.sub_links(entry)?;
        }
        for entry in list.iter_mut() {
            let Some(NodeEnum::ResTarget(t)) = &mut entry.node else { continue };
            if t.name != tenant || crate::mutant!("write.assigned-tenant-unchecked") {
                continue;
            }
            if !t.indirection.is_empty() {
                return Err(Denial::policy(violation(&filter.table)));
            }
            match t.val.as_deref_mut() {
                Some(Node { node: Some(NodeEnum::MultiAssignRef(_)) }) | None => {
                    return Err(
                        Denial::policy(violation(&filter.table)).hint("assign the tenant column by itself, or not at all")
                    );
                }
                Some(value) => {
                    let supplied = std::mem::take(value);
                    *value = self.checked_tenant(supplied, filter);
                }
            }
        }
        Ok(())
    }

    pub(super) fn update(&mut self, update: &mut UpdateStmt) -> Result<(), Denial> {
        self.update_with_check(update, CheckPlace::Top)
    }

    pub(super) fn update_in_with(&mut self, update: &mut UpdateStmt) -> Result<(), Denial> {
        self.update_with_check(update, CheckPlace::With)
    }

    fn update_with_check(&mut self, update: &mut UpdateStmt, place: CheckPlace) -> Result<(), Denial> {
        if is_current_of(&update.where_clause) {
            return self.update_current(update, place);
        }
        self.with(&mut update.with_clause)?;
        let UpdateStmt { relation, target_list, where_clause, from_clause, returning_clause, with_clause: _ } = update;
        let id = self.target(relation.as_ref())?;
        let Some(filter) = self.permit.rows(id).cloned() else {
            return Err(Denial::disagreement("a write to an ungoverned relation"));
        };
        self.filter_rows(id, from_clause, where_clause)?;
        self.in_scope.push(Level { members: [id].into(), filtered: true });
        self.assignments(id, &filter, target_list)?;
        self.returning(returning_clause)?;
        self.in_scope.pop();
        self.check_new_rows(id, &filter, returning_clause, place)
    }

    pub(super) fn delete(&mut self, delete: &mut DeleteStmt) -> Result<(), Denial> {
        self.delete_at(delete, CheckPlace::Top)
    }

    pub(super) fn delete_in_with(&mut self, delete: &mut DeleteStmt) -> Result<(), Denial> {
        self.delete_at(delete, CheckPlace::With)
    }

    fn delete_at(&mut self, delete: &mut DeleteStmt, place: CheckPlace) -> Result<(), Denial> {
        if is_current_of(&delete.where_clause) {
            return self.delete_current(delete, place);
        }
        self.with(&mut delete.with_clause)?;
        let DeleteStmt { relation, using_clause, where_clause, returning_clause, with_clause: _ } = delete;
        let id = self.target(relation.as_ref())?;
        if self.permit.rows(id).is_none() {
            return Err(Denial::disagreement("a write to an ungoverned relation"));
        }
        self.filter_rows(id, using_clause, where_clause)?;
        self.in_scope.push(Level { members: [id].into(), filtered: true });
        self.returning(returning_clause)?;
        self.in_scope.pop();
        Ok(())
    }

    /// FROM or USING, and WHERE, with the filters of the target and of every FROM item.
    fn filter_rows(&mut self, id: RteId, from: &mut [Node], condition: &mut Option<Box<Node>>) -> Result<(), Denial> {
        let (mut members, pending) = self.rewrite_from_of_dml(from)?;
        members.insert(id);
        self.in_scope.push(Level::of(members));
        let mut conditions = if crate::mutant!("write.target-not-filtered") { vec![] } else { vec![self.policy(id)?] };
        conditions.extend(self.predicates(&pending)?);
        if let Some(user) = condition.take() {
            conditions.extend(self.conditions(*user)?);
        }
        self.in_scope.pop();
        *condition = and(conditions).map(Box::new);
        Ok(())
    }

    pub(super) fn returning(&mut self, clause: &mut Option<ReturningClause>) -> Result<(), Denial> {
        let Some(clause) = clause else { return Ok(()) };
        clause.exprs.iter_mut().try_for_each(|e| self.sub_links(e))
    }

    /// `with_check`: RETURNING sees the row as it was written, after triggers and defaults, and before the statement ends; a
    /// row that fails raises the sentinel there.
    fn check_new_rows(
        &mut self,
        id: RteId,
        filter: &RowFilter,
        clause: &mut Option<ReturningClause>,
        place: CheckPlace,
    ) -> Result<(), Denial> {
        let Some(check) = filter.check.as_ref().filter(|_| !crate::mutant!("write.new-rows-unchecked")) else { return Ok(()) };
        let rte = &self.analysis.rtes[id];
        let by_number = |number: i16| rte.columns.iter().find(|c| c.number == number).map(|c| c.name.clone());
        let check = place_rule(check, &rte.alias, &by_number, self.catalog, filter)?;
        self.check_returned(id, filter, check, clause, place)
    }

    /// RETURNING raises the sentinel for a row that is not as `check` says, before it shows anything of it.
    pub(super) fn check_returned(
        &mut self,
        id: RteId,
        filter: &RowFilter,
        check: Node,
        clause: &mut Option<ReturningClause>,
        place: CheckPlace,
    ) -> Result<(), Denial> {
        let rte = &self.analysis.rtes[id];
        let raise = cast(raised(column(&[&rte.alias, "tableoid"]), filter), type_name(&["pg_catalog", "int4"]));
        let probe = case(vec![(check, null_of("int4"))], Some(raise));
        match clause {
            None => {
                *clause = Some(ReturningClause { options: vec![], exprs: vec![target("bulkhead_check", probe)] });
                if place == CheckPlace::Top {
                    self.hides_rows = true;
                }
                Ok(())
            }
            Some(clause) => {
                let first = clause.exprs.first_mut().and_then(|e| e.node.as_mut());
                let Some(NodeEnum::ResTarget(t)) = first else {
                    return Err(Denial::unsupported("this RETURNING cannot be secured"));
                };
                let Some(value) = &mut t.val else { return Err(Denial::unsupported("this RETURNING cannot be secured")) };
                // All arms are the value itself, so that type and modifier stay.
                let original = std::mem::take(&mut **value);
                let impossible = operator("=", probe, int_constant(0));
                **value = case(vec![(impossible, original.clone())], Some(original));
                Ok(())
            }
        }
    }
}

/// Where a data-modifying statement stands: the rows of one in WITH do not go to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CheckPlace {
    Top,
    With,
}

/// The message of a write outside the tenant, as PostgreSQL words it.
pub(super) fn violation(table: &str) -> String {
    format!("new row violates row-level security policy for table \"{table}\"")
}

/// `CASE WHEN (value) = slot THEN slot ELSE <raise> END`. A constant that equals the slot folds to the slot when planned.
fn checked(value: Node, filter: &RowFilter) -> Node {
    // NULL is not the tenant either: what it is appended to must not become NULL.
    let as_text = cast(value.clone(), type_name(&["pg_catalog", "text"]));
    let raise = if crate::mutant!("write.null-tenant") { as_text } else { coalesce(vec![as_text, text_constant("")]) };
    let raise = raised_by(raise, filter);
    let raise = match filter.type_ {
        TenantType::Int2 | TenantType::Int4 | TenantType::Int8 | TenantType::Uuid => raise,
        // Any text is a text: raise by way of an integer.
        TenantType::Text => cast(raise, type_name(&["pg_catalog", "int4"])),
    };
    let raise = cast(raise, type_name(&["pg_catalog", filter.type_.name()]));
    case(vec![(operator("=", value, slot_node(filter.type_)), slot_node(filter.type_))], Some(raise))
}

/// Text that no type but text takes, and that depends on the row, so that it is not evaluated when the statement is planned.
fn raised(row_dependent: Node, filter: &RowFilter) -> Node {
    raised_by(cast(row_dependent, type_name(&["pg_catalog", "text"])), filter)
}

fn raised_by(as_text: Node, filter: &RowFilter) -> Node {
    operator("||", cast(text_constant(&sentinel::text(&filter.table)), type_name(&["pg_catalog", "text"])), as_text)
}

fn coalesce(args: Vec<Node>) -> Node {
    node(NodeEnum::CoalesceExpr(Box::new(pg::CoalesceExpr { xpr: None, coalescetype: 0, coalescecollid: 0, args, location: 0 })))
}

pub(super) fn target_name(name: &str) -> Node {
    node(NodeEnum::ResTarget(Box::new(pg::ResTarget { name: name.to_owned(), indirection: vec![], val: None, location: 0 })))
}

fn values(rows: Vec<Vec<Node>>) -> Node {
    let values_lists = rows.into_iter().map(|items| node(NodeEnum::List(pg::List { items }))).collect();
    node(NodeEnum::SelectStmt(Box::new(SelectStmt {
        values_lists,
        limit_option: pg::LimitOption::Default as i32,
        op: SetOperation::SetopNone as i32,
        ..Default::default()
    })))
}

/// Applies a change to each row that an INSERT's source supplies: VALUES rows, and the target list of every arm.
fn each_row(select: &mut SelectStmt, change: &mut dyn FnMut(&mut Vec<Node>) -> Result<(), Denial>) -> Result<(), Denial> {
    if let (Some(left), Some(right)) = (&mut select.larg, &mut select.rarg) {
        if !crate::mutant!("write.last-arm-only") {
            each_row(left, change)?;
        }
        return each_row(right, change);
    }
    if !select.values_lists.is_empty() {
        for row in select.values_lists.iter_mut().take(if crate::mutant!("write.first-row-only") { 1 } else { usize::MAX }) {
            if let Some(NodeEnum::List(list)) = &mut row.node {
                change(&mut list.items)?;
            }
        }
        return Ok(());
    }
    let mut names = vec![];
    let mut expressions = vec![];
    for entry in std::mem::take(&mut select.target_list) {
        match entry.node {
            Some(NodeEnum::ResTarget(t)) => {
                names.push(t.name);
                expressions.push(t.val.map_or_else(null, |v| *v));
            }
            Some(_) | None => return Err(Denial::unsupported("this INSERT cannot be secured")),
        }
    }
    change(&mut expressions)?;
    let unnamed = std::iter::repeat_with(|| "bulkhead_tenant".to_owned());
    select.target_list = expressions.into_iter().zip(names.into_iter().chain(unnamed)).map(|(e, n)| target(&n, e)).collect();
    Ok(())
}
