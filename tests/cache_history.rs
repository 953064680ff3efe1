//! Many clients write and read, connections break, the server crashes: no read that the cache answers may be older than what anybody
//! had been told before it began. `HISTORY_OPERATIONS` (200,000, half of them in each test) and `HISTORY_SEED` (1).
//!
//! Counters only grow, each in a row of its own: a read that returns less than was acknowledged, or read by anybody, before it was sent is
//! stale. Two tables have a sum that every transaction keeps: a read that shows another saw half of one.
//!
//! One proxy: that holds whoever wrote. Two proxies, which are killed, and writers past both: it holds for what was written through the
//! proxy that is asked; what was written elsewhere must be seen once it is older than the bound.
//!
//! Memory has little room: long answers that take the server some time come from Redis, which is stopped, and killed, as well.

mod support;

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use support::cluster::Cluster;
use support::proxy::{Proxy, Setup, User};
use support::random::Random;
use support::redis::Server;
use support::wire::{Extended, Target, Wire};

const SCHEMA: &str = "
    CREATE TABLE counter (tenant_id int NOT NULL, id int, n bigint NOT NULL, PRIMARY KEY (tenant_id, id));
    CREATE TABLE debit (tenant_id int NOT NULL, id int, v bigint NOT NULL, PRIMARY KEY (tenant_id, id));
    CREATE TABLE credit (tenant_id int NOT NULL, id int, v bigint NOT NULL, PRIMARY KEY (tenant_id, id));
    CREATE TABLE digit (tenant_id int NOT NULL, d int, PRIMARY KEY (tenant_id, d));
    INSERT INTO counter SELECT t, k, 0 FROM generate_series(1, 3) t, generate_series(0, 3) k;
    INSERT INTO debit SELECT t, k, 500 FROM generate_series(1, 3) t, generate_series(0, 3) k;
    INSERT INTO credit SELECT t, k, 500 FROM generate_series(1, 3) t, generate_series(0, 3) k;
    INSERT INTO digit SELECT t, d FROM generate_series(1, 3) t, generate_series(0, 9) d;
    GRANT ALL ON ALL TABLES IN SCHEMA public TO app";

const TENANTS: usize = 3;
const ROWS: usize = 4;
const SUM: i64 = 1_000 * ROWS as i64;
const CLIENTS: usize = 8;
/// Written less often than the others, so that what is asked of it at length is asked again before that.
const QUIET: usize = 3;

fn policies() -> String {
    let table = |name| format!("[[table]]\nname = \"public.{name}\"\nscope = \"tenant\"\ntenant_column = \"tenant_id\"\n");
    ["counter", "debit", "credit", "digit"].map(table).concat()
}

/// How much older an answer may be than a write through another proxy.
const WITHIN: Duration = Duration::from_secs(1);

/// What was told of one counter.
#[derive(Default)]
struct Told {
    /// The most that was told of writes through each proxy, and of none.
    by_place: [AtomicI64; 3],
    /// When it was told by anybody, and the most until then: of the last seconds.
    lately: Mutex<VecDeque<(Instant, i64)>>,
}

impl Told {
    fn note(&self, place: usize, n: i64) {
        self.by_place[place].fetch_max(n, Ordering::SeqCst);
        let mut lately = self.lately.lock().expect("no panic");
        if lately.back().is_none_or(|(_, most)| *most < n) {
            lately.push_back((Instant::now(), n));
        }
        // The newest that is old enough stays.
        while lately.len() > 1 && lately[1].0.elapsed() > WITHIN {
            lately.pop_front();
        }
    }

    /// The least that a read by way of this place may return.
    fn least(&self, place: usize, strict: bool) -> i64 {
        let lately = self.lately.lock().expect("no panic");
        let old = lately.iter().rev().find(|(at, _)| strict || at.elapsed() > WITHIN).map_or(0, |(_, n)| *n);
        old.max(self.by_place[place].load(Ordering::SeqCst))
    }
}

/// What has been told to anybody.
struct History {
    told: [[Told; ROWS]; TENANTS],
    /// Whether a read must know what was told to anybody.
    strict: bool,
    operations: AtomicU64,
    reads: AtomicU64,
    writes: AtomicU64,
    /// Sessions that were lost, by faults.
    lost: AtomicU64,
    over: AtomicBool,
}

