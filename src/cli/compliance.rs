//! `bulkhead compliance report | classify`

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::audit::{Done, LogArgs, Trouble, end};
use super::{Common, Outcome, catalog, load_policies, say};
use crate::audit::verify::ReadError;
use crate::backend;
use crate::calendar;
use crate::catalog::{Catalog, Snapshot};
use crate::policy::load;
use crate::policy::model::{ControlPolicy, PolicyModel};
use crate::rules::classify::{self, Proposal, Sample};
use crate::rules::compliance::{self, Control, Evidence, Facts, Log, Report, Seen, State, page, render};
use crate::server::facts;
use crate::sql::tree::quoted_name;

/// What of a framework's controls holds, as far as a proxy can see; and which columns hold what kind of data.
///
/// Controls and classes of data stand in policy files: policies/compliance of Bulkhead's repository has them for GDPR, CCPA, HIPAA, PCI DSS and
/// SOX, to be copied and edited. A report says what was configured and seen. It does not say that anybody complies.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bulkhead compliance report --framework gdpr
  bulkhead compliance report --framework pci-dss --html --database postgres://owner@127.0.0.1/shop > pci-dss.html
  bulkhead compliance report --framework sox --log AUDIT --policies POLICIES      from the log and the policies alone
  bulkhead compliance classify --database postgres://owner@127.0.0.1/shop         [[table.column]] entries to look at, edit and take over

Exit status: 0 nothing fails, 1 a control fails or is not known (classify: a column was found), 2 could not run.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Look at the controls of a framework
    Report(ReportArgs),
    /// Propose classes for columns that no policy says the kind of: by names, types and samples of their values
    Classify(ClassifyArgs),
}

