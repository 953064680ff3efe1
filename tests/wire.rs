//! Scripts of messages (`tests/wire/*.pt`), run directly against PostgreSQL and through the proxy as an unrestricted user: a
//! client must not be able to tell which is which. And what concerns the proxy's own side of the wire: startup, TLS, limits,
//! cancel keys, going down.

#[path = "wire/harness.rs"]
mod harness;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead::config::{
    Config, Database, Level, Limits, Log, LogFormat, Secret, Server, ServerTls, SslMode, Upstream, User, UserAccess,
};
use bulkhead::wire::{frame, frontend, startup};
use harness::{Postgres, Wire, run_script, wait_until};
use tokio::sync::oneshot;

fn upstream(postgres: &Postgres, user: &str) -> Upstream {
    Upstream {
        host: "127.0.0.1".into(),
        port: postgres.port,
        user: user.into(),
        password: Some("secret".into()),
        database: "shop".into(),
        ssl_mode: SslMode::Disable,
        ssl_root_cert: None,
    }
}

fn config(postgres: &Postgres) -> Config {
    let user = |name: &str, databases: &[&str]| User {
        name: name.into(),
        secret: Secret::Password("secret".into()),
        roles: Default::default(),
        access: UserAccess::Unrestricted { upstream: Some(upstream(postgres, "owner")) },
        databases: databases.iter().map(|d| (*d).into()).collect(),
        max_clients: None,
        purposes: Default::default(),
        glass: Default::default(),
    };
    Config {
        server: Server { listen: SocketAddr::from(([127, 0, 0, 1], 0)), admin_listen: None, policies: "".into(), tls: None },
        level: Level::Strict,
        databases: vec![Database {
            name: "shop".into(),
            upstream: upstream(postgres, "app"),
            pool_size: 5,
            tenant_pool_size: None,
            min_pool_size: 0,
            max_clients: None,
            lock_key: None,
            follow: None,
        }],
        users: vec![user("owner", &[]), user("elsewhere", &["other"])],
        log: Log { level: "warn".into(), format: LogFormat::Text },
        metrics: false,
        cache: None,
        cache_ttl: None,
        cache_within: std::time::Duration::from_secs(1),
        redis: None,
        audit: None,
        limits: Limits { startup_timeout: Duration::from_secs(5), max_message: 1 << 20, ..Limits::default() },
    }
}

/// A proxy on a port of its own, in a runtime of its own; stopped, and drained, when dropped.
struct Proxy {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Proxy {
    fn start(config: Config) -> Proxy {
        let (tell, told) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let workers = bulkhead::worker::Workers::start(bulkhead::worker::count()).unwrap();
                let server =
                    bulkhead::server::Server::bind(config, HashMap::new(), Default::default(), workers, Default::default())
                        .await
                        .unwrap();
                tell.send(server.local_addr().unwrap()).unwrap();
                server
                    .run(async {
                        let _ = stopped.await;
                    })
                    .await;
            });
        });
        Proxy { address: told.recv().unwrap(), stop: Some(stop), thread: Some(thread) }
    }

    fn connect(&self) -> Wire {
        Wire::connect(self.address, "owner", "secret", "shop", &[]).unwrap()
    }

    /// Begins to go down.
    fn stop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
    }

    fn join(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop();
        if !std::thread::panicking() {
            self.join();
        }
    }
}

fn start() -> (Arc<Postgres>, Proxy) {
    let postgres = Postgres::shared();
    let proxy = Proxy::start(config(&postgres));
    (postgres, proxy)
}

#[track_caller]
fn same_both_ways(script: &str) {
    let (postgres, proxy) = start();
    let direct = run_script(script, false, &postgres, &|| postgres.connect("owner"));
    let through = run_script(script, false, &postgres, &|| proxy.connect());
    assert!(direct == through, "--- directly\n{direct}\n--- through the proxy\n{through}");
}

macro_rules! scripts {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            same_both_ways(include_str!(concat!("wire/", stringify!($name), ".pt")));
        })*
    };
}

scripts!(simple extended copy large broken_bodies);

/// PostgreSQL closes without a word where a length cannot be; the proxy says why.
#[test]
fn garbage_ends_in_an_error_and_a_closed_connection() {
    let (postgres, proxy) = start();
    let through = run_script(include_str!("wire/garbage.pt"), false, &postgres, &|| proxy.connect());
    assert_eq!(through.matches("C=08P01").count(), 5, "{through}");
    assert_eq!(through.matches("  end\n").count(), 5, "{through}");
}

