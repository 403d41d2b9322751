//! Results: a row for each output of an execution.

use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;
use time::serde::rfc3339;
use utoipa::{IntoParams, ToSchema};

use super::page::{List, Listed, Position};
use super::{Ask, LOOK_AT, Listing, Page, Period, Question};

/// How many bytes of outputs a page looks at, as PostgreSQL stores them, before it ends.
const OUTPUTS: i64 = 4 << 20;

/// One output of an execution: an element of an array, a field of an object, or the one value.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Output {
    /// The execution that made it.
    pub(crate) execution_id: String,
    /// The workflow that ran.
    pub(crate) workflow_id: String,
    /// The bulk that the execution was triggered in; null when it was triggered alone.
    pub(crate) bulk_id: Option<String>,
    /// Its place in the execution's output, from 1.
    pub(crate) position: i64,
    /// Its field's name where the output is an object; null otherwise.
    pub(crate) name: Option<String>,
    /// url: an address, such as https://…; text: any other string; json: anything else.
    pub(crate) kind: String,
    /// The address, the text, or the JSON as text; null for JSON's null.
    pub(crate) value: Option<String>,
    /// When the first delivery of the execution came, by the receiver's clock.
    #[serde(with = "rfc3339")]
    pub(crate) first_received_at: OffsetDateTime,
    #[serde(skip)]
    pub(super) matches: bool,
    #[serde(skip)]
    pub(super) stops: bool,
}

impl Listed for Output {
    const LIST: List = List::Results;

    fn position(&self) -> Position {
        Position { at: self.first_received_at, id: self.execution_id.clone(), place: self.position }
    }
    fn matches(&self) -> bool {
        self.matches
    }
    fn stops(&self) -> bool {
        self.stops
    }
}

/// Whose results. All that is given has to be so.
#[derive(Debug, Clone, Default, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// Only those of this execution.
    #[param(min_length = 1, max_length = 255, pattern = r"^[^\x00]+$")]
    pub(crate) execution: Option<String>,
    /// Only those of this workflow.
    #[param(min_length = 1, max_length = 255, pattern = r"^[^\x00]+$")]
    pub(crate) workflow: Option<String>,
    /// Only those of this bulk.
    #[param(min_length = 1, max_length = 255, pattern = r"^[^\x00]+$")]
    pub(crate) bulk: Option<String>,
}

/// What was made: of the newest executions first, each's in its own order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outputs {
    pub(crate) filter: Filter,
    pub(crate) period: Period,
    pub(crate) page: Ask,
}

impl Outputs {
    /// The first page of what one execution made.
    pub(super) fn of_execution(execution_id: &str) -> Self {
        let filter = Filter { execution: Some(execution_id.to_owned()), ..Filter::default() };
        Self { filter, ..Self::default() }
    }

    /// The first page of what was made in one bulk.
    pub(super) fn of_bulk(bulk_id: &str) -> Self {
        let filter = Filter { bulk: Some(bulk_id.to_owned()), ..Filter::default() };
        Self { filter, ..Self::default() }
    }
}

impl Listing for Outputs {
    const LIST: List = List::Results;

    fn page(&mut self) -> &mut Ask {
        &mut self.page
    }
}

impl Question for Outputs {
    type Answer = Page<Output>;

    async fn ask(&self, connection: &mut PgConnection) -> Result<Page<Output>, sqlx::Error> {
        let after = self.page.position(&self.period);
        let Filter { execution, workflow, bulk } = &self.filter;
        let lead = if bulk.is_some() || execution.is_some() { None } else { workflow.as_deref() };
        let rows = sqlx::query_file_as!(
            Output,
            "src/reading/results.sql",
            self.period.start(),
            after.at,
            after.id,
            after.place,
            execution.as_deref(),
            bulk.as_deref(),
            lead,
            workflow.as_deref(),
            LOOK_AT,
            OUTPUTS,
            self.page.rows()
        );
        Ok(self.page.page(rows.fetch_all(connection).await?))
    }
}
