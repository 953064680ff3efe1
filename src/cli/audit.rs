//! `bulkhead audit verify | prove | consistency | tail | export | values | erase`, and `bulkhead why`

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Common, Outcome, complain_of, say};
use crate::audit::checkpoint::PublicKey;
use crate::audit::verify::{Proof, Read, ReadError, Reader};

/// Look at the audit log: is it what it was? what does it say?
///
/// The log stands in [audit] path, of a running proxy too. What verifies it is its public key alone (public.key beside it: keep a copy
/// elsewhere, and checkpoints from time to time): who has both notices whatever is changed later, by whoever holds the log's key as well.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bulkhead audit verify
  bulkhead audit verify --public-key auditor/public.key --checkpoint auditor/checkpoint-march
  bulkhead audit tail --follow
  bulkhead audit export --since 2026-03-01 > march.ndjson
  bulkhead audit prove 4711 > proof.json      then, elsewhere: bulkhead audit check proof.json --public-key auditor/public.key

Exit status: 0 it is what it was, 1 it is not (the first bad record is named), 2 could not run.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Read all of the log: is it what was written?
    Verify {
        #[command(flatten)]
        log: LogArgs,
        /// A checkpoint of earlier that was kept elsewhere: what it covers must still be there. May be given more than once
        #[arg(long, value_name = "FILE")]
        checkpoint: Vec<PathBuf>,
        #[arg(long)]
        json: bool,
    },
    /// Print what shows, to whoever has the public key, that the log has a record
    Prove {
        #[command(flatten)]
        log: LogArgs,
        /// The record's number, from 0, as `tail` and `verify` tell it
        record: u64,
    },
    /// Does a proof show what it says? Needs no log
    Check {
        /// What `prove` has printed
        proof: PathBuf,
        /// The log's public key, or a file with it
        #[arg(long, value_name = "KEY")]
        public_key: String,
    },
    /// Print what shows that the log of one checkpoint goes on from that of an older one
    Consistency {
        #[command(flatten)]
        log: LogArgs,
        old: PathBuf,
        new: PathBuf,
    },
    /// Print the last records
    Tail {
        #[command(flatten)]
        log: LogArgs,
        /// How many
        #[arg(short = 'n', long, default_value_t = 10)]
        lines: u64,
        /// And those that come
        #[arg(short, long)]
        follow: bool,
    },
    /// Print records, as lines of JSON by the Elastic Common Schema
    Export {
        #[command(flatten)]
        log: LogArgs,
        #[arg(long, default_value = "ecs", value_parser = ["ecs", "raw"])]
        format: String,
        /// Those of this time and later, as the log writes it, or its beginning: 2026-01-31T23
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Those before this time
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
    },
    /// Print the values that policies want told ([[class]] recorded), as far as their keys are there
    #[command(after_help = "\
Examples:
  bulkhead audit values --tenant 7 --equals ann@example.com     who has asked for, or written, this value of that tenant's?
  bulkhead audit values --class pii

Exit status: 0 there are some, 1 there are none, 2 could not run.")]
    Values(super::values::ValuesArgs),
    /// Erase a tenant's values out of the log, by destroying their keys; no byte of the log changes
    Erase(super::values::EraseArgs),
}

/// Why was that refused? The ID stands in the error's DETAIL
#[derive(Debug, clap::Args)]
pub struct WhyArgs {
    #[command(flatten)]
    log: LogArgs,
    id: String,
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct LogArgs {
    /// The log's directory; without it, [audit] path of the configuration
    #[arg(long, value_name = "DIRECTORY")]
    log: Option<PathBuf>,
    /// The log's public key, or a file with it; without it, the one that stands beside the log
    #[arg(long, value_name = "KEY")]
    public_key: Option<String>,
}

/// Why a command could not run, or that the log is not what it was.
pub(super) enum Trouble {
    Read(ReadError),
    Other(String),
}

impl From<ReadError> for Trouble {
    fn from(error: ReadError) -> Self {
        Trouble::Read(error)
    }
}

pub(super) type Done = Result<Outcome, Trouble>;

impl LogArgs {
    /// Whether it was named here.
    pub(super) fn is_named(&self) -> bool {
        self.log.is_some()
    }

