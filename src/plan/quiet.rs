//! Quiet or loud: whether an expression can raise, has an effect, or reads outside its row. PostgreSQL orders conditions by
//! cost, not by text, so a loud one may see rows before the tenant's predicate has removed them (guard.md).
//!
//! What is quiet is found by what PostgreSQL means: types are computed, the operator, function or cast of pg_catalog that a
//! name stands for is resolved, and so is what PostgreSQL coerces by itself; then one [`table`] says whether it may raise.
//! What cannot be told is loud, which costs speed and never soundness.

use pg_query::protobuf::{
    AExpr, AExprKind, BoolExprType, CoercionForm, FuncCall, NullTestType, SelectStmt, SetOperation, SubLinkType, a_const,
};
use pg_query::{Node, NodeEnum};
use smallvec::SmallVec;

use crate::catalog::Catalog;
use crate::sql::kinds::not_an_expression;
use crate::sql::resolve;
use crate::sql::tree::as_string;
use crate::sql::types::{Environment, Typed, oid, type_named, type_of};

pub mod table;

use self::table::Needs;

/// Whether `left name right` is an operator of the table, and what PostgreSQL does to its operands is quiet as well.
fn operator_is_quiet(name: &str, left: Typed, right: Typed, env: &dyn Environment) -> bool {
    quiet_operator(name, (left, false), (right, false), env)
}

/// As [`operator_is_quiet`], of operands that may be literals of a number: the cast of one is made when the statement is
/// planned.
fn quiet_operator(
    name: &str,
    (left, fixed_left): (Typed, bool),
    (right, fixed_right): (Typed, bool),
    env: &dyn Environment,
) -> bool {
    let catalog = env.catalog();
    let Some(meant) = resolve::operator(name, left.oid, right.oid, catalog) else { return false };
    let Some(needs) = table::operator(name, builtin(meant.left, catalog), builtin(meant.right, catalog)) else { return false };
    let left_is = fixed_left || coerced(left.oid, meant.left, catalog);
    let right_is = fixed_right || coerced(right.oid, meant.right, catalog);
    left_is && right_is && met(needs, name, &[left, right], env)
}

/// The name of a type of pg_catalog; no type has the empty one.
fn builtin(type_oid: u32, catalog: &Catalog) -> &str {
    catalog.type_(type_oid).filter(|t| t.schema == "pg_catalog").map_or("", |t| &t.name)
}

/// Whether an operand becomes one of the wanted type without a word: it is one, it is a literal (which is read when the
/// statement is planned), the wanted type stands for many, or the cast is of the table (guard.md, A7).
fn coerced(given: u32, wanted: u32, catalog: &Catalog) -> bool {
    let polymorphic = || catalog.type_(wanted).is_some_and(|t| t.kind == 'p');
    given == wanted || given == oid::UNKNOWN || polymorphic() || cast_is_quiet(given, wanted, catalog)
}

fn cast_is_quiet(source: u32, target: u32, catalog: &Catalog) -> bool {
    if crate::mutant!("quiet.casts") {
        return true;
    }
    let known = match resolve::cast(source, target, catalog) {
        Some(_) => true,
        // By the text of the value (find_coercion_pathway), unless the database has a cast of its own.
        None => target == oid::TEXT && !catalog.snapshot().casts.iter().any(|c| c.source == source && c.target == target),
    };
    known && (table::cast(builtin(source, catalog), builtin(target, catalog)) || target == oid::TEXT && is_enum(source, catalog))
}

fn met(needs: Needs, name: &str, operands: &[Typed], env: &dyn Environment) -> bool {
    match needs {
        Needs::Nothing => true,
        Needs::Collation => one_collation(operands, env.catalog()),
        Needs::Elements => {
            let elements: Vec<Typed> = operands.iter().map(|t| element(*t, env.catalog())).collect();
            one_collation(&elements, env.catalog()) && operands.iter().all(|t| elements_compare(name, *t, env))
        }
        // The call looks at its first argument itself.
        Needs::Field => true,
    }
}

/// Whether the collation can be told: those of a collatable type are known, and no two conflict.
fn one_collation(operands: &[Typed], catalog: &Catalog) -> bool {
    if crate::mutant!("quiet.collations-conflict") {
        return true;
    }
    let collatable = |t: &&Typed| t.oid != oid::UNKNOWN && catalog.type_(t.oid).is_none_or(|t| t.category == 'S');
    let mut found = DEFAULT_COLLATION;
    for typed in operands.iter().filter(collatable) {
        match typed.collation {
            0 => return false,
            DEFAULT_COLLATION => {}
            other if found == DEFAULT_COLLATION || found == other => found = other,
            _ => return false, // tidy: not a syntax kind
        }
    }
    true
}

/// `pg_catalog."default"`
const DEFAULT_COLLATION: u32 = 100;

