//! The output check: reads the text that is about to be sent with PostgreSQL's own parser and requires that every
//! governed relation in it has the injected shape. Shares no code with the rewriter and trusts nothing it says but
//! [`Expected`], which comes from policy and catalog.
//!
//! Normal form it insists on (TOTAL: what it does not know, it refuses): every range-table entry has an explicit alias
//! that is unique in the whole statement; relations are schema-qualified, references to CTEs are not; columns are
//! `alias.column`, but for output names in ORDER BY and GROUP BY; no `*` in target lists. Since aliases are unique and a
//! reference counts only where its alias is in scope, no name can be captured.
//!
//! What it does not prove: that an expression which can raise stands behind a guard (see `plan::quiet`); that guards, fences
//! and masks leave the answer for the tenant's own rows as it was.

mod expr;
mod from;
mod guard;
mod masks;
mod merge;
mod nodes;
mod statement;
mod table_function;
#[cfg(test)]
mod tests;
mod writes;

use std::collections::{HashMap, HashSet};

use pg_query::NodeEnum;
use pg_query::protobuf::{CaseExpr, Node, ParseResult};

use super::parse::{self, Printed};
use super::sentinel;
use super::template::TenantType;
use crate::catalog::Catalog;
use crate::finding::Denial;
use masks::Named;
pub use masks::{Mask, Shows};

/// What the text must be.
pub struct Expected<'a> {
    pub kind: Kind,
    pub relations: &'a Relations,
    /// Functions, operators, types and collations that may be named.
    pub names: &'a dyn Names,
    /// What stands in front of the table's name in a text that raises (`'<marker>accounts"'`).
    pub marker: &'a str,
}

/// What may be read and written, by OID. What is in none of these may not be named.
#[derive(Debug, Default)]
pub struct Relations {
    pub governed: HashMap<u32, Governed>,
    /// May be read.
    pub shared: HashSet<u32>,
    /// System catalogs that may be read.
    pub system: HashMap<u32, System>,
    /// Columns of governed and shared relations that are read as their masks only.
    pub masks: HashMap<u32, Vec<Mask>>,
}

/// A system catalog.
#[derive(Clone, Debug, Default)]
pub struct System {
    /// Columns that may not be read.
    pub hidden: &'static [&'static str],
    /// What its rows must meet.
    pub rows: Vec<Predicate>,
    /// Other columns may be read of one row that is named.
    pub single: Option<Single>,
}

/// One row of a system catalog, all that a statement sees of it: it stands alone in FROM, and the whole condition is
/// `column = '..'` with a value that is admitted.
#[derive(Clone, Copy, Debug)]
pub struct Single {
    pub column: &'static str,
    pub admits: fn(&str) -> bool,
    /// Columns that may not be read then.
    pub hidden: &'static [&'static str],
}

/// The command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Select,
    Insert,
    Update,
    Delete,
    Merge,
    /// COPY (query) TO STDOUT
    CopyTo,
    /// COPY table (columns) FROM STDIN, in text or binary format with no other option; the tenant's column is the last.
    CopyFrom,
    /// EXPLAIN of any of the first five, without ANALYZE; without COSTS where estimates may not be shown.
    Explain {
        estimates: bool,
    },
    /// DECLARE .. CURSOR FOR query
    DeclareCursor,
    /// CREATE TEMPORARY TABLE .. AS query
    CreateTemporary,
}

/// A relation whose rows belong to tenants.
#[derive(Clone, Debug)]
pub struct Governed {
    pub tenant_column: String,
    pub tenant_type: TenantType,
    /// Conditions besides the tenant's that rows must meet to be read, updated, deleted.
    pub read: Vec<Predicate>,
    pub update: Vec<Predicate>,
    pub delete: Vec<Predicate>,
    /// Conditions that new rows must meet.
    pub insert_check: Vec<Predicate>,
    pub update_check: Vec<Predicate>,
}

/// A row condition without a top-level AND, as its shape: `alias.column` of a marker stands for the relation's columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Predicate {
    shape: String,
    marker: String,
}

impl Predicate {
    /// The conjuncts of a condition. `marker`: an alias that occurs nowhere in it but in front of the relation's columns.
    pub fn conjuncts(condition: &Node, marker: &str) -> Vec<Predicate> {
        guard::shapes(Some(condition)).into_iter().map(|shape| Predicate { shape, marker: marker.to_owned() }).collect()
    }
}

/// An argument of a function, where its value may name something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument<'a> {
    Text(&'a str),
    /// `$n`
    Parameter(i32),
    True,
    Other,
}

