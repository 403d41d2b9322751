//! The list of predictions, and one prediction in full.

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
use super::search::{CLASS_SCAN_LIMIT, MAX_SEARCHED_PAYLOAD, Words};
use super::{EXCERPT_CHARS, ListFilter, Listing, MAX_ERROR, MAX_TEXT, Page, Query, SCAN_LIMIT};
use crate::db::Transaction;
use crate::execution::identifier::Identifier;
use crate::execution::status;

/// Maximum conflicts of a prediction in its detail.
const MAX_CONFLICTS: i64 = 50;

columns! {
    /// A prediction in a list: an execution of a single model.
    #[derive(Debug, Clone, Serialize, ToSchema)]
    pub(crate) struct Prediction {
        /// The sender's identifier of the prediction: `exec_id`, or in other forms `execution_id` or `id`.
        pub(crate) prediction_id: String,
        /// The workflow that the prediction is a step of; null for a prediction outside of a workflow.
        pub(crate) workflow_id: Option<String>,
        /// The status, as sent. succeeded, success, completed, failed and cancelled are terminal; other statuses are not.
        pub(crate) status: String,
        /// The kind of failure, such as `PROVIDER_REJECTED`; null if not sent. The first 1,000 characters.
        pub(crate) error: Option<String>,
        /// The sender's reason for the failure; null if not sent. The first 1,000 characters.
        pub(crate) error_cause: Option<String>,
        /// The class of the failure, such as `execution_timeout`; null unless the prediction failed.
        pub(crate) failure_class: Option<String>,
        /// The cost in the sender's unit, rounded to 12 decimals; null if not sent or not below 10^12.
        #[schema(value_type = Option<f64>)]
        pub(crate) total_cost: Option<Json>,
        /// How long the model ran; null if not sent.
        pub(crate) duration_seconds: Option<f64>,
        /// How the recorded webhook was authenticated: `signature`, `secret_header`, `url_token`, `callback` (confirmed by the
        /// sender's API) or `none`; null for a fetched prediction, and if unknown.
        pub(crate) authenticated_by: Option<String>,
        /// The number of deliveries, including duplicates and conflicts.
        pub(crate) deliveries: i32,
        /// How many of them have the header `X-Webhook-Redelivery`.
        pub(crate) redeliveries: i32,
        /// The number of stored conflicts, including removed ones.
        pub(crate) conflicts: i32,
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
        /// The model, if the webhook or the parameters of its URL name it. The first 200 characters.
        pub(crate) model: Option<String>,
        pub(super) matches: bool,
        pub(super) is_last_scanned: bool,
    }
}

/// Selects [`Prediction`]s: these columns, then the rest of the statement. `$1` is the length that error texts are cut to.
macro_rules! select_predictions {
    ($($rest:expr),+; $($parameter:expr),+) => {
        sqlx::query_as!(
            Prediction,
            r#"SELECT
    prediction_id,
    workflow_id,
    status,
    left(error, $1) AS error,
    left(error_cause, $1) AS error_cause,
    CASE WHEN status = 'failed' THEN failure_class(error, error_cause) END AS failure_class,
    trim_scale(sensible_cost(total_cost))::text AS "total_cost: Json",
    duration_seconds,
    authenticated_by,
    deliveries,
    redeliveries,
    coalesce(conflicts, 0) AS "conflicts!",
    first_received_at,
    last_received_at,
    reference::text AS "reference: Reference",
    left(coalesce(payload ->> 'model', reference ->> 'model'), 200) AS model,
"# $(+ $rest)+,
            $($parameter),+
        )
    };
}

impl ListRow for Prediction {
    const LIST: List = List::Predictions;

    fn position(&self) -> Position {
        Position { at: self.first_received_at, id: self.prediction_id.clone(), place: 0 }
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
#[group(id = "prediction_filter", multiple = true)]
pub(crate) struct Filter {
    /// Only predictions that are steps of this workflow.
    #[param(inline, value_type = Option<Identifier>)]
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) workflow: Option<String>,
    /// Only predictions with this status, as sent: succeeded, failed, …
    #[param(inline, value_type = Option<Identifier>)]
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) status: Option<String>,
    /// Only failed predictions (or those with the given status) whose cause contains this text, in any case.
    #[param(inline, value_type = Option<Identifier>)]
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) cause: Option<String>,
    /// Only predictions whose webhook URL has this query parameter, such as `order=1234`.
    #[param(inline, value_type = Option<ReferenceText>, example = "order=1234")]
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) reference: Option<ReferenceFilter>,
    /// The console's filter by class of status: a result of [`status::class`].
    #[param(ignore)]
    #[arg(skip)]
    pub(crate) class: Option<&'static str>,
    /// The console's filter: only failed predictions of these classes.
    #[param(ignore)]
    #[arg(skip)]
    pub(crate) failure_classes: Option<Vec<String>>,
    /// The console's search in error, cause, input, model and reference.
    #[param(ignore)]
    #[arg(skip)]
    pub(crate) words: Option<Words>,
}

