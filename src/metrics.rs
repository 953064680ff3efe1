//! The only file that names counters. [`METRICS`] is the table that registration and documentation come from; events are
//! counted through handles that are resolved once, so that no label is hashed on the way of a statement.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
    core::Collector,
};

use crate::event::{Cached, Command, Event, Flow, Observe, Redis, Rejection, Reload, Uncached, Verdict};
use crate::finding::Reason;

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
    pub labels: &'static [&'static str],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    /// In seconds.
    Histogram,
}

const fn metric(name: &'static str, kind: Kind, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind, help, labels }
}

const BUILD: Metric = metric("bulkhead_build_info", Kind::Gauge, &["version"], "Always 1; the version is a label.");
const ACCEPTED: Metric = metric("bulkhead_connections_accepted_total", Kind::Counter, &[], "Connections that clients made.");
const CLIENTS: Metric = metric("bulkhead_client_connections", Kind::Gauge, &[], "Connections of clients that are open.");
const REJECTED: Metric =
    metric("bulkhead_connections_rejected_total", Kind::Counter, &["reason"], "Connections turned away before they were served.");
const AUTH: Metric = metric("bulkhead_auth_total", Kind::Counter, &["result"], "Log-ins: ok, failed.");
const STATEMENTS: Metric = metric(
    "bulkhead_statements_total",
    Kind::Counter,
    &["command", "protocol", "decision"],
    "Statements decided about: permit, deny.",
);
const DENIALS: Metric = metric(
    "bulkhead_denials_total",
    Kind::Counter,
    &["reason"],
    "Statements refused, by reason. `disagreement` (two readings of a statement differ) is an attack or a bug.",
);
const TEMPLATES: Metric = metric(
    "bulkhead_templates_total",
    Kind::Counter,
    &["result"],
    "Look-ups of a statement's shape: hit (decided before), miss (read and decided now).",
);
const CACHED: Metric = metric(
    "bulkhead_cache_requests_total",
    Kind::Counter,
    &["result", "reason"],
    "Statements that the result cache was asked for: hit (reason redis: from the second tier), fill (the answer is kept now), pass (it was not kept, and why).",
);
const REDIS_UP: Metric = metric(
    "bulkhead_cache_redis_up",
    Kind::Gauge,
    &[],
    "1 while the result cache's second tier is used; 0 where there is none, or while it is left alone since it did not answer in time.",
);
const REDIS: Metric = metric(
    "bulkhead_cache_redis_total",
    Kind::Counter,
    &["result"],
    "What the result cache's second tier did: put (an answer is there), drop (no time to put it there), absent, stale, forged \
     (it was asked, and what it has is gone, older than a write, not what was put there), timeout, error, lost (it is left alone), found (it is used again).",
);
const CACHE_BYTES: Metric = metric("bulkhead_cache_bytes", Kind::Gauge, &[], "What answers and their keys take in memory.");
const CACHE_ANSWERS: Metric = metric("bulkhead_cache_answers", Kind::Gauge, &[], "Answers that are kept in memory.");
const CACHE_EVICTIONS: Metric =
    metric("bulkhead_cache_evictions_total", Kind::Counter, &[], "Answers that had to go for others.");
const ADDED: Metric =
    metric("bulkhead_added_latency_seconds", Kind::Histogram, &[], "Time that Bulkhead itself spent on a statement.");
const POOL_WAIT: Metric =
    metric("bulkhead_pool_wait_seconds", Kind::Histogram, &[], "Time that a client waited for a server connection.");
const POOL_TIMEOUTS: Metric =
    metric("bulkhead_pool_timeouts_total", Kind::Counter, &[], "Clients that gave up waiting for a server connection.");
const UPSTREAM: Metric = metric("bulkhead_upstream_connections", Kind::Gauge, &[], "Connections to servers that are open.");
const UPSTREAM_OPENED: Metric =
    metric("bulkhead_upstream_connections_opened_total", Kind::Counter, &[], "Connections made to servers.");
const UPSTREAM_FAILED: Metric =
    metric("bulkhead_upstream_connections_failed_total", Kind::Counter, &[], "Connections to servers that could not be made.");
const RELOADS: Metric =
    metric("bulkhead_policy_reloads_total", Kind::Counter, &["result"], "Loads of policies and catalog: ok, failed.");
