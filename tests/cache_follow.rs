//! Writes past the process: the result cache sees them over a logical replication slot, within a bound, or gives nothing.

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use support::cluster::Cluster;
use support::proxy::{Proxy, Setup, User};
use support::wire::Wire;

const SCHEMA: &str = "
    CREATE TABLE item (tenant_id int NOT NULL, id int, n int NOT NULL DEFAULT 0, PRIMARY KEY (tenant_id, id));
    CREATE TABLE plain (tenant_id int NOT NULL, id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
    CREATE TABLE part (tenant_id int NOT NULL, id int, n int NOT NULL DEFAULT 0, PRIMARY KEY (id, tenant_id)) PARTITION BY LIST (tenant_id);
    CREATE TABLE part_1 (n int NOT NULL DEFAULT 0, id int NOT NULL, tenant_id int NOT NULL);
    ALTER TABLE part ATTACH PARTITION part_1 FOR VALUES IN (1);
    CREATE TABLE part_2 PARTITION OF part FOR VALUES IN (2);
    CREATE TABLE word (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
    INSERT INTO item SELECT t, g FROM generate_series(1, 2) t, generate_series(1, 9) g;
    INSERT INTO plain SELECT t, 10 * t + g FROM generate_series(1, 2) t, generate_series(1, 9) g;
    INSERT INTO part SELECT t, g FROM generate_series(1, 2) t, generate_series(1, 9) g;
    INSERT INTO word VALUES (1);
    CREATE TYPE mood AS ENUM ('sad', 'glad');
    CREATE TABLE felt (tenant_id int NOT NULL, id int, mood mood, PRIMARY KEY (tenant_id, id));
    INSERT INTO felt VALUES (1, 1, 'sad');
    CREATE PUBLICATION bulkhead FOR ALL TABLES;
    CREATE ROLE follower LOGIN REPLICATION PASSWORD 'secret';
    GRANT ALL ON ALL TABLES IN SCHEMA public TO app";

fn policies() -> String {
    let table = |name| format!("[[table]]\nname = \"public.{name}\"\nscope = \"tenant\"\ntenant_column = \"tenant_id\"\n");
    ["item", "plain", "part", "felt"].map(table).concat() + "[[table]]\nname = \"public.word\"\nscope = \"shared\"\n"
}

fn cluster() -> Cluster {
    let cluster = Cluster::start_with(&["wal_level = logical"]);
    cluster.execute("postgres", "CREATE DATABASE shop");
    cluster.execute("shop", SCHEMA);
    cluster
}

fn proxy(cluster: &Cluster, within: &str) -> Proxy {
    proxy_that_follows(cluster, "shop", within)
}

fn proxy_that_follows(cluster: &Cluster, followed: &str, within: &str) -> Proxy {
    let users = [User { name: "one", access: "tenant = \"1\"" }, User { name: "two", access: "tenant = \"2\"" }];
    let setup = Setup::new(&[("shop".to_owned(), cluster.app_url("shop"))], &users, &[("shop.toml", &policies())]);
    let text = std::fs::read_to_string(setup.config()).expect("the configuration");
    let url = cluster.app_url(followed);
    let follower = format!("postgres://follower:secret@{}", url.split_once('@').expect("a host").1);
    let text = text.replace("pool_size = 4", &format!("pool_size = 4\nfollow = \"{follower}\""));
    std::fs::write(setup.config(), format!("{text}[cache]\nmemory_mb = 16\nwithin = \"{within}\"\n")).expect("write");
    Proxy::start(setup)
}

fn counts(proxy: &Proxy) -> BTreeMap<String, u64> {
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", proxy.setup.admin_port)).expect("the admin port");
    socket.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("ask");
    let mut text = String::new();
    socket.read_to_string(&mut text).expect("an answer");
    let lines = text.lines().filter_map(|l| l.strip_prefix("bulkhead_cache_requests_total")?.rsplit_once(' '));
    lines.map(|(labels, count)| (labels.to_owned(), count.parse().expect("a number"))).collect()
}

/// What became of a query: `hit`, `fill` or why not.
fn asking(proxy: &Proxy, session: &mut Wire, sql: &str) -> String {
    let before = counts(proxy);
    let answer = session.query(sql);
    assert!(answer.error.is_none(), "{sql}: {:?}", answer.error);
    let after = counts(proxy);
    let changed: Vec<&str> = after.iter().filter(|(k, n)| before.get(*k) != Some(n)).map(|(k, _)| k.as_str()).collect();
    let labels: Vec<&str> = changed.iter().flat_map(|k| k.split('"').skip(1).step_by(2)).filter(|l| !l.is_empty()).collect();
    labels.join(" ")
}

/// Asks until it is so.
fn wait(what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}: never");
        // Processors are needed for what is waited for.
        #[expect(clippy::disallowed_methods, reason = "polls a condition, with a deadline")]
        std::thread::sleep(Duration::from_millis(2));
    }
    begun.elapsed()
}

fn wait_for_hits(proxy: &Proxy, session: &mut Wire) {
    wait("hits", || asking(proxy, session, "SELECT n FROM word WHERE id = 1") == "hit");
}

