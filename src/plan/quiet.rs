//! Quiet or loud: whether an expression can raise, has an effect, or reads outside its row. PostgreSQL orders conditions by
//! cost, not by text, so a loud one may see rows before the tenant's predicate has removed them (guard.md).
//!
//! The list is short on purpose: what is not here is loud, which costs speed and never soundness.

use pg_query::protobuf::{
    AExpr, AExprKind, BoolExprType, CoercionForm, FuncCall, NullTestType, SelectStmt, SetOperation, SubLinkType, a_const,
};
use pg_query::{Node, NodeEnum};

use crate::sql::kinds::not_an_expression;
use crate::sql::tree::as_string;
use crate::sql::types::{Environment, Typed, oid, type_named, type_of};

/// Types whose comparisons never raise, each with those of its own family (guard.md, D). Across the integer types PostgreSQL
/// has operators of their own; an integer becomes numeric without loss.
fn family(type_oid: u32) -> Option<u8> {
    match type_oid {
        oid::INT2 | oid::INT4 | oid::INT8 => Some(1),
        oid::NUMERIC => Some(2),
        oid::FLOAT4 | oid::FLOAT8 => Some(3),
        oid::TEXT | oid::VARCHAR => Some(4),
        oid::BPCHAR => Some(5),
        oid::BOOL => Some(6),
        oid::DATE => Some(7),
        oid::TIMESTAMP => Some(8),
        oid::TIMESTAMPTZ => Some(9),
        oid::UUID => Some(10),
        oid::BYTEA => Some(11),
        oid::TIME => Some(12),
        oid::INTERVAL => Some(13),
        oid::JSONB => Some(14),
        oid::OID => Some(15),
        oid::NAME => Some(16),
        oid::INET => Some(17),
        oid::MACADDR => Some(18),
        _ => None, // tidy: not a syntax kind
    }
}

/// Whether comparing values of these types is quiet: neither operand needs a cast that can raise.
fn comparable(left: Typed, right: Typed, env: &dyn Environment) -> bool {
    let (l, r) = (left.oid, right.oid);
    if l == oid::UNKNOWN || r == oid::UNKNOWN {
        // A literal takes the other's type when the statement is planned.
        let other = if l == oid::UNKNOWN { right } else { left };
        let collated = !matches!(family(other.oid), Some(4 | 5)) || other.collation != 0;
        return other.oid == oid::UNKNOWN || (family(other.oid).is_some() && collated) || is_enum(other.oid, env);
    }
    if is_enum(l, env) {
        return l == r;
    }
    match (family(l), family(r)) {
        (Some(4), Some(4)) | (Some(5), Some(5)) => collations_agree(left.collation, right.collation),
        (Some(a), Some(b)) => a == b || matches!((a, b), (1, 2) | (2, 1)),
        (Some(_) | None, None) | (None, Some(_)) => false,
    }
}

/// Two collations conflict unless they are the same or one is the database's default; 0 is not known.
fn collations_agree(left: u32, right: u32) -> bool {
    const DEFAULT: u32 = 100;
    left != 0 && right != 0 && (left == right || left == DEFAULT || right == DEFAULT)
}

fn is_enum(type_oid: u32, env: &dyn Environment) -> bool {
    env.catalog().type_(type_oid).is_some_and(|t| t.kind == 'e')
}

/// Functions of pg_catalog that cannot raise for any argument of their declared types. None is volatile: how often `random()`
/// was drawn tells how many rows were looked at.
const QUIET_FUNCTIONS: [&str; 12] = [
    "now",
    "transaction_timestamp",
    "statement_timestamp",
    "current_database",
    "current_schema",
    "length",
    "char_length",
    "character_length",
    "octet_length",
    "lower",
    "upper",
    "btrim",
];

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
    let comparison = matches!(name, "=" | "<>" | "<" | "<=" | ">" | ">=");
    let foreign = env.catalog().operators_named(name).any(|o| o.schema != "pg_catalog");
    let scalar = SubLinkType::ExprSublink as i32;
    let (plain, query) = match (&left.node, &right.node) {
        (_, Some(NodeEnum::SubLink(s))) if s.sub_link_type == scalar => (left, s),
        (Some(NodeEnum::SubLink(s)), _) if s.sub_link_type == scalar => (right, s),
        (_, _) => return false,
    };
    let Some(query) = query.subselect.as_deref() else { return false };
    let Some(column) = only_target(query) else { return false };
    let (l, r) = (operand_type(plain, env), type_of(column, env));
    comparison
        && !foreign
        && l.is_known()
        && r.is_known()
        && comparable(l, r, env)
        && is_quiet(plain, env)
        && one_quiet_row(query, env)
}

