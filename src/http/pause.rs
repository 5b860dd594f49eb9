//! The twins of `rowstream pause` and `rowstream resume`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::Http;

/// `POST /pause`: nothing is applied until `POST /resume`, also after a restart.
pub(super) async fn pause(State(http): State<Http>) -> Response {
    match http.operator.pause().await {
        Ok(()) => {
            let message = "nothing is applied from within seconds on, until it is resumed";
            (StatusCode::ACCEPTED, Json(json!({ "paused": true, "message": message }))).into_response()
        }
        Err(unavailable) => unavailable.into_response(),
    }
}

/// `POST /resume`
pub(super) async fn resume(State(http): State<Http>) -> Response {
    match http.operator.resume().await {
        Ok(was_paused) => {
            let message = if was_paused { "it goes on within seconds" } else { "it was not paused" };
            (StatusCode::ACCEPTED, Json(json!({ "paused": false, "message": message }))).into_response()
        }
        Err(unavailable) => unavailable.into_response(),
    }
}
