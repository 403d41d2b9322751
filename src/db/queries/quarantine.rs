//! The quarantine: bodies that are no execution. To mend or drop one, there is `workflow-receiver quarantine`.

use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;
use time::serde::rfc3339;
use utoipa::ToSchema;

use super::page::{List, ListRow, Position};
use super::{MAX_TEXT, Page, PageRequest, Query, TimeRange};

/// A body in quarantine, as lists show it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Quarantined {
    /// Identifies it; rises with the order of recording.
    pub(crate) quarantine_id: i64,
    /// Why the body is no execution, or why PostgreSQL refused it.
    pub(crate) reason: String,
    /// The length of the body in bytes.
    pub(crate) body_bytes: i32,
    /// How it got in first: `signature`, `secret_header`, `url_token`, none; null when not known.
    pub(crate) authenticated_by: Option<String>,
    /// Whether the sender was answered 200, at least once; otherwise 422, and it knows.
    pub(crate) acknowledged: bool,
    /// Whether the body is the one that came; false when the spool's disk has altered it.
    pub(crate) intact: bool,
    /// How many times this very body came.
    pub(crate) deliveries: i32,
    /// When it first came, by the receiver's clock.
    #[serde(with = "rfc3339")]
    pub(crate) first_received_at: OffsetDateTime,
    /// When it last came, by the receiver's clock.
    #[serde(with = "rfc3339")]
    pub(crate) last_received_at: OffsetDateTime,
}

impl ListRow for Quarantined {
    const LIST: List = List::Quarantine;

    fn position(&self) -> Position {
        Position { at: self.first_received_at, id: self.quarantine_id.to_string(), place: 0 }
    }
}

/// What is in quarantine, newest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Quarantine {
    pub(crate) period: TimeRange,
    pub(crate) page: PageRequest,
}

impl Query for Quarantine {
    type Answer = Page<Quarantined>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Page<Quarantined>, sqlx::Error> {
        let after = self.page.position(&self.period);
        let rows = sqlx::query_file_as!(
            Quarantined,
            "src/db/queries/quarantine.sql",
            self.period.start(),
            after.at,
            after.number(),
            self.page.rows()
        );
        Ok(self.page.page(rows.fetch_all(connection).await?))
    }
}

/// How much is in quarantine.
#[derive(Debug, Serialize)]
pub(crate) struct Held {
    /// How many bodies.
    pub(crate) bodies: i64,
    /// Those of them whose sender was answered 200: they count towards no limit.
    pub(crate) acknowledged: i64,
    /// The length of the others, in bytes.
    pub(crate) refused_bytes: i64,
}

/// Asks for [`Held`]. It looks at all rows, which are bounded but for those that were answered 200.
#[derive(Debug)]
pub(crate) struct HowMuch;

impl Query for HowMuch {
    type Answer = Held;

    async fn run(&self, connection: &mut PgConnection) -> Result<Held, sqlx::Error> {
        sqlx::query_file_as!(Held, "src/db/queries/quarantine_held.sql").fetch_one(connection).await
    }
}

/// Counts bodies whose sender was answered 200.
#[derive(Debug)]
pub(crate) struct CountAcknowledged;

impl Query for CountAcknowledged {
    type Answer = i64;

    async fn run(&self, connection: &mut PgConnection) -> Result<i64, sqlx::Error> {
        let count = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM quarantine WHERE acknowledged"#);
        count.fetch_one(connection).await
    }
}

/// One body in quarantine.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct QuarantineDetail {
    /// As lists show it.
    #[serde(flatten)]
    pub(crate) entry: Quarantined,
    /// The body; null when it is no text, or larger than 16 MiB: `workflow-receiver quarantine show` writes any.
    pub(crate) body_text: Option<String>,
}

/// What is known of one body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GetQuarantined {
    pub(crate) quarantine_id: i64,
}

impl Query for GetQuarantined {
    /// `None` when there is none with this number.
    type Answer = Option<QuarantineDetail>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Option<QuarantineDetail>, sqlx::Error> {
        let row = sqlx::query!(
            r#"SELECT quarantine_id, reason, octet_length(body) AS "body_bytes!",
                      CASE WHEN octet_length(body) <= $2 THEN utf8_text(body) END AS body_text,
                      authenticated_by, acknowledged, intact, deliveries, first_received_at, last_received_at
               FROM quarantine WHERE quarantine_id = $1"#,
            self.quarantine_id,
            MAX_TEXT
        );
        Ok(row.fetch_optional(connection).await?.map(|row| QuarantineDetail {
            entry: Quarantined {
                quarantine_id: row.quarantine_id,
                reason: row.reason,
                body_bytes: row.body_bytes,
                authenticated_by: row.authenticated_by,
                acknowledged: row.acknowledged,
                intact: row.intact,
                deliveries: row.deliveries,
                first_received_at: row.first_received_at,
                last_received_at: row.last_received_at,
            },
            body_text: row.body_text,
        }))
    }
}
