//! The list of executions, and one execution in full.

use std::fmt::Debug;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde::Serialize;
use time::OffsetDateTime;
use time::serde::rfc3339;
use utoipa::{IntoParams, ToSchema};

use super::columns::columns;
use super::json::Json;
use super::page::{List, ListRow, Position};
use super::reference::{Reference, ReferenceFilter, ReferenceText};
use super::results::{ResultItem, ResultsQuery};
use super::search::{CLASS_SCAN_LIMIT, MAX_SEARCHED_PAYLOAD, STEP_SCAN_LIMIT, Words};
use super::{
    EXCERPT_CHARS, ListFilter, Listing, MAX_ERROR, MAX_STEP_TEXT, MAX_TEXT, Page, Query, SCAN_LIMIT, Scope,
};
use crate::db::Transaction;
use crate::execution::identifier::Identifier;
use crate::execution::status;

columns! {
    /// An execution in a list.
    #[derive(Debug, Clone, Serialize, ToSchema)]
    pub(crate) struct Execution {
        /// The sender's identifier of the execution.
        pub(crate) execution_id: String,
        /// The workflow that ran.
        pub(crate) workflow_id: String,
        /// The bulk of the execution; null outside of a bulk.
        pub(crate) bulk_id: Option<String>,
        /// The status, as sent. completed, failed and cancelled are terminal, as are succeeded and success in a legacy flow.
        /// Other statuses, such as running, are not terminal.
        pub(crate) status: String,
        /// The kind of failure, such as `ExecutionFailed`; null if not sent. The first 1,000 characters.
        pub(crate) error: Option<String>,
        /// The sender's reason for the failure; null if not sent. The first 1,000 characters.
        pub(crate) error_cause: Option<String>,
        /// The class of the failure by its cause, its failed steps or its error, such as `execution_timeout`; null unless the
        /// execution failed.
        pub(crate) failure_class: Option<String>,
        /// Whether one of its steps failed, whatever the status is.
        pub(crate) step_failed: bool,
        /// The cost in the sender's unit, rounded to 12 decimals; null if not sent or not below 10^12.
        #[schema(value_type = Option<f64>)]
        pub(crate) total_cost: Option<Json>,
        /// The time from `started_at` to `completed_at`; null unless both were sent in this order.
        pub(crate) duration_seconds: Option<f64>,
        /// The start time from the sender; null if not sent.
        #[serde(with = "rfc3339::option")]
        pub(crate) started_at: Option<OffsetDateTime>,
        /// The end time from the sender; null if not sent.
        #[serde(with = "rfc3339::option")]
        pub(crate) completed_at: Option<OffsetDateTime>,
        /// How the recorded webhook was authenticated: `signature`, `secret_header`, `url_token`, `callback` (confirmed by
        /// the sender's API) or `none`; null for a fetched execution, and if unknown.
        pub(crate) authenticated_by: Option<String>,
        /// The part of the sender's API that the execution was read from because its webhook did not arrive:
        /// `delivery_log`, `list` or `execution`; null for a webhook.
        pub(crate) fetched_from: Option<String>,
        /// The number of deliveries, including duplicates and conflicts.
        pub(crate) deliveries: i32,
        /// How many of them have the header `X-Webhook-Redelivery`.
        pub(crate) redeliveries: i32,
        /// When the first delivery was received, by the receiver's clock.
        #[serde(with = "rfc3339")]
        pub(crate) first_received_at: OffsetDateTime,
        /// When the latest delivery was received, by the receiver's clock.
        #[serde(with = "rfc3339")]
        pub(crate) last_received_at: OffsetDateTime,
        /// The query parameters of the webhook's URL, as a JSON object of strings; null without any. Not signed.
        #[schema(value_type = Option<HashMap<String, String>>)]
        pub(crate) reference: Option<Reference>,
    }
    hidden {
        pub(super) matches: bool,
        pub(super) is_last_scanned: bool,
    }
}

