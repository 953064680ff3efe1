//! What a login has done lately: a few counters, whatever it does.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of this minute and of the one before. Constant memory; two sessions at once may lose one of them, as they change minutes:
/// it is a measure.
#[derive(Debug, Default)]
pub struct Lately {
    minute: AtomicU64,
    statements: [AtomicU64; 2],
    failures: [AtomicU64; 2],
    broken: [AtomicU64; 2],
}

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

#[cfg(test)]
mod tests {
    use super::*;

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
