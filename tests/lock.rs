//! The second lock: row security that `bulkhead harden` makes, and level paranoid, which requires it.

mod support;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use support::cluster::Cluster;
use support::proxy::{Proxy, Setup, User};
use support::wire::{Extended, Wire, put_bind, put_execute, put_message, put_parse};
use support::{repository, update_wanted};

const PG_DUMP: &str = "/usr/lib/postgresql/15/bin/pg_dump";
const PARANOID: &str = "\n[isolation]\nlevel = \"paranoid\"\n";

struct World {
    cluster: Cluster,
    setup: Setup,
    owner: String,
}

impl World {
    /// The attack corpus's schema, owned by a role `owner` that is no superuser, and another table whose tenant is a text.
    fn start() -> World {
        let cluster = Cluster::start();
        cluster.execute("postgres", "CREATE ROLE owner LOGIN PASSWORD 'secret'; CREATE ROLE other LOGIN PASSWORD 'secret'");
        cluster.create_database("shop", &[&repository("tests/attacks/schema.sql")], &[]);
        cluster.execute(
            "shop",
            "CREATE TABLE \"No tes\" (id int, \"Te nant\" varchar(20) NOT NULL); INSERT INTO \"No tes\" VALUES (1, '1'), (2, '2');
             GRANT ALL ON \"No tes\" TO app; GRANT CREATE ON DATABASE shop TO owner; GRANT CREATE ON SCHEMA public TO owner;
             DO $$ DECLARE t regclass; BEGIN FOR t IN SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') LOOP
               EXECUTE format('ALTER TABLE %s OWNER TO owner', t); END LOOP; END $$",
        );
        let owner = format!("postgres://owner:secret@127.0.0.1:{}/shop", cluster.port);
        let operator = format!("unrestricted = true\nupstream = \"{owner}\"");
        let users = [
            User { name: "one", access: "tenant = \"1\"" },
            User { name: "two", access: "tenant = \"2\"" },
            User { name: "web", access: "tenants = [\"1\", \"2\"]" },
            User { name: "migrator", access: &operator },
        ];
        let mut policies = fs::read_to_string(repository("tests/attacks/policies.toml")).expect("read the policies");
        policies += "\n[[table]]\nname = 'public.\"No tes\"'\nscope = \"tenant\"\ntenant_column = '\"Te nant\"'\n";
        let setup = Setup::new(&[("shop".to_owned(), cluster.app_url("shop"))], &users, &[("shop.toml", &policies)]);
        World { cluster, setup, owner }
    }

    fn paranoid(&self) {
        let path = self.setup.config();
        let text = fs::read_to_string(&path).expect("read").replace("pool_size = 4", "pool_size = 1");
        fs::write(path, text + PARANOID).expect("write");
    }

    /// What `harden` prints, its status told.
    fn harden(&self, arguments: &[&str], status: i32) -> String {
        let mut all = vec!["harden"];
        all.extend(arguments);
        let output = self.setup.run(&all);
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{text}");
        text
    }