#[derive(Debug, clap::Args)]
struct ReportArgs {
    /// Whose controls, as [[control]] names it: gdpr, ccpa, hipaa, pci-dss, sox, or your own
    #[arg(long)]
    framework: String,
    /// As JSON, with all that the score is made of
    #[arg(long, conflicts_with = "html")]
    json: bool,
    /// As one page to print
    #[arg(long)]
    html: bool,
    #[command(flatten)]
    log: LogArgs,
    /// Policies to take the controls from; without it, [server] policies. With --log, no configuration is needed
    #[arg(long, value_name = "DIRECTORY")]
    policies: Option<PathBuf>,
    /// Look for columns that look personal and have no class, in this database
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// Or in a catalog of `check --dump-catalog`
    #[arg(long, value_name = "FILE", conflicts_with = "database")]
    catalog: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct ClassifyArgs {
    /// The database; its user must be able to read the tables
    #[arg(long, value_name = "URL")]
    database: String,
    /// How many values of each column are looked at, 0 for none
    #[arg(long, default_value_t = 200)]
    sample: u32,
    #[arg(long)]
    json: bool,
}

pub fn run(common: &Common, args: &Args) -> Outcome {
    end(match &args.command {
        Command::Report(args) => report(common, args),
        Command::Classify(args) => classify(common, args),
    })
}

fn report(common: &Common, args: &ReportArgs) -> Done {
    let told = |problems: crate::config::Problems| Trouble::Other(problems.render(false));
    let configured = common.load();
    let policies = match (&args.policies, &configured) {
        (Some(directory), _) => load::load(directory, &[]).map_err(told)?,
        (None, Ok(config)) => load_policies(config).map_err(told)?,
        (None, Err(problems)) => return Err(Trouble::Other(problems.render(false))),
    };
    let has_log = args.log.is_named() || configured.as_ref().is_ok_and(|config| config.audit.is_some());
    let (evidence, recorded) = if has_log { evidence(common, &args.log)? } else { Default::default() };
    // Who names a log means what it says.
    let mut facts = match (configured, recorded) {
        (_, Some(recorded)) if args.log.is_named() => recorded,
        (Ok(config), _) => facts::of(&config, &policies),
        (Err(_), Some(recorded)) => recorded,
        (Err(problems), None) => return Err(told(problems)),
    };
    if args.database.is_some() || args.catalog.is_some() {
        let found = proposals(&snapshot(args)?, &policies, &BTreeMap::new());
        facts.unclassified = Some(found.into_iter().map(|(name, _)| name).collect());
    }
    let controls: Vec<Control> = policies.controls.iter().map(control).collect();
    let as_of = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let report = compliance::report(&args.framework, &controls, &facts, &evidence, as_of);
    if report.lines.is_empty() {
        let mut known: Vec<&str> = controls.iter().map(|control| control.framework.as_str()).collect();
        known.dedup();
        let known =
            if known.is_empty() { "there are none: copy those of policies/compliance".to_owned() } else { known.join(", ") };
        return Err(Trouble::Other(format!("no policy has a [[control]] of {}; {known}", args.framework)));
    }
    say(&if args.json {
        format!("{:#}\n", json!({ "report": report, "score": report.score() }))
    } else if args.html {
        page::html(&report)
    } else {
        render::text(&report)
    });
    Ok(if fails(&report) { Outcome::FoundSomethingWrong } else { Outcome::Fine })
}

fn fails(report: &Report) -> bool {
    report.lines.iter().any(|line| matches!(line.state, State::Failing | State::Unknown))
}

fn control(policy: &ControlPolicy) -> Control {
    let ControlPolicy { framework, id, cites, title, says, check, classes, weight, critical, days, place: _ } = policy.clone();
    Control { framework, id, cites, title, says, check, classes, weight, critical, days }
}

/// What the log tells, and the facts that it has of the configuration.
fn evidence(common: &Common, log: &LogArgs) -> Result<(Evidence, Option<Facts>), Trouble> {
    let mut reader = log.open(common)?;
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    let mut facts = None;
    // Templates are recorded once, what is read by them each time.
    let mut masked: BTreeSet<String> = BTreeSet::new();
    let verified = reader.verify(&[], |read| {
        let (Some(event), Some(time)) = (field(read.json, "event"), field(read.json, "time")) else { return };
        let mut note = |kind: &str| {
            if !seen.contains_key(kind) {
                seen.insert(kind.to_owned(), Seen::default());
            }
            if let Some(seen) = seen.get_mut(kind) {
                (seen.count, seen.record) = (seen.count + 1, read.index);
                // Of many, only the last one's time matters; to the second.
                seen.at = time_of(time).unwrap_or(seen.at);
            }
        };
        note(event);
        match event {
            "template" => {
                let Some(template) = field(read.json, "template") else { return };
                if has(read.json, "\"masked\":[") {
                    masked.insert(template.to_owned());
                } else {
                    masked.remove(template);
                }
            }
            "statement" | "intent" if field(read.json, "template").is_some_and(|template| masked.contains(template)) => {
                note("masked")
            }
            "session" if has(read.json, "\"tls\":\"on\"") => note("tls"),
            "refused" if has(read.json, "\"message\":\"permission denied for column ") => note("refused_column"),
            "refused" if has(read.json, "\"message\":\"definitions may ") => note("refused_change"),
            "facts" => {
                let record: Option<Value> = serde_json::from_slice(read.json).ok();
                facts = record.and_then(|record| serde_json::from_str(record["facts"].as_str()?).ok());
            }
            _ => {} // tidy: not a syntax kind
        }
    });
    let log = match verified {
        Ok(verified) => Log::Intact { size: verified.size, gaps: seen.get("gap").map_or(0, |gaps| gaps.count) },
        Err(ReadError::Bad(bad)) => Log::Bad(bad.to_string()),
        Err(other) => return Err(other.into()),
    };
    Ok((Evidence { seen, log }, facts))
}

/// A text of a record that has no escapes: records have their fields in one order, and no blanks.
fn field<'r>(json: &'r [u8], name: &str) -> Option<&'r str> {
    let mark = format!("\"{name}\":\"");
    let from = memchr::memmem::find(json, mark.as_bytes())? + mark.len();
    let rest = &json[from..];
    std::str::from_utf8(&rest[..memchr::memchr(b'"', rest)?]).ok()
}

fn has(json: &[u8], what: &str) -> bool {
    memchr::memmem::find(json, what.as_bytes()).is_some()
}

fn time_of(text: &str) -> Option<u64> {
    calendar::seconds(text)
}

fn snapshot(args: &ReportArgs) -> Result<Snapshot, Trouble> {
    match (&args.database, &args.catalog) {
        (Some(url), _) => catalog::server(url).and_then(|upstream| catalog::from_server(&upstream)),
        (None, Some(file)) => catalog::from_file(file),
        (None, None) => Err("no catalog".to_owned()),
    }
    .map_err(Trouble::Other)
}

/// Columns that look as if they should have a class, and have none: `schema.table.column`. `samples`: values, by that name.
fn proposals(snapshot: &Snapshot, policies: &PolicyModel, samples: &BTreeMap<String, Vec<String>>) -> Vec<(String, Proposal)> {
    let catalog = Catalog::new(snapshot.clone());
    let mut found = vec![];
    for relation in tables(snapshot) {
        let policy = policies.tables.iter().find(|table| table.schema == relation.schema && table.name == relation.name);
        for column in &relation.columns {
            let is_known = policy.is_some_and(|table| table.columns.iter().any(|c| c.name == column.name && c.class.is_some()));
            if is_known {
                continue;
            }
            let name = format!("{}.{}.{}", relation.schema, relation.name, column.name);
            let values: Vec<&str> = samples.get(&name).into_iter().flatten().map(String::as_str).collect();
            let type_ = catalog.type_(column.type_oid).map_or(String::new(), |type_| written(&type_.name, column.typmod));
            let sample = Sample { table: &relation.name, column: &column.name, type_: &type_, values: &values };
            found.extend(classify::propose(&sample).map(|proposal| (name, proposal)));
        }
    }
    found
}

