//! `bulkhead explain`

use std::path::PathBuf;
use std::sync::Arc;

use super::{Common, Outcome, catalog, complain, complain_of, say};
use crate::catalog::Catalog;
use crate::config::Problems;
use crate::finding::Denial;
use crate::gate::{Context, Explanation, Gate, Protocol};
use crate::principal::{Access, Principal, Tenant, TenantSet};

/// Show what would become of a statement: the decision, the reasons, and the SQL that would be sent
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bulkhead explain --tenant 1 --role support \"SELECT * FROM accounts\"
  bulkhead explain --tenant 1 --catalog catalog.json --json \"UPDATE accounts SET note = 'x'\"

Nothing is run. The schema comes from the live [[database]], or from a file of `bulkhead check --dump-catalog`.
Exit status: 0 everything is permitted, 1 something is refused, 2 could not run.")]
pub struct Args {
    /// The tenant; without it: a shared login that has chosen none
    #[arg(long, value_name = "T")]
    tenant: Option<String>,
    /// A role of the user; may be repeated
    #[arg(long = "role", value_name = "R")]
    roles: Vec<String>,
    /// The application_name that it comes with: threat rules and lists of statements may be for some
    #[arg(long, value_name = "NAME")]
    application: Option<String>,
    /// The [[database]], by the name that clients use
    #[arg(long, value_name = "D")]
    database: Option<String>,
    /// Take the schema from this file instead of the server
    #[arg(long, value_name = "FILE")]
    catalog: Option<PathBuf>,
    /// Print a JSON list, one object for each statement
    #[arg(long)]
    json: bool,
    /// One or more statements
    sql: String,
}

pub fn run(common: &Common, args: &Args) -> Outcome {
    match explain(common, args) {
        Ok(explanations) => {
            say(&if args.json { as_json(&explanations) } else { as_text(&explanations) });
            let denied = explanations.iter().any(|e| denial(e).is_some());
            if denied { Outcome::FoundSomethingWrong } else { Outcome::Fine }
        }
        Err(outcome) => outcome,
    }
}

fn explain(common: &Common, args: &Args) -> Result<Vec<Explanation>, Outcome> {
    let (config, policies) = common.load_all()?;
    let could_not = |error: String| {
        complain_of(error);
        Outcome::CouldNotRun
    };
    let database = catalog::choose(&config, args.database.as_deref()).map_err(could_not)?;
    let snapshot = catalog::obtain(args.catalog.as_deref(), database).map_err(could_not)?;
    let name = database.map_or_else(|| snapshot.database.clone(), |d| d.name.clone());
    let gate = Gate::new(config.level, Arc::new(Catalog::new(snapshot)), &policies.of_database(&name)).map_err(|problems| {
        complain(&Problems(problems));
        Outcome::CouldNotRun
    })?;
    let principal = principal(&name, args.tenant.as_deref(), &args.roles);
    Ok(gate.explain(&args.sql, &context(&args.sql, &principal, &[Box::from("public")]), args.application.as_deref()))
}

/// Somebody of that tenant and those roles. Sent nowhere, so that nothing needs to be proved (AUTHENTICATED).
pub fn principal(database: &str, tenant: Option<&str>, roles: &[String]) -> Principal {
    let mut roles: Vec<Box<str>> = roles.iter().map(|r| r.as_str().into()).collect();
    roles.sort();
    roles.dedup();
    let access = match tenant {
        Some(tenant) => Access::Fixed(Tenant(tenant.into())),
        None => Access::Shared { tenants: TenantSet::Any, chosen: None },
    };
    Principal { user: "explain".into(), database: database.into(), roles: roles.into(), access, tenant_setting: None }
}

/// One statement is looked at as drivers send it, so that it may have parameters; several can only come as one Query.
pub fn context<'a>(sql: &str, principal: &'a Principal, search_path: &'a [Box<str>]) -> Context<'a> {
    let several = pg_query::parse(sql, 0).is_ok_and(|tree| tree.protobuf.stmts.len() > 1);
    let protocol = if several { Protocol::Simple } else { Protocol::Extended };
    Context { principal, search_path, protocol, parameter_types: &[] }
}

fn denial(explanation: &Explanation) -> Option<&Denial> {
    explanation.outcome.as_ref().err().or(explanation.lacks_tenant.as_ref())
}

fn as_text(explanations: &[Explanation]) -> String {
    let mut out = String::new();
    for (i, e) in explanations.iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        line(&mut out, "statement", &e.sql);
        match denial(e) {
            None => line(&mut out, "decision", "permit"),
            Some(denial) => {
                line(&mut out, "decision", &format!("deny ({})", denial.reason.as_str()));
                line(&mut out, "error", &denial.error.to_string());
                for (label, text) in [("detail", &denial.error.detail), ("hint", &denial.error.hint)] {
                    text.iter().for_each(|t| line(&mut out, label, t));
                }
                if let Some(position) = denial.error.position {
                    line(&mut out, "position", &position.to_string());
                }
            }
        }
        if let Ok(sql) = &e.outcome {
            let label = if e.lacks_tenant.is_some() { "would send" } else { "sends" };
            line(&mut out, label, sql);
        }
        e.relations.iter().for_each(|(name, scope)| line(&mut out, "relation", &format!("{name}: {scope}")));
        e.remarks.iter().for_each(|remark| line(&mut out, "remark", remark));
        match &e.cacheable {
            Ok(()) => line(&mut out, "cacheable", "yes"),
            Err(why) => line(&mut out, "cacheable", &format!("no: {why}")),
        }
    }
    out
}

/// `label      text`, further lines of the text indented alike.
fn line(out: &mut String, label: &str, text: &str) {
    out.push_str(&format!("{label:<11}{}\n", text.replace('\n', "\n           ")));
}

fn as_json(explanations: &[Explanation]) -> String {
    let list: Vec<_> = explanations
        .iter()
        .map(|e| {
            let denial = denial(e);
            serde_json::json!({
                "sql": e.sql,
                "decision": if denial.is_none() { "permit" } else { "deny" },
                "final_sql": e.outcome.as_ref().ok(),
                "reason": denial.map(|d| d.reason.as_str()),
                "sqlstate": denial.map(|d| d.error.sqlstate.0),
                "message": denial.map(|d| &d.error.message),
                "detail": denial.and_then(|d| d.error.detail.as_ref()),
                "hint": denial.and_then(|d| d.error.hint.as_ref()),
                "position": denial.and_then(|d| d.error.position),
                "relations": e.relations.iter().map(|(name, scope)| serde_json::json!({ "name": name, "scope": scope })).collect::<Vec<_>>(),
                "remarks": e.remarks,
                "cacheable": e.cacheable.is_ok(),
                "cacheable_reason": e.cacheable.as_ref().err(),
            })
        })
        .collect();
    format!("{:#}\n", serde_json::Value::Array(list))
}
