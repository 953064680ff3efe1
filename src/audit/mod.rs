//! The audit log: what was asked, of whom, what was decided, what came of it; and proofs of it that need nothing but a public key.
//!
//! * [`record`]: a record is a line of JSON. [`trail`]: the records of one session.
//! * [`segment`]: files of records. [`tree`]: the Merkle tree over all of them. [`checkpoint`]: what is signed.
//! * [`writer`]: what stands on the disk, by way of [`disk`]. Here: the queue before it, and the thread that empties it.
//! * [`verify`]: reads a log, and says where it is not what it was.
//!
//! INVARIANT (EVIDENCE): what writes is sent after its intent was taken, under `sync` after it is on the disk; a record that could not be
//! written is refused, or counted in a `gap` record; nothing that a checkpoint covers is ever gone on without.

pub mod checkpoint;
pub mod disk;
pub mod record;
mod redact;
mod repeated;
pub mod segment;
#[cfg(test)]
mod tests;
mod trail;
pub mod tree;
pub mod values;
pub mod verify;
pub mod writer;

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

pub use crate::config::OnFailure;
use crate::event::{Event, Events, Observe, Reload};
use disk::{Directory, Disk};
use record::Record;
pub use redact::redact;
use repeated::{Repeated, Told};
pub use trail::{Open, Outcome, Reach, Refused, Template, Trail, Who, without_quotes};
pub use values::Classed;
use values::ValueKeys;
use writer::{Format, OpenError, Writer};

/// When a record is safe enough for what it is about to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// On the disk: writes wait for their intent, answers for what they answer.
    Sync,
    /// In memory, and on the disk so much later at most.
    Interval(Duration),
}

/// How a log is kept.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'s> {
    pub durability: Durability,
    pub on_failure: OnFailure,
    pub format: Format,
    /// How long segments are kept, if not for ever.
    pub retention: Option<Duration>,
    /// Where the keys of values are.
    pub value_keys: Option<&'s Path>,
}

/// The log cannot be written, and what is to be recorded must not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unavailable;

/// Which record: so many were taken until then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Duty {
    /// Something that is done only if it is recorded.
    Before,
    /// Something that was done, or refused, already.
    After,
}

/// A log that is written.
#[derive(Debug)]
pub struct Log {
    shared: Arc<Shared>,
    sessions: AtomicU64,
    refused_logins: Mutex<RefusedLogins>,
    /// `None`: there are no values to tell.
    values: Option<ValueKeys>,
    /// In which second since 1970 one could not be told.
    values_failed: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct RefusedLogins {
    second: u64,
    /// In that second.
    told: u64,
    /// Those that were not.
    more: u64,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// There are lines, or an end.
    filled: Condvar,
    progress: watch::Sender<Progress>,
    durability: Durability,
    on_failure: OnFailure,
    format: Format,
    retention: Option<Duration>,
    events: Events,
}

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    durable: u64,
    failing: bool,
}

#[derive(Debug, Default)]
struct Queue {
    /// As [`Writer::add_lines`] takes them.
    lines: Vec<u8>,
    /// Somebody waits for them: they are not kept for a batch of an interval's.
    hurry: bool,
    /// Sessions that have answers of the cache to tell.
    repeated: Vec<Arc<Repeated>>,
    /// Records that were taken, ever.
    taken: u64,
    /// Those whose templates this segment has.
    templates: HashSet<u128, ahash::RandomState>,
    /// Bytes that the writer could not write.
    backlog: usize,
    failing: Option<Failing>,
    stop: bool,
}

/// The log cannot be written.
#[derive(Debug)]
struct Failing {
    since: SystemTime,
    why: String,
    /// Records that there are none of.
    missed: u64,
}

/// What memory holds of records that cannot be written, in bytes.
const BACKLOG: usize = 64 << 20;
/// How many templates a segment is known to have.
const TEMPLATES: usize = 1 << 16;
/// How long a record is waited for: a disk that takes longer is one that cannot be written.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(1);

