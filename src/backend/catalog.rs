//! Loads the catalog snapshot.

use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::Instant;

use crate::catalog::{SNAPSHOT_SQL, Snapshot};
use crate::config::Upstream;
use crate::error::{SqlError, sqlstate};

/// How long the query may wait for a lock (pg_get_viewdef locks a view's tables): much less than deadlock_timeout (1 s), so that
/// no application's statement is ever the victim of a deadlock with it.
const PATIENCE: &str = "SET lock_timeout = '100ms'";
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a table may stay locked.
const GIVE_UP: Duration = Duration::from_secs(30);

/// Loads the snapshot over a connection of its own. It waits for tables that are locked.
///
/// # Errors
/// No connection, the query failed, a table stayed locked, or the answer is not a [`Snapshot`].
pub async fn load(upstream: &Upstream) -> Result<Snapshot, SqlError> {
    let mut connection = super::connect(upstream).await?;
    connection.query(PATIENCE).await?;
    let deadline = Instant::now() + GIVE_UP;
    let rows = loop {
        match connection.query(SNAPSHOT_SQL).await {
            Ok(rows) => break rows,
            Err(error) if error.sqlstate == sqlstate::LOCK_NOT_AVAILABLE && Instant::now() < deadline => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    };
    connection.terminate().await;
    let text = rows.into_iter().next().and_then(|row| row.into_iter().next()).flatten();
    let text = text.ok_or_else(|| SqlError::new(sqlstate::INTERNAL_ERROR, "the catalog query gave no row"))?;
    // Some megabytes of JSON: off the reactor.
    let parsed = tokio::task::spawn_blocking(move || serde_json::from_str(&text)).await;
    let unreadable = |error: &dyn std::fmt::Display| {
        SqlError::new(sqlstate::INTERNAL_ERROR, format!("the catalog query's answer cannot be read: {error}"))
    };
    parsed.map_err(|error| unreadable(&error))?.map_err(|error| unreadable(&error))
}

/// What differs when something was changed on the server. Cheap enough to ask for every second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// By DDL: the snapshot must be loaded again.
    pub catalog: String,
    /// By ALTER ROLE or ALTER DATABASE .. SET, for this role in this database: what new sessions start with.
    pub settings: String,
}

/// The catalogs that [`SNAPSHOT_SQL`] reads and DDL can change without a trace in another of these.
const CATALOGS: [&str; 14] = [
    "pg_class",
    "pg_attribute",
    "pg_type",
    "pg_proc",
    "pg_operator",
    "pg_index",
    "pg_namespace",
    "pg_inherits",
    "pg_cast",
    "pg_collation",
    "pg_constraint",
    "pg_extension",
    "pg_sequence",
    "pg_rewrite",
];

static FINGERPRINT_SQL: LazyLock<String> = LazyLock::new(|| {
    let rows = |catalog: &str| {
        format!(
            "(SELECT pg_catalog.concat_ws(',', pg_catalog.count(*), \
             pg_catalog.sum(pg_catalog.hashint8(xmin::pg_catalog.text::pg_catalog.int8)::pg_catalog.int8)) FROM pg_catalog.{catalog})"
        )
    };
    format!(
        "SELECT pg_catalog.md5(pg_catalog.concat_ws('/', {})) || ' ' || pg_catalog.md5(pg_catalog.concat_ws('/', {}))",
        CATALOGS.map(rows).join(", "),
        "(SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', setdatabase, setrole, pg_catalog.array_to_string(setconfig, ' ')), '/' \
          ORDER BY setdatabase, setrole) FROM pg_catalog.pg_db_role_setting s \
          WHERE s.setdatabase IN (0, (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())) \
          AND s.setrole IN (0, (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = CURRENT_USER)))"
    )
});

/// Asks for the fingerprint over a connection of its own.
///
/// # Errors
/// No connection, or the query failed.
pub async fn fingerprint(upstream: &Upstream) -> Result<Fingerprint, SqlError> {
    let text = ask(upstream, &FINGERPRINT_SQL).await?;
    let (catalog, settings) = text.split_once(' ').unwrap_or_default();
    Ok(Fingerprint { catalog: catalog.to_owned(), settings: settings.to_owned() })
}

/// Runs a query that gives one row of one column, over a connection of its own.
///
/// # Errors
/// No connection, or the query failed.
pub async fn ask(upstream: &Upstream, sql: &'static str) -> Result<String, SqlError> {
    let mut connection = super::connect(upstream).await?;
    let rows = connection.query(sql).await?;
    connection.terminate().await;
    let text = rows.into_iter().next().and_then(|row| row.into_iter().next()).flatten();
    text.ok_or_else(|| SqlError::new(sqlstate::INTERNAL_ERROR, "a query of the catalog gave no row"))
}
