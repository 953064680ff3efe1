//! What names mean where: the range table and the namespaces of each query level, as PostgreSQL's parse_relation.c has them.

use std::collections::BTreeSet;

use super::super::types::Typed;

/// Index into the statement's range table.
pub type RteId = usize;

/// A range-table entry. Its alias is unique in the whole statement, so that no name can be captured (guard.md, A1).
#[derive(Clone, Debug)]
pub struct Rte {
    pub alias: String,
    pub kind: RteKind,
    /// In order; names as they are printed.
    pub columns: Vec<RteColumn>,
    /// Some expression reads a column of it.
    pub read: bool,
    /// How many of them `*` stands for.
    pub starred: usize,
    /// Named as a whole row somewhere.
    pub whole_row: bool,
    /// It stands in a sub-select.
    pub nested: bool,
    /// Columns that the statement names at its top level (`*` names none).
    pub named: BTreeSet<String>,
    /// System columns that are named somewhere.
    pub system_columns: BTreeSet<String>,
    /// Under FOR UPDATE, FOR SHARE and the like.
    pub locked: bool,
    /// The one value that its column `name` has in all rows that anything of the statement sees: it stands alone in FROM, at
    /// the top, and that is the whole condition.
    pub only_name: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RteKind {
    Relation {
        oid: u32,
        usage: Usage,
    },
    /// A sub-select or VALUES in FROM.
    Derived,
    Function,
    Cte,
    /// `excluded` of ON CONFLICT.
    Excluded,
    /// `old` or `new` of RETURNING: a row of that target.
    Version(RteId),
    /// The merged columns of JOIN .. USING.
    Merged,
}

/// What a statement does to a relation it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    Select,
    Insert,
    Update,
    Delete,
    Merge(MergeActions),
}

/// What the WHEN clauses of a MERGE do to the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MergeActions {
    pub insert: bool,
    pub update: bool,
    pub delete: bool,
}

#[derive(Clone, Debug)]
pub struct RteColumn {
    pub name: String,
    /// `attnum` for relations, 0 otherwise.
    pub number: i16,
    pub typed: Typed,
    /// The base relations whose rows its value may be computed from, with nothing in between that PostgreSQL would not push
    /// a condition through.
    pub sources: Vec<RteId>,
}

/// A column of a query's result.
#[derive(Clone, Debug)]
pub struct Output {
    pub name: String,
    pub typed: Typed,
    pub sources: Vec<RteId>,
}

/// Where a visible column name leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub rte: RteId,
    pub column: usize,
}

/// An entry of a namespace (ParseNamespaceItem).
#[derive(Clone, Debug)]
pub struct Item {
    /// The name that qualifies its columns; `None` for an unaliased join.
    pub name: Option<String>,
    /// Set where `schema.table.column` may name it: schema and relation name.
    pub relation: Option<(String, String)>,
    /// The entry itself; `None` for a join.
    pub rte: Option<RteId>,
    pub columns: Vec<(String, Target)>,
    pub relation_visible: bool,
    pub columns_visible: bool,
    pub lateral_only: bool,
    /// Of a `lateral_only` item: the join allows it.
    pub lateral_ok: bool,
}

/// The namespace of one query level.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    pub items: Vec<Item>,
    pub lateral_active: bool,
}

impl Scope {
    pub fn visible(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(|i| !i.lateral_only || self.lateral_active)
    }
}

/// One item of a WITH clause.
#[derive(Clone, Debug)]
pub struct Cte {
    pub name: String,
    pub printed: String,
    pub state: CteState,
    pub columns: Vec<RteColumn>,
    /// It refers to itself.
    pub recursive: bool,
    /// How many columns `*` stands for in a query below the one that has the WITH clause: not those of SEARCH and CYCLE.
    pub starred: usize,
    /// The WITH clause has been read, and is that of a plain SELECT.
    pub of_plain_select: bool,
    /// How many scopes and CTE frames are visible inside it.
    pub scope_depth: usize,
    pub frame_depth: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub enum CteState {
    /// Not visible yet (WITH without RECURSIVE: it comes later).
    Hidden,
    /// WITH RECURSIVE: visible, read when it is first named. Holds the query.
    Pending(Box<pg_query::protobuf::CommonTableExpr>),
    /// Being read; its columns are known once the non-recursive term was.
    Reading { columns_known: bool },
    /// Read; the query is put back into the tree by the WITH clause.
    Done(Box<pg_query::protobuf::CommonTableExpr>),
    /// Read and put back.
    Placed,
}
