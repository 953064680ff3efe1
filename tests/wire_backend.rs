//! Server connections, pool and cancel against a real PostgreSQL, and against servers that lie.

use std::sync::Arc;
use std::time::Duration;

use bulkhead::backend::cancel::Cancelled;
use bulkhead::backend::connection::{Connection, Progress, Settings};
use bulkhead::backend::pool::{GivenBack, Holder, Lease, Pool, PoolLimits, PoolStats, share_of};
use bulkhead::backend::stream::Dialer;
use bulkhead::backend::{ConnectError, catalog};
use bulkhead::config::{SslMode, Upstream};
use bulkhead::error::{SqlError, sqlstate};
use bulkhead::event::Events;
use bulkhead::wire::backend::{ErrorFields, TransactionStatus, parse_parameter_status, tag};
use bulkhead::wire::{frame, frontend};

const WAIT: Duration = Duration::from_secs(20);

fn limits(size: usize) -> PoolLimits {
    let forever = Duration::from_secs(3600);
    PoolLimits { size, share: share_of(size), least: 0, wait: WAIT, idle: forever, lifetime: forever }
}

fn holder() -> Holder {
    Holder::of(None, "app")
}

async fn connect(upstream: Upstream) -> Result<Connection, ConnectError> {
    Connection::connect(&Dialer::new(upstream)?, 1, &Settings::default()).await
}

/// Runs a query as a session would: message out, messages in, notes kept. Returns the first error's SQLSTATE.
async fn run(connection: &mut Connection, sql: &str) -> Option<String> {
    frontend::put_query(&mut connection.outbox, sql);
    connection.expect_ready();
    connection.flush().await.unwrap();
    until_ready(connection).await
}

async fn until_ready(connection: &mut Connection) -> Option<String> {
    let mut error = None;
    loop {
        let Some(message) = frame::take(&mut connection.inbox, frame::CAP_SERVER).unwrap() else {
            assert_ne!(connection.fill().await.unwrap(), 0, "the server closed");
            continue;
        };
        match message.tag {
            tag::ERROR => error = ErrorFields::new(&message.body).sqlstate().map(str::to_owned),
            tag::PARAMETER_STATUS => {
                let (name, value) = parse_parameter_status(&message.body).unwrap();
                connection.note_parameter(name, value);
            }
            tag::READY_FOR_QUERY => {
                connection.note_ready(TransactionStatus::parse(&message.body).unwrap()).unwrap();
                return error;
            }
            _ => {}
        }
    }
}

fn code(error: &ConnectError) -> String {
    error.to_sql_error().sqlstate.0.to_owned()
}

#[tokio::test]
async fn every_way_to_log_in() {
    let server = pg::Server::start();
    for user in ["u_scram", "u_md5", "u_clear", "u_trust"] {
        let mut connection = connect(server.upstream(user, "s3cret pässword")).await.unwrap_or_else(|e| panic!("{user}: {e}"));
        assert_eq!(connection.query("SELECT current_user").await.unwrap(), [[Some(user.to_owned())]]);
        assert_eq!(connection.parameters()["client_encoding"], "UTF8");
        assert!(connection.server().process_id > 0 && connection.server().key.len() == 4);
        connection.terminate().await;
        if user != "u_trust" {
            let error = connect(server.upstream(user, "wrong")).await.unwrap_err();
            assert_eq!(code(&error), "28P01", "{user}: {error}");
            assert!(!error.is_transient());
        }
    }
    let mut socket = server.upstream("u_scram", "s3cret pässword");
    socket.host = server.directory().to_str().unwrap().to_owned();
    connect(socket.clone()).await.unwrap();
    let without = Upstream { password: None, ..socket };
    assert!(matches!(connect(without).await.unwrap_err(), ConnectError::Unsuitable(_)));
    let nowhere = Upstream { database: "nowhere".into(), ..server.upstream("u_trust", "") };
    assert_eq!(code(&connect(nowhere).await.unwrap_err()), "3D000");
    let latin = connect(server.upstream("u_oldstrings", "")).await.unwrap_err();
    assert!(matches!(&latin, ConnectError::Unsuitable(text) if text.contains("standard_conforming_strings")), "{latin}");
}

