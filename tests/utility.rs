//! Statements about statements on a real server, with the whole proxy between: PREPARE and EXECUTE, EXPLAIN, WHERE CURRENT OF;
//! last values of sequences; views.

mod support;

use std::fs;

use support::answer::Answer;
use support::cluster::Cluster;
use support::proxy::{Proxy, Setup, User};
use support::repository;
use support::wire::{Extended, Wire};

struct World {
    cluster: Cluster,
    proxy: Proxy,
}

impl World {
    fn start() -> World {
        let cluster = Cluster::start();
        cluster.create_database("shop", &[&repository("tests/attacks/schema.sql")], &[]);
        let policies = fs::read_to_string(repository("tests/attacks/policies.toml")).expect("read the policies");
        let users = [User { name: "one", access: "tenant = \"1\"" }, User { name: "web", access: "tenants = [\"1\", \"2\"]" }];
        let setup = Setup::new(&[("shop".to_owned(), cluster.app_url("shop"))], &users, &[("shop.toml", &policies)]);
        World { proxy: Proxy::start(setup), cluster }
    }

    fn connect(&self, user: &str) -> Wire {
        Wire::connect(&self.proxy.target(user, "shop")).expect("a session")
    }
}

/// All rows, columns joined by `|`, or the error.
fn shown(answer: &Answer) -> String {
    if let Some(error) = &answer.error {
        return format!("{} {}", error.sqlstate(), error.message());
    }
    let text = |value: &Option<Vec<u8>>| match value {
        Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        None => "NULL".to_owned(),
    };
    let rows: Vec<String> = answer.rows().map(|row| row.iter().map(text).collect::<Vec<_>>().join("|")).collect();
    let tag = answer.parts.last().and_then(|p| p.tag.as_deref()).unwrap_or_default();
    if rows.is_empty() { tag.to_owned() } else { rows.join(" ") }
}

/// Runs each statement and requires its answer.
#[track_caller]
fn session(wire: &mut Wire, script: &[(&str, &str)]) {
    for (sql, expected) in script {
        assert_eq!(shown(&wire.query(sql)), *expected, "{sql}");
    }
}

#[test]
fn execute_takes_arguments_as_postgresql_does() {
    let world = World::start();
    session(
        &mut world.connect("one"),
        &[
            ("PREPARE p (int) AS SELECT id, tenant_id FROM accounts WHERE id = $1", "PREPARE"),
            ("EXECUTE p(1)", "1|1"),
            ("EXECUTE p('2')", "2|1"),
            ("EXECUTE p(2.6)", "3|1"),
            ("EXECUTE p(1 + 1)", "2|1"),
            ("EXECUTE p(NULL)", "SELECT 0"),
            ("EXECUTE p(222001)", "SELECT 0"),
            (
                "EXECUTE p(now())",
                "42804 parameter $1 of type timestamp with time zone cannot be coerced to the expected type integer",
            ),
            ("EXECUTE p('x')", "22P02 invalid input syntax for type integer: \"x\""),
            ("EXECUTE p(1, 2)", "42601 wrong number of parameters for prepared statement \"p\""),
            ("EXECUTE p", "42601 wrong number of parameters for prepared statement \"p\""),
            ("PREPARE q (text, varchar(3), int[]) AS SELECT $1 || $2, $3[2]", "PREPARE"),
            ("EXECUTE q('it''s', 'abcd', ARRAY[7, 8])", "it'sabcd|8"),
            ("PREPARE w AS INSERT INTO orders (id, amount) VALUES ($1, $2)", "PREPARE"),
            ("EXECUTE w(9001, 5); EXECUTE w(9002, 6)", "INSERT 0 1"),
            ("PREPARE s AS SELECT sum(amount), min(tenant_id) FROM orders WHERE id > 9000 AND id < 9100; EXECUTE s", "11|1"),
            ("PREPARE bad AS SELECT salary FROM payroll", "42P01 relation \"payroll\" does not exist"),
            ("PREPARE bad AS SELECT current_setting($1)", "PREPARE"),
            ("EXECUTE bad('config_file')", "42501 permission denied to examine this parameter"),
            ("DEALLOCATE bad", "DEALLOCATE"),
            (
                "EXPLAIN EXECUTE p(1)",
                "0A000 EXPLAIN of something else than SELECT, INSERT, UPDATE, DELETE or MERGE cannot be secured",
            ),
            ("EXPLAIN ANALYZE EXECUTE p(1)", "42501 EXPLAIN ANALYZE is not permitted"),
        ],
    );
}

