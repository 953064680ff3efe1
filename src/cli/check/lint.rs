//! What a schema leaks by itself, whatever is rewritten: each finding is one line that says what to do.

use std::collections::HashSet;

use serde::Deserialize;

use crate::catalog::{self, Snapshot};
use crate::policy::model::{Place, PolicyModel, Scope, TablePolicy};

/// One query, one row, one column of type text: the JSON of [`Schema`]. Asked by `check` alone, so that the catalog that is
/// loaded to serve stays small.
pub const SCHEMA_SQL: &str = include_str!("lint.sql");

/// As it comes from [`SCHEMA_SQL`].
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schema {
    roles: Vec<Role>,
    definer_functions: Vec<DefinerFunction>,
    /// Tables and views of users, without partitions.
    relations: Vec<Relation>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Role {
    name: String,
    superuser: bool,
    bypasses: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DefinerFunction {
    name: String,
    owner: String,
    /// Who may call it.
    roles: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Relation {
    oid: u32,
    schema: String,
    name: String,
    kind: char,
    owner: String,
    /// A view with security_invoker.
    invoker: bool,
    /// Relations in a view's query.
    reads: Vec<u32>,
    indexes: Vec<Index>,
    foreign_keys: Vec<ForeignKey>,
    triggers: Vec<String>,
    rules: Vec<String>,
    /// Columns that a sequence fills.
    counted: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    name: String,
    keeps: Keeps,
    /// Not partial.
    whole: bool,
    /// Key columns; empty for an expression.
    columns: Vec<String>,
    /// When a row is written, it computes with rows that are there, and may fail on an extreme one.
    computes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Keeps {
    Unique,
    Exclusion,
    Nothing,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ForeignKey {
    name: String,
    to: u32,
    columns: Vec<String>,
    to_columns: Vec<String>,
}

/// One thing that one should know.
#[derive(Debug)]
pub struct Warning {
    /// A name for it that does not change.
    pub lint: &'static str,
    pub message: String,
    /// What to do.
    pub advice: String,
    /// The table's entry in the policies.
    pub place: Option<Place>,
}

impl Warning {
    pub fn new(lint: &'static str, message: impl Into<String>, advice: impl Into<String>) -> Warning {
        Warning { lint, message: message.into(), advice: advice.into(), place: None }
    }
}

/// What a catalog alone tells, also one from a file.
pub fn of_catalog(policies: &PolicyModel, snapshot: &Snapshot) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for relation in snapshot.relations.iter().filter(|r| super::is_users_own(r)) {
        let table = format!("{}.{}", relation.schema, relation.name);
        let Some(policy) = policy_of(policies, &relation.schema, &relation.name) else {
            let advice = "list it in a policy if tenants need it";
            warnings.push(Warning::new("unlisted", format!("{table} is in no policy: denied to tenants"), advice));
            continue;
        };
        warnings.extend(of_masks(policy, relation, &table).into_iter().map(|warning| at(policy, warning)));
        let Scope::Tenant { column } = &policy.scope else { continue };
        if relation.column(column).is_some_and(|tenant| !tenant.not_null) {
            let message = format!("{table}: {column} may be NULL, and such rows belong to nobody");
            warnings.push(at(policy, Warning::new("nullable", message, "make it NOT NULL")));
        }
    }
    warnings
}

/// What masks of a table cost, and what they do not hide.
fn of_masks(policy: &TablePolicy, relation: &catalog::Relation, table: &str) -> Vec<Warning> {
    let masked: Vec<&catalog::Column> =
        policy.columns.iter().filter(|c| c.mask.is_some()).filter_map(|c| relation.column(&c.name)).collect();
    let mut warnings = Vec::new();
    for column in &masked {
        for key in relation.unique_keys.iter().filter(|k| k.columns.contains(&column.number)) {
            let message =
                format!("{table}: {} is masked, and the unique key {} tells that a value exists", column.name, key.name);
            warnings.push(Warning::new(
                "mask-key",
                message,
                "conditions on it cannot use the key: let applications look rows up by another one",
            ));
        }
    }
    if !masked.is_empty() {
        for column in relation.columns.iter().filter(|c| c.generated && !masked.iter().any(|m| m.number == c.number)) {
            let message =
                format!("{table}: {} is generated and has no mask: it may show what a masked column holds", column.name);
            warnings.push(Warning::new("mask-generated", message, "give it a mask, or take the masked column out of it"));
        }
    }
    warnings
}

/// What the live schema tells. `app`: the role that tenants' statements run as.
pub fn of_schema(policies: &PolicyModel, schema: &Schema, app: Option<&str>) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for relation in &schema.relations {
        let Some((policy, column)) = governed(policies, relation) else { continue };
        let found = of_table(policies, schema, relation, column);
        warnings.extend(found.into_iter().map(|warning| at(policy, warning)));
    }
    warnings.extend(schema.relations.iter().filter_map(|view| of_view(policies, schema, view)));
    if let Some(app) = app {
        warnings.extend(of_role(schema, app));
    }
    warnings
}

/// As far as the keys of a catalog go, where there is no server to ask.
pub fn of_keys(policies: &PolicyModel, snapshot: &Snapshot) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for relation in snapshot.relations.iter().filter(|r| super::is_users_own(r)) {
        let Some(policy) = policy_of(policies, &relation.schema, &relation.name) else { continue };
        let Scope::Tenant { column } = &policy.scope else { continue };
        let Some(tenant) = relation.column(column) else { continue };
        let table = format!("{}.{}", relation.schema, relation.name);
        let keys = relation.unique_keys.iter().filter(|key| !key.columns.contains(&tenant.number));
        warnings.extend(keys.map(|key| at(policy, spans_tenants("unique", &table, "unique key", &key.name, column))));
    }
    warnings
}

fn spans_tenants(lint: &'static str, table: &str, what: &str, name: &str, column: &str) -> Warning {
    let message = format!("{table}: the {what} {name} spans tenants, so a conflict tells that a value exists elsewhere");
    Warning::new(lint, message, format!("add {column} to it, or let its values be random"))
}

fn at(policy: &TablePolicy, warning: Warning) -> Warning {
    Warning { place: Some(policy.place.clone()), ..warning }
}

fn policy_of<'a>(policies: &'a PolicyModel, schema: &str, name: &str) -> Option<&'a TablePolicy> {
    policies.tables.iter().find(|t| t.schema == schema && t.name == name)
}

