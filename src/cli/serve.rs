//! `bulkhead serve`

use super::{Common, Outcome, complain, complain_of, load_policies};
use crate::config::{Log, LogFormat, Problem, Problems};
use crate::server::{self, rehearsal};

/// Serve until SIGTERM or SIGINT; SIGHUP reads policies and certificates again
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bulkhead serve
  bulkhead serve --config /etc/bulkhead/proxy.toml --listen 0.0.0.0:6432
  LOG_LEVEL=debug bulkhead serve --set log.format=json

Clients connect as to PostgreSQL: psql postgres://USER@127.0.0.1:6432/DATABASE
GET /health and /metrics are on admin_listen.")]
pub struct Args {
    /// Where clients connect; short for --set server.listen=ADDRESS
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Where /health and /metrics are served, or off; short for --set server.admin_listen=ADDRESS
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<String>,
}

pub fn run(common: &Common, args: Args) -> Outcome {
    let mut common = common.clone();
    let shorthands = [("server.listen", args.listen), ("server.admin_listen", args.admin_listen)];
    common.set.extend(shorthands.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    match serve(&common) {
        Ok(outcome) => outcome,
        Err(problems) => {
            complain(&problems);
            Outcome::CouldNotRun
        }
    }
}

fn serve(common: &Common) -> Result<Outcome, Problems> {
    let config = common.load()?;
    config.ready_to_serve()?;
    Problems(rehearsal::problems(&config).into_iter().map(Problem::new).collect()).or(())?;
    let policies = load_policies(&config)?;
    start_log(&config.log);
    if let Some(fault) = rehearsal::faults(&config) {
        tracing::error!("{fault}");
    }
    if policies.tables.is_empty() {
        tracing::warn!(directory = %config.server.policies.display(), "no policy lists a table: tenants can read nothing");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain_of(format!("the runtime does not start: {error}"));
            return Ok(Outcome::CouldNotRun);
        }
    };
    match runtime.block_on(server::run(config, policies)) {
        Ok(()) => Ok(Outcome::Fine),
        Err(error) => {
            complain_of(error);
            Ok(Outcome::CouldNotRun)
        }
    }
}

/// Logs go to standard error. INVARIANT: no literal of a statement is in any of them.
fn start_log(log: &Log) {
    let builder = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_target(false)
        // A line that cannot be written (its disk is full) must not end the thread that has something to say.
        .log_internal_errors(false)
        .with_env_filter(tracing_subscriber::EnvFilter::new(format!("warn,bulkhead={}", log.level)));
    let started = match log.format {
        LogFormat::Json => builder.json().try_init(),
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
    };
    if let Err(error) = started {
        complain_of(format!("the log does not start: {error}"));
    }
}
