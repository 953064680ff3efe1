//! `bulkhead compliance report | classify`

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::audit::{Done, LogArgs, Trouble, end};
use super::{Common, Outcome, catalog, complain_of, load_policies, say, toml_string};
use crate::audit::verify::ReadError;
use crate::backend;
use crate::calendar;
use crate::catalog::{Catalog, Snapshot};
use crate::config::{self, Upstream};
use crate::policy::load;
use crate::policy::model::{ClassPolicy, ControlPolicy, PolicyModel, TablePolicy, is_within};
use crate::rules::classify::{self, Proposal, Sample};
use crate::rules::compliance::{self, Control, Evidence, Facts, Log, Report, Seen, State, page, recompute, render};
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
    /// Compute the score of a report again, from what it says of each control (what `report --json` has printed)
    Recompute { report: PathBuf },
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
    /// A checkpoint of earlier that was kept elsewhere, as `audit verify` takes it. May be given more than once
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
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
        Command::Recompute { report } => again(report),
        Command::Classify(args) => classify(common, args),
    })
}

fn report(common: &Common, args: &ReportArgs) -> Done {
    let told = |problems: crate::config::Problems| Trouble::Other(problems.render(false));
    let configured = if args.log.is_named() && args.policies.is_some() { None } else { Some(common.load().map_err(told)?) };
    let policies = match (&args.policies, &configured) {
        (Some(directory), _) => {
            let policies = load::load(directory, &[]).map_err(told)?;
            crate::config::Problems(crate::gate::check_rules(&policies)).or(policies).map_err(told)?
        }
        (None, Some(config)) => load_policies(config).map_err(told)?,
        (None, None) => return Err(Trouble::Other("which policies? --policies DIRECTORY".to_owned())),
    };
    let has_log = args.log.is_named() || configured.as_ref().is_some_and(|config| config.audit.is_some());
    let mut heard = if has_log { hear(common, &args.log, &args.checkpoint)? } else { Heard::default() };
    let mut facts = match &configured {
        Some(config) => {
            let of = |database: &config::Database| facts::of(config, database, &policies.of_database(&database.name));
            config.databases.iter().map(|database| (database.name.clone(), of(database))).collect()
        }
        None => std::mem::take(&mut heard.facts),
    };
    if let Log::Bad(why) = &heard.evidence.log {
        complain_of(format!("the log is not what it was, and shows nothing: {why}"));
    } else if has_log && configured.is_some() && heard.facts != facts {
        // What was done under other settings shows nothing of these.
        if !crate::mutant!("watch.other-settings-show-something") {
            heard.evidence.seen.clear();
        }
        complain_of("these settings are not in force, or not as long as a second: no record of the log was written under them");
    }
    if args.database.is_some() || args.catalog.is_some() {
        let unclassified = unclassified(args, &policies)?;
        facts.values_mut().for_each(|facts| facts.unclassified = Some(unclassified.clone()));
    }
    let controls: Vec<Control> = policies.controls.iter().map(control).collect();
    let as_of = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let of_each = facts
        .iter()
        .map(|(name, facts)| (name.clone(), compliance::report(&args.framework, &controls, facts, &heard.evidence, as_of)));
    let report = Report::of_all(of_each.collect())
        .ok_or_else(|| Trouble::Other("neither configuration nor log tells of a database".to_owned()))?;
    let report = Report { origin: heard.origin, ..report };
    if report.lines.is_empty() {
        return Err(Trouble::Other(unknown_framework(&args.framework, &controls)));
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

/// The score of a report that somebody has been given.
fn again(path: &Path) -> Done {
    let other = |why: String| Trouble::Other(format!("{}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| other(error.to_string()))?;
    let told: Value = serde_json::from_str(&text).map_err(|error| other(error.to_string()))?;
    let report: Report = serde_json::from_value(told["report"].clone()).map_err(|error| other(error.to_string()))?;
    let score = match recompute::recompute(&recompute::brief(&report)) {
        Ok(score) => score,
        Err(why) => {
            complain_of(format!("{}: {why}", path.display()));
            return Ok(Outcome::FoundSomethingWrong);
        }
    };
    say(&format!("{}\n", render::summary(&score)));
    if json!(score) == told["score"] {
        return Ok(Outcome::Fine);
    }
    complain_of(format!("{} says another score: {}", path.display(), told["score"]));
    Ok(Outcome::FoundSomethingWrong)
}

fn unknown_framework(framework: &str, controls: &[Control]) -> String {
    let mut known: Vec<&str> = controls.iter().map(|control| control.framework.as_str()).collect();
    known.sort_unstable();
    known.dedup();
    let known = if known.is_empty() { "there are none: copy those of policies/compliance".to_owned() } else { known.join(", ") };
    format!("no policy has a [[control]] of {framework}; {known}")
}

/// By names, types and samples of values where there is a database.
fn unclassified(args: &ReportArgs, policies: &PolicyModel) -> Result<Vec<String>, Trouble> {
    let snapshot = snapshot(args)?;
    let samples = match &args.database {
        Some(url) => samples(&catalog::server(url).map_err(Trouble::Other)?, &snapshot, SAMPLE)?,
        None => BTreeMap::new(),
    };
    Ok(proposals(&snapshot, policies, &samples).into_iter().map(|found| found.0.text()).collect())
}

fn fails(report: &Report) -> bool {
    report.lines.iter().any(|line| matches!(line.state, State::Failing | State::Unknown))
}

fn control(policy: &ControlPolicy) -> Control {
    let ControlPolicy { framework, id, cites, title, says, check, classes, weight, critical, days, place: _ } = policy.clone();
    Control { framework, id, cites, title, says, check, classes, weight, critical, days }
}

/// What a log tells.
#[derive(Default)]
struct Heard {
    evidence: Evidence,
    /// The last of each database.
    facts: BTreeMap<String, Facts>,
    origin: Option<String>,
}

/// Events that show something whatever was in force.
const ALWAYS: [&str; 5] = ["gap", "policies", "checkpoint", "start", "facts"];

/// Reads a log: what is signed of it, and of that what was written since the last change of settings.
fn hear(common: &Common, log: &LogArgs, checkpoints: &[PathBuf]) -> Result<Heard, Trouble> {
    let mut reader = log.open(common)?;
    let earlier = checkpoints.iter().map(|path| reader.checkpoint(path)).collect::<Result<Vec<_>, _>>()?;
    // Nobody has signed the rest yet.
    let signed = reader.newest().map_or(0, |checkpoint| checkpoint.size);
    let mut told: BTreeMap<String, String> = BTreeMap::new();
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    // Templates are recorded once, what is read by them each time.
    let mut masked: BTreeSet<String> = BTreeSet::new();
    let verified = reader.verify(&earlier, |read| {
        let (Some(event), Some(time)) = (field(read.json, "event"), field(read.json, "time")) else { return };
        if read.index >= signed && !crate::mutant!("watch.unsigned-shows-something") {
            return;
        }
        match event {
            "template" => {
                let Some(template) = field(read.json, "template") else { return };
                if has(read.json, "\"masked\":[") {
                    masked.insert(template.to_owned());
                } else {
                    masked.remove(template);
                }
            }
            "facts" => {
                let record: Value = serde_json::from_slice(read.json).unwrap_or_default();
                let text = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
                if told.insert(text("database"), text("facts")) != Some(text("facts")) {
                    seen.retain(|event, _| ALWAYS.contains(&event.as_str()));
                }
            }
            _ => {} // tidy: not a syntax kind
        }
        for kind in kinds(event, read.json, &masked).into_iter().flatten() {
            note(&mut seen, kind, read.index, time);
        }
    });
    let (log, origin) = match verified {
        Ok(verified) => {
            let gaps = seen.get("gap").map_or(0, |gaps| gaps.count);
            (Log::Intact { size: verified.signed, gaps }, Some(verified.origin))
        }
        Err(ReadError::Bad(bad)) => {
            return Ok(Heard {
                evidence: Evidence { seen: BTreeMap::new(), log: Log::Bad(bad.to_string()) },
                ..Heard::default()
            });
        }
        Err(other) => return Err(other.into()),
    };
    let facts = told.into_iter().filter_map(|(name, text)| Some((name, serde_json::from_str(&text).ok()?))).collect();
    Ok(Heard { evidence: Evidence { seen, log }, facts, origin })
}

/// What a record shows. Statements are those of tenants: what unrestricted users do shows no control over these.
fn kinds<'e>(event: &'e str, json: &[u8], masked: &BTreeSet<String>) -> [Option<&'e str>; 2] {
    match event {
        "statement" | "intent" if !has(json, "\"tenant\":\"") => [None, None],
        "statement" | "intent" if field(json, "template").is_some_and(|template| masked.contains(template)) => {
            [Some(event), Some("masked")]
        }
        "session" if has(json, "\"tls\":\"on\"") => [Some(event), Some("tls")],
        "refused" if has(json, "\"message\":\"permission denied for column ") => [Some(event), Some("refused_column")],
        "refused" if has(json, "\"message\":\"definitions may ") => [Some(event), Some("refused_change")],
        // A reload that failed shows that one was tried.
        "policies" if !has(json, "\"outcome\":\"done\"") => [None, None],
        _ => [Some(event), None], // tidy: not a syntax kind
    }
}

fn note(seen: &mut BTreeMap<String, Seen>, kind: &str, record: u64, time: &str) {
    if !seen.contains_key(kind) {
        seen.insert(kind.to_owned(), Seen::default());
    }
    if let Some(seen) = seen.get_mut(kind) {
        *seen = Seen { count: seen.count + 1, record, at: calendar::seconds(time).unwrap_or(seen.at) };
    }
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

fn snapshot(args: &ReportArgs) -> Result<Snapshot, Trouble> {
    match (&args.database, &args.catalog) {
        (Some(url), _) => catalog::server(url).and_then(|upstream| catalog::from_server(&upstream)),
        (None, Some(file)) => catalog::from_file(file),
        (None, None) => Err("no catalog".to_owned()),
    }
    .map_err(Trouble::Other)
}

/// A column of the catalog.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ColumnName {
    schema: String,
    table: String,
    column: String,
}

impl ColumnName {
    fn table_text(&self) -> String {
        format!("{}.{}", as_in_sql(&self.schema), as_in_sql(&self.table))
    }

    fn text(&self) -> String {
        format!("{}.{}", self.table_text(), as_in_sql(&self.column))
    }
}

/// Columns that look as if they should have a class, and have none, their own or of what they inherit from.
fn proposals(
    snapshot: &Snapshot,
    policies: &PolicyModel,
    samples: &BTreeMap<ColumnName, Vec<String>>,
) -> Vec<(ColumnName, Proposal)> {
    let catalog = Catalog::new(snapshot.clone());
    let mut found = vec![];
    for relation in tables(snapshot) {
        let parents = snapshot.relations.iter().filter(|r| relation.parents.contains(&r.oid));
        let family: Vec<_> = parents.chain([relation]).collect();
        let is_of = |table: &&TablePolicy| family.iter().any(|r| r.schema == table.schema && r.name == table.name);
        let own: Vec<&TablePolicy> = policies.tables.iter().filter(is_of).collect();
        for column in &relation.columns {
            let is_known = own.iter().any(|table| table.columns.iter().any(|c| c.name == column.name && c.class.is_some()));
            if is_known {
                continue;
            }
            let (schema, table) = (relation.schema.clone(), relation.name.clone());
            let name = ColumnName { schema, table, column: column.name.clone() };
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
    let policies = if common.config.exists() {
        let config = common.load().map_err(|problems| Trouble::Other(problems.render(false)))?;
        load_policies(&config).map_err(|problems| Trouble::Other(problems.render(false)))?
    } else {
        // Whoever begins has none yet.
        PolicyModel::default()
    };
    let upstream = catalog::server(&args.database).map_err(Trouble::Other)?;
    let snapshot = catalog::from_server(&upstream).map_err(Trouble::Other)?;
    let samples = samples(&upstream, &snapshot, args.sample)?;
    let found = proposals(&snapshot, &policies, &samples);
    if args.json {
        let of = |(name, p): &(ColumnName, Proposal)| {
            let based_on = format!("{:?}", p.confidence);
            json!({ "column": name.text(), "class": p.class, "mask": p.mask, "because": p.because, "based_on": based_on })
        };
        say(&format!("{:#}\n", Value::from(found.iter().map(of).collect::<Vec<_>>())));
    } else {
        say(&entries(&found, &policies));
    }
    Ok(if found.is_empty() { Outcome::Fine } else { Outcome::FoundSomethingWrong })
}

/// How many values of a column are looked at.
const SAMPLE: u32 = 200;

/// Some values of each column.
fn samples(upstream: &Upstream, snapshot: &Snapshot, sample: u32) -> Result<BTreeMap<ColumnName, Vec<String>>, Trouble> {
    if sample == 0 {
        return Ok(BTreeMap::new());
    }
    let (names, sql): (Vec<ColumnName>, Vec<String>) = tables(snapshot).flat_map(|relation| queries(relation, sample)).unzip();
    let answers = super::block_on(backend::lock::answers(upstream, &sql)).map_err(Trouble::Other)?;
    let answers = answers.map_err(|error| Trouble::Other(error.to_string()))?;
    if !answers.is_empty() && answers.iter().all(Option::is_none) {
        complain_of(format!("no values were seen: may {} read the tables?", upstream.user));
    }
    let values = answers.into_iter().map(|answer| answer.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default());
    Ok(names.into_iter().zip(values).collect())
}

/// For each column, a query that gives some of its values as one JSON array.
fn queries(relation: &crate::catalog::Relation, sample: u32) -> Vec<(ColumnName, String)> {
    let table = format!("{}.{}", quoted_name(&relation.schema), quoted_name(&relation.name));
    let of = |column: &crate::catalog::Column| {
        let (schema, name) = (relation.schema.clone(), relation.name.clone());
        let quoted = quoted_name(&column.name);
        // Long values tell no more than their beginnings.
        let values = format!("SELECT left({quoted}::text, 200) AS v FROM {table} WHERE {quoted} IS NOT NULL LIMIT {sample}");
        let sql = format!("BEGIN READ ONLY; SELECT json_agg(v)::text FROM ({values}) AS s; COMMIT");
        (ColumnName { schema, table: name, column: column.name.clone() }, sql)
    };
    relation.columns.iter().map(of).collect()
}

/// Without quotes where it needs none.
fn as_in_sql(name: &str) -> String {
    let is_plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    if is_plain && begins { name.to_owned() } else { quoted_name(name) }
}

/// As a policy file has them, to be put below the entries of their tables.
fn entries(found: &[(ColumnName, Proposal)], policies: &PolicyModel) -> String {
    let mut out = String::new();
    let mut table = String::new();
    for (name, proposal) in found {
        if name.table_text() != table {
            table = name.table_text();
            out += &format!("# Below the [[table]] entry of {}:\n\n", table.escape_debug());
        }
        let covers = |class: &&ClassPolicy| is_within(proposal.class, &class.name);
        let covered = policies.classes.iter().filter(covers).max_by_key(|class| class.name.len());
        out += &format!(
            "[[table.column]] # {}\nname = {}\n",
            proposal.because.escape_debug(),
            toml_string(&as_in_sql(&name.column))
        );
        out += &format!("class = {}\n", toml_string(proposal.class));
        out += &match covered {
            Some(class) => format!("# what the [[class]] {} says\n\n", class.name.escape_debug()),
            None => format!(
                "mask = {} # no [[class]] is for it\n\n",
                toml_string(if proposal.mask == "hash" { "redact" } else { proposal.mask })
            ),
        };
    }
    if !found.is_empty() {
        out += "# Look at each: what was not found is not thereby harmless, and what was found may be something else.\n";
    }
    out
}
