//! For each compliance check that is enforced: what violates it and what conforms, as a user sees them, and the record that a report
//! names as its evidence.

mod support;

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use bulkhead::rules::compliance::{Kind, RULES};
use serde_json::Value;
use support::cluster::Cluster;
use support::proxy::{Proxy, Setup, User};
use support::wire::Wire;

const SCHEMA: &str = "
    CREATE TABLE person (tenant_id int NOT NULL, id int, name text, email text, cvv text, region text, seen timestamptz, restricted bool,
        PRIMARY KEY (tenant_id, id));
    INSERT INTO person SELECT t, g, 'Jane ' || g, 'jane' || g || '@example.com', NULL, CASE WHEN g > 5 THEN 'EU' ELSE 'US' END,
        now() - g * interval '1 day', g = 6 FROM generate_series(1, 2) t, generate_series(1, 9) g;
    CREATE TABLE unlisted (tenant_id int NOT NULL);
    GRANT ALL ON ALL TABLES IN SCHEMA public TO app";

const POLICIES: &str = "
    [[table]]
    name = 'public.person'
    scope = 'tenant'
    tenant_column = 'tenant_id'
    [[table.rule]]
    id = 'residency'
    using = \"region = 'EU'\"
    mode = 'restrictive'
    [[table.column]]
    name = 'name'
    class = 'pii.name'
    [[table.column]]
    name = 'email'
    class = 'contact.email'
    [[table.column]]
    name = 'cvv'
    class = 'pci.cvv'
    [[table.column]]
    name = 'region'
    class = 'place.region'
    [[table.column]]
    name = 'seen'
    class = 'time.seen'
    [[table.column]]
    name = 'restricted'
    class = 'gdpr.restricted'

    [[class]]
    name = 'pii'
    mask = 'redact'
    purposes = ['support']
    [[class]]
    name = 'contact'
    mask = 'email'
    unless_roles = ['desk']
    [[class]]
    name = 'pci.cvv'
    stored = 'never'
    [[class]]
    name = 'time.seen'
    retention_days = 8
    [[class]]
    name = 'gdpr.restricted'
    hides_rows_from = ['app']

    [[limit]]
    rows = 50
    [[window]]
    ticket = true

    [[threat]]
    rule = 'logins'
    mode = 'enforce'
    [[threat]]
    rule = 'unknown-statement'
    mode = 'enforce'
    [[application]]
    names = ['listed']
    statements = ['select count ( * ) from person']
";

/// Of every check that is enforced, one control of our own.
fn controls() -> String {
    let control = |check: &str| {
        let classes = match check {
            "purpose" => "['pii']",
            "minimisation" => "['contact']",
            "never-stored" => "['pci.cvv']",
            "residency" => "['place']",
            "retention" => "['time']",
            "restriction" => "['gdpr']",
            _ => "[]",
        };
        format!(
            "[[control]]\nframework = 'own'\nid = '{check}'\ncites = 'house rules'\ntitle = '{check}'\nsays = '{check}'\ncheck = '{check}'\n\
             classes = {classes}\n"
        )
    };
    enforced().into_iter().map(|check| control(&check)).collect()
}

fn enforced() -> BTreeSet<String> {
    RULES.iter().filter(|rule| rule.kind == Kind::Enforced).map(|rule| rule.name.to_owned()).collect()
}

struct World {
    proxy: Proxy,
    cluster: Cluster,
}

impl World {
    fn start(more: &str) -> World {
        let cluster = Cluster::start();
        cluster.execute("postgres", "CREATE DATABASE shop");
        cluster.execute("shop", SCHEMA);
        let owner = format!("unrestricted = true\nupstream = \"{}\"", cluster.superuser_url("shop"));
        let users = [
            User { name: "app", access: "tenant = \"1\"\nroles = [\"app\"]\npurposes = [\"support\"]" },
            User { name: "desk", access: "tenant = \"1\"\nroles = [\"desk\"]" },
            User {
                name: "night",
                access: "tenant = \"1\"\nroles = [\"night\"]\nbreak_glass = [\"desk\"]\nbreak_glass_minutes = 5",
            },
            User { name: "owner", access: &owner },
        ];
        let policies = [("shop.toml", POLICIES), ("own.toml", &controls())];
        let setup = Setup::new(&[("shop".to_owned(), cluster.app_url("shop"))], &users, &policies);
        let text = std::fs::read_to_string(setup.config()).expect("the configuration");
        std::fs::write(setup.config(), text.replace("[server]\n", &format!("[server]\n{more}"))).expect("write it");
        let text = std::fs::read_to_string(setup.config()).expect("the configuration");
        let more = "[audit]\npath = \"audit\"\n[limits]\nclient_idle_timeout = \"2s\"\n";
        std::fs::write(setup.config(), text + more).expect("write it");
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        std::fs::write(setup.path().join("cert.pem"), made.cert.pem()).expect("write the certificate");
        std::fs::write(setup.path().join("key.pem"), made.signing_key.serialize_pem()).expect("write the key");
        setup.harden(&[cluster.superuser_url("shop")]);
        World { proxy: Proxy::start(setup), cluster }
    }

