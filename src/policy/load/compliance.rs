//! `[[class]]`, `[[limit]]`, `[[window]]`, `[[control]]`: what kinds of data ask for, and what frameworks do.

use std::sync::Arc;

use super::{File, inner};
use crate::config::document::{Key, Located, Table, key};
use crate::config::problem::Problem;
use crate::finding::{Recording, Telling};
use crate::policy::model::{
    ClassPolicy, ColumnPolicy, ControlPolicy, LimitPolicy, Mask, MaskPolicy, Mode, PolicyModel, Rule, RuleAction, Scope, SqlText,
    WindowPolicy,
};

pub const CLASS_KEYS: &[Key] = &[
    key(
        "name",
        "\"pii.email\"",
        "Columns name it as their class; pii is for pii.email too, unless that has an entry of its own.",
    ),
    key("says", "\"electronic mail addresses of persons\"", "For people."),
    key("mask", "\"email\"", "What its columns show that have no mask of their own; NULL where their type has no such mask."),
    key("unless_roles", "[\"support\"]", "Roles that see the value. Default: none."),
    key(
        "purposes",
        "[\"billing\"]",
        "And see it only while they have said one of these (SET bulkhead.purpose). Default: always.",
    ),
    key("mask_key", "\"file:mask.key\"", "With mask = \"hash\": the secret of the pseudonyms, env:NAME or file:PATH."),
    key("stored", "\"never\"", "Nothing is written into its columns, and nobody sees what is there."),
    key("retention_days", "365", "Of a date or timestamp: rows that are older are not there."),
    key(
        "hides_rows_from",
        "[\"ads\"]",
        "Of a boolean: rows where it is true are not there for these roles (opt-out, restriction).",
    ),
    key(
        "recorded",
        "\"hmac\"",
        "Values that statements compare its columns with, or write into them, are told in the audit log: hmac, as pseudonyms that can be searched for; encrypt, sealed. What was told cannot be read or found any more once its key is erased (bulkhead audit erase). Default: no values are.",
    ),
    key("recorded_days", "90", "With recorded: for how many days, to a month more. Default: as long as the records are there."),
];
pub const LIMIT_KEYS: &[Key] = &[
    key("roles", "[\"app\"]", "Whose. Default: every role's."),
    key("rows", "10000", "Of one statement: the session ends with 54000 where there are more."),
    key("rows_per_hour", "100000", "Of a login: refused with 54000 for the rest of the hour."),
];
pub const WINDOW_KEYS: &[Key] = &[
    key("users", "[\"owner\"]", "Unrestricted users. Default: all of them."),
    key("days", "[\"sat\", \"sun\"]", "mon, tue, wed, thu, fri, sat, sun. Default: every day."),
    key("from", "\"22:00\"", "UTC. Default: 00:00."),
    key("to", "\"04:00\"", "UTC; before `from`: over midnight, and of the day on which it begins. Default: 24:00."),
    key("ticket", "true", "They say why before: SET bulkhead.ticket = 'CHG-1'. Default: false."),
];
pub const CONTROL_KEYS: &[Key] = &[
    key("framework", "\"gdpr\"", "Whose control it is."),
    key("id", "\"gdpr-5-1-b\"", "One of a kind."),
    key("cites", "\"GDPR Art. 5(1)(b)\"", "Where it stands."),
    key("title", "\"Purpose limitation\"", "What it is called."),
    key("says", "\"Personal data are read for declared purposes only.\"", "What it asks, as far as this proxy is concerned."),
    key("check", "\"purpose\"", "What is looked at: a compliance rule (below)."),
    key("classes", "[\"pii\"]", "Of the columns that it is about. Default: none in particular."),
    key("weight", "3", "In the score, 1 to 5. Default: 1."),
    key("days", "365", "With the check audit-retention: for how long. Default: 365."),
    key("critical", "true", "The score is at most 59 where it fails. Default: false."),
];

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl File<'_> {
    pub(super) fn compliance(&self, root: &Table<'_>, model: &mut PolicyModel) {
        for entry in root.tables("class", "[[class]]", CLASS_KEYS) {
            let Some(class) = self.class(&entry) else { continue };
            if model.classes.iter().any(|c| c.name == class.name && c.place.source.meets(&class.place.source)) {
                let problem = Problem::new(format!("two entries for the class `{}`", class.name));
                self.document.report(problem, class.place.span, "the second one");
                continue;
            }
            model.classes.push(class);
        }
        model.limits.extend(root.tables("limit", "[[limit]]", LIMIT_KEYS).iter().map(|t| self.limit(t)));
        model.windows.extend(root.tables("window", "[[window]]", WINDOW_KEYS).iter().map(|t| self.window(t)));
        for entry in root.tables("control", "[[control]]", CONTROL_KEYS) {
            let Some(control) = self.control(&entry) else { continue };
            if model.controls.iter().any(|c| c.id == control.id && c.framework == control.framework) {
                let problem = Problem::new(format!("two controls of {} are `{}`", control.framework, control.id));
                self.document.report(problem, control.place.span, "the second one");
                continue;
            }
            model.controls.push(control);
        }
    }

    fn class(&self, entry: &Table<'_>) -> Option<ClassPolicy> {
        let never_stored = self.word(entry, "stored", &["never"]).is_some();
        let mut mask = self.mask(entry);
        if never_stored {
            let place = self.place(inner(self.document, entry.span_of("stored")));
            let (unless_roles, purposes) = (vec![], vec![]);
            let null = MaskPolicy { mask: Mask::Null, unless_roles, purposes, never_stored, of_class: true, key: None, place };
            mask = Some(MaskPolicy { never_stored, ..mask.unwrap_or(null) });
        }
        if let Some(mask) = &mut mask {
            mask.of_class = true;
        }
        let name = entry.required_text("name")?;
        Some(ClassPolicy {
            says: entry.text("says").map(|text| text.value),
            mask,
            retention_days: entry.integer("retention_days", 1..=36_500).map(i64::unsigned_abs),
            hides_rows_from: self.roles_of(entry, "hides_rows_from"),
            recorded: self.recorded(entry, &name.value),
            place: self.place(inner(self.document, name.span)),
            name: name.value,
        })
    }

    fn recorded(&self, entry: &Table<'_>, class: &str) -> Option<Arc<Recording>> {
        let days = entry.integer("recorded_days", 1..=36_500).and_then(|days| u32::try_from(days).ok());
        let how = match self.word(entry, "recorded", &["hmac", "encrypt"]) {
            Some("hmac") => Telling::Hmac,
            Some(_) => Telling::Encrypt,
            None => {
                if days.is_some() && !entry.has("recorded") {
                    let problem = Problem::new("`recorded_days` without `recorded`: there is nothing to keep");
                    entry.report(problem, entry.span_of("recorded_days"), "of what?");
                }
                return None;
            }
        };
        Some(Arc::new(Recording { class: class.into(), how, days }))
    }

    fn limit(&self, entry: &Table<'_>) -> LimitPolicy {
        let count = |key| entry.integer(key, 1..=i64::MAX).map(i64::unsigned_abs);
        if !entry.has("rows") && !entry.has("rows_per_hour") {
            let problem = Problem::new("[[limit]] has neither `rows` nor `rows_per_hour`");
            entry.report(problem, entry.span.clone(), "limits nothing");
        }
        let place = self.place(entry.span.clone());
        LimitPolicy { roles: self.roles(entry), rows: count("rows"), rows_per_hour: count("rows_per_hour"), place }
    }

    fn window(&self, entry: &Table<'_>) -> WindowPolicy {
        let mut days = vec![];
        for day in entry.texts("days").unwrap_or_default() {
            match (0..).zip(DAYS).find(|(_, name)| *name == day.value) {
                Some((number, _)) => days.push(number),
                None => self.report_word(entry, "day", &day, &DAYS),
            }
        }
        let from = entry.text("from").map_or(0, |text| self.minute(entry, &text));
        let to = entry.text("to").map_or(24 * 60, |text| self.minute(entry, &text));
        if !["days", "from", "to", "ticket"].into_iter().any(|key| entry.has(key)) {
            let problem = Problem::new("[[window]] has neither times nor `ticket`");
            entry.report(problem, entry.span.clone(), "is always open");
        }
        WindowPolicy {
            users: entry.texts("users").unwrap_or_default().into_iter().map(|user| user.value).collect(),
            days: if entry.has("days") { days } else { (0..7).collect() },
            minutes: from..to,
            ticket: entry.flag("ticket").unwrap_or(false),
            place: self.place(entry.span.clone()),
        }
    }

    /// Of a day.
    fn minute(&self, entry: &Table<'_>, text: &Located<String>) -> u64 {
        let number = |text: &str| if text.len() == 2 { text.parse::<u64>().ok() } else { None };
        let parts = text.value.split_once(':').and_then(|(hour, minute)| Some((number(hour)?, number(minute)?)));
        match parts {
            Some((hour, minute)) if minute < 60 && hour * 60 + minute <= 24 * 60 => hour * 60 + minute,
            Some(_) | None => {
                entry.report(Problem::new(format!("`{}` is not a time of the day", text.value)), text.span.clone(), "like 22:30");
                0
            }
        }
    }

    fn control(&self, entry: &Table<'_>) -> Option<ControlPolicy> {
        let text = |key| entry.required_text(key).map(|text| text.value);
        let (framework, id, cites) = (text("framework"), text("id"), text("cites"));
        let (title, says) = (text("title"), text("says"));
        let check = entry.required_text("check")?;
        Some(ControlPolicy {
            framework: framework?,
            id: id?,
            cites: cites?,
            title: title?,
            says: says?,
            classes: entry.texts("classes").unwrap_or_default().into_iter().map(|class| class.value).collect(),
            weight: entry.integer("weight", 1..=5).and_then(|weight| weight.try_into().ok()).unwrap_or(1),
            critical: entry.flag("critical").unwrap_or(false),
            days: entry.integer("days", 1..=36_500).map_or(365, i64::unsigned_abs),
            place: self.place(inner(self.document, check.span)),
            check: check.value,
        })
    }
}

