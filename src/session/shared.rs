//! What all sessions share: configuration, pools, gates, cancel keys.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use smallvec::SmallVec;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::cancel::Registry;
use super::settings::Settings;
use super::usual::Usual;
use crate::audit::Log;
use crate::backend::pool::Pool;
use crate::cache::DatabaseCache;
use crate::config::{Limits, Secret, User, UserAccess};
use crate::event::Events;
use crate::finding::Denial;
use crate::gate::{Approved, Context};
use crate::id::PolicyEpoch;
use crate::policy::limits::{Change, RowLimit};
use crate::policy::lock::LockKey;
use crate::rules::Modes;
use crate::rules::lately::{Attempts, Lately};
use crate::rules::learned::Learned;
use crate::rules::threat::canary_row::CanaryRows;
use crate::wire::scram::Verifier;

/// Who decides about statements: the gate, or in tests something that needs no policies.
pub trait Review: Send + Sync + fmt::Debug {
    /// See [`Gate::review`](crate::gate::Gate::review).
    ///
    /// # Errors
    /// What the client is told; nothing was sent.
    fn review(&self, text: &str, context: &Context<'_>) -> Result<SmallVec<[Approved; 1]>, Denial>;

    /// See [`Gate::epoch`](crate::gate::Gate::epoch).
    fn epoch(&self) -> PolicyEpoch;

    /// See [`Gate::type_name`](crate::gate::Gate::type_name).
    fn type_name(&self, oid: u32) -> Option<String>;

    /// See [`Gate::masks_for`](crate::gate::Gate::masks_for).
    fn masks_for(&self, roles: &[Box<str>]) -> bool;

    /// See [`Gate::threat_modes`](crate::gate::Gate::threat_modes).
    fn threat_modes(&self, roles: &[Box<str>], application: Option<&str>) -> Modes;

    /// See [`Gate::learned`](crate::gate::Gate::learned).
    fn learned(&self, roles: &[Box<str>], application: Option<&str>) -> SmallVec<[Arc<Learned>; 1]>;

    /// See [`Gate::row_limit`](crate::gate::Gate::row_limit).
    fn row_limit(&self, roles: &[Box<str>]) -> RowLimit;

    /// See [`Gate::may_change`](crate::gate::Gate::may_change).
    fn may_change(&self, user: &str, has_ticket: bool) -> Change;

    /// See [`Gate::canary_rows`](crate::gate::Gate::canary_rows).
    fn canary_rows(&self) -> Option<Arc<CanaryRows>>;

    /// See [`Gate::names_canary`](crate::gate::Gate::names_canary).
    fn names_canary(&self, text: &str) -> bool;

    /// See [`Gate::settings_for`](crate::gate::Gate::settings_for).
    fn settings_for(&self, roles: &[Box<str>]) -> Vec<String>;

    /// See [`Gate::only_reads`](crate::gate::Gate::only_reads); `false` as well where definitions have changed that are not known yet.
    fn only_reads(&self, text: &str) -> bool;

    /// Whether the catalog in force is the server's, as far as it was looked at; it is not where policies do not fit that.
    fn is_exact(&self) -> bool {
        true
    }

    /// An unrestricted user has changed definitions, and does not know of it yet.
    fn changed(&self) {}

    /// Ends once what was changed before this call is known; none: it is. INVARIANT: what a tenant sends is reviewed only after
    /// that, so that no plan is older than a change that somebody was told of.
    fn refreshed(&self) -> Option<Refreshed> {
        None
    }

    /// Changes when new sessions on the server would start with other settings than before (ALTER ROLE .. SET).
    fn renewals(&self) -> watch::Receiver<u64> {
        watch::Sender::default().subscribe()
    }
}

/// See [`Review::refreshed`].
pub type Refreshed = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The gate of a database without policies: nothing is permitted.
#[derive(Debug)]
pub struct Closed;

impl Review for Closed {
    fn threat_modes(&self, _roles: &[Box<str>], _application: Option<&str>) -> Modes {
        Modes::of(std::iter::empty())
    }

    fn learned(&self, _roles: &[Box<str>], _application: Option<&str>) -> SmallVec<[Arc<Learned>; 1]> {
        SmallVec::new()
    }

    fn row_limit(&self, _roles: &[Box<str>]) -> RowLimit {
        RowLimit::default()
    }

    fn may_change(&self, _user: &str, _has_ticket: bool) -> Change {
        Change::Free
    }