#[test]
fn settings_of_the_startup_message_hold() {
    let (_postgres, proxy) = start();
    let extra =
        [("options", r#"-c search_path="a\ b",public --work_mem=3MB"#), ("application_name", "it's"), ("TimeZone", "Asia/Tokyo")];
    let mut client = Wire::connect(proxy.address, "owner", "secret", "shop", &extra).unwrap();
    assert_eq!(client.parameter("TimeZone"), Some("Asia/Tokyo"));
    assert_eq!(client.parameter("application_name"), Some("it's"));
    assert_eq!(client.run("show work_mem"), ["3MB"]);
    assert_eq!(client.run("show search_path"), ["\"a b\",public"]);
    // They are the session's defaults: what resets the session returns to them.
    client.run("set timezone to 'Europe/Rome'; set work_mem to '4MB'");
    client.run("reset timezone");
    client.run("discard all");
    assert_eq!(client.run("show timezone"), ["Asia/Tokyo"]);
    assert_eq!(client.run("show work_mem"), ["3MB"]);
    let bad = [("TimeZone", "Mars/Olympus")];
    let refused = Wire::connect(proxy.address, "owner", "secret", "shop", &bad).err().unwrap();
    assert!(refused.starts_with("22023"), "{refused}");
    let bad = [("client_encoding", "LATIN1")];
    assert!(Wire::connect(proxy.address, "owner", "secret", "shop", &bad).err().unwrap().starts_with("0A000"));
    assert!(Wire::connect(proxy.address, "owner", "secret", "shop", &[("client_encoding", "'utf-8'")]).is_ok());
}

#[test]
fn who_cannot_prove_it_is_refused_in_the_same_words() {
    let (_postgres, proxy) = start();
    let refused = |user: &str, password: &str, database: &str| {
        Wire::connect(proxy.address, user, password, database, &[]).err().expect("refused")
    };
    assert_eq!(refused("owner", "wrong", "shop"), "28P01: password authentication failed for user \"owner\"");
    assert_eq!(refused("nobody", "wrong", "shop"), "28P01: password authentication failed for user \"nobody\"");
    assert_eq!(refused("owner", "secret", "nowhere"), "3D000: database \"nowhere\" does not exist");
    assert_eq!(refused("elsewhere", "secret", "shop"), "42501: permission denied for database \"shop\"");
    // Which databases there are is for those who have a password.
    assert!(refused("owner", "wrong", "nowhere").starts_with("28P01"));
    let replication = Wire::connect(proxy.address, "owner", "secret", "shop", &[("replication", "database")]);
    assert!(replication.err().unwrap().starts_with("0A000"));
}

#[test]
fn negotiation_of_encryption_and_of_versions() {
    let (_postgres, proxy) = start();
    let mut wire = Wire::open(proxy.address).unwrap();
    startup::put_gssenc_request(wire.out());
    wire.flush();
    assert_eq!(wire.byte(), Some(b'N'));
    startup::put_ssl_request(wire.out());
    wire.flush();
    assert_eq!(wire.byte(), Some(b'N'));
    // Once each.
    startup::put_ssl_request(wire.out());
    wire.flush();
    assert_eq!(wire.read().map(|m| m.sqlstate().to_owned()).as_deref(), Some("08P01"));
    assert_eq!(wire.read(), None);

    let mut wire = Wire::open(proxy.address).unwrap();
    let parameters = [("user", "owner"), ("database", "shop"), ("_pq_.wish", "1")];
    startup::put_startup_version(wire.out(), 7, parameters);
    wire.flush();
    let negotiated = wire.read().unwrap();
    assert_eq!((negotiated.tag, &negotiated.body[..8]), (b'v', &[0, 3, 0, 2, 0, 0, 0, 1][..]));
    wire.log_in("secret").unwrap();
    assert_eq!(wire.key.len(), 32);
    assert_eq!(wire.run("select 1"), ["1"]);
}

#[test]
fn garbage_before_authentication_ends_the_connection() {
    let (_postgres, proxy) = start();
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        &[0, 0, 0, 3, 1, 2, 3, 4],
        &[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 3],
        &[0xff; 16],
        &[0, 0, 0, 8, 0, 2, 0, 0],
        &[0, 0, 0, 9, 0, 3, 0, 0, b'u'],
    ] {
        let mut wire = Wire::open(proxy.address).unwrap();
        wire.out().extend_from_slice(bytes);
        wire.flush();
        let message = wire.read().unwrap_or_else(|| panic!("no error for {bytes:?}"));
        assert_eq!(message.tag, b'E', "{bytes:?}");
        assert_eq!(wire.read(), None, "{bytes:?}");
    }
    // In the place of the password.
    for bytes in [&b"Q\0\0\0\x0dselect 1\0"[..], &[b'p', 0, 1, 0, 0], &[b'p', 0xff, 0xff, 0xff, 0xff], &[b'p', 0, 0, 0, 4]] {
        let mut wire = Wire::open(proxy.address).unwrap();
        startup::put_startup(wire.out(), [("user", "owner"), ("database", "shop")]);
        wire.flush();
        assert_eq!(wire.read().map(|m| m.tag), Some(b'R'));
        wire.out().extend_from_slice(bytes);
        wire.flush();
        assert_eq!(wire.read().map(|m| m.tag), Some(b'E'), "{bytes:?}");
        assert_eq!(wire.read(), None, "{bytes:?}");
    }
}

#[test]
fn a_client_that_says_nothing_is_not_kept() {
    let postgres = Postgres::shared();
    let mut config = config(&postgres);
    config.limits.startup_timeout = Duration::from_millis(300);
    let proxy = Proxy::start(config);
    let begun = Instant::now();
    let mut wire = Wire::open(proxy.address).unwrap();
    // The deadline is one for all of startup: answering some of it gains nothing.
    startup::put_ssl_request(wire.out());
    wire.flush();
    assert_eq!(wire.byte(), Some(b'N'));
    assert_eq!(wire.rest(), b"");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn too_many_clients_are_turned_away() {
    let postgres = Postgres::shared();
    let mut config = config(&postgres);
    config.limits.max_clients = 1;
    let proxy = Proxy::start(config);
    let _one = proxy.connect();
    let error = Wire::connect(proxy.address, "owner", "secret", "shop", &[]).err().unwrap();
    assert!(error.starts_with("53300"), "{error}");
}

#[test]
fn messages_above_the_cap_end_the_session() {
    let (_postgres, proxy) = start();
    let mut client = proxy.connect();
    client.out().extend_from_slice(&[b'Q', 0x00, 0x20, 0, 0]);
    client.flush();
    let error = client.read().unwrap();
    assert_eq!((error.tag, error.sqlstate()), (b'E', "08P01"));
    assert_eq!(client.read(), None);
}

#[test]
fn function_calls_are_refused_and_the_session_goes_on() {
    let (_postgres, proxy) = start();
    let mut client = proxy.connect();
    let call = |client: &mut Wire| {
        frame::write(client.out(), b'F', |out| out.extend_from_slice(&[0, 0, 5, 0x1f, 0, 0, 0, 0, 0, 0]));
        client.flush();
        let messages = client.until(b'Z');
        let tags: Vec<char> = messages.iter().map(|m| char::from(m.tag)).collect();
        assert_eq!(tags, ['E', 'Z']);
        assert_eq!(messages[0].sqlstate(), "0A000");
        char::from(messages[1].body[0])
    };
    assert_eq!(call(&mut client), 'I');
    assert_eq!(client.run("select 1"), ["1"]);
    client.run("begin");
    assert_eq!(call(&mut client), 'E');
    assert_eq!(client.fails("select 1"), "25P02");
    client.run("rollback");
    assert_eq!(client.run("select 2"), ["2"]);
}

#[test]
fn a_cancel_needs_the_key_and_stops_the_statement() {
    let (postgres, proxy) = start();
    let mut client = proxy.connect();
    let (process_id, key) = (client.process_id, client.key.clone());
    assert_eq!(key.len(), 4);
    frontend::put_query(client.out(), "select pg_sleep(600) as cancel_me");
    client.flush();
    wait_until(&postgres, "select count(*) = 1 from pg_stat_activity where query like '%cancel_me' and state = 'active'");
    // With a wrong key nothing happens: the statement still runs.
    Wire::cancel(proxy.address, process_id, &[1, 2, 3, 4]);
    Wire::cancel(proxy.address, process_id + 1, &key);
    wait_until(&postgres, "select count(*) = 1 from pg_stat_activity where query like '%cancel_me' and state = 'active'");
    Wire::cancel(proxy.address, process_id, &key);
    let messages = client.until(b'Z');
    assert!(messages.iter().any(|m| m.tag == b'E' && m.sqlstate() == "57014"));
    assert_eq!(client.run("select 1"), ["1"]);
}

#[test]
fn a_client_that_leaves_takes_its_statement_with_it() {
    let (postgres, proxy) = start();
    let mut client = proxy.connect();
    frontend::put_query(client.out(), "select pg_sleep(600) as abandon_me");
    client.flush();
    let running = "select count(*) = 1 from pg_stat_activity where query like '%abandon_me' and state = 'active'";
    wait_until(&postgres, running);
    drop(client);
    wait_until(&postgres, &running.replace("= 1 from", "= 0 from"));
}

#[test]
fn a_server_that_goes_says_so_to_the_client() {
    let (postgres, proxy) = start();
    let mut client = proxy.connect();
    let pid = client.run("select pg_backend_pid()").remove(0);
    postgres.connect("postgres").run(&format!("select pg_terminate_backend({pid})"));
    let message = client.read().unwrap();
    assert_eq!((message.tag, message.sqlstate()), (b'E', "57P01"));
    assert_eq!(client.read(), None);
}

#[test]
fn going_down_lets_transactions_end() {
    let (_postgres, mut proxy) = start();
    let mut idle = proxy.connect();
    let mut busy = proxy.connect();
    busy.run("begin");
    proxy.stop();
    let message = idle.read().unwrap();
    assert_eq!((message.tag, message.sqlstate()), (b'E', "57P01"));
    assert_eq!(idle.read(), None);
    assert_eq!(busy.run("select 1"), ["1"]);
    busy.run("commit");
    assert_eq!(busy.read().unwrap().sqlstate(), "57P01");
    assert_eq!(busy.read(), None);
    proxy.join();
    assert!(Wire::open(proxy.address).is_err());
}

#[test]
fn going_down_does_not_wait_for_ever() {
    let postgres = Postgres::shared();
    let mut config = config(&postgres);
    config.limits.drain_timeout = Duration::from_millis(200);
    let mut proxy = Proxy::start(config);
    let mut busy = proxy.connect();
    busy.run("begin");
    proxy.join();
    assert_eq!(busy.read().unwrap().sqlstate(), "57P01");
    assert_eq!(busy.read(), None);
}

/// More than the sockets hold, in both directions at once.
#[test]
fn a_slow_reader_slows_the_server_and_nothing_is_lost() {
    let (_postgres, proxy) = start();
    let mut client = proxy.connect();
    for _ in 0..200 {
        frontend::put_parse(client.out(), "", "select repeat('x', 100000), $1::text", &[]);
        let bind = frontend::Bind {
            portal: "",
            statement: "",
            formats: Default::default(),
            values: [Some(&[b'y'; 10_000][..])].into_iter().collect(),
            result_formats: Default::default(),
        };
        frontend::put_bind(client.out(), "", "", &bind, None).unwrap();
        frontend::put_execute(client.out(), "", 0);
    }
    frontend::put_sync(client.out());
    // Sends from another thread: as a driver in pipeline mode must.
    let mut writer = client.writer();
    let bytes = client.out().split();
    let sending = std::thread::spawn(move || std::io::Write::write_all(&mut writer, &bytes));
    let messages = client.until(b'Z');
    sending.join().unwrap().unwrap();
    assert_eq!(messages.iter().filter(|m| m.tag == b'D').count(), 200);
}

mod tls {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    struct Files {
        dir: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Files {
            let files = Files { dir: tempfile::tempdir().unwrap() };
            files.renew();
            files
        }

        fn renew(&self) -> Vec<u8> {
            let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
            std::fs::write(self.dir.path().join("cert.pem"), made.cert.pem()).unwrap();
            std::fs::write(self.dir.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
            made.cert.der().to_vec()
        }

        fn tls(&self, required: bool) -> ServerTls {
            ServerTls { certificate: self.dir.path().join("cert.pem"), key: self.dir.path().join("key.pem"), required }
        }
    }

    fn proxy(required: bool) -> (Arc<Postgres>, Files, Proxy) {
        let postgres = Postgres::shared();
        let files = Files::new();
        let mut config = config(&postgres);
        config.server.tls = Some(files.tls(required));
        (postgres, files, Proxy::start(config))
    }

    #[test]
    fn psql_over_tls() {
        let (_postgres, _files, proxy) = proxy(true);
        let url = format!("host=127.0.0.1 port={} user=owner dbname=shop password=secret", proxy.address.port());
        let run = |mode: &str| {
            let mut psql = std::process::Command::new("psql");
            psql.args(["-XAtc", "select 'over tls'"]).arg(format!("{url} sslmode={mode}")).output().unwrap()
        };
        let done = run("require");
        assert_eq!(String::from_utf8_lossy(&done.stdout), "over tls\n", "{}", String::from_utf8_lossy(&done.stderr));
        let refused = run("disable");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("without TLS"));
    }

    /// CVE-2021-3935: what an attacker puts between SSLRequest and the handshake must not count as said under TLS.
    #[test]
    fn bytes_before_the_handshake_end_the_connection() {
        let (_postgres, _files, proxy) = proxy(false);
        let mut stream = TcpStream::connect(proxy.address).unwrap();
        let mut bytes = bytes::BytesMut::new();
        startup::put_ssl_request(&mut bytes);
        startup::put_startup(&mut bytes, [("user", "owner"), ("database", "shop")]);
        stream.write_all(&bytes).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(answer, b"");
    }
}
