//! Policies and catalog change while sessions are open: each change is one new epoch, statements prepared in the old one are
//! reviewed again, and what is wrong changes nothing but the log and a metric.

mod support;

use std::fs;
use std::io::{BufRead, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use support::cluster::Cluster;
use support::proxy::{Proxy, Setup, User};
use support::repository;
use support::wire::{Extended, Wire, put_bind, put_execute, put_message, put_parse};

/// Those who ask for the catalog's fingerprint.
const LOOKS: &str = "FROM pg_stat_activity WHERE application_name = 'bulkhead catalog' AND query LIKE '%hashint8%'";

struct World {
    proxy: Proxy,
    cluster: Cluster,
    policies: String,
}

impl World {
    fn start() -> World {
        World::with("")
    }

    /// `more`: lines of the configuration.
    fn with(more: &str) -> World {
        let cluster = Cluster::start();
        cluster.create_database("shop", &[&repository("tests/attacks/schema.sql")], &[]);
        let policies = fs::read_to_string(repository("tests/attacks/policies.toml")).expect("read the policies");
        let owner = format!("unrestricted = true\nupstream = \"{}\"", cluster.superuser_url("shop"));
        let users = [
            User { name: "one", access: "tenant = \"1\"" },
            User { name: "web", access: "tenants = [\"1\", \"2\"]" },
            User { name: "operator", access: &owner },
        ];
        let setup = Setup::new(&[("shop".to_owned(), cluster.app_url("shop"))], &users, &[("shop.toml", &policies)]);
        let config = fs::read_to_string(setup.config()).expect("the configuration") + more;
        fs::write(setup.config(), config).expect("write the configuration");
        World { proxy: Proxy::start(setup), cluster, policies }
    }

    fn connect(&self, user: &str) -> Wire {
        Wire::connect(&self.proxy.target(user, "shop")).expect("a session")
    }

    fn write_policies(&self, text: &str) {
        fs::write(self.proxy.setup.path().join("policies/shop.toml"), text).expect("write the policies");
    }

    /// What the admin port answers.
    fn admin(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.proxy.setup.admin_port)).expect("the admin port");
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("send");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        text
    }

    /// The value of a metric; labels are part of its name.
    fn metric(&self, name: &str) -> String {
        let text = self.admin("/metrics");
        let line = text.lines().find_map(|l| l.strip_prefix(name).and_then(|rest| rest.strip_prefix(' ')));
        line.unwrap_or_default().to_owned()
    }

    fn until_metric(&self, name: &str, wanted: &str) {
        poll(&format!("{name} {wanted}"), || self.metric(name) == wanted);
    }
}

fn poll(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        #[expect(clippy::disallowed_methods, reason = "polls, with a deadline")]
        std::thread::sleep(Duration::from_millis(20));
    }
}

const NARROWED: &str = "\n[[table]]\nname = \"public.accounts\"\nscope = \"tenant\"\ntenant_column = \"tenant_id\"\n\n\
    [[table.rule]]\nid = \"small\"\nactions = [\"select\"]\nusing = \"balance < 300\"\n";

/// Without `[[table]] accounts`, then with it narrowed.
fn narrowed(policies: &str) -> String {
    let others = policies.split("[[table]]").filter(|part| !part.contains("public.accounts"));
    others.collect::<Vec<_>>().join("[[table]]") + NARROWED
}

#[test]
fn a_changed_file_is_in_force_for_open_sessions_and_prepared_statements() {
    let world = World::start();
    let mut client = world.connect("one");
    let mut prepare = Vec::new();
    put_parse(&mut prepare, "count", b"SELECT count(*) FROM accounts", &[]);
    put_message(&mut prepare, b'S', b"");
    client.send_raw(&prepare).expect("send");
    assert!(client.answer().error.is_none());
    let mut execute = Vec::new();
    put_bind(&mut execute, "", "count", &[], 0);
    put_message(&mut execute, b'D', b"P\0");
    put_execute(&mut execute, "", 0);
    put_message(&mut execute, b'S', b"");
    let count = |client: &mut Wire| {
        client.send_raw(&execute).expect("send");
        client.answer().scalar()
    };
    assert_eq!(count(&mut client).as_deref(), Some("5"));
    world.write_policies(&narrowed(&world.policies));
    poll("the rule is in force for the prepared statement", || count(&mut client).as_deref() == Some("2"));
    assert_eq!(client.query("SELECT count(*) FROM accounts").scalar().as_deref(), Some("2"));
    assert_eq!(world.metric("bulkhead_policy_reload_success"), "1");
}

