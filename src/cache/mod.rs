//! The result cache: answers that are still true, by one rule: validate on hit (NOTHING STALE).
//!
//! *Commit-intent epochs.* Each tag, which stands for rows of one tenant in one family of tables, has an epoch and a number of
//! writers ([`tags`]). A writer opens an [`Intent`] before its statement leaves and closes it once the outcome is known: from then
//! until then the tag cannot be read, and afterwards it has another epoch. An answer is kept with the [`Stamps`] that were
//! taken before its query left, all of them without writers; a hit compares them with the tags of now.
//!
//! Why a hit is what the server would say now: let S be the snapshot of the kept answer, and let a change become visible at
//! v > S. Its intent was opened before v and is not closed before v. Had it been opened before the stamps were taken, then they
//! would have seen a writer, and nothing were kept, or it were closed, and v < S. So it was opened after the stamps, which are not the
//! tag's any more from before v on. Where the outcome is not known, because a connection broke, the intent stays open until the server
//! has no such process ([`doubt`]).
//!
//! What is written past this process is told by the server's log, afterwards: [`follow`] keeps answers within a bound, or gives none.
//! The whole of a key is compared, and tenant and policy epoch are part of it
//! (CACHE KEY: one constructor).

pub mod doubt;
pub mod flights;
pub mod follow;
pub mod frequency;
pub mod hint;
pub mod shared;
pub mod store;
pub mod tags;
pub mod upkeep;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use bytes::{Buf, BytesMut};
use smallvec::SmallVec;

use crate::backend::connection::Settings;
use crate::config;
use crate::event::{Events, Uncached};
use crate::id::PolicyEpoch;
use crate::plan::{Bound, Reads, Rows, TemplateUse, Touched, Values, Whose, Writes};
use crate::principal::{Principal, Tenant};
use crate::wire::backend::tag;
use crate::wire::frame;
use flights::{Flight, Flights, Following, Takeoff};
use follow::Staleness;
use shared::{Sealed, Shared};
use store::{Entry, Store, StoredKey};
use tags::{Generation, Intent, Part, Slot, Stamps, Tag, Tags};

/// The answers of all databases.
#[derive(Debug)]
pub struct Cache {
    store: Store,
    /// The second tier, where there is one.
    shared: Option<Shared>,
    tags: Arc<Tags>,
    flights: Arc<Flights>,
    generation: ArcSwap<()>,
    /// All databases, by the names that clients use.
    databases: Mutex<Vec<(String, Numbers)>>,
    /// Templates that have had answers.
    templates: Mutex<Vec<Weak<TemplateUse>>>,
    /// What no answer outlives.
    ttl: Option<Duration>,
    /// The longest answer that is kept, in bytes.
    longest: usize,
}

impl Cache {
    /// `bytes`: what keys and answers may take.
    pub fn new(bytes: usize) -> Cache {
        // One answer does not push out all others.
        Cache {
            store: Store::new(bytes),
            shared: None,
            tags: Arc::new(Tags::new()),
            flights: Arc::default(),
            generation: ArcSwap::default(),
            databases: Mutex::default(),
            templates: Mutex::default(),
            ttl: None,
            longest: (1 << 20).min(bytes / 16),
        }
    }

    /// The same, whose answers are given for no longer than that.
    pub fn lasting(self, ttl: Option<Duration>) -> Cache {
        Cache { ttl, ..self }
    }

    /// With a second tier. Inside a runtime.
    ///
    /// # Errors
    /// Its client cannot be made.
    pub fn with_redis(self, redis: &config::Redis, events: Events) -> Result<Cache, String> {
        let shared = Shared::start(redis, self.tags.clone(), events).map_err(|error| error.to_string())?;
        Ok(Cache { shared: Some(shared), ..self })
    }

    /// What belongs to one database; `number` tells it from the others. `server`: the number of the first that is the same database
    /// of the same server, whose rows are written through either.
    pub fn of_database(self: &Arc<Self>, name: &str, number: u32, server: u32) -> DatabaseCache {
        let numbers = Numbers { number, server, everything: self.tags.slot(server, Tag::Everything) };
        self.databases.lock().unwrap_or_else(PoisonError::into_inner).push((name.to_owned(), numbers));
        numbers.of(self)
    }
}

/// What tells a database from the others.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    number: u32,
    server: u32,
    everything: Slot,
}

