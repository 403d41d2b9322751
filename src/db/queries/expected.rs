//! The list of expected executions: those that were triggered and registered.

use std::fmt::Debug;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde::Serialize;
use strum::{IntoStaticStr, VariantArray};
use time::OffsetDateTime;
use time::serde::rfc3339;
use utoipa::ToSchema;

use super::page::{List, ListRow, Position};
use super::reference::{Reference, ReferenceFilter};
use super::search::Words;
use super::{Choice, ListQuery, Page, PageRequest, Query, SCAN_LIMIT, TimeRange};
use crate::db::Transaction;

/// An input of a registered trigger or bulk-trigger.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Expected {
    /// The execution; null if the input was rejected.
    pub(crate) execution_id: Option<String>,
    /// The workflow that was triggered; null if not given.
    pub(crate) workflow_id: Option<String>,
    /// The bulk; null for a single trigger.
    pub(crate) bulk_id: Option<String>,
    /// The position of the input in the request of bulk-trigger, from 1.
    pub(crate) position: i32,
    /// arrived: a webhook with a terminal status is recorded; missing: none is recorded yet; overdue: none is recorded,
    /// and `due_at` has passed; rejected: the input was rejected, so no webhook will arrive.
    #[schema(value_type = ExpectedState)]
    pub(crate) state: String,
    /// The recorded status of the execution; null if no webhook is recorded.
    pub(crate) status: Option<String>,
    /// Why the input was rejected, as in the response; null if not given. The first 1,000 characters.
    pub(crate) message: Option<String>,
    /// The reference of the caller, as a JSON object of strings; null if not given.
    #[schema(value_type = Option<HashMap<String, String>>)]
    pub(crate) reference: Option<Reference>,
    /// When the response was registered, by PostgreSQL's clock.
    #[serde(with = "rfc3339")]
    pub(crate) registered_at: OffsetDateTime,
    /// When the execution becomes overdue; null if the input was rejected.
    #[serde(with = "rfc3339::option")]
    pub(crate) due_at: Option<OffsetDateTime>,
    #[serde(skip)]
    pub(super) expected_id: i64,
    #[serde(skip)]
    pub(super) matches: bool,
    #[serde(skip)]
    pub(super) is_last_scanned: bool,
}

impl ListRow for Expected {
    const LIST: List = List::Expected;

    fn position(&self) -> Position {
        Position { at: self.registered_at, id: self.expected_id.to_string(), place: 0 }
    }
    fn matches(&self) -> bool {
        self.matches
    }
    fn is_last_scanned(&self) -> bool {
        self.is_last_scanned
    }
}

/// The state of an expected execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema, IntoStaticStr, VariantArray)]
#[schema(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub(crate) enum ExpectedState {
    /// As a filter, also finds the overdue ones.
    Missing,
    Overdue,
    Arrived,
    Rejected,
}

// Parameters of the command line.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Filter {
    /// Only this bulk.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) bulk: Option<String>,
    #[arg(skip)]
    pub(crate) state: Option<ExpectedState>,
    /// Only rows whose registered reference contains this parameter. The scan of a page is bounded as for `state`.
    #[arg(skip)]
    pub(crate) reference: Option<ReferenceFilter>,
    /// Only rows whose registered reference contains these words. The scan of a page is bounded as for `state`.
    #[arg(skip)]
    pub(crate) words: Option<Words>,
}

/// Lists expected executions, newest registrations first. The inputs of a bulk are in their order.
#[derive(Debug, Clone, Default)]
pub(crate) struct ExpectedQuery {
    pub(crate) filter: Filter,
    pub(crate) page: PageRequest,
}

impl ExpectedQuery {
    pub(crate) fn missing_of_bulk(bulk_id: &str) -> Self {
        let filter = Filter {
            bulk: Some(bulk_id.to_owned()),
            state: Some(ExpectedState::Missing),
            ..Filter::default()
        };
        Self { filter, page: PageRequest::default() }
    }
}

impl ListQuery for ExpectedQuery {
    type Row = Expected;

    fn page(&mut self) -> &mut PageRequest {
        &mut self.page
    }
    fn filter(&self) -> &dyn Debug {
        &self.filter
    }
}

/// The input of a registered trigger or bulk-trigger that an execution belongs to.
#[derive(Debug)]
pub(crate) struct RegisteredInput {
    /// The position of the input in the request of bulk-trigger, from 1.
    pub(crate) position: i32,
    /// The reference of the caller for this input.
    pub(crate) reference: Option<Reference>,
    pub(crate) is_in_bulk: bool,
}

/// Reads the input of an execution; `None` if the execution is not registered.
#[derive(Debug, Clone)]
pub(crate) struct GetRegisteredInput {
    pub(crate) execution_id: String,
}

impl Query for GetRegisteredInput {
    type Answer = Option<RegisteredInput>;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Option<RegisteredInput>, sqlx::Error> {
        let input = sqlx::query_as!(
            RegisteredInput,
            r#"SELECT position, reference::text AS "reference: Reference", bulk_id IS NOT NULL AS "is_in_bulk!"
               FROM expected_executions WHERE execution_id = $1"#,
            self.execution_id
        );
        input.fetch_optional(transaction).await
    }
}

impl Query for ExpectedQuery {
    type Answer = Page<Expected>;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Page<Expected>, sqlx::Error> {
        let after = self.page.position(&TimeRange::default());
        let rows = sqlx::query_file_as!(
            Expected,
            "src/db/queries/expected.sql",
            after.at,
            after.number(),
            self.filter.bulk,
            self.filter.state.map(Choice::as_str),
            SCAN_LIMIT,
            self.page.rows(),
            self.filter.reference.as_ref().map(ReferenceFilter::as_json),
            self.filter.words.as_ref().map(|words| &words.patterns[..])
        );
        Ok(self.page.page(rows.fetch_all(transaction).await?, self.filter()))
    }
}