/// Read, written past the proxy, and whether the answer changes.
const WRITES: &[(&str, &str, bool)] = &[
    ("SELECT n FROM item WHERE id = 1", "UPDATE item SET n = n + 1 WHERE tenant_id = 1 AND id = 1", true),
    ("SELECT n FROM item WHERE id = 1", "UPDATE item SET n = n + 1 WHERE tenant_id = 1 AND id = 2", false),
    ("SELECT n FROM item WHERE id = 1", "UPDATE item SET n = n + 1 WHERE tenant_id = 2", false),
    ("SELECT sum(n) FROM item", "UPDATE item SET n = n + 1 WHERE tenant_id = 1 AND id = 2", true),
    ("SELECT sum(n) FROM item", "UPDATE item SET n = n + 1 WHERE tenant_id = 2 AND id = 2", false),
    ("SELECT n FROM item WHERE id = 20", "INSERT INTO item VALUES (1, 20, 5)", true),
    ("SELECT n FROM item WHERE id = 21", "UPDATE item SET id = 21 WHERE tenant_id = 1 AND id = 20", true),
    ("SELECT n FROM item WHERE id = 21", "DELETE FROM item WHERE tenant_id = 1 AND id = 21", true),
    ("SELECT n FROM item WHERE id = 3", "UPDATE item SET tenant_id = 3 WHERE tenant_id = 1 AND id = 3", true),
    ("SELECT n FROM item WHERE id = 3", "UPDATE item SET tenant_id = 1 WHERE tenant_id = 3 AND id = 3", true),
    // Where the key does not say whose it is, neither do old rows.
    ("SELECT n FROM plain WHERE id = 11", "UPDATE plain SET tenant_id = 2 WHERE id = 11", true),
    ("SELECT n FROM plain WHERE id = 12", "DELETE FROM plain WHERE id = 12", true),
    ("SELECT n FROM part WHERE id = 1", "UPDATE part SET n = n + 1 WHERE tenant_id = 1 AND id = 1", true),
    ("SELECT n FROM part WHERE id = 1", "UPDATE part_1 SET n = n + 1 WHERE id = 1", true),
    ("SELECT n FROM part WHERE id = 1", "UPDATE part SET n = n + 1 WHERE tenant_id = 1 AND id = 2", false),
    ("SELECT n FROM part WHERE id = 1", "TRUNCATE part_2", true),
    ("SELECT n FROM part WHERE id = 1", "TRUNCATE part_1", true),
    ("SELECT n FROM word WHERE id = 1", "UPDATE word SET n = n + 1", true),
    (
        "SELECT n FROM item WHERE id = 1",
        "BEGIN; UPDATE item SET n = n + 1; SAVEPOINT s; UPDATE item SET n = n + 1; RELEASE s; COMMIT",
        true,
    ),
    ("SELECT n FROM item WHERE id = 1", "BEGIN; UPDATE item SET n = n + 1; ROLLBACK", false),
    ("SELECT n FROM item WHERE id = 1", "SET synchronous_commit = off; UPDATE item SET n = n + 1 WHERE tenant_id = 1", true),
];

#[test]
fn what_others_write_ends_answers_within_the_bound() {
    let cluster = cluster();
    // Longer than this machine may be busy with something else.
    let proxy = proxy(&cluster, "10s");
    let mut one = Wire::connect(&proxy.target("one", "shop")).expect("a session");
    let mut outside = Wire::connect(&cluster.superuser("shop")).expect("a session");
    wait_for_hits(&proxy, &mut one);
    for (read, write, ends) in WRITES {
        wait_for_hits(&proxy, &mut one);
        wait("a hit", || asking(&proxy, &mut one, read) == "hit");
        let answer = outside.query(write);
        assert!(answer.error.is_none(), "{write}: {:?}", answer.error);
        // What comes later in the log has been seen, so this has.
        outside.query("UPDATE word SET n = n + 1");
        let written = Instant::now();
        let last = outside.query("SELECT n FROM word").scalar();
        let mut outcomes = vec![];
        while one.query("SELECT n FROM word WHERE id = 1").scalar() != last {
            outcomes.push(asking(&proxy, &mut one, read));
            assert!(written.elapsed() < Duration::from_secs(11), "{write}: not seen");
        }
        outcomes.push(asking(&proxy, &mut one, read));
        outcomes.dedup();
        assert_eq!(outcomes.iter().any(|o| o != "hit"), *ends, "{read}, after {write}: {outcomes:?}");
    }
}

