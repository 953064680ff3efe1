//! The second reading: a parser that shares nothing with PostgreSQL's reads the same text and must see the same
//! statement: its kind, the relations it names, the functions it calls, its parameters. Disagreement is an attack or a bug.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use pg_query::NodeEnum;
use pg_query::protobuf::{ParseResult, Token};
use serde_json::Value as Json;
use sqlparser::ast::{CopySource, Expr, ObjectName, SetExpr, Statement, TableFactor, Value, ValueWithSpan, Visit, Visitor};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::{Parser, ParserError};

use super::parse;
use crate::finding::Denial;

/// What came of reading a statement a second time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecondReading {
    /// Both read the same, from the text itself.
    Agrees,
    /// The text is beyond the second parser, but it reads PostgreSQL's own normal form of the tree the same.
    AgreesOnNormalForm,
    /// Neither can be read: what the second parser says. The caller decides.
    Unavailable(String),
    /// A utility statement, in which there is nothing to compare.
    NotApplicable,
}

/// Reads `text`, whose tree is `tree`, a second time.
///
/// # Errors
/// The readings differ.
pub fn read(text: &str, tree: &ParseResult) -> Result<SecondReading, Denial> {
    let [statement] = tree.stmts.as_slice() else { return Err(Denial::disagreement("not one statement")) };
    let Some(node) = statement.stmt.as_ref().and_then(|n| n.node.as_ref()) else {
        return Err(Denial::disagreement("an empty statement"));
    };
    let Some(kind) = kind_of_node(node) else { return Ok(SecondReading::NotApplicable) };
    let json = serde_json::to_value(tree).map_err(|_| Denial::disagreement("a tree that cannot be walked"))?;
    let ours = facts_of_tree(kind, &json);
    let direct = parse_statements(text);
    if let Ok(statements) = &direct
        && !has_foreign_forms(&json)
    {
        return match compare(&ours, &facts_of_statements(statements)) {
            None => Ok(SecondReading::Agrees),
            Some(difference) => Err(Denial::disagreement(difference)),
        };
    }
    match normal_form(tree).and_then(|normal| parse_statements(&normal)) {
        Ok(statements) => match compare(&ours, &facts_of_statements(&statements)) {
            None => Ok(SecondReading::AgreesOnNormalForm),
            Some(difference) => Err(Denial::disagreement(difference)),
        },
        Err(reason) => Ok(SecondReading::Unavailable(direct.err().unwrap_or(reason))),
    }
}

/// The tree printed, without ONLY: the second parser knows none (it takes it for a table's name).
fn normal_form(tree: &ParseResult) -> Result<String, String> {
    let reason = |d: Denial| d.error.message.into_owned();
    let printed = parse::print(tree).map_err(reason)?;
    let mut text = String::with_capacity(printed.len());
    let mut copied = 0;
    for token in parse::scan(&printed).map_err(reason)? {
        if token.token() == Token::Only {
            text.push_str(&printed[copied..token.start as usize]);
            copied = token.end as usize;
        }
    }
    text.push_str(&printed[copied..]);
    Ok(text)
}

/// Forms that the second parser reads as something else without an error: ONLY.
fn has_foreign_forms(json: &Json) -> bool {
    let mut found = false;
    walk_json(json, &mut |_, value| {
        found |= relation_of_json(value).is_some() && value.get("inh").and_then(Json::as_bool) == Some(false);
    });
    found
}

/// What both readings must have in common.
#[derive(Debug, Default, PartialEq, Eq)]
struct Facts {
    kind: &'static str,
    /// Names as written, folded, with how often.
    relations: BTreeMap<String, usize>,
    functions: BTreeSet<String>,
    parameters: BTreeSet<String>,
}

fn compare(ours: &Facts, theirs: &Facts) -> Option<String> {
    if ours.kind != theirs.kind {
        Some(format!("kind of statement ({} or {})", ours.kind, theirs.kind))
    } else if ours.relations != theirs.relations {
        Some(format!("relations ({:?} or {:?})", ours.relations.keys(), theirs.relations.keys()))
    } else if ours.functions != theirs.functions {
        let difference: Vec<_> = ours.functions.symmetric_difference(&theirs.functions).collect();
        Some(format!("functions ({difference:?})"))
    } else if ours.parameters != theirs.parameters {
        Some("parameters".to_owned())
    } else {
        None
    }
}

