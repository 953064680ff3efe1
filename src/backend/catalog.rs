//! Loads the catalog snapshot.

use super::ConnectError;
use super::connection::{Connection, Settings};
use super::stream::Dialer;
use crate::catalog::{SNAPSHOT_SQL, Snapshot};
use crate::config::Upstream;
use crate::error::{SqlError, sqlstate};

/// Loads the snapshot over a connection of its own.
///
/// # Errors
/// No connection, or as [`load_over`].
pub async fn load(upstream: &Upstream) -> Result<Snapshot, SqlError> {
    let told = |error: ConnectError| error.to_sql_error().with_detail(error.to_string());
    let dialer = Dialer::new(upstream.clone()).map_err(told)?;
    let mut connection = Connection::connect(&dialer, 0, &Settings::default()).await.map_err(told)?;
    let snapshot = load_over(&mut connection).await?;
    connection.terminate().await;
    Ok(snapshot)
}

/// Differs when the catalog was changed by DDL: cheap enough to ask every second.
const FINGERPRINT_SQL: &str = "SELECT pg_catalog.md5(pg_catalog.concat_ws('/', \
     (SELECT pg_catalog.concat_ws(',', pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashint8(xmin::pg_catalog.text::pg_catalog.int8)::pg_catalog.int8)) FROM pg_catalog.pg_class), \
     (SELECT pg_catalog.concat_ws(',', pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashint8(xmin::pg_catalog.text::pg_catalog.int8)::pg_catalog.int8)) FROM pg_catalog.pg_attribute), \
     (SELECT pg_catalog.concat_ws(',', pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashint8(xmin::pg_catalog.text::pg_catalog.int8)::pg_catalog.int8)) FROM pg_catalog.pg_type), \
     (SELECT pg_catalog.concat_ws(',', pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashint8(xmin::pg_catalog.text::pg_catalog.int8)::pg_catalog.int8)) FROM pg_catalog.pg_proc), \
     (SELECT pg_catalog.concat_ws(',', pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashint8(xmin::pg_catalog.text::pg_catalog.int8)::pg_catalog.int8)) FROM pg_catalog.pg_operator), \
     (SELECT pg_catalog.concat_ws(',', pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashint8(xmin::pg_catalog.text::pg_catalog.int8)::pg_catalog.int8)) FROM pg_catalog.pg_index), \
     (SELECT pg_catalog.concat_ws(',', pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashint8(xmin::pg_catalog.text::pg_catalog.int8)::pg_catalog.int8)) FROM pg_catalog.pg_namespace), \
     (SELECT pg_catalog.concat_ws(',', pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashint8(xmin::pg_catalog.text::pg_catalog.int8)::pg_catalog.int8)) FROM pg_catalog.pg_inherits)))";

/// Asks for the catalog's fingerprint over a connection of its own.
///
/// # Errors
/// No connection, or the query failed.
pub async fn fingerprint(upstream: &Upstream) -> Result<String, SqlError> {
    ask(upstream, FINGERPRINT_SQL).await
}

/// Runs a query that gives one row of one column, over a connection of its own.
///
/// # Errors
/// No connection, or the query failed.
pub async fn ask(upstream: &Upstream, sql: &'static str) -> Result<String, SqlError> {
    let told = |error: ConnectError| error.to_sql_error().with_detail(error.to_string());
    let dialer = Dialer::new(upstream.clone()).map_err(told)?;
    let mut connection = Connection::connect(&dialer, 0, &Settings::default()).await.map_err(told)?;
    let rows = connection.query(sql).await?;
    connection.terminate().await;
    let text = rows.into_iter().next().and_then(|row| row.into_iter().next()).flatten();
    text.ok_or_else(|| SqlError::new(sqlstate::INTERNAL_ERROR, "a query of the catalog gave no row"))
}

/// Loads the snapshot over a connection that is at rest.
///
/// # Errors
/// The query failed, or its answer is not a [`Snapshot`]; the connection must be closed then.
pub async fn load_over(connection: &mut Connection) -> Result<Snapshot, SqlError> {
    let rows = connection.query(SNAPSHOT_SQL).await?;
    let text = rows.into_iter().next().and_then(|row| row.into_iter().next()).flatten();
    let text = text.ok_or_else(|| SqlError::new(sqlstate::INTERNAL_ERROR, "the catalog query gave no row"))?;
    // Some megabytes of JSON: off the reactor.
    let parsed = tokio::task::spawn_blocking(move || serde_json::from_str(&text)).await;
    let unreadable = |error: &dyn std::fmt::Display| {
        SqlError::new(sqlstate::INTERNAL_ERROR, format!("the catalog query's answer cannot be read: {error}"))
    };
    parsed.map_err(|error| unreadable(&error))?.map_err(|error| unreadable(&error))
}