/// What the text may name. `schema` is empty where the text has none.
pub trait Names: Sync {
    /// `arguments`: how many; `None` where it is not known.
    fn allows_function(&self, schema: &str, name: &str, arguments: Option<usize>) -> bool;
    /// Whether a function that may be named may be called with these arguments.
    fn allows_arguments(&self, name: &str, arguments: &[Argument<'_>]) -> bool;
    /// Also of BETWEEN and its like, by the keyword: `BETWEEN`, `NOT BETWEEN SYMMETRIC`.
    fn allows_operator(&self, schema: &str, name: &str) -> bool;
    fn allows_type(&self, schema: &str, name: &str) -> bool;
    fn allows_collation(&self, schema: &str, name: &str) -> bool;
}

/// Checks a text that is about to be sent, by what the parser reads in it. Stand-ins are still in it.
///
/// # Errors
/// A `disagreement` that names what is wrong.
pub fn verify(printed: &Printed, catalog: &Catalog, expected: &Expected<'_>) -> Result<(), Denial> {
    let verdict = printed.with_tree(|tree| verify_tree(tree, catalog, expected));
    verdict.inspect_err(|_| tracing::debug!(text = printed.text(), "refused by the output check"))
}

fn verify_tree(tree: &ParseResult, catalog: &Catalog, expected: &Expected<'_>) -> Result<(), Denial> {
    let [statement] = tree.stmts.as_slice() else { return Err(refused("it is not one statement")) };
    let Some(node) = statement.stmt.as_ref().and_then(|n| n.node.as_ref()) else {
        return Err(refused("it is empty"));
    };
    let mut verifier = Verifier {
        catalog,
        expected,
        entries: HashMap::new(),
        levels: Vec::new(),
        ctes: Vec::new(),
        columns: Columns::Qualified,
        is_locked: false,
        read: HashSet::new(),
        checked: HashSet::new(),
        patterns: HashMap::new(),
        excluded: Named::default(),
        only: only_row(node),
    };
    verifier.top(node)
}

/// What `SELECT .. FROM table alias WHERE alias.column = 'value'` asks for, where nothing else sees rows before that condition.
fn only_row(statement: &NodeEnum) -> Option<OnlyRow> {
    let NodeEnum::SelectStmt(select) = statement else { return None };
    // HAVING may become part of WHERE.
    if select.with_clause.is_some() || select.having_clause.is_some() || !select.group_clause.is_empty() || select.larg.is_some()
    {
        return None;
    }
    let [from] = select.from_clause.as_slice() else { return None };
    let Some(NodeEnum::RangeVar(table)) = &from.node else { return None };
    let Some(NodeEnum::AExpr(e)) = select.where_clause.as_deref().and_then(|w| w.node.as_ref()) else { return None };
    let equals = matches!(strings(&e.name).ok()?.as_slice(), ["="] | ["pg_catalog", "="]);
    if e.kind != pg_query::protobuf::AExprKind::AexprOp as i32 || !equals {
        return None;
    }
    let (Some(NodeEnum::ColumnRef(c)), Some(NodeEnum::AConst(constant))) =
        (e.lexpr.as_deref().and_then(|l| l.node.as_ref()), e.rexpr.as_deref().and_then(|r| r.node.as_ref()))
    else {
        return None;
    };
    let Some(pg_query::protobuf::a_const::Val::Sval(value)) = &constant.val else { return None };
    let alias = table.alias.as_ref()?.aliasname.clone();
    match strings(&c.fields).ok()?.as_slice() {
        [table, column] if *table == alias => Some(OnlyRow { alias, column: (*column).to_owned(), value: value.sval.clone() }),
        _ => None, // tidy: not a syntax kind
    }
}

/// See [`Single`].
struct OnlyRow {
    alias: String,
    column: String,
    value: String,
}

fn refused(what: impl std::fmt::Display) -> Denial {
    Denial::disagreement(format!("output check: {what}"))
}

/// The name of a node's kind.
fn kind_name(node: &NodeEnum) -> String {
    let text = format!("{node:?}");
    text.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default().to_owned()
}

struct Verifier<'a> {
    catalog: &'a Catalog,
    expected: &'a Expected<'a>,
    /// Every range-table entry so far, by its alias.
    entries: HashMap<String, Entry>,
    /// Query levels from the outermost to the one being read.
    levels: Vec<Level>,
    /// Names of CTEs in scope, by WITH clause from the outermost.
    ctes: Vec<Vec<String>>,
    columns: Columns,
    /// The next query is that of a derived table under FOR UPDATE.
    is_locked: bool,
    /// Aliases whose columns the client's part of the text reads.
    read: HashSet<String>,
    /// Expressions that hold copies of one operand, which is walked once: nodes of the tree, by address.
    checked: HashSet<*const CaseExpr>,
    /// Shapes of patterns, by their text.
    patterns: HashMap<String, String>,
    /// The columns of `excluded`, where that is in scope.
    excluded: Named,
    /// The one row that the statement asks for.
    only: Option<OnlyRow>,
}

/// A range-table entry.
#[derive(Clone, Debug)]
enum Entry {
    Governed {
        oid: u32,
        exposure: Exposure,
        /// The tenant column's name behind the alias list.
        tenant_column: String,
        /// Shapes of the conjuncts that its rows must pass.
        required: Vec<String>,
        /// And these, if the statement reads it (the target of UPDATE and DELETE).
        when_read: Vec<String>,
        columns: Named,
    },
    System {
        hidden: &'static [&'static str],
        required: Vec<String>,
        columns: Named,
    },
    Shared {
        columns: Named,
    },
    /// A derived table, function, CTE, join.
    Other(Whole),
}

