//! Types of expressions, as far as they can be told from the catalog without repeating PostgreSQL's whole type resolution.
//! What is not certain is [`Typed::UNKNOWN`], and everything that depends on it is treated as loud.

use pg_query::protobuf::{AExprKind, BoolExprType, SqlValueFunctionOp, SubLinkType, a_const};
use pg_query::{Node, NodeEnum};

use super::kinds::not_an_expression;
use super::tree::{as_string, qualified_column};
use crate::catalog::Catalog;

/// OIDs from `pg_type.dat` that have names here.
pub mod oid {
    pub const BOOL: u32 = 16;
    pub const BYTEA: u32 = 17;
    pub const CHAR: u32 = 18;
    pub const NAME: u32 = 19;
    pub const INT8: u32 = 20;
    pub const INT2: u32 = 21;
    pub const INT4: u32 = 23;
    pub const TEXT: u32 = 25;
    pub const OID: u32 = 26;
    pub const JSON: u32 = 114;
    pub const FLOAT4: u32 = 700;
    pub const FLOAT8: u32 = 701;
    pub const UNKNOWN: u32 = 705;
    pub const INET: u32 = 869;
    pub const MACADDR: u32 = 829;
    pub const BPCHAR: u32 = 1042;
    pub const VARCHAR: u32 = 1043;
    pub const DATE: u32 = 1082;
    pub const TIME: u32 = 1083;
    pub const TIMESTAMP: u32 = 1114;
    pub const TIMESTAMPTZ: u32 = 1184;
    pub const INTERVAL: u32 = 1186;
    pub const TIMETZ: u32 = 1266;
    pub const NUMERIC: u32 = 1700;
    pub const UUID: u32 = 2950;
    pub const JSONB: u32 = 3802;
}

/// Type, type modifier and collation of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Typed {
    /// 0: not known. 705: an untyped literal or NULL, which takes the type of its context.
    pub oid: u32,
    pub typmod: i32,
    /// 0: none, or not known.
    pub collation: u32,
}

impl Typed {
    pub const UNKNOWN: Typed = Typed { oid: 0, typmod: -1, collation: 0 };
    /// A virtual generated column, or a merged column of USING that is cast, as good as unknown: it is computed when it is
    /// read, which may raise.
    pub const COMPUTED: Typed = Typed { oid: u32::MAX, typmod: -1, collation: 0 };
    pub const LITERAL: Typed = Typed { oid: oid::UNKNOWN, typmod: -1, collation: 0 };

    pub const fn of(oid: u32) -> Typed {
        Typed { oid, typmod: -1, collation: 0 }
    }

    pub fn is_known(self) -> bool {
        self.oid != 0 && self != Self::COMPUTED
    }
}

/// Where types of columns and parameters come from.
pub trait Environment {
    fn catalog(&self) -> &Catalog;
    /// The column of the range-table entry with that (unique) alias.
    fn column(&self, alias: &str, column: &str) -> Typed;
    /// The declared type of the n-th parameter, 0 where it is left open.
    fn parameter(&self, number: i32) -> u32;
    /// How often the n-th parameter stands in the statement.
    fn parameter_uses(&self, number: i32) -> usize;
}

/// Of an expression that nests deeper than this the type is not told. It is asked for at each level, so that a chain of a thousand
/// operators would take seconds.
const MAX_DEPTH: u32 = 100;

/// The type of a normalised expression.
pub fn type_of(expression: &Node, env: &dyn Environment) -> Typed {
    within(expression, env, MAX_DEPTH)
}