#[test]
fn a_file_that_is_wrong_changes_nothing_and_is_told() {
    let world = World::start();
    let mut client = world.connect("one");
    for (wrong, told) in [
        ("[[table]]\nname = \"public.accounts\"\nscoop = \"tenant\"\n", "scoop"),
        ("[[table]]\nname = \"public.nosuch\"\nscope = \"shared\"\n", "nosuch"),
        ("not toml", "shop.toml"),
    ] {
        world.write_policies(wrong);
        world.until_metric("bulkhead_policy_reload_success", "0");
        assert!(world.proxy.log().contains(told), "the log names {told}:\n{}", world.proxy.log());
        assert_eq!(client.query("SELECT count(*) FROM accounts").scalar().as_deref(), Some("5"), "the old epoch is in force");
        world.write_policies(&world.policies);
        world.until_metric("bulkhead_policy_reload_success", "1");
    }
}

/// Told at start (below): a proxy that runs must not take what the next start refuses.
#[test]
fn policies_whose_tables_no_tenant_fits_are_not_taken() {
    let world = World::start();
    world.cluster.execute("shop", "CREATE TABLE by_uuid (tenant uuid NOT NULL, id int)");
    let more = "\n[[table]]\nname = \"public.by_uuid\"\nscope = \"tenant\"\ntenant_column = \"tenant\"\n";
    world.write_policies(&(world.policies.clone() + more));
    poll("the log names the tenant", || world.proxy.log().contains("tenant \"1\" is not a value of type uuid"));
    world.until_metric("bulkhead_policy_reload_success", "0");
    assert_eq!(world.connect("one").query("SELECT count(*) FROM accounts").scalar().as_deref(), Some("5"));
}

/// Whatever the directory was like before.
#[test]
fn a_signal_has_policies_read_that_are_not_there_any_more() {
    let world = World::start();
    let mut client = world.connect("one");
    fs::remove_file(world.proxy.setup.path().join("policies/shop.toml")).expect("remove");
    let pid = world.proxy.pid().expect("the proxy's pid").to_string();
    assert!(Command::new("kill").args(["-HUP", &pid]).status().expect("kill runs").success());
    poll("nothing is permitted", || client.query("SELECT count(*) FROM accounts").error.is_some());
}

#[test]
fn a_view_that_changes_is_read_anew() {
    let world = World::start();
    world.cluster.execute("shop", "CREATE VIEW v AS SELECT id FROM accounts WHERE id < 3");
    world.write_policies(&format!("{}\n[[table]]\nname = \"public.v\"\nscope = \"view\"\n", world.policies));
    let mut client = world.connect("one");
    poll("the view is known", || client.query("SELECT count(*) FROM v").scalar().as_deref() == Some("2"));
    // Columns and name stay: only the rule is another one.
    world.cluster.execute("shop", "CREATE OR REPLACE VIEW v AS SELECT id FROM accounts WHERE id < 5");
    poll("the new definition is known", || client.query("SELECT count(*) FROM v").scalar().as_deref() == Some("4"));
    world.cluster.execute("shop", "CREATE TABLE fresh (id int); CREATE OR REPLACE VIEW v AS SELECT id FROM fresh");
    poll("its table is denied", || client.query("SELECT count(*) FROM v").sqlstate() == "42501");
}

