//! Sessions of tenants, with a gate that permits nearly everything: what is shown here is what a session does with plans.
//! The cases are those in which poolers have mixed up their clients.

#[path = "../../tests/wire/harness.rs"]
mod harness;
mod prepared;
mod random;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::oneshot;

use self::harness::{Message, Postgres, Wire, run_script, wait_until};
use super::permissive::Permissive;
use crate::config::{Config, Database, Level, Limits, Log, LogFormat, Secret, Server, SslMode, Upstream, User, UserAccess};
use crate::principal::{Tenant, TenantSet};
use crate::wire::frontend::{self, Bind, Formats, Target};
use crate::worker::Workers;

/// A proxy with one database `shop`, whose users are `one` (tenant 1), `two` (tenant 2) and `web` (either).
struct Proxy {
    postgres: Arc<Postgres>,
    address: SocketAddr,
    gate: Arc<Permissive>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

fn config(postgres: &Postgres, pool_size: usize) -> Config {
    let upstream = Upstream {
        host: "127.0.0.1".into(),
        port: postgres.port,
        user: "app".into(),
        password: Some("secret".into()),
        database: "shop".into(),
        ssl_mode: SslMode::Disable,
        ssl_root_cert: None,
    };
    let user = |name: &str, access| User {
        name: name.into(),
        secret: Secret::Password("secret".into()),
        roles: Default::default(),
        access,
        databases: vec![],
        max_clients: None,
        purposes: Default::default(),
        glass: Default::default(),
    };
    let tenant = |name: &str| Tenant(name.into());
    let web = UserAccess::Shared { tenants: TenantSet::Only([tenant("1"), tenant("2")].into()), setting: None, token_key: None };
    Config {
        server: Server { listen: SocketAddr::from(([127, 0, 0, 1], 0)), admin_listen: None, policies: "".into(), tls: None },
        level: Level::Strict,
        databases: vec![Database {
            name: "shop".into(),
            upstream,
            pool_size,
            tenant_pool_size: None,
            min_pool_size: 0,
            max_clients: None,
            lock_key: None,
            follow: None,
        }],
        users: vec![user("one", UserAccess::Fixed(tenant("1"))), user("two", UserAccess::Fixed(tenant("2"))), user("web", web)],
        log: Log { level: "warn".into(), format: LogFormat::Text },
        metrics: false,
        cache: None,
        cache_ttl: None,
        cache_within: std::time::Duration::from_secs(1),
        redis: None,
        audit: None,
        limits: Limits { pool_wait: Duration::from_secs(10), ..Limits::default() },
    }
}

impl Proxy {
    fn start(pool_size: usize) -> Proxy {
        let postgres = Postgres::shared();
        let config = config(&postgres, pool_size);
        let gate = Arc::new(Permissive::default());
        let gates = HashMap::from([("shop".to_owned(), gate.clone() as Arc<dyn super::shared::Review>)]);
        let (tell, told) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                // Two, so that connections go from the one to the other, whatever the machine has.
                let workers = Workers::start(NonZeroU16::new(2).unwrap()).unwrap();
                let server =
                    crate::server::Server::bind(config, gates, Default::default(), workers, Default::default()).await.unwrap();
                tell.send(server.local_addr().unwrap()).unwrap();
                let stopped = async {
                    let _ = stopped.await;
                };
                server.run(stopped).await;
            });
        });
        Proxy { address: told.recv().unwrap(), postgres, gate, stop: Some(stop), thread: Some(thread) }
    }

    fn connect(&self, user: &str) -> Wire {
        self.connect_with(user, &[]).unwrap()
    }

    fn connect_with(&self, user: &str, extra: &[(&str, &str)]) -> Result<Wire, String> {
        Wire::connect(self.address, user, "secret", "shop", extra)
    }

    fn direct(&self) -> Wire {
        self.postgres.connect("postgres")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        if let Some(thread) = self.thread.take()
            && !std::thread::panicking()
        {
            thread.join().unwrap();
        }
    }
}

/// A table of its own for one test, in `public`, for everyone.
fn table(proxy: &Proxy, name: &str) {
    let mut direct = proxy.direct();
    direct.run(&format!("create table {name}(a int); grant all on {name} to app"));
}

fn bind(out: &mut BytesMut, portal: &str, statement: &str, values: &[&str]) {
    let values = values.iter().map(|v| Some(v.as_bytes())).collect();
    let bind = Bind { portal, statement, formats: Formats::new(), values, result_formats: Formats::new() };
    frontend::put_bind(out, portal, statement, &bind, None).unwrap();
}

