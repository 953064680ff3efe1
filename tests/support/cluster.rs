//! A throwaway PostgreSQL cluster in a temporary directory.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::wire::{Address, Target, Wire};

/// The password of the role `app`, which owns nothing.
pub const APP_PASSWORD: &str = "secret";

/// Debian's; `PG_BIN` names another server's folder of programs.
const BIN: &str = "/usr/lib/postgresql/15/bin";

fn programs() -> PathBuf {
    std::env::var_os("PG_BIN").map_or_else(|| BIN.into(), PathBuf::from)
}

/// A running cluster. Superuser `postgres` by Unix socket without a password; role `app` by TCP with SCRAM.
pub struct Cluster {
    directory: TempDir,
    pub port: u16,
    process: Option<Child>,
    user: Option<(u32, u32)>,
    /// Where initdb and postgres are.
    programs: PathBuf,
}

impl Cluster {
    pub fn start() -> Cluster {
        Cluster::start_with(&[])
    }

    /// `settings`: further lines of postgresql.conf.
    pub fn start_with(settings: &[&str]) -> Cluster {
        Cluster::start_from(None, settings)
    }

    /// A server newer than Debian's, which is installed first (see `newer`).
    pub fn start_newer() -> Cluster {
        Cluster::start_from(Some(&super::newer::server()), &[])
    }

