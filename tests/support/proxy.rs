//! The proxy under test, as a process of its own.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::cluster::free_port;
use super::wire::{Address, Target};

/// The password of every user that the fixture configures.
pub const PASSWORD: &str = "client secret";

/// A configuration on disk: `proxy.toml` and `policies/`.
pub struct Setup {
    directory: TempDir,
    pub port: u16,
    /// Of `/health` and `/metrics`.
    pub admin_port: u16,
}

fn spawn(setup: &Setup) -> Child {
    let log = fs::File::create(setup.path().join("proxy.log")).expect("log file");
    // The shell ends the proxy when the pipe to this process closes: none is left behind if the test run is killed.
    let script = "\"$0\" serve --config proxy.toml </dev/null & pid=$!; echo $pid >proxy.pid; read -r _; kill -TERM $pid 2>/dev/null; wait $pid";
    Command::new("/bin/sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_bulkhead")])
        .current_dir(setup.path())
        .env("LOG_LEVEL", std::env::var("LOG_LEVEL").unwrap_or_else(|_| "info".into()))
        .stdin(Stdio::piped())
        .stdout(log.try_clone().expect("log file"))
        .stderr(log)
        .spawn()
        .expect("start the proxy")
}

/// One `[[user]]`.
#[derive(Clone, Debug)]
pub struct User<'a> {
    pub name: &'a str,
    /// Lines such as `tenant = "1"`.
    pub access: &'a str,
}

impl Setup {
    /// `databases`: name and upstream URL of each. `policies`: file name and text of each.
    pub fn new(databases: &[(String, String)], users: &[User<'_>], policies: &[(&str, &str)]) -> Setup {
        let directory = tempfile::Builder::new().prefix("bulkhead-proxy").tempdir().expect("temporary directory");
        let (port, admin_port) = (free_port(), free_port());
        let mut text = format!(
            "[server]\nlisten = \"127.0.0.1:{port}\"\nadmin_listen = \"127.0.0.1:{admin_port}\"\npolicies = \"policies\"\n"
        );
        for (name, upstream) in databases {
            let _ = write!(text, "[[database]]\nname = \"{name}\"\nupstream = \"{upstream}\"\npool_size = 4\n");
        }
        for user in users {
            let _ = write!(text, "[[user]]\nname = \"{}\"\npassword = \"{PASSWORD}\"\n{}\n", user.name, user.access);
        }
        fs::write(directory.path().join("proxy.toml"), text).expect("write proxy.toml");
        fs::create_dir(directory.path().join("policies")).expect("policies directory");
        for (name, text) in policies {
            fs::write(directory.path().join("policies").join(name), text).expect("write a policy file");
        }
        Setup { directory, port, admin_port }
    }

    /// Level paranoid, with the second lock in place: by `bulkhead harden` as the owner that each URL names.
    pub fn harden(&self, owners: &[String]) {
        let text = fs::read_to_string(self.config()).expect("read proxy.toml") + "[isolation]\nlevel = \"paranoid\"\n";
        fs::write(self.config(), text).expect("write proxy.toml");
        for url in owners {
            let output = self.run(&["harden", "--apply", "--database", url]);
            assert!(
                output.status.success(),
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn config(&self) -> PathBuf {
        self.directory.path().join("proxy.toml")
    }

    /// Runs a command of `bulkhead` to its end: `run(&["check"])`.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let (command, rest) = arguments.split_first().expect("a command");
        Command::new(env!("CARGO_BIN_EXE_bulkhead"))
            .current_dir(self.directory.path())
            .arg(command)
            .arg("--config")
            .arg(self.config())
            .args(rest)
            .stdin(Stdio::null())
            .output()
            .expect("bulkhead runs")
    }
}

/// `bulkhead serve`. Stopped by SIGTERM when dropped; its log is printed where the test panics.
pub struct Proxy {
    pub setup: Setup,
    process: Child,
}

impl Proxy {
    pub fn start(setup: Setup) -> Proxy {
        let process = spawn(&setup);
        let proxy = Proxy { setup, process };
        proxy.wait_until_it_listens();
        proxy
    }

    /// Ends it in order. Its configuration, and what it has said.
    pub fn stop(mut self) -> (Setup, String) {
        drop(self.process.stdin.take());
        self.process.wait().expect("the shell ends");
        let log = self.log();
        // Of a process that is gone: who starts another waits for its own.
        let _ = fs::remove_file(self.setup.path().join("proxy.pid"));
        let empty = Setup { directory: tempfile::tempdir().expect("temporary directory"), port: 0, admin_port: 0 };
        (std::mem::replace(&mut self.setup, empty), log)
    }

    /// Kills it, with nothing said to anybody, and starts another of the same configuration.
    pub fn kill_and_start(&mut self) {
        let pid = self.pid().expect("it has started").to_string();
        // It may have been killed already.
        let _ = Command::new("kill").args(["-KILL", &pid]).stderr(Stdio::null()).status().expect("kill runs");
        drop(self.process.stdin.take());
        self.process.wait().expect("the shell ends");
        fs::remove_file(self.setup.path().join("proxy.pid")).expect("remove the file");
        self.process = spawn(&self.setup);
        self.wait_until_it_listens();
    }

    fn wait_until_it_listens(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while std::net::TcpStream::connect(("127.0.0.1", self.setup.port)).is_err() {
            assert!(Instant::now() < deadline && self.running(), "the proxy did not start:\n{}", self.log());
            #[expect(clippy::disallowed_methods, reason = "polls a port, with a deadline")]
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Is the process there? True while its pid is not yet known.
    pub fn running(&self) -> bool {
        self.pid().is_none_or(|pid| Path::new(&format!("/proc/{pid}/cwd")).exists())
    }

    pub fn pid(&self) -> Option<u32> {
        fs::read_to_string(self.setup.path().join("proxy.pid")).ok()?.trim().parse().ok()
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.setup.path().join("proxy.log")).unwrap_or_default()).into_owned()
    }

    pub fn target(&self, user: &str, database: &str) -> Target {
        Target {
            address: Address::Tcp(([127, 0, 0, 1], self.setup.port).into()),
            user: user.into(),
            password: Some(PASSWORD.into()),
            database: database.into(),
            options: Vec::new(),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = self.log();
            let tail = log.len().saturating_sub(6000);
            eprintln!("--- the proxy's log ends ---\n{}", log.get(tail..).unwrap_or(&log));
        }
    }
}
