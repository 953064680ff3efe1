//! **bound-values**: an application that binds its values sends a constant in a simple query.
//!
//! An injection needs a place where text is glued together. An application without such a place sends its statements by the extended
//! protocol, and what comes otherwise is somebody else's. Only for `[[application]]` entries that say `binds = true`.

use crate::rules::{Looks, Rule, Spoken, Watch};

pub static RULE: Rule = Rule {
    name: "bound-values",
    found: "its application binds values, and this has constants in its text",
    mode: Watch::Shadow,
    looks: Looks::AtStatement(looks),
};

fn looks(spoken: &Spoken<'_>) -> bool {
    spoken.is_unbound
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::learned::Familiarity;

    #[test]
    fn what_it_finds() {
        let spoken = |familiarity, is_learning, is_unbound| looks(&Spoken { familiarity, is_learning, is_unbound });
        let graft = Familiarity::Graft { of: "select ?" };
        assert!(spoken(Familiarity::Known, false, true) && !spoken(graft, false, false));
    }
}
