//! Look-ups that come as simple queries and are run as prepared statements, once they have been asked for often enough: not a byte
//! of the answers differs from those of the tenant's own database.

mod support;

use support::cluster::Cluster;
use support::proxy::{Proxy, Setup, User};
use support::wire::Wire;

const SCHEMA: &str = "
    CREATE TABLE item (
        tenant_id int NOT NULL, id int PRIMARY KEY, big bigint NOT NULL UNIQUE, small smallint, code text NOT NULL,
        short varchar(10), padded char(5), uid uuid, amount numeric, \"Odd name\" text,
        UNIQUE (tenant_id, code), UNIQUE (short), UNIQUE (padded), UNIQUE (uid), UNIQUE (amount), UNIQUE (small));
    INSERT INTO item
        SELECT t, t * 100 + g, t * 10000000000 + g, t * 100 + g, CASE g WHEN 1 THEN 'it''s' ELSE 'c' || g END, t || 's' || g, t || 'p' || g,
            format('00000000-0000-0000-0000-%s', lpad((t * 100 + g)::text, 12, '0'))::uuid, t * 100 + g, 'n' || g
        FROM generate_series(1, 2) t, generate_series(1, 9) g;
    CREATE TABLE part (tenant_id int NOT NULL, id int, note text, PRIMARY KEY (tenant_id, id)) PARTITION BY LIST (tenant_id);
    CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);
    CREATE TABLE part_2 PARTITION OF part FOR VALUES IN (2);
    INSERT INTO part VALUES (1, 1, 'own'), (2, 1, 'foreign');
    CREATE TABLE word (id int PRIMARY KEY, text text);
    INSERT INTO word VALUES (1, 'one');
    GRANT ALL ON ALL TABLES IN SCHEMA public TO app";

const POLICIES: &str = "
    [[table]]
    name = 'public.item'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.part'
    scope = 'tenant'
    tenant_column = 'tenant_id'

    [[table]]
    name = 'public.word'
    scope = 'shared'
";

/// How the server is asked in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// By a prepared statement.
    Bound,
    AsText,
}

use How::{AsText, Bound};

const STATEMENTS: [(How, &str); 38] = [
    (Bound, "SELECT code FROM item WHERE id = 101"),
    (Bound, "SELECT * FROM item WHERE id = 0101"),
    (Bound, "select i.code, i.code as again from item as i where 101 = i.id"),
    (Bound, "SELECT code FROM item WHERE id = 201"),
    (Bound, "SELECT code FROM item WHERE id = 2147483647"),
    (Bound, "SELECT code FROM item WHERE id = 3000000000"),
    (Bound, "SELECT code FROM item WHERE big = 10000000001"),
    (Bound, "SELECT code FROM item WHERE big = 1"),
    (Bound, "SELECT code FROM item WHERE small = 101"),
    (Bound, "SELECT id FROM item WHERE amount = 101"),
    (Bound, "SELECT id FROM item WHERE code = 'c2'"),
    (Bound, "SELECT id, \"Odd name\" FROM item WHERE code = 'it''s' AND \"Odd name\" = 'n1'"),
    (Bound, "SELECT id FROM item WHERE code = ''"),
    (Bound, "SELECT id FROM item WHERE code = '\u{fc}\u{20ac}'"),
    (Bound, "SELECT id FROM item WHERE short = '1s3'"),
    (Bound, "SELECT id FROM item WHERE short = '1s3 is longer than ten'"),
    (Bound, "SELECT id FROM item WHERE uid = '00000000-0000-0000-0000-000000000104'"),
    (Bound, "SELECT id FROM item WHERE id = 104 LIMIT 21"),
    (Bound, "SELECT id FROM item WHERE id = 104 LIMIT 0"),
    (Bound, "SELECT id FROM item WHERE id = 104 AND code = 'c4' ORDER BY code LIMIT 1"),
    (Bound, "SELECT text FROM word WHERE id = 1"),
    (AsText, "SELECT id FROM item WHERE id = -101"),
    (AsText, "SELECT id FROM item WHERE id = 101.0"),
    (AsText, "SELECT id FROM item WHERE id = '101'"),
    (AsText, "SELECT id FROM item WHERE id = '101x'"),
    (AsText, "SELECT id FROM item WHERE code = E'c\\x32'"),
    (AsText, "SELECT id FROM item WHERE padded = '1p1  '"),
    (AsText, "SELECT id FROM item WHERE uid = '{00000000-0000-0000-0000-000000000104}'"),
    (AsText, "SELECT id FROM item WHERE uid = 'no'"),
    (AsText, "SELECT id, 5 FROM item WHERE id = 101"),
    (AsText, "SELECT id FROM item WHERE \"Odd name\" = 'n1'"),
    (AsText, "SELECT id FROM item WHERE id > 104 ORDER BY 1"),
    (AsText, "SELECT id FROM item WHERE id = 101 OR id = 102 ORDER BY id"),
    (AsText, "SELECT id FROM item WHERE id = 101 FOR UPDATE"),
    (AsText, "SELECT count(*) FROM item WHERE id = 101"),
    (AsText, "SELECT id FROM item WHERE id = 101 LIMIT -1"),
    (AsText, "SELECT note FROM part WHERE id = 1"),
    (AsText, "SELECT text FROM word WHERE id = 1; SELECT text FROM word WHERE id = 1"),
];

const TIMES: usize = 8;

/// A proxy with one backend before the rows of two tenants, and the database of one of them.
struct World {
    cluster: Cluster,
    proxy: Proxy,
}