/// The same, looking no deeper than so many levels.
fn within(expression: &Node, env: &dyn Environment, depth: u32) -> Typed {
    let Some(depth) = depth.checked_sub(1) else { return Typed::UNKNOWN };
    let Some(kind) = &expression.node else { return Typed::UNKNOWN };
    match kind {
        NodeEnum::ColumnRef(c) => qualified_column(c).map_or(Typed::UNKNOWN, |(alias, name)| env.column(alias, name)),
        NodeEnum::ParamRef(p) => derived(env.parameter(p.number), &[], env.catalog()),
        NodeEnum::AConst(c) => match &c.val {
            None | Some(a_const::Val::Sval(_)) => Typed::LITERAL,
            Some(a_const::Val::Ival(_)) => Typed::of(oid::INT4),
            Some(a_const::Val::Fval(f)) => Typed::of(if f.fval.parse::<i64>().is_ok() { oid::INT8 } else { oid::NUMERIC }),
            Some(a_const::Val::Boolval(_)) => Typed::of(oid::BOOL),
            Some(a_const::Val::Bsval(_)) => Typed::UNKNOWN,
        },
        NodeEnum::TypeCast(c) => {
            let typed = c.type_name.as_ref().map_or(Typed::UNKNOWN, |t| type_named(t, env.catalog()));
            let input = match c.arg.as_deref() {
                // Of its own, a parameter has the collation of its type.
                Some(Node { node: Some(NodeEnum::ParamRef(p)) }) if env.parameter(p.number) == 0 => Typed::LITERAL,
                Some(arg) => within(arg, env, depth),
                None => Typed::UNKNOWN,
            };
            derived(typed.oid, &[input], env.catalog())
        }
        NodeEnum::CollateClause(c) => c.arg.as_ref().map_or(Typed::UNKNOWN, |a| Typed { collation: 0, ..within(a, env, depth) }),
        NodeEnum::BoolExpr(b) => {
            if b.boolop == BoolExprType::Undefined as i32 {
                Typed::UNKNOWN
            } else {
                Typed::of(oid::BOOL)
            }
        }
        NodeEnum::NullTest(_) | NodeEnum::BooleanTest(_) | NodeEnum::JsonIsPredicate(_) => Typed::of(oid::BOOL),
        NodeEnum::SubLink(s) => match SubLinkType::try_from(s.sub_link_type) {
            Ok(SubLinkType::ExistsSublink | SubLinkType::AnySublink | SubLinkType::AllSublink) => Typed::of(oid::BOOL),
            Ok(SubLinkType::ExprSublink) => scalar(s.subselect.as_deref(), env, depth),
            Ok(SubLinkType::ArraySublink) => array_of(scalar(s.subselect.as_deref(), env, depth).oid, env.catalog()),
            Ok(
                SubLinkType::RowcompareSublink | SubLinkType::MultiexprSublink | SubLinkType::CteSublink | SubLinkType::Undefined,
            )
            | Err(_) => Typed::UNKNOWN,
        },
        NodeEnum::AExpr(e) => a_expr(e, env, depth),
        NodeEnum::FuncCall(f) => {
            let inputs: Vec<Typed> = f.args.iter().map(|a| within(a, env, depth)).collect();
            derived(function(f, &inputs, env).oid, &inputs, env.catalog())
        }
        NodeEnum::CaseExpr(c) => {
            let mut arms: Vec<&Node> = vec![];
            for when in &c.args {
                if let Some(NodeEnum::CaseWhen(w)) = &when.node {
                    arms.extend(w.result.as_deref());
                }
            }
            arms.extend(c.defresult.as_deref());
            common(arms.into_iter(), env, depth)
        }
        NodeEnum::CoalesceExpr(c) => common(c.args.iter(), env, depth),
        NodeEnum::MinMaxExpr(c) => common(c.args.iter(), env, depth),
        NodeEnum::AArrayExpr(a) => {
            let element = common(a.elements.iter(), env, depth);
            let array = array_of(if element.oid == oid::UNKNOWN { oid::TEXT } else { element.oid }, env.catalog());
            derived(array.oid, &[element], env.catalog())
        }
        NodeEnum::SqlvalueFunction(f) => derived(sql_value(f.op), &[], env.catalog()),
        NodeEnum::AIndirection(_)
        | NodeEnum::CaseWhen(_)
        | NodeEnum::XmlExpr(_)
        | NodeEnum::XmlSerialize(_)
        | NodeEnum::JsonFuncExpr(_)
        | NodeEnum::RowExpr(_)
        | NodeEnum::GroupingFunc(_)
        | NodeEnum::NamedArgExpr(_)
        | NodeEnum::SetToDefault(_)
        | NodeEnum::MergeSupportFunc(_)
        | NodeEnum::List(_) => Typed::UNKNOWN,
        not_an_expression!() => Typed::UNKNOWN,
    }
}

