//! Keeps each gate's epoch up to date: policies when a file changes or on SIGHUP, the catalog when the server's changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use smallvec::SmallVec;
use tokio::sync::{Notify, watch};

use super::facts;
use crate::audit::Log;
use crate::audit::record::Record;
use crate::backend;
use crate::backend::catalog::{Fingerprint, Watch};
use crate::cache::upkeep::{Definitions, Tables};
use crate::catalog::{Catalog, Snapshot};
use crate::config::{Config, Database, Level, Problems};
use crate::error::SqlError;
use crate::event::{Event, Events, Reload};
use crate::finding::Denial;
use crate::gate::{Approved, Context, Gate, check_rules};
use crate::id::PolicyEpoch;
use crate::plan::ChangedRow;
use crate::policy::limits::{Change, RowLimit};
use crate::policy::load;
use crate::policy::lock::{self, LockKey};
use crate::policy::model::PolicyModel;
use crate::rules::Modes;
use crate::rules::learned::Learned;
use crate::rules::threat::canary_row::CanaryRows;
use crate::session::shared::{Refreshed, Review};

/// How often files and the catalog's fingerprint are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How long a server that is not there yet is waited for at start.
const START: Duration = Duration::from_secs(30);

/// Asks for a look now: SIGHUP does, and a tenant that waits for what an unrestricted user has changed.
#[derive(Clone, Debug, Default)]
pub struct Nudge(Arc<Asked>);

#[derive(Debug, Default)]
struct Asked {
    /// For a look at everything.
    now: Notify,
    /// For a look at the catalogs that are not known to be as they were.
    catalogs: Notify,
}

impl Nudge {
    /// Asks for a look at policy files and catalogs.
    pub fn nudge(&self) {
        self.0.now.notify_one();
    }
}

/// Whether a gate's catalog is as new as what clients were told. Changes are counted and nothing else; the catalog is loaded when a
/// tenant needs it, so that a migration of thousands of statements costs one load and not thousands.
#[derive(Debug, Default)]
pub struct Freshness {
    /// Changes that unrestricted users made, counted before they hear of it.
    changes: AtomicU64,
    /// Of those, how many were made before the last look at the catalog began.
    known: AtomicU64,
    looked: Notify,
    /// Policies do not fit the server's catalog: an older one is in force.
    behind: AtomicBool,
    /// How often anything of the catalog was found changed.
    found: AtomicU64,
    /// When the last look began that found the catalog in force to be the server's.
    exact_at: ArcSwapOption<Instant>,
}

impl Freshness {
    fn is_fresh(&self) -> bool {
        self.known.load(Ordering::SeqCst) >= self.changes.load(Ordering::SeqCst)
    }

    fn learn(&self, changes: u64) {
        self.known.store(changes, Ordering::SeqCst);
        self.looked.notify_waiters();
    }

    /// Ends after a look that began after this call.
    async fn until_known(&self, nudge: &Nudge) {
        let wanted = self.changes.load(Ordering::SeqCst);
        nudge.0.catalogs.notify_one();
        loop {
            let looked = self.looked.notified();
            tokio::pin!(looked);
            looked.as_mut().enable();
            if self.known.load(Ordering::SeqCst) >= wanted {
                return;
            }
            looked.await;
        }
    }
}

/// A gate whose epoch is kept up to date.
#[derive(Debug)]
pub struct Kept {
    pub gate: Arc<Gate>,
    pub nudge: Nudge,
    pub lock: Arc<Open>,
    pub freshness: Arc<Freshness>,
    /// Those of all entries that are the same database.
    pub siblings: Vec<Arc<Freshness>>,
    /// Counts the times when what new sessions start with was changed on the server.
    pub settings: watch::Receiver<u64>,
}

/// Why a database is not served now (level paranoid: the second lock is not in place); empty: it is served.
#[derive(Debug, Default)]
pub struct Open(ArcSwapOption<String>);

impl Tables for Kept {
    fn family(&self, schema: &str, table: &str) -> Option<u32> {
        let catalog = self.gate.catalog();
        Some(catalog.family(catalog.relation_named(schema, table)?.oid)?.root)
    }

