//! A throwaway Redis in a temporary directory, with a password and without any file.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::cluster::free_port;

const PASSWORD: &str = "redis secret";

/// A server that runs, or that has been killed and may be booted again, empty.
pub struct Server {
    directory: TempDir,
    pub port: u16,
    process: Option<Child>,
}

impl Server {
    /// One that does not run yet.
    pub fn new() -> Server {
        let directory = tempfile::Builder::new().prefix("bulkhead-redis").tempdir().expect("temporary directory");
        Server { directory, port: free_port(), process: None }
    }

    /// Starts it under a shell that kills it when the pipe to this process closes.
    pub fn boot(&mut self) {
        let script = "redis-server --port \"$0\" --bind 127.0.0.1 --save '' --requirepass \"$1\" >redis.log 2>&1 </dev/null & \
                      echo $! >redis.pid; read -r _; kill -KILL $! 2>/dev/null; wait $!";
        let process = Command::new("/bin/sh")
            .args(["-c", script, &self.port.to_string(), PASSWORD])
            .current_dir(self.directory.path())
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("start redis-server");
        self.process = Some(process);
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.try_connect().is_err() {
            assert!(Instant::now() < deadline, "redis-server (Debian package redis-server) did not start:\n{}", self.log());
            #[expect(clippy::disallowed_methods, reason = "polls a port, with a deadline")]
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it at once; what it had is lost.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.stdin.take());
            let _ = process.wait();
        }
    }

    /// `STOP`, and `CONT` again.
    pub fn signal(&self, signal: &str) {
        let pid = fs::read_to_string(self.directory.path().join("redis.pid")).expect("a running server");
        let sent = Command::new("kill").args([&format!("-{signal}"), pid.trim()]).status().expect("kill runs");
        assert!(sent.success(), "{signal}");
    }

    pub fn url(&self) -> String {
        self.url_at(self.port)
    }

    /// As if it listened on another port.
    pub fn url_at(&self, port: u16) -> String {
        format!("redis://:{}@127.0.0.1:{port}/0", PASSWORD.replace(' ', "%20"))
    }

    /// From now on it has what that one has, and hears what is written there.
    pub fn replicate(&self, primary: &Server) {
        let mut here = self.connect();
        redis::cmd("CONFIG").arg("SET").arg("masterauth").arg(PASSWORD).query::<()>(&mut here).expect("masterauth");
        redis::cmd("REPLICAOF").arg("127.0.0.1").arg(primary.port).query::<()>(&mut here).expect("a replica");
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut is_one = || -> bool {
            let told = redis::cmd("INFO").arg("replication").query::<String>(&mut here);
            told.is_ok_and(|told| told.contains("master_link_status:up"))
        };
        while !is_one() {
            assert!(Instant::now() < deadline, "no replica:\n{}", self.log());
            #[expect(clippy::disallowed_methods, reason = "polls a server, with a deadline")]
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// It hears nothing any more, and takes writes.
    pub fn promote(&self) {
        redis::cmd("REPLICAOF").arg("NO").arg("ONE").query::<()>(&mut self.connect()).expect("a primary");
    }

    fn try_connect(&self) -> redis::RedisResult<redis::Connection> {
        redis::Client::open(self.url())?.get_connection_with_timeout(Duration::from_secs(5))
    }

    pub fn connect(&self) -> redis::Connection {
        self.try_connect().expect("a connection to Redis")
    }

    /// All of Bulkhead's.
    pub fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = redis::cmd("KEYS").arg("bulkhead:*").query(&mut self.connect()).expect("keys");
        keys.sort();
        keys
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.directory.path().join("redis.log")).unwrap_or_default()).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