/// The common type of arms, see [`common_type`].
fn common<'a>(arms: impl Iterator<Item = &'a Node>, env: &dyn Environment, depth: u32) -> Typed {
    common_type(arms.map(|arm| within(arm, env, depth)), env.catalog())
}

/// The one type of all arms that have one; literals and NULLs take it (select_common_type). Of several integers, or integers
/// and numerics, it is the widest; of text and varchar the first; any other mixture is not told, nor is a domain beside a
/// literal, which gives its base type. Type modifiers must agree, as in `exprTypmod`.
pub fn common_type(arms: impl Iterator<Item = Typed>, catalog: &Catalog) -> Typed {
    let mut result = Typed::LITERAL;
    let mut has_literal = false;
    let width = |t: u32| [oid::INT2, oid::INT4, oid::INT8, oid::NUMERIC].iter().position(|n| *n == t);
    let textual = |t: u32| matches!(t, oid::TEXT | oid::VARCHAR);
    for typed in arms {
        if typed.oid == oid::UNKNOWN {
            has_literal = true;
            result.typmod = if result.oid == oid::UNKNOWN { -1 } else { result.typmod };
        } else if result.oid == oid::UNKNOWN {
            result = typed;
        } else if let (true, Some(l), Some(r)) = (result.oid != typed.oid, width(result.oid), width(typed.oid)) {
            result = Typed::of(if l < r { typed.oid } else { result.oid });
        } else if textual(result.oid) && textual(typed.oid) && result.oid != typed.oid {
            let collations = [result, Typed { oid: result.oid, ..typed }];
            result = derived(result.oid, &collations, catalog);
        } else if result.oid != typed.oid {
            return Typed::UNKNOWN;
        } else {
            result.typmod = if result.typmod == typed.typmod { result.typmod } else { -1 };
            result.collation = if result.collation == typed.collation { result.collation } else { 0 };
        }
    }
    let domain = catalog.type_(result.oid).is_some_and(|t| t.kind == 'd');
    if has_literal && domain { Typed::UNKNOWN } else { result }
}

fn scalar(subselect: Option<&Node>, env: &dyn Environment, depth: u32) -> Typed {
    if let Some(NodeEnum::SelectStmt(s)) = subselect.and_then(|n| n.node.as_ref())
        && let [only] = s.target_list.as_slice()
        && let Some(NodeEnum::ResTarget(t)) = &only.node
        && let Some(value) = &t.val
    {
        return within(value, env, depth);
    }
    Typed::UNKNOWN
}

/// A result of that type, with the collation that PostgreSQL derives from its inputs (parse_collate.c): theirs where they
/// agree, the default where they have none; 0 where they conflict or are not known.
fn derived(type_oid: u32, inputs: &[Typed], catalog: &Catalog) -> Typed {
    const DEFAULT: u32 = 100;
    // The collation of `name` by itself: "C".
    const OF_NAMES: u32 = 950;
    let is_string = |t: u32| catalog.type_(t).is_none_or(|t| t.category == 'S');
    let collatable = |t: u32| is_string(t) || catalog.type_(t).is_some_and(|t| t.category == 'A' && is_string(t.element));
    if catalog.type_(type_oid).is_none() || !collatable(type_oid) {
        return Typed::of(type_oid);
    }
    let known = inputs.iter().any(|i| i.oid != oid::UNKNOWN && collatable(i.oid));
    let mut collation = if type_oid == oid::NAME && !known { OF_NAMES } else { DEFAULT };
    for input in inputs.iter().filter(|i| i.oid != oid::UNKNOWN) {
        let collatable = collatable(input.oid);
        match (collatable, input.collation) {
            (false, _) | (true, DEFAULT) => {}
            (true, 0) => return Typed::of(type_oid),
            (true, other) if collation == DEFAULT || collation == other => collation = other,
            (true, _) => return Typed::of(type_oid),
        }
    }
    Typed { collation, ..Typed::of(type_oid) }
}

