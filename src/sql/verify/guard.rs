//! The injected shapes: tenant predicates, row conditions, guards.

use std::collections::BTreeSet;

use pg_query::NodeEnum;
use pg_query::protobuf::{
    AExpr, AExprKind, BoolExprType, CaseExpr, CaseWhen, ColumnRef, Node, NullTestType, String as PgString, TypeCast, a_const,
};

use super::*;
use crate::catalog::Relation;

/// What is done to the rows of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Read,
    Update,
    Delete,
}

fn name(s: &str) -> Node {
    Node { node: Some(NodeEnum::String(PgString { sval: s.to_owned() })) }
}

fn column(alias: &str, column: &str) -> Node {
    Node { node: Some(NodeEnum::ColumnRef(ColumnRef { fields: vec![name(alias), name(column)], location: 0 })) }
}

/// `alias.column OPERATOR(pg_catalog.=) <slot>`
fn tenant_predicate(alias: &str, tenant_column: &str, type_: TenantType) -> Node {
    let equals = AExpr {
        kind: AExprKind::AexprOp as i32,
        name: vec![name("pg_catalog"), name("=")],
        lexpr: Some(Box::new(column(alias, tenant_column))),
        rexpr: Some(Box::new(sentinel::slot_node(type_))),
        rexpr_list_start: 0,
        rexpr_list_end: 0,
        location: 0,
    };
    Node { node: Some(NodeEnum::AExpr(Box::new(equals))) }
}

/// The shapes that must stand among the conjuncts which filter an entry.
pub(super) fn required(alias: &str, tenant_column: &str, governed: &Governed, use_: Use) -> Vec<String> {
    let predicates = match use_ {
        Use::Read => &governed.read,
        Use::Update => &governed.update,
        Use::Delete => &governed.delete,
    };
    let tenant = parse::shape(&tenant_predicate(alias, tenant_column, governed.tenant_type));
    std::iter::once(tenant).chain(predicates.iter().map(|p| shape_for(p, alias))).collect()
}

/// The shape of a row condition on the rows of `alias`. The marker occurs as an alias only, and a name stands in a shape
/// as a quoted string, so replacing the one by the other is exact.
fn shape_for(predicate: &Predicate, alias: &str) -> String {
    let field = |name: &str| format!("fields: [{:?}, ", self::name(name));
    parse::shape(&predicate.node).replace(&field(&predicate.marker), &field(alias))
}

/// The names of a relation's columns behind an alias list, which renames them by position (guard.md A2).
pub(super) fn renamed(relation: &Relation, names: &[&str]) -> Vec<String> {
    let own = relation.columns.iter().map(|c| c.name.as_str());
    own.enumerate().map(|(i, name)| names.get(i).map_or(name, |n| n).to_owned()).collect()
}

/// The conjuncts of a condition, in order; nested ANDs are flat.
pub(super) fn conjuncts(node: &Node) -> Vec<&Node> {
    match node.node.as_ref() {
        Some(NodeEnum::BoolExpr(b)) if b.boolop == BoolExprType::AndExpr as i32 => b.args.iter().flat_map(conjuncts).collect(),
        Some(_) | None => vec![node],
    }
}

pub(super) fn shapes(node: Option<&Node>) -> Vec<String> {
    node.map_or_else(Vec::new, |node| conjuncts(node).into_iter().map(parse::shape).collect())
}

/// Whether a node is the tenant slot, and of which type.
pub(super) fn slot_type(node: &Node) -> Option<TenantType> {
    let Some(NodeEnum::TypeCast(cast)) = node.node.as_ref() else { return None };
    // First what is cheap: this is asked of every expression.
    let Some(NodeEnum::AConst(constant)) = cast.arg.as_ref()?.node.as_ref() else { return None };
    let Some(a_const::Val::Sval(string)) = constant.val.as_ref() else { return None };
    let type_ = sentinel::slot_of_string(&string.sval)?;
    (parse::shape(node) == parse::shape(&sentinel::slot_node(type_))).then_some(type_)
}

/// A tenant predicate found in a condition: its alias, its column and the slot's type.
struct Found<'n> {
    alias: &'n str,
    column: &'n str,
    type_: TenantType,
}

fn as_tenant_predicate(node: &Node) -> Option<Found<'_>> {
    let Some(NodeEnum::AExpr(expr)) = node.node.as_ref() else { return None };
    let AExpr { kind, name, lexpr, rexpr, rexpr_list_start: _, rexpr_list_end: _, location: _ } = expr.as_ref();
    if *kind != AExprKind::AexprOp as i32 || qualified(name).ok()? != ("pg_catalog", "=") {
        return None;
    }
    let type_ = slot_type(rexpr.as_deref()?)?;
    let (alias, column) = as_column(lexpr.as_deref()?)?;
    Some(Found { alias, column, type_ })
}

