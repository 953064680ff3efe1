//! The injected shapes: tenant predicates, row conditions, guards.

use std::collections::BTreeSet;

use pg_query::NodeEnum;
use pg_query::protobuf::{
    AConst, AExpr, AExprKind, BoolExprType, CaseExpr, CaseWhen, ColumnRef, Node, NullTestType, String as PgString, TypeCast,
    TypeName, a_const,
};

use super::*;
use crate::catalog::Relation;
use crate::sql::shape;

/// What is done to the rows of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Read,
    /// FOR UPDATE and the like.
    Lock,
    Insert,
    Update,
    Delete,
    /// The target of MERGE.
    Merge,
}

pub(super) fn name(s: &str) -> Node {
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

/// A relation in the text.
pub(super) struct Place<'a> {
    pub alias: &'a str,
    pub relation: &'a Relation,
    /// The names of its columns there.
    pub columns: &'a [String],
}

impl Place<'_> {
    /// The shapes that must stand among the conjuncts which filter an entry, as PostgreSQL combines policies (CREATE POLICY,
    /// "Policies Applied by Command Type"). For the target of INSERT: what ON CONFLICT DO UPDATE may change.
    pub(super) fn required(&self, tenant_column: &str, governed: &Governed, use_: Use) -> Result<Vec<String>, Denial> {
        let (first, second): (&[Predicate], &[Predicate]) = match use_ {
            Use::Read => (&governed.read, &[]),
            Use::Lock if crate::mutant!("check.rules-for-locking") => (&governed.read, &[]),
            Use::Lock | Use::Insert => (&governed.read, &governed.update),
            Use::Update => (&governed.update, &[]),
            Use::Delete => (&governed.delete, &[]),
            Use::Merge => (&governed.read, &[]),
        };
        let mut shapes = vec![shape::shape(&tenant_predicate(self.alias, tenant_column, governed.tenant_type))];
        for shape in self.all(first)?.into_iter().chain(self.all(second)?).filter(|_| !crate::mutant!("check.rules")) {
            if !shapes.contains(&shape) {
                shapes.push(shape);
            }
        }
        Ok(shapes)
    }

    /// What must stand there besides if the statement reads columns of it.
    pub(super) fn when_read(&self, governed: &Governed, use_: Use) -> Result<Vec<String>, Denial> {
        match use_ {
            Use::Update | Use::Delete if crate::mutant!("check.rules-for-reading") => Ok(Vec::new()),
            Use::Update | Use::Delete => self.all(&governed.read),
            Use::Read | Use::Lock | Use::Insert | Use::Merge => Ok(Vec::new()),
        }
    }

    /// The shapes of conditions on the rows of this entry. A name stands in a shape as a quoted string, so replacing one by
    /// another is exact.
    pub(super) fn all(&self, predicates: &[Predicate]) -> Result<Vec<String>, Denial> {
        predicates.iter().map(|p| self.place(p)).collect()
    }

    fn place(&self, predicate: &Predicate) -> Result<String, Denial> {
        let head = shape::of_references;
        let pair = |alias: &str, column: &str| format!("{}{},}}", head(alias), shape::shape(&name(column)));
        let own: Vec<&str> = self.relation.columns.iter().map(|c| c.name.as_str()).collect();
        if own.iter().zip(self.columns).all(|(own, printed)| own == printed) {
            return Ok(predicate.shape.replace(&head(&predicate.marker), &head(self.alias)));
        }
        if self.alias == predicate.marker {
            return Err(refused("an alias that stands for something else"));
        }
        let renamed = own.iter().zip(self.columns).fold(predicate.shape.clone(), |shape, (own, printed)| {
            shape.replace(&pair(&predicate.marker, own), &pair(self.alias, printed))
        });
        if renamed.contains(&head(&predicate.marker)) {
            return Err(refused("a condition on an unknown column"));
        }
        Ok(renamed)
    }
}

/// `CASE WHEN tenant THEN rules ELSE false END`: rules that run on rows of the tenant only. It is true where both are.
pub(super) fn behind_tenant(node: &Node) -> Option<(&Node, &Node)> {
    let Some(NodeEnum::CaseExpr(case)) = node.node.as_ref() else { return None };
    let CaseExpr { xpr: _, casetype: _, casecollid: _, arg: None, args, defresult: Some(otherwise), location: _ } = case.as_ref()
    else {
        return None;
    };
    let (condition, result) = only_branch(args)?;
    let Some(NodeEnum::AConst(constant)) = otherwise.node.as_ref() else { return None };
    let is_false = matches!(&constant.val, Some(a_const::Val::Boolval(b)) if !b.boolval);
    (is_false && as_tenant_predicate(condition).is_some()).then_some((condition, result))
}

/// Condition and result of a CASE of one branch.
fn only_branch(args: &[Node]) -> Option<(&Node, &Node)> {
    let [only] = args else { return None };
    let Some(NodeEnum::CaseWhen(when)) = only.node.as_ref() else { return None };
    let CaseWhen { xpr: _, expr, result, location: _ } = when.as_ref();
    Some((expr.as_deref()?, result.as_deref()?))
}