/// Selects [`Execution`]s: these columns, then the rest of the statement. `$1` is the length that error texts are cut to.
macro_rules! select_executions {
    ($($rest:expr),+; $($parameter:expr),+) => {
        sqlx::query_as!(
            Execution,
            r#"SELECT
    execution_id,
    workflow_id,
    bulk_id,
    status,
    left(error, $1) AS error,
    left(error_cause, $1) AS error_cause,
    CASE
        WHEN status = 'failed' THEN execution_failure_class(error_cause, error, step_failed, payload)
    END AS failure_class,
    step_failed,
    trim_scale(sensible_cost(total_cost))::text AS "total_cost: Json",
    CASE WHEN completed_at >= started_at THEN date_part('epoch', completed_at - started_at) END AS duration_seconds,
    started_at,
    completed_at,
    authenticated_by,
    fetched_from,
    deliveries,
    redeliveries,
    first_received_at,
    last_received_at,
    reference::text AS "reference: Reference",
"# $(+ $rest)+,
            $($parameter),+
        )
    };
}

impl ListRow for Execution {
    const LIST: List = List::Executions;

    fn position(&self) -> Position {
        Position { at: self.first_received_at, id: self.execution_id.clone(), place: 0 }
    }
    fn matches(&self) -> bool {
        self.matches
    }
    fn is_last_scanned(&self) -> bool {
        self.is_last_scanned
    }
}

// Parameters of the API and of the command line. All given filters must match.
#[derive(Debug, Clone, Default, IntoParams, Args)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    #[param(ignore)]
    #[command(flatten)]
    pub(crate) scope: Scope,
    /// Only executions with this status, as sent: completed, failed, cancelled, running, …
    #[param(inline, value_type = Option<Identifier>)]
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) status: Option<String>,
    /// Only failed executions (or those with the given status) whose cause contains this text, in any case.
    #[param(inline, value_type = Option<Identifier>)]
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) cause: Option<String>,
    /// Only executions whose webhook URL has this query parameter, such as `order=1234`.
    #[param(inline, value_type = Option<ReferenceText>, example = "order=1234")]
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) reference: Option<ReferenceFilter>,
    /// The console's filter by class of status: a result of [`status::class`].
    #[param(ignore)]
    #[arg(skip)]
    pub(crate) class: Option<&'static str>,
    /// The console's filter: only executions that were fetched because their webhook did not arrive.
    #[param(ignore)]
    #[arg(skip)]
    pub(crate) fetched: bool,
    /// The console's filter: only failed executions of these classes.
    #[param(ignore)]
    #[arg(skip)]
    pub(crate) failure_classes: Option<Vec<String>>,
    /// The console's filter: only executions with a failed step of this model.
    #[param(ignore)]
    #[arg(skip)]
    pub(crate) failed_model: Option<String>,
    /// The console's search in error, cause, inputs, models and reference.
    #[param(ignore)]
    #[arg(skip)]
    pub(crate) words: Option<Words>,
}

impl Filter {
    /// Filters by a status of the console: `completed` finds all successful statuses, and `running` finds all executions
    /// that have not ended.
    #[must_use]
    pub(crate) fn with_status(self, status: Option<String>) -> Self {
        match status.as_deref() {
            Some("completed") => Self { class: Some(status::COMPLETED), ..self },
            Some("running") => Self { class: Some(status::OTHER), ..self },
            _ => Self { status, ..self },
        }
    }

    /// `failed` for a filter by cause or class of failure without a status.
    fn status(&self) -> Option<&str> {
        let is_failed = self.cause.is_some() || self.failure_classes.is_some();
        self.status.as_deref().or((is_failed && self.class.is_none()).then_some("failed"))
    }

    /// Maximum rows that a page scans.
    pub(crate) fn scan_limit(&self) -> i64 {
        let limits = [
            self.failure_classes.as_ref().map(|_| CLASS_SCAN_LIMIT),
            self.failed_model.as_ref().map(|_| STEP_SCAN_LIMIT),
            self.words.as_ref().map(Words::scan_limit),
        ];
        limits.into_iter().flatten().min().unwrap_or(SCAN_LIMIT)
    }
}