/// Parse, Bind, Execute of an unnamed statement.
fn statement(out: &mut BytesMut, sql: &str, values: &[&str]) {
    frontend::put_parse(out, "", sql, &[]);
    bind(out, "", "", values);
    frontend::put_execute(out, "", 0);
}

fn sync(wire: &mut Wire) -> Vec<Message> {
    frontend::put_sync(wire.out());
    wire.flush();
    wire.until(b'Z')
}

fn tags(messages: &[Message]) -> String {
    messages.iter().map(|m| char::from(m.tag)).collect()
}

fn codes(messages: &[Message]) -> Vec<&str> {
    messages.iter().filter(|m| m.tag == b'E').map(Message::sqlstate).collect()
}

#[track_caller]
fn same_as_direct(script: &str) {
    let proxy = Proxy::start(2);
    let direct = run_script(script, true, &proxy.postgres, &|| proxy.postgres.connect("app"));
    let through = run_script(script, true, &proxy.postgres, &|| proxy.connect("one"));
    assert!(direct == through, "--- directly\n{direct}\n--- through the proxy\n{through}");
}

#[test]
fn extended_as_directly() {
    let script = include_str!("../../tests/wire/extended.pt").replace("temp table t", "temp /*pinning*/ table t");
    same_as_direct(&script.replace("temp table u", "temp /*pinning*/ table u"));
}

#[test]
fn simple_as_directly() {
    same_as_direct(&include_str!("../../tests/wire/simple.pt").replace("temp table", "temp /*pinning*/ table"));
}

#[test]
fn copy_as_directly() {
    same_as_direct(&include_str!("../../tests/wire/copy.pt").replace("temp table", "temp /*pinning*/ table"));
}

#[test]
fn large_as_directly() {
    same_as_direct(include_str!("../../tests/wire/large.pt"));
}

#[test]
fn two_clients_on_one_backend_keep_their_settings() {
    let proxy = Proxy::start(1);
    let mut a = proxy.connect_with("one", &[("TimeZone", "Asia/Tokyo")]).unwrap();
    let mut b = proxy.connect("two");
    assert_eq!(a.parameter("TimeZone"), Some("Asia/Tokyo"));
    assert_eq!(a.parameter("session_authorization"), Some("one"));
    let default = b.run("show timezone");
    assert_eq!(a.run("select pg_backend_pid()"), b.run("select pg_backend_pid()"));
    a.run("set work_mem to '3MB'");
    b.run("set search_path to 'Ab', public");
    assert_eq!(b.run("show work_mem"), ["4MB"]);
    assert_eq!(a.run("show work_mem"), ["3MB"]);
    assert_eq!(a.run("show search_path"), ["\"$user\", public"]);
    assert_eq!(b.run("show search_path"), ["\"Ab\", public"]);
    assert_eq!(a.run("show timezone"), ["Asia/Tokyo"]);
    assert_eq!(b.run("show timezone"), default);
    a.run("reset timezone");
    assert_eq!(a.run("show timezone"), ["Asia/Tokyo"], "RESET goes back to the startup message");
    a.run("reset work_mem");
    b.run("reset search_path");
    assert_eq!(a.run("show work_mem"), ["4MB"]);
    assert_eq!(b.run("show search_path"), ["\"$user\", public"]);
}

#[test]
fn reset_all_and_discard_all_are_the_session_s_own() {
    let proxy = Proxy::start(1);
    let mut a = proxy.connect("one");
    let mut b = proxy.connect("two");
    a.run("set work_mem to '3MB'");
    b.run("set work_mem to '5MB'");
    a.run("reset all");
    assert_eq!(a.run("show work_mem"), ["4MB"]);
    assert_eq!(b.run("show work_mem"), ["5MB"]);
    frontend::put_parse(b.out(), "s", "select 1", &[]);
    assert_eq!(tags(&sync(&mut b)), "1Z");
    b.run("discard all");
    assert_eq!(b.run("show work_mem"), ["4MB"]);
    bind(b.out(), "", "s", &[]);
    assert_eq!(codes(&sync(&mut b)), ["26000"]);
    // Inside a transaction.
    a.run("set work_mem to '3MB'");
    a.run("begin");
    let messages = a.query("reset all");
    assert_eq!((tags(&messages).as_str(), messages[0].body.as_slice()), ("CZ", &b"RESET\0"[..]));
    assert_eq!(a.run("show work_mem"), ["4MB"]);
    a.run("rollback");
    assert_eq!(a.run("show work_mem"), ["3MB"]);
    a.run("begin");
    assert_eq!(a.fails("discard all"), "25001");
    assert_eq!(a.fails("select 1"), "25P02");
    a.run("rollback");
}

