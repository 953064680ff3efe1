//! **policy-changes**: policies that come into force are recorded
//!
//! With the epoch that each statement was judged in. Who changed the file, the place where files are kept knows (git).

use crate::rules::compliance::{Control, Evidence, Facts, Finding, Kind, Rule};

pub static RULE: Rule = Rule {
    name: "policy-changes",
    kind: Kind::Detected,
    says: "policies that come into force are recorded",
    evidence: &["policies"],
    period_days: 365,
    look,
};

fn look(_: &Control, facts: &Facts, _: &Evidence) -> Finding {
    match facts.audit {
        Some(_) => Finding::Holds("each change of policies is in the log".to_owned()),
        None => Finding::Fails("there is no audit log ([audit] path)".to_owned()),
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
    }
}
