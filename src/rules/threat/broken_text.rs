//! **broken-text**: three statements of a login within two minutes that could not be parsed.
//!
//! An application that has been tried sends only texts that parse. Whoever looks for a hole in it sends quotes and brackets first: `id = 3'`,
//! `id = 3)`. One may be an O'Brien, which is the hole itself, and worth knowing. Switch it off for people at a console.

use crate::rules::lately::Lately;
use crate::rules::{Looks, Rule, Watch};

pub static RULE: Rule = Rule {
    name: "broken-text",
    found: "three statements of this login could not be parsed lately",
    mode: Watch::Shadow,
    looks: Looks::AtFailures(looks),
};

fn looks(lately: &Lately) -> bool {
    lately.broken() >= 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_finds() {
        let lately = Lately::default();
        for _ in 0..9 {
            lately.note_failure(60, 0, false);
        }
        (0..2).for_each(|_| lately.note_failure(60, 0, true));
        assert!(!looks(&lately));
        lately.note_failure(60, 0, true);
        assert!(looks(&lately));
    }
}
