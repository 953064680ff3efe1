//! The audit log of a running proxy: what it says of what, what it does not say, and what it survives.

mod support;

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::cluster::Cluster;
use support::proxy::{Proxy, Setup, User};
use support::wire::{Extended, Wire};

const SCHEMA: &str = "
    CREATE TABLE item (tenant_id int NOT NULL, id int, n int NOT NULL DEFAULT 0, note text, PRIMARY KEY (tenant_id, id));
    INSERT INTO item SELECT t, g, 0, 'note' FROM generate_series(1, 2) t, generate_series(1, 9) g;
    CREATE TABLE person (tenant_id int NOT NULL, id int, email text, card text, note text, PRIMARY KEY (tenant_id, id));
    CREATE VIEW people AS SELECT tenant_id, id, email AS mail FROM person;
    GRANT ALL ON ALL TABLES IN SCHEMA public TO app";

const POLICIES: &str = "
    [[table]]
    name = 'public.item'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.people'
    scope = 'view'

    [[class]]
    name = 'pii'
    recorded = 'hmac'
    [[class]]
    name = 'pci.pan'
    recorded = 'encrypt'
    recorded_days = 90

    [[table]]
    name = 'public.person'
    scope = 'tenant'
    tenant_column = 'tenant_id'
    [[table.column]]
    name = 'email'
    class = 'pii.email'
    [[table.column]]
    name = 'card'
    class = 'pci.pan'
";

/// A proxy with an audit log before the rows of two tenants.
struct World {
    proxy: Proxy,
    cluster: Cluster,
}

impl World {
    /// `audit`: lines of `[audit]` besides its path; `more`: of the configuration.
    fn start(audit: &str, more: &str) -> World {
        World::with(POLICIES, audit, more)
    }

    fn with(policies: &str, audit: &str, more: &str) -> World {
        let cluster = Cluster::start();
        cluster.execute("postgres", "CREATE DATABASE shop");
        cluster.execute("shop", SCHEMA);
        let owner = format!("unrestricted = true\nupstream = \"{}\"", cluster.superuser_url("shop"));
        let users = [
            User { name: "one", access: "tenant = \"1\"\nroles = [\"clerk\"]" },
            User { name: "web", access: "tenants = \"*\"" },
            User { name: "owner", access: &owner },
        ];
        let setup = Setup::new(&[("shop".to_owned(), cluster.app_url("shop"))], &users, &[("shop.toml", policies)]);
        let text = std::fs::read_to_string(setup.config()).expect("the configuration");
        std::fs::write(setup.config(), format!("{text}[audit]\npath = \"audit\"\n{audit}\n{more}\n")).expect("write it");
        World { proxy: Proxy::start(setup), cluster }
    }

    fn connect(&self, user: &str) -> Wire {
        Wire::connect(&self.proxy.target(user, "shop")).expect("a session")
    }

    fn path(&self) -> PathBuf {
        self.proxy.setup.path().join("audit")
    }

