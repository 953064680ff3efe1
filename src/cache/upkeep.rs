//! What operators see of the cache, and how they empty it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Instant;

use serde::Serialize;

use super::store::Entry;
use super::tags::{Intent, Part, Tag};
use super::{Cache, DatabaseCache};
use crate::plan::{ChangedRow, TemplateUse};
use crate::principal::Tenant;

/// What to empty; nothing named: all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Purge {
    /// As clients name it.
    pub database: Option<String>,
    pub tenant: Option<Tenant>,
    /// Families, by their roots' pg_class.oid.
    pub families: Option<Vec<u32>>,
}

/// What is known of the server's definitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Definitions {
    /// How often anything was found changed.
    pub changes: u64,
    /// When the last look began that found those in force to be the server's.
    pub exact_at: Option<Instant>,
}

/// What is known of a database's tables.
pub trait Tables: std::fmt::Debug + Send + Sync {
    /// The family of a table, by its root's pg_class.oid.
    fn family(&self, schema: &str, table: &str) -> Option<u32>;

    /// All of them.
    fn families(&self) -> Vec<u32>;

    fn definitions(&self) -> Definitions;

    /// What the change of a row of this relation (pg_class.oid) changes; `value`: the row's, by column, in text. `None`: it is not known.
    fn changed<'v>(&self, relation: u32, value: &dyn Fn(&str) -> Option<&'v [u8]>) -> Option<ChangedRow>;
}

/// `GET /cache`
#[derive(Debug, Serialize)]
pub struct Report {
    answers: usize,
    bytes: u64,
    bytes_allowed: u64,
    evictions: u64,
    /// Most bytes first.
    tenants: Vec<TenantReport>,
    /// Most hits first.
    templates: Vec<TemplateReport>,
}

#[derive(Debug, Serialize)]
struct TenantReport {
    /// `null`: rows of shared tables.
    tenant: Option<String>,
    bytes: u64,
    hits: u64,
    fills: u64,
    hit_ratio: f64,
}

#[derive(Debug, Serialize)]
struct TemplateReport {
    statement: String,
    hits: u64,
    fills: u64,
    hit_ratio: f64,
    /// What the server takes for one, in milliseconds.
    server_ms: f64,
}

/// How many of each are told.
const TOLD: usize = 100;

fn ratio(hits: u64, fills: u64) -> f64 {
    if hits + fills == 0 { 0.0 } else { hits as f64 / (hits + fills) as f64 }
}

impl Cache {
    /// Answers, what they take in bytes, and how many had to go for others.
    pub fn size(&self) -> (usize, u64, u64) {
        (self.store.len(), self.store.bytes(), self.store.evicted())
    }

    /// Tenants and templates that have answers now, at most a hundred of each.
    pub fn report(&self) -> Report {
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let tenant = |owner: &super::store::Owner| TenantReport {
            tenant: owner.tenant.as_ref().map(|t| t.0.to_string()),
            bytes: owner.bytes(),
            hits: load(&owner.hits),
            fills: load(&owner.fills),
            hit_ratio: ratio(load(&owner.hits), load(&owner.fills)),
        };
        let mut tenants: Vec<TenantReport> = self.store.owners().iter().map(|owner| tenant(owner)).collect();
        tenants.sort_by_key(|t| std::cmp::Reverse(t.bytes));
        tenants.truncate(TOLD);
        let template = |used: Arc<TemplateUse>| TemplateReport {
            statement: used.audited.text.to_string(),
            hits: load(&used.hits),
            fills: load(&used.fills),
            hit_ratio: ratio(load(&used.hits), load(&used.fills)),
            server_ms: load(&used.microseconds) as f64 / load(&used.fills).max(1) as f64 / 1_000.0,
        };
        let known = self.templates.lock().unwrap_or_else(PoisonError::into_inner);
        let mut templates: Vec<TemplateReport> = known.iter().filter_map(Weak::upgrade).map(template).collect();
        drop(known);
        templates.sort_by_key(|t| std::cmp::Reverse(t.hits));
        templates.truncate(TOLD);
        Report {
            answers: self.store.len(),
            bytes: self.store.bytes(),
            bytes_allowed: self.store.allowed(),
            evictions: self.store.evicted(),
            tenants,
            templates,
        }
    }

    pub(super) fn note_template(&self, used: &Arc<TemplateUse>) {
        let mut known = self.templates.lock().unwrap_or_else(PoisonError::into_inner);
        // Plans of epochs that are over are gone.
        if known.len() == known.capacity() {
            known.retain(|used| used.strong_count() > 0);
        }
        known.push(Arc::downgrade(used));
    }

    /// Ends what it names, also what is on its way: as a write of all of it would. `families`: all of the database, by its name. Tells how
    /// many bytes are free now.
    pub fn purge(self: &Arc<Self>, purge: &Purge, families: &dyn Fn(&str) -> Vec<u32>) -> u64 {
        let before = self.store.bytes();
        let databases = self.databases.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (name, database) in databases {
            if purge.database.as_ref().is_some_and(|wanted| *wanted != name) {
                continue;
            }
            let database = database.of(self);
            let mut intent = database.intend();
            match (&purge.families, &purge.tenant) {
                (None, None) => intent.add(database.everything),
                (named, tenant) => {
                    for family in named.clone().unwrap_or_else(|| families(&name)) {
                        database.add_all(&mut intent, family, tenant.as_ref());
                    }
                }
            }
            intent.end();
        }
        let tags = &self.tags;
        // What it has of shared tables is ended for it alone: nothing was written there.
        let is_its = |entry: &Entry| purge.families.is_none() && purge.tenant.is_some() && entry.owner.tenant == purge.tenant;
        self.store.sweep(|entry| !entry.stamps.are_current(tags) || is_its(entry));
        if let Some(shared) = &self.shared {
            shared.forget();
        }
        before.saturating_sub(self.store.bytes())
    }
}

impl DatabaseCache {
    fn add_all(&self, intent: &mut Intent, family: u32, tenant: Option<&Tenant>) {
        // Reads of one row look at Many.
        for part in [Part::Any, Part::Many] {
            intent.add(self.tag(tenant.map_or(Tag::Family(family, part), |tenant| Tag::Tenant(family, tenant, part))));
        }
    }
}
