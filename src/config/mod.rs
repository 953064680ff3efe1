//! proxy.toml, validated. [`load`] reads the file, the environment and flags (file < environment < flag).

pub mod document;
mod entries;
mod load;
pub mod problem;
pub mod redis;
pub mod settings;
pub mod upstream;

pub use entries::{DATABASE_KEYS, USER_KEYS};
pub use load::{Environment, ROOT_KEYS, load};
pub use problem::{Problem, Problems};

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::principal::{Tenant, TenantSet};

/// A validated configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub server: Server,
    pub level: Level,
    pub databases: Vec<Database>,
    pub users: Vec<User>,
    pub limits: Limits,
    pub log: Log,
    /// `[metrics] enabled`
    pub metrics: bool,
    /// `[cache]`: bytes that the result cache may take; `None`: there is none.
    pub cache: Option<usize>,
    /// How long an answer may be given.
    pub cache_ttl: Option<Duration>,
    /// How old an answer may be where others write too.
    pub cache_within: Duration,
    /// Its second tier. INVARIANT: only where there is a first.
    pub redis: Option<Redis>,
    /// `[audit]`: the audit log, if there is one.
    pub audit: Option<Audit>,
}

/// How the audit log is kept.
#[derive(Clone)]
pub struct Audit {
    pub path: PathBuf,
    /// PEM. INVARIANT: never printed. `None`: one that the log makes itself.
    pub key: Option<String>,
    pub is_sync: bool,
    /// How long a record may be in memory alone, where it is not.
    pub interval: Duration,
    pub on_failure: OnFailure,
    pub retention: Option<Duration>,
    /// Where the keys of values are that policies want told.
    pub value_keys: PathBuf,
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What becomes of statements while the audit log cannot be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// They are refused (58030).
    #[default]
    FailOperation,
    /// They run, and a gap is recorded.
    Continue,
    /// The proxy ends.
    Shutdown,
}

/// A `redis://` URL, taken apart.
#[derive(Clone, PartialEq, Eq)]
pub struct Redis {
    /// A name or an address.
    pub host: String,
    pub port: u16,
    /// `None`: the default one.
    pub user: Option<String>,
    /// INVARIANT: never printed.
    pub password: Option<String>,
    pub database: i64,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "redis://***@{}:{}/{}", self.host, self.port, self.database)
    }
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// error, warn, info, debug, trace.
    pub level: String,
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Log { level: "info".to_owned(), format: LogFormat::Text }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    /// One object a line.
    Json,
}

/// `[server]`
#[derive(Clone, Debug)]
pub struct Server {
    pub listen: SocketAddr,
    pub admin_listen: Option<SocketAddr>,
    /// Directory; every `*.toml` below it is a policy file.
    pub policies: PathBuf,
    pub tls: Option<ServerTls>,
}

/// TLS to clients; read again on SIGHUP.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// PEM, leaf first.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Refuse clients that do not ask for TLS.
    pub required: bool,
}

/// `[isolation] level`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Standard,
    Strict,
    Paranoid,
}

impl Level {
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Standard => "standard",
            Level::Strict => "strict",
            Level::Paranoid => "paranoid",
        }
    }
}

/// `[[database]]`
#[derive(Clone, Debug)]
pub struct Database {
    /// What clients name.
    pub name: String,
    pub upstream: Upstream,
    /// The most connections to the server for this database.
    pub pool_size: usize,
    /// The most that one tenant has at once.
    pub tenant_pool_size: Option<usize>,
    /// As many are kept open.
    pub min_pool_size: usize,
    /// Clients at once.
    pub max_clients: Option<usize>,
    /// The secret of the second lock (level paranoid, `harden`); where absent, one is derived from the upstream's password.
    pub lock_key: Option<LockSecret>,
    /// A role that may replicate: writes past this process are followed.
    pub follow: Option<Upstream>,
}

/// A secret text. INVARIANT: never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct LockSecret(pub String);

impl std::fmt::Debug for LockSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// A `postgres://` URL, taken apart.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// A name, an address, or the directory of a unix socket (begins with `/`).
    pub host: String,
    pub port: u16,
    pub user: String,
    /// INVARIANT: never printed.
    pub password: Option<String>,
    pub database: String,
    pub ssl_mode: SslMode,
    /// PEM of authorities; the system's where absent.
    pub ssl_root_cert: Option<PathBuf>,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "postgres://{}:***@{}:{}/{}?sslmode={:?}", self.user, self.host, self.port, self.database, self.ssl_mode)
    }
}

/// libpq's sslmode, without the modes that fall back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SslMode {
    Disable,
    Require,
    VerifyCa,
    VerifyFull,
}

/// `[[user]]`
#[derive(Clone, Debug)]
pub struct User {
    pub name: String,
    pub secret: Secret,
    /// Bulkhead's own roles.
    pub roles: BTreeSet<String>,
    pub access: UserAccess,
    /// Databases that the user may name; empty: all.
    pub databases: Vec<String>,
    /// Clients at once.
    pub max_clients: Option<usize>,
    /// What it may say that it reads for.
    pub purposes: BTreeSet<String>,
    pub glass: BreakGlass,
}

/// `break_glass` of `[[user]]`: what it may take on for a while.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BreakGlass {
    /// None: nothing.
    pub roles: BTreeSet<String>,
    pub minutes: u64,
}

/// How a client proves that it is the user.
#[derive(Clone)]
pub enum Secret {
    Password(String),
    /// A verifier as PostgreSQL stores it: `SCRAM-SHA-256$iterations:salt$stored:server`.
    Scram(String),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

#[derive(Clone, Debug)]
pub enum UserAccess {
    Fixed(Tenant),
    Shared {
        tenants: TenantSet,
        /// A setting that the application already uses, read as `bulkhead.tenant`.
        setting: Option<String>,
        /// Only values signed with it are taken (`value.hex-hmac-sha256`).
        token_key: Option<Vec<u8>>,
    },
    /// `upstream`: its own role.
    Unrestricted {
        upstream: Option<Upstream>,
    },
}

/// Caps and deadlines; each has a default that a production system can keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Clients at once.
    pub max_clients: usize,
    /// From accept to authenticated.
    pub startup_timeout: Duration,
    /// How long a client waits for a server connection.
    pub pool_wait: Duration,
    /// Largest message of a client, bytes.
    pub max_message: usize,
    /// Largest text of a statement, bytes.
    pub max_statement: usize,
    /// How long a drain waits for transactions to end.
    pub drain_timeout: Duration,
    /// How long a tenant's statement may run.
    pub statement_timeout: Option<Duration>,
    /// How long a tenant's client may do nothing inside a transaction.
    pub idle_in_transaction_timeout: Option<Duration>,
    /// How long a tenant's client may do nothing outside of one.
    pub client_idle_timeout: Option<Duration>,
    /// How long a server connection may be lent to nobody.
    pub server_idle_timeout: Duration,
    /// A server connection that is older is closed when it comes back.
    pub server_lifetime: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_clients: 10_000,
            startup_timeout: Duration::from_secs(15),
            pool_wait: Duration::from_secs(30),
            max_message: 256 << 20,
            max_statement: 4 << 20,
            drain_timeout: Duration::from_secs(30),
            statement_timeout: None,
            idle_in_transaction_timeout: None,
            client_idle_timeout: None,
            server_idle_timeout: Duration::from_secs(600),
            server_lifetime: Duration::from_secs(3600),
        }
    }
}