    /// Every record, once there is one that `last` is in.
    fn records(&self, last: &str) -> Vec<serde_json::Value> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let text = self.export();
            if text.contains(last) {
                return text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
            }
            assert!(Instant::now() < deadline, "no {last} in\n{text}");
            #[expect(clippy::disallowed_methods, reason = "polls a condition, with a deadline")]
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn export(&self) -> String {
        let output = self.proxy.setup.run(&["audit", "export", "--format", "raw"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Exit status and what it said.
    fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.proxy.setup.run(arguments);
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    }
}

/// What a DBA would want to see of each record but times and numbers that change.
fn lines(records: &[serde_json::Value]) -> String {
    const SHOWN: [&str; 14] = [
        "event",
        "user",
        "tenant",
        "access",
        "command",
        "outcome",
        "rows",
        "sqlstate",
        "reason",
        "message",
        "text",
        "application",
        "statement",
        "epoch",
    ];
    let field = |record: &serde_json::Value, name: &str| match &record[name] {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(text.clone()),
        other => Some(format!("{name}={other}")),
    };
    let line = |record: &serde_json::Value| SHOWN.iter().filter_map(|name| field(record, name)).collect::<Vec<_>>().join(" | ");
    // These two come when their time has come.
    let is_timed = |record: &&serde_json::Value| record["event"] == "checkpoint" || record["event"] == "facts";
    records.iter().filter(|record| !is_timed(record)).map(|record| line(record) + "\n").collect()
}

#[test]
fn what_each_statement_leaves() {
    let expected = include_str!("audit.txt");
    if std::env::var_os("UPDATE").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/audit.txt");
        return std::fs::write(path, said_of_each_statement()).expect("write it");
    }
    // Whether an answer is kept depends on how soon the server tells of its catalog: a busy machine may have to be asked again.
    let mut said = String::new();
    for _ in 0..3 {
        said = said_of_each_statement();
        if said == expected {
            return;
        }
    }
    panic!("(UPDATE=1 rewrites tests/audit.txt)\n{said}\n=== expected\n{expected}");
}

fn said_of_each_statement() -> String {
    let world = World::start("", "[cache]\nmemory_mb = 4");
    let mut one = world.connect("one");
    for sql in [
        "SELECT id, note FROM item WHERE id < 4",
        "SELECT id, note FROM item WHERE id < 4",
        "UPDATE item SET note = 'SECRET-1' WHERE id = 77007701",
        "BEGIN; INSERT INTO item (id, n) VALUES (77007702, 77007703), (77007704, 5); COMMIT",
        "INSERT INTO item (id, n) VALUES (1, 77007703)",
        "SELECT note FROM other WHERE note = 'SECRET-2' AND n = 77007705",
        "SELECT pg_read_file('SECRET-3')",
        "SELECT 'SECRET-4",
        "PREPARE p AS UPDATE item SET n = n + 1 WHERE id = $1",
        "EXECUTE p(77007706)",
    ] {
        let _ = one.query(sql);
    }
    let parameters = [Some("77007707"), Some("SECRET-5")];
    one.extended(&Extended {
        sql: b"DELETE FROM item WHERE id = $1 OR note = $2",
        parameters: &parameters,
        ..Extended::default()
    });
    one.extended(&Extended { sql: b"SELECT 1 / $1::int", parameters: &[Some("0")], ..Extended::default() });
    // The second of two in one batch does not run.
    let message = |kind: u8, body: &[u8]| [&[kind][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat();
    let parse = message(b'P', b"\0SELECT 7 / (id - 1) FROM item WHERE id = 1\0\0\0");
    let (bind, execute) = (message(b'B', &[0; 8]), message(b'E', &[0; 5]));
    one.send_raw(&[parse, bind.clone(), execute.clone(), bind, execute, message(b'S', b"")].concat()).expect("send");
    assert!(one.answer().error.is_some());
    drop(one);
    world.records("session_end");
    let mut web = world.connect("web");
    for sql in ["SELECT 1 FROM item", "SET bulkhead.tenant = '2'", "SELECT count(*) FROM item WHERE n = 77007708"] {
        let _ = web.query(sql);
    }
    drop(web);
    world.records("\"user\":\"web\",\"database\":\"shop\",\"statements\"");
    let mut owner = world.connect("owner");
    let _ = owner.query("UPDATE item SET note = 'SECRET-6' WHERE n = 77007709; SELECT 1");
    let parameters = [Some("SECRET-7")];
    owner.extended(&Extended { sql: b"SELECT * FROM item WHERE note = $1", parameters: &parameters, ..Extended::default() });
    let _ = owner.query("SELECT note FROM nowhere");
    drop(owner);
    let mut wrong = world.proxy.target("one", "shop");
    wrong.password = Some("SECRET-8".into());
    assert!(Wire::connect(&wrong).is_err());
    let records = world.records("login_refused");
    let said = lines(&records);
    // Not a value, in the whole of it, nor in any file beside it.
    for entry in std::fs::read_dir(world.path()).expect("a directory") {
        let path = entry.expect("an entry").path();
        let text = String::from_utf8_lossy(&std::fs::read(&path).expect("read")).into_owned();
        assert!(!text.contains("SECRET") && !text.contains("770077"), "{}", path.display());
    }
    said
}

#[test]
fn a_refusal_can_be_asked_about_and_the_log_proved() {
    let world = World::start("durability = \"sync\"", "");
    let mut one = world.connect("one");
    let answer = one.query("SELECT lo_import('/x') FROM item WHERE n = 4711");
    let error = answer.error.expect("it is refused");
    let id = error.field('D').strip_prefix("Audit log: bulkhead why ").expect("an id");
    // Under `sync` it is there when the client knows.
    let (status, text) = world.run(&["why", id]);
    assert_eq!(status, Some(0), "{text}");
    for part in ["user one, tenant 1", "42501", "SELECT lo_import(?) FROM item WHERE n = ?", "threat rule capability"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(world.run(&["why", "00000000"]).0, Some(1));
    // While it runs.
    assert_eq!(world.run(&["audit", "verify"]).0, Some(0));
    let kept = world.proxy.setup.path().join("kept");
    std::fs::copy(world.path().join("checkpoint"), &kept).expect("a copy");
    for n in 0..20 {
        assert!(one.query(format!("UPDATE item SET n = {n} WHERE id = 1")).error.is_none());
    }
    drop(one);
    let World { proxy, cluster } = world;
    let log = proxy.setup.path().join("audit");
    let (setup, stopped) = proxy.stop();
    assert!(stopped.contains("draining"), "{stopped}");
    let run = |arguments: &[&str]| {
        let output = setup.run(arguments);
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let kept = kept.display().to_string();
    let (status, text) = run(&["audit", "verify", "--checkpoint", &kept]);
    assert!(status == Some(0) && text.contains("are what was written") && !text.contains("not covered"), "{text}");
    let (status, proof) = run(&["audit", "prove", "5"]);
    assert_eq!(status, Some(0), "{proof}");
    std::fs::write(setup.path().join("proof.json"), proof).expect("write");
    let key = log.join("public.key").display().to_string();
    let (status, text) = run(&["audit", "check", "proof.json", "--public-key", &key]);
    assert!(status == Some(0) && text.contains("has record 5"), "{text}");
    let newest = log.join("checkpoint").display().to_string();
    assert_eq!(run(&["audit", "consistency", &kept, &newest]).0, Some(0));
    let (status, text) = run(&["audit", "export"]);
    assert!(
        status == Some(0) && text.contains("\"event\":{\"action\":\"refused\"") || text.contains("\"action\":\"refused\""),
        "{text}"
    );
    assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok_and(|v| v["@timestamp"].is_string())));
    let (status, text) = run(&["audit", "tail", "-n", "1"]);
    assert!(status == Some(0) && text.contains("\"event\":\"stop\""), "{text}");
    // A byte of a record.
    let segment = log.join("00000000000000000000.log");
    let mut file = std::fs::read(&segment).expect("read");
    let at = file.len() / 2;
    file[at] ^= 1;
    std::fs::write(&segment, file).expect("write");
    let (status, text) = run(&["audit", "verify"]);
    assert!(status == Some(1) && text.contains("record "), "{text}");
    for lost in ["checkpoint", "00000000000000000000.log"] {
        let whole = std::fs::read(log.join(lost)).expect("read");
        std::fs::remove_file(log.join(lost)).expect("remove");
        let (status, text) = run(&["audit", "verify"]);
        assert_eq!(status, Some(1), "without {lost}: {text}");
        std::fs::write(log.join(lost), whole).expect("write");
    }
    // It is not gone on with either.
    let output = setup.run(&["serve"]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("audit log") && text.contains("checkpoint"), "{text}");
    drop(cluster);
}

/// INVARIANT (EVIDENCE): whoever is told that something is written finds its intent in the log, whatever becomes of the proxy.
#[test]
fn what_was_acknowledged_is_recorded_when_the_proxy_is_killed() {
    let mut world = World::start("durability = \"sync\"", "");
    let mut told = 0_u64;
    for round in 0..4 {
        let over = AtomicBool::new(false);
        let targets: Vec<_> = (0..4).map(|_| world.proxy.target("one", "shop")).collect();
        let pid = world.proxy.pid().expect("it runs").to_string();
        let writes: u64 = std::thread::scope(|scope| {
            let writers: Vec<_> = targets
                .iter()
                .enumerate()
                .map(|(n, target)| {
                    let over = &over;
                    scope.spawn(move || {
                        let mut session = Wire::connect(target).expect("a session");
                        let mut told = 0;
                        loop {
                            let answer = session.query(format!("UPDATE item SET n = n + 1 WHERE id = {}", n + 1));
                            if answer.status.is_none() {
                                return told;
                            }
                            told += 1;
                            if told >= 20 + round * 7 {
                                over.store(true, Ordering::Relaxed);
                            }
                        }
                    })
                })
                .collect();
            while !over.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            assert!(Command::new("kill").args(["-KILL", &pid]).status().expect("kill runs").success());
            writers.into_iter().map(|writer| writer.join().expect("no panic")).sum()
        });
        told += writes;
        world.proxy.kill_and_start();
        let intents = world.records("\"event\":\"start\"").iter().filter(|r| r["event"] == "intent").count() as u64;
        assert!(intents >= told, "{told} writes were told, {intents} intents are there");
        assert_eq!(world.run(&["audit", "verify"]).0, Some(0));
    }
}

/// What an unrestricted user's messages leave, whatever their order: an outcome is that of its statement.
#[test]
fn outcomes_are_of_their_own_statements() {
    let world = World::start("", "");
    let mut owner = world.connect("owner");
    let message = |kind: u8, body: &[u8]| [&[kind][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat();
    let parse = |name: &str, sql: &str| message(b'P', &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"].concat());
    let bind = |name: &str| message(b'B', &[b"\0", name.as_bytes(), b"\0\0\0\0\0\0\0"].concat());
    let (execute, sync) = (message(b'E', &[0, 0, 0, 0, 0]), message(b'S', b""));
    let run = |owner: &mut Wire, messages: &[&[u8]]| {
        owner.send_raw(&messages.concat()).expect("send");
        owner.answer()
    };
    // COPY as libpq sends it: the Sync before the data is dropped by the server.
    let copy = parse("", "COPY item (tenant_id, id) FROM STDIN");
    let data = [message(b'd', b"1\t501\n"), message(b'c', b""), sync.clone()].concat();
    let copied = run(&mut owner, &[&copy, &bind(""), &execute, &sync, &data]);
    assert!(copied.error.is_none(), "{:?}", copied.error);
    // A name that is taken stays what it was.
    run(&mut owner, &[&parse("s", "UPDATE item SET n = 7 WHERE id = 1"), &sync]);
    assert!(run(&mut owner, &[&parse("s", "SELECT 1"), &sync]).error.is_some());
    run(&mut owner, &[&bind("s"), &execute, &sync]);
    // What follows an error does not run.
    let failed = run(&mut owner, &[&parse("", "SELECT 1/0"), &bind(""), &execute, &execute, &execute, &sync]);
    assert!(failed.error.is_some());
    // A constraint that is put off.
    let _ = owner.query("CREATE TABLE put_off (id int UNIQUE DEFERRABLE INITIALLY DEFERRED); INSERT INTO put_off VALUES (1)");
    assert!(run(&mut owner, &[&parse("", "INSERT INTO put_off VALUES (1)"), &bind(""), &execute, &sync]).error.is_some());
    let _ = owner.query("DELETE FROM item WHERE id = 501");
    drop(owner);
    let records = world.records("session_end");
    let outcome = |record: &serde_json::Value| {
        let known =
            records.iter().find(|r| r["event"] == "template" && r["template"] == record["template"]).expect("its template");
        let of = |r: &&serde_json::Value| r["event"] == "outcome" && r["statement"] == record["statement"];
        let outcome = records.iter().find(of).expect("its outcome");
        let word = outcome["outcome"].as_str().unwrap_or_default();
        let detail = outcome["sqlstate"].as_str().map(str::to_owned).or_else(|| outcome["rows"].as_u64().map(|n| n.to_string()));
        format!("{:.30} | {word} {}", known["text"].as_str().unwrap_or_default(), detail.unwrap_or_default())
    };
    let told: Vec<String> = records.iter().filter(|r| r["event"] == "intent").map(outcome).collect();
    let expected = [
        "COPY item (tenant_id, id) FROM | done 1",
        "UPDATE item SET n = ? WHERE id | done 2",
        "SELECT ?/? | failed 22012",
        "SELECT ?/? | skipped ",
        "SELECT ?/? | skipped ",
        "CREATE TABLE put_off (id int U | done 1",
        "INSERT INTO put_off VALUES (?) | done 1",
        "DELETE FROM item WHERE id = ? | done 1",
    ];
    assert_eq!(told, expected);
    assert_eq!(records.iter().filter(|r| r["event"] == "undone").count(), 1);
}

/// Answers of the cache that are given again are counted, and stand where they were given.
#[test]
fn what_is_given_again_is_counted() {
    let world = World::start("", "[cache]\nmemory_mb = 8");
    let mut one = world.connect("one");
    let read = "SELECT id, note FROM item WHERE id < 3";
    for _ in 0..200 {
        assert_eq!(one.query(read).rows().count(), 2);
    }
    one.query("UPDATE item SET n = 1 WHERE id = 7");
    for _ in 0..100 {
        one.query(read);
    }
    drop(one);
    let records = world.records("session_end");
    let statements = records.iter().filter(|r| r["statement"].is_u64() && r["event"] != "outcome");
    let mut next = 1;
    let mut given = [0, 0];
    for record in statements {
        assert_eq!(record["statement"].as_u64(), Some(next), "in their order, without a gap: {record}");
        let times = record["times"].as_u64().unwrap_or(1);
        if record["outcome"] == "cached" {
            given[usize::from(next > 201)] += times;
            assert_eq!(record["bytes"].as_u64().map(|bytes| bytes / times), Some(one_answer(&records)), "{record}");
        }
        next += times;
    }
    assert_eq!((next, given), (302, [199, 99]), "each of them, before the update and behind it");
    assert!(records.len() < 150, "{}", records.len());
}

/// Bytes of the first answer of the cache.
fn one_answer(records: &[serde_json::Value]) -> u64 {
    let first = records.iter().find(|r| r["outcome"] == "cached").expect("one was given");
    first["bytes"].as_u64().expect("bytes") / first["times"].as_u64().unwrap_or(1)
}

/// Values of columns of a class, as a policy wants them: found by whoever has the keys, and gone with these.
#[test]
fn values_are_told_where_a_policy_says_so_and_can_be_erased() {
    let world = World::start("", "[cache]\nmemory_mb = 8");
    let (mut one, mut web) = (world.connect("one"), world.connect("web"));
    web.query("SET bulkhead.tenant = '2'");
    let card = |n: u32| format!("41111111111{n:05}");
    let mut id = 0;
    let mut write = |session: &mut Wire, email: &str, card: &str| {
        id += 1;
        let answer = session.query(format!("INSERT INTO person (id, email, card) VALUES ({id}, '{email}', '{card}')"));
        assert!(answer.error.is_none(), "{:?}", answer.error);
    };
    write(&mut one, "ann@example.com", &card(1));
    write(&mut web, "ann@example.com", &card(2));
    // What stands beside a column, however it is written or sent; nothing else is told.
    for sql in [
        "SELECT id FROM person WHERE email = 'zoe@example.com' AND id = 770077",
        "SELECT id FROM person WHERE email IN ('x@example.com', 'it''s@example.com', 'zoe@example.com')",
        "SELECT id FROM person p WHERE lower(p.email) LIKE 'zoe@example.com'",
        "UPDATE person SET email = 'zoe@example.com' WHERE id = 99",
        "DELETE FROM person WHERE email = 'it''s@example.com'",
        "INSERT INTO person (id, email) VALUES (5, 'a@example.com'), (6, 'zoe@example.com'), (7, 'c@example.com')",
        "PREPARE p AS SELECT id FROM person WHERE email = $1",
        "EXECUTE p('zoe@example.com')",
        "WITH w AS (SELECT id FROM person WHERE email = 'zoe@example.com') SELECT count(*) FROM w",
    ] {
        let answer = one.query(sql);
        assert!(answer.error.is_none(), "{sql}: {:?}", answer.error);
    }
    let sql = b"SELECT id FROM person WHERE email = $1";
    let asked = Extended { sql, parameters: &[Some("zoe@example.com")], ..Extended::default() };
    assert!(one.extended(&asked).error.is_none());
    for _ in 0..3 {
        assert!(one.query("SELECT id FROM person WHERE email = 'zoe@example.com'").error.is_none());
    }
    drop((one, web));
    let records = world.records("session_end");
    let text = world.export();
    for secret in ["ann@", "zoe@", "it's", &card(1), "770077"] {
        assert!(!text.contains(secret), "{secret}");
    }
    let values = |arguments: &[&str]| {
        let (status, text) = world.run(&[&["audit", "values"], arguments].concat());
        (
            status,
            text.lines()
                .filter(|line| line.contains(" tenant="))
                .map(|line| line.splitn(4, ' ').nth(3).unwrap_or(line).to_owned())
                .collect::<Vec<_>>(),
        )
    };
    let one_of = |email: &str| format!("tenant=1 SELECT public.person.email = {email}");
    let (status, found) = values(&["--tenant", "1", "--class", "pii", "--equals", "zoe@example.com"]);
    let commands: Vec<&str> = found.iter().map(|line| line.split(' ').nth(1).unwrap_or_default()).collect();
    let expected = ["SELECT", "SELECT", "SELECT", "UPDATE", "INSERT", "SELECT", "SELECT", "SELECT", "SELECT", "SELECT", "SELECT"];
    assert_eq!((status, commands), (Some(0), expected.to_vec()), "{found:?}");
    assert_eq!(values(&["--equals", "ann@example.com"]).1.len(), 2, "of each tenant");
    let (_, quoted) = values(&["--equals", "it's@example.com"]);
    assert_eq!(quoted, [one_of("it\\'s@example.com"), one_of("it\\'s@example.com").replace("SELECT", "DELETE")]);
    let mut cards = values(&["--class", "pci"]).1;
    cards.retain(|line| line.contains("4111"));
    assert_eq!(cards.len(), 2);
    assert!(cards[0].ends_with(&format!("tenant=1 INSERT public.person.card = {}", card(1))), "{cards:?}");
    assert_eq!(values(&["--equals", "nobody"]).0, Some(1));
    // Who names another directory by mistake is not told that there is nothing.
    for what in [&["values", "--equals", "ann@example.com"][..], &["erase", "--tenant", "1"]] {
        let (status, said) = world.run(&[&["audit"], what, &["--keys", "nowhere"]].concat());
        assert!(status == Some(2) && said.contains("there is no directory nowhere"), "{said}");
    }
    // Tenant 1 is erased; not a byte of the log changes.
    let (status, said) = world.run(&["audit", "erase", "--tenant", "1"]);
    assert!(status == Some(0) && said.contains("2 keys are destroyed"), "{said}");
    assert_eq!(world.run(&["audit", "erase", "--tenant", "1"]).0, Some(1));
    assert_eq!(values(&["--tenant", "1", "--equals", "ann@example.com"]).0, Some(1));
    assert!(values(&["--tenant", "1"]).1.iter().all(|line| line.ends_with("(its key is erased)")));
    assert_eq!(values(&["--equals", "ann@example.com"]).1.len(), 1, "tenant 2's is there");
    let after = world.records("\"event\":\"erased\"");
    assert_eq!(after.iter().filter(|r| r["event"] == "erased" && r["tenant"] == "1").count(), 2);
    assert_eq!(after[..records.len()], records[..]);
    assert_eq!(world.run(&["audit", "verify"]).0, Some(0));
}

/// However a value comes to a column of a class, it is told. `ZZ` stands for it.
#[test]
fn a_value_is_told_by_whatever_way_it_comes_to_a_column() {
    let world = World::start("", "");
    let mut one = world.connect("one");
    let mut said = 0;
    let mut say = |session: &mut Wire, sql: &str| {
        said += 1;
        let value = format!("v{said}@example.com");
        let answer = session.query(sql.replace("ZZ", &value));
        assert!(answer.error.is_none(), "{sql}: {:?}", answer.error);
    };
    let ways = [
        "SELECT id FROM person c JOIN (VALUES ('ZZ')) v (e) ON c.email = v.e",
        "SELECT id FROM person JOIN (SELECT 'ZZ' AS email) v USING (email)",
        "SELECT id FROM person NATURAL JOIN (SELECT 'ZZ' AS email) v",
        "SELECT id FROM person c JOIN unnest(ARRAY['ZZ']) e ON c.email = e",
        "WITH v AS (SELECT 'ZZ' AS e) SELECT id FROM person, v WHERE email = e",
        "SELECT id FROM (SELECT id, email FROM person) s WHERE email = 'ZZ'",
        "SELECT id FROM person WHERE (email, card) IN (SELECT 'ZZ', 'y')",
        "SELECT id FROM person WHERE lower(email) = ANY (SELECT 'ZZ')",
        "SELECT 'ZZ' IN (SELECT email FROM person)",
        "SELECT email FROM person INTERSECT SELECT 'ZZ'",
        "SELECT id FROM person p WHERE p::text LIKE '%ZZ%' OR p::text LIKE 'ZZ'",
        "SELECT id FROM person WHERE email = $$ZZ$$",
        "SELECT id FROM person WHERE email = E'ZZ'",
        "SELECT id FROM person WHERE email = U&'ZZ'",
        "SELECT id FROM person WHERE email = 'ZZ'\n''",
        "SELECT id FROM person WHERE email IN ('a', E'b', 'ZZ')",
        "SELECT id FROM person WHERE email = ANY ('{a,\"ZZ\"}')",
        "SELECT id FROM person WHERE email = ANY (ARRAY['a', 'ZZ'])",
        "INSERT INTO person (id, email) SELECT 1001, 'a' UNION ALL SELECT 1002, 'ZZ'",
        "INSERT INTO person (id, email) SELECT * FROM (VALUES (1003, 'ZZ')) v",
        "INSERT INTO person (id, email) WITH q AS (SELECT 1004, 'ZZ') SELECT * FROM q",
        "INSERT INTO person (id, email) VALUES (1005, (SELECT 'ZZ'))",
        "INSERT INTO person (id, email) VALUES (1005, 'a') ON CONFLICT (tenant_id, id) DO UPDATE SET email = 'ZZ'",
        "INSERT INTO person (id, email) VALUES (1005, 'a') ON CONFLICT (tenant_id, id) DO UPDATE SET card = 'c' WHERE EXCLUDED.email = 'ZZ'",
        "UPDATE person SET email = v.e FROM (VALUES ('ZZ')) v (e) WHERE id = 1005",
        "UPDATE person SET (email, card) = ROW ('ZZ', 'c') WHERE id = 1005",
        "WITH w AS (UPDATE person SET card = 'd' WHERE id = 1005 RETURNING email) SELECT * FROM w WHERE email = 'ZZ'",
        "SELECT id FROM people WHERE mail = 'ZZ'",
        "INSERT INTO person (id, note) VALUES (1005, 'ZZ') ON CONFLICT (tenant_id, id) DO UPDATE SET email = EXCLUDED.note",
        "INSERT INTO person AS p (id, note) VALUES (1005, 'ZZ') ON CONFLICT (tenant_id, id) DO UPDATE SET card = 'c' WHERE p.email = EXCLUDED.note",
        "INSERT INTO person (id, card) VALUES (1005, 'ZZ') ON CONFLICT (tenant_id, id) DO UPDATE SET email = EXCLUDED.card",
        "SELECT id FROM person WHERE email IN (SELECT coalesce('ZZ', card) FROM person)",
        "WITH x AS (UPDATE person SET card = 'ZZ' WHERE id = 1 RETURNING card) SELECT * FROM person, x WHERE email = x.card",
        "SELECT count(*) FILTER (WHERE email = ANY ('{ZZ,b}')) FROM person",
        "SELECT coalesce(email = ANY ('{b,ZZ}'), false) FROM person",
        "SELECT id FROM person WHERE ARRAY[email] <@ '{ZZ,b}'",
        "SELECT id FROM person WHERE note = 'ZZ' AND email = note",
        "SELECT p.id FROM person p JOIN item i ON i.note = p.email WHERE i.note = 'ZZ'",
        "UPDATE person SET email = note WHERE note = 'ZZ'",
        "UPDATE item SET note = 'ZZ' FROM person p WHERE p.id = item.id RETURNING p.email = item.note",
        "DELETE FROM person USING (VALUES ('ZZ')) v (e) WHERE email = e",
    ];
    ways.iter().for_each(|sql| say(&mut one, sql));
    let prepared = [
        "PREPARE p (text, text) AS SELECT id FROM person WHERE email = $1 OR card = $2",
        "PREPARE q (text) AS SELECT id FROM person WHERE email = $1",
    ];
    prepared.iter().for_each(|sql| assert!(one.query(*sql).error.is_none(), "{sql}"));
    let executed = ["EXECUTE p('ZZ', NULL)", "EXECUTE q('ZZ'::text)", "EXECUTE q('' || 'ZZ')"];
    executed.iter().for_each(|sql| say(&mut one, sql));
    // As a statement of the extended protocol too.
    said += 1;
    let sql = format!("EXECUTE p('v{said}@example.com', 'c')");
    assert!(one.extended(&Extended { sql: sql.as_bytes(), ..Extended::default() }).error.is_none());
    // Many beside it hide none.
    said += 1;
    let many: Vec<String> = (0..3000).map(|n| format!("'d{n}'")).collect();
    let sql = format!("SELECT id FROM person WHERE email IN ({}, 'v{said}@example.com')", many.join(", "));
    assert!(one.query(sql).error.is_none());
    // However often a column stands in it, and however deep.
    said += 1;
    let long: String = (0..2000).map(|n| format!(" || 'm{n}' || email")).collect();
    let deep = format!("{}email{}", "lower(".repeat(90), ")".repeat(90));
    let answer = one.query(format!("SELECT id FROM person WHERE 'v{said}@example.com' = email{long} OR {deep} = 'deep'"));
    assert!(answer.error.is_none_or(|error| error.sqlstate() == "54001"), "a ceiling, or an answer");
    assert!(one.query(format!("SELECT id FROM person WHERE {deep} = 'v{said}@example.com'")).error.is_none());
    drop(one);
    world.records("session_end");
    assert!(!world.export().contains("@example.com"));
    let all: Vec<&str> = ways.iter().chain(&executed).copied().collect();
    for n in 1..=said {
        let (status, text) = world.run(&["audit", "values", "--class", "pii", "--equals", &format!("v{n}@example.com")]);
        assert_eq!((status, text.lines().count()), (Some(0), 1), "{n}: {:?}: {text}", all.get(n - 1));
    }
    // Each argument is its own parameter's.
    let cards = world.run(&["audit", "values", "--class", "pci", "--equals", "c"]).1;
    assert!(cards.contains("SELECT public.person.card = c"), "{cards}");
    assert_eq!(world.run(&["audit", "values", "--class", "pci", "--equals", &format!("v{}@example.com", said - 1)]).0, Some(1));
}

/// Values that cannot be told, for want of a key: what would be recorded without them is refused, or says so.
#[test]
fn what_cannot_be_told_is_refused_or_says_so() {
    let insert = "INSERT INTO person (id, email) VALUES (1, 'ann@example.com')";
    let world = World::start("value_keys = \"proxy.toml\"", "");
    let mut one = world.connect("one");
    let error = one.query(insert).error.expect("it is refused");
    assert!(error.sqlstate() == "58030" && error.message().contains("cannot be told"), "{error:?}");
    assert_eq!(one.query("SELECT count(*) FROM person").scalar().as_deref(), Some("0"), "what has no values is not");
    assert!(
        world.proxy.log().contains("[audit] value_keys") && world.proxy.log().contains("proxy.toml"),
        "{}",
        world.proxy.log()
    );
    let world = World::start("value_keys = \"proxy.toml\"\non_failure = \"continue\"", "");
    let mut one = world.connect("one");
    assert!(one.query(insert).error.is_none());
    drop(one);
    let records = world.records("session_end");
    assert!(records.iter().any(|r| r["event"] == "intent" && r["values"] == "untold"), "{records:#?}");
}

/// `durability` of a table: its records are on the disk before anything is sent, and no others need be.
#[test]
fn a_policy_says_whose_records_are_waited_for() {
    let policies = POLICIES.replace("name = 'public.person'", "name = 'public.person'\n    durability = 'sync'");
    let world = World::with(&policies, "interval = \"1h\"", "[cache]\nmemory_mb = 4");
    let mut one = world.connect("one");
    one.query("SELECT id FROM item");
    assert!(!world.export().contains("public.item"), "nobody waits for that");
    assert!(one.query("PREPARE p AS SELECT email FROM person").error.is_none());
    let intents = || world.export().matches("\"event\":\"intent\"").count();
    for sql in [
        "SELECT count(*) FROM person",
        "UPDATE person SET note = 'x' WHERE id = 1",
        "SELECT i.id FROM item i WHERE EXISTS (SELECT FROM person p WHERE p.id = i.id)",
        "SELECT mail FROM people",
        "COPY person TO STDOUT",
        "EXPLAIN (COSTS OFF) SELECT FROM person",
        "EXECUTE p",
    ] {
        let before = intents();
        assert!(one.query(sql).error.is_none(), "{sql}");
        assert_eq!(intents(), before + 1, "{sql}");
        let before = world.export().lines().count();
        one.extended(&Extended { sql: b"SELECT id FROM item", ..Extended::default() });
        assert_eq!(world.export().lines().count(), before, "nobody waits for that");
    }
    // Whoever asks again is answered by the cache, no sooner.
    let known = "SELECT id, note FROM person ORDER BY id";
    for _ in 0..3 {
        let before = intents();
        one.extended(&Extended { sql: known.as_bytes(), ..Extended::default() });
        assert_eq!(intents(), before + 1);
    }
}

/// Under `sync` nothing is told that is not recorded, also to who leaves at once.
#[test]
fn who_leaves_is_told_nothing_that_is_not_recorded() {
    let world = World::start("durability = \"sync\"", "[cache]\nmemory_mb = 4");
    let mut one = world.connect("one");
    let known = "SELECT id, note FROM item WHERE id < 4";
    for _ in 0..2 {
        assert_eq!(one.query(known).rows().count(), 3);
    }
    let pid = world.proxy.pid().expect("it runs").to_string();
    let done = Command::new("prlimit").args(["--pid", &pid, "--fsize=100:unlimited"]).status().expect("prlimit runs");
    assert!(done.success());
    let query = [&[b'Q'][..], &(known.len() as u32 + 5).to_be_bytes(), known.as_bytes(), &[0]].concat();
    one.send_raw(&[query, vec![b'X', 0, 0, 0, 4]].concat()).expect("send");
    let answer = one.answer();
    assert_eq!(answer.rows().count(), 0, "{answer:?}");
}

/// Whoever removes the file that is written does not make statements run unrecorded.
#[test]
fn a_segment_that_is_removed_is_noticed() {
    let world = World::start("", "");
    let mut one = world.connect("one");
    assert!(one.query("UPDATE item SET n = 1 WHERE id = 1").error.is_none());
    std::fs::remove_file(world.path().join("00000000000000000000.log")).expect("remove");
    let deadline = Instant::now() + Duration::from_secs(30);
    while one.query("UPDATE item SET n = 2 WHERE id = 1").error.is_none_or(|error| error.sqlstate() != "58030") {
        assert!(Instant::now() < deadline, "nobody notices");
    }
    use std::io::{Read, Write};
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", world.proxy.setup.admin_port)).expect("the admin port");
    socket.write_all(b"GET /health HTTP/1.0\r\n\r\n").expect("ask");
    let mut health = String::new();
    socket.read_to_string(&mut health).expect("an answer");
    assert!(health.contains(" 503 ") && health.contains("the log cannot be written"), "{health}");
}

/// What proves a tenant, and what settings are set to, is nobody's to read.
#[test]
fn tokens_and_settings_are_not_in_the_log() {
    let world = World::start("", "");
    let mut web = world.connect("web");
    for sql in [
        "SET bulkhead.tenant = '2'",
        "SET TimeZone = 'Europe/Berlin'",
        "SET statement_timeout = '77007701'",
        "SELECT count(*) FROM item",
    ] {
        assert!(web.query(sql).error.is_none(), "{sql}");
    }
    let _ = web.query("SELECT \"a'b\".id FROM item \"a'b\" ORDER BY 1 LIMIT 77007702");
    drop(web);
    let records = world.records("session_end");
    let text = lines(&records);
    assert!(!text.contains("Berlin") && !text.contains("770077"), "{text}");
    assert!(text.contains("tenant | web | 2"), "{text}");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(world.path().join("signing.key")).expect("a key").permissions(),
    );
    assert_eq!(mode & 0o077, 0, "the key is nobody else's");
}

#[test]
fn a_log_that_cannot_be_written_refuses_statements_until_it_can() {
    let world = World::start("durability = \"sync\"", "");
    let mut one = world.connect("one");
    assert!(one.query("UPDATE item SET n = 1 WHERE id = 1").error.is_none());
    let pid = world.proxy.pid().expect("it runs").to_string();
    let limit = |bytes: &str| {
        let done = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={bytes}:unlimited")]).status();
        assert!(done.expect("prlimit (Debian package util-linux) runs").success());
    };
    limit("100");
    let mut refused = 0;
    let answer = loop {
        let answer = one.query("UPDATE item SET n = n + 1 WHERE id = 2");
        refused += 1;
        assert!(refused < 10, "it must be noticed at once");
        if answer.error.is_some() {
            break answer;
        }
    };
    let error = answer.error.expect("it is refused");
    assert_eq!(error.sqlstate(), "58030", "{error:?}");
    let mut keeper = Wire::connect(&world.cluster.superuser("shop")).expect("a session");
    let n = keeper.query("SELECT n FROM item WHERE tenant_id = 1 AND id = 2").scalar();
    assert_eq!(n, Some((refused - 1).to_string()), "what is refused is not done");
    assert!(one.query("SELECT 1 FROM item").error.is_some_and(|error| error.sqlstate() == "58030"), "nor is anything read");
    let login = Wire::connect(&world.proxy.target("one", "shop")).err().map(|error| format!("{error:?}")).unwrap_or_default();
    assert!(login.contains("58030"), "who logs in is told why not: {login}");
    limit("unlimited");
    let deadline = Instant::now() + Duration::from_secs(30);
    while one.query("UPDATE item SET n = 5 WHERE id = 3").error.is_some() {
        assert!(Instant::now() < deadline, "it is not written again");
    }
    world.records("\"event\":\"gap\"");
    assert_eq!(world.run(&["audit", "verify"]).0, Some(0));
}

/// `on_failure = "shutdown"`: the proxy ends, in order, and says why; `"continue"`: statements run, and what is missing is counted.
#[test]
fn a_proxy_ends_with_its_log_or_goes_on_without_as_it_is_told() {
    let world = World::start("on_failure = \"shutdown\"", "");
    let mut one = world.connect("one");
    assert!(one.query("UPDATE item SET n = 1 WHERE id = 1").error.is_none());
    std::fs::remove_file(world.path().join("00000000000000000000.log")).expect("remove");
    let deadline = Instant::now() + Duration::from_secs(60);
    // Its client's statements end it, when it notices.
    while world.proxy.running() {
        let _ = one.query("UPDATE item SET n = 2 WHERE id = 1");
        assert!(Instant::now() < deadline, "it goes on: {}", world.proxy.log());
        #[expect(clippy::disallowed_methods, reason = "polls a condition, with a deadline")]
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(world.proxy.log().contains("[audit] on_failure = \"shutdown\""), "{}", world.proxy.log());

    let world = World::start("on_failure = \"continue\"", "");
    let mut one = world.connect("one");
    let (log, aside) = (world.path(), world.proxy.setup.path().join("aside"));
    std::fs::rename(&log, &aside).expect("it is taken away");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !world.proxy.log().contains("the audit log cannot be written") {
        assert!(one.query("UPDATE item SET n = n + 1 WHERE id = 1").error.is_none(), "it runs");
        assert!(Instant::now() < deadline, "nobody notices");
    }
    for _ in 0..5 {
        assert!(one.query("UPDATE item SET n = n + 1 WHERE id = 1").error.is_none(), "it runs");
    }
    std::fs::rename(&aside, &log).expect("it is put back");
    let gap = world.records("\"event\":\"gap\"").into_iter().find(|r| r["event"] == "gap").expect("a gap");
    assert!(gap["missed"].as_u64().is_some_and(|missed| missed >= 5), "{gap}");
    assert_eq!(world.run(&["audit", "verify"]).0, Some(0));
}
