//! What is called quiet, against rows of every kind: random conditions over a table with a column of each type and extreme
//! values. Those that are sent unguarded must run over all rows, other tenants' too, without an error or a notice that they
//! would not give over no rows at all.

mod support;

use std::fmt::Write;
use std::fs;

use support::answer::Answer;
use support::cases::{Case, cases_of};
use support::cluster::Cluster;
use support::random::Random;
use support::wire::Wire;

/// Column, type, and values that are hard for it, `|` between them.
const COLUMNS: &[(&str, &str, &str)] = &[
    ("b", "bool", "t|f"),
    ("i2", "int2", "-32768|-1|0|1|32767"),
    ("i4", "int4", "-2147483648|-1|0|1|2147483647|70000"),
    ("i8", "int8", "-9223372036854775808|-1|0|5000000000|9223372036854775807"),
    ("f4", "float4", "NaN|Infinity|-Infinity|0|-0|3.4e38|1e-45"),
    ("f8", "float8", "NaN|Infinity|-Infinity|0|1.7e308|4.9e-324|1e30"),
    ("nu", "numeric", "NaN|Infinity|-Infinity|0|1e400|-1e400|1e-400|0.1|99999999999999999999"),
    ("nt", "numeric(4,2)", "NaN|99.99|-99.99|0"),
    ("mo", "money", "-92233720368547758.08|92233720368547758.07|0"),
    ("te", "text", "|a|A|ß|İ|(|\\|%|a\\|日本|1e400|😀|2020-13-45|{|5|infinity"),
    ("vc", "varchar", "|a|(|a\\|true|[1,"),
    ("v3", "varchar(3)", "|abc|(|ab\\"),
    ("bc", "bpchar", "|a |("),
    ("c3", "char(3)", "a|abc|(|"),
    ("na", "name", "|a|("),
    ("ch", "\"char\"", "|a|é"),
    ("by", "bytea", "|\\x00|\\xff"),
    ("uu", "uuid", "00000000-0000-0000-0000-000000000000|ffffffff-ffff-ffff-ffff-ffffffffffff"),
    ("oi", "oid", "0|4294967295|1259"),
    ("bi", "bit(3)", "101|000"),
    ("vb", "varbit", "|1|0101010101"),
    ("ine", "inet", "0.0.0.0/0|255.255.255.255|::|ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff|::/0|10.0.0.1/8"),
    ("ci", "cidr", "0.0.0.0/0|255.255.255.255/32|::/0"),
    ("ma", "macaddr", "00:00:00:00:00:00|ff:ff:ff:ff:ff:ff"),
    ("m8", "macaddr8", "00:00:00:00:00:00:00:00|ff:ff:ff:ff:ff:ff:ff:ff"),
    ("ls", "pg_lsn", "0/0|FFFFFFFF/FFFFFFFF"),
    ("xi", "xid", "0|4294967295"),
    ("x8", "xid8", "0|18446744073709551615"),
    ("ti", "tid", "(0,0)|(4294967295,65535)"),
    ("da", "date", "-infinity|infinity|4714-11-24 BC|5874897-12-31|2020-01-01"),
    ("tm", "time", "00:00|24:00:00"),
    ("tz", "timetz", "00:00+15:59|24:00:00-15:59"),
    ("ts", "timestamp", "-infinity|infinity|4714-11-24 00:00 BC|294276-12-31 23:59:59.999999|2020-01-01"),
    ("t0", "timestamp(0)", "-infinity|infinity|4714-11-24 00:00 BC|294276-12-31 23:59:59"),
    ("at", "timestamptz", "-infinity|infinity|4714-11-24 00:00:00+00 BC|294276-12-31 23:59:59.999999+00|2020-01-01"),
    ("iv", "interval", "0|178000000 years|-178000000 years|1 mon -1 day|2562047788:00:54.775807"),
    ("js", "json", "null|1|\"\\u0000\"|[]|{}|{\"a\":1e400}|{\"a\":{\"b\":[1]}}"),
    ("jb", "jsonb", "null|1|\"a\"|[]|{}|[1,2]|{\"a\":1}|{\"a\":{\"b\":[1]}}|1e400|\"2020-13-45\"|BIG"),
    ("jp", "jsonpath", "$|$.a|$[*]|strict $.a.double()|$.a[last] > 1"),
    ("tv", "tsvector", "|a:1 b:2|a:16383"),
    ("tq", "tsquery", "|a|a & !b|a <-> b"),
    ("xm", "xml", "<a/>|text|"),
    ("po", "point", "(0,0)|(1e300,1e300)|(NaN,Infinity)"),
    ("bx", "box", "(1e300,1e300),(0,0)|(1,1),(0,0)"),
    ("ai", "int4[]", "{}|{NULL}|{1,2}|{{1,2},{3,4}}|[5:6]={1,2}|[2147483646:2147483646]={1}"),
    ("ax", "text[]", "{}|{NULL}|{a,b}|{{a},{b}}|[2147483646:2147483646]={a}"),
    ("an", "numeric[]", "{}|{NaN,Infinity}|{1e400}"),
    ("aj", "jsonb[]", "{}|{null}|{1}"),
    ("ao", "json[]", "{}|{null}|{1}"),
    ("aa", "timestamptz[]", "{}|{-infinity,infinity}|{NULL}"),
    ("ir", "int4range", "empty|(,)|[1,5)|[-2147483648,2147483647)|(,5)|(2147483646,)"),
    ("nr", "numrange", "empty|(,)|[1,5]|[NaN,NaN]|[1e400,1e400]|[Infinity,Infinity]|[7,8]"),
    ("dr", "daterange", "empty|(,)|[2020-01-01,infinity]|[4714-11-24 BC,5874897-12-31)|[-infinity,infinity]"),
    ("sr", "tstzrange", "empty|(,)|[2020-01-01,infinity]"),
    ("im", "int4multirange", "{}|{(,)}|{[1,5),[7,9)}"),
    ("en", "mood", "sad|glad|odd"),
    ("ae", "mood[]", "{}|{sad,NULL}|{odd}"),
    ("dm", "posint", "1|2147483647"),
    ("dt", "email", "a@b|@"),
    ("co", "pair", "(1,\"{}\")|(,)"),
    ("ca", "text COLLATE \"C\"", "|a|ß"),
    ("cb", "text COLLATE \"POSIX\"", "|a|ß"),
    ("cn", "text COLLATE nd", "|a|A|ß"),
    ("cu", "varchar COLLATE \"und-x-icu\"", "|a|A|ß|İ"),
    ("rc", "regclass", "pg_class|-"),
    ("big", "text", "BIG"),
];