const RELOAD_SUCCESS: Metric = metric(
    "bulkhead_policy_reload_success",
    Kind::Gauge,
    &[],
    "1 if the last load of policies and catalog worked; 0 means that an older epoch is in force.",
);
const RELOAD_TIME: Metric =
    metric("bulkhead_policy_last_reload_timestamp_seconds", Kind::Gauge, &[], "When policies and catalog were last loaded well.");
const EPOCH: Metric = metric("bulkhead_policy_epoch", Kind::Gauge, &[], "The epoch of policies and catalog that is in force.");
const REFUSED: Metric = metric(
    "bulkhead_databases_refused",
    Kind::Gauge,
    &[],
    "Level paranoid: databases whose tenants are refused, since row security is not in place.",
);
const THREATS: Metric = metric(
    "bulkhead_threats_total",
    Kind::Counter,
    &["rule", "mode"],
    "What threat rules have found, by rule: shadow (it was let pass) or enforce (it was refused, or what the policy's action says).",
);
const AUDIT_RECORDS: Metric =
    metric("bulkhead_audit_records_total", Kind::Counter, &[], "Records of the audit log that are on the disk.");
const AUDIT_BATCH: Metric = metric(
    "bulkhead_audit_write_seconds",
    Kind::Histogram,
    &[],
    "How long it took to put a batch of the audit log's records on the disk.",
);
const AUDIT_DEGRADED: Metric = metric(
    "bulkhead_audit_degraded",
    Kind::Gauge,
    &[],
    "1 while the audit log cannot be written: [audit] on_failure says what becomes of statements.",
);
const DRAINING: Metric = metric("bulkhead_draining", Kind::Gauge, &[], "1 while the process ends its sessions.");

/// Every metric.
pub const METRICS: &[Metric] = &[
    BUILD,
    ACCEPTED,
    CLIENTS,
    REJECTED,
    AUTH,
    STATEMENTS,
    DENIALS,
    TEMPLATES,
    CACHED,
    CACHE_BYTES,
    CACHE_ANSWERS,
    CACHE_EVICTIONS,
    REDIS_UP,
    REDIS,
    ADDED,
    POOL_WAIT,
    POOL_TIMEOUTS,
    UPSTREAM,
    UPSTREAM_OPENED,
    UPSTREAM_FAILED,
    RELOADS,
    RELOAD_SUCCESS,
    RELOAD_TIME,
    EPOCH,
    REFUSED,
    THREATS,
    AUDIT_RECORDS,
    AUDIT_BATCH,
    AUDIT_DEGRADED,
    DRAINING,
];

/// From a microsecond, for what a known template costs, to seconds, for a pool that is too small.
const BUCKETS: [f64; 16] = [1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 5e-3, 2.5e-2, 0.1, 0.5, 2.5, 10.0];

const REJECTIONS: [Rejection; 6] =
    [Rejection::Limit, Rejection::Timeout, Rejection::Protocol, Rejection::Tls, Rejection::Database, Rejection::Shutdown];
const COMMANDS: [Command; 9] = [
    Command::Select,
    Command::Insert,
    Command::Update,
    Command::Delete,
    Command::Merge,
    Command::Copy,
    Command::Transaction,
    Command::Setting,
    Command::Other,
];
const FLOWS: [Flow; 2] = [Flow::Simple, Flow::Extended];
const REASONS: [Reason; 7] =
    [Reason::Invalid, Reason::Policy, Reason::Unsupported, Reason::Disagreement, Reason::Limit, Reason::Tenant, Reason::Threat];

const REDIS_EVENTS: [Redis; 9] = [
    Redis::Found,
    Redis::Lost,
    Redis::Put,
    Redis::Dropped,
    Redis::Absent,
    Redis::Stale,
    Redis::Forged,
    Redis::TimedOut,
    Redis::Failed,
];