#[test]
fn metrics_count_connections_to_servers_and_known_templates() {
    let world = World::start();
    // The one that the catalog is read over.
    world.until_metric("bulkhead_upstream_connections", "1");
    let count = |result: &str| -> u64 {
        world.metric(&format!("bulkhead_templates_total{{result=\"{result}\"}}")).parse().expect("a number")
    };
    let mut client = world.connect("one");
    let (hits, misses) = (count("hit"), count("miss"));
    for id in 1..=3 {
        assert!(client.query(format!("SELECT email FROM accounts WHERE id = {id}")).error.is_none());
    }
    assert_eq!((count("hit") - hits, count("miss") - misses), (2, 1));
    world.until_metric("bulkhead_upstream_connections", "2");
    world.until_metric("bulkhead_upstream_connections_opened_total", "2");
    let mut operator = world.connect("operator");
    assert!(operator.query("SELECT 1").error.is_none());
    world.until_metric("bulkhead_upstream_connections", "3");
    drop(operator);
    world.until_metric("bulkhead_upstream_connections", "2");
}

/// A server that logs connections would log one a second.
#[test]
fn the_catalog_is_looked_at_over_one_connection_which_is_made_again_when_it_is_lost() {
    let world = World::start();
    let mut owner = Wire::connect(&world.cluster.superuser("shop")).expect("a session");
    let mut look = || {
        let answer = owner.query(format!("SELECT pid, query_start {LOOKS}"));
        let rows: Vec<_> = answer.rows().map(|row| row.iter().flatten().cloned().collect::<Vec<_>>()).collect();
        let [row] = rows.as_slice() else { return None };
        Some((String::from_utf8_lossy(&row[0]).into_owned(), row[1].clone()))
    };
    poll("it is looked at", || look().is_some());
    let (pid, mut at) = look().expect("it stays");
    for _ in 0..2 {
        poll("it is looked at again", || look().is_some_and(|(_, now)| now != at));
        let again = look().expect("it stays");
        assert_eq!(again.0, pid);
        at = again.1;
    }
    world
        .cluster
        .execute("shop", &format!("SELECT pg_terminate_backend({pid}); ALTER TABLE accounts ADD COLUMN later int DEFAULT 7"));
    poll("another has its place", || look().is_some_and(|(now, _)| now != pid));
    let mut client = world.connect("one");
    poll("the column is known", || client.query("SELECT later FROM accounts WHERE id = 1").scalar().as_deref() == Some("7"));
}

/// pg_get_viewdef locks the tables of a view one after the other, and keeps the locks.
#[test]
fn reading_the_catalog_makes_no_statement_of_others_the_victim_of_a_deadlock() {
    let world = World::start();
    let owner = || Wire::connect(&world.cluster.superuser("shop")).expect("a session");
    let (mut first, mut second, mut watcher) = (owner(), owner(), owner());
    let tables = "CREATE TABLE near (id int); CREATE TABLE middle (id int); CREATE TABLE far (id int)";
    let answer = first.query(format!("{tables}; CREATE VIEW rows_of_all AS SELECT near.id FROM near, middle, far"));
    assert!(answer.error.is_none(), "{answer:?}");
    let mut waits_for = |table: &str| {
        let sql = format!("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = '{table}'::regclass");
        poll(&format!("somebody waits for {table}"), || watcher.query(&sql).scalar().as_deref() == Some("t"));
    };
    first.query("BEGIN; TRUNCATE far");
    second.query("BEGIN; TRUNCATE middle; CREATE TABLE fresh (id int)");
    owner().query("CREATE TABLE noticed (id int)");
    waits_for("middle");
    // It waits before the cycle is closed: it is the one that finds the deadlock.
    let truncate = std::thread::spawn(move || first.query("TRUNCATE near; COMMIT"));
    waits_for("near");
    second.query("COMMIT");
    let answer = truncate.join().expect("an answer");
    assert!(answer.error.is_none(), "{answer:?}");
    poll("the new table is known", || world.connect("one").query("SELECT * FROM fresh").sqlstate() == "42501");
}

