//! Follows a server's log for the result cache: see [`cache::follow`](crate::cache::follow).

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend;
use crate::backend::connection::Connection;
use crate::backend::replication::{Lsn, Replication, Told};
use crate::cache::DatabaseCache;
use crate::cache::follow::{Follower, Snapshot, Staleness};
use crate::cache::upkeep::Tables;
use crate::config::Upstream;
use crate::error::{SqlError, sqlstate};

/// What is asked for again and again: snapshot, end of the log, and whether everything is published, by which version of the publication: what is
/// changed in a transaction and back again was not published in between.
const LOOK_SQL: &str = "SELECT pg_catalog.pg_current_snapshot()::pg_catalog.text, pg_catalog.pg_current_wal_insert_lsn()::pg_catalog.text, \
    COALESCE((SELECT oid || '/' || xmin::pg_catalog.text FROM pg_catalog.pg_publication WHERE pubname = 'bulkhead' AND puballtables \
    AND pubinsert AND pubupdate AND pubdelete AND pubtruncate AND NOT pubviaroot), '')";

/// The end of the log may be something that nothing waits for and nobody flushes for seconds (pruning by a SELECT): only what is flushed is
/// told. A transaction of one message flushes it. It waits for this server's disk, and for no standby.
const FLUSH_SQL: &str = "SELECT pg_catalog.pg_logical_emit_message(true, 'bulkhead', '')";
const ALONE_SQL: &str = "SET synchronous_commit = 'local'; SET application_name = 'bulkhead'";

/// Which database of which server it is, as any role may ask, whatever its settings.
const SAME_SQL: &str = "SELECT pg_catalog.to_char(pg_catalog.timezone('UTC', pg_catalog.pg_postmaster_start_time()), 'YYYYMMDDHH24MISSUS'), d.oid \
    FROM pg_catalog.pg_database d WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()";

/// Between two looks, as a part of the bound.
const LOOKS: u32 = 8;
/// And at most: definitions are looked at as well.
const LONGEST: Duration = Duration::from_millis(250);
/// While a transaction was told that is not visible yet.
const SOON: Duration = Duration::from_millis(2);
/// Before another attempt.
const PAUSE: Duration = Duration::from_secs(1);

/// How long ago the look at definitions may have begun that found those in force to be the server's: it is made every second.
const DEFINITIONS: Duration = Duration::from_secs(3);

/// A page of the log, and what stands at its beginning, in bytes: where nothing was written to a page yet, the end of the log is behind
/// its header, and what was told ends before it.
const PAGE: u64 = 8_192;
const HEADER: u64 = 40;

/// Whose log is followed.
pub struct Followed {
    /// By which it is.
    pub upstream: Upstream,
    /// Where tenants' statements go: the same database, or what is told says nothing of it.
    pub own: Upstream,
}

