//! Hints in comments: `/* bulkhead: no-cache */`, `/* bulkhead: ttl=5 */`. They can only restrict: what is kept, and for how long, is
//! decided without them. They are looked for in the whole text, values included, and the least of all counts.

use std::time::Duration;

/// How long the answer of this statement may be given, in whole seconds as it says; zero: it is not kept. What is not understood is zero.
pub fn of(text: &str) -> Option<Duration> {
    const MARK: &[u8] = b"bulkhead:";
    let places = memchr::memchr2_iter(b'b', b'B', text.as_bytes());
    let hints = places.filter_map(|at| {
        let (mark, hint) = text.as_bytes()[at..].split_at_checked(MARK.len())?;
        mark.eq_ignore_ascii_case(MARK).then(|| seconds_of(hint))
    });
    hints.min().map(Duration::from_secs)
}

fn seconds_of(hint: &[u8]) -> u64 {
    let hint = hint.trim_ascii_start();
    let word = hint.split(|c| c.is_ascii_whitespace() || *c == b'*').next().unwrap_or_default();
    let seconds = word.strip_prefix(b"ttl=").and_then(|seconds| std::str::from_utf8(seconds).ok()?.parse().ok());
    seconds.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_only_restrict() {
        let seconds = |text| of(text).map(|ttl| ttl.as_secs());
        assert_eq!(seconds("SELECT 1"), None);
        assert_eq!(seconds("/* bulkhead: no-cache */ SELECT 1"), Some(0));
        assert_eq!(seconds("SELECT 1 /*Bulkhead:ttl=30*/"), Some(30));
        assert_eq!(seconds("SELECT 1 -- bulkhead: ttl=5"), Some(5));
        assert_eq!(seconds("SELECT 1 -- bulkhead: ttl=5\nFROM a"), Some(5));
        assert_eq!(seconds("/* bulkhead: ttl=soon */ SELECT 1"), Some(0), "what is not understood is not kept");
        assert_eq!(seconds("SELECT 'bulkhead: ttl=9999 ' /* bulkhead: no-cache */"), Some(0), "the least counts");
        assert_eq!(seconds("bulk b B bulkhead"), None);
    }
}
