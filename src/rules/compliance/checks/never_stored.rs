//! **never-stored**: nothing is written into columns of these classes
//!
//! What was there before stays, and nobody sees it through the proxy. Values are not searched: a card number in a note is a note.

use super::of_columns;
use crate::rules::compliance::{Control, Evidence, Facts, Finding, Kind, Rule};

pub static RULE: Rule = Rule {
    name: "never-stored",
    kind: Kind::Enforced,
    says: "nothing is written into columns of these classes",
    evidence: &["refused_column", "statement", "intent"],
    period_days: 30,
    look,
};

fn look(control: &Control, facts: &Facts, _: &Evidence) -> Finding {
    of_columns(control, facts, |column| column.never_stored, "cannot be written")
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
                never_stored: good,
                ..Column::default()
            }],
            ..Facts::default()
        };
        holds(&RULE, &["pii"], &column(true));
        fails(&RULE, &["pii"], &column(false), "public.t.c");
    }
}
