//! Asks a server about the second lock.

use super::connection::Connection;
use crate::config::Upstream;
use crate::error::{SqlError, sqlstate};
use crate::policy::lock::{LockKey, STATE_SQL, State};
use crate::principal::Tenant;

/// The state of the lock as the role of `upstream` meets it; with a token of `key` tried out.
///
/// # Errors
/// No connection, or the server's answer cannot be read.
pub async fn state(upstream: &Upstream, key: &LockKey) -> Result<State, SqlError> {
    let mut connection = super::connect(upstream).await?;
    let unreadable =
        |what: String| SqlError::new(sqlstate::INTERNAL_ERROR, format!("the state of the second lock cannot be read: {what}"));
    let text = one(connection.query(STATE_SQL).await?).ok_or_else(|| unreadable("no row".to_owned()))?;
    let mut state: State = serde_json::from_str(&text).map_err(|e| unreadable(e.to_string()))?;
    state.opens = opens(&mut connection, key).await;
    connection.terminate().await;
    Ok(state)
}

/// Whether the server takes a token of this key.
async fn opens(connection: &mut Connection, key: &LockKey) -> bool {
    if connection.identify().await.is_err() {
        return false;
    }
    let tenant = Tenant("bulkhead'probe".into());
    let mut sql = String::new();
    connection.write_lock(key, Some(&tenant), false, &mut sql);
    if connection.ask(&sql).await.is_err() {
        return false;
    }
    connection.query("SELECT bulkhead.tenant()").await.ok().and_then(one).as_deref() == Some(&*tenant.0)
}

fn one(rows: Vec<Vec<Option<String>>>) -> Option<String> {
    rows.into_iter().next().and_then(|row| row.into_iter().next()).flatten()
}

/// Runs the DDL of `harden` over a connection of its own: all of it or nothing.
///
/// # Errors
/// No connection, or what the server says of the statement that failed.
pub async fn run(upstream: &Upstream, sql: &str) -> Result<(), SqlError> {
    let mut connection = super::connect(upstream).await?;
    // Where it fails the connection is dropped, and with it the transaction that was begun.
    connection.ask(sql).await?;
    connection.terminate().await;
    Ok(())
}

/// The first value of the first row that each query string gives, for `doctor`: all over one connection. `None`: it failed,
/// or gave no row. Each begins and ends a transaction of its own.
///
/// # Errors
/// No connection, or it was lost.
pub async fn answers(upstream: &Upstream, queries: &[String]) -> Result<Vec<Option<String>>, SqlError> {
    let mut connection = super::connect(upstream).await?;
    let mut answers = Vec::with_capacity(queries.len());
    for sql in queries {
        answers.push(match connection.ask(sql).await {
            Ok(rows) => one(rows),
            Err(_) => {
                connection.query("ROLLBACK").await?;
                None
            }
        });
    }
    connection.terminate().await;
    Ok(answers)
}