#[test]
fn a_new_column_is_known_soon_and_a_new_table_is_denied_until_a_policy_lists_it() {
    let world = World::start();
    let mut client = world.connect("one");
    world.cluster.execute(
        "shop",
        "ALTER TABLE accounts ADD COLUMN colour text DEFAULT 'red'; CREATE TABLE fresh (id int); GRANT ALL ON fresh TO app",
    );
    poll("the column is known", || client.query("SELECT colour FROM accounts WHERE id = 1").scalar().as_deref() == Some("red"));
    assert_eq!(client.query("SELECT * FROM fresh").sqlstate(), "42501");
    world.write_policies(&format!("{}\n[[table]]\nname = \"public.fresh\"\nscope = \"shared\"\n", world.policies));
    poll("the table is known", || client.query("SELECT count(*) FROM fresh").scalar().as_deref() == Some("0"));
}

/// The promise: a tenant's statement is never planned on definitions older than those that a client was told of.
#[test]
fn what_an_unrestricted_user_has_changed_is_known_to_the_next_statement_of_a_tenant() {
    let world = World::start();
    let (mut operator, mut client) = (world.connect("operator"), world.connect("one"));
    let mut prepare = Vec::new();
    put_parse(&mut prepare, "whole", b"SELECT * FROM accounts WHERE id = 1", &[]);
    put_message(&mut prepare, b'S', b"");
    client.send_raw(&prepare).expect("send");
    assert!(client.answer().error.is_none());
    let mut execute = Vec::new();
    put_bind(&mut execute, "", "whole", &[], 0);
    put_execute(&mut execute, "", 0);
    put_message(&mut execute, b'S', b"");
    let change = |operator: &mut Wire, sql: &str| assert!(operator.query(sql).error.is_none(), "{sql}");
    for n in 0..10 {
        let add = format!("ALTER TABLE accounts ADD COLUMN c{n} int DEFAULT {n}");
        match n % 4 {
            0 => change(&mut operator, &add),
            1 => ["BEGIN", &add, "COMMIT"].into_iter().for_each(|sql| change(&mut operator, sql)),
            2 => change(&mut operator, &format!("BEGIN; {add}; COMMIT; SELECT 1")),
            _ => change(&mut operator, &format!("DO $$ BEGIN {add}; END $$")),
        }
        let answer = client.query(format!("SELECT c{n} FROM accounts WHERE id = 1"));
        assert_eq!(answer.scalar().as_deref(), Some(&*n.to_string()), "{answer:?}");
    }
    for (made, sql) in [
        ("made_as", "CREATE TABLE made_as AS SELECT 1 AS id"),
        ("made_of_nothing", "CREATE TABLE made_of_nothing AS SELECT 1 AS id LIMIT 0"),
        ("made_into", "SELECT 1 AS id INTO made_into"),
        ("made_view", "SELECT 1; CREATE MATERIALIZED VIEW made_view AS SELECT 1 AS id"),
    ] {
        change(&mut operator, sql);
        assert_eq!(client.query(format!("SELECT id FROM {made}")).sqlstate(), "42501", "{made} is known, and nobody's");
    }
    let made = operator.extended(&Extended { sql: b"CREATE TABLE made_extended AS SELECT 1 AS id", ..Extended::default() });
    assert!(made.error.is_none(), "{made:?}");
    assert_eq!(client.query("SELECT id FROM made_extended").sqlstate(), "42501");
    // A prepared statement whose row has other columns by now is the server's to refuse, as without the proxy.
    change(&mut operator, "ALTER TABLE accounts RENAME COLUMN ssn TO number");
    client.send_raw(&execute).expect("send");
    let answer = client.answer();
    assert!(answer.error.is_some() || format!("{answer:?}").contains("number") || answer.rows().count() == 1, "{answer:?}");
    assert_eq!(client.query("SELECT ssn FROM accounts").sqlstate(), "42703");
}

