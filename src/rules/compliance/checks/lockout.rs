//! **lockout**: ten failed logins in a row shut their address out for 30 minutes
//!
//! The threat rule `logins` in mode enforce, for everybody. By address: who guesses does not lock out who knows.

use crate::rules::compliance::{Control, Evidence, Facts, Finding, Kind, Rule};

pub static RULE: Rule = Rule {
    name: "lockout",
    kind: Kind::Enforced,
    says: "ten failed logins in a row shut their address out for 30 minutes",
    evidence: &["login_refused"],
    period_days: 90,
    look,
};

fn look(_: &Control, facts: &Facts, _: &Evidence) -> Finding {
    if facts.threats_enforced.iter().any(|rule| rule == "logins") {
        Finding::Holds("the threat rule logins is enforced".to_owned())
    } else {
        Finding::Fails(
            "the threat rule logins is not enforced for everybody ([[threat]] rule = \"logins\", mode = \"enforce\")".to_owned(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::compliance::checks::tests::{fails, holds};

    #[test]
    fn what_it_finds() {
        holds(&RULE, &[], &Facts { threats_enforced: vec!["logins".to_owned()], ..Facts::default() });
        fails(&RULE, &[], &Facts::default(), "logins");
    }
}
