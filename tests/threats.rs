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
    let world = world(POLICIES);
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
    // And is told beforehand.
    let explain = |more: &[&str]| world.run(&[&["explain", "--tenant", "1", "--role", "shop"], more, &[INJECTED]].concat());
    let told = explain(&[]);
    assert!(told.contains("deny (threat)") && told.contains("threat rule tautology (enforce, deny): "), "{told}");
    let told = explain(&["--application", "reports"]);
    assert!(told.contains("decision   permit") && told.contains("threat rule tautology (shadow): "), "{told}");
    // In the log too.
    let log = world.run(&["audit", "export", "--format", "raw"]);
    assert_eq!(log.matches("\"event\":\"threat\"").count(), 4, "{log}");
    assert_eq!(log.matches("\"rules\":[\"tautology\"]").count(), 4, "{log}");
}

#[test]
fn what_is_refused_anyway_and_what_fails_again_and_again_is_heard_of() {
    let world = world(POLICIES);
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

const LEARNED: &str = "
    [[table]]
    name = 'public.item'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.secrets'
    scope = 'denied'
    canary = true

    [[threat]]
    rule = 'unknown-statement'
    mode = 'enforce'
    applications = ['web']
";

/// A proxy before item, with a log and a cache; `policies` besides.
fn world(policies: &str) -> World {
    let cluster = Cluster::start();
    cluster.execute("postgres", "CREATE DATABASE shop");
    cluster.execute("shop", SCHEMA);
    cluster.execute("shop", "CREATE TABLE secrets (password text); GRANT SELECT ON secrets TO app");
    let users = [
        User { name: "shop", access: "tenant = \"1\"\nroles = [\"shop\"]" },
        User { name: "desk", access: "tenant = \"1\"\nroles = [\"desk\"]" },
    ];
    let setup = Setup::new(&[("shop".to_owned(), cluster.app_url("shop"))], &users, &[("shop.toml", policies)]);
    let text = std::fs::read_to_string(setup.config()).expect("the configuration");
    let more = "[audit]\npath = \"audit\"\ndurability = \"sync\"\n[cache]\nmemory_mb = 4\n";
    std::fs::write(setup.config(), text + more).expect("write it");
    World { proxy: Proxy::start(setup), _cluster: cluster }
}

impl World {
    /// Adds a policy file, and waits until it is in force.
    fn add_policy(&self, name: &str, text: &str) {
        let before = self.epoch();
        std::fs::write(self.proxy.setup.path().join("policies").join(name), text).expect("write");
        let begun = std::time::Instant::now();
        while self.epoch() == before {
            assert!(begun.elapsed() < std::time::Duration::from_secs(30), "no new epoch: {}", self.proxy.log());
        }
    }

    fn epoch(&self) -> String {
        let mut socket = std::net::TcpStream::connect(("127.0.0.1", self.proxy.setup.admin_port)).expect("the admin port");
        socket.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("ask");
        let mut text = String::new();
        socket.read_to_string(&mut text).expect("an answer");
        text.lines().find(|line| line.starts_with("bulkhead_policy_epoch ")).expect("an epoch").to_owned()
    }
}

fn refused(session: &mut Wire, sql: &str) -> bool {
    match session.query(sql).error {
        None => false,
        Some(error) => {
            assert_eq!((error.sqlstate(), error.message()), ("42501", "permission denied for this statement"), "{sql}");
            true
        }
    }
}

/// What an application says is recorded, read and listed; then nothing else is said for it, by whoever knows the list as well.
#[test]
fn an_application_is_learned_and_then_held_to_what_it_says() {
    let world = world(LEARNED);
    let say = |session: &mut Wire| {
        for sql in [
            "SELECT note FROM item WHERE id = 5",
            "SELECT note FROM item WHERE id IN (1, 2, 3)",
            "INSERT INTO item (id, note) VALUES (100, 'x')",
            "DELETE FROM item WHERE id = 100",
            "SELECT note FROM item WHERE note LIKE 'n%' ORDER BY id LIMIT 3",
        ] {
            assert!(session.query(sql).error.is_none(), "{sql}");
        }
        let bound = Extended { sql: b"SELECT id FROM item WHERE note = $1", parameters: &[Some("note")], ..Extended::default() };
        assert!(session.extended(&bound).error.is_none());
        for sql in ["PREPARE p AS SELECT count(*) FROM item WHERE id > $1", "EXECUTE p(3)", "DEALLOCATE p"] {
            assert!(session.query(sql).error.is_none(), "{sql}");
        }
    };
    // Nothing is known of it yet: nothing is unknown.
    say(&mut world.connect("shop", "web"));
    let list = world.run(&["learn", "--application", "web"]);
    for expected in [
        "names = [\"web\"]",
        "\"select note from item where id = ?\",",
        "\"select note from item where id in ( ? )\",",
        "\"insert into item ( id , note ) values ( ? )\",",
        "\"select id from item where note = ?\",",
        "\"select count ( * ) from item where id > ?\",",
        ", by shop\n",
    ] {
        assert!(list.contains(expected), "{expected} in {list}");
    }
    world.add_policy("web.toml", &list);
    let mut web = world.connect("shop", "web");
    say(&mut web);
    // Other values, other spellings, any number of them; the protocol does not matter.
    for sql in [
        "select note from ITEM where id = /* x */ -7",
        "SELECT note FROM item WHERE id IN (1, 2, 3, 4, 5, 6, 7, 8)",
        "INSERT INTO item (id, note) VALUES (101, 'x'), (102, NULL), (103, DEFAULT)",
        "BEGIN",
        "SET statement_timeout = '5s'",
        "SHOW search_path",
        "COMMIT",
    ] {
        assert!(!refused(&mut web, sql), "{sql}");
    }
    let injected = [
        "SELECT note FROM item WHERE id = 5 OR 1 = 1",
        "SELECT note FROM item WHERE id = 5 UNION SELECT note FROM item",
        "SELECT note FROM item WHERE id = (SELECT max(id) FROM item)",
        "SELECT note FROM item WHERE id = 5; DELETE FROM item WHERE id > 0 AND note = 'x'",
        "SELECT note FROM item WHERE id = 5 AND substr(note, 1, 1) = 'n'",
        "SELECT * FROM item WHERE id = 5",
        "SELECT note FROM item",
        "DELETE FROM item",
    ];
    for sql in injected {
        assert!(refused(&mut web, sql), "{sql}");
    }
    assert!(web.query("SELECT count(*) FROM item WHERE id > 0; SELECT note FROM item").error.is_some(), "all of a message");
    assert!(web.extended(&Extended { sql: b"SELECT note FROM item", ..Extended::default() }).error.is_some());
    // What has no form is not known, however deep its brackets are.
    let deep = |sql: &str| sql.replace('@', &format!("{}1{}", "(".repeat(120), ")".repeat(120)));
    for sql in [
        "SELECT id FROM item WHERE 1 = @",
        "DELETE FROM item WHERE id = @",
        "COPY (SELECT * FROM item WHERE id = @) TO STDOUT",
        "SELECT note FROM item WHERE id = 5 UNION SELECT note FROM item WHERE id = @",
    ] {
        assert!(refused(&mut web, &deep(sql)), "{sql}");
    }
    let prepared = deep("PREPARE deep AS SELECT id FROM item WHERE 1 = @");
    assert!(web.query(prepared).error.is_some() || refused(&mut web, "EXECUTE deep"));
    assert!(world.found("grafted-statement", "shadow") >= 3);
    // Another application asks, its answer is kept, and is not given to this one.
    let mut other = world.connect("shop", "other");
    (0..3).for_each(|_| assert!(!refused(&mut other, "SELECT note FROM item WHERE id < 5")));
    assert!(refused(&mut web, "SELECT note FROM item WHERE id < 5"));
    // What a deploy brings is seen, and told from what was injected.
    let new = world.run(&["learn", "--application", "web", "--new"]);
    assert!(new.contains("refused: select * from item where id = ?\n"), "{new}");
    assert!(new.contains("where id = ? or ? = ?  <- tautology: "), "{new}");
    let graft =
        "select note from item where id = ( select max ( id ) from item )  <- grafted-statement: it begins as this does: ";
    assert!(new.contains(graft), "{new}");
    // Into the list that is in force, which is read before it is written.
    let path = world.proxy.setup.path().join("policies/web.toml");
    let told = world.run(&["learn", "--application", "web", "--output", path.to_str().expect("a path")]);
    assert!(told.contains("listed already") && told.contains("as comments"), "{told}");
    assert!(std::fs::read_to_string(&path).expect("the list").contains(&list_begins(&list)));
    let again = world.run(&["learn", "--application", "web"]);
    assert!(
        again.contains("    # it was refused\n    # \"select * from item where id = ?\",")
            && again.contains("    # \"select note from item where id = ? or"),
        "{again}"
    );
    // While a deploy is under way, what is new passes, and grafts do not where a policy says so.
    let graft = "[[threat]]\nrule = 'grafted-statement'\nmode = 'enforce'\n";
    let learns = again.replace("names =", "learns_until = \"2999-01-01T00:00:00Z\"\nnames =");
    world.add_policy("web.toml", &(learns + graft));
    assert!(!refused(&mut web, "SELECT id, note FROM item WHERE id = 5"));
    assert!(refused(&mut web, "SELECT note FROM item WHERE id = 5 UNION SELECT note FROM item WHERE id = 6"));
}

#[test]
fn an_application_that_binds_sends_no_constants() {
    let policies = "
        [[application]]
        names = ['web']
        binds = true
        statements = ['select note from item where id = $1', 'select 1', 'select note from item where id is null']

        [[threat]]
        rule = 'bound-values'
        mode = 'enforce'
    ";
    let world = world(&(LEARNED.to_owned() + policies));
    let mut web = world.connect("shop", "web");
    let bound = Extended { sql: b"SELECT note FROM item WHERE id = $1", parameters: &[Some("5")], ..Extended::default() };
    assert!(web.extended(&bound).error.is_none());
    assert!(web.query("SELECT note FROM item WHERE id IS NULL").error.is_none(), "nothing to bind");
    assert!(refused(&mut web, "SELECT note FROM item WHERE id = 5"));
}

#[test]
fn a_policy_says_what_comes_of_it() {
    let policies = "
        [[threat]]
        rule = 'tautology'
        mode = 'enforce'
        action = 'end-session'
        applications = ['ends']

        [[threat]]
        rule = 'tautology'
        mode = 'enforce'
        action = 'quarantine'
        roles = ['desk']

        [[threat]]
        rule = 'tautology'
        mode = 'enforce'
        action = 'throttle'
        applications = ['slow']

        [[threat]]
        rule = 'stacked-statements'
        mode = 'enforce'
        applications = ['single']
    ";
    let world = world(&(LEARNED.to_owned() + policies));
    let mut ends = world.connect("shop", "ends");
    assert!(refused(&mut ends, INJECTED));
    let end = ends.query("SELECT 1").error.map(|error| error.sqlstate().to_owned());
    assert!(matches!(end.as_deref(), None | Some("57P01")), "{end:?}");
    assert!(ends.query("SELECT 1").rows().next().is_none(), "it is over");
    // Nothing that comes with it is answered.
    let mut burst = world.connect("shop", "ends");
    let query = |sql: &str| [&[b'Q'][..], &(sql.len() as i32 + 5).to_be_bytes(), sql.as_bytes(), &[0]].concat();
    let many: Vec<u8> = (0..200).flat_map(|n| query(&format!("SELECT {n}"))).collect();
    burst.send_raw(&[query(INJECTED), many].concat()).expect("send");
    assert_eq!(burst.answer().sqlstate(), "42501");
    let next = burst.answer();
    assert!(next.rows().next().is_none() && matches!(next.sqlstate(), "" | "57P01"), "{next:?}");
    // One statement a message, and what only changes the session.
    let mut single = world.connect("shop", "single");
    for sql in ["SELECT note FROM item; DELETE FROM item", "SELECT 1; PREPARE q AS SELECT 2", "BEGIN; SELECT 1; SELECT 2; COMMIT"]
    {
        assert!(refused(&mut single, sql), "{sql}");
    }
    assert!(!refused(&mut single, "BEGIN; SET LOCAL statement_timeout = 5000; SELECT note FROM item WHERE id = 5; COMMIT"));
    assert_eq!(world.found("stacked-statements", "enforce"), 3);
    assert!(!refused(&mut world.connect("shop", "any"), "SELECT note FROM item; SELECT 1"), "off");
    // Slow, and not refused.
    let mut slow = world.connect("shop", "slow");
    assert!(!refused(&mut slow, INJECTED));
    let begun = std::time::Instant::now();
    assert!(!refused(&mut slow, "SELECT note FROM item WHERE id = 5"));
    assert!(begun.elapsed() >= std::time::Duration::from_secs(1));
    // Every session of the login, and new ones.
    let mut bystander = world.connect("desk", "web");
    assert!(!refused(&mut bystander, "SELECT note FROM item WHERE id = 5"));
    assert!(refused(&mut world.connect("desk", "web"), INJECTED));
    assert!(refused(&mut bystander, "SELECT note FROM item WHERE id = 5"));
    let mut target = world.proxy.target("desk", "shop");
    target.options.push(("application_name".to_owned(), "web".to_owned()));
    assert!(Wire::connect(&target).is_err());
    assert!(world.run(&["audit", "export", "--format", "raw"]).contains("\"event\":\"quarantine\""));
    assert!(!refused(&mut world.connect("shop", "web"), "SELECT note FROM item WHERE id = 5"), "nobody else");
}

#[test]
fn canaries_guesses_and_broken_messages_are_heard_of() {
    let policies = "
        [[threat]]
        rule = 'logins'
        mode = 'enforce'
        roles = ['desk']
    ";
    let world = world(&(LEARNED.to_owned() + policies));
    let mut shop = world.connect("shop", "x");
    for (n, sql) in [
        "SELECT * FROM secrets",
        "SELECT 1 FROM item WHERE note IN (SELECT password FROM public.secrets)",
        "DELETE FROM secrets",
        "COPY secrets TO STDOUT",
    ]
    .iter()
    .enumerate()
    {
        assert!(shop.query(sql).error.is_some(), "{sql}");
        assert_eq!(world.found("canary", "shadow"), 1 + n as u64, "{sql}");
    }
    shop.send(b'~', b"what is this").expect("send");
    assert!(shop.query("SELECT 1").rows().next().is_none());
    assert_eq!(world.found("broken-protocol", "shadow"), 1);
    // Ten guesses, and the right password does not help any more, from there.
    let try_in = |user: &str, password: &str| {
        let mut target = world.proxy.target(user, "shop");
        target.password = Some(password.to_owned());
        Wire::connect(&target).is_ok()
    };
    let right = world.proxy.target("desk", "shop").password.expect("a password");
    (0..9).for_each(|_| assert!(!try_in("desk", "guess")));
    assert!(try_in("desk", &right), "nine are not ten");
    (0..10).for_each(|_| assert!(!try_in("desk", "guess")));
    assert!(!try_in("desk", &right));
    assert_eq!(world.found("logins", "enforce"), 1);
    (0..12).for_each(|_| assert!(!try_in("shop", "guess")));
    assert!(try_in("shop", &world.proxy.target("shop", "shop").password.expect("a password")), "the rule only watches there");
}

const CANARY_ROWS: &str = "
    [[table]]
    name = 'public.item'
    scope = 'tenant'
    tenant_column = 'tenant_id'
    canary_rows = ['cn-5b1f0e6d2a7c', 'cn-another-one']

    [[threat]]
    rule = 'canary-row'
    mode = 'enforce'
    roles = ['desk']

    [[threat]]
    rule = 'tautology'
    mode = 'enforce'
    action = 'tag'
";

#[test]
fn who_gets_a_row_that_nobody_has_a_reason_to_see_is_heard_of() {
    let world = world(CANARY_ROWS);
    let mut shop = world.connect("shop", "web");
    assert!(shop.query("UPDATE item SET note = 'cn-5b1f0e6d2a7c' WHERE id = 9").error.is_none(), "who writes it has not seen it");
    assert_eq!(shop.query("SELECT note FROM item WHERE id < 9").rows().count(), 8);
    assert_eq!(shop.query("SELECT count(*) FROM item").scalar().as_deref(), Some("9"));
    assert_eq!(world.found("canary-row", "shadow"), 0);
    // It is watched, each time: an answer that has it is not kept.
    for n in 1..4 {
        assert_eq!(shop.query("SELECT id, note FROM item").rows().count(), 9);
        assert_eq!(world.found("canary-row", "shadow"), n);
    }
    // In whatever way it is asked for, nobody gets it who must not.
    let ways: [&dyn Fn(&mut Wire) -> String; 9] = [
        // Errors and notices quote values.
        &|session| format!("{:?}", session.query("SELECT note::int FROM item WHERE id = 9")),
        &|session| format!("{:?}", session.query("SELECT date_trunc(note, now()) FROM item WHERE id = 9")),
        // A row that comes in many packets.
        &|session| format!("{:?}", session.query("SELECT repeat('x', 300000), note FROM item WHERE id = 9")),
        &|session| format!("{:?}", session.query("SELECT note, repeat('x', 300000) FROM item WHERE id = 9")),
        &|session| format!("{:?}", session.query("SELECT * FROM item")),
        &|session| {
            format!(
                "{:?}",
                session.extended(&Extended { sql: b"SELECT note FROM item", result_format: 1, ..Extended::default() })
            )
        },
        &|session| format!("{:?}", session.query("SELECT string_agg(note, ',') FROM item")),
        &|session| format!("{:?}", session.query("COPY (SELECT * FROM item) TO STDOUT")),
        &|session| {
            session.query("BEGIN");
            session.query("DECLARE c CURSOR FOR SELECT * FROM item");
            format!("{:?}", session.query("FETCH ALL FROM c"))
        },
    ];
    for (n, way) in (1..).zip(ways) {
        let mut desk = world.connect("desk", "web");
        let answer = way(&mut desk);
        assert!(answer.contains("57P01") && !answer.contains("cn-5b") && !answer.contains("xxx"), "{answer:.2000}");
        assert_eq!(world.found("canary-row", "enforce"), n);
    }
    let log = world.run(&["audit", "export", "--format", "raw"]);
    assert_eq!(log.matches("\"rule\":\"canary-row\"").count(), 12, "{log}");
    assert_eq!(log.matches("\"rule\":\"canary-row\",\"mode\":\"enforce\",\"template\"").count(), 9, "{log}");
    let mut desk = world.connect("desk", "web");
    let error = desk.query("SELECT * FROM item").error.expect("it is not given");
    let why = world.run(&["why", error.field('D').rsplit(' ').next().expect("an id")]);
    assert!(why.contains("threat rule canary-row: ") && why.contains("FROM public.item"), "{why}");
}

#[test]
fn what_is_tagged_runs_and_is_told_from_then_on() {
    let world = world(CANARY_ROWS);
    let mut shop = world.connect("shop", "web");
    for sql in ["SELECT note FROM item WHERE id = 5", INJECTED, "SELECT note FROM item WHERE id = 6"] {
        assert!(shop.query(sql).error.is_none(), "{sql}");
    }
    drop(shop);
    let mut log = String::new();
    while !log.contains("session_end") {
        log = world.run(&["audit", "export", "--format", "raw"]);
    }
    let tagged: Vec<bool> = log
        .lines()
        .filter(|line| line.contains("\"event\":\"intent\"") || line.contains("session_end"))
        .map(|line| line.contains("\"tagged\":[\"tautology\"]"))
        .collect();
    assert_eq!(tagged, [false, true, true, true], "{log}");
}

#[test]
fn what_is_usual_is_kept_from_one_start_to_the_next() {
    let World { proxy, _cluster } = world(POLICIES);
    let ask = |proxy: &Proxy| {
        let mut shop = Wire::connect(&proxy.target("shop", "shop")).expect("a session");
        assert!(shop.query("SELECT note FROM item WHERE id = 5").error.is_none());
    };
    ask(&proxy);
    let (setup, _) = proxy.stop();
    let place = setup.path().join("audit/usual");
    let first = std::fs::read(&place).expect("it is kept");
    let proxy = Proxy::start(setup);
    ask(&proxy);
    let (setup, log) = proxy.stop();
    assert!(!log.contains("anew"), "{log}");
    assert_ne!(std::fs::read(&place).expect("it is kept"), first, "and has learned");
    // What somebody has changed is told, and not gone on with.
    std::fs::write(&place, &first[1..]).expect("write");
    let proxy = Proxy::start(setup);
    ask(&proxy);
    let (setup, log) = proxy.stop();
    assert!(log.contains("what is usual of logins is learned anew"), "{log}");
    assert!(setup.run(&["audit", "verify"]).status.success(), "it is no part of the log");
}

/// The first statement of a list.
fn list_begins(list: &str) -> String {
    list.lines().find(|line| line.starts_with("    \"")).expect("a statement").to_owned()
}