#[test]
fn rollback_restores_settings_on_every_backend() {
    let proxy = Proxy::start(1);
    let mut a = proxy.connect("one");
    let mut b = proxy.connect("two");
    a.run("begin");
    a.run("set work_mem to '3MB'");
    a.run("savepoint s");
    a.run("set work_mem to '5MB'");
    a.run("rollback to s");
    assert_eq!(a.run("show work_mem"), ["3MB"]);
    a.run("rollback");
    assert_eq!(b.run("show work_mem"), ["4MB"]);
    assert_eq!(a.run("show work_mem"), ["4MB"]);
    // COMMIT of a failed transaction is a ROLLBACK.
    a.run("begin");
    a.run("set work_mem to '3MB'");
    assert_eq!(a.fails("select 1/0"), "22012");
    a.run("commit");
    assert_eq!(a.run("show work_mem"), ["4MB"]);
    // So is an error in a string of statements, or in a pipeline.
    assert_eq!(a.fails("set work_mem to '3MB'; select 1/0"), "22012");
    assert_eq!(a.run("show work_mem"), ["4MB"]);
    statement(a.out(), "set work_mem to '3MB'", &[]);
    statement(a.out(), "select 1/0", &[]);
    assert_eq!(codes(&sync(&mut a)), ["22012"]);
    assert_eq!(b.run("show work_mem"), ["4MB"]);
    assert_eq!(a.run("show work_mem"), ["4MB"]);
    // SET LOCAL ends with its transaction.
    a.run("begin; set local work_mem to '3MB'");
    assert_eq!(a.run("show work_mem"), ["3MB"]);
    a.run("commit");
    assert_eq!(a.run("show work_mem"), ["4MB"]);
    a.run("begin; set work_mem to '6MB'; commit");
    assert_eq!(b.run("show work_mem"), ["4MB"]);
    assert_eq!(a.run("show work_mem"), ["6MB"]);
}

#[test]
fn a_setting_that_the_server_refuses_is_the_client_s_error_only() {
    let proxy = Proxy::start(1);
    let mut a = proxy.connect("one");
    assert_eq!(a.fails("set work_mem to 'much'"), "22023");
    assert_eq!(a.run("show work_mem"), ["4MB"]);
    let refused = proxy.connect_with("one", &[("TimeZone", "Mars/Olympus")]).err().unwrap();
    assert!(refused.starts_with("22023"), "{refused}");
    assert_eq!(a.run("select 1"), ["1"]);
}

#[test]
fn a_search_path_is_known_to_the_review_of_what_follows() {
    let proxy = Proxy::start(1);
    let mut a = proxy.connect("one");
    assert_eq!(a.run("select ':path:'"), ["app|public"]);
    a.run("set search_path to x, 'Y'");
    assert_eq!(a.run("select ':path:'"), ["x|Y"]);
    // In one batch, without waiting.
    statement(a.out(), "set search_path to z", &[]);
    statement(a.out(), "select ':path:'", &[]);
    let messages = sync(&mut a);
    assert_eq!(messages.iter().find(|m| m.tag == b'D').unwrap().body, b"\0\x01\0\0\0\x01z");
    assert_eq!(a.fails("set search_path to q; select ':path:'"), "0A000");
    // A statement that was prepared under another path is reviewed again.
    frontend::put_parse(a.out(), "s", "select ':path:'", &[]);
    sync(&mut a);
    a.run("set search_path to other");
    bind(a.out(), "", "s", &[]);
    frontend::put_execute(a.out(), "", 0);
    let messages = sync(&mut a);
    assert_eq!(messages.iter().find(|m| m.tag == b'D').unwrap().body, b"\0\x01\0\0\0\x05other");
    a.run("begin; set local search_path to inner_one");
    assert_eq!(a.run("select ':path:'"), ["inner_one"]);
    a.run("rollback");
    assert_eq!(a.run("select ':path:'"), ["other"]);
}

#[test]
fn named_statements_work_on_every_backend_and_are_the_client_s_own() {
    let proxy = Proxy::start(1);
    let mut a = proxy.connect("one");
    let mut b = proxy.connect("two");
    frontend::put_parse(a.out(), "s", "select 'a', :tenant:, $1::int", &[23]);
    frontend::put_describe(a.out(), Target::Statement("s"));
    let messages = sync(&mut a);
    assert_eq!(tags(&messages), "1tTZ");
    assert_eq!(messages[1].body, b"\0\x01\0\0\0\x17", "the tenant's parameter is not shown");
    frontend::put_parse(b.out(), "s", "select 'b', :tenant:, $1::int", &[]);
    assert_eq!(tags(&sync(&mut b)), "1Z");
    for _ in 0..2 {
        for (wire, value) in [(&mut a, "a"), (&mut b, "b")] {
            bind(wire.out(), "", "s", &["7"]);
            frontend::put_execute(wire.out(), "", 0);
            let messages = sync(wire);
            assert_eq!(tags(&messages), "2DCZ");
            let tenant = if value == "a" { "1" } else { "2" };
            let row = format!("\0\x03\0\0\0\x01{value}\0\0\0\x01{tenant}\0\0\0\x017");
            assert_eq!(messages[1].body, row.as_bytes());
        }
    }
    // Closing one's own leaves the other's.
    frontend::put_close(a.out(), Target::Statement("s"));
    assert_eq!(tags(&sync(&mut a)), "3Z");
    bind(a.out(), "", "s", &["7"]);
    assert_eq!(codes(&sync(&mut a)), ["26000"]);
    bind(b.out(), "", "s", &["7"]);
    frontend::put_execute(b.out(), "", 0);
    assert_eq!(tags(&sync(&mut b)), "2DCZ");
}

