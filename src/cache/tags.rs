//! Epochs and writers of what can be written. A fixed table of numbers: tags share them by hash, so that memory does not grow
//! with tenants or tables. Where two tags share one, answers are forgotten that could have stayed; never the other way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use smallvec::SmallVec;

use crate::principal::Tenant;

/// What is read or written. Of a database, whose number is hashed with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tag<'a> {
    /// All rows of all tables, and all definitions.
    Everything,
    /// The rows of any tenant in a family of tables, by its root's pg_class.oid.
    Family(u32, Part),
    /// Those of one tenant.
    Tenant(u32, &'a Tenant, Part),
}

/// Which of them: who reads one row need not know of another's change. Each write changes [`Part::Any`] and one of the others; reads
/// of many rows look at [`Part::Any`], those of one at the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    Any,
    /// It is not known which.
    Many,
    /// What was not there before.
    Added,
    /// The row whose primary key has this hash.
    Row(u64),
}

/// Where a tag's number stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(u32);

/// How many numbers there are: 2 MiB.
const SLOTS: usize = 1 << 18;
/// A number is `epoch << WRITERS | writers`: more writers at once than a server has connections, and epochs for years of a million
/// a second.
const WRITERS: u32 = 20;
const OPEN: u64 = (1 << WRITERS) + 1;

/// The numbers of all tags.
pub struct Tags {
    numbers: Box<[AtomicU64]>,
    hasher: ahash::RandomState,
}

impl std::fmt::Debug for Tags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tags({})", self.numbers.len())
    }
}

impl Default for Tags {
    fn default() -> Self {
        Tags::new()
    }
}

impl Tags {
    pub fn new() -> Tags {
        // Which tags share a number is chance, that no tenant can steer. Tests are not left to it: a purge of a tenant's sixty tables
        // ends another's answer once in a hundred processes.
        let hasher = if cfg!(debug_assertions) { ahash::RandomState::with_seeds(1, 2, 3, 4) } else { ahash::RandomState::new() };
        Tags { numbers: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(), hasher }
    }

    pub fn slot(&self, database: u32, tag: Tag<'_>) -> Slot {
        Slot((self.hasher.hash_one((database, tag)) % SLOTS as u64) as u32)
    }

    fn number(&self, slot: Slot) -> &AtomicU64 {
        &self.numbers[slot.0 as usize]
    }

    fn load(&self, slot: Slot) -> u64 {
        // SeqCst: one order of all changes and looks, so that the proof need not speak of memory.
        self.number(slot).load(Ordering::SeqCst)
    }
}

/// The numbers of tags at one time, all without writers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamps(SmallVec<[(Slot, u64); 4]>);

impl Stamps {
    /// Adds the number of a tag. `false`: it has writers.
    pub(super) fn add(&mut self, slot: Slot, tags: &Tags) -> bool {
        let number = tags.load(slot);
        self.0.push((slot, number));
        number & ((1 << WRITERS) - 1) == 0
    }

    /// Adds those that another has.
    pub(super) fn extend(&mut self, other: &Stamps) {
        self.0.extend_from_slice(&other.0);
    }

    /// As bytes, for [`read`](Self::read) of the same process: they are numbers of its own table.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.0.len() as u32).to_le_bytes());
        for (slot, number) in &self.0 {
            out.extend_from_slice(&slot.0.to_le_bytes());
            out.extend_from_slice(&number.to_le_bytes());
        }
    }

    /// What was [written](Self::write), and what follows it; `None`: it was not.
    pub(super) fn read(bytes: &[u8]) -> Option<(Stamps, &[u8])> {
        let (count, mut rest) = bytes.split_first_chunk()?;
        let mut stamps = Stamps::default();
        for _ in 0..u32::from_le_bytes(*count) {
            let (slot, after) = rest.split_first_chunk()?;
            let (number, after) = after.split_first_chunk()?;
            let slot = Some(u32::from_le_bytes(*slot)).filter(|slot| (*slot as usize) < SLOTS)?;
            stamps.0.push((Slot(slot), u64::from_le_bytes(*number)));
            rest = after;
        }
        // What depends on nothing would be true for ever: nobody writes that.
        (!stamps.0.is_empty()).then_some((stamps, rest))
    }

    /// Whether nothing has begun to write since.
    pub fn are_current(&self, tags: &Tags) -> bool {
        self.0.iter().all(|(slot, number)| tags.load(*slot) == *number)
    }
}