    pub(super) fn open(&self, common: &Common) -> Result<Reader, Trouble> {
        let path = match &self.log {
            Some(path) => path.clone(),
            None => {
                let config = common.load().map_err(|problems| Trouble::Other(problems.render(false)))?;
                let audit = config.audit.ok_or_else(|| Trouble::Other("the configuration has no [audit] path".to_owned()))?;
                audit.path
            }
        };
        Ok(Reader::open(&path, self.public_key.as_deref())?)
    }
}

pub fn run(common: &Common, args: &Args) -> Outcome {
    let done = match &args.command {
        Command::Verify { log, checkpoint, json } => verify(common, log, checkpoint, *json),
        Command::Prove { log, record } => prove(common, log, *record),
        Command::Check { proof, public_key } => check(proof, public_key),
        Command::Consistency { log, old, new } => consistency(common, log, old, new),
        Command::Tail { log, lines, follow } => tail(common, log, *lines, *follow),
        Command::Values(args) => super::values::values(common, args),
        Command::Erase(args) => super::values::erase(common, args),
        Command::Export { log, format, since, until } => export(common, log, format == "ecs", since.as_deref(), until.as_deref()),
    };
    end(done)
}

pub fn why(common: &Common, args: &WhyArgs) -> Outcome {
    end(find(common, args))
}

pub(super) fn end(done: Done) -> Outcome {
    match done {
        Ok(outcome) => outcome,
        Err(Trouble::Read(error @ ReadError::Bad(_))) => {
            complain_of(format!("the log is not what it was: {error}"));
            Outcome::FoundSomethingWrong
        }
        Err(Trouble::Read(error)) => {
            complain_of(error.to_string());
            Outcome::CouldNotRun
        }
        Err(Trouble::Other(what)) => {
            complain_of(what);
            Outcome::CouldNotRun
        }
    }
}

fn verify(common: &Common, log: &LogArgs, checkpoints: &[PathBuf], as_json: bool) -> Done {
    let mut reader = log.open(common)?;
    let earlier = checkpoints.iter().map(|path| reader.checkpoint(path)).collect::<Result<Vec<_>, _>>()?;
    let verified = match reader.verify(&earlier, |_| {}) {
        Err(ReadError::Bad(bad)) if as_json => {
            say(&format!("{}\n", json!({ "ok": false, "bad": bad })));
            return Ok(Outcome::FoundSomethingWrong);
        }
        other => other?,
    };
    if as_json {
        say(&format!("{}\n", json!({ "ok": true, "verified": verified })));
        return Ok(Outcome::Fine);
    }
    let unsigned = verified.size - verified.signed;
    say(&format!("{}: {} records are what was written", verified.origin, verified.size - verified.first));
    if verified.first > 0 {
        say(&format!(" (those before record {} are not kept any more)", verified.first));
    }
    say(&format!("; {} checkpoints agree", verified.checkpoints));
    if unsigned > 0 {
        say(&format!("; the last {unsigned} are not covered by one yet"));
    }
    if verified.recovered > 0 {
        let times = verified.recovered;
        say(&format!("; {times} times it was gone on with after a crash, from records that no checkpoint covered"));
    }
    if verified.unfinished > 0 {
        say(&format!("; {} bytes at the end are no whole record", verified.unfinished));
    }
    say("\n");
    if log.public_key.is_none() {
        say(
            "By the public key beside the log: whoever could change the log could change that too. --public-key KEY takes another.\n",
        );
    }
    Ok(Outcome::Fine)
}

fn prove(common: &Common, log: &LogArgs, record: u64) -> Done {
    let proof = log.open(common)?.prove(record)?;
    say(&format!("{}\n", serde_json::to_string_pretty(&proof).unwrap_or_default()));
    Ok(Outcome::Fine)
}

fn check(path: &Path, key: &str) -> Done {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|error| Trouble::Other(format!("{} cannot be read: {error}", path.display())))
    };
    let line = if key.contains('+') && !Path::new(key).exists() { key.to_owned() } else { read(Path::new(key))? };
    let key = PublicKey::parse(&line).map_err(Trouble::Other)?;
    let proof: Proof =
        serde_json::from_str(&read(path)?).map_err(|error| Trouble::Other(format!("{} is no proof: {error}", path.display())))?;
    match proof.check(&key) {
        Ok(checkpoint) => {
            say(&format!("{} has record {}, among {}:\n{}\n", checkpoint.origin, proof.index, checkpoint.size, proof.record));
            Ok(Outcome::Fine)
        }
        Err(why) => {
            complain_of(format!("{} shows nothing: {why}", path.display()));
            Ok(Outcome::FoundSomethingWrong)
        }
    }
}

fn consistency(common: &Common, log: &LogArgs, old: &Path, new: &Path) -> Done {
    let reader = log.open(common)?;
    let (old, new) = (reader.checkpoint(old)?, reader.checkpoint(new)?);
    let (old, new) = if old.size <= new.size { (old, new) } else { (new, old) };
    let proof = reader.consistency(&old, &new)?;
    say(&format!("{}\n", json!({ "old_size": old.size, "new_size": new.size, "proof": proof })));
    Ok(Outcome::Fine)
}

fn tail(common: &Common, log: &LogArgs, lines: u64, follow: bool) -> Done {
    let mut reader = log.open(common)?;
    let size = reader.size()?;
    let mut next = size.saturating_sub(lines);
    loop {
        let mut closed = false;
        reader.records(next, |read| {
            let line = format!("{} {}\n", read.index, String::from_utf8_lossy(read.json));
            closed = std::io::stdout().lock().write_all(line.as_bytes()).is_err();
            next = read.index + 1;
            !closed
        })?;
        if !follow || closed {
            return Ok(Outcome::Fine);
        }
        #[expect(clippy::disallowed_methods, reason = "nothing else runs here")]
        std::thread::sleep(std::time::Duration::from_millis(250));
        reader = log.open(common)?;
    }
}