/// An element of an array; what is none stays.
fn element(array: Typed, catalog: &Catalog) -> Typed {
    match catalog.type_(array.oid) {
        Some(t) if t.category == 'A' => Typed { collation: array.collation, ..Typed::of(t.element) },
        Some(_) | None => array,
    }
}

/// Whether the elements of an array compare quietly: they are of a type whose comparison is in the table. Enums compare by
/// number; the ranges of pg_catalog are over numbers and times.
fn elements_compare(name: &str, array: Typed, env: &dyn Environment) -> bool {
    let catalog = env.catalog();
    match catalog.type_(array.oid) {
        Some(_) if array.oid == oid::UNKNOWN => true,
        Some(t) if t.category == 'A' => {
            let element = element(array, catalog);
            let comparison = if is_comparison(name) { name } else { "=" };
            (is_enum(element.oid, catalog) || operator_is_quiet(comparison, element, element, env))
                || crate::mutant!("quiet.arrays-of-anything")
        }
        // To estimate how many rows match, the planner subtracts bounds of numranges in pg_statistic as float8s, which raises.
        Some(t) if t.name == "numrange" => matches!(name, "=" | "<>") || crate::mutant!("quiet.numranges"),
        Some(t) => matches!(t.kind, 'e' | 'r'),
        None => false,
    }
}

fn is_comparison(name: &str) -> bool {
    matches!(name, "=" | "<>" | "<" | "<=" | ">" | ">=")
}

fn is_enum(type_oid: u32, catalog: &Catalog) -> bool {
    catalog.type_(type_oid).is_some_and(|t| t.kind == 'e')
}

/// Whether comparing values of these types is quiet.
fn comparable(left: Typed, right: Typed, env: &dyn Environment) -> bool {
    ["=", "<"].iter().all(|name| operator_is_quiet(name, left, right, env))
}

/// Whether asking whether values of these types are equal is quiet.
pub fn equality_is_quiet(left: Typed, right: Typed, env: &dyn Environment) -> bool {
    operator_is_quiet("=", left, right, env)
}

/// Aggregates that cannot raise.
const QUIET_AGGREGATES: [&str; 6] = ["count", "min", "max", "bool_and", "bool_or", "every"];

/// Whether a top-level conjunct in normal form is quiet. A sub-select is one only here, as the whole conjunct or as an operand
/// of its comparison: then nothing decides whether it runs.
pub fn is_quiet_condition(condition: &Node, env: &dyn Environment) -> bool {
    match &condition.node {
        Some(NodeEnum::SubLink(s)) => sub_link(s, env),
        Some(NodeEnum::BoolExpr(b)) if b.boolop == BoolExprType::NotExpr as i32 => match b.args.as_slice() {
            [only] => is_quiet_condition(only, env),
            [] | [_, _, ..] => false,
        },
        Some(NodeEnum::AExpr(e)) if e.kind == AExprKind::AexprOp as i32 => is_quiet(condition, env) || scalar_comparison(e, env),
        Some(_) => is_quiet(condition, env),
        None => false,
    }
}

fn sub_link(s: &pg_query::protobuf::SubLink, env: &dyn Environment) -> bool {
    match SubLinkType::try_from(s.sub_link_type) {
        Ok(SubLinkType::ExistsSublink) => s.subselect.as_deref().is_some_and(|q| silent_body(q, env)),
        Ok(SubLinkType::AnySublink) => any_sublink(s, env),
        Ok(
            SubLinkType::ExprSublink
            | SubLinkType::AllSublink
            | SubLinkType::RowcompareSublink
            | SubLinkType::MultiexprSublink
            | SubLinkType::ArraySublink
            | SubLinkType::CteSublink
            | SubLinkType::Undefined,
        )
        | Err(_) => false,
    }
}

/// `x = (SELECT max(y) ..)`
fn scalar_comparison(e: &AExpr, env: &dyn Environment) -> bool {
    let (Some(left), Some(right)) = (e.lexpr.as_deref(), e.rexpr.as_deref()) else { return false };
    let name = match e.name.as_slice() {
        [only] => as_string(only).unwrap_or_default(),
        [] | [_, _, ..] => return false,
    };
    let scalar = SubLinkType::ExprSublink as i32;
    let (plain, query) = match (&left.node, &right.node) {
        (_, Some(NodeEnum::SubLink(s))) if s.sub_link_type == scalar => (left, s),
        (Some(NodeEnum::SubLink(s)), _) if s.sub_link_type == scalar => (right, s),
        (_, _) => return false,
    };
    let Some(query) = query.subselect.as_deref() else { return false };
    let Some(column) = only_target(query) else { return false };
    let (l, r) = (operand_type(plain, env), type_of(column, env));
    // Which side it stands on changes neither what is compared nor what is coerced.
    is_comparison(name) && operator_is_quiet(name, l, r, env) && is_quiet(plain, env) && one_quiet_row(query, env)
}

