//! The one table of what cannot raise: operators, functions and casts of `pg_catalog`, each by what makes it one there (its
//! name and the types of its arguments, which `tests/quiet.rs` turns to OIDs in a running server's catalog, and tries with
//! extreme values). What is not here is loud.
//!
//! `@?` and `@@` of jsonb are not here: they suppress some errors of a path only (not those of `datetime()`, of templates, of
//! variables).
//!
//! Values of more than 128 MB are left out of account: functions that make a text of another size may find it too large, and
//! `btrim` needs eight bytes for each byte (guard.md, A10). So are trees (jsonb, tsquery) that are nested thousands deep, which
//! `@>` and `@@` walk down on a stack that has an end.

/// What must hold of the operands besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    Nothing,
    /// One collation can be told: two that conflict raise at run time (guard.md, A6).
    Collation,
    /// Elements of the arrays (or the type of the enum, of the range) compare quietly themselves.
    Elements,
    /// The first argument is a constant that names a field which values of the second have.
    Field,
}

/// Operators of one reason: each of `names` over each of `types`.
pub struct Operators {
    pub why: &'static str,
    pub names: &'static [&'static str],
    pub types: &'static [(&'static str, &'static str)],
    pub needs: Needs,
}

const COMPARISONS: &[&str] = &["=", "<>", "<", "<=", ">", ">="];

pub const OPERATORS: &[Operators] = &[
    Operators {
        why: "compare two integers, each pair of widths with a function of its own",
        names: COMPARISONS,
        types: &[
            ("int2", "int2"),
            ("int2", "int4"),
            ("int2", "int8"),
            ("int4", "int2"),
            ("int4", "int4"),
            ("int4", "int8"),
            ("int8", "int2"),
            ("int8", "int4"),
            ("int8", "int8"),
        ],
        needs: Needs::Nothing,
    },
    Operators {
        why: "compare two numbers, NaN and infinities ordered; no value is computed",
        names: COMPARISONS,
        types: &[
            ("numeric", "numeric"),
            ("float4", "float4"),
            ("float4", "float8"),
            ("float8", "float4"),
            ("float8", "float8"),
            ("money", "money"),
        ],
        needs: Needs::Nothing,
    },
    Operators {
        why: "compare strings under one collation",
        names: COMPARISONS,
        types: &[("text", "text"), ("bpchar", "bpchar"), ("name", "name"), ("name", "text"), ("text", "name")],
        needs: Needs::Collation,
    },
    Operators {
        why: "compare bytes, bits, or values of fixed size",
        names: COMPARISONS,
        types: &[
            ("bool", "bool"),
            ("char", "char"),
            ("bytea", "bytea"),
            ("uuid", "uuid"),
            ("oid", "oid"),
            ("bit", "bit"),
            ("varbit", "varbit"),
            ("inet", "inet"),
            ("macaddr", "macaddr"),
            ("macaddr8", "macaddr8"),
            ("pg_lsn", "pg_lsn"),
            ("xid8", "xid8"),
            ("tid", "tid"),
            ("tsvector", "tsvector"),
        ],
        needs: Needs::Nothing,
    },
    Operators {
        why: "compare points in time; across types what does not fit one of them is ordered as out of its range",
        names: COMPARISONS,
        types: &[
            ("date", "date"),
            ("date", "timestamp"),
            ("date", "timestamptz"),
            ("timestamp", "date"),
            ("timestamp", "timestamp"),
            ("timestamp", "timestamptz"),
            ("timestamptz", "date"),
            ("timestamptz", "timestamp"),
            ("timestamptz", "timestamptz"),
            ("time", "time"),
            ("timetz", "timetz"),
            ("interval", "interval"),
        ],
        needs: Needs::Nothing,
    },
    Operators {
        why: "compare two binary trees, whatever their depth",
        names: COMPARISONS,
        types: &[("jsonb", "jsonb")],
        needs: Needs::Nothing,
    },
    Operators {
        why: "compare element by element, or by the bounds",
        names: COMPARISONS,
        types: &[("anyarray", "anyarray"), ("anyenum", "anyenum"), ("anyrange", "anyrange")],
        needs: Needs::Elements,
    },
    Operators { why: "compare transaction ids", names: &["=", "<>"], types: &[("xid", "xid")], needs: Needs::Nothing },
    Operators {
        why: "take one step down a parsed tree, NULL where there is none; json is parsed anew and is not here, nor is `->>`, which \
              prints: a number of ten bytes may have 131,072 digits",
        names: &["->"],
        types: &[("jsonb", "text"), ("jsonb", "int4")],
        needs: Needs::Nothing,
    },
    Operators {
        why: "walk down a parsed tree, NULL where the path ends; `#>>` prints",
        names: &["#>"],
        types: &[("jsonb", "_text")],
        needs: Needs::Nothing,
    },
    Operators {
        why: "look for keys and values in parsed trees",
        names: &["@>", "<@"],
        types: &[("jsonb", "jsonb")],
        needs: Needs::Nothing,
    },
    Operators { why: "look for a key", names: &["?"], types: &[("jsonb", "text")], needs: Needs::Nothing },
    Operators { why: "look for keys", names: &["?|", "?&"], types: &[("jsonb", "_text")], needs: Needs::Nothing },
    Operators {
        why: "look for elements, which are compared for equality",
        names: &["@>", "<@", "&&"],
        types: &[("anyarray", "anyarray")],
        needs: Needs::Elements,
    },
    Operators {
        why: "compare bounds; `+` and `*` make ranges and are not here",
        names: &["@>", "<@", "&&", "<<", ">>", "&<", "&>", "-|-"],
        types: &[("anyrange", "anyrange")],
        needs: Needs::Elements,
    },
    Operators {
        why: "compare the common bits of two networks",
        names: &["<<", "<<=", ">>", ">>=", "&&"],
        types: &[("inet", "inet")],
        needs: Needs::Nothing,
    },
    Operators {
        why: "match a parsed query against parsed words",
        names: &["@@"],
        types: &[("tsvector", "tsquery"), ("tsquery", "tsvector")],
        needs: Needs::Nothing,
    },
    Operators {
        why: "work bit by bit",
        names: &["&", "|", "#"],
        types: &[("int2", "int2"), ("int4", "int4"), ("int8", "int8")],
        needs: Needs::Nothing,
    },
];