/// Functions that are syntax to one of the parsers; names without schema.
const SYNTAX_FUNCTIONS: [&str; 62] = [
    "array",
    "any",
    "all",
    "some",
    "btrim",
    "cast",
    "ceil",
    "ceiling",
    "coalesce",
    "collation for",
    "convert",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "date_part",
    "exists",
    "extract",
    "floor",
    "greatest",
    "grouping",
    "is_normalized",
    "json",
    "json_array",
    "json_arrayagg",
    "json_exists",
    "json_object",
    "json_objectagg",
    "json_query",
    "json_scalar",
    "json_serialize",
    "json_table",
    "json_value",
    "least",
    "like_escape",
    "localtime",
    "localtimestamp",
    "ltrim",
    "merge_action",
    "normalize",
    "nullif",
    "overlaps",
    "overlay",
    "pg_collation_for",
    "position",
    "row",
    "rtrim",
    "session_user",
    "similar_to_escape",
    "substr",
    "substring",
    "system_user",
    "timezone",
    "treat",
    "trim",
    "unnest",
    "user",
    "xmlexists",
    "interval",
];

fn is_syntax_function(name: &str) -> bool {
    let bare = name.strip_prefix("pg_catalog.").unwrap_or(name);
    SYNTAX_FUNCTIONS.contains(&bare) || bare.starts_with("xml")
}

fn kind_of_node(node: &NodeEnum) -> Option<&'static str> {
    if let NodeEnum::ExplainStmt(_) = node {
        Some("explain")
    } else if let NodeEnum::SelectStmt(_) = node {
        Some("select")
    } else if let NodeEnum::InsertStmt(_) = node {
        Some("insert")
    } else if let NodeEnum::UpdateStmt(_) = node {
        Some("update")
    } else if let NodeEnum::DeleteStmt(_) = node {
        Some("delete")
    } else if let NodeEnum::MergeStmt(_) = node {
        Some("merge")
    } else if let NodeEnum::CopyStmt(_) = node {
        Some("copy")
    } else if let NodeEnum::PrepareStmt(_) = node {
        Some("prepare")
    } else if let NodeEnum::DeclareCursorStmt(_) = node {
        Some("declare")
    } else {
        None
    }
}

fn facts_of_tree(kind: &'static str, json: &Json) -> Facts {
    let mut facts = Facts { kind, ..Facts::default() };
    walk_json(json, &mut |name, value| {
        if let Some(relation) = relation_of_json(value) {
            *facts.relations.entry(relation).or_default() += 1;
        } else if name == "FuncCall" {
            let parts = value.get("funcname").and_then(Json::as_array).into_iter().flatten();
            let name = parts.filter_map(string_of_json).collect::<Vec<_>>().join(".");
            if !is_syntax_function(&name) {
                facts.functions.insert(name);
            }
        } else if name == "ParamRef"
            && let Some(number) = value.get("number").and_then(Json::as_i64)
        {
            facts.parameters.insert(format!("${number}"));
        }
    });
    facts
}

fn string_of_json(node: &Json) -> Option<&str> {
    node.get("node")?.get("String")?.get("sval")?.as_str()
}

fn relation_of_json(value: &Json) -> Option<String> {
    let part = |name: &str| value.get(name).and_then(Json::as_str);
    let parts = [part("catalogname")?, part("schemaname")?, part("relname")?];
    Some(parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join("."))
}

/// Calls `f` with each field or variant and its value, but for `FOR UPDATE OF`, whose names are aliases.
fn walk_json(value: &Json, f: &mut impl FnMut(&str, &Json)) {
    match value {
        Json::Object(map) => {
            // `SET (a, b) = source` has its source once a column: it is the same one.
            if map.contains_key("ncolumns") && map.get("colno").and_then(Json::as_i64).is_some_and(|n| n > 1) {
                return;
            }
            for (name, value) in map.iter().filter(|(name, _)| *name != "locked_rels") {
                f(name, value);
                walk_json(value, f);
            }
        }
        Json::Array(items) => items.iter().for_each(|item| walk_json(item, f)),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => {}
    }
}

