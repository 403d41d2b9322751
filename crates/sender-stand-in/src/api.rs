//! The API: the current paths, and the older ones below `/api/v1`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Value, json};

use super::store::Trigger;
use super::{Shared, webhook};

const MAX_LIMIT: usize = 100;
const DEFAULT_LIMIT: usize = 50;
const MAX_BULK: usize = 10;

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/workflows/trigger/{workflow}/{version}", post(trigger))
        .route("/v1/workflows/bulk-trigger/{workflow}/{version}", post(bulk_trigger))
        .route("/v1/workflows/executions/{execution}", get(execution))
        .route("/v1/workflows/{workflow}/executions", get(list))
        .route("/v1/webhooks", get(delivery_log))
        .route("/v1/webhooks/{execution}", get(delivery))
        .route("/api/v1/{workflow}/trigger", post(older_trigger))
        .route("/api/v1/{workflow}/bulk-trigger", post(older_bulk_trigger))
        .route("/api/v1/executions/{execution}", get(execution))
        .route("/api/v1/{workflow}/executions", get(older_list))
        .layer(middleware::from_fn_with_state(shared.clone(), disturb))
        .with_state(shared)
}

/// Counts the request, checks its key, and lets some requests fail.
async fn disturb(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let number = shared.requests.fetch_add(1, Ordering::Relaxed) + 1;
    let is_due = |every: usize| every > 0 && number.is_multiple_of(every);
    if let Ok(status) = StatusCode::from_u16(shared.outage.load(Ordering::Relaxed)) {
        // A 404 for every request is the page of a proxy.
        if status == StatusCode::NOT_FOUND {
            return (status, "<html>default backend</html>").into_response();
        }
        return problem(status, "outage");
    }
    if request.uri().path().contains(super::REJECTED_ID) {
        return problem(StatusCode::FORBIDDEN, "rejected by a proxy");
    }
    let key = key(request.headers());
    if key.as_deref() != Some(&*shared.options.api_key) {
        // The error repeats the key: the receiver must not log it.
        let error = format!("invalid api key {}", key.unwrap_or_default());
        return problem(StatusCode::UNAUTHORIZED, &error);
    }
    if is_due(shared.options.throttle_every) {
        let retry_after = [("Retry-After", shared.options.retry_after.to_string())];
        return (retry_after, problem(StatusCode::TOO_MANY_REQUESTS, "too many executions")).into_response();
    }
    if is_due(shared.options.reset_every) {
        // The connection is closed within the response.
        let cut = stream::iter([Err::<&[u8], _>(std::io::Error::other("reset"))]);
        return Body::from_stream(cut).into_response();
    }
    next.run(request).await
}

fn key(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let bearer = text("authorization").and_then(|value| value.strip_prefix("Bearer "));
    text("x-api-key").or(bearer).map(str::to_owned)
}

fn problem(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({ "status": status.as_u16(), "error": error }))).into_response()
}

fn absent() -> Response {
    problem(StatusCode::NOT_FOUND, "not found")
}

#[derive(Deserialize)]
struct TriggerBody {
    #[serde(default)]
    inputs: Value,
    webhook_url: Option<String>,
    webhook_secret: Option<String>,
}

impl TriggerBody {
    fn trigger(&self, workflow: String, bulk: Option<String>, inputs: Value) -> Trigger {
        let (webhook_url, webhook_secret) = (self.webhook_url.clone(), self.webhook_secret.clone());
        Trigger { workflow, bulk, inputs, webhook_url, webhook_secret }
    }
}

type SharedState = State<Arc<Shared>>;

async fn trigger(
    State(shared): SharedState,
    Path((workflow, _)): Path<(String, String)>,
    Json(body): Json<TriggerBody>,
) -> Response {
    start(&shared, workflow, &body)
}

async fn older_trigger(
    State(shared): SharedState,
    Path(workflow): Path<String>,
    Json(body): Json<TriggerBody>,
) -> Response {
    start(&shared, workflow, &body)
}

fn start(shared: &Arc<Shared>, workflow: String, body: &TriggerBody) -> Response {
    let id = execute(shared, &body.trigger(workflow, None, body.inputs.clone()));
    Json(json!({ "execution_id": id, "status": "queued" })).into_response()
}

