//! Results: a row for each output of an execution.

use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;
use time::serde::rfc3339;
use utoipa::{IntoParams, ToSchema};

use super::page::{List, Listed, Position};
use super::{Ask, LOOK_AT, Listing, Page, Period, Question};

/// How many bytes of outputs a page looks at, as PostgreSQL stores them, and how many it shows, as text, before it ends.
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
    fn matches_and_stops(&self) -> (bool, bool) {
        (self.matches, self.stops)
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

/// A page of results. Of the executions that an index leads to, as in `executions`, so many are looked at, and so many
/// bytes of their outputs. The last one comes even when it made nothing: the next page begins behind it.
macro_rules! rows {
    (led_by: $columns:literal, $values:literal, in_order: $order:literal, $($parameter:expr),+) => {
        sqlx::query_as!(
            Output,
            r#"SELECT
                   execution_id, workflow_id, bulk_id, position AS "position!", name, kind AS "kind!", value,
                   first_received_at, matches AS "matches!", stops OR shown_before + shows >= $9 AS "stops!"
               FROM (
                   SELECT
                       *, coalesce(octet_length(value), 0) AS shows,
                       coalesce(sum(octet_length(value)) OVER (
                           ORDER BY "# + $order + r#"first_received_at DESC, execution_id DESC, position
                           ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                       ), 0) AS shown_before
                   FROM (
                       SELECT
                           e.execution_id, e.workflow_id, e.bulk_id,
                           coalesce(r.position, 9223372036854775807) AS position,
                           r.name, coalesce(r.kind, '') AS kind, r.value, e.first_received_at,
                           r.position IS NOT NULL AS matches,
                           e.stops
                       FROM (
                           SELECT *, n = $8 OR (bytes_before < $9 AND bytes_before + bytes >= $9) AS stops
                           FROM (
                               SELECT
                                   execution_id, workflow_id, bulk_id, first_received_at,
                                   coalesce(pg_column_size(output), 0) AS bytes,
                                   row_number() OVER newest_first AS n,
                                   coalesce(sum(pg_column_size(output)) OVER (
                                       newest_first ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                                   ), 0) AS bytes_before
                               FROM executions
                               WHERE
                                   ("# + $columns + r#"first_received_at) >= ("# + $values + r#"$1)
                                   AND ("# + $columns + r#"first_received_at, execution_id)
                                       <= ("# + $values + r#"$2, $3::text)
                                   -- Behind all of an execution's results is the next execution.
                                   AND ((first_received_at, execution_id) <> ($2, $3) OR $4 < 9223372036854775807)
                                   AND ($5::text IS NULL OR execution_id = $5)
                                   AND ($6::text IS NULL OR bulk_id = $6)
                               WINDOW newest_first AS (ORDER BY "# + $order + r#"first_received_at DESC, execution_id DESC)
                               ORDER BY "# + $order + r#"first_received_at DESC, execution_id DESC
                               LIMIT $8::bigint
                           ) AS looked_at
                           WHERE bytes_before < $9::bigint
                       ) AS e
                       LEFT JOIN LATERAL (
                           SELECT position, name, kind, value
                           FROM results
                           WHERE
                               execution_id = e.execution_id
                               -- Outside of the view: its rows are those of an execution, and no other index is of use.
                               AND ($7::text IS NULL OR e.workflow_id = $7)
                               AND ((e.first_received_at, e.execution_id) <> ($2, $3) OR position > $4)
                           ORDER BY position
                           LIMIT $10
                       ) AS r ON true
                       WHERE r.position IS NOT NULL OR e.stops
                       ORDER BY "# + $order + r#"first_received_at DESC, execution_id DESC, r.position
                       LIMIT $10::bigint
                   ) AS found
               ) AS shown
               WHERE shown_before < $9
               ORDER BY "# + $order + r#"first_received_at DESC, execution_id DESC, position"#,
            $($parameter),+
        )
    };
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
        /// Both have the same parameters.
        macro_rules! fetched {
            ($($led:tt)+) => {
                rows!(
                    $($led)+, self.period.start(), after.at, after.id, after.place, execution.as_deref(),
                    bulk.as_deref(), workflow.as_deref(), LOOK_AT, OUTPUTS, self.page.rows()
                )
                .fetch_all(connection)
                .await?
            };
        }
        let rows = if workflow.is_some() && bulk.is_none() && execution.is_none() {
            fetched!(led_by: "workflow_id, ", "$7, ", in_order: "workflow_id DESC, ")
        } else {
            fetched!(led_by: "", "", in_order: "")
        };
        Ok(self.page.page(rows))
    }
}
