//! **isolation**: every statement of a tenant reads and writes the rows of that tenant alone
//!
//! Holds always: a statement that cannot be rewritten so is refused. What remains (constraints over several tenants, timing) is in the README.

use crate::rules::compliance::{Control, Evidence, Facts, Finding, Kind, Rule};

pub static RULE: Rule = Rule {
    name: "isolation",
    kind: Kind::Enforced,
    says: "every statement of a tenant reads and writes the rows of that tenant alone",
    evidence: &["statement", "intent"],
    look,
};

fn look(_: &Control, facts: &Facts, _: &Evidence) -> Finding {
    Finding::Holds(format!("level {}: what cannot be rewritten is refused", facts.level))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::compliance::checks::tests::holds;

    #[test]
    fn what_it_finds() {
        holds(&RULE, &[], &Facts { level: "strict".to_owned(), ..Facts::default() });
    }
}
