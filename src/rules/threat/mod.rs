//! The rules, one file each: the doc comment is its manual.

pub mod behaviour;
pub mod bound_values;
pub mod broken_protocol;
pub mod broken_text;
pub mod canary;
pub mod canary_row;
pub mod capability;
pub mod constant_condition;
pub mod conversion;
pub mod failures;
pub mod grafted_statement;
pub mod letter;
pub mod logins;
pub mod slow_call;
pub mod spelled_text;
pub mod stacked_statements;
pub mod tautology;
pub mod union_of_catalog;
pub mod union_of_constants;
pub mod unknown_statement;

use pg_query::protobuf::a_const::Val;
use pg_query::protobuf::{AExpr, AExprKind, BoolExprType, FuncCall, SelectStmt, SetOperation};
use pg_query::{Node, NodeEnum};

use crate::sql::tree::{as_string, each_child};

/// Whether that is found of any node of a statement.
fn any(node: &Node, found: &mut dyn FnMut(&NodeEnum) -> bool) -> bool {
    let Some(kind) = &node.node else { return false };
    let mut hit = found(kind);
    if !hit {
        each_child(node, &mut |child| hit = hit || any(child, found));
    }
    hit
}

/// The same, of what is no node of its own in the tree.
fn any_in(kind: &NodeEnum, found: &mut dyn FnMut(&NodeEnum) -> bool) -> bool {
    any(&Node { node: Some(kind.clone()) }, found)
}

/// A constant, cast or not; a row of them.
fn is_constant(node: &Node) -> bool {
    match &node.node {
        Some(NodeEnum::AConst(_)) => true,
        Some(NodeEnum::TypeCast(cast)) => cast.arg.as_deref().is_some_and(is_constant),
        Some(NodeEnum::RowExpr(row)) => row.args.iter().all(is_constant),
        Some(NodeEnum::AArrayExpr(array)) => array.elements.iter().all(is_constant),
        Some(_) | None => false,
    }
}

/// Whether a condition compares constants with each other, or something with itself: it says nothing about any row.
fn says_nothing(condition: &Node) -> bool {
    match &condition.node {
        Some(NodeEnum::AExpr(expr)) => compares_nothing(expr),
        // `OR true`, `OR 'x'`; a list of alternatives may begin with `false`, as a driver's does.
        Some(NodeEnum::AConst(constant)) => !matches!(&constant.val, Some(Val::Boolval(value)) if !value.boolval),
        Some(NodeEnum::TypeCast(_)) => is_constant(condition),
        Some(NodeEnum::BoolExpr(not)) if not.boolop() == BoolExprType::NotExpr => not.args.iter().all(says_nothing),
        Some(_) | None => false,
    }
}

fn compares_nothing(expr: &AExpr) -> bool {
    let (Some(left), Some(right)) = (expr.lexpr.as_deref(), expr.rexpr.as_deref()) else { return false };
    let compares = matches!(
        expr.kind(),
        AExprKind::AexprOp | AExprKind::AexprLike | AExprKind::AexprIlike | AExprKind::AexprIn | AExprKind::AexprBetween
    );
    let list = |node: &Node| match &node.node {
        Some(NodeEnum::List(list)) => list.items.iter().all(is_constant),
        Some(_) | None => is_constant(node),
    };
    compares && (is_constant(left) && list(right) || same(left, right))
}

/// Two references to the same column.
fn same(left: &Node, right: &Node) -> bool {
    let fields = |node: &Node| match &node.node {
        Some(NodeEnum::ColumnRef(column)) => {
            column.fields.iter().map(|f| as_string(f).map(str::to_owned)).collect::<Option<Vec<String>>>()
        }
        Some(_) | None => None,
    };
    fields(left).is_some_and(|left| fields(right) == Some(left))
}

/// The first arm of a set operation.
fn first_arm(select: &SelectStmt) -> &SelectStmt {
    select.larg.as_deref().map_or(select, first_arm)
}

