//! Comparisons over HTTP: the last report from memory, the others from the state, and a wish for a new one.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Http, problem};
use crate::pipeline::Moment;
use crate::state::reconcile::Run;

/// What is to be compared.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wanted {
    /// So many documents and rows of each mapping; without it, everything.
    sample: Option<u32>,
}

/// `GET /reconcile`: the last report.
pub(super) async fn last(State(http): State<Http>) -> Response {
    if let Some(last) = http.status.snapshot(Moment::now()).reconcile {
        return Json(last.report.as_ref().clone()).into_response();
    }
    match http.operator.reconcile_history().await {
        Ok(runs) => match runs.into_iter().find_map(|run| run.report) {
            Some(report) => Json(report).into_response(),
            None => problem(StatusCode::NOT_FOUND, "nothing was compared yet"),
        },
        Err(unavailable) => unavailable.into_response(),
    }
}

/// `GET /reconcile/history`: the last runs, without what they found.
pub(super) async fn history(State(http): State<Http>) -> Response {
    match http.operator.reconcile_history().await {
        Ok(runs) => {
            let runs: Vec<Value> = runs.iter().map(|run| told(run, false)).collect();
            Json(json!({ "runs": runs })).into_response()
        }
        Err(unavailable) => unavailable.into_response(),
    }
}

/// `GET /reconcile/{id}`: how far it is, and what it has found.
pub(super) async fn one(State(http): State<Http>, Path(id): Path<String>) -> Response {
    let Ok(id) = id.parse() else { return problem(StatusCode::NOT_FOUND, "there is no such comparison") };
    match http.operator.reconcile_run(id).await {
        Ok(Some(run)) => Json(told(&run, true)).into_response(),
        Ok(None) => problem(StatusCode::NOT_FOUND, "there is no such comparison"),
        Err(unavailable) => unavailable.into_response(),
    }
}

/// `POST /reconcile`
pub(super) async fn start(State(http): State<Http>, body: Bytes) -> Response {
    let wanted: Wanted = match body.is_empty() {
        true => Wanted::default(),
        false => match serde_json::from_slice(&body) {
            Ok(wanted) => wanted,
            Err(_) => {
                return problem(StatusCode::BAD_REQUEST, "the body is {} or {\"sample\": <documents>}");
            }
        },
    };
    match http.operator.reconcile(wanted.sample).await {
        Ok(Some(asked)) => {
            let message = match asked.led {
                true => "it begins within seconds",
                false => "no daemon leads now: the next one begins it",
            };
            let body = json!({ "id": asked.id, "led": asked.led, "message": message });
            (StatusCode::ACCEPTED, Json(body)).into_response()
        }
        Ok(None) => problem(StatusCode::CONFLICT, "another comparison is going on or was asked for"),
        Err(unavailable) => unavailable.into_response(),
    }
}

fn told(run: &Run, whole: bool) -> Value {
    let verdict = run.report.as_ref().map_or(Value::Null, |report| report["verdict"].clone());
    let mut told = json!({
        "id": run.id, "extent": run.extent, "cause": run.cause, "state": run.state, "verdict": verdict,
        "started_at": run.started_at, "finished_at": run.finished_at,
    });
    if whole {
        let progress = run.progress.as_ref();
        told["progress"] = progress.map_or(Value::Null, |so_far| json!({ "sources": so_far["sources"] }));
        told["report"] = run.report.clone().unwrap_or(Value::Null);
    }
    told
}