#[test]
fn a_migration_of_many_statements_is_not_a_load_of_the_catalog_for_each() {
    let world = World::start();
    let mut operator = world.connect("operator");
    let before: u64 = world.metric("bulkhead_policy_epoch").parse().expect("a number");
    let begun = Instant::now();
    for n in 0..300 {
        assert!(operator.query(format!("CREATE TABLE made_{n} (id int)")).error.is_none());
    }
    let epochs = world.metric("bulkhead_policy_epoch").parse::<u64>().expect("a number") - before;
    // Once a second, and one that was under way.
    assert!(epochs <= begun.elapsed().as_secs() + 2, "{epochs} loads in {:?}", begun.elapsed());
}

/// What cannot be known is not passed over: a tenant waits, and is refused.
#[test]
fn where_changed_definitions_cannot_be_read_tenants_are_refused_until_they_can() {
    let world = World::with("[limits]\npool_wait = \"2s\"\n");
    let (mut operator, mut client) = (world.connect("operator"), world.connect("one"));
    assert_eq!(client.query("SELECT count(*) FROM accounts").scalar().as_deref(), Some("5"));
    // The one that the catalog is read over is ended, and no new one is let in.
    assert!(operator.query("ALTER ROLE app CONNECTION LIMIT 1").error.is_none());
    world.cluster.execute("shop", &format!("SELECT pg_terminate_backend(pid, 10000) {LOOKS}"));
    assert_eq!(client.query("SELECT count(*) FROM accounts").sqlstate(), "57P03");
    poll("it is told", || world.admin("/health").contains("\"upstream\":\"down\""));
    assert!(operator.query("ALTER ROLE app CONNECTION LIMIT -1").error.is_none());
    poll("the catalog is read", || client.query("SELECT count(*) FROM accounts").scalar().as_deref() == Some("5"));
    poll("that is told", || world.admin("/health").starts_with("HTTP/1.0 200"));
    // A connection that one client's settings make fail is nobody else's affair.
    let mut target = world.proxy.target("operator", "shop");
    target.options = vec![("work_mem".to_owned(), "nonsense".to_owned())];
    assert!(Wire::connect(&target).is_err());
    assert!(world.admin("/health").starts_with("HTTP/1.0 200"));
}

#[test]
fn a_tenant_that_is_no_value_of_the_column_is_told_at_start() {
    let cluster = Cluster::start();
    cluster.create_database("shop", &[&repository("tests/attacks/schema.sql")], &[]);
    let policies = fs::read_to_string(repository("tests/attacks/policies.toml")).expect("read the policies");
    for tenant in ["01", "one", " 1", "99999999999"] {
        let access = format!("tenant = \"{tenant}\"");
        let users = [User { name: "one", access: &access }];
        let setup = Setup::new(&[("shop".to_owned(), cluster.app_url("shop"))], &users, &[("shop.toml", &policies)]);
        let output = setup.run(&["serve"]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains(&format!("tenant \"{tenant}\"")) && told.contains("int4"), "{told}");
    }
}

#[test]
fn a_wrong_password_of_the_upstream_is_told_at_once_with_the_place() {
    let cluster = Cluster::start();
    cluster.create_database("shop", &[&repository("tests/attacks/schema.sql")], &[]);
    let policies = fs::read_to_string(repository("tests/attacks/policies.toml")).expect("read the policies");
    let url = format!("postgres://app:wrong@127.0.0.1:{}/shop", cluster.port);
    let users = [User { name: "one", access: "tenant = \"1\"" }];
    let setup = Setup::new(&[("shop".to_owned(), url.clone())], &users, &[("shop.toml", &policies)]);
    for command in [&["serve"][..], &["harden", "--database", &url]] {
        let begun = Instant::now();
        let output = setup.run(command);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        let place = format!("127.0.0.1:{}/shop as app: password authentication failed", cluster.port);
        let plain = told.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
        assert!(plain.contains(&place) && plain.matches("28P01").count() == 1, "{told}");
    }
}

