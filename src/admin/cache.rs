//! `GET /cache` and `POST /cache/purge[?database=..][&tenant=..][&table=..]`.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::Admin;
use crate::audit::Log;
use crate::audit::record::Record;
use crate::cache::Cache;
use crate::cache::upkeep::{Purge, Tables};
use crate::principal::Tenant;

/// The cache, and who knows the tables of its databases.
#[derive(Clone, Debug)]
pub struct Kept {
    pub cache: Arc<Cache>,
    pub tables: Arc<HashMap<String, Arc<dyn Tables>>>,
    /// The audit log, if there is one.
    pub log: Option<Arc<Log>>,
}

/// What to empty: all that is not narrowed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct What {
    database: Option<String>,
    tenant: Option<String>,
    /// `schema.table` as it is, without quotes; `public` where no schema is named.
    table: Option<String>,
}

pub(super) async fn report(State(admin): State<Admin>) -> Response {
    let Some(kept) = admin.cache else { return no_cache() };
    match serde_json::to_string_pretty(&kept.cache.report()) {
        Ok(report) => ([(header::CONTENT_TYPE, "application/json")], report + "\n").into_response(),
        Err(error) => {
            tracing::error!(%error, "the cache's report cannot be encoded");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

pub(super) async fn purge(State(admin): State<Admin>, Query(what): Query<What>) -> Response {
    let Some(kept) = admin.cache else { return no_cache() };
    match kept.purge(what) {
        Ok(freed) => ([(header::CONTENT_TYPE, "application/json")], format!("{{\"bytes_freed\": {freed}}}\n")).into_response(),
        Err(message) => (StatusCode::NOT_FOUND, message + "\n").into_response(),
    }
}

fn no_cache() -> Response {
    (StatusCode::NOT_FOUND, "there is no result cache: [cache] memory_mb is off\n").into_response()
}

impl Kept {
    fn purge(&self, what: What) -> Result<u64, String> {
        let What { database, tenant, table } = what;
        if let Some(name) = database.as_ref().filter(|name| !self.tables.contains_key(*name)) {
            return Err(format!("there is no database \"{name}\""));
        }
        let mut found = vec![];
        if let Some(table) = &table {
            let (schema, name) = table.split_once('.').unwrap_or(("public", table));
            let wanted = self.tables.iter().filter(|(d, _)| database.as_ref().is_none_or(|wanted| wanted == *d));
            found.extend(wanted.filter_map(|(d, tables)| Some((d.clone(), tables.family(schema, name)?))));
            if found.is_empty() {
                return Err(format!("there is no table \"{schema}.{name}\""));
            }
        }
        if let Some(log) = &self.log {
            let record = Record::new("purge").maybe("database", database.as_deref()).maybe("tenant", tenant.as_deref());
            log.note(record.maybe("table", table.as_deref()));
        }
        let tenant = tenant.map(|tenant| Tenant(tenant.into()));
        let families = |database: &str| self.tables.get(database).map(|tables| tables.families()).unwrap_or_default();
        if table.is_none() {
            return Ok(self.cache.purge(&Purge { database, tenant, families: None }, &families));
        }
        let one = |(database, family)| {
            let purge = Purge { database: Some(database), tenant: tenant.clone(), families: Some(vec![family]) };
            self.cache.purge(&purge, &families)
        };
        Ok(found.into_iter().map(one).sum())
    }
}