/// A page of executions. One index finds the candidates in the order of the list. For a workflow, only its own index can
/// satisfy the row comparison: with `workflow_id = …`, PostgreSQL might scan the newest executions of all workflows.
/// A search by words checks the scanned rows; it has no index.
///
/// The statement scans at most `$10` rows. It returns the last scanned row even if it does not match, because the next
/// page begins after it.
macro_rules! page_of_executions {
    (prefix: $columns:literal, $values:literal, order: $order:literal, $($parameter:expr),+) => {
        select_executions!(
            r#"matches AS "matches!",
    n = $10 AS "is_last_scanned!"
FROM (
    SELECT
        e.*,
        row_number() OVER (ORDER BY "#, $order, r#"first_received_at DESC, execution_id DESC) AS n,
        ($7::text IS NULL OR status = $7)
        AND ($15::text IS NULL OR $15 = CASE
            WHEN is_successful_status(status) THEN 'completed'
            WHEN is_terminal_status(status) THEN status
            ELSE 'other'
        END)
        AND (NOT $16 OR fetched_from IS NOT NULL)
        AND ($8::text IS NULL OR workflow_id = $8)
        AND ($9::text IS NULL OR coalesce(strpos(lower(error_cause), lower($9)) > 0, false))
        AND ($17::text[] IS NULL OR execution_failure_class(error_cause, error, step_failed, payload) = ANY ($17))
        AND ($18::text IS NULL OR EXISTS (
            SELECT FROM steps_of(payload) AS s
            WHERE s.step ->> 'status' = 'failed' AND s.step -> 'metadata' ->> 'model' = $18
        ))
        AND (
            $13::text[] IS NULL
            OR lower(concat_ws(
                ' ', error, error_cause, jsonb_path_query_array(reference, '$.*')::text,
                CASE WHEN pg_column_size(payload) <= $14 THEN concat_ws(
                    ' ', payload ->> 'inputs',
                    jsonb_path_query_array(payload, '$.step_outputs.*.metadata.model')::text
                ) END
            )) LIKE ALL ($13)
            OR (
                $19::text[] <> '{}' AND status = 'failed'
                AND execution_failure_class(error_cause, error, step_failed, payload) = ANY ($19)
            )
        ) AS matches
    FROM executions AS e
    WHERE
        ("#, $columns, r#"first_received_at) >= ("#, $values, r#"$2)
        AND ("#, $columns, r#"first_received_at, execution_id) <= ("#, $values, r#"$3, $4::text)
        AND (first_received_at, execution_id) <> ($3, $4)
        AND ($5::text IS NULL OR bulk_id = $5)
        AND ($12::text::jsonb IS NULL OR reference @> $12::text::jsonb)
        -- One index has the failed executions and those with a failed step, one those that are neither completed nor failed,
        -- one the fetched ones.
        AND CASE $6::text
            WHEN 'failed' THEN status = 'failed'
            WHEN 'failed step' THEN status = 'failed' OR step_failed
            WHEN 'fetched' THEN fetched_from IS NOT NULL
            WHEN 'rare' THEN status NOT IN ('completed', 'failed')
            ELSE true
        END
    ORDER BY "#, $order, r#"first_received_at DESC, execution_id DESC
    LIMIT $10::bigint
) AS scanned
WHERE matches OR n = $10
ORDER BY "#, $order, r#"first_received_at DESC, execution_id DESC
LIMIT $11"#;
            $($parameter),+
        )
    };
}

/// Lists executions, newest first.
pub(crate) type Executions = Listing<Filter>;

impl Executions {
    /// The first page of a bulk's executions.
    pub(crate) fn of_bulk(bulk_id: &str) -> Self {
        let filter = Filter { scope: Scope::of_bulk(bulk_id), ..Filter::default() };
        Self { filter, ..Self::default() }
    }
}

