//! How PostgreSQL comes by what operators ask over HTTP: by an index, and in the list's order.

use sqlx::PgConnection;

use crate::harness::TestReceiver;
use crate::views::{A_MONTH, scans};

/// A question as it is sent, with what is asked in place of `$1` and so on.
fn asked(question: &str, parameters: &[&str]) -> String {
    let numbered = parameters.iter().enumerate().rev();
    numbered.fold(question.to_owned(), |text, (n, value)| text.replace(&format!("${}", n + 1), value))
}

const FROM: &str = "'1970-01-01'::timestamptz";
const DAY: &str = "'2026-03-01 10:00Z'::timestamptz";
const TO: &str = "'9999-12-31'::timestamptz";
const NONE: &str = "NULL::text";

/// An index and nothing else leads to the rows, and they come from it in order: none is sorted but what has the
/// same time.
async fn leads(connection: &mut PgConnection, query: &str, index: &str) {
    let explain = format!("EXPLAIN {query}");
    let plan: Vec<String> =
        sqlx::query_scalar(sqlx::AssertSqlSafe(explain)).fetch_all(&mut *connection).await.unwrap();
    let plan = plan.join("\n");
    let scans = scans(connection, query).await;
    assert!(scans.iter().all(|scan| scan.contains(" by ")), "{scans:?}\n{plan}");
    assert!(scans.iter().any(|scan| scan.ends_with(&format!(" by {index}"))), "not by {index}\n{plan}");
    let sorts = plan.lines().filter(|line| line.trim_start_matches([' ', '-', '>']).starts_with("Sort  "));
    assert_eq!(sorts.count(), 0, "all is sorted\n{plan}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_filter_of_every_list_is_led_by_an_index_in_the_order_of_the_list() {
    let receiver = TestReceiver::start().await;
    let mut connection = receiver.connection().await;
    sqlx::raw_sql(A_MONTH).execute(&mut connection).await.unwrap();
    let rare =
        "UPDATE executions SET status = 'cancelled' WHERE execution_id LIKE 'e%77'; ANALYZE executions";
    sqlx::raw_sql(rare).execute(&mut connection).await.unwrap();

    let executions = include_str!("../../src/reading/executions.sql");
    let (w, failed, completed, cancelled) = ("'w1'", "'failed'", "'completed'", "'cancelled'");
    // What leads (status, workflow), what is looked at (status, workflow, cause), and by which index.
    for (lead, looked_at, index) in [
        ([NONE, NONE], [NONE, NONE, NONE], "executions_first_received_at"),
        ([NONE, NONE], [completed, NONE, NONE], "executions_first_received_at"),
        ([NONE, w], [NONE, w, NONE], "executions_workflow_id"),
        ([NONE, w], [completed, w, NONE], "executions_workflow_id"),
        ([failed, NONE], [failed, NONE, NONE], "executions_with_failure"),
        ([failed, NONE], [failed, NONE, "'late'"], "executions_with_failure"),
        ([failed, w], [failed, w, NONE], "executions_workflow_failures"),
        ([failed, w], [failed, w, "'late'"], "executions_workflow_failures"),
        ([cancelled, NONE], [cancelled, NONE, NONE], "executions_rare_status"),
        ([cancelled, NONE], [cancelled, w, "'late'"], "executions_rare_status"),
    ] {
        for from in [FROM, DAY] {
            for (at, id) in [(TO, "''"), ("'2026-03-02 00:00Z'::timestamptz", "'e600'")] {
                let parameters = [
                    from,
                    at,
                    id,
                    NONE,
                    lead[0],
                    lead[1],
                    looked_at[0],
                    looked_at[1],
                    looked_at[2],
                    "5000",
                    "51",
                    "1000",
                ];
                leads(&mut connection, &asked(executions, &parameters), index).await;
            }
        }
    }
    // A bulk is small, and read whole.
    let parameters = [FROM, TO, "''", "'b7'", NONE, NONE, NONE, NONE, NONE, "5000", "51", "1000"];
    let by_bulk = scans(&mut connection, &asked(executions, &parameters)).await;
    assert!(
        by_bulk.iter().all(|scan| scan.contains("executions_bulk_id") || scan.starts_with("Bitmap Heap")),
        "{by_bulk:?}"
    );

    let results = include_str!("../../src/reading/results.sql");
    for (workflow, index) in [(NONE, "executions_first_received_at"), (w, "executions_workflow_id")] {
        let parameters = [FROM, TO, "''", "0", NONE, NONE, workflow, workflow, "5000", "4194304", "51"];
        leads(&mut connection, &asked(results, &parameters), index).await;
    }
    let parameters = [FROM, TO, "''", "0", "'e7'", NONE, NONE, NONE, "5000", "4194304", "51"];
    let of_one = scans(&mut connection, &asked(results, &parameters)).await;
    assert!(of_one.iter().all(|scan| scan == "Index Scan on executions by executions_pkey"), "{of_one:?}");

    let bulks = include_str!("../../src/reading/bulks.sql");
    for complete in [NONE, "'no'"] {
        let query = asked(bulks, &[FROM, TO, "''", complete, "5000", "51"]);
        leads(&mut connection, &query, "bulks_first_received_at").await;
    }
    let conflicts = include_str!("../../src/reading/conflicts.sql");
    let query = asked(conflicts, &[FROM, TO, "0", NONE, "51", "1000", "NULL::bigint"]);
    leads(&mut connection, &query, "execution_conflicts_first_received_at").await;
    let query = asked(conflicts, &[FROM, TO, "0", "'e7'", "51", "1000", "NULL::bigint"]);
    let of_one = scans(&mut connection, &query).await;
    assert!(of_one.iter().any(|scan| scan.ends_with("execution_conflicts_once_by_content")), "{of_one:?}");
    let query = asked(include_str!("../../src/reading/quarantine.sql"), &[FROM, TO, "0", "51"]);
    leads(&mut connection, &query, "quarantine_first_received_at").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_number_needs_a_table_whole() {
    let receiver = TestReceiver::start().await;
    let mut connection = receiver.connection().await;
    sqlx::raw_sql(A_MONTH).execute(&mut connection).await.unwrap();
    for (question, index) in [
        (include_str!("../../src/reading/failures_by_cause.sql"), "executions_with_failure"),
        (include_str!("../../src/reading/failures_by_step.sql"), "executions_with_failure"),
    ] {
        for (workflow, index) in [(NONE, index), ("'w1'", "executions_workflow_failures")] {
            let query = asked(question, &[DAY, TO, workflow, NONE, "1000", "1000", "50"]);
            let scans = scans(&mut connection, &query).await;
            assert!(scans.iter().all(|scan| !scan.starts_with("Seq Scan")), "{query}\n{scans:#?}");
            assert!(scans.iter().any(|scan| scan.contains(index)), "{query}\n{scans:#?}");
        }
    }
    let overview = include_str!("../../src/reading/overview.sql");
    let query = asked(overview, &["'hour'", DAY, "'2026-03-02 10:00Z'::timestamptz", NONE]);
    let scans = scans(&mut connection, &query).await;
    assert!(
        scans.iter().all(|scan| scan.contains("workflow_hours") && !scan.starts_with("Seq Scan")),
        "{scans:#?}"
    );
}
