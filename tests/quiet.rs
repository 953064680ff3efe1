//! The table of what cannot raise (`src/plan/quiet/table.rs`) against a running server: every entry is what it says in the
//! server's catalog, and raises for no pair of extreme values.

mod support;

use bulkhead::plan::quiet_table::{CASTS, DISTANCES, FIELDS, FUNCTIONS, Needs, OPERATORS};
use support::cluster::Cluster;
use support::wire::Wire;

/// Values at the edges of each type, after guard.md's study; `|` between them.
const SAMPLES: &[(&str, &str)] = &[
    ("bool", "t|f"),
    ("int2", "-32768|-1|0|1|32767"),
    ("int4", "-2147483648|-1|0|1|2147483647|70000"),
    ("int8", "-9223372036854775808|-1|0|1|9223372036854775807|5000000000"),
    ("float4", "NaN|Infinity|-Infinity|0|-0|3.4e38|1e-45|-3.4e38"),
    ("float8", "NaN|Infinity|-Infinity|0|-0|1.7e308|4.9e-324|-1.7e308|1e30"),
    ("numeric", "NaN|Infinity|-Infinity|0|1e400|-1e400|1e-400|0.1|99999999999999999999"),
    ("money", "-92233720368547758.08|92233720368547758.07|0"),
    ("text", "|a|A|ß|İ|(|\\|%|a\\|日本|1e400|😀"),
    ("varchar", "|a|(|a\\"),
    ("bpchar", "|a |("),
    ("name", "|a|("),
    ("char", "|a"),
    ("bytea", "|\\x00|\\xff"),
    ("uuid", "00000000-0000-0000-0000-000000000000|ffffffff-ffff-ffff-ffff-ffffffffffff"),
    ("oid", "0|4294967295|1259"),
    ("bit", "1|0"),
    ("varbit", "|1|0101010101"),
    ("inet", "0.0.0.0/0|255.255.255.255|::|ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff|::/0|10.0.0.1/8"),
    ("cidr", "0.0.0.0/0|255.255.255.255/32|::/0"),
    ("macaddr", "00:00:00:00:00:00|ff:ff:ff:ff:ff:ff"),
    ("macaddr8", "00:00:00:00:00:00:00:00|ff:ff:ff:ff:ff:ff:ff:ff"),
    ("pg_lsn", "0/0|FFFFFFFF/FFFFFFFF"),
    ("xid", "0|4294967295"),
    ("xid8", "0|18446744073709551615"),
    ("tid", "(0,0)|(4294967295,65535)"),
    ("date", "-infinity|infinity|4714-11-24 BC|5874897-12-31|2020-01-01"),
    ("time", "00:00|24:00:00"),
    ("timetz", "00:00+15:59|24:00:00-15:59"),
    ("timestamp", "-infinity|infinity|4714-11-24 00:00 BC|294276-12-31 23:59:59.999999|2020-01-01"),
    ("timestamptz", "-infinity|infinity|4714-11-24 00:00:00+00 BC|294276-12-31 23:59:59.999999+00|2020-01-01"),
    ("interval", "0|178000000 years|-178000000 years|1 mon -1 day|2562047788:00:54.775807|-2562047788:00:54.775807"),
    ("jsonb", "null|1|\"a\"|[]|{}|[1,2]|{\"a\":1}|{\"a\":{\"b\":[1]}}|1e400"),
    ("jsonpath", "$|$.a|$[*]|strict $.a.double()|$.a[last] > 1"),
    ("tsvector", "|a:1 b:2|a:16383"),
    ("tsquery", "|a|a & !b|a <-> b"),
    ("_text", "{}|{NULL}|{a,b}|{{a},{b}}|[2147483646:2147483646]={a}"),
    ("_int4", "{}|{NULL}|{1,2}|{{1,2},{3,4}}|[5:6]={1,2}|[2147483646:2147483646]={1}"),
    ("_numeric", "{}|{NaN,Infinity}|{1e400}"),
    ("_jsonb", "{}|{null}|{1}"),
    ("_timestamptz", "{}|{-infinity,infinity}|{NULL}"),
    ("int4range", "empty|(,)|[1,5)|[-2147483648,2147483647)|(,5)|[7,9)|(2147483646,)"),
    ("numrange", "empty|(,)|[1,5]|[NaN,NaN]|(7,8)|[1,1e400]|[Infinity,Infinity]"),
    ("daterange", "empty|(,)|[2020-01-01,infinity]|[4714-11-24 BC,5874897-12-31)|[-infinity,infinity]"),
    ("tsrange", "empty|(,)|[2020-01-01,infinity]|[2019-01-01,2019-02-01)"),
    ("mood", "sad|glad"),
];