fn a_expr(e: &pg_query::protobuf::AExpr, env: &dyn Environment, depth: u32) -> Typed {
    match AExprKind::try_from(e.kind) {
        Ok(AExprKind::AexprOp) => {
            let Some(name) = e.name.last().and_then(as_string) else { return Typed::UNKNOWN };
            let left = e.lexpr.as_ref().map_or(Typed::of(0), |l| within(l, env, depth));
            let right = e.rexpr.as_ref().map_or(Typed::UNKNOWN, |r| within(r, env, depth));
            let result = operator_result(name, e.lexpr.is_some(), left.oid, right.oid, env.catalog());
            let inputs = if e.lexpr.is_some() { &[left, right][..] } else { &[right][..] };
            derived(result.oid, inputs, env.catalog())
        }
        // The left operand, as the operator takes it (transformAExprNullIf).
        Ok(AExprKind::AexprNullif) => {
            let (Some(left), Some(right)) = (&e.lexpr, &e.rexpr) else { return Typed::UNKNOWN };
            let (left, right) = (within(left, env, depth), within(right, env, depth));
            if left.oid == right.oid || right.oid == oid::UNKNOWN { left } else { Typed::UNKNOWN }
        }
        Ok(
            AExprKind::AexprOpAny
            | AExprKind::AexprOpAll
            | AExprKind::AexprDistinct
            | AExprKind::AexprNotDistinct
            | AExprKind::AexprIn
            | AExprKind::AexprLike
            | AExprKind::AexprIlike
            | AExprKind::AexprSimilar
            | AExprKind::AexprBetween
            | AExprKind::AexprNotBetween
            | AExprKind::AexprBetweenSym
            | AExprKind::AexprNotBetweenSym,
        ) => Typed::of(oid::BOOL),
        Ok(AExprKind::Undefined) | Err(_) => Typed::UNKNOWN,
    }
}

/// The result of an operator: of the exact match, or what all operators of that name give.
fn operator_result(name: &str, binary: bool, left: u32, right: u32, catalog: &Catalog) -> Typed {
    // Array || element, element || array, array || array.
    let array = |t: u32| catalog.type_(t).is_some_and(|t| t.category == 'A');
    if name == "||" && (array(left) || array(right)) {
        return Typed::of(if array(left) { left } else { right });
    }
    if let Some(meant) = Some(()).filter(|()| binary).and_then(|()| super::resolve::operator(name, left, right, catalog))
        && catalog.type_(meant.result).is_some_and(|t| t.kind != 'p')
    {
        return Typed::of(meant.result);
    }
    let all: Vec<_> = catalog.operators_named(name).filter(|o| (o.left != 0) == binary).collect();
    let left_or_right = |t: u32, other: u32| if t == oid::UNKNOWN { other } else { t };
    let (l, r) = if binary { (left_or_right(left, right), left_or_right(right, left)) } else { (0, right) };
    if let Some(exact) = all.iter().find(|o| o.left == l && o.right == r) {
        return Typed::of(exact.result);
    }
    match all.first() {
        Some(first) if all.iter().all(|o| o.result == first.result) => Typed::of(first.result),
        Some(_) | None => Typed::UNKNOWN,
    }
}

/// The result of a function where it is known which is meant, or does not depend on that.
fn function(f: &pg_query::protobuf::FuncCall, inputs: &[Typed], env: &dyn Environment) -> Typed {
    let Some(name) = f.funcname.last().and_then(as_string) else { return Typed::UNKNOWN };
    let given: Vec<u32> = inputs.iter().map(|t| t.oid).collect();
    if let ([schema, _], Some(meant)) = (f.funcname.as_slice(), super::resolve::function(name, &given, env.catalog()))
        && as_string(schema) == Some("pg_catalog")
        && env.catalog().type_(meant.returns).is_some_and(|t| t.kind != 'p')
    {
        return Typed::of(meant.returns);
    }
    let count = f.args.len();
    let mut result = None;
    for candidate in env.catalog().functions_named(name) {
        let fits = candidate.variadic
            || (count <= candidate.arguments.len() && count + usize::from(candidate.defaults) >= candidate.arguments.len());
        if !fits {
            continue;
        }
        match result {
            None => result = Some(candidate.returns),
            Some(r) if r == candidate.returns => {}
            Some(_) => return Typed::UNKNOWN,
        }
    }
    match result.and_then(|r| env.catalog().type_(r)) {
        Some(t) if t.kind != 'p' => Typed::of(t.oid),
        // A polymorphic array is the array that was given.
        Some(t) if matches!(t.name.as_str(), "anyarray" | "anycompatiblearray") => f
            .args
            .iter()
            .zip(inputs)
            .map(|(_, input)| *input)
            .find(|t| env.catalog().type_(t.oid).is_some_and(|t| t.category == 'A'))
            .map_or(Typed::UNKNOWN, |t| Typed::of(t.oid)),
        Some(_) | None => Typed::UNKNOWN,
    }
}

