//! The hit ratio of the memory tier on traces, beside plain LRU and beside the best that anyone could do who knew what comes:
//! `cargo run --release --example eviction`.
//!
//! A trace is reads and writes of rows, each read by its primary key: a read is a hit where the row's answer is there and nothing
//! has written the row since. Which row: Zipf's law (exponent 1.0) over all rows of a hundred tenants. All answers have one size, so that
//! the optimum (Belady 1966, who may leave out what is not worth its place) is exact: of what is kept, that is dropped whose next hit is
//! farthest away; what is written before it is read again is not kept. `known`: who knows how often each row is read in the whole trace, and
//! keeps the most read: without knowing what comes next, no policy does much better where reads are independent of each other.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::Arc;

use bulkhead::cache::store::{Entry, Store};
use bulkhead::cache::tags::Stamps;
use bulkhead::plan::TemplateUse;

const TENANTS: u32 = 100;
const ROWS: u32 = 1_000_000;
const OPERATIONS: usize = 30_000_000;
/// Of these no hits are counted.
const WARMING: usize = 10_000_000;

#[derive(Clone, Copy)]
enum Operation {
    Read(u32),
    Write(u32),
}

/// Where writes go.
#[derive(Clone, Copy, Debug)]
enum Writes {
    /// As reads do: what is read most is written most.
    AsReads,
    /// To all rows alike.
    Alike,
}

/// splitmix64
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn trace(writes: Writes, seed: u64) -> Vec<Operation> {
    let mut random = Random(seed);
    let mut sums = Vec::with_capacity(ROWS as usize);
    let mut sum = 0.0;
    for rank in 1..=ROWS {
        sum += 1.0 / f64::from(rank);
        sums.push(sum);
    }
    // Ranks are dealt to rows, and so to tenants, by chance.
    let mut rows: Vec<u32> = (0..ROWS).collect();
    for i in (1..rows.len()).rev() {
        rows.swap(i, random.below(i as u64 + 1) as usize);
    }
    (0..OPERATIONS)
        .map(|_| {
            let is_write = random.below(10) == 0;
            if is_write && matches!(writes, Writes::Alike) {
                return Operation::Write(random.below(u64::from(ROWS)) as u32);
            }
            let at = random.unit() * sum;
            let row = rows[sums.partition_point(|s| *s < at).min(rows.len() - 1)];
            if is_write { Operation::Write(row) } else { Operation::Read(row) }
        })
        .collect()
}

/// Hits of those reads that count, and how many these are.
#[derive(Default)]
struct Ratio {
    hits: u64,
    reads: u64,
}

impl Ratio {
    fn note(&mut self, at: usize, hit: bool) {
        if at >= WARMING {
            self.reads += 1;
            self.hits += u64::from(hit);
        }
    }

    fn value(&self) -> f64 {
        self.hits as f64 / self.reads as f64
    }
}

/// What an answer says: its row, and the row's version.
fn answer(row: u32, version: u32) -> Box<[u8]> {
    let mut answer = vec![0; 100];
    answer[..4].copy_from_slice(&version.to_le_bytes());
    answer[4..8].copy_from_slice(&row.to_le_bytes());
    answer.into()
}

fn row_of(answer: &[u8]) -> usize {
    u32::from_le_bytes([answer[4], answer[5], answer[6], answer[7]]) as usize
}

fn key(row: u32) -> [u8; 100] {
    let mut key = [0; 100];
    key[..4].copy_from_slice(&(row % TENANTS).to_le_bytes());
    key[4..8].copy_from_slice(&(row / TENANTS).to_le_bytes());
    key
}

fn of_store(trace: &[Operation], answers: usize) -> f64 {
    let store = Store::new(answers * 400);
    let (owner, template) = (store.owner(None), Arc::new(TemplateUse::default()));
    let mut versions = vec![0u32; ROWS as usize];
    let mut ratio = Ratio::default();
    for (at, operation) in trace.iter().enumerate() {
        match *operation {
            Operation::Write(row) => versions[row as usize] += 1,
            Operation::Read(row) => {
                let (key, version) = (key(row), versions[row as usize]);
                let hashed = store.hashed(&key);
                let hit = store.get(hashed).is_some_and(|entry| entry.answer[..4] == version.to_le_bytes());
                ratio.note(at, hit);
                if hit {
                    store.note_use(hashed);
                } else {
                    let owner = owner.clone();
                    let (answer, stamps) = (answer(row, version), Stamps::default());
                    let entry = Entry { answer, stamps, owner, cost: 100, template: template.clone(), until: None };
                    let is_dead = |entry: &Entry| entry.answer[..4] != versions[row_of(&entry.answer)].to_le_bytes();
                    store.insert(hashed.to_owned(), std::sync::Arc::new(entry), is_dead);
                }
            }
        }
    }
    ratio.value()
}