#[test]
fn a_statement_whose_parse_failed_does_not_exist_anywhere() {
    let proxy = Proxy::start(1);
    let mut a = proxy.connect("one");
    let mut b = proxy.connect("two");
    for wire in [&mut a, &mut b] {
        frontend::put_parse(wire.out(), "s", "select * from not_there_yet", &[]);
        bind(wire.out(), "", "s", &[]);
        frontend::put_execute(wire.out(), "", 0);
        assert_eq!(codes(&sync(wire)), ["42P01"]);
    }
    table(&proxy, "not_there_yet");
    // A Parse that was skipped is not prepared either.
    statement(a.out(), "select 1/0", &[]);
    frontend::put_parse(a.out(), "s", "select * from not_there_yet", &[]);
    assert_eq!(codes(&sync(&mut a)), ["22012"]);
    for wire in [&mut a, &mut b] {
        bind(wire.out(), "", "s", &[]);
        assert_eq!(codes(&sync(wire)), ["26000"]);
        frontend::put_parse(wire.out(), "s", "select * from not_there_yet", &[]);
        bind(wire.out(), "", "s", &[]);
        frontend::put_execute(wire.out(), "", 0);
        assert_eq!(tags(&sync(wire)), "12CZ");
    }
}

#[test]
fn more_statements_than_a_backend_keeps() {
    let proxy = Proxy::start(1);
    let mut a = proxy.connect("one");
    // In one batch, each used twice, the first ones again at the end.
    for i in (0..450).chain(0..450).chain(0..10) {
        let name = format!("s{i}");
        if frontend_knows(&mut a, i) {
            frontend::put_parse(a.out(), &name, &format!("select {i}"), &[]);
        }
        bind(a.out(), "", &name, &[]);
        frontend::put_execute(a.out(), "", 0);
    }
    let messages = sync(&mut a);
    assert_eq!(codes(&messages), Vec::<&str>::new());
    assert_eq!(messages.iter().filter(|m| m.tag == b'D').count(), 910);
    assert_eq!(messages.iter().filter(|m| m.tag == b'1').count(), 450);
    assert_eq!(messages.iter().filter(|m| m.tag == b'3').count(), 0, "evictions are not the client's");
    for i in [0, 449, 17] {
        bind(a.out(), "", &format!("s{i}"), &[]);
        frontend::put_execute(a.out(), "", 0);
        assert_eq!(tags(&sync(&mut a)), "2DCZ");
    }
    let kept = a.run("select count(*) from pg_prepared_statements");
    assert!(kept[0].parse::<u32>().unwrap() <= 200, "{kept:?}");
}

/// True the first time.
fn frontend_knows(wire: &mut Wire, i: usize) -> bool {
    if wire.parameters.iter().any(|(n, _)| *n == format!("seen{i}")) {
        return false;
    }
    wire.parameters.push((format!("seen{i}"), String::new()));
    true
}

#[test]
fn a_result_type_that_changed_fails_once() {
    let proxy = Proxy::start(1);
    table(&proxy, "changing");
    let mut a = proxy.connect("one");
    let mut b = proxy.connect("two");
    let run = |wire: &mut Wire| {
        bind(wire.out(), "", "s", &[]);
        frontend::put_execute(wire.out(), "", 0);
        let messages = sync(wire);
        codes(&messages).first().map(|c| (*c).to_owned())
    };
    for wire in [&mut a, &mut b] {
        frontend::put_parse(wire.out(), "s", "select * from changing", &[]);
        sync(wire);
        assert_eq!(run(wire), None);
    }
    proxy.direct().run("alter table changing add b text");
    assert_eq!(run(&mut a).as_deref(), Some("0A000"));
    assert_eq!(run(&mut a), None);
    assert_eq!(run(&mut b), None);
}

