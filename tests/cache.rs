//! The result cache: what is kept, what ends it, and that nothing stale is ever given.

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use support::cluster::Cluster;
use support::proxy::{Proxy, Setup, User};
use support::relay::Relay;
use support::wire::{Extended, Wire};

const SCHEMA: &str = "
    CREATE TABLE item (tenant_id int NOT NULL, id int, n int NOT NULL DEFAULT 0, note text, at timestamptz, uid uuid, PRIMARY KEY (tenant_id, id));
    CREATE TABLE part (tenant_id int NOT NULL, id int, note text, PRIMARY KEY (tenant_id, id)) PARTITION BY LIST (tenant_id);
    CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);
    CREATE TABLE part_2 PARTITION OF part FOR VALUES IN (2);
    CREATE TABLE child (tenant_id int NOT NULL, id int PRIMARY KEY, item int NOT NULL,
        FOREIGN KEY (tenant_id, item) REFERENCES item ON DELETE CASCADE ON UPDATE CASCADE);
    CREATE TABLE watched (tenant_id int NOT NULL, id int PRIMARY KEY);
    CREATE TABLE seen (tenant_id int NOT NULL, id int);
    CREATE FUNCTION saw() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO seen VALUES (NEW.tenant_id, NEW.id); RETURN NEW; END';
    CREATE TRIGGER saw AFTER INSERT ON watched FOR EACH ROW EXECUTE FUNCTION saw();
    CREATE TABLE word (id int PRIMARY KEY, text text);
    CREATE VIEW items AS SELECT tenant_id, id, note FROM item;
    CREATE FUNCTION own(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
    CREATE FUNCTION note_it(int) RETURNS int LANGUAGE sql VOLATILE SECURITY DEFINER AS 'UPDATE item SET n = 50 WHERE id = $1 RETURNING n';
    INSERT INTO item SELECT t, g, 0, 'note ' || g, '2024-01-01 12:00+00' FROM generate_series(1, 2) t, generate_series(1, 9) g;
    INSERT INTO part SELECT t, g, 'part ' || g FROM generate_series(1, 2) t, generate_series(1, 9) g;
    INSERT INTO child SELECT t, t * 100 + g, g FROM generate_series(1, 2) t, generate_series(1, 9) g;
    INSERT INTO word VALUES (1, 'one');
    CREATE FUNCTION stable_note(int) RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN RETURN note_it($1); END';
    CREATE FUNCTION pure_note(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN note_it($1); END';
    CREATE FUNCTION add_note(int, int) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT note_it($2)';
    CREATE AGGREGATE noted(int) (SFUNC = add_note, STYPE = int, INITCOND = '0');
    CREATE DOMAIN noting AS int CHECK (note_it(VALUE) > -5);
    CREATE TABLE by_domain (tenant_id int NOT NULL, id noting);
    CREATE TABLE by_index (tenant_id int NOT NULL, id int);
    CREATE INDEX ON by_index (pure_note(id));
    CREATE TABLE by_check (tenant_id int NOT NULL, id int CHECK (pure_note(id) > -5));
    CREATE TABLE by_column (tenant_id int NOT NULL, id int, n int GENERATED ALWAYS AS (pure_note(id)) STORED);
    CREATE TABLE by_default (tenant_id int NOT NULL, id int, n int DEFAULT stable_note(1));
    CREATE TABLE by_policy (tenant_id int NOT NULL, id int);
    ALTER TABLE by_policy ENABLE ROW LEVEL SECURITY;
    CREATE POLICY p ON by_policy USING (true) WITH CHECK (note_it(id) > -5);
    CREATE TABLE mother (tenant_id int NOT NULL, note text);
    CREATE TABLE father (tenant_id int NOT NULL, note text);
    CREATE TABLE \"both\" () INHERITS (mother, father);
    CREATE UNLOGGED TABLE brief (tenant_id int NOT NULL, id int);
    CREATE TABLE brief_news (tenant_id int NOT NULL, id int);
    CREATE TABLE weekly (tenant_id int NOT NULL, id int);
    CREATE TABLE zoned (tenant_id int NOT NULL, at timetz);
    CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
    CREATE TABLE coded (tenant_id int NOT NULL, id bigint PRIMARY KEY, code int UNIQUE, n int NOT NULL DEFAULT 0);
    CREATE TABLE by_code (tenant_id int NOT NULL, code int REFERENCES coded (code) ON UPDATE CASCADE, n int PRIMARY KEY);
    CREATE TABLE named (tenant_id int NOT NULL, name text, n int NOT NULL DEFAULT 0, PRIMARY KEY (name, tenant_id));
    CREATE TABLE loosely (tenant_id int NOT NULL, name text COLLATE loose PRIMARY KEY, n int NOT NULL DEFAULT 0);
    CREATE TABLE short (tenant_id int NOT NULL, name varchar(3) PRIMARY KEY, n int NOT NULL DEFAULT 0);
    CREATE TABLE counted (tenant_id int NOT NULL, id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int NOT NULL DEFAULT 0);
    CREATE TABLE unique_id (tenant_id int NOT NULL, id uuid PRIMARY KEY, n int NOT NULL DEFAULT 0);
    CREATE TABLE gen (tenant_id int NOT NULL, a int NOT NULL, id int GENERATED ALWAYS AS (a * 10) STORED, n int DEFAULT 0, PRIMARY KEY (tenant_id, id));
    CREATE TABLE genu (tenant_id int NOT NULL, id int PRIMARY KEY, a int NOT NULL, code int GENERATED ALWAYS AS (a * 10) STORED UNIQUE);
    CREATE TABLE genchild (tenant_id int NOT NULL, id int PRIMARY KEY, code int REFERENCES genu (code) ON UPDATE CASCADE);
    CREATE TABLE twice (tenant_id int NOT NULL, name text, n int NOT NULL DEFAULT 0, PRIMARY KEY (name, tenant_id));
    CREATE UNIQUE INDEX ON twice (tenant_id, name COLLATE loose);
    INSERT INTO gen (tenant_id, a) VALUES (1, 1), (1, 5);
    INSERT INTO genu (tenant_id, id, a) VALUES (1, 1, 1);
    INSERT INTO genchild VALUES (1, 1, 10);
    INSERT INTO twice VALUES (1, 'abc');
    CREATE FUNCTION writes_by_operator(int, int) RETURNS bool LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN UPDATE item SET n = 50 WHERE id = $1; RETURN true; END';
    CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = writes_by_operator);
    CREATE TABLE op_default (tenant_id int NOT NULL, id int, n bool DEFAULT (1 === 3));
    CREATE TABLE op_check (tenant_id int NOT NULL, id int CHECK (id === 3));
    CREATE TABLE partly (tenant_id int NOT NULL, name text, n int NOT NULL DEFAULT 0, PRIMARY KEY (tenant_id, name));
    CREATE UNIQUE INDEX ON partly (tenant_id, name COLLATE loose) WHERE n >= 0;
    INSERT INTO partly VALUES (1, 'abc');
    CREATE FUNCTION writes_by_default() RETURNS int LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN UPDATE item SET n = 50 WHERE id = 1; RETURN 1; END';
    CREATE DOMAIN defaulting AS int DEFAULT writes_by_default();
    CREATE TABLE by_domain_default (tenant_id int NOT NULL, id int, v defaulting);
    CREATE TABLE timed (tenant_id int NOT NULL, id int, at timestamptz, d date, PRIMARY KEY (tenant_id, id));
    INSERT INTO timed VALUES (1, 1, '2024-01-01 12:00+00', '2024-01-02'), (1, 2, '2024-01-01 03:00+00', '2024-02-01');
    CREATE TABLE elder (tenant_id int NOT NULL, id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
    CREATE TABLE heir () INHERITS (elder);
    INSERT INTO elder VALUES (1, 1);
    INSERT INTO coded VALUES (1, 1, 11), (1, 2, 12), (2, 3, 13);
    INSERT INTO by_code VALUES (1, 11, 1), (1, 12, 2);
    INSERT INTO named SELECT t, 'name ' || g FROM generate_series(1, 2) t, generate_series(1, 3) g;
    INSERT INTO loosely VALUES (1, 'Abc');
    INSERT INTO unique_id VALUES (1, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'), (1, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12');
    INSERT INTO \"both\" SELECT t, 'a' FROM generate_series(1, 2) t;
    GRANT ALL ON ALL TABLES IN SCHEMA public TO app";

const POLICIES: &str = "
    [[table]]
    name = 'public.item'
    scope = 'tenant'
    tenant_column = 'tenant_id'
    [[table.column]]
    name = 'note'
    mask = 'redact'
    unless_roles = ['reader']

    [[table]]
    name = 'public.part'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.child'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.watched'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.seen'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.word'
    scope = 'shared'

    [[table]]
    name = 'public.by_domain'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.by_index'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.by_check'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.by_column'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.by_default'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.by_policy'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.mother'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.father'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.\"both\"'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.brief'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.brief_news'
    scope = 'tenant'
    tenant_column = 'tenant_id'
    cache_seconds = 0

    [[table]]
    name = 'public.weekly'
    scope = 'tenant'
    tenant_column = 'tenant_id'
    cache_seconds = 1

    [[table]]
    name = 'public.zoned'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.partly'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.by_domain_default'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.gen'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.genu'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.genchild'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.twice'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.op_default'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.op_check'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.timed'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.elder'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.coded'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.by_code'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.named'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.loosely'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.short'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.counted'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.unique_id'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[allow]]
    roles = ['reader']
    functions = ['public.own', 'public.note_it', 'public.stable_note', 'public.pure_note', 'public.noted']
";

/// A proxy with a cache before the rows of two tenants.
struct World {
    proxy: Proxy,
    cluster: Cluster,
}

impl World {
    fn start() -> World {
        World::with(&[])
    }

    /// `settings`: of the server.
    fn with(settings: &[&str]) -> World {
        World::named(&["shop", "shop2"], settings)
    }

    /// `names`: of the database, in the proxy.
    fn named(names: &[&str], settings: &[&str]) -> World {
        World::behind(names, settings, |cluster| cluster.port)
    }

    /// `port`: where the proxy finds that server.
    fn behind(names: &[&str], settings: &[&str], port: impl FnOnce(&Cluster) -> u16) -> World {
        let cluster = Cluster::start_with(settings);
        cluster.execute("postgres", "CREATE DATABASE shop");
        cluster.execute("shop", SCHEMA);
        // Some statements here take their time.
        cluster.execute("postgres", "ALTER ROLE app SET statement_timeout = '60s'");
        let owner = format!("unrestricted = true\nupstream = \"{}\"", cluster.superuser_url("shop"));
        let users = [
            User { name: "one", access: "tenant = \"1\"\nroles = [\"reader\"]" },
            User { name: "clerk", access: "tenant = \"1\"" },
            User { name: "two", access: "tenant = \"2\"\nroles = [\"reader\"]" },
            User { name: "web", access: "tenants = \"*\"\nroles = [\"reader\"]" },
            User { name: "owner", access: &owner },
        ];
        let url = cluster.app_url("shop").replace(&format!(":{}/", cluster.port), &format!(":{}/", port(&cluster)));
        let databases: Vec<_> = names.iter().map(|name| ((*name).to_owned(), url.clone())).collect();
        let setup = Setup::new(&databases, &users, &[("shop.toml", POLICIES)]);
        let text = std::fs::read_to_string(setup.config()).expect("the configuration");
        // Who waits for a connection gives up well before who waits for an answer.
        let more = "[cache]\nmemory_mb = 16\n[limits]\npool_wait = \"10s\"\n";
        std::fs::write(setup.config(), text + more).expect("write the configuration");
        World { proxy: Proxy::start(setup), cluster }
    }

    fn connect(&self, user: &str) -> Wire {
        Wire::connect(&self.proxy.target(user, "shop")).expect("a session")
    }

    /// What the admin port says to `GET /metrics` and its like.
    fn admin(&self, request: &str) -> String {
        let mut socket = std::net::TcpStream::connect(("127.0.0.1", self.proxy.setup.admin_port)).expect("the admin port");
        socket.write_all(format!("{request} HTTP/1.0\r\n\r\n").as_bytes()).expect("ask");
        let mut text = String::new();
        socket.read_to_string(&mut text).expect("an answer");
        text
    }

    /// What the cache has done so far, by `result reason`.
    fn counts(&self) -> BTreeMap<String, u64> {
        let text = self.admin("GET /metrics");
        let labelled = |line: &str, label: &str| line.split(&format!("{label}=\"")).nth(1)?.split('"').next().map(str::to_owned);
        let count = |line: &str| {
            let key = format!("{} {}", labelled(line, "result")?, labelled(line, "reason")?);
            Some((key.trim().to_owned(), line.rsplit(' ').next()?.parse().ok()?))
        };
        text.lines().filter(|l| l.starts_with("bulkhead_cache_requests_total{")).filter_map(count).collect()
    }

    /// The value of a metric, by its name and labels.
    fn metric(&self, name: &str) -> u64 {
        let text = self.admin("GET /metrics");
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0)
    }

    /// What became of one query.
    fn asking(&self, session: &mut Wire, sql: &str) -> String {
        let before = self.counts();
        let answer = session.query(sql);
        assert!(answer.error.is_none(), "{sql}: {:?}", answer.error);
        let after = self.counts();
        let changed = after.iter().filter(|(key, count)| before.get(*key) != Some(count));
        changed.map(|(key, _)| key.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// Whether a write ends a kept answer, which it must where the answer is another then; `write` tells what it did.
    fn changes(&self, reader: &mut Wire, read: &str, ends: bool, write: &mut dyn FnMut() -> String) {
        reader.query(read);
        let before = reader.query(read);
        assert_eq!(self.asking(reader, read), "hit", "{read}");
        let what = write();
        let after = reader.query(read);
        if ends {
            assert_ne!(before.raw, after.raw, "{read}, after {what}");
        } else {
            assert_eq!(before.raw, after.raw, "{read}, after {what}");
            assert_eq!(self.asking(reader, read), "hit", "{read}, after {what}");
        }
    }
}

/// Statements one after another: `BEGIN | .. | COMMIT`.
fn run(session: &mut Wire, sql: &str) -> String {
    for one in sql.split(" | ") {
        let answer = session.query(one);
        assert!(answer.error.is_none(), "{one}: {:?}", answer.error);
    }
    sql.to_owned()
}

#[test]
fn what_is_kept_and_why_not() {
    let world = World::start();
    let mut one = world.connect("one");
    for (sql, expected) in [
        ("SELECT id, note FROM item WHERE id = 1", "fill"),
        ("SELECT id, note FROM item WHERE id = 1", "hit"),
        ("SELECT  id, note FROM item WHERE id = 1", "fill"),
        ("SELECT id, note FROM item WHERE id = 2", "fill"),
        ("SELECT count(*), sum(n), max(lower(i.note)) FROM item i JOIN part USING (id) WHERE id IN (1, 2, 3)", "fill"),
        ("SELECT p.note FROM (SELECT * FROM part) p, word WHERE p.id = word.id", "fill"),
        ("WITH w AS (SELECT id FROM item) SELECT * FROM w ORDER BY 1 LIMIT 2", "fill"),
        ("SELECT id FROM item WHERE at > '2024-01-01'", "fill"),
        ("SELECT date_trunc('day', at), to_char(at, 'YYYY'), at::text FROM item", "fill"),
        ("SELECT id FROM item WHERE id = 99", "fill"),
        ("SELECT id FROM item WHERE id = 99", "hit"),
        ("SELECT id FROM item WHERE at < 'now'", "pass present"),
        ("SELECT id FROM item WHERE at < 'Today'::timestamptz", "pass present"),
        ("SELECT id FROM item WHERE at < now()", "pass function"),
        ("SELECT id FROM item WHERE at < current_timestamp", "pass function"),
        ("SELECT id, random() FROM item", "pass function"),
        ("SELECT own(id) FROM item", "pass function"),
        ("SELECT note::date FROM item WHERE id = 99", "pass type"),
        ("SELECT relname FROM pg_class LIMIT 1", "pass relation"),
        ("SELECT 1", "pass relation"),
        ("SELECT id FROM item WHERE id = 1 FOR UPDATE", "pass locks"),
        ("UPDATE item SET n = n WHERE id = 9", "pass command"),
        ("WITH w AS (UPDATE item SET n = n WHERE id = 9 RETURNING id) SELECT * FROM w", "pass writes"),
        ("SELECT id FROM item; SELECT id FROM item", "pass transaction"),
        ("SHOW search_path", "pass command"),
    ] {
        assert_eq!(world.asking(&mut one, sql), expected, "{sql}");
    }
    one.query("SET default_transaction_isolation = 'repeatable read'");
    assert_eq!(world.asking(&mut one, "SELECT id, note FROM item WHERE id = 2"), "pass isolation");
    one.query("RESET default_transaction_isolation");
    assert_eq!(world.asking(&mut one, "SELECT id, note FROM item WHERE id = 2"), "fill", "an UPDATE came before");
    let failing = "SELECT 1 / (n - n) FROM item WHERE id = 1";
    let before = world.counts();
    assert_eq!(one.query(failing).sqlstate(), "22012");
    assert_eq!(world.counts()["pass answer"], before["pass answer"] + 1);
    let long = "SELECT repeat('x', 1100000), id FROM item WHERE id = 1";
    assert_eq!(world.asking(&mut one, long), "pass size");
    assert_eq!(world.asking(&mut one, long), "pass size");
}

#[test]
fn a_block_at_read_committed_is_answered_as_well() {
    let world = World::start();
    let (mut one, mut other) = (world.connect("one"), world.connect("one"));
    let (read, part) = ("SELECT id, n FROM item WHERE id = 1", "SELECT id, note FROM part ORDER BY id");
    for begin in ["BEGIN", "START TRANSACTION READ ONLY", "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE"] {
        other.query("UPDATE item SET n = n + 1 WHERE id = 1");
        one.query(begin);
        assert_eq!(world.asking(&mut one, read), "fill", "{begin}");
        assert_eq!(world.asking(&mut one, read), "hit", "{begin}");
        let inside = one.query(read);
        assert_eq!(inside.raw.last(), Some(&b'T'), "the block is open");
        let outside = other.query(read);
        assert_eq!(outside.raw.last(), Some(&b'I'));
        assert_eq!(inside.rows().next(), outside.rows().next());
        other.query("UPDATE item SET n = n + 1 WHERE id = 1");
        assert_ne!(one.query(read).rows().next(), inside.rows().next(), "each statement sees what is committed");
        one.query("COMMIT");
    }
    // Its own writes are nobody else's until they are committed, and what it has not written is as for anybody.
    one.query(part);
    one.query("BEGIN");
    one.query("UPDATE item SET n = 70 WHERE id = 1");
    assert_eq!(world.asking(&mut one, read), "pass writing");
    assert_eq!(one.query(read).rows().next().expect("a row")[1], Some(b"70".to_vec()));
    assert_eq!(world.asking(&mut one, part), "hit");
    assert_eq!(world.asking(&mut other, read), "pass writing");
    one.query("SAVEPOINT s");
    assert_eq!(world.asking(&mut one, part), "hit");
    one.query("ROLLBACK");
    assert_eq!(world.asking(&mut one, read), "fill");
    // One snapshot for all: whatever spells it.
    for begin in [
        "BEGIN ISOLATION LEVEL REPEATABLE READ",
        "START TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE",
        "BEGIN | SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "BEGIN | SET transaction_isolation = 'serializable'",
        "BEGIN | BEGIN ISOLATION LEVEL REPEATABLE READ",
        "BEGIN; SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "SET default_transaction_isolation = 'serializable' | BEGIN",
        "BEGIN ISOLATION LEVEL REPEATABLE READ; BEGIN",
        "BEGIN ISOLATION LEVEL REPEATABLE READ | COMMIT AND CHAIN",
    ] {
        other.query(read);
        run(&mut one, begin);
        assert_eq!(world.asking(&mut one, read), "pass isolation", "{begin}");
        let before = one.query(read);
        other.query("UPDATE item SET n = n + 1 WHERE id = 1");
        other.query(read);
        assert_eq!(one.query(read).raw, before.raw, "{begin}");
        run(&mut one, "COMMIT | SET default_transaction_isolation = 'read committed'");
    }
    // What comes with others in a message is not looked at so closely.
    for begin in ["SET default_transaction_isolation = 'repeatable read'; BEGIN", "BEGIN | COMMIT; BEGIN"] {
        run(&mut one, begin);
        assert_eq!(world.asking(&mut one, read), "pass isolation", "{begin}");
        run(&mut one, "COMMIT | SET default_transaction_isolation = 'read committed'");
    }
    // A failed block answers nothing.
    one.query("BEGIN");
    one.query("SELECT nothing");
    assert_eq!(one.query(part).sqlstate(), "25P02");
    one.query("ROLLBACK");
    // Both at once, as drivers send them.
    let begin = Extended { sql: b"BEGIN", ..Extended::default() };
    assert!(one.extended(&begin).error.is_none());
    one.query(part);
    assert_eq!(world.asking(&mut one, part), "hit");
    let what = Extended { sql: part.as_bytes(), ..Extended::default() };
    let first = one.extended(&what);
    assert_eq!(one.extended(&what).raw, first.raw);
    assert_eq!(first.raw.last(), Some(&b'T'));
    one.query("COMMIT");
}

#[test]
fn an_answer_is_for_who_asks_as_he_asks() {
    let world = World::start();
    let mut one = world.connect("one");
    let sql = "SELECT id, note, at FROM item WHERE id = 1";
    assert_eq!(world.asking(&mut one, sql), "fill");
    let kept = one.query(sql);
    assert_eq!(world.asking(&mut one, sql), "hit");
    for user in ["two", "clerk"] {
        let mut other = world.connect(user);
        assert_eq!(world.asking(&mut other, sql), "fill", "{user}");
        assert_eq!(world.asking(&mut other, sql), "hit", "{user}");
    }
    let mut clerk = world.connect("clerk");
    assert_ne!(clerk.query(sql).raw, kept.raw, "masked");
    let mut web = world.connect("web");
    web.query("SET bulkhead.tenant = '1'");
    assert_eq!(world.asking(&mut web, sql), "hit", "the same tenant and roles");
    web.query("SET bulkhead.tenant = '2'");
    assert_eq!(world.asking(&mut web, sql), "hit", "of the other");
    web.query("SET datestyle = 'German'");
    assert_eq!(world.asking(&mut web, sql), "fill");
    web.query("SET timezone = 'Asia/Tokyo'");
    assert_eq!(world.asking(&mut web, sql), "fill");
    web.query("SET statement_timeout = '5s'");
    assert_eq!(world.asking(&mut web, sql), "hit", "what no answer depends on");
    // Not a byte differs.
    let again = one.query(sql);
    assert_eq!(again.raw, kept.raw);
}

#[test]
fn the_extended_protocol_is_answered_as_it_was_asked() {
    let world = World::start();
    let mut one = world.connect("one");
    let asking = |session: &mut Wire, what: &Extended<'_>, prepared: bool| {
        let before = world.counts();
        let answer = if prepared { session.prepared(what, 1) } else { session.extended(what) };
        assert!(answer.error.is_none(), "{answer:?}");
        let after = world.counts();
        let changed = after.iter().filter(|(key, count)| before.get(*key) != Some(count)).map(|(key, _)| key.as_str());
        (changed.collect::<Vec<_>>().join(", "), answer)
    };
    let what = |parameters, result_format| Extended {
        sql: b"SELECT id, note FROM item WHERE id = $1 AND note <> 'x'",
        parameter_types: &[23],
        parameters,
        result_format,
        max_rows: 0,
    };
    let (first, second) = ([Some("1")], [Some("2")]);
    let (fill, filled) = asking(&mut one, &what(&first, 0), false);
    assert_eq!(fill, "fill");
    let (hit, given) = asking(&mut one, &what(&first, 0), false);
    assert_eq!((hit.as_str(), &given.raw), ("hit", &filled.raw));
    let (fill, other) = asking(&mut one, &what(&second, 0), false);
    assert_eq!(fill, "fill", "another value");
    assert_ne!(other.rows().next(), filled.rows().next());
    let (fill, binary) = asking(&mut one, &what(&first, 1), false);
    assert_eq!(fill, "fill", "another format");
    assert_ne!(binary.rows().next(), filled.rows().next());
    assert_eq!(asking(&mut one, &what(&first, 1), false).0, "hit");
    // A named statement of another session, with its own Parse long before.
    let mut again = world.connect("one");
    let (hit, prepared) = asking(&mut again, &what(&first, 0), true);
    assert_eq!((hit.as_str(), prepared.rows().next()), ("hit", filled.rows().next()));
    let (fill, foreign) = asking(&mut world.connect("two"), &what(&first, 0), false);
    assert_eq!(fill, "fill");
    assert_eq!(foreign.rows().count(), 1);
    assert_eq!(asking(&mut one, &Extended { max_rows: 1, ..what(&first, 0) }, false).0, "", "in parts");
    let now =
        Extended { sql: b"SELECT id FROM item WHERE at < $1::timestamptz", parameters: &[Some("now")], ..Extended::default() };
    assert_eq!(asking(&mut one, &now, false).0, "pass present");
    let update = Extended { sql: b"UPDATE item SET note = 'new' WHERE id = 1", ..Extended::default() };
    assert_eq!(asking(&mut one, &update, false).0, "pass command");
    let (fill, new) = asking(&mut one, &what(&first, 0), false);
    assert_eq!(fill, "fill");
    assert_ne!(new.rows().next(), filled.rows().next());
    // What the cache answered leaves the session as the server would: the unnamed statement is there, its portal is not.
    assert_eq!(asking(&mut one, &what(&first, 0), false).0, "hit");
    one.send(b'D', b"S\0").expect("send");
    one.send(b'D', b"P\0").expect("send");
    one.send(b'S', b"").expect("send");
    let kinds: Vec<char> = std::iter::repeat_with(|| char::from(one.receive().expect("a message").kind)).take(4).collect();
    assert_eq!(kinds, ['t', 'T', 'E', 'Z']);
}

/// The read, what is written, whether it ends the answer.
const ROWS: &[(&str, &str, bool)] = &[
    ("SELECT n FROM item WHERE id = 1", "UPDATE item SET n = n + 1 WHERE id = 1", true),
    ("SELECT n FROM item WHERE id = 1", "UPDATE item SET n = n + 1 WHERE id = 2", false),
    ("SELECT n FROM item WHERE id = '1'", "UPDATE item SET n = n + 1 WHERE tenant_id = 1 AND 1 = id", true),
    ("SELECT n FROM item WHERE id = '1'::bigint", "UPDATE item SET n = n + 1 WHERE id = '2'", false),
    ("SELECT n FROM item WHERE id = 1", "UPDATE item SET n = n + 1 WHERE id = '01'", true),
    ("SELECT n FROM item WHERE id = 1", "UPDATE item SET n = n + 1 WHERE id = 1.0", true),
    ("SELECT n FROM item WHERE id = 1", "UPDATE item SET n = n + 1 WHERE id = 2 OR id = 1", true),
    ("SELECT n FROM item WHERE id = 1", "UPDATE item SET n = n + 1 WHERE id < 2", true),
    ("SELECT n FROM item WHERE id = 1 OR id = 2", "UPDATE item SET n = n + 1 WHERE id = 2", true),
    ("SELECT n FROM item WHERE id = 1", "UPDATE item SET n = n + 1 FROM part WHERE item.id = 1 AND part.id = 2", true),
    ("SELECT n FROM item WHERE id = 1", "UPDATE item SET n = n + 1 FROM part WHERE item.id = 2 AND part.id = 1", false),
    ("SELECT n FROM item WHERE id = 1", "UPDATE item SET n = n + 1 FROM part WHERE part.id = 2", true),
    ("SELECT n FROM item WHERE id = 4", "DELETE FROM item WHERE id = 5", false),
    ("SELECT n FROM item WHERE id = 4", "DELETE FROM item WHERE id = 4", true),
    ("SELECT n FROM item WHERE id = 4", "INSERT INTO item (id, n) VALUES (5, 1)", false),
    ("SELECT n FROM item WHERE id = 4", "INSERT INTO item (id, n) VALUES (4, 1)", true),
    ("SELECT n FROM item WHERE id = 61", "INSERT INTO item (id, n) SELECT 61, 1", true),
    ("SELECT n FROM item WHERE id = 4", "INSERT INTO item (id, n) SELECT 62, 1", false),
    ("SELECT count(*) FROM item WHERE id = 63", "INSERT INTO item (id, n) VALUES (63, 1), (64, 1)", true),
    ("SELECT 1 FROM item WHERE id = 65", "INSERT INTO item (id, n) VALUES (66, 1)", false),
    (
        "SELECT n FROM item WHERE id = 4",
        "INSERT INTO item (id, n) VALUES (4, 1) ON CONFLICT (id, tenant_id) DO UPDATE SET n = 9",
        true,
    ),
    (
        "SELECT n FROM item WHERE id = 4",
        "INSERT INTO item (id, n) VALUES (5, 1) ON CONFLICT (id, tenant_id) DO UPDATE SET n = 9",
        false,
    ),
    ("SELECT n FROM item WHERE id = 3", "UPDATE item SET id = 70 WHERE id = 3", true),
    ("SELECT n FROM item WHERE id = 71", "UPDATE item SET id = 71 WHERE id = 70", true),
    ("SELECT sum(n) FROM item", "UPDATE item SET n = n + 1 WHERE id = 2", true),
    (
        "SELECT i.n, p.note FROM item i LEFT JOIN part p ON p.id = i.id WHERE i.id = 1",
        "UPDATE item SET n = n + 1 WHERE id = 2",
        false,
    ),
    (
        "SELECT i.n, p.note FROM item i LEFT JOIN part p ON p.id = i.id WHERE i.id = 1",
        "UPDATE item SET n = n + 1 WHERE id = 1",
        true,
    ),
    (
        "SELECT i.n, p.note FROM item i LEFT JOIN part p ON p.id = i.id WHERE i.id = 1",
        "UPDATE part SET note = note || '.' WHERE id = 1",
        true,
    ),
    ("SELECT sum(i.n) FROM item i FULL JOIN part p ON p.id = i.id AND i.id = 1", "UPDATE item SET n = n + 1 WHERE id = 2", true),
    (
        "SELECT (SELECT max(n) FROM item WHERE id = p.id) FROM part p WHERE p.id = 2",
        "UPDATE item SET n = n + 100 WHERE id = 2",
        true,
    ),
    ("SELECT (SELECT max(n) FROM item WHERE id = 1), n FROM item WHERE id = 2", "UPDATE item SET n = n + 100 WHERE id = 1", true),
    ("SELECT a.n, b.n FROM item a, item b WHERE a.id = 1 AND b.id = 2", "UPDATE item SET n = n + 100 WHERE id = 2", true),
    ("SELECT tenant_id FROM item AS i (tenant_id, n, id) WHERE i.id = 500", "UPDATE item SET n = 500 WHERE id = 2", true),
    ("SELECT n FROM gen WHERE id = 20", "UPDATE gen SET a = 2 WHERE id = 10", true),
    ("SELECT code FROM genchild WHERE id = 1", "UPDATE genu SET a = 7 WHERE id = 1", true),
    (
        "SELECT code FROM genchild WHERE id = 1",
        "INSERT INTO genu (id, a) VALUES (1, 7) ON CONFLICT (id) DO UPDATE SET a = 50",
        true,
    ),
    (
        "SELECT n FROM twice WHERE name = 'abc'",
        "INSERT INTO twice (name) VALUES ('ABC') ON CONFLICT (name, tenant_id) DO UPDATE SET n = 7",
        true,
    ),
    (
        "SELECT n FROM partly WHERE name = 'abc'",
        "INSERT INTO partly (name) VALUES ('ABC') ON CONFLICT (tenant_id, name) WHERE n >= 0 DO UPDATE SET n = 7",
        true,
    ),
    ("SELECT n FROM elder WHERE id = 1", "INSERT INTO heir (id, n) VALUES (1, 5)", true),
    ("SELECT note FROM part WHERE id = 1", "UPDATE part SET note = note || '.' WHERE id = 1", true),
    ("SELECT note FROM part WHERE id = 1", "UPDATE part SET note = note || '.' WHERE id = 2", false),
    ("SELECT n FROM coded WHERE id = 1", "UPDATE coded SET n = n + 1 WHERE id = 2", false),
    ("SELECT n FROM coded WHERE id = 1", "UPDATE coded SET n = n + 1 WHERE code = 11", true),
    ("SELECT n FROM coded WHERE code = 11", "UPDATE coded SET n = n + 1 WHERE id = 1", true),
    ("SELECT code FROM by_code WHERE n = 1", "UPDATE coded SET n = n + 1 WHERE id = 1", false),
    ("SELECT code FROM by_code WHERE n = 1", "UPDATE coded SET code = 21 WHERE id = 1", true),
    (
        "SELECT n FROM coded WHERE id = 1",
        "INSERT INTO coded (id, code) VALUES (9, 21) ON CONFLICT (code) DO UPDATE SET n = 77",
        true,
    ),
    ("SELECT n FROM named WHERE name = 'name 1'", "UPDATE named SET n = n + 1 WHERE name = 'name 1'", true),
    ("SELECT n FROM named WHERE name = 'name 1'", "UPDATE named SET n = n + 1 WHERE name = 'name 2'", false),
    ("SELECT n FROM named WHERE name = 'name 1'", "UPDATE named SET n = n + 1 WHERE name = E'name\\x201'", true),
    ("SELECT n FROM named WHERE name = 'it''s'", "INSERT INTO named (name) VALUES ('it''s')", true),
    ("SELECT n FROM loosely WHERE name = 'ABC'", "UPDATE loosely SET n = n + 1 WHERE name = 'abc'", true),
    ("SELECT n FROM short WHERE name = 'ab'", "INSERT INTO short (name) VALUES ('ab     ')", false),
    ("SELECT n FROM short WHERE name = 'abc'", "INSERT INTO short (name) VALUES ('abc     ')", true),
    ("SELECT n FROM counted WHERE id = 1", "INSERT INTO counted (id, n) OVERRIDING USER VALUE VALUES (5, 5)", true),
    (
        "SELECT n FROM unique_id WHERE id = 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",
        "UPDATE unique_id SET n = n + 1 WHERE id = 'A0EEBC999C0B4EF8BB6D6BB9BD380A11'",
        true,
    ),
    (
        "SELECT n FROM unique_id WHERE id = 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",
        "UPDATE unique_id SET n = n + 1 WHERE id = 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12'",
        false,
    ),
];

#[test]
fn a_row_is_read_until_it_changes() {
    let world = World::start();
    let (mut reader, mut writer) = (world.connect("one"), world.connect("one"));
    for (read, write, ends) in ROWS {
        world.changes(&mut reader, read, *ends, &mut || run(&mut writer, write));
    }
    // The same by parameters.
    for (value, types, ends) in [
        ("1", &[][..], true),
        ("2", &[], false),
        ("1", &[20], true),
        ("2", &[21], false),
        (" 1", &[], true),
        ("1", &[1700], true),
        ("1.0", &[1700], true),
    ] {
        world.changes(&mut reader, "SELECT n FROM item WHERE id = 1", ends, &mut || {
            let parameters = [Some(value)];
            let sql = &b"UPDATE item SET n = n + 1 WHERE id = $1"[..];
            let what = Extended { sql, parameter_types: types, parameters: &parameters, ..Extended::default() };
            assert!(writer.extended(&what).error.is_none());
            format!("{value} as {types:?}")
        });
    }
}

#[test]
fn a_write_ends_what_it_changes_and_no_more() {
    let world = World::start();
    let (mut reader, mut writer) = (world.connect("one"), world.connect("one"));
    let (mut foreign, mut owner, mut web) = (world.connect("two"), world.connect("owner"), world.connect("web"));
    let item = "SELECT id, n, note FROM item ORDER BY id";
    let child = "SELECT id FROM child ORDER BY id";
    let seen = "SELECT id FROM seen ORDER BY id";
    let part = "SELECT id, note FROM part ORDER BY id";
    let word = "SELECT text FROM word";
    for (read, sql) in [
        (item, "UPDATE item SET n = n + 1 WHERE id = 1"),
        (item, "INSERT INTO item (id, n) VALUES (20, 5)"),
        (item, "DELETE FROM item WHERE id = 20"),
        (item, "BEGIN | UPDATE item SET n = n + 1 WHERE id = 1 | COMMIT"),
        (item, "BEGIN | SAVEPOINT s | UPDATE item SET n = n + 1 WHERE id = 1 | RELEASE s | SELECT 1 | COMMIT"),
        (item, "UPDATE part SET note = 'x' WHERE id = 1; UPDATE item SET n = n + 1 WHERE id = 1"),
        (item, "WITH w AS (UPDATE item SET n = n + 1 RETURNING id) SELECT count(*) FROM w"),
        (item, "PREPARE p AS UPDATE item SET n = n + $1 | EXECUTE p(3) | DEALLOCATE p"),
        (item, "SELECT note_it(1)"),
        (item, "INSERT INTO item (id, n) VALUES (1, 5) ON CONFLICT (tenant_id, id) DO UPDATE SET n = item.n + 7"),
        (child, "DELETE FROM item WHERE id = 9"),
        (child, "UPDATE child SET id = id + 1000 WHERE id = 101"),
        (seen, "INSERT INTO watched VALUES (1, 1)"),
        (part, "UPDATE part SET note = note || '.' WHERE id = 1"),
    ] {
        world.changes(&mut reader, read, true, &mut || run(&mut writer, sql));
    }
    writer.copy_data = Some(b"50\t1\n".to_vec());
    world.changes(&mut reader, item, true, &mut || run(&mut writer, "COPY item (id, n) FROM STDIN"));
    for sql in ["UPDATE item SET n = n + 10 WHERE id = 2", "UPDATE item SET n = n + 10 WHERE id = 2 RETURNING n"] {
        world.changes(&mut reader, item, true, &mut || {
            let what = Extended { sql: sql.as_bytes(), ..Extended::default() };
            assert!(writer.extended(&what).error.is_none());
            format!("{sql}, extended")
        });
    }
    world.changes(&mut reader, item, true, &mut || {
        run(&mut web, "SET bulkhead.tenant = '1' | UPDATE item SET n = n + 1 WHERE id = 1 | SET bulkhead.tenant = '2'")
    });
    world.changes(&mut reader, word, true, &mut || run(&mut owner, "UPDATE word SET text = text || '!'"));
    world.changes(&mut reader, part, true, &mut || run(&mut owner, "UPDATE part_1 SET note = note || '!'"));
    world.changes(&mut reader, item, true, &mut || run(&mut owner, "BEGIN | UPDATE item SET n = n + 1 | COMMIT"));
    // What writes hides in a function, in a view, in one of this session's own that has a table's name.
    run(&mut owner, "CREATE VIEW hidden AS SELECT note_it(1) AS n");
    for sql in [
        "UPDATE item SET n = 1 | SELECT note_it(1)",
        "UPDATE item SET n = 1 | SELECT n FROM hidden",
        "UPDATE item SET n = 1 | CREATE TEMP VIEW word AS SELECT note_it(1) AS text | SELECT text FROM word | DROP VIEW pg_temp.word",
    ] {
        let (prepare, write) = sql.split_once(" | ").expect("two parts");
        run(&mut owner, prepare);
        world.changes(&mut reader, item, true, &mut || run(&mut owner, write));
    }
    world.changes(&mut reader, item, true, &mut || run(&mut owner, "TRUNCATE item CASCADE"));
    run(&mut owner, "INSERT INTO item (tenant_id, id) VALUES (1, 1), (2, 1)");
    world.changes(&mut reader, item, true, &mut || {
        run(&mut owner, "ALTER TABLE item RENAME note TO remark | ALTER TABLE item ADD note text DEFAULT 'new'")
    });
    let reads = "SELECT 1 | SHOW search_path | SET work_mem = '8MB' | BEGIN | SELECT count(*) FROM pg_catalog.pg_class | COMMIT";
    world.changes(&mut reader, item, false, &mut || run(&mut owner, reads));
    // What others do, and what changes nothing.
    for (user, sql) in [
        ("two", "UPDATE item SET n = n + 1 WHERE id = 1"),
        ("two", "INSERT INTO item (id, n) VALUES (77, 1)"),
        ("one", "SELECT count(*) FROM item"),
        ("one", "UPDATE part SET note = 'other table' WHERE id = 1"),
        ("one", "BEGIN | SELECT 1 | COMMIT"),
    ] {
        let session = if user == "one" { &mut writer } else { &mut foreign };
        world.changes(&mut reader, item, false, &mut || run(session, sql));
    }
}

/// Each was found by looking for a way round what is known of writes.
#[test]
fn no_write_hides() {
    let world = World::start();
    let (mut reader, mut writer, mut owner) = (world.connect("one"), world.connect("one"), world.connect("owner"));
    let item = "SELECT id, n FROM item ORDER BY id";
    for sql in [
        "COPY (UPDATE item SET n = 50 WHERE id = 1 RETURNING id) TO STDOUT",
        "COPY (WITH w AS (UPDATE item SET n = 50 WHERE id = 1 RETURNING id) SELECT * FROM w) TO STDOUT",
        "COPY (SELECT note_it(1)) TO STDOUT",
        "BEGIN | DECLARE c CURSOR FOR SELECT note_it(1) | FETCH 1 FROM c | COMMIT",
        "BEGIN | DECLARE c CURSOR WITH HOLD FOR SELECT note_it(1) | COMMIT | CLOSE c",
        "SELECT stable_note(1)",
        "SELECT pure_note(id) FROM item WHERE id = 1",
        "SELECT noted(k) FROM (VALUES (1)) v (k)",
        "INSERT INTO by_domain (id) VALUES (1)",
        "INSERT INTO by_index (id) VALUES (1)",
        "INSERT INTO by_check (id) VALUES (1)",
        "INSERT INTO by_column (id) VALUES (1)",
        "INSERT INTO by_default (id) VALUES (1)",
        "INSERT INTO by_policy (id) VALUES (1)",
        "INSERT INTO op_default (id) VALUES (1)",
        "INSERT INTO op_check (id) VALUES (1)",
        "INSERT INTO by_domain_default (id) VALUES (1)",
        "UPDATE by_domain_default SET v = DEFAULT",
    ] {
        run(&mut owner, "UPDATE item SET n = 0");
        world.changes(&mut reader, item, true, &mut || run(&mut writer, sql));
    }
    // Of an unrestricted user, too.
    for sql in ["SELECT pure_note(1)", "SELECT noted(1)", "SELECT 1::noting", "COPY (SELECT note_it(1)) TO STDOUT"] {
        run(&mut owner, "UPDATE item SET n = 0");
        world.changes(&mut reader, item, true, &mut || run(&mut owner, sql));
    }
    // What is not kept, since what it depends on is not known.
    for (sql, expected) in [
        ("SELECT note FROM father", "pass relation"),
        ("SELECT id FROM by_policy", "pass relation"),
        ("SELECT id FROM brief", "pass relation"),
        ("SELECT at FROM zoned", "pass type"),
        ("SELECT xmax FROM item WHERE id = 1", "pass relation"),
        ("SELECT at AT TIME ZONE 'Asia/Tokyo' FROM timed WHERE id = 1", "fill"),
        ("SELECT '04:05'::time AT TIME ZONE 'America/New_York' FROM item WHERE id = 1", "pass function"),
        ("SELECT id FROM item WHERE at < E'\\x6eow'", "pass present"),
        ("SELECT id FROM item WHERE at < U&'\\006eow'", "pass present"),
        ("SELECT id FROM item WHERE at < 'no'\n'w'", "pass present"),
        ("SELECT id FROM item WHERE at < ANY ('{\"now\"}')", "pass present"),
    ] {
        assert_eq!(world.asking(&mut reader, sql), expected, "{sql}");
    }
    let mut now = Vec::new();
    put(&mut now, b'P', b"\0SELECT id FROM item WHERE at < $1::timestamptz\0\0\x01\0\0\0\x19");
    put(&mut now, b'B', b"\0\0\0\x01\0\x01\0\x01\0\0\0\x03now\0\0");
    put(&mut now, b'E', b"\0\0\0\0\0");
    put(&mut now, b'S', b"");
    let before = world.counts();
    reader.send_raw(&now).expect("send");
    assert!(reader.answer().error.is_none());
    assert_eq!(world.counts()["pass present"], before["pass present"] + 1, "a text in binary format");
}

fn put(out: &mut Vec<u8>, kind: u8, body: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(body);
}

/// A statement that was planned before definitions changed writes by the new ones.
#[test]
fn what_was_planned_before_definitions_changed_is_waited_for() {
    let world = World::start();
    let (mut reader, mut writer, mut owner) = (world.connect("one"), world.connect("one"), world.connect("owner"));
    let mut keeper = Wire::connect(&world.cluster.superuser("shop")).expect("a session");
    let read = "SELECT count(*) FROM seen";
    run(&mut owner, "BEGIN | CREATE TRIGGER saw AFTER INSERT ON part FOR EACH ROW EXECUTE FUNCTION saw()");
    run(&mut writer, "BEGIN");
    writer.send(b'Q', b"INSERT INTO part (id, note) VALUES (100, 'x')\0").expect("send");
    let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'relation' AND NOT granted";
    wait_until(|| keeper.query(waiting).scalar() == Some("1".into()));
    run(&mut owner, "COMMIT");
    assert!(writer.answer().error.is_none());
    assert_eq!(world.asking(&mut reader, read), "pass writing");
    run(&mut writer, "COMMIT");
    assert_eq!(reader.query(read).scalar().as_deref(), Some("1"));
    wait_until(|| world.asking(&mut reader, read) == "hit");
    assert_eq!(reader.query(read).scalar().as_deref(), Some("1"));
}

/// An owner's COPY ends with its own ReadyForQuery.
#[test]
fn an_unrestricted_users_copy_ends() {
    let world = World::start();
    let (mut reader, mut owner) = (world.connect("one"), world.connect("owner"));
    owner.copy_data = Some(b"2\ttwo\n".to_vec());
    run(&mut owner, "COPY word FROM STDIN");
    assert_eq!(world.asking(&mut reader, "SELECT text FROM word WHERE id = 2"), "fill");
}

/// What new sessions start with is part of an answer.
#[test]
fn settings_of_the_role_end_answers() {
    let world = World::start();
    let (mut reader, mut owner) = (world.connect("one"), world.connect("owner"));
    let read = "SELECT at FROM item WHERE id = 1";
    reader.query(read);
    assert_eq!(reader.query(read).scalar().as_deref(), Some("2024-01-01 12:00:00+00"));
    run(&mut owner, "ALTER ROLE app SET timezone = 'Asia/Tokyo'");
    reader.query(read);
    wait_until(|| reader.query(read).scalar().as_deref() == Some("2024-01-01 21:00:00+09"));
    // Past the proxy, in the configuration file.
    let mut keeper = Wire::connect(&world.cluster.superuser("shop")).expect("a session");
    run(&mut keeper, "ALTER SYSTEM SET datestyle = 'German' | SELECT pg_reload_conf()");
    wait_until(|| reader.query(read).scalar().as_deref() == Some("01.01.2024 21:00:00 JST"));
    run(&mut keeper, "ALTER ROLE app SET default_transaction_isolation = 'serializable'");
    wait_until(|| world.asking(&mut reader, read) == "pass isolation");
}

#[test]
fn what_is_being_written_is_read_from_the_server() {
    let world = World::start();
    let (mut reader, mut writer) = (world.connect("one"), world.connect("one"));
    let read = "SELECT n FROM item WHERE id = 1";
    assert_eq!(world.asking(&mut reader, read), "fill");
    writer.query("BEGIN");
    writer.query("UPDATE item SET n = 5 WHERE id = 1");
    assert_eq!(world.asking(&mut reader, read), "pass writing");
    assert_eq!(world.asking(&mut writer, read), "pass writing", "its own rows");
    assert_eq!(writer.query(read).scalar().as_deref(), Some("5"));
    writer.query("ROLLBACK");
    assert_eq!(world.asking(&mut reader, read), "fill");
    assert_eq!(reader.query(read).scalar().as_deref(), Some("0"));
}

#[test]
fn it_is_emptied_and_looked_into() {
    let world = World::start();
    let (mut one, mut two) = (world.connect("one"), world.connect("two"));
    let (row, part) = ("SELECT id, n FROM item WHERE id = 1", "SELECT id, note FROM part ORDER BY id");
    let all = |one: &mut Wire, two: &mut Wire| {
        let both = |session: &mut Wire| [row, part].map(|sql| world.asking(session, sql));
        let ([a, b], [c, d]) = (both(one), both(two));
        [a, b, c, d]
    };
    for (purge, expected) in [
        ("", ["fill", "fill", "fill", "fill"]),
        ("?tenant=1", ["fill", "fill", "hit", "hit"]),
        ("?table=public.item", ["fill", "hit", "fill", "hit"]),
        ("?tenant=2", ["hit", "hit", "fill", "fill"]),
        ("?table=part&tenant=2&database=shop", ["hit", "hit", "hit", "fill"]),
        ("?database=shop", ["fill", "fill", "fill", "fill"]),
    ] {
        all(&mut one, &mut two);
        let answer = world.admin(&format!("POST /cache/purge{purge}"));
        assert!(answer.contains("200 OK") && answer.contains("\"bytes_freed\": "), "{answer}");
        assert_eq!(all(&mut one, &mut two), expected, "{purge}");
    }
    for (purge, expected) in [
        ("?table=nothing", "there is no table \"public.nothing\""),
        ("?database=nothing", "there is no database \"nothing\""),
        ("?tenent=1", "unknown field `tenent`"),
    ] {
        let answer = world.admin(&format!("POST /cache/purge{purge}"));
        assert!(answer.contains(expected) && !answer.contains("200 OK"), "{answer}");
    }
    let word = "SELECT text FROM word";
    one.query(word);
    two.query(word);
    world.admin("POST /cache/purge?tenant=1");
    assert_eq!((world.asking(&mut one, word).as_str(), world.asking(&mut two, word).as_str()), ("fill", "hit"));
    one.query("SELECT id, n FROM item WHERE id = 1 AND n::bit(4) <> b'1011'");
    all(&mut one, &mut two);
    let report = world.admin("GET /cache");
    assert!(!report.contains("1011"), "no constants: {report}");
    for expected in ["\"tenant\": \"1\"", "\"statement\": \"SELECT item.id AS id, item.n AS n FROM public.item item WHERE"] {
        assert!(report.contains(expected), "{report}");
    }
    assert!(!report.contains("= 1\""), "no literals");
    let metrics = world.admin("GET /metrics");
    assert!(metrics.contains("bulkhead_cache_answers 7"), "{metrics}");
}

/// Everything that comes up to ReadyForQuery.
fn batch(session: &mut Wire, messages: &[u8]) -> support::answer::Answer {
    session.send_raw(messages).expect("send");
    session.answer()
}

#[test]
fn settings_say_what_a_text_means() {
    let world = World::start();
    let (mut a, mut b) = (world.connect("one"), world.connect("one"));
    // DateStyle keeps what it is not told.
    let read = "SELECT d, at FROM timed WHERE id = 1";
    for (first, then, alone) in
        [("German", "DMY", "DMY"), ("SQL, DMY", "MDY", "MDY"), ("DMY", "SQL", "SQL"), ("SQL", "DMY", "DMY")]
    {
        run(&mut a, &format!("SET datestyle = '{first}' | SET datestyle = '{then}'"));
        run(&mut b, &format!("SET datestyle = '{alone}'"));
        let (one, two) = (a.query(read), b.query(read));
        for (session, answer) in [(&mut a, &one), (&mut b, &two)] {
            let fresh = session.query(format!("{read} /* bulkhead: no-cache */"));
            assert_eq!(answer.rows().next(), fresh.rows().next(), "{first}, then {then}");
        }
        assert_ne!(one.rows().next(), two.rows().next(), "{first}, then {then}, is not {alone}");
        run(&mut a, "RESET datestyle");
        run(&mut b, "RESET datestyle");
    }
    // Words that only the server understands.
    for (first, then) in [("default, DMY", "ISO"), ("\"ISO\", DMY", "ISO"), ("DMY, default", "SQL")] {
        a.query(format!("SET datestyle = '{first}'"));
        a.query(format!("SET datestyle = '{then}'"));
        run(&mut b, &format!("SET datestyle = '{then}'"));
        for session in [&mut a, &mut b] {
            let kept = session.query("SELECT d, '01/02/2024'::date - '2024-01-01' FROM timed WHERE id = 1");
            let fresh =
                session.query("SELECT d, '01/02/2024'::date - '2024-01-01' FROM timed WHERE id = 1 /* bulkhead: no-cache */");
            assert_eq!(kept.rows().next(), fresh.rows().next(), "{first}, then {then}");
        }
        let mut other = world.connect("two");
        run(&mut other, &format!("SET datestyle = '{then}'"));
        let expected = format!("{}, MDY", if then == "ISO" { "ISO" } else { "SQL" });
        assert_eq!(other.query("SHOW datestyle").scalar(), Some(expected), "after {first}, then {then}, of another");
        run(&mut a, "RESET datestyle");
        run(&mut b, "RESET datestyle");
    }
    // Constants are read by the settings of who prepares.
    let text = b"SELECT id FROM timed WHERE at = '2024-01-01 12:00'";
    let (mut prepare, mut bind, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    support::wire::put_parse(&mut prepare, "s", text, &[]);
    put(&mut prepare, b'S', b"");
    for (out, name) in [(&mut bind, "s"), (&mut whole, "")] {
        if name.is_empty() {
            support::wire::put_parse(out, "", text, &[]);
        }
        support::wire::put_bind(out, "", name, &[], 0);
        put(out, b'D', b"P\0");
        support::wire::put_execute(out, "", 0);
        put(out, b'S', b"");
    }
    run(&mut a, "SET timezone = 'UTC'");
    batch(&mut a, &prepare);
    assert_eq!(batch(&mut a, &bind).scalar().as_deref(), Some("1"));
    run(&mut a, "SET timezone = 'Asia/Tokyo'");
    batch(&mut a, &bind);
    run(&mut b, "SET timezone = 'Asia/Tokyo'");
    assert_eq!(batch(&mut b, &whole).scalar().as_deref(), Some("2"), "noon in Tokyo");
    assert_eq!(batch(&mut b, &whole).scalar().as_deref(), Some("2"));
}

#[test]
fn a_hit_leaves_the_block_as_it_is() {
    let world = World::start();
    let mut one = world.connect("one");
    let part = Extended { sql: b"SELECT id, note FROM part ORDER BY id", ..Extended::default() };
    one.extended(&part);
    run(&mut one, "BEGIN");
    let mut open = Vec::new();
    support::wire::put_parse(&mut open, "s", b"SELECT id FROM item ORDER BY id", &[]);
    support::wire::put_bind(&mut open, "c", "s", &[], 0);
    support::wire::put_execute(&mut open, "c", 1);
    put(&mut open, b'S', b"");
    assert_eq!(batch(&mut one, &open).scalar().as_deref(), Some("1"));
    let before = world.counts();
    one.extended(&part);
    assert_eq!(world.counts()["hit"], before["hit"] + 1);
    let mut more = Vec::new();
    support::wire::put_execute(&mut more, "c", 1);
    put(&mut more, b'S', b"");
    assert_eq!(batch(&mut one, &more).scalar().as_deref(), Some("2"), "a portal stays open");
    run(&mut one, "COMMIT");
    // The server ends blocks that it hears nothing of.
    let read = "SELECT id, note FROM part ORDER BY id";
    one.query(read);
    for set in ["SET idle_in_transaction_session_timeout = '1min'", "RESET idle_in_transaction_session_timeout"] {
        run(&mut one, &format!("{set} | BEGIN"));
        let expected = if set.starts_with("SET") { "pass isolation" } else { "hit" };
        assert_eq!(world.asking(&mut one, read), expected, "{set}");
        run(&mut one, "COMMIT");
    }
}

#[test]
fn what_a_crash_has_lost_is_not_given_for_long() {
    let mut world = World::with(&["wal_writer_delay = '10s'", "synchronous_commit = off"]);
    let mut one = world.connect("one");
    let read = "SELECT n FROM item WHERE id = 1";
    world.cluster.execute("postgres", "CHECKPOINT");
    run(&mut one, "UPDATE item SET n = 5000 WHERE id = 1");
    assert_eq!(one.query(read).scalar().as_deref(), Some("5000"));
    assert_eq!(world.asking(&mut one, read), "hit");
    world.cluster.crash();
    world.cluster.boot();
    let now = Wire::connect(&world.cluster.superuser("shop"))
        .expect("a session")
        .query("SELECT n FROM item WHERE tenant_id = 1 AND id = 1")
        .scalar();
    let begun = Instant::now();
    let mut other = world.connect("one");
    while other.query(read).scalar() != now {
        assert!(begun.elapsed() < Duration::from_secs(20), "{now:?} is never given");
    }
}

#[test]
fn a_backend_that_is_killed_takes_lost_commits_along() {
    lose_commits(false);
}

/// A server that recovers for long refuses those who ask again and again.
#[test]
fn a_server_that_was_asked_in_vain_has_lost_commits_all_the_same() {
    lose_commits(true);
}

/// `refused`: the proxy does not get in at first.
fn lose_commits(refused: bool) {
    // Under a second name it would be looked at by two.
    let world = World::named(&["shop"], &["wal_writer_delay = '10s'", "synchronous_commit = off"]);
    let mut one = world.connect("one");
    let mut idle = Wire::connect(&world.cluster.superuser("shop")).expect("a session");
    let pid = idle.query("SELECT pg_backend_pid()").scalar().expect("a number");
    let mut witness = Wire::connect(&world.cluster.superuser("shop")).expect("a session");
    let read = "SELECT n FROM item WHERE id = 1";
    world.cluster.execute("postgres", if refused { "ALTER ROLE app NOLOGIN" } else { "ALTER ROLE app LOGIN" });
    world.cluster.execute("postgres", "CHECKPOINT");
    run(&mut one, "UPDATE item SET n = 5000 WHERE id = 1");
    assert_eq!(one.query(read).scalar().as_deref(), Some("5000"));
    assert!(std::process::Command::new("kill").args(["-KILL", &pid]).status().expect("kill runs").success());
    let begun = Instant::now();
    let wait = |what| assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
    // The server ends every session before it recovers: who asks earlier still hears what is about to be lost.
    while witness.query("SELECT 1").scalar().is_some() {
        wait("the server goes on");
    }
    let now = loop {
        let direct = Wire::connect(&world.cluster.superuser("shop"));
        let number = direct.ok().and_then(|mut d| d.query("SELECT n FROM item WHERE tenant_id = 1 AND id = 1").scalar());
        if let Some(number) = number {
            break number;
        }
        wait("no recovery");
    };
    if refused {
        while !world.admin("GET /health").contains("\"upstream\":\"down\"") {
            wait("the proxy does not ask");
        }
        world.cluster.execute("postgres", "ALTER ROLE app LOGIN");
    }
    let mut other = world.connect("one");
    while other.query(read).scalar().as_ref() != Some(&now) {
        wait("what was lost is given for ever");
    }
}

/// Asynchronous replication: the standby that is promoted never had what was told to be committed.
#[test]
fn a_standby_that_takes_over_ends_what_it_never_had() {
    let mut relay = None;
    let mut world = World::behind(&["shop"], &[], |cluster| relay.insert(Relay::start(cluster.port)).port);
    let relay = relay.expect("a relay");
    let standby = world.cluster.standby();
    let mut one = world.connect("one");
    let read = "SELECT n FROM item WHERE id = 1";
    run(&mut one, "UPDATE item SET n = 5000 WHERE id = 1");
    assert_eq!(one.query(read).scalar().as_deref(), Some("5000"));
    assert_eq!(world.asking(&mut one, read), "hit");
    standby.execute("postgres", "SELECT pg_promote()");
    world.cluster.crash();
    relay.switch(standby.port);
    let begun = Instant::now();
    let mut other = world.connect("one");
    while other.query(read).scalar().as_deref() != Some("0") {
        assert!(begun.elapsed() < Duration::from_secs(60), "what was lost is given for ever");
    }
    // And it serves: what is written there ends what is kept.
    run(&mut other, "UPDATE item SET n = 7 WHERE id = 1");
    wait_until(|| {
        assert_eq!(other.query(read).scalar().as_deref(), Some("7"));
        world.asking(&mut other, read) == "hit"
    });
}

/// By what became of a transaction is found out (its process is gone) would be a lie of the pooler's.
#[test]
fn an_upstream_that_is_a_pooler_is_refused() {
    let cluster = Cluster::start();
    cluster.execute("postgres", "CREATE DATABASE shop");
    let relay = Relay::disguised(cluster.port);
    let url = cluster.app_url("shop").replace(&format!(":{}/", cluster.port), &format!(":{}/", relay.port));
    let setup = Setup::new(&[("shop".to_owned(), url)], &[User { name: "one", access: "tenant = \"1\"" }], &[]);
    let text = std::fs::read_to_string(setup.config()).expect("the configuration");
    std::fs::write(setup.config(), text + "[cache]\nmemory_mb = 16\n").expect("write the configuration");
    let output = setup.run(&["serve"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && told.contains("this is a pooler"), "{told}");
}

/// Functions and foreign tables of one database reach another, whose answers this process has as well.
#[test]
fn what_is_written_by_way_of_another_database_ends_answers_too() {
    let cluster = Cluster::start();
    for name in ["shop", "reports"] {
        cluster.execute("postgres", &format!("CREATE DATABASE {name}"));
    }
    let item = "CREATE TABLE item (tenant_id int NOT NULL, id int, n int NOT NULL DEFAULT 0, PRIMARY KEY (tenant_id, id)); GRANT ALL ON item TO app;";
    cluster.execute("shop", &format!("{item} INSERT INTO item SELECT 1, g FROM generate_series(1, 9) g"));
    let host = cluster.superuser_url("shop").split_once("host=").expect("a host").1.split('&').next().expect("one").to_owned();
    let port = cluster.port;
    let setting = format!("host ''{host}'', port ''{port}'', dbname ''shop''");
    cluster.execute(
        "reports",
        &format!(
            "CREATE EXTENSION postgres_fdw; CREATE EXTENSION dblink;
            CREATE SERVER shop FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({});
            CREATE USER MAPPING FOR app SERVER shop OPTIONS (user 'postgres', password_required 'false');
            CREATE USER MAPPING FOR postgres SERVER shop OPTIONS (user 'postgres');
            CREATE TABLE split (tenant_id int NOT NULL, id int, n int NOT NULL) PARTITION BY LIST (tenant_id);
            CREATE FOREIGN TABLE split_1 PARTITION OF split FOR VALUES IN (1) SERVER shop OPTIONS (table_name 'item');
            {item} INSERT INTO item VALUES (1, 1);
            CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
                PERFORM dblink_exec('host={host} port={port} dbname=shop user=postgres', 'UPDATE item SET n = n + 1'); RETURN NEW; END $$;
            CREATE TRIGGER tell AFTER UPDATE ON item FOR EACH ROW EXECUTE FUNCTION tell();
            GRANT ALL ON ALL TABLES IN SCHEMA public TO app; GRANT USAGE ON FOREIGN SERVER shop TO app",
            setting.replace("''", "'")
        ),
    );
    let owner = format!("unrestricted = true\nupstream = \"{}\"", cluster.superuser_url("reports"));
    let users = [User { name: "one", access: "tenant = \"1\"" }, User { name: "owner", access: &owner }];
    let table = |name: &str| format!("[[table]]\nname = 'public.{name}'\nscope = 'tenant'\ntenant_column = 'tenant_id'\n");
    let databases = ["shop", "reports"].map(|name| (name.to_owned(), cluster.app_url(name)));
    let reports = "database = 'reports'\n".to_owned() + &table("split");
    let files = [("all.toml", table("item")), ("reports.toml", reports)];
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let setup = Setup::new(&databases, &users, &files);
    let text = std::fs::read_to_string(setup.config()).expect("the configuration");
    std::fs::write(setup.config(), text + "[cache]\nmemory_mb = 16\n").expect("write the configuration");
    let world = World { proxy: Proxy::start(setup), cluster };
    let connect = |user: &str, database: &str| Wire::connect(&world.proxy.target(user, database)).expect("a session");
    let (mut reader, mut tenant, mut owner) = (connect("one", "shop"), connect("one", "reports"), connect("owner", "reports"));
    let read = "SELECT n FROM item WHERE id = 1";
    for (writer, write) in
        [(&mut tenant, "UPDATE split SET n = n + 1 WHERE id = 1"), (&mut owner, "UPDATE split SET n = n + 1 WHERE id = 1")]
    {
        world.changes(&mut reader, read, true, &mut || run(writer, write));
    }
    world.changes(&mut reader, read, true, &mut || run(&mut tenant, "UPDATE item SET n = n + 1 WHERE id = 1"));
}

/// Whoever makes or drops a temporary table runs event triggers.
#[test]
fn event_triggers_write_too() {
    let cluster = Cluster::start();
    cluster.execute("postgres", "CREATE DATABASE shop");
    cluster.execute(
        "shop",
        "CREATE TABLE made (tenant_id int NOT NULL, tag text); GRANT ALL ON made TO app;
        CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS
            $$ BEGIN INSERT INTO public.made VALUES (1, tg_tag); END $$;
        CREATE EVENT TRIGGER noted ON ddl_command_end EXECUTE FUNCTION note()",
    );
    let policies = "[[table]]\nname = 'public.made'\nscope = 'tenant'\ntenant_column = 'tenant_id'\n\
        [[temporary]]\nname = 'picked'\ncolumns = 'id int'\n";
    let users = [User { name: "one", access: "tenant = \"1\"" }];
    let setup = Setup::new(&[("shop".to_owned(), cluster.app_url("shop"))], &users, &[("shop.toml", policies)]);
    let text = std::fs::read_to_string(setup.config()).expect("the configuration");
    std::fs::write(setup.config(), text + "[cache]\nmemory_mb = 16\n").expect("write the configuration");
    let world = World { proxy: Proxy::start(setup), cluster };
    let (mut reader, mut writer) = (world.connect("one"), world.connect("one"));
    for write in
        ["CREATE TEMPORARY TABLE picked (id int)", "DROP TABLE picked", "CREATE TEMPORARY TABLE picked AS SELECT 1 AS id"]
    {
        world.changes(&mut reader, "SELECT count(*) FROM made", true, &mut || run(&mut writer, write));
    }
}

/// Past the process, as GRANT and REVOKE of roles are.
#[test]
fn what_a_role_may_no_longer_read_is_not_given_for_long() {
    let world = World::start();
    for (grant, revoke) in [
        (
            "REVOKE ALL ON word FROM app; CREATE ROLE readers; GRANT SELECT ON word TO readers; GRANT readers TO app",
            "REVOKE readers FROM app",
        ),
        ("GRANT readers TO app", "ALTER ROLE app NOINHERIT"),
    ] {
        // What is given and taken between two looks leaves no trace.
        let noticed = || world.proxy.log().matches("connections are made anew").count();
        let before = noticed();
        world.cluster.execute("shop", grant);
        wait_until(|| noticed() >= before + 2);
        let mut one = world.connect("one");
        let read = "SELECT count(*) FROM word";
        let begun = Instant::now();
        while one.query(read).error.is_some() || world.asking(&mut one, read) != "hit" {
            assert!(begun.elapsed() < Duration::from_secs(30), "{grant}: never a hit");
        }
        world.cluster.execute("shop", revoke);
        while one.query(read).error.is_none() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{revoke}: given for ever");
        }
    }
}

#[test]
fn policies_that_change_while_an_answer_is_waited_for() {
    let world = World::start();
    let file = world.proxy.setup.path().join("policies/shop.toml");
    let epoch = || -> u64 {
        let metrics = world.admin("GET /metrics");
        metrics.lines().find_map(|l| l.strip_prefix("bulkhead_policy_epoch ")?.parse().ok()).expect("an epoch")
    };
    let read = "SELECT note, n FROM item WHERE id = 2 AND 8 = 8";
    let mut owner = Wire::connect(&world.cluster.superuser("shop")).expect("a session");
    run(&mut owner, "BEGIN | LOCK TABLE item IN ACCESS EXCLUSIVE MODE");
    let mut waiting = [world.connect("one"), world.connect("one"), world.connect("one")];
    for session in &mut waiting {
        session.send(b'Q', &[read.as_bytes(), &[0]].concat()).expect("send");
    }
    let before = epoch();
    let text = std::fs::read_to_string(&file).expect("the policies");
    std::fs::write(&file, text.replace("unless_roles = ['reader']", "unless_roles = ['nobody']")).expect("write");
    let begun = Instant::now();
    while epoch() == before {
        assert!(begun.elapsed() < Duration::from_secs(30), "no new epoch");
    }
    run(&mut owner, "ROLLBACK");
    for session in &mut waiting {
        assert!(session.answer().error.is_none());
    }
    let mut one = world.connect("one");
    for _ in 0..3 {
        let kept = one.query(read);
        let fresh = one.query(format!("{read} /* bulkhead: no-cache */"));
        assert_eq!(kept.rows().next(), fresh.rows().next(), "masked now");
    }
}

#[test]
fn one_database_under_two_names_has_one_set_of_definitions() {
    let world = World::start();
    let mut one = world.connect("one");
    let mut owner = Wire::connect(&world.proxy.target("owner", "shop2")).expect("a session");
    let read = "SELECT note FROM part WHERE id = 6";
    let function = "CREATE FUNCTION follow_it() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS \
        'BEGIN UPDATE part SET note = note || ''!'' WHERE id = NEW.id; RETURN NEW; END'";
    run(&mut owner, function);
    world.changes(&mut one, read, true, &mut || {
        run(&mut owner, "CREATE TRIGGER t AFTER UPDATE ON item FOR EACH ROW EXECUTE FUNCTION follow_it()");
        let mut writer = world.connect("one");
        run(&mut writer, "UPDATE item SET n = n + 1 WHERE id = 6")
    });
    run(&mut owner, "ALTER TABLE item ADD COLUMN late int DEFAULT 7");
    assert_eq!(one.query("SELECT late FROM item WHERE id = 6").scalar().as_deref(), Some("7"), "at once");
}

#[test]
fn nothing_is_given_while_policies_do_not_fit_the_catalog() {
    let world = World::start();
    let (mut one, mut owner) = (world.connect("one"), world.connect("owner"));
    let part = "SELECT note FROM part WHERE id = 6";
    one.query(part);
    run(&mut owner, "ALTER TABLE word RENAME TO words");
    let fits = |session: &mut Wire| world.asking(session, part) == "hit" || world.asking(session, part) == "hit";
    let begun = Instant::now();
    while fits(&mut one) {
        assert!(begun.elapsed() < Duration::from_secs(20), "it is still given");
    }
    let function = "CREATE FUNCTION follow_it() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS \
        'BEGIN UPDATE part SET note = note || ''!'' WHERE id = NEW.id; RETURN NEW; END'";
    run(&mut owner, &format!("{function} | CREATE TRIGGER t AFTER UPDATE ON item FOR EACH ROW EXECUTE FUNCTION follow_it()"));
    let before = one.query(part).scalar();
    run(&mut one, "UPDATE item SET n = n + 1 WHERE id = 6");
    assert_ne!(one.query(part).scalar(), before);
    run(&mut owner, "ALTER TABLE words RENAME TO word");
    let begun = Instant::now();
    while !fits(&mut one) {
        assert!(begun.elapsed() < Duration::from_secs(20), "it is never given again");
    }
}

#[test]
fn policies_and_hints_only_restrict() {
    let world = World::start();
    let mut one = world.connect("one");
    for (sql, expected) in [
        ("SELECT id FROM brief_news WHERE id = 1", "pass told"),
        ("SELECT i.id FROM item i, brief_news b WHERE i.id = b.id", "pass told"),
        ("SELECT id FROM item WHERE id = 3 /* bulkhead: no-cache */", "pass told"),
        ("SELECT id FROM item WHERE id = 3 /* bulkhead: ttl=600 */", "fill"),
        ("SELECT id FROM item WHERE id = 3 /* bulkhead: ttl=600 */", "hit"),
        ("SELECT id, random() FROM item /* bulkhead: ttl=600 */", "pass function"),
        ("SELECT id FROM weekly WHERE id = 1", "fill"),
    ] {
        assert_eq!(world.asking(&mut one, sql), expected, "{sql}");
    }
    // It grows old: by the policy, and by the hint.
    for sql in ["SELECT id FROM weekly WHERE id = 2", "SELECT id FROM item WHERE id = 4 /* bulkhead: ttl=1 */"] {
        let begun = Instant::now();
        assert_eq!(world.asking(&mut one, sql), "fill", "{sql}");
        let mut hits = 0;
        while world.asking(&mut one, sql) == "hit" {
            hits += 1;
            assert!(begun.elapsed() < Duration::from_secs(30), "{sql}: for ever");
        }
        assert!(hits > 0 && begun.elapsed() >= Duration::from_secs(1), "{sql}: {hits} hits");
    }
}

#[test]
fn what_many_ask_at_once_is_asked_once() {
    const CLIENTS: usize = 8;
    let world = World::start();
    // A second of work.
    let slow = "SELECT count(*) FROM item a, item b, item c, item d, item e, item f, item g WHERE a.n + b.n + c.n + d.n + e.n + f.n + g.n = 0";
    let mut sessions: Vec<Wire> = (0..CLIENTS).map(|_| world.connect("one")).collect();
    for session in &mut sessions {
        session.send(b'Q', &[slow.as_bytes(), &[0]].concat()).expect("send");
    }
    for session in &mut sessions {
        let answer = session.answer();
        assert_eq!(answer.scalar().as_deref(), Some("4782969"), "{answer:?}");
    }
    let counts = world.counts();
    assert_eq!((counts["fill"], counts["hit"]), (1, CLIENTS as u64 - 1));
    // Each in turn; the last finds the answer of the first.
    let extended = Extended { sql: slow.as_bytes(), ..Extended::default() };
    assert!(sessions[0].extended(&extended).error.is_none());
    assert!(sessions[1].extended(&extended).error.is_none());
    let counts = world.counts();
    assert_eq!((counts["fill"], counts["hit"]), (2, CLIENTS as u64));
}

/// The server holds COMMIT back; meanwhile the writer's connection goes. Nobody knows the outcome until the server has ended it.
/// Who is inside of a block holds a connection, and perhaps locks, that whoever asked first may be waiting for.
#[test]
fn a_block_does_not_wait_for_who_waits_for_it() {
    let world = World::start();
    // All connections that a tenant may have.
    let mut holders: Vec<Wire> = (0..4).map(|_| world.connect("one")).collect();
    holders.iter_mut().for_each(|holder| _ = run(holder, "BEGIN"));
    let sql = "SELECT max(note), count(*) FROM item WHERE id BETWEEN 2 AND 5";
    let misses = || world.metric("bulkhead_templates_total{result=\"miss\"}");
    // A login is reviewed as well.
    let mut first = world.connect("one");
    let before = misses();
    first.send(b'Q', &[sql.as_bytes(), &[0]].concat()).expect("ask");
    wait_until(|| misses() > before);
    // It is reviewed: when somebody else has logged in, it waits.
    drop(world.connect("two"));
    // Without this mend: after the other has given up.
    assert!(holders[0].query(sql).error.is_none());
    holders.iter_mut().for_each(|holder| _ = run(holder, "COMMIT"));
    let answer = first.answer();
    assert!(answer.error.is_none(), "{:?}", answer.error);
}

#[test]
fn a_transaction_of_unknown_outcome_is_waited_for() {
    let world = World::start();
    let mut reader = world.connect("one");
    let read = "SELECT n FROM item WHERE id = 1";
    let mut keeper = Wire::connect(&world.cluster.superuser("shop")).expect("a session");
    // A deferred trigger that waits, so that COMMIT does, and that the cancel for a client that left does not end.
    keeper.query(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN
            LOOP
                BEGIN PERFORM pg_advisory_xact_lock(1); EXIT; EXCEPTION WHEN query_canceled THEN NULL; END;
            END LOOP;
            RETURN NULL; END';
         CREATE CONSTRAINT TRIGGER wait AFTER UPDATE ON item DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait();",
    );
    keeper.query("SELECT pg_advisory_lock(1)");
    assert_eq!(reader.query(read).scalar().as_deref(), Some("0"));
    let mut writer = world.connect("one");
    writer.query("BEGIN");
    writer.query("UPDATE item SET n = 7 WHERE id = 1");
    writer.send(b'Q', b"COMMIT\0").expect("send");
    wait_until(|| {
        keeper.query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted").scalar() == Some("1".into())
    });
    drop(writer);
    let direct = |keeper: &mut Wire| keeper.query("SELECT n FROM item WHERE tenant_id = 1 AND id = 1").scalar();
    for _ in 0..20 {
        assert_eq!(world.asking(&mut reader, read), "pass writing");
    }
    keeper.query("SELECT pg_advisory_unlock(1)");
    wait_until(|| direct(&mut keeper).as_deref() == Some("7"));
    assert_eq!(reader.query(read).scalar().as_deref(), Some("7"));
    wait_until(|| world.asking(&mut reader, read) == "hit");
    assert_eq!(reader.query(read).scalar().as_deref(), Some("7"));
}

fn wait_until(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "nothing came of it");
        std::thread::yield_now();
    }
}
