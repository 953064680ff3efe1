//! **purpose**: columns of these classes show their value only while a purpose is said
//!
//! A session says it by SET bulkhead.purpose; which ones a login may say stands in its [[user]]. Whether it is true, nobody sees.

use super::of_columns;
use crate::rules::compliance::{Control, Evidence, Facts, Finding, Kind, Rule};

pub static RULE: Rule = Rule {
    name: "purpose",
    kind: Kind::Enforced,
    says: "columns of these classes show their value only while a purpose is said",
    evidence: &["purpose", "masked"],
    period_days: 30,
    look,
};

fn look(control: &Control, facts: &Facts, _: &Evidence) -> Finding {
    of_columns(
        control,
        facts,
        |column| column.is_masked && !column.purposes.is_empty() || column.never_stored,
        "is masked unless a purpose is said",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::compliance::Column;
    use crate::rules::compliance::checks::tests::{fails, holds, texts};

    #[test]
    fn what_it_finds() {
        let column = |good: bool| Facts {
            columns: vec![Column {
                name: "public.t.c".to_owned(),
                class: "pii.x".to_owned(),
                is_masked: true,
                purposes: if good { texts(&["billing"]) } else { vec![] },
                ..Column::default()
            }],
            ..Facts::default()
        };
        holds(&RULE, &["pii"], &column(true));
        fails(&RULE, &["pii"], &column(false), "public.t.c");
    }
}
