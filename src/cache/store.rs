//! The memory tier: bounded in bytes, keys included.
//!
//! What stays is decided by what it saves: how often it is asked for ([`frequency`](super::frequency)) times what the server took for
//! it, for each byte. A new answer that needs room is compared with the least of some that are taken by chance, and stays only if it
//! saves more; what something has written since goes first. benches/eviction.rs holds this to LRU and to the optimum.
//!
//! Tenants have a floor and a ceiling. What a tenant has below its floor, an equal part of one half, others do not push out; who
//! has more than one half, where there are others, makes room for them, and for itself only from what is its own.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use dashmap::DashMap;
use indexmap::{Equivalent, IndexMap};
use smallvec::SmallVec;

use super::frequency::Frequency;
use super::tags::Stamps;
use crate::plan::TemplateUse;
use crate::principal::Tenant;

/// A kept answer.
#[derive(Debug)]
pub struct Entry {
    pub answer: Box<[u8]>,
    pub stamps: Stamps,
    /// Of whose rows it was made.
    pub owner: Arc<Owner>,
    /// What the server took for it, in microseconds: about.
    pub cost: u32,
    pub template: Arc<TemplateUse>,
    /// It is not given later; `None`: it does not grow old by itself.
    pub until: Option<Instant>,
}

/// A tenant, or nobody: rows of shared tables.
#[derive(Debug)]
pub struct Owner {
    pub tenant: Option<Tenant>,
    /// What its keys and answers take.
    bytes: AtomicU64,
    /// How many answers were given from memory, and how many were kept.
    pub hits: AtomicU64,
    pub fills: AtomicU64,
}

impl Owner {
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// A key and its hash, which is computed once: for the look, for the flight, and for the place of the answer.
#[derive(Clone, Copy, Debug)]
pub struct Hashed<'k> {
    /// Another in each process.
    hash: u64,
    key: &'k [u8],
}

impl Hashed<'_> {
    pub fn to_owned(self) -> StoredKey {
        StoredKey { hash: self.hash, key: self.key.into() }
    }
}

impl Hash for Hashed<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// A [`Hashed`] that has its bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredKey {
    hash: u64,
    key: Box<[u8]>,
}

impl StoredKey {
    /// As [`Hashed::hash`].
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// All of it.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.key
    }
}

impl std::fmt::Debug for StoredKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // It holds the client's values.
        write!(f, "StoredKey({} bytes)", self.key.len())
    }
}

impl Hash for StoredKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Equivalent<StoredKey> for Hashed<'_> {
    fn equivalent(&self, stored: &StoredKey) -> bool {
        // The whole of it.
        *self.key == *stored.key
    }
}

/// Hashes what is a hash.
#[derive(Clone, Copy, Debug, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.0 = self.0.rotate_left(8) ^ u64::from(*b));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl BuildHasher for AsItIs {
    type Hasher = AsItIs;

    fn build_hasher(&self) -> AsItIs {
        AsItIs(0)
    }
}

/// What an entry takes besides key and answer, in bytes: about.
const OVERHEAD: u64 = 200;

fn weight(key: &StoredKey, entry: &Entry) -> u64 {
    key.key.len() as u64 + entry.answer.len() as u64 + OVERHEAD
}

/// How many are looked at for one to go.
const SAMPLE: usize = 16;
/// And how many that were looked at before, and were worth little.
const POOL: usize = 8;

type Entries = IndexMap<StoredKey, Arc<Entry>, AsItIs>;

/// A part of all, by hash.
#[derive(Default)]
struct Shard {
    entries: Entries,
    bytes: u64,
    /// xorshift64
    random: u64,
    /// Places of those that were worth least when one had to go before, and may go next; by now another may be there.
    pool: SmallVec<[usize; POOL]>,
}

/// Answers by key.
pub struct Store {
    shards: Box<[RwLock<Shard>]>,
    /// What one shard may take.
    shard_bytes: u64,
    owners: DashMap<Option<Tenant>, Arc<Owner>, ahash::RandomState>,
    /// How many of them there are.
    many: AtomicU64,
    evicted: AtomicU64,
    frequency: Frequency,
    hasher: ahash::RandomState,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({} answers, {} bytes)", self.len(), self.bytes())
    }
}

/// What becomes of one that is looked at for its place.
enum Standing {
    /// Nobody would ever get it.
    Dead,
    /// It is its owner's by right.
    Protected,
    /// What it saves.
    Worth(f64),
}

/// Who wants a place.
struct Candidate<'e> {
    entry: &'e Entry,
    worth: f64,
    /// Whether its owner has more than there is for one.
    greedy: bool,
    floor: u64,
    ceiling: u64,
}

impl Store {
    /// `bytes`: what it may take.
    pub fn new(bytes: usize) -> Store {
        // Each of them holds the longest answers more than once.
        let shards = (bytes >> 20).clamp(1, 8).next_power_of_two();
        let frequency = Frequency::new(bytes / 400);
        let shard_bytes = bytes.saturating_sub(frequency.bytes()) as u64 / shards as u64;
        let shard = |n: usize| RwLock::new(Shard { random: 0x9e37_79b9_7f4a_7c15 ^ n as u64, ..Shard::default() });
        Store {
            shards: (0..shards).map(shard).collect(),
            shard_bytes,
            owners: DashMap::default(),
            many: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            frequency,
            hasher: ahash::RandomState::new(),
        }
    }

