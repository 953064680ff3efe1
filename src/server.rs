//! The composition root: what all sessions share, the accept loop, limits, signals, shutdown.

pub mod epochs;
pub mod facts;
mod follow;
pub mod rehearsal;
mod usual;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rand::RngCore;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admin::{self, Admin, Health};
use crate::audit::writer::Format;
use crate::audit::{self, Durability, Log};
use crate::backend::ConnectError;
use crate::backend::pool::{Pool, PoolLimits, share_of};
use crate::cache::follow::Staleness;
use crate::cache::upkeep::Tables;
use crate::cache::{Cache, DatabaseCache};
use crate::config::{self, Config, Level, ServerTls, Upstream, UserAccess};
use crate::error::{SqlError, sqlstate};
use crate::event::{Event, Events, Observe, Rejection, Reload};
use crate::metrics::Metrics;
use crate::plan::TenantType;
use crate::policy::lock::LockKey;
use crate::policy::model::PolicyModel;
use crate::principal::{Tenant, TenantSet};
use crate::session::shared::{Database, Drain, Logins, Places, Reports, Review, Shared};
use crate::wire::backend as reply;
use crate::worker::{self, Workers};
use epochs::{Keeper, Nudge};

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen on {address}: {error}")]
    Listen { address: SocketAddr, error: io::Error },
    #[error("TLS certificate or key: {0}")]
    Tls(String),
    #[error("database \"{database}\": {error}")]
    Upstream { database: String, error: Box<ConnectError> },
    #[error("{0}")]
    Lock(String),
    #[error("cannot start a thread: {0}")]
    Threads(io::Error),
    #[error("signals: {0}")]
    Signals(io::Error),
}

/// What happens on SIGHUP besides reading the TLS certificate again: policies are reloaded.
pub type OnHangup = Arc<dyn Fn() + Send + Sync>;

/// A server that is ready to accept.
pub struct Server {
    config: Arc<Config>,
    shared: Arc<Shared>,
    drain: watch::Sender<Drain>,
    listener: TcpListener,
    workers: Workers,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("listener", &self.listener).finish_non_exhaustive()
    }
}

/// Starts everything that `proxy.toml` names, and serves until a signal ends it.
///
/// # Errors
/// Why it could not start.
pub async fn run(config: Config, policies: PolicyModel) -> Result<(), String> {
    let metrics = Arc::new(Metrics::new().map_err(|e| format!("metrics: {e}"))?);
    let health = Arc::new(Health::default());
    let mut observers: Vec<Arc<dyn Observe>> = vec![metrics.clone(), health.clone()];
    let log = open_log(&config, &Events::new(observers.clone()))?;
    if let Some(log) = &log {
        observers.push(log.clone());
    }
    let events = Events::new(observers);
    let cache = open_cache(&config, &events)?;
    let nudge = Nudge::default();
    let config = Arc::new(config);
    let mut keepers = vec![];
    let mut gates: HashMap<String, Arc<dyn Review>> = HashMap::new();
    let mut tables: HashMap<String, Arc<dyn Tables>> = HashMap::new();
    for database in &config.databases {
        let mut keeper = Keeper::start(&config, database, &policies, &events).await?;
        if cache.is_some() {
            keeper.check_direct().await?;
        }
        keepers.push(keeper);
    }
    for (database, keeper) in config.databases.iter().zip(&keepers) {
        let is_same = |other: &config::Database| other.upstream.database == database.upstream.database;
        let same = config.databases.iter().zip(&keepers).filter(|(other, _)| is_same(other));
        let kept = keeper.kept(nudge.clone(), same.map(|(_, keeper)| keeper.freshness()).collect());
        events.emit(Event::PoliciesReloaded(Reload::Done(kept.gate.epoch())));
        let kept = Arc::new(kept);
        tables.insert(keeper.database().to_owned(), kept.clone());
        gates.insert(keeper.database().to_owned(), kept);
    }
    let caches = cache.as_ref().map(|cache| caches(&config, cache, &tables)).unwrap_or_default();
    let tending = tokio::spawn(tend_values(log.clone()));
    let keeping = tokio::spawn(epochs::keep(keepers, config.clone(), nudge.clone(), events.clone(), log.clone()));
    if let Some(address) = config.server.admin_listen {
        let listener = TcpListener::bind(address).await.map_err(|e| format!("cannot listen on {address} (admin_listen): {e}"))?;
        tracing::info!("listening on {address} for /health{}", if config.metrics { " and /metrics" } else { "" });
        let metrics = config.metrics.then_some(metrics);
        let cache = cache.map(|cache| admin::cache::Kept { cache, tables: Arc::new(tables), log: log.clone() });
        tokio::spawn(admin::serve(listener, Admin { health, metrics, cache }, std::future::pending()));
    }
    let reload: OnHangup = Arc::new(move || nudge.nudge());
    let served =
        serve((*config).clone(), gates, events, reload, Parts { caches, log: log.clone() }).await.map_err(|e| e.to_string());
    keeping.abort();
    tending.abort();
    let Some(log) = log else { return served };
    // What it says last is that it ended well.
    log.end();
    if log.has_failed() { Err("the audit log cannot be written".to_owned()) } else { served }
}

