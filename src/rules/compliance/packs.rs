//! The packs of `policies/compliance`: what they name exists, and they claim no more than their checks.

use std::collections::{BTreeMap, BTreeSet};

use super::{Kind, named};

const FRAMEWORKS: [&str; 5] = ["ccpa", "gdpr", "hipaa", "pci-dss", "sox"];

/// Of each file its name, its text, and what it says.
fn packs() -> Vec<(String, String, toml::Table)> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/policies/compliance");
    let mut packs: Vec<_> = std::fs::read_dir(directory)
        .expect("the packs")
        .map(|entry| entry.expect("a file").path())
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("a text");
            let table = text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            (path.file_stem().and_then(|stem| stem.to_str()).expect("a name").to_owned(), text, table)
        })
        .collect();
    packs.sort_by(|a, b| a.0.cmp(&b.0));
    packs
}

fn entries<'t>(table: &'t toml::Table, key: &str) -> impl Iterator<Item = &'t toml::Table> {
    table.get(key).and_then(|value| value.as_array()).into_iter().flatten().map(|entry| entry.as_table().expect("a table"))
}

fn text<'t>(entry: &'t toml::Table, key: &str) -> &'t str {
    entry.get(key).and_then(|value| value.as_str()).unwrap_or_else(|| panic!("no {key} in {entry}"))
}

fn texts<'t>(entry: &'t toml::Table, key: &str) -> Vec<&'t str> {
    let list = entry.get(key).and_then(|value| value.as_array());
    list.into_iter().flatten().map(|value| value.as_str().expect("a text")).collect()
}

#[test]
fn every_framework_has_a_pack_that_gives_no_advice() {
    let packs = packs();
    let names: Vec<&str> = packs.iter().map(|(name, _, _)| name.as_str()).filter(|name| *name != "classes").collect();
    assert_eq!(names, FRAMEWORKS);
    for (name, file, table) in &packs {
        assert!(file.starts_with("# ") && file.contains("legal"), "{name}: says at the top what it is, and what not");
        assert!(table.keys().all(|key| matches!(key.as_str(), "control" | "class")), "{name}: {table}");
        assert!(entries(table, "control").all(|control| text(control, "framework") == name), "{name}");
    }
}

#[test]
fn controls_name_checks_that_exist_and_have_ids_of_their_own() {
    let mut ids = BTreeSet::new();
    for (name, _, table) in &packs() {
        for control in entries(table, "control") {
            let (id, check) = (text(control, "id"), text(control, "check"));
            assert!(ids.insert(id.to_owned()), "two controls are {id}");
            let rule = named(check).unwrap_or_else(|| panic!("{name}: {id} names the check {check}"));
            assert!(["cites", "title", "says"].iter().all(|key| !text(control, key).trim().is_empty()), "{id}");
            let weight = control.get("weight").and_then(toml::Value::as_integer);
            if rule.kind == Kind::OutOfScope {
                assert!(weight.is_none() && !control.contains_key("critical"), "{id}: it is in no score");
            } else {
                assert!(weight.is_some_and(|weight| (1..=5).contains(&weight)), "{id}");
            }
            assert_eq!(control.contains_key("days"), check == "audit-retention", "{id}: `days` is for audit-retention");
        }
    }
}

/// Of checks that look at columns.
const OF_COLUMNS: [&str; 6] = ["minimisation", "purpose", "never-stored", "retention", "restriction", "residency"];

#[test]
fn controls_of_columns_name_classes_that_a_pack_has() {
    let packs = packs();
    let mut classes: BTreeMap<&str, &toml::Table> = BTreeMap::new();
    for (name, _, table) in &packs {
        for class in entries(table, "class") {
            assert!(classes.insert(text(class, "name"), class).is_none(), "{name}: a second entry for {}", text(class, "name"));
        }
    }
    let within = |class: &str, of: &str| class.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    for (_, _, table) in &packs {
        for control in entries(table, "control") {
            let (id, check, about) = (text(control, "id"), text(control, "check"), texts(control, "classes"));
            assert_eq!(about.is_empty(), !OF_COLUMNS.contains(&check), "{id}: `classes` are for checks of columns");
            for of in about {
                // It, one within it, or one that it is within.
                let mut known = classes.keys().filter(|class| within(class, of) || within(of, class)).peekable();
                assert!(known.peek().is_some(), "{id}: no pack has a class {of}");
                let asked = known.all(|class| answers(classes[class], check));
                assert!(asked, "{id}: a class of {of} says nothing that {check} could see");
            }
        }
    }
}

/// Whether columns of a class conform as the pack has it, roles and purposes being given to some login.
fn answers(class: &toml::Table, check: &str) -> bool {
    let is_never = class.get("stored").and_then(|stored| stored.as_str()) == Some("never");
    match check {
        "minimisation" => is_never || class.contains_key("mask"),
        "purpose" => is_never || class.contains_key("purposes"),
        "never-stored" => is_never,
        "retention" => class.contains_key("retention_days"),
        "restriction" => class.contains_key("hides_rows_from"),
        "residency" => true,
        other => panic!("{other} looks at no columns"),
    }
}
