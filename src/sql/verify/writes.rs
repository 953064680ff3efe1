//! The injected shapes of writes: a tenant that is checked, rows that are checked, and what raises where a check fails.

use pg_query::NodeEnum;
use pg_query::protobuf::{
    AExpr, CaseExpr, CaseWhen, Node, OnConflictAction, OnConflictClause, ResTarget, ReturningClause, ReturningOption,
    ReturningOptionKind,
};

use super::guard::{conjuncts, shapes, slot_type};
use super::statement::Target;
use super::*;
use crate::sql::shape;

/// Stands in a pattern for what the text has there.
const HOLE: &str = "qzhole";

/// The shape of an expression.
pub(super) fn expression(text: &str) -> Result<String, Denial> {
    let tree = parse::parse(&format!("SELECT {text}")).map_err(|_| refused("a pattern that cannot be parsed"))?;
    let select = tree.stmts.first().and_then(|s| s.stmt.as_ref()).and_then(|s| s.node.as_ref());
    let Some(NodeEnum::SelectStmt(select)) = select else { return Err(refused("a pattern that is none")) };
    match select.target_list.first().map(inner).transpose()? {
        Some(NodeEnum::ResTarget(target)) => target.val.as_deref().map(shape::shape).ok_or_else(|| refused("no pattern")),
        Some(_) | None => Err(refused("a pattern that is none")),
    }
}

pub(super) fn quoted(text: &str, quote: char) -> String {
    format!("{quote}{}{quote}", text.replace(quote, &format!("{quote}{quote}")))
}

/// The type that a value which raises is cast to, by way of one that no text but a number has.
fn raising_cast(type_: TenantType) -> String {
    let own = format!("pg_catalog.{}", type_.name());
    match type_ {
        TenantType::Int2 | TenantType::Int4 | TenantType::Int8 | TenantType::Uuid => own,
        TenantType::Text => format!("pg_catalog.int4::{own}"),
    }
}

/// Condition and result of the first branch.
fn first_branch(case: &CaseExpr) -> Option<(&Node, &Node)> {
    let Some(NodeEnum::CaseWhen(when)) = case.args.first()?.node.as_ref() else { return None };
    let CaseWhen { xpr: _, expr, result, location: _ } = when.as_ref();
    Some((expr.as_deref()?, result.as_deref()?))
}

/// The left operand of the first branch's condition.
pub(super) fn copied_operand(case: &CaseExpr) -> Option<&Node> {
    let (condition, _) = first_branch(case)?;
    let Some(NodeEnum::AExpr(comparison)) = condition.node.as_ref() else { return None };
    let AExpr { kind: _, name: _, lexpr, rexpr: _, rexpr_list_start: _, rexpr_list_end: _, location: _ } = comparison.as_ref();
    lexpr.as_deref()
}

