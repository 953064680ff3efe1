//! **audit-retention**: records are kept for as many days as the control says
//!
//! `[audit] retention_days`; without it nothing is dropped. Whether somebody deletes the files, `audit-intact` tells.

use crate::rules::compliance::{Audit, Control, Evidence, Facts, Finding, Kind, Rule};

pub static RULE: Rule = Rule {
    name: "audit-retention",
    kind: Kind::Configuration,
    says: "records are kept for as many days as the control says",
    evidence: &["statement", "intent"],
    period_days: 30,
    look,
};

fn look(control: &Control, facts: &Facts, _: &Evidence) -> Finding {
    match &facts.audit {
        None => Finding::Fails("there is no audit log ([audit] path)".to_owned()),
        Some(Audit { retention_days: None, .. }) => Finding::Holds("nothing is dropped".to_owned()),
        Some(Audit { retention_days: Some(days), .. }) if *days >= control.days => {
            Finding::Holds(format!("kept for {days} days"))
        }
        Some(Audit { retention_days: Some(days), .. }) => {
            Finding::Fails(format!("retention_days is {days}, less than {}", control.days))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::compliance::checks::tests::{fails, holds};

    #[test]
    fn what_it_finds() {
        let facts = |retention_days| Facts { audit: Some(Audit { refuses: true, retention_days }), ..Facts::default() };
        let control = Control { days: 365, ..Control::default() };
        let look = |days| look(&control, &facts(days), &Evidence::default());
        assert!(matches!(look(None), Finding::Holds(_)) && matches!(look(Some(365)), Finding::Holds(_)));
        assert!(matches!(look(Some(364)), Finding::Fails(_)));
        holds(&RULE, &[], &facts(None));
        fails(&RULE, &[], &Facts::default(), "no audit log");
    }
}
