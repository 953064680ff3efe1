//! Name resolution: turns a parse tree into one in which nothing depends on scope any more, and says what it touches.
//!
//! Normal form of the result: every range-table entry has an alias that is unique in the statement; relations are
//! schema-qualified; columns are `alias.column`; `*` is expanded; every output column has its name; NATURAL is USING, and
//! merged columns are named through the join's USING alias. Bare names remain only for output columns in ORDER BY, GROUP BY
//! and DISTINCT ON. TOTAL: what is not understood is a [`Denial`].
//!
//! The rules are those of parse_relation.c, parse_clause.c and parse_cte.c of PostgreSQL.

mod casts;
mod copy_from;
mod dml;
pub mod explain;
mod expr;
mod from;
mod hint;
mod merge;
pub mod names;
mod prepare;
mod query;
pub mod scope;
mod sequence;
mod table_function;
pub mod temporary;
pub mod utility;
mod view;

use std::collections::{BTreeSet, HashMap, HashSet};

use pg_query::protobuf::{CreateTableAsStmt, ObjectType};
use pg_query::{Node, NodeEnum};

use super::kinds::not_a_statement;
use super::types::{Environment, Typed};
use crate::catalog::{Catalog, Relation, TEMPORARY_SCHEMA};
use crate::error::{SqlError, sqlstate};
use crate::finding::{Denial, Reason};
pub use copy_from::CopyFrom;
pub use expr::WHOLE_ROW;
pub use query::{contains_aggregate_or_window, is_aggregate};
use scope::{Cte, Rte, RteColumn, RteId, RteKind, Scope};
use temporary::CreateTemporary;
use utility::Utility;
pub use view::levels_of_views;

/// What analysis depends on.
pub struct Context<'a> {
    pub catalog: &'a Catalog,
    pub search_path: &'a [Box<str>],
    /// Types that Parse declares; 0 where left open.
    pub parameter_types: &'a [u32],
    /// A setting that the application uses in the place of `bulkhead.tenant`.
    pub tenant_setting: Option<&'a str>,
    /// Views (pg_class.oid) that are read through their definitions.
    pub views: &'a HashSet<u32>,
    /// Settings of the application's own that policy admits, in lower case.
    pub settings: &'a [&'a str],
}

impl Context<'_> {
    /// Whether policy admits a setting of the application's own.
    fn is_admitted(&self, setting: &str) -> bool {
        self.settings.iter().any(|s| s.eq_ignore_ascii_case(setting))
    }

    fn is_tenant_setting(&self, name: &str) -> bool {
        name.eq_ignore_ascii_case(utility::TENANT_SETTING) || self.tenant_setting.is_some_and(|s| s.eq_ignore_ascii_case(name))
    }
}

/// A denial, void where literals were pinned before it: their stand-ins may be what was refused.
#[derive(Debug)]
pub struct Refusal {
    pub denial: Denial,
    pub pinned: BTreeSet<u16>,
}

impl Refusal {
    pub fn of(denial: Denial) -> Self {
        Refusal { denial, pinned: BTreeSet::new() }
    }
}

/// A function that a statement calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionUse {
    /// Every schema that has a candidate of that name.
    pub schemas: Vec<String>,
    pub name: String,
    /// pg_proc.oid of every candidate.
    pub candidates: Vec<u32>,
    /// Values of leading string arguments, for functions whose arguments name things; they are part of the template's key.
    pub arguments: Vec<Argument>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    Text(String),
    /// `$n`
    Parameter(u16),
    /// pg_class.oid of the sequence that it names.
    Sequence(u32),
    Other,
}

