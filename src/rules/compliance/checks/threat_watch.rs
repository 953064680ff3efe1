//! **threat-watch**: threat rules look at what is asked, and what they find is recorded
//!
//! No threat rule is off for everybody. What they miss is measured in the README.

use super::none_of;
use crate::rules::compliance::{Control, Evidence, Facts, Finding, Kind, Rule};

pub static RULE: Rule = Rule {
    name: "threat-watch",
    kind: Kind::Detected,
    says: "threat rules look at what is asked, and what they find is recorded",
    evidence: &["threat", "refused", "statement"],
    period_days: 30,
    look,
};

fn look(_: &Control, facts: &Facts, _: &Evidence) -> Finding {
    match &facts.audit {
        None => Finding::Fails("there is no audit log that would tell ([audit] path)".to_owned()),
        Some(_) => none_of(facts.threats_off.iter().map(String::as_str), "all threat rules are on", "off for everybody:"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::compliance::Audit;
    use crate::rules::compliance::checks::tests::{fails, holds};

    #[test]
    fn what_it_finds() {
        let facts = |off: &[&str]| Facts {
            threats_off: off.iter().map(|rule| (*rule).to_owned()).collect(),
            audit: Some(Audit::default()),
            ..Facts::default()
        };
        holds(&RULE, &[], &facts(&[]));
        fails(&RULE, &[], &facts(&["tautology"]), "tautology");
        fails(&RULE, &[], &Facts::default(), "audit log");
    }
}
