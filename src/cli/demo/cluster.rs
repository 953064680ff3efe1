//! A PostgreSQL cluster in a temporary directory, stopped and removed when dropped.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rand::Rng;
use rand::distr::Alphanumeric;
use tempfile::TempDir;
use tokio::process::Command;

use super::Stop;

const SHOP: &str = include_str!("shop.sql");

/// A running cluster with a database `shop`.
pub(super) struct Cluster {
    binaries: PathBuf,
    server_user: ServerUser,
    /// As `postgres --version` tells it.
    pub(super) version: String,
    pub(super) port: u16,
    /// The superuser's password.
    superuser: String,
    /// Password of `shop_owner`, which owns the tables.
    pub(super) owner: String,
    /// Password of `shop_app`, which owns nothing.
    pub(super) app: String,
    // Last, so that the directory goes after the server: `drop` stops it first.
    directory: TempDir,
}

/// Whom the server runs as: PostgreSQL refuses to run as root.
#[derive(Clone, Copy)]
enum ServerUser {
    Ours,
    Other { uid: u32, gid: u32 },
}

/// What one psql said, as a terminal would show it.
pub(super) struct Said {
    pub(super) text: String,
    pub(super) ok: bool,
}

impl Cluster {
    /// Makes and starts a cluster with the roles and the empty database of the shop.
    pub(super) async fn start() -> Result<Cluster, Stop> {
        let binaries = find_binaries()?;
        let server_user = ServerUser::find().await?;
        let directory =
            tempfile::Builder::new().prefix("bulkhead-demo-").tempdir().map_err(Stop::io("no temporary directory"))?;
        let version = output(Command::new(binaries.join("postgres")).arg("--version")).await?.text.trim().to_owned();
        let mut cluster = Cluster {
            binaries,
            server_user,
            version,
            port: 0,
            superuser: random_password(),
            owner: random_password(),
            app: random_password(),
            directory,
        };
        cluster.init()?;
        cluster.start_server()?;
        cluster.create_database().await?;
        Ok(cluster)
    }

    /// Where everything of this demo lives.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Loads the shop's tables and rows, as their owner.
    pub(super) async fn load_shop(&self) -> Result<(), Stop> {
        let file = self.directory().join("shop.sql");
        fs::write(&file, SHOP).map_err(Stop::io("shop.sql"))?;
        let mut psql = psql(self.port, "shop_owner", &self.owner);
        psql.args(["-q", "-v", "ON_ERROR_STOP=1", "-f"]).arg(&file);
        expect_ok(&mut psql, "loading the shop").await
    }

    /// Runs SQL directly on the server, past Bulkhead, as the superuser: how the tour looks behind the scenes.
    pub(super) async fn behind(&self, sql: &'static str) -> Result<String, Stop> {
        let mut psql = psql(self.port, "postgres", &self.superuser);
        psql.args(["-A", "-t", "-c", sql]);
        let said = output(&mut psql).await?;
        if said.ok { Ok(said.text.trim().to_owned()) } else { Err(Stop::CannotRun(said.text)) }
    }

    fn init(&self) -> Result<(), Stop> {
        let data = self.data();
        fs::create_dir(&data).map_err(Stop::io("the data directory"))?;
        let password_file = self.directory().join("pwfile");
        write_private(&password_file, &self.superuser)?;
        if let ServerUser::Other { uid, gid } = self.server_user {
            // The server's user must reach its data, and nothing else here: the directory can be crossed, not listed.
            fs::set_permissions(self.directory(), fs::Permissions::from_mode(0o711)).map_err(Stop::io("chmod"))?;
            chown(&data, Some(uid), Some(gid)).map_err(Stop::io("chown"))?;
            chown(&password_file, Some(uid), Some(gid)).map_err(Stop::io("chown"))?;
        }
        let mut initdb = self.server_command("initdb");
        initdb.args(["-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8", "--no-locale", "--no-sync"]);
        initdb.arg("--pwfile").arg(&password_file).arg("-D").arg(&data);
        to_its_end(&mut initdb, "initdb")?;
        fs::remove_file(&password_file).map_err(Stop::io("pwfile"))
    }

    fn start_server(&mut self) -> Result<(), Stop> {
        // Between finding a free port and using it somebody else may take it: try again then.
        let mut last = Ok(());
        for _ in 0..3 {
            self.port = free_port()?;
            let options = format!(
                "-c listen_addresses=127.0.0.1 -c port={} -c unix_socket_directories= -c fsync=off -c max_connections=60",
                self.port
            );
            let mut start = self.server_command("pg_ctl");
            start.args(["start", "-w", "-t", "60", "-s", "-o", &options, "-D"]).arg(self.data());
            start.arg("-l").arg(self.data().join("server.log"));
            last = to_its_end(&mut start, "starting PostgreSQL");
            if last.is_ok() {
                return Ok(());
            }
        }
        let log = fs::read_to_string(self.data().join("server.log")).unwrap_or_default();
        last.map_err(|stop| Stop::CannotRun(format!("{stop}\n{log}")))
    }

