//! **export-limit**: every role of a tenant's login is under a limit of rows
//!
//! A [[limit]] ends the answer that has more rows, and refuses the login that has had too many in an hour. Rows are counted, not what is in them.

use super::none_of;
use crate::rules::compliance::{Access, Control, Evidence, Facts, Finding, Kind, Rule, User};

pub static RULE: Rule = Rule {
    name: "export-limit",
    kind: Kind::Enforced,
    says: "every role of a tenant's login is under a limit of rows",
    evidence: &["limited", "statement", "intent"],
    period_days: 30,
    look,
};

fn look(_: &Control, facts: &Facts, _: &Evidence) -> Finding {
    let is_limited =
        |user: &&User| facts.limits.iter().any(|roles| roles.is_empty() || roles.iter().any(|role| user.roles.contains(role)));
    let free = facts.users.iter().filter(|user| user.access != Access::Unrestricted).filter(|user| !is_limited(user));
    none_of(free.map(|user| user.name.as_str()), "every login of tenants is under a limit", "no limit holds for the logins")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::compliance::checks::tests::{fails, holds};

    #[test]
    fn what_it_finds() {
        let user = User { name: "web".to_owned(), roles: vec!["app".to_owned()], ..User::default() };
        let facts = |limits: &[&[&str]]| Facts {
            users: vec![user.clone()],
            limits: limits.iter().map(|roles| roles.iter().map(|role| (*role).to_owned()).collect()).collect(),
            ..Facts::default()
        };
        holds(&RULE, &[], &facts(&[&["app"]]));
        holds(&RULE, &[], &facts(&[&[]]));
        fails(&RULE, &[], &facts(&[&["other"]]), "web");
    }
}
