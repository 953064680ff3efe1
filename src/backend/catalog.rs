//! Loads the catalog snapshot.

use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::Instant;

use super::connection::Connection;
use crate::catalog::{SNAPSHOT_SQL, Snapshot};
use crate::config::Upstream;
use crate::error::{SqlError, sqlstate};
use crate::event::Events;

/// How long the query may wait for a lock (pg_get_viewdef locks a view's tables): much less than deadlock_timeout (1 s), so that
/// no application's statement is ever the victim of a deadlock with it.
const PATIENCE: &str = "SET lock_timeout = '100ms'; SET application_name = 'bulkhead catalog'";
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a table may stay locked.
const GIVE_UP: Duration = Duration::from_secs(30);

/// How long a server may be silent over a connection that stays: then it is asked over a new one.
const SILENCE: Duration = Duration::from_secs(10);

/// Looks at a server's catalog again and again, over a connection that stays: servers log new ones, and they cost.
#[derive(Debug)]
pub struct Watch {
    upstream: Upstream,
    connection: Option<Connection>,
    /// How often it has connected. What was seen over another connection may be of a server that has crashed since.
    connections: u64,
    events: Events,
}

impl Watch {
    pub fn new(upstream: Upstream, events: Events) -> Watch {
        Watch { upstream, connection: None, connections: 0, events }
    }

    /// Changes with every connection: while it stays, the server has not crashed.
    pub fn connections(&self) -> u64 {
        self.connections
    }

    /// Whether it is PostgreSQL that answers, and no pooler before it: the process that was named at login is the one that answers.
    ///
    /// # Errors
    /// No connection, or the query failed.
    pub async fn is_direct(&mut self) -> Result<bool, SqlError> {
        let own = self.ask("SELECT pg_catalog.pg_backend_pid()").await?;
        Ok(self.connection.as_ref().is_some_and(|connection| connection.server().process_id.to_string() == own))
    }

    /// The fingerprint now.
    ///
    /// # Errors
    /// No connection, or the query failed.
    pub async fn fingerprint(&mut self) -> Result<Fingerprint, SqlError> {
        let text = self.ask(&FINGERPRINT_SQL).await?;
        let (catalog, settings) = text.split_once(' ').unwrap_or_default();
        Ok(Fingerprint { catalog: catalog.to_owned(), settings: settings.to_owned() })
    }

    /// The snapshot now. It waits for tables that are locked.
    ///
    /// # Errors
    /// No connection, the query failed, a table stayed locked, or the answer is not a [`Snapshot`].
    pub async fn snapshot(&mut self) -> Result<Snapshot, SqlError> {
        let deadline = Instant::now() + GIVE_UP;
        let text = loop {
            match self.ask(SNAPSHOT_SQL).await {
                Ok(text) => break text,
                Err(error) if error.sqlstate == sqlstate::LOCK_NOT_AVAILABLE && Instant::now() < deadline => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        };
        // Some megabytes of JSON: off the reactor.
        let parsed = tokio::task::spawn_blocking(move || serde_json::from_str(&text)).await;
        let unreadable = |error: &dyn std::fmt::Display| {
            SqlError::new(sqlstate::INTERNAL_ERROR, format!("the catalog query's answer cannot be read: {error}"))
        };
        parsed.map_err(|error| unreadable(&error))?.map_err(|error| unreadable(&error))
    }

    /// Looks over a new connection from now on: what sessions start with has changed. If there is none, the next look tries again.
    pub async fn renew(&mut self) {
        self.close().await;
        self.connection = self.connect().await.ok();
    }

    async fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.terminate().await;
        }
    }

    async fn connect(&mut self) -> Result<Connection, SqlError> {
        let mut connection = super::connect(&self.upstream).await?;
        self.connections += 1;
        connection.count(&self.events);
        connection.query(PATIENCE).await?;
        Ok(connection)
    }

    /// A connection that the server has closed in the meantime is made again, once.
    async fn ask(&mut self, sql: &'static str) -> Result<String, SqlError> {
        if let Some(mut connection) = self.connection.take() {
            match tokio::time::timeout(SILENCE, connection.query(sql)).await {
                Ok(Ok(rows)) => {
                    self.connection = Some(connection);
                    return one(rows);
                }
                Ok(Err(error)) if error.sqlstate == sqlstate::LOCK_NOT_AVAILABLE => {
                    self.connection = Some(connection);
                    return Err(error);
                }
                Ok(Err(_)) | Err(_) => {}
            }
        }
        let mut connection = self.connect().await?;
        let rows = connection.query(sql).await;
        if connection.is_at_rest() {
            self.connection = Some(connection);
        }
        one(rows?)
    }
}

/// Loads the snapshot over a connection of its own. See [`Watch::snapshot`].
///
/// # Errors
/// As of that.
pub async fn load(upstream: &Upstream) -> Result<Snapshot, SqlError> {
    let mut watch = Watch::new(upstream.clone(), Events::default());
    let snapshot = watch.snapshot().await;
    watch.close().await;
    snapshot
}

