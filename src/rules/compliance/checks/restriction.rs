//! **restriction**: rows that a column of these classes marks are not there for roles that policies name
//!
//! Opt-outs, restriction of processing, objections. Where no login has one of these roles, or may say one of these purposes,
//! nothing is hidden from anybody, and it fails. Whether they are the right ones, nobody sees from here; whoever sets the flag is
//! the application.

use super::of_columns;
use crate::rules::compliance::{Column, Control, Evidence, Facts, Finding, Kind, Rule};

pub static RULE: Rule = Rule {
    name: "restriction",
    kind: Kind::Enforced,
    says: "rows that a column of these classes marks are not there for roles that policies name",
    evidence: &["statement", "intent"],
    period_days: 30,
    look,
};

fn look(control: &Control, facts: &Facts, _: &Evidence) -> Finding {
    let hides = |column: &Column| facts.tenants().any(|user| column.hides_rows_of(user));
    of_columns(control, facts, hides, "hides the rows that it marks from some login")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::compliance::User;
    use crate::rules::compliance::checks::tests::{fails, holds, texts};

    #[test]
    fn what_it_finds() {
        let facts = |hides_rows_from: &[&str]| Facts {
            columns: vec![Column {
                name: "public.t.c".to_owned(),
                class: "gdpr.restricted".to_owned(),
                hides_rows_from: texts(hides_rows_from),
                ..Column::default()
            }],
            users: vec![User { roles: texts(&["ads"]), purposes: texts(&["marketing"]), ..User::default() }],
            ..Facts::default()
        };
        holds(&RULE, &["gdpr.restricted"], &facts(&["ads"]));
        holds(&RULE, &["gdpr.restricted"], &facts(&["purpose:marketing"]));
        fails(&RULE, &["gdpr.restricted"], &facts(&[]), "public.t.c");
        fails(&RULE, &["gdpr.restricted"], &facts(&["marketing", "purpose:ads"]), "public.t.c");
    }
}