fn execute(shared: &Arc<Shared>, trigger: &Trigger) -> String {
    let id = shared.store().execute(trigger);
    if trigger.inputs["lose"] != true {
        webhook::deliver(shared, &id);
    }
    id
}

async fn bulk_trigger(
    State(shared): SharedState,
    Path((workflow, _)): Path<(String, String)>,
    Json(body): Json<TriggerBody>,
) -> Response {
    start_bulk(&shared, &workflow, &body)
}

async fn older_bulk_trigger(
    State(shared): SharedState,
    Path(workflow): Path<String>,
    Json(body): Json<TriggerBody>,
) -> Response {
    start_bulk(&shared, &workflow, &body)
}

/// The response lists the executions in the order of the inputs.
fn start_bulk(shared: &Arc<Shared>, workflow: &str, body: &TriggerBody) -> Response {
    let inputs = body.inputs.as_array().filter(|inputs| (1..=MAX_BULK).contains(&inputs.len()));
    let Some(inputs) = inputs.filter(|inputs| inputs.iter().all(Value::is_object)) else {
        return problem(StatusCode::BAD_REQUEST, "inputs must be 1 to 10 objects");
    };
    let bulk = shared.store().new_id();
    let executions = inputs.iter().map(|input| {
        if input["reject"] == true {
            return json!({ "status": "failed", "message": "the input was rejected" });
        }
        let trigger = body.trigger(workflow.to_owned(), Some(bulk.clone()), input.clone());
        json!({ "execution_id": execute(shared, &trigger), "status": "queued" })
    });
    let executions: Vec<_> = executions.collect();
    (StatusCode::ACCEPTED, Json(json!({ "bulk_id": bulk, "executions": executions }))).into_response()
}

async fn execution(State(shared): SharedState, Path(id): Path<String>) -> Response {
    shared.store().find(&id).map_or_else(absent, |found| Json(&found.body).into_response())
}

#[derive(Deserialize)]
struct Paging {
    bulk_id: Option<String>,
    #[serde(default)]
    offset: usize,
    limit: Option<usize>,
}

impl Paging {
    fn limit(&self) -> usize {
        self.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT)
    }

    /// A page of `rows`, and the number of rows, which is `max_total` at most.
    fn page<T>(&self, rows: Vec<T>, max_total: usize) -> (Vec<T>, usize) {
        let total = rows.len().min(max_total);
        (rows.into_iter().skip(self.offset).take(self.limit()).collect(), total)
    }
}

/// The identifiers of bulks are UUIDs; another one is a bad request.
fn is_uuid(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

async fn list(
    State(shared): SharedState,
    Path(workflow): Path<String>,
    Query(paging): Query<Paging>,
) -> Response {
    list_page(&shared, &workflow, &paging, false)
}

async fn older_list(
    State(shared): SharedState,
    Path(workflow): Path<String>,
    Query(paging): Query<Paging>,
) -> Response {
    list_page(&shared, &workflow, &paging, true)
}

fn list_page(shared: &Shared, workflow: &str, paging: &Paging, is_older: bool) -> Response {
    if paging.bulk_id.as_deref().is_some_and(|bulk| !is_uuid(bulk)) {
        return problem(StatusCode::BAD_REQUEST, "bulk_id must be a UUID");
    }
    let Some(rows) = shared.store().rows(workflow, paging.bulk_id.as_deref()) else { return absent() };
    let (rows, total_count) = paging.page(rows, shared.options.max_total);
    let mut page = json!({ "limit": paging.limit(), "total_count": total_count });
    if is_older {
        // The start of the next page.
        page["offset"] = json!(paging.offset + rows.len());
    }
    page["executions"] = json!(rows);
    Json(page).into_response()
}

async fn delivery_log(State(shared): SharedState, Query(paging): Query<Paging>) -> Response {
    let rows: Vec<_> = shared.store().log().map(|delivery| delivery.show(false)).collect();
    let (webhooks, total_count) = paging.page(rows, shared.options.max_total);
    let (limit, offset) = (paging.limit(), paging.offset);
    let page = json!({ "webhooks": webhooks, "limit": limit, "offset": offset, "total_count": total_count });
    Json(page).into_response()
}

async fn delivery(State(shared): SharedState, Path(id): Path<String>) -> Response {
    let shown = shared.store().delivery(&id).map(|delivery| delivery.show(true));
    shown.map_or_else(absent, |shown| Json(shown).into_response())
}
