//! **unknown-statement**: an application says what it was not known to say.
//!
//! Where a policy lists what an application says (`[[application]]`, which `bulkhead learn` writes from the audit log), everything else is
//! told. After a deploy that is new code, whose statements are looked at and added; at any other time it is somebody else. What only changes
//! the session (BEGIN, SET, SHOW) is nobody's own. Constants are not compared: an attacker who keeps to the list reaches what the
//! application shows anybody. While the list `learns_until` a date, what is new passes.

use crate::rules::learned::Familiarity;
use crate::rules::{Looks, Rule, Spoken, Watch};

pub static RULE: Rule = Rule {
    name: "unknown-statement",
    found: "its application is not known to say this",
    mode: Watch::Shadow,
    looks: Looks::AtStatement(looks),
};

fn looks(spoken: &Spoken<'_>) -> bool {
    spoken.familiarity != Familiarity::Known && !spoken.is_learning
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::learned::Familiarity;

    #[test]
    fn what_it_finds() {
        let spoken = |familiarity, is_learning, is_unbound| looks(&Spoken { familiarity, is_learning, is_unbound });
        let graft = Familiarity::Graft { of: "select ?" };
        assert!(spoken(Familiarity::Unknown, false, false) && spoken(graft, false, false));
        assert!(!spoken(Familiarity::Unknown, true, false) && !spoken(Familiarity::Known, false, true));
    }
}
