//! A snapshot of what the server's catalog says: data and look-ups only. `backend::catalog` loads it with
//! [`SNAPSHOT_SQL`]; `check --dump-catalog` writes it to a file, so that `explain` and `test` work without a server.

mod family;

pub use family::Family;

use std::collections::HashMap;
use std::sync::Arc;

use pg_query::Node;
use serde::{Deserialize, Serialize};

/// One query, one row, one column of type text: the JSON of [`Snapshot`]. Runs on PostgreSQL 13 and later.
pub const SNAPSHOT_SQL: &str = include_str!("catalog.sql");

/// As it comes from [`SNAPSHOT_SQL`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// `server_version_num`: 150018 for 15.18.
    pub server_version: u32,
    pub database: String,
    /// The role that the snapshot was taken as.
    pub role: String,
    pub schemas: Vec<Schema>,
    pub relations: Vec<Relation>,
    pub types: Vec<Type>,
    pub functions: Vec<Function>,
    pub operators: Vec<Operator>,
    pub casts: Vec<Cast>,
    pub collations: Vec<Collation>,
    /// Generated columns that are computed when they are read (PostgreSQL 18): `attrelid` and `attnum`. Absent from older dumps.
    #[serde(default)]
    pub virtual_columns: Vec<(u32, i16)>,
    /// pg_class.oid of what has rules (CREATE RULE) besides a view's own. Absent from older dumps.
    #[serde(default)]
    pub ruled: Vec<u32>,
    /// pg_class.oid of tables whose changes run code of the database's own that may write elsewhere: triggers, functions in defaults,
    /// constraints, indexes, policies and the constraints of domains. Absent from older dumps.
    #[serde(default)]
    pub opaque: Vec<u32>,
    /// Foreign keys by which a change of the first table (pg_class.oid) changes rows of the second. Absent from older dumps.
    #[serde(default)]
    pub cascades: Vec<(u32, u32)>,
    /// pg_class.oid of what a crash empties. Absent from older dumps.
    #[serde(default)]
    pub unlogged: Vec<u32>,
    /// There are operator classes of the database's own: what is sorted or compared may call anything.
    #[serde(default)]
    pub own_classes: bool,
    /// There are event triggers: whoever makes or drops a temporary table runs them. Absent from older dumps.
    #[serde(default)]
    pub event_triggers: bool,
    /// `default_transaction_isolation` of the role. Absent from older dumps.
    #[serde(default)]
    pub default_isolation: String,
    /// Absent from older dumps.
    #[serde(default)]
    pub sequences: Vec<SequenceUse>,
    /// Views: pg_class.oid, and the definition with every name outside pg_catalog qualified. Absent from older dumps.
    #[serde(default)]
    pub views: Vec<(u32, String)>,
}

/// A column that a sequence belongs to, or whose default calls it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SequenceUse {
    /// pg_class.oid of the sequence and of the table.
    pub sequence: u32,
    pub relation: u32,
    /// `attnum`
    pub column: i16,
    /// The sequence belongs to the column (pg_get_serial_sequence).
    pub owned: bool,
    /// The column's default is the sequence's next value and nothing else, on a table without rewrite rules: an INSERT that
    /// does not name the column advances it.
    pub fills: bool,
}

/// pg_namespace
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schema {
    pub oid: u32,
    pub name: String,
}

/// pg_class: tables, views, materialised views, foreign and partitioned tables, sequences, composite types.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relation {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// `relkind`: r table, p partitioned, v view, m materialised view, f foreign, S sequence, c composite type.
    pub kind: char,
    /// Live columns in attribute order; system columns are not listed.
    pub columns: Vec<Column>,
    /// Parents by inheritance or partitioning (pg_inherits).
    pub parents: Vec<u32>,
    pub is_partition: bool,
    /// Valid, non-partial unique indexes on plain columns, primary key first: attribute numbers.
    pub unique_keys: Vec<UniqueKey>,
    /// `relrowsecurity`.
    pub row_security: bool,
}

/// A unique or primary key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UniqueKey {
    pub name: String,
    pub primary: bool,
    pub columns: Vec<i16>,
}

/// pg_attribute
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// `attnum`, from 1; dropped columns leave gaps.
    pub number: i16,
    pub name: String,
    pub type_oid: u32,
    /// `atttypmod`: -1 for none.
    pub typmod: i32,
    pub not_null: bool,
    pub has_default: bool,
    /// GENERATED ALWAYS AS (..), stored or virtual.
    pub generated: bool,
    /// GENERATED ALWAYS AS (..) VIRTUAL (PostgreSQL 18): computed when it is read.
    #[serde(default)]
    pub computed: bool,
    /// Bulkhead's own, of a temporary table: `*` does not stand for it.
    #[serde(skip)]
    pub hidden: bool,
    /// `attidentity`: 'a' always, 'd' by default, none otherwise.
    pub identity: Option<char>,
    /// 0 where the type has none.
    pub collation: u32,
}

