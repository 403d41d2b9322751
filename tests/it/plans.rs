//! The plans of the read API's queries: each uses an index, and a list is read in the order of that index.

use sqlx::PgConnection;

use crate::support::fixtures::A_MONTH;
use crate::support::http::get_json;
use crate::support::postgres::{scans, server_log};
use crate::support::receiver::TestReceiver;

/// A statement that PostgreSQL received for a request, as `PREPARE`, and the `EXECUTE` with its values.
struct Sent {
    prepare: String,
    query: String,
}

async fn sent(receiver: &TestReceiver, path: &str) -> Vec<Sent> {
    let before = server_log().len();
    let answer = receiver.get(path).await;
    assert_eq!(answer.status(), 200, "{path}");
    let answer = answer.text().await.unwrap();
    let reading = "SELECT format('[%s] ', pid) AS pid FROM pg_stat_activity
        WHERE application_name = 'workflow-receiver reading' AND datname = current_database()";
    let pid = receiver.row(reading).await["pid"].as_str().unwrap().to_owned();
    // Each line of a log entry after the first begins with a tab.
    let log = server_log()[before..].replace("\n\t", "\r");
    let entries: Vec<_> = log.lines().filter_map(|line| Some(line.split_once(&pid)?.1)).collect();
    let with_values = entries.windows(2).enumerate().filter_map(|(n, pair)| {
        let statement = pair[0].strip_prefix("LOG:  execute ")?.split_once(": ")?.1;
        if statement.contains("set_config") {
            return None;
        }
        let values = pair[1].split_once("arameters: ")?.1.split(", $");
        let values: Vec<_> = values.map(|value| value.split_once(" = ").unwrap().1).collect();
        let prepare = format!("PREPARE sent_{before}_{n} AS {}", statement.replace('\r', "\n"));
        Some(Sent { prepare, query: format!("EXECUTE sent_{before}_{n} ({})", values.join(", ")) })
    });
    let sent: Vec<_> = with_values.collect();
    assert!(!sent.is_empty(), "{answer}: {entries:#?}");
    sent
}

async fn prepare(connection: &mut PgConnection, sent: &Sent) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(&*sent.prepare)).execute(connection).await.unwrap();
}

/// Asserts that only this index is used, and that it gives the order of the list: PostgreSQL sorts only rows with the
/// same time, and the results of one execution.
async fn assert_uses_index(receiver: &TestReceiver, connection: &mut PgConnection, path: &str, index: &str) {
    for sent in sent(receiver, path).await {
        prepare(connection, &sent).await;
        // The results are read by the primary key of the executions.
        let by_key = sent.prepare.contains("execution_results");
        let index = if by_key { "executions_pkey" } else { index };
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN {}", sent.query));
        let plan: Vec<String> = sqlx::query_scalar(explain).fetch_all(&mut *connection).await.unwrap();
        let plan = plan.join("\n");
        let scans = scans(connection, &sent.query).await;
        assert!(
            scans.iter().all(|scan| scan.starts_with("Index ") && scan.contains(" by ")),
            "{path}\n{plan}"
        );
        assert!(
            scans.iter().any(|scan| scan.ends_with(&format!(" by {index}"))),
            "{path}: not by {index}\n{plan}"
        );
        let lines: Vec<_> = plan.lines().map(|line| line.trim_start_matches([' ', '-', '>'])).collect();
        let sorted = lines.windows(2).filter(|pair| pair[0].starts_with("Sort  "));
        let whole = sorted.filter(|pair| !pair[1].ends_with(".\"position\""));
        assert_eq!(whole.count(), 0, "{path}: the whole list is sorted\n{plan}");
    }
}