    /// What the last of some statements gives, in a session of its own: its first value, or its error.
    fn say(&self, user: &str, application: &str, statements: &[&str]) -> String {
        let mut target = self.proxy.target(user, "shop");
        target.options.push(("application_name".to_owned(), application.to_owned()));
        let mut session = Wire::connect(&target).expect("a session");
        let mut last = String::new();
        for sql in statements {
            let answer = session.query(sql);
            last = match &answer.error {
                Some(error) => error.sqlstate().to_owned(),
                None => answer.scalar().or_else(|| answer.parts.first()?.tag.clone()).unwrap_or_else(|| "NULL".to_owned()),
            };
        }
        last
    }

    /// Each control's state, and its evidence: the event, and the record's number.
    fn report(&self) -> Vec<(String, String, Value)> {
        let output = self.proxy.setup.run(&["compliance", "report", "--framework", "own", "--json"]);
        let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let lines = told["report"]["lines"].as_array().expect("lines");
        lines.iter().map(|line| (text(&line["control"]["id"]), text(&line["state"]), line["evidence"].clone())).collect()
    }
}

/// Who says what, and what is seen.
type Said<'s> = (&'s str, &'s [&'s str], &'s str);

#[test]
fn what_violates_is_denied_or_masked_and_what_conforms_is_permitted_and_a_record_shows_it() {
    let world = World::start("");
    let ids = "SELECT string_agg(id::text, '' ORDER BY id) FROM person";
    let statements: [(&str, Said<'_>, Said<'_>); 13] = [
        ("isolation", ("desk", &["SELECT count(*) FROM person WHERE tenant_id = 2"], "0"), ("desk", &[ids], "67")),
        ("denied-by-default", ("desk", &["SELECT * FROM unlisted"], "42501"), ("desk", &[ids], "67")),
        ("residency", ("desk", &["SELECT count(*) FROM person WHERE region = 'US'"], "0"), ("desk", &[ids], "67")),
        ("retention", ("desk", &["SELECT count(*) FROM person WHERE id IN (8, 9)"], "0"), ("desk", &[ids], "67")),
        ("restriction", ("app", &["SELECT count(*) FROM person WHERE id = 6"], "0"), ("app", &[ids], "7")),
        (
            "purpose",
            ("app", &["SELECT name FROM person WHERE id = 7"], "***"),
            ("app", &["SET bulkhead.purpose = 'support'", "SELECT name FROM person WHERE id = 7"], "Jane 7"),
        ),
        (
            "minimisation",
            ("app", &["SELECT email FROM person WHERE id = 7"], "j***@example.com"),
            ("desk", &["SELECT email FROM person WHERE id = 7"], "jane7@example.com"),
        ),
        (
            "never-stored",
            ("desk", &["UPDATE person SET cvv = '123' WHERE id = 7"], "42501"),
            ("desk", &["UPDATE person SET email = 'jane7@example.com' WHERE id = 7"], "UPDATE 1"),
        ),
        (
            "export-limit",
            ("desk", &["SELECT g FROM generate_series(1, 51) g"], "54000"),
            ("desk", &["SELECT max(g) FROM generate_series(1, 51) g"], "51"),
        ),
        (
            "change-window",
            ("owner", &["CREATE TABLE made (id int)"], "42501"),
            ("owner", &["SET bulkhead.ticket = 'CHG-1'", "CREATE TABLE made (id int)"], "CREATE TABLE"),
        ),
        (
            "break-glass",
            ("night", &["SET bulkhead.break_glass = ''", "SELECT email FROM person WHERE id = 7"], "j***@example.com"),
            ("night", &["SET bulkhead.break_glass = 'ticket 7'", "SELECT email FROM person WHERE id = 7"], "jane7@example.com"),
        ),
        // The second lock is what a login past the proxy meets: below.
        ("second-lock", ("desk", &["SELECT count(*) FROM person WHERE tenant_id = 2"], "0"), ("desk", &[ids], "67")),
        ("learned", ("listed", &[ids], "42501"), ("listed", &["SELECT count(*) FROM person"], "2")),
    ];
    let mut shown = BTreeSet::new();
    for (check, violating, conforming) in statements {
        for (who, said, expected) in [violating, conforming] {
            let (user, application) = if who == "listed" { ("desk", "listed") } else { (who, "") };
            assert_eq!(world.say(user, application, said), expected, "{check}: {said:?}");
        }
        shown.insert(check.to_owned());
    }
    let mut past = world.proxy.target("app", "shop");
    (past.address, past.password) = (world.cluster.app("shop").address, world.cluster.app("shop").password);
    let mut past = Wire::connect(&past).expect("a session past the proxy");
    assert_eq!(past.query("SELECT count(*) FROM person").scalar().as_deref(), Some("0"), "second-lock");
    // Who does nothing is logged off; who does something is not.
    let mut idle = Wire::connect(&world.proxy.target("desk", "shop")).expect("a session");
    assert_eq!(idle.query("SELECT 1").scalar().as_deref(), Some("1"));
    assert!(idle.answer().error.is_some_and(|error| error.sqlstate() == "57P05"));
    shown.insert("automatic-logoff".to_owned());
    // Ten guesses shut the address out.
    let mut guess = world.proxy.target("night", "shop");
    guess.password = Some("guess".to_owned());
    (0..10).for_each(|_| assert!(Wire::connect(&guess).is_err()));
    assert!(Wire::connect(&world.proxy.target("night", "shop")).is_err(), "lockout: the right password does not help");
    assert!(Wire::connect(&world.proxy.target("desk", "shop")).is_ok(), "lockout: nobody else");
    shown.insert("lockout".to_owned());
    // Its evidence, once a checkpoint covers it.
    let begun = Instant::now();
    let wanted: BTreeSet<String> = shown.iter().cloned().chain(["audit-complete".to_owned()]).collect();
    let report = loop {
        let report = world.report();
        let holds = report.iter().filter(|(_, state, _)| state == "enforced").map(|(check, ..)| check.clone()).collect();
        if wanted.is_subset(&holds) {
            break report;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "not shown: {:?} in {report:#?}", wanted.difference(&holds));
    };
    for (check, _, evidence) in report.iter().filter(|(check, ..)| wanted.contains(check)) {
        let number = evidence[1]["record"].as_u64().unwrap_or_else(|| panic!("{check} has no record: {evidence}"));
        let output = world.proxy.setup.run(&["audit", "prove", &number.to_string()]);
        assert!(output.status.success(), "{check}: {output:?}");
    }
    // What cannot be recorded is not done.
    let (log, aside) = (world.proxy.setup.path().join("audit"), world.proxy.setup.path().join("aside"));
    std::fs::rename(&log, &aside).expect("it is taken away");
    let begun = Instant::now();
    while world.try_say("desk", ids) != "58030" {
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
    std::fs::rename(&aside, &log).expect("it is put back");
    while world.try_say("desk", ids) != "67" {
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
    shown.insert("audit-complete".to_owned());
    // And the one that needs a server of its own.
    transport();
    shown.insert("transport".to_owned());
    assert_eq!(shown, enforced(), "each of them");
}

impl World {
    /// As [`World::say`], of a session that may be refused.
    fn try_say(&self, user: &str, sql: &str) -> String {
        match Wire::connect(&self.proxy.target(user, "shop")) {
            Ok(mut session) => match session.query(sql) {
                answer if answer.error.is_some() => answer.error.map(|e| e.sqlstate().to_owned()).unwrap_or_default(),
                answer => answer.scalar().unwrap_or_default(),
            },
            Err(_) => "refused".to_owned(),
        }
    }
}

/// Clients must use TLS.
fn transport() {
    let world = World::start("tls_certificate = \"cert.pem\"\ntls_key = \"key.pem\"\ntls_required = true\n");
    let psql = |mode: &str| {
        let url = format!("host=127.0.0.1 port={} dbname=shop user=desk sslmode={mode}", world.proxy.setup.port);
        let password = world.proxy.target("desk", "shop").password.expect("a password");
        let output =
            Command::new("psql").args(["-XAtc", "SELECT count(*) FROM person"]).arg(url).env("PGPASSWORD", password).output();
        output.expect("psql runs")
    };
    let plain = psql("disable");
    assert!(!plain.status.success(), "{plain:?}");
    let encrypted = psql("require");
    assert_eq!(String::from_utf8_lossy(&encrypted.stdout).trim(), "2", "{encrypted:?}");
    let begun = Instant::now();
    while !world
        .report()
        .iter()
        .any(|(check, state, evidence)| check == "transport" && state == "enforced" && evidence[0] == "tls")
    {
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", world.report());
    }
}