/// The counters of a process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    accepted: IntCounter,
    clients: IntGauge,
    /// By [`Rejection`], in the order of the enum; so are the arrays below.
    rejected: [IntCounter; REJECTIONS.len()],
    auth_ok: IntCounter,
    auth_failed: IntCounter,
    /// By command, then protocol: permitted and denied.
    statements: [[(IntCounter, IntCounter); FLOWS.len()]; COMMANDS.len()],
    denials: [IntCounter; REASONS.len()],
    template_hit: IntCounter,
    template_miss: IntCounter,
    cache_hit: IntCounter,
    cache_fetched: IntCounter,
    cache_fill: IntCounter,
    cache_pass: [IntCounter; Uncached::ALL.len()],
    cache_bytes: IntGauge,
    cache_answers: IntGauge,
    cache_evictions: IntCounter,
    redis_up: IntGauge,
    redis: [IntCounter; REDIS_EVENTS.len()],
    added: Histogram,
    pool_wait: Histogram,
    pool_timeouts: IntCounter,
    upstream: IntGauge,
    upstream_opened: IntCounter,
    upstream_failed: IntCounter,
    reload_ok: IntCounter,
    reload_failed: IntCounter,
    reload_success: IntGauge,
    reload_time: IntGauge,
    epoch: IntGauge,
    refused: IntGauge,
    threats: IntCounterVec,
    audit_records: IntCounter,
    audit_batch: Histogram,
    audit_degraded: IntGauge,
    draining: IntGauge,
}

impl Metrics {
    /// Registers every metric, all at zero.
    ///
    /// # Errors
    /// A name or label that prometheus does not take: a fault of the table above, which a test finds.
    pub fn new() -> prometheus::Result<Self> {
        let r = Registry::new();
        let build = register(&r, IntGaugeVec::new(opts(&BUILD), BUILD.labels)?)?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let rejected = counters(&r, &REJECTED)?;
        let auth = counters(&r, &AUTH)?;
        let statements = counters(&r, &STATEMENTS)?;
        let denials = counters(&r, &DENIALS)?;
        let templates = counters(&r, &TEMPLATES)?;
        let cached = counters(&r, &CACHED)?;
        let redis = counters(&r, &REDIS)?;
        let reloads = counters(&r, &RELOADS)?;
        let statement = |c: Command, f: Flow, decision: &str| statements.with_label_values(&[command(c), flow(f), decision]);
        Ok(Metrics {
            accepted: counter(&r, &ACCEPTED)?,
            clients: gauge(&r, &CLIENTS)?,
            rejected: REJECTIONS.map(|x| rejected.with_label_values(&[rejection(x)])),
            auth_ok: auth.with_label_values(&["ok"]),
            auth_failed: auth.with_label_values(&["failed"]),
            statements: COMMANDS.map(|c| FLOWS.map(|f| (statement(c, f, "permit"), statement(c, f, "deny")))),
            denials: REASONS.map(|x| denials.with_label_values(&[x.as_str()])),
            template_hit: templates.with_label_values(&["hit"]),
            template_miss: templates.with_label_values(&["miss"]),
            cache_hit: cached.with_label_values(&["hit", ""]),
            cache_fetched: cached.with_label_values(&["hit", "redis"]),
            cache_fill: cached.with_label_values(&["fill", ""]),
            cache_pass: Uncached::ALL.map(|why| cached.with_label_values(&["pass", why.label()])),
            cache_bytes: gauge(&r, &CACHE_BYTES)?,
            cache_answers: gauge(&r, &CACHE_ANSWERS)?,
            cache_evictions: counter(&r, &CACHE_EVICTIONS)?,
            redis_up: gauge(&r, &REDIS_UP)?,
            redis: REDIS_EVENTS.map(|x| redis.with_label_values(&[redis_event(x)])),
            added: histogram(&r, &ADDED)?,
            pool_wait: histogram(&r, &POOL_WAIT)?,
            pool_timeouts: counter(&r, &POOL_TIMEOUTS)?,
            upstream: gauge(&r, &UPSTREAM)?,
            upstream_opened: counter(&r, &UPSTREAM_OPENED)?,
            upstream_failed: counter(&r, &UPSTREAM_FAILED)?,
            reload_ok: reloads.with_label_values(&["ok"]),
            reload_failed: reloads.with_label_values(&["failed"]),
            reload_success: gauge(&r, &RELOAD_SUCCESS)?,
            reload_time: gauge(&r, &RELOAD_TIME)?,
            epoch: gauge(&r, &EPOCH)?,
            refused: gauge(&r, &REFUSED)?,
            threats: counters(&r, &THREATS)?,
            audit_records: counter(&r, &AUDIT_RECORDS)?,
            audit_batch: histogram(&r, &AUDIT_BATCH)?,
            audit_degraded: gauge(&r, &AUDIT_DEGRADED)?,
            draining: gauge(&r, &DRAINING)?,
            registry: r,
        })
    }

