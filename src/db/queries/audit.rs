//! The log of operators' actions.

use time::OffsetDateTime;

use super::Query;
use crate::db::Transaction;

/// An action of an operator.
#[derive(Debug, Clone)]
pub(crate) struct Action {
    pub(crate) audit_id: i64,
    /// When the action began, by PostgreSQL's clock.
    pub(crate) at: OffsetDateTime,
    /// The name of the operator's token.
    pub(crate) actor: String,
    pub(crate) action: String,
    /// The identifiers of the rows, and the mapping of a retry; empty if the action concerns no row.
    pub(crate) target: String,
    /// `None` while the action runs, and if the receiver ended during the action.
    pub(crate) succeeded: Option<bool>,
    /// What the action changed, or why it failed. The first 10,000 characters.
    pub(crate) result: Option<String>,
}

/// Lists actions, the latest first.
#[derive(Debug)]
pub(crate) struct Actions {
    /// Only actions with a lower number.
    pub(crate) before: i64,
    pub(crate) limit: i64,
}

impl Actions {
    /// Only the action with this number.
    pub(crate) fn only(audit_id: i64) -> Self {
        Self { before: audit_id.saturating_add(1), limit: 1 }
    }
}

impl Query for Actions {
    type Answer = Vec<Action>;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<Action>, sqlx::Error> {
        let actions = sqlx::query_as!(
            Action,
            "SELECT audit_id, at, actor, action, left(target, 10000) AS \"target!\", succeeded, left(result, 10000) AS result
             FROM audit
             WHERE audit_id < $1
             ORDER BY audit_id DESC
             LIMIT $2",
            self.before,
            self.limit
        );
        actions.fetch_all(transaction).await
    }
}