/// One client: a session of a tenant, or of the owner, that begins again when it is lost.
struct Client<'h> {
    history: &'h History,
    random: Random,
    /// Tenants by way of the first proxy, then of the second, then whoever writes past both, or as the owner.
    targets: &'h [Target],
    /// How many proxies there are.
    proxies: usize,
    sessions: Vec<Option<Wire>>,
    wanted: u64,
    /// After so many operations of all clients it is time for a fault.
    every: u64,
    tell: Sender<()>,
}

impl Client<'_> {
    fn run(&mut self) {
        while !self.history.over.load(Ordering::Relaxed) && self.history.operations.load(Ordering::Relaxed) < self.wanted {
            let (tenant, row) = (self.random.below(TENANTS * self.proxies), self.random.below(ROWS));
            let written = if row == QUIET && self.random.below(30) > 0 { 0 } else { row };
            let done = match self.random.below(100) {
                0..38 => self.read_counter(tenant, row),
                38..50 => self.read_at_length(tenant),
                50..60 => self.read_in_a_block(tenant, written),
                60..80 => self.read_sum(tenant),
                80..93 => self.count(tenant, written),
                93..98 => self.transfer(tenant),
                98 => self.leave(tenant, written),
                // That ends the answers of all tenants.
                _ if self.random.below(8) == 0 => self.count_as_owner(tenant, written),
                _ => self.count(tenant, written),
            };
            if done.is_some() && (self.history.operations.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(self.every) {
                let _ = self.tell.send(());
            }
        }
    }

    fn session(&mut self, number: usize) -> Option<&mut Wire> {
        if self.sessions[number].is_none() {
            self.sessions[number] = Wire::connect(&self.targets[number]).ok();
        }
        self.sessions[number].as_mut()
    }

    /// One query; `None`: it failed, or nobody knows.
    fn ask(&mut self, number: usize, sql: &str) -> Option<Option<i64>> {
        let answer = self.session(number)?.query(sql);
        if answer.error.is_some() || answer.status.is_none() {
            // Faults, and no mistake of this test.
            let error = answer.error.as_ref().map_or(String::new(), |e| format!("{e:?}"));
            assert!(answer.status.is_none() || error.contains("upstream server"), "{sql}: {error}");
            self.forget(number);
            return None;
        }
        Some(answer.scalar().and_then(|value| value.parse().ok()))
    }

    /// Likewise, by the extended protocol.
    fn extended(&mut self, number: usize, sql: &str, parameters: &[Option<&str>]) -> Option<i64> {
        let answer = self.session(number)?.extended(&Extended { sql: sql.as_bytes(), parameters, ..Extended::default() });
        let value = answer.scalar().filter(|_| answer.error.is_none()).and_then(|n| n.parse().ok());
        if value.is_none() {
            self.forget(number);
        }
        value
    }

    fn forget(&mut self, number: usize) {
        self.sessions[number] = None;
        self.history.lost.fetch_add(1, Ordering::Relaxed);
    }

    fn read_counter(&mut self, tenant: usize, row: usize) -> Option<()> {
        let least = self.least(tenant, row);
        let n = match self.random.below(5) {
            0 => self.ask(tenant, &format!("SELECT n FROM counter WHERE id = {row}"))??,
            1 => self.ask(tenant, &format!("/* bulkhead: ttl=1 */ SELECT n FROM counter WHERE id = {row}"))??,
            2 => self.ask(tenant, &format!("/* bulkhead: no-cache */ SELECT n FROM counter WHERE id = {row}"))??,
            3 => {
                let id = row.to_string();
                let parameters = [Some(id.as_str())];
                self.extended(tenant, "SELECT n FROM counter WHERE id = $1", &parameters)?
            }
            _ => self.extended(tenant, &format!("SELECT n FROM counter WHERE id = {row}"), &[])?,
        };
        self.has_read(tenant, row, n, least)
    }

    /// The same in an answer that is long and dear: memory has no room for all of them.
    fn read_at_length(&mut self, tenant: usize) -> Option<()> {
        let least = self.least(tenant, QUIET);
        let which = self.random.below(8);
        let sql = format!(
            "SELECT max(n), repeat('{which}', 50000), count(*) FROM counter, digit a, digit b, digit c, digit d WHERE counter.id = {QUIET}"
        );
        let n = match self.random.below(2) {
            0 => self.ask(tenant, &sql)??,
            _ => self.extended(tenant, &sql, &[])?,
        };
        self.has_read(tenant, QUIET, n, least)
    }

    /// What was told before a read that begins now.
    fn least(&self, tenant: usize, row: usize) -> i64 {
        self.history.told[tenant % TENANTS][row].least(tenant / TENANTS, self.history.strict)
    }

    fn has_read(&self, tenant: usize, row: usize, n: i64, least: i64) -> Option<()> {
        assert!(n >= least, "tenant {tenant}, row {row}: {n} was read after {least} had been told");
        // With two, others may be told less for a while.
        if self.history.strict {
            self.told(tenant, row, n);
        }
        self.history.reads.fetch_add(1, Ordering::Relaxed);
        Some(())
    }

    /// Each statement sees what is committed when it begins, and its own.
    fn read_in_a_block(&mut self, tenant: usize, row: usize) -> Option<()> {
        self.ask(tenant, "BEGIN")?;
        self.read_counter(tenant, row)?;
        if self.random.below(2) == 0 {
            let n = self.ask(tenant, &format!("UPDATE counter SET n = n + 1 WHERE id = {row} RETURNING n"))??;
            // Nobody else can have written since.
            let own = self.ask(tenant, &format!("SELECT n FROM counter WHERE id = {row}"))??;
            assert_eq!(own, n, "tenant {tenant}, row {row}: not what it had written itself");
            self.read_counter(tenant, (row + 1) % ROWS)?;
            self.ask(tenant, "ROLLBACK")?;
        } else {
            self.read_sum(tenant)?;
            self.read_counter(tenant, row)?;
            self.ask(tenant, "COMMIT")?;
        }
        Some(())
    }

    fn told(&self, tenant: usize, row: usize, n: i64) {
        self.history.told[tenant % TENANTS][row].note(tenant / TENANTS, n);
    }

    fn read_sum(&mut self, tenant: usize) -> Option<()> {
        let sql = match self.random.below(2) {
            0 => "SELECT sum(v) FROM (SELECT v FROM debit UNION ALL SELECT v FROM credit) AS moved",
            _ => "SELECT (SELECT sum(v) FROM debit) + (SELECT sum(v) FROM credit)",
        };
        let sum = self.ask(tenant, sql)??;
        assert_eq!(sum, SUM, "tenant {tenant} saw half of a transaction");
        self.history.reads.fetch_add(1, Ordering::Relaxed);
        Some(())
    }

    /// Adds one, in one of several ways.
    fn count(&mut self, tenant: usize, row: usize) -> Option<()> {
        let sql = format!("UPDATE counter SET n = n + 1 WHERE id = {row} RETURNING n");
        let n = match self.random.below(4) {
            0 => self.extended(tenant, &sql, &[])?,
            1 => {
                self.ask(tenant, "BEGIN")?;
                let n = self.ask(tenant, &sql)??;
                if self.random.below(4) == 0 {
                    self.ask(tenant, "ROLLBACK")?;
                    return Some(());
                }
                self.ask(tenant, "COMMIT")?;
                n
            }
            _ => self.ask(tenant, &sql)??,
        };
        self.told(tenant, row, n);
        self.history.writes.fetch_add(1, Ordering::Relaxed);
        Some(())
    }

    fn transfer(&mut self, tenant: usize) -> Option<()> {
        // In one order, so that no two wait for each other.
        let (a, amount) = (self.random.below(ROWS), self.random.below(9));
        self.ask(tenant, "BEGIN")?;
        self.ask(tenant, &format!("UPDATE debit SET v = v - {amount} WHERE id = {a}"))?;
        self.ask(tenant, &format!("UPDATE credit SET v = v + {amount} WHERE id = {a}"))?;
        self.ask(tenant, "COMMIT")?;
        self.history.writes.fetch_add(1, Ordering::Relaxed);
        Some(())
    }

    /// Sends a write, or the COMMIT of one, and goes: nobody is told what became of it.
    fn leave(&mut self, tenant: usize, row: usize) -> Option<()> {
        let sql = format!("UPDATE counter SET n = n + 1 WHERE id = {row}");
        let last = if self.random.below(2) == 0 {
            self.ask(tenant, "BEGIN")?;
            self.ask(tenant, &sql)?;
            "COMMIT"
        } else {
            &sql
        };
        let body = [last.as_bytes(), &[0]].concat();
        let _ = self.session(tenant)?.send(b'Q', &body);
        self.sessions[tenant] = None;
        Some(())
    }

    fn count_as_owner(&mut self, tenant: usize, row: usize) -> Option<()> {
        let sql = format!("UPDATE counter SET n = n + 1 WHERE tenant_id = {} AND id = {row} RETURNING n", tenant % TENANTS + 1);
        let n = self.ask(TENANTS * self.proxies, &sql)??;
        // One proxy: the owner writes through it. Two: past both.
        self.history.told[tenant % TENANTS][row].note(if self.proxies == 1 { 0 } else { 2 }, n);
        self.history.writes.fetch_add(1, Ordering::Relaxed);
        Some(())
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().expect("a number"))
}