/// What stands for a polymorphic type in the trials.
fn instances(name: &'static str) -> Vec<&'static str> {
    match name {
        "anyarray" => vec!["_text", "_int4", "_numeric", "_jsonb", "_timestamptz"],
        "anyrange" => vec!["int4range", "numrange", "daterange", "tsrange"],
        "anyenum" => vec!["mood"],
        other => vec![other],
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Tries expressions in which `{1}`, `{2}` stand for operands of the types, with every pair of values; what raised.
struct Trials {
    wire: Wire,
    pending: Vec<String>,
    tried: usize,
    raised: Vec<String>,
}

impl Trials {
    fn new(cluster: &Cluster) -> Trials {
        let mut wire = Wire::connect(&cluster.superuser("postgres")).expect("a session");
        for sql in [
            "CREATE TYPE mood AS ENUM ('sad', 'glad')",
            "CREATE FUNCTION pg_temp.attempt(q text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'SELECT ' || q; \
             RETURN NULL; EXCEPTION WHEN others THEN RETURN q || ': ' || sqlerrm; END $$",
        ] {
            let answer = wire.query(sql);
            assert!(answer.error.is_none(), "{sql}: {answer:?}");
        }
        Trials { wire, pending: Vec::new(), tried: 0, raised: Vec::new() }
    }

    fn add(&mut self, expression: impl Fn(&[String]) -> String, types: &[&'static str]) {
        let values = |t: &str| -> Vec<String> {
            let samples = SAMPLES.iter().find(|(name, _)| *name == t).unwrap_or_else(|| panic!("no samples of {t}")).1;
            samples.split('|').map(|v| format!("{}::\"{t}\"", quoted(v))).collect()
        };
        let mut operands: Vec<Vec<String>> = vec![vec![]];
        for t in types {
            operands = operands
                .iter()
                .flat_map(|begun| values(t).into_iter().map(|v| [begun.as_slice(), &[v]].concat()).collect::<Vec<_>>())
                .collect();
        }
        self.pending.extend(operands.iter().map(|o| quoted(&expression(o))));
    }

    fn run(&mut self) {
        for zone in ["UTC", "Etc/GMT-14", "Etc/GMT+12"] {
            self.wire.query(format!("SET timezone = '{zone}'"));
            for some in self.pending.chunks(2_000) {
                let sql = format!(
                    "SELECT count(*)::text || coalesce(E'\\n' || string_agg(r, E'\\n'), '') \
                     FROM (SELECT pg_temp.attempt(q) AS r FROM unnest(ARRAY[{}]) AS q) x",
                    some.join(", ")
                );
                let answer = self.wire.query(&sql);
                let text = answer.scalar().unwrap_or_else(|| panic!("{answer:?}"));
                let mut lines = text.lines();
                self.tried += lines.next().and_then(|n| n.parse::<usize>().ok()).expect("a number");
                self.raised.extend(lines.map(|l| format!("{zone}: {l}")));
            }
        }
        self.pending.clear();
    }
}

#[test]
fn nothing_in_the_table_raises() {
    let cluster = Cluster::start();
    let mut trials = Trials::new(&cluster);
    for group in OPERATORS {
        assert!(!group.why.is_empty());
        for (left, right) in group.types {
            for name in group.names {
                // A polymorphic operator takes two of one type.
                for l in instances(left) {
                    let r = if left == right { l } else { *right };
                    trials.add(|o| format!("({}) OPERATOR(pg_catalog.{name}) ({})", o[0], o[1]), &[l, r]);
                }
            }
        }
    }
    for group in FUNCTIONS {
        assert!(!group.why.is_empty());
        for (name, arguments) in group.functions {
            if group.needs == Needs::Field {
                for field in FIELDS {
                    trials.add(|o| format!("pg_catalog.{name}('{field}', {})", o[0]), &arguments[1..]);
                }
            } else {
                trials.add(|o| format!("pg_catalog.{name}({})", o.join(", ")), arguments);
            }
        }
    }
    for group in CASTS {
        assert!(!group.why.is_empty());
        for (source, target) in group.casts {
            trials.add(|o| format!("({})::pg_catalog.\"{target}\"", o[0]), &[source]);
        }
    }
    trials.run();
    assert!(trials.tried > 20_000, "{} trials", trials.tried);
    assert!(trials.raised.is_empty(), "{} raised:\n{}", trials.raised.len(), trials.raised.join("\n"));
}

#[test]
fn the_samples_find_what_does_raise() {
    let cluster = Cluster::start();
    let mut trials = Trials::new(&cluster);
    let known: [(&str, &[&'static str]); 6] = [
        ("({1})::float8", &["numeric"]),
        ("({1})::timestamptz", &["date"]),
        ("({1})::oid", &["int8"]),
        ("({1}) + ({2})", &["int4", "int4"]),
        ("({1}) - ({2})", &["date", "date"]),
        ("({1}) ~ ({2})", &["text", "text"]),
    ];
    for (expression, types) in known {
        trials.add(|o| o.iter().zip(1..).fold(expression.to_owned(), |e, (v, n)| e.replace(&format!("{{{n}}}"), v)), types);
        let before = trials.raised.len();
        trials.run();
        assert!(trials.raised.len() > before, "{expression} never raised");
    }
}

/// Of PostgreSQL, and of the trusted extensions that come with it.
#[test]
fn every_operator_that_an_index_orders_by_is_known() {
    let cluster = Cluster::start();
    let mut wire = Wire::connect(&cluster.superuser("postgres")).expect("a session");
    for extension in ["btree_gin", "btree_gist", "citext", "cube", "hstore", "intarray", "isn", "ltree", "pg_trgm", "seg"] {
        let answer = wire.query(format!("CREATE EXTENSION {extension}"));
        assert!(answer.error.is_none(), "{answer:?}");
    }
    let answer = wire.query(
        "SELECT string_agg(DISTINCT o.oprname, ' ' ORDER BY o.oprname) FROM pg_amop a JOIN pg_operator o ON o.oid = a.amopopr WHERE a.amoppurpose = 'o'",
    );
    let names = answer.scalar().expect("names");
    assert!(names.split(' ').count() >= 5, "{names}");
    let unknown: Vec<&str> = names.split(' ').filter(|name| !DISTANCES.contains(name)).collect();
    assert!(unknown.is_empty(), "{unknown:?} are not in DISTANCES");
}

#[test]
fn every_entry_is_in_the_servers_catalog() {
    let cluster = Cluster::start();
    let mut wire = Wire::connect(&cluster.superuser("postgres")).expect("a session");
    let mut missing = Vec::new();
    let mut ask = |what: String, condition: String| {
        let answer = wire.query(format!("SELECT count(*)::text FROM {condition}"));
        if answer.scalar().as_deref() != Some("1") {
            missing.push(format!("{what}: {:?}", answer.scalar()));
        }
    };
    let type_oid =
        |t: &str| format!("(SELECT oid FROM pg_type WHERE typname = '{t}' AND typnamespace = 'pg_catalog'::regnamespace)");
    for group in OPERATORS {
        for (left, right) in group.types {
            for name in group.names {
                let (l, r) = (type_oid(left), type_oid(right));
                ask(
                    format!("{left} {name} {right}"),
                    format!(
                        "pg_operator o JOIN pg_proc p ON p.oid = o.oprcode WHERE oprname = '{name}' AND oprleft = {l} AND oprright = {r} \
                         AND oprnamespace = 'pg_catalog'::regnamespace AND o.oid < 16384 AND p.oid < 16384 AND provolatile <> 'v'"
                    ),
                );
            }
        }
    }
    for group in FUNCTIONS {
        for (name, arguments) in group.functions {
            let types: Vec<String> = arguments.iter().map(|a| type_oid(a)).collect();
            ask(
                format!("{name}({arguments:?})"),
                format!(
                    "pg_proc WHERE proname = '{name}' AND proargtypes::text = array_to_string(ARRAY[{}]::oid[], ' ') AND oid < 16384 \
                     AND pronamespace = 'pg_catalog'::regnamespace AND provolatile <> 'v' AND prokind = 'f' AND NOT proretset",
                    types.join(", ")
                ),
            );
        }
    }
    for group in CASTS {
        for (source, target) in group.casts {
            let (s, t) = (type_oid(source), type_oid(target));
            let listed = format!("castsource = {s} AND casttarget = {t}");
            // What is not listed goes by the text of the value, into text alone.
            let condition = format!(
                "(SELECT 1 FROM pg_cast WHERE {listed} AND castfunc < 16384 UNION ALL SELECT 1 WHERE '{target}' = 'text' \
                 AND {s} IS NOT NULL AND NOT EXISTS (SELECT 1 FROM pg_cast WHERE {listed})) x"
            );
            ask(format!("{source} to {target}"), condition);
        }
    }
    assert!(missing.is_empty(), "not in pg_catalog, or volatile:\n{}", missing.join("\n"));
}
