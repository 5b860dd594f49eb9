//! Held changes over HTTP: the twins of `rowstream held`. They say which documents and why, never a value.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::{Http, problem};
use crate::domain::Reason;
use crate::operator::Unavailable;
use crate::state::held::{After, Filter, State as HeldState};

const LIMIT: i64 = 100;
const LARGEST_LIMIT: i64 = 1_000;

/// What a request says of the held changes it means.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wanted {
    source: Option<String>,
    table: Option<String>,
    state: Option<String>,
    reason: Option<String>,
    column: Option<String>,
    ids: Vec<String>,
    all: bool,
}

/// What is wrong with a request.
struct Mistake(String);

impl IntoResponse for Mistake {
    fn into_response(self) -> Response {
        problem(StatusCode::BAD_REQUEST, &self.0)
    }
}

impl IntoResponse for Unavailable {
    fn into_response(self) -> Response {
        let sentence = self.to_string();
        match &self {
            Self::Busy | Self::Silent | Self::Unreachable(_) | Self::NoState => {}
            Self::Failed(error) => {
                tracing::warn!(event = "request_failed", severity = "warning", %error, "a request could not be answered")
            }
        }
        problem(StatusCode::SERVICE_UNAVAILABLE, &sentence)
    }
}

impl Wanted {
    fn filter(self) -> Result<Filter, Mistake> {
        if !self.ids.is_empty() && self.source.is_none() {
            return Err(Mistake("ids are those of one source: say source as well".to_owned()));
        }
        let state = match self.state {
            None => None,
            Some(word) => Some(state_named(&word)?),
        };
        let reason = match self.reason {
            None => None,
            Some(word) => Some(reason_named(&word)?),
        };
        let (source, table, column, ids) = (self.source, self.table, self.column, self.ids);
        Ok(Filter { source, table, state, reason, column, ids })
    }
}

fn state_named(word: &str) -> Result<HeldState, Mistake> {
    let found = HeldState::ALL.into_iter().find(|state| state.as_str() == word);
    found.ok_or_else(|| Mistake("state is one of waiting, failed, resolved".to_owned()))
}

fn reason_named(word: &str) -> Result<Reason, Mistake> {
    let known = || Reason::ALL.map(Reason::as_str).join(", ");
    Reason::named(word).ok_or_else(|| Mistake(format!("reason is one of {}", known())))
}

/// `GET /held`
pub(super) async fn list(State(http): State<Http>, RawQuery(query): RawQuery) -> Response {
    let asked = match Asked::read(query.as_deref().unwrap_or_default()) {
        Ok(asked) => asked,
        Err(mistake) => return mistake.into_response(),
    };
    let page = match http.operator.held(&asked.filter, asked.after.as_ref(), asked.limit).await {
        Ok(page) => page,
        Err(unavailable) => return unavailable.into_response(),
    };
    let last = page.entries.last().filter(|_| page.has_more);
    let next = last.map(|last| asked.next(&last.source, &last.source_id));
    Json(json!({ "held": page.entries, "total": page.total, "next": next })).into_response()
}

/// `GET /held/summary`
pub(super) async fn summary(State(http): State<Http>, RawQuery(query): RawQuery) -> Response {
    let asked = match Asked::read(query.as_deref().unwrap_or_default()) {
        Ok(asked) => asked,
        Err(mistake) => return mistake.into_response(),
    };
    match http.operator.held_summary(&asked.filter).await {
        Ok(groups) => Json(json!({ "groups": groups })).into_response(),
        Err(unavailable) => unavailable.into_response(),
    }
}

/// `GET /status/{source}/{source_id}`: how one document stands.
pub(super) async fn document(
    State(http): State<Http>,
    Path((source, source_id)): Path<(String, String)>,
) -> Response {
    if source.contains('\0') || source_id.contains('\0') {
        return Mistake("neither a source nor an id can hold the character NUL".to_owned()).into_response();
    }
    match http.operator.document(&source, &source_id).await {
        Ok(Some(status)) => Json(status).into_response(),
        Ok(None) => problem(StatusCode::NOT_FOUND, "there is no such source"),
        Err(unavailable) => unavailable.into_response(),
    }
}