const OPERATORS: &[&str] = &[
    "=", "<>", "<", "<=", ">", ">=", "=", "=", "<", "@>", "<@", "&&", "<<", ">>", "&<", "&>", "-|-", "->", "->>", "#>", "#>>",
    "?", "?|", "?&", "@@", "@?", "~~", "~", "||", "+", "-", "*", "/", "%", "&", "|", "#", "<<=", ">>=", "^", "!~~", "~~*",
];

const TYPES: &[&str] = &[
    "bool",
    "int2",
    "int4",
    "int8",
    "float4",
    "float8",
    "numeric",
    "numeric(4,2)",
    "money",
    "text",
    "varchar",
    "varchar(3)",
    "char(2)",
    "bpchar",
    "name",
    "\"char\"",
    "bytea",
    "uuid",
    "oid",
    "bit(3)",
    "varbit",
    "inet",
    "cidr",
    "macaddr",
    "macaddr8",
    "date",
    "time",
    "timetz",
    "timestamp",
    "timestamp(0)",
    "timestamptz",
    "interval",
    "interval year",
    "json",
    "jsonb",
    "tsvector",
    "tsquery",
    "xml",
    "int4[]",
    "text[]",
    "varchar[]",
    "int8[]",
    "numeric[]",
    "int4range",
    "numrange",
    "tstzrange",
    "mood",
    "mood[]",
    "posint",
    "email",
    "pair",
    "regclass",
    "int4multirange",
    "xid",
    "xid8",
    "pg_lsn",
    "tid",
];

