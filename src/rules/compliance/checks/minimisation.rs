//! **minimisation**: columns of these classes show their value only to roles that policies name
//!
//! A mask is no encryption: the value is in the database, and the roles of `unless_roles` see it.

use super::of_columns;
use crate::rules::compliance::{Control, Evidence, Facts, Finding, Kind, Rule};

pub static RULE: Rule = Rule {
    name: "minimisation",
    kind: Kind::Enforced,
    says: "columns of these classes show their value only to roles that policies name",
    evidence: &["masked", "statement", "intent"],
    look,
};

fn look(control: &Control, facts: &Facts, _: &Evidence) -> Finding {
    of_columns(control, facts, |column| column.is_masked || column.never_stored, "is masked for all but named roles")
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
                is_masked: good,
                ..Column::default()
            }],
            ..Facts::default()
        };
        holds(&RULE, &["pii"], &column(true));
        fails(&RULE, &["pii"], &column(false), "public.t.c");
    }
}
