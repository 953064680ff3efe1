//! Many clients write and read, connections break, the server crashes: no read that the cache answers may be older than what anybody
//! had been told before it began. `HISTORY_OPERATIONS` (200,000) and `HISTORY_SEED` (1).
//!
//! Counters only grow, each in a row of its own: a read that returns less than was acknowledged, or read by anybody, before it was sent is
//! stale. Two tables have a sum that every transaction keeps: a read that shows another saw half of one.

mod support;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use support::cluster::Cluster;
use support::proxy::{Proxy, Setup, User};
use support::random::Random;
use support::wire::{Extended, Target, Wire};

const SCHEMA: &str = "
    CREATE TABLE counter (tenant_id int NOT NULL, id int, n bigint NOT NULL, PRIMARY KEY (tenant_id, id));
    CREATE TABLE debit (tenant_id int NOT NULL, id int, v bigint NOT NULL, PRIMARY KEY (tenant_id, id));
    CREATE TABLE credit (tenant_id int NOT NULL, id int, v bigint NOT NULL, PRIMARY KEY (tenant_id, id));
    INSERT INTO counter SELECT t, k, 0 FROM generate_series(1, 3) t, generate_series(0, 3) k;
    INSERT INTO debit SELECT t, k, 500 FROM generate_series(1, 3) t, generate_series(0, 3) k;
    INSERT INTO credit SELECT t, k, 500 FROM generate_series(1, 3) t, generate_series(0, 3) k;
    GRANT ALL ON ALL TABLES IN SCHEMA public TO app";

const TENANTS: usize = 3;
const ROWS: usize = 4;
const SUM: i64 = 1_000 * ROWS as i64;
const CLIENTS: usize = 8;

fn policies() -> String {
    let table = |name| format!("[[table]]\nname = \"public.{name}\"\nscope = \"tenant\"\ntenant_column = \"tenant_id\"\n");
    ["counter", "debit", "credit"].map(table).concat()
}

/// What has been told to anybody.
struct History {
    /// The least that a read of a counter may return from now on.
    least: [[AtomicI64; ROWS]; TENANTS],
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
    targets: &'h [Target],
    owner: &'h Target,
    sessions: Vec<Option<Wire>>,
    wanted: u64,
    /// After so many operations of all clients it is time for a fault.
    every: u64,
    tell: Sender<()>,
}