/// `alias.column`
fn as_column(node: &Node) -> Option<(&str, &str)> {
    let Some(NodeEnum::ColumnRef(ColumnRef { fields, location: _ })) = node.node.as_ref() else { return None };
    match fields.as_slice() {
        [alias, column] => Some((strings(std::slice::from_ref(alias)).ok()?[0], strings(std::slice::from_ref(column)).ok()?[0])),
        _ => None,
    }
}

/// All tenant predicates in a condition made of AND, OR and NOT.
fn tenant_predicates(node: &Node) -> Vec<Found<'_>> {
    if let Some(found) = as_tenant_predicate(node) {
        return vec![found];
    }
    match node.node.as_ref() {
        Some(NodeEnum::BoolExpr(b)) => b.args.iter().flat_map(tenant_predicates).collect(),
        Some(_) | None => Vec::new(),
    }
}

/// Shapes that a condition guarantees for an entry: its conjuncts, and the policy behind `alias.tableoid IS NULL OR ..`,
/// which lets null-extended rows through (guard.md A9).
fn guaranteed(condition: &Node, alias: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for conjunct in conjuncts(condition) {
        found.insert(parse::shape(conjunct));
        if let Some(NodeEnum::BoolExpr(b)) = conjunct.node.as_ref()
            && b.boolop == BoolExprType::OrExpr as i32
            && let [test, policy] = b.args.as_slice()
            && is_null_extended(test, alias)
        {
            found.extend(shapes(Some(policy)));
        }
    }
    found
}

fn is_null_extended(node: &Node, alias: &str) -> bool {
    let Some(NodeEnum::NullTest(test)) = node.node.as_ref() else { return false };
    test.nulltesttype == NullTestType::IsNull as i32
        && test.arg.as_deref().and_then(as_column).is_some_and(|c| c == (alias, "tableoid"))
}

impl Verifier<'_> {
    /// A CASE that tests the tenant is a guard, of one branch: the condition must be the whole policy of every governed
    /// entry that the expression reads, resolved here by scope.
    pub(super) fn check_guard(&self, case: &CaseExpr) -> Result<(), Denial> {
        let tests_tenant = |when: &Node| match when.node.as_ref() {
            Some(NodeEnum::CaseWhen(w)) => w.expr.as_deref().is_some_and(|e| !tenant_predicates(e).is_empty()),
            Some(_) | None => false,
        };
        if !case.args.iter().any(tests_tenant) {
            return Ok(());
        }
        let (None, [first]) = (&case.arg, case.args.as_slice()) else {
            return Err(refused("a guard with more than one branch"));
        };
        let NodeEnum::CaseWhen(when) = inner(first)? else { return Err(refused("CASE without WHEN")) };
        let CaseWhen { xpr: _, expr, result, location: _ } = when.as_ref();
        let (Some(condition), Some(result)) = (expr.as_deref(), result.as_deref()) else {
            return Err(refused("an empty WHEN"));
        };
        for Found { alias, column, type_ } in tenant_predicates(condition) {
            let Entry::Governed { oid, tenant_column, required: _, columns: _ } = self.resolve(alias)? else {
                return Err(refused(format!("a guard tests \"{alias}\", which is no governed relation")));
            };
            let right = self.expected.governed.get(oid).is_some_and(|g| g.tenant_type == type_) && column == tenant_column;
            if !right {
                return Err(refused(format!("a guard tests \"{alias}\".\"{column}\", which is not its tenant column")));
            }
        }
        // From the shape, so that no kind of node can hide a reference. What is declared inside is no entry yet.
        let guarded = parse::shape(result);
        let otherwise = parse::shape(&case.defresult);
        for (alias, entry) in &self.entries {
            let Entry::Governed { oid: _, tenant_column: _, required, columns: _ } = entry else { continue };
            let reference = format!("fields: [{:?}", name(alias));
            if otherwise.contains(&reference) {
                return Err(refused(format!("a guard reads \"{alias}\" where its policy does not hold")));
            }
            if guarded.contains(&reference) && self.is_visible(alias) {
                let guaranteed = guaranteed(condition, alias);
                if !required.iter().all(|shape| guaranteed.contains(shape)) {
                    return Err(refused(format!("a guard does not hold the whole policy of \"{alias}\"")));
                }
            }
        }
        Ok(())
    }
}

/// The operand of a cast to exactly the tenant's type (no length, which would cut), or the node itself.
pub(super) fn uncast(node: &Node, type_: TenantType) -> &Node {
    let slot = sentinel::slot_node(type_);
    match (node.node.as_ref(), slot.node.as_ref()) {
        (Some(NodeEnum::TypeCast(cast)), Some(NodeEnum::TypeCast(slot))) => {
            let TypeCast { arg, type_name, location: _ } = cast.as_ref();
            let same = parse::shape(type_name) == parse::shape(&slot.type_name);
            arg.as_deref().filter(|_| same).unwrap_or(node)
        }
        (Some(_) | None, Some(_) | None) => node,
    }
}