/// `POST /held/retry`: all that match, or all.
pub(super) async fn retry(State(http): State<Http>, body: Bytes) -> Response {
    let filter = match wanted(&body).and_then(Wanted::filter) {
        Ok(filter) => filter,
        Err(mistake) => return mistake.into_response(),
    };
    match http.operator.retry_held(&filter).await {
        Ok(retried) => {
            tracing::info!(
                event = "held_retry_asked",
                severity = "info",
                count = retried.count,
                "held changes are due"
            );
            let message = match retried.led {
                true => "they are due: their documents are read again within seconds",
                false => "they are due, but no daemon leads now: the next one tries them",
            };
            let body = json!({ "due": retried.count, "led": retried.led, "message": message });
            (StatusCode::ACCEPTED, Json(body)).into_response()
        }
        Err(unavailable) => unavailable.into_response(),
    }
}

/// `POST /held/discard`: these documents of one source, or by `all` whatever else matches.
pub(super) async fn discard(State(http): State<Http>, body: Bytes) -> Response {
    let filter = wanted(&body).and_then(|wanted| match wanted.all || !wanted.ids.is_empty() {
        true => wanted.filter(),
        false => Err(Mistake(
            "say which: {\"source\": …, \"ids\": […]}, or {\"all\": true} with any filter".to_owned(),
        )),
    });
    let filter = match filter {
        Ok(filter) => filter,
        Err(mistake) => return mistake.into_response(),
    };
    match http.operator.discard_held(&filter).await {
        Ok(count) => {
            tracing::warn!(event = "held_discarded", severity = "warning", count, "held changes discarded");
            let body = json!({
                "discarded": count,
                "message": "their rows keep their last good state until their documents change again",
            });
            Json(body).into_response()
        }
        Err(unavailable) => unavailable.into_response(),
    }
}

fn wanted(body: &[u8]) -> Result<Wanted, Mistake> {
    if body.is_empty() {
        return Ok(Wanted::default());
    }
    serde_json::from_slice(body)
        .map_err(|error| Mistake(format!("the body is not what is expected: {error}")))
}

/// A query string, read.
struct Asked {
    filter: Filter,
    after: Option<After>,
    limit: i64,
    /// As asked, without the place where the page begins.
    parameters: Vec<(String, String)>,
}

impl Asked {
    fn read(query: &str) -> Result<Self, Mistake> {
        let mut wanted = Wanted::default();
        let (mut after_source, mut after_id, mut limit) = (None, None, LIMIT);
        let mut parameters = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let value = value.into_owned();
            if value.contains('\0') {
                return Err(Mistake(format!("{name} cannot hold the character NUL")));
            }
            if !matches!(&*name, "after_source" | "after_id") {
                parameters.push((name.clone().into_owned(), value.clone()));
            }
            match &*name {
                "source" => wanted.source = Some(value),
                "table" => wanted.table = Some(value),
                "state" => wanted.state = Some(value),
                "reason" => wanted.reason = Some(value),
                "column" => wanted.column = Some(value),
                "id" => wanted.ids.push(value),
                "after_source" => after_source = Some(value),
                "after_id" => after_id = Some(value),
                "limit" => limit = limited(&value)?,
                _ => {
                    let known = "source, table, state, reason, column, id, limit, after_source, after_id";
                    return Err(Mistake(format!("a parameter is not known; there are {known}")));
                }
            }
        }
        let after = match (after_source, after_id) {
            (Some(source), Some(source_id)) => Some(After { source, source_id }),
            (None, None) => None,
            _ => return Err(Mistake("after_source and after_id belong together".to_owned())),
        };
        Ok(Self { filter: wanted.filter()?, after, limit, parameters })
    }

    fn next(&self, source: &str, source_id: &str) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(&self.parameters);
        query.append_pair("after_source", source).append_pair("after_id", source_id);
        format!("/held?{}", query.finish())
    }
}

fn limited(value: &str) -> Result<i64, Mistake> {
    let limit = value.parse().ok().filter(|limit| (1..=LARGEST_LIMIT).contains(limit));
    limit.ok_or_else(|| Mistake(format!("limit is a number from 1 to {LARGEST_LIMIT}")))
}
