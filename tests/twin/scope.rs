//! What a generated expression may name, and how.

use crate::support::random::Random;

/// The type of an expression, and what is known of the caller's own values: expressions over the last four raise on
/// other tenants' values, and not on the caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Int,
    Big,
    Small,
    Num,
    Text,
    Varchar,
    Bool,
    Date,
    Time,
    Json,
    Uuid,
    Ints,
    Texts,
    Mood,
    /// An int that is never zero.
    Divisor,
    /// A text that is a number.
    Digits,
    /// A text that is a valid regular expression.
    Pattern,
    /// A text that is well-formed XML.
    Markup,
}

impl Kind {
    /// The SQL type.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Int | Kind::Divisor => "int",
            Kind::Big => "bigint",
            Kind::Small => "smallint",
            Kind::Num => "numeric",
            Kind::Text | Kind::Digits | Kind::Pattern | Kind::Markup => "text",
            Kind::Varchar => "varchar",
            Kind::Bool => "bool",
            Kind::Date => "date",
            Kind::Time => "timestamptz",
            Kind::Json => "jsonb",
            Kind::Uuid => "uuid",
            Kind::Ints => "int[]",
            Kind::Texts => "text[]",
            Kind::Mood => "mood",
        }
    }

    /// May a value of this kind stand where `wanted` is asked for?
    pub fn serves(self, wanted: Kind) -> bool {
        self == wanted || (wanted == Kind::Int && self == Kind::Divisor) || (wanted == Kind::Text && self.name() == "text")
    }
}

#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    pub kind: Kind,
}

/// An entry of FROM.
#[derive(Clone, Debug)]
pub struct Entry {
    pub alias: String,
    pub columns: Vec<Column>,
    /// A table itself: it can be locked.
    pub table: bool,
}

/// A WITH query that is in reach.
#[derive(Clone, Debug)]
pub struct With {
    pub name: String,
    pub columns: Vec<Column>,
}

pub struct Table {
    pub name: &'static str,
    pub columns: &'static [(&'static str, Kind)],
}

use Kind::*;

pub static TABLES: [Table; 6] = [
    Table {
        name: "customer",
        columns: &[
            ("id", Int),
            ("tenant_id", Int),
            ("name", Varchar),
            ("email", Text),
            ("age", Small),
            ("balance", Num),
            ("active", Bool),
            ("born", Date),
            ("joined", Time),
            ("profile", Json),
            ("ref", Uuid),
            ("tags", Texts),
            ("mood", Mood),
            ("score", Big),
        ],
    },
    Table {
        name: "sale",
        columns: &[
            ("tenant_id", Int),
            ("id", Int),
            ("customer_id", Int),
            ("qty", Int),
            ("price", Num),
            ("divisor", Divisor),
            ("num", Digits),
            ("pattern", Pattern),
            ("doc", Markup),
            ("note", Text),
            ("at", Time),
            ("state", Varchar),
            ("weights", Ints),
        ],
    },
    Table {
        name: "event",
        columns: &[("id", Big), ("at", Time), ("kind", Text), ("payload", Json), ("n", Int), ("tenant_id", Big)],
    },
    Table {
        name: "remark",
        columns: &[("remark_id", Int), ("body", Text), ("stars", Int), ("customer_id", Int), ("tenant_id", Text)],
    },
    Table { name: "memo", columns: &[("id", Int), ("body", Text), ("n", Int), ("visible", Bool), ("tenant_id", Int)] },
    Table { name: "item", columns: &[("id", Int), ("name", Text), ("cost", Num), ("category", Text)] },
];

/// They can be read, and not locked.
pub static VIEWS: [Table; 4] = [
    Table {
        name: "busy",
        columns: &[("id", Int), ("customer_id", Int), ("load", Int), ("num", Digits), ("divisor", Divisor), ("note", Text)],
    },
    Table { name: "known", columns: &[("id", Int), ("label", Text), ("spent", Num)] },
    Table { name: "words", columns: &[("body", Text), ("stars", Int)] },
    Table { name: "busy_known", columns: &[("id", Int), ("label", Text), ("part", Int)] },
];

impl Table {
    pub fn columns(&self) -> Vec<Column> {
        self.columns.iter().map(|(name, kind)| Column { name: (*name).to_owned(), kind: *kind }).collect()
    }
}

/// A generator's state: its choices, what is in reach, and the parameters so far.
pub struct Generator {
    pub random: Random,
    /// FROM entries by level, the innermost last.
    pub levels: Vec<Vec<Entry>>,
    pub withs: Vec<With>,
    /// Values of `$1`, `$2`, ..; absent where the statement is sent by the simple protocol.
    pub parameters: Option<Vec<String>>,
    /// How deep expressions and queries may still grow.
    pub budget: usize,
}

/// Aliases, some of which are names of tables and columns.
pub const ALIASES: [&str; 14] =
    ["a", "b", "c", "s", "x", "o", "sale", "customer", "event", "item", "tenant_id", "id", "\"A\"", "memo"];
pub const NAMES: [&str; 12] = ["v", "w", "y", "z", "tenant_id", "id", "num", "note", "name", "k", "\"V\"", "body"];

impl Generator {
    /// All columns in reach that serve, as they are written.
    pub fn columns_of(&self, wanted: Kind) -> Vec<(String, Kind)> {
        let mut found = Vec::new();
        let mut hidden: Vec<&str> = Vec::new();
        for (depth, level) in self.levels.iter().rev().enumerate() {
            for entry in level.iter().filter(|e| !hidden.contains(&e.alias.as_str())) {
                for column in entry.columns.iter().filter(|c| c.kind.serves(wanted)) {
                    found.push((format!("{}.{}", entry.alias, column.name), column.kind));
                    let same = level.iter().flat_map(|e| &e.columns).filter(|c| c.name == column.name).count();
                    let alias_too = level.iter().any(|e| e.alias == column.name);
                    if depth == 0 && same == 1 && !alias_too {
                        found.push((column.name.clone(), column.kind));
                    }
                }
            }
            hidden.extend(level.iter().map(|e| e.alias.as_str()));
        }
        found
    }

    /// An alias that this level does not have yet.
    pub fn alias(&mut self, used: &mut Vec<String>) -> String {
        for _ in 0..8 {
            let alias = (*self.random.pick(&ALIASES)).to_owned();
            if !used.contains(&alias) {
                used.push(alias.clone());
                return alias;
            }
        }
        let alias = format!("t{}", used.len());
        used.push(alias.clone());
        alias
    }

    /// `n` different names for columns.
    pub fn names(&mut self, n: usize) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        while names.len() < n {
            let name = if names.len() < 8 { (*self.random.pick(&NAMES)).to_owned() } else { format!("c{}", names.len()) };
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}
