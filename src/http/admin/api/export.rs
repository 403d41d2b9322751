//! `/api/v1/export/…`: a whole list as JSON Lines or CSV.
//!
//! An export reads page by page as the client reads the response. One page is in memory, and between pages no connection
//! and no transaction is open.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use strum::{IntoStaticStr, VariantArray};
use tokio::sync::OwnedSemaphorePermit;
use utoipa::ToSchema;

use super::query::{FromQuery, Parameters};
use super::state::{Api, ApiState};
use crate::db::queries::columns::Columns;
use crate::db::queries::executions::{self, Executions};
use crate::db::queries::results::{self, ResultItem, ResultsQuery};
use crate::db::queries::{ListQuery, Page, QueryError, Scope, TimeRange};
use crate::http::problem::{ApiProblems, Problem};

/// Attempts to read a page.
const ATTEMPTS: u32 = 30;

// The beginnings of lines, for `/openapi.json`.
const JSONL: &str = r#"{"execution_id":"exec-104", …}"#;
const CSV: &str = "execution_id, …\r\n\"exec-104\", …\r\n";
const URLS: &str = "https://storage.example.com/garden.png\n";

/// The format of an export.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ToSchema, IntoStaticStr, VariantArray)]
#[schema(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
enum Format {
    #[default]
    Jsonl,
    Csv,
}

/// The format of an export of results.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ToSchema, IntoStaticStr, VariantArray)]
#[schema(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
enum ResultFormat {
    #[default]
    Jsonl,
    Csv,
    Urls,
}

/// How items become text.
struct Encoding<T> {
    content_type: &'static str,
    extension: &'static str,
    header: String,
    write: fn(&T, &mut String),
}

fn jsonl<T: Serialize>() -> Encoding<T> {
    let write = |item: &T, text: &mut String| {
        text.push_str(&serde_json::to_string(item).unwrap_or_default());
        text.push('\n');
    };
    Encoding { content_type: "application/jsonl", extension: "jsonl", header: String::new(), write }
}

fn csv<T: Columns>() -> Encoding<T> {
    Encoding {
        content_type: "text/csv; charset=utf-8; header=present",
        extension: "csv",
        header: format!("{}\r\n", T::COLUMNS.join(",")),
        write: super::csv::write,
    }
}

/// A line for each URL, without data URLs. A URL contains no white space.
fn urls() -> Encoding<ResultItem> {
    let write = |item: &ResultItem, text: &mut String| {
        if let Some(url) = item.whole_url() {
            text.push_str(url);
            text.push('\n');
        }
    };
    Encoding { content_type: "text/plain; charset=utf-8", extension: "txt", header: String::new(), write }
}

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
    let encoding = match parameters.choice("format")?.unwrap_or_default() {
        Format::Jsonl => jsonl(),
        Format::Csv => csv(),
    };
    export::<Executions>(api, parameters, encoding, "executions").await
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
    let encoding = match parameters.choice("format")?.unwrap_or_default() {
        ResultFormat::Jsonl => jsonl(),
        ResultFormat::Csv => csv(),
        ResultFormat::Urls => urls(),
    };
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
    let content_type = HeaderValue::from_static(encoding.content_type);
    let file = format!("attachment; filename=\"{name}.{}\"", encoding.extension);
    let mut export = Export { api, query, encoding, ended: false, _permit: permit };
    // An error of the first page can still become a problem response.
    let first = export.next().await?;
    let rest = stream::unfold(export, |mut export| async {
        match export.next().await {
            Ok(text) => text.map(|text| (Ok(Bytes::from(text)), export)),
            Err(error) => {
                tracing::warn!(%error, "an export is incomplete");
                export.ended = true;
                Some((Err(error), export))
            }
        }
    });
    let body = stream::StreamExt::chain(stream::iter(first.map(|text| Ok(Bytes::from(text)))), rest);
    let mut response = Body::from_stream(body).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    if let Ok(file) = HeaderValue::from_str(&file) {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, file);
    }
    Ok(response)
}

struct Export<L: ListQuery> {
    api: Arc<Api>,
    query: L,
    encoding: Encoding<L::Row>,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

impl<L: ListQuery<Row: Send>> Export<L> {
    /// The lines of the next page that has some; `None` after the last one.
    async fn next(&mut self) -> Result<Option<String>, QueryError> {
        let mut text = String::new();
        while text.is_empty() && !self.ended {
            let Page { items, next } = self.page().await?;
            for item in &items {
                (self.encoding.write)(item, &mut text);
            }
            self.ended = !self.query.continue_after(next.as_deref());
        }
        // The header is written after the first page is read: an empty list has a header, a failed query has none.
        text.insert_str(0, &std::mem::take(&mut self.encoding.header));
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    /// Retries while all connections are busy, and with half of the rows after a time-out.
    async fn page(&mut self) -> Result<Page<L::Row>, QueryError> {
        for _ in 0..ATTEMPTS {
            match self.api.run(&self.query).await {
                Err(QueryError::Busy) => {}
                Err(QueryError::TimedOut) if self.query.page().limit > 1 => self.query.page().limit /= 2,
                result => return result,
            }
        }
        Err(QueryError::Busy)
    }
}
