//! **automatic-logoff**: a client that does nothing for 15 minutes is logged off
//!
//! `[limits] client_idle_timeout`, of tenants' sessions. Unrestricted users' sessions end with their connection.

use crate::rules::compliance::{Control, Evidence, Facts, Finding, Kind, Rule};

pub static RULE: Rule = Rule {
    name: "automatic-logoff",
    kind: Kind::Enforced,
    says: "a client that does nothing for 15 minutes is logged off",
    evidence: &["session_end"],
    period_days: 30,
    look,
};

/// Seconds (PCI DSS 8.2.8).
const LONGEST: u64 = 15 * 60;

fn look(_: &Control, facts: &Facts, _: &Evidence) -> Finding {
    match facts.client_idle_timeout {
        Some(seconds) if seconds <= LONGEST => Finding::Holds(format!("after {seconds} seconds")),
        Some(seconds) => Finding::Fails(format!("client_idle_timeout is {seconds} seconds, more than {LONGEST}")),
        None => Finding::Fails("[limits] client_idle_timeout is not set".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::compliance::checks::tests::{fails, holds};

    #[test]
    fn what_it_finds() {
        let facts = |client_idle_timeout| Facts { client_idle_timeout, ..Facts::default() };
        holds(&RULE, &[], &facts(Some(900)));
        fails(&RULE, &[], &facts(Some(901)), "901");
        fails(&RULE, &[], &facts(None), "not set");
    }
}