/// What a transaction may have written, unreadable as long as this is open.
///
/// Dropped without [`Intent::end`] it stays open for ever: what became of the transaction is not known.
#[must_use = "what it names cannot be read until it ends"]
#[derive(Debug)]
pub struct Intent {
    tags: Arc<Tags>,
    slots: SmallVec<[Slot; 4]>,
    /// Held.
    _generation: Generation,
}

/// Intents of one generation were made, and perhaps planned, before definitions changed that those of the next know. It has as many
/// holders as intents, and whoever waits for their end.
pub type Generation = Arc<()>;

impl Intent {
    pub(super) fn new(tags: Arc<Tags>, generation: Generation) -> Intent {
        Intent { tags, slots: SmallVec::new(), _generation: generation }
    }

    /// Before the statement leaves.
    pub(super) fn add(&mut self, slot: Slot) {
        if !self.slots.contains(&slot) {
            let by = if crate::mutant!("cache.intents-without-epoch") { 1 } else { OPEN };
            self.tags.number(slot).fetch_add(by, Ordering::SeqCst);
            self.slots.push(slot);
        }
    }

    /// The transaction's outcome is known, and visible.
    pub fn end(self) {
        for slot in &self.slots {
            self.tags.number(*slot).fetch_sub(1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamps(tags: &Tags, slot: Slot) -> Option<Stamps> {
        let mut stamps = Stamps::default();
        stamps.add(slot, tags).then_some(stamps)
    }

    #[test]
    fn what_is_written_cannot_be_read_until_it_ends_and_is_another_then() {
        let tags = Arc::new(Tags::new());
        let tenant = Tenant("1".into());
        let slot = tags.slot(0, Tag::Tenant(7, &tenant, Part::Any));
        let before = stamps(&tags, slot).expect("no writers");
        let intent = || Intent::new(tags.clone(), Generation::default());
        let (mut a, mut b) = (intent(), intent());
        a.add(slot);
        a.add(slot);
        assert!(!before.are_current(&tags), "from before the statement leaves");
        assert_eq!(stamps(&tags, slot), None);
        b.add(slot);
        a.end();
        assert_eq!(stamps(&tags, slot), None, "the other still writes");
        b.end();
        assert!(!before.are_current(&tags), "and for ever");
        assert!(stamps(&tags, slot).is_some_and(|s| s.are_current(&tags)));
        let mut lost = intent();
        lost.add(slot);
        drop(lost);
        assert_eq!(stamps(&tags, slot), None, "nobody knows what became of it");
    }

    #[test]
    fn stamps_come_back_as_they_were_and_nothing_else_does() {
        let tags = Tags::new();
        let mut all = Stamps::default();
        for family in 0..9 {
            assert!(all.add(tags.slot(0, Tag::Family(family, Part::Any)), &tags));
        }
        let mut bytes = Vec::new();
        all.write(&mut bytes);
        bytes.push(7);
        assert_eq!(Stamps::read(&bytes), Some((all, &[7][..])));
        for end in 0..bytes.len() - 1 {
            assert_eq!(Stamps::read(&bytes[..end]), None, "{end}");
        }
        assert_eq!(Stamps::read(&[0; 4]), None);
        let out_of_range = [&1u32.to_le_bytes()[..], &(SLOTS as u32).to_le_bytes(), &[0; 8]].concat();
        assert_eq!(Stamps::read(&out_of_range), None);
        assert_eq!(Stamps::read(&[0xff; 64]), None);
    }

    #[test]
    fn tags_are_told_apart() {
        let tags = Tags::new();
        let (one, two) = (Tenant("1".into()), Tenant("2".into()));
        let all = [
            tags.slot(0, Tag::Everything),
            tags.slot(1, Tag::Everything),
            tags.slot(0, Tag::Family(1, Part::Any)),
            tags.slot(0, Tag::Tenant(1, &one, Part::Any)),
            tags.slot(0, Tag::Tenant(1, &two, Part::Any)),
            tags.slot(0, Tag::Tenant(2, &one, Part::Any)),
            tags.slot(0, Tag::Tenant(2, &one, Part::Many)),
            tags.slot(0, Tag::Tenant(2, &one, Part::Row(1))),
        ];
        let mut distinct = all.to_vec();
        distinct.sort_by_key(|s| s.0);
        distinct.dedup();
        // By chance two of them share a number, once in many thousand runs.
        assert!(distinct.len() >= all.len() - 1);
    }
}
