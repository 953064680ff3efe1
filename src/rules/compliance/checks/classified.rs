//! **classified**: no column of the database looks personal and has no class
//!
//! By names, types and, where they were sampled, values (`bulkhead compliance classify`): what is not found is not thereby harmless. Needs a catalog.

use super::none_of;
use crate::rules::compliance::{Control, Evidence, Facts, Finding, Kind, Rule};

pub static RULE: Rule = Rule {
    name: "classified",
    kind: Kind::Configuration,
    says: "no column of the database looks personal and has no class",
    evidence: &[],
    period_days: 0,
    look,
};

fn look(_: &Control, facts: &Facts, _: &Evidence) -> Finding {
    match &facts.unclassified {
        None => Finding::Unknown("nobody has looked at the catalog (--database URL, --catalog FILE)".to_owned()),
        Some(columns) => none_of(
            columns.iter().map(String::as_str),
            "no column looks personal that has no class",
            "look personal and have no class:",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::compliance::checks::tests::{fails, holds};

    #[test]
    fn what_it_finds() {
        let facts = |columns: &[&str]| {
            let unclassified = Some(columns.iter().map(|name| (*name).to_owned()).collect());
            Facts { unclassified, ..Facts::default() }
        };
        holds(&RULE, &[], &facts(&[]));
        fails(&RULE, &[], &facts(&["public.t.email"]), "public.t.email");
        assert!(matches!(look(&Control::default(), &Facts::default(), &Evidence::default()), Finding::Unknown(_)));
    }
}
