//! `/api/v1/export/…`: a whole list as JSON Lines, CSV or URLs. A page is read when the client has read the one before.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;

use super::query::{FromQuery, Parameters};
use super::state::{Api, ApiState};
use crate::db::queries::executions::{self, Executions};
use crate::db::queries::predictions::{self, Predictions};
use crate::db::queries::results::{self, ResultsQuery};
use crate::db::queries::{ListQuery, Scope, TimeRange};
use crate::export::{Encoding, Export, Format, ResultFormat};
use crate::http::problem::{ApiProblems, Problem};

// The beginnings of lines, for `/openapi.json`.
const JSONL: &str = r#"{"execution_id":"exec-104", …}"#;
const CSV: &str = "execution_id, …\r\n\"exec-104\", …\r\n";
const PREDICTION_JSONL: &str = r#"{"prediction_id":"pred-2", …}"#;
const PREDICTION_CSV: &str = "prediction_id, …\r\n\"pred-2\", …\r\n";
const URLS: &str = "https://storage.example.com/garden.png\n";

/// Export all executions, newest first
///
/// Accepts the filters of the list. A response without its last chunk is incomplete: PostgreSQL failed during the export.
#[utoipa::path(
    get, path = "/api/v1/export/executions", tag = "Changes and exports",
    params(
        ("format" = inline(Option<Format>), Query, description = "JSON Lines (the default) or CSV with a header line. In CSV, a text that a spreadsheet could run as a formula starts with an apostrophe."),
        executions::Filter, Scope, TimeRange,
    ),
    responses(
        (
            status = 200, description = "A line for each item of the list.",
            content((String = "application/jsonl", example = json!(JSONL)), (String = "text/csv", example = json!(CSV)))
        ),
        ApiProblems,
    )
)]
pub(super) async fn export_executions(State(api): ApiState, uri: Uri) -> Result<Response, Problem> {
    let mut parameters = Parameters::of_export(&uri);
    let encoding = parameters.choice::<Format>("format")?.unwrap_or_default().encoding();
    export::<Executions>(api, parameters, encoding, "executions").await
}

/// Export all predictions, newest first
///
/// Accepts the filters of the list. A response without its last chunk is incomplete: PostgreSQL failed during the export.
#[utoipa::path(
    get, path = "/api/v1/export/predictions", tag = "Changes and exports",
    params(
        ("format" = inline(Option<Format>), Query, description = "JSON Lines (the default) or CSV with a header line. In CSV, a text that a spreadsheet could run as a formula starts with an apostrophe."),
        predictions::Filter, TimeRange,
    ),
    responses(
        (
            status = 200, description = "A line for each item of the list.",
            content(
                (String = "application/jsonl", example = json!(PREDICTION_JSONL)),
                (String = "text/csv", example = json!(PREDICTION_CSV)),
            )
        ),
        ApiProblems,
    )
)]
pub(super) async fn export_predictions(State(api): ApiState, uri: Uri) -> Result<Response, Problem> {
    let mut parameters = Parameters::of_export(&uri);
    let encoding = parameters.choice::<Format>("format")?.unwrap_or_default().encoding();
    export::<Predictions>(api, parameters, encoding, "predictions").await
}

/// Export all results, newest executions and predictions first
///
/// Accepts the filters of the list. A response without its last chunk is incomplete: PostgreSQL failed during the export.
#[utoipa::path(
    get, path = "/api/v1/export/results", tag = "Changes and exports",
    params(
        ("format" = inline(Option<ResultFormat>), Query, description = "JSON Lines (the default), CSV with a header line, or the URLs, one per line. In CSV, a text that a spreadsheet could run as a formula starts with an apostrophe."),
        results::Filter, Scope, TimeRange,
    ),
    responses(
        (
            status = 200, description = "A line for each item of the list; as `urls`, for each URL.",
            content(
                (String = "application/jsonl", example = json!(JSONL)), (String = "text/csv", example = json!(CSV)),
                (String = "text/plain", example = json!(URLS)),
            )
        ),
        ApiProblems,
    )
)]
pub(super) async fn export_results(State(api): ApiState, uri: Uri) -> Result<Response, Problem> {
    let mut parameters = Parameters::of_export(&uri);
    let encoding = parameters.choice::<ResultFormat>("format")?.unwrap_or_default().encoding();
    export::<ResultsQuery>(api, parameters, encoding, "results").await
}

async fn export<L>(
    api: Arc<Api>,
    mut parameters: Parameters,
    encoding: Encoding<L::Row>,
    name: &str,
) -> Result<Response, Problem>
where
    L: FromQuery + ListQuery<Row: Send> + Send + 'static,
{
    let query = L::from_query(&mut parameters)?;
    parameters.finish()?;
    api.check_status(&query).await?;
    let permit = api.export_permit()?;
    let content_type = encoding.content_type.to_owned();
    let file = format!("attachment; filename=\"{name}.{}\"", encoding.extension);
    let mut export = Export::new(query, encoding);
    // An error of the first page can still become a problem response.
    let first = export.next(&api.admin).await?;
    let rest = stream::unfold((export, api, permit), |(mut export, api, permit)| async {
        match export.next(&api.admin).await {
            Ok(text) => text.map(|text| (Ok(Bytes::from(text)), (export, api, permit))),
            Err(error) => {
                tracing::warn!(%error, "an export is incomplete");
                Some((Err(error), (export, api, permit)))
            }
        }
    });
    let body = stream::StreamExt::chain(stream::iter(first.map(|text| Ok(Bytes::from(text)))), rest);
    let headers = [(header::CONTENT_TYPE, content_type), (header::CONTENT_DISPOSITION, file)];
    Ok((headers, Body::from_stream(body)).into_response())
}
