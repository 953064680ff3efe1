//! Writes that do not go through this process: other proxies', psql's, a migration's. A logical replication slot tells them after they
//! have been committed, so that an answer may be older than they are, but not by more than a bound that is kept or nothing is given.
//!
//! What is told is an intent like any other, open until the server's snapshots see the transaction: the log may tell of it before they
//! do (synchronous replication). The bound: at τ the server is asked how far its log goes; once the slot has told all up to there,
//! whatever was visible before τ has ended its answers. So answers are given as long as the last such τ is not older than the bound. It is
//! the position of insertion, not of flushing: commits that nothing waits for are visible before they are flushed.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::DatabaseCache;
use super::tags::{Intent, Part};
use super::upkeep::Tables;
use crate::error::SqlError;
use crate::plan::ChangedRow;
use crate::wire::pgoutput::{Message, Relation, Tuple};

/// How old an answer may be.
#[derive(Debug)]
pub struct Staleness {
    within: Duration,
    began: Instant,
    /// Microseconds since then; all that was visible before has ended its answers. 0: it is not known.
    known: AtomicU64,
}

impl Staleness {
    pub fn new(within: Duration) -> Staleness {
        Staleness { within, began: Instant::now(), known: AtomicU64::new(0) }
    }

    pub fn within(&self) -> Duration {
        self.within
    }

    fn micros(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.began).as_micros()).unwrap_or(u64::MAX)
    }

    /// Whether answers may be given now.
    pub fn is_kept(&self) -> bool {
        let known = self.known.load(Ordering::SeqCst);
        let age = self.micros(Instant::now()).saturating_sub(known);
        known != 0 && Duration::from_micros(age) <= self.within || crate::mutant!("cache.follow-for-ever")
    }

    /// All that was visible at that time has ended its answers.
    pub fn note_known(&self, at: Instant) {
        self.known.fetch_max(self.micros(at), Ordering::SeqCst);
    }

    /// Nothing is known any more.
    pub fn lose(&self) {
        self.known.store(0, Ordering::SeqCst);
    }
}

/// Turns what a slot tells into intents.
#[derive(Debug)]
pub struct Follower {
    cache: DatabaseCache,
    relations: HashMap<u32, Relation>,
    /// What is being told of.
    transaction: Option<(u32, Intent, usize)>,
    /// Told, and perhaps not visible yet.
    pending: VecDeque<(u32, Intent)>,
}

/// So many rows of one transaction are told apart.
const ROWS: usize = 1_000;

impl Follower {
    pub fn new(cache: DatabaseCache) -> Follower {
        Follower { cache, relations: HashMap::new(), transaction: None, pending: VecDeque::new() }
    }

    /// Another stream begins, which tells relations again. What is pending stays so.
    pub fn begin_again(&mut self) {
        self.relations.clear();
        if let Some((xid, intent, _)) = self.transaction.take() {
            self.pending.push_back((xid, intent));
        }
    }

    /// # Errors
    /// It is no message of pgoutput.
    pub fn take(&mut self, message: &[u8], tables: &dyn Tables) -> Result<(), SqlError> {
        match Message::parse(message)? {
            Message::Begin { xid } => self.transaction = Some((xid, self.cache.intend(), 0)),
            Message::Commit => {
                if let Some((xid, intent, _)) = self.transaction.take() {
                    self.pending.push_back((xid, intent));
                }
            }
            Message::Relation(relation) => _ = self.relations.insert(relation.oid, relation),
            Message::Insert { relation, new } => self.row(relation, &new, tables),
            Message::Update { relation, old, new } => self.update(relation, old.as_ref(), &new, tables),
            Message::Delete { relation, old } => self.row(relation, &old, tables),
            Message::Truncate { relations } => {
                for relation in relations {
                    match tables.changed(relation, &|_| None) {
                        Some(changed) => self.add(&ChangedRow { tenant: None, row: None, ..changed }),
                        None => self.add_everything(),
                    }
                }
            }
            Message::Other => {}
        }
        Ok(())
    }

