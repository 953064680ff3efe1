//! **minimisation**: columns of these classes show their value only to roles that policies name
//!
//! A mask that spares every login of tenants, whatever it has said, hides nothing and fails. Whether the roles that it spares
//! need the value, nobody sees from here. A mask is no encryption: the value is in the database.

use super::of_columns;
use crate::rules::compliance::{Column, Control, Evidence, Facts, Finding, Kind, Rule};

pub static RULE: Rule = Rule {
    name: "minimisation",
    kind: Kind::Enforced,
    says: "columns of these classes show their value only to roles that policies name",
    evidence: &["masked"],
    period_days: 30,
    look,
};

fn look(control: &Control, facts: &Facts, _: &Evidence) -> Finding {
    let spares_all =
        |column: &Column| facts.tenants().next().is_some() && facts.tenants().all(|user| column.is_always_seen_by(user));
    let holds = |column: &Column| column.never_stored || column.is_masked && !spares_all(column);
    of_columns(control, facts, holds, "is masked for some login of tenants")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::compliance::User;
    use crate::rules::compliance::checks::tests::{fails, holds, texts};

    #[test]
    fn what_it_finds() {
        let facts = |is_masked, spared: &[&str], purposes: &[&str], roles: &[&str]| Facts {
            columns: vec![Column {
                name: "public.t.c".to_owned(),
                class: "pii.x".to_owned(),
                is_masked,
                unless_roles: texts(spared),
                purposes: texts(purposes),
                ..Column::default()
            }],
            users: roles.iter().map(|role| User { roles: texts(&[role]), ..User::default() }).collect(),
            ..Facts::default()
        };
        holds(&RULE, &["pii"], &facts(true, &["desk"], &[], &["desk", "app"]));
        holds(&RULE, &["pii"], &facts(true, &["app"], &["billing"], &["app"]));
        holds(&RULE, &["pii"], &facts(true, &[], &[], &[]));
        fails(&RULE, &["pii"], &facts(false, &[], &[], &["app"]), "public.t.c");
        fails(&RULE, &["pii"], &facts(true, &["app", "desk"], &[], &["desk", "app"]), "public.t.c");
    }
}