/// The operands E of a condition `x op E` or `x BETWEEN E AND E`, where they are all that makes it loud: a moment and an
/// interval added, or arithmetic, of nothing but the clock, constants and parameters.
pub fn moments_compared<'n>(condition: &'n Node, env: &dyn Environment) -> Vec<&'n Node> {
    let Some(NodeEnum::AExpr(e)) = &condition.node else { return vec![] };
    let (Some(left), Some(right)) = (e.lexpr.as_deref(), e.rexpr.as_deref()) else { return vec![] };
    let name = match e.name.as_slice() {
        [only] => as_string(only).unwrap_or_default(),
        [] | [_, _, ..] => return vec![],
    };
    let (names, operands): (&[&str], Vec<&Node>) = match (AExprKind::try_from(e.kind), &right.node) {
        (Ok(AExprKind::AexprOp), _) if is_comparison(name) => (&[name], vec![right]),
        (Ok(AExprKind::AexprBetween), Some(NodeEnum::List(list))) => (&["<=", ">="], list.items.iter().collect()),
        (Ok(_) | Err(_), _) => return vec![],
    };
    let compares = |other: &Node| {
        let types = (operand_type(left, env), operand_type(other, env));
        names.iter().all(|name| operator_is_quiet(name, types.0, types.1, env))
    };
    let all = || [left].into_iter().chain(operands.iter().copied());
    let moments: Vec<&Node> = all().filter(|n| is_moment(n, env)).collect();
    // What is left must be quiet, and some operand not a moment: then the condition is about rows.
    let others = || all().filter(|n| !moments.iter().any(|m| std::ptr::eq(*m, *n)));
    let right_kind =
        operands.iter().all(|o| compares(o)) && others().all(|n| is_quiet(n, env)) && others().any(|n| !reads_no_column(n));
    if right_kind { moments } else { vec![] }
}

/// `now() - interval '1 h'`, `$1 + 99`
fn is_moment(expression: &Node, env: &dyn Environment) -> bool {
    let Some(NodeEnum::AExpr(e)) = &expression.node else { return false };
    let name = match e.name.as_slice() {
        [only] => as_string(only).unwrap_or_default(),
        [] | [_, _, ..] => return false,
    };
    let (Some(left), Some(right)) = (e.lexpr.as_deref(), e.rexpr.as_deref()) else { return false };
    let (l, r) = (type_of(left, env).oid, type_of(right, env).oid);
    let point = matches!(l, oid::DATE | oid::TIMESTAMP | oid::TIMESTAMPTZ) && r == oid::INTERVAL;
    let meant = resolve::operator(name, l, r, env.catalog()).is_some();
    e.kind == AExprKind::AexprOp as i32
        && (matches!(name, "+" | "-") && point && meant
            || is_arithmetic(name, left, right, env) && !folds_numbers(name, left, right, env))
        && reads_no_column(left)
        && reads_no_column(right)
        && is_quiet(left, env)
        && is_quiet(right, env)
}

fn reads_no_column(expression: &Node) -> bool {
    let mut reads = false;
    crate::sql::tree::walk(expression, &mut |n| reads |= matches!(&n.node, Some(NodeEnum::ColumnRef(_) | NodeEnum::SubLink(_))));
    !reads
}

/// Whether an expression may be what an index orders by (`amoppurpose` o), and may raise there.
pub fn is_loud_distance(expression: &Node, env: &dyn Environment) -> bool {
    let Some(NodeEnum::AExpr(e)) = &expression.node else { return false };
    let name = e.name.last().and_then(as_string).unwrap_or_default();
    table::DISTANCES.contains(&name) && !is_trigram_distance(e, name, env)
}

/// Of two texts, one of which is the same for all rows: pg_trgm's own, which counts trigrams.
fn is_trigram_distance(e: &AExpr, name: &str, env: &dyn Environment) -> bool {
    let operands = [e.lexpr.as_deref(), e.rexpr.as_deref()];
    let textual = |n: &Node| [oid::TEXT, oid::VARCHAR, oid::UNKNOWN].contains(&type_of(n, env).oid);
    let is_plain = |n: &Node| matches!(&n.node, Some(NodeEnum::ColumnRef(_) | NodeEnum::AConst(_))) && is_quiet(n, env);
    let others = env.catalog().operators_named(name).any(|o| {
        let takes_text = [o.left, o.right].iter().all(|t| [oid::TEXT, oid::VARCHAR].contains(t));
        takes_text && o.extension.as_deref() != Some("pg_trgm")
    });
    operands.iter().all(|operand| operand.is_some_and(|n| textual(n) && is_plain(n))) && !others
}

