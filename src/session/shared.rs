//! What all sessions share: configuration, pools, gates, cancel keys.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use smallvec::SmallVec;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::cancel::Registry;
use super::settings::Settings;
use crate::backend::pool::Pool;
use crate::config::{Limits, Secret, User, UserAccess};
use crate::event::Events;
use crate::finding::Denial;
use crate::gate::{Approved, Context, Gate};
use crate::id::PolicyEpoch;
use crate::policy::lock::LockKey;
use crate::wire::scram::Verifier;

/// Who decides about statements: the gate, or in tests something that needs no policies.
pub trait Review: Send + Sync + fmt::Debug {
    /// See [`Gate::review`].
    ///
    /// # Errors
    /// What the client is told; nothing was sent.
    fn review(&self, text: &str, context: &Context<'_>) -> Result<SmallVec<[Approved; 1]>, Denial>;

    /// See [`Gate::epoch`].
    fn epoch(&self) -> PolicyEpoch;

    /// See [`Gate::type_name`].
    fn type_name(&self, oid: u32) -> Option<String>;

    /// See [`Gate::masks_for`].
    fn masks_for(&self, roles: &[Box<str>]) -> bool;

    /// See [`Gate::settings_for`].
    fn settings_for(&self, roles: &[Box<str>]) -> Vec<String>;

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

impl Review for Gate {
    fn review(&self, text: &str, context: &Context<'_>) -> Result<SmallVec<[Approved; 1]>, Denial> {
        Gate::review(self, text, context)
    }

    fn epoch(&self) -> PolicyEpoch {
        Gate::epoch(self)
    }

    fn type_name(&self, oid: u32) -> Option<String> {
        Gate::type_name(self, oid)
    }

    fn masks_for(&self, roles: &[Box<str>]) -> bool {
        Gate::masks_for(self, roles)
    }

    fn settings_for(&self, roles: &[Box<str>]) -> Vec<String> {
        Gate::settings_for(self, roles)
    }
}

/// The gate of a database without policies: nothing is permitted.
#[derive(Debug)]
pub struct Closed;

impl Review for Closed {
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
    /// Derived once, at start: deriving at login would tell known users from unknown ones by time.
    pub verifier: Option<Verifier>,
    pub places: Places,
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
            Secret::Password(password) => Some(Verifier::derive(password)),
            Secret::Scram(text) => Verifier::parse(text),
        };
        Login { places: Places::new(user.max_clients), user, verifier }
    }

    pub fn token_key(&self) -> Option<&[u8]> {
        match &self.user.access {
            UserAccess::Shared { token_key, .. } => token_key.as_deref(),
            UserAccess::Fixed(_) | UserAccess::Unrestricted { .. } => None,
        }
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
    pub logins: HashMap<Box<str>, Arc<Login>>,
    pub databases: HashMap<Box<str>, Arc<Database>>,
    pub cancels: Arc<Registry>,
    /// TLS to clients; replaced on SIGHUP. `None`: not offered.
    pub tls: ArcSwapOption<ServerConfig>,
    pub tls_required: bool,
    pub drain: watch::Receiver<Drain>,
    /// Where what happens is told.
    pub events: Events,
    /// Makes the salts of users that do not exist.
    pub mock_secret: [u8; 32],
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("databases", &self.databases.keys()).finish_non_exhaustive()
    }
}
