//! Two tenants ask the same in every way that the result cache tells apart, at once and one after another, while their rows change: no
//! byte of one may come to the other, and each sees its own as they are now. `CANARY_ROUNDS` (400) and `CANARY_SEED` (1).

mod support;

use std::fmt::Write as _;
use std::io::{Read, Write as _};

use support::cluster::Cluster;
use support::proxy::{Proxy, Setup, User};
use support::random::Random;
use support::wire::{Wire, put_bind, put_execute, put_message, put_parse};

const ROWS: usize = 5;
const SCHEMA: &str = "
    CREATE TABLE safe (tenant_id int NOT NULL, id int, secret text, number bigint, token uuid, PRIMARY KEY (tenant_id, id));
    INSERT INTO safe SELECT t, g FROM generate_series(1, 2) t, generate_series(0, 4) g;
    GRANT ALL ON safe TO app";
const POLICIES: &str = "[[table]]\nname = 'public.safe'\nscope = 'tenant'\ntenant_column = 'tenant_id'\n";

/// What all ask. `{}`: a row.
const READS: [&str; 5] = [
    "SELECT secret, number, token FROM safe WHERE id = {}",
    "SELECT s.secret, t.number, t.token FROM safe s JOIN safe t ON t.id = s.id WHERE s.id = {}",
    "SELECT secret, number, token FROM safe WHERE id >= {} ORDER BY id",
    "SELECT (SELECT secret FROM safe WHERE id = {}), number, token FROM safe WHERE id = {}",
    "SELECT max(secret), sum(number)::bigint, (array_agg(token))[1] FROM safe WHERE id IN ({}, -1)",
];

/// What is in a row, and nowhere else.
#[derive(Clone)]
struct Canary {
    secret: String,
    number: u64,
    token: u128,
}

impl Canary {
    fn new(random: &mut Random) -> Canary {
        let token = u128::from(random.next()) << 64 | u128::from(random.next());
        // Long in either format.
        Canary { secret: format!("{:016x}", random.next()), number: random.next() >> 3 | 1 << 60, token }
    }

    fn token(&self) -> String {
        let mut text = format!("{:032x}", self.token);
        [20, 16, 12, 8].into_iter().for_each(|at| text.insert(at, '-'));
        text
    }

    /// As an answer holds it.
    fn bytes(&self, binary: bool) -> [Vec<u8>; 3] {
        let secret = self.secret.clone().into_bytes();
        if binary {
            [secret, self.number.to_be_bytes().to_vec(), self.token.to_be_bytes().to_vec()]
        } else {
            [secret, self.number.to_string().into_bytes(), self.token().into_bytes()]
        }
    }

    fn update(&self, row: usize) -> String {
        format!(
            "UPDATE safe SET secret = '{}', number = {}, token = '{}' WHERE id = {row}",
            self.secret,
            self.number,
            self.token()
        )
    }
}

struct Session {
    wire: Wire,
    /// 0 or 1.
    tenant: usize,
    /// Whether it may choose.
    is_shared: bool,
}

/// How the same is asked.
#[derive(Clone, Copy, Debug)]
struct Question {
    read: &'static str,
    row: usize,
    extended: bool,
    parameter: bool,
    binary: bool,
}

impl Question {
    fn new(random: &mut Random) -> Question {
        let extended = random.percent(60);
        let (parameter, binary) = (extended && random.percent(50), extended && random.percent(50));
        Question { read: READS[random.below(READS.len())], row: random.below(ROWS), extended, parameter, binary }
    }

    fn message(self) -> Vec<u8> {
        let (mut out, row) = (Vec::new(), self.row.to_string());
        let sql = self.read.replace("{}", if self.parameter { "$1" } else { &row });
        if !self.extended {
            put_message(&mut out, b'Q', &[sql.as_bytes(), &[0]].concat());
            return out;
        }
        put_parse(&mut out, "", sql.as_bytes(), if self.parameter { &[23] } else { &[] });
        let parameters = [Some(row.as_str())];
        put_bind(&mut out, "", "", if self.parameter { &parameters } else { &[] }, i16::from(self.binary));
        put_message(&mut out, b'D', b"P\0");
        put_execute(&mut out, "", 0);
        put_message(&mut out, b'S', b"");
        out
    }
}

/// The rows of both tenants, and all that ever was in them.
struct Canaries {
    now: [Vec<Canary>; 2],
    ever: [Vec<Vec<u8>>; 2],
}

impl Canaries {
    fn put(&mut self, tenant: usize, row: usize, canary: Canary) {
        self.ever[tenant].extend(canary.bytes(false).into_iter().chain(canary.bytes(true)));
        self.now[tenant][row] = canary;
    }

