//! **grafted-statement**: a statement that its application is known to say, which goes on differently after one of its values: with another
//! query, an alternative, a case.
//!
//! That is how an injection looks to who knows the statement that it was injected into. Told also while the list learns after a deploy: a
//! new statement of the application's own that begins as an old one does, and goes on with a subquery after a value, is found as well, and is
//! to be added by hand.

use crate::rules::learned::Familiarity;
use crate::rules::{Looks, Rule, Spoken, Watch};

pub static RULE: Rule = Rule {
    name: "grafted-statement",
    found: "a statement that its application is known to say goes on differently after one of its values",
    mode: Watch::Shadow,
    looks: Looks::AtStatement(looks),
};

fn looks(spoken: &Spoken<'_>) -> bool {
    matches!(spoken.familiarity, Familiarity::Graft { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::learned::Familiarity;

    #[test]
    fn what_it_finds() {
        let spoken = |familiarity, is_learning, is_unbound| looks(&Spoken { familiarity, is_learning, is_unbound });
        let graft = Familiarity::Graft { of: "select ?" };
        assert!(spoken(graft, false, false) && spoken(graft, true, false));
        assert!(!spoken(Familiarity::Unknown, false, false) && !spoken(Familiarity::Known, false, true));
    }
}
