//! Statements of [`crate::reconcile`]: which executions it requests, and what its checks found. The recorder records the
//! fetched executions.

use time::OffsetDateTime;

use super::{DbConnection, DbError};

impl DbConnection {
    /// Those of `execution_ids` that are recorded with a terminal status, as an execution or as a prediction.
    pub(crate) async fn ended(&mut self, execution_ids: &[String]) -> Result<Vec<String>, DbError> {
        let ended = sqlx::query_scalar!(
            r#"SELECT execution_id AS "execution_id!" FROM executions
               WHERE execution_id = ANY ($1) AND is_terminal_status(status)
               UNION
               SELECT prediction_id FROM predictions
               WHERE prediction_id = ANY ($1) AND is_terminal_status(status)"#,
            execution_ids
        );
        self.transact(async |transaction| ended.fetch_all(transaction).await).await
    }

    /// Up to `limit` executions that have not ended and were first received before `before`: those without a check, newest
    /// first, then those with the earliest check. Excludes executions that were absent at the sender within the last 7 days,
    /// or checked since `before`.
    pub(crate) async fn still_running(
        &mut self,
        before: OffsetDateTime,
        limit: i64,
    ) -> Result<Vec<String>, DbError> {
        let running = sqlx::query_scalar!(
            r#"SELECT e.execution_id AS "execution_id!" FROM executions AS e
               LEFT JOIN reconcile_checks AS c ON c.execution_id = e.execution_id
               WHERE e.status NOT IN ('completed', 'failed') AND NOT is_terminal_status(e.status)
                   AND e.first_received_at < $1
                   AND (c.checked_at < $1 AND NOT (c.absent AND c.checked_at >= now() - interval '7 days')) IS NOT FALSE
               ORDER BY c.checked_at NULLS FIRST, e.first_received_at DESC LIMIT $2"#,
            before,
            limit
        );
        self.transact(async |transaction| running.fetch_all(transaction).await).await
    }

    /// Up to `limit` overdue executions: those without a check, in the order in which they became due, then those with the
    /// earliest check. Excludes executions that were absent at the sender within the last 7 days, or checked since `before`.
    pub(crate) async fn overdue(
        &mut self,
        before: OffsetDateTime,
        limit: i64,
    ) -> Result<Vec<String>, DbError> {
        let overdue = sqlx::query_scalar!(
            r#"SELECT o.execution_id AS "execution_id!" FROM overdue_executions AS o
               LEFT JOIN reconcile_checks AS c ON c.execution_id = o.execution_id
               WHERE (c.checked_at < $1 AND NOT (c.absent AND c.checked_at >= now() - interval '7 days')) IS NOT FALSE
               ORDER BY c.checked_at NULLS FIRST, o.due_at LIMIT $2"#,
            before,
            limit
        );
        self.transact(async |transaction| overdue.fetch_all(transaction).await).await
    }

    /// Deletes checks and absent workflows that are older than 30 days. They prevent a request for 7 days only.
    pub(crate) async fn remove_old_checks(&mut self) -> Result<(), DbError> {
        let remove = sqlx::query!(
            "WITH checks AS (
                 DELETE FROM reconcile_checks WHERE checked_at < now() - interval '30 days'
             )
             DELETE FROM absent_workflows WHERE checked_at < now() - interval '30 days'"
        );
        self.transact(async |transaction| remove.execute(transaction).await).await?;
        Ok(())
    }

    /// The executions of a bulk whose response of bulk-trigger is registered; empty if it is not.
    pub(crate) async fn registered_of_bulk(&mut self, bulk_id: &str) -> Result<Vec<String>, DbError> {
        let registered = sqlx::query_scalar!(
            r#"SELECT execution_id AS "execution_id!" FROM expected_executions
               WHERE bulk_id = $1 AND execution_id IS NOT NULL ORDER BY position"#,
            bulk_id
        );
        self.transact(async |transaction| registered.fetch_all(transaction).await).await
    }

    /// The workflows with recorded executions since the day of `since`. Excludes workflows that were absent at the sender
    /// within the last 7 days.
    pub(crate) async fn workflows_since(&mut self, since: OffsetDateTime) -> Result<Vec<String>, DbError> {
        let workflows = sqlx::query_scalar!(
            "SELECT workflow_id FROM workflow_days
             WHERE day >= ($1 AT TIME ZONE 'UTC')::date
                 AND workflow_id NOT IN (
                     SELECT a.workflow_id FROM absent_workflows AS a
                     WHERE a.checked_at >= now() - interval '7 days'
                 )
             GROUP BY workflow_id ORDER BY workflow_id",
            since
        );
        self.transact(async |transaction| workflows.fetch_all(transaction).await).await
    }

    /// Stores that the sender does not have these workflows.
    pub(crate) async fn store_absent_workflows(&mut self, workflow_ids: &[String]) -> Result<(), DbError> {
        let insert = sqlx::query!(
            "INSERT INTO absent_workflows (workflow_id, checked_at)
             SELECT w.workflow_id, now() FROM unnest($1::text[]) AS w (workflow_id) ORDER BY w.workflow_id
             ON CONFLICT (workflow_id) DO UPDATE SET checked_at = excluded.checked_at",
            workflow_ids
        );
        self.transact(async |transaction| insert.execute(transaction).await).await?;
        Ok(())
    }

    /// The workflow of a bulk, if one of its executions is recorded.
    pub(crate) async fn workflow_of_bulk(&mut self, bulk_id: &str) -> Result<Option<String>, DbError> {
        let workflow =
            sqlx::query_scalar!("SELECT workflow_id FROM executions WHERE bulk_id = $1 LIMIT 1", bulk_id);
        self.transact(async |transaction| workflow.fetch_optional(transaction).await).await
    }

    /// Stores that the execution was requested and cannot be fetched now. `absent`: the sender does not have it.
    pub(crate) async fn store_check(&mut self, execution_id: &str, absent: bool) -> Result<(), DbError> {
        let insert = sqlx::query!(
            "INSERT INTO reconcile_checks (execution_id, checked_at, absent) VALUES ($1, now(), $2)
             ON CONFLICT (execution_id) DO UPDATE SET
                 checked_at = excluded.checked_at, absent = excluded.absent",
            execution_id,
            absent
        );
        self.transact(async |transaction| insert.execute(transaction).await).await?;
        Ok(())
    }
}