/// The policy and tenant column of a table whose rows belong to tenants.
fn governed<'a>(policies: &'a PolicyModel, relation: &Relation) -> Option<(&'a TablePolicy, &'a str)> {
    let policy = policy_of(policies, &relation.schema, &relation.name)?;
    match &policy.scope {
        Scope::Tenant { column } => Some((policy, column)),
        Scope::Shared | Scope::View | Scope::Denied => None,
    }
}

fn of_table(policies: &PolicyModel, schema: &Schema, relation: &Relation, column: &str) -> Vec<Warning> {
    let table = format!("{}.{}", relation.schema, relation.name);
    let mut warnings = Vec::new();
    for index in relation.indexes.iter().filter(|i| !i.columns.iter().any(|c| c == column)) {
        let (lint, what) = match index.keeps {
            Keeps::Unique => ("unique", "unique key"),
            Keeps::Exclusion => ("exclusion", "exclusion constraint"),
            Keeps::Nothing => continue,
        };
        warnings.push(spans_tenants(lint, &table, what, &index.name, column));
    }
    for index in relation.indexes.iter().filter(|i| i.computes) {
        let message = format!(
            "{table}: the index {} computes with rows of all tenants when one writes: an extreme value (infinity, 1e308) of one makes INSERTs of others fail, which tells of it",
            index.name
        );
        warnings.push(Warning::new(
            "index_computes",
            message,
            "CHECK that values are of ordinary size, or use another operator class",
        ));
    }
    for key in &relation.foreign_keys {
        let Some(other) = schema.relations.iter().find(|r| r.oid == key.to) else { continue };
        let Some((_, other_column)) = governed(policies, other) else { continue };
        if key.columns.iter().zip(&key.to_columns).any(|(from, to)| from == column && to == other_column) {
            continue;
        }
        let message = format!(
            "{table}: the foreign key {} to {}.{} is without {column}, so a row can point at another tenant's row: it tells that the row exists, and ON DELETE and ON UPDATE change rows of others",
            key.name, other.schema, other.name
        );
        let advice =
            format!("make it FOREIGN KEY ({column}, ..) REFERENCES {}.{} ({other_column}, ..)", other.schema, other.name);
        warnings.push(Warning::new("foreign_key", message, advice));
    }
    let is_led = |i: &Index| i.whole && i.columns.first().is_some_and(|c| c == column);
    if matches!(relation.kind, 'r' | 'p') && !relation.indexes.iter().any(is_led) {
        let message = format!("{table}: no index begins with {column}, by which every statement is filtered");
        warnings.push(Warning::new("index", message, format!("CREATE INDEX ON {table} ({column}, ..)")));
    }
    for trigger in &relation.triggers {
        let message = format!("{table}: the trigger {trigger} runs statements of its own, which nobody rewrites");
        warnings.push(Warning::new("trigger", message, "make sure that its function keeps to NEW, OLD and their tenant"));
    }
    for rule in &relation.rules {
        let message =
            format!("{table}: the rule {rule} rewrites statements after Bulkhead did: tenants' writes to the table are refused");
        warnings.push(Warning::new("rule", message, "drop it"));
    }
    for counted in &relation.counted {
        let message = format!("{table}: one sequence fills {counted} for all tenants, so its gaps tell how much others insert");
        warnings.push(Warning::new("sequence", message, "use uuid (gen_random_uuid()) where that matters"));
    }
    warnings
}