#[tokio::test]
async fn tls_in_every_mode() {
    let server = pg::Server::start();
    let with = |mode, host: &str, root: Option<&str>| Upstream {
        host: host.into(),
        ssl_mode: mode,
        ssl_root_cert: root.map(|name| server.directory().join(name)),
        ..server.upstream("u_tls", "s3cret pässword")
    };
    for (mode, host, root) in [
        (SslMode::Require, "127.0.0.1", None),
        (SslMode::Require, "127.0.0.1", Some("ca.pem")),
        (SslMode::VerifyCa, "127.0.0.1", Some("ca.pem")),
        (SslMode::VerifyFull, "localhost", Some("ca.pem")),
    ] {
        let mut connection = connect(with(mode, host, root)).await.unwrap_or_else(|e| panic!("{mode:?} {host} {root:?}: {e}"));
        let rows = connection.query("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").await.unwrap();
        assert_eq!(rows, [[Some("t".to_owned())]]);
        let rows = connection.query("SELECT repeat('x', 3000000)").await.unwrap();
        assert_eq!(rows[0][0].as_ref().unwrap().len(), 3_000_000);
        assert!(connection.is_healthy().await);
    }
    for (mode, host, root) in [
        (SslMode::VerifyFull, "127.0.0.1", Some("ca.pem")),
        (SslMode::VerifyFull, "localhost", Some("other_ca.pem")),
        (SslMode::VerifyCa, "127.0.0.1", Some("other_ca.pem")),
        (SslMode::Require, "127.0.0.1", Some("other_ca.pem")),
        (SslMode::VerifyFull, "localhost", None),
        (SslMode::VerifyCa, "localhost", Some("missing.pem")),
    ] {
        let error = connect(with(mode, host, root)).await.unwrap_err();
        assert!(matches!(error, ConnectError::Tls(_)), "{mode:?} {host} {root:?}: {error}");
    }
    let plain = connect(with(SslMode::Disable, "127.0.0.1", None)).await.unwrap_err();
    assert_eq!(code(&plain), "28000", "the server wants TLS: {plain}");
}

#[tokio::test]
async fn the_longest_waiter_is_served_first() {
    let server = pg::Server::start();
    let pool = Pool::new(server.upstream("u_trust", ""), limits(1), Events::default()).unwrap();
    let first = pool.lease(holder()).await.unwrap();
    let id = first.id();
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for number in 0..5 {
        let (pool2, order) = (pool.clone(), order.clone());
        tasks.push(tokio::spawn(async move {
            let lease = pool2.lease(holder()).await.unwrap();
            order.lock().unwrap().push(number);
            assert_eq!(lease.id(), id, "one connection serves all");
            assert_eq!(lease.give_back(), GivenBack::Reused);
        }));
        while pool.stats().waiting != number + 1 {
            tokio::task::yield_now().await;
        }
    }
    // Clients that give up are passed over.
    tasks.remove(2).abort();
    first.give_back();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), [0, 1, 3, 4]);
    assert_eq!(pool.stats(), PoolStats { size: 1, idle: 1, connecting: 0, waiting: 0 });
}

