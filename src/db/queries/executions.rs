//! Executions: which there are, and one in full.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;
use time::serde::rfc3339;
use utoipa::{IntoParams, ToSchema};

use super::json::Json;
use super::page::{List, ListRow, Position};
use super::results::{ResultItem, ResultsQuery};
use super::{
    EXCERPT_CHARS, ListQuery, MAX_ERROR, MAX_STEP_TEXT, MAX_TEXT, Page, PageRequest, Query, SCAN_LIMIT,
    SnapshotQuery, TimeRange, omitted,
};
use crate::execution::identifier::Identifier;

/// An execution, as lists show it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Execution {
    /// The sender's identifier of the execution.
    pub(crate) execution_id: String,
    /// The workflow that ran.
    pub(crate) workflow_id: String,
    /// The bulk that it was triggered in; null when it was triggered alone.
    pub(crate) bulk_id: Option<String>,
    /// As sent: completed, failed and cancelled are terminal; anything else, such as running, is not.
    pub(crate) status: String,
    /// The kind of failure, such as `ExecutionFailed`; null unless sent. The first 1,000 characters.
    pub(crate) error: Option<String>,
    /// Why it failed, in the sender's words; null unless sent. The first 1,000 characters.
    pub(crate) error_cause: Option<String>,
    /// Whether one of its steps failed, whatever became of it.
    pub(crate) step_failed: bool,
    /// What it cost, in the sender's unit, to 12 decimals; null unless sent, and below 10^12.
    #[schema(value_type = Option<f64>)]
    pub(crate) total_cost: Option<Json>,
    /// From `started_at` to `completed_at`; null unless both were sent, in this order.
    pub(crate) duration_seconds: Option<f64>,
    /// When it started, by the sender; null unless sent.
    #[serde(with = "rfc3339::option")]
    pub(crate) started_at: Option<OffsetDateTime>,
    /// When it ended, by the sender; null unless sent.
    #[serde(with = "rfc3339::option")]
    pub(crate) completed_at: Option<OffsetDateTime>,
    /// How the delivery that is recorded got in: `signature`, `secret_header`, `url_token`, or none; null when not known.
    pub(crate) authenticated_by: Option<String>,
    /// How many deliveries came for it, duplicates and conflicts included.
    pub(crate) deliveries: i32,
    /// When its first delivery came, by the receiver's clock.
    #[serde(with = "rfc3339")]
    pub(crate) first_received_at: OffsetDateTime,
    /// When its latest delivery came, by the receiver's clock.
    #[serde(with = "rfc3339")]
    pub(crate) last_received_at: OffsetDateTime,
    #[serde(skip)]
    pub(super) matches: bool,
    #[serde(skip)]
    pub(super) stops: bool,
}

impl ListRow for Execution {
    const LIST: List = List::Executions;

    fn position(&self) -> Position {
        Position { at: self.first_received_at, id: self.execution_id.clone(), place: 0 }
    }
    fn matches_and_stops(&self) -> (bool, bool) {
        (self.matches, self.stops)
    }
}

// Parameters of the API and of the command line. All of them must match.
#[derive(Debug, Clone, Default, IntoParams, Args)]
#[into_params(parameter_in = Query)]
#[group(id = "filter", multiple = true)]
pub(crate) struct Filter {
    /// Only executions with this status, as sent: completed, failed, cancelled, running, …
    #[param(inline, value_type = Option<Identifier>)]
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) status: Option<String>,
    /// Only executions of this workflow.
    #[param(inline, value_type = Option<Identifier>)]
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) workflow: Option<String>,
    /// Only executions of this bulk.
    #[param(inline, value_type = Option<Identifier>)]
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) bulk: Option<String>,
    /// Only failed executions (or those with the given status) whose cause contains this text, in any case.
    #[param(inline, value_type = Option<Identifier>)]
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) cause: Option<String>,
}

impl Filter {
    /// With a cause and no status, failed ones are meant.
    fn status(&self) -> Option<&str> {
        self.status.as_deref().or(self.cause.is_some().then_some("failed"))
    }
}

