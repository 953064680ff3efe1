//! **canary-row**: an answer has a row that nobody has a reason to see: one with a text of `canary_rows` of a `[[table]]`.
//!
//! Put a row with a text of its own into a table, such as a name `cn-5b1f0e6d2a7c`, for a tenant that nobody is, or where the application
//! never looks, and tell it here. Whoever gets it has come past the wall, or reads what no page shows. A
//! row that the application shows in its lists is no canary. Rows, errors and notices are looked through. In mode `enforce` the row is not
//! passed on (of one of more than a megabyte, nothing from the text on), and the session ends. What a mask hides, what is counted or
//! disguised (`reverse(name)`) is not seen, nor what unrestricted users read; who says the text himself is told of as well.

use aho_corasick::AhoCorasick;

use crate::rules::{Looks, Rule, Watch};

pub static RULE: Rule = Rule {
    name: "canary-row",
    found: "an answer has a row that nobody has a reason to see",
    mode: Watch::Shadow,
    looks: Looks::Elsewhere,
};

/// The texts of all tables, each [that can be looked for](crate::finding::is_canary_text).
#[derive(Clone, Debug)]
pub struct CanaryRows {
    texts: AhoCorasick,
    longest: usize,
}

/// The end of what was looked at of an answer, whose next part may go on with a text.
#[derive(Clone, Debug, Default)]
pub struct Tail(Vec<u8>);

impl CanaryRows {
    /// `None`: there are none.
    pub fn new<'t>(texts: impl Iterator<Item = &'t str>) -> Option<CanaryRows> {
        let texts: Vec<&str> = texts.collect();
        let longest = texts.iter().map(|text| text.len()).max()?;
        Some(CanaryRows { texts: AhoCorasick::new(texts).ok()?, longest })
    }

    /// Whether one is in the next part of an answer, or ends there.
    pub fn is_in(&self, part: &[u8], tail: &mut Tail) -> bool {
        let keep = self.longest - 1;
        let mut found = self.texts.is_match(part);
        if !tail.0.is_empty() {
            let mut seam = std::mem::take(&mut tail.0);
            seam.extend_from_slice(&part[..part.len().min(keep)]);
            found |= self.texts.is_match(&seam);
            tail.0 = seam;
        }
        if found {
            // It is told of once.
            tail.0.clear();
            return true;
        }
        // Where the part is short, what is before it stays.
        if part.len() >= keep {
            tail.0.clear();
            tail.0.extend_from_slice(&part[part.len() - keep..]);
        } else {
            if tail.0.is_empty() {
                tail.0.extend_from_slice(part);
            }
            tail.0.drain(..tail.0.len().saturating_sub(keep));
        }
        false
    }
}

impl Tail {
    /// The answer is over.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_found_wherever_an_answer_is_cut(before in "[a-n-]{0,40}", after in "[d-n-]{0,40}", cuts in prop::collection::vec(0usize..100, 0..9)) {
            let rows = CanaryRows::new(["cn-5b1f0e6d2a7c", "another-canary"].into_iter()).expect("two");
            for (answer, expected) in [
                (format!("{before}cn-5b1f0e6d2a7c{after}"), true),
                (format!("{before}cn-5b1f0e6d2a7{after}"), false),
            ] {
                let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (answer.len() + 1)).chain([0, answer.len()]).collect();
                cuts.sort_unstable();
                let mut tail = Tail::default();
                let mut found = false;
                for pair in cuts.windows(2) {
                    found |= rows.is_in(&answer.as_bytes()[pair[0]..pair[1]], &mut tail);
                }
                prop_assert_eq!(found, expected, "{} at {:?}", answer, cuts);
            }
        }
    }
}