#[test]
fn an_old_review_is_made_again_at_bind() {
    let proxy = Proxy::start(1);
    let mut a = proxy.connect("one");
    frontend::put_parse(a.out(), "s", "select 1", &[]);
    sync(&mut a);
    proxy.gate.epoch.fetch_add(1, Ordering::Relaxed);
    bind(a.out(), "", "s", &[]);
    frontend::put_execute(a.out(), "", 0);
    assert_eq!(tags(&sync(&mut a)), "2DCZ");
}

#[test]
fn a_denial_outside_a_transaction_needs_no_server() {
    let proxy = Proxy::start(1);
    let mut a = proxy.connect("one");
    let messages = a.query("select * from forbidden");
    assert_eq!((tags(&messages).as_str(), codes(&messages)), ("EZ", vec!["42501"]));
    assert_eq!(messages[1].body, b"I");
    // A string of statements is refused whole.
    table(&proxy, "whole");
    assert_eq!(a.fails("insert into whole values (1); select * from forbidden"), "42501");
    assert_eq!(a.run("select count(*) from whole"), ["0"]);
    // By the extended protocol: skipped up to Sync.
    statement(a.out(), "select * from forbidden", &[]);
    statement(a.out(), "insert into whole values (2)", &[]);
    let messages = sync(&mut a);
    assert_eq!(tags(&messages), "EZ");
    assert_eq!(a.run("select count(*) from whole"), ["0"]);
}

#[test]
fn a_denial_undoes_what_was_done_before_it() {
    let proxy = Proxy::start(2);
    table(&proxy, "undone");
    let mut a = proxy.connect("one");
    // In a pipeline.
    statement(a.out(), "insert into undone values (1)", &[]);
    statement(a.out(), "select * from forbidden", &[]);
    statement(a.out(), "insert into undone values (2)", &[]);
    let messages = sync(&mut a);
    assert_eq!((tags(&messages).as_str(), codes(&messages)), ("12CEZ", vec!["42501"]));
    assert_eq!(messages.last().unwrap().body, b"I");
    assert_eq!(a.run("select count(*) from undone"), ["0"]);
    // In a transaction block, by either protocol.
    a.run("begin");
    a.run("insert into undone values (3)");
    let messages = a.query("select * from forbidden");
    assert_eq!((tags(&messages).as_str(), codes(&messages)), ("EZ", vec!["42501"]));
    assert_eq!(messages[1].body, b"E");
    assert_eq!(a.fails("select 1"), "25P02");
    assert_eq!(a.fails("select * from forbidden"), "25P02");
    let committed = a.query("commit");
    assert_eq!(committed[0].body, b"ROLLBACK\0");
    assert_eq!(a.run("select count(*) from undone"), ["0"]);
    a.run("begin");
    statement(a.out(), "select * from forbidden", &[]);
    assert_eq!(codes(&sync(&mut a)), ["42501"]);
    assert_eq!(a.fails("select 1"), "25P02");
    a.run("rollback");
    // An error of the server's own comes first, where it was first.
    statement(a.out(), "select 1/0", &[]);
    statement(a.out(), "select * from forbidden", &[]);
    assert_eq!(codes(&sync(&mut a)), ["22012"]);
    // And a query in the middle of a batch.
    statement(a.out(), "insert into undone values (4)", &[]);
    frontend::put_query(a.out(), "select * from forbidden");
    a.flush();
    assert_eq!(tags(&a.until(b'Z')), "12CEZ");
    assert_eq!(a.run("select count(*) from undone"), ["0"]);
}

#[test]
fn function_calls_are_refused_in_every_state() {
    let proxy = Proxy::start(1);
    let mut a = proxy.connect("one");
    let call = |wire: &mut Wire| {
        crate::wire::frame::write(wire.out(), b'F', |out| out.extend_from_slice(&[0; 10]));
        wire.flush();
        let messages = wire.until(b'Z');
        assert_eq!(codes(&messages), ["0A000"]);
        char::from(messages.last().unwrap().body[0])
    };
    assert_eq!(call(&mut a), 'I');
    a.run("begin");
    assert_eq!(call(&mut a), 'E');
    a.run("rollback");
    assert_eq!(a.run("select 1"), ["1"]);
}

#[test]
fn own_replies_keep_their_place() {
    let proxy = Proxy::start(1);
    let mut a = proxy.connect("one");
    frontend::put_parse(a.out(), "s", "select 1", &[]);
    bind(a.out(), "", "s", &[]);
    frontend::put_execute(a.out(), "", 0);
    frontend::put_close(a.out(), Target::Statement("s"));
    frontend::put_parse(a.out(), "s", "select 1", &[]);
    frontend::put_parse(a.out(), "r", "deallocate s", &[]);
    bind(a.out(), "", "r", &[]);
    frontend::put_execute(a.out(), "", 0);
    frontend::put_describe(a.out(), Target::Statement("r"));
    frontend::put_parse(a.out(), "", "select 2", &[]);
    bind(a.out(), "", "", &[]);
    frontend::put_execute(a.out(), "", 0);
    assert_eq!(tags(&sync(&mut a)), "12DC3112Ctn12DCZ");
}