fn export(common: &Common, log: &LogArgs, ecs: bool, since: Option<&str>, until: Option<&str>) -> Done {
    let reader = log.open(common)?;
    let mut templates = std::collections::HashMap::new();
    let mut written = Ok(());
    reader.records(0, |read| {
        let Ok(record) = serde_json::from_slice::<Value>(read.json) else { return true };
        let time = record["time"].as_str().unwrap_or_default();
        if let (Some(id), Some(text)) = (record["template"].as_str(), record["text"].as_str()) {
            templates.insert(id.to_owned(), text.to_owned());
        }
        if since.is_some_and(|since| time < since) {
            return true;
        }
        if until.is_some_and(|until| time >= until) {
            return false;
        }
        let line =
            if ecs { of_ecs(&record, read, &templates).to_string() } else { String::from_utf8_lossy(read.json).into_owned() };
        written = std::io::stdout().lock().write_all((line + "\n").as_bytes());
        written.is_ok()
    })?;
    match written.and_then(|()| std::io::stdout().lock().flush()) {
        // Who has read enough (`| head`).
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Trouble::Other(format!("the records cannot be written: {error}")))
        }
        Err(_) | Ok(()) => Ok(Outcome::Fine),
    }
}

/// A record by the Elastic Common Schema (ECS 8: `event`, `user`, `client`, `error`, `session`); what that has no place for is in
/// `bulkhead`.
fn of_ecs(record: &Value, read: Read<'_>, templates: &std::collections::HashMap<String, String>) -> Value {
    let event = record["event"].as_str().unwrap_or_default();
    let (category, kind) = match event {
        "session" | "session_end" => ("session", "event"),
        "login_refused" => ("authentication", "event"),
        "start" | "stop" | "recovered" | "gap" | "failed" | "pruned" | "checkpoint" => ("process", "event"),
        "policies" | "purge" => ("configuration", "event"),
        "refused" => ("database", "alert"),
        _ => ("database", "event"),
    };
    let outcome = match (event, record["outcome"].as_str()) {
        ("refused" | "login_refused", _) | (_, Some("failed")) => "failure",
        (_, Some("done" | "cached" | "suspended")) => "success",
        (_, _) => "unknown",
    };
    let query = record["template"].as_str().and_then(|id| templates.get(id)).map(String::as_str).or(record["text"].as_str());
    let mut out = json!({
        "@timestamp": record["time"],
        "ecs": { "version": "8.11.0" },
        "event": {
            "module": "bulkhead", "dataset": "bulkhead.audit", "kind": kind, "category": [category], "action": event,
            "outcome": outcome, "sequence": read.index,
        },
        "bulkhead": record,
    });
    let mut put = |path: [&str; 2], value: Option<Value>| {
        if let Some(value) = value {
            out[path[0]][path[1]] = value;
        }
    };
    let text = |name: &str| record[name].as_str().map(Value::from);
    put(["user", "name"], text("user"));
    put(["client", "address"], text("client"));
    put(["error", "code"], text("sqlstate"));
    put(["error", "message"], text("message"));
    put(["database", "name"], text("database"));
    put(["organization", "id"], text("tenant"));
    put(["session", "id"], record["session"].as_u64().map(|n| Value::from(n.to_string())));
    put(["event", "duration"], record["microseconds"].as_u64().map(|us| Value::from(us * 1_000)));
    put(["db", "statement"], query.map(Value::from));
    out
}

fn find(common: &Common, args: &WhyArgs) -> Done {
    let reader = args.log.open(common)?;
    let mut found = None;
    let mark = format!("\"id\":\"{}\"", args.id.to_ascii_lowercase());
    reader.records(0, |read| {
        if memchr::memmem::find(read.json, mark.as_bytes()).is_some()
            && let Ok(record) = serde_json::from_slice::<Value>(read.json)
            && record["event"] == "refused"
            && record["id"] == args.id.to_ascii_lowercase()
        {
            found = Some((read.index, record));
        }
        found.is_none()
    })?;
    let Some((index, record)) = found else {
        complain_of(format!("the log has no refusal {}", args.id));
        return Ok(Outcome::FoundSomethingWrong);
    };
    if args.json {
        say(&format!("{record}\n"));
        return Ok(Outcome::Fine);
    }
    let text = |name: &str| record[name].as_str().unwrap_or("-").to_owned();
    say(&format!("{}  user {}, tenant {}, database {}\n", text("time"), text("user"), text("tenant"), text("database")));
    say(&format!("refused: {} ({}, SQLSTATE {})\n", text("message"), text("reason"), text("sqlstate")));
    for rule in record["rules"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let known = crate::rules::named(rule).map(|number| crate::rules::RULES[number].found);
        say(&format!("threat rule {rule}: {}\n", known.unwrap_or("not known any more")));
    }
    if let Some(statement) = record["text"].as_str() {
        say(&format!("statement, without its values:\n  {statement}\n"));
    }
    say(&format!("session {}, statement {}; record {index} of the log\n", record["session"], record["statement"]));
    Ok(Outcome::Fine)
}
