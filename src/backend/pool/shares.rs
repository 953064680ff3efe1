//! Who gets a connection next: each holder in its turn, and none more than its share, so that one tenant cannot starve another.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::backend::hashed::OfHashes;
use crate::principal::Tenant;

/// Whom connections are lent to, as far as shares go: a tenant, or a login that has chosen none. A hash: two that collide share a
/// share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Holder(u64);

impl Holder {
    pub fn of(tenant: Option<&Tenant>, user: &str) -> Holder {
        static SEED: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(()));
        Holder(match tenant {
            Some(tenant) => xxh3_64_with_seed(tenant.0.as_bytes(), *SEED),
            None => xxh3_64_with_seed(user.as_bytes(), !*SEED),
        })
    }
}

/// A pool of fewer connections has none to spare.
const SMALL: usize = 5;

/// The most connections of a pool that one holder may have at once, where nobody says otherwise: of five or more, four fifths.
pub fn share_of(size: usize) -> usize {
    if size < SMALL { size } else { size - size / SMALL }
}

/// Those who wait for a connection, and what is lent to whom. `W`: how one is told.
#[derive(Debug)]
pub struct Shares<W> {
    share: usize,
    /// Connections that are lent; a holder of none is not in it.
    held: HashMap<Holder, usize, OfHashes>,
    /// First in, first out. A holder that none waits for is not in it.
    waiting: HashMap<Holder, VecDeque<W>, OfHashes>,
    /// Those in `waiting`, each once: whose turn is next.
    turns: VecDeque<Holder>,
}

impl<W> Shares<W> {
    pub fn new(share: usize) -> Self {
        Shares { share, held: HashMap::default(), waiting: HashMap::default(), turns: VecDeque::new() }
    }

    /// Whether a holder may have one more.
    pub fn has_room(&self, holder: Holder) -> bool {
        self.held.get(&holder).is_none_or(|held| *held < self.share) || crate::mutant!("session.a-tenant-may-have-all")
    }

    pub fn lend(&mut self, holder: Holder) {
        *self.held.entry(holder).or_default() += 1;
    }

    pub fn take_back(&mut self, holder: Holder) {
        if let Some(held) = self.held.get_mut(&holder) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&holder);
            }
        }
    }

    /// `is_gone`: of those that wait longest, to keep no more of them than there are.
    pub fn wait(&mut self, holder: Holder, waiter: W, is_gone: impl Fn(&W) -> bool) {
        let queue = self.waiting.entry(holder).or_default();
        if queue.is_empty() {
            self.turns.push_back(holder);
        }
        while queue.front().is_some_and(&is_gone) {
            queue.pop_front();
        }
        queue.push_back(waiter);
    }

    /// The next that may have a connection: of each holder the one that has waited longest, one holder after the other.
    pub fn next(&mut self) -> Option<(Holder, W)> {
        for _ in 0..self.turns.len() {
            let holder = self.turns.pop_front()?;
            let has_room = self.has_room(holder);
            let Some(queue) = self.waiting.get_mut(&holder).filter(|queue| !queue.is_empty()) else { continue };
            if !has_room {
                self.turns.push_back(holder);
                continue;
            }
            let waiter = queue.pop_front()?;
            if queue.is_empty() {
                self.waiting.remove(&holder);
            } else if crate::mutant!("session.turns-are-not-taken") {
                self.turns.push_front(holder);
            } else {
                self.turns.push_back(holder);
            }
            return Some((holder, waiter));
        }
        None
    }

    /// How many of those who wait may have a connection now.
    pub fn entitled(&self, is_gone: impl Fn(&W) -> bool) -> usize {
        let room = |holder: &Holder| self.share - self.held.get(holder).copied().unwrap_or(0).min(self.share);
        self.waiting.iter().map(|(holder, queue)| queue.iter().filter(|w| !is_gone(w)).count().min(room(holder))).sum()
    }

    pub fn waiters(&self) -> impl Iterator<Item = &W> {
        self.waiting.values().flatten()
    }

    /// All who wait; none does any more.
    pub fn dismiss(&mut self) -> Vec<W> {
        self.turns.clear();
        std::mem::take(&mut self.waiting).into_values().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREEDY: Holder = Holder(1);
    const QUIET: Holder = Holder(2);

    fn stays(_: &u32) -> bool {
        false
    }

    #[test]
    fn each_holder_has_its_turn() {
        let mut shares = Shares::new(2);
        (0..4).for_each(|n| shares.wait(GREEDY, n, stays));
        (10..12).for_each(|n| shares.wait(QUIET, n, stays));
        let order: Vec<u32> = std::iter::from_fn(|| shares.next()).map(|(_, n)| n).collect();
        assert_eq!(order, [0, 10, 1, 11, 2, 3]);
        assert_eq!(shares.waiters().count(), 0);
    }

    #[test]
    fn a_fifth_is_for_others() {
        assert_eq!([1, 2, 4, 5, 10, 20].map(share_of), [1, 2, 4, 4, 8, 16]);
        let mut shares = Shares::new(share_of(5));
        (0..6).for_each(|n| shares.wait(GREEDY, n, stays));
        assert_eq!(shares.entitled(stays), 4);
        while let Some((holder, _)) = shares.next() {
            shares.lend(holder);
        }
        assert_eq!((shares.waiters().count(), shares.entitled(stays)), (2, 0));
        assert!(!shares.has_room(GREEDY) && shares.has_room(QUIET));
        shares.wait(QUIET, 10, stays);
        assert_eq!(shares.next(), Some((QUIET, 10)));
        shares.take_back(GREEDY);
        assert_eq!(shares.next(), Some((GREEDY, 4)));
    }

    #[test]
    fn who_is_gone_is_not_kept() {
        let mut shares = Shares::new(1);
        let gone = |n: &u32| *n < 100;
        (0..200).for_each(|n| shares.wait(GREEDY, n % 100, gone));
        assert_eq!(shares.waiters().count(), 1);
        assert_eq!(shares.entitled(gone), 0);
        assert_eq!(shares.dismiss().len(), 1);
        assert_eq!(shares.next(), None);
    }

    #[test]
    fn holders_are_told_apart() {
        let tenant = Tenant("a".into());
        assert_eq!(Holder::of(Some(&tenant), "x"), Holder::of(Some(&tenant), "y"));
        assert_ne!(Holder::of(Some(&tenant), "a"), Holder::of(None, "a"));
        assert_ne!(Holder::of(None, "a"), Holder::of(None, "b"));
    }
}