    fn families(&self) -> Vec<u32> {
        let catalog = self.gate.catalog();
        let root = |oid: u32| catalog.family(oid).map(|family| family.root);
        catalog.snapshot().relations.iter().map(|r| r.oid).filter(|oid| root(*oid) == Some(*oid)).collect()
    }

    fn definitions(&self) -> Definitions {
        let exact_at = self.freshness.exact_at.load().as_deref().copied();
        Definitions { changes: self.freshness.found.load(Ordering::SeqCst), exact_at }
    }

    fn changed<'v>(&self, relation: u32, value: &dyn Fn(&str) -> Option<&'v [u8]>) -> Option<ChangedRow> {
        self.gate.changed(relation, value)
    }
}

impl Review for Kept {
    fn review(&self, text: &str, context: &Context<'_>) -> Result<SmallVec<[Approved; 1]>, Denial> {
        if let Some(fault) = &*self.lock.0.load() {
            return Err(Denial::policy(format!("permission denied: the second lock is not in place: {fault}")));
        }
        self.gate.review(text, context)
    }

    fn epoch(&self) -> PolicyEpoch {
        // What was reviewed before must be reviewed, and so refused, as long as this lasts (EPOCH).
        if self.lock.0.load().is_some() { PolicyEpoch(u64::MAX) } else { self.gate.epoch() }
    }

    fn only_reads(&self, text: &str) -> bool {
        self.refreshed().is_none() && self.gate.only_reads(text)
    }

    fn type_name(&self, oid: u32) -> Option<String> {
        self.gate.type_name(oid)
    }

    fn threat_modes(&self, roles: &[Box<str>], application: Option<&str>) -> Modes {
        self.gate.threat_modes(roles, application)
    }

    fn row_limit(&self, roles: &[Box<str>]) -> RowLimit {
        self.gate.row_limit(roles)
    }

    fn may_change(&self, user: &str, has_ticket: bool) -> Change {
        self.gate.may_change(user, has_ticket)
    }

    fn canary_rows(&self) -> Option<Arc<CanaryRows>> {
        self.gate.canary_rows()
    }

    fn names_canary(&self, text: &str) -> bool {
        self.gate.names_canary(text)
    }

    fn learned(&self, roles: &[Box<str>], application: Option<&str>) -> SmallVec<[Arc<Learned>; 1]> {
        self.gate.learned(roles, application)
    }

    fn masks_for(&self, roles: &[Box<str>]) -> bool {
        self.gate.masks_for(roles)
    }

    fn settings_for(&self, roles: &[Box<str>]) -> Vec<String> {
        self.gate.settings_for(roles)
    }

    fn is_exact(&self) -> bool {
        !self.freshness.behind.load(Ordering::SeqCst)
    }