#[test]
fn what_is_prepared_for_one_tenant_runs_for_the_next_as_the_next() {
    let world = World::start();
    let mut web = world.connect("web");
    session(
        &mut web,
        &[
            ("PREPARE mine AS SELECT count(*), min(tenant_id), max(tenant_id) FROM accounts", "PREPARE"),
            ("EXECUTE mine", "42501 no tenant is chosen"),
            ("SET bulkhead.tenant = '1'", "SET"),
            ("EXECUTE mine", "5|1|1"),
            ("SET bulkhead.tenant = '2'", "SET"),
            ("EXECUTE mine", "15|2|2"),
            ("BEGIN", "BEGIN"),
            ("SET LOCAL bulkhead.tenant = '1'", "SET"),
            ("EXECUTE mine", "5|1|1"),
            ("COMMIT", "COMMIT"),
            ("EXECUTE mine", "15|2|2"),
        ],
    );
    // A new catalog is a new epoch.
    world.cluster.execute("shop", "ALTER TABLE accounts RENAME TO accounts_now; ALTER TABLE accounts_now RENAME TO accounts");
    session(&mut web, &[("EXECUTE mine", "15|2|2")]);
}

#[test]
fn explain_shows_no_estimates() {
    let world = World::start();
    let mut one = world.connect("one");
    let plan = shown(&one.query("EXPLAIN SELECT id FROM accounts WHERE ssn LIKE '000%'"));
    assert!(plan.contains("tenant_id = 1"), "{plan}");
    let json = shown(&one.query("EXPLAIN (FORMAT JSON, VERBOSE) UPDATE accounts SET balance = 1 WHERE id = 1"));
    assert!(json.contains("ModifyTable"), "{json}");
    for word in ["cost=", "rows=", "width=", "Plan Rows", "Total Cost"] {
        assert!(!plan.contains(word) && !json.contains(word), "{plan}\n{json}");
    }
    for refused in [
        "EXPLAIN ANALYZE SELECT id FROM accounts",
        "EXPLAIN (\"analyze\" 'on') DELETE FROM accounts",
        "EXPLAIN (SUMMARY) SELECT id FROM accounts",
        "EXPLAIN (COSTS ON) SELECT id FROM accounts",
    ] {
        assert_eq!(one.query(refused).sqlstate(), "42501", "{refused}");
    }
    session(&mut one, &[("SELECT count(*) FROM accounts", "5")]);
}

#[test]
fn a_cursors_row_is_written_only_while_it_is_the_tenants() {
    let world = World::start();
    let mut one = world.connect("one");
    session(
        &mut one,
        &[
            ("BEGIN", "BEGIN"),
            ("DECLARE c CURSOR FOR SELECT id FROM accounts WHERE id < 4", "DECLARE CURSOR"),
            ("FETCH c", "1"),
            ("UPDATE accounts SET balance = balance + 1, ssn = 'new' WHERE CURRENT OF c", "UPDATE 1"),
            ("UPDATE accounts SET balance = balance + 1 WHERE CURRENT OF c RETURNING id, balance", "1|102"),
            ("FETCH c", "2"),
            (
                "DELETE FROM accounts WHERE CURRENT OF c RETURNING id",
                "23503 update or delete on table \"accounts\" violates foreign key constraint \"orders_account_id_fkey\" on table \"orders\"",
            ),
            ("ROLLBACK", "ROLLBACK"),
            ("INSERT INTO accounts (id, email) VALUES (4001, 'a'), (4002, 'b')", "INSERT 0 2"),
            ("BEGIN", "BEGIN"),
            ("DECLARE c CURSOR FOR SELECT id FROM accounts WHERE id IN (4001, 4002)", "DECLARE CURSOR"),
            ("FETCH c", "4001"),
            ("DELETE FROM accounts WHERE CURRENT OF c", "DELETE 1"),
            (
                "UPDATE orders SET note = 'x' WHERE CURRENT OF c",
                "24000 cursor \"c\" is not a simply updatable scan of table \"orders\"",
            ),
            ("ROLLBACK", "ROLLBACK"),
            ("BEGIN", "BEGIN"),
            ("UPDATE accounts SET balance = 0 WHERE CURRENT OF nobodys", "34000 cursor \"nobodys\" does not exist"),
            ("ROLLBACK", "ROLLBACK"),
            ("FETCH ALL FROM nobodys", "34000 cursor \"nobodys\" does not exist"),
        ],
    );
    // The row is given to another tenant meanwhile.
    let violation = "42501 new row violates row-level security policy for table \"accounts\"";
    for write in [
        "UPDATE accounts SET balance = 0 WHERE CURRENT OF c",
        "UPDATE accounts SET ssn = (1 / (balance - balance))::text WHERE CURRENT OF c RETURNING *",
        "DELETE FROM accounts WHERE CURRENT OF c",
        "DELETE FROM accounts WHERE CURRENT OF c RETURNING id, email",
    ] {
        world.cluster.execute("shop", "UPDATE accounts SET tenant_id = 1, balance = 77 WHERE id = 4002");
        session(
            &mut one,
            &[
                ("BEGIN", "BEGIN"),
                ("DECLARE c CURSOR FOR SELECT id FROM accounts WHERE id = 4002", "DECLARE CURSOR"),
                ("FETCH c", "4002"),
            ],
        );
        world.cluster.execute("shop", "UPDATE accounts SET tenant_id = 2 WHERE id = 4002");
        session(&mut one, &[(write, violation), ("ROLLBACK", "ROLLBACK")]);
        let mut direct = Wire::connect(&world.cluster.superuser("shop")).expect("a superuser");
        session(&mut direct, &[("SELECT tenant_id, balance FROM accounts WHERE id = 4002", "2|77")]);
    }
}