impl ListFilter for Filter {
    type Row = Execution;
}

impl Query for Executions {
    type Answer = Page<Execution>;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Page<Execution>, sqlx::Error> {
        let Filter { scope: Scope { workflow, bulk }, cause, reference, words, .. } = &self.filter;
        let classes_of_words = words.as_ref().map_or(&[][..], |words| &words.failure_classes[..]);
        let (status, after) = (self.filter.status(), self.page.position(&self.period));
        let partial_index = match status.or(self.filter.class) {
            // The index of bulks or of references finds the executions.
            _ if bulk.is_some() || reference.is_some() => None,
            _ if self.filter.fetched => Some("fetched"),
            None | Some("completed") if self.filter.failed_model.is_some() => Some("failed step"),
            None | Some("completed") => None,
            Some("failed") => Some("failed"),
            Some(_) => Some("rare"),
        };
        /// Both statements have the same parameters.
        macro_rules! fetch {
            ($($variant:tt)+) => {
                page_of_executions!(
                    $($variant)+, EXCERPT_CHARS, self.period.start(), after.at, after.id, bulk.as_deref(),
                    partial_index, status, workflow.as_deref(), cause.as_deref(), self.filter.scan_limit(), self.page.rows(),
                    reference.as_ref().map(ReferenceFilter::as_json),
                    words.as_ref().map(|words| &words.patterns[..]), MAX_SEARCHED_PAYLOAD, self.filter.class,
                    self.filter.fetched, self.filter.failure_classes.as_deref(), self.filter.failed_model.as_deref(),
                    classes_of_words
                )
                .fetch_all(transaction)
                .await?
            };
        }
        let by_workflow = workflow.is_some()
            && bulk.is_none()
            && reference.is_none()
            && !matches!(partial_index, Some("rare" | "fetched"));
        let rows = if by_workflow {
            fetch!(prefix: "workflow_id, ", "$8, ", order: "workflow_id DESC, ")
        } else {
            fetch!(prefix: "", "", order: "")
        };
        Ok(self.page.page(rows, &self.filter))
    }
}

/// A step of an execution, as sent. The first 65,536 characters of each text.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Step {
    /// The key of the step in the payload's `step_outputs`, or `step_results` in a legacy flow.
    pub(crate) key: String,
    /// The sender's identifier of the step; the key if not sent.
    pub(crate) step_id: String,
    /// Queued, running, completed, failed, cancelled, or skipped (a branch that was not chosen); null if not sent.
    pub(crate) status: Option<String>,
    /// The model that ran; null for a step without a model.
    pub(crate) model: Option<String>,
    /// The version of the model; null if not sent.
    pub(crate) model_version: Option<String>,
    /// From the step's times or its metadata; null if unknown.
    pub(crate) duration_seconds: Option<f64>,
    /// The cost in the sender's unit; null if not sent.
    #[schema(value_type = Option<f64>)]
    pub(crate) cost: Option<Json>,
    /// Whether the output comes from a fallback, because the first model failed.
    pub(crate) is_fallback: bool,
    /// The error of the first model; null without a fallback.
    pub(crate) first_error: Option<String>,
    /// The kind of failure; null if not sent.
    pub(crate) error: Option<String>,
    /// The reason for the failure; null if not sent.
    pub(crate) error_cause: Option<String>,
    /// The class of the failure, such as `execution_timeout`; null unless the step failed.
    pub(crate) failure_class: Option<String>,
    /// The branch that a choice step selected; null for other steps.
    pub(crate) selected: Option<String>,
    /// The start time as the sender wrote it; null if not sent.
    pub(crate) started_at: Option<String>,
    /// The end time as the sender wrote it; null if not sent.
    pub(crate) completed_at: Option<String>,
}