const FUNCTIONS: &[&str] = &[
    "lower",
    "upper",
    "length",
    "char_length",
    "octet_length",
    "btrim",
    "ltrim",
    "rtrim",
    "abs",
    "isfinite",
    "jsonb_typeof",
    "left",
    "right",
    "date_trunc",
    "date_part",
    "coalesce",
    "greatest",
    "least",
    "nullif",
    "concat",
    "md5",
    "reverse",
    "initcap",
    "to_char",
    "array_length",
    "cardinality",
    "starts_with",
    "strpos",
    "sign",
    "floor",
    "round",
    "date",
    "text",
    "timezone",
    "bit_length",
    "jsonb_array_length",
    "lower_inc",
    "isempty",
    "host",
    "num_nulls",
    "to_json",
    "row",
    "substr",
    "replace",
    "array_position",
];

const COLLATIONS: &[&str] = &["\"C\"", "\"POSIX\"", "nd", "\"und-x-icu\"", "\"default\""];

/// Writes conditions. Most mean nothing to PostgreSQL, which says so at once.
struct Writer {
    random: Random,
    /// Types and values of the parameters of the condition that is being written.
    parameters: Vec<(&'static str, String)>,
}

/// A condition, and its parameters.
#[derive(Clone)]
struct Written {
    text: String,
    parameters: Vec<(&'static str, String)>,
}

impl Written {
    /// The statement, PREPARE where it has parameters.
    fn statement(&self) -> String {
        let select = format!("SELECT w.id FROM wide w WHERE {}", self.text);
        if self.parameters.is_empty() {
            return select;
        }
        let types: Vec<&str> = self.parameters.iter().map(|p| p.0).collect();
        format!("PREPARE p ({}) AS {select}", types.join(", "))
    }

    /// The call of its test, in which it stands as `statement`.
    fn attempt(&self, statement: &str) -> String {
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let values: Vec<&str> = self.parameters.iter().map(|p| p.1.as_str()).collect();
        let execute = if values.is_empty() { "NULL".to_owned() } else { quoted(&format!("EXECUTE p({})", values.join(", "))) };
        format!("({}, {execute})", quoted(statement))
    }
}

impl Writer {
    fn column(&mut self) -> (String, &'static str, String) {
        let (name, type_, values) = *self.random.pick(COLUMNS);
        let value = *self.random.pick(&values.split('|').collect::<Vec<_>>());
        let value = if value == "BIG" { "{\"a\":1}" } else { value };
        (format!("w.{name}"), type_.split(" COLLATE").next().unwrap_or(type_), format!("'{}'", value.replace('\'', "''")))
    }

    /// A column, or constants that suit it.
    fn leaf(&mut self) -> String {
        let (column, type_, value) = self.column();
        self.like(&column, type_, &value)
    }

    fn like(&mut self, column: &str, type_: &'static str, value: &str) -> String {
        match self.random.below(14) {
            12 | 13 => self.parameter(type_, value),
            0 => value.to_owned(),
            1 => format!("{value}::{type_}"),
            2 => "NULL".into(),
            3 => format!("NULL::{type_}"),
            4 => (*self.random.pick(&["0", "1", "-1", "1.5", "5000000000", "1e400", "true", "now()", "current_date"])).to_owned(),
            _ => column.to_owned(),
        }
    }

    fn parameter(&mut self, type_: &'static str, value: &str) -> String {
        let declared = if self.random.percent(30) { "unknown" } else { type_ };
        self.parameters.push((declared, value.to_owned()));
        format!("${}", self.parameters.len())
    }

    fn written(&mut self, depth: usize) -> Written {
        self.parameters.clear();
        let text = self.condition(depth);
        Written { text, parameters: self.parameters.clone() }
    }