impl World {
    fn start() -> World {
        let cluster = Cluster::start();
        cluster.execute("postgres", "CREATE DATABASE shop");
        cluster.execute("shop", SCHEMA);
        // A copy, OIDs included.
        cluster.copy_database("own", "shop");
        cluster.execute("own", "DELETE FROM item WHERE tenant_id <> 1; DELETE FROM part WHERE tenant_id <> 1");
        let users = [User { name: "one", access: "tenant = \"1\"" }, User { name: "two", access: "tenant = \"2\"" }];
        let setup = Setup::new(&[("shop".to_owned(), cluster.app_url("shop"))], &users, &[("shop.toml", POLICIES)]);
        let text = std::fs::read_to_string(setup.config()).expect("the configuration");
        std::fs::write(setup.config(), text.replace("pool_size = 4", "pool_size = 1")).expect("write the configuration");
        World { proxy: Proxy::start(setup), cluster }
    }

    fn connect(&self, user: &str) -> Wire {
        Wire::connect(&self.proxy.target(user, "shop")).expect("a session")
    }

    /// What the backend was asked last.
    fn asked(&self) -> How {
        let mut wire = Wire::connect(&self.cluster.superuser("shop")).expect("superuser connection");
        let last = wire.query("SELECT query FROM pg_stat_activity WHERE usename = 'app' AND datname = 'shop' AND application_name <> 'bulkhead catalog'").scalar();
        if last.expect("a backend").contains("$1") { Bound } else { AsText }
    }
}

#[test]
fn answers_are_the_same_to_the_byte() {
    let world = World::start();
    let mut own = Wire::connect(&world.cluster.app("own")).expect("a session");
    let mut client = world.connect("one");
    for (how, sql) in STATEMENTS {
        let expected = own.query(sql);
        for time in 1..=TIMES {
            let answer = client.query(sql);
            let same =
                if expected.error.is_some() { answer.sqlstate() == expected.sqlstate() } else { answer.raw == expected.raw };
            assert!(same, "{sql}, for the {time}. time: {answer:?}, not {expected:?}");
        }
        assert_eq!(world.asked(), how, "{sql}");
    }
}

#[test]
fn tenants_share_the_statement_and_not_the_rows() {
    let world = World::start();
    let (mut one, mut two) = (world.connect("one"), world.connect("two"));
    for _ in 0..TIMES {
        assert_eq!(one.query("SELECT id FROM item WHERE code = 'c2'").scalar().as_deref(), Some("102"));
        assert_eq!(two.query("SELECT id FROM item WHERE code = 'c2'").scalar().as_deref(), Some("202"));
        assert!(one.query("SELECT id FROM item WHERE id = 202").scalar().is_none());
    }
    assert_eq!(world.asked(), Bound);
}

#[test]
fn columns_that_change_their_type_are_no_error() {
    let world = World::start();
    let mut client = world.connect("one");
    let look = |client: &mut Wire| {
        let answer = client.query("SELECT code, \"Odd name\" FROM item WHERE id = 101");
        assert!(answer.error.is_none(), "{answer:?}");
        answer
    };
    (0..TIMES).for_each(|_| drop(look(&mut client)));
    assert_eq!(world.asked(), Bound);
    world.cluster.execute("shop", "ALTER TABLE item ALTER COLUMN \"Odd name\" TYPE varchar(20)");
    let mut own = Wire::connect(&world.cluster.app("own")).expect("a session");
    world.cluster.execute("own", "ALTER TABLE item ALTER COLUMN \"Odd name\" TYPE varchar(20)");
    for _ in 0..TIMES {
        assert_eq!(look(&mut client).raw, look(&mut own).raw);
    }
}

#[test]
fn a_look_up_that_fails_leaves_the_session_in_step() {
    let world = World::start();
    let (mut one, mut two) = (world.connect("one"), world.connect("two"));
    const LOOK: &str = "SELECT id FROM item WHERE code = 'c2'";
    (0..TIMES).for_each(|_| drop(one.query(LOOK)));
    one.query("SET statement_timeout = '100ms'");
    let mut locker = Wire::connect(&world.cluster.superuser("shop")).expect("superuser connection");
    locker.query("BEGIN; LOCK TABLE item");
    for _ in 0..3 {
        assert_eq!(one.query(LOOK).sqlstate(), "57014");
    }
    locker.query("COMMIT");
    assert_eq!(one.query(LOOK).scalar().as_deref(), Some("102"));
    assert_eq!(two.query(LOOK).scalar().as_deref(), Some("202"));
    // In a transaction, and failed: the text, as always.
    one.query("BEGIN");
    assert_eq!(one.query(LOOK).scalar().as_deref(), Some("102"));
    assert_eq!(world.asked(), AsText);
    one.query("SELECT 1 / 0");
    assert_eq!(one.query(LOOK).sqlstate(), "25P02");
    one.query("ROLLBACK");
    assert_eq!(one.query(LOOK).scalar().as_deref(), Some("102"));
    assert_eq!(world.asked(), Bound);
}

/// A backend keeps some 200 statements: others are no reason to throw one out.
#[test]
fn more_look_ups_than_a_backend_keeps_are_sent_as_text() {
    let world = World::start();
    let mut client = world.connect("one");
    let look = |client: &mut Wire, n: usize| {
        let answer = client.query(format!("SELECT code AS c{n} FROM item WHERE id = 102"));
        assert_eq!(answer.scalar().as_deref(), Some("c2"), "{answer:?}");
    };
    for n in 0..220 {
        (0..TIMES).for_each(|_| look(&mut client, n));
    }
    assert_eq!(world.asked(), AsText);
    look(&mut client, 0);
    assert_eq!(world.asked(), Bound);
}
