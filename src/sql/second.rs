//! The second reading: a parser that shares nothing with PostgreSQL's reads the same text and must see the same statement:
//! its kind, the relations it names, the functions it calls, its parameters; and what it prints must be the same tree again.
//! Disagreement is an attack or a bug. What it cannot read, or is known to read as something else without an error, it reads
//! in a [`plain`] form. `make regress` measures how often both agree.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{ControlFlow, Range};

use pg_query::NodeEnum;
use pg_query::protobuf::{ParseResult, ScanToken, Token};
use serde_json::Value as Json;
use sqlparser::ast::{
    CopySource, Expr, Ident, ObjectName, ObjectNamePart, SetExpr, Statement, TableFactor, Value, ValueWithSpan, Visit, Visitor,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::keywords::{ALL_KEYWORDS, ALL_KEYWORDS_INDEX, RESERVED_FOR_COLUMN_ALIAS, RESERVED_FOR_TABLE_ALIAS};
use sqlparser::parser::Parser;
use sqlparser::tokenizer::Tokenizer;

use super::parse;
use crate::finding::Denial;
use crate::sql::shape;

mod plain;

/// What came of reading a statement a second time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecondReading {
    /// Both read the same, from the text itself.
    Agrees,
    /// The text is beyond the second parser, but it reads PostgreSQL's own normal form of the tree the same.
    AgreesOnNormalForm,
    /// A utility statement, in which there is nothing to compare.
    NotApplicable,
}

/// Reads `text`, whose tree is `tree`, a second time.
///
/// # Errors
/// The readings differ (a `disagreement`), or there is no second reading (`unsupported`, with what the second parser says):
/// no statement goes on with one reading alone.
pub fn read(text: &str, tree: &ParseResult) -> Result<SecondReading, Denial> {
    let [statement] = tree.stmts.as_slice() else { return Err(Denial::disagreement("not one statement")) };
    let Some(node) = statement.stmt.as_ref().and_then(|n| n.node.as_ref()) else {
        return Err(Denial::disagreement("an empty statement"));
    };
    let Some(kind) = kind_of_node(node) else { return Ok(SecondReading::NotApplicable) };
    let json = serde_json::to_value(tree).map_err(|_| Denial::disagreement("a tree that cannot be walked"))?;
    let ours = facts_of_tree(kind, &json);
    let direct = if has_foreign_forms(text, &json) { None } else { parse_statements(text).ok() };
    if let Some(statements) = direct.filter(|s| !has_foreign_aliases(s)) {
        agree(&ours, tree, &statements)?;
        return Ok(SecondReading::Agrees);
    }
    let mut plain = tree.clone();
    plain::rewrite(&mut plain);
    let read_printed = |printed: &str| {
        let statements = parse_statements(&with_quotes(printed)?).map_err(unreadable)?;
        agree(&ours, &plain, &statements)
    };
    // What is read there is compared with the tree itself: whether the text reads back as the tree need not be asked first.
    read_printed(&parse::deparse(&plain)?).or_else(|_| read_printed(parse::print(&plain)?.text()))?;
    Ok(SecondReading::AgreesOnNormalForm)
}

/// # Errors
/// The statements are not the tree that was read, or do not have what ours has.
fn agree(ours: &Facts, tree: &ParseResult, statements: &[Statement]) -> Result<(), Denial> {
    match compare(ours, &facts_of_statements(statements)) {
        Some(difference) => Err(Denial::disagreement(difference)),
        None if reads_back(statements, tree) => Ok(()),
        None => Err(Denial::disagreement("structure")),
    }
}

/// Whether what the second parser understood, printed by it, is the same tree to PostgreSQL's parser: every name, operator
/// and place of a literal counts.
fn reads_back(statements: &[Statement], tree: &ParseResult) -> bool {
    let [statement] = statements else { return false };
    parse::parse(&statement.to_string()).is_ok_and(|again| shape::shape(&again) == shape::shape(tree))
}

/// What the second parser says names the construct; its columns count in a text that nobody sees.
fn unreadable(message: String) -> Denial {
    let message = message.split(" at Line: ").next().unwrap_or_default().trim_start_matches("sql parser error: ");
    Denial::unsupported(format!("statement cannot be secured: only one of two parsers reads it ({message})"))
}