/// Functions of one reason.
pub struct Functions {
    pub why: &'static str,
    /// Name and types of the arguments.
    pub functions: &'static [(&'static str, &'static [&'static str])],
    pub needs: Needs,
}

pub const FUNCTIONS: &[Functions] = &[
    Functions {
        why: "the same for all rows of a statement, and there is always one",
        functions: &[
            ("now", &[]),
            ("transaction_timestamp", &[]),
            ("statement_timestamp", &[]),
            ("current_database", &[]),
            ("current_schema", &[]),
        ],
        needs: Needs::Nothing,
    },
    Functions {
        why: "count characters or bytes of a valid text",
        functions: &[
            ("length", &["text"]),
            ("length", &["bpchar"]),
            ("length", &["bytea"]),
            ("char_length", &["text"]),
            ("char_length", &["bpchar"]),
            ("character_length", &["text"]),
            ("character_length", &["bpchar"]),
            ("octet_length", &["text"]),
            ("octet_length", &["bytea"]),
        ],
        needs: Needs::Nothing,
    },
    Functions {
        why: "change case by the rules of one collation",
        functions: &[("lower", &["text"]), ("upper", &["text"])],
        needs: Needs::Collation,
    },
    Functions {
        why: "take a piece of a text, whatever the length that is asked for",
        functions: &[
            ("btrim", &["text"]),
            ("ltrim", &["text"]),
            ("rtrim", &["text"]),
            ("btrim", &["text", "text"]),
            ("ltrim", &["text", "text"]),
            ("rtrim", &["text", "text"]),
            ("left", &["text", "int4"]),
            ("right", &["text", "int4"]),
        ],
        needs: Needs::Nothing,
    },
    Functions {
        why: "take a field that every value of the type has, infinite ones too; date_part of a date goes by way of timestamp and raises",
        functions: &[("extract", &["text", "date"]), ("extract", &["text", "timestamp"]), ("extract", &["text", "timestamptz"])],
        needs: Needs::Field,
    },
    Functions {
        why: "look at a value's head",
        functions: &[
            ("isfinite", &["date"]),
            ("isfinite", &["timestamp"]),
            ("isfinite", &["timestamptz"]),
            ("jsonb_typeof", &["jsonb"]),
            ("abs", &["numeric"]),
            ("abs", &["float4"]),
            ("abs", &["float8"]),
        ],
        needs: Needs::Nothing,
    },
];