/// A proxy before the cluster; `follow`: others write too.
fn setup(cluster: &Cluster, redis: &Server, follow: bool) -> Setup {
    let owner = format!("unrestricted = true\nupstream = \"{}\"", cluster.superuser_url("shop"));
    let tenants: Vec<(String, String)> = (1..=TENANTS).map(|t| (format!("t{t}"), format!("tenant = \"{t}\""))).collect();
    let mut users: Vec<User<'_>> = tenants.iter().map(|(name, access)| User { name, access }).collect();
    users.push(User { name: "owner", access: &owner });
    let setup = Setup::new(&[("shop".to_owned(), cluster.app_url("shop"))], &users, &[("shop.toml", &policies())]);
    let text = std::fs::read_to_string(setup.config()).expect("the configuration");
    let followed = if follow { format!("\nfollow = \"{}\"", cluster.superuser_url("shop")) } else { String::new() };
    let text = text.replace("pool_size = 4", &format!("pool_size = 12\ntenant_pool_size = 6{followed}"));
    let within = format!("within = \"{}ms\"\n", WITHIN.as_millis());
    let tiers = format!("[cache]\nmemory_mb = 1\nredis = \"{}\"\n", redis.url());
    std::fs::write(setup.config(), text + &tiers + &within).expect("write the configuration");
    setup
}

