//! The output check on what is really sent: it accepts every rewritten statement, and refuses each with one injected piece
//! taken out or turned round.

mod support;

use std::fs;
use std::time::{Duration, Instant};

use bulkhead::catalog::{Catalog, SNAPSHOT_SQL};
use bulkhead::finding::{Denial, Reason};
use bulkhead::id::PolicyEpoch;
use bulkhead::plan::{self, Check};
use bulkhead::policy::expected::{self, Vocabulary};
use bulkhead::policy::{PolicySet, decide};
use bulkhead::sql::verify::{self, Expected, Kind, Relations};
use bulkhead::sql::{analyse, parse};
use support::cluster::Cluster;
use support::wire::Wire;

const SCHEMA: &str = "
CREATE TABLE accounts (id int PRIMARY KEY, tenant_id int NOT NULL, email text, balance numeric(12,2), region text);
CREATE TABLE orders (id int PRIMARY KEY, tenant_id int NOT NULL, account_id int, amount numeric, note text);
CREATE TABLE memos (id int PRIMARY KEY, tenant_id text, visible bool NOT NULL, body text, stars int);
CREATE TABLE products (id int PRIMARY KEY, name text, price numeric);
CREATE TABLE events (id bigint, tenant_id uuid NOT NULL, at timestamptz NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE events_2026 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
";

const POLICIES: &str = r#"
[[table]]
name = "public.accounts"
scope = "tenant"
tenant_column = "tenant_id"

[[table]]
name = "public.orders"
scope = "tenant"
tenant_column = "tenant_id"

[[table]]
name = "public.events"
scope = "tenant"
tenant_column = "tenant_id"

[[table]]
name = "public.memos"
scope = "tenant"
tenant_column = "tenant_id"

[[table.rule]]
id = "shown"
actions = ["select"]
using = "visible AND body <> ''"

[[table.rule]]
id = "few-stars"
actions = ["insert", "update", "delete"]
using = "10 / stars > 1"
with_check = "stars < 5"

[[table]]
name = "public.products"
scope = "shared"
"#;

const STATEMENTS: &[&str] = &[
    "SELECT * FROM accounts",
    "SELECT email FROM accounts WHERE id = 7 OR balance > 3 ORDER BY email",
    "SELECT a.id, o.amount / o.id FROM accounts a JOIN orders o ON o.account_id = a.id WHERE o.amount > 1",
    "SELECT a.id, o.id FROM accounts a LEFT JOIN orders o ON o.account_id = a.id AND 1 / o.id > 0 WHERE o.note ~ a.email",
    "SELECT * FROM accounts a RIGHT JOIN orders o USING (id)",
    "SELECT * FROM accounts a FULL JOIN orders o ON a.id = o.account_id",
    "SELECT * FROM accounts NATURAL JOIN orders",
    "SELECT * FROM products p WHERE EXISTS (SELECT 1 FROM orders o WHERE o.account_id = p.id)",
    "SELECT id FROM accounts WHERE id IN (SELECT account_id FROM orders WHERE 1 / amount > 2)",
    "SELECT (SELECT count(*) FROM orders o WHERE o.account_id = a.id) FROM accounts a",
    "SELECT id FROM accounts UNION ALL SELECT id FROM orders ORDER BY 1",
    "WITH w AS (SELECT 1 / id AS x, note FROM orders) SELECT * FROM w WHERE note = 'a'",
    "WITH RECURSIVE r AS (SELECT id FROM accounts WHERE id = 1 UNION SELECT a.id FROM accounts a JOIN r ON a.id = r.id + 1) TABLE r",
    "SELECT x.q FROM (SELECT DISTINCT 1 / id AS q, email FROM accounts) x WHERE x.email = 'a'",
    "SELECT region, sum(balance) FROM accounts GROUP BY region HAVING sum(balance) / count(*) > 1",
    "SELECT rank() OVER (PARTITION BY region ORDER BY balance) FROM accounts",
    "SELECT row_to_json(a) FROM accounts a",
    "SELECT a.b FROM accounts AS a (x, y, b) WHERE y = 1",
    "SELECT * FROM events WHERE at > now()",
    "SELECT * FROM ONLY events_2026",
    "SELECT * FROM memos WHERE stars = 3",
    "SELECT m.q FROM memos AS m (i, t, v, q, s)",
    "SELECT * FROM memos FOR UPDATE",
    "SELECT * FROM accounts a LEFT JOIN memos m ON m.id = a.id WHERE 1 / m.stars = 1",
    "SELECT * FROM accounts, LATERAL (SELECT * FROM orders o WHERE o.account_id = accounts.id LIMIT 1) l",
    "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'public'",
    "SELECT datname FROM pg_database",
    "SELECT current_setting('timezone'), current_setting('server_version')",
    "INSERT INTO accounts (id, email) VALUES (1, 'a'), (2, DEFAULT) RETURNING *",
    "INSERT INTO accounts (id, tenant_id) VALUES (1, 1)",
    "INSERT INTO accounts (id, tenant_id) VALUES (1, (SELECT max(id) FROM orders))",
    "INSERT INTO accounts DEFAULT VALUES",
    "INSERT INTO accounts (id, email) SELECT id, note FROM orders ON CONFLICT (id) DO NOTHING",
    "INSERT INTO accounts (id, email) VALUES (1, 'a') ON CONFLICT (id) DO UPDATE SET email = excluded.email WHERE accounts.balance > 1",
    "INSERT INTO memos (id, visible, stars) VALUES (1, true, 2)",
    "INSERT INTO memos (id, tenant_id, visible, stars) VALUES (1, 'x', true, 2) RETURNING id, body || 'x'",
    "INSERT INTO memos (id, visible, stars) VALUES (1, true, 2) ON CONFLICT (id) DO UPDATE SET stars = 3 WHERE memos.stars < 2",
    "UPDATE accounts SET email = 'x' WHERE id = 1 RETURNING id",
    "UPDATE accounts SET tenant_id = 1, email = (SELECT note FROM orders LIMIT 1)",
    "UPDATE accounts a SET (email, balance) = (SELECT o.note, o.amount FROM orders o WHERE o.account_id = a.id)",
    "UPDATE accounts SET email = o.note FROM orders o WHERE o.account_id = accounts.id",
    "UPDATE memos SET body = 'x'",
    "UPDATE memos SET stars = stars + 1 WHERE id = 1",
    "DELETE FROM memos",
    "DELETE FROM memos WHERE id = 1",
    "DELETE FROM orders USING accounts a WHERE a.id = account_id AND 1 / a.balance > 0",
    "WITH gone AS (DELETE FROM orders RETURNING *) INSERT INTO accounts (id) SELECT id FROM gone",
    "COPY accounts TO STDOUT (FORMAT csv)",
    "COPY (SELECT id FROM orders) TO STDOUT",
    "DECLARE c CURSOR FOR SELECT * FROM orders",
];

struct Database {
    catalog: Catalog,
    policies: PolicySet,
    relations: Relations,
    path: [Box<str>; 1],
}

impl Database {
    fn new() -> Database {
        let cluster = Cluster::start();
        let directory = tempfile::tempdir().expect("temporary directory");
        let file = directory.path().join("schema.sql");
        fs::write(&file, SCHEMA).expect("write the schema");
        cluster.create_database("checked", &[&file], &[]);
        let mut wire = Wire::connect(&cluster.app("checked")).expect("a session");
        let answer = wire.query(SNAPSHOT_SQL);
        let catalog = Catalog::new(serde_json::from_str(&answer.scalar().expect("the catalog")).expect("a snapshot"));
        let policies = directory.path().join("policies");
        fs::create_dir(&policies).expect("a directory");
        fs::write(policies.join("policy.toml"), POLICIES).expect("write the policies");
        let model = bulkhead::policy::load::load(&policies, &["checked".into()]).unwrap_or_else(|e| panic!("{e}"));
        let policies = PolicySet::bind(&model, &catalog, PolicyEpoch(1), false).unwrap_or_else(|e| panic!("{e:?}"));
        let relations = expected::relations(&policies, &catalog, &[]);
        Database { catalog, policies, relations, path: ["public".into()] }
    }

    /// What is sent for a statement, the tenant's slot still in it. The output check is part of it.
    fn rewrite(&self, sql: &str) -> Result<String, Denial> {
        let tree = parse::parse(sql)?;
        let node = tree.stmts[0].stmt.as_deref().cloned().expect("a statement");
        let context = analyse::Context {
            catalog: &self.catalog,
            search_path: &self.path,
            parameter_types: &[],
            tenant_setting: None,
            views: self.policies.views(),
            settings: &[],
        };
        let analysis = analyse::analyse(node, &context).map_err(|refusal| refusal.denial)?;
        let permit = decide(&analysis, &self.policies, &self.catalog, &[])?;
        let check =
            Check { relations: &self.relations, policies: &self.policies, roles: &[], search_path: &self.path, estimates: false };
        plan::build(&permit, &analysis, &self.catalog, 0, &check).map(|built| built.printed)
    }

    fn check(&self, text: &str) -> Result<(), Denial> {
        let kind = match text.split(' ').next().unwrap_or_default() {
            "INSERT" => Kind::Insert,
            "UPDATE" => Kind::Update,
            "DELETE" => Kind::Delete,
            "COPY" => Kind::CopyTo,
            "DECLARE" => Kind::DeclareCursor,
            "WITH" if text.contains(") INSERT") => Kind::Insert,
            _ => Kind::Select,
        };
        let Database { catalog, policies, relations, path } = self;
        let names = Vocabulary { catalog, policies, roles: &[], search_path: path, setting_parameters: &[], last_values: &[] };
        verify::verify(
            &parse::Printed::read(text.to_owned())?,
            catalog,
            &Expected { kind, relations, names: &names, marker: plan::sentinel::prefix() },
        )
    }
}

/// Places of `alias.column OPERATOR(pg_catalog.=) 'qzslot..'::type`.
fn predicates(text: &str) -> Vec<std::ops::Range<usize>> {
    let operator = " OPERATOR(pg_catalog.=) 'qzslot";
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | ':' | '\'' | '"');
    text.match_indices(operator)
        .filter_map(|(at, _)| {
            let start = text[..at].rfind(|c: char| !name(c)).map_or(0, |i| i + 1);
            let rest = &text[at + operator.len()..];
            let end = at + operator.len() + rest.find(|c: char| !name(c)).unwrap_or(rest.len());
            // Not the comparison of a value that the client gives for the tenant.
            text[start..at].contains('.').then_some(start..end)
        })
        .collect()
}

