//! **residency**: tables with a column of these classes have a restrictive row rule
//!
//! Which rows of which region a role sees is the rule's to say: this looks only whether there is one.

use super::of_columns;
use crate::rules::compliance::{Control, Evidence, Facts, Finding, Kind, Rule};

pub static RULE: Rule = Rule {
    name: "residency",
    kind: Kind::Enforced,
    says: "tables with a column of these classes have a restrictive row rule",
    evidence: &["statement", "intent"],
    look,
};

fn look(control: &Control, facts: &Facts, _: &Evidence) -> Finding {
    let table = |column: &str| column.rsplit_once('.').map_or(String::new(), |(table, _)| table.to_owned());
    let is_restricted = |name: &str| facts.tables.iter().any(|t| t.is_restricted && t.name == table(name));
    of_columns(control, facts, |column| is_restricted(&column.name), "stands in a table whose rows a rule restricts")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::compliance::checks::tests::{fails, holds};
    use crate::rules::compliance::{Column, Table};

    #[test]
    fn what_it_finds() {
        let facts = |is_restricted| Facts {
            columns: vec![Column { name: "public.t.region".to_owned(), class: "residency".to_owned(), ..Column::default() }],
            tables: vec![Table { name: "public.t".to_owned(), scope: "tenant".to_owned(), is_restricted }],
            ..Facts::default()
        };
        holds(&RULE, &["residency"], &facts(true));
        fails(&RULE, &["residency"], &facts(false), "public.t.region");
    }
}
