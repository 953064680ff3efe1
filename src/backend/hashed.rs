//! Maps whose keys are hashes already: keyed ones, so that nobody can choose keys that collide.

use std::hash::{BuildHasherDefault, Hasher};

pub type OfHashes = BuildHasherDefault<Hashed>;

/// The low half of a key that is a hash.
#[derive(Debug, Default)]
pub struct Hashed(u64);

impl Hasher for Hashed {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }

    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