#[test]
fn serve_tells_where_it_listens_and_refused_tenants_are_counted() {
    let cluster = Cluster::start();
    cluster.create_database("shop", &[&repository("tests/attacks/schema.sql")], &[]);
    let policies = fs::read_to_string(repository("tests/attacks/policies.toml")).expect("read the policies");
    let users = [User { name: "web", access: "tenants = [\"1\", \"2\"]" }];
    let setup = Setup::new(&[("shop".to_owned(), cluster.app_url("shop"))], &users, &[("shop.toml", &policies)]);
    let mut process = Command::new(env!("CARGO_BIN_EXE_bulkhead"))
        .arg("serve")
        .current_dir(setup.path())
        .env_remove("LOG_LEVEL")
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("serve starts");
    let lines = std::io::BufReader::new(process.stderr.take().expect("its standard error"));
    let line = lines.lines().map_while(Result::ok).find(|line| line.contains("listening on") && line.contains("shop"));
    process.kill().and_then(|()| process.wait()).expect("it ends");
    let line = line.expect("a line that tells");
    for part in [&setup.port.to_string(), "level=\"strict\"", "users=1", "policies"] {
        assert!(line.contains(part), "{part}: {line}");
    }

    let world = World { proxy: Proxy::start(setup), cluster, policies };
    let mut web = world.connect("web");
    assert_eq!(web.query("SET bulkhead.tenant = '9'").sqlstate(), "28000");
    assert_eq!(web.extended(&Extended { sql: b"SET bulkhead.tenant = '9'", ..Extended::default() }).sqlstate(), "28000");
    assert_eq!(world.metric("bulkhead_denials_total{reason=\"tenant\"}"), "2");
}

#[test]
fn what_was_opened_for_one_tenant_is_not_read_for_another() {
    let world = World::start();
    let mut web = world.connect("web");
    assert!(web.query("SET bulkhead.tenant = '2'").error.is_none());
    let mut holder = world.connect("web");
    assert!(holder.query("SET bulkhead.tenant = '2'").error.is_none());
    assert!(holder.query("DECLARE c CURSOR WITH HOLD FOR SELECT id FROM accounts").error.is_none());
    assert_eq!(holder.query("SET bulkhead.tenant = '1'").sqlstate(), "0A000");
    let mut local = world.connect("web");
    assert!(local.query("BEGIN").error.is_none());
    assert!(local.query("SET LOCAL bulkhead.tenant = '2'").error.is_none());
    assert_eq!(local.query("DECLARE c CURSOR WITH HOLD FOR SELECT id FROM accounts").sqlstate(), "0A000");
    // A portal bound for one tenant, and the tenant changed before it runs.
    let mut bound = Vec::new();
    put_message(&mut bound, b'Q', b"BEGIN\0");
    web.send_raw(&bound).expect("send");
    assert!(web.answer().error.is_none());
    let mut batch = Vec::new();
    put_parse(&mut batch, "", b"SELECT id FROM accounts", &[]);
    put_bind(&mut batch, "p", "", &[], 0);
    put_parse(&mut batch, "", b"SET bulkhead.tenant = '1'", &[]);
    put_bind(&mut batch, "", "", &[], 0);
    put_execute(&mut batch, "", 0);
    put_execute(&mut batch, "p", 0);
    put_message(&mut batch, b'S', b"");
    web.send_raw(&batch).expect("send");
    let answer = web.answer();
    assert!(answer.error.is_some(), "neither is the tenant changed with a portal open, nor the portal run: {answer:?}");
    assert!(answer.parts.iter().all(|p| p.rows.is_empty()), "{answer:?}");
}

/// Writes a new certificate for `localhost` with its key; returns the certificate.
fn write_certificate(proxy: &Setup) -> Vec<u8> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    fs::write(proxy.path().join("cert.pem"), made.cert.pem()).expect("write the certificate");
    fs::write(proxy.path().join("key.pem"), made.signing_key.serialize_pem()).expect("write the key");
    made.cert.der().to_vec()
}

type Tls = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

/// A client that trusts this certificate alone.
fn trusting(certificate: &[u8]) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.to_vec().into()).expect("a certificate");
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

fn handshake(port: u16, trusted: &[u8]) -> std::io::Result<Tls> {
    handshake_of(port, trusting(trusted))
}