impl Verifier<'_> {
    /// The shape of a pattern; its holes are filled with what the text has there. A pattern is text, read by the parser that
    /// reads what is checked.
    fn pattern(&mut self, text: &str, holes: &[(&str, &Node)]) -> Result<String, Denial> {
        let mut shape = self.shape_of(text)?;
        for (hole, filling) in holes {
            shape = shape.replace(&self.shape_of(&format!("{HOLE}.{hole}"))?, &shape::shape(*filling));
        }
        Ok(shape)
    }

    /// A statement of many rows has the same pattern in each.
    fn shape_of(&mut self, text: &str) -> Result<String, Denial> {
        if let Some(known) = self.patterns.get(text) {
            return Ok(known.clone());
        }
        let shape = expression(text)?;
        self.patterns.insert(text.to_owned(), shape.clone());
        Ok(shape)
    }

    /// A value for the tenant column: the slot, or a value that is compared with it and raises where it differs (or is
    /// NULL).
    pub(super) fn check_tenant_value(&mut self, value: Option<&Node>, target: &Target) -> Result<(), Denial> {
        let value = value.ok_or_else(|| refused("a row without the tenant"))?;
        if slot_type(value) == Some(target.type_) {
            return Ok(());
        }
        let unchecked = || refused("a value that need not be the tenant's");
        let NodeEnum::CaseExpr(case) = inner(value)? else { return Err(unchecked()) };
        let operand = copied_operand(case).ok_or_else(unchecked)?;
        let slot = format!("'{}'::pg_catalog.{}", sentinel::slot_name(target.type_), target.type_.name());
        let text = format!(
            "CASE WHEN {HOLE}.v OPERATOR(pg_catalog.=) {slot} THEN {slot} \
             ELSE ({}::pg_catalog.text OPERATOR(pg_catalog.||) COALESCE({HOLE}.v::pg_catalog.text, ''))::{} END",
            self.accusation(target),
            raising_cast(target.type_),
        );
        if self.pattern(&text, &[("v", operand)])? != shape::shape(value) {
            return Err(unchecked());
        }
        self.checked.insert(std::ptr::from_ref(case.as_ref()));
        Ok(())
    }

    /// The constant that names the table in an error.
    fn accusation(&self, target: &Target) -> String {
        quoted(&format!("{}{}\"", self.expected.marker, target.table), '\'')
    }

    /// What raises, as a value of a type.
    fn raise(&self, target: &Target, type_: &str) -> String {
        let (text, alias) = (self.accusation(target), quoted(&target.alias, '"'));
        format!("({text}::pg_catalog.text OPERATOR(pg_catalog.||) {alias}.tableoid::pg_catalog.text)::pg_catalog.{type_}")
    }

    pub(super) fn on_conflict(&mut self, conflict: &OnConflictClause, target: &mut Target) -> Result<(), Denial> {
        let OnConflictClause { action, infer, target_list, where_clause, location: _ } = conflict;
        if let Some(infer) = infer {
            let pg_query::protobuf::InferClause { index_elems, where_clause, conname: _, location: _ } = infer.as_ref();
            // In an arbiter the columns are the target's, with or without an alias.
            self.arbiter(index_elems, where_clause.as_deref())?;
        }
        if *action != OnConflictAction::OnconflictUpdate as i32 {
            return Ok(());
        }
        if !crate::mutant!("check.changed-rows") {
            target.checks.append(&mut target.checks_when_changed);
        }
        let target: &Target = target;
        // Triggers and defaults may have filled it: it has the target's masks.
        self.excluded = self.excluded_columns(target)?;
        self.level()?.aliases.push("excluded".to_owned());
        // CASE fixes the order (guard.md A11): the policy comes first, and a row that it hides raises.
        let unchecked = || refused("ON CONFLICT DO UPDATE without the policy in front");
        let filter = where_clause.as_deref().ok_or_else(unchecked)?;
        let NodeEnum::CaseExpr(case) = inner(filter)? else { return Err(unchecked()) };
        let (condition, users) = first_branch(case).ok_or_else(unchecked)?;
        let text = format!("CASE WHEN {HOLE}.c THEN {HOLE}.u ELSE {} END", self.raise(target, "bool"));
        let found = shapes(Some(condition));
        let holds = target.entry.required().iter().all(|shape| found.contains(shape));
        let holds = holds || crate::mutant!("check.conflict-policy");
        if !holds || self.pattern(&text, &[("c", condition), ("u", users)])? != shape::shape(filter) {
            return Err(unchecked());
        }
        self.condition(Some(condition))?;
        self.assignments(target_list, target)?;
        self.expr(users)?;
        self.level()?.aliases.pop();
        self.excluded = Named::default();
        Ok(())
    }

    fn excluded_columns(&self, target: &Target) -> Result<Named, Denial> {
        let Entry::Governed { oid, .. } = &target.entry else { return Err(refused("a target that is not governed")) };
        self.columns_of(*oid, "excluded")
    }

    /// The columns of a written relation under another alias of its rows.
    fn columns_of(&self, oid: u32, alias: &str) -> Result<Named, Denial> {
        let known = self.catalog.relation(oid).ok_or_else(|| refused("a write to an unknown relation"))?;
        self.named(known, alias, guard::renamed(known, &[]))
    }

    /// RETURNING, the first entry of which raises where a new row does not meet its checks.
    pub(super) fn returning(&mut self, clause: Option<&ReturningClause>, target: &Target) -> Result<(), Denial> {
        let (options, exprs) = match clause {
            Some(ReturningClause { options, exprs }) => (options.as_slice(), exprs.as_slice()),
            None => (&[] as &[Node], &[] as &[Node]),
        };
        for option in options {
            let NodeEnum::ReturningOption(ReturningOption { option, value, location: _ }) = inner(option)? else {
                return Err(refused("RETURNING WITH something else"));
            };
            if !ReturningOptionKind::try_from(*option).is_ok_and(|k| k != ReturningOptionKind::Undefined) {
                return Err(refused("RETURNING WITH of an unknown kind"));
            }
            // A version of the target's row: who reads it reads the target.
            let entry = match target.entry.clone() {
                Entry::Governed { oid, exposure: _, tenant_column, required: _, when_read: _, columns: _ } => Entry::Governed {
                    oid,
                    exposure: Exposure::Own,
                    tenant_column,
                    required: Vec::new(),
                    when_read: Vec::new(),
                    columns: self.columns_of(oid, value)?,
                },
                Entry::System { .. } | Entry::Shared { columns: _ } | Entry::Other(_) => return Err(refused("RETURNING WITH")),
            };
            self.register(value, entry)?;
            self.read.insert(target.alias.clone());
        }
        let mut rest = exprs;
        let mut found = None;
        if let Some((first, others)) = exprs.split_first() {
            let NodeEnum::ResTarget(first) = inner(first)? else { return Err(refused("a target that is none")) };
            let ResTarget { name: _, indirection, val, location: _ } = first.as_ref();
            if indirection.is_empty()
                && let Some((condition, operand)) = self.row_check(val.as_deref(), target)?
            {
                operand.map_or(Ok(()), |operand| self.expr(operand))?;
                found = Some(condition);
                rest = others;
            }
        }
        rest.iter().try_for_each(|target| self.select_target(target))?;
        // What the whole statement reads is known now.
        let mut needed = target.checks.clone();
        if self.read.contains(&target.alias) {
            needed.extend(target.checks_when_read.iter().cloned());
        }
        let known = |shape: &String| target.checks.contains(shape) || target.checks_when_read.contains(shape);
        let conditions: Vec<String> = found.map(conjuncts).unwrap_or_default().into_iter().map(shape::shape).collect();
        if crate::mutant!("check.new-rows") {
            return Ok(());
        }
        if !conditions.iter().all(known) || !needed.iter().all(|shape| conditions.contains(shape)) {
            return Err(refused("new rows do not pass their checks"));
        }
        Ok(())
    }

    /// Condition and operand of `CASE WHEN check THEN NULL ELSE raise END`, alone or as
    /// `CASE WHEN (that) = 0 THEN operand ELSE operand END`.
    fn row_check<'n>(
        &mut self,
        value: Option<&'n Node>,
        target: &Target,
    ) -> Result<Option<(&'n Node, Option<&'n Node>)>, Denial> {
        let value = value.ok_or_else(|| refused("an empty target"))?;
        let NodeEnum::CaseExpr(case) = inner(value)? else { return Ok(None) };
        let Some((first, result)) = first_branch(case) else { return Ok(None) };
        let probe = format!("CASE WHEN {HOLE}.c THEN NULL::pg_catalog.int4 ELSE {} END", self.raise(target, "int4"));
        let shape = shape::shape(value);
        if !shape.contains(self.expected.marker) {
            return Ok(None);
        }
        if self.pattern(&probe, &[("c", first)])? == shape {
            return Ok(Some((first, None)));
        }
        let Some(NodeEnum::CaseExpr(inner_case)) = copied_operand(case).and_then(|n| n.node.as_ref()) else { return Ok(None) };
        let Some((condition, _)) = first_branch(inner_case) else { return Ok(None) };
        let text = format!("CASE WHEN {probe} OPERATOR(pg_catalog.=) 0 THEN {HOLE}.o ELSE {HOLE}.o END");
        let same = self.pattern(&text, &[("c", condition), ("o", result)])? == shape;
        Ok(same.then_some((condition, Some(result))))
    }
}