/// A statement, resolved.
pub struct Analysis {
    pub statement: Statement,
    pub rtes: Vec<Rte>,
    pub by_alias: HashMap<String, RteId>,
    pub functions: Vec<FunctionUse>,
    /// pg_operator.oid of candidates outside pg_catalog.
    pub foreign_operators: Vec<u32>,
    /// pg_proc.oid of functions that casts may call (`CREATE CAST .. WITH FUNCTION`).
    pub cast_functions: Vec<u32>,
    /// Literals whose value decides something. Not empty: put them into the key and analyse again; this analysis is void.
    pub pinned: BTreeSet<u16>,
    /// Highest parameter number.
    pub parameters: u16,
    pub parameter_types: Vec<u32>,
    /// How often each parameter stands in the statement, from $1.
    pub parameter_uses: Vec<usize>,
    /// Printed names of CTEs that refer to themselves: they are never inlined.
    pub recursive_ctes: Vec<String>,
}

pub enum Statement {
    /// SELECT, VALUES, TABLE, INSERT, UPDATE, DELETE, MERGE in normal form.
    Query(Node),
    /// `DECLARE name CURSOR FOR query`, the query in normal form.
    Declare {
        name: String,
        options: i32,
        query: Node,
    },
    /// `COPY (query) TO STDOUT`, the query in normal form.
    CopyTo {
        query: Node,
        options: Vec<Node>,
    },
    /// `COPY table FROM STDIN`
    CopyFrom(CopyFrom),
    /// `EXPLAIN query`, the query in normal form.
    Explain {
        options: explain::ExplainOptions,
        query: Node,
    },
    /// `PREPARE name AS query`, the query in normal form; the types that it declares are the analysis's.
    Prepare {
        name: String,
        query: Node,
    },
    /// `EXECUTE name (arguments)`: how many, and as the target list of a SELECT.
    Execute {
        name: String,
        arguments: usize,
        query: Node,
    },
    /// `CREATE TEMPORARY TABLE name AS query`
    CreateTemporary(Box<CreateTemporary>),
    Utility(Utility),
}

/// Resolves one statement.
///
/// # Errors
/// What PostgreSQL would raise for names that lead nowhere; 0A000 for what is not understood.
pub fn analyse(statement: Node, context: &Context<'_>) -> Result<Analysis, Refusal> {
    if let Some(NodeEnum::PrepareStmt(prepare)) = statement.node {
        return prepare::prepare(*prepare, context);
    }
    analyse_here(statement, context)
}

fn analyse_here(statement: Node, context: &Context<'_>) -> Result<Analysis, Refusal> {
    let mut analyser = Analyser::new(context);
    let statement = match analyser.statement(statement).and_then(|statement| analyser.name_apart(statement)) {
        Ok(statement) => statement,
        Err(denial) => return Err(Refusal { denial, pinned: analyser.pinned }),
    };
    Ok(Analysis {
        cast_functions: analyser.functions_of_casts(&statement),
        statement,
        rtes: analyser.rtes,
        by_alias: analyser.by_alias,
        functions: analyser.functions,
        foreign_operators: analyser.foreign_operators,
        pinned: analyser.pinned,
        parameters: analyser.parameters,
        parameter_types: context.parameter_types.to_vec(),
        parameter_uses: analyser.parameter_uses,
        recursive_ctes: analyser.ctes.into_iter().filter(|c| c.recursive).map(|c| c.printed).collect(),
    })
}

/// As much of a name as leaves room for a suffix: PostgreSQL cuts names at 63 bytes.
fn head(name: &str) -> &str {
    &name[..name.floor_char_boundary(48)]
}

/// Most columns that are held at a time, of all that a statement names, its joins' once more: a second's tenth of work.
const COLUMNS: usize = 300_000;

