//! **break-glass**: access for emergencies needs a reason, ends by itself, and is recorded
//!
//! Holds by construction: SET bulkhead.break_glass takes a reason, lasts as long as the [[user]] says, and is refused without an audit log. Where nobody may break the
//! glass, there is no emergency access through the proxy.

use crate::rules::compliance::{Control, Evidence, Facts, Finding, Kind, Rule};

pub static RULE: Rule = Rule {
    name: "break-glass",
    kind: Kind::Enforced,
    says: "access for emergencies needs a reason, ends by itself, and is recorded",
    evidence: &["break_glass"],
    period_days: 365,
    look,
};

fn look(_: &Control, facts: &Facts, _: &Evidence) -> Finding {
    let count = facts.users.iter().filter(|user| user.breaks_glass).count();
    match (&facts.audit, count) {
        (_, 0) => Finding::NotApplicable("no login may break the glass".to_owned()),
        (None, _) => Finding::Fails("without an audit log the glass cannot be broken".to_owned()),
        (Some(_), count) => Finding::Holds(format!("logins that may, with a reason, for a set time: {count}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::compliance::checks::tests::{fails, holds};
    use crate::rules::compliance::{Audit, User};

    #[test]
    fn what_it_finds() {
        let users = vec![User { breaks_glass: true, ..User::default() }];
        holds(&RULE, &[], &Facts { users: users.clone(), audit: Some(Audit::default()), ..Facts::default() });
        fails(&RULE, &[], &Facts { users, ..Facts::default() }, "audit log");
    }
}
