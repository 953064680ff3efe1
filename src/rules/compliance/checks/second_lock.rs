//! **second-lock**: PostgreSQL itself keeps tenants apart under the proxy
//!
//! Level paranoid: tenants are refused unless row security is in place (`bulkhead harden`). Ways past the proxy are `bulkhead doctor`'s to find.

use crate::rules::compliance::{Control, Evidence, Facts, Finding, Kind, Rule};

pub static RULE: Rule = Rule {
    name: "second-lock",
    kind: Kind::Enforced,
    says: "PostgreSQL itself keeps tenants apart under the proxy",
    evidence: &["statement", "intent"],
    period_days: 30,
    look,
};

fn look(_: &Control, facts: &Facts, _: &Evidence) -> Finding {
    if facts.level == "paranoid" {
        Finding::Holds("level paranoid: row security is in place, or tenants are refused".to_owned())
    } else {
        Finding::Fails(format!("[isolation] level is {}, not paranoid", facts.level))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::compliance::checks::tests::{fails, holds};

    #[test]
    fn what_it_finds() {
        holds(&RULE, &[], &Facts { level: "paranoid".to_owned(), ..Facts::default() });
        fails(&RULE, &[], &Facts { level: "strict".to_owned(), ..Facts::default() }, "strict");
    }
}
