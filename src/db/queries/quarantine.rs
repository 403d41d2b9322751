//! The list of quarantined webhooks, and one of them in full. `workflow-receiver quarantine` retries and drops them.

use std::collections::HashMap;
use std::fmt::Debug;

use serde::Serialize;
use time::OffsetDateTime;
use time::serde::rfc3339;
use utoipa::ToSchema;

use super::page::{List, ListRow, Position};
use super::reference::{Reference, ReferenceFilter};
use super::search::Words;
use super::{ListFilter, Listing, MAX_TEXT, Page, Query, TimeRange};
use crate::db::Transaction;
use crate::execution::api_key;

/// A quarantined webhook in a list.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Quarantined {
    /// The number of the entry; ascending in the order of recording.
    pub(crate) quarantine_id: i64,
    /// Why the webhook cannot be recorded: what is wrong with the body, why PostgreSQL rejected it, or why an unsigned
    /// webhook was not confirmed.
    pub(crate) reason: String,
    /// The size of the body in bytes.
    pub(crate) body_bytes: i32,
    /// How a delivery of this body was authenticated: `signature`, `secret_header`, `url_token`, `callback` (confirmed by the
    /// sender's API), `none`, or `unverified` for an unsigned webhook; null for a fetched execution, and if unknown. An
    /// authenticated delivery replaces `none` and `unverified`.
    pub(crate) authenticated_by: Option<String>,
    /// Whether the webhook was answered 200 at least once. False for a webhook that was answered 422, and for an unsigned
    /// webhook that was not confirmed.
    pub(crate) acknowledged: bool,
    /// False if the body was damaged on the disk of the spool.
    pub(crate) intact: bool,
    /// The number of deliveries with this body.
    pub(crate) deliveries: i32,
    /// How many of them have the header `X-Webhook-Redelivery`.
    pub(crate) redeliveries: i32,
    /// The query parameters of the webhook's URL, as a JSON object of strings; null without any. Not signed.
    #[schema(value_type = Option<HashMap<String, String>>)]
    pub(crate) reference: Option<Reference>,
    /// When it was first received, by the receiver's clock.
    #[serde(with = "rfc3339")]
    pub(crate) first_received_at: OffsetDateTime,
    /// When it was last received, by the receiver's clock.
    #[serde(with = "rfc3339")]
    pub(crate) last_received_at: OffsetDateTime,
}

impl Quarantined {
    /// How the webhook was answered, or that it is unsigned and was not confirmed.
    pub(crate) fn answered(&self) -> &'static str {
        match (self.acknowledged, self.is_unconfirmed()) {
            (true, _) => "200",
            (false, true) => "unsigned",
            (false, false) => "422",
        }
    }

    /// Whether it is an unsigned webhook that the sender's API did not confirm.
    pub(crate) fn is_unconfirmed(&self) -> bool {
        !self.acknowledged && self.authenticated_by.as_deref() == Some("unverified")
    }
}

/// Selects [`Quarantined`]s. `octet_length` does not read the body.
macro_rules! select_quarantined {
    ($rest:literal, $($parameter:expr),+) => {
        sqlx::query_as!(
            Quarantined,
            r#"SELECT
    quarantine_id,
    reason,
    octet_length(body) AS "body_bytes!",
    authenticated_by,
    acknowledged,
    intact,
    deliveries,
    redeliveries,
    reference::text AS "reference: Reference",
    first_received_at,
    last_received_at
FROM quarantine
WHERE "# + $rest,
            $($parameter),+
        )
    };
}

impl ListRow for Quarantined {
    const LIST: List = List::Quarantine;

    fn position(&self) -> Position {
        Position { at: self.first_received_at, id: self.quarantine_id.to_string(), place: 0 }
    }
}

/// Maximum entries that a search reads: the newest ones.
pub(crate) const MAX_SEARCHED: i64 = 1_000;
/// Bytes of the beginning of each body that a search reads.
const SEARCHED_BYTES: i32 = 2 << 10;

