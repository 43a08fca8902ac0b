//! Paths and what they answer.

use crate::devices::{DeviceRefused, PROOF_HEADER};
use crate::gather::Gatherer;
use crate::health::{Level, health};
use crate::scrub::{ScrubReport, ScrubStart};
use crate::status::{About, ServerStatus};
use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
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
        .route("/v1/scrub", get(scrub).post(scrub_start))
        .route("/v1/devices", get(devices).post(device_add))
        .route("/v1/devices/change", post(device_change))
        .with_state(shared)
}

async fn index() -> &'static str {
    "CoreFS\n/metrics       OpenMetrics text\n/metrics/json  the same as JSON\n/health        200 healthy, 202 degraded, 503 critical\n/ready         200 once every core answers\n/v1/status     the server in brief\n/v1/scrub      what reading and verifying everything has found; POST {\"unpaced\": false} starts it\n/v1/devices    the store's devices and how they are; POST adds one, see cfs device add; POST /v1/devices/change: cfs device retire\n"
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

async fn scrub(State(shared): Context) -> Response {
    json(StatusCode::OK, &ScrubReport::of(&*shared.gatherer.snapshot().await))
}

/// Wants a content type that no page of a browser sends elsewhere without being allowed to.
async fn scrub_start(State(shared): Context, headers: HeaderMap, body: String) -> Response {
    if headers.get(CONTENT_TYPE).is_none_or(|value| value != "application/json") {
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Type: application/json is wanted\n").into_response();
    }
    let start: ScrubStart = match serde_json::from_str(&body) {
        Ok(start) => start,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    match shared.gatherer.scrub(start.unpaced).await {
        Ok(()) => scrub(State(shared)).await,
        Err(silent) => (StatusCode::SERVICE_UNAVAILABLE, format!("cores {silent:?} do not answer\n")).into_response(),
    }
}

async fn devices(State(shared): Context) -> Response {
    json(StatusCode::OK, &shared.gatherer.devices().await)
}

/// The cores look at the proof: they know the secret.
async fn device_add(State(shared): Context, headers: HeaderMap, body: String) -> Response {
    answer(shared.gatherer.add_device(body, proof(&headers)).await)
}

/// As [`device_add`].
async fn device_change(State(shared): Context, headers: HeaderMap, body: String) -> Response {
    answer(shared.gatherer.change_device(body, proof(&headers)).await)
}

fn proof(headers: &HeaderMap) -> Option<String> {
    headers.get(PROOF_HEADER).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

fn answer(done: Result<impl Serialize, DeviceRefused>) -> Response {
    match done {
        Ok(done) => json(StatusCode::OK, &done),
        Err(DeviceRefused::Unproven) => {
            (StatusCode::FORBIDDEN, "a proof of the server's secret is wanted\n").into_response()
        }
        Err(DeviceRefused::Failed(why)) => (StatusCode::CONFLICT, why + "\n").into_response(),
    }
}

fn json(code: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_string_pretty(body) {
        Ok(text) => (code, [(CONTENT_TYPE, "application/json")], text + "\n").into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