/// A page of executions. One index leads to those that come into question, in the list's order. For a workflow this
/// is asked so that only its own index does: with `workflow_id = …`, PostgreSQL may rather read the newest executions
/// of all until it finds some, and the workflow may not have run for months.
///
/// At most so many are looked at, and the last one comes whether it matches or not: the next page begins behind it.
macro_rules! rows {
    (led_by: $columns:literal, $values:literal, in_order: $order:literal, $($parameter:expr),+) => {
        sqlx::query_as!(
            Execution,
            r#"SELECT
                   execution_id, workflow_id, bulk_id, status, left(error, $11) AS error,
                   left(error_cause, $11) AS error_cause, step_failed,
                   trim_scale(sensible_cost(total_cost))::text AS "total_cost: Json",
                   CASE WHEN completed_at >= started_at THEN date_part('epoch', completed_at - started_at) END
                       AS duration_seconds,
                   started_at, completed_at, authenticated_by, deliveries, first_received_at, last_received_at,
                   matches AS "matches!", n = $9 AS "stops!"
               FROM (
                   SELECT
                       e.*,
                       row_number() OVER (ORDER BY "# + $order + r#"first_received_at DESC, execution_id DESC) AS n,
                       ($6::text IS NULL OR status = $6)
                       AND ($7::text IS NULL OR workflow_id = $7)
                       AND ($8::text IS NULL OR coalesce(strpos(lower(error_cause), lower($8)) > 0, false)) AS matches
                   FROM executions AS e
                   WHERE
                       ("# + $columns + r#"first_received_at) >= ("# + $values + r#"$1)
                       AND ("# + $columns + r#"first_received_at, execution_id) <= ("# + $values + r#"$2, $3::text)
                       AND (first_received_at, execution_id) <> ($2, $3)
                       AND ($4::text IS NULL OR bulk_id = $4)
                       -- Most are completed: an index has the failed ones, and another those that are neither.
                       AND CASE $5::text
                           WHEN 'failed' THEN status = 'failed'
                           WHEN 'rare' THEN status NOT IN ('completed', 'failed')
                           ELSE true
                       END
                   ORDER BY "# + $order + r#"first_received_at DESC, execution_id DESC
                   LIMIT $9::bigint
               ) AS looked_at
               WHERE matches OR n = $9
               ORDER BY "# + $order + r#"first_received_at DESC, execution_id DESC
               LIMIT $10"#,
            $($parameter),+
        )
    };
}

/// Which executions there are, newest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Executions {
    pub(crate) filter: Filter,
    pub(crate) period: TimeRange,
    pub(crate) page: PageRequest,
}

impl Executions {
    /// The first page of those of a bulk.
    pub(super) fn of_bulk(bulk_id: &str) -> Self {
        let filter = Filter { bulk: Some(bulk_id.to_owned()), ..Filter::default() };
        Self { filter, ..Self::default() }
    }
}

impl ListQuery for Executions {
    const LIST: List = List::Executions;

    fn page(&mut self) -> &mut PageRequest {
        &mut self.page
    }
}

impl Query for Executions {
    type Answer = Page<Execution>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Page<Execution>, sqlx::Error> {
        let Filter { workflow, bulk, cause, .. } = &self.filter;
        let (status, after) = (self.filter.status(), self.page.position(&self.period));
        // Bulks are small.
        let of = match status {
            None | Some("completed") => None,
            _ if bulk.is_some() => None,
            Some("failed") => Some("failed"),
            Some(_) => Some("rare"),
        };
        /// Both have the same parameters.
        macro_rules! fetched {
            ($($led:tt)+) => {
                rows!(
                    $($led)+, self.period.start(), after.at, after.id, bulk.as_deref(), of, status,
                    workflow.as_deref(), cause.as_deref(), SCAN_LIMIT, self.page.rows(), EXCERPT_CHARS
                )
                .fetch_all(connection)
                .await?
            };
        }
        let rows = if workflow.is_some() && bulk.is_none() && of != Some("rare") {
            fetched!(led_by: "workflow_id, ", "$7, ", in_order: "workflow_id DESC, ")
        } else {
            fetched!(led_by: "", "", in_order: "")
        };
        Ok(self.page.page(rows))
    }
}

