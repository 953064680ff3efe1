//! Transactions of whose outcome nothing is known: the connection broke, or its client left while they ran. The server may still
//! carry them out, as long as it has the process that ran them.

use std::sync::Arc;
use std::time::Duration;

use super::tags::{Generation, Intent};
use crate::backend::connection::Settings;
use crate::backend::pool::Pool;

/// How often the server is asked.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The processes that the server has. All are listed, to every role (pg_stat_get_activity), whatever else of them is not shown.
const PROCESSES: &str = "SELECT pid FROM pg_catalog.pg_stat_get_activity(NULL) AS a";

/// Keeps an intent open until the server has no process of that number: by then it has committed or rolled back, and shows it.
/// That the number was given to another process only makes it later; a server that has restarted answers once it has recovered.
pub fn settle(intent: Intent, pid: u32, pool: Pool) {
    tokio::spawn(async move {
        let mut pause = PAUSE;
        loop {
            tokio::time::sleep(pause).await;
            if is_gone(pid, &pool).await {
                return intent.end();
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    });
}

/// Ends an intent once all of a generation have ended.
pub fn end_with(intent: Intent, others: Generation) {
    tokio::spawn(async move {
        // This intent's own, and the one here.
        while Arc::strong_count(&others) > 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        intent.end();
    });
}

async fn is_gone(pid: u32, pool: &Pool) -> bool {
    let Ok(mut lease) = pool.lease_own(&Settings::default()).await else { return false };
    let Ok(rows) = lease.query(PROCESSES).await else { return false };
    let pid = pid.to_string();
    // The asking process is one of them: an empty answer is none.
    !rows.is_empty() && !rows.iter().flatten().flatten().any(|p| *p == pid)
}
