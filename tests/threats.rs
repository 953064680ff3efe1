//! Threat rules of a running proxy: what they find, in which mode, and that a policy decides.

mod support;

use std::io::{Read, Write};

use support::cluster::Cluster;
use support::proxy::{Proxy, Setup, User};
use support::wire::{Extended, Wire};

const SCHEMA: &str = "
    CREATE TABLE item (tenant_id int NOT NULL, id int, note text, PRIMARY KEY (tenant_id, id));
    INSERT INTO item SELECT t, g, 'note' FROM generate_series(1, 2) t, generate_series(1, 9) g;
    GRANT ALL ON ALL TABLES IN SCHEMA public TO app";

const POLICIES: &str = "
    [[table]]
    name = 'public.item'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[threat]]
    rule = 'tautology'
    mode = 'enforce'
    roles = ['shop']

    [[threat]]
    rule = 'tautology'
    mode = 'shadow'
    applications = ['reports']

    [[threat]]
    rule = 'union-of-constants'
    mode = 'off'
";

struct World {
    proxy: Proxy,
    _cluster: Cluster,
}

impl World {
    fn start() -> World {
        let cluster = Cluster::start();
        cluster.execute("postgres", "CREATE DATABASE shop");
        cluster.execute("shop", SCHEMA);
        let users = [
            User { name: "shop", access: "tenant = \"1\"\nroles = [\"shop\"]" },
            User { name: "desk", access: "tenant = \"1\"\nroles = [\"desk\"]" },
        ];
        let setup = Setup::new(&[("shop".to_owned(), cluster.app_url("shop"))], &users, &[("shop.toml", POLICIES)]);
        let text = std::fs::read_to_string(setup.config()).expect("the configuration");
        let more = "[audit]\npath = \"audit\"\ndurability = \"sync\"\n[cache]\nmemory_mb = 4\n";
        std::fs::write(setup.config(), text + more).expect("write it");
        World { proxy: Proxy::start(setup), _cluster: cluster }
    }

    fn connect(&self, user: &str, application: &str) -> Wire {
        let mut target = self.proxy.target(user, "shop");
        target.options.push(("application_name".to_owned(), application.to_owned()));
        Wire::connect(&target).expect("a session")
    }