#[test]
fn a_shared_login_chooses_its_tenant() {
    let proxy = Proxy::start(1);
    let mut web = proxy.connect("web");
    let mut other = proxy.connect("web");
    assert_eq!(web.fails("select :tenant:"), "42501");
    assert_eq!(web.query("set bulkhead.tenant = '1'")[0].body, b"SET\0");
    assert_eq!(web.run("select :tenant:"), ["1"]);
    assert_eq!(web.run("show bulkhead.tenant"), ["1"]);
    assert_eq!(other.fails("select :tenant:"), "42501", "another client's choice");
    assert_eq!(web.fails("set bulkhead.tenant = '3'"), "28000");
    assert_eq!(web.run("select :tenant:"), ["1"], "a refused choice changes nothing");
    // Inside a transaction: first, and once.
    web.run("begin");
    web.run("set local bulkhead.tenant = '2'");
    assert_eq!(web.run("select :tenant:"), ["2"]);
    assert_eq!(web.fails("set local bulkhead.tenant = '1'"), "25001");
    web.run("rollback");
    assert_eq!(web.run("select :tenant:"), ["1"]);
    web.run("begin");
    web.run("select 1");
    assert_eq!(web.fails("set bulkhead.tenant = '2'"), "25001");
    web.run("rollback");
    web.run("begin");
    web.run("set bulkhead.tenant = '2'");
    web.run("commit");
    assert_eq!(web.run("select :tenant:"), ["2"]);
    web.run("begin");
    web.run("set bulkhead.tenant = '1'");
    web.run("rollback");
    assert_eq!(web.run("select :tenant:"), ["2"]);
    // Alone in its message.
    assert_eq!(web.fails("set bulkhead.tenant = '1'; select :tenant:"), "0A000");
    for unset in ["reset bulkhead.tenant", "reset all", "discard all"] {
        web.run("set bulkhead.tenant = '1'");
        web.run(unset);
        assert_eq!(web.fails("select :tenant:"), "42501", "{unset}");
    }
}

#[test]
fn a_tenant_by_parameter_and_in_a_pipeline() {
    let proxy = Proxy::start(1);
    let mut web = proxy.connect("web");
    let choose = |wire: &mut Wire, value: &str, local: &str| {
        statement(wire.out(), &format!("select set_config('bulkhead.tenant', $1, {local})"), &[value]);
    };
    choose(&mut web, "2", "false)");
    statement(web.out(), "select :tenant:", &[]);
    let messages = sync(&mut web);
    assert_eq!(tags(&messages), "12DC12DCZ", "{:?}", codes(&messages));
    assert_eq!(messages[2].body, b"\0\x01\0\0\0\x012");
    assert_eq!(web.run("select :tenant:"), ["2"]);
    // BEGIN, the tenant, a statement, all at once: what an ORM's middleware sends.
    statement(web.out(), "begin", &[]);
    choose(&mut web, "1", "true)");
    statement(web.out(), "select :tenant:", &[]);
    statement(web.out(), "commit", &[]);
    let messages = sync(&mut web);
    assert_eq!(codes(&messages), Vec::<&str>::new());
    let rows: Vec<_> = messages.iter().filter(|m| m.tag == b'D').map(|m| m.body.clone()).collect();
    assert_eq!(rows[1], b"\0\x01\0\0\0\x011");
    assert_eq!(web.run("select :tenant:"), ["2"]);
    // Not after another statement of the same pipeline, which is then undone.
    statement(web.out(), "select 1", &[]);
    choose(&mut web, "1", "false)");
    assert_eq!(codes(&sync(&mut web)), ["25001"]);
    assert_eq!(web.run("select :tenant:"), ["2"]);
    choose(&mut web, "3", "false)");
    assert_eq!(codes(&sync(&mut web)), ["28000"]);
}

#[test]
fn a_tenant_in_the_startup_message() {
    let proxy = Proxy::start(1);
    let mut web = proxy.connect_with("web", &[("options", "-c bulkhead.tenant=2")]).unwrap();
    assert_eq!(web.run("select :tenant:"), ["2"]);
    let refused = proxy.connect_with("web", &[("options", "-c bulkhead.tenant=3")]).err().unwrap();
    assert!(refused.starts_with("28000"), "{refused}");
    let refused = proxy.connect_with("one", &[("options", "-c bulkhead.tenant=2")]).err().unwrap();
    assert!(refused.starts_with("28000"), "{refused}");
    assert!(proxy.connect_with("one", &[("options", "-c bulkhead.tenant=1")]).is_ok());
}