/// Whether an expression in normal form is quiet. No sub-select is.
pub fn is_quiet(expression: &Node, env: &dyn Environment) -> bool {
    let Some(kind) = &expression.node else { return false };
    let all = |list: &[Node]| list.iter().all(|e| is_quiet(e, env));
    let child = |c: &Option<Box<Node>>| c.as_deref().is_none_or(|e| is_quiet(e, env));
    match kind {
        // A virtual generated column is computed when it is read.
        NodeEnum::ColumnRef(c) => c.fields.len() == 2 && type_of(expression, env) != Typed::COMPUTED,
        NodeEnum::ParamRef(_) | NodeEnum::AConst(_) | NodeEnum::SqlvalueFunction(_) => true,
        NodeEnum::BoolExpr(b) => b.boolop != BoolExprType::Undefined as i32 && all(&b.args),
        // `IS NULL` of a row looks inside it.
        NodeEnum::NullTest(t) => t.nulltesttype != NullTestType::Undefined as i32 && child(&t.arg),
        NodeEnum::BooleanTest(t) => child(&t.arg),
        NodeEnum::AExpr(e) => a_expr(e, env),
        NodeEnum::TypeCast(c) => type_cast(c, env),
        NodeEnum::CoalesceExpr(c) => all(&c.args) && same_type(&c.args, env),
        NodeEnum::MinMaxExpr(m) => {
            all(&m.args) && same_type(&m.args, env) && m.args.iter().all(|a| m.args.iter().all(|b| operands("<", a, b, env)))
        }
        NodeEnum::AArrayExpr(a) => {
            let array = type_of(expression, env).oid;
            let flat = env.catalog().type_(array).and_then(|t| env.catalog().type_(t.element)).is_some_and(|e| e.category != 'A');
            // One value often enough is larger than an array may be, which tells its length.
            let of_rows = !reads_no_column(expression) && !crate::mutant!("quiet.arrays-of-columns");
            flat && !of_rows && all(&a.elements) && same_type(&a.elements, env)
        }
        NodeEnum::CaseExpr(c) => case(c, env),
        NodeEnum::FuncCall(f) => call(f, env),
        // Where it is not a conjunct of its own (see `is_quiet_condition`), whether and when it runs would tell of the rows
        // that the conditions before it saw.
        NodeEnum::SubLink(_) => crate::mutant!("quiet.sub-selects-anywhere"),
        NodeEnum::List(l) => all(&l.items),
        NodeEnum::CollateClause(_)
        | NodeEnum::AIndirection(_)
        | NodeEnum::CaseWhen(_)
        | NodeEnum::XmlExpr(_)
        | NodeEnum::XmlSerialize(_)
        | NodeEnum::JsonIsPredicate(_)
        | NodeEnum::JsonFuncExpr(_)
        | NodeEnum::RowExpr(_)
        | NodeEnum::GroupingFunc(_)
        | NodeEnum::NamedArgExpr(_)
        | NodeEnum::SetToDefault(_)
        | NodeEnum::MergeSupportFunc(_) => false,
        not_an_expression!() => false,
    }
}

fn a_expr(e: &AExpr, env: &dyn Environment) -> bool {
    let (Some(left), Some(right)) = (&e.lexpr, &e.rexpr) else { return false };
    let name = match e.name.as_slice() {
        [only] => as_string(only),
        [schema, name] if as_string(schema) == Some("pg_catalog") => as_string(name),
        [] | [_, _, ..] => None,
    };
    let Some(name) = name else { return false };
    match AExprKind::try_from(e.kind) {
        Ok(AExprKind::AexprOp) => operands(name, left, right, env) || folds_numbers(name, left, right, env),
        // NULLIF and IS DISTINCT FROM ask for equality.
        Ok(AExprKind::AexprDistinct | AExprKind::AexprNotDistinct | AExprKind::AexprNullif) => operands("=", left, right, env),
        Ok(AExprKind::AexprIn) => is_comparison(name) && in_list(&[name], left, right, env) && joins_list(left, right, env),
        Ok(AExprKind::AexprBetween | AExprKind::AexprNotBetween | AExprKind::AexprBetweenSym | AExprKind::AexprNotBetweenSym) => {
            in_list(&["<", "<=", ">", ">="], left, right, env)
        }
        Ok(AExprKind::AexprOpAny | AExprKind::AexprOpAll) => is_comparison(name) && any_array(name, left, right, env),
        Ok(AExprKind::AexprLike | AExprKind::AexprIlike) => like(name, left, right, env),
        Ok(AExprKind::AexprSimilar | AExprKind::Undefined) | Err(_) => false,
    }
}

fn operands(name: &str, left: &Node, right: &Node, env: &dyn Environment) -> bool {
    let (l, r) = (operand_type(left, env), operand_type(right, env));
    let fixed = |n: &Node| matches!(&n.node, Some(NodeEnum::AConst(_)));
    quiet_operator(name, (l, fixed(left)), (r, fixed(right)), env) && is_quiet(left, env) && is_quiet(right, env)
}

/// Arithmetic of numbers that stand in the text: it raises when the statement is planned (eval_const_expressions), whatever rows
/// there are.
fn folds_numbers(name: &str, left: &Node, right: &Node, env: &dyn Environment) -> bool {
    is_arithmetic(name, left, right, env) && is_number(left, env) && is_number(right, env)
}