fn open_log(config: &Config, events: &Events) -> Result<Option<Arc<Log>>, String> {
    let Some(audit) = &config.audit else { return Ok(None) };
    let durability = if audit.is_sync { Durability::Sync } else { Durability::Interval(audit.interval) };
    let settings = audit::Settings {
        durability,
        on_failure: audit.on_failure,
        format: Format::default(),
        retention: audit.retention,
        value_keys: Some(&audit.value_keys),
    };
    let key = audit.key.as_ref().map(String::as_bytes);
    let opened = Log::open(&audit.path, key, settings, events.clone());
    let log = opened.map_err(|error| format!("the audit log in {}: {error}", audit.path.display()))?;
    tracing::info!("the audit log is {}", audit.path.display());
    Ok(Some(Arc::new(log)))
}

/// Looks after the keys of values in the audit log: what an administrator erases is forgotten here in some seconds.
async fn tend_values(log: Option<Arc<Log>>) {
    const PAUSE: Duration = Duration::from_secs(5);
    let Some(log) = log else { return };
    loop {
        let own = log.clone();
        if tokio::task::spawn_blocking(move || own.tend_values()).await.is_err() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn open_cache(config: &Config, events: &Events) -> Result<Option<Arc<Cache>>, String> {
    let Some(bytes) = config.cache else { return Ok(None) };
    let cache = Cache::new(bytes).lasting(config.cache_ttl);
    Ok(Some(Arc::new(match &config.redis {
        Some(redis) => cache.with_redis(redis, events.clone()).map_err(|error| format!("[cache] redis: {error}"))?,
        None => cache,
    })))
}

/// What a server may have besides.
#[derive(Debug, Default)]
pub struct Parts {
    pub caches: Caches,
    /// The audit log.
    pub log: Option<Arc<Log>>,
}

/// The result cache's part of each database, by name.
pub type Caches = HashMap<String, DatabaseCache>;

/// Where others write too, what they write is followed from now on.
fn caches(config: &Config, cache: &Arc<Cache>, tables: &HashMap<String, Arc<dyn Tables>>) -> Caches {
    // By the database's name alone: one server can have many addresses. Two databases of one name end each other's answers.
    let place = |d: &config::Database| d.upstream.database.clone();
    let mut caches = Caches::new();
    for (number, database) in config.databases.iter().enumerate() {
        let server = config.databases.iter().position(|d| place(d) == place(database)).unwrap_or(number);
        let mut cache = cache.of_database(&database.name, number as u32, server as u32);
        if let (Some(upstream), Some(tables)) = (&database.follow, tables.get(&database.name)) {
            let bound = Arc::new(Staleness::new(config.cache_within));
            cache = cache.bounded(bound.clone());
            let name = database.name.clone();
            let followed = follow::Followed { upstream: upstream.clone(), own: database.upstream.clone() };
            tokio::spawn(follow::follow(name, followed, cache.clone(), bound, tables.clone()));
        }
        caches.insert(database.name.clone(), cache);
    }
    caches
}

/// One line for whoever has started it.
fn tell_start(config: &Config, address: SocketAddr) {
    let names: Vec<&str> = config.databases.iter().map(|d| d.name.as_str()).collect();
    tracing::info!(
        level = config.level.as_str(),
        users = config.users.len(),
        tls = config.server.tls.is_some(),
        policies = %config.server.policies.display(),
        "listening on {address} for {}",
        names.join(", ")
    );
}

/// Every configured tenant must be a value of the columns that tell tenants apart: a typing mistake is told at start.
pub fn check_tenants(config: &Config, database: &str, types: &[TenantType]) -> Result<(), String> {
    for user in &config.users {
        if !user.databases.is_empty() && !user.databases.iter().any(|name| name == database) {
            continue;
        }
        let tenants: Vec<&Tenant> = match &user.access {
            UserAccess::Fixed(tenant) => vec![tenant],
            UserAccess::Shared { tenants: TenantSet::Only(set), setting: _, token_key: _ } => set.iter().collect(),
            UserAccess::Shared { tenants: TenantSet::Any, setting: _, token_key: _ }
            | UserAccess::Unrestricted { upstream: _ } => vec![],
        };
        for tenant in tenants {
            if let Some(type_) = types.iter().find(|t| !crate::plan::tenant::is_canonical(**t, tenant)) {
                return Err(format!(
                    "user \"{}\": tenant \"{}\" is not a value of type {} as PostgreSQL prints it, and a table of database \"{}\" has a tenant column of that type",
                    user.name,
                    tenant.0,
                    type_.name(),
                    database
                ));
            }
        }
    }
    Ok(())
}

/// Serves until a signal ends it: SIGTERM and SIGINT drain, SIGHUP reloads.
///
/// # Errors
/// It cannot start.
pub async fn serve(
    config: Config,
    gates: HashMap<String, Arc<dyn Review>>,
    events: Events,
    reload: OnHangup,
    parts: Parts,
) -> Result<(), ServeError> {
    let workers = Workers::start(worker::count()).map_err(ServeError::Threads)?;
    let server = Server::bind(config, gates, events, workers, parts).await?;
    let stop = signals(server.shared.clone(), server.config.clone(), reload)?;
    let log = server.shared.log.clone();
    let unrecorded = async {
        match &log {
            Some(log) => log.must_end().await,
            None => std::future::pending().await,
        }
    };
    let stop = async {
        tokio::select! {
            () = stop => {}
            () = unrecorded => tracing::error!("the audit log cannot be written: [audit] on_failure = \"shutdown\""),
        }
    };
    let logins = server.shared.logins.clone();
    let place = server.config.audit.as_ref().map(|audit| audit.path.join("usual"));
    // Before the first session learns anew.
    place.iter().for_each(|place| usual::read(place, &logins));
    let keeping = place.clone().map(|place| tokio::spawn(usual::keep(place, logins.clone())));
    server.run(stop).await;
    if let (Some(place), Some(keeping)) = (place, keeping) {
        keeping.abort();
        usual::write(&place, &logins);
    }
    Ok(())
}

impl Server {
    /// Binds the port and makes the pools; connects to nothing. `gates`: by database; a database without one serves
    /// unrestricted users only.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn bind(
        config: Config,
        gates: HashMap<String, Arc<dyn Review>>,
        events: Events,
        workers: Workers,
        parts: Parts,
    ) -> Result<Self, ServeError> {
        let config = Arc::new(config);
        let (drain, watch) = watch::channel(Drain::No);
        let shared = Arc::new(share(&config, gates, watch, events, parts)?);
        let address = config.server.listen;
        let listener = TcpListener::bind(address).await.map_err(|error| ServeError::Listen { address, error })?;
        tell_start(&config, listener.local_addr().unwrap_or(address));
        shared.events.emit(Event::ListenerOpened);
        Ok(Server { config, shared, drain, listener, workers })
    }

    /// Where clients connect: tells the port where 0 was configured.
    ///
    /// # Errors
    /// The socket's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// What sessions share: pools for metrics, drain state for health.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Accepts clients until `stop` ends, then drains: idle sessions are told goodbye at once, transactions may end until
    /// the drain timeout.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let mut sessions = JoinSet::new();
        let renewing: JoinSet<()> = self.shared.databases.values().cloned().map(renew).collect();
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                Some(_) = sessions.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((socket, peer)) => match socket.into_std() {
                        Ok(socket) => self.admit(socket, peer, &mut sessions),
                        Err(error) => tracing::warn!(%peer, %error, "a client's socket cannot be used"),
                    },
                    Err(error) => {
                        // Out of file descriptors, most likely: others must end first.
                        tracing::warn!(%error, "cannot accept");
                        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    }
                },
            }
        }
        drop(renewing);
        self.drain(sessions).await;
    }

    fn admit(&self, socket: std::net::TcpStream, peer: SocketAddr, sessions: &mut JoinSet<()>) {
        if sessions.len() >= self.config.limits.max_clients {
            tracing::warn!(%peer, "too many clients");
            self.shared.events.emit(Event::ConnectionRejected(Rejection::Limit));
            self.workers.spawn(sessions, async {
                if let Ok(socket) = TcpStream::from_std(socket) {
                    turn_away(socket).await;
                }
            });
            return;
        }
        let shared = self.shared.clone();
        self.workers.spawn(sessions, async move {
            let _counted = Counted::new(shared.events.clone());
            match TcpStream::from_std(socket) {
                Ok(socket) => crate::session::serve(socket, shared).await,
                Err(error) => tracing::warn!(%peer, %error, "a client's socket cannot be used"),
            }
        });
    }

    async fn drain(self, mut sessions: JoinSet<()>) {
        let Server { config, shared, drain, listener, workers: _workers } = self;
        drop(listener);
        tracing::info!(sessions = sessions.len(), "draining");
        shared.events.emit(Event::DrainStarted);
        drain.send_replace(Drain::Gently);
        let all_ended = async |sessions: &mut JoinSet<()>| while sessions.join_next().await.is_some() {};
        if tokio::time::timeout(config.limits.drain_timeout, all_ended(&mut sessions)).await.is_err() {
            tracing::warn!(sessions = sessions.len(), "drain timeout: ending the others");
            drain.send_replace(Drain::Now);
            // They only have to write an error; those whose clients do not read are cut off.
            if tokio::time::timeout(std::time::Duration::from_secs(2), all_ended(&mut sessions)).await.is_err() {
                sessions.shutdown().await;
            }
        }
        for database in shared.databases.values() {
            database.pool.close();
            database.unrestricted.values().for_each(Pool::close);
        }
        let goodbyes = async {
            for database in shared.databases.values() {
                database.pool.drained().await;
            }
        };
        // The servers would only log lost clients.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), goodbyes).await;
    }
}

