//! The API: `/api/v1` on the admin port, and `/openapi.json`. All paths only read, except `POST /api/v1/expected` and `POST
//! /api/v1/reconcile`.
//!
//! A file has the parameters, handlers and documentation of one resource; its queries are in [`crate::db::queries`].
//! `routes` registers the handlers; a handler's name is its `operationId`. A list with pages also needs a variant of
//! [`crate::db::queries::page::List`] for its cursors. Within `v1`, fields and paths are added, never renamed or removed.

mod bulks;
mod changes;
mod conflicts;
mod events;
mod executions;
mod expected;
mod export;
mod failures;
mod openapi;
mod overview;
mod predictions;
mod quarantine;
pub(super) mod query;
mod reconcile;
mod results;
mod state;
mod workflows;

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http_body_util::BodyExt;
use tokio::time::timeout;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};
use utoipa_axum::routes;

use self::state::Api;
use super::auth;
use super::state::AdminState;
use crate::db::queries::QueryError;
use crate::db::queries::pool::MAX_WAIT;
use crate::http::problem::Problem;

/// Responses up to this many bytes do not count as large.
const SMALL_RESPONSE: u64 = 1 << 20;

pub(super) fn routes(admin: AdminState) -> Router {
    let (credentials, webhook_port) = (admin.credentials.clone(), admin.webhook_address.port());
    let api = Api::new(admin);
    let bounded = documented([
        routes!(overview::get_overview),
        routes!(workflows::list_workflows),
        routes!(executions::list_executions),
        routes!(executions::get_execution),
        routes!(results::list_results),
        routes!(predictions::list_predictions),
        routes!(predictions::get_prediction),
        routes!(failures::list_failures),
        routes!(bulks::list_bulks),
        routes!(bulks::get_bulk),
        routes!(expected::list_expected, expected::register_expected),
        routes!(conflicts::list_conflicts),
        routes!(conflicts::get_conflict),
        routes!(quarantine::list_quarantine),
        routes!(quarantine::get_quarantined),
    ]);
    let streams = documented([
        routes!(changes::list_changes),
        routes!(events::follow_events),
        routes!(export::export_executions),
        routes!(export::export_predictions),
        routes!(export::export_results),
        routes!(reconcile::reconcile),
    ]);
    let (v1, document) = bounded
        .layer(middleware::from_fn_with_state(api.clone(), limit_large_responses))
        .merge(streams)
        .layer(middleware::from_fn_with_state(api.clone(), count_response))
        .split_for_parts();
    let document = openapi::document(document, webhook_port);
    v1.route("/openapi.json", get(async move || ([(header::CONTENT_TYPE, "application/json")], document)))
        .layer(middleware::from_fn(auth::require_operate))
        .layer(middleware::map_response(no_store))
        .layer(middleware::from_fn_with_state((credentials, auth::LOCAL_HOSTS), auth::check_host))
        .with_state(api)
}

/// Combines the results of `routes!`, which contain the handlers and their documentation for `/openapi.json`.
fn documented<const N: usize>(routes: [UtoipaMethodRouter<Arc<Api>>; N]) -> OpenApiRouter<Arc<Api>> {
    routes.into_iter().fold(OpenApiRouter::new(), OpenApiRouter::routes)
}

async fn count_response(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    api.admin.metrics.api_answered(response.status().as_u16());
    response
}

/// Limits the number of responses in memory. A large response counts until it is sent, a small one until its handler
/// returns.
async fn limit_large_responses(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let permit = timeout(MAX_WAIT, api.responses.clone().acquire_owned()).await;
    let Some(permit) = permit.ok().and_then(Result::ok) else {
        return Problem::from(QueryError::Busy).into_response();
    };
    let response = next.run(request).await;
    if response.body().size_hint().upper().is_some_and(|size| size <= SMALL_RESPONSE) {
        return response;
    }
    response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _held = &permit;
            frame
        }))
    })
}

/// Adds `Cache-Control: no-store` and `X-Content-Type-Options: nosniff`.
async fn no_store(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
