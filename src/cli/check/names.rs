//! What in policies means nothing: roles that no user has, users that are not there, classes without an entry, records without a log.

use std::collections::BTreeSet;

use super::Warning;
use crate::config::{Config, UserAccess};
use crate::policy::masks::{BROKEN_GLASS, PURPOSE};
use crate::policy::model::PolicyModel;

/// What looks like a slip of the pen: nothing comes of it, and nobody notices.
pub fn warnings(config: &Config, policies: &PolicyModel) -> Vec<Warning> {
    roles(config, policies)
        .into_iter()
        .chain(users(config, policies))
        .chain(classes(policies))
        .chain(glass(config))
        .chain(records(config, policies))
        .collect()
}

fn roles(config: &Config, policies: &PolicyModel) -> Vec<Warning> {
    let of_users = config.users.iter().flat_map(|user| user.roles.iter().chain(&user.glass.roles).cloned());
    let of_purposes = config.users.iter().flat_map(|user| user.purposes.iter().map(|purpose| format!("{PURPOSE}{purpose}")));
    let known: BTreeSet<String> = of_users.chain(of_purposes).chain([BROKEN_GLASS.to_owned()]).collect();
    let limits = policies.limits.iter().flat_map(|limit| limit.roles.iter().map(|role| ("[[limit]]", role)));
    let threats = policies.threats.iter().flat_map(|threat| threat.roles.iter().map(|role| ("[[threat]]", role)));
    let applications = policies.applications.iter().flat_map(|a| a.roles.iter().map(|role| ("[[application]]", role)));
    let rules = policies.tables.iter().flat_map(|table| &table.rules);
    let rules = rules.flat_map(|rule| rule.roles.iter().map(|role| ("[[table.rule]]", role)));
    let named: BTreeSet<(&str, &String)> = limits.chain(threats).chain(applications).chain(rules).collect();
    let unknown = named.into_iter().filter(|(_, role)| !known.contains(*role));
    let warn = |(what, role): (&str, &String)| {
        Warning::new(
            "role",
            format!("no [[user]] has the role {role} of a {what}"),
            "it is for nobody: correct the name, or give somebody the role",
        )
    };
    unknown.map(warn).collect()
}

fn users(config: &Config, policies: &PolicyModel) -> Vec<Warning> {
    let is_unrestricted = |name: &&String| {
        config.users.iter().any(|user| user.name == **name && matches!(user.access, UserAccess::Unrestricted { .. }))
    };
    let named: BTreeSet<&String> = policies.windows.iter().flat_map(|window| &window.users).collect();
    let unknown = named.into_iter().filter(|name| !is_unrestricted(name));
    unknown
        .map(|name| {
            Warning::new(
                "user",
                format!("{name} of a [[window]] is no unrestricted [[user]]"),
                "it holds nobody: correct the name",
            )
        })
        .collect()
}

fn classes(policies: &PolicyModel) -> Vec<Warning> {
    let mut named: BTreeSet<&str> = BTreeSet::new();
    for table in &policies.tables {
        let without = table.columns.iter().filter(|column| !column.says_mask && policies.class_of(table, column).is_none());
        named.extend(without.filter_map(|column| column.class.as_deref()));
    }
    let warn = |class: &str| {
        Warning::new(
            "class",
            format!("no [[class]] is for the class {class}, and its columns say no mask"),
            "nothing comes of it: add a [[class]], or a mask",
        )
    };
    named.into_iter().map(warn).collect()
}

fn records(config: &Config, policies: &PolicyModel) -> Option<Warning> {
    let waiting = policies.tables.iter().filter(|table| table.waits_for_records).map(|table| &table.name);
    let recorded = policies.classes.iter().filter(|class| class.recorded.is_some()).map(|class| &class.name);
    let what =
        waiting.map(|name| format!("durability of {name}")).chain(recorded.map(|name| format!("recorded of {name}"))).next()?;
    config
        .audit
        .is_none()
        .then(|| Warning::new("audit", format!("{what} without [audit] path: nothing is recorded"), "add [audit] path"))
}

fn glass(config: &Config) -> Option<Warning> {
    let broken = config.users.iter().any(|user| !user.glass.roles.is_empty());
    (broken && config.audit.is_none())
        .then(|| Warning::new("break-glass", "break_glass without [audit] path: it is refused", "add [audit] path"))
}