struct Analyser<'a> {
    context: &'a Context<'a>,
    rtes: Vec<Rte>,
    by_alias: HashMap<String, RteId>,
    /// By how an alias begins, the last number that was put behind it.
    numbered: HashMap<String, usize>,
    /// See [`spend`](Self::spend).
    spent: usize,
    functions: Vec<FunctionUse>,
    foreign_operators: Vec<u32>,
    casts: Vec<casts::Asked>,
    /// pg_type.oid of types that the statement names.
    types_named: Vec<u32>,
    pinned: BTreeSet<u16>,
    parameters: u16,
    parameter_uses: Vec<usize>,
    /// Query levels, innermost last.
    scopes: Vec<Scope>,
    ctes: Vec<Cte>,
    /// One frame a WITH clause, innermost last: indexes into `ctes`.
    cte_frames: Vec<Vec<usize>>,
    /// How many definitions of views are being read, each inside the one before: there, names without a schema are of
    /// pg_catalog.
    in_views: usize,
    /// How many views were put in the place of their names.
    expanded: usize,
    /// Sub-selects and references to CTEs that have columns of one name, which `*` stands for.
    starred_apart: BTreeSet<RteId>,
}

impl<'a> Analyser<'a> {
    fn new(context: &'a Context<'a>) -> Self {
        Analyser {
            context,
            rtes: vec![],
            by_alias: HashMap::new(),
            numbered: HashMap::new(),
            spent: 0,
            functions: vec![],
            foreign_operators: vec![],
            casts: vec![],
            types_named: vec![],
            pinned: BTreeSet::new(),
            parameters: 0,
            parameter_uses: vec![],
            scopes: vec![],
            ctes: vec![],
            cte_frames: vec![],
            in_views: 0,
            expanded: 0,
            starred_apart: BTreeSet::new(),
        }
    }
}