impl Log {
    /// Opens the log of this directory, or makes it, and begins to write.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(path: &Path, key: Option<&[u8]>, settings: Settings<'_>, events: Events) -> Result<Log, OpenError> {
        let disk = Directory::new(path).map_err(|error| OpenError::Io { name: path.display().to_string(), error })?;
        Log::on(disk, key, settings, events)
    }

    /// # Errors
    /// See [`OpenError`].
    pub fn on(disk: impl Disk + 'static, key: Option<&[u8]>, settings: Settings<'_>, events: Events) -> Result<Log, OpenError> {
        let format = settings.format;
        let writer = Writer::open(disk, key, format)?;
        let (progress, _) = watch::channel(Progress::default());
        let queue = Mutex::default();
        let Settings { durability, on_failure, format: _, retention, value_keys } = settings;
        let values = value_keys.map(ValueKeys::in_directory);
        let shared = Shared { queue, filled: Condvar::new(), progress, durability, on_failure, format, retention, events };
        let shared = Arc::new(shared);
        // Before there is anybody who could write another record first: see [`writer::is_begin`].
        let _ = shared.take(Record::new("start").text("version", env!("CARGO_PKG_VERSION")).end(), None, Duty::After);
        let own = shared.clone();
        let spawned = std::thread::Builder::new().name("audit".to_owned()).spawn(move || own.write(writer));
        let thread = spawned.map_err(|error| OpenError::Io { name: "a thread".to_owned(), error })?;
        let log = Log {
            shared,
            sessions: AtomicU64::new(0),
            refused_logins: Mutex::default(),
            values,
            values_failed: AtomicU64::new(0),
            thread: Mutex::new(Some(thread)),
        };
        Ok(log)
    }

    /// Records what has happened: a session's begin, an administrator's act, a refusal.
    pub fn note(&self, record: Record) -> Ticket {
        self.shared.take(record.end(), None, Duty::After).unwrap_or_default()
    }

    /// Records a login that was refused. Who has proved nothing cannot fill the disk: of many in one second the rest is counted, and told
    /// with the next.
    pub fn note_refused_login(&self, record: Record) {
        const EACH_SECOND: u64 = 20;
        let second = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let more = {
            let mut refused = self.refused_logins.lock().unwrap_or_else(PoisonError::into_inner);
            if refused.second != second {
                (refused.second, refused.told) = (second, 0);
            }
            refused.told += 1;
            if refused.told > EACH_SECOND {
                refused.more += 1;
                return;
            }
            std::mem::take(&mut refused.more)
        };
        self.note(if more > 0 { record.number("more", more) } else { record });
    }

    /// Records what a session has to tell of the cache.
    fn tell_repeated(&self, repeated: &Repeated) {
        if let Some(told) = repeated.take() {
            self.tell(told);
        }
    }

    fn tell(&self, (record, template): Told) {
        // It has happened.
        let _ = self.shared.take(record.end(), Some(&template), Duty::After);
    }

    /// A number for one more session of this process.
    fn next_session(&self) -> u64 {
        self.sessions.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Whether statements may run: `Err` while the log cannot be written, and it says that none may then.
    ///
    /// # Errors
    /// See there.
    pub fn admit(&self) -> Result<(), Unavailable> {
        let refused = self.shared.on_failure != OnFailure::Continue && self.shared.progress.borrow().failing;
        let refused = refused && !crate::mutant!("audit.failing-logs-admit");
        if refused { Err(Unavailable) } else { Ok(()) }
    }

    /// A field that tells values.
    fn tell_values<'v>(&self, tenant: Option<&str>, values: impl Iterator<Item = Classed<'v>>) -> Result<Vec<u8>, Unavailable> {
        let Some(keys) = &self.values else { return Ok(vec![]) };
        match keys.tell(tenant, values) {
            Ok(told) => Ok(told),
            Err(error) => {
                // Once a second: clients must not fill the log.
                let second = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs());
                if self.values_failed.swap(second, Ordering::Relaxed) != second {
                    tracing::error!("values cannot be told in the audit log, for want of a key ([audit] value_keys): {error}");
                }
                // Without them, it says so.
                let untold = || Record::fields(|record| record.text("values", "untold"));
                if self.shared.on_failure == OnFailure::Continue { Ok(untold()) } else { Err(Unavailable) }
            }
        }
    }

    /// Destroys keys of values whose time is over, and records what has become of others: to be done from time to time.
    pub fn tend_values(&self) {
        let Some(keys) = &self.values else { return };
        if let Err(error) = keys.tend(|erased| _ = self.note(erased.record())) {
            tracing::warn!("keys of values in the audit log cannot be looked after: {error}");
        }
    }

    /// Waits until the record is on the disk.
    ///
    /// # Errors
    /// It cannot be written, and must be.
    async fn durable(&self, ticket: Ticket) -> Result<(), Unavailable> {
        if self.is_durable(ticket) {
            return Ok(());
        }
        let mut progress = self.shared.progress.subscribe();
        let reached = progress.wait_for(|now| now.durable >= ticket.0 || now.failing);
        let durable = match tokio::time::timeout(PATIENCE, reached).await {
            Ok(reached) => reached.map_err(|_| Unavailable)?.durable >= ticket.0,
            Err(_) => {
                self.shared.stands_still("the disk does not answer");
                false
            }
        };
        if durable || self.shared.on_failure == OnFailure::Continue { Ok(()) } else { Err(Unavailable) }
    }

    fn is_durable(&self, ticket: Ticket) -> bool {
        let nothing = ticket == Ticket::default();
        nothing || self.shared.progress.borrow().durable >= ticket.0 || crate::mutant!("audit.sync-does-not-wait")
    }

    /// Whether all records are waited for.
    pub fn is_sync(&self) -> bool {
        self.shared.durability == Durability::Sync
    }

    /// Ends when the log cannot be written and the proxy is to end with it.
    pub async fn must_end(&self) {
        if self.shared.on_failure != OnFailure::Shutdown {
            return std::future::pending().await;
        }
        let mut progress = self.shared.progress.subscribe();
        if progress.wait_for(|now| now.failing).await.is_err() {
            std::future::pending().await
        }
    }

    /// Whether it could not be written when it was tried last.
    pub fn has_failed(&self) -> bool {
        self.shared.progress.borrow().failing
    }

    /// Ends it in order: nothing may follow the last record.
    pub fn end(&self) {
        self.finish(Some(Record::new("stop")));
    }

    /// Writes what there is, and a last checkpoint.
    pub fn close(&self) {
        self.finish(None);
    }

    fn finish(&self, last: Option<Record>) {
        {
            // At once: what comes behind it would look as if somebody else had written it.
            let mut queue = self.shared.queue();
            if !queue.stop {
                queue.collect();
                last.into_iter().for_each(|record| queue.push(&record.end()));
                queue.stop = true;
            }
        }
        self.shared.filled.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

/// What happens besides statements and sessions, as far as it changes what they may do.
impl Observe for Log {
    fn observe(&self, event: Event) {
        let record = match event {
            Event::PoliciesReloaded(Reload::Done(epoch)) => {
                Record::new("policies").text("outcome", "done").text("epoch", &format!("{:016x}", epoch.0))
            }
            Event::PoliciesReloaded(Reload::Failed) => Record::new("policies").text("outcome", "failed"),
            _ => return, // tidy: not a syntax kind
        };
        self.note(record);
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a record, after its template where the segment has that not yet.
    fn take(&self, record: Vec<u8>, template: Option<&Template>, duty: Duty) -> Result<Ticket, Unavailable> {
        let mut queue = self.queue();
        if queue.stop {
            return Err(Unavailable);
        }
        let is_full = queue.lines.len() + queue.backlog > BACKLOG;
        if queue.failing.is_some() || is_full {
            let on_failure = self.on_failure;
            if duty == Duty::Before && on_failure != OnFailure::Continue {
                return Err(Unavailable);
            }
            if (duty == Duty::Before || is_full) && !crate::mutant!("audit.gaps-are-not-counted") {
                let why = "more records than memory has room for";
                queue.failing.get_or_insert_with(|| Failing::new(why.to_owned())).missed += 1;
                let ticket = Ticket(queue.taken);
                drop(queue);
                self.stands_still(why);
                return Ok(ticket);
            }
        }
        // Who fills an empty queue wakes the thread: those after it need not.
        let was_empty = queue.is_empty();
        queue.push_of(template, &record);
        let ticket = Ticket(queue.taken);
        drop(queue);
        record::give_back(record);
        if was_empty || self.durability == Durability::Sync {
            self.filled.notify_one();
        }
        Ok(ticket)
    }

    /// Somebody waits for what is in the queue.
    fn hurry(&self) {
        // Under sync the queue is never kept.
        if self.durability != Durability::Sync {
            self.queue().hurry = true;
            self.filled.notify_one();
        }
    }

    /// Comes for what a session has to tell, with the next batch.
    fn come_for(&self, repeated: Arc<Repeated>) {
        let was_empty = {
            let mut queue = self.queue();
            let was_empty = queue.is_empty();
            queue.repeated.push(repeated);
            was_empty
        };
        if was_empty {
            self.filled.notify_one();
        }
    }

    /// Nothing comes to the disk any more, and it does not say why.
    fn stands_still(&self, why: &str) {
        let is_new = self.progress.send_if_modified(|now| !std::mem::replace(&mut now.failing, true));
        if is_new {
            tracing::error!("the audit log cannot be written: {why}");
            self.queue().failing.get_or_insert_with(|| Failing::new(why.to_owned()));
            self.events.emit(Event::AuditFailed { refuses: self.on_failure != OnFailure::Continue });
        }
    }

    /// The thread's own.
    fn write(&self, mut writer: Writer<impl Disk>) {
        let mut lines = vec![];
        let mut pruned = Instant::now();
        let mut looked = Instant::now();
        let mut upkept = true;
        loop {
            let (taken, rotates, stop) = self.await_lines(&mut lines, &writer);
            let begun = Instant::now();
            writer.add_lines(&mut lines);
            lines.clear();
            // Once a second, or while it fails.
            let looks = looked.elapsed() >= RETRY;
            let written = if looks { writer.is_there() } else { Ok(()) };
            match written.and_then(|()| writer.flush()) {
                Ok(()) => self.has_written(&mut writer, taken, begun),
                Err(error) => self.has_failed(&mut writer, &error),
            }
            if looks {
                looked = Instant::now();
            }
            let kept = if rotates { writer.rotate() } else { Ok(()) };
            let kept = kept.and_then(|()| if stop { writer.close() } else { writer.upkeep() });
            let kept_well = kept.is_ok();
            match (kept, upkept) {
                (Err(error), true) => tracing::warn!("the audit log has no new checkpoint, or no reserve: {error}"),
                (Ok(()), false) => tracing::info!("the audit log has checkpoints and its reserve again"),
                (Err(_), false) | (Ok(()), true) => {}
            }
            upkept = kept_well;
            if stop {
                return;
            }
            if let Some(retention) = self.retention.filter(|_| rotates || pruned.elapsed() > Duration::from_secs(3600)) {
                pruned = Instant::now();
                self.prune(&mut writer, retention);
            }
        }
    }

    /// Moves what is there into `lines`, which are empty: with how many records were taken until now, whether the segment ends with
    /// them, and whether they are the last.
    fn await_lines(&self, lines: &mut Vec<u8>, writer: &Writer<impl Disk>) -> (u64, bool, bool) {
        let mut queue = self.queue();
        let patience = if queue.failing.is_some() { RETRY } else { self.format.checkpoint };
        let is_idle = |queue: &mut Queue| !queue.stop && (queue.is_empty() || queue.failing.is_some());
        queue = self.filled.wait_timeout_while(queue, patience, is_idle).unwrap_or_else(PoisonError::into_inner).0;
        if let Durability::Interval(interval) = self.durability
            && !queue.is_empty()
        {
            let waits = |queue: &mut Queue| !queue.stop && !queue.hurry && queue.lines.len() < BACKLOG / 8;
            queue = self.filled.wait_timeout_while(queue, interval, waits).unwrap_or_else(PoisonError::into_inner).0;
        }
        if !queue.stop {
            queue.collect();
        }
        std::mem::swap(lines, &mut queue.lines);
        queue.hurry = false;
        // Whoever comes from here on finds the next segment.
        let rotates = writer.will_rotate(lines.len());
        if (rotates || queue.templates.len() > TEMPLATES) && !crate::mutant!("audit.templates-are-told-once") {
            queue.templates.clear();
        }
        (queue.taken, rotates, queue.stop)
    }

    fn has_written(&self, writer: &mut Writer<impl Disk>, taken: u64, begun: Instant) {
        let ended = self.queue().failing.take();
        if let Some(failing) = ended {
            tracing::info!("the audit log is written again; {} records are missing", failing.missed);
            writer.add(failing.record().end());
            if let Err(error) = writer.flush() {
                self.queue().failing = Some(failing);
                return self.has_failed(writer, &error);
            }
            self.events.emit(Event::AuditRestored);
        }
        self.queue().backlog = 0;
        let before = self.progress.borrow().durable;
        self.progress.send_replace(Progress { durable: taken, failing: false });
        if taken > before {
            self.events.emit(Event::AuditWritten { records: taken - before, took: begun.elapsed() });
        }
    }

    fn has_failed(&self, writer: &mut Writer<impl Disk>, error: &io::Error) {
        let is_new = {
            let mut queue = self.queue();
            let is_new = queue.failing.is_none();
            queue.failing.get_or_insert_with(|| Failing::new(error.to_string()));
            is_new
        };
        self.progress.send_modify(|now| now.failing = true);
        if is_new {
            tracing::error!("the audit log cannot be written: {error}");
            self.events.emit(Event::AuditFailed { refuses: self.on_failure != OnFailure::Continue });
            if error.kind() == io::ErrorKind::StorageFull && writer.give_up_reserve() {
                // There is room for what is refused from now on, and for this.
                writer.add(Record::new("failed").text("why", &error.to_string()).end());
                let _ = writer.flush();
            }
        }
        self.queue().backlog = writer.backlog();
    }

    fn prune(&self, writer: &mut Writer<impl Disk>, retention: Duration) {
        match writer.prune(SystemTime::now() - retention) {
            Ok(0) => {}
            Ok(first) => tracing::info!("segments of the audit log before record {first} are not kept any more"),
            Err(error) => tracing::warn!("old segments of the audit log stay: {error}"),
        }
    }
}

impl Queue {
    /// Whether there is nothing to write.
    fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.repeated.is_empty()
    }

    /// What sessions have to tell of the cache.
    fn collect(&mut self) {
        for (record, template) in std::mem::take(&mut self.repeated).iter().filter_map(|one| one.collect()) {
            self.push_of(Some(&template), &record.end());
        }
    }

    /// A record, after its template where the segment has that not yet.
    fn push_of(&mut self, template: Option<&Template>, record: &[u8]) {
        if let Some(template) = template
            && self.templates.insert(template.hash)
        {
            self.push(&template.record());
        }
        self.push(record);
    }

    fn push(&mut self, record: &[u8]) {
        self.lines.extend_from_slice(&[b' '; segment::PREFIX]);
        self.lines.extend_from_slice(record);
        self.lines.push(b'\n');
        self.taken += 1;
    }
}

impl Failing {
    fn new(why: String) -> Failing {
        Failing { since: SystemTime::now(), why, missed: 0 }
    }

    fn record(&self) -> Record {
        let since = Record::at(self.since, "").end();
        let since: serde_json::Value = serde_json::from_slice(&since).unwrap_or_default();
        let gap = Record::new("gap").maybe("since", since["time"].as_str());
        gap.number("missed", self.missed).text("why", &self.why)
    }
}
