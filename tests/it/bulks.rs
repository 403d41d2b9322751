//! Bulks: correct counts for webhooks in any order.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::seq::SliceRandom;
use serde_json::{Value, json};

use crate::support::fixtures::{execution, with};
use crate::support::postgres::new_database;
use crate::support::receiver::TestReceiver;
use crate::support::rollups::assert_counts_are_right;
use crate::support::wait::until;

fn in_bulk(id: &str, status: &str, bulk: &str) -> Value {
    with(execution(id, status), json!({ "bulk_id": bulk }))
}

const COUNTS: &str = "SELECT received, completed, failed, cancelled, other FROM bulks WHERE bulk_id = 'b'";

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_counts_its_executions_by_status() {
    let receiver = TestReceiver::start().await;
    for (n, status) in
        ["completed", "failed", "completed", "cancelled", "running", "paused"].iter().enumerate()
    {
        receiver.accept(in_bulk(&n.to_string(), status, "b")).await;
        receiver.accept(in_bulk(&n.to_string(), status, "b")).await;
    }
    let counts = json!({ "received": 6, "completed": 2, "failed": 1, "cancelled": 1, "other": 2 });
    assert_eq!(receiver.row(COUNTS).await, counts);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_that_ends_moves_to_another_count() {
    let receiver = TestReceiver::start().await;
    receiver.accept(in_bulk("e", "running", "b")).await;
    let counts = json!({ "received": 1, "completed": 0, "failed": 0, "cancelled": 0, "other": 1 });
    assert_eq!(receiver.row(COUNTS).await, counts);
    receiver.accept(in_bulk("e", "failed", "b")).await;
    let counts = json!({ "received": 1, "completed": 0, "failed": 1, "cancelled": 0, "other": 0 });
    assert_eq!(receiver.row(COUNTS).await, counts);
    receiver.accept(in_bulk("e", "completed", "b")).await;
    assert_eq!(receiver.row(COUNTS).await, counts, "a conflict counts nowhere");
    assert_eq!(receiver.row("SELECT status FROM execution_conflicts").await["status"], "completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_that_ends_in_another_bulk_is_counted_in_that_one() {
    let receiver = TestReceiver::start().await;
    let held = receiver.hold_recording().await;
    receiver.accept(in_bulk("e", "running", "a")).await;
    receiver.accept(in_bulk("e", "completed", "b")).await;
    receiver.accept(execution("f", "running")).await;
    receiver.accept(in_bulk("f", "completed", "b")).await;
    held.release().await;
    let bulks = receiver.rows("SELECT bulk_id, received, completed, other FROM bulks ORDER BY bulk_id").await;
    assert_eq!(
        bulks,
        [
            json!({ "bulk_id": "a", "received": 0, "completed": 0, "other": 0 }),
            json!({ "bulk_id": "b", "received": 2, "completed": 2, "other": 0 })
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_expected_size_of_a_bulk_can_be_set_before_or_after_its_webhooks() {
    let receiver = TestReceiver::start().await;
    receiver.wait_until_recorded().await;
    receiver.accept(in_bulk("1", "completed", "after")).await;
    receiver.wait_until_recorded().await;
    let mut connection = receiver.connection().await;
    for statement in [
        "INSERT INTO bulks (bulk_id, expected) VALUES ('before', 2)",
        "UPDATE bulks SET expected = 1 WHERE bulk_id = 'after'",
    ] {
        sqlx::query(statement).execute(&mut connection).await.unwrap();
    }
    receiver.accept(in_bulk("2", "failed", "before")).await;
    let bulks = receiver.rows("SELECT bulk_id, expected, received FROM bulks ORDER BY bulk_id").await;
    assert_eq!(
        bulks,
        [
            json!({ "bulk_id": "after", "expected": 1, "received": 1 }),
            json!({ "bulk_id": "before", "expected": 2, "received": 1 })
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_are_exact_for_ten_thousand_executions_in_a_thousand_bulks_sent_twice_in_random_order() {
    let receiver = TestReceiver::start().await;
    let mut bodies: Vec<_> = (0..20_000)
        .map(|n| {
            let n = n % 10_000;
            let status = ["completed", "failed", "cancelled"][n % 3];
            in_bulk(&format!("e{n}"), status, &format!("b{}", n / 10)).to_string()
        })
        .collect();
    bodies.shuffle(&mut rand::rng());
    let (bodies, next) = (Arc::new(bodies), Arc::new(AtomicUsize::new(0)));
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (bodies, next) = (bodies.clone(), next.clone());
        let (client, url) = (reqwest::Client::new(), receiver.url.clone());
        senders.spawn(async move {
            while let Some(body) = bodies.get(next.fetch_add(1, Ordering::Relaxed)) {
                assert_eq!(client.post(&url).body(body.clone()).send().await.unwrap().status(), 200);
            }
        });
    }
    senders.join_all().await;
    let executions = receiver
        .row("SELECT count(*), sum(deliveries), min(deliveries), max(deliveries) FROM executions")
        .await;
    assert_eq!(executions, json!({ "count": 10_000, "sum": 20_000, "min": 2, "max": 2 }));
    let bulks = receiver.row("SELECT count(*), min(received), max(received) FROM bulks").await;
    assert_eq!(bulks, json!({ "count": 1_000, "min": 10, "max": 10 }));
    assert_counts_are_right(&receiver).await;
    assert!(receiver.rows("SELECT * FROM execution_conflicts").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn several_receivers_on_one_database_neither_deadlock_nor_miscount() {
    let database = new_database().await;
    let receivers = futures_util::future::join_all(
        (0..3).map(|_| TestReceiver::start_on(database.clone(), |s| s.recorder.batch_rows = 50)),
    )
    .await;
    let mut senders = tokio::task::JoinSet::new();
    for receiver in &receivers {
        for _ in 0..8 {
            let mut bodies: Vec<_> = (0..300)
                .flat_map(|n| {
                    let (id, bulk) = (format!("e{n}"), format!("b{}", n % 7));
                    let workflow = json!({ "workflow_id": format!("w{}", n % 11), "total_cost": 0.01 });
                    [in_bulk(&id, "running", &bulk), with(in_bulk(&id, "completed", &bulk), workflow)]
                        .map(|b| b.to_string())
                })
                .collect();
            bodies.shuffle(&mut rand::rng());
            let (client, url) = (reqwest::Client::new(), receiver.url.clone());
            senders.spawn(async move {
                for body in bodies {
                    assert_eq!(client.post(&url).body(body).send().await.unwrap().status(), 200);
                }
            });
        }
    }
    senders.join_all().await;
    for receiver in &receivers {
        receiver.wait_until_recorded().await;
    }
    let first = &receivers[0];
    let executions = first
        .row("SELECT count(*), sum(deliveries), min(status) AS least, max(status) AS most FROM executions")
        .await;
    let deliveries = 3 * 8 * 600;
    assert_eq!(
        executions,
        json!({ "count": 300, "sum": deliveries, "least": "completed", "most": "completed" })
    );
    assert_counts_are_right(first).await;
    no_retries(&receivers).await;
}

/// Two batches that share bulks, quarantine entries and rollups in opposite orders, each delayed half-way. Without a
/// common order of locks, they would deadlock.
#[tokio::test(flavor = "multi_thread")]
async fn batches_that_share_rows_in_opposite_orders_do_not_deadlock() {
    let database = new_database().await;
    let receivers = [
        TestReceiver::start_on(database.clone(), |_| {}).await,
        TestReceiver::start_on(database.clone(), |_| {}).await,
    ];
    let half_way = [
        "SELECT true",
        "SELECT true FROM bulks WHERE bulk_id = 'b50' FOR UPDATE",
        "SELECT true FROM (SELECT * FROM quarantine ORDER BY body_sha256 OFFSET 50 LIMIT 1 FOR UPDATE) AS q",
        // The hour may end meanwhile. Day rollups are locked after it, in the same order.
        "INSERT INTO workflow_hours AS h
         SELECT date_trunc('hour', now(), 'UTC') + n * interval '1 hour', 'w50', 0, 0, 0, 0, 0
         FROM generate_series(0, 1) AS n
         ON CONFLICT (hour, workflow_id) DO UPDATE SET other = h.other RETURNING true",
    ];
    for (round, lock) in half_way.iter().enumerate() {
        let held = receivers[0].hold_recording().await;
        let mut holder = receivers[0].connection().await;
        sqlx::raw_sql("BEGIN").execute(&mut holder).await.unwrap();
        assert!(
            sqlx::query_scalar::<_, bool>(sqlx::AssertSqlSafe(*lock)).fetch_one(&mut holder).await.unwrap()
        );
        for (n, receiver) in receivers.iter().enumerate() {
            let mut bodies: Vec<_> = (0..100)
                .flat_map(|b| {
                    let execution = execution(&format!("{round}-{n}-{b}"), "completed");
                    let shared = json!({ "bulk_id": format!("b{b}"), "workflow_id": format!("w{b}") });
                    [with(execution, shared), json!({ "odd": b })]
                })
                .collect();
            // Earlier locks would serialize the two batches.
            if round == 2 {
                bodies.retain(|body| body["odd"].is_number());
            } else if round > 2 {
                bodies.retain(|body| body["odd"].is_null());
                for body in &mut bodies {
                    body["bulk_id"] = Value::Null;
                }
            }
            if n == 1 {
                bodies.reverse();
            }
            for body in bodies {
                receiver.post(body.to_string()).await;
            }
        }
        held.release().await;
        if round > 0 {
            let blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
                           AND datname = current_database()";
            // A receiver may have several connections.
            until(async || receivers[0].rows_now(blocked).await[0]["count"].as_i64() >= Some(2)).await;
        }
        sqlx::raw_sql("COMMIT").execute(&mut holder).await.unwrap();
        for receiver in &receivers {
            receiver.wait_until_recorded().await;
        }
    }
    assert_eq!(receivers[0].row("SELECT sum(received) FROM bulks").await["sum"], 400);
    assert_eq!(receivers[0].row("SELECT sum(deliveries) FROM quarantine").await["sum"], 600);
    assert_counts_are_right(&receivers[0]).await;
    no_retries(&receivers).await;
}

async fn no_retries(receivers: &[TestReceiver]) {
    for receiver in receivers {
        assert_eq!(receiver.metric("record_retries_total").await, 0.0, "a batch was tried again");
    }
}
