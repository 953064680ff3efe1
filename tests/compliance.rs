//! What policies ask of a running proxy for compliance, mechanism by mechanism, with what goes round them. That each enforced check has
//! what violates it, what conforms and its record is the table of tests/enforced.rs.

mod support;

use serde_json::Value;

use support::cluster::Cluster;
use support::proxy::{Proxy, Setup, User};
use support::wire::{Target, Wire};

const SCHEMA: &str = "
    CREATE TABLE person (tenant_id int NOT NULL, id int, name text, email text, born date, pan text, cvv text, region text,
        seen timestamptz, opted_out bool, restricted bool, PRIMARY KEY (tenant_id, id));
    INSERT INTO person SELECT t, g, 'Jane ' || g, 'jane' || g || '@example.com', '1990-01-01', '4111111111111111', NULL,
        CASE WHEN g > 5 THEN 'EU' ELSE 'US' END, now() - g * interval '1 day', g = 1, g = 2
        FROM generate_series(1, 2) t, generate_series(1, 9) g;
    CREATE TABLE plain (tenant_id int NOT NULL, id int, PRIMARY KEY (tenant_id, id));
    INSERT INTO plain SELECT 1, g FROM generate_series(1, 100) g;
    GRANT ALL ON ALL TABLES IN SCHEMA public TO app";

const POLICIES: &str = "
    [[class]]
    name = 'pii'
    mask = 'redact'
    purposes = ['support']

    [[class]]
    name = 'pii.email'
    mask = 'email'
    unless_roles = ['desk']
    purposes = ['support']

    [[class]]
    name = 'pci.pan'
    mask = 'last4'
    unless_roles = ['fraud']

    [[class]]
    name = 'pci.cvv'
    stored = 'never'

    [[class]]
    name = 'time.seen'
    retention_days = 8

    [[class]]
    name = 'ccpa.opt_out'
    hides_rows_from = ['ads', 'purpose:marketing']

    [[class]]
    name = 'gdpr.restricted'
    hides_rows_from = ['app']

    [[limit]]
    roles = ['app']
    rows = 50
    rows_per_hour = 200

    [[limit]]
    roles = ['part']
    rows = 50

    [[window]]
    users = ['owner']
    ticket = true

    [[window]]
    users = ['closed']
    days = []

    [[table]]
    name = 'public.plain'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.person'
    scope = 'tenant'
    tenant_column = 'tenant_id'
    [[table.rule]]
    id = 'residency'
    roles = ['eu']
    using = \"region = 'EU'\"
    mode = 'restrictive'
    [[table.column]]
    name = 'name'
    class = 'pii.name'
    [[table.column]]
    name = 'email'
    class = 'pii.email'
    [[table.column]]
    name = 'born'
    class = 'pii.birth'
    [[table.column]]
    name = 'pan'
    class = 'pci.pan'
    [[table.column]]
    name = 'cvv'
    class = 'pci.cvv'
    [[table.column]]
    name = 'seen'
    class = 'time.seen'
    [[table.column]]
    name = 'opted_out'
    class = 'ccpa.opt_out'
    [[table.column]]
    name = 'restricted'
    class = 'gdpr.restricted'
";

struct World {
    proxy: Proxy,
    cluster: Cluster,
}

impl World {
    fn start() -> World {
        let cluster = Cluster::start();
        cluster.execute("postgres", "CREATE DATABASE shop");
        cluster.execute("shop", SCHEMA);
        let owner = "unrestricted = true".to_owned();
        let users = [
            User { name: "app", access: "tenant = \"1\"\nroles = [\"app\"]\npurposes = [\"support\", \"marketing\"]" },
            User { name: "desk", access: "tenant = \"1\"\nroles = [\"desk\"]\npurposes = [\"support\"]" },
            User { name: "part", access: "tenant = \"1\"\nroles = [\"part\"]" },
            User { name: "ads", access: "tenant = \"1\"\nroles = [\"ads\"]" },
            User { name: "eu", access: "tenant = \"1\"\nroles = [\"eu\"]" },
            User {
                name: "night",
                access: "tenant = \"1\"\nroles = [\"night\"]\nbreak_glass = [\"fraud\"]\nbreak_glass_minutes = 5",
            },
            User { name: "owner", access: &owner },
            User { name: "closed", access: &owner },
        ];
        let setup = Setup::new(&[("shop".to_owned(), cluster.app_url("shop"))], &users, &[("shop.toml", POLICIES)]);
        let text = std::fs::read_to_string(setup.config()).expect("the configuration");
        let more = "[audit]\npath = \"audit\"\ndurability = \"sync\"\n[cache]\nmemory_mb = 4\n";
        std::fs::write(setup.config(), text + more).expect("write it");
        World { proxy: Proxy::start(setup), cluster }
    }

