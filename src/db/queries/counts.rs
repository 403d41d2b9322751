//! Numbers of rows for the overview of the console, counted up to a limit.

use time::OffsetDateTime;

use super::Query;
use crate::db::Transaction;

/// Rows that are counted at most.
const MAX_COUNTED: i64 = 1_000;

/// A number of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Number {
    /// At most [`MAX_COUNTED`].
    pub(crate) counted: i64,
    /// Whether there are further rows.
    pub(crate) more: bool,
}

/// Counts rows. Each statement finds at most one more than [`MAX_COUNTED`] in an index.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Count {
    Quarantined,
    Overdue,
    /// Conflicts that were first received after this time.
    Conflicts(OffsetDateTime),
    /// Fetched executions that were first received after this time.
    Fetched(OffsetDateTime),
}

impl Query for Count {
    type Answer = Number;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Number, sqlx::Error> {
        let limit = MAX_COUNTED + 1;
        let number = match self {
            Self::Quarantined => {
                sqlx::query_scalar!(
                    r#"SELECT count(*) AS "number!"
                   FROM (SELECT FROM quarantine ORDER BY first_received_at DESC LIMIT $1) AS counted"#,
                    limit
                )
                .fetch_one(transaction)
                .await?
            }
            Self::Overdue => {
                sqlx::query_scalar!(
                    // As in expected.sql: LIMIT in the subquery makes PostgreSQL find each execution by its primary key.
                    r#"SELECT count(*) AS "number!"
                   FROM (
                       SELECT execution_id FROM expected_executions
                       WHERE NOT settled AND execution_id IS NOT NULL AND due_at <= now()
                       ORDER BY registered_at, expected_id
                       LIMIT $1
                   ) AS due
                   LEFT JOIN LATERAL (
                       SELECT status FROM executions WHERE execution_id = due.execution_id LIMIT 1
                   ) AS e ON true
                   WHERE is_terminal_status(e.status) IS NOT TRUE"#,
                    limit
                )
                .fetch_one(transaction)
                .await?
            }
            Self::Conflicts(since) => {
                sqlx::query_scalar!(
                    r#"SELECT count(*) AS "number!"
                   FROM (
                       SELECT FROM execution_conflicts
                       WHERE first_received_at >= $2
                       ORDER BY first_received_at DESC
                       LIMIT $1
                   ) AS counted"#,
                    limit,
                    since
                )
                .fetch_one(transaction)
                .await?
            }
            Self::Fetched(since) => {
                sqlx::query_scalar!(
                    r#"SELECT count(*) AS "number!"
                   FROM (
                       SELECT FROM executions
                       WHERE fetched_from IS NOT NULL AND first_received_at >= $2
                       ORDER BY first_received_at DESC
                       LIMIT $1
                   ) AS counted"#,
                    limit,
                    since
                )
                .fetch_one(transaction)
                .await?
            }
        };
        Ok(Number { counted: number.min(MAX_COUNTED), more: number > MAX_COUNTED })
    }
}