#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    /// Only entries with this reason.
    pub(crate) reason: Option<String>,
    /// Only entries whose webhook URL has this query parameter, among the newest [`MAX_SEARCHED`].
    pub(crate) reference: Option<ReferenceFilter>,
    /// Only entries whose reason, reference or beginning of the body contains these words, among the newest
    /// [`MAX_SEARCHED`].
    pub(crate) words: Option<Words>,
}

/// Lists quarantined webhooks, newest first.
pub(crate) type Quarantine = Listing<Filter>;

impl ListFilter for Filter {
    type Row = Quarantined;
}

impl Query for Quarantine {
    type Answer = Page<Quarantined>;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Page<Quarantined>, sqlx::Error> {
        let after = self.page.position(&self.period);
        let rows = select_quarantined!(
            "first_received_at >= $1
    AND first_received_at <= $2
    AND (first_received_at, quarantine_id) < ($2, $3::bigint)
    AND ($5::text IS NULL OR reason = $5)
    AND (
        ($6::text::jsonb IS NULL AND $7::text[] IS NULL)
        OR first_received_at >= (
            SELECT min(first_received_at)
            FROM (SELECT first_received_at FROM quarantine ORDER BY first_received_at DESC LIMIT $8) AS newest
        )
    )
    AND ($6 IS NULL OR reference @> $6::text::jsonb)
    AND ($7 IS NULL OR lower(concat_ws(
        ' ', reason, jsonb_path_query_array(reference, '$.*')::text,
        coalesce(utf8_text(substring(body FROM 1 FOR $9)), encode(substring(body FROM 1 FOR $9), 'escape'))
    )) LIKE ALL ($7))
ORDER BY first_received_at DESC, quarantine_id DESC
LIMIT $4",
            self.period.start(),
            after.at,
            after.number(),
            self.page.rows(),
            self.filter.reason.as_deref(),
            self.filter.reference.as_ref().map(ReferenceFilter::as_json),
            self.filter.words.as_ref().map(|words| &words.patterns[..]),
            MAX_SEARCHED,
            SEARCHED_BYTES
        );
        Ok(self.page.page(rows.fetch_all(transaction).await?, &self.filter))
    }
}

/// The entries with one reason.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ReasonGroup {
    pub(crate) reason: String,
    pub(crate) entries: i64,
    pub(crate) deliveries: i64,
    /// How many entries were answered 200.
    #[serde(skip)]
    pub(crate) acknowledged: i64,
    #[serde(with = "rfc3339")]
    pub(crate) latest_received_at: OffsetDateTime,
    pub(crate) latest_quarantine_id: i64,
}

/// Groups the newest entries of a period by their reason, the largest group first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QuarantineReasons {
    pub(crate) period: TimeRange,
    /// Maximum entries that are grouped.
    pub(crate) entries: i64,
    /// Maximum groups.
    pub(crate) groups: i64,
}

impl QuarantineReasons {
    /// For a page of the console.
    pub(crate) const PAGE: Self =
        Self { period: TimeRange { from: None, to: None }, entries: 20_000, groups: 100 };
}

impl Query for QuarantineReasons {
    type Answer = Vec<ReasonGroup>;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<ReasonGroup>, sqlx::Error> {
        let groups = sqlx::query_as!(
            ReasonGroup,
            r#"SELECT
                   reason,
                   count(*) AS "entries!",
                   sum(deliveries) AS "deliveries!",
                   count(*) FILTER (WHERE acknowledged) AS "acknowledged!",
                   max(first_received_at) AS "latest_received_at!",
                   (array_agg(quarantine_id ORDER BY first_received_at DESC, quarantine_id DESC))[1]
                       AS "latest_quarantine_id!"
               FROM (
                   SELECT reason, deliveries, acknowledged, first_received_at, quarantine_id
                   FROM quarantine
                   WHERE first_received_at >= $1 AND first_received_at < $2
                   ORDER BY first_received_at DESC
                   LIMIT $3
               ) AS latest
               GROUP BY reason
               ORDER BY count(*) DESC, reason
               LIMIT $4"#,
            self.period.start(),
            self.period.end(),
            self.entries,
            self.groups
        );
        groups.fetch_all(transaction).await
    }
}

