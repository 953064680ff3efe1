//! **retention**: rows are not there once their column of these classes is old enough
//!
//! They are hidden, not erased: erasing them is a job of the database's owner.

use super::of_columns;
use crate::rules::compliance::{Control, Evidence, Facts, Finding, Kind, Rule};

pub static RULE: Rule = Rule {
    name: "retention",
    kind: Kind::Enforced,
    says: "rows are not there once their column of these classes is old enough",
    evidence: &["statement", "intent"],
    period_days: 30,
    look,
};

fn look(control: &Control, facts: &Facts, _: &Evidence) -> Finding {
    of_columns(control, facts, |column| column.retention_days.is_some(), "hides what is too old")
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
                retention_days: good.then_some(30),
                ..Column::default()
            }],
            ..Facts::default()
        };
        holds(&RULE, &["pii"], &column(true));
        fails(&RULE, &["pii"], &column(false), "public.t.c");
    }
}