/// Follows for ever.
pub async fn follow(name: String, followed: Followed, cache: DatabaseCache, bound: Arc<Staleness>, tables: Arc<dyn Tables>) {
    let mut follower = Follower::new(cache.clone());
    let mut was_lost = false;
    loop {
        let ended = follow_once(&name, &followed, &cache, &bound, &*tables, &mut follower, &mut was_lost).await;
        bound.lose();
        cache.forget();
        if !std::mem::replace(&mut was_lost, true) {
            let error = ended.map_or_else(|error| error.to_string(), |never| match never {});
            tracing::warn!(database = %name, "the result cache gives nothing: the server's log cannot be followed: {error}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What there is no value of.
enum Never {}

async fn follow_once(
    name: &str,
    Followed { upstream, own }: &Followed,
    cache: &DatabaseCache,
    bound: &Staleness,
    tables: &dyn Tables,
    follower: &mut Follower,
    was_lost: &mut bool,
) -> Result<Never, SqlError> {
    let mut side = backend::connect(upstream).await?;
    side.query(ALONE_SQL).await?;
    check_same(&mut side, own).await?;
    look(&mut side).await?;
    follower.begin_again();
    let mut stream = Replication::start(upstream).await?;
    // Transactions that were committed before the slot began may not be visible yet, and are never told.
    let Look { snapshot: begun, end: _, publication } = look(&mut side).await?;
    loop {
        let now = look(&mut side).await?.snapshot;
        if now.xmin >= begun.xmax {
            follower.note_snapshot(&now);
            break;
        }
        tokio::time::sleep(SOON).await;
    }
    let mut definitions = tables.definitions().changes;
    cache.forget();
    let mut wanted: Option<Wanted> = None;
    let mut next_look = tokio::time::Instant::now();
    loop {
        let told = tokio::select! {
            told = stream.next() => Some(told?),
            () = tokio::time::sleep_until(next_look) => None,
        };
        let looked = told.is_none();
        match told {
            Some(Told::Change(message)) => follower.take(&message, tables)?,
            Some(Told::Position) => {
                if let Some(Wanted { at, end, flushed: _ }) = wanted
                    && has_reached(stream.position(), end)
                    && tables.definitions().exact_at.is_some_and(|exact| exact.elapsed() < DEFINITIONS)
                {
                    bound.note_known(at);
                    wanted = None;
                    if std::mem::replace(was_lost, false) {
                        tracing::info!(database = %name, "the server's log is followed again: the result cache gives answers");
                    }
                }
            }
            None => {
                let at = Instant::now();
                let now = look(&mut side).await?;
                if now.publication != publication {
                    return Err(SqlError::new(sqlstate::CONNECTION_FAILURE, "the publication was changed"));
                }
                let Look { snapshot, end, publication: _ } = now;
                // Definitions are not told: what rewrites a table, or renames a value.
                let found = tables.definitions().changes;
                if std::mem::replace(&mut definitions, found) != found {
                    cache.forget();
                }
                follower.note_snapshot(&snapshot);
                match &mut wanted {
                    None => wanted = Some(Wanted { at, end, flushed: false }),
                    Some(wanted) if !wanted.flushed && at - wanted.at >= bound.within() / LOOKS => {
                        side.query(FLUSH_SQL).await?;
                        wanted.flushed = true;
                    }
                    Some(_) => {}
                }
                stream.ask_position().await?;
            }
        }
        let pause = if follower.is_pending() { SOON } else { (bound.within() / LOOKS).min(LONGEST) };
        let soon = tokio::time::Instant::now() + pause;
        next_look = if looked { soon } else { next_look.min(soon) };
    }
}

fn has_reached(position: Lsn, end: Lsn) -> bool {
    position >= end || position.0.is_multiple_of(PAGE) && end.0 - position.0 <= HEADER
}

/// How far the log went at a time, which is to be told.
struct Wanted {
    at: Instant,
    end: Lsn,
    /// It was seen to that it can be.
    flushed: bool,
}

/// One look at the server.
struct Look {
    snapshot: Snapshot,
    end: Lsn,
    publication: String,
}

/// # Errors
/// The log that is followed is another database's than tenants' statements go to.
async fn check_same(side: &mut Connection, own: &Upstream) -> Result<(), SqlError> {
    let mut tenants = backend::connect(own).await?;
    let (followed, asked) = (side.query(SAME_SQL).await?, tenants.query(SAME_SQL).await?);
    tenants.terminate().await;
    if followed == asked {
        return Ok(());
    }
    let message = format!("follow leads to another database than upstream ({}:{}/{})", own.host, own.port, own.database);
    Err(SqlError::new(sqlstate::CONNECTION_FAILURE, message))
}

async fn look(side: &mut Connection) -> Result<Look, SqlError> {
    let rows = side.query(LOOK_SQL).await?;
    let row: Vec<String> = rows.into_iter().flatten().flatten().collect();
    let unreadable = || SqlError::new(sqlstate::INTERNAL_ERROR, "the server's snapshot cannot be read");
    let [snapshot, end, published] = row.as_slice() else { return Err(unreadable()) };
    if published.is_empty() {
        let message = "there is no publication \"bulkhead\" of all changes of all tables";
        let hint = "CREATE PUBLICATION bulkhead FOR ALL TABLES";
        return Err(SqlError::new(sqlstate::CONNECTION_FAILURE, format!("{message} ({hint})")));
    }
    let (snapshot, end) = (Snapshot::parse(snapshot).ok_or_else(unreadable)?, Lsn::parse(end).ok_or_else(unreadable)?);
    Ok(Look { snapshot, end, publication: published.clone() })
}
