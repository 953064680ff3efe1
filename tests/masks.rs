//! Every mask on the real server: what it shows (the README's table), the type that it keeps, that it never raises, that
//! nothing else shows the value.

mod support;

use std::fs;

use support::answer::Answer;
use support::cluster::Cluster;
use support::proxy::{Proxy, Setup, User};
use support::wire::{Extended, Wire};
use support::{repository, update_wanted};

const KEY: &str = "a secret of the test, long enough\n";

const POLICIES: &str = r#"
[[table]]
name = "people"
scope = "tenant"
tenant_column = "tenant"
[[table.column]]
name = "nothing"
mask = "null"
[[table.column]]
name = "redacted"
mask = "redact"
[[table.column]]
name = "last4"
mask = "last4"
unless_roles = ["dpo"]
[[table.column]]
name = "email"
mask = "email"
[[table.column]]
name = "hashed"
mask = "hash"
mask_key = "file:mask.key"
[[table.column]]
name = "bytes"
mask = "null"
[[table.column]]
name = "document"
mask = "null"
[[table.column]]
name = "amount"
mask = "null"
[[table.column]]
name = "since"
mask = "null"
[[table.column]]
name = "short"
mask = "redact"
[[table.column]]
name = "fixed"
mask = "last4"
[[table.column]]
name = "collated"
mask = "last4"
"#;

const SCHEMA: &str = "
CREATE TABLE people (id int PRIMARY KEY, tenant text NOT NULL, nothing text NOT NULL, redacted text, last4 text, email text, hashed text,
  bytes bytea, document json, amount numeric(12,2), since timestamptz(3), short varchar(2), fixed char(12), collated varchar(20) COLLATE \"C\",
  balance int CHECK (balance >= 0));
CREATE INDEX ON people (tenant, id);";

/// Values that a mask could trip over.
const ODD: [&str; 14] =
    ["", " ", "@", "a@", "@b", "@@", "a\\b", "\\x00", "\\", "naïve@exämple.com", "日本語日本語日本語", "'quoted'", "{}", "%_%@%"];

struct World {
    cluster: Cluster,
    proxy: Proxy,
}

impl World {
    fn start() -> World {
        let cluster = Cluster::start();
        cluster.execute("postgres", "CREATE DATABASE shop");
        cluster.execute("shop", SCHEMA);
        cluster.execute("shop", "GRANT SELECT, INSERT, UPDATE, DELETE ON people TO app");
        let users = [
            User { name: "one", access: "tenant = \"1\"\nroles = [\"app\"]" },
            User { name: "two", access: "tenant = \"2\"\nroles = [\"app\"]" },
            User { name: "dpo", access: "tenant = \"1\"\nroles = [\"app\", \"dpo\"]" },
        ];
        let files = [("people.toml", POLICIES), ("mask.key", KEY)];
        let setup = Setup::new(&[("shop".to_owned(), cluster.app_url("shop"))], &users, &files);
        World { cluster, proxy: Proxy::start(setup) }
    }

    fn connect(&self, user: &str) -> Wire {
        Wire::connect(&self.proxy.target(user, "shop")).expect("a session")
    }

    fn insert(&self, id: usize, tenant: &str, value: &str) {
        let quoted = format!("'{}'", value.replace('\'', "''"));
        let columns = "nothing, redacted, last4, email, hashed";
        let values = [quoted.as_str(); 5].join(", ");
        self.cluster.execute(
            "shop",
            &format!(
                "SET standard_conforming_strings = on; INSERT INTO people (id, tenant, {columns}, short, fixed, collated, bytes, document, amount, since, balance) \
                 VALUES ({id}, '{tenant}', {values}, left({quoted}, 2), left({quoted}, 12), left({quoted}, 20), 'x', '{{}}', 12.5, now(), 1)"
            ),
        );
    }
}

fn texts(answer: &Answer) -> Vec<Vec<Option<String>>> {
    let text = |v: &Option<Vec<u8>>| v.as_ref().map(|v| String::from_utf8_lossy(v).into_owned());
    assert!(answer.error.is_none(), "{answer:?}");
    answer.rows().map(|row| row.iter().map(text).collect()).collect()
}