/// The arms of a set operation, but for the first.
fn later_arms<'s>(select: &'s SelectStmt, visit: &mut dyn FnMut(&'s SelectStmt)) {
    if select.op() == SetOperation::SetopNone {
        return;
    }
    if let Some(left) = &select.larg {
        later_arms(left, visit);
    }
    if let Some(right) = &select.rarg {
        match right.op() {
            SetOperation::SetopNone | SetOperation::Undefined => visit(right),
            SetOperation::SetopUnion | SetOperation::SetopIntersect | SetOperation::SetopExcept => later_arms(right, visit),
        }
    }
}

/// The last part of a function's name.
fn function_name(call: &FuncCall) -> &str {
    call.funcname.last().and_then(as_string).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use crate::rules::{Looks, RULES, Rule, Signs};
    use crate::sql::parse;

    /// Which rules find something in the form of these texts, as the gate reads them.
    pub fn found(sql: &str) -> Vec<&'static str> {
        let tree = parse::parse(sql).unwrap_or_else(|denial| panic!("{sql}: {denial}"));
        Signs::of(&tree).rules().map(|(_, rule)| rule.name).collect()
    }

    pub fn check(rule: &Rule, suspicious: &[&str], ordinary: &[&str]) {
        for sql in suspicious {
            assert!(found(sql).contains(&rule.name), "{} does not find {sql}", rule.name);
        }
        for sql in ordinary {
            assert!(!found(sql).contains(&rule.name), "{} finds {sql}", rule.name);
        }
    }

    /// What ORMs and people write.
    #[test]
    fn ordinary_statements_have_no_signs() {
        for sql in [
            "SELECT 1",
            "SELECT 1 WHERE 1 = 1",
            "SELECT * FROM a WHERE 1 = 1 AND id = 5 AND b = 'x'",
            "SELECT * FROM a WHERE (id = 5 OR id = 6) AND deleted IS NULL",
            "SELECT 1 AS one FROM a WHERE a.id = 7 LIMIT 1",
            "SELECT (1) AS \"a\" FROM \"auth_user\" WHERE \"auth_user\".\"id\" = 1 LIMIT 1",
            "SELECT count(*) FROM (SELECT id FROM a UNION ALL SELECT id FROM b) AS both_of_them",
            "SELECT id, 'a' AS kind FROM a UNION ALL SELECT id, 'b' AS kind FROM b",
            "INSERT INTO a (x) VALUES (1), (2) ON CONFLICT DO NOTHING RETURNING id",
            "UPDATE a SET n = n + 1 WHERE id = 3 RETURNING n",
            "SELECT CAST(a.id AS text) FROM a WHERE CAST('2020-01-01' AS date) < a.day",
            "SELECT a.id FROM a WHERE a.x = ANY (ARRAY[1, 2]) AND a.y BETWEEN 1 AND 9",
            "DELETE FROM a WHERE false",
            "SELECT n.nspname FROM pg_catalog.pg_namespace n WHERE n.nspname !~ '^pg_'",
            "SELECT pg_catalog.version()",
            // Of pgJDBC: getTables, and what columns of a result may be null.
            "SELECT c.relname FROM pg_catalog.pg_class c WHERE true AND (false OR (c.relkind = 'r' AND c.relname !~ '^pg_'))",
            "SELECT a.attname FROM pg_attribute a JOIN (SELECT 1 AS oid, 2 AS attnum UNION ALL SELECT 3, 4) v ON v.oid = a.attrelid",
            // Of asyncpg: what a type is made of.
            "WITH RECURSIVE tree(oid, depth) AS (SELECT t.oid, 0 FROM pg_type t UNION ALL SELECT t.typelem, tree.depth + 1 FROM pg_type t, tree) SELECT * FROM tree",
        ] {
            assert_eq!(found(sql), Vec::<&str>::new(), "{sql}");
        }
        assert!(RULES.iter().any(|rule| matches!(rule.looks, Looks::AtForm(_))));
    }
}