#[test]
fn two_proxies_see_each_others_writes() {
    let cluster = cluster();
    let (a, b) = (proxy(&cluster, "1s"), proxy(&cluster, "1s"));
    let mut writer = Wire::connect(&a.target("one", "shop")).expect("a session");
    let mut reader = Wire::connect(&b.target("one", "shop")).expect("a session");
    wait_for_hits(&b, &mut reader);
    let read = "SELECT n FROM item WHERE id = 1";
    let mut longest = Duration::ZERO;
    for n in 1..=40 {
        reader.query(read);
        let answer = writer.query(format!("UPDATE item SET n = {n} WHERE id = 1"));
        assert!(answer.error.is_none());
        let n = n.to_string();
        let late = wait("the other's write", || reader.query(read).scalar().as_deref() == Some(&n));
        longest = longest.max(late);
        // Through the proxy that wrote it, at once.
        assert_eq!(writer.query(read).scalar().as_deref(), Some(n.as_str()));
    }
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    println!("the other proxy's writes were seen within {longest:?}");
    assert!(counts(&b).iter().any(|(k, n)| k.contains("\"hit\"") && *n > 0));
}

#[test]
fn nothing_is_given_while_the_log_is_not_followed() {
    let cluster = cluster();
    let proxy = proxy(&cluster, "500ms");
    let mut one = Wire::connect(&proxy.target("one", "shop")).expect("a session");
    let mut outside = Wire::connect(&cluster.superuser("shop")).expect("a session");
    let read = "SELECT n FROM word WHERE id = 1";
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_replication WHERE application_name = 'bulkhead'";
    for (breaks, mends) in [
        (kill, "SELECT 1"),
        ("DROP PUBLICATION bulkhead", "CREATE PUBLICATION bulkhead FOR ALL TABLES"),
        (
            "ALTER PUBLICATION bulkhead SET (publish = 'insert, update')",
            "ALTER PUBLICATION bulkhead SET (publish = 'insert, update, delete, truncate')",
        ),
    ] {
        wait_for_hits(&proxy, &mut one);
        outside.query(breaks);
        // Seen within the bound; from then on nothing may be given.
        wait("behind", || asking(&proxy, &mut one, read) == "behind pass");
        outside.query("UPDATE word SET n = n + 1");
        let n = outside.query("SELECT n FROM word").scalar();
        assert_eq!(one.query(read).scalar(), n, "{breaks}");
        outside.query(mends);
        wait_for_hits(&proxy, &mut one);
        assert_eq!(one.query(read).scalar(), n, "{mends}");
    }
    // A transaction that was running when the slot was made is waited for.
    let mut slow = Wire::connect(&cluster.superuser("shop")).expect("a session");
    slow.query("BEGIN");
    slow.query("UPDATE word SET n = n + 1");
    outside.query(kill);
    wait("behind", || asking(&proxy, &mut one, read) == "behind pass");
    slow.query("COMMIT");
    let n = outside.query("SELECT n FROM word").scalar();
    wait_for_hits(&proxy, &mut one);
    assert_eq!(one.query(read).scalar(), n);
    assert_eq!(proxy.log().matches("cannot be followed").count(), 4, "once each time");
}

/// A publication of that name is in each database that is followed: which one is a line's mistake.
#[test]
fn another_databases_log_says_nothing_of_this_one() {
    let cluster = cluster();
    cluster.execute("postgres", "CREATE PUBLICATION bulkhead FOR ALL TABLES");
    let proxy = proxy_that_follows(&cluster, "postgres", "1s");
    let mut one = Wire::connect(&proxy.target("one", "shop")).expect("a session");
    wait("the log names it", || proxy.log().contains("follow leads to another database than upstream"));
    assert_ne!(asking(&proxy, &mut one, "SELECT n FROM word WHERE id = 1"), "hit");
    assert_ne!(asking(&proxy, &mut one, "SELECT n FROM word WHERE id = 1"), "hit");
}

#[test]
fn definitions_that_others_change_are_seen_soon() {
    let cluster = cluster();
    // So that nothing else ends answers.
    let proxy = proxy(&cluster, "60s");
    let mut one = Wire::connect(&proxy.target("one", "shop")).expect("a session");
    let mut outside = Wire::connect(&cluster.superuser("shop")).expect("a session");
    for (read, change) in [
        ("SELECT n FROM item WHERE id = 1", "ALTER TABLE item ALTER COLUMN n TYPE int USING n + 1000"),
        (
            "SELECT n FROM item WHERE id = 1",
            "BEGIN; ALTER TABLE item SET UNLOGGED; UPDATE item SET n = n + 1; ALTER TABLE item SET LOGGED; COMMIT",
        ),
        ("SELECT mood FROM felt WHERE id = 1", "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'"),
        ("SELECT sum(n) FROM part", "ALTER TABLE part DETACH PARTITION part_1"),
        (
            "SELECT n FROM item WHERE id = 2",
            "BEGIN; ALTER PUBLICATION bulkhead SET (publish = 'insert'); UPDATE item SET n = n + 1 WHERE id = 2; \
             ALTER PUBLICATION bulkhead SET (publish = 'insert, update, delete, truncate'); COMMIT",
        ),
    ] {
        wait("a hit", || asking(&proxy, &mut one, read) == "hit");
        let before = one.query(read).scalar();
        let answer = outside.query(change);
        assert!(answer.error.is_none(), "{change}: {:?}", answer.error);
        let late = wait("another answer", || one.query(read).scalar() != before);
        assert!(late < Duration::from_secs(10), "{change}: {late:?}");
    }
}