/// A type as `format_type` writes it, as far as it matters.
fn written(name: &str, typmod: i32) -> String {
    if let Some(element) = name.strip_prefix('_') {
        return written(element, typmod) + "[]";
    }
    let base = match name {
        "int2" => "smallint",
        "int4" => "integer",
        "int8" => "bigint",
        "float4" => "real",
        "float8" => "double precision",
        "bool" => "boolean",
        "varchar" => "character varying",
        "bpchar" => "character",
        other => other,
    };
    // Of these two it is the length and the four bytes of its own header.
    match name {
        "varchar" | "bpchar" if typmod > 4 => format!("{base}({})", typmod - 4),
        _ => base.to_owned(), // tidy: not a syntax kind
    }
}

fn tables(snapshot: &Snapshot) -> impl Iterator<Item = &crate::catalog::Relation> {
    let is_own = |schema: &str| !matches!(schema, "pg_catalog" | "information_schema" | "bulkhead" | "pg_toast");
    snapshot.relations.iter().filter(move |r| matches!(r.kind, 'r' | 'p' | 'm') && !r.is_partition && is_own(&r.schema))
}

fn classify(common: &Common, args: &ClassifyArgs) -> Done {
    let policies = match common.load() {
        Ok(config) => load_policies(&config).map_err(|problems| Trouble::Other(problems.render(false)))?,
        // Whoever begins has none yet.
        Err(_) => PolicyModel::default(),
    };
    let upstream = catalog::server(&args.database).map_err(Trouble::Other)?;
    let snapshot = catalog::from_server(&upstream).map_err(Trouble::Other)?;
    let names: Vec<(String, String)> = tables(&snapshot).flat_map(|relation| queries(relation, args.sample)).collect();
    let mut samples = BTreeMap::new();
    if args.sample > 0 {
        let sql: Vec<String> = names.iter().map(|(_, sql)| sql.clone()).collect();
        let answers = super::block_on(backend::lock::answers(&upstream, &sql)).map_err(Trouble::Other)?;
        let answers = answers.map_err(|error| Trouble::Other(error.to_string()))?;
        for ((name, _), answer) in names.into_iter().zip(answers) {
            let values = answer.and_then(|json| serde_json::from_str::<Vec<String>>(&json).ok());
            samples.insert(name, values.unwrap_or_default());
        }
    }
    let found = proposals(&snapshot, &policies, &samples);
    if args.json {
        let of = |(name, p): &(String, Proposal)| {
            let based_on = format!("{:?}", p.confidence);
            json!({ "column": name, "class": p.class, "mask": p.mask, "because": p.because, "based_on": based_on })
        };
        say(&format!("{:#}\n", Value::from(found.iter().map(of).collect::<Vec<_>>())));
    } else {
        say(&entries(&found));
    }
    Ok(if found.is_empty() { Outcome::Fine } else { Outcome::FoundSomethingWrong })
}

/// For each column, a query that gives some of its values as one JSON array.
fn queries(relation: &crate::catalog::Relation, sample: u32) -> Vec<(String, String)> {
    let table = format!("{}.{}", quoted_name(&relation.schema), quoted_name(&relation.name));
    let of = |column: &crate::catalog::Column| {
        let name = format!("{}.{}.{}", relation.schema, relation.name, column.name);
        let quoted = quoted_name(&column.name);
        // Long values tell no more than their beginnings.
        let values = format!("SELECT left({quoted}::text, 200) AS v FROM {table} WHERE {quoted} IS NOT NULL LIMIT {sample}");
        (name, format!("BEGIN READ ONLY; SELECT json_agg(v)::text FROM ({values}) AS s; COMMIT"))
    };
    relation.columns.iter().map(of).collect()
}

/// Without quotes where it needs none.
fn as_in_sql(name: &str) -> String {
    let is_plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    if is_plain && begins { name.to_owned() } else { quoted_name(name) }
}

/// As a policy file has them.
fn entries(found: &[(String, Proposal)]) -> String {
    let mut out = String::new();
    let mut table = "";
    for (name, proposal) in found {
        let (of, column) = name.rsplit_once('.').unwrap_or(("", name));
        if of != table {
            table = of;
            out += &format!("# of the [[table]] {of}\n");
        }
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        out += &format!(
            "[[table.column]] # {}\nname = {}\nclass = {}\n",
            proposal.because,
            quoted(&as_in_sql(column)),
            quoted(proposal.class)
        );
        out += &format!("# mask = {} # or that of the class\n\n", quoted(proposal.mask));
    }
    if !found.is_empty() {
        out += "# Look at each: what was not found is not thereby harmless, and what was found may be something else.\n";
    }
    out
}