/// Makes tenants' connections new whenever new ones would start with other settings. Unrestricted users dial their own.
async fn renew(database: Arc<Database>) {
    let mut renewals = database.gate.renewals();
    while renewals.changed().await.is_ok() {
        tracing::info!(database = %database.name, "settings of the role or the database changed: connections are made anew");
        database.reports.forget();
        database.pool.renew();
        // After the pool: what is kept from now on comes over a connection that starts with the new ones.
        if let Some(cache) = &database.cache {
            cache.forget();
        }
    }
}

/// One accepted connection, as events count it: closed once, whatever becomes of its task.
struct Counted(Events);

impl Counted {
    fn new(events: Events) -> Self {
        events.emit(Event::ConnectionAccepted);
        Counted(events)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.emit(Event::ConnectionClosed);
    }
}

/// Too many clients: told so as PostgreSQL does, without reading anything.
async fn turn_away(socket: TcpStream) {
    let mut client = crate::session::socket::Client::new(socket);
    reply::put_error(&mut client.outbox, &SqlError::fatal(sqlstate::TOO_MANY_CONNECTIONS, "sorry, too many clients already"));
    let _ = tokio::time::timeout(std::time::Duration::from_secs(1), client.close()).await;
}

fn share(
    config: &Config,
    mut gates: HashMap<String, Arc<dyn Review>>,
    drain: watch::Receiver<Drain>,
    events: Events,
    parts: Parts,
) -> Result<Shared, ServeError> {
    let mut databases = HashMap::new();
    for database in &config.databases {
        let gate = gates.remove(&database.name).unwrap_or_else(|| Arc::new(crate::session::shared::Closed));
        let cache = parts.caches.get(&database.name);
        databases.insert(Box::from(database.name.as_str()), Arc::new(open(config, database, gate, cache, &events)?));
    }
    let logins = Arc::new(Logins::new(config.users.iter().cloned()));
    let all = logins.clone();
    std::thread::Builder::new().name("verifiers".to_owned()).spawn(move || all.derive()).map_err(ServeError::Threads)?;
    let tls = config.server.tls.as_ref().map(load_tls).transpose()?;
    let mut mock_secret = [0; 32];
    rand::rng().fill_bytes(&mut mock_secret);
    Ok(Shared {
        limits: config.limits.clone(),
        logins,
        databases,
        cancels: Arc::default(),
        tls: ArcSwapOption::new(tls),
        tls_required: config.server.tls.as_ref().is_some_and(|tls| tls.required),
        drain,
        log: parts.log,
        events,
        mock_secret,
    })
}