/// A month of executions. One workflow ran at its beginning only, and some executions have a rare status.
async fn a_month() -> (TestReceiver, PgConnection) {
    let receiver = TestReceiver::start_with(|settings| settings.admin.read_connections = 1).await;
    let mut connection = receiver.connection().await;
    sqlx::raw_sql(A_MONTH).execute(&mut connection).await.unwrap();
    let odd = "UPDATE executions SET workflow_id = 'formerly' WHERE first_received_at < '2026-02-10';
        UPDATE executions SET status = 'cancelled' WHERE execution_id LIKE 'e%77';
        UPDATE executions SET reference = jsonb_build_object('order', substr(execution_id, 2));
        UPDATE executions SET status = 'paused' WHERE execution_id = 'e1';
        UPDATE predictions SET workflow_id = 'formerly' WHERE first_received_at < '2026-02-10';
        UPDATE predictions SET reference = jsonb_build_object('order', substr(prediction_id, 2));
        INSERT INTO expected_executions (execution_id, bulk_id, position, settled, registered_at, due_at)
        SELECT CASE WHEN n % 100 <> 0 THEN 'e' || n END, 'b' || n / 30, n % 30 + 1, n % 99 <> 0, at, at
        FROM (SELECT n, timestamptz '2026-03-02 10:00Z' - n * interval '1 minute' AS at
              FROM generate_series(1, 20000) AS n) AS n;
        INSERT INTO quarantine_retries
            (quarantine_id, retried_by, entry, ids, are_predictions, dispositions, deliveries, previous, conflicts, bulks)
        SELECT n, 'olga', '{}', ARRAY['q' || n], '{f}', '{new}', '{1}', '{null}', '{}', '[]' FROM generate_series(1, 20000) AS n;
        ANALYZE executions, predictions, expected_executions, quarantine_retries;
        DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET log_statement = ''all''', current_database()); END $$;
        SET plan_cache_mode = force_custom_plan";
    sqlx::raw_sql(odd).execute(&mut connection).await.unwrap();
    (receiver, connection)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_filter_of_every_list_uses_an_index_in_the_order_of_the_list() {
    let (receiver, mut connection) = a_month().await;
    for (path, index) in [
        ("executions?limit=50", "executions_first_received_at"),
        ("executions?status=completed", "executions_first_received_at"),
        ("executions?workflow=w1", "executions_workflow_id"),
        ("executions?workflow=formerly", "executions_workflow_id"),
        ("executions?workflow=formerly&status=completed", "executions_workflow_id"),
        ("executions?status=failed", "executions_with_failure"),
        ("executions?status=failed&cause=late", "executions_with_failure"),
        ("executions?cause=late", "executions_with_failure"),
        ("executions?workflow=formerly&status=failed", "executions_workflow_failures"),
        ("executions?workflow=w1&cause=late", "executions_workflow_failures"),
        ("executions?status=cancelled", "executions_rare_status"),
        ("executions?status=cancelled&workflow=w1", "executions_rare_status"),
        ("executions?status=running&cause=late", "executions_rare_status"),
        ("results?limit=50", "executions_first_received_at"),
        ("results?workflow=w1", "executions_workflow_id"),
        ("results?workflow=formerly", "executions_workflow_id"),
        ("results?limit=50", "predictions_first_received_at"),
        ("results?workflow=w1", "predictions_workflow_id"),
        ("predictions?limit=50", "predictions_first_received_at"),
        ("predictions?status=succeeded", "predictions_first_received_at"),
        ("predictions?status=failed", "predictions_failed"),
        ("predictions?workflow=w1", "predictions_workflow_id"),
        ("predictions?workflow=formerly&status=failed", "predictions_workflow_id"),
        ("results?kind=image&final=true", "executions_first_received_at"),
        ("results?kind=video&workflow=w1", "executions_workflow_id"),
        ("bulks?limit=50", "bulks_first_received_at"),
        ("bulks?complete=unknown", "bulks_first_received_at"),
        ("conflicts?limit=50", "execution_conflicts_first_received_at"),
        ("quarantine?limit=50", "quarantine_first_received_at"),
    ] {
        let path = format!("/api/v1/{path}");
        assert_uses_index(&receiver, &mut connection, &path, index).await;
        let from = format!("{path}&from=2026-02-20T00:00:00Z&to=2026-03-01T00:00:00Z");
        assert_uses_index(&receiver, &mut connection, &from, index).await;
        if let Some(next) = get_json(&receiver, &path).await["next"].as_str() {
            assert_uses_index(&receiver, &mut connection, &format!("{path}&cursor={next}"), index).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_of_the_console_use_indexes() {
    let (receiver, mut connection) = a_month().await;
    for (path, index) in [
        ("/executions", "executions_first_received_at"),
        ("/executions?q=two+words", "executions_first_received_at"),
        ("/executions?q=two+words&status=failed", "executions_with_failure"),
        ("/executions?q=two+words&workflow=formerly", "executions_workflow_id"),
        ("/executions?q=two+words&since=2026-03-01T00:00:00Z", "executions_first_received_at"),
        ("/executions?q=order=7", "executions_reference"),
        // Looks the word up as an identifier first.
        ("/executions?q=unknown", "executions_workflow_id"),
        ("/executions?class=execution_timeout", "executions_with_failure"),
        ("/executions?fault=provider&workflow=formerly", "executions_workflow_failures"),
        ("/executions?model=flux", "executions_with_failure"),
        ("/executions?model=flux&workflow=formerly", "executions_workflow_failures"),
        ("/executions?q=too+slow", "executions_first_received_at"),
        // No match: also searches the registrations, the predictions and the quarantine.
        ("/executions?q=order=none", "expected_executions_registered_at"),
        ("/executions?q=order=none", "predictions_reference"),
        ("/executions?q=no+match&since=2026-03-02T09:30:00Z", "quarantine_first_received_at"),
        ("/executions/e7", "executions_pkey"),
        ("/executions/e7", "quarantine_retries_ids"),
        ("/executions?fetched=1", "executions_fetched"),
        ("/predictions?q=two+words", "predictions_first_received_at"),
        ("/predictions?class=execution_timeout", "predictions_failed"),
        ("/quarantine?q=two+words", "quarantine_first_received_at"),
        ("/bulks?open=b77", "bulks_pkey"),
        ("/bulks", "bulks_first_received_at"),
        ("/bulks/b7", "executions_bulk_id"),
        ("/bulks/b7?show=failures", "executions_bulk_id"),
    ] {
        let mut all = Vec::new();
        for sent in sent(&receiver, path).await {
            prepare(&mut connection, &sent).await;
            all.extend(scans(&mut connection, &sent.query).await);
        }
        assert!(!all.iter().any(|scan| scan.starts_with("Seq Scan")), "{path}\n{all:#?}");
        assert!(
            all.iter().any(|scan| scan.ends_with(&format!(" by {index}"))),
            "{path}: not by {index}\n{all:#?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_query_scans_a_whole_table() {
    let (receiver, mut connection) = a_month().await;
    let numbers = "SELECT (SELECT min(conflict_id) FROM execution_conflicts) AS conflict,
        (SELECT min(quarantine_id) FROM quarantine) AS quarantined";
    let numbers = receiver.row(numbers).await;
    for (path, index) in [
        ("executions?bulk=b7", "executions_bulk_id"),
        ("executions?reference=order=7", "executions_reference"),
        ("executions?reference=order=7&status=failed&workflow=w1", "executions_reference"),
        ("results?reference=order=7", "executions_reference"),
        ("results?reference=order=7&kind=image", "executions_reference"),
        // Also checks whether the status is in use.
        ("executions?status=paused", "executions_rare_status"),
        ("executions?bulk=b7&status=failed&workflow=w1&cause=late", "executions_bulk_id"),
        ("results?bulk=b7", "executions_bulk_id"),
        ("results?execution=e7", "executions_pkey"),
        ("results?prediction=e7", "predictions_pkey"),
        ("results?reference=order=7", "predictions_reference"),
        ("conflicts?execution=e7", "execution_conflicts_once_by_content"),
        ("executions/e7", "executions_pkey"),
        ("predictions?reference=order=7", "predictions_reference"),
        ("predictions?reference=order=7&status=failed&workflow=w1", "predictions_reference"),
        ("predictions/e7", "predictions_pkey"),
        ("predictions/e7", "prediction_conflicts_once_by_content"),
        ("bulks/b7", "bulks_pkey"),
        (&format!("conflicts/{}", numbers["conflict"]), "execution_conflicts_pkey"),
        (&format!("quarantine/{}", numbers["quarantined"]), "quarantine_pkey"),
        ("failures?from=2026-03-01T10:00:00Z", "executions_with_failure"),
        ("failures?by=step", "executions_with_failure"),
        ("failures?workflow=formerly", "executions_workflow_failures"),
        ("failures?workflow=formerly&by=step", "executions_workflow_failures"),
        ("failures?bulk=b7", "executions_bulk_id"),
        ("failures?from=2026-03-01T10:00:00Z", "predictions_failed"),
        ("failures?workflow=formerly", "predictions_workflow_failures"),
        ("overview?from=2026-03-01T10:00:00Z&to=2026-03-02T10:00:00Z", "workflow_hours_pkey"),
        (
            "overview?by=day&from=2026-02-28T10:00:00Z&to=2026-03-02T10:00:00Z&workflow=w1",
            "workflow_hours_pkey",
        ),
        ("workflows?days=1", "workflow_days_pkey"),
        ("expected?limit=50", "expected_executions_registered_at"),
        ("expected?state=arrived", "expected_executions_registered_at"),
        ("expected?state=missing", "expected_executions_unsettled"),
        ("expected?state=overdue", "expected_executions_unsettled"),
        ("expected?state=rejected", "expected_executions_execution_id_key"),
        ("expected?bulk=b7", "expected_executions_once_in_bulk"),
        ("changes?after=250000", "change_batches_last_change"),
        ("changes?after=latest", "change_batches_last_change"),
    ] {
        let mut all = Vec::new();
        for sent in sent(&receiver, &format!("/api/v1/{path}")).await {
            prepare(&mut connection, &sent).await;
            all.extend(scans(&mut connection, &sent.query).await);
        }
        assert!(!all.iter().any(|scan| scan.starts_with("Seq Scan")), "{path}\n{all:#?}");
        // The two indexes with the same rows.
        let unsettled = ["expected_executions_unsettled", "expected_executions_unsettled_of_bulk"];
        let indexes = if unsettled.contains(&index) { &unsettled[..] } else { &[index] };
        let is_used = |index: &&str| all.iter().any(|scan| scan.ends_with(&format!(" by {index}")));
        assert!(indexes.iter().any(is_used), "{path}: not by {index}\n{all:#?}");
    }
    let whole = scans(&mut connection, "SELECT * FROM executions").await;
    assert_eq!(whole, ["Seq Scan on executions"], "a sequential scan is recognised");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_page_of_the_console_scans_a_whole_table() {
    let (receiver, mut connection) = a_month().await;
    let actions = "INSERT INTO audit (actor, action, target)
        SELECT 'olga', 'quarantine.drop', n::text FROM generate_series(1, 20000) AS n;
        ANALYZE audit";
    sqlx::raw_sql(actions).execute(&mut connection).await.unwrap();
    for (path, indexes) in [
        ("/?period=1h", &["executions_first_received_at", "executions_with_failure"][..]),
        ("/", &["workflow_hours_pkey", "executions_with_failure"]),
        ("/", &["quarantine_first_received_at", "execution_conflicts_first_received_at"]),
        ("/", &["executions_fetched", "expected_executions_unsettled"]),
        ("/?period=30d", &["workflow_hours_pkey", "workflow_days_pkey"]),
        ("/conflicts?from=2026-02-20T00:00:00Z", &["execution_conflicts_first_received_at"]),
        ("/audit", &["audit_pkey"]),
        ("/audit?before=500", &["audit_pkey"]),
        ("/settings?done=7", &["audit_pkey"]),
    ] {
        let mut all = Vec::new();
        for sent in sent(&receiver, path).await {
            prepare(&mut connection, &sent).await;
            all.extend(scans(&mut connection, &sent.query).await);
        }
        assert!(!all.iter().any(|scan| scan.starts_with("Seq Scan")), "{path}\n{all:#?}");
        for index in indexes {
            assert!(
                all.iter().any(|scan| scan.ends_with(&format!(" by {index}"))),
                "{path}: not by {index}\n{all:#?}"
            );
        }
    }
}
