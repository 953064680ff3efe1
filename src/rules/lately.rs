//! What a login has done lately: a few counters, whatever it does.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of this minute and of the one before. Constant memory; two sessions at once may lose one of them, as they change minutes:
/// it is a measure.
#[derive(Debug, Default)]
pub struct Lately {
    minute: AtomicU64,
    statements: [AtomicU64; 2],
    failures: [AtomicU64; 2],
    broken: [AtomicU64; 2],
    /// Rows that were given in an hour, and which hour.
    rows: AtomicU64,
    hour: AtomicU64,
    /// Seconds; 0: never.
    slow_until: AtomicU64,
    shut_until: AtomicU64,
}

/// How long a login is slow (seconds).
const SLOW: u64 = 60;
/// How long it is in quarantine.
const SHUT: u64 = 15 * 60;

impl Lately {
    /// A statement has failed, or was refused, after `others` that were not counted yet. `now`: seconds of any clock that does not go back.
    /// `broken`: it could not be parsed.
    pub fn note_failure(&self, now: u64, others: u64, broken: bool) {
        let minute = now / 60;
        let known = self.minute.swap(minute, Ordering::Relaxed);
        if known != minute {
            for counts in [&self.statements, &self.failures, &self.broken] {
                let before = if known + 1 == minute { counts[0].load(Ordering::Relaxed) } else { 0 };
                counts[1].store(before, Ordering::Relaxed);
                counts[0].store(0, Ordering::Relaxed);
            }
        }
        self.statements[0].fetch_add(others + 1, Ordering::Relaxed);
        self.failures[0].fetch_add(1, Ordering::Relaxed);
        self.broken[0].fetch_add(u64::from(broken), Ordering::Relaxed);
    }

    /// Rows were given; how many there were in this hour.
    pub fn note_rows(&self, now: u64, rows: u64) -> u64 {
        if self.hour.swap(now / 3600, Ordering::Relaxed) != now / 3600 {
            self.rows.store(0, Ordering::Relaxed);
        }
        self.rows.fetch_add(rows, Ordering::Relaxed) + rows
    }

    /// Its statements are slow for a while.
    pub fn slow_down(&self, now: u64) {
        self.slow_until.store(now + SLOW, Ordering::Relaxed);
    }

    /// It is refused everything for a while.
    pub fn shut(&self, now: u64) {
        self.shut_until.store(now + SHUT, Ordering::Relaxed);
    }

    /// `now` is asked only where it matters.
    pub fn is_slow(&self, now: impl FnOnce() -> u64) -> bool {
        let until = self.slow_until.load(Ordering::Relaxed);
        until != 0 && now() < until
    }

    pub fn is_shut(&self, now: impl FnOnce() -> u64) -> bool {
        let until = self.shut_until.load(Ordering::Relaxed);
        until != 0 && now() < until
    }

    pub fn statements(&self) -> u64 {
        self.statements.iter().map(|n| n.load(Ordering::Relaxed)).sum()
    }

    /// Those that could not be parsed.
    pub fn broken(&self) -> u64 {
        self.broken.iter().map(|n| n.load(Ordering::Relaxed)).sum()
    }

    pub fn failures(&self) -> u64 {
        self.failures.iter().map(|n| n.load(Ordering::Relaxed)).sum()
    }
}

/// Logins of one user that failed, by address. Constant memory.
#[derive(Debug, Default)]
pub struct Attempts([Attempt; 16]);

#[derive(Clone, Copy, Debug)]
struct Attempt {
    address: IpAddr,
    failed: u32,
    /// Seconds.
    last: u64,
}

impl Default for Attempt {
    fn default() -> Self {
        Attempt { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), failed: 0, last: 0 }
    }
}

impl Attempts {
    /// So many in a row are too many (PCI DSS 8.3.4).
    pub const MOST: u32 = 10;
    /// After so many seconds without one, they are forgotten.
    const LONG: u64 = 30 * 60;

    /// Whether there have been too many from there.
    pub fn are_too_many(&self, address: IpAddr, now: u64) -> bool {
        self.0.iter().any(|a| a.address == address && a.failed >= Self::MOST && now < a.last + Self::LONG)
    }

    /// One has failed; whether that is one too many.
    pub fn note_failed(&mut self, address: IpAddr, now: u64) -> bool {
        let known = self.0.iter().position(|a| a.address == address && a.failed > 0 && now < a.last + Self::LONG);
        let oldest =
            || self.0.iter().enumerate().min_by_key(|(_, a)| (a.failed >= Self::MOST && now < a.last + Self::LONG, a.last));
        let at = known.or_else(|| oldest().map(|(at, _)| at)).unwrap_or_default();
        let failed = if known.is_some() { self.0[at].failed.saturating_add(1) } else { 1 };
        self.0[at] = Attempt { address, failed, last: now };
        failed >= Self::MOST
    }

    /// One has succeeded.
    pub fn forget(&mut self, address: IpAddr) {
        self.0.iter_mut().filter(|a| a.address == address).for_each(|a| *a = Attempt::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_guesses_is_shut_out_and_who_knows_is_not() {
        let mut attempts = Attempts::default();
        let address = |n: u8| IpAddr::V4(Ipv4Addr::new(10, 0, 0, n));
        assert!((0..9).all(|n| !attempts.note_failed(address(1), 100 + n)));
        assert!(!attempts.are_too_many(address(1), 109));
        assert!(attempts.note_failed(address(1), 109));
        assert!(attempts.are_too_many(address(1), 110) && !attempts.are_too_many(address(2), 110));
        // Many addresses that each fail a few times do not make the one forgotten.
        (0..200).for_each(|n| _ = attempts.note_failed(address(2 + n), 200 + u64::from(n)));
        assert!(attempts.are_too_many(address(1), 500));
        assert!(!attempts.are_too_many(address(1), 109 + 1800), "after half an hour");
        assert!(!attempts.note_failed(address(1), 109 + 1800), "it begins anew");
        (0..8).for_each(|_| _ = attempts.note_failed(address(9), 3000));
        attempts.forget(address(9));
        assert!(!attempts.note_failed(address(9), 3001));
    }

    #[test]
    fn rows_are_counted_by_the_hour() {
        let lately = Lately::default();
        assert_eq!([lately.note_rows(3600, 5), lately.note_rows(7199, 5), lately.note_rows(7200, 1)], [5, 10, 1]);
    }

    #[test]
    fn what_is_slow_or_shut_is_so_for_a_while() {
        let lately = Lately::default();
        assert!(!lately.is_slow(|| 0) && !lately.is_shut(|| 0));
        lately.slow_down(1000);
        lately.shut(1000);
        assert!(lately.is_slow(|| 1059) && !lately.is_slow(|| 1060));
        assert!(lately.is_shut(|| 1899) && !lately.is_shut(|| 1900));
    }

    #[test]
    fn what_is_long_ago_is_forgotten() {
        let lately = Lately::default();
        (0..5).for_each(|_| lately.note_failure(600, 1, false));
        assert_eq!((lately.statements(), lately.failures()), (10, 5));
        lately.note_failure(660, 0, false);
        assert_eq!((lately.statements(), lately.failures()), (11, 6), "the minute before counts");
        lately.note_failure(720, 9, false);
        assert_eq!((lately.statements(), lately.failures()), (11, 2));
        lately.note_failure(7200, 0, false);
        assert_eq!((lately.statements(), lately.failures()), (1, 1));
    }
}
