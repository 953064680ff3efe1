//! `bulkhead check`

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Common, Outcome, catalog, complain, load_policies, reference, say};
use crate::catalog::{Catalog, Relation, Snapshot};
use crate::config::{Config, Problem, Problems};
use crate::gate::Gate;
use crate::policy::model::{PolicyModel, Scope, TablePolicy};

/// Check the configuration and the policies; with --database also against a live schema
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bulkhead check
  bulkhead check --database postgres://owner@127.0.0.1/shop
  bulkhead check --dump-catalog catalog.json     (then: explain and test --catalog catalog.json, without a server)
  bulkhead check --reference                     every setting, policy key and metric

Every problem is told at once, with its place. Exit status: 0 fine, 1 problems, 2 could not run.")]
pub struct Args {
    /// Compare with the schema of this server
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// Write the catalog to a file; of --database, else of the first [[database]]
    #[arg(long, value_name = "F")]
    dump_catalog: Option<PathBuf>,
    /// Compare with a catalog from --dump-catalog
    #[arg(long, value_name = "F", conflicts_with_all = ["database", "dump_catalog"])]
    catalog: Option<PathBuf>,
    /// Print every setting, policy key and metric, and end
    #[arg(long)]
    reference: bool,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Default)]
struct Findings {
    problems: Problems,
    /// What one should know; no fault.
    warnings: Vec<String>,
    summary: Vec<String>,
}

pub fn run(common: &Common, args: &Args) -> Outcome {
    if args.reference {
        say(&reference::text());
        return Outcome::Fine;
    }
    let mut findings = Findings::default();
    let outcome = match check(common, args, &mut findings) {
        Ok(()) if findings.problems.0.is_empty() => Outcome::Fine,
        Ok(()) => Outcome::FoundSomethingWrong,
        Err(error) => {
            findings.problems.0.push(Problem::new(error));
            Outcome::CouldNotRun
        }
    };
    report(&findings, args.json);
    outcome
}

fn check(common: &Common, args: &Args, findings: &mut Findings) -> Result<(), String> {
    if !common.config.exists() {
        return Err(format!("there is no configuration {}; --config F names another file", common.config.display()));
    }
    let config = match common.load() {
        Ok(config) => config,
        Err(problems) => {
            findings.problems = problems;
            return Ok(());
        }
    };
    if let Err(problems) = config.ready_to_serve() {
        findings.problems.0.extend(problems.0);
    }
    findings.summary.push(format!(
        "configuration: {}, {}",
        count(config.databases.len(), "database"),
        count(config.users.len(), "user")
    ));
    let policies = match load_policies(&config) {
        Ok(policies) => policies,
        Err(problems) => {
            findings.problems.0.extend(problems.0);
            return Ok(());
        }
    };
    findings.summary.push(format!(
        "policies: {}, {}, {}, {}",
        count(policies.sources.len(), "file"),
        count(policies.tables.len(), "table"),
        count(policies.tables.iter().map(|t| t.rules.len()).sum(), "rule"),
        count(policies.tests.len(), "test")
    ));
    if policies.tables.is_empty() {
        findings.warnings.push("no policy lists a table: tenants can read nothing".to_owned());
    }
    if let Some(snapshot) = snapshot(&config, args)? {
        check_schema(&config, args, &policies, snapshot, findings);
    }
    Ok(())
}

fn snapshot(config: &Config, args: &Args) -> Result<Option<Snapshot>, String> {
    let snapshot = match (&args.catalog, &args.database, &args.dump_catalog) {
        (Some(file), _, _) => catalog::from_file(file)?,
        (None, Some(url), _) => catalog::from_url(url)?,
        (None, None, Some(_)) => catalog::obtain(None, config.databases.first())?,
        (None, None, None) => return Ok(None),
    };
    if let Some(path) = &args.dump_catalog {
        write_catalog(path, &snapshot)?;
    }
    Ok(Some(snapshot))
}

fn write_catalog(path: &Path, snapshot: &Snapshot) -> Result<(), String> {
    let text = serde_json::to_string(snapshot).map_err(|e| e.to_string())?;
    std::fs::write(path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))
}

fn check_schema(config: &Config, args: &Args, policies: &PolicyModel, snapshot: Snapshot, findings: &mut Findings) {
    // Policies of other databases say nothing about this one. The server's name for it need not be the clients' name.
    let by_upstream = config.databases.iter().filter(|d| d.upstream.database == snapshot.database).collect::<Vec<_>>();
    let policies = match (by_upstream.as_slice(), args.database.is_none()) {
        ([only], _) => policies.of_database(&only.name),
        (_, true) => config.databases.first().map_or_else(|| policies.clone(), |d| policies.of_database(&d.name)),
        (_, false) => policies.of_database(&snapshot.database),
    };
    let catalog = Arc::new(Catalog::new(snapshot));
    if let Err(problems) = Gate::new(config.level, Arc::clone(&catalog), &policies) {
        findings.problems.0.extend(problems);
    }
    let relations = &catalog.snapshot().relations;
    findings.summary.push(format!(
        "schema of `{}`: {}",
        catalog.snapshot().database,
        count(relations.iter().filter(|r| is_users_own(r)).count(), "relation")
    ));
    for relation in relations.iter().filter(|r| is_users_own(r)) {
        let policy = policies.tables.iter().find(|t| t.schema == relation.schema && t.name == relation.name);
        match policy {
            None => findings.warnings.push(format!("{}.{} is in no policy: denied to tenants", relation.schema, relation.name)),
            Some(policy) => findings.warnings.extend(lint(policy, relation)),
        }
    }
}

/// Tables and the like outside PostgreSQL's own schemas.
fn is_users_own(relation: &Relation) -> bool {
    matches!(relation.kind, 'r' | 'p' | 'v' | 'm' | 'f')
        && !relation.is_partition
        && !relation.schema.starts_with("pg_")
        && relation.schema != "information_schema"
}

/// What rewriting cannot close for this table.
fn lint(policy: &TablePolicy, relation: &Relation) -> Vec<String> {
    let Scope::Tenant { column } = &policy.scope else { return Vec::new() };
    let Some(tenant) = relation.column(column) else { return Vec::new() };
    let table = format!("{}.{}", relation.schema, relation.name);
    let mut warnings: Vec<String> = relation
        .unique_keys
        .iter()
        .filter(|key| !key.columns.contains(&tenant.number))
        .map(|key| {
            format!("{table}: the unique key {} spans tenants, so a duplicate tells that a value exists elsewhere; add {column} to it", key.name)
        })
        .collect();
    if !tenant.not_null {
        warnings.push(format!("{table}: {column} may be NULL, and such rows belong to nobody; make it NOT NULL"));
    }
    warnings
}

/// `1 user`, `2 users`.
fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn report(findings: &Findings, json: bool) {
    if json {
        let problems: Vec<_> = findings
            .problems
            .0
            .iter()
            .map(|p| serde_json::json!({ "message": p.message(), "report": p.render(false) }))
            .collect();
        let report = serde_json::json!({
            "ok": findings.problems.0.is_empty(),
            "problems": problems,
            "warnings": findings.warnings,
            "summary": findings.summary,
        });
        say(&format!("{report:#}\n"));
        return;
    }
    for line in &findings.summary {
        say(&format!("{line}\n"));
    }
    for warning in &findings.warnings {
        say(&format!("warning: {warning}\n"));
    }
    match findings.problems.0.len() {
        0 => say("ok\n"),
        n => {
            complain(&findings.problems);
            say(&format!("{}\n", count(n, "problem")));
        }
    }
}