    /// `server`: the folder of its `bin`, `lib` and `share`.
    fn start_from(server: Option<&Path>, settings: &[&str]) -> Cluster {
        let directory = tempfile::Builder::new().prefix("bulkhead-pg").tempdir().expect("temporary directory");
        let mut cluster = Cluster { directory, port: 0, process: None, user: unprivileged_user(), programs: programs() };
        if let Some(server) = server {
            // The server's user may be barred from where it was installed.
            let copied = Command::new("cp").arg("-r").arg(server).arg(cluster.directory.path()).status().expect("cp runs");
            assert!(copied.success(), "the server is copied");
            let name = server.file_name().expect("a folder with a name");
            cluster.programs = cluster.directory.path().join(name).join("bin");
        }
        if let Some((uid, gid)) = cluster.user {
            std::os::unix::fs::chown(cluster.directory.path(), Some(uid), Some(gid)).expect("chown");
        }
        cluster.initdb();
        cluster.port = free_port();
        let base = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\nfsync = off\n\
             full_page_writes = off\nshared_buffers = 32MB\nmax_connections = 100\nautovacuum = off\nlog_min_messages = warning\n\
             timezone = 'UTC'\nmax_wal_size = 256MB\nlc_messages = 'C'\nxmloption = 'content'\n",
            cluster.port,
            cluster.directory.path().display()
        );
        let conf = cluster.data().join("postgresql.conf");
        fs::write(&conf, base + &settings.join("\n") + "\n").expect("write postgresql.conf");
        cluster.boot();
        cluster.execute("postgres", &format!("CREATE ROLE app LOGIN PASSWORD '{APP_PASSWORD}'"));
        cluster.execute("postgres", "ALTER ROLE app SET statement_timeout = '3s'"); // no statement of a test may run away
        cluster
    }

    /// A standby of it, as it is now: what is written later does not come through.
    pub fn standby(&self) -> Cluster {
        let directory = tempfile::Builder::new().prefix("bulkhead-pg").tempdir().expect("temporary directory");
        let mut standby =
            Cluster { directory, port: free_port(), process: None, user: self.user, programs: self.programs.clone() };
        if let Some((uid, gid)) = standby.user {
            std::os::unix::fs::chown(standby.directory.path(), Some(uid), Some(gid)).expect("chown");
        }
        let output = standby
            .as_server(&self.programs.join("pg_basebackup").display().to_string())
            .args(["--username=postgres", "--checkpoint=fast", "--no-sync", "-h"])
            .arg(self.directory.path())
            .args(["-p", &self.port.to_string(), "-D"])
            .arg(standby.data())
            .output()
            .expect("pg_basebackup runs");
        assert!(output.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&output.stderr));
        let (port, directory) = (standby.port, standby.directory.path().display());
        let settings = format!("port = {port}\nunix_socket_directories = '{directory}'\n");
        let conf = fs::File::options().append(true).open(standby.data().join("postgresql.conf"));
        conf.and_then(|mut conf| conf.write_all(settings.as_bytes())).expect("write postgresql.conf");
        fs::write(standby.data().join("standby.signal"), "").expect("write standby.signal");
        standby.boot();
        standby
    }

    fn initdb(&self) {
        let output = self
            .as_server(&self.programs.join("initdb").display().to_string())
            .args([
                "-N",
                "--username=postgres",
                "--auth-local=trust",
                "--auth-host=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "-D",
            ])
            .arg(self.data())
            .output()
            .expect("initdb runs (Debian package postgresql-15)");
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Starts the server under a shell that stops it when the pipe to this process closes, so that none is left behind
    /// even if the test run is killed.
    pub fn boot(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.log_path()).expect("log file");
        let script = format!(
            "{}/postgres -D '{}' </dev/null & pid=$!; read -r _; kill -QUIT $pid 2>/dev/null; wait $pid",
            self.programs.display(),
            self.data().display()
        );
        let child = self
            .as_server("/bin/sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("start postgres");
        self.process = Some(child);
        let deadline = Instant::now() + Duration::from_secs(60);
        while Wire::connect(&self.superuser("postgres")).is_err() {
            assert!(Instant::now() < deadline, "PostgreSQL did not start:\n{}", self.log());
            #[expect(clippy::disallowed_methods, reason = "polls a port, with a deadline")]
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops the server at once, as a crash would. `boot` starts it again.
    pub fn crash(&mut self) {
        if let Some(mut child) = self.process.take() {
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("server.log")
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    fn as_server(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command.current_dir(self.directory.path()).env("LC_ALL", "C.UTF-8");
        command
    }

    pub fn superuser(&self, database: &str) -> Target {
        let socket = self.directory.path().join(format!(".s.PGSQL.{}", self.port));
        Target {
            address: Address::Unix(socket),
            user: "postgres".into(),
            password: None,
            database: database.into(),
            options: Vec::new(),
        }
    }

    /// A direct connection as an application role, by TCP.
    pub fn role(&self, role: &str, database: &str) -> Target {
        Target {
            address: Address::Tcp(([127, 0, 0, 1], self.port).into()),
            user: role.into(),
            password: Some(APP_PASSWORD.into()),
            database: database.into(),
            options: Vec::new(),
        }
    }

    pub fn app(&self, database: &str) -> Target {
        self.role("app", database)
    }

    /// The superuser's URL.
    pub fn superuser_url(&self, database: &str) -> String {
        format!("postgres://postgres@/{database}?host={}&port={}", self.directory.path().display(), self.port)
    }

    /// The `upstream` of a `[[database]]`.
    pub fn app_url(&self, database: &str) -> String {
        format!("postgres://app:{APP_PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }

    /// Runs SQL as superuser; panics where it fails.
    pub fn execute(&self, database: &str, sql: &str) {
        let mut wire = Wire::connect(&self.superuser(database)).expect("superuser connection");
        let answer = wire.query(sql);
        assert!(answer.error.is_none(), "{sql}: {:?}", answer.error);
    }

    /// A new database from files of SQL, run by psql as superuser with variables set; `app` may then read and write
    /// every table of the schema public, as an application's role does.
    pub fn create_database(&self, name: &str, files: &[&Path], variables: &[(&str, &str)]) {
        self.execute("postgres", &format!("CREATE DATABASE {name}"));
        for file in files {
            self.psql(name, file, variables);
        }
        self.execute(
            name,
            "GRANT USAGE ON SCHEMA public TO app; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO app; \
             GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO app",
        );
    }

    /// A copy of a database that nobody is connected to.
    pub fn copy_database(&self, name: &str, template: &str) {
        self.execute("postgres", &format!("CREATE DATABASE {name} TEMPLATE {template}"));
    }

    fn psql(&self, database: &str, file: &Path, variables: &[(&str, &str)]) {
        let mut command = Command::new(format!("{BIN}/psql"));
        command.args(["-X", "-q", "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-h"]).arg(self.directory.path());
        command.args(["-p", &self.port.to_string(), "-d", database]);
        for (name, value) in variables {
            command.arg("-v").arg(format!("{name}={value}"));
        }
        let output = command.arg("-f").arg(file).output().expect("psql runs");
        assert!(output.status.success(), "psql {}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.crash();
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    // Below those that outgoing connections take (ip_local_port_range), so that none takes it before its server does; each
    // process begins somewhere else.
    const FROM: u32 = 10_000;
    const COUNT: u32 = 22_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(7919);
    let ports = (0..COUNT).map(|_| FROM + begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT);
    let mut ports = ports.filter_map(|port| u16::try_from(port).ok());
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a free port")
}

/// PostgreSQL refuses to run as root: as root, the ids of the user `postgres`.
fn unprivileged_user() -> Option<(u32, u32)> {
    let id = |arguments: &[&str]| -> u32 {
        let output = Command::new("id").args(arguments).output().expect("id runs");
        String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number from id")
    };
    if id(&["-u"]) != 0 {
        return None;
    }
    Some((id(&["-u", "postgres"]), id(&["-g", "postgres"])))
}