/// The type of CURRENT_DATE and the like; 0 for those with a precision.
fn sql_value(op: i32) -> u32 {
    match SqlValueFunctionOp::try_from(op) {
        Ok(SqlValueFunctionOp::SvfopCurrentDate) => oid::DATE,
        Ok(SqlValueFunctionOp::SvfopCurrentTime) => oid::TIMETZ,
        Ok(SqlValueFunctionOp::SvfopCurrentTimestamp) => oid::TIMESTAMPTZ,
        Ok(SqlValueFunctionOp::SvfopLocaltime) => oid::TIME,
        Ok(SqlValueFunctionOp::SvfopLocaltimestamp) => oid::TIMESTAMP,
        Ok(
            SqlValueFunctionOp::SvfopCurrentRole
            | SqlValueFunctionOp::SvfopCurrentUser
            | SqlValueFunctionOp::SvfopUser
            | SqlValueFunctionOp::SvfopSessionUser
            | SqlValueFunctionOp::SvfopCurrentCatalog
            | SqlValueFunctionOp::SvfopCurrentSchema,
        ) => oid::NAME,
        Ok(
            SqlValueFunctionOp::SvfopCurrentTimeN
            | SqlValueFunctionOp::SvfopCurrentTimestampN
            | SqlValueFunctionOp::SvfopLocaltimeN
            | SqlValueFunctionOp::SvfopLocaltimestampN
            | SqlValueFunctionOp::SqlvalueFunctionOpUndefined,
        )
        | Err(_) => 0,
    }
}

/// The array type over an element type.
fn array_of(element: u32, catalog: &Catalog) -> Typed {
    let array = catalog.type_(element).and_then(|t| catalog.type_named(&t.schema, &format!("_{}", t.name)));
    match array {
        Some(array) if array.element == element => Typed::of(array.oid),
        Some(_) | None => Typed::UNKNOWN,
    }
}

/// The type that a (schema-qualified) type name means, its modifier left out: `-1` unless it has none.
pub fn type_named(name: &pg_query::protobuf::TypeName, catalog: &Catalog) -> Typed {
    let parts: Vec<&str> = name.names.iter().filter_map(as_string).collect();
    let found = match parts.as_slice() {
        [schema, name] => catalog.type_named(schema, name),
        [] | [_] | [_, _, _, ..] => None,
    };
    match found {
        Some(t) if name.array_bounds.is_empty() && name.typmods.is_empty() => Typed::of(t.oid),
        Some(t) if name.typmods.is_empty() => array_of(t.oid, catalog),
        Some(_) | None => Typed::UNKNOWN,
    }
}

/// A type as errors name it (`format_type_be`), for types without a modifier; `None` where it is not known.
pub fn type_name(type_oid: u32, catalog: &Catalog) -> Option<String> {
    if type_oid == oid::UNKNOWN {
        return Some("unknown".to_owned());
    }
    let found = catalog.type_(type_oid)?;
    let (name, array) = match found.name.strip_prefix('_').filter(|_| found.category == 'A') {
        Some(element) => (element, "[]"),
        None => (found.name.as_str(), ""),
    };
    let standard = match name {
        "bool" => "boolean",
        "int2" => "smallint",
        "int4" => "integer",
        "int8" => "bigint",
        "float4" => "real",
        "float8" => "double precision",
        "varchar" => "character varying",
        "bpchar" => "character",
        "char" => "\"char\"",
        "varbit" => "bit varying",
        "time" => "time without time zone",
        "timetz" => "time with time zone",
        "timestamp" => "timestamp without time zone",
        "timestamptz" => "timestamp with time zone",
        other => other,
    };
    Some(if found.schema == "pg_catalog" { format!("{standard}{array}") } else { format!("{name}{array}") })
}