/// PostgreSQL's own `+ - * / %` of two numbers; all of them are immutable.
fn is_arithmetic(name: &str, left: &Node, right: &Node, env: &dyn Environment) -> bool {
    const NUMBERS: [u32; 5] = [oid::INT2, oid::INT4, oid::INT8, oid::NUMERIC, oid::FLOAT8];
    let (l, r) = (type_of(left, env).oid, type_of(right, env).oid);
    matches!(name, "+" | "-" | "*" | "/" | "%")
        && NUMBERS.contains(&l)
        && NUMBERS.contains(&r)
        && resolve::operator(name, l, r, env.catalog()).is_some_and(|o| NUMBERS.contains(&o.left) && NUMBERS.contains(&o.right))
}

fn is_number(expression: &Node, env: &dyn Environment) -> bool {
    match &expression.node {
        Some(NodeEnum::AConst(c)) => matches!(&c.val, Some(a_const::Val::Ival(_) | a_const::Val::Fval(_))),
        Some(NodeEnum::AExpr(e)) => match (e.name.as_slice(), &e.lexpr, &e.rexpr) {
            ([only], Some(left), Some(right)) if e.kind == AExprKind::AexprOp as i32 => {
                folds_numbers(as_string(only).unwrap_or_default(), left, right, env)
            }
            (_, _, _) => false,
        },
        Some(_) | None => false,
    }
}

/// A call of a function of the table, without DISTINCT, ORDER BY, FILTER, OVER.
fn call(f: &FuncCall, env: &dyn Environment) -> bool {
    let catalog = env.catalog();
    let name = match f.funcname.as_slice() {
        [schema, name] if as_string(schema) == Some("pg_catalog") => as_string(name).unwrap_or_default(),
        [] | [_] | [_, _] | [_, _, _, ..] => return false,
    };
    let plain = f.agg_order.is_empty()
        && f.agg_filter.is_none()
        && f.over.is_none()
        && !f.agg_star
        && !f.agg_distinct
        && !f.func_variadic
        && !f.agg_within_group
        && f.funcformat != CoercionForm::Undefined as i32;
    let inputs: Vec<Typed> = f.args.iter().map(|a| operand_type(a, env)).collect();
    let given: Vec<u32> = inputs.iter().map(|t| t.oid).collect();
    if crate::mutant!("quiet.functions") {
        return true;
    }
    let Some(meant) = resolve::function(name, &given, catalog) else { return false };
    let types: Vec<&str> = meant.arguments.iter().map(|t| builtin(*t, catalog)).collect();
    let Some(needs) = table::function(name, &types) else { return false };
    let field = needs != Needs::Field || f.args.first().is_some_and(names_a_field);
    plain
        && field
        && given.iter().zip(&meant.arguments).all(|(g, w)| coerced(*g, *w, catalog))
        && met(needs, name, &inputs, env)
        && f.args.iter().all(|a| is_quiet(a, env))
}

/// A field that stands in the template itself (`EXTRACT(year FROM ..)`): a literal's value is not seen here.
fn names_a_field(argument: &Node) -> bool {
    match &argument.node {
        Some(NodeEnum::AConst(c)) => {
            matches!(&c.val, Some(a_const::Val::Sval(s)) if table::FIELDS.contains(&s.sval.as_str()) || crate::mutant!("quiet.fields"))
        }
        Some(_) | None => false,
    }
}

/// As [`type_of`]; a parameter whose type is left open takes the other operand's, as a literal does, if it stands nowhere else:
/// PostgreSQL takes the type from the place that it sees first.
fn operand_type(operand: &Node, env: &dyn Environment) -> Typed {
    let typed = type_of(operand, env);
    match &operand.node {
        Some(NodeEnum::ParamRef(p))
            if !typed.is_known() && (env.parameter_uses(p.number) == 1 || crate::mutant!("quiet.open-parameters")) =>
        {
            Typed::LITERAL
        }
        Some(_) | None => typed,
    }
}

/// `x IN (a, b)`, `x BETWEEN a AND b`: each element compares quietly.
fn in_list(names: &[&str], left: &Node, right: &Node, env: &dyn Environment) -> bool {
    let Some(NodeEnum::List(list)) = &right.node else { return false };
    list.items.iter().all(|item| names.iter().all(|name| operands(name, left, item, env)))
}

/// Whether what stands in an IN list becomes the common type of the list and of what is looked for quietly
/// (transformAExprIn). Plain literals do when the statement is planned.
fn joins_list(left: &Node, right: &Node, env: &dyn Environment) -> bool {
    let Some(NodeEnum::List(list)) = &right.node else { return false };
    let cast = || list.items.iter().filter(|item| !matches!(&item.node, Some(NodeEnum::AConst(_))));
    let types = || [left].into_iter().chain(&list.items).map(|n| operand_type(n, env));
    let common = crate::sql::types::common_type(types(), env.catalog());
    let quiet = |item: &Node| common.is_known() && coerced(operand_type(item, env).oid, common.oid, env.catalog());
    cast().all(quiet) || crate::mutant!("quiet.lists-of-another-type")
}