fn handshake_of(port: u16, client: Arc<rustls::ClientConfig>) -> std::io::Result<Tls> {
    let mut socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    socket.write_all(&[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f])?; // SSLRequest
    let mut answer = [0];
    socket.read_exact(&mut answer)?;
    assert_eq!(answer, *b"S", "TLS is offered");
    let name = "localhost".try_into().expect("a name");
    let mut tls = rustls::ClientConnection::new(client, name).expect("a connection");
    tls.complete_io(&mut socket)?;
    Ok(rustls::StreamOwned::new(tls, socket))
}

/// Sends a startup message; an answer comes.
fn greet(tls: &mut Tls) {
    let mut startup = vec![0, 0, 0, 0, 0, 3, 0, 0];
    startup.extend(b"user\0one\0database\0shop\0\0");
    startup[3] = u8::try_from(startup.len()).expect("short");
    tls.write_all(&startup).expect("send");
    let mut answer = [0];
    tls.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer, *b"R");
}

/// A proxy that offers TLS, and its certificate.
fn with_tls(cluster: &Cluster) -> (Proxy, Vec<u8>) {
    cluster.create_database("shop", &[&repository("tests/attacks/schema.sql")], &[]);
    let policies = fs::read_to_string(repository("tests/attacks/policies.toml")).expect("read the policies");
    let users = [User { name: "one", access: "tenant = \"1\"" }];
    let setup = Setup::new(&[("shop".to_owned(), cluster.app_url("shop"))], &users, &[("shop.toml", &policies)]);
    let text = fs::read_to_string(setup.config()).expect("the configuration");
    let text = text.replacen("[server]\n", "[server]\ntls_certificate = \"cert.pem\"\ntls_key = \"key.pem\"\n", 1);
    fs::write(setup.config(), text).expect("write the configuration");
    let certificate = write_certificate(&setup);
    (Proxy::start(setup), certificate)
}

#[test]
fn a_client_that_comes_back_resumes_its_tls_session_however_many_came_meanwhile() {
    let cluster = Cluster::start();
    let (proxy, certificate) = with_tls(&cluster);
    let client = trusting(&certificate);
    let mut first = handshake_of(proxy.setup.port, client.clone()).expect("a handshake");
    assert_eq!(first.conn.handshake_kind(), Some(rustls::HandshakeKind::Full));
    greet(&mut first); // tickets come with the first answer
    for _ in 0..300 {
        handshake(proxy.setup.port, &certificate).expect("another's handshake");
    }
    let again = handshake_of(proxy.setup.port, client).expect("a handshake");
    assert_eq!(again.conn.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
}

#[test]
fn a_certificate_is_read_again_on_sighup_and_a_bad_one_changes_nothing() {
    let cluster = Cluster::start();
    let (proxy, first) = with_tls(&cluster);
    let port = proxy.setup.port;
    let hangup = || {
        let pid = proxy.pid().expect("the proxy's pid").to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().expect("kill runs").success());
    };
    let mut old = handshake(port, &first).expect("the certificate that it started with");

    let second = write_certificate(&proxy.setup);
    assert!(handshake(port, &first).is_ok() && handshake(port, &second).is_err(), "nothing happens before SIGHUP");
    hangup();
    poll("the new certificate is shown", || handshake(port, &second).is_ok());
    assert!(handshake(port, &first).is_err());

    // No certificate; then one that is not the key's.
    for broken in
        ["not PEM".to_owned(), rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("made").cert.pem()]
    {
        let told = || proxy.log().matches("TLS certificate not reloaded").count();
        let before = told();
        fs::write(proxy.setup.path().join("cert.pem"), broken).expect("write");
        hangup();
        poll("the log tells", || told() > before);
        assert!(handshake(port, &second).is_ok(), "the old one stays in use");
    }
    let third = write_certificate(&proxy.setup);
    hangup();
    poll("mended", || handshake(port, &third).is_ok());

    // Connections made under the first certificate go on.
    greet(&mut old);
}
