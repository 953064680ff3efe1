//! **change-window**: unrestricted users change definitions at set times or for a ticket only
//!
//! A window that is always open, and for no ticket, does not count. What a function does inside is not seen, nor what goes past
//! the proxy (`second-lock`, `bulkhead doctor`).

use super::none_of;
use crate::rules::compliance::{Access, Control, Evidence, Facts, Finding, Kind, Rule, User};

pub static RULE: Rule = Rule {
    name: "change-window",
    kind: Kind::Enforced,
    says: "unrestricted users change definitions at set times or for a ticket only",
    evidence: &["ticket", "refused_change"],
    period_days: 90,
    look,
};

fn look(_: &Control, facts: &Facts, _: &Evidence) -> Finding {
    let is_held = |user: &&User| facts.windows.iter().any(|users| users.is_empty() || users.contains(&user.name));
    let mut unrestricted = facts.users.iter().filter(|user| user.access == Access::Unrestricted).peekable();
    if unrestricted.peek().is_none() {
        return Finding::Holds("no login is unrestricted".to_owned());
    }
    let free = unrestricted.filter(|user| !is_held(user));
    none_of(free.map(|user| user.name.as_str()), "every unrestricted user is under a [[window]]", "no [[window]] holds for")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::compliance::checks::tests::{fails, holds};

    #[test]
    fn what_it_finds() {
        let user = User { name: "owner".to_owned(), access: Access::Unrestricted, ..User::default() };
        let facts = |windows: &[&str]| Facts {
            users: vec![user.clone()],
            windows: vec![windows.iter().map(|user| (*user).to_owned()).collect()],
            ..Facts::default()
        };
        holds(&RULE, &[], &facts(&["owner"]));
        holds(&RULE, &[], &facts(&[]));
        holds(&RULE, &[], &Facts::default());
        fails(&RULE, &[], &facts(&["other"]), "owner");
    }
}