/// Nesting that the second parser may use; its own default elsewhere.
const LARGE_RECURSION: usize = 1_000;

fn parse_statements(text: &str) -> Result<Vec<Statement>, String> {
    let parse = |limit: Option<usize>| {
        let parser = Parser::new(&PostgreSqlDialect {});
        let parser = if let Some(limit) = limit { parser.with_recursion_limit(limit) } else { parser };
        parser.try_with_sql(text).and_then(|mut p| p.parse_statements())
    };
    match parse(None) {
        Err(ParserError::RecursionLimitExceeded) => {
            let again = parse::on_large_stack(|| parse(Some(LARGE_RECURSION)));
            again.map_err(|d| d.to_string())?.map_err(|e| e.to_string())
        }
        Ok(statements) => Ok(statements),
        Err(error) => Err(error.to_string()),
    }
}

fn facts_of_statements(statements: &[Statement]) -> Facts {
    let [statement] = statements else { return Facts { kind: "several", ..Facts::default() } };
    let mut collector =
        Collector { facts: Facts { kind: kind_of_statement(statement), ..Facts::default() }, table_functions: Vec::new() };
    let _ = statement.visit(&mut collector);
    collector.facts
}

fn kind_of_statement(statement: &Statement) -> &'static str {
    if let Statement::Query(query) = statement {
        return kind_of_body(&query.body);
    }
    let kinds = [
        (matches!(statement, Statement::Insert(_)), "insert"),
        (matches!(statement, Statement::Update(_)), "update"),
        (matches!(statement, Statement::Delete(_)), "delete"),
        (matches!(statement, Statement::Merge(_)), "merge"),
        (matches!(statement, Statement::Copy { .. }), "copy"),
        (matches!(statement, Statement::Explain { .. }), "explain"),
        (matches!(statement, Statement::Prepare { .. }), "prepare"),
        (matches!(statement, Statement::Declare { .. }), "declare"),
    ];
    kinds.into_iter().find_map(|(is, kind)| is.then_some(kind)).unwrap_or("other")
}

/// `WITH .. INSERT` is a query with a body.
fn kind_of_body(body: &SetExpr) -> &'static str {
    match body {
        SetExpr::Select(_) | SetExpr::SetOperation { .. } | SetExpr::Values(_) | SetExpr::Table(_) => "select",
        SetExpr::Query(query) => kind_of_body(&query.body),
        SetExpr::Insert(_) => "insert",
        SetExpr::Update(_) => "update",
        SetExpr::Delete(_) => "delete",
        SetExpr::Merge(_) => "merge",
    }
}

struct Collector {
    facts: Facts,
    /// Names that are visited as relations next, but are functions in FROM.
    table_functions: Vec<String>,
}

impl Collector {
    fn relation(&mut self, name: String) {
        *self.facts.relations.entry(name).or_default() += 1;
    }

    fn function(&mut self, name: String) {
        if !is_syntax_function(&name) {
            self.facts.functions.insert(name);
        }
    }
}

