//! Compares the counts of bulks and the rollups by hour and day with a recount of the executions.

use serde_json::Value;
use sqlx::postgres::PgConnectOptions;

use super::postgres::rows;
use super::receiver::TestReceiver;

/// A query for bulks whose counts differ from a recount of their executions.
const WRONG_BULKS: &str = "
    SELECT * FROM (
        SELECT bulk_id, count(*) AS received,
            count(*) FILTER (WHERE status IN ('completed', 'succeeded', 'success')) AS completed,
            count(*) FILTER (WHERE status = 'failed') AS failed,
            count(*) FILTER (WHERE status = 'cancelled') AS cancelled,
            count(*) FILTER (WHERE status NOT IN ('completed', 'succeeded', 'success', 'failed', 'cancelled')) AS other
        FROM executions WHERE bulk_id IS NOT NULL GROUP BY bulk_id
    ) AS recount FULL JOIN bulks USING (bulk_id)
    WHERE (recount.received, recount.completed, recount.failed, recount.cancelled, recount.other)
        IS DISTINCT FROM (bulks.received, bulks.completed, bulks.failed, bulks.cancelled, bulks.other)";

/// The rollups by hour, recounted.
const HOURS: &str = "SELECT date_trunc('hour', first_received_at, 'UTC') AS hour, workflow_id,
        count(*) AS executions,
        count(*) FILTER (WHERE status IN ('completed', 'succeeded', 'success')) AS completed,
        count(*) FILTER (WHERE status = 'failed') AS failed,
        count(*) FILTER (WHERE status = 'cancelled') AS cancelled,
        count(*) FILTER (WHERE status NOT IN ('completed', 'succeeded', 'success', 'failed', 'cancelled')) AS other
    FROM executions GROUP BY 1, 2";

/// The rollups by day, recounted.
const DAYS: &str = "SELECT (first_received_at AT TIME ZONE 'UTC')::date AS day, workflow_id,
        count(*) AS executions, count(sensible_cost(total_cost)) AS executions_with_cost,
        coalesce(sum(sensible_cost(total_cost)), 0) AS total_cost
    FROM executions GROUP BY 1, 2";

/// A query for rollups that differ from a recount of their executions.
fn wrong_rollups() -> String {
    format!(
        "SELECT 'hour ' || hour AS wrong, workflow_id, r.executions, h.executions AS summed
         FROM ({HOURS}) AS r
         FULL JOIN (SELECT * FROM workflow_hours WHERE executions <> 0) AS h USING (hour, workflow_id)
         WHERE (r.executions, r.completed, r.failed, r.cancelled, r.other)
             IS DISTINCT FROM (h.executions, h.completed, h.failed, h.cancelled, h.other)
         UNION ALL
         SELECT 'day ' || day, workflow_id, r.executions, d.executions
         FROM ({DAYS}) AS r
         FULL JOIN (SELECT * FROM workflow_days WHERE executions <> 0) AS d USING (day, workflow_id)
         WHERE (r.executions, r.executions_with_cost, r.total_cost)
             IS DISTINCT FROM (d.executions, d.executions_with_cost, d.total_cost)"
    )
}

/// Bulks and rollups whose counts differ from a recount of their executions.
pub(crate) async fn wrong_counts(database: &PgConnectOptions) -> Vec<Value> {
    let mut wrong = rows(database, WRONG_BULKS).await;
    wrong.extend(rows(database, &wrong_rollups()).await);
    wrong
}

/// Executions that did not end once in the change feed, and gaps in its numbers.
pub(crate) async fn wrong_changes(database: &PgConnectOptions) -> Vec<Value> {
    let mut wrong = rows(
        database,
        "SELECT execution_id, e.status, c.ended
         FROM executions AS e
         FULL JOIN (
             SELECT execution_id, count(*) FILTER (WHERE type = 'execution.ended') AS ended
             FROM change_batches CROSS JOIN LATERAL unnest(types, execution_ids) AS c (type, execution_id)
             WHERE execution_id IS NOT NULL GROUP BY execution_id
         ) AS c USING (execution_id)
         WHERE ended IS DISTINCT FROM CASE WHEN is_terminal_status(e.status) THEN 1 ELSE 0 END",
    )
    .await;
    let gaps = "SELECT * FROM (
            SELECT last_change - size AS before, lag(last_change, 1, 0::bigint) OVER (ORDER BY last_change) AS previous
            FROM change_batches WHERE last_change IS NOT NULL
        ) AS numbered WHERE before <> previous";
    wrong.extend(rows(database, gaps).await);
    wrong
}

/// Checks the counts of bulks and the rollups after all acknowledged deliveries are recorded.
pub(crate) async fn assert_counts_are_right(receiver: &TestReceiver) {
    receiver.wait_until_recorded().await;
    assert_eq!(wrong_counts(&receiver.database).await, Vec::<Value>::new());
}

/// Recounts the rollups, for tests that write to `executions` themselves.
pub(crate) async fn recount_rollups(receiver: &TestReceiver) {
    let recount = format!(
        "TRUNCATE workflow_hours, workflow_days;
         INSERT INTO workflow_hours {HOURS}; INSERT INTO workflow_days {DAYS}"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(recount)).execute(&mut receiver.connection().await).await.unwrap();
}
