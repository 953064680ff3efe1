//! The composition root: listeners, limits, signals, shutdown.

use crate::config::Config;
use crate::policy::model::PolicyModel;

/// Serves until a signal ends it.
///
/// # Errors
/// Why it could not start.
pub async fn run(config: Config, policies: PolicyModel) -> Result<(), String> {
    let _ = (config, policies);
    Err("serving is not built yet".to_owned())
}