    fn names_canary(&self, _text: &str) -> bool {
        false
    }

    fn only_reads(&self, _text: &str) -> bool {
        false
    }

    fn canary_rows(&self) -> Option<Arc<CanaryRows>> {
        None
    }

    fn review(&self, _text: &str, _context: &Context<'_>) -> Result<SmallVec<[Approved; 1]>, Denial> {
        Err(Denial::policy("permission denied: no policies are loaded"))
    }

    fn epoch(&self) -> PolicyEpoch {
        PolicyEpoch(0)
    }

    fn type_name(&self, _oid: u32) -> Option<String> {
        None
    }

    fn masks_for(&self, _roles: &[Box<str>]) -> bool {
        false
    }

    fn settings_for(&self, _roles: &[Box<str>]) -> Vec<String> {
        vec![]
    }
}

/// A user who may log in.
#[derive(Debug)]
pub struct Login {
    pub user: User,
    verifier: OnceLock<Option<Verifier>>,
    pub places: Places,
    /// What its sessions have done lately.
    pub lately: Lately,
    /// Who has tried to log in as it, and failed; nobody, mostly.
    pub attempts: Mutex<Option<Box<Attempts>>>,
    /// What its sessions usually do.
    pub usual: Usual,
}

/// How many clients there may be of something.
#[derive(Debug)]
pub struct Places(Option<Arc<Semaphore>>);

/// A client's place; free again when it is dropped.
#[derive(Debug)]
pub struct Place(#[expect(dead_code, reason = "held")] Option<OwnedSemaphorePermit>);

impl Places {
    /// `None`: as many as come.
    pub fn new(most: Option<usize>) -> Places {
        Places(most.map(|most| Arc::new(Semaphore::new(most))))
    }

    /// `None`: all are taken.
    pub fn take(&self) -> Option<Place> {
        match &self.0 {
            None => Some(Place(None)),
            Some(places) => places.clone().try_acquire_owned().ok().map(|permit| Place(Some(permit))),
        }
    }
}

impl Login {
    pub fn new(user: User) -> Self {
        let verifier = match &user.secret {
            Secret::Password(_) => OnceLock::new(),
            Secret::Scram(text) => OnceLock::from(Verifier::parse(text)),
        };
        Login {
            places: Places::new(user.max_clients),
            lately: Lately::default(),
            attempts: Mutex::default(),
            usual: Usual::default(),
            user,
            verifier,
        }
    }

    /// Of a password it is derived when it is asked for first: half a millisecond, as a client's own.
    fn verifier(&self) -> Option<&Verifier> {
        let derive = || match &self.user.secret {
            Secret::Password(password) => Some(Verifier::derive(password)),
            Secret::Scram(_) => None,
        };
        self.verifier.get_or_init(derive).as_ref()
    }

    pub fn token_key(&self) -> Option<&[u8]> {
        match &self.user.access {
            UserAccess::Shared { token_key, .. } => token_key.as_deref(),
            UserAccess::Fixed(_) | UserAccess::Unrestricted { .. } => None,
        }
    }
}

/// The users, by name. Verifiers are derived beside the work, so that a server with a hundred thousand users starts at once.
#[derive(Debug)]
pub struct Logins {
    by_name: HashMap<Box<str>, Arc<Login>>,
    derived: AtomicBool,
}

impl Logins {
    pub fn new(users: impl Iterator<Item = User>) -> Logins {
        let by_name = users.map(|user| (Box::from(user.name.as_str()), Arc::new(Login::new(user)))).collect();
        Logins { by_name, derived: AtomicBool::new(false) }
    }

    pub fn get(&self, name: &str) -> Option<&Arc<Login>> {
        self.by_name.get(name)
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<Login>> {
        self.by_name.values()
    }

    /// What a login's proof is checked with. As long as some are not derived, each login takes the time of deriving one, whether the
    /// user is known or not: time must not tell that.
    pub fn verifier<'a>(&self, login: Option<&'a Login>) -> Option<&'a Verifier> {
        if self.derived.load(Ordering::Acquire) {
            return login.and_then(Login::verifier);
        }
        // Here and now: to hand this thread's other sessions to another thread would cost more.
        let derives = login.is_some_and(|login| login.verifier.get().is_none());
        let verifier = login.and_then(Login::verifier);
        if !derives {
            std::hint::black_box(Verifier::derive(""));
        }
        verifier
    }

    /// Derives all, unless the server ends before.
    pub fn derive(self: Arc<Self>) {
        for login in self.by_name.values() {
            if Arc::strong_count(&self) == 1 {
                return;
            }
            login.verifier();
        }
        self.derived.store(true, Ordering::Release);
    }
}

/// One `[[database]]`: its gate, and its connections for tenants.
pub struct Database {
    pub name: Arc<str>,
    pub gate: Arc<dyn Review>,
    pub pool: Pool,
    /// The role that tenants' connections have: what `"$user"` means in a search_path.
    pub role: Arc<str>,
    /// Connections of unrestricted users, by user: each has its own role.
    pub unrestricted: HashMap<Arc<str>, Pool>,
    /// The key of the second lock, where it is required: backends must be told whom they speak for.
    pub lock: Option<LockKey>,
    pub places: Places,
    /// What servers report for given settings.
    pub reports: Reports,
    /// Answers that are kept; `None`: none are.
    pub cache: Option<DatabaseCache>,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a server reports with ParameterStatus for given settings, kept for a short time, so that a login needs no server.
#[derive(Debug, Default)]
pub struct Reports(Mutex<Vec<(Settings, Instant, Report)>>);

/// ParameterStatus pairs as a server reports them, and the search_path that a session starts with.
#[derive(Clone, Debug)]
pub struct Report {
    pub parameters: Arc<[(String, String)]>,
    pub search_path: Arc<str>,
    /// Whether idle_in_transaction_session_timeout is set.
    pub idle_limit: bool,
}

impl Reports {
    /// A failover or an upgrade changes what is reported.
    const LIFE: Duration = Duration::from_secs(10);
    /// Settings come from clients: bounded.
    const MOST: usize = 64;