impl Client<'_> {
    fn run(&mut self) {
        while !self.history.over.load(Ordering::Relaxed) && self.history.operations.load(Ordering::Relaxed) < self.wanted {
            let (tenant, row) = (self.random.below(TENANTS), self.random.below(ROWS));
            let done = match self.random.below(100) {
                0..50 => self.read_counter(tenant, row),
                50..60 => self.read_in_a_block(tenant, row),
                60..80 => self.read_sum(tenant),
                80..93 => self.count(tenant, row),
                93..98 => self.transfer(tenant),
                98 => self.leave(tenant, row),
                _ => self.count_as_owner(tenant, row),
            };
            if done.is_some() && (self.history.operations.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(self.every) {
                let _ = self.tell.send(());
            }
        }
    }

    fn session(&mut self, number: usize) -> Option<&mut Wire> {
        if self.sessions[number].is_none() {
            let target = self.targets.get(number).unwrap_or(self.owner);
            self.sessions[number] = Wire::connect(target).ok();
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
        let least = self.history.least[tenant][row].load(Ordering::SeqCst);
        let n = match self.random.below(3) {
            0 => self.ask(tenant, &format!("SELECT n FROM counter WHERE id = {row}"))??,
            1 => {
                let id = row.to_string();
                let parameters = [Some(id.as_str())];
                self.extended(tenant, "SELECT n FROM counter WHERE id = $1", &parameters)?
            }
            _ => self.extended(tenant, &format!("SELECT n FROM counter WHERE id = {row}"), &[])?,
        };
        assert!(n >= least, "tenant {tenant}, row {row}: {n} was read after {least} had been told");
        self.told(tenant, row, n);
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
        self.history.least[tenant][row].fetch_max(n, Ordering::SeqCst);
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
        let sql = format!("UPDATE counter SET n = n + 1 WHERE tenant_id = {} AND id = {row} RETURNING n", tenant + 1);
        let n = self.ask(TENANTS, &sql)??;
        self.told(tenant, row, n);
        self.history.writes.fetch_add(1, Ordering::Relaxed);
        Some(())
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().expect("a number"))
}

#[test]
fn nothing_stale_is_ever_read() {
    let (wanted, seed) = (number("HISTORY_OPERATIONS", 200_000), number("HISTORY_SEED", 1));
    let mut cluster = Cluster::start();
    cluster.execute("postgres", "CREATE DATABASE shop");
    cluster.execute("shop", SCHEMA);
    let owner = format!("unrestricted = true\nupstream = \"{}\"", cluster.superuser_url("shop"));
    let tenants: Vec<(String, String)> = (1..=TENANTS).map(|t| (format!("t{t}"), format!("tenant = \"{t}\""))).collect();
    let mut users: Vec<User<'_>> = tenants.iter().map(|(name, access)| User { name, access }).collect();
    users.push(User { name: "owner", access: &owner });
    let setup = Setup::new(&[("shop".to_owned(), cluster.app_url("shop"))], &users, &[("shop.toml", &policies())]);
    let text = std::fs::read_to_string(setup.config()).expect("the configuration");
    let text = text.replace("pool_size = 4", "pool_size = 12\ntenant_pool_size = 6") + "[cache]\nmemory_mb = 16\n";
    std::fs::write(setup.config(), text).expect("write the configuration");
    let proxy = Proxy::start(setup);
    let targets: Vec<Target> = tenants.iter().map(|(name, _)| proxy.target(name, "shop")).collect();
    let owner = proxy.target("owner", "shop");
    let history = History {
        least: Default::default(),
        operations: AtomicU64::new(0),
        reads: AtomicU64::new(0),
        writes: AtomicU64::new(0),
        lost: AtomicU64::new(0),
        over: AtomicBool::new(false),
    };
    let begun = Instant::now();
    let (tell, told) = channel();
    // Backends are killed, and twice the whole server.
    let every = (wanted / 200).max(50);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|n| {
                let mut client = Client {
                    history: &history,
                    random: Random::new(seed * 1_000 + n as u64),
                    targets: &targets,
                    owner: &owner,
                    sessions: (0..=TENANTS).map(|_| None).collect(),
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
        for fault in 1_u64.. {
            match told.recv_timeout(Duration::from_secs(60)) {
                Ok(()) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("the clients stand still"),
            }
            if fault % 70 == 0 {
                cluster.crash();
                cluster.boot();
            } else if let Ok(mut keeper) = Wire::connect(&cluster.superuser("postgres")) {
                keeper.query(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app' AND pid <> pg_backend_pid() \
                     ORDER BY random() LIMIT 1",
                );
            }
        }
        for client in clients {
            if let Err(panic) = client.join().expect("a thread") {
                std::panic::resume_unwind(panic);
            }
        }
    });
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let metrics = metrics(&proxy);
    println!(
        "history: {} operations in {:.0?} ({} reads, {} writes, {} sessions lost), seed {seed}; {metrics}",
        count(&history.operations),
        begun.elapsed(),
        count(&history.reads),
        count(&history.writes),
        count(&history.lost)
    );
    assert!(count(&history.operations) >= wanted && count(&history.lost) > 0);
    // A cache that gives nothing would pass.
    let hits: u64 = metrics.split("hits ").nth(1).and_then(|m| m.parse().ok()).expect("a number of hits");
    assert!(hits > count(&history.reads) / 20, "{hits} hits of {} reads", count(&history.reads));
}

fn metrics(proxy: &Proxy) -> String {
    use std::io::{Read, Write};
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", proxy.setup.admin_port)).expect("the admin port");
    socket.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("ask");
    let mut text = String::new();
    socket.read_to_string(&mut text).expect("an answer");
    let hits = text.lines().find(|l| l.starts_with("bulkhead_cache_requests_total{") && l.contains("result=\"hit\""));
    format!("hits {}", hits.and_then(|l| l.rsplit(' ').next()).unwrap_or("0"))
}
