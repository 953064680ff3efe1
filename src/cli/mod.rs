//! The command line: one file per subcommand.

mod audit;
mod catalog;
mod check;
mod compliance;
pub mod demo;
mod doctor;
mod explain;
mod harden;
mod learn;
mod reference;
mod serve;
mod shape;
mod test;
mod values;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Config, Environment, Problem, Problems};
use crate::policy::load as policy_load;
use crate::policy::model::PolicyModel;

/// A PostgreSQL proxy that keeps tenants apart.
///
/// Applications connect to Bulkhead as they would to PostgreSQL. Every statement is read, judged against the policies,
/// rewritten so that it can only touch its own tenant's rows, and sent to the real server. What is not understood is refused.
#[derive(Debug, Parser)]
#[command(name = "bulkhead", version, propagate_version = true, max_term_width = 100, after_help = AFTER_HELP)]
struct CommandLine {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Start here:
  bulkhead demo                            a throwaway PostgreSQL with three tenants, ready to connect
  bulkhead check                           is the configuration right? are the policies?
  bulkhead explain --tenant 1 \"SELECT ..\"  what would become of a statement, and why
  bulkhead serve                           serve

Exit status: 0 fine, 1 found something wrong, 2 could not run.";

/// What every command takes.
#[derive(Clone, Debug, clap::Args)]
struct Common {
    /// The configuration; `bulkhead check --reference` says what can stand in it
    #[arg(long, global = true, value_name = "F", env = "BULKHEAD_CONFIG", default_value = "proxy.toml")]
    config: PathBuf,
    /// Set one setting, over the file and the environment: --set server.listen=0.0.0.0:6432
    #[arg(long, global = true, value_name = "SECTION.KEY=VALUE", value_parser = parse_setting)]
    set: Vec<(String, String)>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    Check(check::Args),
    Explain(explain::Args),
    Test(test::Args),
    Harden(harden::Args),
    Doctor(doctor::Args),
    Why(audit::WhyArgs),
    Audit(audit::Args),
    Learn(learn::Args),
    Compliance(compliance::Args),
    /// Start a throwaway PostgreSQL with three tenants and Bulkhead before it, and show a short tour
    Demo(demo::Args),
}

/// How a command ended; the process's exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Fine,
    FoundSomethingWrong,
    CouldNotRun,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> ExitCode {
        match outcome {
            Outcome::Fine => ExitCode::SUCCESS,
            Outcome::FoundSomethingWrong => ExitCode::from(1),
            Outcome::CouldNotRun => ExitCode::from(2),
        }
    }
}

/// The whole program.
pub fn main() -> ExitCode {
    let CommandLine { common, command } = CommandLine::parse();
    match command {
        Command::Serve(args) => serve::run(&common, args).into(),
        Command::Check(args) => check::run(&common, &args).into(),
        Command::Explain(args) => explain::run(&common, &args).into(),
        Command::Test(args) => test::run(&common, &args).into(),
        Command::Harden(args) => harden::run(&common, &args).into(),
        Command::Doctor(args) => doctor::run(&common, &args).into(),
        Command::Why(args) => audit::why(&common, &args).into(),
        Command::Audit(args) => audit::run(&common, &args).into(),
        Command::Learn(args) => learn::run(&common, &args).into(),
        Command::Compliance(args) => compliance::run(&common, &args).into(),
        Command::Demo(args) => demo::run(&args),
    }
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err("write it as section.key=value".to_owned()),
    }
}

impl Common {
    fn load(&self) -> Result<Config, Problems> {
        config::load(&self.config, &Environment::of_process(), &self.set)
    }

    /// Configuration and policies, or all problems of both on standard error.
    fn load_all(&self) -> Result<(Config, PolicyModel), Outcome> {
        let loaded = self.load().and_then(|config| {
            let policies = load_policies(&config)?;
            Ok((config, policies))
        });
        loaded.map_err(|problems| {
            complain(&problems);
            Outcome::CouldNotRun
        })
    }
}

/// A basic string of TOML, on one line.
fn toml_string(text: &str) -> String {
    // JSON's strings are TOML's but for one character.
    serde_json::to_string(text).unwrap_or_default().replace('\u{7f}', "\\u007f")
}

fn load_policies(config: &Config) -> Result<PolicyModel, Problems> {
    let names: Vec<String> = config.databases.iter().map(|d| d.name.clone()).collect();
    let policies = policy_load::load(&config.server.policies, &names)?;
    Problems(crate::gate::check_rules(&policies)).or(policies)
}

/// Prints problems on standard error, in colour where someone looks at it.
fn complain(problems: &Problems) {
    let mut stderr = std::io::stderr().lock();
    let color = stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    // Nobody is left to tell where standard error is closed.
    let _ = writeln!(stderr, "{}", problems.render(color));
}

fn complain_of(message: impl Into<String>) {
    complain(&Problem::new(message).into());
}

/// Prints on standard output; a closed pipe (`| head`) is not an error worth a word.
fn say(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// A runtime for the commands that speak to a server.
fn block_on<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(|e| format!("the runtime does not start: {e}"))?.block_on(work))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::CommandLine::command().debug_assert();
    }
}
