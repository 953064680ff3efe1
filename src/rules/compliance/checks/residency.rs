//! **residency**: a restrictive row rule that names the column of these classes holds for every login of tenants
//!
//! A login for all regions needs a rule that says so (`region IS NOT NULL`). Which region is whose, the rules say; where servers
//! and clients are, nobody sees from here.

use super::of_columns;
use crate::rules::compliance::{Column, Control, Evidence, Facts, Finding, Kind, Rule};

pub static RULE: Rule = Rule {
    name: "residency",
    kind: Kind::Enforced,
    says: "a restrictive row rule that names the column of these classes holds for every login of tenants",
    evidence: &["statement", "intent"],
    period_days: 30,
    look,
};

fn look(control: &Control, facts: &Facts, _: &Evidence) -> Finding {
    let holds = |column: &Column| {
        let (table, name) = column.name.rsplit_once('.').unwrap_or(("", &column.name));
        let rules = || facts.tables.iter().filter(|t| t.name == table).flat_map(|t| &t.restrictions).filter(|r| r.names(name));
        rules().next().is_some() && facts.tenants().all(|user| rules().any(|rule| rule.is_for(user)))
    };
    of_columns(control, facts, holds, "is in a restrictive row rule of every login of tenants")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::compliance::checks::tests::{fails, holds, texts};
    use crate::rules::compliance::{Restriction, Table, User};

    #[test]
    fn what_it_finds() {
        let facts = |rules: &[(&[&str], &str)]| Facts {
            columns: vec![Column { name: "public.t.region".to_owned(), class: "residency".to_owned(), ..Column::default() }],
            tables: vec![Table {
                name: "public.t".to_owned(),
                scope: "tenant".to_owned(),
                restrictions: rules
                    .iter()
                    .map(|(roles, using)| Restriction { roles: texts(roles), using: (*using).to_owned() })
                    .collect(),
            }],
            users: ["eu", "us"].map(|role| User { roles: texts(&[role]), ..User::default() }).into(),
            ..Facts::default()
        };
        holds(&RULE, &["residency"], &facts(&[(&[], "region = 'EU'")]));
        holds(&RULE, &["residency"], &facts(&[(&["eu"], "region = 'EU'"), (&["us"], "region <> 'EU'")]));
        fails(&RULE, &["residency"], &facts(&[(&["eu"], "region = 'EU'")]), "public.t.region");
        fails(&RULE, &["residency"], &facts(&[(&[], "status <> 'region'")]), "public.t.region");
        fails(&RULE, &["residency"], &facts(&[]), "public.t.region");
    }
}
