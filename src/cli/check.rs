//! `bulkhead check`

mod lint;
mod names;
mod sql;
mod views;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::lint::Warning;
use super::{Common, Outcome, block_on, catalog, complain, load_policies, reference, say};
use crate::backend;
use crate::catalog::{Catalog, Relation, Snapshot};
use crate::config::{Config, Problem, Problems, Upstream};
use crate::gate::Gate;
use crate::policy::model::PolicyModel;
use crate::server::rehearsal;

/// Check the configuration and the policies; with --database also against a live schema
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bulkhead check
  bulkhead check --database postgres://owner@127.0.0.1/shop
  bulkhead check --dump-catalog catalog.json     (then: explain and test --catalog catalog.json, without a server)
  bulkhead check --sql app.sql migrations/*.sql  which statements of these files are permitted, refused and why
  bulkhead check --reference                     every setting, policy key and metric

Every problem is told at once, with its place. With --sql the files are scripts as for psql: meta commands and the data of
COPY are skipped; whether a written tenant column holds the sender's own tenant is only known when it is sent.
Exit status: 0 fine, 1 problems or refused statements, 2 could not run.")]
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
    /// Say what would become of the statements of these files: permitted, refused and why
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "reference")]
    sql: Vec<PathBuf>,
    /// With --sql: the tenant that would send them; without it, that of the first [[user]]
    #[arg(long, value_name = "T", requires = "sql")]
    tenant: Option<String>,
    /// With --sql: a role of the user; may be repeated
    #[arg(long = "role", value_name = "R", requires = "sql")]
    roles: Vec<String>,
    /// Print every setting, policy key and metric, and end
    #[arg(long)]
    reference: bool,
    /// Count warnings, which say what the schema itself leaks, as something wrong (exit status 1)
    #[arg(long)]
    strict: bool,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Default)]
struct Findings {
    problems: Problems,
    /// What one should know; no fault.
    warnings: Vec<Warning>,
    summary: Vec<String>,
}

pub fn run(common: &Common, args: &Args) -> Outcome {
    if args.reference {
        say(&reference::text());
        return Outcome::Fine;
    }
    if !args.sql.is_empty() {
        return sql::run(common, args);
    }
    let mut findings = Findings::default();
    let outcome = match check(common, args, &mut findings) {
        Ok(()) if findings.problems.0.is_empty() && (findings.warnings.is_empty() || !args.strict) => Outcome::Fine,
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
    // The machine that checks need not be the one that serves.
    let advice = "`serve` would complain here: see to it, or leave it if that is another machine's";
    findings.warnings.extend(
        rehearsal::problems(&config)
            .into_iter()
            .chain(rehearsal::faults(&config))
            .map(|what| Warning::new("machine", what, advice)),
    );
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
        findings.warnings.push(Warning::new("empty", "no policy lists a table: tenants can read nothing", "add a [[table]]"));
    }
    findings.warnings.extend(names::warnings(&config, &policies));
    if let Some(snapshot) = snapshot(&config, args)? {
        check_schema(&config, args, &policies, snapshot, findings)?;
    }
    Ok(())
}

/// The server that is asked, if one is.
fn server(config: &Config, args: &Args) -> Result<Option<Upstream>, String> {
    match (&args.database, &args.dump_catalog) {
        (Some(url), _) => catalog::server(url).map(Some),
        (None, Some(_)) => Ok(config.databases.first().map(|d| d.upstream.clone())),
        (None, None) => Ok(None),
    }
}

fn snapshot(config: &Config, args: &Args) -> Result<Option<Snapshot>, String> {
    let snapshot = match (&args.catalog, server(config, args)?) {
        (Some(file), _) => catalog::from_file(file)?,
        (None, Some(server)) => catalog::from_server(&server)?,
        (None, None) if args.dump_catalog.is_some() => catalog::obtain(None, None)?,
        (None, None) => return Ok(None),
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

/// The clients' name for a database, whose policies count; the server's name for it need not be the same.
fn database_of(config: &Config, args: &Args, snapshot: &Snapshot) -> String {
    let mut by_upstream = config.databases.iter().filter(|d| d.upstream.database == snapshot.database);
    match (by_upstream.next(), by_upstream.next()) {
        (Some(only), None) => only.name.clone(),
        (_, _) if args.database.is_none() => {
            config.databases.first().map_or_else(|| snapshot.database.clone(), |d| d.name.clone())
        }
        (_, _) => snapshot.database.clone(),
    }
}

fn check_schema(
    config: &Config,
    args: &Args,
    policies: &PolicyModel,
    snapshot: Snapshot,
    findings: &mut Findings,
) -> Result<(), String> {
    let name = database_of(config, args, &snapshot);
    let policies = policies.of_database(&name);
    let catalog = Arc::new(Catalog::new(snapshot));
    match Gate::new(config.level, Arc::clone(&catalog), &policies) {
        Ok(gate) => {
            findings.problems.0.extend(views::problems(&gate, &policies, &name));
            let unfit = crate::server::check_tenants(config, &name, &gate.tenant_types()).err();
            findings.problems.0.extend(unfit.map(Problem::new));
        }
        Err(problems) => findings.problems.0.extend(problems),
    }
    let relations = &catalog.snapshot().relations;
    findings.summary.push(format!(
        "schema of `{}`: {}",
        catalog.snapshot().database,
        count(relations.iter().filter(|r| is_users_own(r)).count(), "relation")
    ));
    findings.warnings.extend(lint::of_catalog(&policies, catalog.snapshot()));
    if let Some(server) = server(config, args)? {
        let told = |e: &dyn std::fmt::Display| format!("cannot look for what the schema leaks: {e}");
        let text = block_on(backend::catalog::ask(&server, lint::SCHEMA_SQL))?.map_err(|e| told(&e))?;
        let schema = serde_json::from_str(&text).map_err(|e| told(&e))?;
        let app = config.databases.iter().find(|d| d.name == name).map(|d| d.upstream.user.as_str());
        findings.warnings.extend(lint::of_schema(&policies, &schema, app));
    } else {
        findings.warnings.extend(lint::of_keys(&policies, catalog.snapshot()));
    }
    Ok(())
}

/// Tables and the like outside PostgreSQL's own schemas.
fn is_users_own(relation: &Relation) -> bool {
    matches!(relation.kind, 'r' | 'p' | 'v' | 'm' | 'f')
        && !relation.is_partition
        && !relation.schema.starts_with("pg_")
        && relation.schema != "information_schema"
        // What `harden` made.
        && relation.schema != "bulkhead"
}

/// `1 user`, `2 users`.
fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// File and line of the policy that it is about.
fn place_of(warning: &Warning) -> Option<(String, usize)> {
    let place = warning.place.as_ref()?;
    let before = place.source.text.get(..place.span.start)?;
    Some((place.source.path.display().to_string(), before.matches('\n').count() + 1))
}

fn warning_as_json(warning: &Warning) -> serde_json::Value {
    let place = place_of(warning);
    serde_json::json!({
        "lint": warning.lint,
        "message": warning.message,
        "advice": warning.advice,
        "file": place.as_ref().map(|(file, _)| file),
        "line": place.as_ref().map(|(_, line)| line),
    })
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
            "warnings": findings.warnings.iter().map(warning_as_json).collect::<Vec<_>>(),
            "summary": findings.summary,
        });
        say(&format!("{report:#}\n"));
        return;
    }
    for line in &findings.summary {
        say(&format!("{line}\n"));
    }
    for warning in &findings.warnings {
        let place = place_of(warning).map(|(file, line)| format!("{file}:{line}: ")).unwrap_or_default();
        say(&format!("warning: {place}{}; {}\n", warning.message, warning.advice));
    }
    match findings.problems.0.len() {
        0 => say("ok\n"),
        n => {
            complain(&findings.problems);
            say(&format!("{}\n", count(n, "problem")));
        }
    }
}