/// What classes say becomes what their columns say.
pub(super) fn apply_classes(model: &mut PolicyModel) {
    let mut tables = std::mem::take(&mut model.tables);
    for table in tables.iter_mut().filter(|table| !matches!(table.scope, Scope::View | Scope::Denied)) {
        for at in 0..table.columns.len() {
            let column = &table.columns[at];
            let Some(class) = model.class_of(table, column) else { continue };
            let is_tenant = matches!(&table.scope, Scope::Tenant { column: tenant } if *tenant == column.name);
            let rules = rules_of(class, column, &table.scope);
            if !column.says_mask && !is_tenant {
                table.columns[at].mask.clone_from(&class.mask);
            }
            table.rules.extend(rules);
        }
    }
    model.tables = tables;
}

/// The rows that a class hides by a column.
fn rules_of(class: &ClassPolicy, column: &ColumnPolicy, scope: &Scope) -> Vec<Rule> {
    let quoted = format!("\"{}\"", column.name.replace('"', "\"\""));
    let actions = if *scope == Scope::Shared {
        vec![RuleAction::Select]
    } else {
        vec![RuleAction::Select, RuleAction::Update, RuleAction::Delete]
    };
    let rule = |what: &str, roles: &[String], text: String| Rule {
        id: format!("class {} of {}: {what}", class.name, column.name),
        roles: roles.to_vec(),
        actions: actions.clone(),
        mode: Mode::Restrictive,
        using: Some(SqlText { text, place: class.place.clone() }),
        with_check: None,
        of_class: true,
        place: class.place.clone(),
    };
    let mut rules = vec![];
    if let Some(days) = class.retention_days {
        rules.push(rule("retention", &[], format!("{quoted} > pg_catalog.now() - interval '{days} days'")));
    }
    if !class.hides_rows_from.is_empty() {
        rules.push(rule("hidden rows", &class.hides_rows_from, format!("{quoted} IS NOT TRUE")));
    }
    rules
}
