//! Bulkhead itself, as a child that serves the demo's configuration; stopped when dropped.

use std::fmt::Write;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::Stop;
use super::cluster::{Cluster, free_port, write_private};

const POLICIES: &str = include_str!("../../../policies/shop.toml");
const START_LIMIT: Duration = Duration::from_secs(30);

/// The demo's logins. Their password is their name: nothing but this machine's loopback reaches them.
pub(super) const TENANTS: [&str; 3] = ["acme", "globex", "initech"];

/// A running `bulkhead serve`.
pub(super) struct Proxy {
    child: Child,
    pub(super) program: PathBuf,
    pub(super) port: u16,
    pub(super) admin_port: u16,
    pub(super) config: PathBuf,
    log: PathBuf,
}

impl Proxy {
    /// Starts Bulkhead before the cluster, on `wanted_port` or, if that is taken, on a free one.
    pub(super) async fn start(cluster: &Cluster, wanted_port: u16) -> Result<Proxy, Stop> {
        let program = std::env::current_exe().map_err(Stop::io("where is this program"))?;
        let port = port_or_free(wanted_port)?;
        let admin_port = port_or_free(9632)?;
        let config = write_config(cluster, port, admin_port)?;
        let log = cluster.directory().join("bulkhead.log");
        let log_file = File::create(&log).map_err(Stop::io("bulkhead.log"))?;
        let mut serve = Command::new(&program);
        without_overrides(&mut serve).arg("serve").arg("--config").arg(&config).stdin(Stdio::null());
        serve.stdout(log_file.try_clone().map_err(Stop::io("bulkhead.log"))?).stderr(log_file);
        // A group of its own: Ctrl-C is for us, and we stop it in order.
        let child = serve.process_group(0).kill_on_drop(true).spawn().map_err(Stop::io("bulkhead serve"))?;
        let mut proxy = Proxy { child, program, port, admin_port, config, log };
        proxy.wait_until_it_listens().await?;
        Ok(proxy)
    }

    /// A subcommand of the same program on the same configuration.
    pub(super) fn command(&self, name: &str) -> Command {
        let mut command = Command::new(&self.program);
        without_overrides(&mut command).arg(name).arg("--config").arg(&self.config).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Waits for the proxy to end, which it should not do by itself.
    pub(super) async fn ended(&mut self) -> Result<(), Stop> {
        let status = self.child.wait().await.map_err(Stop::io("bulkhead serve"))?;
        Err(self.died(status))
    }

    async fn wait_until_it_listens(&mut self) -> Result<(), Stop> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().map_err(Stop::io("bulkhead serve"))? {
                return Err(self.died(status));
            }
            let attempt = timeout(Duration::from_secs(1), TcpStream::connect(("127.0.0.1", self.port))).await;
            if matches!(attempt, Ok(Ok(_))) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let seconds = START_LIMIT.as_secs();
                return Err(Stop::CannotRun(format!("`bulkhead serve` does not listen after {seconds} s\n{}", self.log_tail())));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn died(&self, status: std::process::ExitStatus) -> Stop {
        Stop::CannotRun(format!("`bulkhead serve` ended ({status})\n{}", self.log_tail()))
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

/// The child is told everything by its file: settings in the user's environment would win over it.
fn without_overrides(command: &mut Command) -> &mut Command {
    command.env_clear();
    for name in ["PATH", "HOME", "TMPDIR", "LANG", "LOG_LEVEL", "RUST_BACKTRACE"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

fn port_or_free(wanted: u16) -> Result<u16, Stop> {
    if TcpListener::bind(("127.0.0.1", wanted)).is_ok() { Ok(wanted) } else { free_port() }
}

fn write_config(cluster: &Cluster, port: u16, admin_port: u16) -> Result<PathBuf, Stop> {
    let policies = cluster.directory().join("policies");
    fs::create_dir(&policies).map_err(Stop::io("policies"))?;
    fs::write(policies.join("shop.toml"), POLICIES).map_err(Stop::io("policies/shop.toml"))?;
    let upstream =
        |role: &str, password: &str| format!("postgres://{role}:{password}@127.0.0.1:{}/shop?sslmode=disable", cluster.port);

    let mut text = format!(
        "[server]\nlisten = \"127.0.0.1:{port}\"\nadmin_listen = \"127.0.0.1:{admin_port}\"\npolicies = {}\n\n\
         [[database]]\nname = \"shop\"\nupstream = \"{}\"\npool_size = 10\n",
        toml::Value::String(policies.display().to_string()),
        upstream("shop_app", &cluster.app),
    );
    let mut user = |name: &str, rest: &str| {
        // Writing to a String does not fail.
        let _ = write!(text, "\n[[user]]\nname = \"{name}\"\npassword = \"{name}\"\n{rest}\n");
    };
    for tenant in TENANTS {
        user(tenant, &format!("tenant = \"{tenant}\"\nroles = [\"app\"]"));
    }
    user("acme_support", "tenant = \"acme\"\nroles = [\"support\"]");
    user("web", "tenants = [\"acme\", \"globex\", \"initech\"]\nroles = [\"app\"]");
    user("owner", &format!("unrestricted = true\nupstream = \"{}\"", upstream("shop_owner", &cluster.owner)));
    let path = cluster.directory().join("proxy.toml");
    write_private(&path, &text)?;
    Ok(path)
}