    pub fn hashed<'k>(&self, key: &'k [u8]) -> Hashed<'k> {
        Hashed { hash: self.hasher.hash_one(key), key }
    }

    fn shard(&self, hash: u64) -> &RwLock<Shard> {
        &self.shards[(hash >> 48) as usize % self.shards.len()]
    }

    pub fn get(&self, key: Hashed<'_>) -> Option<Arc<Entry>> {
        self.shard(key.hash).read().unwrap_or_else(PoisonError::into_inner).entries.get(&key).cloned()
    }

    /// Whether it was asked for before, as far as is remembered. It is, now.
    pub fn has_seen(&self, key: &StoredKey) -> bool {
        let seen = self.frequency.of(key.hash) > 0;
        if !seen {
            self.frequency.add(key.hash);
        }
        seen
    }

    /// It was given.
    pub fn note_use(&self, key: Hashed<'_>) {
        self.frequency.add(key.hash);
    }

    /// Whose answers are counted together.
    pub fn owner(&self, tenant: Option<&Tenant>) -> Arc<Owner> {
        let owner = self.owners.entry(tenant.cloned()).or_insert_with(|| {
            self.many.fetch_add(1, Ordering::Relaxed);
            let tenant = tenant.cloned();
            Arc::new(Owner { tenant, bytes: AtomicU64::new(0), hits: AtomicU64::new(0), fills: AtomicU64::new(0) })
        });
        owner.clone()
    }

    /// Keeps it, if it is worth its place. `is_dead`: nobody would ever get it.
    pub fn insert(&self, key: StoredKey, entry: Arc<Entry>, is_dead: impl Fn(&Entry) -> bool) {
        let wanted = weight(&key, &entry);
        if wanted > self.shard_bytes {
            self.forget_if_poor(&entry.owner);
            return;
        }
        self.frequency.add(key.hash);
        let half = self.allowed() / 2;
        let many = self.many.load(Ordering::Relaxed).max(1);
        let mine = entry.owner.bytes();
        let floor = half / many;
        let worth = if mine + wanted <= floor { f64::MAX } else { self.worth(key.hash, &entry, wanted) };
        let greedy = many > 1 && mine > half;
        let candidate = Candidate { entry: &entry, worth, greedy, floor, ceiling: half };
        let mut shard = self.shard(key.hash).write().unwrap_or_else(PoisonError::into_inner);
        if let Some((index, _, _)) = shard.entries.get_full(&key) {
            self.remove(&mut shard, index);
        }
        let mut tried = 0;
        while shard.bytes + wanted > self.shard_bytes {
            let victim = if tried < SAMPLE { self.victim(&mut shard, &candidate, &is_dead) } else { None };
            let Some(victim) = victim else {
                self.forget_if_poor(&entry.owner);
                return;
            };
            self.remove(&mut shard, victim);
            self.evicted.fetch_add(1, Ordering::Relaxed);
            tried += 1;
        }
        shard.bytes += wanted;
        entry.owner.bytes.fetch_add(wanted, Ordering::Relaxed);
        shard.entries.insert(key, entry);
    }

    /// What is worth less, or none.
    fn victim(&self, shard: &mut Shard, candidate: &Candidate<'_>, is_dead: &impl Fn(&Entry) -> bool) -> Option<usize> {
        let mut seen: SmallVec<[(f64, usize); SAMPLE + POOL]> = SmallVec::new();
        let mut looked = shard.pool.clone();
        for _ in 0..SAMPLE {
            shard.random ^= shard.random << 13;
            shard.random ^= shard.random >> 7;
            shard.random ^= shard.random << 17;
            looked.push((shard.random % shard.entries.len().max(1) as u64) as usize);
        }
        for index in looked {
            let Some((key, entry)) = shard.entries.get_index(index) else { continue };
            match self.standing(key, entry, candidate, is_dead) {
                Standing::Dead => return Some(index),
                Standing::Protected => {}
                Standing::Worth(worth) if !seen.iter().any(|(_, other)| *other == index) => seen.push((worth, index)),
                Standing::Worth(_) => {}
            }
        }
        seen.sort_unstable_by(|(a, _), (b, _)| a.total_cmp(b));
        let least = seen.first().copied().filter(|(worth, _)| candidate.worth > *worth).map(|(_, index)| index);
        // What goes is not there any more: the others are for the next time.
        shard.pool.clear();
        shard.pool.extend(seen.iter().map(|(_, index)| *index).filter(|index| Some(*index) != least).take(POOL));
        least
    }

    fn standing(&self, key: &StoredKey, entry: &Entry, candidate: &Candidate<'_>, is_dead: &impl Fn(&Entry) -> bool) -> Standing {
        let is_own = Arc::ptr_eq(&entry.owner, &candidate.entry.owner);
        if is_dead(entry) {
            Standing::Dead
        } else if !is_own && (candidate.greedy || entry.owner.bytes() <= candidate.floor) {
            Standing::Protected
        } else if !is_own && entry.owner.bytes() > candidate.ceiling {
            Standing::Worth(-1.0)
        } else {
            Standing::Worth(self.worth(key.hash, entry, weight(key, entry)))
        }
    }

    /// What it saves for each byte: about.
    fn worth(&self, hash: u64, entry: &Entry, weight: u64) -> f64 {
        f64::from(self.frequency.of(hash)) * f64::from(entry.cost.max(1)) / weight as f64
    }

    fn remove(&self, shard: &mut Shard, index: usize) {
        if let Some((key, entry)) = shard.entries.swap_remove_index(index) {
            let freed = weight(&key, &entry);
            shard.bytes -= freed;
            entry.owner.bytes.fetch_sub(freed, Ordering::Relaxed);
            self.forget_if_poor(&entry.owner);
        }
    }

    /// Who has nothing is not counted.
    fn forget_if_poor(&self, owner: &Arc<Owner>) {
        if owner.bytes() == 0
            && self.owners.remove_if(&owner.tenant, |_, known| Arc::ptr_eq(known, owner) && known.bytes() == 0).is_some()
        {
            self.many.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Removes what nobody would ever get.
    pub fn sweep(&self, is_dead: impl Fn(&Entry) -> bool) {
        for shard in &self.shards {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            let mut index = 0;
            while let Some((_, entry)) = shard.entries.get_index(index) {
                if is_dead(entry) { self.remove(&mut shard, index) } else { index += 1 }
            }
        }
    }

    /// Keys included.
    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.read().unwrap_or_else(PoisonError::into_inner).bytes).sum()
    }

    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().unwrap_or_else(PoisonError::into_inner).entries.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What keys and answers may take.
    pub fn allowed(&self) -> u64 {
        self.shard_bytes * self.shards.len() as u64
    }

    /// How many had to go for others.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    pub fn owners(&self) -> Vec<Arc<Owner>> {
        self.owners.iter().map(|owner| owner.value().clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(length: usize, owner: Arc<Owner>, cost: u32) -> Entry {
        let answer = vec![0; length].into();
        Entry { answer, stamps: Stamps::default(), owner, cost, template: Arc::default(), until: None }
    }

    fn fill(store: &Store, tenant: &str, n: u32) {
        let key = format!("{tenant} {n:0>80}");
        let hashed = store.hashed(key.as_bytes());
        if store.get(hashed).is_none() {
            let owner = store.owner(Some(&Tenant(tenant.into())));
            let entry = entry(100, owner, 100);
            store.insert(hashed.to_owned(), Arc::new(entry), |_| false);
        }
    }

    fn has(store: &Store, tenant: &str) -> u64 {
        store.owner(Some(&Tenant(tenant.into()))).bytes()
    }

    #[test]
    fn a_greedy_tenant_does_not_push_out_the_others() {
        let store = Store::new(1 << 20);
        let round = |tenant: &str, rows: std::ops::Range<u32>| rows.for_each(|n| fill(&store, tenant, n));
        round("greedy", 0..20_000);
        assert!(store.bytes() > 900_000, "{store:?}: alone it may have all");
        round("small", 0..200);
        let small = has(&store, "small");
        assert!(small > 60_000, "{small}: there is room for all of it");
        for _ in 0..5 {
            round("greedy", 0..20_000);
        }
        assert!(has(&store, "small") >= small, "what is below the floor stays");
        // Two that both want all share it.
        for _ in 0..5 {
            round("other", 0..20_000);
            round("greedy", 0..20_000);
        }
        let (other, greedy) = (has(&store, "other"), has(&store, "greedy"));
        assert!(other > 300_000 && greedy > 300_000, "{other} {greedy}");
        assert!(store.bytes() <= 1 << 20);
        assert!(store.evicted() > 0);
    }

    #[test]
    fn what_saves_more_stays() {
        let store = Store::new(1 << 20);
        let owner = store.owner(None);
        let keep = |name: String, length: usize, cost: u32| {
            let hashed = store.hashed(name.as_bytes());
            let entry = entry(length, owner.clone(), cost);
            store.insert(hashed.to_owned(), Arc::new(entry), |_| false);
        };
        let kept = |name: &str| (0..400).filter(|n| store.get(store.hashed(format!("{name} {n}").as_bytes())).is_some()).count();
        for n in 0..400 {
            keep(format!("dear {n}"), 1_000, 10_000);
        }
        for n in 0..4_000 {
            keep(format!("cheap {n}"), 1_000, 100);
        }
        assert_eq!(kept("dear"), 400);
        let cheap = kept("cheap");
        assert!(cheap < 400);
        // What nobody can get goes before all.
        store.sweep(|entry| entry.cost == 10_000);
        assert_eq!(kept("dear"), 0);
        assert_eq!(kept("cheap"), cheap);
    }
}