    /// What the result cache holds now, and how many answers have had to go so far.
    pub fn note_cache(&self, answers: usize, bytes: u64, evictions: u64) {
        self.cache_answers.set(i64::try_from(answers).unwrap_or(i64::MAX));
        self.cache_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.cache_evictions.inc_by(evictions.saturating_sub(self.cache_evictions.get()));
    }

    /// Everything in Prometheus' text format.
    ///
    /// # Errors
    /// None that is known: the encoder's type allows one.
    pub fn encode(&self) -> prometheus::Result<Vec<u8>> {
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out)?;
        Ok(out)
    }

    fn redis(&self, what: Redis) {
        match what {
            Redis::Found => self.redis_up.set(1),
            Redis::Lost => self.redis_up.set(0),
            Redis::Put | Redis::Dropped | Redis::Absent | Redis::Stale | Redis::Forged | Redis::TimedOut | Redis::Failed => {}
        }
        self.redis[what as usize].inc();
    }

    fn reloaded(&self, reload: Reload) {
        match reload {
            Reload::Done(epoch) => {
                self.reload_ok.inc();
                self.reload_success.set(1);
                self.epoch.set(i64::try_from(epoch.0).unwrap_or(i64::MAX));
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
                self.reload_time.set(i64::try_from(now).unwrap_or(i64::MAX));
            }
            Reload::Failed => {
                self.reload_failed.inc();
                self.reload_success.set(0);
            }
        }
    }
}

impl Observe for Metrics {
    fn observe(&self, event: Event) {
        match event {
            Event::ListenerOpened => {}
            Event::ConnectionAccepted => {
                self.accepted.inc();
                self.clients.inc();
            }
            Event::ConnectionClosed => self.clients.dec(),
            Event::ConnectionRejected(why) => self.rejected[why as usize].inc(),
            Event::AuthSucceeded => self.auth_ok.inc(),
            Event::AuthFailed => self.auth_failed.inc(),
            Event::StatementReviewed { command, protocol, verdict } => {
                let (permitted, denied) = &self.statements[command as usize][protocol as usize];
                match verdict {
                    Verdict::Permitted => permitted.inc(),
                    Verdict::Denied(reason) => {
                        denied.inc();
                        self.denials[reason as usize].inc();
                    }
                }
            }
            Event::TemplateHit => self.template_hit.inc(),
            Event::TemplateMissed => self.template_miss.inc(),
            Event::Cached(Cached::Hit) => self.cache_hit.inc(),
            Event::Cached(Cached::Fetched) => self.cache_fetched.inc(),
            Event::Cached(Cached::Filled) => self.cache_fill.inc(),
            Event::Cached(Cached::Passed(why)) => self.cache_pass[why as usize].inc(),
            Event::Redis(what) => self.redis(what),
            Event::PoolWaited(time) => self.pool_wait.observe(time.as_secs_f64()),
            Event::PoolTimedOut => self.pool_timeouts.inc(),
            Event::BackendOpened => {
                self.upstream_opened.inc();
                self.upstream.inc();
            }
            Event::BackendClosed => self.upstream.dec(),
            Event::BackendFailed => self.upstream_failed.inc(),
            Event::PoliciesReloaded(reload) => self.reloaded(reload),
            Event::LatencyAdded(time) => self.added.observe(time.as_secs_f64()),
            // Health tells; failed looks do not count as connections.
            Event::ServerLost | Event::ServerFound => {}
            Event::DrainStarted => self.draining.set(1),
            Event::ThreatFound { rule, mode } => self.threats.with_label_values(&[rule, mode.as_str()]).inc(),
            Event::AuditWritten { records, took } => {
                self.audit_records.inc_by(records);
                self.audit_batch.observe(took.as_secs_f64());
            }
            Event::AuditFailed { refuses: _ } => self.audit_degraded.set(1),
            Event::AuditRestored => self.audit_degraded.set(0),
            Event::LockLost => self.refused.inc(),
            Event::LockRestored => self.refused.dec(),
        }
    }
}