/// pg_type
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Type {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// `typtype`: b base, c composite, d domain, e enum, p pseudo, r range, m multirange.
    pub kind: char,
    /// `typcategory`.
    pub category: char,
    /// Element type of an array (0 otherwise).
    pub element: u32,
    /// Base type of a domain (0 otherwise).
    pub base: u32,
    /// pg_class row of a composite (0 otherwise).
    pub relation: u32,
    /// A domain that is NOT NULL or has a CHECK.
    pub constrained: bool,
}

/// pg_proc
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Function {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// `prokind`: f function, a aggregate, w window, p procedure.
    pub kind: char,
    /// Types of the input arguments.
    pub arguments: Vec<u32>,
    /// How many of the last arguments have defaults.
    pub defaults: u16,
    pub variadic: bool,
    pub returns: u32,
    pub returns_set: bool,
    /// `provolatile`: i, s, v.
    pub volatility: char,
    pub strict: bool,
    /// Names and types of OUT, INOUT and TABLE columns, where it has any.
    pub outputs: Vec<(String, u32)>,
    /// The extension it belongs to.
    pub extension: Option<String>,
}

impl Function {
    /// Whether it may write: it is the database's own, and neither an extension's that says it does not. What a function says of
    /// itself binds it only where it is PostgreSQL's own or in C: one that is STABLE may call one that writes, and an aggregate is
    /// IMMUTABLE whatever it calls.
    pub fn may_write(&self) -> bool {
        self.oid >= FIRST_NORMAL && (self.extension.is_none() || self.volatility == 'v')
    }
}

/// pg_operator
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operator {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// 0 for a prefix operator.
    pub left: u32,
    pub right: u32,
    pub result: u32,
    /// pg_proc.oid of its function.
    pub function: u32,
    pub extension: Option<String>,
}

/// `FirstNormalObjectId` of transam.h: what a database makes itself, in whatever schema, has an OID from here on.
pub const FIRST_NORMAL: u32 = 16_384;

/// pg_cast
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cast {
    pub source: u32,
    pub target: u32,
    /// 0 for a binary-coercible or I/O cast.
    pub function: u32,
    /// `castcontext`: i implicit, a assignment, e explicit.
    pub context: char,
    /// `castmethod`: f function, i in/out, b binary.
    pub method: char,
}

/// pg_collation
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collation {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    pub deterministic: bool,
}

/// A snapshot with its look-up tables.
#[derive(Debug, Default)]
pub struct Catalog {
    snapshot: Snapshot,
    relation_by_oid: HashMap<u32, usize>,
    relation_by_name: HashMap<String, HashMap<String, usize>>,
    type_by_oid: HashMap<u32, usize>,
    type_by_name: HashMap<String, HashMap<String, usize>>,
    functions_by_name: HashMap<String, Vec<usize>>,
    operators_by_name: HashMap<String, Vec<usize>>,
    collation_by_oid: HashMap<u32, usize>,
    view_by_oid: HashMap<u32, usize>,
    children: HashMap<u32, Vec<u32>>,
    own_casts: Vec<usize>,
    /// By pg_class.oid, every member.
    families: HashMap<u32, Arc<Family>>,
    /// By name.
    temporaries: HashMap<String, Temporary>,
}

/// A temporary table that sessions may make.
#[derive(Clone, Debug)]
pub struct Temporary {
    /// pg_class.oid of its entry in the snapshot, which no server knows of.
    pub relation: u32,
    /// How its columns are defined (ColumnDef), in order, the hidden one last.
    pub definitions: Vec<Node>,
}

/// The name by which each session knows the schema of its temporary tables.
pub const TEMPORARY_SCHEMA: &str = "pg_temp";

impl Catalog {
    pub fn new(snapshot: Snapshot) -> Self {
        let mut catalog = Catalog::default();
        for (i, r) in snapshot.relations.iter().enumerate() {
            catalog.relation_by_oid.insert(r.oid, i);
            catalog.relation_by_name.entry(r.schema.clone()).or_default().insert(r.name.clone(), i);
            for parent in &r.parents {
                catalog.children.entry(*parent).or_default().push(r.oid);
            }
        }
        for (i, t) in snapshot.types.iter().enumerate() {
            catalog.type_by_oid.insert(t.oid, i);
            catalog.type_by_name.entry(t.schema.clone()).or_default().insert(t.name.clone(), i);
        }
        for (i, f) in snapshot.functions.iter().enumerate() {
            catalog.functions_by_name.entry(f.name.clone()).or_default().push(i);
        }
        for (i, o) in snapshot.operators.iter().enumerate() {
            catalog.operators_by_name.entry(o.name.clone()).or_default().push(i);
        }
        for (i, c) in snapshot.collations.iter().enumerate() {
            catalog.collation_by_oid.insert(c.oid, i);
        }
        let runs_a_function = |c: &Cast| c.function >= FIRST_NORMAL;
        catalog.own_casts = (0..snapshot.casts.len()).filter(|i| runs_a_function(&snapshot.casts[*i])).collect();
        catalog.view_by_oid.extend(snapshot.views.iter().enumerate().map(|(i, (oid, _))| (*oid, i)));
        catalog.snapshot = snapshot;
        catalog.families = family::all(&catalog);
        catalog
    }

