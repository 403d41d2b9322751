//! The proposed sums by hour and day: they are what a recount gives, and the views stay as they are.

use serde_json::{Value, json};
use sqlx::PgConnection;

use crate::harness::{TestReceiver, execution, with};

const TABLES: &str = include_str!("../../proposals/sums/0004_sums.sql");
const COUNT_HOURS: &str = include_str!("../../proposals/sums/count_hours.sql");
const COUNT_DAYS: &str = include_str!("../../proposals/sums/count_days.sql");

/// Sums that differ from a recount of their executions.
const WRONG_HOURS: &str = "
    SELECT * FROM (
        SELECT date_trunc('hour', first_received_at, 'UTC') AS hour, workflow_id, count(*) AS executions,
            count(*) FILTER (WHERE status = 'completed') AS completed,
            count(*) FILTER (WHERE status = 'failed') AS failed,
            count(*) FILTER (WHERE status = 'cancelled') AS cancelled
        FROM executions GROUP BY 1, 2
    ) AS r FULL JOIN (SELECT * FROM workflow_hours WHERE executions > 0) AS h USING (hour, workflow_id)
    WHERE (r.executions, r.completed, r.failed, r.cancelled)
        IS DISTINCT FROM (h.executions, h.completed, h.failed, h.cancelled)";
const WRONG_DAYS: &str = "
    SELECT * FROM (
        SELECT (first_received_at AT TIME ZONE 'UTC')::date AS day, workflow_id, count(*) AS executions,
            count(sensible_cost(total_cost)) AS executions_with_cost,
            coalesce(sum(sensible_cost(total_cost)), 0) AS total_cost
        FROM executions GROUP BY 1, 2
    ) AS r FULL JOIN (SELECT * FROM workflow_days WHERE executions > 0) AS d USING (day, workflow_id)
    WHERE (r.executions, r.executions_with_cost, r.total_cost)
        IS DISTINCT FROM (d.executions, d.executions_with_cost, d.total_cost)";

async fn nothing_is_wrong(receiver: &TestReceiver) {
    assert_eq!(receiver.rows(WRONG_HOURS).await, Vec::<Value>::new());
    assert_eq!(receiver.rows(WRONG_DAYS).await, Vec::<Value>::new());
}

struct Change(&'static str, &'static str, Option<&'static str>, i32, &'static str);

/// What the store would say.
async fn count(connection: &mut PgConnection, changes: &[Change]) {
    let times = changes.iter().map(|c| format!("'{}'", c.4)).collect::<Vec<_>>().join(",");
    let with_times = |sql: &str| sql.replace("$4::timestamptz[]", &format!("ARRAY[{times}]::timestamptz[]"));
    let workflows: Vec<_> = changes.iter().map(|c| c.0).collect();
    let by: Vec<_> = changes.iter().map(|c| c.3).collect();
    sqlx::query(sqlx::AssertSqlSafe(with_times(COUNT_HOURS)))
        .bind(&workflows)
        .bind(changes.iter().map(|c| c.1).collect::<Vec<_>>())
        .bind(&by)
        .execute(&mut *connection)
        .await
        .unwrap();
    sqlx::query(sqlx::AssertSqlSafe(with_times(COUNT_DAYS)))
        .bind(&workflows)
        .bind(changes.iter().map(|c| c.2).collect::<Vec<_>>())
        .bind(&by)
        .execute(connection)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sums_are_what_a_recount_gives_and_the_views_stay_as_they_are() {
    let receiver = TestReceiver::start().await;
    for n in 0..30 {
        let status = ["completed", "failed", "running", "cancelled"][n % 4];
        let cost = [json!(0.25), json!(null), json!(1e3)][n % 3].clone();
        let fields = json!({ "workflow_id": format!("w{}", n % 5), "total_cost": cost });
        receiver.accept(with(execution(&n.to_string(), status), fields)).await;
    }
    receiver
        .accept(r#"{"execution_id":"odd","workflow_id":"w1","status":"failed","total_cost":9e131071}"#)
        .await;
    receiver.recorded().await;
    let mut connection = receiver.connection().await;
    let spread = "UPDATE executions SET first_received_at = at, last_received_at = at FROM (
            SELECT execution_id AS id,
                timestamptz '2026-03-01 22:30Z' + (hashtext(execution_id) & 127) * interval '1 minute' AS at
            FROM executions
        ) AS t WHERE execution_id = id";
    sqlx::raw_sql(spread).execute(&mut connection).await.unwrap();
    let views = [
        "SELECT * FROM failure_rates ORDER BY hour, workflow_id",
        "SELECT * FROM costs ORDER BY day, workflow_id",
    ];
    let mut before = Vec::new();
    for view in views {
        before.push(receiver.rows(view).await);
    }
    sqlx::raw_sql(TABLES).execute(&mut connection).await.unwrap();
    nothing_is_wrong(&receiver).await;
    for (view, before) in views.iter().zip(before) {
        assert_eq!(receiver.rows(view).await, before, "{view}");
    }

    // Three that come; one of them ends in another workflow, and came an hour and a day earlier.
    let came = [
        Change("new", "running", None, 1, "2026-03-03 00:00Z"),
        Change("w1", "failed", Some("9e131071"), 1, "2026-03-01 22:59:59Z"),
        Change("w1", "completed", Some("0.5"), 1, "2026-03-01 22:59:59Z"),
    ];
    count(&mut connection, &came).await;
    let ended = [
        Change("new", "running", None, -1, "2026-03-03 00:00Z"),
        Change("new2", "failed", Some("1.5"), 1, "2026-03-02 23:59:59Z"),
    ];
    count(&mut connection, &ended).await;
    let the_same =
        "INSERT INTO executions (execution_id, workflow_id, status, total_cost, payload, deliveries,
            first_received_at, last_received_at)
        SELECT id, workflow, status, cost, '{}', 1, at, at FROM (VALUES
            ('a', 'w1', 'failed', 9e131071, timestamptz '2026-03-01 22:59:59Z'),
            ('b', 'w1', 'completed', 0.5, '2026-03-01 22:59:59Z'),
            ('c', 'new2', 'failed', 1.5, '2026-03-02 23:59:59Z')
        ) AS e (id, workflow, status, cost, at)";
    sqlx::raw_sql(the_same).execute(&mut connection).await.unwrap();
    nothing_is_wrong(&receiver).await;
    for view in ["failure_rates", "costs"] {
        let left = receiver.rows(&format!("SELECT * FROM {view} WHERE workflow_id = 'new'")).await;
        assert_eq!(left, Vec::<Value>::new(), "what was left is shown no more");
    }
}