/// Forms that the second parser reads as something else without an error: ONLY, TABLESAMPLE, ROLLUP within GROUPING SETS,
/// VALUES as an expression, SELECT of nothing, a frame's bound that is a string, `interval(p)`, `U&"name"`, names that are
/// words to it, operators that it takes apart; and what it does not print as it read it: options of COPY and EXPLAIN, LIMIT ALL, `- -x` (as a comment).
fn has_foreign_forms(text: &str, json: &Json) -> bool {
    let mut found = parse::scan(text).is_ok_and(|tokens| has_foreign_tokens(text, &tokens));
    walk_json(json, &mut |name, value| {
        found |= matches!(name, "RangeTableSample" | "GroupingSet" | "JsonIsPredicate" | "JsonFuncExpr");
        let Json::Object(fields) = value else { return };
        let list = |name: &str| fields.get(name).and_then(Json::as_array);
        let is_empty = |name: &str| list(name).is_some_and(Vec::is_empty);
        found |= fields.get("inh").and_then(Json::as_bool) == Some(false) && relation_of_json(value).is_some();
        found |= is_empty("target_list") && is_empty("values_lists") && fields.get("larg").is_some_and(Json::is_null);
        let last_name = || list("names").and_then(|names| names.last()).and_then(string_of_json);
        found |= !is_empty("typmods") && last_name() == Some("interval");
        found |= match name {
            "start_offset" | "end_offset" => find(value, &["node", "AConst", "val", "Sval"]).is_some(),
            "limit_count" => find(value, &["node", "AConst", "isnull"]).and_then(Json::as_bool) == Some(true),
            "SubLink" => find(value, &["subselect", "node", "SelectStmt", "values_lists"])
                .and_then(Json::as_array)
                .is_some_and(|lists| !lists.is_empty()),
            "CopyStmt" | "ExplainStmt" => !is_empty("options"),
            _ => false, // tidy: not a syntax kind
        };
    });
    found
}

fn has_foreign_tokens(text: &str, tokens: &[ScanToken]) -> bool {
    let is_operator = |t: &ScanToken| matches!(t.token(), Token::Op | Token::Ascii43 | Token::Ascii45);
    let is_taken_apart = |t: &ScanToken| t.token() == Token::Op && !is_one_token(&text[t.start as usize..t.end as usize]);
    tokens.iter().any(|t| text[t.start as usize..].starts_with(['U', 'u']) && text[t.start as usize + 1..].starts_with("&\""))
        || tokens.windows(2).any(|pair| pair.iter().all(is_operator))
        || tokens.iter().any(is_taken_apart)
        || foreign_words(text, tokens).next().is_some()
}

/// Whether an operator is one to the second parser too: it takes `@@@` for `@@` and `@`.
fn is_one_token(operator: &str) -> bool {
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, operator).tokenize();
    tokens.is_ok_and(|tokens| matches!(tokens.as_slice(), [one] if one.to_string() == operator))
}

/// Where names stand without quotes that are reserved words to the second parser only (`FROM a anti JOIN b`).
fn foreign_words(text: &str, tokens: &[ScanToken]) -> impl Iterator<Item = Range<usize>> {
    let is_reserved = |word: &str| {
        let at = ALL_KEYWORDS.binary_search(&word.to_ascii_uppercase().as_str());
        let keyword = at.ok().map(|i| ALL_KEYWORDS_INDEX[i]);
        keyword.is_some_and(|k| RESERVED_FOR_TABLE_ALIAS.contains(&k) || RESERVED_FOR_COLUMN_ALIAS.contains(&k))
    };
    let names = tokens.iter().filter(|t| t.token() == Token::Ident).map(|t| t.start as usize..t.end as usize);
    names.filter(move |range| is_reserved(&text[range.clone()]))
}

/// Such names in quotes, and words behind a dot: it takes `pg_catalog.ceil` for its own CEIL. The text is what libpg_query
/// printed: its names are folded.
fn with_quotes(printed: &str) -> Result<String, Denial> {
    let tokens = parse::scan(printed)?;
    let behind_dots = tokens.windows(2).filter(|pair| pair[0].token() == Token::Ascii46).map(|pair| &pair[1]);
    let behind_dots = behind_dots.map(|t| t.start as usize..t.end as usize);
    let is_keyword =
        |range: &Range<usize>| ALL_KEYWORDS.binary_search(&printed[range.clone()].to_ascii_uppercase().as_str()).is_ok();
    let mut words: Vec<_> = behind_dots.filter(is_keyword).chain(foreign_words(printed, &tokens)).collect();
    words.sort_by_key(|word| word.start);
    words.dedup();
    let mut text = printed.to_owned();
    for word in words.into_iter().rev() {
        text.insert(word.end, '"');
        text.insert(word.start, '"');
    }
    Ok(text)
}