/// `x = ANY ($1)`, `x = ANY ('{..}')`, `x = ANY (ARRAY[..])`, `x = ANY (column)`.
fn any_array(name: &str, left: &Node, right: &Node, env: &dyn Environment) -> bool {
    let l = operand_type(left, env);
    let catalog = env.catalog();
    if !l.is_known() || !is_quiet(left, env) || !is_quiet(right, env) {
        return false;
    }
    let array = operand_type(right, env);
    if array.oid == oid::UNKNOWN {
        // It is read as an array of the other operand's type.
        return operator_is_quiet(name, l, l, env);
    }
    let is_array = catalog.type_(array.oid).is_some_and(|t| t.category == 'A');
    is_array && operator_is_quiet(name, l, element(array, catalog), env)
}

fn open_parameter(node: &Node, env: &dyn Environment) -> bool {
    matches!(&node.node, Some(NodeEnum::ParamRef(p)) if env.parameter(p.number) == 0 && env.parameter_uses(p.number) == 1)
}

/// A cast of a constant raises when the statement is planned, whatever rows there are; a parameter whose type is left open
/// takes the type of the cast. Any other cast is one of the table.
fn type_cast(c: &pg_query::protobuf::TypeCast, env: &dyn Environment) -> bool {
    let Some(arg) = c.arg.as_deref() else { return false };
    let Some(name) = &c.type_name else { return false };
    let catalog = env.catalog();
    let typed = type_named(name, catalog);
    // A domain checks its values.
    if catalog.type_(typed.oid).is_some_and(|t| t.kind == 'd') && !crate::mutant!("quiet.domains") {
        return false;
    }
    let plain_type = |t: u32| table::PLAIN_TYPES.contains(&builtin(t, catalog)) || is_enum(t, catalog);
    // Only for types whose input depends on nothing but the text (`'now'::timestamptz` is folded as well).
    let plain = || plain_type(typed.oid) || catalog.type_(typed.oid).is_some_and(|t| t.category == 'A' && plain_type(t.element));
    match &arg.node {
        // Numbers and booleans have a type already: theirs is a cast like any other, done when the statement is planned only if it
        // is immutable (that of numbers to money is not).
        Some(NodeEnum::AConst(c)) => match &c.val {
            Some(a_const::Val::Sval(_)) | None => plain(),
            Some(a_const::Val::Ival(_) | a_const::Val::Fval(_) | a_const::Val::Boolval(_)) => {
                plain() && folds(type_of(arg, env).oid, typed.oid, catalog)
            }
            Some(a_const::Val::Bsval(_)) => false,
        },
        Some(NodeEnum::ParamRef(p)) if env.parameter(p.number) == typed.oid || open_parameter(arg, env) => plain(),
        Some(_) => {
            let source = type_of(arg, env).oid;
            typed.is_known() && (source == typed.oid || cast_is_quiet(source, typed.oid, catalog)) && is_quiet(arg, env)
        }
        None => false,
    }
}

/// Whether a cast of a constant is done when the statement is planned.
fn folds(source: u32, target: u32, catalog: &Catalog) -> bool {
    let immutable = |function: u32| catalog.snapshot().functions.iter().any(|f| f.oid == function && f.volatility == 'i');
    source == target
        || cast_is_quiet(source, target, catalog)
        || resolve::cast(source, target, catalog).is_some_and(|c| c.function != 0 && immutable(c.function))
        || crate::mutant!("quiet.casts-not-folded")
}

/// `LIKE` with a literal pattern that cannot end in a lone escape: one that holds no backslash. A pattern that may hold one
/// is kept in the template's key (`Keep` in the gate), so that its value is seen here; a stand-in ends in a letter.
fn like(name: &str, left: &Node, right: &Node, env: &dyn Environment) -> bool {
    let l = type_of(left, env);
    // ~~ or ~~* of the database itself would be taken for varchar, where pg_catalog has none.
    let meant = resolve::operator(name, l.oid, oid::UNKNOWN, env.catalog()).is_some_and(|o| o.right == oid::TEXT);
    let pattern = match &right.node {
        Some(NodeEnum::AConst(c)) => match &c.val {
            Some(a_const::Val::Sval(s)) => !s.sval.contains('\\') || crate::mutant!("quiet.escapes"),
            Some(a_const::Val::Ival(_) | a_const::Val::Fval(_) | a_const::Val::Boolval(_) | a_const::Val::Bsval(_)) | None => {
                false
            }
        },
        Some(_) | None => false,
    };
    let deterministic = l.collation != 0
        && env
            .catalog()
            .collation(l.collation)
            .is_some_and(|c| c.deterministic || crate::mutant!("quiet.nondeterministic-collations"));
    meant && pattern && matches!(l.oid, oid::TEXT | oid::VARCHAR) && deterministic && is_quiet(left, env)
}

