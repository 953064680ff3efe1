//! `bulkhead learn`

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use serde_json::Value;

use super::audit::{Done, LogArgs, Trouble, end};
use super::{Common, Outcome, load_policies, say};
use crate::rules::learned::{Familiarity, Learned};
use crate::rules::{self, threat};
use crate::sql::form::{id_of, words_of};

/// Print what an application says, by the audit log, as a policy that lists it.
///
/// A policy with that list ([[application]]) has the rules unknown-statement and grafted-statement tell what the application says besides; in
/// mode enforce it is refused. Read the list before it is in force, as you would read code: whoever spoke for the application while it was
/// recorded is in it. After a deploy, --new shows what was not known.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bulkhead learn --application shop-web --output policies/shop-web.toml   what it has said so far, and what was listed already
  bulkhead learn --application shop-web --new                             what it has said that no policy lists

What was refused, or looks like an injection, is written as a comment: nobody may say it until somebody takes the mark away.

Exit status: 0 fine, 1 --new has found something, 2 could not run.")]
pub struct Args {
    #[command(flatten)]
    log: LogArgs,
    /// The application_name that it connects with; without it, what all applications say, as one
    #[arg(long, value_name = "NAME")]
    application: Option<String>,
    /// Of what was recorded at this time and later, as the log writes it, or its beginning: 2026-01-31T23
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only what no policy lists, a line each
    #[arg(long, conflicts_with = "output")]
    new: bool,
    /// Write it there, whole or not at all, instead of printing it: a shell's `>` would empty the list before it is read
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// A statement that was said.
struct Said {
    form: String,
    times: u64,
    first: String,
    users: BTreeSet<String>,
    refused: bool,
}

pub fn run(common: &Common, args: &Args) -> Outcome {
    end(learn(common, args))
}

fn learn(common: &Common, args: &Args) -> Done {
    let known = listed(common, args.application.as_deref())?;
    let said = said(common, args)?;
    let learned = Learned::new(known.iter().cloned());
    if said.is_empty() && known.is_empty() {
        return Err(Trouble::Other("the log has no statement of it: does it connect with that application_name?".to_owned()));
    }
    let new: Vec<&Said> = said.iter().filter(|said| !learned.knows(id_of(&said.form))).collect();
    if args.new {
        // On one line, whatever is in it; quotes as they are.
        let plain = |text: &str| text.escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'");
        for said in &new {
            let remark = suspicion(said, &learned).map(|why| format!("  <- {why}")).unwrap_or_default();
            let refused = if said.refused { ", refused" } else { "" };
            say(&format!(
                "{} times since {}, by {}{refused}: {}{remark}\n",
                said.times,
                said.first,
                users(said),
                plain(&said.form)
            ));
        }
        return Ok(if new.is_empty() { Outcome::Fine } else { Outcome::FoundSomethingWrong });
    }
    let policy = policy(args.application.as_deref(), &known, &new, &learned);
    match &args.output {
        None => say(&policy),
        Some(path) => {
            let failed = |error: std::io::Error| Trouble::Other(format!("{} cannot be written: {error}", path.display()));
            // Policies are read again when one changes: never half of it.
            let beside = path.with_extension("toml.new");
            std::fs::write(&beside, policy).map_err(failed)?;
            std::fs::rename(&beside, path).map_err(failed)?;
            let commented = new.iter().filter(|said| objection(said, &learned).is_some()).count();
            say(&format!(
                "{}: {} statements that were listed already, {} new ones, {commented} of them as comments: read it before it is enforced\n",
                path.display(),
                known.len(),
                new.len()
            ));
        }
    }
    Ok(Outcome::Fine)
}

/// What policies list of it already.
fn listed(common: &Common, application: Option<&str>) -> Result<Vec<String>, Trouble> {
    let Ok(config) = common.load() else { return Ok(vec![]) };
    let policies = load_policies(&config).map_err(|problems| Trouble::Other(problems.render(false)))?;
    let is_named = |names: &[String]| match application {
        Some(application) => names.iter().any(|name| name == application),
        None => names.is_empty(),
    };
    let of_it = policies.applications.into_iter().filter(|policy| is_named(&policy.names));
    Ok(of_it.flat_map(|policy| policy.statements).collect())
}

/// What the log has of it, in the order in which it was said first.
fn said(common: &Common, args: &Args) -> Result<Vec<Said>, Trouble> {
    let reader = args.log.open(common)?;
    let mut forms: HashMap<String, String> = HashMap::new();
    let mut sessions: HashMap<u64, String> = HashMap::new();
    let mut said: Vec<Said> = vec![];
    let mut places: HashMap<String, usize> = HashMap::new();
    reader.records(0, |read| {
        let Ok(record) = serde_json::from_slice::<Value>(read.json) else { return true };
        let text = |name: &str| record[name].as_str().unwrap_or_default();
        match text("event") {
            // Sessions are counted anew.
            "start" => sessions.clear(),
            "session" if args.application.as_deref().is_none_or(|name| text("application") == name) => {
                _ = sessions.insert(record["session"].as_u64().unwrap_or_default(), text("user").to_owned());
            }
            "session_end" => _ = sessions.remove(&record["session"].as_u64().unwrap_or_default()),
            "template" => _ = forms.insert(text("template").to_owned(), text("asked").to_owned()),
            event @ ("statement" | "intent" | "refused") => {
                let Some(user) = sessions.get(&record["session"].as_u64().unwrap_or_default()) else { return true };
                let refused = event == "refused";
                let form = if refused { own_refusal(&record) } else { forms.get(text("template")).map(String::as_str) };
                let Some(form) =
                    form.filter(|form| !form.is_empty() && args.since.as_deref().is_none_or(|since| text("time") >= since))
                else {
                    return true;
                };
                let at = *places.entry(form.to_owned()).or_insert(said.len());
                if at == said.len() {
                    let (form, first) = (form.to_owned(), text("time").to_owned());
                    said.push(Said { form, times: 0, first, users: BTreeSet::new(), refused: false });
                }
                said[at].times += record["times"].as_u64().unwrap_or(1);
                said[at].refused |= refused;
                if !said[at].users.contains(user) {
                    said[at].users.insert(user.clone());
                }
            }
            _ => {} // tidy: not a syntax kind
        }
        true
    })?;
    Ok(said)
}

/// The form of what was refused because nobody knew it.
fn own_refusal(record: &Value) -> Option<&str> {
    let unknown = threat::unknown_statement::RULE.name;
    let is_one = record["rules"].as_array()?.iter().any(|rule| rule == unknown);
    record["text"].as_str().filter(|_| is_one)
}

/// What speaks against a statement: it is commented out.
fn suspicion(said: &Said, learned: &Learned) -> Option<String> {
    // Any value will do: rules look at forms.
    let text: Vec<&str> = words_of(&said.form).map(|word| if word == "?" { "1" } else { word }).collect();
    if let Some((_, rule)) = rules::signs_of(&text.join(" ")).rules().next() {
        return Some(format!("{}: {}", rule.name, rule.found));
    }
    match learned.familiarity(id_of(&said.form), &said.form) {
        Familiarity::Graft { of } => Some(format!("{}: it begins as this does: {of}", threat::grafted_statement::RULE.name)),
        Familiarity::Known | Familiarity::Unknown => None,
    }
}

/// Why it is not to be listed before somebody has said so.
fn objection(said: &Said, learned: &Learned) -> Option<String> {
    let refused = || said.refused.then(|| "it was refused".to_owned());
    suspicion(said, learned).or_else(refused)
}

fn users(said: &Said) -> String {
    said.users.iter().cloned().collect::<Vec<_>>().join(", ")
}

fn policy(application: Option<&str>, known: &[String], new: &[&Said], learned: &Learned) -> String {
    let quoted = super::toml_string;
    let (who, names) = match application {
        Some(name) => (name.escape_debug().to_string(), format!("names = [{}]\n", quoted(name))),
        None => ("all applications".to_owned(), String::new()),
    };
    let mut out = format!(
        "# What is said by {who}. Whatever else is said is told by the rules unknown-statement and grafted-statement (shadow, until a\n\
         # [[threat]] says enforce). Lines that a rule speaks against are commented out.\n[[application]]\n{names}statements = [\n",
    );
    for form in known {
        out.push_str(&format!("    {},\n", quoted(form)));
    }
    for said in new {
        out.push_str(&format!("    # {} times since {}, by {}\n", said.times, said.first, users(said).escape_debug()));
        let mark = match objection(said, learned) {
            Some(why) => {
                out.push_str(&format!("    # {}\n", why.escape_debug()));
                "# "
            }
            None => "",
        };
        out.push_str(&format!("    {mark}{},\n", quoted(&said.form)));
    }
    out.push_str("]\n");
    out
}