/// The fields that [`Needs::Field`] admits: dates have no hours, and every type here has all of these.
pub const FIELDS: [&str; 12] =
    ["century", "day", "decade", "dow", "doy", "epoch", "isodow", "isoyear", "millennium", "month", "quarter", "year"];

/// Operators that an index may order rows by (`pg_amop` with `amoppurpose` o), of PostgreSQL and of the extensions whose operators
/// are trusted. All but pg_trgm's may raise: they compute with coordinates, or compare dimensions.
pub const DISTANCES: &[&str] = &["<->", "<<->", "<->>", "<<<->", "<->>>", "~>", "<#>", "<=>", "<+>", "<~>", "<%>"];

/// Casts of one reason, source and target; also those that PostgreSQL adds by itself.
pub struct Casts {
    pub why: &'static str,
    pub casts: &'static [(&'static str, &'static str)],
}

pub const CASTS: &[Casts] = &[
    Casts {
        why: "every integer is a number of the wider type; numeric to float is not here, its error tells the value",
        casts: &[
            ("int2", "int4"),
            ("int2", "int8"),
            ("int4", "int8"),
            ("int2", "numeric"),
            ("int4", "numeric"),
            ("int8", "numeric"),
            ("int2", "float4"),
            ("int4", "float4"),
            ("int8", "float4"),
            ("int2", "float8"),
            ("int4", "float8"),
            ("int8", "float8"),
            ("float4", "float8"),
            ("int4", "bool"),
            ("bool", "int4"),
        ],
    },
    Casts {
        why: "the same bytes under another name, or a pad that goes",
        casts: &[
            ("varchar", "text"),
            ("text", "varchar"),
            ("bpchar", "text"),
            ("bpchar", "varchar"),
            ("name", "text"),
            ("name", "varchar"),
            ("char", "text"),
            ("cidr", "inet"),
            ("bit", "varbit"),
            ("int4", "oid"),
            ("oid", "int8"),
        ],
    },
    Casts {
        why: "every value prints, and is not large; jsonb is not here, see `->>`",
        casts: &[
            ("bool", "text"),
            ("int2", "text"),
            ("int4", "text"),
            ("int8", "text"),
            ("numeric", "text"),
            ("oid", "text"),
            ("uuid", "text"),
            ("date", "text"),
            ("timestamp", "text"),
            ("timestamptz", "text"),
            ("time", "text"),
            ("inet", "text"),
            ("cidr", "text"),
            ("macaddr", "text"),
        ],
    },
    Casts {
        why: "what is left out of a time is not missed, infinities stay; the other way they may not fit",
        casts: &[("timestamp", "date"), ("timestamptz", "date"), ("timestamp", "time"), ("timestamptz", "time")],
    },
    Casts { why: "one scale for all", casts: &[("money", "numeric")] },
];

/// Types whose input depends on nothing but the text, so that a literal of theirs raises when the statement is planned or
/// never; arrays of these as well.
pub const PLAIN_TYPES: [&str; 35] = [
    "bool",
    "int2",
    "int4",
    "int8",
    "float4",
    "float8",
    "numeric",
    "money",
    "text",
    "varchar",
    "bpchar",
    "name",
    "char",
    "bytea",
    "uuid",
    "oid",
    "date",
    "time",
    "timetz",
    "timestamp",
    "timestamptz",
    "interval",
    "inet",
    "cidr",
    "macaddr",
    "json",
    "jsonb",
    "tsvector",
    "tsquery",
    "int4range",
    "int8range",
    "numrange",
    "daterange",
    "tsrange",
    "tstzrange",
];

/// What the operator needs; `None`: it is not here.
pub fn operator(name: &str, left: &str, right: &str) -> Option<Needs> {
    let entry = OPERATORS.iter().find(|o| o.names.contains(&name) && o.types.contains(&(left, right)));
    entry.map(|o| o.needs)
}

/// What the function needs; `None`: it is not here.
pub fn function(name: &str, arguments: &[&str]) -> Option<Needs> {
    let entry = FUNCTIONS.iter().find(|f| f.functions.iter().any(|(n, a)| *n == name && *a == arguments));
    entry.map(|f| f.needs)
}

/// Whether a cast is here.
pub fn cast(source: &str, target: &str) -> bool {
    CASTS.iter().any(|c| c.casts.contains(&(source, target)))
}