const SEQUENCES: &str = "CREATE TABLE tickets (id serial PRIMARY KEY, tenant_id int NOT NULL, note text);
    CREATE TABLE lines (tenant_id int NOT NULL, ticket int, nr int GENERATED BY DEFAULT AS IDENTITY (START 500));
    GRANT ALL ON ALL TABLES IN SCHEMA public TO app; GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO app";

const SEQUENCE_POLICIES: &str = "[[table]]\nname = \"tickets\"\nscope = \"tenant\"\ntenant_column = \"tenant_id\"\n
    [[table]]\nname = \"lines\"\nscope = \"tenant\"\ntenant_column = \"tenant_id\"\n";

const NOT_DEFINED: &str = "55000 currval of sequence \"tickets_id_seq\" is not yet defined in this session";
const NO_LAST: &str = "55000 lastval is not yet defined in this session";
const CURRVAL: &str = "SELECT currval('tickets_id_seq')";

#[test]
fn the_last_value_of_a_sequence_is_the_clients_own_or_none() {
    let cluster = Cluster::start();
    cluster.create_database("shop", &[], &[]);
    cluster.execute("shop", SEQUENCES);
    let users = [User { name: "one", access: "tenant = \"1\"" }, User { name: "two", access: "tenant = \"2\"" }];
    let setup = Setup::new(&[("shop".to_owned(), cluster.app_url("shop"))], &users, &[("shop.toml", SEQUENCE_POLICIES)]);
    let config = fs::read_to_string(setup.config()).expect("read the configuration");
    fs::write(setup.config(), config.replace("pool_size = 4", "pool_size = 1")).expect("write the configuration");
    let proxy = Proxy::start(setup);
    let connect = |user: &str| Wire::connect(&proxy.target(user, "shop")).expect("a session");
    // The one backend has a last value of the first tenant.
    session(
        &mut connect("one"),
        &[("SELECT nextval('tickets_id_seq'), nextval(pg_get_serial_sequence('lines', 'nr'))", "1|500")],
    );
    let mut two = connect("two");
    let missing = "25P02 current transaction is aborted, commands ignored until end of transaction block";
    session(
        &mut two,
        &[
            (CURRVAL, NOT_DEFINED),
            ("SELECT lastval()", NO_LAST),
            ("BEGIN", "BEGIN"),
            (CURRVAL, NOT_DEFINED),
            ("ROLLBACK", "ROLLBACK"),
            // What may have no row, or does not take the default, advances nothing.
            ("BEGIN; INSERT INTO tickets (note) SELECT 'x' WHERE false", "INSERT 0 0"),
            (CURRVAL, NOT_DEFINED),
            ("ROLLBACK", "ROLLBACK"),
            ("BEGIN; INSERT INTO tickets (id, note) VALUES (900, 'x')", "INSERT 0 1"),
            (CURRVAL, NOT_DEFINED),
            ("ROLLBACK", "ROLLBACK"),
            ("BEGIN; INSERT INTO tickets (note) VALUES (generate_series(1, 0)::text)", "INSERT 0 0"),
            (CURRVAL, NOT_DEFINED),
            ("ROLLBACK", "ROLLBACK"),
            ("BEGIN; SELECT nextval('tickets_id_seq') LIMIT 0", "SELECT 0"),
            (CURRVAL, NOT_DEFINED),
            ("ROLLBACK", "ROLLBACK"),
            ("BEGIN; SELECT CASE WHEN false THEN nextval('tickets_id_seq') END", "NULL"),
            (CURRVAL, NOT_DEFINED),
            ("ROLLBACK", "ROLLBACK"),
            ("BEGIN; SAVEPOINT a", "SAVEPOINT"),
            ("INSERT INTO tickets (note) VALUES (repeat('x', -1) || (1 / 0)::text)", "22012 division by zero"),
            ("ROLLBACK TO a", "ROLLBACK"),
            (CURRVAL, NOT_DEFINED),
            (CURRVAL, missing),
            ("ROLLBACK", "ROLLBACK"),
            // Its own.
            ("BEGIN; INSERT INTO tickets (note) VALUES ('a')", "INSERT 0 1"),
            (CURRVAL, "2"),
            ("SELECT currval(pg_get_serial_sequence('tickets', 'id')), lastval()", "2|2"),
            ("INSERT INTO lines (ticket) VALUES (currval('tickets_id_seq'))", "INSERT 0 1"),
            ("SELECT ticket, nr, lastval() FROM lines", "2|501|501"),
            ("COMMIT", "COMMIT"),
            (CURRVAL, NOT_DEFINED),
            ("SELECT lastval()", NO_LAST),
            ("INSERT INTO tickets (id, note) VALUES (DEFAULT, 'b'); SELECT lastval()", "3"),
            ("INSERT INTO tickets DEFAULT VALUES", "INSERT 0 1"),
            ("BEGIN; SELECT nextval('tickets_id_seq')", "5"),
            (CURRVAL, "5"),
            ("DISCARD SEQUENCES", "DISCARD SEQUENCES"),
            (CURRVAL, NOT_DEFINED),
            ("ROLLBACK", "ROLLBACK"),
            ("PREPARE c AS SELECT currval('tickets_id_seq')", "PREPARE"),
            ("PREPARE i AS INSERT INTO tickets (note) VALUES ($1)", "PREPARE"),
            ("EXECUTE c", NOT_DEFINED),
            ("EXECUTE i(currval('tickets_id_seq')::text)", NOT_DEFINED),
            ("EXECUTE i(lastval()::text)", NO_LAST),
            ("BEGIN; EXECUTE i('c'); EXECUTE c", "6"),
            ("COMMIT", "COMMIT"),
            ("SELECT setval('tickets_id_seq', 1)", "42501 permission denied for function setval"),
        ],
    );
    // Likewise by the extended protocol, where what is bound is not sent yet.
    let asks = Extended { sql: CURRVAL.as_bytes(), ..Extended::default() };
    let inserts = Extended { sql: b"INSERT INTO tickets (note) VALUES ($1)", parameters: &[Some("d")], ..Extended::default() };
    let executes = Extended { sql: b"EXECUTE c", ..Extended::default() };
    assert_eq!(shown(&two.extended(&asks)), NOT_DEFINED);
    session(&mut two, &[("BEGIN", "BEGIN")]);
    assert_eq!(shown(&two.extended(&inserts)), "INSERT 0 1");
    assert_eq!(shown(&two.prepared(&asks, 2)), "7");
    // It could be executed in another transaction.
    assert_eq!(shown(&two.extended(&executes)), NOT_DEFINED);
    session(&mut two, &[("ROLLBACK", "ROLLBACK")]);
    assert_eq!(shown(&two.prepared(&asks, 1)), NOT_DEFINED);
}