/// `type 'text'` of a type that the second parser does not know: it takes the text for a name.
fn has_foreign_aliases(statements: &[Statement]) -> bool {
    let mut finder = ForeignAliases(false);
    let _ = statements.iter().try_for_each(|s| s.visit(&mut finder));
    finder.0
}

struct ForeignAliases(bool);

impl Visitor for ForeignAliases {
    type Break = ();

    fn pre_visit_ident(&mut self, ident: &Ident) -> ControlFlow<()> {
        self.0 |= ident.quote_style == Some('\'');
        ControlFlow::Continue(())
    }
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
    } else if let NodeEnum::ExecuteStmt(_) = node {
        Some("execute")
    } else if let NodeEnum::DeclareCursorStmt(_) = node {
        Some("declare")
    } else if let NodeEnum::CreateTableAsStmt(_) = node {
        Some("create")
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

/// What is at a path of names.
fn find<'a>(value: &'a Json, path: &[&str]) -> Option<&'a Json> {
    path.iter().try_fold(value, |value, name| value.get(name))
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

/// Nesting that the second parser may use, where its own default does not do: two of its levels are one of ours.
const LARGE_RECURSION: usize = 2 * parse::MAX_DEPTH as usize;

fn parse_statements(text: &str) -> Result<Vec<Statement>, String> {
    let parse = |limit: Option<usize>| {
        let parser = Parser::new(&PostgreSqlDialect {});
        let parser = if let Some(limit) = limit { parser.with_recursion_limit(limit) } else { parser };
        parser.try_with_sql(text).and_then(|mut p| p.parse_statements()).map_err(|e| e.to_string())
    };
    // It may say something else than that its limit was reached.
    parse(None).or_else(|_| parse::on_large_stack(|| parse(Some(LARGE_RECURSION))).map_err(|d| d.to_string())?)
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
        (matches!(statement, Statement::Execute { .. }), "execute"),
        (matches!(statement, Statement::Declare { .. }), "declare"),
        (matches!(statement, Statement::CreateTable(_)), "create"),
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
    /// `TABLE x` and `INTO x`, which the library does not visit as relations, in a query's arms.
    fn tables_of(&mut self, body: &SetExpr) {
        if let SetExpr::Table(table) = body {
            let parts = [table.schema_name.as_deref(), table.table_name.as_deref()];
            // The quotes are lost; PostgreSQL's reading decides, and the names are compared folded.
            self.relation(parts.into_iter().flatten().map(fold).collect::<Vec<_>>().join("."));
        } else if let SetExpr::SetOperation { left, right, .. } = body {
            self.tables_of(left);
            self.tables_of(right);
        } else if let SetExpr::Select(select) = body
            && let Some(into) = &select.into
        {
            into.targets.iter().for_each(|target| self.relation(name_of_expr(target)));
        }
    }
}

fn name_of(name: &ObjectName) -> String {
    let part = |part: &ObjectNamePart| part.as_ident().map_or_else(|| part.to_string(), name_of_ident);
    name.0.iter().map(part).collect::<Vec<_>>().join(".")
}

/// A name where the second parser takes any expression.
fn name_of_expr(expr: &Expr) -> String {
    if let Expr::Identifier(ident) = expr {
        name_of_ident(ident)
    } else if let Expr::CompoundIdentifier(parts) = expr {
        parts.iter().map(name_of_ident).collect::<Vec<_>>().join(".")
    } else {
        expr.to_string()
    }
}