impl Filter {
    /// Filters by a status of the console: `succeeded` finds all successful statuses, and `running` finds all predictions
    /// that have not ended.
    #[must_use]
    pub(crate) fn with_status(self, status: Option<String>) -> Self {
        match status.as_deref() {
            Some("succeeded") => Self { class: Some(status::COMPLETED), ..self },
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
        if self.failure_classes.is_some() {
            return CLASS_SCAN_LIMIT;
        }
        self.words.as_ref().map_or(SCAN_LIMIT, Words::scan_limit)
    }
}

/// A page of predictions, like a page of executions.
macro_rules! page_of_predictions {
    (prefix: $columns:literal, $values:literal, order: $order:literal, filter: $filter:literal,
     $($parameter:expr),+) => {
        select_predictions!(
            r#"matches AS "matches!",
    n = $9 AS "is_last_scanned!"
FROM (
    SELECT
        p.*,
        row_number() OVER (ORDER BY "#, $order, r#"first_received_at DESC, prediction_id DESC) AS n,
        ($6::text IS NULL OR status = $6) AND ($7::text IS NULL OR workflow_id = $7)
            AND ($11::text IS NULL OR $11 = CASE
                WHEN is_successful_status(status) THEN 'completed'
                WHEN is_terminal_status(status) THEN status
                ELSE 'other'
            END)
            AND ($12::text IS NULL OR coalesce(strpos(lower(error_cause), lower($12)) > 0, false))
            AND ($13::text[] IS NULL OR failure_class(error, error_cause) = ANY ($13))
            AND (
                $14::text[] IS NULL
                OR lower(concat_ws(
                    ' ', error, error_cause, jsonb_path_query_array(reference, '$.*')::text,
                    CASE WHEN pg_column_size(payload) <= $15
                        THEN concat_ws(' ', payload ->> 'input', payload ->> 'model') END
                )) LIKE ALL ($14)
                OR ($16::text[] <> '{}' AND status = 'failed' AND failure_class(error, error_cause) = ANY ($16))
            ) AS matches
    FROM predictions AS p
    WHERE
        ("#, $columns, r#"first_received_at) >= ("#, $values, r#"$2)
        AND ("#, $columns, r#"first_received_at, prediction_id) <= ("#, $values, r#"$3, $4::text)
        AND (first_received_at, prediction_id) <> ($3, $4)
        AND ($8::text::jsonb IS NULL OR reference @> $8::text::jsonb)
        -- An index has the failed predictions.
        AND (NOT $5::boolean OR status = 'failed')"#, $filter, r#"
    ORDER BY "#, $order, r#"first_received_at DESC, prediction_id DESC
    LIMIT $9::bigint
) AS scanned
WHERE matches OR n = $9
ORDER BY "#, $order, r#"first_received_at DESC, prediction_id DESC
LIMIT $10"#;
            $($parameter),+
        )
    };
}

/// Lists predictions, newest first.
pub(crate) type Predictions = Listing<Filter>;

impl ListFilter for Filter {
    type Row = Prediction;
}

impl Query for Predictions {
    type Answer = Page<Prediction>;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Page<Prediction>, sqlx::Error> {
        let Filter { workflow, cause, reference, words, .. } = &self.filter;
        let classes_of_words = words.as_ref().map_or(&[][..], |words| &words.failure_classes[..]);
        let status = self.filter.status();
        let after = self.page.position(&self.period);
        let by_workflow = workflow.is_some() && reference.is_none();
        let failed = status == Some("failed") && reference.is_none() && !by_workflow;
        /// Both statements have the same parameters.
        macro_rules! fetch {
            ($($variant:tt)+) => {
                page_of_predictions!(
                    $($variant)+, EXCERPT_CHARS, self.period.start(), after.at, after.id, failed, status,
                    workflow.as_deref(), reference.as_ref().map(ReferenceFilter::as_json), self.filter.scan_limit(),
                    self.page.rows(), self.filter.class, cause.as_deref(), self.filter.failure_classes.as_deref(),
                    words.as_ref().map(|words| &words.patterns[..]), MAX_SEARCHED_PAYLOAD, classes_of_words
                )
                .fetch_all(transaction)
                .await?
            };
        }
        let rows = if by_workflow {
            fetch!(prefix: "workflow_id, ", "$7, ", order: "workflow_id DESC, ", filter: " AND workflow_id IS NOT NULL")
        } else {
            fetch!(prefix: "", "", order: "", filter: "")
        };
        Ok(self.page.page(rows, &self.filter))
    }
}

/// A webhook that contradicts a recorded prediction.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct PredictionConflict {
    /// The number of the conflict.
    pub(crate) conflict_id: i64,
    /// The workflow in the webhook.
    pub(crate) workflow_id: Option<String>,
    /// The status in the webhook.
    pub(crate) status: String,
    /// The kind of failure in the webhook. The first 1,000 characters.
    pub(crate) error: Option<String>,
    /// The reason for the failure in the webhook. The first 1,000 characters.
    pub(crate) error_cause: Option<String>,
    /// How this webhook was authenticated.
    pub(crate) authenticated_by: Option<String>,
    /// The number of deliveries of this webhook.
    pub(crate) deliveries: i32,
    /// When it was first received, by the receiver's clock.
    #[serde(with = "rfc3339")]
    pub(crate) first_received_at: OffsetDateTime,
    /// When it was last received, by the receiver's clock.
    #[serde(with = "rfc3339")]
    pub(crate) last_received_at: OffsetDateTime,
}

