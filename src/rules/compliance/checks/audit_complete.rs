//! **audit-complete**: nothing is done that is not recorded
//!
//! The audit log is on, what cannot be recorded is refused, and the log has no gap. What functions do inside of the server it does not see.

use crate::rules::compliance::{Control, Evidence, Facts, Finding, Kind, Log, Rule};

pub static RULE: Rule = Rule {
    name: "audit-complete",
    kind: Kind::Enforced,
    says: "nothing is done that is not recorded",
    evidence: &["statement", "intent"],
    period_days: 30,
    look,
};

fn look(_: &Control, facts: &Facts, evidence: &Evidence) -> Finding {
    match (&facts.audit, &evidence.log) {
        (None, _) => Finding::Fails("there is no audit log ([audit] path)".to_owned()),
        (Some(audit), _) if !audit.refuses => {
            Finding::Fails("statements run unrecorded while the log cannot be written (on_failure)".to_owned())
        }
        (Some(_), Log::Unknown) => Finding::Unknown("nobody has looked at the log".to_owned()),
        (Some(_), Log::Bad(why)) => Finding::Unknown(format!("the log is not what it was: {why}")),
        (Some(_), Log::Intact { size: _, gaps: 0 }) => {
            Finding::Holds("what cannot be recorded is refused; no gap in the log".to_owned())
        }
        (Some(_), Log::Intact { size: _, gaps }) => Finding::Fails(format!("{gaps} gaps in the log")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::compliance::Audit;
    use crate::rules::compliance::checks::tests::{fails, holds};

    #[test]
    fn what_it_finds() {
        let facts = |refuses| Facts { audit: Some(Audit { refuses, retention_days: None }), ..Facts::default() };
        holds(&RULE, &[], &facts(true));
        fails(&RULE, &[], &facts(false), "on_failure");
        fails(&RULE, &[], &Facts::default(), "no audit log");
        let gap = Evidence { log: Log::Intact { size: 9, gaps: 1 }, ..Evidence::default() };
        assert!(matches!(look(&Control::default(), &facts(true), &gap), Finding::Fails(_)));
        assert!(matches!(look(&Control::default(), &facts(true), &Evidence::default()), Finding::Unknown(_)));
    }
}
