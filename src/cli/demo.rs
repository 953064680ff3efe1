//! `bulkhead demo`: a throwaway PostgreSQL with a small shop of three tenants, Bulkhead before it, a short tour.
//!
//! The proxy runs as a child, `bulkhead serve` with a written-out configuration, and the tour speaks to it with the
//! psql of the machine: what is shown is what any client would get. Everything lives in one temporary directory that
//! is gone, like both servers, however the demo ends (Ctrl-C, SIGTERM, a failure; not SIGKILL).

mod cluster;
mod servers;
mod tour;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use cluster::Cluster;
use servers::Proxy;
use tour::Terminal;

/// What `bulkhead demo` takes on its command line.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Where Bulkhead listens; a free port if it is taken
    #[arg(long, value_name = "PORT", default_value_t = 6432)]
    pub port: u16,
    /// Run the tour and end, also on a terminal
    #[arg(long)]
    pub tour_only: bool,
}

impl Default for Args {
    fn default() -> Self {
        Args { port: 6432, tour_only: false }
    }
}

/// Why a demo ends before its end.
#[derive(Debug, thiserror::Error)]
enum Stop {
    /// Something that it needs is missing or fails; the text says what.
    #[error("{0}")]
    CannotRun(String),
    /// A signal came.
    #[error("interrupted")]
    Signal,
}

impl Stop {
    fn io(what: &str) -> impl FnOnce(std::io::Error) -> Stop {
        let what = what.to_owned();
        move |error| Stop::CannotRun(format!("{what}: {error}"))
    }
}

/// Runs the demo. Exit status: 0 fine, 1 the tour saw something that it should not have seen, 2 could not run.
pub fn run(args: &Args) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return cannot_run(&format!("the runtime does not start: {error}")),
    };
    match runtime.block_on(until_signal(story(args))) {
        Ok(0) | Err(Stop::Signal) => ExitCode::SUCCESS,
        Ok(surprises) => {
            complain(&format!("{surprises} of the tour's checks failed; see above"));
            ExitCode::from(1)
        }
        Err(Stop::CannotRun(text)) => cannot_run(&text),
    }
}

/// The demo from start to end; the number of checks that failed. Dropping it stops the servers.
async fn story(args: &Args) -> Result<usize, Stop> {
    let terminal = Terminal::detect();
    terminal.progress("starting a throwaway PostgreSQL");
    let cluster = Cluster::start().await?;
    terminal.progress(&format!("  {} on port {}, in {}", cluster.version, cluster.port, cluster.directory().display()));
    cluster.load_shop().await?;
    terminal.progress("starting Bulkhead before it");
    let mut proxy = Proxy::start(&cluster, args.port).await?;
    terminal.progress(&format!("  listening on 127.0.0.1:{}", proxy.port));

    let failed = tour::walk(&terminal, &cluster, &proxy).await?;
    if args.tour_only || !std::io::stdin().is_terminal() {
        return Ok(failed);
    }
    tour::invite(&terminal, &proxy);
    proxy.ended().await?;
    Ok(failed)
}

/// Runs `work` until it ends or a signal asks us to stop. Dropping `work` cleans up.
async fn until_signal<T>(work: impl Future<Output = Result<T, Stop>>) -> Result<T, Stop> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Stop::io("SIGINT"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Stop::io("SIGTERM"))?;
    let mut hangup = signal(SignalKind::hangup()).map_err(Stop::io("SIGHUP"))?;
    tokio::select! {
        ended = work => return ended,
        _ = interrupt.recv() => (),
        _ = terminate.recv() => (),
        _ = hangup.recv() => (),
    }
    // The terminal may be gone (SIGHUP): nothing to do about it.
    let _ = writeln!(std::io::stdout(), "\nstopped");
    Err(Stop::Signal)
}

fn cannot_run(text: &str) -> ExitCode {
    complain(text);
    ExitCode::from(2)
}

fn complain(text: &str) {
    // Standard error may be closed; the exit status still tells.
    let _ = writeln!(std::io::stderr(), "bulkhead demo: {text}");
}