/// Whether all become the common type quietly (COALESCE, CASE, GREATEST, ARRAY): it can be told, and each is of it, a literal,
/// or cast as the table allows (guard.md, A7).
fn same_type(list: &[Node], env: &dyn Environment) -> bool {
    let types: Vec<Typed> = list.iter().map(|item| operand_type(item, env)).collect();
    let common = crate::sql::types::common_type(types.iter().copied(), env.catalog());
    let quiet = |t: &Typed| coerced(t.oid, common.oid, env.catalog());
    common.is_known() && types.iter().all(quiet) || crate::mutant!("quiet.common-types")
}

fn case(c: &pg_query::protobuf::CaseExpr, env: &dyn Environment) -> bool {
    let mut results = vec![];
    for when in &c.args {
        let Some(NodeEnum::CaseWhen(w)) = &when.node else { return false };
        let (Some(condition), Some(result)) = (&w.expr, &w.result) else { return false };
        // `CASE x WHEN y ..` asks for x = y.
        let tested = c.arg.as_deref().is_none_or(|x| operands("=", x, condition, env));
        if !tested || !is_quiet(condition, env) || !is_quiet(result, env) {
            return false;
        }
        results.push((**result).clone());
    }
    if let Some(default) = &c.defresult {
        if !is_quiet(default, env) {
            return false;
        }
        results.push((**default).clone());
    }
    same_type(&results, env)
}

/// `x IN (SELECT y ..)`: quiet if comparing x and y is, since the body was rewritten.
fn any_sublink(s: &pg_query::protobuf::SubLink, env: &dyn Environment) -> bool {
    let equality = match s.oper_name.as_slice() {
        [] => true,
        [name] => as_string(name) == Some("="),
        [_, _, ..] => false,
    };
    let (Some(test), Some(query)) = (s.testexpr.as_deref(), s.subselect.as_deref()) else { return false };
    let Some(column) = only_target(query) else { return false };
    let (l, r) = (operand_type(test, env), type_of(column, env));
    equality && operator_is_quiet("=", l, r, env) && is_quiet(test, env) && is_quiet(column, env) && silent_body(query, env)
}

/// Whether running the (rewritten) body of a sub-select cannot raise, whatever outer row it runs for: every expression in it is
/// quiet or guarded, and it has no parts that are not looked at here.
fn silent_body(query: &Node, env: &dyn Environment) -> bool {
    let Some(NodeEnum::SelectStmt(s)) = &query.node else { return false };
    silent_select(s, env) && quiet_targets(s, env)
}

fn quiet_targets(s: &SelectStmt, env: &dyn Environment) -> bool {
    s.target_list.iter().all(|t| match &t.node {
        Some(NodeEnum::ResTarget(t)) => t.val.as_deref().is_some_and(|v| is_quiet(v, env)),
        Some(_) | None => false,
    })
}

fn silent_select(s: &SelectStmt, env: &dyn Environment) -> bool {
    let SelectStmt {
        distinct_clause,
        into_clause,
        target_list: _,
        from_clause,
        where_clause,
        group_clause,
        group_distinct: _,
        having_clause,
        window_clause,
        values_lists,
        sort_clause,
        limit_offset,
        limit_count,
        limit_option: _,
        locking_clause,
        with_clause,
        op,
        all: _,
        larg,
        rarg,
    } = s;
    let plain = distinct_clause.is_empty()
        && into_clause.is_none()
        && group_clause.is_empty()
        && having_clause.is_none()
        && window_clause.is_empty()
        && values_lists.is_empty()
        && sort_clause.is_empty()
        && locking_clause.is_empty()
        && with_clause.is_none()
        && *op == SetOperation::SetopNone as i32
        && larg.is_none()
        && rarg.is_none();
    // A number without a sign, as in `LIMIT 1`: a negative one raises.
    let number = |limit: &Node| match &limit.node {
        Some(NodeEnum::AConst(c)) => matches!(&c.val, Some(a_const::Val::Ival(i)) if i.ival >= 0),
        Some(_) | None => false,
    };
    plain
        && (limit_offset.is_none() || crate::mutant!("quiet.bodies-with-offset"))
        && limit_count.as_deref().is_none_or(number)
        && from_clause.iter().all(|f| silent_from(f, env))
        && where_clause.as_deref().is_none_or(|w| silent_condition(w, env))
}

fn silent_from(item: &Node, env: &dyn Environment) -> bool {
    match &item.node {
        // A relation is qualified; without a schema it is a CTE, whose query may do anything.
        Some(NodeEnum::RangeVar(r)) => !r.schemaname.is_empty() || crate::mutant!("quiet.bodies-over-with"),
        Some(NodeEnum::JoinExpr(j)) => {
            j.larg.as_deref().is_some_and(|l| silent_from(l, env))
                && j.rarg.as_deref().is_some_and(|r| silent_from(r, env))
                && j.quals.as_deref().is_none_or(|q| silent_condition(q, env))
        }
        Some(NodeEnum::RangeSubselect(r)) => match r.subquery.as_deref().and_then(|q| q.node.as_ref()) {
            Some(NodeEnum::SelectStmt(s)) => silent_select(s, env) && quiet_targets(s, env),
            Some(_) | None => false,
        },
        Some(_) | None => false,
    }
}