/// The shop with views that policies list; `level` as in the configuration.
fn with_views(level: &str, views: &str, policies: &str) -> (Cluster, Proxy) {
    let cluster = Cluster::start();
    cluster.create_database("shop", &[&repository("tests/attacks/schema.sql")], &[]);
    cluster.execute("shop", &format!("{views}; GRANT SELECT ON ALL TABLES IN SCHEMA public TO app"));
    let base = fs::read_to_string(repository("tests/attacks/policies.toml")).expect("read the policies");
    let users = [User { name: "one", access: "tenant = \"1\"" }];
    let policies = format!("{base}\n{policies}");
    let setup = Setup::new(&[("shop".to_owned(), cluster.app_url("shop"))], &users, &[("shop.toml", &policies)]);
    let config = fs::read_to_string(setup.config()).expect("read the configuration");
    fs::write(setup.config(), format!("{config}\n[isolation]\nlevel = \"{level}\"\n")).expect("write the configuration");
    (cluster, Proxy::start(setup))
}

#[test]
fn a_view_is_its_definition_over_the_tenants_rows() {
    let policies = "[[table]]\nname = \"v_account_totals\"\nscope = \"view\"\n[[table]]\nname = \"ratios\"\nscope = \"view\"\n";
    let views = "CREATE VIEW ratios AS SELECT id, note::int / (amount - 7) AS ratio FROM orders WHERE note::int > 0";
    let (_cluster, proxy) = with_views("strict", views, policies);
    let mut one = Wire::connect(&proxy.target("one", "shop")).expect("a session");
    session(
        &mut one,
        &[
            ("SELECT count(*), min(tenant_id), max(tenant_id) FROM v_account_totals", "5|1|1"),
            (
                "SELECT id, total FROM v_account_totals WHERE total > 250 AND email LIKE 'u%' ORDER BY id",
                "1|315 3|261 4|279 5|297",
            ),
            ("SELECT id FROM v_account_totals WHERE 100 / (total - 60) > 5", "SELECT 0"),
            // Rows of others have an amount of 7, and notes that are no numbers.
            ("SELECT count(*) FROM ratios", "30"),
            ("SELECT id FROM ratios WHERE 1 / ratio < 0 ORDER BY id", "1 2"),
            ("SELECT r.id FROM ratios r JOIN v_account_totals t ON t.id = r.id WHERE r.ratio > 0 ORDER BY 1", "3 4 5"),
            ("BEGIN", "BEGIN"),
            ("DECLARE c CURSOR FOR SELECT id FROM ratios ORDER BY id", "DECLARE CURSOR"),
            ("FETCH 2 FROM c", "1 2"),
            ("COMMIT", "COMMIT"),
        ],
    );
    assert_eq!(one.query("UPDATE ratios SET ratio = 1").sqlstate(), "0A000");
}

