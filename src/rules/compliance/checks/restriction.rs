//! **restriction**: rows that a column of these classes marks are not there for roles that policies name
//!
//! Opt-outs, restriction of processing, objections. Whoever sets the flag is the application.

use super::of_columns;
use crate::rules::compliance::{Control, Evidence, Facts, Finding, Kind, Rule};

pub static RULE: Rule = Rule {
    name: "restriction",
    kind: Kind::Enforced,
    says: "rows that a column of these classes marks are not there for roles that policies name",
    evidence: &["statement", "intent"],
    look,
};

fn look(control: &Control, facts: &Facts, _: &Evidence) -> Finding {
    of_columns(control, facts, |column| column.hides_rows, "hides the rows that it marks")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::compliance::Column;
    use crate::rules::compliance::checks::tests::{fails, holds};

    #[test]
    fn what_it_finds() {
        let column = |good: bool| Facts {
            columns: vec![Column {
                name: "public.t.c".to_owned(),
                class: "pii.x".to_owned(),
                hides_rows: good,
                ..Column::default()
            }],
            ..Facts::default()
        };
        holds(&RULE, &["pii"], &column(true));
        fails(&RULE, &["pii"], &column(false), "public.t.c");
    }
}