impl Visitor for Collector {
    type Break = ();

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        let name = name_of(relation);
        match self.table_functions.iter().rposition(|f| *f == name) {
            Some(i) => {
                self.table_functions.remove(i);
            }
            None => self.relation(name),
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, args: Some(_), .. } = factor {
            self.function(name_of(name));
            self.table_functions.push(name_of(name));
        } else if let TableFactor::Function { name, .. } = factor {
            self.function(name_of(name));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &sqlparser::ast::Query) -> ControlFlow<()> {
        self.tables_of(&query.body);
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr {
            self.function(name_of(&function.name));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_statement(&mut self, statement: &Statement) -> ControlFlow<()> {
        if let Statement::Copy { source: CopySource::Table { table_name, .. }, .. } = statement {
            self.relation(name_of(table_name));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_value(&mut self, value: &ValueWithSpan) -> ControlFlow<()> {
        if let Value::Placeholder(name) = &value.value {
            self.facts.parameters.insert(name.clone());
        }
        ControlFlow::Continue(())
    }
}

impl Collector {
    /// `TABLE x`, which the library does not visit as a relation, in a query's arms.
    fn tables_of(&mut self, body: &SetExpr) {
        if let SetExpr::Table(table) = body {
            let parts = [table.schema_name.as_deref(), table.table_name.as_deref()];
            // The quotes are lost; PostgreSQL's reading decides, and the names are compared folded.
            self.relation(parts.into_iter().flatten().map(fold).collect::<Vec<_>>().join("."));
        } else if let SetExpr::SetOperation { left, right, .. } = body {
            self.tables_of(left);
            self.tables_of(right);
        }
    }
}

fn name_of(name: &ObjectName) -> String {
    let part = |part: &sqlparser::ast::ObjectNamePart| match part.as_ident() {
        Some(ident) if ident.quote_style.is_none() => truncate(&fold(&ident.value)).to_owned(),
        Some(ident) => truncate(&ident.value).to_owned(),
        None => part.to_string(),
    };
    name.0.iter().map(part).collect::<Vec<_>>().join(".")
}

fn fold(name: &str) -> String {
    name.to_ascii_lowercase()
}

/// Names are cut at 63 bytes, on a character's boundary.
fn truncate(name: &str) -> &str {
    &name[..name.floor_char_boundary(63)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(text: &str) -> Result<SecondReading, Denial> {
        read(text, &parse::parse(text).unwrap_or_else(|d| panic!("{text}: {d}")))
    }

    #[test]
    fn ordinary_statements_read_the_same() {
        for text in [
            "SELECT a, count(*) FROM public.t x JOIN \"T\" USING (id) WHERE b = $1 GROUP BY 1",
            "WITH w AS (SELECT 1) SELECT * FROM w, LATERAL generate_series(1, 2) g, f(3)",
            "INSERT INTO t (a) VALUES ($1) ON CONFLICT (a) DO UPDATE SET a = excluded.a RETURNING id",
            "UPDATE t SET a = 1 FROM u WHERE t.id = u.id",
            "DELETE FROM t USING u WHERE t.id = u.id",
            "WITH w AS (SELECT 1) INSERT INTO t SELECT * FROM w",
            "SELECT 1 FROM t FOR UPDATE OF t SKIP LOCKED",
            "COPY (SELECT 1 FROM t) TO STDOUT",
            "EXPLAIN SELECT 1 FROM t",
        ] {
            assert_eq!(second(text), Ok(SecondReading::Agrees), "{text}");
        }
        for text in ["TABLE accounts", "SELECT * FROM ONLY accounts", "UPDATE ONLY t SET a = 1", "SELECT 1 FROM U&\"\\0061\""] {
            assert_eq!(second(text), Ok(SecondReading::AgreesOnNormalForm), "{text}");
        }
        assert_eq!(second("BEGIN"), Ok(SecondReading::NotApplicable));
    }

    #[test]
    fn differences_are_found() {
        let tree = parse::parse("SELECT f(a) FROM t WHERE b = $1").unwrap();
        assert_eq!(read("SELECT f(a) FROM t WHERE b = $1", &tree), Ok(SecondReading::Agrees));
        for other in [
            "SELECT f(a) FROM u WHERE b = $1",
            "SELECT f(a) FROM t, t WHERE b = $1",
            "SELECT f(a) FROM s.t WHERE b = $1",
            "SELECT f(a) FROM \"T\" WHERE b = $1",
            "SELECT g(a) FROM t WHERE b = $1",
            "SELECT f(a) FROM t WHERE b = $2",
            "SELECT f(a) FROM t WHERE b = 1",
            "DELETE FROM t WHERE f(a) = $1",
            "SELECT f(a) FROM t WHERE b = $1; SELECT 1",
        ] {
            assert!(read(other, &tree).is_err(), "{other}");
        }
    }
}
