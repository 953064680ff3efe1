//! Asks a server about the second lock.

use super::ConnectError;
use super::connection::{Connection, Settings};
use super::stream::Dialer;
use crate::config::Upstream;
use crate::error::{SqlError, sqlstate};
use crate::policy::lock::{LockKey, STATE_SQL, State};
use crate::principal::Tenant;

/// The state of the lock as the role of `upstream` meets it; with a token of `key` tried out.
///
/// # Errors
/// No connection, or the server's answer cannot be read.
pub async fn state(upstream: &Upstream, key: &LockKey) -> Result<State, SqlError> {
    let told = |error: ConnectError| error.to_sql_error().with_detail(error.to_string());
    let dialer = Dialer::new(upstream.clone()).map_err(told)?;
    let mut connection = Connection::connect(&dialer, 0, &Settings::default()).await.map_err(told)?;
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
    let told = |error: ConnectError| error.to_sql_error().with_detail(error.to_string());
    let dialer = Dialer::new(upstream.clone()).map_err(told)?;
    let mut connection = Connection::connect(&dialer, 0, &Settings::default()).await.map_err(told)?;
    // Where it fails the connection is dropped, and with it the transaction that was begun.
    connection.ask(sql).await?;
    connection.terminate().await;
    Ok(())
}

/// The first value of the first row that `sql` gives over a connection of its own, for `doctor`.
///
/// # Errors
/// No connection, no row, or what the server says.
pub async fn answer(upstream: &Upstream, sql: &str) -> Result<String, SqlError> {
    let told = |error: ConnectError| error.to_sql_error().with_detail(error.to_string());
    let dialer = Dialer::new(upstream.clone()).map_err(told)?;
    let mut connection = Connection::connect(&dialer, 0, &Settings::default()).await.map_err(told)?;
    let rows = connection.ask(sql).await?;
    connection.terminate().await;
    one(rows).ok_or_else(|| SqlError::new(sqlstate::INTERNAL_ERROR, "no row"))
}