/// A view that reads governed tables with the rights of its owner.
fn of_view(policies: &PolicyModel, schema: &Schema, view: &Relation) -> Option<Warning> {
    let name = format!("{}.{}", view.schema, view.name);
    if policy_of(policies, &view.schema, &view.name).is_some_and(|p| p.scope == Scope::View) {
        // Nobody reads the view itself.
        return None;
    }
    let table = governed_below(policies, schema, view, &mut HashSet::new())?;
    match view.kind {
        'm' => Some(Warning::new(
            "materialized_view",
            format!("{name}: a materialized view holds rows of {table} of all tenants, which row security cannot filter"),
            "list it in a policy with its own tenant column, or keep it from the application's role",
        )),
        'v' if !view.invoker => Some(Warning::new(
            "owner_view",
            format!("{name}: the view reads {table} with the rights of {}, past row security", view.owner),
            format!("ALTER VIEW {name} SET (security_invoker = true) (PostgreSQL 15 and later)"),
        )),
        _ => None,
    }
}

fn governed_below(policies: &PolicyModel, schema: &Schema, view: &Relation, seen: &mut HashSet<u32>) -> Option<String> {
    let below = schema.relations.iter().filter(|r| view.reads.contains(&r.oid));
    below.filter(|r| r.oid != view.oid).find_map(|relation| {
        if !seen.insert(relation.oid) {
            None
        } else if governed(policies, relation).is_some() {
            Some(format!("{}.{}", relation.schema, relation.name))
        } else {
            governed_below(policies, schema, relation, seen)
        }
    })
}

fn of_role(schema: &Schema, app: &str) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let Some(role) = schema.roles.iter().find(|r| r.name == app) else {
        return vec![Warning::new(
            "role",
            format!("the role {app} of the upstream does not exist"),
            "create it, owner of nothing",
        )];
    };
    if role.superuser || role.bypasses {
        let what = if role.superuser { "is a superuser" } else { "has BYPASSRLS" };
        let advice = format!("ALTER ROLE {app} NOSUPERUSER NOBYPASSRLS");
        warnings.push(Warning::new(
            "role",
            format!("the role {app} of the upstream {what}: row security does not hold for it"),
            advice,
        ));
    }
    let owned: Vec<_> = schema.relations.iter().filter(|r| r.owner == app).map(|r| format!("{}.{}", r.schema, r.name)).collect();
    if let Some(first) = owned.first() {
        let others = if owned.len() > 1 { format!(" and {} more", owned.len() - 1) } else { String::new() };
        let message =
            format!("the role {app} of the upstream owns {first}{others}: an owner can change tables and skips row security");
        warnings.push(Warning::new("owner", message, "let another role own them, and GRANT what the application needs"));
    }
    for function in schema.definer_functions.iter().filter(|f| f.roles.iter().any(|r| r == app)) {
        let message = format!("{}: the function runs with the rights of {}, past every policy", function.name, function.owner);
        let advice = format!("REVOKE EXECUTE ON FUNCTION {} FROM {app}, PUBLIC, or make it SECURITY INVOKER", function.name);
        warnings.push(Warning::new("definer_function", message, advice));
    }
    warnings
}