    pub fn get(&self, settings: &Settings) -> Option<Report> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|(s, at, _)| s == settings && at.elapsed() < Self::LIFE).map(|(_, _, report)| report.clone())
    }

    pub fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub fn put(&self, settings: Settings, report: Report) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(s, at, _)| *s != settings && at.elapsed() < Self::LIFE);
        if known.len() < Self::MOST {
            known.push((settings, Instant::now(), report));
        }
    }
}

/// Whether the proxy is going down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drain {
    /// Serving.
    No,
    /// Sessions end where no transaction is open.
    Gently,
    /// The deadline has passed: sessions end where they are.
    Now,
}

/// What all sessions share.
pub struct Shared {
    pub limits: Limits,
    pub logins: Arc<Logins>,
    pub databases: HashMap<Box<str>, Arc<Database>>,
    pub cancels: Arc<Registry>,
    /// TLS to clients; replaced on SIGHUP. `None`: not offered.
    pub tls: ArcSwapOption<ServerConfig>,
    pub tls_required: bool,
    pub drain: watch::Receiver<Drain>,
    /// Where what happens is told.
    pub events: Events,
    /// The audit log, if there is one.
    pub log: Option<Arc<Log>>,
    /// Makes the salts of users that do not exist.
    pub mock_secret: [u8; 32],
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("databases", &self.databases.keys()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_is_there_before_and_after_all_are_derived() {
        let scram = Verifier::derive("secret").to_text();
        let user = |name: &str| User {
            name: name.to_owned(),
            secret: if name == "stored" { Secret::Scram(scram.clone()) } else { Secret::Password("secret".to_owned()) },
            access: UserAccess::Fixed(crate::principal::Tenant("1".into())),
            roles: Default::default(),
            databases: vec![],
            max_clients: None,
            purposes: Default::default(),
            glass: Default::default(),
        };
        let logins = Arc::new(Logins::new(["a", "b", "stored"].into_iter().map(user)));
        // What is not derived now would be taken for derived at its first login, and cost less time than an unknown user.
        assert!(logins.get("stored").is_some_and(|login| login.verifier.get().is_some()));
        let verifier = |name| logins.verifier(logins.get(name).map(AsRef::as_ref)).cloned();
        assert_eq!(verifier("nobody"), None);
        let early = verifier("a");
        assert!(early.is_some());
        logins.clone().derive();
        assert!(logins.derived.load(Ordering::Acquire));
        // The salt that a client was told stays.
        assert_eq!(verifier("a"), early);
        assert!(verifier("b").is_some());
        assert_eq!(verifier("stored"), Verifier::parse(&scram));
        assert_eq!(verifier("nobody"), None);
    }
}