fn tenants(proxy: &Proxy) -> Vec<Target> {
    (1..=TENANTS).map(|t| proxy.target(&format!("t{t}"), "shop")).collect()
}

/// Runs the clients; `fault` is called again and again, with its number.
fn run(test: &str, targets: &[Target], proxies: usize, mut fault: impl FnMut(u64)) -> History {
    // Half of them in each test.
    let (wanted, seed) = (number("HISTORY_OPERATIONS", 200_000) / 2, number("HISTORY_SEED", 1));
    let history = History {
        told: Default::default(),
        strict: proxies == 1,
        operations: AtomicU64::new(0),
        reads: AtomicU64::new(0),
        writes: AtomicU64::new(0),
        lost: AtomicU64::new(0),
        over: AtomicBool::new(false),
    };
    let begun = Instant::now();
    let (tell, told) = channel();
    let every = (wanted / 200).max(50);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|n| {
                let mut client = Client {
                    history: &history,
                    random: Random::new(seed * 1_000 + n as u64),
                    targets,
                    proxies,
                    sessions: targets.iter().map(|_| None).collect(),
                    wanted,
                    every,
                    tell: tell.clone(),
                };
                scope.spawn(move || {
                    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| client.run()));
                    client.history.over.store(true, Ordering::Relaxed);
                    drop(client);
                    done
                })
            })
            .collect();
        drop(tell);
        for number in 1_u64.. {
            match told.recv_timeout(Duration::from_secs(60)) {
                Ok(()) => fault(number),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("the clients stand still"),
            }
        }
        for client in clients {
            if let Err(panic) = client.join().expect("a thread") {
                std::panic::resume_unwind(panic);
            }
        }
    });
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "history, {test}: {} operations in {:.0?} ({} reads, {} writes, {} sessions lost), seed {seed}",
        count(&history.operations),
        begun.elapsed(),
        count(&history.reads),
        count(&history.writes),
        count(&history.lost)
    );
    assert!(count(&history.operations) >= wanted && count(&history.lost) > 0);
    history
}

