//! `/api/v1/expected`

use std::error::Error;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Uri, header};
use http_body_util::LengthLimitError;
use tokio::time::timeout;
use utoipa::ToSchema;

use super::query::{FromQuery, Paging, Parameters};
use super::state::{ApiState, JsonResult};
use crate::db::queries::expected::{Expected, ExpectedQuery, ExpectedState, Filter};
use crate::db::queries::{Page, QueryError};
use crate::db::{DbError, Registered};
use crate::execution::identifier::{Identifier, IdentifierOrInteger};
use crate::http::problem::{ApiProblems, Problem, RegistrationProblems};
use crate::trigger::Triggered;

/// The largest accepted body of a registration.
const MAX_BYTES: usize = 1 << 20;
/// Time limit for reading a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for writing to PostgreSQL.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

impl FromQuery for ExpectedQuery {
    fn from_query(p: &mut Parameters) -> Result<Self, Problem> {
        let filter = Filter { state: p.choice("state")?, bulk: p.text("bulk")?, ..Filter::default() };
        let page = p.page::<Self>(&filter)?;
        Ok(Self { filter, page })
    }
}

/// The response of trigger or bulk-trigger, unchanged. Other fields are ignored. A caller can add references and the
/// workflow.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for `/openapi.json` only; `Triggered::parse` reads responses")]
pub(super) struct TriggerResponse {
    /// The execution of a single trigger.
    #[schema(required = false)]
    execution_id: Option<IdentifierOrInteger>,
    /// The bulk of a bulk-trigger.
    #[schema(required = false)]
    bulk_id: Option<IdentifierOrInteger>,
    /// One item for each input of a bulk-trigger, in the order of the inputs.
    #[schema(required = false)]
    executions: Option<Vec<TriggeredInput>>,
    /// The workflow that was triggered.
    #[schema(required = false)]
    workflow_id: Option<IdentifierOrInteger>,
    /// For a single trigger: the reference of the caller, an object of strings, numbers or booleans.
    #[schema(required = false)]
    reference: serde_json::Value,
    /// For a bulk-trigger: one reference for each input, in the order of the inputs; null for none.
    #[schema(required = false)]
    references: Option<Vec<serde_json::Value>>,
}

/// An item of a bulk-trigger's response.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for `/openapi.json` only")]
pub(super) struct TriggeredInput {
    /// The execution. Missing if the input was rejected.
    #[schema(required = false)]
    execution_id: Option<IdentifierOrInteger>,
    /// queued, or failed if the input was rejected: a string.
    #[schema(required = false)]
    status: serde_json::Value,
    /// Why the input was rejected: a string.
    #[schema(required = false)]
    message: serde_json::Value,
    /// The reference of the caller for this input. Overrides the item in `references`.
    #[schema(required = false)]
    reference: serde_json::Value,
}

/// List expected executions, newest registrations first
///
/// These are the inputs of registered responses of trigger and bulk-trigger. The inputs of a bulk are in their order.
#[utoipa::path(
    get, path = "/api/v1/expected", tag = "Bulks",
    params(
        ("state" = inline(Option<ExpectedState>), Query, description = "Only executions that are missing (also the overdue ones), overdue, or arrived, or inputs that were rejected."),
        ("bulk" = inline(Option<Identifier>), Query, description = "Only this bulk."),
        Paging,
    ),
    responses((status = 200, body = Page<Expected>, description = "A page of expected executions."), ApiProblems)
)]
pub(super) async fn list_expected(State(api): ApiState, uri: Uri) -> JsonResult<Page<Expected>> {
    api.list::<ExpectedQuery>(&uri).await
}

/// Register the response of trigger or bulk-trigger
///
/// Send the response unchanged, as application/json. The bulk then has an exact expected size, and missing executions are
/// listed. Registering the same response again changes nothing. Webhooks may arrive before the registration.
#[utoipa::path(
    post, path = "/api/v1/expected", tag = "Bulks",
    request_body(
        content = TriggerResponse, content_type = "application/json",
        example = json!({
            "bulk_id": "spring-catalogue",
            "executions": [
                { "execution_id": "exec-104", "status": "queued" },
                { "status": "failed", "message": "The input has no prompt." }
            ],
            "references": [{ "order": "1234" }, null]
        })
    ),
    responses((status = 200, body = Registered, description = "The response is registered."), RegistrationProblems)
)]
pub(super) async fn register_expected(State(api): ApiState, request: Request) -> JsonResult<Registered> {
    Parameters::of(request.uri()).finish()?;
    // A web page can send JSON to another origin only after a preflight request, which is answered 401 or 405.
    if !is_json(request.headers()) {
        return Err(Problem::NotJsonType);
    }
    let body = read(request.into_body()).await?;
    let triggered = Triggered::parse(&body).map_err(Problem::NotATriggerResponse)?;
    let (pool, overdue_after) = (&api.admin.registration_pool, api.admin.settings.expected.overdue_after);
    let arguments = (&triggered, overdue_after);
    let register = pool.run_repeatable(WRITE_TIMEOUT, arguments, |db, (triggered, overdue_after)| {
        Box::pin(db.register(triggered, *overdue_after))
    });
    let registered = timeout(WRITE_TIMEOUT, register).await.unwrap_or(Err(DbError::TimedOut));
    let registered = registered.map_err(|error| QueryError::Failed(error.without_row_blame()))?;
    registered.map(Json).map_err(Problem::AlreadyRegistered)
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

async fn read(body: Body) -> Result<Bytes, Problem> {
    let read = timeout(BODY_TIMEOUT, to_bytes(body, MAX_BYTES)).await.map_err(|_| Problem::Interrupted)?;
    read.map_err(|error| {
        let too_large = error.source().is_some_and(<dyn Error>::is::<LengthLimitError>);
        if too_large { Problem::RegistrationTooLarge { max_bytes: MAX_BYTES } } else { Problem::Interrupted }
    })
}
