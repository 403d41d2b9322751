//! Which delivery is blamed when recording fails: only one that fails alone while others succeed.

use proptest::prelude::*;
use proptest::test_runner::Config;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::support::fixtures::{full_execution, with};
use crate::support::postgres::{
    change_fault_on, end_fault_on, execute, fault_on, nothing_is_blamed, raise, rows,
};
use crate::support::property::runner;
use crate::support::receiver::{TestReceiver, short_timeouts};
use crate::support::rollups::assert_counts_are_right;
use crate::support::wait::until;

/// For [`fault_on`]: the row is not written, and the statement succeeds.
const SUPPRESS: &str = "RETURN NULL";
const DIE: &str = "PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(60)";
const SLEEP: &str = "PERFORM pg_sleep(60)";

async fn retries(receiver: &TestReceiver, count: f64) {
    until(async || receiver.metric("record_retries_total").await >= count).await;
}

/// One SQLSTATE of each class, and those with a rule of their own in `DbError`.
const CODES: [&str; 57] = [
    "01000", "02000", "03000", "08006", "09000", "0A000", "0B000", "0F000", "0L000", "0P000", "0Z000",
    "20000", "21000", "22000", "23000", "24000", "25000", "25006", "25P02", "25P03", "26000", "27000",
    "28000", "2B000", "2D000", "2F000", "34000", "38000", "39000", "3B000", "3D000", "3F000", "40000",
    "40001", "40P01", "42000", "42P05", "44000", "53000", "53100", "53200", "53300", "54000", "55000",
    "55P03", "57000", "57014", "57P01", "58000", "58030", "72000", "F0000", "HV000", "P0001", "XX000",
    "XX001", "ZZ999",
];

#[derive(Debug, Clone)]
struct Case {
    action: String,
    deliveries: usize,
    /// The indexes of the failing deliveries; `None` if all rows fail, including those of other writers.
    failing: Option<Vec<usize>>,
    /// The deliveries fail only while they have a `payload`.
    payload_only: bool,
}

fn cases() -> impl Strategy<Value = Case> {
    let action = prop_oneof![
        8 => prop::sample::select(&CODES[..]).prop_map(raise),
        1 => Just(DIE.to_owned()),
        1 => Just(SLEEP.to_owned()),
    ];
    let failing = prop_oneof![
        2 => prop::collection::vec(any::<prop::sample::Index>(), 1..3).prop_map(Some),
        1 => Just(None),
    ];
    (action, 1..30_usize, failing, any::<bool>()).prop_map(|(action, deliveries, failing, payload_only)| {
        let failing = failing.map(|places| {
            let mut places: Vec<_> = places.iter().map(|place| place.index(deliveries)).collect();
            places.sort_unstable();
            places.dedup();
            places
        });
        Case { action, deliveries, failing, payload_only }
    })
}

async fn check(receiver: &TestReceiver, case: &Case) {
    println!("{case:?}");
    end_fault_on(receiver, "executions").await;
    receiver.wait_until_recorded().await;
    execute(receiver, "TRUNCATE executions, bulks, workflow_hours, workflow_days, quarantine").await;
    let ids: Vec<_> = (0..case.deliveries).map(|n| format!("e{n}")).collect();
    let failing: Vec<_> = case.failing.iter().flatten().map(|n| ids[*n].clone()).collect();
    let condition = if case.failing.is_some() {
        let payload = if case.payload_only { " AND NEW.payload IS NOT NULL" } else { "" };
        format!("NEW.execution_id IN ('{}'){payload}", failing.join("', '"))
    } else {
        "true".to_owned()
    };
    let held = receiver.hold_recording().await;
    for id in &ids {
        receiver.accept(full_execution(id)).await;
    }
    change_fault_on(receiver, "executions", &format!("IF {condition} THEN {}; END IF", case.action)).await;
    let before = receiver.metric("record_retries_total").await;
    held.release().await;
    // Contention blames no delivery.
    let contention = ["40000", "40001", "40P01", "55P03"].iter().any(|code| case.action == raise(code));
    if case.failing.is_none() || contention {
        // More than enough to blame one delivery that fails alone.
        retries(receiver, before + 15.0).await;
        end_fault_on(receiver, "executions").await;
    }
    receiver.wait_until_recorded().await;
    let executions = rows(
        &receiver.database,
        "SELECT execution_id, payload, convert_from(payload_bytes, 'UTF8')::json AS bytes, output, total_cost
         FROM executions WHERE execution_id <> 'held'",
    )
    .await;
    let quarantine = rows(
        &receiver.database,
        "SELECT acknowledged, convert_from(body, 'UTF8')::json AS body FROM quarantine",
    )
    .await;
    assert_eq!(executions.len() + quarantine.len(), ids.len(), "{case:?}");
    for id in &ids {
        let body = full_execution(id);
        let whole = json!({ "execution_id": id, "payload": body, "bytes": null,
                            "output": body["output"], "total_cost": body["total_cost"] });
        if !failing.contains(id) || contention {
            assert!(executions.contains(&whole), "{id} of {case:?}: {executions:?}");
        } else if case.payload_only {
            let degraded = with(whole, json!({ "payload": null, "bytes": body }));
            assert!(executions.contains(&degraded), "{id} of {case:?}: {executions:?}");
        } else {
            let quarantined = json!({ "acknowledged": true, "body": body });
            assert!(quarantine.contains(&quarantined), "{id} of {case:?}: {quarantine:?}");
        }
    }
    assert_counts_are_right(receiver).await;
}

