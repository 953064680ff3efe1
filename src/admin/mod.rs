//! The admin port: `GET /health`, `GET /metrics`, `GET /cache`, `POST /cache/purge`. What changes anything here costs hits of the
//! result cache, and no more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;

pub mod cache;

use crate::event::{Event, Observe, Reload};
use crate::metrics::Metrics;

/// What `/health` tells, gathered from events.
#[derive(Debug, Default)]
pub struct Health {
    listener: AtomicU8,
    /// The epoch in force; 0: none yet.
    epoch: AtomicU64,
    /// Databases whose server does not answer.
    lost: AtomicU64,
    /// Databases whose tenants are refused, since the second lock is not in place.
    refused: AtomicU64,
    /// The audit log cannot be written, and statements are refused for it.
    unrecorded: AtomicBool,
}

/// States of what is watched; 0 is "not known yet".
const UP: u8 = 1;
const DOWN: u8 = 2;

impl Health {
    /// Whether clients can be served now, and the report that says why not.
    pub fn report(&self) -> (bool, serde_json::Value) {
        let listener = self.listener.load(Ordering::Relaxed);
        let epoch = self.epoch.load(Ordering::Relaxed);
        let lost = self.lost.load(Ordering::Relaxed);
        let refused = self.refused.load(Ordering::Relaxed);
        let unrecorded = self.unrecorded.load(Ordering::Relaxed);
        let ok = listener == UP && epoch > 0 && lost == 0 && refused == 0 && !unrecorded;
        let report = serde_json::json!({
            "status": if ok { "ok" } else { "unavailable" },
            "listener": match listener { UP => "open", DOWN => "draining", _ => "not open yet" },
            "policies": if epoch > 0 { "loaded" } else { "not loaded yet" },
            "policy_epoch": epoch,
            "upstream": match (lost, epoch) { (1.., _) => "down", (0, 0) => "not seen yet", (0, 1..) => "up" },
            "audit": if unrecorded { "the log cannot be written" } else { "ok" },
            "tenants": if refused == 0 { "served" } else { "refused: the second lock is not in place" },
            "version": env!("CARGO_PKG_VERSION"),
        });
        (ok, report)
    }
}

impl Observe for Health {
    fn observe(&self, event: Event) {
        match event {
            Event::ListenerOpened => self.listener.store(UP, Ordering::Relaxed),
            Event::DrainStarted => self.listener.store(DOWN, Ordering::Relaxed),
            Event::PoliciesReloaded(Reload::Done(epoch)) => self.epoch.store(epoch.0.max(1), Ordering::Relaxed),
            Event::ServerLost => {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
            Event::ServerFound => {
                self.lost.fetch_sub(1, Ordering::Relaxed);
            }
            Event::LockLost => {
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
            Event::LockRestored => {
                self.refused.fetch_sub(1, Ordering::Relaxed);
            }
            Event::AuditFailed { refuses } => self.unrecorded.store(refuses, Ordering::Relaxed),
            Event::AuditRestored => self.unrecorded.store(false, Ordering::Relaxed),
            Event::PoliciesReloaded(Reload::Failed)
            | Event::AuditWritten { records: _, took: _ }
            | Event::ThreatFound { rule: _, mode: _ }
            | Event::ConnectionAccepted
            | Event::ConnectionClosed
            | Event::ConnectionRejected(_)
            | Event::AuthSucceeded
            | Event::AuthFailed
            | Event::StatementReviewed { command: _, protocol: _, verdict: _ }
            | Event::Cached(_)
            // The loss of what is optional does not make a process unhealthy.
            | Event::Redis(_)
            | Event::TemplateHit
            | Event::TemplateMissed
            | Event::PoolWaited(_)
            | Event::PoolTimedOut
            // What one connection meets, a client's own settings for example, says nothing of the server.
            | Event::BackendOpened
            | Event::BackendClosed
            | Event::BackendFailed
            | Event::LatencyAdded(_) => {}
        }
    }
}

/// What the routes read.
#[derive(Clone, Debug)]
pub struct Admin {
    pub health: Arc<Health>,
    /// `None`: `/metrics` is not served.
    pub metrics: Option<Arc<Metrics>>,
    /// `None`: there is no result cache.
    pub cache: Option<cache::Kept>,
}

/// Serves until `stop` resolves.
///
/// # Errors
/// What the listener gives.
pub async fn serve(listener: TcpListener, admin: Admin, stop: impl Future<Output = ()> + Send + 'static) -> std::io::Result<()> {
    axum::serve(listener, routes(admin)).with_graceful_shutdown(stop).await
}

fn routes(admin: Admin) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/cache", get(cache::report))
        .route("/cache/purge", post(cache::purge))
        .with_state(admin)
}

async fn health(State(admin): State<Admin>) -> Response {
    let (ok, report) = admin.health.report();
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{report}\n")).into_response()
}

async fn metrics(State(admin): State<Admin>) -> Response {
    if let (Some(metrics), Some(kept)) = (&admin.metrics, &admin.cache) {
        let (answers, bytes, evictions) = kept.cache.size();
        metrics.note_cache(answers, bytes, evictions);
    }
    match admin.metrics.map(|m| m.encode()) {
        Some(Ok(text)) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Some(Err(error)) => {
            tracing::error!(%error, "metrics cannot be encoded");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
        None => (StatusCode::NOT_FOUND, "metrics are off: [metrics] enabled = false\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::PolicyEpoch;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn fetch(address: std::net::SocketAddr, path: &str) -> String {
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn health_is_503_until_clients_can_be_served_and_when_they_no_longer_can() {
        let health = Arc::new(Health::default());
        let metrics = Some(Arc::new(Metrics::new().unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server =
            tokio::spawn(serve(listener, Admin { health: Arc::clone(&health), metrics, cache: None }, std::future::pending()));

        assert!(fetch(address, "/health").await.starts_with("HTTP/1.1 503"));
        for event in [Event::ListenerOpened, Event::PoliciesReloaded(Reload::Done(PolicyEpoch(3)))] {
            health.observe(event);
        }
        let answer = fetch(address, "/health").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"policy_epoch\":3"), "{answer}");
        health.observe(Event::ServerLost);
        assert!(fetch(address, "/health").await.contains("\"upstream\":\"down\""));
        health.observe(Event::ServerFound);
        health.observe(Event::LockLost);
        let answer = fetch(address, "/health").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("second lock"), "{answer}");
        health.observe(Event::LockRestored);
        assert!(fetch(address, "/health").await.starts_with("HTTP/1.1 200"));
        assert!(fetch(address, "/metrics").await.contains("\nbulkhead_build_info{version="));
        server.abort();
    }
}