#[test]
fn the_examples_of_the_readme_are_what_tenants_see() {
    let world = World::start();
    let examples = [
        ("null", "nothing", &["111-22-3333"][..]),
        ("redact", "redacted", &["111-22-3333", ""]),
        ("last4", "last4", &["111-22-3333", "1234567"]),
        ("email", "email", &["jane.doe@example.com", "j@example.com", "no address"]),
        ("hash", "hashed", &["111-22-3333"]),
    ];
    let mut table = String::new();
    let mut id = 0;
    for (mask, column, values) in examples {
        for value in values {
            id += 1;
            world.insert(id, "1", value);
            let shown = texts(&world.connect("one").query(format!("SELECT {column} FROM people WHERE id = {id}")));
            let shown = shown[0][0].as_deref().map_or("NULL".to_owned(), |s| format!("`{s}`"));
            let value = if value.is_empty() { "(empty)".to_owned() } else { format!("`{value}`") };
            table += &format!("| `{mask}` | {value} | {shown} |\n");
        }
    }
    let path = repository("README.md");
    let readme = fs::read_to_string(&path).expect("read the README");
    let (begin, end) = ("| mask | value | tenants see |\n|---|---|---|\n", "\n");
    let from = readme.find(begin).expect("the table of masks") + begin.len();
    let to = from + readme[from..].find(&format!("\n{end}")).expect("its end") + 1;
    if update_wanted() {
        fs::write(&path, format!("{}{table}{}", &readme[..from], &readme[to..])).expect("write the README");
    } else {
        assert_eq!(&readme[from..to], table, "UPDATE=1 writes it anew");
    }
}

#[test]
fn masks_never_raise_keep_their_types_and_show_nothing_else() {
    let world = World::start();
    for (i, value) in ODD.iter().enumerate() {
        world.insert(i + 1, "1", &format!("{value}{}", "x".repeat(i % 2 * 9)));
    }
    world.insert(100, "1", &"SECRET@4711".repeat(20_000));
    world.cluster.execute("shop", "INSERT INTO people (id, tenant, nothing) VALUES (101, '1', 'x')");
    let mut direct = Wire::connect(&world.cluster.app("shop")).expect("a session");
    let mut masked = world.connect("one");
    for sql in ["SELECT * FROM people ORDER BY id", "TABLE people", "SELECT nothing, redacted, last4 FROM people"] {
        let (own, seen) = (direct.query(sql), masked.query(sql));
        assert_eq!(texts(&seen).len(), texts(&own).len(), "{sql}");
        let description = |a: &Answer| {
            a.parts[0].columns.clone().into_iter().flatten().map(|c| (c.name, c.type_oid, c.typmod)).collect::<Vec<_>>()
        };
        assert_eq!(description(&seen), description(&own), "{sql}");
    }
    // NULL stays NULL, in every mask.
    let empty = texts(&masked.query("SELECT redacted, last4, email, hashed, short, fixed, collated FROM people WHERE id = 101"));
    assert!(empty[0].iter().all(Option::is_none), "{empty:?}");
    for sql in [
        "SELECT * FROM people",
        "SELECT p FROM people p",
        "SELECT to_jsonb(p), row_to_json(p), p::text FROM people p",
        "SELECT (x.r).last4, (x.r).nothing FROM (SELECT p AS r FROM people p) x",
        "SELECT last4::int FROM people WHERE id = 100",
        "SELECT p::text::int FROM people p WHERE id = 100",
        "COPY people TO STDOUT",
        "EXPLAIN (VERBOSE, COSTS OFF) SELECT hashed FROM people WHERE hashed = 'x' ORDER BY hashed",
        "UPDATE people SET balance = 2 WHERE id = 100 RETURNING *",
        "UPDATE people SET balance = 2 WHERE id = 100 RETURNING people",
        "UPDATE people SET balance = -1 WHERE id = 100",
        "UPDATE people SET id = NULL WHERE id = 100",
        "UPDATE people SET tenant = NULL WHERE id = 100",
        "WITH d AS (DELETE FROM people WHERE id = 100 RETURNING people AS r) SELECT to_jsonb(r) FROM d",
        "SELECT string_agg(last4 || email || hashed || coalesce(nothing, '') || redacted, ',') FROM people",
    ] {
        masked.query("BEGIN");
        for answer in [masked.query(sql), masked.extended(&Extended { sql: sql.as_bytes(), ..Extended::default() })] {
            for secret in [&b"SECRET"[..], b"bulkhead_mask_", b"a secret of"] {
                assert!(!answer.raw.windows(secret.len()).any(|w| w == secret), "{sql}: {}", String::from_utf8_lossy(secret));
            }
        }
        masked.query("ROLLBACK");
    }
}

