//! What goes wrong in production: servers die, clients vanish, readers stall. Nobody may hang, get somebody else's
//! answer, or be told that something worked which did not.
//!
//! `SUBJECT=plain` runs the scenes without the proxy: those that PostgreSQL itself passes show that the scenes are right.

mod support;

use std::fs;
use std::time::{Duration, Instant};

use support::cluster::Cluster;
use support::proxy::{Proxy, Setup, User};
use support::repository;
use support::wire::{Target, Wire};

/// Runs for minutes unless something ends it.
const LONG: &str = "SELECT count(*) FROM products a, products b, products c, products d, products e, products f";

/// 216,000 rows of some 300 bytes: more than buffers of sockets hold.
const LARGE: &str = "SELECT a.id, a.name, repeat(b.name, 30) AS filler FROM products a, products b, products c";

struct World {
    /// Absent with `SUBJECT=plain`.
    proxy: Option<Proxy>,
    cluster: Cluster,
}

impl World {
    fn start() -> World {
        let cluster = Cluster::start();
        cluster.create_database("shop", &[&repository("tests/attacks/schema.sql")], &[]);
        cluster.execute("postgres", "ALTER ROLE app RESET statement_timeout");
        let policies = fs::read_to_string(repository("tests/attacks/policies.toml")).expect("read the policies");
        let users = [User { name: "one", access: "tenant = \"1\"" }, User { name: "two", access: "tenant = \"2\"" }];
        let setup = Setup::new(&[("shop".to_owned(), cluster.app_url("shop"))], &users, &[("policies.toml", &policies)]);
        let plain = std::env::var("SUBJECT").is_ok_and(|s| s == "plain");
        World { proxy: (!plain).then(|| Proxy::start(setup)), cluster }
    }

    fn target(&self, user: &str) -> Target {
        self.proxy.as_ref().map_or_else(|| self.cluster.app("shop"), |p| p.target(user, "shop"))
    }

    fn connect(&self, user: &str) -> Wire {
        Wire::connect(&self.target(user)).expect("a session")
    }

    fn running(&self) -> bool {
        self.proxy.as_ref().is_none_or(Proxy::running)
    }

    /// What a superuser's query says.
    fn ask(&self, sql: &str) -> String {
        let mut wire = Wire::connect(&self.cluster.superuser("shop")).expect("superuser connection");
        wire.query(sql).scalar().unwrap_or_default()
    }

    /// Waits until a superuser's query says so.
    fn until(&self, sql: &str, wanted: &str) {
        poll(&format!("{sql} = {wanted}"), || self.ask(sql) == wanted);
    }
}

const RUNNING: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND state = 'active' AND query LIKE '%products%'";
const KILL: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'app'";