    fn connect(&self, user: &str) -> Wire {
        Wire::connect(&self.proxy.target(user, "shop")).expect("a session")
    }

    fn records(&self) -> Vec<Value> {
        let output = self.proxy.setup.run(&["audit", "export", "--format", "raw"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// The record of an event whose fields are these.
    fn evidence(&self, event: &str, fields: &[(&str, Value)]) -> Value {
        let records = self.records();
        let is = |record: &&Value| record["event"] == event && fields.iter().all(|(name, value)| record[*name] == *value);
        records.iter().find(is).unwrap_or_else(|| panic!("no {event} with {fields:?} in {records:#?}")).clone()
    }
}

fn one(session: &mut Wire, sql: &str) -> Option<String> {
    let answer = session.query(sql);
    assert!(answer.error.is_none(), "{sql}: {:?}", answer.error);
    answer.scalar()
}

fn refused(session: &mut Wire, sql: &str) -> String {
    session.query(sql).error.unwrap_or_else(|| panic!("{sql} is not refused")).sqlstate().to_owned()
}

#[test]
fn what_is_read_for_no_purpose_is_masked() {
    let world = World::start();
    let mut app = world.connect("app");
    let read = "SELECT name FROM person WHERE id = 7";
    assert_eq!(one(&mut app, read).as_deref(), Some("***"));
    assert_eq!(one(&mut app, "SELECT born FROM person WHERE id = 7"), None, "a date has no other mask");
    // Prepared before, kept before, and read for a purpose.
    assert!(app.query("PREPARE p AS SELECT name FROM person WHERE id = $1").error.is_none());
    assert_eq!(one(&mut app, "EXECUTE p(7)").as_deref(), Some("***"));
    (0..3).for_each(|_| assert_eq!(one(&mut app, read).as_deref(), Some("***")));
    assert!(app.query("SET bulkhead.purpose = 'support'").error.is_none());
    assert_eq!(one(&mut app, read).as_deref(), Some("Jane 7"));
    assert_eq!(one(&mut app, "EXECUTE p(7)").as_deref(), Some("Jane 7"));
    assert_eq!(one(&mut app, "SELECT email FROM person WHERE id = 7").as_deref(), Some("j***@example.com"), "the role too");
    // Not inside of a transaction, not one of another's, and not for ever.
    assert_eq!(refused(&mut app, "SET bulkhead.purpose = 'curiosity'"), "28000");
    assert!(app.query("BEGIN").error.is_none());
    assert_eq!(refused(&mut app, "RESET bulkhead.purpose"), "25001");
    assert!(app.query("ROLLBACK").error.is_none());
    assert_eq!(refused(&mut app, "SET LOCAL bulkhead.purpose = 'support'"), "0A000");
    assert!(app.query("RESET bulkhead.purpose").error.is_none());
    assert_eq!(one(&mut app, read).as_deref(), Some("***"));
    assert_eq!(one(&mut app, "EXECUTE p(7)").as_deref(), Some("***"));
    assert!(app.query("SET bulkhead.purpose = 'support'").error.is_none());
    // Not taken back inside of a block, and not as if it were.
    assert!(app.query("BEGIN").error.is_none());
    assert_eq!(refused(&mut app, "RESET ALL"), "25001");
    assert!(app.query("ROLLBACK").error.is_none());
    assert!(app.query("DISCARD ALL").error.is_none());
    assert_eq!(one(&mut app, read).as_deref(), Some("***"));
    let mut desk = world.connect("desk");
    assert_eq!(one(&mut desk, "SELECT email FROM person WHERE id = 7").as_deref(), Some("j***@example.com"), "the purpose too");
    // With the startup message.
    let target = |user: &str, purpose: &str| -> Target {
        let mut target = world.proxy.target(user, "shop");
        target.options.push(("options".to_owned(), format!("-cbulkhead.purpose={purpose}")));
        target
    };
    let mut desk = Wire::connect(&target("desk", "support")).expect("a session");
    assert_eq!(one(&mut desk, "SELECT email FROM person WHERE id = 7").as_deref(), Some("jane7@example.com"));
    assert!(Wire::connect(&target("desk", "marketing")).is_err());
    // What shows it.
    let template = world.evidence("template", &[("masked", serde_json::json!(["public.person.name"]))]);
    assert_eq!(template["classes"], serde_json::json!(["pii.name"]));
    assert_eq!(template["relations"], serde_json::json!(["public.person"]));
    world.evidence("intent", &[("user", "app".into()), ("template", template["template"].clone())]);
    world.evidence("purpose", &[("user", "app".into()), ("purpose", "support".into())]);
    world.evidence("template", &[("classes", serde_json::json!(["pii.name"])), ("masked", Value::Null)]);
    world.evidence("refused", &[("sqlstate", "28000".into())]);
}

#[test]
fn what_is_not_to_be_stored_is_not() {
    let world = World::start();
    let mut app = world.connect("app");
    for sql in [
        "INSERT INTO person (id, cvv) VALUES (50, '123')",
        "INSERT INTO person (id, cvv) VALUES (50, NULL)",
        "INSERT INTO person VALUES (1, 50, 'x', 'x', NULL, 'x', '123')",
        "INSERT INTO person (id, cvv) SELECT 50, '123'",
        "UPDATE person SET cvv = '123' WHERE id = 7",
        "COPY person (id, cvv) FROM STDIN",
        "INSERT INTO person (id, pan) VALUES (7, 'x') ON CONFLICT (tenant_id, id) DO UPDATE SET cvv = '123'",
    ] {
        assert_eq!(refused(&mut app, sql), "42501", "{sql}");
    }
    assert!(app.query("INSERT INTO person (id, name, pan) VALUES (50, 'x', '4111111111111111')").error.is_none());
    assert_eq!(one(&mut app, "SELECT pan FROM person WHERE id = 7").as_deref(), Some("****1111"));
    assert_eq!(one(&mut app, "SELECT count(*) FROM person WHERE pan = '4111111111111111'").as_deref(), Some("0"));
    world.evidence("refused", &[("message", "permission denied for column cvv".into())]);
}

#[test]
fn rows_that_are_too_old_restricted_or_opted_out_are_not_there() {
    let world = World::start();
    // Nine rows; the ninth and eighth are eight days old, and more.
    let count = |user: &str| one(&mut world.connect(user), "SELECT string_agg(id::text, '' ORDER BY id) FROM person");
    assert_eq!(count("desk").as_deref(), Some("1234567"));
    assert_eq!(count("app").as_deref(), Some("134567"), "the second is restricted");
    assert_eq!(count("ads").as_deref(), Some("234567"), "the first has opted out");
    assert_eq!(count("eu").as_deref(), Some("67"), "the region");
    let mut app = world.connect("app");
    assert!(app.query("SET bulkhead.purpose = 'marketing'").error.is_none());
    let marketing = one(&mut app, "SELECT string_agg(id::text, '' ORDER BY id) FROM person");
    assert_eq!(marketing.as_deref(), Some("34567"));
    assert_eq!(app.query("UPDATE person SET region = 'EU' WHERE id IN (1, 2, 8)").parts[0].tag.as_deref(), Some("UPDATE 0"));
    assert_eq!(app.query("DELETE FROM person WHERE id IN (1, 2, 8)").parts[0].tag.as_deref(), Some("DELETE 0"));
}

#[test]
fn no_more_rows_are_given_than_a_policy_says() {
    let world = World::start();
    let mut app = world.connect("app");
    assert_eq!(app.query("SELECT id FROM plain LIMIT 50").rows().count(), 50);
    let answer = app.query("SELECT id FROM plain");
    assert_eq!(answer.rows().count(), 50, "no row more");
    assert_eq!(answer.error.map(|e| e.sqlstate().to_owned()).as_deref(), Some("54000"));
    assert!(app.query("SELECT 1").rows().next().is_none(), "the session has ended");
    // By cursors and parts of portals: all that a transaction gives so counts as one.
    let mut desk = world.connect("part");
    assert!(desk.query("BEGIN; DECLARE c CURSOR FOR SELECT id FROM plain").error.is_none());
    assert_eq!(desk.query("FETCH 30 FROM c").rows().count(), 30);
    assert_eq!(one(&mut desk, "SELECT 7").as_deref(), Some("7"));
    assert_eq!(desk.query("FETCH 30 FROM c").sqlstate(), "54000");
    let mut desk = world.connect("part");
    desk.query("BEGIN");
    let mut given = 0;
    desk.send(b'P', b"p\0SELECT id FROM plain\0\0\0").expect("send");
    desk.send(b'B', b"p\0p\0\0\0\0\0\0\0").expect("send");
    for _ in 0..10 {
        desk.send(b'E', b"p\0\0\0\0\x1e").expect("send");
        desk.send(b'P', b"q\0SELECT 1\0\0\0").expect("send");
        desk.send(b'B', b"q\0q\0\0\0\0\0\0\0").expect("send");
        desk.send(b'E', b"q\0\0\0\0\0").expect("send");
        desk.send(b'C', b"Sq\0").expect("send");
    }
    desk.send(b'S', b"").expect("send");
    given += desk.answer().rows().count();
    assert!(given <= 60, "fifty of the one, and those of the others: {given}");
    // COPY, and the hour: 100 are given already.
    let mut app = world.connect("app");
    assert!(app.query("COPY plain TO STDOUT").error.is_some_and(|e| e.sqlstate() == "54000"));
    let mut app = world.connect("app");
    assert_eq!(app.query("SELECT id FROM plain LIMIT 50").rows().count(), 50);
    assert_eq!(refused(&mut app, "SELECT id FROM plain LIMIT 1"), "54000");
    assert_eq!(app.query("BEGIN").status, Some(b'T'), "it was refused before it ran: the session goes on");
    assert_eq!(world.connect("desk").query("SELECT id FROM plain").rows().count(), 100, "nobody else");
    world.evidence("limited", &[("user", "app".into()), ("rows", 50.into())]);
}

#[test]
fn definitions_are_changed_in_their_time_and_for_a_reason() {
    let world = World::start();
    let mut owner = world.connect("owner");
    one(&mut owner, "SELECT 1");
    assert_eq!(refused(&mut owner, "CREATE TEMP TABLE late (a int)"), "42501");
    let prepared = support::wire::Extended { sql: b"CREATE TEMP TABLE late (a int)", ..Default::default() };
    assert!(owner.extended(&prepared).error.is_some_and(|e| e.sqlstate() == "42501"));
    assert!(owner.query("BEGIN").error.is_none());
    assert_eq!(refused(&mut owner, "CREATE TEMP TABLE late (a int)"), "42501");
    assert_eq!(refused(&mut owner, "SELECT 1"), "25P02", "as where a statement has failed");
    assert!(owner.query("ROLLBACK").error.is_none());
    assert!(owner.query("SET bulkhead.ticket = 'CHG-7'").error.is_none());
    assert!(owner.query("CREATE TEMP TABLE late (a int)").error.is_none());
    assert!(owner.extended(&support::wire::Extended { sql: b"DROP TABLE late", ..Default::default() }).error.is_none());
    // What says why is taken back with all else, and says nothing while it may still be taken back.
    for (before, then) in [
        ("DISCARD ALL", "CREATE TEMP TABLE late (a int)"),
        ("RESET ALL", "CREATE TEMP TABLE late (a int)"),
        ("BEGIN; SET LOCAL bulkhead.ticket = 'CHG-9'", "CREATE TEMP TABLE late (a int)"),
    ] {
        assert!(owner.query("SET bulkhead.ticket = 'CHG-7'").error.is_none());
        assert!(owner.query("RESET bulkhead.ticket").error.is_none() || before.is_empty());
        if !before.starts_with("BEGIN") {
            assert!(owner.query("SET bulkhead.ticket = 'CHG-7'").error.is_none());
        }
        assert!(owner.query(before).error.is_none(), "{before}");
        assert_eq!(refused(&mut owner, then), "42501", "{before}");
        owner.query("ROLLBACK");
    }
    let mut closed = world.connect("closed");
    for sql in [
        "SELECT 1 AS a INTO TEMP hidden UNION SELECT 2",
        "EXPLAIN ANALYZE SELECT 1 AS a INTO TEMP hidden UNION SELECT 2",
        "UPDATE pg_class SET relname = 'x' WHERE false",
        "COPY plain TO PROGRAM 'true'",
    ] {
        assert_eq!(refused(&mut closed, sql), "42501", "{sql}");
    }
    // Types of parameters are bytes, and no text that cannot be read.
    let typed = support::wire::Extended {
        sql: b"SELECT $1",
        parameter_types: &[1184],
        parameters: &[Some("2026-01-01")],
        ..Default::default()
    };
    assert!(closed.extended(&typed).error.is_none());
    assert_eq!(one(&mut closed, "SELECT 7").as_deref(), Some("7"));
    // Where the server reads texts otherwise than they are read here, each may be one that changes something.
    for reading in ["SET standard_conforming_strings = off", "SET client_encoding = 'SJIS'"] {
        let mut odd = world.connect("closed");
        odd.query(reading);
        let hidden: &[u8] = if reading.contains("SJIS") {
            b"SELECT E'\xe3\x81\x83\\'; CREATE TEMP TABLE hidden (a int); --'"
        } else {
            b"SELECT '\\', '; CREATE TEMP TABLE hidden (a int); --'"
        };
        odd.query(hidden);
        assert_eq!(one(&mut closed, "SELECT count(*) FROM pg_class WHERE relname = 'hidden'").as_deref(), Some("0"), "{reading}");
    }
    assert!(closed.query("SET bulkhead.ticket = 'CHG-8'").error.is_none());
    assert_eq!(refused(&mut closed, "CREATE TEMP TABLE late (a int)"), "42501");
    assert_eq!(one(&mut closed, "SELECT count(*) FROM plain").as_deref(), Some("100"));
    world.evidence("ticket", &[("user", "owner".into()), ("ticket", "CHG-7".into())]);
    world.evidence("refused", &[("user", "closed".into()), ("sqlstate", "42501".into())]);
    let template = world.evidence("template", &[("text", "CREATE TEMP TABLE late (a int)".into())]);
    world.evidence("intent", &[("user", "owner".into()), ("template", template["template"].clone())]);
}

#[test]
fn the_glass_is_broken_with_a_reason_and_mends_itself() {
    let world = World::start();
    let mut night = world.connect("night");
    let read = "SELECT pan FROM person WHERE id = 7";
    assert_eq!(one(&mut night, read).as_deref(), Some("****1111"));
    assert_eq!(refused(&mut night, "SET bulkhead.break_glass = 'why'"), "22023");
    assert_eq!(refused(&mut world.connect("app"), "SET bulkhead.break_glass = 'because I can'"), "42501");
    assert!(night.query("SET bulkhead.break_glass = 'fraud case 4711'").error.is_none());
    assert_eq!(one(&mut night, read).as_deref(), Some("4111111111111111"));
    assert!(night.query("RESET bulkhead.break_glass").error.is_none());
    assert_eq!(one(&mut night, read).as_deref(), Some("****1111"));
    let broken = world.evidence("break_glass", &[("user", "night".into()), ("reason", "fraud case 4711".into())]);
    assert_eq!((&broken["minutes"], &broken["roles"]), (&5.into(), &serde_json::json!(["fraud"])));
}

/// The packs as they are shipped, over the shop of these tests: what is set up holds, and evidence has a record; what is not is told.
#[test]
fn a_report_says_what_holds_and_names_its_evidence() {
    let world = World::start();
    let directory = world.proxy.setup.path().join("policies/compliance");
    std::fs::create_dir(&directory).expect("a directory");
    let packs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/compliance");
    for pack in std::fs::read_dir(packs).expect("the packs").map(|entry| entry.expect("an entry").path()) {
        // The shop has classes of its own: those of the packs give way, entry by entry.
        let text = std::fs::read_to_string(&pack).expect("a pack");
        let text: String = text.split_inclusive("\n[[").filter(|entry| !entry.starts_with("class]]")).collect();
        let text = text.trim_end_matches("[[");
        std::fs::write(directory.join(pack.file_name().expect("a name")), text).expect("write");
    }
    let mut app = world.connect("app");
    one(&mut app, "SELECT name FROM person WHERE id = 7");
    drop(app);
    let run = |arguments: &[&str]| {
        let output = world.proxy.setup.run(arguments);
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code(), text)
    };
    // A second may pass until a checkpoint covers what was done: what nobody has signed does not count.
    let begun = std::time::Instant::now();
    let (text, told) = loop {
        // What was said before the packs were in force shows nothing of them.
        one(&mut world.connect("app"), "SELECT name FROM person WHERE id = 7");
        let output = world.proxy.setup.run(&["compliance", "report", "--framework", "gdpr", "--json"]);
        assert_eq!(output.status.code(), Some(1), "not all holds: {output:?}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let told: Value = serde_json::from_str(&text).expect("JSON");
        if text.contains("\"state\": \"enforced\"") && output.stderr.is_empty() {
            break (text, told);
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(30), "{output:?}");
    };
    let lines = told["report"]["lines"].as_array().expect("lines");
    let state = |id: &str| {
        let line = lines.iter().find(|line| line["control"]["id"] == id).unwrap_or_else(|| panic!("no {id} in {text}"));
        (line["state"].as_str().expect("a state").to_owned(), line["because"].as_str().expect("a reason").to_owned())
    };
    assert_eq!(state("gdpr-5-1-f").0, "enforced");
    assert_eq!(state("gdpr-5-1-b").0, "enforced", "{:?}", state("gdpr-5-1-b"));
    assert!(lines.iter().any(|line| line["state"] == "out-of-scope") && lines.iter().any(|line| line["state"] == "unknown"));
    // The record that it names is there, and is what it says.
    let isolation = lines.iter().find(|line| line["control"]["id"] == "gdpr-5-1-f").expect("it is there");
    let (event, number) = (&isolation["evidence"][0], isolation["evidence"][1]["record"].as_u64().expect("a number"));
    let begun = std::time::Instant::now();
    let proof = loop {
        match run(&["audit", "prove", &number.to_string()]) {
            (Some(0), proof) => break proof,
            // A second may pass until a checkpoint covers it.
            (_, why) => assert!(begun.elapsed() < std::time::Duration::from_secs(30), "{why}"),
        }
    };
    let proof: Value = serde_json::from_str(&proof).expect("JSON");
    let record: Value = serde_json::from_str(proof["record"].as_str().expect("a record")).expect("JSON");
    assert_eq!(record["event"], *event);
    // From the log and the policies alone it is the same.
    let elsewhere = tempfile::tempdir().expect("a directory");
    let log = world.proxy.setup.path().join("audit");
    let policies = world.proxy.setup.path().join("policies");
    let arguments = ["--log", log.to_str().expect("a path"), "--policies", policies.to_str().expect("a path")];
    let missing = elsewhere.path().join("none.toml");
    let without = ["--config", missing.to_str().expect("a path"), "compliance", "report", "--framework", "gdpr", "--json"];
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_bulkhead")).args(without).args(arguments).output().expect("it runs");
    let again: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    assert_eq!(again["score"], told["score"]);
    // What was not signed shows nothing: anybody can write it behind the rest.
    let forged = elsewhere.path().join("forged");
    std::fs::create_dir(&forged).expect("a directory");
    for file in std::fs::read_dir(&log).expect("the log").map(|entry| entry.expect("an entry").path()) {
        std::fs::copy(&file, forged.join(file.file_name().expect("a name"))).expect("a copy");
    }
    let facts = serde_json::json!({ "level": "paranoid", "client_tls": "required" }).to_string();
    let record =
        serde_json::json!({ "time": "2026-11-29T00:00:00.000000Z", "event": "facts", "database": "shop", "facts": facts });
    // As records are written: the time first, and then the event.
    let record = format!(
        "{{\"time\":\"2026-11-29T00:00:00.000000Z\",\"event\":\"facts\",\"database\":\"shop\",\"facts\":{}}}",
        record["facts"]
    );
    let leaf = <sha2::Sha256 as sha2::Digest>::digest([&[0], record.as_bytes()].concat());
    let hex: String = leaf[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let segment = std::fs::read_dir(&forged).expect("it").map(|entry| entry.expect("an entry").path());
    let segment = segment.filter(|path| path.extension().is_some_and(|e| e == "log")).max().expect("a segment");
    let text = std::fs::read_to_string(&segment).expect("it") + &format!("{hex} {record}\n");
    std::fs::write(&segment, text).expect("write");
    let arguments = ["--log", forged.to_str().expect("a path"), "--policies", policies.to_str().expect("a path")];
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_bulkhead")).args(without).args(arguments).output().expect("it runs");
    let again: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    assert_eq!(again["score"], told["score"]);
    // What is not in force shows nothing.
    let changed = std::fs::read_to_string(world.proxy.setup.config())
        .expect("it")
        .replace("[server]", "[isolation]\nlevel = \"paranoid\"\n[server]");
    let pretended = world.proxy.setup.path().join("pretended.toml");
    std::fs::write(&pretended, changed).expect("write");
    let pretend = pretended.to_str().expect("a path");
    let arguments = ["--config", pretend, "compliance", "report", "--framework", "gdpr"];
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_bulkhead"));
    let output = command.args(arguments).current_dir(world.proxy.setup.path()).output().expect("it runs");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(text.contains("these settings are not in force") && !text.contains("\nenforced "), "{text}");
    // Who has the report alone computes the score again; one that was polished does not add up.
    let file = elsewhere.path().join("report.json");
    let computed = |told: &Value| {
        std::fs::write(&file, told.to_string()).expect("write");
        run(&["compliance", "recompute", file.to_str().expect("a path")])
    };
    let (status, said) = computed(&told);
    assert!(status == Some(0) && said.starts_with("checkable controls: "), "{said}");
    let mut polished = told.clone();
    polished["score"]["points"] = 100.into();
    assert_eq!(computed(&polished).0, Some(1));
    let lines_of = |told: &Value| told["report"]["lines"].as_array().expect("lines").len();
    for line in (0..lines_of(&told)).filter(|line| told["report"]["lines"][*line]["evidence"].is_null()) {
        let mut polished = told.clone();
        polished["report"]["lines"][line]["state"] = "enforced".into();
        assert_eq!(computed(&polished).0, Some(1), "it names no record that shows it");
    }
    // For people.
    let (_, page) = run(&["compliance", "report", "--framework", "pci-dss", "--html"]);
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains("PCI DSS") && page.ends_with("</html>\n"), "{page}");
    let (status, unknown) = run(&["compliance", "report", "--framework", "iso"]);
    assert!(status == Some(2) && unknown.contains("no policy has a [[control]] of iso"), "{unknown}");
    // What looks personal and has no class.
    let url = world.cluster.app_url("shop");
    let (_, found) = run(&["compliance", "classify", "--database", &url]);
    assert!(!found.contains("\"pan\""), "it has a class: {found}");
    world.cluster.execute("shop", "ALTER TABLE plain ADD COLUMN mobile_phone text, ADD COLUMN ref text");
    // Numbers that issuers publish for tests.
    let pans = "{4111111111111111,5500005555555559,4012888888881881,378282246310005,6011111111111117,5105105105105100}";
    world.cluster.execute("shop", &format!("UPDATE plain SET ref = ('{pans}'::text[])[1 + id % 6]"));
    let (status, found) = run(&["compliance", "classify", "--database", &url]);
    assert_eq!(status, Some(1), "{found}");
    assert!(found.contains("name = \"mobile_phone\"\nclass = \"pii.phone\""), "{found}");
    assert!(found.contains("name = \"ref\"\nclass = \"pci.pan\"") && !found.contains("4111"), "{found}");
    let (_, text) = run(&["compliance", "report", "--framework", "gdpr", "--database", &url]);
    assert!(text.contains("public.plain.mobile_phone"), "{text}");
}