fn of_lru(trace: &[Operation], answers: usize) -> f64 {
    let mut kept: lru::LruCache<u32, u32> = lru::LruCache::new(NonZeroUsize::new(answers).expect("some"));
    let mut versions = vec![0u32; ROWS as usize];
    let mut ratio = Ratio::default();
    for (at, operation) in trace.iter().enumerate() {
        match *operation {
            Operation::Write(row) => versions[row as usize] += 1,
            Operation::Read(row) => {
                let version = versions[row as usize];
                let hit = kept.get(&row) == Some(&version);
                ratio.note(at, hit);
                kept.put(row, version);
            }
        }
    }
    ratio.value()
}

fn of_optimum(trace: &[Operation], answers: usize) -> f64 {
    // When each is read next, where nothing writes it before.
    let mut next = vec![usize::MAX; trace.len()];
    let mut later: HashMap<u32, usize> = HashMap::new();
    for (at, operation) in trace.iter().enumerate().rev() {
        match *operation {
            Operation::Write(row) => _ = later.remove(&row),
            Operation::Read(row) => next[at] = later.insert(row, at).unwrap_or(usize::MAX),
        }
    }
    let (mut kept, mut by_use): (HashSet<u32>, BTreeSet<(usize, u32)>) = Default::default();
    let mut ratio = Ratio::default();
    for (at, operation) in trace.iter().enumerate() {
        let Operation::Read(row) = *operation else { continue };
        let hit = kept.remove(&row);
        by_use.remove(&(at, row));
        ratio.note(at, hit);
        if next[at] == usize::MAX {
            continue;
        }
        kept.insert(row);
        by_use.insert((next[at], row));
        if kept.len() > answers
            && let Some((_, row)) = by_use.pop_last()
        {
            kept.remove(&row);
        }
    }
    ratio.value()
}

fn of_known(trace: &[Operation], answers: usize) -> f64 {
    let mut reads = vec![0u32; ROWS as usize];
    for operation in trace {
        if let Operation::Read(row) = operation {
            reads[*row as usize] += 1;
        }
    }
    let mut order: Vec<u32> = (0..ROWS).collect();
    order.sort_by_key(|row| std::cmp::Reverse(reads[*row as usize]));
    let worth: HashSet<u32> = order[..answers].iter().copied().collect();
    let mut kept: HashMap<u32, u32> = HashMap::new();
    let mut versions = vec![0u32; ROWS as usize];
    let mut ratio = Ratio::default();
    for (at, operation) in trace.iter().enumerate() {
        match *operation {
            Operation::Write(row) => versions[row as usize] += 1,
            Operation::Read(row) => {
                let version = versions[row as usize];
                ratio.note(at, kept.get(&row) == Some(&version));
                if worth.contains(&row) {
                    kept.insert(row, version);
                }
            }
        }
    }
    ratio.value()
}

fn main() {
    println!("{TENANTS} tenants, {ROWS} rows, {OPERATIONS} operations, 90 % reads, Zipf 1.0\n");
    println!("| writes | memory for | this | LRU | known | optimum | this / optimum |\n|---|---|---|---|---|---|---|");
    for writes in [Writes::Alike, Writes::AsReads] {
        let trace = trace(writes, 1);
        let read: HashSet<u32> =
            trace.iter().filter_map(|o| if let Operation::Read(row) = o { Some(*row) } else { None }).collect();
        for (name, part) in [("a tenth", 10), ("half", 2)] {
            let answers = read.len() / part;
            let (own, lru) = (of_store(&trace, answers), of_lru(&trace, answers));
            let (known, best) = (of_known(&trace, answers), of_optimum(&trace, answers));
            let writes = match writes {
                Writes::AsReads => "as reads",
                Writes::Alike => "to all alike",
            };
            println!("| {writes} | {name} | {own:.4} | {lru:.4} | {known:.4} | {best:.4} | {:.3} |", own / best);
        }
    }
}