    fn row(&mut self, oid: u32, tuple: &Tuple<'_>, tables: &dyn Tables) {
        let changed = self.relations.get(&oid).and_then(|relation| {
            let value = |column: &str| relation.value(tuple, column);
            tables.changed(oid, &value)
        });
        match changed {
            Some(changed) => self.add(&changed),
            None => self.add_everything(),
        }
    }

    /// Where the old row is not told, its replica identity is the new one's.
    fn update(&mut self, oid: u32, old: Option<&Tuple<'_>>, new: &Tuple<'_>, tables: &dyn Tables) {
        let old = match (old, self.relations.get(&oid)) {
            (Some(old), _) => Tuple(old.0.clone()),
            (None, Some(relation)) => {
                let told = |(value, known): (&Option<_>, &bool)| value.filter(|_| *known);
                Tuple(new.0.iter().zip(&relation.identity).map(told).collect())
            }
            (None, None) => return self.add_everything(),
        };
        if !crate::mutant!("cache.follow-no-old-rows") {
            self.row(oid, &old, tables);
        }
        self.row(oid, new, tables);
    }

    fn add(&mut self, changed: &ChangedRow) {
        let Some((_, intent, rows)) = &mut self.transaction else { return };
        *rows += 1;
        if *rows > ROWS {
            return self.add_everything();
        }
        let tenant = changed.tenant.as_ref();
        let part = changed.row.filter(|_| tenant.is_some()).map_or(Part::Many, Part::Row);
        for part in [Part::Any, part] {
            intent.add(self.cache.tag_of(changed.family, tenant, part));
        }
    }

    fn add_everything(&mut self) {
        if let Some((_, intent, _)) = &mut self.transaction {
            intent.add(self.cache.everything);
        }
    }

    pub fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Ends the intents of transactions that this snapshot sees.
    pub fn note_snapshot(&mut self, snapshot: &Snapshot) {
        for (xid, intent) in std::mem::take(&mut self.pending) {
            if snapshot.sees(xid) || crate::mutant!("cache.follow-before-visible") {
                intent.end()
            } else {
                self.pending.push_back((xid, intent))
            }
        }
    }
}

/// pg_current_snapshot()
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub xmin: u64,
    pub xmax: u64,
    running: Vec<u64>,
}

impl Snapshot {
    /// As PostgreSQL prints it: `xmin:xmax:xid,xid`.
    pub fn parse(text: &str) -> Option<Snapshot> {
        let mut parts = text.splitn(3, ':');
        let (xmin, xmax) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let running = parts.next()?.split(',').filter(|x| !x.is_empty()).map(str::parse).collect::<Result<_, _>>().ok()?;
        Some(Snapshot { xmin, xmax, running })
    }

    /// Whether the transaction of this number, without its epoch, has ended for it.
    fn sees(&self, xid: u32) -> bool {
        // The nearest to xmax that has these bits.
        let distance = xid.wrapping_sub(self.xmax as u32) as i32;
        let full = self.xmax.wrapping_add_signed(i64::from(distance));
        full < self.xmin || full < self.xmax && !self.running.contains(&full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_sees_what_has_ended() {
        let snapshot = Snapshot::parse("10:20:12,15").expect("a snapshot");
        for (xid, sees) in [(9, true), (10, true), (12, false), (13, true), (15, false), (19, true), (20, false), (21, false)] {
            assert_eq!(snapshot.sees(xid), sees, "{xid}");
        }
        let later = Snapshot::parse("8589934592:8589934600:").expect("a snapshot");
        assert!(later.sees(u32::MAX) && later.sees(7) && !later.sees(8) && !later.sees(9), "of the third epoch, and the second");
        for text in ["", "1", "1:2", "a:b:", "1:2:x"] {
            assert_eq!(Snapshot::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_bound_is_kept_for_its_time() {
        let bound = Staleness::new(Duration::from_millis(200));
        assert!(!bound.is_kept(), "nothing is known yet");
        bound.note_known(Instant::now() + Duration::from_millis(1));
        assert!(bound.is_kept());
        bound.lose();
        assert!(!bound.is_kept());
        bound.note_known(Instant::now() + Duration::from_millis(1));
        while bound.is_kept() {
            std::thread::yield_now();
        }
        assert!(bound.micros(Instant::now()) >= 200_000);
    }
}