/// Which rows expressions on an entry may come to see before its conditions have been tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exposure {
    /// Any: PostgreSQL orders conditions by cost.
    Foreign,
    /// The target of INSERT: none but what was written, or what passed the policy in ON CONFLICT.
    Own,
}

/// What a value is whose field is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whole {
    /// A row: of a derived table, a CTE, a join.
    Row,
    /// Of any type: so is the row of a function that returns no rows.
    Value,
}

impl Entry {
    /// Its columns, where the catalog knows them.
    fn named(&self) -> Option<&Named> {
        match self {
            Entry::Governed { oid: _, exposure: _, tenant_column: _, required: _, when_read: _, columns }
            | Entry::System { hidden: _, required: _, columns }
            | Entry::Shared { columns } => Some(columns),
            Entry::Other(_) => None,
        }
    }

    /// All that may have been injected for it: what its rows must pass always, and when it is read.
    fn injected(&self) -> impl Iterator<Item = &String> {
        let (always, when_read): (&[String], &[String]) = match self {
            Entry::Governed { oid: _, exposure: _, tenant_column: _, required, when_read, columns: _ } => (required, when_read),
            Entry::System { hidden: _, required, columns: _ } => (required, &[]),
            Entry::Shared { columns: _ } | Entry::Other(_) => (&[], &[]),
        };
        always.iter().chain(when_read)
    }

    fn required(&self) -> &[String] {
        match self {
            Entry::Governed { oid: _, exposure: _, tenant_column: _, required, when_read: _, columns: _ }
            | Entry::System { hidden: _, required, columns: _ } => required,
            Entry::Shared { columns: _ } | Entry::Other(_) => &[],
        }
    }
}

/// How columns are named where the walk stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Columns {
    Qualified,
    /// In the arbiter of ON CONFLICT, where only the target's columns can be named.
    Bare,
}

/// One query level.
#[derive(Debug, Default)]
struct Level {
    /// Aliases whose columns can be named here and below.
    aliases: Vec<String>,
    /// Conditions that filter: the shapes of their conjuncts.
    sites: Vec<Vec<String>>,
    /// Entries whose rows must pass something, and the sites that filter them.
    filtered: Vec<(String, Vec<usize>)>,
    locks: Locks,
    /// The names of its output columns.
    outputs: Vec<String>,
    /// Its conditions have been read: what is read now sees rows that passed them, if it stands in a level of its own below.
    passed: bool,
}

/// Which entries of a level FOR UPDATE and the like lock.
#[derive(Debug, Default)]
enum Locks {
    #[default]
    None,
    All,
    Named(Vec<String>),
}

impl Locks {
    fn holds(&self, alias: &str) -> bool {
        match self {
            Locks::None => false,
            Locks::All => true,
            Locks::Named(names) => names.iter().any(|n| n == alias),
        }
    }
}

impl Verifier<'_> {
    fn level(&mut self) -> Result<&mut Level, Denial> {
        self.levels.last_mut().ok_or_else(|| refused("a range-table entry outside a query"))
    }

    fn is_visible(&self, alias: &str) -> bool {
        self.levels.iter().any(|level| level.aliases.iter().any(|a| a == alias))
    }

    /// The entry that an alias means where the walk stands.
    fn resolve(&self, alias: &str) -> Result<&Entry, Denial> {
        if !self.is_visible(alias) && !crate::mutant!("check.scope") {
            return Err(refused(format!("\"{alias}\" is not in scope")));
        }
        self.entries.get(alias).ok_or_else(|| refused(format!("\"{alias}\" is not a range-table entry")))
    }

    /// Enters an alias into the current level.
    fn register(&mut self, alias: &str, entry: Entry) -> Result<(), Denial> {
        if matches!(alias, "" | "excluded") && !crate::mutant!("check.alias-of-its-own") {
            return Err(refused("a range-table entry without a name of its own"));
        }
        if self.entries.insert(alias.to_owned(), entry).is_some() && !crate::mutant!("check.alias-twice") {
            return Err(refused(format!("alias \"{alias}\" is used twice")));
        }
        self.level()?.aliases.push(alias.to_owned());
        Ok(())
    }
}

/// The strings of a list of names.
fn strings(nodes: &[Node]) -> Result<Vec<&str>, Denial> {
    nodes
        .iter()
        .map(|node| match node.node.as_ref() {
            Some(NodeEnum::String(s)) => Ok(s.sval.as_str()),
            Some(other) => Err(refused(format!("{} in a name", kind_name(other)))),
            None => Err(refused("an empty name")),
        })
        .collect()
}

/// A name of one or two parts, as schema (or nothing) and name.
fn qualified(nodes: &[Node]) -> Result<(&str, &str), Denial> {
    match strings(nodes)?.as_slice() {
        [name] => Ok(("", name)),
        [schema, name] => Ok((schema, name)),
        [] | [_, _, _, ..] => Err(refused("a name of many parts")),
    }
}

/// The node inside.
fn inner(node: &Node) -> Result<&NodeEnum, Denial> {
    node.node.as_ref().ok_or_else(|| refused("an empty node"))
}