/// Whether a place stands in the condition of a CASE: a guard, or rules behind the tenant's predicate.
fn is_guard(text: &str, at: usize) -> bool {
    text[..at].rfind("CASE WHEN ").is_some_and(|case| !text[case..at].contains(" THEN "))
}

#[test]
fn what_is_sent_is_accepted_and_what_lacks_a_piece_is_not() {
    let database = Database::new();
    let (mut mutants, mut failures) = (0, Vec::new());
    let (mut in_check, mut in_all) = (Duration::ZERO, Duration::ZERO);
    for sql in STATEMENTS {
        let start = Instant::now();
        let text = match database.rewrite(sql) {
            Ok(text) => text,
            Err(denial) => {
                failures.push(format!("refused: {sql}: {denial}"));
                continue;
            }
        };
        in_all += start.elapsed();
        let start = Instant::now();
        database.check(&text).unwrap_or_else(|d| panic!("{d}: {text}"));
        in_check += start.elapsed();
        for (mutant, what) in mutants_of(&text) {
            mutants += 1;
            match database.check(&mutant) {
                Err(d) if d.reason == Reason::Disagreement && !d.error.message.contains("cannot be parsed") => {}
                Err(d) => failures.push(format!("{what} is no test ({d}): {mutant}")),
                Ok(()) => failures.push(format!("{what} is accepted: {mutant}")),
            }
        }
    }
    assert!(mutants > 150, "{mutants} mutants only");
    assert!(failures.is_empty(), "{} of {mutants}:\n{}", failures.len(), failures.join("\n"));
    let mean = |total: Duration| total / STATEMENTS.len() as u32;
    println!("{mutants} mutants; a plan takes {:?}, the check {:?} of it", mean(in_all), mean(in_check));
}