/// Ends a connection of the server's.
fn kill_one(cluster: &Cluster, which: &str) {
    if let Ok(mut keeper) = Wire::connect(&cluster.superuser("postgres")) {
        let these = format!("FROM pg_stat_activity WHERE {which} AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1");
        keeper.query(format!("SELECT pg_terminate_backend(pid) {these}"));
    }
}

/// At every twentieth fault: kills Redis, or stops it until the next one. Between them it is found again, and used.
fn harm(redis: &mut Server, fault: u64) {
    match fault % 60 {
        0 => {
            redis.kill();
            redis.boot();
        }
        20 => redis.signal("STOP"),
        21 => redis.signal("CONT"),
        _ => {}
    }
}

/// A cache that gives nothing would pass. What a proxy had given before it was killed is not counted.
fn check_hits(proxies: &[&Proxy], history: &History) {
    let hits = |reason| proxies.iter().map(|proxy| hits(proxy, reason)).sum::<u64>();
    let (memory, redis) = (hits(""), hits("redis"));
    let reads = history.reads.load(Ordering::Relaxed);
    println!("hits {memory} of {reads} reads, and {redis} from Redis");
    assert!(memory > reads / 20 && redis > 0, "{memory} hits of {reads} reads, {redis} from Redis");
}

#[test]
fn nothing_stale_is_ever_read() {
    let mut cluster = Cluster::start();
    cluster.execute("postgres", "CREATE DATABASE shop");
    cluster.execute("shop", SCHEMA);
    // A busy machine is no mistake of a statement's.
    cluster.execute("postgres", "ALTER ROLE app SET statement_timeout = '60s'");
    let mut redis = Server::new();
    redis.boot();
    let proxy = Proxy::start(setup(&cluster, &redis, false));
    let targets: Vec<Target> = tenants(&proxy).into_iter().chain([proxy.target("owner", "shop")]).collect();
    // Backends are killed, and the whole server.
    let history = run("one proxy", &targets, 1, |fault| {
        if fault % 70 == 0 {
            cluster.crash();
            cluster.boot();
        } else {
            kill_one(&cluster, "usename = 'app'");
        }
        harm(&mut redis, fault);
    });
    check_hits(&[&proxy], &history);
}

#[test]
fn what_was_written_elsewhere_is_read_within_the_bound() {
    let mut cluster = Cluster::start_with(&["wal_level = logical"]);
    cluster.execute("postgres", "CREATE DATABASE shop");
    cluster.execute("shop", SCHEMA);
    // A busy machine is no mistake of a statement's.
    cluster.execute("postgres", "ALTER ROLE app SET statement_timeout = '60s'");
    cluster.execute("shop", "CREATE PUBLICATION bulkhead FOR ALL TABLES");
    let mut redis = Server::new();
    redis.boot();
    let start = || Proxy::start(setup(&cluster, &redis, true));
    let (first, mut second) = (start(), start());
    let targets: Vec<Target> = tenants(&first).into_iter().chain(tenants(&second)).chain([cluster.superuser("shop")]).collect();
    // Backends are killed, what follows the log, a proxy, and the whole server.
    let history = run("two proxies, and writers past both", &targets, 2, |fault| {
        match fault % 10 {
            _ if fault % 67 == 0 => {
                cluster.crash();
                cluster.boot();
            }
            9 => second.kill_and_start(),
            5 => kill_one(&cluster, "backend_type = 'walsender'"),
            _ => kill_one(&cluster, "usename = 'app'"),
        }
        harm(&mut redis, fault);
    });
    check_hits(&[&first], &history);
}

fn metrics(proxy: &Proxy) -> String {
    use std::io::{Read, Write};
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", proxy.setup.admin_port)).expect("the admin port");
    socket.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("ask");
    let mut text = String::new();
    socket.read_to_string(&mut text).expect("an answer");
    text
}

fn hits(proxy: &Proxy, reason: &str) -> u64 {
    let labels = format!("bulkhead_cache_requests_total{{reason=\"{reason}\",result=\"hit\"}} ");
    metrics(proxy).lines().find_map(|line| line.strip_prefix(&labels)?.parse().ok()).unwrap_or(0)
}
