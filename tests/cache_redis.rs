//! The result cache's second tier: what it saves, and that whatever becomes of Redis costs hits and nothing else.

mod support;

use std::io::{Read, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use support::cluster::Cluster;
use support::proxy::{Proxy, Setup, User};
use support::redis::Server;
use support::relay::Relay;
use support::wire::{Extended, Wire};

const SCHEMA: &str = "
    CREATE TABLE item (tenant_id int NOT NULL, id int, n int NOT NULL DEFAULT 0, note text, PRIMARY KEY (tenant_id, id));
    INSERT INTO item SELECT t, g, 0, 'canary-' || t FROM generate_series(1, 2) t, generate_series(1, 9) g;
    GRANT ALL ON ALL TABLES IN SCHEMA public TO app";

const POLICIES: &str = "
    [[table]]
    name = 'public.item'
    scope = 'tenant'
    tenant_column = 'tenant_id'
";

/// More than memory has room for, of each tenant.
const QUESTIONS: usize = 30;
/// What an answer has of each row of its own, besides.
const REPEATED: usize = 5_000;

/// Some milliseconds of work, and some ten KiB.
fn question(n: usize) -> String {
    format!(
        "SELECT 'question {n}', max(a.n), repeat(max(a.note), {REPEATED}) FROM item a, item b, item c, item d WHERE a.id + b.id + c.id + d.id > {n}"
    )
}

/// A proxy with a small cache and a Redis before the rows of two tenants.
struct World {
    /// One at a time: a millisecond is little where five worlds share two processors.
    _alone: MutexGuard<'static, ()>,
    redis: Server,
    proxy: Proxy,
    _cluster: Cluster,
}

impl World {
    fn start() -> World {
        let mut redis = Server::new();
        redis.boot();
        let world = World::before(redis);
        world.wait_until_used();
        world
    }

    fn before(redis: Server) -> World {
        let url = redis.url();
        World::at(redis, &url)
    }

    /// `url`: where the proxy finds Redis.
    fn at(redis: Server, url: &str) -> World {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let cluster = Cluster::start();
        cluster.execute("postgres", "CREATE DATABASE shop");
        cluster.execute("shop", SCHEMA);
        cluster.execute("postgres", "ALTER ROLE app SET statement_timeout = '60s'");
        let users = [User { name: "one", access: "tenant = \"1\"" }, User { name: "two", access: "tenant = \"2\"" }];
        let setup = Setup::new(&[("shop".to_owned(), cluster.app_url("shop"))], &users, &[("shop.toml", POLICIES)]);
        let text = std::fs::read_to_string(setup.config()).expect("the configuration");
        let text = text + "[cache]\nmemory_mb = 1\nredis = \"file:redis.url\"\n";
        std::fs::write(setup.config(), text).expect("write the configuration");
        std::fs::write(setup.path().join("redis.url"), url.to_owned() + "\n").expect("write the URL");
        World { _alone: alone, redis, proxy: Proxy::start(setup), _cluster: cluster }
    }

    fn connect(&self, user: &str) -> Wire {
        Wire::connect(&self.proxy.target(user, "shop")).expect("a session")
    }

    /// The value of a metric, by its name and labels.
    fn count(&self, metric: &str) -> u64 {
        let mut socket = std::net::TcpStream::connect(("127.0.0.1", self.proxy.setup.admin_port)).expect("the admin port");
        socket.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("ask");
        let mut text = String::new();
        socket.read_to_string(&mut text).expect("an answer");
        let value = text.lines().find_map(|line| line.strip_prefix(metric)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no {metric} in {text}"))
    }

    fn redis_did(&self, result: &str) -> u64 {
        self.count(&format!("bulkhead_cache_redis_total{{result=\"{result}\"}}"))
    }

    fn is_used(&self) -> bool {
        self.count("bulkhead_cache_redis_up") == 1
    }

    fn wait_until_used(&self) {
        wait_until("Redis is used", || self.is_used());
    }

    /// How many answers came from Redis.
    fn fetched(&self) -> u64 {
        self.count("bulkhead_cache_requests_total{reason=\"redis\",result=\"hit\"}")
    }

    /// Asks everything; each answer is what it must be.
    fn ask_all(&self, sessions: &mut [(Wire, &str)], expected: u64) {
        for n in 0..QUESTIONS {
            for (session, tenant) in sessions.iter_mut() {
                check(session, tenant, n, expected);
            }
        }
    }

    fn sessions(&self) -> Vec<(Wire, &'static str)> {
        vec![(self.connect("one"), "1"), (self.connect("two"), "2")]
    }

    /// Asks everything until some of it has come from Redis. By chance Redis may be too late, and left alone for a second.
    fn ask_until_fetched(&self, sessions: &mut [(Wire, &str)], expected: u64) {
        let before = self.fetched();
        wait_until("answers come from Redis", || {
            self.ask_all(sessions, expected);
            self.fetched() > before
        });
    }
}

/// Asks one question and looks at each field; by either protocol, in turn.
fn check(session: &mut Wire, tenant: &str, n: usize, expected: u64) {
    let sql = question(n);
    let answer = if n.is_multiple_of(2) {
        session.query(&sql)
    } else {
        session.extended(&Extended { sql: sql.as_bytes(), ..Extended::default() })
    };
    assert!(answer.error.is_none(), "{n}: {:?}", answer.error);
    let fields = [format!("question {n}"), expected.to_string(), format!("canary-{tenant}").repeat(REPEATED)];
    let row = answer.rows().next().expect("a row");
    for (got, expected) in row.iter().zip(&fields) {
        let got = String::from_utf8_lossy(got.as_deref().unwrap_or_default());
        assert!(got == *expected, "question {n} of tenant {tenant}: {:.40} is not {expected:.40}", got);
    }
}

fn write(session: &mut Wire, n: u64) {
    let answer = session.query(format!("UPDATE item SET n = {n} WHERE id = 9"));
    assert!(answer.error.is_none(), "{:?}", answer.error);
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(100);
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        // Not without a pause: each look at a metric is a connection, and processors are needed for what is waited for.
        #[expect(clippy::disallowed_methods, reason = "polls a condition, with a deadline")]
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_memory_has_no_room_for_comes_from_redis() {
    let world = World::start();
    let mut sessions = world.sessions();
    world.ask_until_fetched(&mut sessions, 0);
    // Both ways to ask.
    for parity in 0..2 {
        let before = world.fetched();
        wait_until("answers come from Redis", || {
            for n in (0..QUESTIONS).filter(|n| n % 2 == parity) {
                sessions.iter_mut().for_each(|(session, tenant)| check(session, tenant, n, 0));
            }
            world.fetched() > before
        });
    }
}

#[test]
fn a_write_ends_what_is_in_redis() {
    let world = World::start();
    let mut sessions = world.sessions();
    let mut written = 0;
    world.ask_until_fetched(&mut sessions, written);
    let before = world.redis_did("stale");
    // By chance Redis may be left alone just now, and not be asked.
    wait_until("Redis was asked for what is old", || {
        let keys = world.redis.keys().len();
        written += 1;
        sessions.iter_mut().for_each(|(session, _)| write(session, written));
        assert!(world.redis.keys().len() >= keys, "the old answers are there still");
        world.ask_all(&mut sessions, written);
        world.redis_did("stale") > before
    });
    // And what has been asked since comes from there again.
    world.ask_until_fetched(&mut sessions, written);
    // Nobody's look-up in a transaction, or of an uncommitted change.
    let (writer, _) = &mut sessions[0];
    assert!(writer.query("BEGIN").error.is_none());
    write(writer, 1_000_000);
    let mut other = world.connect("one");
    (0..QUESTIONS).for_each(|n| check(&mut other, "1", n, written));
    assert!(sessions[0].0.query("COMMIT").error.is_none());
    (0..QUESTIONS).for_each(|n| check(&mut other, "1", n, 1_000_000));
}

/// Replaces each value in Redis by what `change` makes of all of them.
fn tamper(world: &World, change: impl Fn(&[Vec<u8>], usize) -> Vec<u8>) {
    let mut redis = world.redis.connect();
    let keys = world.redis.keys();
    let get = |key: &String| redis::cmd("GET").arg(key).query::<Vec<u8>>(&mut redis);
    let values: Vec<Vec<u8>> = keys.iter().map(get).collect::<Result<_, _>>().expect("values");
    for (i, key) in keys.iter().enumerate() {
        redis::cmd("SET").arg(key).arg(change(&values, i)).query::<()>(&mut redis).expect("set");
    }
}

#[test]
fn what_others_write_to_redis_is_never_given() {
    let world = World::start();
    let mut sessions = world.sessions();
    world.ask_until_fetched(&mut sessions, 0);
    let mut redis = world.redis.connect();
    for key in world.redis.keys() {
        let value: Vec<u8> = redis::cmd("GET").arg(&key).query(&mut redis).expect("a value");
        for canary in ["canary", "question", "item"] {
            assert!(!value.windows(canary.len()).any(|w| w == canary.as_bytes()), "{canary} in plain text");
            assert!(!key.contains(canary), "{key}");
        }
        let left: i64 = redis::cmd("TTL").arg(&key).query(&mut redis).expect("an expiry");
        assert!((1..=3600).contains(&left), "{left}");
    }
    type Change = fn(&[Vec<u8>], usize) -> Vec<u8>;
    let changes: [(&str, Change); 5] = [
        ("another's, of either tenant", |all, i| all[(i + 1) % all.len()].clone()),
        ("a flipped byte", |all, i| {
            let mut value = all[i].clone();
            let at = (i * 7919) % value.len().max(1);
            value.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1);
            value
        }),
        ("cut", |all, i| all[i][..all[i].len() * (i % 8) / 8].to_vec()),
        ("a nonce and nothing else", |all, i| all[i].get(..12).unwrap_or_default().to_vec()),
        ("much", |_, i| vec![i as u8; 4 << 20]),
    ];
    for (what, change) in changes {
        // Good values first.
        world.ask_until_fetched(&mut sessions, 0);
        let before = world.redis_did("forged");
        wait_until(what, || {
            tamper(&world, change);
            world.ask_all(&mut sessions, 0);
            world.redis_did("forged") > before
        });
    }
    // What is no string.
    let before = world.redis_did("error");
    world.ask_until_fetched(&mut sessions, 0);
    wait_until("Redis refuses", || {
        for key in world.redis.keys() {
            redis::cmd("DEL").arg(&key).query::<()>(&mut redis).expect("del");
            redis::cmd("RPUSH").arg(&key).arg("x").query::<()>(&mut redis).expect("push");
        }
        world.ask_all(&mut sessions, 0);
        world.redis_did("error") > before
    });
    world.ask_until_fetched(&mut sessions, 0);
}

#[test]
fn whatever_becomes_of_redis_costs_only_hits() {
    // The proxy starts without it.
    let mut world = World::before(Server::new());
    let mut sessions = world.sessions();
    let mut written = 0;
    let mut round = |world: &World| {
        written += 1;
        sessions.iter_mut().for_each(|(session, _)| write(session, written));
        world.ask_all(&mut sessions, written);
        world.ask_all(&mut sessions, written);
    };
    round(&world);
    assert!(!world.is_used());
    world.redis.boot();
    world.wait_until_used();
    let fetches = |round: &mut dyn FnMut(&World), world: &World| {
        let before = world.fetched();
        wait_until("answers come from Redis", || {
            round(world);
            world.fetched() > before
        });
    };
    fetches(&mut round, &world);

    // Stopped: a few wait in vain, and nobody after them.
    let (lost, late) = (world.redis_did("lost"), world.redis_did("timeout"));
    world.redis.signal("STOP");
    wait_until("it is left alone", || {
        round(&world);
        !world.is_used()
    });
    (0..3).for_each(|_| round(&world));
    assert!(!world.is_used() && world.redis_did("lost") <= lost + 1, "{}", world.redis_did("lost") - lost);
    // Three, and an answer's on its way there at that moment.
    assert!(world.redis_did("timeout") <= late + 4, "{}", world.redis_did("timeout") - late);
    world.redis.signal("CONT");
    world.wait_until_used();
    fetches(&mut round, &world);

    // Killed, and back without anything.
    world.redis.kill();
    wait_until("it is left alone", || {
        round(&world);
        !world.is_used()
    });
    round(&world);
    world.redis.boot();
    world.wait_until_used();
    fetches(&mut round, &world);

    // Full.
    let before = world.redis_did("error");
    let limit = |bytes: &str| {
        redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes).query::<()>(&mut world.redis.connect()).expect("set");
    };
    limit("1000000");
    wait_until("Redis refuses", || {
        round(&world);
        world.redis_did("error") > before
    });
    round(&world);
    limit("0");
    world.wait_until_used();
    fetches(&mut round, &world);

    // An operator is told when that changes, and not each time that it is tried.
    let log = world.proxy.log();
    let told = log.matches("Redis").count() as u64;
    let changes = world.redis_did("lost") + world.redis_did("found");
    assert!(told <= changes + 2, "{told} lines for {changes} changes:\n{log}");
}

/// A replica that heard nothing for a while takes over: it has answers from before what was written since.
#[test]
fn a_replica_that_takes_over_gives_nothing_old() {
    let mut primary = Server::new();
    primary.boot();
    let relay = Relay::start(primary.port);
    let url = primary.url_at(relay.port);
    let world = World::at(primary, &url);
    world.wait_until_used();
    let mut sessions = world.sessions();
    world.ask_until_fetched(&mut sessions, 0);
    let mut replica = Server::new();
    replica.boot();
    replica.replicate(&world.redis);
    wait_until("the replica has what the primary has", || !replica.keys().is_empty() && replica.keys() == world.redis.keys());
    replica.promote();
    sessions.iter_mut().for_each(|(session, _)| write(session, 1));
    world.ask_all(&mut sessions, 1);
    relay.switch(replica.port);
    world.ask_until_fetched(&mut sessions, 1);
    // And back, to one that has missed something in its turn.
    sessions.iter_mut().for_each(|(session, _)| write(session, 2));
    world.ask_all(&mut sessions, 2);
    relay.switch(world.redis.port);
    world.ask_until_fetched(&mut sessions, 2);
}

#[test]
fn the_configuration_is_checked() {
    let policies = [("shop.toml", POLICIES)];
    let check = |lines: &str| {
        let databases = [("shop".to_owned(), "postgres://app:x@127.0.0.1:1/shop".to_owned())];
        let setup = Setup::new(&databases, &[User { name: "one", access: "tenant = \"1\"" }], &policies);
        let text = std::fs::read_to_string(setup.config()).expect("the configuration");
        std::fs::write(setup.config(), format!("{text}[cache]\n{lines}\n")).expect("write the configuration");
        let output = setup.run(&["check"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(!text.contains("HUSH"), "{text}");
        (output.status.success(), text)
    };
    let (good, text) = check("memory_mb = 4\nredis = \"redis://app:HUSH@127.0.0.1:6379/1\"");
    assert!(good, "{text}");
    for (lines, part) in [
        ("redis = \"redis://app:HUSH@127.0.0.1:6379\"", "memory_mb is not"),
        ("memory_mb = 4\nredis = \"rediss://app:HUSH@127.0.0.1:6379\"", "rediss:// is not supported"),
        ("memory_mb = 4\nredis = \"http://app:HUSH@127.0.0.1:6379\"", "begins with redis://"),
        ("memory_mb = 4\nredis = \"file:nowhere\"", "cannot be read"),
        ("memory_mb = 4\nredis = 6379", "expected redis://"),
    ] {
        let (good, text) = check(lines);
        assert!(!good && text.contains(part), "{lines}: {text}");
    }
}