/// Whether the rules behind a tenant predicate are all injected ones of the same entry.
pub(super) fn injected_rules(injected: &HashSet<String>, tenant: &Node, rules: &Node) -> bool {
    as_tenant_predicate(tenant).is_some() && conjuncts(rules).into_iter().all(|rule| injected.contains(&shape::shape(rule)))
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

/// The shapes of what holds where a condition is true.
pub(super) fn shapes(node: Option<&Node>) -> Vec<String> {
    let mut shapes = Vec::new();
    for conjunct in node.map(conjuncts).unwrap_or_default() {
        shapes.push(shape::shape(conjunct));
        if let Some((_, rules)) = behind_tenant(conjunct) {
            shapes.extend(conjuncts(rules).into_iter().map(shape::shape));
        }
    }
    shapes
}

/// Whether a node is the tenant slot, `'qzslot..'::pg_catalog.type`, and of which type.
pub(super) fn slot_type(node: &Node) -> Option<TenantType> {
    let Some(NodeEnum::TypeCast(cast)) = node.node.as_ref() else { return None };
    let TypeCast { arg, type_name, location: _ } = cast.as_ref();
    // First what is cheap: this is asked of every expression.
    let Some(NodeEnum::AConst(AConst { isnull: false, location: _, val: Some(a_const::Val::Sval(string)) })) =
        arg.as_ref()?.node.as_ref()
    else {
        return None;
    };
    let type_ = sentinel::slot_of_string(&string.sval)?;
    let TypeName { names, type_oid, setof, pct_type, typmods, typemod, array_bounds, location: _ } = type_name.as_ref()?;
    let is_plain = *type_oid == 0 && !setof && !pct_type && typmods.is_empty() && *typemod == -1 && array_bounds.is_empty();
    (is_plain && strings(names).ok()? == ["pg_catalog", type_.name()]).then_some(type_)
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
        [] | [_] | [_, _, _, ..] => None,
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
        found.extend(shapes(Some(conjunct)));
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

/// Test and policy of `alias.tableoid IS NULL OR policy`.
pub(super) fn null_extended_or(node: &Node) -> Option<(&Node, &Node)> {
    let Some(NodeEnum::BoolExpr(b)) = node.node.as_ref() else { return None };
    let [test, policy] = b.args.as_slice() else { return None };
    let Some(NodeEnum::NullTest(tested)) = test.node.as_ref() else { return None };
    let (alias, _) = tested.arg.as_deref().and_then(as_column)?;
    (b.boolop == BoolExprType::OrExpr as i32 && is_null_extended(test, alias)).then_some((test, policy))
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
        if !case.args.iter().any(tests_tenant) || self.is_policy(case) {
            return Ok(());
        }
        let (None, [first]) = (&case.arg, case.args.as_slice()) else {
            return if crate::mutant!("check.guard-branches") {
                Ok(())
            } else {
                Err(refused("a guard with more than one branch"))
            };
        };
        let NodeEnum::CaseWhen(when) = inner(first)? else { return Err(refused("CASE without WHEN")) };
        let CaseWhen { xpr: _, expr, result, location: _ } = when.as_ref();
        let (Some(condition), Some(result)) = (expr.as_deref(), result.as_deref()) else {
            return Err(refused("an empty WHEN"));
        };
        for Found { alias, column, type_ } in tenant_predicates(condition) {
            let Entry::Governed { oid, exposure: _, tenant_column, required: _, when_read: _, columns: _ } =
                self.resolve(alias)?
            else {
                return Err(refused(format!("a guard tests \"{alias}\", which is no governed relation")));
            };
            let right =
                self.expected.relations.governed.get(oid).is_some_and(|g| g.tenant_type == type_) && column == tenant_column;
            if !right && !crate::mutant!("check.guard-column") {
                return Err(refused(format!("a guard tests \"{alias}\".\"{column}\", which is not its tenant column")));
            }
        }
        // From the shape, so that no kind of node can hide a reference. What is declared inside is no entry yet.
        let guarded = shape::shape(result);
        let otherwise = shape::shape(&case.defresult);
        for (alias, entry) in &self.entries {
            let Entry::Governed { exposure: Exposure::Foreign, .. } = entry else { continue };
            if self.has_passed(alias) {
                continue;
            }
            let reference = shape::of_references(alias);
            if otherwise.contains(&reference) && !crate::mutant!("check.guard-otherwise") {
                return Err(refused(format!("a guard reads \"{alias}\" where its policy does not hold")));
            }
            if guarded.contains(&reference) && self.is_visible(alias) {
                let guaranteed = guaranteed(condition, alias);
                if !entry.injected().all(|shape| guaranteed.contains(shape)) && !crate::mutant!("check.guard-whole-policy") {
                    return Err(refused(format!("a guard does not hold the whole policy of \"{alias}\"")));
                }
            }
        }
        Ok(())
    }

    /// Whether an entry of an outer level shows only rows that passed its conditions.
    fn has_passed(&self, alias: &str) -> bool {
        let outer = self.levels.split_last().map(|(_, outer)| outer).unwrap_or_default();
        outer.iter().any(|level| level.passed && level.aliases.iter().any(|a| a == alias))
    }

    /// Whether a CASE is an entry's own rules behind its tenant predicate.
    fn is_policy(&self, case: &CaseExpr) -> bool {
        let node = Node { node: Some(NodeEnum::CaseExpr(Box::new(case.clone()))) };
        let Some((tenant, rules)) = behind_tenant(&node) else { return false };
        let Some(Found { alias, column: _, type_: _ }) = as_tenant_predicate(tenant) else { return false };
        let injected: HashSet<String> = self.resolve(alias).map(|e| e.injected().cloned().collect()).unwrap_or_default();
        injected.contains(&shape::shape(tenant)) && injected_rules(&injected, tenant, rules)
    }
}
