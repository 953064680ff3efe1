//! `bulkhead demo`: a throwaway PostgreSQL with sample data, and Bulkhead before it.

use std::process::ExitCode;

/// What `bulkhead demo` takes on its command line.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {}

/// Runs the demo.
pub fn run(args: &Args) -> ExitCode {
    let Args {} = args;
    ExitCode::from(2)
}