    /// A value that may well go with the ones of a column.
    fn beside(&mut self, column: &str, type_: &'static str, value: &str, depth: usize) -> String {
        match self.random.below(10) {
            0 | 1 => value.to_owned(),
            2 => format!("{value}::{type_}"),
            3 => self.value(depth),
            4 => self.leaf(),
            _ => self.like(column, type_, value),
        }
    }

    fn value(&mut self, depth: usize) -> String {
        if depth == 0 {
            return self.leaf();
        }
        let (column, type_, literal) = self.column();
        let one = self.like(&column, type_, &literal);
        let two = self.beside(&column, type_, &literal, depth - 1);
        let three = self.beside(&column, type_, &literal, depth - 1);
        match self.random.below(16) {
            0 => format!("coalesce({one}, {two})"),
            1 => format!("nullif({one}, {two})"),
            2 => format!("greatest({one}, {two}, {three})"),
            3 => format!("(CASE WHEN {} THEN {one} ELSE {two} END)", self.condition(depth - 1)),
            4 => format!("(CASE {one} WHEN {two} THEN {three} WHEN {one} THEN {two} END)"),
            5 | 6 => format!("({})::{}", self.value(depth - 1), self.random.pick(TYPES)),
            7 => format!("({one})::{}", self.random.pick(TYPES)),
            8 => format!("ARRAY[{one}, {two}]"),
            9 => format!("({one})[{}]", self.random.pick(&["1", "0:1", "w.i4", "1:w.i4"])),
            10 => format!("({one} COLLATE {})", self.random.pick(COLLATIONS)),
            11 => format!("{}({one})", self.random.pick(FUNCTIONS)),
            12 => format!("{}({one}, {two})", self.random.pick(FUNCTIONS)),
            13 => format!("extract({} FROM {one})", self.random.pick(&["year", "epoch", "hour", "day", "julian", "century"])),
            14 => format!("({one} AT TIME ZONE 'UTC')"),
            _ => format!("({one} {} {two})", self.random.pick(OPERATORS)),
        }
    }

