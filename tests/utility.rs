//! Statements about statements on a real server, with the whole proxy between: PREPARE and EXECUTE, EXPLAIN, WHERE CURRENT OF.

mod support;

use std::fs;

use support::answer::Answer;
use support::cluster::Cluster;
use support::proxy::{Proxy, Setup, User};
use support::repository;
use support::wire::Wire;

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