    fn dump(&self) -> String {
        let socket = match self.cluster.superuser("shop").address {
            support::wire::Address::Unix(path) => path.parent().expect("a directory").to_owned(),
            support::wire::Address::Tcp(_) => unreachable!("a superuser comes by the socket"),
        };
        let mut command = Command::new(PG_DUMP);
        command.args(["-U", "postgres", "-s", "-d", "shop", "-p", &self.cluster.port.to_string(), "-h"]).arg(socket);
        let output = command.output().expect("pg_dump runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().filter(|l| !l.starts_with("\\restrict") && !l.starts_with("\\unrestrict")).collect::<Vec<_>>().join("\n")
    }
}

fn scalar(wire: &mut Wire, sql: &str) -> String {
    let answer = wire.query(sql);
    answer.scalar().unwrap_or_else(|| panic!("{sql}: {answer:?}"))
}

fn done(wire: &mut Wire, sql: &str) {
    let answer = wire.query(sql);
    assert!(answer.error.is_none(), "{sql}: {answer:?}");
}

#[test]
fn what_is_printed_is_text_that_a_dba_can_read_and_veto() {
    let world = World::start();
    let printed = world.harden(&[], 0);
    let path = repository("tests/lock/harden.sql");
    if update_wanted() {
        fs::write(&path, &printed).expect("write");
    }
    assert_eq!(printed, fs::read_to_string(path).unwrap_or_default(), "UPDATE=1 rewrites it");
    assert_eq!(
        scalar(&mut Wire::connect(&world.cluster.superuser("shop")).expect("connect"), "SELECT count(*) FROM pg_policy"),
        "0"
    );
}

#[test]
fn hardened_a_login_past_the_proxy_sees_nothing_and_revert_leaves_no_trace() {
    let world = World::start();
    world.cluster.execute("shop", "ALTER TABLE orders ENABLE ROW LEVEL SECURITY");
    let before = world.dump();
    world.harden(&["--apply"], 0);
    let hardened = world.dump();
    assert_ne!(before, hardened);
    world.harden(&["--apply", "--database", &world.owner], 0);
    assert_eq!(hardened, world.dump(), "harden is idempotent");

    let mut app = Wire::connect(&world.cluster.app("shop")).expect("connect");
    for attempt in [
        "SELECT 1",
        "SET bulkhead.tenant = '2'",
        "SET bulkhead.token = '2'",
        "SELECT set_config('bulkhead.token', repeat('0', 64) || '2', false)",
        "SELECT set_config('bulkhead.token', encode(sha256('2'), 'hex') || '2', false)",
        "CREATE TEMP TABLE lock_key AS SELECT true AS one, ''::bytea AS inner_pad, ''::bytea AS outer_pad",
        "SET search_path = pg_temp, public, pg_catalog",
    ] {
        done(&mut app, attempt);
        for table in ["accounts", "orders", "events", "public.\"No tes\""] {
            assert_eq!(scalar(&mut app, &format!("SELECT count(*) FROM {table}")), "0", "{attempt}: {table}");
        }
    }
    assert_eq!(app.query("SELECT * FROM bulkhead.lock_key").sqlstate(), "42501");
    assert_eq!(app.query("INSERT INTO \"No tes\" VALUES (3, '1')").sqlstate(), "42501");
    assert_eq!(app.query("SET row_security = off; SELECT * FROM accounts").sqlstate(), "42501");
    let children = app.query("SELECT 1");
    assert!(children.error.is_none());
    let mut owner = Wire::connect(&world.cluster.role("owner", "shop")).expect("connect");
    assert_eq!(scalar(&mut owner, "SELECT count(*) FROM \"No tes\""), "2", "the owner works as before");

    world.harden(&["--revert"], 0);
    assert_eq!(hardened, world.dump(), "printing changes nothing");
    world.harden(&["--revert", "--apply"], 0);
    assert_eq!(before, world.dump());
    world.harden(&["--revert", "--apply"], 0);
    assert_eq!(before, world.dump());
}

#[test]
fn a_token_is_of_one_backend_only() {
    let world = World::start();
    world.harden(&["--apply"], 0);
    world.paranoid();
    let World { cluster, setup, .. } = world;
    let proxy = Proxy::start(setup);
    let mut one = Wire::connect(&proxy.target("one", "shop")).expect("connect");
    assert_eq!(scalar(&mut one, "SELECT count(*) FROM accounts"), "5");
    // A function with the owner's rights, as an application may have one, tells the token that the backend has.
    cluster.execute(
        "shop",
        "CREATE VIEW as_owner AS SELECT * FROM accounts; ALTER VIEW as_owner OWNER TO owner; GRANT SELECT ON as_owner TO app",
    );
    let mut app = Wire::connect(&cluster.app("shop")).expect("connect");
    assert_eq!(scalar(&mut app, "SELECT count(*) FROM as_owner"), "0", "FORCE holds views with the owner's rights");
    let mut migrator = Wire::connect(&proxy.target("migrator", "shop")).expect("connect");
    assert_ne!(scalar(&mut migrator, "SELECT count(*) FROM accounts"), "5", "all tenants' rows");
    done(&mut migrator, "SET bulkhead.token = ''");
    done(&mut migrator, "DISCARD ALL");
    assert_ne!(scalar(&mut migrator, "SELECT count(*) FROM accounts"), "5");
}

#[test]
fn two_tenants_share_one_backend_whatever_ends_their_transactions() {
    let world = World::start();
    world.harden(&["--apply"], 0);
    world.paranoid();
    let World { cluster: _cluster, setup, .. } = world;
    let proxy = Proxy::start(setup);
    let connect = |user: &str| Wire::connect(&proxy.target(user, "shop")).expect("connect");
    let (mut one, mut two, mut web) = (connect("one"), connect("two"), connect("web"));
    let note = "SELECT min(\"Te nant\") || count(*) FROM \"No tes\"";
    let check = |one: &mut Wire, two: &mut Wire, after: &str| {
        assert_eq!(scalar(one, note), "11", "{after}");
        assert_eq!(scalar(two, note), "21", "{after}");
        assert_eq!(scalar(one, note), "11", "{after}");
    };
    check(&mut one, &mut two, "at first");
    for end in ["ROLLBACK", "COMMIT"] {
        for middle in ["SELECT 1", "SELECT 1/0", "RESET ALL", "SAVEPOINT a", "SELECT pg_sleep(0)"] {
            for sql in ["BEGIN", note, middle, note, "ROLLBACK TO a", note, end] {
                two.query(sql);
            }
            check(&mut one, &mut two, &format!("{middle}, {end}"));
        }
    }
    done(&mut two, "DISCARD ALL");
    check(&mut one, &mut two, "DISCARD ALL");

    // A shared login chooses outside of transactions, and inside.
    for (tenant, expected) in [("2", "21"), ("1", "11")] {
        for choose in ["SET", "SET LOCAL"] {
            for end in ["COMMIT", "ROLLBACK"] {
                done(&mut web, "RESET ALL");
                done(&mut web, "BEGIN");
                done(&mut web, &format!("{choose} bulkhead.tenant = '{tenant}'"));
                assert_eq!(scalar(&mut web, note), expected);
                done(&mut web, "SAVEPOINT a");
                assert!(web.query("SELECT 1/0").error.is_some());
                done(&mut web, "ROLLBACK TO a");
                assert_eq!(scalar(&mut web, note), expected, "{choose} {end}");
                done(&mut web, end);
                let after = web.query(note);
                match (choose, end) {
                    ("SET", "COMMIT") => assert_eq!(after.scalar().as_deref(), Some(expected)),
                    _ => assert_eq!(after.sqlstate(), "42501", "{choose} {end}: {after:?}"),
                }
                check(&mut one, &mut two, "a shared login");
            }
        }
        done(&mut web, &format!("SET bulkhead.tenant = '{tenant}'"));
        assert_eq!(scalar(&mut web, note), expected);
    }
    // The tenant of the block goes with it, also where the next begins at once.
    done(&mut web, "SET bulkhead.tenant = '1'");
    done(&mut web, "BEGIN");
    done(&mut web, "SET LOCAL bulkhead.tenant = '2'");
    assert_eq!(scalar(&mut web, note), "21");
    assert_eq!(web.query(format!("COMMIT; {note}")).sqlstate(), "0A000");
    done(&mut web, "ROLLBACK");
    done(&mut web, "BEGIN");
    done(&mut web, "SET bulkhead.tenant = '2'");
    assert_eq!(scalar(&mut web, note), "21");
    done(&mut web, "COMMIT AND CHAIN");
    assert_eq!(scalar(&mut web, note), "21");
    done(&mut web, "ROLLBACK AND CHAIN");
    assert_eq!(scalar(&mut web, note), "21");
    done(&mut web, "ROLLBACK");
    check(&mut one, &mut two, "chains");
}

#[test]
fn the_extended_protocol_carries_the_tenant_too() {
    let world = World::start();
    world.harden(&["--apply"], 0);
    world.paranoid();
    let World { cluster: _cluster, setup, .. } = world;
    let proxy = Proxy::start(setup);
    let connect = |user: &str| Wire::connect(&proxy.target(user, "shop")).expect("connect");
    let (mut one, mut two, mut web) = (connect("one"), connect("two"), connect("web"));
    let sql = b"SELECT id FROM \"No tes\" WHERE id < $1";
    let ask = |wire: &mut Wire| {
        let answer = wire.prepared(&Extended { sql, parameters: &[Some("9")], ..Extended::default() }, 7);
        answer.scalar()
    };
    for _ in 0..3 {
        assert_eq!(ask(&mut one).as_deref(), Some("1"));
        assert_eq!(ask(&mut two).as_deref(), Some("2"));
    }
    // A whole transaction, its tenant chosen in it, in one batch.
    let mut batch = Vec::new();
    for text in [
        "BEGIN",
        "SET LOCAL bulkhead.tenant = '2'",
        "SELECT id FROM \"No tes\"",
        "SAVEPOINT a",
        "SELECT id FROM \"No tes\"",
        "COMMIT",
    ] {
        put_parse(&mut batch, "", text.as_bytes(), &[]);
        put_bind(&mut batch, "", "", &[], 0);
        put_execute(&mut batch, "", 0);
    }
    put_message(&mut batch, b'S', b"");
    web.send_raw(&batch).expect("send");
    let answer = web.answer();
    assert!(answer.error.is_none(), "{answer:?}");
    let rows: Vec<_> = answer.rows().map(|r| r[0].clone()).collect();
    assert_eq!(rows, [Some(b"2".to_vec()), Some(b"2".to_vec())]);
    assert_eq!(web.query("SELECT id FROM \"No tes\"").sqlstate(), "42501");
    // And one of an implicit transaction.
    let mut batch = Vec::new();
    for text in ["SET LOCAL bulkhead.tenant = '1'", "SELECT id FROM \"No tes\""] {
        put_parse(&mut batch, "", text.as_bytes(), &[]);
        put_bind(&mut batch, "", "", &[], 0);
        put_execute(&mut batch, "", 0);
    }
    put_message(&mut batch, b'S', b"");
    web.send_raw(&batch).expect("send");
    assert_eq!(web.answer().rows().count(), 1);
    assert_eq!(ask(&mut two).as_deref(), Some("2"));
    assert_eq!(ask(&mut one).as_deref(), Some("1"));
}

#[test]
fn paranoid_does_not_serve_without_the_lock_and_says_what_is_missing() {
    let world = World::start();
    world.paranoid();
    let refused = |told: &[&str]| {
        let output = world.setup.run(&["serve"]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        for word in told {
            assert!(text.contains(word), "{word}: {text}");
        }
    };
    refused(&["public.accounts", "row security is not enabled", "bulkhead.tenant()", "bulkhead harden"]);
    world.harden(&["--apply"], 0);
    let broken = [
        ("ALTER TABLE accounts NO FORCE ROW LEVEL SECURITY", "table public.accounts: row security is not forced"),
        ("ALTER TABLE accounts DISABLE ROW LEVEL SECURITY", "table public.accounts: row security is not enabled"),
        ("DROP POLICY bulkhead_tenant ON accounts", "table public.accounts: the policy bulkhead_tenant is not there"),
        (
            "ALTER POLICY bulkhead_tenant ON accounts USING (true)",
            "table public.accounts: the policy bulkhead_tenant is not the one",
        ),
        (
            "ALTER POLICY bulkhead_tenant ON accounts WITH CHECK (true)",
            "table public.accounts: the policy bulkhead_tenant is not the one",
        ),
        ("ALTER POLICY bulkhead_tenant ON accounts TO other", "table public.accounts: the policy bulkhead_tenant is not the one"),
        ("CREATE POLICY wide ON accounts USING (true)", "the permissive policy \"wide\" opens it to role \"app\""),
        ("ALTER POLICY bulkhead_operator ON accounts TO PUBLIC", "bulkhead_operator\" opens it"),
        ("ALTER ROLE app BYPASSRLS", "role \"app\" has BYPASSRLS"),
        ("ALTER ROLE app SUPERUSER", "role \"app\" is a superuser"),
        ("GRANT owner TO app", "a member of its owner \"owner\""),
        ("ALTER ROLE other BYPASSRLS; GRANT other TO app", "is a member of \"other\""),
        ("ALTER TABLE accounts OWNER TO app", "table public.accounts: role \"app\" is its owner"),
        ("GRANT SELECT ON bulkhead.lock_key TO app", "has privileges on the table bulkhead.lock_key"),
        (
            "GRANT SELECT (inner_pad) ON bulkhead.lock_key TO other; GRANT other TO app",
            "has privileges on the table bulkhead.lock_key",
        ),
        ("UPDATE bulkhead.lock_key SET inner_pad = outer_pad", "another one than the configuration's"),
        ("REVOKE USAGE ON SCHEMA bulkhead FROM PUBLIC", "may not execute bulkhead.tenant()"),
        (
            "CREATE OR REPLACE FUNCTION bulkhead.tenant() RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$ BEGIN RETURN current_setting('bulkhead.token'); END $$",
            "bulkhead.tenant() is not the one",
        ),
        ("CREATE TABLE late () INHERITS (accounts)", "table public.late: row security is not enabled"),
    ];
    let undo = "ALTER ROLE app NOSUPERUSER NOBYPASSRLS; ALTER ROLE other NOBYPASSRLS; REVOKE owner FROM app; REVOKE other FROM app; ALTER TABLE accounts OWNER TO owner;
        DROP TABLE IF EXISTS late; DROP POLICY IF EXISTS wide ON accounts; REVOKE ALL ON bulkhead.lock_key FROM app, other";
    for (harm, told) in broken {
        world.cluster.execute("shop", harm);
        refused(&[told]);
        world.cluster.execute("shop", undo);
        world.harden(&["--apply"], 0);
    }
}

#[test]
fn a_lock_that_is_opened_while_it_serves_stops_tenants_until_it_is_closed() {
    let world = World::start();
    world.harden(&["--apply"], 0);
    world.paranoid();
    let World { cluster, setup, .. } = world;
    let proxy = Proxy::start(setup);
    let mut one = Wire::connect(&proxy.target("one", "shop")).expect("connect");
    let mut prepare = Vec::new();
    put_parse(&mut prepare, "count", b"SELECT count(*) FROM accounts", &[]);
    put_message(&mut prepare, b'S', b"");
    one.send_raw(&prepare).expect("send");
    assert!(one.answer().error.is_none());
    let mut execute = Vec::new();
    put_bind(&mut execute, "", "count", &[], 0);
    put_execute(&mut execute, "", 0);
    put_message(&mut execute, b'S', b"");
    let mut until = |wanted: Option<&str>, told: &str| {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            one.send_raw(&execute).expect("send");
            let prepared = one.answer();
            let answer = one.query("SELECT count(*) FROM accounts");
            if answer.scalar().as_deref() == wanted && prepared.scalar().as_deref() == wanted {
                assert!(wanted.is_some() || format!("{answer:?}").contains(told), "{answer:?}");
                return;
            }
            assert!(Instant::now() < deadline, "never {wanted:?}: {answer:?} {prepared:?}");
            #[expect(clippy::disallowed_methods, reason = "polls, with a deadline")]
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let health = || {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", proxy.setup.admin_port)).expect("the admin port");
        std::io::Write::write_all(&mut stream, b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("send");
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stream, &mut text).expect("an answer");
        text
    };
    until(Some("5"), "");
    assert!(health().starts_with("HTTP/1.0 200"), "{}", health());
    cluster.execute("shop", "CREATE POLICY wide ON accounts USING (true)");
    until(None, "public.accounts");
    assert!(health().starts_with("HTTP/1.0 503") && health().contains("second lock"), "{}", health());
    cluster.execute("shop", "DROP POLICY wide ON accounts");
    until(Some("5"), "");
    assert!(health().starts_with("HTTP/1.0 200"), "{}", health());
}

#[test]
fn doctor_finds_each_planted_weakness() {
    let world = World::start();
    let doctor = || {
        let output = world.setup.run(&["doctor", "--json"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}{output:?}"));
        let checks = json["checks"].as_array().expect("checks").clone();
        let bad = checks.iter().filter(|c| c["grade"] == "weak" || c["grade"] == "broken");
        let bad: Vec<String> = bad.map(|c| format!("{}: {} {}", c["grade"], c["name"], c["found"])).collect();
        assert_eq!(output.status.code(), Some(i32::from(!bad.is_empty())), "{text}");
        bad
    };
    let found = doctor().join("\n");
    assert!(found.contains("just logging in: reads") && found.contains("row security is not enabled"), "{found}");

    // All is well with a key of its own, the lock in place, and rights that a tenants' role should have.
    fs::write(world.setup.path().join("lock.key"), "a secret of its own\n").expect("write");
    let config = fs::read_to_string(world.setup.config()).expect("read");
    fs::write(world.setup.config(), config.replacen("pool_size = 4", "pool_size = 4\nlock_key = \"file:lock.key\"", 1))
        .expect("write");
    world.harden(&["--apply"], 0);
    world.cluster.execute(
        "shop",
        "REVOKE TRUNCATE, REFERENCES, TRIGGER ON \"No tes\" FROM app; REVOKE SELECT ON v_account_totals FROM app",
    );
    // Below level paranoid nobody tells row security who the tenant is.
    let found = doctor().join("\n");
    assert!(found.contains("tenants see no rows") && found.lines().count() == 1, "{found}");
    world.paranoid();
    assert_eq!(doctor(), Vec::<String>::new());
    let human = world.setup.run(&["doctor"]);
    assert!(human.status.success() && String::from_utf8_lossy(&human.stdout).contains("ok      shop: "), "{human:?}");

    let planted = [
        ("ALTER ROLE app SUPERUSER", "reads"),
        ("ALTER ROLE app BYPASSRLS", "BYPASSRLS"),
        ("GRANT owner TO app", "member of its owner"),
        ("GRANT pg_read_all_data TO app", "pg_read_all_data"),
        ("GRANT pg_execute_server_program TO app", "pg_execute_server_program"),
        ("ALTER ROLE other BYPASSRLS; GRANT SELECT ON accounts TO other; GRANT other TO app", "SET ROLE other: reads"),
        ("ALTER TABLE orders NO FORCE ROW LEVEL SECURITY", "public.orders: row security is not forced"),
        ("ALTER TABLE events_2026_02 DISABLE ROW LEVEL SECURITY", "public.events_2026_02: row security is not enabled"),
        ("CREATE POLICY wide ON orders USING (current_setting('bulkhead.tenant', true) = '1')", "SET bulkhead.tenant: reads"),
        ("GRANT SELECT ON v_account_totals TO app", "public.v_account_totals"),
        ("CREATE MATERIALIZED VIEW copied AS SELECT * FROM accounts; GRANT SELECT ON copied TO app", "public.copied"),
        ("CREATE TABLE unlisted (id int); GRANT SELECT ON unlisted TO app", "public.unlisted"),
        ("GRANT SELECT ON orders TO PUBLIC", "not granted to PUBLIC\" [\"public.orders\"]"),
        ("GRANT TRUNCATE ON orders TO app", "public.orders"),
        ("CREATE FUNCTION peek() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'", "peek()"),
        ("CREATE FUNCTION sly(int) RETURNS int LANGUAGE sql LEAKPROOF AS 'SELECT 1'", "sly(integer)"),
        ("GRANT EXECUTE ON FUNCTION pg_read_file(text) TO app", "pg_read_file(text)"),
        ("SELECT lo_create(77); GRANT SELECT ON LARGE OBJECT 77 TO app", "1 large objects"),
        ("GRANT CREATE ON SCHEMA public TO app", "may CREATE in schema public"),
        ("ALTER ROLE app SET row_security = off", "row_security is off"),
        ("CREATE EXTENSION dblink", "dblink"),
    ];
    let undo = "DROP EXTENSION IF EXISTS dblink; ALTER ROLE app NOSUPERUSER NOBYPASSRLS; ALTER ROLE app RESET row_security; ALTER ROLE other NOBYPASSRLS;
        REVOKE owner FROM app; REVOKE other FROM app; REVOKE pg_read_all_data FROM app; REVOKE pg_execute_server_program FROM app; DROP POLICY IF EXISTS wide ON orders;
        REVOKE SELECT ON accounts FROM other; REVOKE SELECT ON v_account_totals FROM app; DROP MATERIALIZED VIEW IF EXISTS copied; DROP TABLE IF EXISTS unlisted; REVOKE ALL ON orders FROM PUBLIC;
        REVOKE TRUNCATE ON orders FROM app; DROP FUNCTION IF EXISTS peek(); DROP FUNCTION IF EXISTS sly(int); REVOKE EXECUTE ON FUNCTION pg_read_file(text) FROM app;
        DO $$ BEGIN PERFORM lo_unlink(oid) FROM pg_largeobject_metadata; END $$; REVOKE CREATE ON SCHEMA public FROM app;
        ALTER TABLE orders FORCE ROW LEVEL SECURITY; ALTER TABLE events_2026_02 ENABLE ROW LEVEL SECURITY";
    for (weakness, told) in planted {
        world.cluster.execute("shop", weakness);
        let found = doctor().join("\n");
        assert!(found.contains(told), "{weakness}: {found}");
        world.cluster.execute("shop", undo);
    }
    assert_eq!(doctor(), Vec::<String>::new(), "all is well again");
}
