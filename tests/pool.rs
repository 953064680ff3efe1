//! What poolers have let leak from one client to the next, one scene for each: two clients share the one backend of a pool.
//! Through the proxy of a real `bulkhead serve`, with its real policies, before a real PostgreSQL.

mod support;

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use support::answer::Answer;
use support::cluster::Cluster;
use support::proxy::{Proxy, Setup, User};
use support::repository;
use support::wire::{Extended, Wire, put_bind, put_execute, put_message, put_parse};

/// Runs for minutes unless something ends it.
const LONG: &str = "SELECT count(*) FROM products a, products b, products c, products d, products e, products f";

/// 216,000 rows of some 300 bytes: more than buffers of sockets hold.
const LARGE: &str = "SELECT a.id, a.name, repeat(b.name, 30) AS filler FROM products a, products b, products c";

/// One cluster serves all scenes that run at the same time; each has a database and a proxy of its own.
fn cluster() -> Arc<Cluster> {
    static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(cluster) = shared.upgrade() {
        return cluster;
    }
    let cluster = Arc::new(Cluster::start());
    cluster.create_database("shop", &[&repository("tests/attacks/schema.sql")], &[]);
    cluster.execute("postgres", "ALTER ROLE app RESET statement_timeout; CREATE ROLE owner SUPERUSER LOGIN PASSWORD 'secret'");
    // Two schemas with a table of one name, and something to call.
    cluster.execute(
        "shop",
        "CREATE SCHEMA red; CREATE SCHEMA blue; CREATE TABLE red.paint (name text); CREATE TABLE blue.paint (name text); \
         INSERT INTO red.paint VALUES ('red'); INSERT INTO blue.paint VALUES ('blue'); \
         GRANT USAGE ON SCHEMA red, blue TO app; GRANT SELECT ON red.paint, blue.paint TO app",
    );
    *shared = Arc::downgrade(&cluster);
    cluster
}

struct World {
    proxy: Proxy,
    database: String,
    cluster: Arc<Cluster>,
}

impl World {
    fn start() -> World {
        World::with("", "")
    }

    /// `limits`: lines of that section; `of_web`: lines of the shared login.
    fn with(limits: &str, of_web: &str) -> World {
        World::of_pool("pool_size = 1", limits, of_web)
    }

