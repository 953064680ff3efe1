//! SQL inside policy files, looked at before a catalog is at hand: it must be one expression over the table's own columns.

use std::ops::Range;

use pg_query::NodeEnum;
use pg_query::protobuf::{
    AArrayExpr, AExpr, AIndices, AIndirection, BoolExpr, BooleanTest, CaseExpr, CaseWhen, CoalesceExpr, CollateClause, ColumnRef,
    FuncCall, List, MinMaxExpr, Node, NullTest, RawStmt, ResTarget, RowExpr, SqlValueFunction, TypeCast, TypeName,
};

/// Longer ones are a mistake, and deep ones could exhaust the parser's stack.
const MAX_BYTES: usize = 16 << 10;

/// What stands before the expression when it is parsed.
const PREFIX: &str = "SELECT ";

/// What is wrong with an expression, and where in its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub message: String,
    pub span: Range<usize>,
}

/// Checks the text of `using` or `with_check`: one expression without subqueries, aggregates, window functions, parameters.
///
/// # Errors
/// The first fault.
pub fn check_rule(text: &str) -> Result<(), Fault> {
    walk(Some(&parse_one(text)?)).map_err(|(message, location)| Fault { message, span: word_at(text, location) })
}

/// Checks only that the text is one expression (`contains` of a test may hold parameters and subqueries).
///
/// # Errors
/// The first fault.
pub fn check_syntax(text: &str) -> Result<(), Fault> {
    parse_one(text).map(|_| ())
}

/// Parses one expression.
fn parse_one(text: &str) -> Result<Node, Fault> {
    let whole = |message: &str| Fault { message: message.to_owned(), span: 0..text.len() };
    if text.trim().is_empty() {
        return Err(whole("no expression"));
    }
    if text.len() > MAX_BYTES {
        return Err(whole("the expression is longer than 16 KiB"));
    }
    if text.contains('\0') {
        return Err(whole("the expression holds a NUL"));
    }
    let tree = pg_query::parse(&format!("{PREFIX}{text}"), 0).map_err(|e| fault_of(text, &e))?;
    let expression = only_target(tree.protobuf.stmts).ok_or_else(|| whole("this is more than one expression"))?;
    // Where it is put, it stands in parentheses: `a) OR (b` must not be two halves of something else, and nothing may
    // follow it, such as FROM.
    let fenced = format!("{PREFIX}(\n{text}\n)");
    match pg_query::parse(&fenced, 0).ok().and_then(|t| only_target(t.protobuf.stmts)) {
        Some(_) => Ok(expression),
        None => Err(whole("this is more than one expression")),
    }
}

/// The expression of `SELECT <expression>`, if the statement is nothing but that.
fn only_target(statements: Vec<RawStmt>) -> Option<Node> {
    let [statement] = <[RawStmt; 1]>::try_from(statements).ok()?;
    let NodeEnum::SelectStmt(mut select) = statement.stmt?.node? else { return None };
    let targets = std::mem::take(&mut select.target_list);
    let [Node { node: Some(NodeEnum::ResTarget(target)) }] = <[Node; 1]>::try_from(targets).ok()? else { return None };
    // Compared as a whole, so that a clause which a new version of the grammar adds is not overlooked.
    let bare = pg_query::parse("SELECT", 0).ok()?.protobuf.stmts.pop()?.stmt?.node?;
    if NodeEnum::SelectStmt(select) != bare {
        return None;
    }
    let ResTarget { name, indirection, val, location: _ } = *target;
    if !name.is_empty() || !indirection.is_empty() {
        return None;
    }
    val.map(|v| *v)
}

/// The place of a parse error. libpg_query tells the offending word but not where it stands: it is the first of its kind
/// at which the text up to there fails in the same way.
fn fault_of(text: &str, error: &pg_query::Error) -> Fault {
    let message = match error {
        pg_query::Error::Parse(message) => message.clone(),
        other => return Fault { message: other.to_string(), span: 0..text.len() },
    };
    let near = message.split_once("at or near \"").and_then(|(_, rest)| rest.strip_suffix('"')).unwrap_or_default();
    let end = text.trim_end().len();
    let at_end = end.saturating_sub(1)..end;
    if near.is_empty() {
        let span = if message.contains("end of input") && text.is_char_boundary(at_end.start) { at_end } else { 0..text.len() };
        return Fault { message, span };
    }
    let fails_here = |end: usize| {
        matches!(pg_query::parse(&format!("{PREFIX}{}", &text[..end]), 0),
            Err(pg_query::Error::Parse(m)) if m == message)
    };
    let span = text
        .match_indices(near)
        .map(|(at, word)| at..at + word.len())
        // A text of thousands of equal words must not cost thousands of parses.
        .take(64)
        .find(|span| fails_here(span.end))
        .unwrap_or(0..text.len());
    // An unterminated string quotes all that follows it.
    let message = if near.contains('\n') { message.split(" at or near ").next().unwrap_or_default().to_owned() } else { message };
    Fault { message, span }
}