    /// What is written together with a relation (pg_class.oid).
    pub fn family(&self, oid: u32) -> Option<&Arc<Family>> {
        self.families.get(&oid)
    }

    /// The same with temporary tables besides.
    pub fn with_temporaries(&self, tables: Vec<(Relation, Vec<Node>)>) -> Catalog {
        let mut snapshot = self.snapshot.clone();
        let temporaries = tables.iter().map(|(relation, definitions)| {
            (relation.name.clone(), Temporary { relation: relation.oid, definitions: definitions.clone() })
        });
        let temporaries = temporaries.collect();
        snapshot.relations.extend(tables.into_iter().map(|(relation, _)| relation));
        Catalog { temporaries, ..Catalog::new(snapshot) }
    }

    pub fn temporary(&self, name: &str) -> Option<&Temporary> {
        self.temporaries.get(name)
    }

    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    pub fn has_schema(&self, name: &str) -> bool {
        self.snapshot.schemas.iter().any(|s| s.name == name)
    }

    pub fn relation(&self, oid: u32) -> Option<&Relation> {
        self.relation_by_oid.get(&oid).map(|i| &self.snapshot.relations[*i])
    }

    /// Whether reading the column computes it.
    pub fn is_virtual(&self, relation: u32, column: i16) -> bool {
        self.snapshot.virtual_columns.contains(&(relation, column))
    }

    /// Whether rules replace what is done to a relation, or add to it.
    pub fn has_rules(&self, relation: u32) -> bool {
        self.snapshot.ruled.contains(&relation)
    }

    /// The query of a view. Of its names those that have no schema are of pg_catalog.
    pub fn definition_of_view(&self, oid: u32) -> Option<&str> {
        self.view_by_oid.get(&oid).map(|i| self.snapshot.views[*i].1.as_str())
    }

    /// The columns that a sequence belongs to, or whose defaults call it.
    pub fn uses_of_sequence(&self, sequence: u32) -> impl Iterator<Item = &SequenceUse> {
        self.snapshot.sequences.iter().filter(move |s| s.sequence == sequence)
    }

    /// The sequences of a relation's columns.
    pub fn sequences_of(&self, relation: u32) -> impl Iterator<Item = &SequenceUse> {
        self.snapshot.sequences.iter().filter(move |s| s.relation == relation)
    }

    pub fn relation_named(&self, schema: &str, name: &str) -> Option<&Relation> {
        self.relation_by_name.get(schema)?.get(name).map(|i| &self.snapshot.relations[*i])
    }

    /// Direct children by inheritance or partitioning.
    pub fn children(&self, oid: u32) -> &[u32] {
        self.children.get(&oid).map_or(&[], Vec::as_slice)
    }

    pub fn type_(&self, oid: u32) -> Option<&Type> {
        self.type_by_oid.get(&oid).map(|i| &self.snapshot.types[*i])
    }

    pub fn type_named(&self, schema: &str, name: &str) -> Option<&Type> {
        self.type_by_name.get(schema)?.get(name).map(|i| &self.snapshot.types[*i])
    }

    /// All functions, aggregates, window functions and procedures of that name, in any schema.
    pub fn functions_named(&self, name: &str) -> impl Iterator<Item = &Function> {
        self.functions_by_name.get(name).into_iter().flatten().map(|i| &self.snapshot.functions[*i])
    }

    /// All operators of that name, in any schema.
    pub fn operators_named(&self, name: &str) -> impl Iterator<Item = &Operator> {
        self.operators_by_name.get(name).into_iter().flatten().map(|i| &self.snapshot.operators[*i])
    }

    /// Casts that call a function of the database's own.
    pub fn own_casts(&self) -> impl Iterator<Item = &Cast> {
        self.own_casts.iter().map(|i| &self.snapshot.casts[*i])
    }

    pub fn collation(&self, oid: u32) -> Option<&Collation> {
        self.collation_by_oid.get(&oid).map(|i| &self.snapshot.collations[*i])
    }
}

impl Relation {
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| c.name == name)
    }

    pub fn column_numbered(&self, number: i16) -> Option<&Column> {
        self.columns.iter().find(|c| c.number == number)
    }
}
