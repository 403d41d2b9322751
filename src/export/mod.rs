//! Whole lists as JSON Lines, CSV or URLs, for the read API and the command line.
//!
//! An export reads page by page. Only one page is in memory. Between two pages, the export uses no connection and no
//! transaction.

mod csv;

use serde::Serialize;
use strum::{IntoStaticStr, VariantArray};
use utoipa::ToSchema;

use crate::db::queries::columns::Columns;
use crate::db::queries::results::ResultItem;
use crate::db::queries::{ListQuery, Page, QueryError, QueryPool};

/// Maximum attempts to read a page.
const ATTEMPTS: u32 = 30;

/// The format of an export.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ToSchema, IntoStaticStr, VariantArray)]
#[schema(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub(crate) enum Format {
    #[default]
    Jsonl,
    Csv,
}

/// The format of an export of results.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ToSchema, IntoStaticStr, VariantArray)]
#[schema(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub(crate) enum ResultFormat {
    #[default]
    Jsonl,
    Csv,
    Urls,
}

/// How rows become text.
pub(crate) struct Encoding<T> {
    pub(crate) content_type: &'static str,
    pub(crate) extension: &'static str,
    header: String,
    write: fn(&T, &mut String),
}

impl Format {
    pub(crate) fn encoding<T: Serialize + Columns>(self) -> Encoding<T> {
        match self {
            Self::Jsonl => jsonl(),
            Self::Csv => csv(),
        }
    }
}

impl ResultFormat {
    pub(crate) fn encoding(self) -> Encoding<ResultItem> {
        match self {
            Self::Jsonl => jsonl(),
            Self::Csv => csv(),
            Self::Urls => urls(),
        }
    }
}

fn jsonl<T: Serialize>() -> Encoding<T> {
    let write = |row: &T, text: &mut String| {
        text.push_str(&serde_json::to_string(row).unwrap_or_default());
        text.push('\n');
    };
    Encoding { content_type: "application/jsonl", extension: "jsonl", header: String::new(), write }
}

fn csv<T: Columns>() -> Encoding<T> {
    Encoding {
        content_type: "text/csv; charset=utf-8; header=present",
        extension: "csv",
        header: format!("{}\r\n", T::COLUMNS.join(",")),
        write: csv::write,
    }
}

/// A line for each URL, without data URLs. A URL contains no white space.
fn urls() -> Encoding<ResultItem> {
    let write = |row: &ResultItem, text: &mut String| {
        if let Some(url) = row.whole_url() {
            text.push_str(url);
            text.push('\n');
        }
    };
    Encoding { content_type: "text/plain; charset=utf-8", extension: "txt", header: String::new(), write }
}

/// What runs the queries of an export.
pub(crate) trait Source: Sync {
    fn page<L: ListQuery<Row: Send>>(
        &self,
        query: &L,
    ) -> impl Future<Output = Result<Page<L::Row>, QueryError>> + Send;
}

impl Source for QueryPool {
    async fn page<L: ListQuery<Row: Send>>(&self, query: &L) -> Result<Page<L::Row>, QueryError> {
        self.run(query).await
    }
}

/// A list as text.
pub(crate) struct Export<L: ListQuery> {
    query: L,
    encoding: Encoding<L::Row>,
    ended: bool,
}

impl<L: ListQuery<Row: Send> + Send> Export<L> {
    pub(crate) fn new(mut query: L, encoding: Encoding<L::Row>) -> Self {
        query.page().limit = L::EXPORT_LIMIT;
        Self { query, encoding, ended: false }
    }

    /// The lines of the next page with rows; `None` after the last page, and after an error.
    pub(crate) async fn next(&mut self, source: &impl Source) -> Result<Option<String>, QueryError> {
        let mut text = String::new();
        while text.is_empty() && !self.ended {
            let page = self.page(source).await;
            self.ended = page.is_err();
            let Page { items, next } = page?;
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
    async fn page(&mut self, source: &impl Source) -> Result<Page<L::Row>, QueryError> {
        for _ in 0..ATTEMPTS {
            match source.page(&self.query).await {
                Err(QueryError::Busy) => {}
                Err(QueryError::TimedOut) if self.query.page().limit > 1 => self.query.page().limit /= 2,
                result => return result,
            }
        }
        Err(QueryError::Busy)
    }
}
