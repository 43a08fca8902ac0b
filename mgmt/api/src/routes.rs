//! Paths and what they answer.

use crate::gather::Gatherer;
use crate::health::{Level, health};
use crate::status::{About, ServerStatus};
use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use std::sync::Arc;

/// What every route needs.
pub struct Shared {
    /// What does not change.
    pub about: About,
    /// The way to the cores.
    pub gatherer: Gatherer,
}

type Context = State<Arc<Shared>>;

/// All routes.
pub fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics))
        .route("/metrics/json", get(metrics_json))
        .route("/health", get(health_of))
        .route("/ready", get(ready))
        .route("/v1/status", get(status))
        .with_state(shared)
}

async fn index() -> &'static str {
    "CoreFS\n/metrics       OpenMetrics text\n/metrics/json  the same as JSON\n/health        200 healthy, 202 degraded, 503 critical\n/ready         200 once every core answers\n/v1/status     the server in brief\n"
}

async fn metrics(State(shared): Context) -> ([(HeaderName, &'static str); 1], String) {
    let text = cfs_observe::openmetrics(&*shared.gatherer.snapshot().await);
    ([(CONTENT_TYPE, cfs_observe::CONTENT_TYPE)], text)
}

async fn metrics_json(State(shared): Context) -> Response {
    json(StatusCode::OK, &cfs_observe::families(&*shared.gatherer.snapshot().await))
}

async fn health_of(State(shared): Context) -> Response {
    let health = health(&*shared.gatherer.snapshot().await);
    let code = match health.status {
        Level::Healthy => StatusCode::OK,
        Level::Degraded => StatusCode::ACCEPTED,
        Level::Critical => StatusCode::SERVICE_UNAVAILABLE,
    };
    json(code, &health)
}

async fn ready(State(shared): Context) -> (StatusCode, &'static str) {
    match shared.gatherer.snapshot().await.silent().next() {
        None => (StatusCode::OK, "ready\n"),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
    }
}

async fn status(State(shared): Context) -> Response {
    json(StatusCode::OK, &ServerStatus::of(&shared.about, &*shared.gatherer.snapshot().await))
}

fn json(code: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_string_pretty(body) {
        Ok(text) => (code, [(CONTENT_TYPE, "application/json")], text + "\n").into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