impl Numbers {
    fn of(self, cache: &Arc<Cache>) -> DatabaseCache {
        let Numbers { number, server, everything } = self;
        DatabaseCache { cache: cache.clone(), number, server, everything, bound: None }
    }
}

/// The answers of one database.
#[derive(Clone, Debug)]
pub struct DatabaseCache {
    cache: Arc<Cache>,
    number: u32,
    server: u32,
    everything: Slot,
    /// Where others write too.
    bound: Option<Arc<Staleness>>,
}

/// How the client asked: what an answer is and looks like depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form<'a> {
    /// Query. The answer: RowDescription to CommandComplete, all in text.
    Simple,
    /// Bind, Describe where `described`, Execute and Sync, with or without a Parse before. The answer: BindComplete to CommandComplete.
    Extended {
        described: bool,
        /// As Parse declares them.
        types: &'a [u32],
        /// The Bind message after its names: formats and values of parameters, formats of results.
        bound: &'a [u8],
    },
}

/// The length of ReadyForQuery, in bytes.
const READY: usize = 6;

const PARSE_COMPLETE: &[u8] = b"1\0\0\0\x04";

/// What most answers take, in bytes.
const SHORT: usize = 512;

/// A buffer of that many bytes is not kept for the next key.
const LONG_KEY: usize = 64 << 10;

/// What a key is made of: everything that an answer depends on but the data. INVARIANT (CACHE KEY): one constructor. The statement as it
/// is sent is a function of this: of the text, of what a template's key holds besides, and of the tenant.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// As the client wrote it: where it is known, it is not read again.
    pub text: &'a str,
    /// The present one.
    pub epoch: PolicyEpoch,
    pub principal: &'a Principal,
    pub search_path: &'a [Box<str>],
    pub form: Form<'a>,
    /// The session's.
    pub settings: &'a Settings,
}

/// What is not known.
#[derive(Debug)]
pub struct Missing {
    /// Under which it could be.
    key: StoredKey,
    /// That the key names: a plan of another one makes another answer.
    epoch: PolicyEpoch,
}

/// Whether an answer is known.
#[derive(Debug)]
pub enum Found {
    /// It is, whole.
    Hit(Arc<Entry>),
    Missing(Missing),
}

/// What is known about a statement.
#[derive(Debug)]
pub enum Looked {
    /// It may be kept.
    Miss(Box<Fill>),
    /// Another has asked, and is waiting for the answer.
    Asked(Following),
    Passed(Uncached),
}

/// Whether the answer of another was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    First,
    Second,
}

/// An answer on its way. Only stamps begin one.
#[derive(Debug)]
pub struct Fill {
    key: StoredKey,
    tenant: Option<Tenant>,
    /// When it was asked for.
    begun: Instant,
    /// How long it may be given.
    ttl: Option<Duration>,
    template: Arc<TemplateUse>,
    stamps: Stamps,
    /// Those of rows that are added, of which an answer that has rows need not know.
    if_empty: Stamps,
    answer: BytesMut,
    longest: usize,
    end: End,
    /// Who follows it is told when it ends, in whatever way.
    flight: Option<Flight>,
}

/// Whether the last of an answer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    ToCome,
    Came,
}

impl Fill {
    /// What is added next is its last.
    pub fn end(&mut self) {
        self.end = End::Came;
    }

    /// Who follows it need not wait for it any more.
    pub fn fly_alone(&mut self) {
        self.flight = None;
    }

    pub fn is_whole(&self) -> bool {
        self.end == End::Came
    }

    /// Adds what the client was sent. `false`: it is too long to be kept.
    pub fn add(&mut self, bytes: &[u8]) -> bool {
        self.answer.extend_from_slice(bytes);
        self.answer.len() <= self.longest
    }
}

/// The row of each family that a statement changes, for the values that are bound; `None`: it is not one.
#[derive(Clone, Debug, Default)]
pub struct WrittenRows(SmallVec<[Option<u64>; 1]>);

impl WrittenRows {
    pub fn of(writes: &Writes, values: &Values<'_>) -> WrittenRows {
        WrittenRows(match writes {
            Writes::Families(all) => all.iter().map(|touched| touched.rows.row(values)).collect(),
            Writes::Nothing | Writes::Everything => SmallVec::new(),
        })
    }
}

