//! **denied-by-default**: a table that no policy lists is denied to every tenant
//!
//! Holds always: there is no setting that opens what is not listed.

use crate::rules::compliance::{Control, Evidence, Facts, Finding, Kind, Rule};

pub static RULE: Rule = Rule {
    name: "denied-by-default",
    kind: Kind::Enforced,
    says: "a table that no policy lists is denied to every tenant",
    evidence: &["refused", "statement", "intent"],
    period_days: 30,
    look,
};

fn look(_: &Control, facts: &Facts, _: &Evidence) -> Finding {
    let open = facts.tables.iter().filter(|table| table.scope != "denied").count();
    Finding::Holds(format!("tables that are open to tenants, by name: {open}; all others are denied"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::compliance::checks::tests::holds;

    #[test]
    fn what_it_finds() {
        holds(&RULE, &[], &Facts::default());
    }
}
