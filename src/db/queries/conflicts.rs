//! The list of conflicts with the recorded result beside it, and one conflict in full.

use std::fmt::Debug;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde::Serialize;
use time::OffsetDateTime;
use time::serde::rfc3339;
use utoipa::{IntoParams, ToSchema};

use super::json::Json;
use super::page::{List, ListRow, Position};
use super::{EXCERPT_CHARS, ListFilter, Listing, MAX_ERROR, MAX_TEXT, Page, PageRequest, Query, TimeRange};
use crate::db::Transaction;
use crate::execution::identifier::Identifier;

/// A conflict in a list.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Conflict {
    /// The number of the conflict; ascending in the order of recording.
    pub(crate) conflict_id: i64,
    /// The execution whose recorded result the webhook contradicts.
    pub(crate) execution_id: String,
    /// The workflow in the webhook.
    pub(crate) workflow_id: String,
    /// The bulk in the webhook.
    pub(crate) bulk_id: Option<String>,
    /// The fields in which the webhook differs from the recorded execution; empty if only bytes differ that jsonb
    /// cannot hold; null if the execution was removed.
    pub(crate) differs_in: Option<Vec<String>>,
    /// The recorded status.
    pub(crate) recorded_status: Option<String>,
    /// The status in the webhook.
    pub(crate) delivered_status: String,
    /// The recorded cause. The first 1,000 characters.
    pub(crate) recorded_error_cause: Option<String>,
    /// The cause in the webhook. The first 1,000 characters.
    pub(crate) delivered_error_cause: Option<String>,
    /// How the recorded webhook was authenticated: `signature`, `secret_header`, `url_token`, `callback` (confirmed by the
    /// sender's API) or `none`; null for a fetched execution, and if unknown.
    pub(crate) recorded_authenticated_by: Option<String>,
    /// How this webhook was authenticated, in the same form.
    pub(crate) delivered_authenticated_by: Option<String>,
    /// The number of deliveries of this webhook.
    pub(crate) deliveries: i32,
    /// When it was first received, by the receiver's clock.
    #[serde(with = "rfc3339")]
    pub(crate) first_received_at: OffsetDateTime,
    /// When it was last received, by the receiver's clock.
    #[serde(with = "rfc3339")]
    pub(crate) last_received_at: OffsetDateTime,
}

impl ListRow for Conflict {
    const LIST: List = List::Conflicts;

    fn position(&self) -> Position {
        Position { at: self.first_received_at, id: self.conflict_id.to_string(), place: 0 }
    }
}

// Parameters of the API and of the command line.
#[derive(Debug, Clone, Default, IntoParams, Args)]
#[into_params(parameter_in = Query)]
#[group(id = "conflict_filter")]
pub(crate) struct Filter {
    /// Only conflicts of this execution.
    #[param(inline, value_type = Option<Identifier>)]
    #[arg(value_name = "EXECUTION", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) execution: Option<String>,
}

/// Lists conflicts, newest first.
pub(crate) type Conflicts = Listing<Filter>;

impl ListFilter for Filter {
    type Row = Conflict;
}

impl Query for Conflicts {
    type Answer = Page<Conflict>;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Page<Conflict>, sqlx::Error> {
        let after = self.page.position(&self.period);
        let rows = sqlx::query_file_as!(
            Conflict,
            "src/db/queries/conflicts.sql",
            self.period.start(),
            after.at,
            after.number(),
            self.filter.execution,
            self.page.rows(),
            EXCERPT_CHARS,
            None::<i64>
        );
        Ok(self.page.page(rows.fetch_all(transaction).await?, &self.filter))
    }
}

/// A conflict in full.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ConflictDetail {
    /// As in the list, but with up to 4,194,304 characters of the causes.
    #[serde(flatten)]
    pub(crate) conflict: Conflict,
    /// The recorded output.
    #[schema(value_type = Option<serde_json::Value>)]
    pub(crate) recorded_output: Option<Json>,
    /// The output in the webhook.
    #[schema(value_type = Option<serde_json::Value>)]
    pub(crate) delivered_output: Option<Json>,
    /// The webhook's body; null if jsonb cannot hold it (then see `payload_text`).
    #[schema(value_type = Option<serde_json::Value>)]
    pub(crate) payload: Option<Json>,
    /// The exact body, where `payload` would differ from it; otherwise null.
    pub(crate) payload_text: Option<String>,
    /// Which of the outputs, `payload` and `payload_text` are null because they are larger than 16 MiB. Read them with psql.
    pub(crate) omitted: Vec<String>,
}

/// Reads one conflict; `None` if the number does not exist.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GetConflict {
    pub(crate) conflict_id: i64,
}

impl Query for GetConflict {
    type Answer = Option<ConflictDetail>;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Option<ConflictDetail>, sqlx::Error> {
        let period = TimeRange::default();
        let after = PageRequest::default().position(&period);
        let conflict = sqlx::query_file_as!(
            Conflict,
            "src/db/queries/conflicts.sql",
            period.start(),
            after.at,
            after.number(),
            None::<&str>,
            1_i64,
            MAX_ERROR,
            self.conflict_id
        );
        let Some(conflict) = conflict.fetch_optional(&mut *transaction).await? else { return Ok(None) };
        let rest = sqlx::query!(
            r#"SELECT
                   CASE WHEN octet_length(t.recorded) <= $2 THEN t.recorded END AS "recorded_output: Json",
                   CASE WHEN octet_length(t.delivered) <= $2 THEN t.delivered END AS "delivered_output: Json",
                   CASE WHEN octet_length(t.payload) <= $2 THEN t.payload END AS "payload: Json",
                   CASE WHEN octet_length(c.payload_bytes) <= $2 THEN utf8_text(c.payload_bytes) END AS payload_text,
                   array_remove(ARRAY[
                       CASE WHEN octet_length(t.recorded) > $2 THEN 'recorded_output' END,
                       CASE WHEN octet_length(t.delivered) > $2 THEN 'delivered_output' END,
                       CASE WHEN octet_length(t.payload) > $2 THEN 'payload' END,
                       CASE WHEN octet_length(c.payload_bytes) > $2 THEN 'payload_text' END
                   ], NULL) AS "omitted!"
               FROM execution_conflicts AS c
               LEFT JOIN executions AS e ON c.execution_id = e.execution_id
               -- OFFSET 0: each value is converted to text once.
               CROSS JOIN LATERAL (
                   SELECT e.output::text AS recorded, c.output::text AS delivered, c.payload::text AS payload OFFSET 0
               ) AS t
               WHERE c.conflict_id = $1"#,
            self.conflict_id,
            MAX_TEXT
        );
        let rest = rest.fetch_one(&mut *transaction).await?;
        Ok(Some(ConflictDetail {
            conflict,
            recorded_output: rest.recorded_output,
            delivered_output: rest.delivered_output,
            payload: rest.payload,
            payload_text: rest.payload_text,
            omitted: rest.omitted,
        }))
    }
}
