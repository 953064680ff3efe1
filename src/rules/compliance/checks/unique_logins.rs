//! **unique-logins**: no login is shared by tenants without signed tokens, none has a generic name
//!
//! Who the person behind an application's login is, the application knows alone.

use super::none_of;
use crate::rules::compliance::{Access, Control, Evidence, Facts, Finding, Kind, Rule, User};

pub static RULE: Rule = Rule {
    name: "unique-logins",
    kind: Kind::Configuration,
    says: "no login is shared by tenants without signed tokens, none has a generic name",
    evidence: &["session"],
    period_days: 30,
    look,
};

const GENERIC: [&str; 8] = ["admin", "administrator", "root", "postgres", "test", "guest", "user", "demo"];

fn look(_: &Control, facts: &Facts, _: &Evidence) -> Finding {
    let is_generic = |user: &&User| user.access == Access::Shared || GENERIC.contains(&user.name.to_ascii_lowercase().as_str());
    let wrong = facts.users.iter().filter(is_generic).map(|user| user.name.as_str());
    none_of(wrong, "each login is of one tenant, or takes signed tokens", "shared or generic logins:")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::compliance::checks::tests::{fails, holds};

    #[test]
    fn what_it_finds() {
        let facts = |name: &str, access| Facts {
            users: vec![User { name: name.to_owned(), access, ..User::default() }],
            ..Facts::default()
        };
        holds(&RULE, &[], &facts("acme", Access::Fixed));
        holds(&RULE, &[], &facts("web", Access::Signed));
        fails(&RULE, &[], &facts("web", Access::Shared), "web");
        fails(&RULE, &[], &facts("Admin", Access::Unrestricted), "Admin");
    }
}