#[test]
fn only_a_delivery_that_fails_alone_while_others_succeed_is_blamed_whatever_the_error() {
    let runtime = Runtime::new().unwrap();
    let receiver = runtime.block_on(TestReceiver::start_with(short_timeouts));
    runtime.block_on(fault_on(&receiver, "executions", "false", SLEEP));
    let cases_to_run = std::env::var("BLAME_CASES").map_or(12, |cases| cases.parse().unwrap());
    runner(Config { max_shrink_iters: 0, ..Config::with_cases(cases_to_run) })
        .run(&cases(), |case| {
            runtime.block_on(check(&receiver, &case));
            Ok(())
        })
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_statement_that_a_pooler_lost_blames_no_delivery() {
    let receiver = TestReceiver::start_with(short_timeouts).await;
    for code in ["26000", "42P05", "08P01", "34000", "24000", "2D000", "0B000", "3B000", "57P03", "25P02"] {
        fault_on(&receiver, "executions", "true", &raise(code)).await;
        let before = receiver.metric("record_retries_total").await;
        receiver.accept(full_execution(code)).await;
        retries(&receiver, before + 5.0).await;
        end_fault_on(&receiver, "executions").await;
        receiver.wait_until_recorded().await;
    }
    nothing_is_blamed(&receiver, 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backends_killed_at_random_inserts_degrade_nothing() {
    let receiver = TestReceiver::start_with(short_timeouts).await;
    // The fault hits the canary's rows as often as the deliveries'.
    fault_on(&receiver, "executions", "random() < 0.7", DIE).await;
    for n in 0..40 {
        receiver.accept(full_execution(&format!("e{n}"))).await;
    }
    retries(&receiver, 30.0).await;
    end_fault_on(&receiver, "executions").await;
    receiver.wait_until_recorded().await;
    nothing_is_blamed(&receiver, 40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_of_every_commit_blames_no_delivery() {
    let receiver = TestReceiver::start_with(short_timeouts).await;
    let deferred = "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$
                        BEGIN RAISE EXCEPTION 'no'; END $$;
                    CREATE CONSTRAINT TRIGGER late AFTER INSERT ON executions DEFERRABLE INITIALLY DEFERRED
                        FOR EACH ROW EXECUTE FUNCTION late()";
    execute(&receiver, deferred).await;
    receiver.accept(full_execution("e")).await;
    retries(&receiver, 5.0).await;
    execute(&receiver, "DROP TRIGGER late ON executions").await;
    receiver.wait_until_recorded().await;
    nothing_is_blamed(&receiver, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_table_that_only_duplicates_or_conflicts_write_to_blames_no_delivery() {
    let receiver = TestReceiver::start_with(short_timeouts).await;
    receiver.accept(full_execution("e")).await;
    receiver.wait_until_recorded().await;
    for table in ["execution_conflicts", "bulks", "workflow_days"] {
        let before = receiver.metric("record_retries_total").await;
        execute(&receiver, format!("ALTER TABLE {table} RENAME TO elsewhere")).await;
        receiver.accept(with(full_execution("e"), json!({ "output": table }))).await;
        receiver.accept(full_execution(table)).await;
        retries(&receiver, before + 5.0).await;
        execute(&receiver, format!("ALTER TABLE elsewhere RENAME TO {table}")).await;
        receiver.wait_until_recorded().await;
    }
    nothing_is_blamed(&receiver, 4).await;
    assert_eq!(receiver.rows("SELECT * FROM execution_conflicts WHERE payload IS NOT NULL").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_quarantine_delays_no_execution_of_the_same_batch() {
    let receiver = TestReceiver::start_with(short_timeouts).await;
    fault_on(&receiver, "quarantine", "true", &raise("P0001")).await;
    let held = receiver.hold_recording().await;
    receiver.accept(full_execution("first")).await;
    assert_eq!(receiver.post("{}").await.status(), 422);
    receiver.accept(full_execution("second")).await;
    held.release().await;
    let second = "SELECT 1 AS there FROM executions WHERE execution_id = 'second'";
    until(async || !receiver.rows_now(second).await.is_empty()).await;
    end_fault_on(&receiver, "quarantine").await;
    receiver.wait_until_recorded().await;
    assert_eq!(receiver.rows("SELECT * FROM quarantine").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_delivery_gets_more_time_before_it_is_degraded() {
    let receiver = TestReceiver::start_with(short_timeouts).await;
    fault_on(&receiver, "executions", "NEW.execution_id = 'e3'", "PERFORM pg_sleep(0.7)").await;
    for n in 0..8 {
        receiver.accept(full_execution(&format!("e{n}"))).await;
    }
    receiver.wait_until_recorded().await;
    nothing_is_blamed(&receiver, 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_never_succeeds_delays_neither_its_batch_nor_later_batches() {
    let receiver = TestReceiver::start_with(|settings| {
        short_timeouts(settings);
        settings.recorder.batch_rows = 2;
    })
    .await;
    // The quarantine fails, too.
    fault_on(&receiver, "executions", "NEW.execution_id = 'e0'", SLEEP).await;
    fault_on(&receiver, "quarantine", "true", SLEEP).await;
    let held = receiver.hold_recording().await;
    for n in 0..400 {
        receiver.accept(full_execution(&format!("e{n}"))).await;
    }
    held.release().await;
    let others = "SELECT count(*) FROM executions WHERE execution_id <> 'held'";
    until(async || receiver.rows_now(others).await[0]["count"] == 399).await;
    end_fault_on(&receiver, "quarantine").await;
    receiver.wait_until_recorded().await;
    let kept = receiver.rows("SELECT convert_from(body, 'UTF8')::json AS body FROM quarantine").await;
    assert_eq!(kept, [json!({ "body": full_execution("e0") })]);
    assert_counts_are_right(&receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn degrading_leaves_out_only_the_columns_that_postgresql_rejects() {
    let receiver = TestReceiver::start_with(short_timeouts).await;
    let body = full_execution("e");
    let whole = json!({ "payload": body, "output": body["output"], "total_cost": body["total_cost"] });
    for (refused, left_out) in [
        ("NEW.payload IS NOT NULL", &["payload"][..]),
        ("NEW.output IS NOT NULL", &["output"]),
        ("NEW.total_cost IS NOT NULL", &["total_cost"]),
        ("NEW.payload IS NOT NULL OR NEW.output IS NOT NULL", &["payload", "output"]),
        ("NEW.payload IS NOT NULL OR NEW.total_cost IS NOT NULL", &["payload", "total_cost"]),
        (
            "NEW.payload IS NOT NULL OR NEW.output IS NOT NULL OR NEW.total_cost IS NOT NULL",
            &["payload", "output", "total_cost"],
        ),
    ] {
        execute(&receiver, "TRUNCATE executions, bulks, workflow_hours, workflow_days").await;
        fault_on(
            &receiver,
            "executions",
            &format!("NEW.execution_id = 'e' AND ({refused})"),
            &raise("23514"),
        )
        .await;
        receiver.accept(&body).await;
        let row = receiver.row("SELECT payload, output, total_cost FROM executions").await;
        let expected =
            left_out.iter().fold(whole.clone(), |whole, column| with(whole, json!({ *column: null })));
        assert_eq!(row, expected, "{refused}");
        let bytes =
            receiver.row("SELECT convert_from(payload_bytes, 'UTF8')::json AS body FROM executions").await;
        assert_eq!(bytes["body"], body);
        // The same webhook again is a duplicate.
        end_fault_on(&receiver, "executions").await;
        receiver.accept(&body).await;
        assert_eq!(receiver.row("SELECT deliveries FROM executions").await["deliveries"], 2);
        assert_eq!(receiver.rows("SELECT * FROM execution_conflicts").await, Vec::<Value>::new());
        assert_counts_are_right(&receiver).await;
    }
}

fn prediction(id: &str) -> Value {
    json!({ "exec_id": id, "flow_id": null, "status": "succeeded", "output": id })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_of_all_predictions_blames_no_prediction_and_delays_no_execution() {
    let receiver = TestReceiver::start_with(short_timeouts).await;
    receiver.wait_until_recorded().await;
    let faults = [&raise("23514"), &raise("53100"), SUPPRESS].map(|action| {
        let trigger = format!(
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
                 BEGIN {action}; RETURN NEW; END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON predictions FOR EACH ROW EXECUTE FUNCTION refuse()"
        );
        (trigger, "DROP TRIGGER refuse ON predictions")
    });
    let renamed = (
        "ALTER TABLE predictions RENAME TO elsewhere".to_owned(),
        "ALTER TABLE elsewhere RENAME TO predictions",
    );
    for (n, (fault, mend)) in faults.into_iter().chain([renamed]).enumerate() {
        execute(&receiver, fault).await;
        let before = receiver.metric("record_retries_total").await;
        for id in [format!("a{n}"), format!("b{n}")] {
            receiver.accept(prediction(&format!("prediction-{id}"))).await;
            receiver.accept(full_execution(&id)).await;
            let execution = format!("SELECT 1 AS there FROM executions WHERE execution_id = '{id}'");
            until(async || !receiver.rows_now(&execution).await.is_empty()).await;
        }
        // More than enough to blame one.
        retries(&receiver, before + 25.0).await;
        execute(&receiver, mend).await;
        receiver.wait_until_recorded().await;
    }
    nothing_is_blamed(&receiver, 8).await;
    assert_eq!(receiver.rows("SELECT 1 AS n FROM predictions WHERE payload IS NOT NULL").await.len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_whose_row_a_trigger_suppresses_stays_in_the_spool() {
    let receiver = TestReceiver::start_with(short_timeouts).await;
    let hidden = "a row is invisible: it was just removed, or a trigger";
    for (n, (table, condition)) in [
        ("executions", "TG_OP = 'INSERT'"),
        ("executions", "TG_OP = 'UPDATE'"),
        ("execution_conflicts", "true"),
        ("bulks", "true"),
        ("workflow_hours", "true"),
        ("workflow_days", "true"),
        ("change_batches", "TG_OP = 'INSERT'"),
    ]
    .into_iter()
    .enumerate()
    {
        let body = |id: String, status: &str| {
            with(full_execution(&id), json!({ "status": status, "bulk_id": table, "workflow_id": table }))
        };
        receiver.accept(body(format!("e{n}"), "running")).await;
        receiver.wait_until_recorded().await;
        fault_on(&receiver, table, condition, SUPPRESS).await;
        for (id, status) in [("e", "completed"), ("e", "failed"), ("new", "completed")] {
            receiver.accept(body(format!("{id}{n}"), status)).await;
        }
        let suppressed = format!("a trigger on {table} suppressed a row");
        let why = if n == 0 { hidden } else { &suppressed };
        until(async || receiver.ready().await.1.to_string().contains(why)).await;
        end_fault_on(&receiver, table).await;
        receiver.wait_until_recorded().await;
        let recorded = format!("SELECT status, conflicts FROM executions WHERE execution_id = 'e{n}'");
        let expected = json!({ "status": "completed", "conflicts": 1 });
        assert_eq!(receiver.row(&recorded).await, expected, "{table}");
    }
    nothing_is_blamed(&receiver, 14).await;
    assert_counts_are_right(&receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_delivery_whose_quarantine_entry_a_trigger_suppresses_stays_in_the_spool() {
    let receiver = TestReceiver::start_with(short_timeouts).await;
    fault_on(&receiver, "executions", "NEW.execution_id = 'refused'", &raise("23514")).await;
    fault_on(&receiver, "quarantine", "true", SUPPRESS).await;
    receiver.accept(full_execution("refused")).await;
    until(async || {
        let health = receiver.ready().await.1.to_string();
        health.contains("a trigger on quarantine suppressed a row")
    })
    .await;
    end_fault_on(&receiver, "quarantine").await;
    receiver.wait_until_recorded().await;
    assert_eq!(receiver.row("SELECT acknowledged FROM quarantine").await["acknowledged"], true);
    assert_eq!(receiver.metric("quarantine_dropped_total").await, 0.0);
}
