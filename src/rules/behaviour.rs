//! What one login usually does for one tenant, and how unusual this hour is beside that: in bits, so that what happens by chance once in
//! 2^n hours has n.
//!
//! Everything is counted by the hour (UTC), on a scale of logarithms to the base 2. A track knows of one such number how often it is
//! there at all, its mean where it is, and how far it is away from that on average; what goes beyond the mean has so many bits as an
//! exponential tail of that width gives it. Most numbers have a track for each hour of the day, workdays and weekends apart, which borrows
//! from the track of all hours until it has seen enough itself.
//!
//! * **Warm-up**: nothing is told in the first seven days, nor before six hours with statements.
//! * **Poison**: what is learned from one hour is clipped at three widths; an hour that was told counts a quarter. Who does more each day
//!   than the day before outruns what that teaches. Who was there in the warm-up already is taken for usual.
//! * **Deploys**: a statement that another tenant says to the same principal as well is nobody's novelty ([`Common`]).
//!
//! What it is worth, beside naive rules: `benches/behaviour.rs`. What loses to them there, or makes the whole worse, is off in [`SIGNALS`]. Two
//! signals were worse there and are gone: rows of a day, and statements and rows of the forms that are new.

pub mod kept;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// One statement that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// Any hash of the statement's form.
    pub template: u64,
    /// Seconds since 1970.
    pub at: u64,
    pub rows: u64,
    /// Of the answer.
    pub bytes: u64,
    /// What it failed with: the class of its SQLSTATE ([`class_of`]).
    pub error: Option<u8>,
}

/// What is looked at, of an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// That there are statements at all in this hour of the day.
    Hour,
    /// Statements that did not fail.
    Statements,
    Rows,
    Bytes,
    /// Rows of the largest answer.
    Largest,
    /// Statements' forms that are new here, and that no other tenant says.
    New,
    /// Statements that failed with errors of one class, beside what is usual of that class.
    Errors,
    /// Statements and rows of forms that are known for a week and were never said at this hour of the day, or the next to it.
    Elsewhen,
}

const COUNT: usize = 8;

/// Every signal, in the order of [`Bits`], whether it has a say, and what it counts.
pub const SIGNALS: [(Signal, bool, &str); COUNT] = [
    (Signal::Hour, true, "statements at an unusual hour"),
    (Signal::Statements, true, "statements in an hour"),
    (Signal::Rows, true, "rows in an hour"),
    (Signal::Bytes, true, "bytes in an hour"),
    (Signal::Largest, true, "rows in one answer"),
    (Signal::New, true, "new forms of statements in an hour"),
    (Signal::Errors, false, "failed statements in an hour"),
    (Signal::Elsewhen, false, "statements and rows in an hour of forms that are unusual then"),
];

/// Surprise by signal.
pub type Bits = [f32; COUNT];

/// From so many bits on an hour is told.
pub const LIMIT: f32 = 14.0;
/// Days before anything is told.
pub const WARM_UP: u64 = 7;
/// Hours with statements before anything is told.
const LEAST_HOURS: f32 = 6.0;
/// So many hours long, new forms teach nothing.
const FIRST_HOURS: u64 = 48;
/// The signals that have a track for each hour of the day: the first ones.
const SLOTTED: usize = 5;
const SLOTS: usize = 48;
/// How many samples a track remembers: of an hour of the day (about so many days), and of all hours.
const LONG: f32 = 12.0;
const LONG_ALL: f32 = 100.0;
/// The least width (binary logarithm): a poller that never varies is allowed a fifth more.
const NARROW: f32 = 0.25;
/// Of errors.
const CLASSES: usize = 16;
/// Forms that are remembered, and of how many a new one may take the place of the oldest.
const KNOWN: usize = 1024;
const WAYS: usize = 4;
/// New forms, and those out of their hours, that are remembered in an hour.
const FEW: usize = 16;
/// Statements and rows at which an hour is looked at first.
const FIRST_LOOK: u64 = 16;