    /// How often a rule has found something, by mode.
    fn found(&self, rule: &str, mode: &str) -> u64 {
        let mut socket = std::net::TcpStream::connect(("127.0.0.1", self.proxy.setup.admin_port)).expect("the admin port");
        socket.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("ask");
        let mut text = String::new();
        socket.read_to_string(&mut text).expect("an answer");
        let labels = format!("bulkhead_threats_total{{mode=\"{mode}\",rule=\"{rule}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&labels)?.parse().ok()).unwrap_or(0)
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = self.proxy.setup.run(arguments);
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }
}

const INJECTED: &str = "SELECT note FROM item WHERE id = 5 OR 1 = 1";

#[test]
fn a_policy_says_what_a_rule_does_and_for_whom() {
    let world = World::start();
    // Refused to the role, in either protocol, each time.
    let mut shop = world.connect("shop", "web");
    for _ in 0..2 {
        let error = shop.query(INJECTED).error.expect("it is refused");
        assert_eq!((error.sqlstate(), error.message()), ("42501", "permission denied for this statement"));
        let why = world.run(&["why", error.field('D').rsplit(' ').next().expect("an id")]);
        assert!(why.contains("threat rule tautology: ") && why.contains("(threat, SQLSTATE 42501)"), "{why}");
        assert!(!why.contains("= 5") && !why.contains("1 = 1\n"), "no values: {why}");
    }
    let answer = shop.extended(&Extended { sql: INJECTED.as_bytes(), ..Extended::default() });
    assert_eq!(answer.error.map(|error| error.sqlstate().to_owned()).as_deref(), Some("42501"));
    let prepared = shop.query("PREPARE p AS SELECT note FROM item WHERE id = $1 OR 1 = 1");
    assert!(prepared.error.is_some_and(|error| error.sqlstate() == "42501"));
    assert_eq!(world.found("tautology", "enforce"), 4);
    assert!(shop.query("SELECT note FROM item WHERE id = 5").error.is_none(), "the session goes on");
    // The application of reports may, and it is told each time, though answers are kept.
    let mut reports = world.connect("shop", "reports");
    for n in 1..4 {
        assert_eq!(reports.query(INJECTED).rows().count(), 9);
        assert_eq!(world.found("tautology", "shadow"), n);
    }
    // Another role: what the rule does by itself.
    assert_eq!(world.connect("desk", "web").query(INJECTED).rows().count(), 9);
    assert_eq!(world.found("tautology", "shadow"), 4);
    // Off.
    let union = "SELECT note FROM item WHERE id = 5 UNION ALL SELECT 'x'";
    assert_eq!(reports.query(union).rows().count(), 2);
    assert_eq!(world.found("union-of-constants", "shadow"), 0);
    // In the log too.
    let log = world.run(&["audit", "export", "--format", "raw"]);
    assert_eq!(log.matches("\"event\":\"threat\"").count(), 4, "{log}");
    assert_eq!(log.matches("\"rules\":[\"tautology\"]").count(), 4, "{log}");
}

#[test]
fn what_is_refused_anyway_and_what_fails_again_and_again_is_heard_of() {
    let world = World::start();
    let mut desk = world.connect("desk", "web");
    for sql in ["SELECT pg_read_file('x')", "SELECT note FROM item WHERE id = 1 AND 1 = (SELECT 1 FROM pg_sleep(5))"] {
        assert!(desk.query(sql).error.is_some_and(|error| error.sqlstate() == "42501"), "{sql}");
    }
    assert_eq!(world.found("capability", "shadow"), 1);
    for (n, sql) in [
        "COPY item TO PROGRAM 'x'",
        "COPY item FROM '/etc/passwd'",
        "ALTER SYSTEM SET log_statement = 'all'",
        "SET ROLE postgres",
        "SET SESSION AUTHORIZATION postgres",
        "CREATE EXTENSION dblink",
        "DO $$ BEGIN END $$",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    ]
    .iter()
    .enumerate()
    {
        let error = desk.query(sql).error.expect("it is refused");
        assert_eq!(world.found("capability", "shadow"), 2 + n as u64, "{sql}: {error:?}");
    }
    assert_eq!(world.found("slow-call", "shadow"), 1);
    assert_eq!(world.found("failures", "shadow"), 0);
    for n in 0..30 {
        assert!(desk.query(format!("SELECT note FROM item WHERE id = {n}'")).error.is_some());
    }
    assert!(world.found("failures", "shadow") > 0);
    // Another login's are its own.
    let before = world.found("failures", "shadow");
    assert!(world.connect("shop", "web").query("SELECT nothing FROM item").error.is_some());
    assert_eq!(world.found("failures", "shadow"), before);
}

#[test]
fn a_rule_that_is_not_there_is_told_with_its_place() {
    let policies = "[[threat]]\nrule = 'tautologie'\nmode = 'enforce'\n[[threat]]\nrule = 'tautology'\nmode = 'shrug'\n";
    let databases = [("shop".to_owned(), "postgres://app:x@127.0.0.1:1/shop".to_owned())];
    let setup = Setup::new(&databases, &[User { name: "one", access: "tenant = \"1\"" }], &[("shop.toml", policies)]);
    let output = setup.run(&["check"]);
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success() && text.contains("shrug") && text.contains("enforce"), "{text}");
    std::fs::write(setup.path().join("policies/shop.toml"), "[[threat]]\nrule = 'tautologie'\nmode = 'enforce'\n")
        .expect("write");
    let output = setup.run(&["check"]);
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success() && text.contains("did you mean `tautology`?"), "{text}");
}