    /// Nothing of the other's.
    fn check(&self, tenant: usize, raw: &[u8], what: &str) {
        let foreign = self.ever[1 - tenant].iter().find(|canary| holds(raw, canary));
        assert!(foreign.is_none(), "tenant {} received {foreign:?} of the other: {what}", tenant + 1);
    }
}

fn holds(raw: &[u8], canary: &[u8]) -> bool {
    memchr::memmem::find(raw, canary).is_some()
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().expect("a number"))
}

fn start() -> (Cluster, Proxy) {
    let cluster = Cluster::start();
    cluster.execute("postgres", "CREATE DATABASE shop");
    cluster.execute("shop", SCHEMA);
    let users = [
        User { name: "one", access: "tenant = \"1\"" },
        User { name: "two", access: "tenant = \"2\"" },
        User { name: "web", access: "tenants = \"*\"" },
    ];
    let setup = Setup::new(&[("shop".to_owned(), cluster.app_url("shop"))], &users, &[("shop.toml", POLICIES)]);
    let mut text = std::fs::read_to_string(setup.config()).expect("the configuration");
    let _ = write!(text, "[cache]\nmemory_mb = 16\n");
    std::fs::write(setup.config(), text).expect("write the configuration");
    (cluster, Proxy::start(setup))
}

fn hits(proxy: &Proxy) -> u64 {
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", proxy.setup.admin_port)).expect("the admin port");
    socket.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("ask");
    let mut text = String::new();
    socket.read_to_string(&mut text).expect("an answer");
    let line = text.lines().find(|l| l.starts_with("bulkhead_cache_requests_total{") && l.contains("result=\"hit\""));
    line.and_then(|l| l.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

#[test]
fn no_byte_of_one_tenant_comes_to_another() {
    let (rounds, seed) = (number("CANARY_ROUNDS", 400), number("CANARY_SEED", 1));
    let (_cluster, proxy) = start();
    let mut random = Random::new(seed);
    let connect = |(user, tenant): (&str, usize)| Session {
        wire: Wire::connect(&proxy.target(user, "shop")).expect("a session"),
        tenant,
        is_shared: user == "web",
    };
    let mut sessions: Vec<Session> = [("one", 0), ("two", 1), ("one", 0), ("web", 0), ("web", 1), ("web", 0)].map(connect).into();
    for session in sessions.iter_mut().filter(|s| s.is_shared) {
        session.wire.query(format!("SET bulkhead.tenant = '{}'", session.tenant + 1));
    }
    let none = Canary { secret: String::new(), number: 0, token: 0 };
    let mut canaries = Canaries { now: [vec![none.clone(); ROWS], vec![none; ROWS]], ever: [vec![], vec![]] };
    for (tenant, row) in (0..2).flat_map(|tenant| (0..ROWS).map(move |row| (tenant, row))) {
        let canary = Canary::new(&mut random);
        assert!(sessions[tenant].wire.query(canary.update(row)).error.is_none());
        canaries.put(tenant, row, canary);
    }
    let mut reads = 0;
    for round in 0..rounds {
        let at = random.below(sessions.len());
        let session = &mut sessions[at];
        if random.percent(20) {
            let (row, canary) = (random.below(ROWS), Canary::new(&mut random));
            let answer = session.wire.query(canary.update(row));
            assert!(answer.error.is_none(), "{answer:?}");
            canaries.check(session.tenant, &answer.raw, "an UPDATE");
            canaries.put(session.tenant, row, canary);
        } else if session.is_shared && random.percent(30) {
            session.tenant = 1 - session.tenant;
            let answer = session.wire.query(format!("SET bulkhead.tenant = '{}'", session.tenant + 1));
            assert!(answer.error.is_none(), "{answer:?}");
        }
        // All at once, so that some wait for others, and again for what is known by then.
        let question = Question::new(&mut random);
        for _ in 0..2 {
            for session in &mut sessions {
                session.wire.send_raw(&question.message()).expect("send");
            }
            for Session { wire, tenant, .. } in &mut sessions {
                let answer = wire.answer();
                assert!(answer.error.is_none(), "{question:?}: {answer:?}");
                canaries.check(*tenant, &answer.raw, question.read);
                for own in canaries.now[*tenant][question.row].bytes(question.binary) {
                    assert!(holds(&answer.raw, &own), "round {round}, tenant {}: {question:?} is old: {answer:?}", *tenant + 1);
                }
                reads += 1;
            }
        }
    }
    let hits = hits(&proxy);
    println!("{reads} reads, {hits} hits, {} canaries, seed {seed}", canaries.ever.iter().map(Vec::len).sum::<usize>());
    assert!(hits > reads / 4, "{hits} hits of {reads} reads");
}