    fn of_pool(pool: &str, limits: &str, of_web: &str) -> World {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let cluster = cluster();
        let database = format!("shop_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        cluster.copy_database(&database, "shop");
        let mut policies = fs::read_to_string(repository("tests/attacks/policies.toml")).expect("read the policies");
        for schema in ["red", "blue"] {
            policies += &format!("\n[[table]]\nname = \"{schema}.paint\"\nscope = \"shared\"\n");
        }
        policies += "\n[[allow]]\nsettings = [\"app.user_id\"]\n";
        policies += "\n[[temporary]]\nname = \"picked\"\ncolumns = \"id int, owner int\"\n";
        let owner = format!("unrestricted = true\nupstream = \"postgres://owner:secret@127.0.0.1:{}/{database}\"", cluster.port);
        let users = [
            User { name: "one", access: "tenant = \"1\"" },
            User { name: "two", access: "tenant = \"2\"" },
            User { name: "web", access: &format!("tenants = [\"1\", \"2\"]\n{of_web}") },
            User { name: "migrator", access: &owner },
        ];
        let setup = Setup::new(&[("shop".to_owned(), cluster.app_url(&database))], &users, &[("shop.toml", &policies)]);
        let text = fs::read_to_string(setup.config()).expect("the configuration");
        assert!(text.contains("pool_size = 4"));
        let text = text.replace("pool_size = 4", pool) + &format!("\n[limits]\n{limits}\n");
        fs::write(setup.config(), text).expect("write the configuration");
        World { proxy: Proxy::start(setup), database, cluster }
    }

    fn connect(&self, user: &str) -> Wire {
        self.connect_with(user, &[])
    }

    fn connect_with(&self, user: &str, options: &[(&str, &str)]) -> Wire {
        let mut target = self.proxy.target(user, "shop");
        target.options = options.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Wire::connect(&target).expect("a session")
    }

    /// Clients of tenants 1 and 2, on the same backend.
    fn pair(&self) -> (Wire, Wire) {
        let (mut a, mut b) = (self.connect("one"), self.connect("two"));
        assert_eq!(get(&mut a, "SELECT pg_backend_pid()"), get(&mut b, "SELECT pg_backend_pid()"), "they share a backend");
        (a, b)
    }

    /// What a superuser's query says.
    fn ask(&self, sql: &str) -> String {
        let mut wire = Wire::connect(&self.cluster.superuser(&self.database)).expect("superuser connection");
        wire.query(sql.replace(":db", &format!("datname = '{}'", self.database))).scalar().unwrap_or_default()
    }

    fn until(&self, sql: &str, wanted: &str) {
        poll(&format!("{sql} = {wanted}"), || self.ask(sql) == wanted);
    }

    /// Ends every connection of the proxy to this scene's database.
    fn kill(&self) {
        self.ask("SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE usename = 'app' AND :db");
    }
}

const RUNNING: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND :db AND state = 'active' AND query LIKE '%products%'";

fn poll(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        #[expect(clippy::disallowed_methods, reason = "polls, with a deadline")]
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[track_caller]
fn run(wire: &mut Wire, sql: &str) -> Answer {
    let answer = wire.query(sql);
    assert!(answer.error.is_none(), "{sql}: {answer:?}");
    answer
}

#[track_caller]
fn get(wire: &mut Wire, sql: &str) -> String {
    run(wire, sql).scalar().unwrap_or_else(|| panic!("{sql}: no row"))
}

#[track_caller]
fn refused(wire: &mut Wire, sql: &str, code: &str) {
    let answer = wire.query(sql);
    assert_eq!(answer.sqlstate(), code, "{sql}: {answer:?}");
    let extended = wire.extended(&Extended { sql: sql.as_bytes(), ..Extended::default() });
    assert_eq!(extended.sqlstate(), code, "{sql}, extended: {extended:?}");
}

/// Both clients get what is theirs, by both protocols.
#[track_caller]
fn both_work(a: &mut Wire, b: &mut Wire) {
    const COUNT: &str = "SELECT count(*) || ' of ' || min(tenant_id) || max(tenant_id) FROM orders";
    for (wire, own) in [(a, "30 of 11"), (b, "40 of 22")] {
        assert_eq!(get(wire, COUNT), own);
        let extended = wire.extended(&Extended { sql: COUNT.as_bytes(), ..Extended::default() });
        assert_eq!(extended.scalar().as_deref(), Some(own), "{extended:?}");
    }
}

/// Messages of the extended protocol, to be sent in one write.
#[derive(Default)]
struct Batch(Vec<u8>);

impl Batch {
    fn parse(mut self, name: &str, sql: &str) -> Self {
        put_parse(&mut self.0, name, sql.as_bytes(), &[]);
        self
    }

    fn execute(mut self, statement: &str) -> Self {
        put_bind(&mut self.0, "", statement, &[], 0);
        put_execute(&mut self.0, "", 0);
        self
    }

    /// Parse, Bind, Execute without names.
    fn run(self, sql: &str) -> Self {
        self.parse("", sql).execute("")
    }

    fn close(mut self, name: &str) -> Self {
        put_message(&mut self.0, b'C', format!("S{name}\0").as_bytes());
        self
    }

    fn sync(mut self) -> Self {
        put_message(&mut self.0, b'S', b"");
        self
    }

    fn query(mut self, sql: &str) -> Self {
        put_message(&mut self.0, b'Q', format!("{sql}\0").as_bytes());
        self
    }

    /// Sends it and takes the first answer; later ones are for [`Wire::answer`].
    fn send(self, wire: &mut Wire) -> Answer {
        wire.send_raw(&self.0).expect("send");
        wire.answer()
    }
}

/// The messages of an answer by their types, in order, a space where a statement begins.
fn kinds(answer: &Answer) -> String {
    let mut kinds = String::new();
    let mut rest = &answer.raw[..];
    while let [kind, length @ ..] = rest {
        let length = u32::from_be_bytes(length[..4].try_into().expect("four bytes"));
        if matches!(kind, b'1' | b'Z') && !kinds.is_empty() {
            kinds.push(' ');
        }
        kinds.push(char::from(*kind));
        rest = &rest[1 + length as usize..];
    }
    kinds
}

/// The first column of all rows.
fn column(answer: &Answer) -> Vec<String> {
    let text = |value: &Option<Vec<u8>>| String::from_utf8_lossy(value.as_deref().unwrap_or_default()).into_owned();
    answer.rows().filter_map(|row| row.first().map(text)).collect()
}

// Settings

#[test]
fn set_in_a_transaction_then_rollback() {
    let world = World::start();
    let (mut a, mut b) = world.pair();
    for end in ["ROLLBACK", "ABORT", "SELECT 1/0; COMMIT"] {
        run(&mut a, "BEGIN");
        run(&mut a, "SET work_mem = '7MB'");
        assert_eq!(get(&mut a, "SHOW work_mem"), "7MB");
        end.split("; ").for_each(|sql| drop(a.query(sql)));
        assert_eq!(get(&mut b, "SHOW work_mem"), "4MB", "after {end}");
        assert_eq!(get(&mut a, "SHOW work_mem"), "4MB", "after {end}");
    }
    // What was committed stays with its client, and only with it.
    run(&mut a, "BEGIN");
    run(&mut a, "SET work_mem = '7MB'");
    run(&mut a, "COMMIT");
    assert_eq!(get(&mut b, "SHOW work_mem"), "4MB");
    assert_eq!(get(&mut a, "SHOW work_mem"), "7MB");
    // An error takes back the whole query string, and the whole pipeline.
    assert_eq!(a.query("SET work_mem = '9MB'; SELECT 1/0").sqlstate(), "22012");
    assert_eq!(Batch::default().run("SET work_mem = '9MB'").run("SELECT 1/0").sync().send(&mut a).sqlstate(), "22012");
    assert_eq!(get(&mut b, "SHOW work_mem"), "4MB");
    assert_eq!(get(&mut a, "SHOW work_mem"), "7MB");
}

#[test]
fn set_local_ends_with_its_transaction() {
    let world = World::start();
    let (mut a, mut b) = world.pair();
    for end in ["COMMIT", "ROLLBACK"] {
        run(&mut a, "BEGIN");
        run(&mut a, "SET LOCAL search_path = red");
        assert_eq!(get(&mut a, "SELECT name FROM paint"), "red");
        run(&mut a, end);
        refused(&mut b, "SELECT name FROM paint", "42P01");
        refused(&mut a, "SELECT name FROM paint", "42P01");
    }
}

#[test]
fn savepoints_keep_snapshots_of_settings() {
    let world = World::start();
    let (mut a, mut b) = world.pair();
    run(&mut a, "BEGIN");
    for sql in ["SET work_mem = '5MB'", "SAVEPOINT s", "SET work_mem = '6MB'", "SAVEPOINT s", "SET LOCAL work_mem = '7MB'"] {
        run(&mut a, sql);
    }
    for (sql, now) in [("ROLLBACK TO s", "6MB"), ("RELEASE s", "6MB"), ("ROLLBACK TO s", "5MB"), ("ROLLBACK TO s", "5MB")] {
        run(&mut a, sql);
        assert_eq!(get(&mut a, "SHOW work_mem"), now, "after {sql}");
    }
    run(&mut a, "COMMIT");
    assert_eq!(get(&mut b, "SHOW work_mem"), "4MB");
    assert_eq!(get(&mut a, "SHOW work_mem"), "5MB");
}

#[test]
fn set_to_default_goes_back_to_the_startup_message() {
    let world = World::start();
    let tokyo = [("TimeZone", "Asia/Tokyo")];
    let (mut a, mut b) = (world.connect_with("one", &tokyo), world.connect_with("two", &tokyo));
    for sql in ["SET TIME ZONE 'America/Lima'", "SET timezone TO DEFAULT"] {
        run(&mut a, sql);
    }
    assert_eq!(get(&mut a, "SHOW timezone"), "Asia/Tokyo");
    assert_eq!(get(&mut b, "SHOW timezone"), "Asia/Tokyo");
    run(&mut a, "BEGIN");
    run(&mut a, "SET LOCAL timezone TO DEFAULT");
    assert_eq!(get(&mut a, "SHOW timezone"), "Asia/Tokyo");
    run(&mut a, "COMMIT");
    for sql in ["SET timezone TO DEFAULT", "RESET timezone", "SET TIME ZONE LOCAL"] {
        Batch::default().run(sql).sync().send(&mut a);
        assert_eq!(get(&mut b, "SHOW timezone"), "Asia/Tokyo", "after {sql} by the extended protocol");
        assert_eq!(get(&mut a, "SHOW timezone"), "Asia/Tokyo", "after {sql} by the extended protocol");
    }
}

#[test]
fn reset_all_in_a_transaction_reaches_what_set_local_hides() {
    let world = World::start();
    let (mut a, mut b) = world.pair();
    for local in ["SET LOCAL work_mem TO DEFAULT", "SET LOCAL work_mem = '9MB'"] {
        for sql in ["BEGIN", "SET work_mem = '5MB'", local, "RESET ALL"] {
            run(&mut a, sql);
        }
        assert_eq!(get(&mut a, "SHOW work_mem"), "4MB");
        run(&mut a, "COMMIT");
        assert_eq!(get(&mut b, "SHOW work_mem"), "4MB", "after {local}");
        assert_eq!(get(&mut a, "SHOW work_mem"), "4MB", "after {local}");
    }
}

#[test]
fn reset_all_and_close_all_in_a_transaction_work_by_the_extended_protocol_too() {
    let world = World::start();
    let (mut a, mut b) = world.pair();
    run(&mut a, "SET work_mem = '5MB'");
    run(&mut a, "BEGIN");
    run(&mut a, "SET LOCAL work_mem = '6MB'");
    run(&mut a, "DECLARE c CURSOR FOR SELECT id FROM accounts");
    let answer = Batch::default().run("RESET ALL").run("SHOW work_mem").run("CLOSE ALL").run("SELECT 1").sync().send(&mut a);
    assert!(answer.error.is_none(), "{answer:?}");
    let tags: Vec<_> = answer.parts.iter().filter_map(|p| p.tag.clone()).collect();
    assert_eq!(tags, ["RESET", "SHOW", "CLOSE CURSOR ALL", "SELECT 1"]);
    assert_eq!(column(&answer), ["4MB", "1"]);
    assert_eq!(answer.status, Some(b'T'));
    assert_eq!(a.query("FETCH c").sqlstate(), "34000");
    run(&mut a, "ROLLBACK");
    assert_eq!(get(&mut a, "SHOW work_mem"), "5MB");
    run(&mut a, "BEGIN");
    let reset = a.extended(&Extended { sql: b"RESET ALL", ..Extended::default() });
    assert!(reset.error.is_none(), "{reset:?}");
    run(&mut a, "COMMIT");
    assert_eq!((get(&mut a, "SHOW work_mem"), get(&mut b, "SHOW work_mem")), ("4MB".to_owned(), "4MB".to_owned()));
    both_work(&mut a, &mut b);
}

#[test]
fn what_holds_for_one_transaction_is_not_carried_as_a_setting() {
    let world = World::start();
    let (mut a, mut b) = world.pair();
    for sql in [
        "SET transaction_read_only = on",
        "SET transaction_isolation = 'serializable'",
        "SET transaction_deferrable = on",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY",
    ] {
        run(&mut a, "BEGIN");
        run(&mut a, sql);
        run(&mut a, "COMMIT");
        for wire in [&mut b, &mut a] {
            assert_eq!(get(wire, "SHOW transaction_read_only"), "off", "after {sql}");
            assert_eq!(get(wire, "SHOW transaction_isolation"), "read committed", "after {sql}");
            assert_eq!(get(wire, "SHOW transaction_deferrable"), "off", "after {sql}");
        }
    }
    both_work(&mut a, &mut b);
}

#[test]
fn set_session_characteristics_stays_with_its_client() {
    let world = World::start();
    let (mut a, mut b) = world.pair();
    run(&mut a, "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY");
    run(&mut a, "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE");
    run(&mut b, "UPDATE accounts SET balance = balance WHERE id = 6");
    assert_eq!(get(&mut b, "SHOW transaction_isolation"), "read committed");
    assert_eq!(a.query("UPDATE accounts SET balance = balance WHERE id = 1").sqlstate(), "25006");
    assert_eq!(get(&mut a, "SHOW transaction_isolation"), "serializable");
}

#[test]
fn startup_settings_stay_with_their_client() {
    let world = World::start();
    let options = "-c default_transaction_read_only=on -c work_mem=6MB -c search_path=red";
    let mut a = world.connect_with("one", &[("options", options), ("DateStyle", "German"), ("application_name", "first")]);
    let mut b = world.connect("two");
    for _ in 0..2 {
        assert_eq!(get(&mut a, "SELECT name FROM paint"), "red");
        assert_eq!(get(&mut a, "SHOW work_mem"), "6MB");
        assert_eq!(get(&mut a, "SHOW datestyle"), "German, DMY");
        assert_eq!(a.query("UPDATE public.accounts SET balance = balance WHERE id = 1").sqlstate(), "25006");
        refused(&mut b, "SELECT name FROM paint", "42P01");
        assert_eq!(get(&mut b, "SHOW work_mem"), "4MB");
        assert_eq!(get(&mut b, "SHOW datestyle"), "ISO, MDY");
        assert_eq!(get(&mut b, "SHOW application_name"), "");
        run(&mut b, "UPDATE accounts SET balance = balance WHERE id = 6");
    }
    drop(a);
    assert_eq!(get(&mut world.connect("one"), "SHOW work_mem"), "4MB");
}

// What cannot be carried

/// A timeout that one client has set ends no statement of the next: neither its own nor what the proxy sends before it.
#[test]
fn a_short_statement_timeout_stays_with_its_client() {
    let world = World::start();
    let (mut a, mut b) = world.pair();
    // What must be set for the second client takes longer than the first one's timeout.
    let path = (0..40_000).map(|n| format!("nowhere_{n}")).collect::<Vec<_>>().join(", ");
    run(&mut b, &format!("SET search_path = public, {path}"));
    for n in 0..20 {
        run(&mut a, "SET statement_timeout = '1ms'");
        let own = a.query("SELECT 1");
        assert!(own.error.is_none() || own.sqlstate() == "57014", "{own:?}");
        let answer = b.query("SELECT 1");
        assert_eq!(answer.scalar().as_deref(), Some("1"), "{n}: {answer:?}");
        let answer = b.extended(&Extended { sql: b"SELECT 1", ..Extended::default() });
        assert_eq!(answer.scalar().as_deref(), Some("1"), "{n}: {answer:?}");
        assert_eq!(get(&mut b, "SHOW statement_timeout"), "0");
    }
}

#[test]
fn a_short_idle_timeout_stays_with_its_client() {
    let world = World::start();
    let (mut a, mut b) = world.pair();
    for n in 0..20 {
        run(&mut a, "SET idle_session_timeout = '1ms'");
        #[expect(clippy::disallowed_methods, reason = "the timeout passes, or does not")]
        std::thread::sleep(Duration::from_millis(n % 4));
        let answer = b.query("SELECT 1");
        assert_eq!(answer.scalar().as_deref(), Some("1"), "{n}: {answer:?}");
        // Its own session is the one that it may end.
        if a.query("RESET idle_session_timeout").error.is_some() {
            a = world.connect("one");
        }
    }
}

#[test]
fn an_applications_own_settings_stay_with_their_client() {
    let world = World::start();
    let (mut a, mut b) = world.pair();
    const ASK: &str = "SELECT current_setting('app.user_id')";
    assert_eq!(get(&mut b, ASK), "", "whether others have used it does not show");
    run(&mut a, "SET app.user_id = '7'");
    for _ in 0..2 {
        assert_eq!(get(&mut a, ASK), "7");
        assert_eq!(get(&mut b, ASK), "");
    }
    run(&mut b, "BEGIN; SET LOCAL app.user_id = '8'");
    assert_eq!(get(&mut b, ASK), "8");
    run(&mut b, "SELECT set_config('app.user_id', '9', true)");
    assert_eq!(get(&mut b, ASK), "9");
    run(&mut b, "COMMIT");
    assert_eq!((get(&mut a, ASK), get(&mut b, ASK)), ("7".to_owned(), String::new()));
    run(&mut a, "BEGIN; SET app.user_id = '10'");
    run(&mut a, "ROLLBACK");
    assert_eq!(get(&mut a, ASK), "7");
    run(&mut a, "RESET app.user_id");
    assert_eq!(get(&mut a, ASK), "");
    let mut c = world.connect_with("one", &[("options", "-c app.user_id=11")]);
    assert_eq!((get(&mut c, ASK), get(&mut b, ASK)), ("11".to_owned(), String::new()));
    run(&mut c, "DISCARD ALL");
    assert_eq!(get(&mut c, ASK), "11");
}

#[test]
fn set_role_and_session_authorization_are_refused() {
    let world = World::start();
    let (mut a, mut b) = world.pair();
    for sql in ["SET ROLE app", "SET ROLE NONE", "SET LOCAL ROLE app", "SET SESSION AUTHORIZATION app", "SET role = 'app'"] {
        refused(&mut a, sql, "42501");
    }
    let answer = a.query("RESET ROLE");
    assert!(answer.error.is_none() || answer.sqlstate() == "42501", "{answer:?}");
    both_work(&mut a, &mut b);
}

#[test]
fn set_config_and_hidden_ways_to_it_are_refused() {
    let world = World::start();
    let (mut a, mut b) = world.pair();
    for sql in [
        "SELECT set_config('work_mem', '900MB', false)",
        "SELECT set_config('row_security', 'off', false)",
        "SELECT set_config('work_mem', '9MB', false) FROM products",
        "SELECT set_config(name, 'x', false) FROM products",
        "UPDATE accounts SET email = set_config('work_mem', '9MB', false) WHERE id = 1",
        "UPDATE pg_catalog.pg_settings SET setting = '9MB' WHERE name = 'work_mem'",
    ] {
        let answer = a.query(sql);
        assert!(matches!(answer.sqlstate(), "42501" | "0A000"), "{sql}: {answer:?}");
    }
    for sql in [
        "DO $$ BEGIN PERFORM set_config('work_mem', '9MB', false); END $$",
        "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$ SELECT set_config('work_mem', '9MB', false) $$",
        "CALL p()",
    ] {
        assert!(matches!(a.query(sql).sqlstate(), "42501" | "0A000"), "{sql}");
    }
    // What SET may set is carried from backend to backend as if SET had set it: Django and drivers write it so.
    let by_bind = |session: &mut Wire, name: &str, value: Option<&str>| {
        let sql = format!("SELECT set_config('{name}', $1, false)");
        session.extended(&Extended { sql: sql.as_bytes(), parameters: &[value], ..Extended::default() })
    };
    assert_eq!(by_bind(&mut a, "work_mem", Some("900MB")).sqlstate(), "42501");
    assert_eq!(by_bind(&mut a, "work_mem", None).sqlstate(), "0A000");
    assert_eq!(a.query("SELECT set_config('work_mem', $1, false)").sqlstate(), "42P02");
    let prepared = Batch::default().parse("s", "SELECT set_config('work_mem', $1, false)").sync().send(&mut a);
    assert!(prepared.error.is_none());
    assert_eq!(a.query("EXECUTE s('9MB')").sqlstate(), "0A000", "by a name nobody would know what is set");
    for (name, value) in
        [("jit", "off"), ("TimeZone", "Asia/Tokyo"), ("search_path", "red, public"), ("search_path", ""), ("work_mem", "9MB")]
    {
        assert_eq!(get(&mut a, &format!("SELECT set_config('{name}', '{value}', false)")), value);
        for _ in 0..3 {
            let count = "SELECT count(*) FROM public.orders";
            assert_eq!((get(&mut a, count), get(&mut b, count)), ("30".to_owned(), "40".to_owned()));
            assert_eq!(get(&mut a, &format!("SHOW {name}")), value);
            assert_ne!(get(&mut b, &format!("SHOW {name}")), value);
        }
        a.query(format!("RESET {name}"));
        // And by a parameter, as psycopg sends it.
        assert_eq!(by_bind(&mut a, name, Some(value)).scalar().as_deref(), Some(value));
        let (count, shown) = (get(&mut a, "SELECT count(*) FROM public.orders"), get(&mut a, &format!("SHOW {name}")));
        assert_eq!((count.as_str(), shown.as_str()), ("30", value));
        assert_ne!(get(&mut b, &format!("SHOW {name}")), value);
        a.query(format!("RESET {name}"));
        let run = |a: &mut Wire, sql: &str| assert!(a.query(sql).error.is_none(), "{sql}");
        run(&mut a, "BEGIN");
        assert_eq!(get(&mut a, &format!("SELECT pg_catalog.set_config('{name}', '{value}', true)")), value);
        run(&mut a, "COMMIT");
        assert_eq!(get(&mut a, &format!("SHOW {name}")), get(&mut b, &format!("SHOW {name}")));
    }
    assert_eq!(get(&mut b, "SHOW work_mem"), "4MB");
    both_work(&mut a, &mut b);
}

#[test]
fn advisory_locks_are_refused() {
    let world = World::start();
    let (mut a, mut b) = world.pair();
    for call in [
        "pg_advisory_lock(1)",
        "pg_try_advisory_lock(1)",
        "pg_advisory_lock_shared(1, 2)",
        "pg_advisory_xact_lock(1)",
        "pg_advisory_unlock(1)",
    ] {
        refused(&mut a, &format!("SELECT {call}"), "42501");
        refused(&mut a, &format!("SELECT count(*) FROM products WHERE {call} IS NOT NULL"), "42501");
    }
    run(&mut a, "SELECT pg_advisory_unlock_all()");
    assert_eq!(world.ask("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), "0");
    both_work(&mut a, &mut b);
}

#[test]
fn listen_and_notify_are_refused() {
    let world = World::start();
    let (mut a, mut b) = world.pair();
    for sql in ["LISTEN news", "NOTIFY news, 'x'", "SELECT pg_notify('news', 'x')"] {
        let answer = a.query(sql);
        assert!(matches!(answer.sqlstate(), "42501" | "0A000"), "{sql}: {answer:?}");
    }
    run(&mut a, "UNLISTEN *");
    both_work(&mut a, &mut b);
}

#[test]
fn temporary_tables_are_refused_and_an_unrestricted_users_die_with_the_backend() {
    let world = World::start();
    let (mut a, mut b) = world.pair();
    for sql in [
        "CREATE TEMP TABLE accounts (id int)",
        "CREATE TEMP TABLE t AS SELECT 1",
        "SELECT 1 AS x INTO TEMP t",
        "SELECT * FROM pg_temp.t",
    ] {
        let answer = a.query(sql);
        assert!(answer.error.is_some(), "{sql}: {answer:?}");
    }
    let mut migrator = world.connect("migrator");
    run(&mut migrator, "CREATE TEMP TABLE accounts (id int)");
    run(&mut migrator, "SET ROLE app");
    run(&mut migrator, "SELECT pg_advisory_lock(77)");
    let backend = get(&mut migrator, "SELECT pg_backend_pid()");
    both_work(&mut a, &mut b);
    drop(migrator);
    world.until(&format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {backend}"), "0");
    let mut next = world.connect("migrator");
    assert_ne!(get(&mut next, "SELECT pg_backend_pid()"), backend);
    assert_eq!(get(&mut next, "SELECT current_user"), "owner");
    assert_eq!(get(&mut next, "SELECT count(*) FROM accounts"), "35", "the table, not the temporary one");
    assert_eq!(world.ask("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), "0");
}

// Prepared statements

#[test]
fn a_prepared_plan_is_not_shared_across_search_paths() {
    const SQL: &str = "SELECT name FROM paint";
    let world = World::start();
    let (mut a, mut b) = world.pair();
    run(&mut a, "SET search_path = red");
    run(&mut b, "SET search_path = blue");
    let names = |wire: &mut Wire| column(&Batch::default().execute("s").sync().send(wire));
    for wire in [&mut a, &mut b] {
        assert!(Batch::default().parse("s", SQL).sync().send(wire).error.is_none());
    }
    // From the sixth time on the plan may be a generic one.
    for _ in 0..7 {
        assert_eq!((names(&mut a), names(&mut b)), (vec!["red".to_owned()], vec!["blue".to_owned()]));
    }
    run(&mut a, "SET search_path = blue");
    assert_eq!(names(&mut a), ["blue"], "the session's own statement follows its search_path");
    run(&mut a, "BEGIN");
    run(&mut a, "SET LOCAL search_path = red");
    assert_eq!(names(&mut a), ["red"]);
    run(&mut a, "ROLLBACK");
    assert_eq!(names(&mut a), ["blue"]);
    // In one pipeline.
    let answer = Batch::default().execute("s").run("SET search_path = red").execute("s").sync().send(&mut a);
    assert_eq!(column(&answer), ["blue", "red"], "{answer:?}");
    assert_eq!(names(&mut b), ["blue"]);
}

/// What the proxy answers itself where it stands alone keeps its place among the server's statements.
#[test]
fn what_only_resets_may_stand_with_other_statements() {
    let world = World::start();
    let (mut a, mut b) = world.pair();
    let prepare = |wire: &mut Wire| {
        for name in ["p", "q"] {
            run(wire, &format!("PREPARE {name} AS SELECT count(*) FROM accounts"));
        }
    };
    let tags = |answer: &Answer| answer.parts.iter().filter_map(|p| p.tag.clone()).collect::<Vec<_>>().join(", ");
    prepare(&mut a);
    prepare(&mut b);
    let answer = run(&mut a, "SELECT 1; DEALLOCATE p; SELECT count(*) FROM accounts");
    assert_eq!(tags(&answer), "SELECT 1, DEALLOCATE, SELECT 1");
    assert_eq!(column(&answer), ["1", "5"]);
    assert_eq!(a.query("EXECUTE p").sqlstate(), "26000");
    assert_eq!(get(&mut a, "EXECUTE q"), "5");
    assert_eq!(a.query("SELECT 1; DEALLOCATE nosuch").sqlstate(), "26000");
    // What stands behind an error was not done.
    assert_eq!(a.query("SELECT 1 / 0; DEALLOCATE q").sqlstate(), "22012");
    assert_eq!(get(&mut a, "EXECUTE q"), "5");
    let answer =
        run(&mut a, "BEGIN; DEALLOCATE ALL; UNLISTEN *; DISCARD PLANS; CLOSE ALL; SELECT pg_advisory_unlock_all(); COMMIT");
    assert_eq!(tags(&answer), "BEGIN, DEALLOCATE ALL, UNLISTEN, DISCARD PLANS, CLOSE CURSOR ALL, SELECT 1, COMMIT");
    assert_eq!(a.query("EXECUTE q").sqlstate(), "26000");
    assert_eq!(get(&mut b, "EXECUTE p"), get(&mut b, "SELECT count(*) FROM accounts"));
    for alone in ["DEALLOCATE p; EXECUTE q", "RESET ALL; SELECT 1", "SELECT 1; SET bulkhead.tenant = '1'"] {
        assert_eq!(b.query(alone).sqlstate(), "0A000", "{alone}");
    }
    both_work(&mut a, &mut b);
}

#[test]
fn a_statement_whose_parse_failed_or_was_skipped_is_nobodys() {
    let world = World::start();
    let (mut a, mut b) = world.pair();
    let fails = "SELECT name, 'x'::date FROM products";
    let good = "SELECT name FROM products WHERE id = 7";
    // The server refuses the Parse.
    assert_eq!(Batch::default().parse("s", fails).sync().send(&mut a).sqlstate(), "22007");
    assert_eq!(Batch::default().parse("s", fails).sync().send(&mut b).sqlstate(), "22007");
    assert_eq!(Batch::default().execute("s").sync().send(&mut a).sqlstate(), "26000");
    // The server never saw it: what stands before it failed.
    for _ in 0..2 {
        let answer = Batch::default().run("SELECT 1/0").parse("t", good).execute("t").sync().send(&mut a);
        assert_eq!((answer.sqlstate(), answer.rows().count()), ("22012", 0));
        assert_eq!(Batch::default().execute("t").sync().send(&mut a).sqlstate(), "26000");
    }
    for wire in [&mut b, &mut a] {
        assert_eq!(column(&Batch::default().parse("t", good).execute("t").sync().send(wire)), ["product 7"]);
    }
    // Nor is it the client's where the backend has had it for long.
    let again = Batch::default().run("SELECT 1/0").parse("u", good).execute("u").sync().send(&mut a);
    assert_eq!(again.sqlstate(), "22012");
    assert_eq!(Batch::default().execute("u").sync().send(&mut a).sqlstate(), "26000");
    assert_eq!(column(&Batch::default().parse("u", good).execute("u").sync().send(&mut a)), ["product 7"]);
    // What the proxy answers itself is skipped as well.
    assert_eq!(Batch::default().run("SELECT 1/0").parse("v", "DEALLOCATE ALL").sync().send(&mut a).sqlstate(), "22012");
    assert_eq!(Batch::default().execute("v").sync().send(&mut a).sqlstate(), "26000");
}

#[test]
fn a_close_that_is_skipped_closes_nothing() {
    let world = World::start();
    let (mut a, mut b) = world.pair();
    assert!(Batch::default().parse("s", "SELECT name FROM products WHERE id = 7").sync().send(&mut a).error.is_none());
    assert_eq!(Batch::default().run("SELECT 1/0").close("s").sync().send(&mut a).sqlstate(), "22012");
    assert_eq!(column(&Batch::default().execute("s").sync().send(&mut a)), ["product 7"]);
    let answer = Batch::default().execute("s").close("s").parse("s", "SELECT 2").execute("s").sync().send(&mut a);
    assert_eq!(column(&answer), ["product 7", "2"]);
    both_work(&mut a, &mut b);
}

#[test]
fn statements_outlive_their_eviction_and_their_backend() {
    let world = World::start();
    let (mut a, mut b) = world.pair();
    let sql = |i: u32| format!("SELECT id, 0 AS c{i} FROM products WHERE id = 1 + {} % 60", i);
    let prepare = |wire: &mut Wire, range: std::ops::Range<u32>| {
        let batch = range.fold(Batch::default(), |batch, i| batch.parse(&format!("s{i}"), &sql(i)));
        assert!(batch.sync().send(wire).error.is_none());
    };
    // A backend keeps 200.
    prepare(&mut a, 0..150);
    prepare(&mut b, 100..300);
    let check = |wire: &mut Wire, range: std::ops::Range<u32>| {
        for i in range.step_by(7) {
            let answer = Batch::default().execute(&format!("s{i}")).sync().send(wire);
            assert_eq!(column(&answer), [(1 + i % 60).to_string()], "s{i}: {answer:?}");
        }
    };
    check(&mut a, 0..150);
    check(&mut b, 100..300);
    // The one's DEALLOCATE is not the other's.
    run(&mut a, "DEALLOCATE ALL");
    assert_eq!(Batch::default().execute("s120").sync().send(&mut a).sqlstate(), "26000");
    check(&mut b, 100..300);
    world.kill();
    check(&mut b, 100..300);
}

// Whose answer it is

#[test]
fn a_backend_is_kept_until_every_sync_of_a_pipeline_is_answered() {
    let world = World::start();
    let (mut a, mut b) = world.pair();
    const BATCHES: u32 = 30;
    for round in 0..5 {
        for (wire, from) in [(&mut a, 1000), (&mut b, 2000)] {
            let batch = (0..BATCHES).fold(Batch::default(), |batch, i| {
                let sql = format!("SELECT {} AS x", from + i);
                if i % 3 == round % 3 { batch.query(&sql) } else { batch.run(&sql).sync() }
            });
            wire.send_raw(&batch.0).expect("send");
        }
        for (wire, from) in [(&mut b, 2000), (&mut a, 1000)] {
            for i in 0..BATCHES {
                let answer = wire.answer();
                assert_eq!(column(&answer), [(from + i).to_string()], "{answer:?}");
            }
        }
    }
    both_work(&mut a, &mut b);
}

#[test]
fn the_proxys_own_replies_wait_behind_those_in_flight() {
    let world = World::start();
    let (mut a, mut b) = world.pair();
    let slow = "SELECT count(*) FROM products a, products b, products c";
    let answer = Batch::default().run(slow).run("DEALLOCATE ALL").run("SHOW work_mem").sync().send(&mut a);
    let tags: Vec<_> = answer.parts.iter().filter_map(|p| p.tag.as_deref()).collect();
    assert_eq!(tags, ["SELECT 1", "DEALLOCATE ALL", "SHOW"]);
    assert_eq!(kinds(&answer), "12DC 12C 12DC Z");
    // So do ParseComplete of what the server knows already, and what is bound to nothing.
    let batch = Batch::default().run(slow).parse("x", slow).run("DEALLOCATE x").run("").sync();
    assert_eq!(kinds(&batch.send(&mut a)), "12DC 1 12C 12I Z");
    // A refusal, too, and it undoes what stands before it, as a failing statement does.
    let write = "UPDATE accounts SET balance = 4711 WHERE id = 1";
    let answer = Batch::default().run(write).run(slow).run("SELECT pg_sleep(1)").run("SELECT 5").sync().send(&mut a);
    let tags: Vec<_> = answer.parts.iter().filter_map(|p| p.tag.as_deref()).collect();
    assert_eq!((tags, answer.sqlstate()), (vec!["UPDATE 1", "SELECT 1"], "42501"), "{answer:?}");
    assert_eq!(answer.status, Some(b'I'));
    assert_eq!(get(&mut a, "SELECT count(*) FROM accounts WHERE balance = 4711"), "0");
    both_work(&mut a, &mut b);
}

#[test]
fn no_answer_is_one_behind() {
    let world = World::start();
    let (mut a, mut b) = world.pair();
    for i in 0..20 {
        // What may confuse, from one; then a number that nobody else asks for, from both.
        match i % 7 {
            0 => drop(a.query("SELECT 1/0")),
            1 => drop(a.query("SELECT pg_sleep(1)")),
            2 => drop(a.query("SELECT 1; SELECT 1/0; SELECT 3")),
            3 => drop(a.query("")),
            4 => drop(Batch::default().run("SELECT 1").run("SELECT 1/0").run("SELECT 3").sync().send(&mut a)),
            5 => drop(Batch::default().sync().send(&mut a)),
            _ => drop(a.query("not SQL")),
        }
        assert_eq!(get(&mut b, &format!("SELECT {}", 500 + i)), (500 + i).to_string());
        assert_eq!(get(&mut a, &format!("SELECT {}", 900 + i)), (900 + i).to_string());
    }
}

#[test]
fn an_error_in_a_pipeline_undoes_its_batch_and_no_other() {
    let world = World::start();
    let (mut a, mut b) = world.pair();
    let set = |balance: u32| format!("UPDATE accounts SET balance = {balance} WHERE id = 1");
    let batch = Batch::default();
    let batch = batch.run(&set(71)).sync().run(&set(72)).run("SET work_mem = '9MB'").run("SELECT 1/0").run(&set(73)).sync();
    let first = batch.run("SELECT balance FROM accounts WHERE id = 1").run("SHOW work_mem").sync().send(&mut a);
    assert!(first.error.is_none(), "{first:?}");
    assert_eq!(a.answer().sqlstate(), "22012");
    assert_eq!(column(&a.answer()), ["71", "4MB"]);
    // Inside a block everything is skipped until its end.
    let batch = Batch::default().run("BEGIN").run(&set(74)).sync().run("SELECT 1/0").sync().run(&set(75)).sync();
    let begun = batch.run("COMMIT").sync().send(&mut a);
    assert_eq!(begun.status, Some(b'T'));
    assert_eq!((a.answer().status, a.answer().sqlstate().to_owned()), (Some(b'E'), "25P02".to_owned()));
    let end = a.answer();
    assert_eq!((end.parts[0].tag.as_deref(), end.status), (Some("ROLLBACK"), Some(b'I')));
    assert_eq!(get(&mut a, "SELECT balance FROM accounts WHERE id = 1"), "71");
    both_work(&mut a, &mut b);
}

// Cancel

#[test]
fn a_late_cancel_hits_nobody() {
    let world = World::start();
    let (mut a, mut b) = world.pair();
    let slow = "SELECT count(*) FROM products a, products b, products c";
    for _ in 0..15 {
        run(&mut a, "SELECT 1");
        b.send(b'Q', format!("{slow}\0").as_bytes()).expect("send");
        a.cancel().expect("cancel");
        let answer = b.answer();
        assert_eq!(answer.scalar().as_deref(), Some("216000"), "{answer:?}");
        // At the moment of the change from the one to the other.
        a.send(b'Q', b"SELECT 1\0").expect("send");
        b.send(b'Q', format!("{slow}\0").as_bytes()).expect("send");
        a.cancel().expect("cancel");
        let own = a.answer();
        assert!(own.error.is_none() || own.sqlstate() == "57014", "{own:?}");
        let answer = b.answer();
        assert_eq!(answer.scalar().as_deref(), Some("216000"), "{answer:?}");
    }
    // Nor does one with a key that is not the client's. One that comes before the statement has begun would hit nothing anyway.
    b.send(b'Q', format!("{slow}, products d\0").as_bytes()).expect("send");
    world.until(RUNNING, "1");
    for _ in 0..5 {
        b.cancel_with(&[0; 4]).expect("cancel");
    }
    let answer = b.answer();
    assert_eq!(answer.scalar().as_deref(), Some("12960000"), "{answer:?}");
    both_work(&mut a, &mut b);
}

// Who leaves, and what dies

#[test]
fn a_client_that_vanishes_leaves_nothing_to_the_next() {
    let world = World::start();
    let mut next = world.connect("two");
    let copy = "COPY (SELECT a.id, repeat(b.name, 30) FROM products a, products b, products c) TO STDOUT";
    let write = "UPDATE accounts SET balance = 4711 WHERE id = 1";
    type Leave = fn(&World, &mut Wire, &str);
    let leaves: [(&str, &str, Leave); 7] = [
        ("in a result", LARGE, |_, w, sql| {
            w.send(b'Q', format!("{sql}\0").as_bytes()).expect("send");
            w.receive().expect("its beginning");
        }),
        ("in a COPY", copy, |_, w, sql| {
            w.send(b'Q', format!("{sql}\0").as_bytes()).expect("send");
            w.receive().expect("its beginning");
        }),
        // A cancel that comes before the statement has begun hits nothing, in PostgreSQL too.
        ("in a statement", LONG, |world, w, sql| {
            w.send(b'Q', format!("{sql}\0").as_bytes()).expect("send");
            world.until(RUNNING, "1");
        }),
        ("in a transaction", write, |_, w, sql| {
            run(w, "BEGIN");
            run(w, "SET work_mem = '9MB'");
            run(w, sql);
        }),
        ("in a failed transaction", write, |_, w, sql| {
            run(w, "BEGIN");
            run(w, sql);
            w.query("SELECT 1/0");
        }),
        ("in a pipeline without its Sync", write, |_, w, sql| {
            let mut batch = Batch::default().run(sql);
            put_message(&mut batch.0, b'H', b"");
            w.send_raw(&batch.0).expect("send");
            w.receive().expect("ParseComplete");
        }),
        ("in half a message", write, |_, w, sql| {
            w.send_raw(&Batch::default().run(sql).0).expect("send");
            w.send_raw(b"Q\0\0\0\xffSELECT").expect("send");
        }),
    ];
    for (when, sql, leave) in leaves {
        let mut client = world.connect("one");
        leave(&world, &mut client, sql);
        drop(client);
        assert_eq!(get(&mut next, "SELECT count(*) FROM accounts"), "15", "{when}");
        assert_eq!(get(&mut next, "SHOW work_mem"), "4MB", "{when}");
        world.until(RUNNING, "0");
        assert_eq!(world.ask("SELECT count(*) FROM accounts WHERE balance = 4711"), "0", "{when}");
    }
}

#[test]
fn a_backend_that_dies_in_any_state_is_told_to_its_client_only() {
    let world = World::start();
    let mut other = world.connect("two");
    for state in ["idle", "transaction", "failed transaction", "statement", "result", "pipeline"] {
        let mut client = world.connect("one");
        match state {
            "idle" => drop(run(&mut client, "SELECT 1")),
            "transaction" => drop(run(&mut client, "BEGIN")),
            "failed transaction" => {
                run(&mut client, "BEGIN");
                client.query("SELECT 1/0");
            }
            "statement" => client.send(b'Q', format!("{LONG}\0").as_bytes()).expect("send"),
            "result" => {
                client.send(b'Q', format!("{LARGE}\0").as_bytes()).expect("send");
                client.receive().expect("its beginning");
            }
            _ => {
                let batch = Batch::default().run("SELECT 1").run(LONG).sync().run("SELECT 2").sync();
                client.send_raw(&batch.0).expect("send");
            }
        }
        if matches!(state, "statement" | "pipeline") {
            world.until(RUNNING, "1");
        }
        world.kill();
        if state == "idle" {
            assert_eq!(get(&mut other, "SELECT 12"), "12");
            assert_eq!(get(&mut client, "SELECT 13"), "13", "an idle client does not notice");
            continue;
        }
        let answer = client.answer();
        assert_eq!(get(&mut other, "SELECT 12"), "12", "{state}");
        assert!(matches!(answer.sqlstate(), "57P01" | "08006"), "{state}: {answer:?}");
        let ended = client.query("SELECT 14");
        assert!(ended.rows().next().is_none(), "{state}: nothing runs elsewhere: {ended:?}");
    }
}

// One login for several tenants

#[test]
fn a_shared_logins_tenant_is_its_sessions_and_its_transactions() {
    const OWNERS: &str = "SELECT DISTINCT tenant_id FROM accounts";
    let world = World::start();
    let (mut a, mut b) = (world.connect("web"), world.connect("web"));
    run(&mut a, "SET bulkhead.tenant = '1'");
    run(&mut b, "SET bulkhead.tenant = '2'");
    for wire in [&mut a, &mut b] {
        assert!(Batch::default().parse("s", OWNERS).sync().send(wire).error.is_none());
    }
    let owners = |wire: &mut Wire| column(&Batch::default().execute("s").sync().send(wire));
    for _ in 0..7 {
        assert_eq!((owners(&mut a), owners(&mut b)), (vec!["1".to_owned()], vec!["2".to_owned()]));
    }
    // Across the batches of one write: each has the tenant that was chosen before it.
    let batch = Batch::default().execute("s").sync().query("SET bulkhead.tenant = '2'").execute("s").sync();
    let batch = batch.query("BEGIN").query("SET LOCAL bulkhead.tenant = '1'").execute("s").sync().query("ROLLBACK").execute("s");
    assert_eq!(column(&batch.sync().send(&mut a)), ["1"]);
    let told: Vec<_> = (0..6).map(|_| column(&a.answer()).concat()).collect();
    assert_eq!(told, ["", "2", "", "", "1", ""]);
    assert_eq!(column(&a.answer()), ["2"]);
    // An error in the batch that chooses takes the choice back.
    let answer = Batch::default().run("SET bulkhead.tenant = '1'").run("SELECT 1/0").sync().send(&mut a);
    assert_eq!(answer.sqlstate(), "22012");
    assert_eq!(owners(&mut a), ["2"]);
    // A choice within a pipeline holds for what comes after it, or is refused; never for what came before.
    let answer = Batch::default().run("SET bulkhead.tenant = '1'").execute("s").sync().send(&mut a);
    assert_eq!(column(&answer), ["1"], "{answer:?}");
    let answer = Batch::default().execute("s").run("SET bulkhead.tenant = '2'").execute("s").sync().send(&mut a);
    assert_eq!((answer.sqlstate(), column(&answer)), ("25001", vec!["1".to_owned()]), "{answer:?}");
    // COMMIT AND CHAIN begins a transaction that has its own first command.
    run(&mut a, "BEGIN");
    assert_eq!(owners(&mut a), ["1"]);
    run(&mut a, "COMMIT AND CHAIN");
    assert_eq!(owners(&mut a), ["1"]);
    assert_eq!(a.query("SET bulkhead.tenant = '2'").sqlstate(), "25001");
    run(&mut a, "ROLLBACK");
    // SET LOCAL ends with COMMIT, too.
    run(&mut a, "BEGIN");
    run(&mut a, "SET LOCAL bulkhead.tenant = '2'");
    assert_eq!(owners(&mut a), ["2"]);
    run(&mut a, "COMMIT");
    assert_eq!(owners(&mut a), ["1"]);
    assert_eq!(owners(&mut b), ["2"]);
}

#[test]
fn cursors_and_portals_are_their_sessions_own() {
    let world = World::start();
    let (mut a, mut b) = world.pair();
    run(&mut a, "BEGIN");
    run(&mut a, "DECLARE c CURSOR FOR SELECT id FROM accounts ORDER BY id");
    assert_eq!(get(&mut a, "FETCH c"), "1");
    run(&mut a, "COMMIT");
    for wire in [&mut b, &mut a] {
        run(wire, "BEGIN");
        assert_eq!(wire.query("FETCH c").sqlstate(), "34000");
        run(wire, "ROLLBACK");
    }
    // A portal that still has rows ends with its transaction.
    let mut half = Vec::new();
    put_parse(&mut half, "", b"SELECT id FROM accounts ORDER BY id", &[]);
    put_bind(&mut half, "p", "", &[], 0);
    put_execute(&mut half, "p", 2);
    put_message(&mut half, b'S', b"");
    a.send_raw(&half).expect("send");
    assert_eq!(column(&a.answer()), ["1", "2"]);
    for wire in [&mut b, &mut a] {
        let mut rest = Vec::new();
        put_execute(&mut rest, "p", 0);
        put_message(&mut rest, b'S', b"");
        wire.send_raw(&rest).expect("send");
        assert_eq!(wire.answer().sqlstate(), "34000");
    }
    // A cursor that outlives its transaction keeps its backend, which dies with it.
    run(&mut a, "DECLARE h CURSOR WITH HOLD FOR SELECT id FROM accounts ORDER BY id");
    b.send(b'Q', b"FETCH h\0").expect("send");
    assert_eq!(get(&mut a, "FETCH h"), "1");
    drop(a);
    assert_eq!(b.answer().sqlstate(), "34000");
    assert_eq!(get(&mut b, "SELECT count(*) FROM accounts"), "15");
}

#[test]
fn temporary_tables_are_their_sessions_own() {
    const MAKE: &str = "CREATE TEMP TABLE picked AS SELECT id, tenant_id AS owner FROM accounts WHERE id < 4";
    let world = World::start();
    let (mut a, mut b) = world.pair();
    // One that ends with its transaction keeps no backend.
    run(&mut a, "BEGIN");
    run(&mut a, &MAKE.replace("picked AS", "picked ON COMMIT DROP AS"));
    assert_eq!(
        get(&mut a, "SELECT array_agg(p ORDER BY id) FROM (SELECT * FROM picked) AS p"),
        "{\"(1,1)\",\"(2,1)\",\"(3,1)\"}"
    );
    run(&mut a, "COMMIT");
    for wire in [&mut b, &mut a] {
        assert_eq!(wire.query("SELECT * FROM picked").sqlstate(), "42P01");
    }
    // Another is kept with its backend, is written to like any table, and dies with the session.
    assert_eq!(a.query(MAKE).parts[0].tag.as_deref(), Some("SELECT 3"));
    b.send(b'Q', b"SELECT * FROM picked\0").expect("send");
    run(&mut a, "INSERT INTO picked VALUES (7, 1)");
    run(&mut a, "UPDATE picked SET id = id + 10 WHERE owner = 1");
    let answer = a.extended(&Extended {
        sql: b"DELETE FROM picked WHERE id > $1::int RETURNING *",
        parameters: &[Some("12")],
        ..Extended::default()
    });
    assert_eq!(column(&answer), ["13", "17"], "{answer:?}");
    let answer = a.query("MERGE INTO picked USING accounts a ON a.id + 10 = picked.id WHEN MATCHED THEN UPDATE SET owner = 5");
    assert_eq!(answer.parts[0].tag.as_deref(), Some("MERGE 2"), "{answer:?}");
    assert_eq!(get(&mut a, "SELECT sum(owner) FROM picked JOIN accounts ON accounts.id + 10 = picked.id"), "10");
    assert_eq!(world.ask("SELECT string_agg(attname, ' ') FROM pg_attribute WHERE attrelid = (SELECT oid FROM pg_class WHERE relname = 'picked') AND attnum > 0"), "id owner bulkhead_tenant");
    drop(a);
    assert_eq!(b.answer().sqlstate(), "42P01");
    world.until("SELECT count(*) FROM pg_class WHERE relname = 'picked'", "0");
    // DISCARD takes it away.
    let (mut a, _) = world.pair();
    for discard in ["DISCARD TEMP", "DISCARD ALL", "DROP TABLE picked", "DROP TABLE IF EXISTS picked"] {
        run(&mut a, "CREATE TEMP TABLE picked (id int, owner int)");
        run(&mut a, discard);
    }
    // A session that has one has one tenant.
    drop(a);
    let mut web = world.connect("web");
    run(&mut web, "SET bulkhead.tenant = '1'");
    run(&mut web, MAKE);
    assert_eq!(web.query("SET bulkhead.tenant = '2'").sqlstate(), "0A000");
    run(&mut web, "DISCARD ALL");
    run(&mut web, "SET bulkhead.tenant = '2'");
    assert_eq!(web.query("SELECT * FROM picked").sqlstate(), "42P01");
    // A tenant that lasts as long as the transaction may have a table that does.
    run(&mut web, "BEGIN");
    run(&mut web, "SET LOCAL bulkhead.tenant = '1'");
    assert_eq!(web.query(MAKE).sqlstate(), "0A000");
    run(&mut web, "ROLLBACK");
    run(&mut web, "BEGIN");
    run(&mut web, "SET LOCAL bulkhead.tenant = '1'");
    run(&mut web, &MAKE.replace("picked AS", "picked ON COMMIT DROP AS"));
    run(&mut web, "COMMIT");
}

#[test]
fn what_takes_too_long_is_ended_and_the_backend_goes_on_or_goes() {
    let world = World::with("statement_timeout = \"300ms\"\nidle_in_transaction_timeout = \"400ms\"", "");
    let (mut a, mut b) = world.pair();
    let canceled = |answer: &Answer| {
        let error = answer.error.as_ref().expect("an error");
        assert_eq!((error.sqlstate(), error.message()), ("57014", "canceling statement due to statement timeout"));
    };
    // Simple, extended, and while rows are on their way; the client's own setting does not lift it.
    run(&mut a, "SET statement_timeout = 0");
    canceled(&a.query(LONG));
    canceled(&a.extended(&Extended { sql: LONG.as_bytes(), ..Extended::default() }));
    canceled(&a.query(format!("SELECT id FROM products; {LONG}")));
    assert_eq!(get(&mut b, "SELECT count(*) FROM accounts"), "15");
    // In a transaction, it fails that. Then the client does nothing, and is cut off; what it held is free.
    run(&mut a, "BEGIN");
    canceled(&a.query(LONG));
    assert_eq!(a.answer().error.expect("an error").sqlstate(), "25P03");
    assert_eq!(get(&mut b, "SELECT count(*) FROM accounts"), "15");
    world.until(RUNNING, "0");
    // Who works is not cut off, nor who waits outside of a transaction.
    let mut c = world.connect("one");
    run(&mut c, "BEGIN");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(900) {
        get(&mut c, "SELECT count(*) FROM accounts");
    }
    run(&mut c, "COMMIT");
    assert_eq!(get(&mut b, "SELECT count(*) FROM accounts"), "15");
}

#[test]
fn a_client_that_does_nothing_is_cut_off_where_there_is_a_limit() {
    let world = World::with("client_idle_timeout = \"300ms\"", "");
    let (mut a, mut operator) = (world.connect("one"), world.connect("migrator"));
    get(&mut a, "SELECT 1");
    assert_eq!(a.answer().error.expect("an error").sqlstate(), "57P05");
    // A transaction is not idle in this sense, nor is an unrestricted user's session.
    let mut b = world.connect("two");
    run(&mut b, "BEGIN");
    assert_eq!(world.connect("one").answer().error.expect("an error").sqlstate(), "57P05");
    run(&mut b, "COMMIT");
    assert_eq!(get(&mut operator, "SELECT 1"), "1");
}

#[test]
fn a_user_has_no_more_clients_than_it_may_have() {
    let world = World::with("", "max_clients = 2");
    let refused = |world: &World| {
        let error = format!("{:?}", Wire::connect(&world.proxy.target("web", "shop")).err().expect("no place"));
        assert!(error.contains("too many connections for role") && error.contains("53300"), "{error}");
    };
    let first = world.connect("web");
    let _second = world.connect("web");
    refused(&world);
    world.connect("one");
    drop(first);
    poll("its place is free", || Wire::connect(&world.proxy.target("web", "shop")).is_ok());
}

#[test]
fn a_tenant_has_no_more_connections_than_it_may_have() {
    let world = World::of_pool("pool_size = 3\ntenant_pool_size = 1", "pool_wait = \"200ms\"", "");
    let (mut a, mut b) = (world.connect("one"), world.connect("one"));
    run(&mut a, "BEGIN; SELECT 1");
    let error = format!("{:?}", b.query("SELECT 1"));
    assert!(error.contains("53300"), "{error}");
    assert_eq!(get(&mut world.connect("two"), "SELECT 1"), "1");
    run(&mut a, "COMMIT");
    assert_eq!(get(&mut b, "SELECT 1"), "1");
}

#[test]
fn a_role_or_database_setting_reaches_pooled_backends() {
    let world = World::start();
    let (mut a, mut b) = world.pair();
    assert_eq!(get(&mut a, "SHOW work_mem"), "4MB");
    let admin = |what: &str| world.cluster.execute("postgres", &what.replace(":d", &world.database));
    admin("ALTER DATABASE :d SET work_mem = '11MB'");
    poll("ALTER DATABASE SET is seen", || get(&mut a, "SHOW work_mem") == "11MB");
    admin("ALTER ROLE app IN DATABASE :d SET work_mem = '12MB'");
    poll("ALTER ROLE SET is seen", || get(&mut b, "SHOW work_mem") == "12MB");
    admin("ALTER ROLE app IN DATABASE :d SET search_path = red");
    // Names are resolved by the search_path of the session's start, as in PostgreSQL: a new session sees the new one.
    poll("a new session's search_path", || {
        world.connect("one").query("SELECT name FROM paint").scalar().as_deref() == Some("red")
    });
    // One that is lent meanwhile is not lent again.
    run(&mut b, "BEGIN");
    assert_eq!(get(&mut b, "SHOW work_mem"), "12MB");
    let renewals = || world.proxy.log().matches("connections are made anew").count();
    let before = renewals();
    admin("ALTER ROLE app IN DATABASE :d RESET ALL");
    poll("RESET is noticed", || renewals() > before);
    assert_eq!(get(&mut b, "SHOW work_mem"), "12MB");
    run(&mut b, "COMMIT");
    assert_eq!(get(&mut b, "SHOW work_mem"), "11MB");
    admin("ALTER DATABASE :d RESET work_mem");
    poll("RESET is seen", || get(&mut a, "SHOW work_mem") == "4MB");
}