/// A step of an execution, as the webhook has it; the first 65,536 characters of each text.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Step {
    /// Its key in the payload's `step_outputs`.
    pub(crate) key: String,
    /// The sender's identifier of the step; the key where none is sent.
    pub(crate) step_id: String,
    /// As sent; null unless sent.
    pub(crate) status: Option<String>,
    /// The kind of its failure; null unless sent.
    pub(crate) error: Option<String>,
    /// Why it failed; null unless sent.
    pub(crate) error_cause: Option<String>,
    /// When it started, as the sender wrote it; null unless sent.
    pub(crate) started_at: Option<String>,
    /// When it ended, as the sender wrote it; null unless sent.
    pub(crate) completed_at: Option<String>,
}

/// One execution, with all that is known of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ExecutionDetail {
    /// As lists show it, but with up to 4,194,304 characters of `error` and `error_cause`.
    #[serde(flatten)]
    pub(crate) execution: Execution,
    /// Its steps, in the order of their start. What each made is in the payload.
    pub(crate) steps: Vec<Step>,
    /// What it made. Of many, the first: `/api/v1/results?execution=…` goes on behind `next`.
    #[schema(inline)]
    pub(crate) results: Page<ResultItem>,
    /// How many deliveries contradict it: `/api/v1/conflicts?execution=…` has them.
    pub(crate) conflicts: i64,
    /// The whole webhook body; null when PostgreSQL's jsonb cannot hold it (then `payload_text` does), when it is too
    /// large (`omitted`), or when it was removed (`payload_removed_at`).
    #[schema(value_type = Option<serde_json::Value>)]
    pub(crate) payload: Option<Json>,
    /// The body as it came, where `payload` would not give it back: a key given twice, U+0000, a number out of range;
    /// null otherwise.
    pub(crate) payload_text: Option<String>,
    /// When the payload was removed with its steps and results (`retention.payloads`); null unless it was.
    #[serde(with = "rfc3339::option")]
    pub(crate) payload_removed_at: Option<OffsetDateTime>,
    /// Which of `payload` and `payload_text` are null because they are larger than 16 MiB: psql shows them.
    pub(crate) omitted: Vec<&'static str>,
}

/// What is known of one execution.
#[derive(Debug, Clone)]
pub(crate) struct GetExecution {
    pub(crate) execution_id: String,
}

/// `None` when it is not recorded.
impl SnapshotQuery for GetExecution {
    type Detail = ExecutionDetail;

    async fn fetch(&self, moment: &mut PgConnection) -> Result<Option<ExecutionDetail>, sqlx::Error> {
        let execution =
            sqlx::query_file_as!(Execution, "src/db/queries/execution.sql", self.execution_id, MAX_ERROR);
        let Some(execution) = execution.fetch_optional(&mut *moment).await? else { return Ok(None) };
        let steps = sqlx::query_file_as!(Step, "src/db/queries/steps.sql", self.execution_id, MAX_STEP_TEXT);
        let steps = steps.fetch_all(&mut *moment).await?;
        let rest = sqlx::query!(
            r#"SELECT
                   CASE WHEN octet_length(t.payload) <= $2 THEN t.payload END AS "payload: Json",
                   coalesce(octet_length(t.payload) > $2, false) AS "payload_omitted!",
                   CASE WHEN octet_length(payload_bytes) <= $2 THEN utf8_text(payload_bytes) END AS payload_text,
                   coalesce(octet_length(payload_bytes) > $2, false) AS "payload_text_omitted!",
                   payload_removed_at,
                   (SELECT count(*) FROM execution_conflicts AS c WHERE c.execution_id = e.execution_id)
                       AS "conflicts!"
               FROM executions AS e
               -- Written once.
               CROSS JOIN LATERAL (SELECT e.payload::text AS payload OFFSET 0) AS t
               WHERE e.execution_id = $1"#,
            self.execution_id,
            MAX_TEXT
        );
        let rest = rest.fetch_one(&mut *moment).await?;
        let results = ResultsQuery::of_execution(&self.execution_id).run(&mut *moment).await?;
        Ok(Some(ExecutionDetail {
            execution,
            steps,
            results,
            conflicts: rest.conflicts,
            payload: rest.payload,
            payload_text: rest.payload_text,
            payload_removed_at: rest.payload_removed_at,
            omitted: omitted([
                ("payload", rest.payload_omitted),
                ("payload_text", rest.payload_text_omitted),
            ]),
        }))
    }
}