fn silent_condition(condition: &Node, env: &dyn Environment) -> bool {
    match &condition.node {
        Some(NodeEnum::BoolExpr(b)) if b.boolop == BoolExprType::AndExpr as i32 => {
            b.args.iter().all(|a| silent_condition(a, env))
        }
        Some(NodeEnum::CaseExpr(c)) if is_guard(c) => true,
        Some(NodeEnum::AExpr(e)) if silent_equality(e, env) => true,
        Some(_) | None => is_quiet_condition(condition, env),
    }
}

/// `x = y` with its loud operands guarded.
fn silent_equality(e: &AExpr, env: &dyn Environment) -> bool {
    let silent = |operand: &Node| match &operand.node {
        Some(NodeEnum::CaseExpr(c)) if is_guard(c) => true,
        Some(_) | None => is_quiet(operand, env),
    };
    let (Some(left), Some(right)) = (e.lexpr.as_deref(), e.rexpr.as_deref()) else { return false };
    is_equality(e) && silent(left) && silent(right) && equality_is_quiet(type_of(left, env), type_of(right, env), env)
}

/// PostgreSQL's own `=`.
pub fn is_equality(e: &AExpr) -> bool {
    let name: SmallVec<[&str; 2]> = e.name.iter().filter_map(as_string).collect();
    e.kind == AExprKind::AexprOp as i32 && matches!(name.as_slice(), ["="] | ["pg_catalog", "="])
}

/// Whether a CASE is a guard, `CASE WHEN policy THEN .. [ELSE NULL::type] END`: no client can write the slot. The slot of a
/// sub-select's own filter is none of this CASE.
fn is_guard(c: &pg_query::protobuf::CaseExpr) -> bool {
    let [only] = c.args.as_slice() else { return false };
    let Some(NodeEnum::CaseWhen(w)) = &only.node else { return false };
    let slot = w.expr.as_deref().is_some_and(holds_slot);
    let null_else = match c.defresult.as_deref().and_then(|d| d.node.as_ref()) {
        Some(NodeEnum::TypeCast(t)) => {
            matches!(t.arg.as_deref().and_then(|a| a.node.as_ref()), Some(NodeEnum::AConst(k)) if k.isnull)
        }
        Some(_) => false,
        None => true,
    };
    c.arg.is_none() && slot && null_else
}

fn holds_slot(condition: &Node) -> bool {
    match &condition.node {
        Some(NodeEnum::SubLink(_)) if !crate::mutant!("quiet.slots-of-sub-selects") => return false,
        Some(NodeEnum::AConst(c)) => {
            if let Some(a_const::Val::Sval(s)) = &c.val {
                return crate::sql::sentinel::slot_of_string(&s.sval).is_some();
            }
        }
        Some(_) | None => {}
    }
    let mut found = false;
    crate::sql::tree::each_child(condition, &mut |child| found = found || holds_slot(child));
    found
}

fn only_target(query: &Node) -> Option<&Node> {
    let Some(NodeEnum::SelectStmt(s)) = &query.node else { return None };
    match s.target_list.as_slice() {
        [only] => match &only.node {
            Some(NodeEnum::ResTarget(t)) => t.val.as_deref(),
            Some(_) | None => None,
        },
        [] | [_, _, ..] => None,
    }
}

/// A scalar sub-select that gives one row and cannot raise: an ungrouped quiet aggregate over quiet conditions.
fn one_quiet_row(query: &Node, env: &dyn Environment) -> bool {
    let Some(NodeEnum::SelectStmt(s)) = &query.node else { return false };
    let Some(NodeEnum::FuncCall(f)) = only_target(query).and_then(|t| t.node.as_ref()) else { return false };
    let FuncCall {
        funcname,
        args,
        agg_order,
        agg_filter,
        over,
        agg_within_group,
        agg_star: _,
        agg_distinct,
        func_variadic,
        funcformat: _,
        location: _,
    } = &**f;
    let name = match funcname.as_slice() {
        [schema, name] if as_string(schema) == Some("pg_catalog") => as_string(name).unwrap_or_default(),
        [] | [_] | [_, _] | [_, _, _, ..] => return false,
    };
    let arguments =
        args.iter().all(|a| is_quiet(a, env) && (comparable(type_of(a, env), type_of(a, env), env) || name == "count"));
    let plain =
        agg_order.is_empty() && agg_filter.is_none() && over.is_none() && !agg_within_group && !agg_distinct && !func_variadic;
    QUIET_AGGREGATES.contains(&name) && plain && arguments && s.limit_count.is_none() && silent_select(s, env)
}