/// Whether an expression in normal form is quiet. No sub-select is.
pub fn is_quiet(expression: &Node, env: &dyn Environment) -> bool {
    let Some(kind) = &expression.node else { return false };
    let all = |list: &[Node]| list.iter().all(|e| is_quiet(e, env));
    let child = |c: &Option<Box<Node>>| c.as_deref().is_none_or(|e| is_quiet(e, env));
    match kind {
        NodeEnum::ColumnRef(c) => c.fields.len() == 2,
        NodeEnum::ParamRef(_) | NodeEnum::AConst(_) | NodeEnum::SqlvalueFunction(_) => true,
        NodeEnum::BoolExpr(b) => b.boolop != BoolExprType::Undefined as i32 && all(&b.args),
        // `IS NULL` of a row looks inside it.
        NodeEnum::NullTest(t) => t.nulltesttype != NullTestType::Undefined as i32 && child(&t.arg),
        NodeEnum::BooleanTest(t) => child(&t.arg),
        NodeEnum::AExpr(e) => a_expr(e, env),
        NodeEnum::TypeCast(c) => constant_cast(c, env),
        NodeEnum::CoalesceExpr(c) => all(&c.args) && same_type(&c.args, env),
        NodeEnum::CaseExpr(c) => case(c, env),
        NodeEnum::FuncCall(f) => {
            let builtin = matches!(f.funcname.as_slice(), [schema, _] if as_string(schema) == Some("pg_catalog"));
            let name = f.funcname.last().and_then(as_string).unwrap_or_default();
            let plain = f.agg_order.is_empty() && f.agg_filter.is_none() && f.over.is_none() && !f.agg_star && !f.agg_distinct;
            let text_args = f.args.iter().all(|a| {
                let t = type_of(a, env).oid;
                matches!(t, oid::TEXT | oid::VARCHAR | oid::UNKNOWN)
            });
            builtin
                && plain
                && f.funcformat != CoercionForm::Undefined as i32
                && QUIET_FUNCTIONS.contains(&name)
                && all(&f.args)
                && text_args
        }
        // Where it is not a conjunct of its own (see `is_quiet_condition`), whether and when it runs would tell of the rows
        // that the conditions before it saw.
        NodeEnum::SubLink(_) => false,
        NodeEnum::List(l) => all(&l.items),
        NodeEnum::CollateClause(_)
        | NodeEnum::AIndirection(_)
        | NodeEnum::AArrayExpr(_)
        | NodeEnum::CaseWhen(_)
        | NodeEnum::MinMaxExpr(_)
        | NodeEnum::XmlExpr(_)
        | NodeEnum::XmlSerialize(_)
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
    // An operator of that name outside pg_catalog might be meant.
    if env.catalog().operators_named(name).any(|o| o.schema != "pg_catalog") {
        return false;
    }
    let comparison = matches!(name, "=" | "<>" | "<" | "<=" | ">" | ">=");
    match AExprKind::try_from(e.kind) {
        Ok(AExprKind::AexprOp) if comparison => operands(left, right, env),
        Ok(AExprKind::AexprOp) => json_operator(name, left, right, env),
        Ok(AExprKind::AexprDistinct | AExprKind::AexprNotDistinct) => comparison && operands(left, right, env),
        Ok(AExprKind::AexprIn) => comparison && in_list(left, right, env),
        Ok(AExprKind::AexprBetween | AExprKind::AexprNotBetween | AExprKind::AexprBetweenSym | AExprKind::AexprNotBetweenSym) => {
            in_list(left, right, env)
        }
        Ok(AExprKind::AexprOpAny | AExprKind::AexprOpAll) => comparison && any_array(left, right, env),
        Ok(AExprKind::AexprLike) => like(left, right, env),
        Ok(AExprKind::AexprNullif) => operands(left, right, env),
        Ok(AExprKind::AexprIlike | AExprKind::AexprSimilar | AExprKind::Undefined) | Err(_) => false,
    }
}

fn operands(left: &Node, right: &Node, env: &dyn Environment) -> bool {
    let (l, r) = (operand_type(left, env), operand_type(right, env));
    l.is_known() && r.is_known() && comparable(l, r, env) && is_quiet(left, env) && is_quiet(right, env)
}

/// As [`type_of`]; a parameter whose type is left open takes the other operand's, as a literal does, if it stands nowhere else:
/// PostgreSQL takes the type from the place that it sees first.
fn operand_type(operand: &Node, env: &dyn Environment) -> Typed {
    let typed = type_of(operand, env);
    match &operand.node {
        Some(NodeEnum::ParamRef(p)) if !typed.is_known() && env.parameter_uses(p.number) == 1 => Typed::LITERAL,
        Some(_) | None => typed,
    }
}

/// `x IN (a, b)`, `x BETWEEN a AND b`: each element compares quietly, and all elements have one type, since PostgreSQL casts
/// them to a common one.
fn in_list(left: &Node, right: &Node, env: &dyn Environment) -> bool {
    let Some(NodeEnum::List(list)) = &right.node else { return false };
    let mut common = oid::UNKNOWN;
    for item in &list.items {
        let t = operand_type(item, env).oid;
        if t != oid::UNKNOWN && common != oid::UNKNOWN && t != common {
            return false;
        }
        common = if common == oid::UNKNOWN { t } else { common };
    }
    list.items.iter().all(|item| operands(left, item, env))
}

/// `x = ANY ($1)`, `x = ANY ('{..}')`, `x = ANY (ARRAY[constants])`.
fn any_array(left: &Node, right: &Node, env: &dyn Environment) -> bool {
    let l = operand_type(left, env);
    if !is_quiet(left, env) || !(family(l.oid).is_some() || is_enum(l.oid, env)) {
        return false;
    }
    match &right.node {
        Some(NodeEnum::ParamRef(p)) => match env.parameter(p.number) {
            0 => env.parameter_uses(p.number) == 1,
            declared => env.catalog().type_(declared).is_some_and(|t| comparable(l, Typed::of(t.element), env)),
        },
        Some(NodeEnum::AConst(c)) => matches!(c.val, Some(a_const::Val::Sval(_))),
        Some(NodeEnum::AArrayExpr(a)) => a.elements.iter().all(|e| is_constant(e) && operands(left, e, env)),
        // `ANY ($1::int[])`
        Some(NodeEnum::TypeCast(c)) => {
            let constant = c.arg.as_deref().is_some_and(|a| is_constant(a) || open_parameter(a, env));
            let element = c.type_name.as_ref().filter(|t| t.array_bounds.len() == 1).map(|t| {
                let mut element = t.clone();
                element.array_bounds.clear();
                type_named(&element, env.catalog())
            });
            constant && element.is_some_and(|e| e.is_known() && comparable(l, e, env))
        }
        Some(_) | None => false,
    }
}

fn is_constant(node: &Node) -> bool {
    matches!(&node.node, Some(NodeEnum::AConst(_)))
}

fn open_parameter(node: &Node, env: &dyn Environment) -> bool {
    matches!(&node.node, Some(NodeEnum::ParamRef(p)) if env.parameter(p.number) == 0 && env.parameter_uses(p.number) == 1)
}

/// A cast of a constant raises when the statement is planned, whatever rows there are; a parameter whose type is left open
/// takes the type of the cast.
fn constant_cast(c: &pg_query::protobuf::TypeCast, env: &dyn Environment) -> bool {
    let Some(arg) = c.arg.as_deref() else { return false };
    let Some(name) = &c.type_name else { return false };
    let typed = type_named(name, env.catalog());
    // Only for types whose input depends on nothing but the text (`'now'::timestamptz` is folded as well).
    let plain = family(typed.oid).is_some() || is_enum(typed.oid, env);
    match &arg.node {
        Some(NodeEnum::AConst(_)) => plain,
        Some(NodeEnum::ParamRef(p)) => plain && (env.parameter(p.number) == typed.oid || open_parameter(arg, env)),
        Some(_) | None => false,
    }
}

/// `LIKE` with a literal pattern that cannot end in a lone escape: one that holds no backslash. A pattern that may hold one
/// is kept in the template's key (`Keep` in the gate), so that its value is seen here; a stand-in ends in a letter.
fn like(left: &Node, right: &Node, env: &dyn Environment) -> bool {
    let l = type_of(left, env);
    let pattern = match &right.node {
        Some(NodeEnum::AConst(c)) => match &c.val {
            Some(a_const::Val::Sval(s)) => !s.sval.contains('\\'),
            Some(a_const::Val::Ival(_) | a_const::Val::Fval(_) | a_const::Val::Boolval(_) | a_const::Val::Bsval(_)) | None => {
                false
            }
        },
        Some(_) | None => false,
    };
    let deterministic = l.collation != 0 && env.catalog().collation(l.collation).is_some_and(|c| c.deterministic);
    pattern && matches!(l.oid, oid::TEXT | oid::VARCHAR) && deterministic && is_quiet(left, env)
}

/// Operators of json and jsonb that never raise (guard.md, D).
fn json_operator(name: &str, left: &Node, right: &Node, env: &dyn Environment) -> bool {
    let l = type_of(left, env).oid;
    let simple_key = match &right.node {
        Some(NodeEnum::AConst(c)) => matches!(c.val, Some(a_const::Val::Sval(_) | a_const::Val::Ival(_))),
        Some(_) | None => false,
    };
    match name {
        // Not of json: its text is parsed anew, and \u0000 in it raises.
        "->" | "->>" => l == oid::JSONB && simple_key && is_quiet(left, env),
        "@>" | "<@" => {
            l == oid::JSONB
                && (is_constant(right) || type_of(right, env).oid == oid::JSONB)
                && is_quiet(left, env)
                && is_quiet(right, env)
        }
        "?" => l == oid::JSONB && simple_key && is_quiet(left, env),
        _ => false, // tidy: not a syntax kind
    }
}

fn same_type(list: &[Node], env: &dyn Environment) -> bool {
    let mut known = None;
    for item in list {
        let typed = operand_type(item, env);
        if typed.oid == oid::UNKNOWN {
            continue;
        }
        if !typed.is_known() || known.is_some_and(|k| k != typed.oid) {
            return false;
        }
        known = Some(typed.oid);
    }
    true
}

fn case(c: &pg_query::protobuf::CaseExpr, env: &dyn Environment) -> bool {
    if c.arg.is_some() {
        return false;
    }
    let mut results = vec![];
    for when in &c.args {
        let Some(NodeEnum::CaseWhen(w)) = &when.node else { return false };
        let (Some(condition), Some(result)) = (&w.expr, &w.result) else { return false };
        if !is_quiet(condition, env) || !is_quiet(result, env) {
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
    equality
        && l.is_known()
        && r.is_known()
        && comparable(l, r, env)
        && is_quiet(test, env)
        && is_quiet(column, env)
        && silent_body(query, env)
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
        && limit_offset.is_none()
        && limit_count.as_deref().is_none_or(number)
        && from_clause.iter().all(|f| silent_from(f, env))
        && where_clause.as_deref().is_none_or(|w| silent_condition(w, env))
}

fn silent_from(item: &Node, env: &dyn Environment) -> bool {
    match &item.node {
        // A relation is qualified; without a schema it is a CTE, whose query may do anything.
        Some(NodeEnum::RangeVar(r)) => !r.schemaname.is_empty(),
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
        Some(_) | None => is_quiet_condition(condition, env),
    }
}

/// `CASE WHEN <a condition with the tenant slot> THEN .. ELSE NULL::bool END`: no client can write the slot.
fn is_guard(c: &pg_query::protobuf::CaseExpr) -> bool {
    let [only] = c.args.as_slice() else { return false };
    let Some(NodeEnum::CaseWhen(w)) = &only.node else { return false };
    let mut slot = false;
    if let Some(condition) = w.expr.as_deref() {
        crate::sql::tree::walk(condition, &mut |n| {
            if let Some(NodeEnum::AConst(c)) = &n.node
                && let Some(a_const::Val::Sval(s)) = &c.val
            {
                slot |= crate::sql::sentinel::slot_of_string(&s.sval).is_some();
            }
        });
    }
    let null_else = match c.defresult.as_deref().and_then(|d| d.node.as_ref()) {
        Some(NodeEnum::TypeCast(t)) => {
            matches!(t.arg.as_deref().and_then(|a| a.node.as_ref()), Some(NodeEnum::AConst(k)) if k.isnull)
        }
        Some(_) | None => false,
    };
    c.arg.is_none() && slot && null_else
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
    let name = funcname.last().and_then(as_string).unwrap_or_default();
    let arguments = args.iter().all(|a| is_quiet(a, env) && (family(type_of(a, env).oid).is_some() || name == "count"));
    let plain =
        agg_order.is_empty() && agg_filter.is_none() && over.is_none() && !agg_within_group && !agg_distinct && !func_variadic;
    QUIET_AGGREGATES.contains(&name) && plain && arguments && s.limit_count.is_none() && silent_select(s, env)
}