/// The whole surprise: of being there, of the most unusual of what is much, of errors, of forms. They are as good as independent of
/// each other; what is much is not (rows, bytes and so on), so that the greatest of it stands for all.
pub fn surprise(bits: &Bits, is_on: impl Fn(Signal) -> bool) -> f32 {
    let most = |signals: &[Signal]| signals.iter().filter(|s| is_on(**s)).map(|s| bits[*s as usize]).fold(0.0, f32::max);
    let volume = most(&[Signal::Statements, Signal::Rows, Signal::Bytes, Signal::Largest]);
    most(&[Signal::Hour]) + volume + most(&[Signal::Errors]) + most(&[Signal::New, Signal::Elsewhen])
}

/// Whether it has a say.
pub fn is_on(signal: Signal) -> bool {
    SIGNALS[signal as usize].1
}

/// An hour that is unusual, for the audit log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unusual {
    /// Begin of the hour (seconds since 1970).
    pub hour: u64,
    /// The most unusual of it.
    pub signal: Signal,
    /// So much of it, until now.
    pub seen: u64,
    /// So much is usual, where it is there at all.
    pub usual: u64,
    /// The whole surprise.
    pub bits: f32,
}

impl fmt::Display for Unusual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = SIGNALS[self.signal as usize].2;
        write!(f, "{} {what}, usual are {} ({:.0} bits)", self.seen, self.usual, self.bits)
    }
}

/// What is usual of one number. 16 bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Track {
    mean: f32,
    /// Mean distance from the mean.
    width: f32,
    /// Samples, and those that were not zero.
    seen: f32,
    there: f32,
}

impl Track {
    /// `x`: binary logarithm of 1 + the number.
    fn learn(&mut self, x: f32, weight: f32, long: f32) {
        self.seen += weight;
        if x > 0.0 {
            self.there += weight;
            if self.there <= weight {
                (self.mean, self.width) = (x, 1.0);
            }
            let rate = weight * self.there.max(1.0).recip().max(long.recip());
            let bound = if self.there > 4.0 { 3.0 * self.width.max(NARROW) } else { f32::MAX };
            let away = (x - self.mean).clamp(-bound, bound);
            self.mean += rate * away;
            self.width += rate * (away.abs() - self.width);
        }
        if self.seen > 4.0 * long {
            (self.seen, self.there) = (self.seen / 2.0, self.there / 2.0);
        }
    }

    /// As it is with what `all` knows, the more the less it has seen itself.
    fn with(&self, all: &Track) -> Track {
        let own = self.there / (self.there + 3.0);
        let mix = |own_value: f32, other: f32| own * own_value + (1.0 - own) * other;
        let seen = self.seen.max(1.0);
        Track {
            mean: mix(self.mean, all.mean),
            width: mix(self.width, all.width.max(1.0)),
            seen,
            there: seen * mix(self.there / seen, all.there / all.seen.max(1.0)),
        }
    }

    fn bits(&self, x: f32) -> f32 {
        if x <= 0.0 {
            return 0.0;
        }
        let often = (self.there + 0.5) / (self.seen + 1.0);
        let beyond = (x - self.mean).max(0.0) / (self.width.max(NARROW) * std::f32::consts::LN_2);
        beyond - often.min(1.0).log2()
    }

    fn usual(&self) -> u64 {
        (self.mean.exp2() - 1.0).round() as u64
    }
}

/// The forms that tenants say to one principal, so that what is new for one of them and old for another is no novelty, and a deploy is
/// none for the second tenant that sees it. 8 KiB; shared, without a lock: of two tenants at once one may be lost, it comes again.
#[derive(Debug)]
pub struct Common([AtomicU64; KNOWN]);