#[test]
fn at_the_standard_level_estimates_show_and_views_are_tables() {
    let policies = "[[table]]\nname = \"v_account_totals\"\nscope = \"tenant\"\ntenant_column = \"tenant_id\"\n\
        [[table]]\nname = \"plain\"\nscope = \"tenant\"\ntenant_column = \"tenant_id\"\n";
    let (cluster, proxy) = with_views("standard", "CREATE VIEW plain AS SELECT * FROM orders", policies);
    // The view has the rights of its owner.
    cluster.execute("shop", "REVOKE ALL ON orders FROM app");
    let mut one = Wire::connect(&proxy.target("one", "shop")).expect("a session");
    session(
        &mut one,
        &[
            ("SELECT count(*), min(tenant_id), max(tenant_id) FROM v_account_totals", "5|1|1"),
            ("SELECT count(*) FROM plain WHERE note::int > 0", "30"),
            ("SELECT count(*) FROM (SELECT note FROM plain) p WHERE note::int > 0", "30"),
            (
                "SELECT a.id, p.note FROM accounts a LEFT JOIN plain p ON p.account_id = a.id AND p.note::int < 103 ORDER BY 1, 2",
                "1|NULL 2|101 3|102 4|NULL 5|NULL",
            ),
        ],
    );
    for refused in [
        "UPDATE plain SET note = 'x'",
        "DELETE FROM plain",
        "INSERT INTO plain (id) VALUES (1)",
        "SELECT id FROM plain FOR UPDATE",
        "SELECT a.id FROM accounts a LEFT JOIN plain p ON p.account_id = a.id WHERE p.note::int < 103",
    ] {
        assert_eq!(one.query(refused).sqlstate(), "0A000", "{refused}");
    }
    let plan = shown(&one.query("EXPLAIN SELECT id FROM accounts"));
    assert!(plan.contains("cost=") && plan.contains("rows="), "{plan}");
    assert_eq!(one.query("EXPLAIN ANALYZE SELECT id FROM accounts").sqlstate(), "42501");
}