/// A prediction in full.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PredictionDetail {
    /// As in the list, but with up to 4,194,304 characters of `error` and `error_cause`.
    #[serde(flatten)]
    pub(crate) prediction: Prediction,
    /// The output of the model.
    #[schema(value_type = Option<serde_json::Value>)]
    pub(crate) output: Option<Json>,
    /// The first 50 conflicts. Their bodies are in the table `prediction_conflicts`.
    pub(crate) contradicted_by: Vec<PredictionConflict>,
    /// The webhook's body; null if PostgreSQL's jsonb cannot hold it (then see `payload_text`), if it is too large
    /// (`omitted`), or if it was removed (`payload_removed_at`).
    #[schema(value_type = Option<serde_json::Value>)]
    pub(crate) payload: Option<Json>,
    /// The exact body, where `payload` would differ from it; otherwise null.
    pub(crate) payload_text: Option<String>,
    /// When retention removed the payload and the output (`retention.payloads`); otherwise null.
    #[serde(with = "rfc3339::option")]
    pub(crate) payload_removed_at: Option<OffsetDateTime>,
    /// Which of `output`, `payload` and `payload_text` are null because they are larger than 16 MiB. Read them with psql.
    pub(crate) omitted: Vec<String>,
}

/// Reads one prediction; `None` if it is not recorded.
#[derive(Debug, Clone)]
pub(crate) struct GetPrediction {
    pub(crate) prediction_id: String,
}

impl Query for GetPrediction {
    type Answer = Option<PredictionDetail>;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Option<PredictionDetail>, sqlx::Error> {
        let prediction = select_predictions!(
            r#"true AS "matches!", false AS "is_last_scanned!" FROM predictions WHERE prediction_id = $2"#;
            MAX_ERROR, self.prediction_id
        );
        let Some(prediction) = prediction.fetch_optional(&mut *transaction).await? else { return Ok(None) };
        let rest = sqlx::query!(
            r#"SELECT
                   CASE WHEN octet_length(t.output) <= $2 THEN t.output END AS "output: Json",
                   CASE WHEN octet_length(t.payload) <= $2 THEN t.payload END AS "payload: Json",
                   CASE WHEN octet_length(payload_bytes) <= $2 THEN utf8_text(payload_bytes) END AS payload_text,
                   array_remove(ARRAY[
                       CASE WHEN octet_length(t.output) > $2 THEN 'output' END,
                       CASE WHEN octet_length(t.payload) > $2 THEN 'payload' END,
                       CASE WHEN octet_length(payload_bytes) > $2 THEN 'payload_text' END
                   ], NULL) AS "omitted!",
                   payload_removed_at
               FROM predictions AS p
               -- OFFSET 0: each value is converted to text once.
               CROSS JOIN LATERAL (SELECT p.output::text AS output, p.payload::text AS payload OFFSET 0) AS t
               WHERE p.prediction_id = $1"#,
            self.prediction_id,
            MAX_TEXT
        );
        let rest = rest.fetch_one(&mut *transaction).await?;
        let conflicts = sqlx::query_as!(
            PredictionConflict,
            "SELECT conflict_id, workflow_id, status, left(error, $2) AS error, left(error_cause, $2) AS error_cause,
                 authenticated_by, deliveries, first_received_at, last_received_at
             FROM prediction_conflicts
             WHERE prediction_id = $1
             ORDER BY conflict_id
             LIMIT $3",
            self.prediction_id,
            EXCERPT_CHARS,
            MAX_CONFLICTS
        );
        Ok(Some(PredictionDetail {
            prediction,
            contradicted_by: conflicts.fetch_all(transaction).await?,
            output: rest.output,
            payload: rest.payload,
            payload_text: rest.payload_text,
            payload_removed_at: rest.payload_removed_at,
            omitted: rest.omitted,
        }))
    }
}
