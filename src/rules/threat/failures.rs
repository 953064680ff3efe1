//! **failures**: a login whose statements fail, or are refused, again and again: more than 20 within two minutes, and more than one of five.
//!
//! Whoever tries out what can be injected makes errors: quotes that do not end, columns that are not there, conversions that fail. A deployed
//! application makes hardly any. It looks after each failure, and speaks once for each of them from then on.

use crate::rules::lately::Lately;
use crate::rules::{Looks, Rule, Watch};

pub static RULE: Rule = Rule {
    name: "failures",
    found: "more than one of five statements of this login have failed lately, and more than 20",
    mode: Watch::Shadow,
    looks: Looks::AtFailures(looks),
};

fn looks(lately: &Lately) -> bool {
    lately.failures() > 20 && lately.failures() * 5 > lately.statements()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_finds() {
        let lately = Lately::default();
        (0..20).for_each(|_| lately.note_failure(60, 0, false));
        assert!(!looks(&lately));
        lately.note_failure(60, 0, false);
        assert!(looks(&lately));
        lately.note_failure(60, 90, false);
        assert!(!looks(&lately), "among many that are well");
    }
}