fn poll(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        #[expect(clippy::disallowed_methods, reason = "polls, with a deadline")]
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn works(wire: &mut Wire) -> bool {
    wire.query("SELECT count(*) FROM products").scalar().as_deref() == Some("60")
}

#[test]
fn a_backend_that_dies_in_a_statement_is_told_and_replaced() {
    let world = World::start();
    let mut client = world.connect("one");
    client.send(b'Q', format!("{LONG}\0").as_bytes()).expect("send");
    world.until(RUNNING, "1");
    world.ask(KILL);
    let answer = client.answer();
    assert!(matches!(answer.sqlstate(), "57P01" | "08006" | "57P02"), "{answer:?}");
    assert!(answer.parts.iter().all(|p| p.tag.is_none()), "nothing completed: {answer:?}");
    assert!(works(&mut world.connect("one")), "a new session works");
    assert!(world.running());
}

#[test]
fn a_backend_that_dies_in_a_transaction_does_not_let_the_rest_run_elsewhere() {
    let world = World::start();
    let mut client = world.connect("one");
    assert_eq!(client.query("BEGIN").status, Some(b'T'));
    client.query("UPDATE accounts SET balance = 1 WHERE id = 1");
    world.ask(KILL);
    let answer = client.query("UPDATE accounts SET balance = 2 WHERE id = 2");
    assert!(answer.error.is_some(), "the transaction is lost: {answer:?}");
    let committed = client.query("COMMIT");
    assert_ne!(committed.parts.first().and_then(|p| p.tag.as_deref()), Some("COMMIT"), "nothing was committed: {committed:?}");
    assert_eq!(world.ask("SELECT count(*) FROM accounts WHERE balance IN (1, 2)"), "0");
    assert!(works(&mut world.connect("one")));
}

#[test]
fn an_idle_session_outlives_a_restart_of_the_server() {
    let mut world = World::start();
    let mut client = world.connect("one");
    assert!(works(&mut client));
    world.cluster.crash();
    let answer = client.query("SELECT count(*) FROM accounts");
    assert!(answer.error.is_some(), "there is no server: {answer:?}");
    world.cluster.boot();
    poll("a session works again", || Wire::connect(&world.target("one")).is_ok_and(|mut w| works(&mut w)));
    assert!(world.running());
}

#[test]
fn a_reader_that_stalls_costs_no_memory_and_holds_up_nobody() {
    let world = World::start();
    let before = resident(world.proxy.as_ref());
    let mut slow = world.connect("one");
    slow.send(b'Q', format!("{LARGE}\0").as_bytes()).expect("send");
    // The server stands still when all buffers on the way are full.
    world.until("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND wait_event = 'ClientWrite'", "1");
    assert!(works(&mut world.connect("one")), "others are served");
    let grown = resident(world.proxy.as_ref()).saturating_sub(before);
    assert!(grown < 64 << 10, "the proxy grew by {grown} KiB");
    let mut rows = 0;
    loop {
        match slow.receive().expect("the rest").kind {
            b'D' => rows += 1,
            b'Z' => break,
            _ => {}
        }
    }
    assert_eq!(rows, 60 * 60 * 60);
}

#[test]
fn a_client_that_vanishes_does_not_leave_its_statement_running() {
    let world = World::start();
    let mut client = world.connect("one");
    client.send(b'Q', format!("{LONG}\0").as_bytes()).expect("send");
    world.until(RUNNING, "1");
    drop(client);
    world.until(RUNNING, "0");
    assert!(works(&mut world.connect("one")));
}

#[test]
fn a_cancel_reaches_the_clients_own_statement_only() {
    let world = World::start();
    let mut client = world.connect("one");
    let mut other = world.connect("two");
    client.send(b'Q', format!("{LONG}\0").as_bytes()).expect("send");
    other.send(b'Q', format!("{LONG}\0").as_bytes()).expect("send");
    world.until(RUNNING, "2");
    client.cancel().expect("cancel");
    let answer = client.answer();
    assert_eq!(answer.sqlstate(), "57014", "{answer:?}");
    assert!(works(&mut client), "the session goes on");
    assert_eq!(world.ask(RUNNING), "1", "the other's statement runs on");
    // A key that is not its own reaches nobody.
    other.secret_key = client.secret_key.clone();
    other.process_id = other.process_id.wrapping_add(1);
    other.cancel().expect("cancel");
    assert_eq!(world.ask(RUNNING), "1");
}

#[test]
fn a_transaction_that_is_left_open_is_rolled_back() {
    let world = World::start();
    let mut client = world.connect("one");
    client.query("BEGIN");
    client.query("UPDATE accounts SET balance = 12345 WHERE id = 1");
    drop(client);
    world.until("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND state LIKE 'idle in transaction%'", "0");
    assert_eq!(world.ask("SELECT count(*) FROM accounts WHERE balance = 12345"), "0");
    let mut next = world.connect("two");
    assert_eq!(next.query("SELECT count(*) FROM accounts WHERE id = 1").scalar().as_deref(), Some("0"));
}

/// VmRSS, in KiB.
fn resident(proxy: Option<&Proxy>) -> u64 {
    let Some(proxy) = proxy else { return 0 };
    let pid = proxy.pid().expect("the proxy's pid");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the proxy runs");
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn a_statement_of_very_many_conditions_ends_nobody_elses_session() {
    let world = World::start();
    let mut other = world.connect("two");
    let mut client = world.connect("one");
    for count in [300, 2_400, 20_000, 60_000] {
        for word in ["true AND ", "1 = 1 OR "] {
            let sql = format!("SELECT count(*) FROM products WHERE {}true", word.repeat(count));
            let answer = client.query(&sql);
            let told = answer.sqlstate().to_owned();
            assert!(
                answer.scalar().as_deref() == Some("60") || told == "54001" || told == "54000",
                "{count} x {word}: {answer:?}"
            );
        }
    }
    assert!(works(&mut other), "the other session goes on");
    assert!(world.running());
}

#[test]
fn calls_in_calls_and_a_thousand_with_queries_hold_up_nobody() {
    let world = World::start();
    let (mut client, mut other) = (world.connect("one"), world.connect("two"));
    let calls = |count: usize| format!("SELECT {}email{} FROM accounts", "lower(".repeat(count), ")".repeat(count));
    for count in [20, 60, 200] {
        let answer = client.query(calls(count));
        assert!(answer.error.is_none(), "{count}: {answer:?}");
    }
    let queries = |count: usize| {
        let all: Vec<String> = (0..count).map(|n| format!("w{n} AS (SELECT {n} AS n)")).collect();
        format!("WITH {} SELECT count(*) FROM w0", all.join(", "))
    };
    assert_eq!(client.query(queries(1000)).scalar().as_deref(), Some("1"));
    assert!(world.proxy.is_none() || client.query(queries(1001)).sqlstate() == "54001");
    assert!(works(&mut other), "the other session goes on");
}

/// What a foreign key sets off is done to rows of anybody's, where the key spans tenants.
#[test]
fn a_row_that_a_cascade_reaches_is_not_quoted() {
    let world = World::start();
    world.cluster.execute(
        "shop",
        "DELETE FROM orders;
         CREATE TABLE child (account int NOT NULL REFERENCES accounts ON DELETE SET NULL ON UPDATE CASCADE, secret text, CHECK (account < 9000));
         INSERT INTO child SELECT id, 'CANARY' FROM accounts WHERE tenant_id = 1",
    );
    let mut client = world.connect("one");
    for (sql, code) in [("DELETE FROM accounts WHERE tenant_id = 1", "23502"), ("UPDATE accounts SET id = 9000 + id", "23514")] {
        let direct = world.cluster.superuser("shop");
        let direct = Wire::connect(&direct).expect("a session").query(sql);
        assert!(direct.sqlstate() == code && format!("{direct:?}").contains("CANARY"), "PostgreSQL quotes it: {direct:?}");
        let answer = client.query(sql);
        assert_eq!(answer.sqlstate(), code, "{answer:?}");
        assert!(world.proxy.is_none() || !format!("{answer:?}").contains("CANARY"), "{answer:?}");
    }
}

/// PostgreSQL warns when a backend first uses a collation, so who is warned would learn what others ran on it.
#[test]
fn what_a_backend_says_of_itself_is_no_clients() {
    let world = World::start();
    world.cluster.execute("shop", "UPDATE pg_collation SET collversion = 'older' WHERE collname = 'und-x-icu'");
    let compare = "SELECT count(*) FROM products WHERE name COLLATE \"und-x-icu\" < 'b'";
    let direct = Wire::connect(&world.cluster.app("shop")).expect("a session").query(compare);
    assert!(direct.notices.iter().any(|n| n.message().contains("version mismatch")), "{direct:?}");
    let through = world.connect("one").query(compare);
    assert!(through.error.is_none() && through.scalar() == direct.scalar(), "{through:?}");
    assert!(world.proxy.is_none() || through.notices.is_empty(), "{through:?}");
}
