//! **audit-intact**: the audit log is what it was: it verifies against its checkpoints
//!
//! What `bulkhead audit verify` says. Keep checkpoints and the public key elsewhere: without them, who holds the key can write another log.

use crate::rules::compliance::{Control, Evidence, Facts, Finding, Kind, Log, Rule};

pub static RULE: Rule = Rule {
    name: "audit-intact",
    kind: Kind::Detected,
    says: "the audit log is what it was: it verifies against its checkpoints",
    evidence: &["checkpoint", "statement", "intent"],
    period_days: 7,
    look,
};

fn look(_: &Control, facts: &Facts, evidence: &Evidence) -> Finding {
    match (&facts.audit, &evidence.log) {
        (None, _) => Finding::Fails("there is no audit log ([audit] path)".to_owned()),
        (Some(_), Log::Unknown) => Finding::Unknown("nobody has looked at the log".to_owned()),
        (Some(_), Log::Bad(why)) => Finding::Fails(why.clone()),
        (Some(_), Log::Intact { size, gaps: _ }) => Finding::Holds(format!("{size} records are what was written")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::compliance::Audit;
    use crate::rules::compliance::checks::tests::{fails, holds};

    #[test]
    fn what_it_finds() {
        holds(&RULE, &[], &Facts { audit: Some(Audit::default()), ..Facts::default() });
        fails(&RULE, &[], &Facts::default(), "no audit log");
        let bad = Evidence { log: Log::Bad("record 7".to_owned()), ..Evidence::default() };
        let facts = Facts { audit: Some(Audit::default()), ..Facts::default() };
        assert_eq!(look(&Control::default(), &facts, &bad), Finding::Fails("record 7".to_owned()));
    }
}