#[tokio::test]
async fn what_nobody_needs_is_closed_and_some_are_kept() {
    let server = pg::Server::start();
    let idle = Duration::from_millis(100);
    let pool = Pool::new(server.upstream("u_trust", ""), PoolLimits { least: 2, idle, ..limits(5) }, Events::default()).unwrap();
    let until = async |size: usize| {
        while pool.stats() != (PoolStats { size, idle: size, connecting: 0, waiting: 0 }) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // Two are made before anybody asks.
    until(2).await;
    let mut held = Vec::new();
    for n in 0..4 {
        held.push(pool.lease(Holder::of(None, ["a", "b", "c", "d"][n])).await.unwrap());
    }
    assert_eq!(pool.stats().size, 4);
    assert!(held.into_iter().all(|lease| lease.give_back() == GivenBack::Reused));
    until(2).await;
}

#[tokio::test]
async fn what_is_old_is_closed_when_it_comes_back() {
    let server = pg::Server::start();
    let lifetime = Duration::from_millis(50);
    let pool = Pool::new(server.upstream("u_trust", ""), PoolLimits { lifetime, ..limits(5) }, Events::default()).unwrap();
    let lease = pool.lease(Holder::of(None, "a")).await.unwrap();
    let made = std::time::Instant::now();
    while made.elapsed() <= lifetime {
        tokio::task::yield_now().await;
    }
    assert_eq!(lease.give_back(), GivenBack::Closed);
}

/// One tenant's transactions that stay open leave something for others, and its waiting clients do not stand before theirs.
#[tokio::test]
async fn a_tenant_cannot_have_all() {
    let server = pg::Server::start();
    let wait = Duration::from_millis(50);
    let pool = Pool::new(server.upstream("u_trust", ""), PoolLimits { wait, ..limits(5) }, Events::default()).unwrap();
    let (greedy, quiet) = (Holder::of(None, "greedy"), Holder::of(None, "quiet"));
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(pool.lease(greedy).await.unwrap());
    }
    for _ in 0..3 {
        assert_eq!(pool.lease(greedy).await.unwrap_err().sqlstate, sqlstate::TOO_MANY_CONNECTIONS);
        pool.lease(quiet).await.unwrap().give_back();
    }
    // What it gives back goes to its own next client, though another is idle that it may not have.
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { pool.lease(greedy).await.map(|lease| lease.id()) }
    });
    while pool.stats().waiting != 1 {
        tokio::task::yield_now().await;
    }
    let lease = held.pop().unwrap();
    lease.give_back();
    assert!(waiting.await.unwrap().is_ok());
    // A connection of its that is lost makes room for it, too.
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { pool.lease(greedy).await.map(|lease| lease.id()) }
    });
    drop(held.pop());
    assert!(waiting.await.unwrap().is_ok());
    drop(held);
    pool.close();
    tokio::time::timeout(WAIT, pool.drained()).await.unwrap();
}