/// Texts with one injected piece missing or weakened.
fn mutants_of(text: &str) -> Vec<(String, String)> {
    let mut mutants = Vec::new();
    let mut replace = |range: std::ops::Range<usize>, new: &str, what: &str| {
        let was = &text[range.clone()];
        mutants.push((format!("{}{new}{}", &text[..range.start], &text[range.end..]), format!("{what} {was}")));
    };
    for place in predicates(text) {
        let predicate = &text[place.clone()];
        let slot = place.start + predicate.find("'qzslot").unwrap_or_default();
        // A guard without any test of the tenant is an expression like others: the check does not know what can raise.
        if !is_guard(text, place.start) {
            replace(slot..place.end, "'2'", "a constant in");
            replace(place.clone(), "true", "no");
            replace(place.clone(), &format!("NOT {predicate}"), "the opposite of");
            replace(place.clone(), &format!("({predicate} OR true)"), "more than");
            let (_, rest) = predicate.split_once('.').unwrap_or_default();
            replace(place.start..place.end, &format!("nobody.{rest}"), "another alias in");
        }
    }
    for (at, was) in text.match_indices("public.") {
        if text[..at].ends_with("FROM ") || text[..at].ends_with("JOIN ") || text[..at].ends_with("INTO ") {
            replace(at..at + was.len(), "", "no schema in");
        }
    }
    let weaker = [
        (" AND memos.visible", ""),
        (" AND memos.body <> ''", ""),
        ("10 / memos.stars > 1", "10 / memos.stars > 0"),
        ("ELSE false END", "ELSE true END"),
        ("memos.stars < 5", "memos.stars < 6"),
        ("::pg_catalog.text, ''", "::pg_catalog.text, NULL"),
        (" RETURNING CASE WHEN memos.stars < 5", " RETURNING CASE WHEN true"),
        (".datname OPERATOR", ".oid OPERATOR"),
    ];
    for (was, new) in weaker {
        for (at, _) in text.match_indices(was) {
            replace(at..at + was.len(), new, "weaker:");
        }
    }
    for (at, was) in text.match_indices("ELSE (") {
        let end = at + text[at..].find(" END").unwrap_or_default();
        replace(at + was.len() - 1..end, "NULL", "nothing raised by");
    }
    mutants
}