    fn condition(&mut self, depth: usize) -> String {
        let (column, type_, literal) = self.column();
        let deeper = depth.saturating_sub(1);
        let one = if self.random.percent(60) { column.clone() } else { self.value(deeper) };
        let two = self.beside(&column, type_, &literal, deeper);
        let three = self.beside(&column, type_, &literal, deeper);
        let operator = *self.random.pick(OPERATORS);
        match self.random.below(24) {
            0..=6 => format!("{one} {operator} {two}"),
            7 => format!("{two} {operator} {one}"),
            8 => format!("{one} IN ({two}, {three})"),
            9 => format!("{one} NOT IN ({two}, {three}, {literal})"),
            10 => format!("{one} BETWEEN {two} AND {three}"),
            11 => format!("{one} {operator} ANY (ARRAY[{two}, {three}])"),
            12 => format!("{one} {operator} ALL ('{{}}')"),
            13 => format!("{two} {operator} ANY ({column})"),
            14 => format!("{one} IS DISTINCT FROM {two}"),
            15 => {
                let how = *self.random.pick(&["LIKE", "ILIKE", "NOT LIKE", "SIMILAR TO"]);
                let escape = *self.random.pick(&["", "", " ESCAPE 'a'", " ESCAPE ''"]);
                let pattern = *self.random.pick(&["'a%'", "'a\\'", "'%'", "'_\\%'", "NULL", "w.te", "'(a' COLLATE nd"]);
                format!("{one} {how} {pattern}{escape}")
            }
            16 => format!("({one}, {two}) = ({three}, {column})"),
            17 => format!("({one}) IS NULL"),
            18 if depth > 0 => format!("({}) IS NOT NULL", self.value(depth)),
            19 if depth > 0 => format!("({}) OR ({})", self.condition(deeper), self.condition(deeper)),
            20 if depth > 0 => format!("NOT ({})", self.condition(deeper)),
            21 if depth > 0 => format!("({}) IS NOT TRUE", self.condition(deeper)),
            22 if self.random.percent(50) => format!("EXISTS (SELECT 1 FROM own v WHERE {})", self.condition(deeper)),
            22 => format!("{one} IN (SELECT {two} FROM own w)"),
            23 => format!("{one} {operator} (SELECT max({column}) FROM own w)"),
            _ => format!("({}) IS NOT NULL", self.value(1)),
        }
    }
}

fn schema() -> String {
    let columns: Vec<String> = COLUMNS.iter().map(|(name, type_, _)| format!("{name} {type_}")).collect();
    format!(
        "CREATE TYPE mood AS ENUM ('sad', 'glad');\nALTER TYPE mood ADD VALUE 'odd' BEFORE 'glad';\n\
         CREATE DOMAIN posint AS int CHECK (VALUE > 0);\nCREATE DOMAIN email AS text CHECK (VALUE LIKE '%@%');\n\
         CREATE TYPE pair AS (a int, j json);\n\
         CREATE COLLATION nd (provider = icu, locale = 'und-u-ks-level2', deterministic = false);\n\
         CREATE TABLE wide (id int PRIMARY KEY, tenant_id int NOT NULL, {});\nCREATE TABLE own (LIKE wide);\n",
        columns.join(", ")
    )
}

/// Rows of a tenant: each value of each column, beside others in each row.
fn rows(table: &str, tenant: u32) -> String {
    let mut random = Random::new(7);
    let mut sql = String::new();
    for id in 0..60 {
        let values: Vec<String> = COLUMNS
            .iter()
            .map(|(name, _, values)| {
                let values: Vec<&str> = values.split('|').collect();
                let value = if id < values.len() { values[id] } else { *random.pick(&values) };
                match (*name, value) {
                    // Prints as more than a gigabyte, and a text that a hundred of are too much for an array.
                    ("jb", "BIG") => "('{\"a\":[' || repeat('1e131071,', 8300) || '1]}')::jsonb".to_owned(),
                    ("big", _) => "repeat('x', 10000000)".to_owned(),
                    _ if id > 20 && random.percent(10) => "NULL".to_owned(), // tidy: not a syntax kind
                    (_, value) => format!("'{}'", value.replace('\'', "''")),
                }
            })
            .collect();
        let _ = writeln!(sql, "INSERT INTO {table} VALUES ({id}, {tenant}, {});", values.join(", "));
    }
    sql
}

const ATTEMPT: &str = "CREATE FUNCTION pg_temp.attempt(q text, e text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN EXECUTE q; \
     IF e IS NOT NULL THEN EXECUTE e; DEALLOCATE ALL; END IF; RETURN NULL; \
     EXCEPTION WHEN others THEN DEALLOCATE ALL; RETURN sqlerrm; END $$";

/// What each call raises, in a database.
fn attempts(wire: &mut Wire, calls: &[String]) -> (Vec<Option<String>>, Answer) {
    let answer = wire.query(format!("SELECT pg_temp.attempt(q, e) FROM (VALUES {}) v(q, e)", calls.join(", ")));
    assert!(answer.error.is_none(), "{answer:?}");
    let text = |v: &Option<Vec<u8>>| v.as_ref().map(|v| String::from_utf8_lossy(v).into_owned());
    (answer.rows().map(|r| text(&r[0].as_ref().map(|b| b.to_vec()))).collect(), answer)
}

fn the_case(cluster: &Cluster) -> Case {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("wide.md");
    let policy = ["wide", "own"]
        .map(|table| format!("[[table]]\nname = \"public.{table}\"\nscope = \"tenant\"\ntenant_column = \"tenant_id\"\n"))
        .concat();
    let text = format!("```schema\n{}```\n\n```toml\n{policy}```\n\n```sql\nSELECT 1; SELECT 2\n```\n", schema());
    fs::write(&path, text).expect("write a file of cases");
    cases_of(cluster, "wide", &path).pop().expect("a case")
}

/// The conditions that are sent unguarded, as they are sent, with every row in reach.
fn quiet(case: &mut Case, conditions: &[Written]) -> Vec<String> {
    const TENANT: &str = "w.tenant_id OPERATOR(pg_catalog.=) '1'::pg_catalog.int4";
    let mut calls = Vec::new();
    for condition in conditions {
        case.sql = condition.statement();
        let sent = case.sent().pop().and_then(Result::ok);
        let unguarded = sent.filter(|text| !text.contains(&format!("CASE WHEN {TENANT}")));
        calls.extend(unguarded.map(|text| condition.attempt(&text.replace(TENANT, "true").replacen("\"p\"", "p", 1))));
    }
    calls
}

#[test]
fn what_is_sent_unguarded_raises_for_no_row() {
    let cluster = Cluster::start();
    let mut case = the_case(&cluster);
    cluster.execute("wide", &rows("own", 1));
    cluster.execute("wide", "ANALYZE");
    cluster.execute("postgres", "CREATE DATABASE filled TEMPLATE wide");
    cluster.execute("filled", &rows("wide", 2));
    cluster.execute("filled", "ANALYZE");
    let mut wires = ["wide", "filled"].map(|d| Wire::connect(&cluster.superuser(d)).expect("a session"));
    for wire in &mut wires {
        wire.query(ATTEMPT);
        wire.query("SET plan_cache_mode = force_generic_plan");
    }
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let rounds = std::env::var("ROUNDS").ok().and_then(|s| s.parse().ok()).unwrap_or(20);
    let mut writer = Writer { random: Random::new(seed), parameters: Vec::new() };
    let (mut written, mut tried, mut holes) = (0, 0, Vec::new());
    for _ in 0..rounds {
        let conditions: Vec<Written> = (0..500).map(|_| writer.written(2)).collect();
        written += conditions.len();
        let valid = valid(&mut wires[0], &conditions);
        let statements = quiet(&mut case, &valid);
        if statements.is_empty() {
            continue;
        }
        let zone = *writer.random.pick(&["UTC", "Etc/GMT-14", "Etc/GMT+12", "Asia/Kolkata", "<x>-167:59:59", "<x>+167:59:59"]);
        let [(none, silent), (all, told)] = wires.each_mut().map(|wire| {
            wire.query(format!("SET timezone = '{zone}'"));
            attempts(wire, &statements)
        });
        tried += none.iter().filter(|e| e.is_none()).count();
        for ((statement, none), all) in statements.iter().zip(&none).zip(&all) {
            if none.is_none() && all.is_some() {
                holes.push(format!("{zone}: {statement}\n  {}", all.as_deref().unwrap_or_default()));
            }
        }
        if told.notices.len() != silent.notices.len() {
            holes.push(format!("{zone}: notices {:?}", told.notices));
        }
    }
    println!("{written} conditions, {tried} of them valid and sent unguarded");
    // Without guards there would be errors to see.
    let many = vec!["w.big"; 110].join(", ");
    let loud =
        ["w.nu::float8 = 1", "w.da::timestamp IS NULL", "w.te::int = 1", "w.i4 + 1 = 2", "w.jb ->> 'a' IS NULL", "w.ca = w.cb"];
    for condition in loud.into_iter().map(str::to_owned).chain([format!("ARRAY[{many}] IS NULL")]) {
        let bare = Written { text: condition, parameters: Vec::new() };
        let (raised, _) = attempts(&mut wires[1], &[bare.attempt(&bare.statement())]);
        assert!(raised[0].is_some(), "the rows make {} raise nothing", bare.text);
    }
    assert!(tried > written / 50, "{tried} of {written} conditions are valid and sent unguarded");
    assert!(holes.is_empty(), "{} holes:\n{}", holes.len(), holes.join("\n"));
}

/// The conditions that PostgreSQL understands.
fn valid(wire: &mut Wire, conditions: &[Written]) -> Vec<Written> {
    let calls: Vec<String> = conditions.iter().map(|c| c.attempt(&c.statement())).collect();
    let (raised, _) = attempts(wire, &calls);
    conditions.iter().zip(raised).filter(|(_, r)| r.is_none()).map(|(c, _)| c.clone()).collect()
}