#[test]
fn a_hash_is_a_pseudonym_within_a_tenant() {
    let world = World::start();
    for (id, tenant, value) in
        [(1, "1", "111-22-3333"), (2, "1", "111-22-3333"), (3, "1", "111-22-3334"), (4, "2", "111-22-3333")]
    {
        world.insert(id, tenant, value);
        world.cluster.execute("shop", &format!("UPDATE people SET email = {id} WHERE id = {id}"));
    }
    let hashes = |user: &str| texts(&world.connect(user).query("SELECT hashed FROM people ORDER BY id"));
    let (one, two) = (hashes("one"), hashes("two"));
    assert!(one[0] == one[1] && one[0] != one[2], "equal values look equal: {one:?}");
    assert_ne!(one[0], two[0], "tenants cannot compare theirs");
    assert_eq!(one[0][0].as_ref().map(String::len), Some(32));
    // No plain digest of the value, which whoever guesses it could compute.
    let plain = "SELECT left(encode(sha256('111-22-3333'), 'hex'), 32), left(encode(sha256('1:111-22-3333'), 'hex'), 32)";
    let plain = texts(&Wire::connect(&world.cluster.superuser("shop")).expect("a session").query(plain));
    assert!(!plain[0].contains(&one[0][0]), "{plain:?}");
    // Nor may values be tried by writing them.
    for sql in [
        "INSERT INTO people (id, nothing, hashed) VALUES (9, '', '111-22-3333') RETURNING hashed",
        "UPDATE people SET hashed = '111-22-3333' WHERE id = 3 RETURNING hashed",
        "COPY people (id, nothing, hashed) FROM STDIN",
    ] {
        assert_eq!(world.connect("one").query(sql).sqlstate(), "42501", "{sql}");
    }
    let join = "SELECT count(*) FROM people a JOIN people b ON a.hashed = b.hashed AND a.id < b.id";
    assert_eq!(world.connect("one").query(join).scalar().as_deref(), Some("1"));
    let explained = world.proxy.setup.run(&["explain", "--tenant", "1", "--role", "app", "SELECT hashed FROM people"]);
    let explained = String::from_utf8_lossy(&explained.stdout).into_owned() + &String::from_utf8_lossy(&explained.stderr);
    assert!(explained.contains("<mask key>") && !explained.contains("bulkhead_mask_"), "{explained}");
}

#[test]
fn a_role_lifts_a_mask() {
    let world = World::start();
    world.insert(1, "1", "111-22-3333");
    let sql = "SELECT last4, redacted FROM people";
    let row = |user: &str| texts(&world.connect(user).query(sql)).remove(0);
    assert_eq!(row("one"), [Some("****3333".to_owned()), Some("***".to_owned())]);
    assert_eq!(row("dpo"), [Some("111-22-3333".to_owned()), Some("***".to_owned())]);
    // One session's plan is never another's.
    let (mut one, mut dpo) = (world.connect("one"), world.connect("dpo"));
    for _ in 0..3 {
        assert_eq!(one.query(sql).scalar(), None.or(Some("****3333".to_owned())));
        assert_eq!(dpo.query(sql).scalar(), Some("111-22-3333".to_owned()));
    }
    assert!(dpo.query("UPDATE people SET last4 = '999-99-9999'").error.is_none());
    assert_eq!(one.query(sql).scalar(), Some("****9999".to_owned()));
}

#[test]
fn check_tells_which_masks_cannot_serve_and_what_they_do_not_hide() {
    let cluster = Cluster::start();
    cluster.execute("postgres", "CREATE DATABASE shop");
    cluster.execute(
        "shop",
        "CREATE DOMAIN ssn AS text CHECK (VALUE <> ''); \
         CREATE TABLE t (tenant int NOT NULL, id int, d ssn, i interval(3), e text COLLATE \"C\", copy text GENERATED ALWAYS AS (right(e, 5)) STORED, UNIQUE (tenant, e)); \
         CREATE TABLE parent (tenant int NOT NULL, day date NOT NULL, who text) PARTITION BY RANGE (day); \
         CREATE TABLE child PARTITION OF parent FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
    );
    let url = cluster.app_url("shop");
    let check = |policies: &str| {
        let setup = Setup::new(
            &[("shop".to_owned(), url.clone())],
            &[User { name: "a", access: "tenant = \"1\"" }],
            &[("p.toml", policies)],
        );
        let output = setup.run(&["check", "--database", &url]);
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    const RECORDED: &str = "[[class]]\nname = \"c\"\nrecorded = \"hmac\"\n";
    let table = |name: &str| format!("[[table]]\nname = \"{name}\"\nscope = \"tenant\"\ntenant_column = \"tenant\"\n");
    let column = |name: &str, mask: &str| format!("[[table.column]]\nname = \"{name}\"\nmask = \"{mask}\"\n");
    for (policies, said) in [
        (table("t") + &column("missing", "null"), "table public.t has no column missing"),
        (table("t") + "[[table.column]]\nname = \"emial\"\nclass = \"c\"\n" + RECORDED, "table public.t has no column emial"),
        (table("t") + &column("id", "last4"), "only text, varchar and char can be masked so"),
        (table("t") + &column("d", "null"), "ssn is a domain, whose checks a mask could fail"),
        (table("t") + &column("i", "null"), "it is interval with a modifier"),
        (table("parent") + &table("child") + &column("who", "redact"), "put the mask on the parent"),
        (table("t") + &column("e", "redact"), "e is masked, and the unique key t_tenant_e_key tells"),
        (table("t") + &column("e", "redact"), "copy is generated and has no mask"),
    ] {
        let found = check(&policies);
        assert!(found.contains(said), "{policies}\n{found}");
    }
    let good = check(&(table("parent") + &column("who", "redact") + &table("child") + &column("who", "redact")));
    assert!(!good.contains("mask"), "{good}");
}
