//! `/api/v1/export/…`: a whole list, as JSON Lines or CSV.
//!
//! It is read page by page, as fast as the client reads it: one page is in memory, however long the list is, and between
//! pages no connection and no transaction is held, however slowly it is read.

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

use super::Api;
use super::csv;
use super::parameters::Parameters;
use super::query::FromQuery;
use crate::db::queries::columns::Columns;
use crate::db::queries::executions::{self, Executions};
use crate::db::queries::page::Position;
use crate::db::queries::results::{self, ResultsQuery};
use crate::db::queries::{Choice, ListQuery, Page, Query, QueryError, TimeRange};
use crate::http::problem::Problem;
use crate::http::responses::ApiProblems;

/// How often an export asks again for a page when all connections are taken.
const TRIES: u32 = 30;

/// How a list is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ToSchema, IntoStaticStr, VariantArray)]
#[schema(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
enum Format {
    /// JSON Lines: an object a line.
    #[default]
    Jsonl,
    /// CSV, with the columns' names first. A text that a spreadsheet would take for a formula has an apostrophe
    /// before it.
    Csv,
}

/// All executions, newest first, with the same filters as the list
///
/// An answer that ends without its last chunk is not complete: PostgreSQL went away meanwhile.
#[utoipa::path(
    get, path = "/api/v1/export/executions", tag = "Live and whole",
    params(
        ("format" = inline(Option<Format>), Query, description = "JSON Lines unless said."),
        executions::Filter, TimeRange,
    ),
    responses(
        (status = 200, description = "A line for each, like the items of the list.", content((String = "application/jsonl"), (String = "text/csv"))),
        ApiProblems,
    )
)]
pub(super) async fn executions(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    export::<Executions, _>(api, &uri, "executions").await
}

/// All results, the newest executions' first, with the same filters as the list
///
/// An answer that ends without its last chunk is not complete: PostgreSQL went away meanwhile.
#[utoipa::path(
    get, path = "/api/v1/export/results", tag = "Live and whole",
    params(
        ("format" = inline(Option<Format>), Query, description = "JSON Lines unless said."),
        results::Filter, TimeRange,
    ),
    responses(
        (status = 200, description = "A line for each, like the items of the list.", content((String = "application/jsonl"), (String = "text/csv"))),
        ApiProblems,
    )
)]
pub(super) async fn results(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    export::<ResultsQuery, _>(api, &uri, "results").await
}

async fn export<L, T>(api: Arc<Api>, uri: &Uri, name: &str) -> Result<Response, Problem>
where
    L: FromQuery + ListQuery + Query<Answer = Page<T>> + Send + 'static,
    T: Columns + Serialize,
{
    let mut parameters = Parameters::of_whole(uri);
    let format = parameters.choice("format")?.unwrap_or_default();
    let list = L::read(&mut parameters)?;
    parameters.end()?;
    let place = api.exports.clone().try_acquire_owned();
    let place = place.map_err(|_| Problem::TooMany { what: "exports" })?;
    let mut export = Export { api, list, format, first: true, ended: false, _place: place };
    // What goes wrong at once can still be said.
    let begun = export.next().await?;
    let rest = stream::unfold(export, |mut export| async {
        match export.next().await {
            Ok(text) => text.map(|text| (Ok(Bytes::from(text)), export)),
            Err(why) => {
                tracing::warn!("an export ends before its end: {why}");
                export.ended = true;
                Some((Err(why), export))
            }
        }
    });
    let body = stream::StreamExt::chain(stream::iter(begun.map(|text| Ok(Bytes::from(text)))), rest);
    let kind = match format {
        Format::Jsonl => "application/jsonl",
        Format::Csv => "text/csv; charset=utf-8; header=present",
    };
    let file = format!("attachment; filename=\"{name}.{}\"", format.as_str());
    let mut answer = Body::from_stream(body).into_response();
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Ok(file) = HeaderValue::from_str(&file) {
        answer.headers_mut().insert(header::CONTENT_DISPOSITION, file);
    }
    Ok(answer)
}

struct Export<L> {
    api: Arc<Api>,
    list: L,
    format: Format,
    first: bool,
    ended: bool,
    _place: OwnedSemaphorePermit,
}

impl<L, T> Export<L>
where
    L: ListQuery + Query<Answer = Page<T>>,
    T: Columns + Serialize,
{
    /// The lines of the next page that has any; `None` behind the last.
    async fn next(&mut self) -> Result<Option<String>, QueryError> {
        let mut text = String::new();
        while text.is_empty() && !self.ended {
            let Page { items, next } = self.page().await?;
            for item in &items {
                match self.format {
                    Format::Jsonl => {
                        text += &serde_json::to_string(item).unwrap_or_default();
                        text.push('\n');
                    }
                    Format::Csv => csv::write(item, &mut text),
                }
            }
            let after = next.and_then(|next| Position::of_cursor(&next, L::LIST));
            self.ended = after.is_none();
            self.list.page().after = after;
        }
        // Only now: whether PostgreSQL can be asked is known before the first line is sent.
        if std::mem::replace(&mut self.first, false) && self.format == Format::Csv {
            text.insert_str(0, &format!("{}\r\n", T::COLUMNS.join(",")));
        }
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    /// Tries again when others have all connections, and with fewer rows when the answer took too long.
    async fn page(&mut self) -> Result<Page<T>, QueryError> {
        for _ in 0..TRIES {
            match self.api.ask(&self.list).await {
                Err(QueryError::Busy) => {}
                Err(QueryError::TimedOut) if self.list.page().limit > 1 => self.list.page().limit /= 2,
                answered => return answered,
            }
        }
        Err(QueryError::Busy)
    }
}