fn open(
    config: &Config,
    database: &config::Database,
    gate: Arc<dyn Review>,
    cache: Option<&DatabaseCache>,
    events: &Events,
) -> Result<Database, ServeError> {
    let limits = PoolLimits {
        size: database.pool_size,
        share: database.tenant_pool_size.unwrap_or_else(|| share_of(database.pool_size)),
        least: database.min_pool_size,
        wait: config.limits.pool_wait,
        idle: config.limits.server_idle_timeout,
        lifetime: config.limits.server_lifetime,
    };
    let unusable = |error| ServeError::Upstream { database: database.name.clone(), error: Box::new(error) };
    let pool = |upstream: &Upstream| Pool::new(upstream.clone(), limits, events.clone()).map_err(unusable);
    let lock = match config.level {
        Level::Paranoid => Some(LockKey::of(database).map_err(ServeError::Lock)?),
        Level::Strict | Level::Standard => None,
    };
    let mut unrestricted = HashMap::new();
    for user in &config.users {
        match &user.access {
            UserAccess::Unrestricted { upstream } => {
                unrestricted.insert(user.name.as_str().into(), pool(upstream.as_ref().unwrap_or(&database.upstream))?);
            }
            UserAccess::Fixed(_) | UserAccess::Shared { .. } => {}
        }
    }
    Ok(Database {
        name: database.name.as_str().into(),
        gate,
        pool: match &lock {
            Some(_) => Pool::locked(database.upstream.clone(), limits, events.clone()).map_err(unusable)?,
            None => pool(&database.upstream)?,
        },
        lock,
        role: database.upstream.user.as_str().into(),
        unrestricted,
        places: Places::new(database.max_clients),
        reports: Reports::default(),
        cache: cache.cloned(),
    })
}

