//! The checks, one file each: the doc comment is its manual.

mod audit_complete;
mod audit_intact;
mod audit_retention;
mod automatic_logoff;
mod break_glass;
mod change_window;
mod classified;
mod denied_by_default;
mod export_limit;
mod isolation;
mod learned;
mod lockout;
mod minimisation;
mod never_stored;
mod out_of_scope;
mod policy_changes;
mod purpose;
mod residency;
mod restriction;
mod retention;
mod second_lock;
mod separation;
mod threat_watch;
mod transport;
mod unique_logins;

use super::{Column, Control, Facts, Finding, Rule, is_about};

pub(super) static ALL: &[&Rule] = &[
    &audit_complete::RULE,
    &audit_intact::RULE,
    &audit_retention::RULE,
    &automatic_logoff::RULE,
    &break_glass::RULE,
    &change_window::RULE,
    &classified::RULE,
    &denied_by_default::RULE,
    &export_limit::RULE,
    &isolation::RULE,
    &learned::RULE,
    &lockout::RULE,
    &minimisation::RULE,
    &never_stored::RULE,
    &out_of_scope::RULE,
    &policy_changes::RULE,
    &purpose::RULE,
    &residency::RULE,
    &restriction::RULE,
    &retention::RULE,
    &second_lock::RULE,
    &separation::RULE,
    &threat_watch::RULE,
    &transport::RULE,
    &unique_logins::RULE,
];

/// Whether something holds for each column that a control is about.
fn of_columns(control: &Control, facts: &Facts, holds: impl Fn(&Column) -> bool, what: &str) -> Finding {
    if control.classes.is_empty() {
        return Finding::Unknown("the control names no classes".to_owned());
    }
    if facts.columns.is_empty() {
        return Finding::Unknown(
            "no column has a class: nobody has said what is where (bulkhead compliance classify)".to_owned(),
        );
    }
    let about: Vec<&Column> = facts.columns.iter().filter(|column| is_about(control, &column.class)).collect();
    if about.is_empty() {
        return Finding::NotApplicable(format!("no column is {}", control.classes.join(", ")));
    }
    let wrong: Vec<&str> = about.iter().filter(|column| !holds(column)).map(|column| column.name.as_str()).collect();
    if wrong.is_empty() {
        match about.len() {
            1 => Finding::Holds(format!("{} {what}", about[0].name)),
            count => Finding::Holds(format!("each of {count} columns {what}")),
        }
    } else {
        Finding::Fails(format!("not each {what}: {}", some(wrong.into_iter())))
    }
}

/// Holds where there is none of something.
fn none_of<'n>(names: impl Iterator<Item = &'n str>, well: &str, wrong: &str) -> Finding {
    let mut names = names.peekable();
    match names.peek() {
        None => Finding::Holds(well.to_owned()),
        Some(_) => Finding::Fails(format!("{wrong} {}", some(names))),
    }
}

/// The first of them.
fn some<'n>(names: impl Iterator<Item = &'n str>) -> String {
    const MOST: usize = 8;
    let all: Vec<&str> = names.collect();
    let shown = all.iter().take(MOST).copied().collect::<Vec<_>>().join(", ");
    if all.len() > MOST { format!("{shown} and {} more", all.len() - MOST) } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::compliance::{Evidence, Log};

    #[test]
    fn what_is_about_no_column_is_told_apart() {
        let control = |classes: &[&str]| Control { classes: texts(classes), ..Control::default() };
        let facts = Facts { columns: vec![Column { class: "pii".to_owned(), ..Column::default() }], ..Facts::default() };
        let look = |classes: &[&str], facts: &Facts| of_columns(&control(classes), facts, |_| true, "is well");
        assert!(matches!(look(&["pii"], &facts), Finding::Holds(_)));
        assert!(matches!(look(&["pci"], &facts), Finding::NotApplicable(why) if why.contains("pci")));
        assert!(matches!(look(&["pii"], &Facts::default()), Finding::Unknown(why) if why.contains("no column has a class")));
        assert!(matches!(look(&[], &facts), Finding::Unknown(why) if why.contains("names no classes")));
    }

    fn look(rule: &Rule, classes: &[&str], facts: &Facts) -> Finding {
        let control = Control { classes: classes.iter().map(|class| (*class).to_owned()).collect(), ..Control::default() };
        let evidence = Evidence { log: Log::Intact { size: 9, gaps: 0 }, ..Evidence::default() };
        (rule.look)(&control, facts, &evidence)
    }

    pub fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    pub fn holds(rule: &Rule, classes: &[&str], facts: &Facts) {
        let found = look(rule, classes, facts);
        assert!(matches!(found, Finding::Holds(_)), "{}: {found:?}", rule.name);
    }

    pub fn fails(rule: &Rule, classes: &[&str], facts: &Facts, because: &str) {
        let found = look(rule, classes, facts);
        assert!(matches!(&found, Finding::Fails(why) if why.contains(because)), "{}: {found:?}", rule.name);
    }
}