/// Whether an answer has rows.
fn has_rows(mut answer: &[u8]) -> bool {
    while let Some((kind, _, rest)) = frame::split(answer) {
        match kind {
            tag::DATA_ROW => return true,
            tag::ROW_DESCRIPTION | tag::BIND_COMPLETE => answer = rest,
            _ => return false, // tidy: not a syntax kind
        }
    }
    false
}

impl DatabaseCache {
    /// The same, where others write too, which is followed.
    pub fn bounded(self, bound: Arc<Staleness>) -> DatabaseCache {
        DatabaseCache { bound: Some(bound), ..self }
    }

    /// The answer of a statement that is alone in its message or batch, and sees what is committed when it begins.
    pub fn find(&self, asked: Asked<'_>) -> Found {
        thread_local! {
            static KEY: std::cell::RefCell<BytesMut> = std::cell::RefCell::default();
        }
        KEY.with_borrow_mut(|key| {
            if key.capacity() > LONG_KEY {
                *key = BytesMut::new();
            }
            self.write_key(asked, key);
            let hashed = self.cache.store.hashed(key);
            if let Some(entry) = self.cache.store.get(hashed)
                && (entry.stamps.are_current(&self.cache.tags) || crate::mutant!("cache.hits-not-validated"))
                && entry.owner.tenant.as_ref() == asked.principal.tenant()
                && self.bound.as_ref().is_none_or(|bound| bound.is_kept())
                && entry.until.is_none_or(|until| Instant::now() < until)
            {
                self.cache.store.note_use(hashed);
                entry.owner.hits.fetch_add(1, Ordering::Relaxed);
                entry.template.hits.fetch_add(1, Ordering::Relaxed);
                return Found::Hit(entry);
            }
            Found::Missing(Missing { key: hashed.to_owned(), epoch: asked.epoch })
        })
    }

    /// What becomes of a statement whose answer is not known. It has not been sent.
    pub fn look(&self, missing: Missing, bound: &Bound<'_>, turn: Turn) -> Looked {
        let (plan, tenant) = (bound.plan(), bound.tenant());
        let Missing { key, epoch } = missing;
        // Policies or definitions have changed in between.
        if epoch != plan.epoch() && !crate::mutant!("cache.key-of-another-epoch") {
            return Looked::Passed(Uncached::Epoch);
        }
        let (sources, of_policies) = match plan.reads() {
            Reads::Families { sources, ttl } => (sources, *ttl),
            Reads::Unknown(why) => return Looked::Passed(*why),
        };
        let template = plan.template(|used| self.cache.note_template(used));
        if template.is_rare() && !self.cache.store.has_seen(&key) && !self.cache.flights.flies(key.hash()) {
            return Looked::Passed(Uncached::Rare);
        }
        let ttl = [of_policies, hint::of(bound.values().source), self.cache.ttl].into_iter().flatten().min();
        if ttl == Some(Duration::ZERO) {
            return Looked::Passed(Uncached::Told);
        }
        if bound.names_the_present() && !crate::mutant!("cache.the-present-is-kept") {
            return Looked::Passed(Uncached::Present);
        }
        if self.bound.as_ref().is_some_and(|bound| !bound.is_kept()) {
            return Looked::Passed(Uncached::Behind);
        }
        // Before the query leaves: INVARIANT (NOTHING STALE).
        let Some((stamps, if_empty)) = self.stamp(sources, &bound.values(), tenant) else {
            return Looked::Passed(Uncached::Writing);
        };
        let flight = match self.cache.flights.take_off(key.hash()) {
            Takeoff::First(flight) => Some(flight),
            Takeoff::Follow(following) if turn == Turn::First => return Looked::Asked(following),
            Takeoff::Follow(_) | Takeoff::Alone => None,
        };
        Looked::Miss(Box::new(Fill {
            key,
            tenant: tenant.cloned(),
            begun: Instant::now(),
            ttl,
            template,
            stamps,
            if_empty,
            answer: BytesMut::with_capacity(SHORT),
            longest: self.cache.longest,
            end: End::ToCome,
            flight,
        }))
    }