    fn changed(&self) {
        for freshness in &self.siblings {
            freshness.changes.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn refreshed(&self) -> Option<Refreshed> {
        if self.freshness.is_fresh() {
            return None;
        }
        let (freshness, nudge) = (self.freshness.clone(), self.nudge.clone());
        Some(Box::pin(async move { freshness.until_known(&nudge).await }))
    }

    fn renewals(&self) -> watch::Receiver<u64> {
        self.settings.clone()
    }
}

/// One database's gate, and what it was made from.
pub struct Keeper {
    config: Arc<Config>,
    database: Database,
    catalog: Watch,
    /// [`Watch::connections`], as it was told to sessions and the cache.
    connection: u64,
    /// Whether it answered when it was asked last.
    answers: bool,
    gate: Arc<Gate>,
    /// Level paranoid: the key of the second lock.
    key: Option<LockKey>,
    lock: Arc<Open>,
    freshness: Arc<Freshness>,
    /// In force.
    policies: PolicyModel,
    /// The epoch whose facts are in the audit log.
    told: Option<PolicyEpoch>,
    /// Read, but contradicted by the catalog so far: its tables may be on their way.
    wanted: Option<PolicyModel>,
    snapshot: Snapshot,
    /// When the snapshot was loaded; none: it must be loaded again.
    fingerprint: Option<Fingerprint>,
    settings: watch::Sender<u64>,
}

impl Keeper {
    /// Loads the catalog and makes the gate; waits for a server that is starting.
    ///
    /// # Errors
    /// No server in time, or policies that its catalog contradicts.
    pub async fn start(
        config: &Arc<Config>,
        database: &Database,
        policies: &PolicyModel,
        events: &Events,
    ) -> Result<Keeper, String> {
        let policies = policies.of_database(&database.name);
        let deadline = tokio::time::Instant::now() + START;
        let mut catalog = Watch::new(database.upstream.clone(), events.clone());
        let snapshot = loop {
            match catalog.snapshot().await {
                Ok(snapshot) => break snapshot,
                Err(error) if backend::is_transient(&error) && tokio::time::Instant::now() < deadline => {
                    tracing::warn!(database = %database.name, %error, "the catalog cannot be read; trying again");
                    tokio::time::sleep(LOOK).await;
                }
                Err(error) => return Err(format!("database \"{}\": the catalog cannot be read: {error}", database.name)),
            }
        };
        let gate = Gate::new(config.level, Arc::new(Catalog::new(snapshot.clone())), &policies)
            .map_err(|problems| Problems(problems).render(false))?
            .observed(events.clone());
        let fingerprint = catalog.fingerprint().await.ok();
        let key = match config.level {
            Level::Paranoid => Some(LockKey::of(database)?),
            Level::Strict | Level::Standard => None,
        };
        super::check_tenants(config, &database.name, &gate.tenant_types())?;
        let keeper = Keeper {
            config: config.clone(),
            database: database.clone(),
            connection: catalog.connections(),
            catalog,
            answers: true,
            gate: Arc::new(gate),
            key,
            lock: Arc::default(),
            freshness: Arc::default(),
            policies,
            told: None,
            wanted: None,
            snapshot,
            fingerprint,
            settings: watch::Sender::default(),
        };
        let faults = keeper.faults_of_lock().await.unwrap_or_else(|error| vec![error]);
        if !faults.is_empty() {
            return Err(format!(
                "database \"{}\": level \"paranoid\" needs row security underneath, and it is not in place:\n  {}\n`bulkhead harden` prints what is needed",
                database.name,
                faults.join("\n  ")
            ));
        }
        Ok(keeper)
    }

    /// The result cache finds out by the server's processes what became of transactions.
    ///
    /// # Errors
    /// They are not the server's, or it does not say.
    pub async fn check_direct(&mut self) -> Result<(), String> {
        let name = &self.database.name;
        match self.catalog.is_direct().await {
            Ok(true) => Ok(()),
            Ok(false) => Err(format!(
                "database \"{name}\": the result cache needs PostgreSQL itself as its upstream, and this is a pooler: it names other processes at login than those that answer"
            )),
            Err(error) => Err(format!("database \"{name}\": the server does not say which of its processes answers: {error}")),
        }
    }

    /// What it knows of definitions, for the others that are the same database.
    pub fn freshness(&self) -> Arc<Freshness> {
        self.freshness.clone()
    }

    /// The gate, for sessions. `siblings`: of all that are the same database, this one's included.
    pub fn kept(&self, nudge: Nudge, siblings: Vec<Arc<Freshness>>) -> Kept {
        Kept {
            gate: self.gate.clone(),
            nudge,
            lock: self.lock.clone(),
            freshness: self.freshness.clone(),
            siblings,
            settings: self.settings.subscribe(),
        }
    }

    /// What of the second lock is not in place, where it is required.
    async fn faults_of_lock(&self) -> Result<Vec<String>, String> {
        let Some(key) = &self.key else { return Ok(vec![]) };
        let catalog = Catalog::new(self.snapshot.clone());
        let Ok(governed) = lock::governed(&self.policies, &catalog) else {
            return Ok(vec!["the policies do not fit the catalog".to_owned()]);
        };
        match backend::lock::state(&self.database.upstream, key).await {
            Ok(state) => Ok(state.faults(&governed)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Looks at the second lock again: while it is not in place, tenants are refused.
    async fn look_at_lock(&self, events: &Events) {
        if self.key.is_none() {
            return;
        }
        let faults = match self.faults_of_lock().await {
            Ok(faults) => faults,
            // A server without room for one more connection has not lost its policies.
            Err(error) => {
                tracing::warn!(database = %self.database.name, %error, "the second lock cannot be looked at");
                return;
            }
        };
        let was_open = self.lock.0.load().is_none();
        match faults.first() {
            None => {
                self.lock.0.store(None);
                if !was_open {
                    events.emit(Event::LockRestored);
                    tracing::info!(database = %self.database.name, "the second lock is in place again");
                }
            }
            Some(first) => {
                if was_open {
                    events.emit(Event::LockLost);
                    let faults = faults.join("; ");
                    tracing::error!(database = %self.database.name, "tenants are refused: the second lock is not in place: {faults}");
                }
                self.lock.0.store(Some(Arc::new(first.clone())));
            }
        }
    }

    pub fn database(&self) -> &str {
        &self.database.name
    }

    /// Replaces the policies; problems leave the old epoch in force, until the catalog fits them.
    /// What compliance rules look at is in the log, as of the epoch in force, for those who have no more.
    fn tell_facts(&mut self, config: &Config, log: Option<&Log>) {
        let epoch = self.gate.epoch();
        if let Some(log) = log.filter(|_| self.told != Some(epoch)) {
            let facts = serde_json::to_string(&facts::of(config, &self.database, &self.policies)).unwrap_or_default();
            log.note(Record::new("facts").text("database", &self.database.name).text("facts", &facts));
            self.told = Some(epoch);
        }
    }

    fn set_policies(&mut self, policies: &PolicyModel, events: &Events) {
        let policies = policies.of_database(&self.database.name);
        self.wanted = if self.install(policies.clone(), None, events) { None } else { Some(policies) };
    }

    /// Loads the catalog again if the server's has changed. The number of changes that are known by then; none: the server did
    /// not say.
    async fn look(&mut self, events: &Events) -> Option<u64> {
        let begun = Instant::now();
        let known = self.look_at_all(events).await;
        if known.is_some() && !self.freshness.behind.load(Ordering::SeqCst) {
            self.freshness.exact_at.store(Some(Arc::new(begun)));
        }
        known
    }

    async fn look_at_all(&mut self, events: &Events) -> Option<u64> {
        let changes = self.freshness.changes.load(Ordering::SeqCst);
        let fingerprint = self.catalog.fingerprint().await;
        self.note_connection();
        self.note_answer(fingerprint.as_ref().err(), events);
        let fingerprint = fingerprint.ok()?;
        if self.fingerprint.as_ref() != Some(&fingerprint) {
            self.freshness.found.fetch_add(1, Ordering::SeqCst);
        }
        let Some(old) = &mut self.fingerprint else { return self.load(fingerprint, events).await.then_some(changes) };
        if old.settings != fingerprint.settings {
            old.settings.clone_from(&fingerprint.settings);
            self.catalog.renew().await;
            self.connection = self.catalog.connections();
            self.settings.send_modify(|count| *count += 1);
        }
        if old.catalog == fingerprint.catalog || self.load(fingerprint, events).await { Some(changes) } else { None }
    }

    /// A server that had to be connected to again may have crashed, or be another, and have lost commits that nobody waited for.
    /// Whatever else fails, and however many attempts it took: this is told once it is there again.
    fn note_connection(&mut self) {
        let now = self.catalog.connections();
        if std::mem::replace(&mut self.connection, now) != now && !crate::mutant!("cache.crashes-lose-nothing") {
            self.settings.send_modify(|count| *count += 1);
        }
    }

    fn note_answer(&mut self, error: Option<&SqlError>, events: &Events) {
        match error {
            None if self.answers => {}
            None => events.emit(Event::ServerFound),
            Some(error) if self.answers => {
                tracing::warn!(database = %self.database.name, %error, "the server does not answer");
                events.emit(Event::ServerLost);
            }
            Some(_) => {}
        }
        self.answers = error.is_none();
    }

    /// `false`: the server did not say. Policies that do not fit what it says leave the old epoch in force.
    async fn load(&mut self, fingerprint: Fingerprint, events: &Events) -> bool {
        match self.catalog.snapshot().await {
            Ok(snapshot) if snapshot == self.snapshot => {
                self.fingerprint = Some(fingerprint);
                self.freshness.behind.store(false, Ordering::SeqCst);
            }
            Ok(snapshot) => {
                if let Some(wanted) = self.wanted.take() {
                    if self.install(wanted.clone(), Some(snapshot.clone()), events) {
                        self.freshness.behind.store(false, Ordering::SeqCst);
                        self.fingerprint = Some(fingerprint);
                        return true;
                    }
                    self.wanted = Some(wanted);
                }
                let fits = self.install(self.policies.clone(), Some(snapshot), events);
                self.freshness.behind.store(!fits, Ordering::SeqCst);
                if fits {
                    self.fingerprint = Some(fingerprint);
                }
            }
            Err(error) => {
                tracing::warn!(database = %self.database.name, %error, "the catalog cannot be read");
                return false;
            }
        }
        true
    }

    fn install(&mut self, policies: PolicyModel, snapshot: Option<Snapshot>, events: &Events) -> bool {
        let snapshot = snapshot.unwrap_or_else(|| self.snapshot.clone());
        let database = &self.database.name;
        let accept = |types: &[_]| super::check_tenants(&self.config, database, types);
        match self.gate.reload(Arc::new(Catalog::new(snapshot.clone())), &policies, accept) {
            Ok(epoch) => {
                tracing::info!(database = %self.database.name, %epoch, "new policy epoch");
                self.policies = policies;
                self.snapshot = snapshot;
                events.emit(Event::PoliciesReloaded(Reload::Done(epoch)));
                true
            }
            Err(problems) => {
                let problems = Problems(problems);
                tracing::error!(database = %self.database.name, "policies do not fit the catalog; the old epoch stays:\n{}", problems.render(false));
                events.emit(Event::PoliciesReloaded(Reload::Failed));
                false
            }
        }
    }
}

/// Watches files and catalogs until the task is dropped.
pub async fn keep(mut keepers: Vec<Keeper>, config: Arc<Config>, nudge: Nudge, events: Events, log: Option<Arc<Log>>) {
    let directory = config.server.policies.clone();
    // `None`: they are to be read again, whatever they are.
    let mut seen = Some(stamp(&directory));
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let whole = tokio::select! {
            () = nudge.0.now.notified() => {
                seen = None;
                true
            }
            () = nudge.0.catalogs.notified() => false,
            _ = tick.tick() => true,
        };
        // Catalogs first: new policies speak of them.
        let mut looked = vec![];
        for keeper in &mut keepers {
            let known = if whole || !keeper.freshness.is_fresh() { keeper.look(&events).await } else { None };
            looked.push(known);
        }
        let now = if whole { Some(stamp(&directory)) } else { seen.clone() };
        if now != seen {
            seen = now;
            reload_policies(&mut keepers, &config, &events);
        }
        keepers.iter_mut().for_each(|keeper| keeper.tell_facts(&config, log.as_deref()));
        for (keeper, known) in keepers.iter().zip(looked) {
            if whole || known.is_some() {
                keeper.look_at_lock(&events).await;
            }
            if let Some(changes) = known {
                keeper.freshness.learn(changes);
            }
        }
    }
}

fn reload_policies(keepers: &mut [Keeper], config: &Config, events: &Events) {
    let names: Vec<String> = config.databases.iter().map(|d| d.name.clone()).collect();
    let loaded = load::load(&config.server.policies, &names);
    match loaded.and_then(|policies| Problems(check_rules(&policies)).or(policies)) {
        Ok(policies) => {
            keepers.iter_mut().for_each(|k| k.set_policies(&policies, events));
        }
        Err(problems) => {
            tracing::error!("policies cannot be read; the old epoch stays:\n{}", problems.render(false));
            events.emit(Event::PoliciesReloaded(Reload::Failed));
        }
    }
}

/// Every policy file with its size and time: differs when one was changed, added or removed.
fn stamp(directory: &Path) -> Vec<(PathBuf, u64, Option<SystemTime>)> {
    let mut found = vec![];
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&next) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => open.push(path),
                Ok(meta) if path.extension().is_some_and(|e| e == "toml") => found.push((path, meta.len(), meta.modified().ok())),
                Ok(_) | Err(_) => {}
            }
        }
    }
    found.sort();
    found
}
