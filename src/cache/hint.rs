//! Hints in comments: `/* bulkhead: no-cache */`, `/* bulkhead: ttl=5 */`. They can only restrict: what is kept, and for how long, is
//! decided without them.

use std::time::Duration;

/// How long the answer of this statement may be given, in whole seconds as it says; zero: it is not kept. What is not understood is zero.
pub fn of(text: &str) -> Option<Duration> {
    const MARK: &str = "bulkhead:";
    let at = memchr::memmem::find(text.as_bytes(), MARK.as_bytes())?;
    let hint = text.get(at + MARK.len()..)?.trim_start();
    let word = hint.split(|c: char| c.is_whitespace() || c == '*').next().unwrap_or_default();
    let seconds = word.strip_prefix("ttl=").and_then(|seconds| seconds.parse().ok());
    Some(Duration::from_secs(seconds.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_only_restrict() {
        let seconds = |text| of(text).map(|ttl| ttl.as_secs());
        assert_eq!(seconds("SELECT 1"), None);
        assert_eq!(seconds("/* bulkhead: no-cache */ SELECT 1"), Some(0));
        assert_eq!(seconds("SELECT 1 /*bulkhead:ttl=30*/"), Some(30));
        assert_eq!(seconds("SELECT 1 -- bulkhead: ttl=5"), Some(5));
        assert_eq!(seconds("SELECT 1 -- bulkhead: ttl=5\nFROM a"), Some(5));
        assert_eq!(seconds("/* bulkhead: ttl=soon */ SELECT 1"), Some(0), "what is not understood is not kept");
    }
}
