//! The memory tier: bounded in bytes, keys included.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use quick_cache::sync::Cache;
use quick_cache::{Equivalent, Weighter};

use super::tags::Stamps;
use crate::principal::Tenant;

/// A kept answer.
#[derive(Debug)]
pub struct Entry {
    pub answer: Box<[u8]>,
    /// Whose rows it was made of.
    pub tenant: Option<Tenant>,
    pub stamps: Stamps,
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

#[derive(Clone, Debug)]
struct ByBytes;

impl Weighter<StoredKey, Arc<Entry>> for ByBytes {
    fn weight(&self, key: &StoredKey, entry: &Arc<Entry>) -> u64 {
        key.key.len() as u64 + entry.answer.len() as u64 + OVERHEAD
    }
}

/// Answers by key.
pub struct Store {
    answers: Cache<StoredKey, Arc<Entry>, ByBytes, AsItIs>,
    hasher: ahash::RandomState,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({} answers, {} bytes)", self.answers.len(), self.answers.weight())
    }
}

impl Store {
    /// `bytes`: what it may take.
    pub fn new(bytes: usize) -> Store {
        let expected = (bytes / 1_000).max(16);
        let answers = Cache::with(expected, bytes as u64, ByBytes, AsItIs(0), Default::default());
        Store { answers, hasher: ahash::RandomState::new() }
    }

    pub fn hashed<'k>(&self, key: &'k [u8]) -> Hashed<'k> {
        Hashed { hash: self.hasher.hash_one(key), key }
    }

    pub fn get(&self, key: Hashed<'_>) -> Option<Arc<Entry>> {
        self.answers.get(&key)
    }

    pub fn insert(&self, key: StoredKey, entry: Entry) {
        self.answers.insert(key, Arc::new(entry));
    }

    /// Bytes, keys included.
    pub fn weight(&self) -> u64 {
        self.answers.weight()
    }
}
