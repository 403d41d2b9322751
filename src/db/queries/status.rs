//! Rejects a filter by a status that no execution has. Otherwise a misspelt status would look like an empty list.

use super::{Query, QueryError, QueryPool};
use crate::db::Transaction;

/// Statuses that are accepted even if no execution has them.
const COMMON: [&str; 4] = ["cancelled", "completed", "failed", "running"];
/// Maximum executions that are scanned. If more executions have a rare status, every status is accepted.
const SCAN_LIMIT: i64 = 10_000;
/// Maximum statuses that the error names.
const MAX_NAMED: usize = 20;

/// The error for a status that no execution has. Completes a sentence that begins with the parameter's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be one of the statuses in use: {}{}", .in_use.join(", "), if *.is_list { "; lists are not supported" } else { "" })]
pub(crate) struct UnknownStatus {
    in_use: Vec<String>,
    is_list: bool,
}

/// Checks a filter by status. While no execution is recorded, every status is accepted.
///
/// # Errors
/// The outer error is that of the query.
pub(crate) async fn check_status(
    pool: &QueryPool,
    status: Option<&str>,
) -> Result<Result<(), UnknownStatus>, QueryError> {
    match status {
        Some(status) if !COMMON.contains(&status) => pool.run(&CheckStatus(status)).await,
        _ => Ok(Ok(())),
    }
}

#[derive(Debug)]
struct CheckStatus<'s>(&'s str);

impl Query for CheckStatus<'_> {
    type Answer = Result<(), UnknownStatus>;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Self::Answer, sqlx::Error> {
        // The index executions_rare_status has these executions.
        let rare = sqlx::query!(
            r#"SELECT
                   coalesce(array_agg(DISTINCT status), '{}') AS "statuses!",
                   count(*) AS "scanned!",
                   (SELECT true FROM executions ORDER BY first_received_at DESC LIMIT 1) AS any_recorded
               FROM (
                   SELECT status
                   FROM executions
                   WHERE status NOT IN ('completed', 'failed')
                   ORDER BY first_received_at DESC
                   LIMIT $1
               ) AS latest"#,
            SCAN_LIMIT
        );
        let rare = rare.fetch_one(transaction).await?;
        let is_known = rare.statuses.iter().any(|status| status == self.0);
        if is_known || rare.any_recorded.is_none() || rare.scanned == SCAN_LIMIT {
            return Ok(Ok(()));
        }
        let mut in_use = COMMON.map(str::to_owned).to_vec();
        in_use.extend(rare.statuses.into_iter().filter(|status| !COMMON.contains(&&**status)));
        in_use.truncate(MAX_NAMED);
        Ok(Err(UnknownStatus { in_use, is_list: self.0.contains(',') }))
    }
}