    async fn create_database(&self) -> Result<(), Stop> {
        // The passwords are letters and digits: no quoting to get wrong.
        let roles = format!(
            "CREATE ROLE shop_owner LOGIN PASSWORD '{}'; CREATE ROLE shop_app LOGIN NOSUPERUSER NOBYPASSRLS PASSWORD '{}'",
            self.owner, self.app
        );
        for sql in [roles.as_str(), "CREATE DATABASE shop OWNER shop_owner"] {
            let mut psql = psql(self.port, "postgres", &self.superuser);
            psql.env("PGDATABASE", "postgres").args(["-q", "-c", sql]);
            expect_ok(&mut psql, "creating the database").await?;
        }
        Ok(())
    }

    fn data(&self) -> PathBuf {
        self.directory().join("data")
    }

    /// A program of the PostgreSQL installation, run as the server's user.
    ///
    /// It gets a process group of its own, for Ctrl-C is for us alone, and is waited for without a break: initdb and
    /// pg_ctl have children, which would outlive them if a signal to us ended only their parents.
    fn server_command(&self, program: &str) -> std::process::Command {
        let mut command = std::process::Command::new(self.binaries.join(program));
        command.current_dir("/").env("LC_ALL", "C").stdin(Stdio::null()).process_group(0);
        if let ServerUser::Other { uid, gid } = self.server_user {
            command.uid(uid).gid(gid);
        }
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Immediate: the data is thrown away with the directory. A server that never started has no pid file.
        if self.data().join("postmaster.pid").exists() {
            let mut stop = self.server_command("pg_ctl");
            stop.args(["stop", "-m", "immediate", "-w", "-s", "-D"]).arg(self.data());
            if let Err(error) = to_its_end(&mut stop, "stopping PostgreSQL") {
                super::complain(&error.to_string());
            }
        }
    }
}

impl ServerUser {
    async fn find() -> Result<ServerUser, Stop> {
        let ours = fs::metadata("/proc/self").map(|process| process.uid());
        if !matches!(ours, Ok(0)) {
            return Ok(ServerUser::Ours);
        }
        let uid = number(Command::new("id").args(["-u", "postgres"])).await;
        let gid = number(Command::new("id").args(["-g", "postgres"])).await;
        match (uid, gid) {
            (Some(uid), Some(gid)) => Ok(ServerUser::Other { uid, gid }),
            _ => Err(Stop::CannotRun("PostgreSQL does not run as root, and there is no user `postgres` to run it as".into())),
        }
    }
}

/// psql against a local port, untouched by the user's own psqlrc and environment.
pub(super) fn psql(port: u16, user: &str, password: &str) -> Command {
    let mut command = Command::new("psql");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
        command.env_remove(name);
    }
    command.envs(BTreeMap::from([
        ("PGHOST", "127.0.0.1"),
        ("PGDATABASE", "shop"),
        ("PGCONNECT_TIMEOUT", "10"),
        ("LC_ALL", "C.UTF-8"),
    ]));
    command.env("PGPORT", port.to_string()).env("PGUSER", user).env("PGPASSWORD", password);
    command.args(["-X", "-P", "pager=off"]).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs a program to its end and takes what it wrote, standard output first.
pub(super) async fn output(command: &mut Command) -> Result<Said, Stop> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let ended = match tokio::time::timeout(Duration::from_secs(90), command.output()).await {
        Ok(ended) => ended.map_err(Stop::io(&name))?,
        Err(_) => return Err(Stop::CannotRun(format!("{name} did not end within 90 seconds"))),
    };
    let text = String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned();
    Ok(Said { text, ok: ended.status.success() })
}

/// Waits in place for at most some seconds' work; signals are taken afterwards.
fn to_its_end(command: &mut std::process::Command, what: &str) -> Result<(), Stop> {
    let ended = command.output().map_err(Stop::io(what))?;
    if ended.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned();
    Err(Stop::CannotRun(format!("{what} failed: {}", text.trim())))
}

async fn expect_ok(command: &mut Command, what: &str) -> Result<(), Stop> {
    let said = output(command).await?;
    if said.ok { Ok(()) } else { Err(Stop::CannotRun(format!("{what} failed: {}", said.text.trim()))) }
}

async fn number(command: &mut Command) -> Option<u32> {
    output(command).await.ok().filter(|said| said.ok)?.text.trim().parse().ok()
}

/// The newest installation: Debian keeps initdb out of PATH, one directory a version.
fn find_binaries() -> Result<PathBuf, Stop> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| bin.join("initdb").exists())
        .max_by_key(|(version, _)| *version);
    let in_path = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).find(|bin| bin.join("initdb").exists())
    };
    newest.map(|(_, bin)| bin).or_else(in_path).ok_or_else(|| {
        Stop::CannotRun(
            "PostgreSQL is not installed: no initdb in /usr/lib/postgresql/*/bin or PATH (`make demo` installs it)".into(),
        )
    })
}

/// A port that nobody listens on at this moment.
pub(super) fn free_port() -> Result<u16, Stop> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(Stop::io("no free port"))?;
    Ok(listener.local_addr().map_err(Stop::io("no free port"))?.port())
}

/// Writes a file that only we can read.
pub(super) fn write_private(path: &Path, text: &str) -> Result<(), Stop> {
    let opened = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    opened.and_then(|mut file| file.write_all(text.as_bytes())).map_err(Stop::io(&path.display().to_string()))
}

fn random_password() -> String {
    rand::rng().sample_iter(Alphanumeric).take(24).map(char::from).collect()
}