impl Default for Common {
    fn default() -> Self {
        Common(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Common {
    /// A tenant has said it: whether another one has, too. An entry: 32 bits of the form's hash, 15 of its first tenant, 1 whether there
    /// are more, 16 of the last hour.
    fn note(&self, mixed: u64, tenant: u16, hour: u16) -> bool {
        let (set, tag) = place(mixed);
        let cells = &self.0[set..set + WAYS];
        let tenant = tenant & 0x7fff;
        for cell in cells {
            let entry = cell.load(Ordering::Relaxed);
            if entry >> 32 == tag {
                let is_many = entry >> 16 & 1 == 1 || (entry >> 17 & 0x7fff) as u16 != tenant;
                let rest = entry >> 17 << 17 | u64::from(is_many) << 16 | u64::from(hour);
                cell.store(rest, Ordering::Relaxed);
                return is_many;
            }
        }
        // What one tenant has made ad hoc goes before what many say.
        let is_worth_less = |cell: &&AtomicU64| {
            let entry = cell.load(Ordering::Relaxed);
            (entry == 0, entry >> 16 & 1 == 0, hour.wrapping_sub(entry as u16))
        };
        if let Some(cell) = cells.iter().max_by_key(is_worth_less) {
            cell.store(tag << 32 | u64::from(tenant) << 17 | u64::from(hour), Ordering::Relaxed);
        }
        false
    }
}

/// Spreads what may be a weak hash.
fn mix(template: u64) -> u64 {
    let x = (template ^ template >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^ x >> 29
}

/// The first cell of its set, and what tells it from others there (not 0).
fn place(mixed: u64) -> (usize, u64) {
    (mixed as usize % (KNOWN / WAYS) * WAYS, mixed >> 32 | 1)
}

/// What one login does for one tenant. Constant memory: 13 KiB, no allocation. Used by one session at a time, under a mutex.
#[derive(Debug)]
pub struct Baseline {
    tenant: u16,
    /// Hours since 1970: of the first statement, and that which is counted now.
    since: u64,
    hour: u64,
    now: Now,
    /// Of the last hour that ended.
    ended: Bits,
    /// 24 bits of a form's hash, 24 for the hours of the day in which it was said, 8 of the first day, 8 of the last.
    known: [u64; KNOWN],
    slots: [[Track; SLOTTED]; SLOTS],
    all: [Track; COUNT],
    errors: [Track; CLASSES],
}

/// What is counted in one hour.
#[derive(Clone, Copy, Debug, Default)]
struct Now {
    amounts: [u64; COUNT],
    errors: [u64; CLASSES],
    /// Statements and rows at which it is looked at again: each time that they have doubled.
    next_look: u64,
    is_told: bool,
    /// Forms that are new, and that no other tenant has said yet.
    new: Few,
    /// Forms that are out of their hours.
    strange: Few,
}

/// Hashes of some forms.
#[derive(Clone, Copy, Debug, Default)]
struct Few {
    forms: [u64; FEW],
    count: usize,
}

impl Few {
    fn forms(&self) -> &[u64] {
        &self.forms[..self.count]
    }

    /// Whether there was room.
    fn push(&mut self, form: u64) -> bool {
        let has_room = self.count < FEW;
        if has_room {
            self.forms[self.count] = form;
            self.count += 1;
        }
        has_room
    }
}

impl Baseline {
    /// `tenant`: any hash of it.
    pub fn new(tenant: u64) -> Self {
        Baseline {
            tenant: (mix(tenant) >> 40) as u16,
            since: 0,
            hour: 0,
            now: Now::default(),
            ended: [0.0; COUNT],
            known: [0; KNOWN],
            slots: [[Track::default(); SLOTTED]; SLOTS],
            all: [Track::default(); COUNT],
            errors: [Track::default(); CLASSES],
        }
    }

    /// A statement has ended. What is unusual is told once for an hour: as soon as that is clear, or when the hour is over.
    pub fn note(&mut self, ended: &Ended, common: &Common) -> Option<Unusual> {
        let before = self.tick(ended.at, common);
        self.count(ended);
        self.recognise(mix(ended.template), ended.rows, common);
        let amounts = &self.now.amounts;
        let [statements, rows, errors] = [Signal::Statements, Signal::Rows, Signal::Errors].map(|s| amounts[s as usize]);
        // An error weighs as much as some rows.
        let looked = statements.saturating_add(rows).saturating_add(errors.saturating_mul(32));
        if before.is_some() || looked < self.now.next_look.max(FIRST_LOOK) {
            return before;
        }
        self.now.next_look = looked.saturating_mul(2);
        let bits = self.bits_of(&self.logs(common));
        self.tell(&bits, common)
    }

    /// Nothing has ended, but it is so late now (seconds since 1970): what was unusual in the hour before need not wait for the next one.
    pub fn tick(&mut self, now: u64, common: &Common) -> Option<Unusual> {
        let hour = now / 3600;
        if hour <= self.hour {
            // Late ones of the hour before aside: the clock was wrong, and this is learned from now on.
            if hour + 1 < self.hour {
                (self.since, self.hour, self.now) = (self.since.min(hour), hour, Now::default());
            }
            return None;
        }
        if self.since == 0 {
            (self.since, self.hour) = (hour, hour);
            return None;
        }
        self.go_on(hour, common)
    }

    /// The surprise of the last hour that ended, by signal, told or not.
    pub fn ended(&self) -> &Bits {
        &self.ended
    }

    fn count(&mut self, ended: &Ended) {
        let amounts = &mut self.now.amounts;
        let mut add = |signal: Signal, n: u64| amounts[signal as usize] = amounts[signal as usize].saturating_add(n);
        add(Signal::Statements, u64::from(ended.error.is_none()));
        add(Signal::Rows, ended.rows);
        add(Signal::Bytes, ended.bytes);
        if let Some(class) = ended.error {
            add(Signal::Errors, 1);
            self.now.errors[usize::from(class) % CLASSES] += 1;
        }
        amounts[Signal::Hour as usize] = 1;
        amounts[Signal::Largest as usize] = amounts[Signal::Largest as usize].max(ended.rows);
    }

    /// Whether its form is known, here and at this hour of the day.
    fn recognise(&mut self, mixed: u64, rows: u64, common: &Common) {
        let (set, tag) = place(mixed);
        let tag = tag >> 8;
        let (day, at) = ((self.hour / 24) as u8, self.hour % 24);
        let cells = &mut self.known[set..set + WAYS];
        if let Some(entry) = cells.iter_mut().find(|e| **e >> 40 == tag) {
            // Days are counted modulo 256: what is old stays old.
            let age = day.wrapping_sub((*entry >> 8) as u8).min(128);
            let hours = *entry >> 16 & 0xff_ffff;
            let around = 1 << at | 1 << ((at + 1) % 24) | 1 << ((at + 23) % 24);
            *entry = tag << 40 | (hours | 1 << at) << 16 | u64::from(day.wrapping_sub(age)) << 8 | u64::from(day);
            let is_strange = age >= 7 && hours & around == 0 && self.now.strange.push(mixed);
            if is_strange || self.now.strange.forms().contains(&mixed) {
                let amount = &mut self.now.amounts[Signal::Elsewhen as usize];
                *amount = amount.saturating_add(rows).saturating_add(1);
            }
            return;
        }
        let is_worth_less = |e: &&mut u64| (**e == 0, day.wrapping_sub(**e as u8));
        if let Some(entry) = cells.iter_mut().max_by_key(is_worth_less) {
            *entry = tag << 40 | 1 << (16 + at) | u64::from(day) << 8 | u64::from(day);
        }
        // So many that there is no room for them are no deploy that others have seen: each counts.
        if !common.note(mixed, self.tenant, self.hour as u16) && !self.now.new.push(mixed) {
            self.now.amounts[Signal::New as usize] += 1;
        }
    }

    /// Numbers of this hour: binary logarithms.
    fn logs(&self, common: &Common) -> [f32; COUNT] {
        let mut amounts = self.now.amounts;
        amounts[Signal::New as usize] += self.still_new(common);
        amounts.map(log)
    }

    /// Of those that are remembered: another tenant may have said them since.
    fn still_new(&self, common: &Common) -> u64 {
        self.now.new.forms().iter().filter(|form| !common.note(**form, self.tenant, self.hour as u16)).count() as u64
    }

    fn bits_of(&self, logs: &[f32; COUNT]) -> Bits {
        let mut bits: Bits = std::array::from_fn(|s| self.track(s).bits(logs[s]));
        let errors = self.errors.iter().zip(&self.now.errors).map(|(track, n)| track.bits(log(*n)));
        bits[Signal::Errors as usize] = errors.fold(0.0, f32::max);
        bits
    }

    /// What is usual at this hour of the day.
    fn track(&self, signal: usize) -> Track {
        let own = self.slots[slot_of(self.hour)].get(signal);
        match own {
            Some(track) if signal == Signal::Hour as usize => *track,
            Some(track) => track.with(&self.all[signal]),
            None => self.all[signal],
        }
    }

    fn tell(&mut self, bits: &Bits, common: &Common) -> Option<Unusual> {
        let whole = surprise(bits, is_on);
        let is_warm = self.hour - self.since >= 24 * WARM_UP && self.all[Signal::Hour as usize].there >= LEAST_HOURS;
        if self.now.is_told || !is_warm || whole < LIMIT {
            return None;
        }
        self.now.is_told = true;
        let on = SIGNALS.iter().map(|(signal, ..)| *signal).filter(|signal| is_on(*signal));
        let signal = on.max_by(|a, b| bits[*a as usize].total_cmp(&bits[*b as usize]))?;
        let amount = |signal: Signal| self.now.amounts[signal as usize];
        let (seen, usual) = match signal {
            Signal::Hour => (amount(Signal::Statements) + amount(Signal::Errors), 0),
            Signal::New => (amount(signal) + self.still_new(common), self.track(signal as usize).usual()),
            _ => (amount(signal), self.track(signal as usize).usual()),
        };
        Some(Unusual { hour: self.hour * 3600, signal, seen, usual, bits: whole })
    }

    /// The hour is over: it is judged, then learned; and another begins.
    #[cold]
    fn go_on(&mut self, hour: u64, common: &Common) -> Option<Unusual> {
        let mut unusual = None;
        self.ended = [0.0; COUNT];
        if self.now.amounts[Signal::Hour as usize] > 0 {
            let logs = self.logs(common);
            let bits = self.bits_of(&logs);
            self.ended = bits;
            unusual = self.tell(&bits, common);
            self.learn(&logs);
        } else {
            self.learn_silence(self.hour);
        }
        // A login that comes back after weeks has not been silent for longer than that.
        ((self.hour + 1).max(hour.saturating_sub(24 * 28))..hour).for_each(|silent| self.learn_silence(silent));
        (self.hour, self.now) = (hour, Now::default());
        unusual
    }

    fn learn(&mut self, logs: &[f32; COUNT]) {
        let weight = if self.now.is_told { 0.25 } else { 1.0 };
        let slot = &mut self.slots[slot_of(self.hour)];
        slot.iter_mut().zip(logs).for_each(|(track, x)| track.learn(*x, weight, LONG));
        // At first everything is new: that is not what is usual.
        let is_first = self.hour - self.since < FIRST_HOURS;
        let all = self.all.iter_mut().zip(logs).enumerate().filter(|(s, _)| !(is_first && *s == Signal::New as usize));
        all.for_each(|(_, (track, x))| track.learn(*x, weight, LONG_ALL));
        self.errors.iter_mut().zip(&self.now.errors).for_each(|(track, n)| track.learn(log(*n), weight, LONG_ALL));
    }

    fn learn_silence(&mut self, hour: u64) {
        self.slots[slot_of(hour)][Signal::Hour as usize].learn(0.0, 1.0, LONG);
    }
}

/// The number of an error's class, by the first two characters of its SQLSTATE: those that servers send often have their own.
pub fn class_of(sqlstate: &[u8]) -> u8 {
    const OFTEN: [&[u8; 2]; 12] = [b"42", b"22", b"23", b"40", b"57", b"25", b"53", b"54", b"55", b"28", b"08", b"XX"];
    OFTEN.iter().position(|class| sqlstate.starts_with(*class)).map_or(0, |n| n as u8 + 1)
}

fn log(n: u64) -> f32 {
    (n as f32 + 1.0).log2()
}

fn is_weekend(hour: u64) -> bool {
    // 1970 began on a Thursday.
    (hour / 24 + 3) % 7 >= 5
}

fn slot_of(hour: u64) -> usize {
    (hour % 24) as usize + if is_weekend(hour) { 24 } else { 0 }
}

#[cfg(test)]
mod tests;