fn opts(metric: &Metric) -> Opts {
    Opts::new(metric.name, metric.help)
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn counter(registry: &Registry, metric: &Metric) -> prometheus::Result<IntCounter> {
    register(registry, IntCounter::with_opts(opts(metric))?)
}

fn counters(registry: &Registry, metric: &Metric) -> prometheus::Result<IntCounterVec> {
    register(registry, IntCounterVec::new(opts(metric), metric.labels)?)
}

fn gauge(registry: &Registry, metric: &Metric) -> prometheus::Result<IntGauge> {
    register(registry, IntGauge::with_opts(opts(metric))?)
}

fn histogram(registry: &Registry, metric: &Metric) -> prometheus::Result<Histogram> {
    register(registry, Histogram::with_opts(HistogramOpts::new(metric.name, metric.help).buckets(BUCKETS.to_vec()))?)
}

fn rejection(rejection: Rejection) -> &'static str {
    match rejection {
        Rejection::Limit => "limit",
        Rejection::Timeout => "timeout",
        Rejection::Protocol => "protocol",
        Rejection::Tls => "tls",
        Rejection::Database => "database",
        Rejection::Shutdown => "shutdown",
    }
}

fn redis_event(event: Redis) -> &'static str {
    match event {
        Redis::Found => "found",
        Redis::Lost => "lost",
        Redis::Put => "put",
        Redis::Dropped => "drop",
        Redis::Absent => "absent",
        Redis::Stale => "stale",
        Redis::Forged => "forged",
        Redis::TimedOut => "timeout",
        Redis::Failed => "error",
    }
}

fn command(command: Command) -> &'static str {
    match command {
        Command::Select => "select",
        Command::Insert => "insert",
        Command::Update => "update",
        Command::Delete => "delete",
        Command::Merge => "merge",
        Command::Copy => "copy",
        Command::Transaction => "transaction",
        Command::Setting => "setting",
        Command::Other => "other",
    }
}

fn flow(flow: Flow) -> &'static str {
    match flow {
        Flow::Simple => "simple",
        Flow::Extended => "extended",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::PolicyEpoch;
    use std::time::Duration;

    #[test]
    fn the_table_is_what_is_registered() {
        let metrics = Metrics::new().unwrap();
        // By rule: of a name that is used.
        metrics.observe(Event::ThreatFound { rule: "tautology", mode: crate::finding::Watch::Shadow });
        let mut registered: Vec<String> = metrics.registry.gather().iter().map(|f| f.name().to_owned()).collect();
        let mut listed: Vec<&str> = METRICS.iter().map(|m| m.name).collect();
        registered.sort();
        listed.sort_unstable();
        assert_eq!(registered, listed);
    }

    #[test]
    fn enums_and_arrays_have_one_order() {
        assert!(REJECTIONS.iter().enumerate().all(|(i, x)| *x as usize == i));
        assert!(COMMANDS.iter().enumerate().all(|(i, x)| *x as usize == i));
        assert!(FLOWS.iter().enumerate().all(|(i, x)| *x as usize == i));
        assert!(REDIS_EVENTS.iter().enumerate().all(|(i, x)| *x as usize == i));
        assert!(REASONS.iter().enumerate().all(|(i, x)| *x as usize == i));
    }

    #[test]
    fn events_are_counted_where_an_operator_looks() {
        let metrics = Metrics::new().unwrap();
        for event in [
            Event::ConnectionAccepted,
            Event::ConnectionAccepted,
            Event::ConnectionClosed,
            Event::ConnectionRejected(Rejection::Limit),
            Event::AuthFailed,
            Event::StatementReviewed {
                command: Command::Update,
                protocol: Flow::Extended,
                verdict: Verdict::Denied(Reason::Disagreement),
            },
            Event::LatencyAdded(Duration::from_micros(3)),
            Event::PoliciesReloaded(Reload::Done(PolicyEpoch(7))),
            Event::PoliciesReloaded(Reload::Failed),
        ] {
            metrics.observe(event);
        }
        let text = String::from_utf8(metrics.encode().unwrap()).unwrap();
        for line in [
            "bulkhead_client_connections 1",
            "bulkhead_connections_rejected_total{reason=\"limit\"} 1",
            "bulkhead_auth_total{result=\"failed\"} 1",
            "bulkhead_statements_total{command=\"update\",decision=\"deny\",protocol=\"extended\"} 1",
            "bulkhead_statements_total{command=\"select\",decision=\"permit\",protocol=\"simple\"} 0",
            "bulkhead_denials_total{reason=\"disagreement\"} 1",
            "bulkhead_added_latency_seconds_bucket{le=\"0.000002\"} 0",
            "bulkhead_added_latency_seconds_bucket{le=\"0.000005\"} 1",
            "bulkhead_policy_epoch 7",
            "bulkhead_policy_reload_success 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }
}