/// An execution in full.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ExecutionDetail {
    /// As in the list, but with up to 4,194,304 characters of `error` and `error_cause`.
    #[serde(flatten)]
    pub(crate) execution: Execution,
    /// The sender's identifier of the workflow's version; null if not sent, and without the payload. The first 1,000
    /// characters. Lists do not have it, because it is only in the payload.
    pub(crate) version_id: Option<String>,
    /// The first 1,000 steps of the execution, in the order of their start. The outputs of the steps are in the payload.
    pub(crate) steps: Vec<Step>,
    /// The first page of its results. `/api/v1/results?execution=…` continues at `next`.
    pub(crate) results: Page<ResultItem>,
    /// The number of its conflicts: see `/api/v1/conflicts?execution=…`.
    pub(crate) conflicts: i64,
    /// The webhook's body; null if PostgreSQL's jsonb cannot hold it (then see `payload_text`), if it is too large
    /// (`omitted`), or if it was removed (`payload_removed_at`).
    #[schema(value_type = Option<serde_json::Value>)]
    pub(crate) payload: Option<Json>,
    /// The exact body, where `payload` would differ from it: a repeated key, U+0000, a number out of range; otherwise
    /// null.
    pub(crate) payload_text: Option<String>,
    /// When retention removed the payload with its steps and results (`retention.payloads`); otherwise null.
    #[serde(with = "rfc3339::option")]
    pub(crate) payload_removed_at: Option<OffsetDateTime>,
    /// Which of `payload` and `payload_text` are null because they are larger than 16 MiB. Read them with psql.
    pub(crate) omitted: Vec<String>,
}

/// Reads one execution; `None` if it is not recorded.
#[derive(Debug, Clone)]
pub(crate) struct GetExecution {
    pub(crate) execution_id: String,
}

impl Query for GetExecution {
    type Answer = Option<ExecutionDetail>;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Option<ExecutionDetail>, sqlx::Error> {
        let execution = select_executions!(
            r#"true AS "matches!", false AS "is_last_scanned!" FROM executions WHERE execution_id = $2"#;
            MAX_ERROR, self.execution_id
        );
        let Some(execution) = execution.fetch_optional(&mut *transaction).await? else { return Ok(None) };
        let steps = sqlx::query_file_as!(Step, "src/db/queries/steps.sql", self.execution_id, MAX_STEP_TEXT);
        let steps = steps.fetch_all(&mut *transaction).await?;
        let rest = sqlx::query!(
            r#"SELECT
                   left(e.payload ->> 'version_id', $3) AS version_id,
                   CASE WHEN octet_length(t.payload) <= $2 THEN t.payload END AS "payload: Json",
                   CASE WHEN octet_length(payload_bytes) <= $2 THEN utf8_text(payload_bytes) END AS payload_text,
                   array_remove(ARRAY[
                       CASE WHEN octet_length(t.payload) > $2 THEN 'payload' END,
                       CASE WHEN octet_length(payload_bytes) > $2 THEN 'payload_text' END
                   ], NULL) AS "omitted!",
                   payload_removed_at,
                   (SELECT count(*) FROM execution_conflicts AS c WHERE c.execution_id = e.execution_id)
                       AS "conflicts!"
               FROM executions AS e
               -- OFFSET 0: the payload is converted to text once.
               CROSS JOIN LATERAL (SELECT e.payload::text AS payload OFFSET 0) AS t
               WHERE e.execution_id = $1"#,
            self.execution_id,
            MAX_TEXT,
            EXCERPT_CHARS
        );
        let rest = rest.fetch_one(&mut *transaction).await?;
        let results = ResultsQuery::of_execution(&self.execution_id).run(&mut *transaction).await?;
        Ok(Some(ExecutionDetail {
            execution,
            version_id: rest.version_id,
            steps,
            results,
            conflicts: rest.conflicts,
            payload: rest.payload,
            payload_text: rest.payload_text,
            payload_removed_at: rest.payload_removed_at,
            omitted: rest.omitted,
        }))
    }
}