/// The word that begins at `location`, a byte offset in the parsed statement; the whole text where that is unknown.
fn word_at(text: &str, location: i32) -> Range<usize> {
    let start = usize::try_from(location).ok().and_then(|l| l.checked_sub(PREFIX.len()));
    let Some(rest) = start.and_then(|s| text.get(s..)).filter(|r| !r.is_empty()) else { return 0..text.len() };
    let from = text.len() - rest.len();
    let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    from..from + word.max(rest.chars().next().map_or(1, char::len_utf8))
}

/// What is refused, and its location in the parsed statement.
type Refusal = (String, i32);

fn refuse<T>(what: &str, location: i32) -> Result<T, Refusal> {
    Err((format!("{what} cannot stand in a policy"), location))
}

fn walk_all<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Result<(), Refusal> {
    nodes.into_iter().try_for_each(|n| walk(Some(n)))
}

/// INVARIANT (TOTAL): what is listed is understood, with all its fields; everything else is refused.
fn walk(node: Option<&Node>) -> Result<(), Refusal> {
    let Some(node) = node else { return Ok(()) };
    let Some(kind) = &node.node else { return refuse("an empty node", 0) };
    match kind {
        NodeEnum::AConst(_) | NodeEnum::Integer(_) | NodeEnum::Float(_) | NodeEnum::Boolean(_) | NodeEnum::String(_) => Ok(()),
        NodeEnum::ColumnRef(column) => walk_column(column),
        NodeEnum::AExpr(e) => {
            let AExpr { kind: _, name: _, lexpr, rexpr, rexpr_list_start: _, rexpr_list_end: _, location: _ } = &**e;
            walk(lexpr.as_deref())?;
            walk(rexpr.as_deref())
        }
        NodeEnum::BoolExpr(e) => {
            let BoolExpr { xpr: _, boolop: _, args, location: _ } = &**e;
            walk_all(args)
        }
        NodeEnum::NullTest(e) => {
            let NullTest { xpr: _, arg, nulltesttype: _, argisrow: _, location: _ } = &**e;
            walk(arg.as_deref())
        }
        NodeEnum::BooleanTest(e) => {
            let BooleanTest { xpr: _, arg, booltesttype: _, location: _ } = &**e;
            walk(arg.as_deref())
        }
        NodeEnum::CaseExpr(e) => {
            let CaseExpr { xpr: _, casetype: _, casecollid: _, arg, args, defresult, location: _ } = &**e;
            walk(arg.as_deref())?;
            walk_all(args)?;
            walk(defresult.as_deref())
        }
        NodeEnum::CaseWhen(e) => {
            let CaseWhen { xpr: _, expr, result, location: _ } = &**e;
            walk(expr.as_deref())?;
            walk(result.as_deref())
        }
        NodeEnum::CoalesceExpr(e) => {
            let CoalesceExpr { xpr: _, coalescetype: _, coalescecollid: _, args, location: _ } = &**e;
            walk_all(args)
        }
        NodeEnum::MinMaxExpr(e) => {
            let MinMaxExpr { xpr: _, minmaxtype: _, minmaxcollid: _, inputcollid: _, op: _, args, location: _ } = &**e;
            walk_all(args)
        }
        NodeEnum::RowExpr(e) => {
            let RowExpr { xpr: _, args, row_typeid: _, row_format: _, colnames: _, location: _ } = &**e;
            walk_all(args)
        }
        NodeEnum::AArrayExpr(AArrayExpr { elements, list_start: _, list_end: _, location: _ }) => walk_all(elements),
        NodeEnum::List(List { items }) => walk_all(items),
        NodeEnum::AIndirection(e) => {
            let AIndirection { arg, indirection } = &**e;
            walk(arg.as_deref())?;
            walk_all(indirection)
        }
        NodeEnum::AIndices(e) => {
            let AIndices { is_slice: _, lidx, uidx } = &**e;
            walk(lidx.as_deref())?;
            walk(uidx.as_deref())
        }
        NodeEnum::CollateClause(e) => {
            let CollateClause { arg, collname: _, location: _ } = &**e;
            walk(arg.as_deref())
        }
        NodeEnum::TypeCast(e) => {
            let TypeCast { arg, type_name, location } = &**e;
            walk_type(type_name.as_ref(), *location)?;
            walk(arg.as_deref())
        }
        NodeEnum::SqlvalueFunction(e) => {
            let SqlValueFunction { xpr: _, op: _, r#type: _, typmod: _, location: _ } = &**e;
            Ok(())
        }
        NodeEnum::FuncCall(call) => walk_call(call),
        NodeEnum::SubLink(e) => refuse("a subquery", e.location),
        NodeEnum::ParamRef(e) => refuse("a parameter", e.location),
        NodeEnum::AStar(_) => refuse("`*`", 0),
        NodeEnum::GroupingFunc(e) => refuse("GROUPING", e.location),
        unlisted => refuse(&format!("this ({})", kind_name(unlisted)), 0),
    }
}

fn walk_column(column: &ColumnRef) -> Result<(), Refusal> {
    let ColumnRef { fields, location } = column;
    match fields.as_slice() {
        [Node { node: Some(NodeEnum::String(_)) }] => Ok(()),
        [.., Node { node: Some(NodeEnum::AStar(_)) }] => refuse("`*`", *location),
        _qualified => Err(("a column is written without its table's name in a policy".to_owned(), *location)),
    }
}

fn walk_type(type_name: Option<&TypeName>, location: i32) -> Result<(), Refusal> {
    let Some(type_name) = type_name else { return refuse("a cast without a type", location) };
    let TypeName { names: _, type_oid: _, setof, pct_type, typmods, typemod: _, array_bounds: _, location } = type_name;
    if *setof || *pct_type {
        return refuse("SETOF or %TYPE", *location);
    }
    walk_all(typmods)
}

fn walk_call(call: &FuncCall) -> Result<(), Refusal> {
    let FuncCall {
        funcname,
        args,
        agg_order,
        agg_filter,
        over,
        agg_within_group,
        agg_star,
        agg_distinct,
        func_variadic: _,
        funcformat: _,
        location,
    } = call;
    if over.is_some() {
        return refuse("a window function", *location);
    }
    let name = match funcname.last().and_then(|n| n.node.as_ref()) {
        Some(NodeEnum::String(name)) => name.sval.as_str(),
        Some(_) | None => return refuse("a function without a name", *location),
    };
    let looks_aggregate = !agg_order.is_empty() || agg_filter.is_some() || *agg_within_group || *agg_star || *agg_distinct;
    // Aggregates that the server knows beyond these are found when the policy meets the catalog.
    if looks_aggregate || AGGREGATES.contains(&name) {
        return refuse("an aggregate", *location);
    }
    walk_all(args)
}

const AGGREGATES: [&str; 17] = [
    "count",
    "sum",
    "avg",
    "min",
    "max",
    "array_agg",
    "string_agg",
    "bool_and",
    "bool_or",
    "every",
    "bit_and",
    "bit_or",
    "json_agg",
    "jsonb_agg",
    "json_object_agg",
    "jsonb_object_agg",
    "xmlagg",
];

/// `XmlExpr` of `XmlExpr(..)`.
fn kind_name(node: &NodeEnum) -> String {
    let text = format!("{node:?}");
    text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_over_own_columns_pass() {
        for text in [
            "region = 'EU'",
            "region IN ('EU', 'UK') AND NOT archived",
            "lower(region) = 'eu' -- comment",
            "CASE WHEN a IS NULL THEN true ELSE b > 1 END",
            "(data ->> 'region') = ANY (ARRAY['EU'])",
            "created_at::date < CURRENT_DATE",
            "(coalesce(a, b))[1] IS NOT DISTINCT FROM 2",
            "\"Odd\" LIKE 'x%' COLLATE \"C\"",
        ] {
            assert_eq!(check_rule(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_at_its_place() {
        for (text, message, at) in [
            ("region = ", "end of input", "="),
            ("region == 'EU' AND AND x", "at or near \"AND\"", "AND"),
            ("a FROM", "at end of input", "M"),
            ("a FROM b", "more than one expression", "a FROM b"),
            ("a, b", "more than one expression", "a, b"),
            ("true; DELETE FROM t", "more than one expression", "true; DELETE FROM t"),
            ("a) OR (b", "at or near \")\"", ")"),
            ("id IN (SELECT 1)", "a subquery", "IN"),
            ("EXISTS (SELECT 1)", "a subquery", "EXISTS"),
            ("a = count(*)", "an aggregate", "count"),
            ("sum(a) > 1", "an aggregate", "sum"),
            ("row_number() OVER () = 1", "a window function", "row_number"),
            ("a = $1", "a parameter", "$"),
            ("t.a = 1", "without its table's name", "t"),
            ("*", "more than one expression", "*"),
            ("a = t.*", "`*`", "t"),
            ("a AS b", "more than one expression", "a AS b"),
            ("'x", "unterminated quoted string", "'x"),
            ("", "no expression", ""),
            ("xmlparse(document a) IS NULL", "XmlExpr", "xmlparse(document a) IS NULL"),
        ] {
            let fault = check_rule(text).expect_err(text);
            assert!(fault.message.contains(message), "{text}: {fault:?}");
            assert_eq!(&text[fault.span], at, "{text}");
        }
    }
}