impl Analyser<'_> {
    fn statement(&mut self, mut statement: Node) -> Result<Statement, Denial> {
        let Some(kind) = &mut statement.node else {
            return Err(Denial::invalid(sqlstate::SYNTAX_ERROR, "empty statement"));
        };
        match kind {
            NodeEnum::SelectStmt(s) => {
                if let Some(utility) = utility::single_call(s, self) {
                    return Ok(Statement::Utility(utility));
                }
                if let Some(into) = temporary::take_into(s) {
                    let create = CreateTableAsStmt {
                        query: Some(Box::new(std::mem::take(&mut statement))),
                        into: Some(into),
                        objtype: ObjectType::ObjectTable as i32,
                        is_select_into: true,
                        if_not_exists: false,
                    };
                    return self.create_as(create);
                }
                self.query(s, None)?;
                self.note_only_name(s);
                Ok(Statement::Query(statement))
            }
            NodeEnum::InsertStmt(s) => {
                self.insert(s)?;
                Ok(Statement::Query(statement))
            }
            NodeEnum::UpdateStmt(s) => {
                self.update(s)?;
                Ok(Statement::Query(statement))
            }
            NodeEnum::DeleteStmt(s) => {
                self.delete(s)?;
                Ok(Statement::Query(statement))
            }
            NodeEnum::MergeStmt(s) => {
                self.merge(s)?;
                Ok(Statement::Query(statement))
            }
            NodeEnum::CreateTableAsStmt(s) => self.create_as(std::mem::take(s)),
            NodeEnum::CreateStmt(_) => self.create(&statement),
            NodeEnum::DropStmt(_) => self.drop(&statement),
            NodeEnum::CopyStmt(s) => self.copy(s),
            NodeEnum::DeclareCursorStmt(s) => self.declare(s),
            NodeEnum::ExplainStmt(s) => self.explain(s),
            NodeEnum::ExecuteStmt(s) => self.execute(s),
            NodeEnum::FetchStmt(_) => Ok(Statement::Utility(Utility::Fetch { node: statement })),
            NodeEnum::ConstraintsSetStmt(_) => Ok(Statement::Utility(Utility::SetConstraints { node: statement })),
            NodeEnum::TransactionStmt(s) => utility::transaction(s).map(Statement::Utility),
            NodeEnum::VariableSetStmt(s) => utility::set(s, self).map(Statement::Utility),
            NodeEnum::VariableShowStmt(s) => utility::show(s, self).map(Statement::Utility),
            NodeEnum::DiscardStmt(s) => utility::discard(s).map(Statement::Utility),
            NodeEnum::DeallocateStmt(s) => Ok(Statement::Utility(utility::deallocate(s))),
            NodeEnum::UnlistenStmt(s) => utility::unlisten(s).map(Statement::Utility),
            NodeEnum::ClosePortalStmt(s) => utility::close(s).map(Statement::Utility),
            not_a_statement!() => Err(utility::refused(kind)),
        }
    }

    /// Adds a range-table entry under an alias that no other entry of the statement has.
    fn add_rte(&mut self, wanted: &str, kind: RteKind, columns: Vec<RteColumn>) -> Result<RteId, Denial> {
        self.spend(columns.len())?;
        let alias = self.unique_alias(wanted);
        let id = self.rtes.len();
        self.by_alias.insert(alias.clone(), id);
        self.rtes.push(Rte {
            alias,
            kind,
            columns,
            read: false,
            starred: usize::MAX,
            whole_row: false,
            nested: self.scopes.len() > 1,
            named: BTreeSet::new(),
            system_columns: BTreeSet::new(),
            locked: false,
            only_name: None,
        });
        Ok(id)
    }

    /// Counts columns that are held while the statement is analysed: a short text can ask for any number.
    ///
    /// # Errors
    /// 54001: they are too many.
    fn spend(&mut self, columns: usize) -> Result<(), Denial> {
        self.spent += columns;
        if self.spent <= COLUMNS || crate::mutant!("names.columns-without-end") {
            return Ok(());
        }
        let error = SqlError::new(sqlstate::STATEMENT_TOO_COMPLEX, "statement is too complex")
            .with_detail("its relations, sub-selects and joins have too many columns together");
        Err(Denial::new(Reason::Limit, error))
    }

    fn unique_alias(&mut self, wanted: &str) -> String {
        let free = |name: &str| !self.by_alias.contains_key(name) && name != "excluded";
        if !wanted.is_empty() && (free(wanted) || crate::mutant!("names.aliases-not-unique")) {
            return wanted.to_owned();
        }
        let stem = head(wanted);
        // Those before the last that was taken are taken.
        let next = self.numbered.entry(stem.to_owned()).or_insert(2);
        let found = (*next..).map(|n| (n, format!("{stem}__{n}"))).find(|(_, name)| free(name));
        let (n, name) = found.unwrap_or_default();
        *next = n;
        name
    }

    /// Schemas in the order in which PostgreSQL looks for an unqualified name, after the temporary one for relations: names that
    /// policy files declare there are nobody else's, and types and functions there are none.
    fn path(&self) -> impl Iterator<Item = &str> {
        let path = if self.in_views == 0 { self.context.search_path } else { &[] };
        let implicit = !path.iter().any(|s| &**s == "pg_catalog") && !crate::mutant!("names.pg-catalog-not-first");
        implicit.then_some("pg_catalog").into_iter().chain(path.iter().map(|s| &**s))
    }

    /// The relation that a name means.
    fn find_relation(&self, schema: &str, name: &str) -> Result<&Relation, Denial> {
        let catalog = self.context.catalog;
        if schema.is_empty() {
            return std::iter::once(TEMPORARY_SCHEMA)
                .filter(|_| self.in_views == 0)
                .chain(self.path())
                .find_map(|s| catalog.relation_named(s, name))
                .ok_or_else(|| Denial::invalid(sqlstate::UNDEFINED_TABLE, format!("relation \"{name}\" does not exist")));
        }
        catalog
            .relation_named(schema, name)
            .ok_or_else(|| Denial::invalid(sqlstate::UNDEFINED_TABLE, format!("relation \"{schema}.{name}\" does not exist")))
    }

    /// The value of a string that decides something. Where it is the stand-in of a literal, the literal becomes part of the
    /// template's key, and the statement is analysed again with its value in place.
    fn pin_text(&mut self, value: &str) -> String {
        self.pinned.extend(super::sentinel::index_of_string(value));
        value.to_owned()
    }

    /// `SELECT .. FROM pg_settings WHERE name = '..'` and nothing else that sees rows before that condition.
    fn note_only_name(&mut self, select: &pg_query::protobuf::SelectStmt) {
        let first = |list: &[Node]| list.first().and_then(|n| n.node.clone());
        let (Some(NodeEnum::RangeVar(range)), 1) = (first(&select.from_clause), select.from_clause.len()) else { return };
        // HAVING without aggregates becomes part of WHERE; a CTE may have conditions of its own.
        if select.with_clause.is_some() || select.having_clause.is_some() || !select.group_clause.is_empty() {
            return;
        }
        let Some(NodeEnum::AExpr(e)) = select.where_clause.as_deref().and_then(|w| w.node.as_ref()) else { return };
        let equals = e.kind == pg_query::protobuf::AExprKind::AexprOp as i32
            && matches!(e.name.as_slice(), [op] if super::tree::as_string(op) == Some("="));
        let alias = range.alias.as_ref().map(|a| a.aliasname.as_str());
        let Some(NodeEnum::ColumnRef(c)) = e.lexpr.as_deref().and_then(|l| l.node.as_ref()) else { return };
        let names_it = super::tree::qualified_column(c).is_some_and(|(table, column)| Some(table) == alias && column == "name");
        let value = e.rexpr.as_deref().and_then(utility::constant_text);
        let Some(id) = alias.and_then(|a| self.by_alias.get(a).copied()).filter(|_| equals && names_it) else { return };
        let settings = self.context.catalog.relation_named("pg_catalog", "pg_settings").map(|r| r.oid);
        let is_settings = matches!(self.rtes[id].kind, RteKind::Relation { oid, usage: _ } if Some(oid) == settings);
        // Elsewhere the value decides nothing and stays out of the key.
        if let (true, Some(value)) = (is_settings, value) {
            self.rtes[id].only_name = Some(self.pin_text(&value));
        }
    }

    fn note_parameter(&mut self, parameter: &pg_query::protobuf::ParamRef) -> Option<u16> {
        let number = u16::try_from(parameter.number).ok().filter(|n| (1..=65_534).contains(n))?;
        self.parameters = self.parameters.max(number);
        Some(number)
    }

    /// Makes every literal in the node part of the template's key: it is grammar there, not a value.
    fn pin_constants(&mut self, node: &Node) {
        let mut pinned = vec![];
        super::tree::walk(node, &mut |n| {
            if let Some(NodeEnum::AConst(c)) = &n.node {
                pinned.extend(super::sentinel::index_of_const(c).map(|(index, _)| index));
            }
        });
        self.pinned.extend(pinned);
    }
}