#[test]
fn a_cancel_never_reaches_the_next_client() {
    let proxy = Proxy::start(1);
    let mut a = proxy.connect("one");
    let mut b = proxy.connect("two");
    assert_eq!(a.run("select 1"), ["1"]);
    frontend::put_query(b.out(), "select pg_sleep(600) as victim");
    b.flush();
    let running = "select count(*) = 1 from pg_stat_activity where query like '%victim' and state = 'active'";
    wait_until(&proxy.postgres, running);
    // A has given its backend back, and B has it now.
    Wire::cancel(proxy.address, a.process_id, &a.key);
    wait_until(&proxy.postgres, running);
    // A waits for the one backend: its cancel ends the wait.
    frontend::put_query(a.out(), "select 2");
    a.flush();
    let mut cancelled = Vec::new();
    while cancelled.is_empty() {
        Wire::cancel(proxy.address, a.process_id, &a.key);
        a.writer().set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        cancelled = a.poll(b'Z');
    }
    assert_eq!(codes(&cancelled), ["57014"]);
    wait_until(&proxy.postgres, running);
    Wire::cancel(proxy.address, b.process_id, &b.key);
    assert_eq!(codes(&b.until(b'Z')), ["57014"]);
    assert_eq!(b.run("select 3"), ["3"]);
    assert_eq!(a.run("select 4"), ["4"]);
}

#[test]
fn a_client_that_leaves_in_a_transaction_leaves_nothing() {
    let proxy = Proxy::start(1);
    table(&proxy, "left_behind");
    let mut a = proxy.connect("one");
    a.run("begin");
    a.run("insert into left_behind values (1)");
    a.run("set local work_mem to '3MB'");
    drop(a);
    let mut b = proxy.connect("two");
    assert_eq!(b.status("select 1"), 'I');
    assert_eq!(b.run("select count(*) from left_behind"), ["0"]);
    assert_eq!(b.run("show work_mem"), ["4MB"]);
    // While a statement runs.
    let mut a = proxy.connect("one");
    frontend::put_query(a.out(), "select pg_sleep(600) as gone");
    a.flush();
    let running = "select count(*) = 1 from pg_stat_activity where query like '%gone' and state = 'active'";
    wait_until(&proxy.postgres, running);
    drop(a);
    assert_eq!(b.run("select 2"), ["2"]);
}

#[test]
fn state_that_cannot_be_carried_pins_and_dies_with_its_client() {
    let proxy = Proxy::start(2);
    let mut a = proxy.connect("one");
    a.run("create temp /*pinning*/ table only_mine(a int)");
    let backend = a.run("select pg_backend_pid()");
    let mut b = proxy.connect("two");
    assert_ne!(b.run("select pg_backend_pid()"), backend);
    assert_eq!(b.fails("select * from only_mine"), "42P01");
    assert_eq!(a.run("select count(*) from only_mine"), ["0"]);
    drop(a);
    let mut c = proxy.connect("one");
    c.run("begin");
    b.run("begin");
    assert_ne!(c.run("select pg_backend_pid()"), backend);
    assert_ne!(b.run("select pg_backend_pid()"), backend);
}

#[test]
fn a_backend_that_dies_takes_only_its_own_client_along() {
    let proxy = Proxy::start(2);
    let mut a = proxy.connect("one");
    let mut b = proxy.connect("two");
    a.run("begin");
    let pid = a.run("select pg_backend_pid()").remove(0);
    proxy.direct().run(&format!("select pg_terminate_backend({pid})"));
    assert_eq!(a.read().unwrap().sqlstate(), "57P01");
    assert_eq!(a.read(), None);
    assert_eq!(b.run("select 1"), ["1"]);
    // An idle one dies unseen.
    let pid = b.run("select pg_backend_pid()").remove(0);
    proxy.direct().run(&format!("select pg_terminate_backend({pid})"));
    wait_until(&proxy.postgres, &format!("select count(*) = 0 from pg_stat_activity where pid = {pid}"));
    assert_eq!(b.run("select 1"), ["1"]);
}

#[test]
fn errors_are_scrubbed() {
    let proxy = Proxy::start(1);
    let mut a = proxy.connect("one");
    let messages = a.query("select nothing_here");
    let line = messages[0].line(false);
    assert!(line.contains("C=42703") && !line.contains(" P="), "{line}");
    let sentinel = crate::plan::sentinel::prefix();
    let messages = a.query(&format!("select cast('{sentinel}orders' as int)"));
    assert_eq!(messages[0].sqlstate(), "42501");
    assert_eq!(messages[0].text(), "new row violates row-level security policy for table \"orders\"");
}