    /// Keeps an answer, for as long as its stamps are those of the tags.
    pub fn keep(&self, fill: Fill) {
        let Fill { key, tenant, begun, ttl, template, mut stamps, if_empty, mut answer, longest: _, end: _, flight } = fill;
        // Who asks again may have parsed before.
        if answer.starts_with(PARSE_COMPLETE) {
            answer.advance(PARSE_COMPLETE.len());
        }
        // In a block, or outside of one.
        answer.truncate(answer.len().saturating_sub(READY));
        if !has_rows(&answer) && !crate::mutant!("cache.empty-for-ever") {
            stamps.extend(&if_empty);
        }
        // Where they are not current any more, nobody would ever get it.
        if stamps.are_current(&self.cache.tags) {
            let (store, tags) = (&self.cache.store, &self.cache.tags);
            let owner = store.owner(tenant.as_ref());
            owner.fills.fetch_add(1, Ordering::Relaxed);
            let cost = u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX);
            template.fills.fetch_add(1, Ordering::Relaxed);
            template.microseconds.fetch_add(cost.into(), Ordering::Relaxed);
            let until = ttl.map(|ttl| begun + ttl);
            let entry = Arc::new(Entry { answer: answer.as_ref().into(), stamps, owner, template, cost, until });
            // What grows old by itself stays here.
            if let (Some(shared), None) = (&self.cache.shared, until) {
                shared.put(&key, &entry);
            }
            store.insert(key, entry, |entry| !entry.stamps.are_current(tags));
        }
        // Now that it is there.
        drop(flight);
    }

    /// Asks the second tier for what is about to be asked of the server; `None`: there is no sense in it.
    pub fn ask(&self, fill: &Fill) -> Option<impl Future<Output = Option<Sealed>> + Send + 'static> {
        self.cache.shared.as_ref()?.ask(&fill.key)
    }

    /// The answer that came from the second tier, in memory now. `Err`: it is none, and what was begun goes on: its stamps are older
    /// than its query still.
    ///
    /// # Errors
    /// See above.
    pub fn receive(&self, mut fill: Box<Fill>, sealed: Option<Sealed>) -> Result<Arc<Entry>, Box<Fill>> {
        let shared = self.cache.shared.as_ref();
        let opened = sealed.zip(shared).and_then(|(sealed, shared)| shared.open(&fill.key, fill.tenant.as_ref(), sealed));
        let Some(shared::Opened { stamps, cost, answer }) = opened else {
            // What the server takes does not begin before.
            fill.begun = Instant::now();
            return Err(fill);
        };
        let (store, tags) = (&self.cache.store, &self.cache.tags);
        let owner = store.owner(fill.tenant.as_ref());
        owner.hits.fetch_add(1, Ordering::Relaxed);
        let template = fill.template.clone();
        template.hits.fetch_add(1, Ordering::Relaxed);
        // Only what does not grow old by itself was put there; of this question it may.
        let until = fill.ttl.map(|ttl| fill.begun + ttl);
        let entry = Arc::new(Entry { answer, stamps, owner, template, cost, until });
        store.insert(fill.key.clone(), entry.clone(), |entry| !entry.stamps.are_current(tags));
        // Who follows finds it there.
        drop(fill);
        Ok(entry)
    }

    /// An intent to write, of nothing yet.
    pub fn intend(&self) -> Intent {
        Intent::new(self.cache.tags.clone(), self.cache.generation.load_full())
    }

    /// Makes all answers of all databases unreadable until the intent ends: it is not known where the writes go.
    fn widen_everywhere(&self, intent: &mut Intent) {
        let all = self.cache.databases.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().for_each(|(_, numbers)| intent.add(numbers.everything));
    }

    /// Definitions have changed in the transaction of this intent, and the catalog is known to be old. What others have planned
    /// before may write more than they know: it ends when they have.
    pub fn end_with_others(&self, intent: Intent) {
        let others = self.cache.generation.swap(Generation::default());
        doubt::end_with(intent, others);
    }

    /// Ends all answers of the database.
    pub fn forget(&self) {
        let mut intent = self.intend();
        intent.add(self.everything);
        intent.end();
    }

    /// Makes what a statement may change unreadable until the intent ends.
    pub fn widen(&self, intent: &mut Intent, writes: &Writes, rows: &WrittenRows, tenant: Option<&Tenant>) {
        if crate::mutant!("cache.no-intents") {
            return;
        }
        match writes {
            Writes::Nothing => {}
            // Where to is not known: functions can reach another database (dblink, foreign tables), which may be one of this cache's.
            Writes::Everything => self.widen_everywhere(intent),
            Writes::Families(all) => {
                for (i, touched) in all.iter().enumerate() {
                    let tenant = tenant.filter(|_| touched.whose == Whose::Tenant);
                    let part = match (&touched.rows, rows.0.get(i).copied().flatten()) {
                        (Rows::Added, _) => Part::Added,
                        (Rows::One(_) | Rows::Shown(_), Some(row)) if tenant.is_some() => Part::Row(row),
                        (Rows::One(_) | Rows::Shown(_) | Rows::All, _) => Part::Many,
                    };
                    for part in [Part::Any, part] {
                        intent.add(self.tag_of(touched.family, tenant, part));
                    }
                }
            }
        }
    }

    /// The tags of what is read, and those that matter only where nothing is found; `None`: something writes there.
    fn stamp(&self, sources: &[Touched], values: &Values<'_>, tenant: Option<&Tenant>) -> Option<(Stamps, Stamps)> {
        let (mut stamps, mut if_empty) = (Stamps::default(), Stamps::default());
        let tags = &self.cache.tags;
        let mut readable = stamps.add(self.everything, tags);
        for source in sources {
            let own = match source.whose {
                Whose::Tenant => Some(tenant?),
                Whose::Anyones => None,
            };
            let mut add = |stamps: &mut Stamps, part| {
                readable &= stamps.add(self.tag_of(source.family, None, part), tags);
                readable &= own.is_none() || stamps.add(self.tag_of(source.family, own, part), tags);
            };
            match source.rows.row(values).filter(|_| own.is_some()) {
                None => add(&mut stamps, Part::Any),
                Some(row) => {
                    add(&mut stamps, Part::Many);
                    let shown = matches!(source.rows, Rows::Shown(_));
                    add(if shown { &mut if_empty } else { &mut stamps }, Part::Added);
                    if !crate::mutant!("cache.rows-not-stamped") {
                        readable &= stamps.add(self.tag_of(source.family, own, Part::Row(row)), tags);
                    }
                }
            }
        }
        (readable || crate::mutant!("cache.fills-beside-writers")).then_some((stamps, if_empty))
    }

    fn tag_of(&self, family: u32, tenant: Option<&Tenant>, part: Part) -> Slot {
        self.tag(tenant.map_or(Tag::Family(family, part), |tenant| Tag::Tenant(family, tenant, part)))
    }

    fn tag(&self, tag: Tag<'_>) -> Slot {
        self.cache.tags.slot(self.server, tag)
    }

    fn write_key(&self, asked: Asked<'_>, key: &mut BytesMut) {
        key.clear();
        let part = |key: &mut BytesMut, bytes: &[u8]| {
            key.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            key.extend_from_slice(bytes);
        };
        let parts = |key: &mut BytesMut, all: &[Box<str>]| {
            key.extend_from_slice(&(all.len() as u32).to_le_bytes());
            all.iter().for_each(|one| part(key, one.as_bytes()));
        };
        key.extend_from_slice(&self.number.to_le_bytes());
        if !crate::mutant!("cache.key-without-epoch") {
            key.extend_from_slice(&asked.epoch.0.to_le_bytes());
        }
        match asked.form {
            Form::Simple => key.extend_from_slice(b"Q"),
            Form::Extended { described, types, bound } => {
                key.extend_from_slice(&[b'P', u8::from(described)]);
                key.extend_from_slice(&(types.len() as u32).to_le_bytes());
                types.iter().for_each(|oid| key.extend_from_slice(&oid.to_le_bytes()));
                if !crate::mutant!("cache.key-without-parameters") {
                    part(key, bound);
                }
            }
        }
        match asked.principal.tenant().filter(|_| !crate::mutant!("cache.key-without-tenant")) {
            Some(tenant) => part(key, tenant.0.as_bytes()),
            None => key.extend_from_slice(&u32::MAX.to_le_bytes()),
        }
        if !crate::mutant!("cache.key-without-roles") {
            parts(key, &asked.principal.roles);
        }
        // Decides what SET and current_setting() of that name are.
        part(key, asked.principal.tenant_setting.as_deref().unwrap_or_default().as_bytes());
        if !crate::mutant!("cache.key-without-search-path") {
            parts(key, asked.search_path);
        }
        if !crate::mutant!("cache.key-without-settings") {
            part(key, asked.settings.shown());
        }
        part(key, asked.text.as_bytes());
    }
}

#[cfg(test)]
mod tests;