fn name_of_ident(ident: &Ident) -> String {
    let folded = if ident.quote_style.is_none() { fold(&ident.value) } else { ident.value.clone() };
    truncate(&folded).to_owned()
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
        assert_eq!(second("BEGIN"), Ok(SecondReading::NotApplicable));
    }

    #[test]
    fn what_the_second_parser_cannot_read_is_read_in_its_plain_form() {
        for text in [
            "TABLE accounts",
            "SELECT * FROM ONLY accounts",
            "UPDATE ONLY t SET a = 1",
            "SELECT 1 FROM U&\"\\0061\"",
            "SELECT",
            "SELECT * INTO t FROM ONLY u",
            "SELECT '1/2' > pg_lsn '1/2', interval(2) '1', (f(1)).*, format('', VARIADIC ARRAY[1])",
            "SELECT x::text COLLATE \"C\", a *< @-@ b, 1 * ANY (VALUES (f(1))), (VALUES (1))",
            "SELECT 1 FROM t WHERE a BETWEEN SYMMETRIC 1 AND 2 FOR NO KEY UPDATE",
            "SELECT sum(a) OVER (ORDER BY b RANGE BETWEEN f(1) PRECEDING AND '1'::interval FOLLOWING EXCLUDE TIES) FROM t",
            "SELECT a FROM t GROUP BY DISTINCT GROUPING SETS (ROLLUP (a, f(b)), ())",
            "SELECT * FROM ROWS FROM (f(1), g(2) AS (a int)) WITH ORDINALITY x (a, b), h() AS (c int), t TABLESAMPLE system (1)",
            "SELECT * FROM a JOIN b USING (id) AS j, XMLTABLE('/x' PASSING f(1) COLUMNS y int PATH '.' DEFAULT g(1))",
            "SELECT xmlelement(name a, xmlattributes(f(1) AS b), g(2)), xmlserialize(content f(1) AS text), x IS DOCUMENT FROM t",
            "WITH RECURSIVE w AS (SELECT 1 AS n UNION ALL SELECT n FROM w) SEARCH DEPTH FIRST BY n SET s CYCLE n SET c USING p TABLE w",
            "INSERT INTO t (a[1], b.c) OVERRIDING USER VALUE VALUES (1, 2)",
            "INSERT INTO t VALUES (1) ON CONFLICT (f(a) COLLATE \"C\") WHERE g(b) DO UPDATE SET a[1] = 2 RETURNING id",
            "UPDATE t SET a[f(1)] = 2, b.c = DEFAULT WHERE CURRENT OF x",
            "UPDATE t SET a = 1 RETURNING WITH (OLD AS o, NEW AS n) o.a, n.a",
            "COPY t TO STDOUT CSV FORCE QUOTE *",
            "COPY t FROM STDIN WHERE a > 1",
            "MERGE INTO t USING a JOIN b ON a.x = b.x ON t.x = a.x WHEN NOT MATCHED THEN INSERT DEFAULT VALUES",
            "DECLARE c CURSOR FOR SELECT * FROM ONLY t",
            "EXPLAIN SELECT * FROM ONLY t",
            "PREPARE p AS UPDATE t SET a[1] = $1",
            "SELECT E'\\'' FROM ONLY t",
            "SELECT - -a, - -1, @ -1 FROM t",
            "SELECT a @@@ b, c ?# d, e <<<-> f, g ?@ h FROM t WHERE f(i) @@@ ($1 #@# j)",
            "SELECT pg_catalog.overlay(a, b, 1, 2), NULL::pg_catalog.bpchar FROM ONLY t",
            "SELECT a IS JSON, a IS NOT JSON OBJECT WITH UNIQUE KEYS FROM t",
            "SELECT JSON_VALUE(a, '$.x' PASSING f(b) AS y RETURNING int DEFAULT g(1) ON EMPTY ERROR ON ERROR) FROM t",
            "SELECT JSON_QUERY(a, '$' WITH WRAPPER), JSON_EXISTS(a, $1) FROM t WHERE JSON_EXISTS(b, '$.x' ERROR ON ERROR)",
            "SELECT a FROM t LIMIT ALL OFFSET 1",
            "COPY t TO STDOUT (FORMAT csv, HEADER true)",
            "SELECT a FROM t qualify",
            "SELECT pg_catalog.ceil(a), pg_catalog.substr(b, 1), pg_catalog.date_part('x', c) FROM t",
            "SELECT 1 FROM a anti JOIN b ON anti.x = b.x",
        ] {
            assert_eq!(second(text), Ok(SecondReading::AgreesOnNormalForm), "{text}");
        }
    }

    /// The plain form leaves things out; what counts must not get lost with them.
    #[test]
    fn what_the_plain_form_has_no_place_for_is_refused() {
        for text in [
            "COPY t FROM STDIN WHERE a = f(1)",
            "COPY t FROM STDIN WHERE a IN (SELECT 1 FROM u)",
            "INSERT INTO t (a[f(1)]) VALUES (1)",
            "SELECT 1 FROM t TABLESAMPLE system (f(1))",
            "SELECT 1 FROM t TABLESAMPLE system (1) REPEATABLE ($1)",
            "UPDATE t SET (a[f(1)], b) = (SELECT 1, 2)",
        ] {
            assert!(second(text).is_err(), "{text}");
        }
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
            "SELECT f(b) FROM t WHERE b = $1",
            "SELECT f(a) FROM t WHERE b <> $1",
            "SELECT f(a) FROM t WHERE NOT b = $1",
            "SELECT f(a) FROM t WHERE $1 = b",
            "SELECT f(a) AS c FROM t WHERE b = $1",
            "SELECT f(a, 'x') FROM t WHERE b = $1",
        ] {
            assert!(read(other, &tree).is_err(), "{other}");
        }
    }
}
