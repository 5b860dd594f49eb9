//! What people, probes and Prometheus ask. Reads the status and never a database, so every answer
//! comes while both servers are away; but for held changes, which only PostgreSQL knows. What changes something
//! must pass `access`.

mod access;
mod connection;
mod health;
mod held;
mod page;
mod pause;

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use serde::Serialize;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

pub use access::{Access, Changes};
pub use health::{Check, CheckStatus, Health, HealthMemory, evaluate};

use crate::config;
use crate::metrics::Metrics;
use crate::operator::Operator;
use crate::pipeline::{Moment, Role, Status, StatusSnapshot};

/// What can be asked; also the answer to everything else.
const ENDPOINTS: [&str; 13] = [
    "/",
    "/health",
    "/livez",
    "/readyz",
    "/metrics",
    "/status",
    "/status/{source}/{source_id}",
    "/held",
    "/held/summary",
    "POST /pause",
    "POST /resume",
    "POST /held/retry",
    "POST /held/discard",
];

/// Health is evaluated this often even if nobody asks, so that `since` and the log are true.
const HEALTH_PERIOD: Duration = Duration::from_secs(1);

/// Of a request's body: some hundred keys. Below what a connection may send at all, so that it is answered.
const BODY_BYTES: usize = 12 * 1024;

/// Open connections may finish their answer for this long after the shutdown began.
const DRAIN: Duration = Duration::from_secs(2);

/// What the handlers read. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Http {
    status: Status,
    metrics: Arc<Metrics>,
    limits: config::Health,
    memory: Arc<Mutex<HealthMemory>>,
    access: Access,
    operator: Operator,
}

impl Http {
    pub fn new(
        status: Status,
        metrics: Arc<Metrics>,
        limits: config::Health,
        access: Access,
        operator: Operator,
    ) -> Self {
        Self { status, metrics, limits, memory: Arc::default(), access, operator }
    }

    /// As `/health` would answer now.
    pub fn health(&self) -> Health {
        self.evaluate(&self.status.snapshot(Moment::now()))
    }

    fn evaluate(&self, status: &StatusSnapshot) -> Health {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        evaluate(status, &self.limits, &mut memory)
    }
}

/// Answers until `shutdown` is over, then lets open connections finish for two seconds.
pub async fn serve(
    listener: TcpListener,
    http: Http,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (began, begun) = oneshot::channel::<()>();
    let watch = http.clone();
    let answer =
        axum::serve(connection::Listener::new(listener), router(http)).with_graceful_shutdown(async {
            shutdown.await;
            drop(began);
        });
    let drained = async {
        // Its sender is only ever dropped: that is the message.
        begun.await.ok();
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        result = answer => result,
        () = drained => Ok(()),
        () = watch_health(watch) => Ok(()),
    }
}

/// Keeps the memory of health current, and tells the log what changed.
async fn watch_health(http: Http) {
    let mut timer = tokio::time::interval(HEALTH_PERIOD);
    let mut before: Option<Health> = None;
    loop {
        timer.tick().await;
        let now = http.health();
        for (check, was) in now.checks.iter().zip(before.iter().flat_map(|health| &health.checks)) {
            if check.status == was.status {
                continue;
            }
            let (name, was, is, detail) =
                (check.name, was.status.as_str(), check.status.as_str(), &check.detail);
            if check.status == CheckStatus::Ok {
                tracing::info!(
                    event = "health_recovered",
                    severity = "info",
                    check = name,
                    was,
                    is,
                    detail,
                    "health check recovered"
                );
            } else {
                let severity = if check.status == CheckStatus::Failing { "error" } else { "warning" };
                tracing::warn!(
                    event = "health_fell",
                    severity,
                    check = name,
                    was,
                    is,
                    detail,
                    "health check fell"
                );
            }
        }
        before = Some(now);
    }
}

fn router(http: Http) -> Router {
    Router::new()
        .route("/", get(page::page))
        .route("/health", get(health))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route("/status/{source}/{source_id}", get(held::document))
        .route("/held", get(held::list))
        .route("/held/summary", get(held::summary))
        .route("/pause", post(pause::pause))
        .route("/resume", post(pause::resume))
        .route("/held/retry", post(held::retry))
        .route("/held/discard", post(held::discard))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .layer(middleware::from_fn_with_state(http.clone(), access::guard))
        .layer(middleware::map_response(harden))
        .with_state(http)
}

/// 200 while it works or will by itself, 503 when somebody must look.
async fn health(State(http): State<Http>) -> Response {
    let health = http.health();
    let code = match health.status {
        CheckStatus::Ok | CheckStatus::Degraded => StatusCode::OK,
        CheckStatus::Failing => StatusCode::SERVICE_UNAVAILABLE,
    };
    (code, Json(health)).into_response()
}

/// Follows the loop alone: a restart does not bring a server back.
async fn livez(State(http): State<Http>) -> Response {
    let status = http.status.snapshot(Moment::now());
    let idle = status.at.since(status.last_progress_at).as_secs_f64();
    probe(status.is_alive(), json!({ "alive": status.is_alive(), "seconds_since_progress": idle }))
}

/// Can this process do its part? Lag and the outage of a server are no reason to fall: that would take
/// an application out of service which runs beside it, and restart nothing that helps.
async fn readyz(State(http): State<Http>) -> Response {
    let status = http.status.snapshot(Moment::now());
    let ready = match status.role {
        Role::Leader | Role::Standby => true,
        // Once started, it only waits for its lease.
        Role::Starting => status.has_started,
        Role::Halted | Role::Stopping => false,
    };
    probe(ready, json!({ "ready": ready, "role": status.role }))
}

fn probe(passes: bool, body: serde_json::Value) -> Response {
    let code = if passes { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(body)).into_response()
}

async fn metrics(State(http): State<Http>) -> Response {
    let status = http.status.snapshot(Moment::now());
    let health = http.evaluate(&status);
    let checks: Vec<_> = health.checks.iter().map(|check| (check.name, check.status.as_number())).collect();
    match http.metrics.encode(&status, &checks) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(event = "metrics_failed", severity = "error", %error, "metrics could not be encoded");
            problem(StatusCode::INTERNAL_SERVER_ERROR, "metrics could not be encoded")
        }
    }
}

/// What `/status` answers.
#[derive(Debug, Serialize)]
struct Told {
    #[serde(flatten)]
    status: StatusSnapshot,
    /// By what a request that changes something is let through here.
    changes: Changes,
}

async fn status(State(http): State<Http>) -> Json<Told> {
    Json(Told { status: http.status.snapshot(Moment::now()), changes: http.access.changes() })
}

async fn not_found() -> Response {
    problem(StatusCode::NOT_FOUND, "there is no such page")
}

async fn method_not_allowed() -> Response {
    // axum itself adds which ones are.
    problem(StatusCode::METHOD_NOT_ALLOWED, "this method is not served here: see the header Allow")
}

fn problem(code: StatusCode, error: &str) -> Response {
    (code, Json(json!({ "error": error, "endpoints": ENDPOINTS }))).into_response()
}

/// Nothing is cached, sniffed, framed or loaded from elsewhere.
async fn harden(mut response: Response) -> Response {
    const HEADERS: [(HeaderName, &str); 5] = [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    ];
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        // The page brings a policy of its own.
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests;