/// Reads certificate and key.
fn load_tls(tls: &ServerTls) -> Result<Arc<ServerConfig>, ServeError> {
    let problem = |path: &Path, error: &dyn fmt::Display| ServeError::Tls(format!("{}: {error}", path.display()));
    let chain = CertificateDer::pem_file_iter(&tls.certificate)
        .and_then(Iterator::collect)
        .map_err(|error| problem(&tls.certificate, &error))?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|error| problem(&tls.key, &error))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| problem(&tls.certificate, &error))?;
    // Without it rustls remembers 256 sessions, and who comes back later pays for a whole handshake.
    config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(|error| ServeError::Tls(error.to_string()))?;
    // libpq can deadlock on records above 8 KiB when it sends and receives at once.
    config.max_fragment_size = Some(8 << 10);
    Ok(Arc::new(config))
}

/// Ends when SIGTERM or SIGINT comes; SIGHUP reloads meanwhile.
fn signals(shared: Arc<Shared>, config: Arc<Config>, reload: OnHangup) -> Result<impl Future<Output = ()>, ServeError> {
    let listen = |kind| signal(kind).map_err(ServeError::Signals);
    let (mut term, mut int, mut hup) =
        (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?, listen(SignalKind::hangup())?);
    // A file that may not grow (RLIMIT_FSIZE) is an error of the write, not the end of the process: as PostgreSQL has it.
    const SIGXFSZ: i32 = 25;
    let grown = listen(SignalKind::from_raw(SIGXFSZ))?;
    Ok(async move {
        let _grown = grown;
        loop {
            tokio::select! {
                _ = term.recv() => return,
                _ = int.recv() => return,
                _ = hup.recv() => {
                    reload_tls(&shared, &config);
                    reload();
                }
            }
        }
    })
}

/// A certificate that cannot be read leaves the old one in use.
fn reload_tls(shared: &Shared, config: &Config) {
    let Some(tls) = &config.server.tls else { return };
    match load_tls(tls) {
        Ok(loaded) => {
            shared.tls.store(Some(loaded));
            tracing::info!("TLS certificate reloaded");
        }
        Err(error) => tracing::error!(%error, "TLS certificate not reloaded; the old one stays in use"),
    }
}
