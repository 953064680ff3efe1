//! **separation**: who may change definitions has no part in the tenants' work
//!
//! No unrestricted user has roles of tenants, and none may break the glass.

use super::none_of;
use crate::rules::compliance::{Access, Control, Evidence, Facts, Finding, Kind, Rule, User};

pub static RULE: Rule = Rule {
    name: "separation",
    kind: Kind::Configuration,
    says: "who may change definitions has no part in the tenants' work",
    evidence: &["session"],
    period_days: 30,
    look,
};

fn look(_: &Control, facts: &Facts, _: &Evidence) -> Finding {
    let tenants = facts.users.iter().filter(|user| user.access != Access::Unrestricted);
    let of_tenants: Vec<&String> = tenants.flat_map(|user| &user.roles).collect();
    let is_both = |user: &&User| user.breaks_glass || user.roles.iter().any(|role| of_tenants.contains(&role));
    let both = facts.users.iter().filter(|user| user.access == Access::Unrestricted).filter(is_both);
    none_of(both.map(|user| user.name.as_str()), "unrestricted users have no roles of tenants", "both at once:")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::compliance::checks::tests::{fails, holds};

    #[test]
    fn what_it_finds() {
        let user = |name: &str, access, role: &str| User {
            name: name.to_owned(),
            access,
            roles: vec![role.to_owned()],
            ..User::default()
        };
        let facts = |role| Facts {
            users: vec![user("web", Access::Fixed, "app"), user("owner", Access::Unrestricted, role)],
            ..Facts::default()
        };
        holds(&RULE, &[], &facts("dba"));
        fails(&RULE, &[], &facts("app"), "owner");
    }
}
