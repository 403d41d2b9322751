//! `POST /api/v1/reconcile`: fetches missed webhooks, and streams the progress.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::query::Parameters;
use super::state::ApiState;
use crate::db::queries::period::Time;
use crate::execution::identifier::Identifier;
use crate::http::origin::is_from_a_web_page;
use crate::http::problem::{Problem, ReconcileProblems};
use crate::reconcile::{Event, Scope};

/// Maximum events that the client has not read yet. When the queue is full, the run waits.
const QUEUE: usize = 64;

/// A response, for `/openapi.json`.
const EXAMPLE: &str = r#"{"type":"execution","execution_id":"exec-104","result":"fetched"}
{"type":"done","checked":120,"recorded":119,"fetched":1,"missing":0,"running":0,"absent":0,"unusable":0,"other_urls":0}
"#;

/// Fetch missed webhooks from the sender
///
/// Compares executions of `each::labs` with the recorded ones, and records those whose webhook did not arrive. Exactly one of
/// `execution`, `bulk`, `workflow` and `since` is required; `workflow` can be added to `bulk`. Each line of the response is an
/// event. Its `type` is `waiting` while another run is active, `execution` for an execution that is not recorded, `progress`,
/// and at the end `done` or `failed`. If the client closes the connection, the run ends. It can be repeated. Needs
/// `eachlabs.api_key`.
#[utoipa::path(
    post, path = "/api/v1/reconcile", tag = "Missed webhooks",
    params(
        ("execution" = inline(Option<Identifier>), Query, description = "Only this execution."),
        ("bulk" = inline(Option<Identifier>), Query, description = "Only this bulk."),
        ("workflow" = inline(Option<Identifier>), Query, description = "Only this workflow, or the workflow of the bulk: required if no execution of the bulk is recorded."),
        ("since" = inline(Option<Time>), Query, description = "Everything that ended at this time or later: an RFC 3339 time, how long ago (30m, 1h, 7d), today or yesterday (UTC)."),
        ("dry_run" = inline(Option<bool>), Query, description = "Only report what is missing."),
    ),
    responses(
        (status = 200, body = String, content_type = "application/jsonl", description = "The progress.", example = json!(EXAMPLE)),
        ReconcileProblems,
    )
)]
pub(super) async fn reconcile(
    State(api): ApiState,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    // A web page could send this request without reading the response.
    if is_from_a_web_page(&headers) {
        return Err(Problem::CrossSite);
    }
    let mut p = Parameters::of(&uri);
    let (execution, bulk, workflow) = (p.text("execution")?, p.text("bulk")?, p.text("workflow")?);
    let (since, dry_run) = (p.time("since")?, p.flag("dry_run")?);
    p.finish()?;
    let scope = match (execution, bulk, workflow, since) {
        (Some(execution), None, None, None) => Scope::Executions(vec![execution]),
        (None, Some(bulk), workflow, None) => Scope::Bulk { bulk, workflow },
        (None, None, Some(workflow), None) => Scope::Workflow(workflow),
        (None, None, None, Some(since)) => Scope::Since(since),
        _ => {
            let why = "must be given, unless execution, bulk or workflow is given. Only bulk and workflow can be combined";
            return Err(Problem::parameter("since", why));
        }
    };
    let reconciler = api.admin.reconciler.clone().ok_or(Problem::NoApiKey)?;
    let permit = api.reconcile_permit()?;
    let closing = api.admin.closing.clone();
    let (sender, events) = mpsc::channel(QUEUE);
    let run = async move {
        let _permit = permit;
        let run = reconciler.run(&scope, dry_run, Some(sender.clone()));
        let last = tokio::select! {
            (counts, result) = run => match result {
                Ok(()) => Event::Done(counts),
                Err(error) => Event::Failed { error: error.to_string(), counts },
            },
            () = closing.cancelled() => return,
        };
        let _ = sender.send(last).await;
    };
    // Dropping the set ends the run.
    let run = JoinSet::from_iter([run]);
    let lines = stream::unfold((events, run), |(mut events, run)| async {
        let event = events.recv().await?;
        let line = serde_json::to_string(&event).unwrap_or_default() + "\n";
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(line)), (events, run)))
    });
    Ok(([(header::CONTENT_TYPE, "application/jsonl")], Body::from_stream(lines)).into_response())
}