/// Many clients, some of which go away at any moment: nobody shares a connection, none is lost, none is made too many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_count_holds_under_clients_that_come_and_go() {
    let server = pg::Server::start();
    let pool = Pool::new(server.upstream("u_trust", ""), limits(4), Events::default()).unwrap();
    let in_use = Arc::new(std::sync::Mutex::new(std::collections::HashSet::new()));
    let clients = (0..40).map(|client| {
        let (pool, in_use) = (pool.clone(), in_use.clone());
        tokio::spawn(async move {
            for round in 0..50 {
                let once = async {
                    let mut lease = pool.lease(holder()).await.unwrap();
                    let id = lease.id();
                    assert!(in_use.lock().unwrap().insert(id), "lent twice");
                    if round % 10 != 0 {
                        assert_eq!(lease.query("SELECT 1").await.unwrap().len(), 1);
                    }
                    assert!(in_use.lock().unwrap().remove(&id));
                    if (client + round) % 17 == 0 { drop(lease) } else { assert_eq!(lease.give_back(), GivenBack::Reused) }
                };
                if client % 4 == 0 {
                    // Goes away while it waits, or a moment after a connection was handed to it.
                    let _ = tokio::time::timeout(Duration::from_micros(50 * round), pool.lease(holder())).await;
                }
                once.await;
                assert!(pool.stats().size <= 4);
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        tokio::time::timeout(WAIT, client).await.unwrap().unwrap();
    }
    let stats = pool.stats();
    assert_eq!((stats.size, stats.waiting), (stats.idle + stats.connecting, 0), "nothing is lost: {stats:?}");
    pool.close();
    tokio::time::timeout(WAIT, pool.drained()).await.unwrap();
}

#[tokio::test]
async fn waiting_ends() {
    let server = pg::Server::start();
    let pool =
        Pool::new(server.upstream("u_trust", ""), PoolLimits { wait: Duration::from_millis(50), ..limits(1) }, Events::default())
            .unwrap();
    let lease = pool.lease(holder()).await.unwrap();
    let late = pool.lease(holder()).await.unwrap_err();
    assert_eq!((late.sqlstate, &*late.message), (sqlstate::TOO_MANY_CONNECTIONS, "timed out waiting for a server connection"));
    lease.give_back();
    let lease = pool.lease(holder()).await.unwrap();

    pool.close();
    assert_eq!(pool.lease(holder()).await.unwrap_err().sqlstate, sqlstate::ADMIN_SHUTDOWN);
    assert_eq!(pool.stats().size, 1, "a lease lives on in a closed pool");
    lease.give_back();
    tokio::time::timeout(WAIT, pool.drained()).await.unwrap();
    assert_eq!(pool.stats(), PoolStats::default());
}

async fn lease_id(pool: &Pool) -> u64 {
    let lease = pool.lease(holder()).await.unwrap();
    let id = lease.id();
    lease.give_back();
    id
}

#[tokio::test]
async fn only_connections_at_rest_come_back() {
    let server = pg::Server::start();
    let pool = Pool::new(server.upstream("u_trust", ""), limits(1), Events::default()).unwrap();
    let mut last = lease_id(&pool).await;
    assert_eq!(lease_id(&pool).await, last, "a connection at rest is used again");

    let mut lease = pool.lease(holder()).await.unwrap();
    assert_eq!(run(&mut lease, "SET work_mem = '1MB'; SELECT 1/0").await.as_deref(), Some("22012"));
    lease.settings = Settings::new([("work_mem".to_owned(), "1MB".to_owned())].into());
    lease.give_back();
    let lease = pool.lease(holder()).await.unwrap();
    assert_eq!((lease.id(), lease.settings.map().len()), (last, 1), "the label stays with the connection");
    lease.give_back();

    type Spoil = fn(Lease) -> futures_util::future::BoxFuture<'static, Lease>;
    let spoils: [(&str, Spoil); 6] = [
        ("in a transaction", |mut l| {
            Box::pin(async {
                run(&mut l, "BEGIN").await;
                l
            })
        }),
        ("in a failed transaction", |mut l| {
            Box::pin(async {
                run(&mut l, "BEGIN; SELECT 1/0").await;
                l
            })
        }),
        ("an answer to come", |mut l| {
            Box::pin(async {
                l.expect_ready();
                l
            })
        }),
        ("bytes unread", |mut l| {
            Box::pin(async {
                l.inbox.extend_from_slice(b"Z");
                l
            })
        }),
        ("bytes unwritten", |mut l| {
            Box::pin(async {
                l.outbox.extend_from_slice(b"Q");
                l
            })
        }),
        ("one of two answers to come", |mut l| {
            Box::pin(async {
                frontend::put_query(&mut l.outbox, "SELECT 1");
                l.expect_ready();
                run(&mut l, "SELECT 2").await;
                l
            })
        }),
    ];
    for (what, spoil) in spoils {
        let lease = spoil(pool.lease(holder()).await.unwrap()).await;
        assert_eq!(lease.give_back(), GivenBack::Closed, "{what}");
        let id = lease_id(&pool).await;
        assert_ne!(id, last, "{what}");
        last = id;
    }
    drop(pool.lease(holder()).await.unwrap());
    let id = lease_id(&pool).await;
    assert_ne!(id, last, "a lease that was dropped is not used again");

    let lent = pool.lease(holder()).await.unwrap();
    pool.renew();
    assert_eq!(lent.give_back(), GivenBack::Closed, "lent before the renewal");
    let fresh = lease_id(&pool).await;
    pool.renew();
    assert_ne!(lease_id(&pool).await, fresh, "idle at the renewal");
    assert_eq!(pool.stats().size, 1);
}

#[tokio::test]
async fn a_dead_connection_is_replaced_without_the_client_seeing() {
    let server = pg::Server::start();
    let pool = Pool::new(server.upstream("u_trust", ""), limits(3), Events::default()).unwrap();
    let leases = [pool.lease(holder()).await.unwrap(), pool.lease(holder()).await.unwrap()];
    for lease in leases {
        lease.give_back();
    }
    assert_eq!(pool.stats().idle, 2);
    server.sql("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'u_trust'");
    let mut lease = pool.lease(holder()).await.unwrap();
    assert_eq!(lease.query("SELECT 1").await.unwrap(), [[Some("1".to_owned())]]);
    assert_eq!(pool.stats().size, 1);
    lease.give_back();

    // A server that goes away: an error at once, and back in service when it is.
    server.stop();
    let gone = pool.lease(holder()).await.unwrap_err();
    assert_eq!(gone.sqlstate, sqlstate::CONNECTION_FAILURE);
    server.restart();
    let mut lease = pool.lease(holder()).await.unwrap();
    assert_eq!(lease.query("SELECT 1").await.unwrap(), [[Some("1".to_owned())]]);
}

/// PostgreSQL 14 and later report settings before ReadyForQuery only; older ones also to idle clients.
#[tokio::test]
async fn an_idle_connection_takes_in_settings_and_nothing_else() {
    use tokio::io::AsyncWriteExt;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (connection, mut server) = tokio::join!(connect(liar(port, SslMode::Disable)), welcome(&listener));
    let mut connection = connection.unwrap();
    assert!(connection.is_healthy().await);
    let news = [message(tag::PARAMETER_STATUS, b"TimeZone\0Asia/Tokyo\0"), message(tag::NOTICE, b"Mhello\0\0")].concat();
    server.write_all(&news).await.unwrap();
    assert!(connection.is_healthy().await);
    assert_eq!(connection.parameters()["TimeZone"], "Asia/Tokyo");
    server.write_all(&message(tag::COMMAND_COMPLETE, b"SELECT 1\0")).await.unwrap();
    assert!(!connection.is_healthy().await, "an answer that nobody asked for");
}

#[tokio::test]
async fn a_refusal_is_told_at_once() {
    let server = pg::Server::start();
    let pool = Pool::new(server.upstream("u_scram", "wrong"), limits(2), Events::default()).unwrap();
    let leases = futures_util::future::join_all((0..4).map(|_| pool.lease(holder()))).await;
    for lease in leases {
        let error: SqlError = lease.unwrap_err();
        assert_eq!(error.sqlstate, sqlstate::INVALID_PASSWORD, "{error}");
    }
}

#[tokio::test]
async fn a_cancel_hits_its_own_statement_only() {
    let server = pg::Server::start();
    for mode in [SslMode::Disable, SslMode::Require] {
        let pool =
            Pool::new(Upstream { ssl_mode: mode, ..server.upstream("u_trust", "") }, limits(1), Events::default()).unwrap();
        let mut lease = pool.lease(holder()).await.unwrap();
        let handle = lease.cancel_handle();
        frontend::put_query(&mut lease.outbox, "SELECT pg_sleep(60)");
        lease.expect_ready();
        lease.flush().await.unwrap();
        server.until("SELECT count(*) = 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'");
        let cancelling = tokio::spawn(async move { (handle.cancel().await.unwrap(), handle) });
        assert_eq!(until_ready(&mut lease).await.as_deref(), Some("57014"));
        let id = lease.id();
        // The cancel may still be under way: the next client gets the connection only when it has ended.
        lease.give_back();
        let mut next = pool.lease(holder()).await.unwrap();
        assert_eq!(next.id(), id);
        let (sent, handle) = cancelling.await.unwrap();
        assert_eq!(sent, Cancelled::Sent);
        assert_eq!(handle.cancel().await.unwrap(), Cancelled::NotRunning, "the lease has ended");
        assert_eq!(run(&mut next, "SELECT pg_sleep(0.05)").await, None);
    }
}

/// A server that holds the cancel's connection open: until it closes, the cancel may strike.
#[tokio::test]
async fn a_connection_waits_for_a_cancel_under_way_and_is_closed_if_that_ends_in_doubt() {
    use tokio::io::AsyncReadExt;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pool = Pool::new(liar(listener.local_addr().unwrap().port(), SslMode::Disable), limits(1), Events::default()).unwrap();
    let (lease, _first) = tokio::join!(pool.lease(holder()), welcome(&listener));
    let lease = lease.unwrap();
    let (id, handle) = (lease.id(), lease.cancel_handle());

    let cancelling = tokio::spawn(async move { handle.cancel().await });
    let (mut cancel, _) = listener.accept().await.unwrap();
    let mut request = [0; 16];
    cancel.read_exact(&mut request).await.unwrap();
    assert_eq!(&request[4..], b"\x04\xd2\x16\x2e\0\0\0\x07key!", "the server's own process id and key");
    // The client that cancels goes away: the cancel is carried through.
    cancelling.abort();
    assert_eq!(lease.give_back(), GivenBack::Reused);
    let pool2 = pool.clone();
    let next = tokio::spawn(async move { pool2.lease(holder()).await.unwrap() });
    while pool.stats().waiting == 0 {
        tokio::task::yield_now().await;
    }
    assert!(!next.is_finished() && pool.stats().idle == 0, "not lent while the cancel may strike");
    drop(cancel);
    let lease = next.await.unwrap();
    assert_eq!(lease.id(), id);

    let handle = lease.cancel_handle();
    // Bound and not listening: the port refuses, and no other test can get it. A process that another test starts at this moment
    // has the listener until it becomes another program.
    let address = listener.local_addr().unwrap();
    drop(listener);
    let held = tokio::net::TcpSocket::new_v4().unwrap();
    held.set_reuseaddr(true).unwrap();
    while held.bind(address).is_err() {
        tokio::task::yield_now().await;
    }
    handle.cancel().await.unwrap_err();
    assert_eq!(lease.give_back(), GivenBack::Closed, "it is not known what the cancel did");
}

/// Plays a server's side of logging in.
async fn welcome(listener: &tokio::net::TcpListener) -> tokio::net::TcpStream {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (mut stream, _) = listener.accept().await.unwrap();
    assert_ne!(stream.read(&mut [0; 4096]).await.unwrap(), 0);
    let settings = [b"client_encoding\0UTF8\0".as_slice(), b"standard_conforming_strings\0on\0"];
    let mut hello = message(tag::AUTHENTICATION, &[0; 4]);
    settings.iter().for_each(|setting| hello.extend(message(tag::PARAMETER_STATUS, setting)));
    hello.extend(message(tag::BACKEND_KEY_DATA, b"\0\0\0\x07key!"));
    hello.extend(message(tag::READY_FOR_QUERY, b"I"));
    stream.write_all(&hello).await.unwrap();
    stream
}

#[tokio::test]
async fn reading_and_writing_at_once_cannot_lock_up() {
    let server = pg::Server::start();
    let mut connection = connect(server.upstream("u_trust", "")).await.unwrap();
    // Both directions carry more than all socket buffers hold.
    let text = format!("SELECT '{}'", "x".repeat(1 << 20));
    for _ in 0..32 {
        frontend::put_query(&mut connection.outbox, &text);
        connection.expect_ready();
    }
    let mut rows = 0;
    while connection.expected_ready() > 0 {
        let progress = tokio::time::timeout(WAIT, connection.exchange()).await.unwrap().unwrap();
        assert_ne!(progress, Progress::Closed);
        while let Some(message) = frame::take(&mut connection.inbox, frame::CAP_SERVER).unwrap() {
            match message.tag {
                tag::DATA_ROW => rows += 1,
                tag::READY_FOR_QUERY => connection.note_ready(TransactionStatus::Idle).unwrap(),
                _ => {}
            }
        }
    }
    assert_eq!(rows, 32);
    assert!(connection.is_at_rest());
}

#[tokio::test]
async fn the_catalog_is_loaded() {
    let server = pg::Server::start();
    let snapshot = catalog::load(&server.upstream("u_trust", "")).await.unwrap();
    assert!(snapshot.relations.iter().any(|r| r.schema == "public" && r.name == "accounts" && r.columns.len() == 2));
    assert!((150_000..160_000).contains(&snapshot.server_version));
    assert!(snapshot.functions.len() > 2000 && snapshot.operators.len() > 500);
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = bytes::BytesMut::new();
    frame::write(&mut out, tag, |out| out.extend_from_slice(body));
    out.to_vec()
}

fn liar(port: u16, ssl_mode: SslMode) -> Upstream {
    let (host, user, password, database) = ("127.0.0.1".into(), "u".into(), Some("p".into()), "d".into());
    Upstream { host, port, user, password, database, ssl_mode, ssl_root_cert: None }
}

/// Servers that lie: each script is what one sends, whatever it receives, before it closes.
#[tokio::test]
async fn servers_that_lie_are_found_out() {
    let ok = message(b'R', &[0, 0, 0, 0]);
    let sasl = message(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0");
    let ready = [ok.clone(), message(b'Z', b"I")].concat();
    let scripts: Vec<(&str, SslMode, Vec<Vec<u8>>)> = vec![
        ("closes at once", SslMode::Disable, vec![]),
        ("a length of 4 GB", SslMode::Disable, vec![vec![b'R', 255, 255, 255, 255]]),
        ("a length below 4", SslMode::Disable, vec![vec![b'R', 0, 0, 0, 3]]),
        ("a message above the cap", SslMode::Disable, vec![vec![b'E', 0, 1, 0, 5]]),
        ("an error without fields", SslMode::Disable, vec![message(b'E', b"\0")]),
        ("an error with a false code", SslMode::Disable, vec![message(b'E', b"C\xff\xff\0Mx\0\0")]),
        ("a short authentication request", SslMode::Disable, vec![message(b'R', b"\0\0")]),
        ("ready before authenticated", SslMode::Disable, vec![message(b'Z', b"I")]),
        ("in a transaction from the start", SslMode::Disable, vec![[ok.clone(), message(b'Z', b"T")].concat()]),
        ("rows before authenticated", SslMode::Disable, vec![message(b'D', b"\0\0")]),
        ("yes without proof", SslMode::Disable, vec![[sasl.clone(), ok.clone()].concat()]),
        ("a false nonce", SslMode::Disable, vec![[sasl.clone(), message(b'R', b"\0\0\0\x0br=x,s=c2FsdA==,i=1")].concat()]),
        ("an unknown mechanism", SslMode::Disable, vec![message(b'R', b"\0\0\0\x0aOAUTHBEARER\0\0")]),
        ("Kerberos", SslMode::Disable, vec![message(b'R', &[0, 0, 0, 2])]),
        ("no settings", SslMode::Disable, vec![ready.clone()]),
        (
            "another encoding",
            SslMode::Disable,
            vec![[ok.clone(), message(b'S', b"client_encoding\0LATIN1\0"), message(b'Z', b"I")].concat()],
        ),
        ("no TLS", SslMode::Require, vec![b"N".to_vec()]),
        ("plain text after the answer", SslMode::Require, vec![[b"S".to_vec(), ready.clone()].concat()]),
        ("an error instead of TLS", SslMode::Require, vec![message(b'E', b"C57P03\0Mvisit example.org\0\0")]),
        ("no handshake", SslMode::Require, vec![b"S".to_vec(), ready]),
    ];
    for (what, mode, script) in scripts {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let lying = tokio::spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut sink = vec![0; 4096];
            for part in script {
                let _ = stream.read(&mut sink).await;
                let _ = stream.write_all(&part).await;
            }
            let _ = stream.shutdown().await;
            while let Ok(1..) = stream.read(&mut sink).await {}
        });
        let error = connect(liar(port, mode)).await.expect_err(what);
        assert!(!matches!(error, ConnectError::TimedOut), "{what}: {error}");
        let told = error.to_sql_error();
        assert!(!told.message.contains("example.org") && !told.message.contains("127.0.0.1"), "{what}: {told}");
        lying.await.unwrap();
    }
}

mod pg {
    //! A throwaway PostgreSQL with users for each way to log in, and TLS.

    use std::os::unix::fs::chown;
    use std::os::unix::process::CommandExt;
    use std::path::Path;
    use std::process::{Command, Stdio};

    use bulkhead::config::{SslMode, Upstream};
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    const BIN: &str = "/usr/lib/postgresql/15/bin";

    const SETUP: &str = "
        CREATE ROLE u_trust LOGIN;
        CREATE ROLE u_oldstrings LOGIN;
        ALTER ROLE u_oldstrings SET standard_conforming_strings = off;
        CREATE ROLE u_scram LOGIN PASSWORD 's3cret pässword';
        CREATE ROLE u_clear LOGIN PASSWORD 's3cret pässword';
        CREATE ROLE u_tls LOGIN PASSWORD 's3cret pässword';
        SET password_encryption = md5;
        CREATE ROLE u_md5 LOGIN PASSWORD 's3cret pässword';
        CREATE TABLE accounts (id int PRIMARY KEY, tenant_id int);";

    const HBA: &str = "
        local all postgres trust
        local all all scram-sha-256
        host all u_trust,u_oldstrings all trust
        host all u_clear all password
        host all u_md5 all md5
        hostssl all u_tls all scram-sha-256
        host all u_scram all scram-sha-256\n";

    pub struct Server {
        directory: tempfile::TempDir,
        port: u16,
    }

    impl Server {
        pub fn start() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let server = Server { directory, port };
            write_certificates(server.directory());
            own(server.directory());
            let data = server.data();
            server.tool("initdb", &["-D", &data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]);
            std::fs::write(Path::new(&data).join("pg_hba.conf"), HBA).unwrap();
            server.restart();
            server.sql(SETUP);
            server
        }

        pub fn directory(&self) -> &Path {
            self.directory.path()
        }

        fn data(&self) -> String {
            self.directory().join("data").to_str().unwrap().to_owned()
        }

        pub fn restart(&self) {
            let directory = self.directory().display();
            let options = format!(
                "-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories={directory} -c fsync=off -c ssl=on \
                 -c ssl_cert_file={directory}/server.pem -c ssl_key_file={directory}/server.key",
                self.port
            );
            let log = format!("{directory}/log");
            self.tool("pg_ctl", &["-D", &self.data(), "-w", "-l", &log, "-o", &options, "start"]);
        }

        pub fn stop(&self) {
            self.tool("pg_ctl", &["-D", &self.data(), "-w", "-m", "immediate", "stop"]);
        }

        /// Runs SQL as the superuser; returns what psql prints.
        pub fn sql(&self, sql: &str) -> String {
            let host = self.directory().to_str().unwrap();
            let port = self.port.to_string();
            let arguments =
                ["-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-h", host, "-p", &port, "-U", "postgres", "-c", sql, "postgres"];
            self.tool("psql", &arguments)
        }

        /// Asks until the answer is `t`.
        pub fn until(&self, question: &str) {
            let deadline = std::time::Instant::now() + super::WAIT;
            while self.sql(question).trim() != "t" {
                assert!(std::time::Instant::now() < deadline, "{question}");
            }
        }

        pub fn upstream(&self, user: &str, password: &str) -> Upstream {
            Upstream {
                host: "127.0.0.1".into(),
                port: self.port,
                user: user.into(),
                password: Some(password.into()),
                database: "postgres".into(),
                ssl_mode: SslMode::Disable,
                ssl_root_cert: None,
            }
        }

        fn tool(&self, name: &str, arguments: &[&str]) -> String {
            let mut command = Command::new(format!("{BIN}/{name}"));
            command.args(arguments).stdin(Stdio::null()).current_dir(self.directory());
            if let Some((user, group)) = postgres() {
                command.uid(user).gid(group);
            }
            // The server inherits pg_ctl's output: a pipe would stay open as long as it runs.
            if name == "pg_ctl" {
                let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
                assert!(status.success(), "{name} {arguments:?}: {}", self.log());
                return String::new();
            }
            let output = command.output().unwrap();
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        }

        fn log(&self) -> String {
            std::fs::read_to_string(self.directory().join("log")).unwrap_or_default()
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            let data = self.data();
            let mut command = Command::new(format!("{BIN}/pg_ctl"));
            if let Some((user, group)) = postgres() {
                command.uid(user).gid(group);
            }
            let _ =
                command.args(["-D", &data, "-w", "-m", "immediate", "stop"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }

    /// Ids of user postgres, if this is root: PostgreSQL does not run as root.
    fn postgres() -> Option<(u32, u32)> {
        let id = |arguments: &[&str]| {
            let output = Command::new("id").args(arguments).output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().parse::<u32>().unwrap()
        };
        (id(&["-u"]) == 0).then(|| (id(&["-u", "postgres"]), id(&["-g", "postgres"])))
    }

    fn own(directory: &Path) {
        if let Some((user, group)) = postgres() {
            chown(directory, Some(user), Some(group)).unwrap();
            for entry in std::fs::read_dir(directory).unwrap() {
                chown(entry.unwrap().path(), Some(user), Some(group)).unwrap();
            }
        }
    }

    /// An authority, a server certificate of its for `localhost`, and another authority.
    fn write_certificates(directory: &Path) {
        use std::os::unix::fs::PermissionsExt;
        let authority = || {
            let mut parameters = CertificateParams::new(Vec::new()).unwrap();
            parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap()
        };
        let (trusted, other) = (authority(), authority());
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &trusted).unwrap();
        let key_path = directory.join("server.key");
        std::fs::write(directory.join("ca.pem"), trusted.pem()).unwrap();
        std::fs::write(directory.join("other_ca.pem"), other.pem()).unwrap();
        std::fs::write(directory.join("server.pem"), certificate.pem()).unwrap();
        std::fs::write(&key_path, key.serialize_pem()).unwrap();
        std::fs::set_permissions(key_path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
}