impl Environment for Analyser<'_> {
    fn catalog(&self) -> &Catalog {
        self.context.catalog
    }

    fn column(&self, alias: &str, column: &str) -> Typed {
        column_type(&self.rtes, &self.by_alias, alias, column)
    }

    fn parameter(&self, number: i32) -> u32 {
        declared_type(self.context.parameter_types, number)
    }

    fn parameter_uses(&self, _number: i32) -> usize {
        // Not known before the statement was read.
        usize::MAX
    }
}

impl Analysis {
    /// The entry with that alias.
    pub fn rte(&self, alias: &str) -> Option<(RteId, &Rte)> {
        self.by_alias.get(alias).map(|id| (*id, &self.rtes[*id]))
    }
}

/// The type of `alias.column`.
pub fn column_type(rtes: &[Rte], by_alias: &HashMap<String, RteId>, alias: &str, column: &str) -> Typed {
    by_alias.get(alias).and_then(|id| rtes[*id].columns.iter().find(|c| c.name == column)).map_or(Typed::UNKNOWN, |c| c.typed)
}

/// The type that Parse declares for the n-th parameter; 0 where it is left open, which `unknown` does as well.
pub fn declared_type(types: &[u32], number: i32) -> u32 {
    let declared = usize::try_from(number - 1).ok().and_then(|i| types.get(i)).copied().unwrap_or(0);
    if declared == super::types::oid::UNKNOWN { 0 } else { declared }
}
