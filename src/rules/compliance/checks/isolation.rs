//! **isolation**: every statement of a tenant reads and writes the rows of that tenant alone
//!
//! At the levels strict and paranoid: a statement that cannot be rewritten so is refused. At standard, EXPLAIN tells estimates of
//! all tenants' rows, and a view that is listed as a table is read with its owner's rights. What remains (constraints over
//! several tenants, timing) is in the README.

use crate::rules::compliance::{Control, Evidence, Facts, Finding, Kind, Rule};

pub static RULE: Rule = Rule {
    name: "isolation",
    kind: Kind::Enforced,
    says: "every statement of a tenant reads and writes the rows of that tenant alone",
    evidence: &["statement", "intent"],
    period_days: 30,
    look,
};

fn look(_: &Control, facts: &Facts, _: &Evidence) -> Finding {
    match facts.level.as_str() {
        "" => Finding::Unknown("nobody knows the level ([isolation] level)".to_owned()),
        "standard" => Finding::Fails("level standard lets estimates and views with their owner's rights through".to_owned()),
        level => Finding::Holds(format!("level {level}: what cannot be rewritten is refused")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::compliance::checks::tests::{fails, holds};

    #[test]
    fn what_it_finds() {
        let facts = |level: &str| Facts { level: level.to_owned(), ..Facts::default() };
        holds(&RULE, &[], &facts("strict"));
        holds(&RULE, &[], &facts("paranoid"));
        fails(&RULE, &[], &facts("standard"), "standard");
        assert!(matches!(look(&Control::default(), &facts(""), &Evidence::default()), Finding::Unknown(_)));
    }
}
