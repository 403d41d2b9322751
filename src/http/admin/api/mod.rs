//! What is recorded, as JSON for operators and their tools: `/api/v1` on the admin port, described by
//! `/openapi.json` and shown by `/docs`.
//!
//! What is asked stands in [`query`], what PostgreSQL is asked in [`crate::db::queries`]. Within `v1` things are added,
//! never renamed or removed.

mod csv;
mod docs;
mod events;
mod export;
mod handlers;
mod openapi;
mod parameters;
mod query;

use std::sync::Arc;

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http_body_util::BodyExt;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use self::parameters::Parameters;
use self::query::FromQuery;
use super::{AdminState, auth};
use crate::db::queries::pool::MAX_WAIT;
use crate::db::queries::{Query, QueryError};
use crate::http::problem::Problem;

/// How many may follow what happens at once. The admin port has more connections than these and the exports:
/// whatever they do, health and metrics are answered.
const LISTENERS: usize = 16;
/// How many exports may be under way at once.
const EXPORTS: usize = 4;

/// How many answers may be in memory, beside one for each connection to PostgreSQL.
const MORE_ANSWERS: usize = 2;
/// Answers up to this many bytes do not count once they are made.
const SMALL_ANSWER: u64 = 1 << 20;

/// What the routes share.
struct Api {
    admin: AdminState,
    answers: Arc<Semaphore>,
    listeners: Arc<Semaphore>,
    exports: Arc<Semaphore>,
}

/// The routes.
pub(super) fn routes(admin: AdminState) -> Router {
    let credentials = admin.credentials.clone();
    let openapi = openapi::document(admin.webhook_port);
    let answers = admin.pool.connections() + MORE_ANSWERS;
    let [answers, listeners, exports] =
        [answers, LISTENERS, EXPORTS].map(|places| Arc::new(Semaphore::new(places)));
    let api = Arc::new(Api { admin, answers, listeners, exports });
    Router::new()
        .route("/api/v1/overview", get(handlers::overview))
        .route("/api/v1/workflows", get(handlers::workflows))
        .route("/api/v1/executions", get(handlers::executions))
        .route("/api/v1/executions/{execution_id}", get(handlers::execution))
        .route("/api/v1/results", get(handlers::results))
        .route("/api/v1/bulks", get(handlers::bulks))
        .route("/api/v1/bulks/{bulk_id}", get(handlers::bulk))
        .route("/api/v1/failures", get(handlers::failures))
        .route("/api/v1/conflicts", get(handlers::conflicts))
        .route("/api/v1/conflicts/{conflict_id}", get(handlers::conflict))
        .route("/api/v1/quarantine", get(handlers::quarantine))
        .route("/api/v1/quarantine/{quarantine_id}", get(handlers::quarantined))
        .layer(middleware::from_fn_with_state(api.clone(), bound))
        .route("/api/v1/events", get(events::events))
        .route("/api/v1/export/executions", get(export::executions))
        .route("/api/v1/export/results", get(export::results))
        .layer(middleware::from_fn_with_state(api.clone(), count))
        .route("/openapi.json", get(async move || ([(header::CONTENT_TYPE, "application/json")], openapi)))
        .merge(docs::routes())
        .layer(middleware::map_response(no_store))
        .layer(middleware::from_fn_with_state(credentials, auth::reject_foreign_host))
        .with_state(api)
}

async fn count(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let answer = next.run(request).await;
    api.admin.metrics.api_answered(answer.status().as_u16());
    answer
}

/// Bounds the number of large answers in memory: one counts until it is sent.
async fn bound(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let place = timeout(MAX_WAIT, api.answers.clone().acquire_owned()).await;
    let Some(place) = place.ok().and_then(Result::ok) else {
        return Problem::from(QueryError::Busy).into_response();
    };
    let answer = next.run(request).await;
    if answer.body().size_hint().upper().is_some_and(|size| size <= SMALL_ANSWER) {
        return answer;
    }
    answer.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _held = &place;
            frame
        }))
    })
}

/// What is recorded is for nobody's cache, and nothing in it is what it is not said to be.
async fn no_store(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

impl Api {
    /// Puts a question to PostgreSQL.
    async fn ask<Q: Query>(&self, question: &Q) -> Result<Q::Answer, QueryError> {
        let asked = Instant::now();
        let answer = self.admin.pool.run(question).await;
        self.admin.metrics.api_read(asked.elapsed());
        answer
    }

    /// Answers what a URL asks.
    async fn answer<Q: FromQuery>(&self, uri: &Uri) -> Result<Json<Q::Answer>, Problem> {
        let question = read::<Q>(uri)?;
        Ok(Json(self.ask(&question).await?))
    }

    /// Answers with the one thing that is asked for.
    async fn one<T, Q>(&self, uri: &Uri, question: Q, what: &'static str) -> Result<Json<T>, Problem>
    where
        Q: Query<Answer = Option<T>>,
    {
        Parameters::of(uri).end()?;
        self.ask(&question).await?.map(Json).ok_or(Problem::NotRecorded { what })
    }
}

/// What a URL asks.
fn read<Q: FromQuery>(uri: &Uri) -> Result<Q, Problem> {
    let mut parameters = Parameters::of(uri);
    let question = Q::read(&mut parameters)?;
    parameters.end()?;
    Ok(question)
}
