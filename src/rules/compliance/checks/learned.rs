//! **learned**: applications say only what they were learned to say
//!
//! An `[[application]]` lists statements, and the threat rule `unknown-statement` is enforced for everybody. Which applications there are, nobody can tell from here.

use crate::rules::compliance::{Control, Evidence, Facts, Finding, Kind, Rule};

pub static RULE: Rule = Rule {
    name: "learned",
    kind: Kind::Enforced,
    says: "applications say only what they were learned to say",
    evidence: &["threat", "statement", "intent"],
    period_days: 30,
    look,
};

fn look(_: &Control, facts: &Facts, _: &Evidence) -> Finding {
    let is_enforced = facts.threats_enforced.iter().any(|rule| rule == "unknown-statement");
    match facts.learned {
        0 => Finding::Fails("no [[application]] lists statements".to_owned()),
        _ if !is_enforced => Finding::Fails("the threat rule unknown-statement is not enforced for everybody".to_owned()),
        lists => Finding::Holds(format!("{lists} lists of statements are enforced")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::compliance::checks::tests::{fails, holds};

    #[test]
    fn what_it_finds() {
        let facts = |learned, enforced: &[&str]| Facts {
            learned,
            threats_enforced: enforced.iter().map(|rule| (*rule).to_owned()).collect(),
            ..Facts::default()
        };
        holds(&RULE, &[], &facts(1, &["unknown-statement"]));
        fails(&RULE, &[], &facts(1, &[]), "not enforced");
        fails(&RULE, &[], &facts(0, &["unknown-statement"]), "no [[application]]");
    }
}