/// What differs when something was changed on the server. Cheap enough to ask for every second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// By DDL: the snapshot must be loaded again.
    pub catalog: String,
    /// By ALTER ROLE or ALTER DATABASE .. SET, for this role in this database, or by the configuration file: what new sessions start
    /// with. By GRANT and REVOKE of roles: what they may do. Also by another start of the server, which may have lost commits that
    /// nobody waited for.
    pub settings: String,
}

/// The catalogs that [`SNAPSHOT_SQL`] reads and DDL can change without a trace in another of these, and those that say what values look
/// like.
const CATALOGS: [&str; 21] = [
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
    "pg_trigger",
    "pg_event_trigger",
    "pg_attrdef",
    "pg_enum",
    "pg_ts_config",
    "pg_ts_config_map",
    "pg_ts_dict",
];

/// Settings that what a server shows depends on, whoever changed them: those of the configuration file come to no catalog.
const SHOWN_BY: [&str; 14] = [
    "TimeZone",
    "DateStyle",
    "IntervalStyle",
    "bytea_output",
    "extra_float_digits",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "default_text_search_config",
    "xmloption",
    "xmlbinary",
    "array_nulls",
    "transform_null_equals",
    "timezone_abbreviations",
];

/// The roles that this one is a member of, and what they may do by themselves.
const ROLES: &str = "(WITH RECURSIVE held(oid) AS (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) CURRENT_USER \
    UNION SELECT m.roleid FROM pg_catalog.pg_auth_members m, held h WHERE m.member OPERATOR(pg_catalog.=) h.oid) \
    SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', r.oid, r.rolsuper, r.rolinherit, r.rolbypassrls, (SELECT pg_catalog.string_agg(\
    m.xmin::pg_catalog.text, ',' ORDER BY m.roleid) FROM pg_catalog.pg_auth_members m WHERE m.member OPERATOR(pg_catalog.=) r.oid)), '/' ORDER BY r.oid) \
    FROM pg_catalog.pg_roles r, held h WHERE r.oid OPERATOR(pg_catalog.=) h.oid)";

/// Leaves out rows of sessions' temporary tables, which the snapshot has none of.
fn is_lasting(catalog: &str) -> String {
    let of_lasting = |column: &str| {
        format!("{column} NOT IN (SELECT oid FROM pg_catalog.pg_class WHERE relpersistence OPERATOR(pg_catalog.=) 't')")
    };
    match catalog {
        "pg_class" => "relpersistence OPERATOR(pg_catalog.<>) 't'".to_owned(),
        "pg_attribute" => of_lasting("attrelid"),
        "pg_index" => of_lasting("indrelid"),
        "pg_constraint" => of_lasting("conrelid"),
        "pg_trigger" => of_lasting("tgrelid"),
        "pg_attrdef" => of_lasting("adrelid"),
        "pg_namespace" => "nspname OPERATOR(pg_catalog.!~) '^pg_(toast_)?temp_'".to_owned(),
        "pg_type" => "typnamespace NOT IN (SELECT oid FROM pg_catalog.pg_namespace \
            WHERE nspname OPERATOR(pg_catalog.~) '^pg_(toast_)?temp_')"
            .to_owned(),
        _ => "true".to_owned(), // tidy: not a syntax kind
    }
}

static FINGERPRINT_SQL: LazyLock<String> = LazyLock::new(|| {
    let rows = |catalog: &str| {
        format!(
            "(SELECT pg_catalog.concat_ws(',', pg_catalog.count(*), \
             pg_catalog.sum(pg_catalog.hashint8(xmin::pg_catalog.text::pg_catalog.int8)::pg_catalog.int8)) FROM pg_catalog.{catalog} \
             WHERE {})",
            is_lasting(catalog)
        )
    };
    format!(
        "SELECT pg_catalog.md5(pg_catalog.concat_ws('/', {}, pg_catalog.current_setting('default_transaction_isolation'))) || ' ' || \
         pg_catalog.md5(pg_catalog.concat_ws('/', pg_catalog.pg_postmaster_start_time(), {}, {}, {ROLES}))",
        CATALOGS.map(rows).join(", "),
        SHOWN_BY.map(|name| format!("pg_catalog.current_setting('{name}')")).join(", "),
        "(SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', setdatabase, setrole, pg_catalog.array_to_string(setconfig, ' ')), '/' \
          ORDER BY setdatabase, setrole) FROM pg_catalog.pg_db_role_setting s \
          WHERE s.setdatabase IN (0, (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())) \
          AND s.setrole IN (0, (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = CURRENT_USER)))"
    )
});

/// Runs a query that gives one row of one column, over a connection of its own.
///
/// # Errors
/// No connection, or the query failed.
pub async fn ask(upstream: &Upstream, sql: &'static str) -> Result<String, SqlError> {
    let mut connection = super::connect(upstream).await?;
    let rows = connection.query(sql).await?;
    connection.terminate().await;
    one(rows)
}

fn one(rows: Vec<Vec<Option<String>>>) -> Result<String, SqlError> {
    let text = rows.into_iter().next().and_then(|row| row.into_iter().next()).flatten();
    text.ok_or_else(|| SqlError::new(sqlstate::INTERNAL_ERROR, "a query of the catalog gave no row"))
}