/// Maximum bytes of the start of a body in a list.
const START_BYTES: i32 = 160;

/// The start of a body as text, without a last character that is cut.
fn start_of(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    api_key::remove_from_start(text.trim_end_matches(char::REPLACEMENT_CHARACTER))
}

/// The body with `null` in place of secrets. A body that was answered 200 can contain some in its nested objects.
pub(in crate::db) fn without_secrets(body: Vec<u8>) -> Vec<u8> {
    api_key::remove_at_any_depth(&body).unwrap_or(body)
}

/// Reads the first characters of the bodies of a page, by the number of the entry. Invalid UTF-8 is replaced.
#[derive(Debug, Clone)]
pub(crate) struct BodyStarts {
    pub(crate) quarantine_ids: Vec<i64>,
}

impl Query for BodyStarts {
    type Answer = HashMap<i64, String>;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<HashMap<i64, String>, sqlx::Error> {
        let starts = sqlx::query!(
            r#"SELECT quarantine_id, substring(body FROM 1 FOR $2) AS "start!"
               FROM quarantine WHERE quarantine_id = ANY ($1)"#,
            &self.quarantine_ids,
            START_BYTES
        );
        let starts = starts.fetch_all(transaction).await?.into_iter();
        Ok(starts.map(|row| (row.quarantine_id, start_of(&row.start))).collect())
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct QuarantineUsage {
    pub(crate) bodies: i64,
    /// Bodies answered 200. They count towards no limit.
    pub(crate) acknowledged: i64,
    /// The total size of the other entries: their bodies and the versions of the sender's API.
    pub(crate) rejected_bytes: i64,
}

/// Reads all rows of the table. Limits bound their number, except for webhooks answered 200.
#[derive(Debug)]
pub(crate) struct GetQuarantineUsage;

impl Query for GetQuarantineUsage {
    type Answer = QuarantineUsage;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<QuarantineUsage, sqlx::Error> {
        sqlx::query_file_as!(QuarantineUsage, "src/db/queries/quarantine_usage.sql")
            .fetch_one(transaction)
            .await
    }
}

/// Counts bodies answered 200.
#[derive(Debug)]
pub(crate) struct CountAcknowledged;

impl Query for CountAcknowledged {
    type Answer = i64;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<i64, sqlx::Error> {
        let count = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM quarantine WHERE acknowledged"#);
        count.fetch_one(transaction).await
    }
}

/// A quarantined webhook in full.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct QuarantineDetail {
    /// As in the list.
    #[serde(flatten)]
    pub(crate) entry: Quarantined,
    /// The body; null if it is not UTF-8 text or larger than 16 MiB. `workflow-receiver quarantine show` prints any body.
    pub(crate) body_text: Option<String>,
    /// The execution as the sender's API has it, for an unsigned webhook that differs from it; otherwise null.
    pub(crate) api_text: Option<String>,
}

/// Reads one entry; `None` if the number does not exist.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GetQuarantined {
    pub(crate) quarantine_id: i64,
}

impl Query for GetQuarantined {
    type Answer = Option<QuarantineDetail>;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Option<QuarantineDetail>, sqlx::Error> {
        let entry = select_quarantined!("quarantine_id = $1", self.quarantine_id);
        let Some(entry) = entry.fetch_optional(&mut *transaction).await? else { return Ok(None) };
        let texts = sqlx::query!(
            "SELECT
                 CASE WHEN octet_length(body) <= $2 THEN utf8_text(body) END AS body_text,
                 CASE WHEN octet_length(api_body) <= $2 THEN utf8_text(api_body) END AS api_text
             FROM quarantine WHERE quarantine_id = $1",
            self.quarantine_id,
            MAX_TEXT
        );
        let texts = texts.fetch_one(transaction).await?;
        let [body_text, api_text] = [texts.body_text, texts.api_text].map(|text| {
            text.map(|text| String::from_utf8_lossy(&without_secrets(text.into_bytes())).into_owned())
        });
        Ok(Some(QuarantineDetail { entry, body_text, api_text }))
    }
}
