//! The memory tier: bounded in bytes, keys included.

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::sync::Arc;

use super::tags::Stamps;
use crate::principal::Tenant;

/// A kept answer.
#[derive(Debug)]
pub struct Entry {
    pub answer: Bytes,
    /// Whose rows it was made of.
    pub tenant: Option<Tenant>,
    pub stamps: Stamps,
}

/// What an entry takes besides key and answer, in bytes: about.
const OVERHEAD: u64 = 200;

#[derive(Clone, Debug)]
struct ByBytes;

impl Weighter<Box<[u8]>, Arc<Entry>> for ByBytes {
    fn weight(&self, key: &Box<[u8]>, entry: &Arc<Entry>) -> u64 {
        key.len() as u64 + entry.answer.len() as u64 + OVERHEAD
    }
}

/// Answers by key.
pub struct Store {
    answers: Cache<Box<[u8]>, Arc<Entry>, ByBytes, ahash::RandomState>,
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
        let hasher = ahash::RandomState::new();
        Store { answers: Cache::with(expected, bytes as u64, ByBytes, hasher.clone(), Default::default()), hasher }
    }

    /// Of a key; another in each process.
    pub fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    pub fn get(&self, key: &[u8]) -> Option<Arc<Entry>> {
        self.answers.get(key)
    }

    pub fn insert(&self, key: Box<[u8]>, entry: Entry) {
        self.answers.insert(key, Arc::new(entry));
    }

    /// Bytes, keys included.
    pub fn weight(&self) -> u64 {
        self.answers.weight()
    }
}
