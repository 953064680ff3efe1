//! How often keys were asked for, about: a count-min sketch whose numbers are halved from time to time (TinyLFU, Einziger, Friedman
//! and Manes 2017), of one cache line for each key. It remembers what is not kept, so that what is asked for again comes to stay.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Numbers of one line, of which each key has four.
const LINE: usize = 64;
/// More is as much: it is not written any more.
const MOST: u8 = 250;
/// Numbers are halved once so many were added for each answer that there is room for: benches/eviction.rs was best at 100, and
/// by a twentieth worse at 10.
const WINDOW: u64 = 100;
/// Numbers for each answer that there is room for: benches/eviction.rs gains more by them than the answers that have no room now would.
const SPREAD: usize = 16;

/// Numbers by key.
pub struct Frequency {
    numbers: Box<[AtomicU8]>,
    added: AtomicU64,
    window: u64,
}

impl Frequency {
    /// `answers`: how many there is room for, about.
    pub fn new(answers: usize) -> Frequency {
        let numbers = (answers * SPREAD).max(LINE).next_power_of_two();
        Frequency {
            numbers: (0..numbers).map(|_| AtomicU8::new(0)).collect(),
            added: AtomicU64::new(0),
            window: WINDOW * answers.max(1) as u64,
        }
    }

    pub fn bytes(&self) -> usize {
        self.numbers.len()
    }

    fn of_key(&self, hash: u64) -> [&AtomicU8; 4] {
        let line = (hash as usize & (self.numbers.len() - 1)) & !(LINE - 1);
        // Other bits than those of the line.
        let place = |i: u32| &self.numbers[line + ((hash >> (32 + 6 * i)) as usize & (LINE - 1))];
        [place(0), place(1), place(2), place(3)]
    }

    pub fn of(&self, hash: u64) -> u8 {
        self.of_key(hash).iter().map(|n| n.load(Ordering::Relaxed)).min().unwrap_or_default()
    }

    /// One more. Two at once may count as one.
    pub fn add(&self, hash: u64) {
        let numbers = self.of_key(hash);
        let least = numbers.iter().map(|n| n.load(Ordering::Relaxed)).min().unwrap_or_default();
        if least >= MOST {
            return;
        }
        for number in numbers.iter().filter(|n| n.load(Ordering::Relaxed) == least) {
            number.store(least + 1, Ordering::Relaxed);
        }
        if self.added.fetch_add(1, Ordering::Relaxed) + 1 == self.window {
            self.halve();
        }
    }

    fn halve(&self) {
        for number in &self.numbers {
            number.store(number.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
        }
        self.added.store(0, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Frequency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frequency({} numbers)", self.numbers.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_often_is_known_and_forgotten_in_time() {
        let frequency = Frequency::new(1_000);
        let hash = |n: u64| ahash::RandomState::with_seeds(1, 2, 3, 4).hash_one(n);
        for n in 0..1_000 {
            (0..n / 100).for_each(|_| frequency.add(hash(n)));
        }
        let right = (0..1_000).filter(|n| u64::from(frequency.of(hash(*n))) == n / 100).count();
        assert!(right > 950, "{right}");
        (0..1_000_000).for_each(|n| frequency.add(hash(n)));
        assert!(frequency.of(hash(999)) < 250);
        (0..1_000).for_each(|_| frequency.add(hash(5)));
        assert_eq!(frequency.of(hash(5)), 250, "no more than that is counted");
    }
}