/// Many clients, few backends, all at once: everyone gets their own rows, settings and tenant.
#[test]
fn many_clients_on_few_backends() {
    let proxy = Proxy::start(3);
    std::thread::scope(|scope| {
        for i in 0..12 {
            let proxy = &proxy;
            scope.spawn(move || {
                let tenant = if i % 2 == 0 { "1" } else { "2" };
                let mut wire = proxy.connect(if i % 2 == 0 { "one" } else { "two" });
                wire.run(&format!("set application_name to 'client{i}'"));
                frontend::put_parse(wire.out(), "s", "select :tenant:, $1::text, current_setting('application_name')", &[]);
                sync(&mut wire);
                for round in 0..40 {
                    let mark = format!("{i}.{round}");
                    bind(wire.out(), "", "s", &[&mark]);
                    frontend::put_execute(wire.out(), "", 0);
                    let messages = sync(&mut wire);
                    let row = messages.iter().find(|m| m.tag == b'D').expect("a row");
                    let values = crate::wire::backend::parse_data_row(&row.body).unwrap();
                    let values: Vec<_> = values.iter().map(|v| std::str::from_utf8(v.unwrap()).unwrap()).collect();
                    assert_eq!(values, [tenant, &mark, &format!("client{i}")]);
                    match round % 4 {
                        0 => assert_eq!(wire.fails("select 1/0"), "22012"),
                        1 => assert_eq!(wire.fails("select * from forbidden"), "42501"),
                        2 => assert_eq!(wire.status("begin; set local application_name to 'x'"), 'T'),
                        _ => assert_eq!(wire.run("select :tenant:"), [tenant]),
                    }
                    if round % 4 == 2 {
                        wire.run("rollback");
                    }
                }
            });
        }
    });
}

#[test]
fn rows_that_are_the_proxy_s_own_are_not_shown() {
    let proxy = Proxy::start(1);
    table(&proxy, "checked");
    let mut a = proxy.connect("one");
    let insert = "insert into checked values (1), (2) /*hidden*/ returning a";
    assert_eq!(tags(&a.query(insert)), "CZ");
    assert_eq!(tags(&a.query(&format!("{insert}; select 1; {insert}"))), "CTDCCZ");
    frontend::put_parse(a.out(), "", insert, &[]);
    frontend::put_describe(a.out(), Target::Statement(""));
    bind(a.out(), "", "", &[]);
    frontend::put_describe(a.out(), Target::Portal(""));
    frontend::put_execute(a.out(), "", 1);
    let messages = sync(&mut a);
    assert_eq!(tags(&messages), "1tn2nCZ");
    assert_eq!(messages[5].body, b"INSERT 0 2\0");
}

#[test]
fn going_down_lets_transactions_end() {
    let mut proxy = Proxy::start(2);
    let mut idle = proxy.connect("one");
    let mut busy = proxy.connect("two");
    busy.run("begin");
    let _ = proxy.stop.take().map(|stop| stop.send(()));
    assert_eq!(idle.read().map(|m| m.sqlstate().to_owned()).as_deref(), Some("57P01"));
    assert_eq!(idle.read(), None);
    assert_eq!(busy.run("select 1"), ["1"]);
    busy.run("commit");
    assert_eq!(busy.read().map(|m| m.sqlstate().to_owned()).as_deref(), Some("57P01"));
    assert_eq!(busy.read(), None);
}

/// A setting can be refused when it is carried to another backend, though it was taken before: the client learns it, and
/// the backend is not used by anyone with settings in doubt.
#[test]
fn settings_that_cannot_be_carried_fail_the_statement_only() {
    let proxy = Proxy::start(1);
    let mut a = proxy.connect("one");
    let mut b = proxy.connect("two");
    proxy.direct().run("grant set on parameter log_min_messages to app");
    a.run("set log_min_messages to 'error'");
    assert_eq!(b.run("select 1"), ["1"]);
    proxy.direct().run("revoke set on parameter log_min_messages from app");
    assert_eq!(a.fails("select 1"), "42501");
    statement(a.out(), "select 1", &[]);
    assert_eq!(codes(&sync(&mut a)), ["42501"]);
    // It skips what follows in the batch.
    frontend::put_parse(a.out(), "", "select :tenant:", &[]);
    frontend::put_query(a.out(), "select 3");
    assert_eq!(tags(&sync(&mut a)), "EZ");
    assert_eq!(b.run("show work_mem"), ["4MB"]);
    a.run("reset all");
    assert_eq!(a.run("select 2"), ["2"]);
}
