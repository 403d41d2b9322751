//! The change feed: its numbers, and `/api/v1/changes`.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rand::RngExt;
use rand::seq::SliceRandom;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;

use crate::support::events::Poller;
use crate::support::fixtures::{execution, with};
use crate::support::http::{get_json, item_fields};
use crate::support::postgres::{execute, execute_when_recorded, new_database, rows, until_rows, url};
use crate::support::process::{Process, program, run_to_end};
use crate::support::receiver::{TestReceiver, two_receivers};
use crate::support::retention::{age_by_three_days, pruned};
use crate::support::wait::{pause, until, within};

/// Inserts changes as recording does: in an open transaction.
async fn insert_change(writer: &mut PgConnection, id: &str) {
    let insert = format!(
        "INSERT INTO change_batches (size, types, execution_ids, workflow_ids, bulk_ids, statuses)
         VALUES (2, '{{execution.updated,execution.ended}}', '{{{id},{id}}}', '{{w,w}}', '{{NULL,NULL}}', '{{running,completed}}')"
    );
    sqlx::raw_sql(AssertSqlSafe(insert)).execute(writer).await.unwrap();
}

async fn run(connection: &mut PgConnection, statement: &'static str) {
    sqlx::raw_sql(statement).execute(connection).await.unwrap();
}

/// The `execution_id` of each change, or of a bulk.completed the bulk.
fn subjects(poller: &Poller) -> Vec<String> {
    let subject = |change: &Value| match change["execution_id"].as_str() {
        Some(id) => id.to_owned(),
        None => change["bulk_id"].as_str().unwrap().to_owned(),
    };
    poller.changes.iter().map(subject).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_committed_late_gets_a_later_number() {
    let receiver = TestReceiver::start().await;
    let (mut early, mut late) = (receiver.connection().await, receiver.connection().await);
    run(&mut early, "BEGIN").await;
    insert_change(&mut early, "first inserted").await;
    run(&mut late, "BEGIN").await;
    insert_change(&mut late, "first committed").await;
    run(&mut late, "COMMIT").await;
    let mut poller = Poller::default();
    poller.until(&receiver, 2).await;
    // A rolled back transaction leaves no gap.
    run(&mut late, "BEGIN").await;
    insert_change(&mut late, "rolled back").await;
    run(&mut late, "ROLLBACK").await;
    run(&mut early, "COMMIT").await;
    poller.until(&receiver, 4).await;
    assert_eq!(
        subjects(&poller),
        ["first committed", "first committed", "first inserted", "first inserted"],
        "the poller has checked that the numbers are 1 to 4"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_suppresses_a_number_delays_the_later_changes() {
    let receiver = TestReceiver::start().await;
    let mut writer = receiver.connection().await;
    run(&mut writer, "BEGIN").await;
    for id in ["first", "second", "third"] {
        insert_change(&mut writer, id).await;
    }
    run(
        &mut writer,
        "CREATE SEQUENCE attempts;
        CREATE FUNCTION suppress() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            PERFORM nextval('attempts');
            RETURN NULL;
        END $$;
        CREATE TRIGGER suppress BEFORE UPDATE ON change_batches FOR EACH ROW
            WHEN (NEW.execution_ids = '{second,second}') EXECUTE FUNCTION suppress();
        COMMIT",
    )
    .await;
    until_rows(&receiver.database, "SELECT 1 AS n FROM attempts WHERE last_value >= 2", 1).await;
    execute(&receiver, "DROP TRIGGER suppress ON change_batches").await;
    let mut poller = Poller::default();
    poller.until(&receiver, 6).await;
    assert_eq!(subjects(&poller), ["first", "first", "second", "second", "third", "third"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_sees_each_change_of_writers_that_commit_in_any_order() {
    const ROUNDS: usize = 40;
    let receivers = two_receivers().await;
    let mut writers: Vec<PgConnection> = join_all((0..8).map(|_| receivers[0].connection())).await;
    let write = async {
        for round in 0..ROUNDS {
            for (n, writer) in writers.iter_mut().enumerate() {
                run(writer, "BEGIN").await;
                insert_change(writer, &format!("{round}-{n}")).await;
            }
            writers.shuffle(&mut rand::rng());
            for writer in &mut writers {
                run(writer, "COMMIT").await;
                pause().await;
            }
        }
    };
    let mut pollers = [Poller::default(), Poller::default()];
    let [one, other] = &mut pollers;
    tokio::join!(write, one.until(&receivers[0], ROUNDS * 8 * 2), other.until(&receivers[1], ROUNDS * 8 * 2));
    let mut expected: Vec<String> =
        (0..ROUNDS).flat_map(|round| (0..8).map(move |n| format!("{round}-{n}"))).collect();
    expected.sort();
    for poller in &pollers {
        let statuses = |change: &&Value| change["status"] == "completed";
        let mut seen: Vec<_> =
            poller.changes.iter().filter(statuses).map(|c| c["execution_id"].clone()).collect();
        seen.sort_by_key(ToString::to_string);
        assert_eq!(seen, expected);
    }
    assert_eq!(pollers[0].changes, pollers[1].changes);
    let stored =
        rows(&receivers[0].database, "SELECT change, execution_id FROM changes ORDER BY change").await;
    let numbers = |changes: &[Value]| -> Vec<_> {
        changes.iter().map(|c| (c["change"].clone(), c["execution_id"].clone())).collect()
    };
    assert_eq!(numbers(&stored), numbers(&pollers[0].changes));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_receivers_share_one_sequence_and_keep_the_order_of_an_execution() {
    const EXECUTIONS: usize = 200;
    let receivers = two_receivers().await;
    let post = async |n: usize| {
        for (step, status) in ["running", "queued", "completed"].into_iter().enumerate() {
            let receiver = &receivers[(n + step) % 2];
            receiver.accept(execution(&n.to_string(), status)).await;
            receiver.wait_until_recorded().await;
        }
    };
    let posts = join_all((0..EXECUTIONS).map(post));
    let mut poller = Poller::default();
    tokio::join!(posts, poller.until(&receivers[1], EXECUTIONS * 3));
    for n in 0..EXECUTIONS {
        let id = n.to_string();
        let of_execution = poller.changes.iter().filter(|change| change["execution_id"] == *id);
        let steps: Vec<_> = of_execution.map(|c| (c["type"].clone(), c["status"].clone())).collect();
        let expected = [("updated", "running"), ("updated", "queued"), ("ended", "completed")];
        let expected = expected.map(|(kind, status)| (json!(format!("execution.{kind}")), json!(status)));
        assert_eq!(steps, expected, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_changes_of_a_killed_receiver_are_numbered_by_another_one() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let mut process = Process::start(program(dir.path()).env("DATABASE_URL", url(&database)));
    process.wait_for("recording to PostgreSQL");
    process.accept(execution("numbered", "completed")).await;
    let numbered = "SELECT change, execution_id FROM changes ORDER BY change";
    until_rows(&database, numbered, 1).await;
    let mut connection = PgConnection::connect_with(&database).await.unwrap();
    run(&mut connection, "SELECT pg_advisory_lock(hashtextextended('workflow-receiver changes', 0))").await;
    process.accept(execution("killed", "completed")).await;
    let recorded = "SELECT FROM executions WHERE execution_id = 'killed'";
    until_rows(&database, recorded, 1).await;
    process.wait_for("another session keeps the advisory lock of the numbering");
    process.kill();
    assert_eq!(rows(&database, numbered).await.len(), 1);
    let other = TestReceiver::start_on(database.clone(), |_| {}).await;
    within(other.progress.clone().recording()).await;
    other.accept(execution("recorded", "completed")).await;
    other.wait_until_recorded().await;
    assert_eq!(other.metric("changes_numbered_timestamp_seconds").await, 0.0);
    run(&mut connection, "SELECT pg_advisory_unlock_all()").await;
    until_rows(&database, numbered, 3).await;
    until(async || other.metric("changes_numbered_timestamp_seconds").await > 0.0).await;
    assert_eq!(rows(&database, numbered).await[1], json!({ "change": 2, "execution_id": "killed" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_completes_once_after_its_last_execution_with_two_receivers() {
    const BULKS: usize = 20;
    const SIZE: usize = 10;
    let receivers = two_receivers().await;
    for bulk in 0..BULKS {
        execute(&receivers[0], format!("INSERT INTO bulks (bulk_id, expected) VALUES ('b{bulk}', {SIZE})"))
            .await;
    }
    let posts = (0..BULKS * SIZE).map(async |n| {
        let bulk = json!({ "bulk_id": format!("b{}", n % BULKS) });
        let status = if n % 3 == 0 { "failed" } else { "completed" };
        let receiver = &receivers[rand::rng().random_range(0..2)];
        receiver.accept(with(execution(&n.to_string(), "running"), bulk.clone())).await;
        receiver.accept(with(execution(&n.to_string(), status), bulk)).await;
    });
    join_all(posts).await;
    for receiver in &receivers {
        receiver.wait_until_recorded().await;
    }
    let mut poller = Poller::default();
    let ended = |poller: &Poller| {
        poller.changes.iter().filter(|change| change["type"] != "execution.updated").count()
    };
    within(async {
        while ended(&poller) < BULKS * (SIZE + 1) {
            poller.poll(&receivers[0]).await;
        }
    })
    .await;
    for bulk in 0..BULKS {
        let bulk = format!("b{bulk}");
        let of_bulk = poller.changes.iter().filter(|change| change["bulk_id"] == *bulk);
        let kinds: Vec<_> = of_bulk.map(|change| change["type"].as_str().unwrap()).collect();
        let count = |kind| kinds.iter().filter(|k| **k == kind).count();
        assert_eq!((count("execution.ended"), count("bulk.completed")), (SIZE, 1), "{kinds:?}");
        assert_eq!(kinds.last(), Some(&"bulk.completed"), "{kinds:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_also_completes_when_its_size_is_set_later_and_not_again_when_it_is_raised() {
    let receiver = TestReceiver::start().await;
    let dir = TempDir::new().unwrap();
    let expect = |size: &str| {
        let mut command = program(dir.path());
        command.args(["bulks", "set-size", "b", size]).env("DATABASE_URL", url(&receiver.database));
        assert_eq!(run_to_end(&mut command).1, Some(0));
    };
    let accept = async |id: &str| {
        receiver.accept(with(execution(id, "completed"), json!({ "bulk_id": "b" }))).await;
        receiver.wait_until_recorded().await;
    };
    accept("1").await;
    accept("2").await;
    expect("3");
    let bulk = "SELECT complete, completed_at IS NOT NULL AS was_complete FROM bulk_progress";
    assert_eq!(receiver.row(bulk).await, json!({ "complete": false, "was_complete": false }));
    expect("2");
    assert_eq!(receiver.row(bulk).await, json!({ "complete": true, "was_complete": true }));
    expect("3");
    assert_eq!(receiver.row(bulk).await, json!({ "complete": false, "was_complete": true }));
    accept("3").await;
    accept("4").await;
    let mut poller = Poller::default();
    poller.until(&receiver, 5).await;
    assert_eq!(subjects(&poller), ["1", "2", "b", "3", "4"]);
    assert_eq!(
        poller.changes[2],
        with(
            poller.changes[2].clone(),
            json!({ "type": "bulk.completed", "execution_id": null, "workflow_id": null, "status": null })
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_changes_are_in_the_feed_also_those_of_quarantine_retry() {
    let receiver = TestReceiver::start().await;
    for status in ["running", "running", "completed", "running", "completed", "failed"] {
        receiver.accept(execution("e", status)).await;
        receiver.wait_until_recorded().await;
    }
    assert_eq!(receiver.post(r#"{"id":"q","workflow_id":"w","status":"failed"}"#).await.status(), 422);
    receiver.wait_until_recorded().await;
    let dir = TempDir::new().unwrap();
    let mut retry = program(dir.path());
    retry.args(["quarantine", "retry", "1", "--map", "execution_id=id"]);
    let (text, code) = run_to_end(retry.env("DATABASE_URL", url(&receiver.database)));
    assert_eq!(code, Some(0), "{text}");
    let mut poller = Poller::default();
    poller.until(&receiver, 4).await;
    let shown: Vec<_> = poller
        .changes
        .iter()
        .map(|c| format!("{} {} {}", c["type"], c["execution_id"], c["status"]))
        .collect();
    assert_eq!(
        shown.join("\n").replace('"', ""),
        "execution.updated e running\nexecution.ended e completed\nexecution.conflict e failed\nexecution.ended q failed"
    );
    poller.poll(&receiver).await;
    assert_eq!(poller.changes.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_batch_is_one_sequence() {
    let receiver = TestReceiver::start_with(|s| s.recorder.batch_rows = 5_000).await;
    let held = receiver.hold_recording().await;
    let posts = (0..8).map(async |part| {
        for n in 0..150 {
            receiver.accept(execution(&format!("{part}-{n}"), "completed")).await;
        }
    });
    join_all(posts).await;
    held.release().await;
    let mut poller = Poller::default();
    poller.until(&receiver, 1_201).await;
    let sizes = receiver.row("SELECT max(size), count(*) FROM change_batches").await;
    assert_eq!(sizes, json!({ "max": 500, "count": 4 }), "one row for `held`, three for the batch");
    // A page within a row.
    let page = get_json(&receiver, "/api/v1/changes?after=300&limit=7").await;
    assert_eq!(page["items"].as_array().unwrap()[..], poller.changes[300..307]);
    assert_eq!(page["next_after"], 307);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_can_start_at_the_latest_change_and_wait_for_the_next() {
    let receiver = TestReceiver::start().await;
    receiver.accept(execution("earlier", "completed")).await;
    Poller::default().until(&receiver, 1).await;
    let latest = get_json(&receiver, "/api/v1/changes?after=latest").await;
    assert_eq!(latest, json!({ "items": [], "next_after": 1 }));
    let begun = Instant::now();
    assert_eq!(get_json(&receiver, "/api/v1/changes?after=1&wait=1").await, latest);
    assert!(begun.elapsed() >= Duration::from_secs(1));
    let post = async {
        until(async || receiver.metric("event_listeners").await == 1.0).await;
        receiver.accept(execution("later", "completed")).await;
    };
    let (next, ()) = tokio::join!(get_json(&receiver, "/api/v1/changes?after=latest&wait=30"), post);
    assert_eq!((&next["next_after"], &next["items"][0]["execution_id"]), (&json!(2), &json!("later")));
    assert_eq!(receiver.metric("event_listeners").await, 0.0);
    for query in
        ["after=-1", "after=x", "after=+1", "after=", "after=99999999999999999999", "wait=31", "limit=1001"]
    {
        assert_eq!(receiver.get(&format!("/api/v1/changes?{query}")).await.status(), 400, "{query}");
    }
    assert_eq!(receiver.get("/api/v1/changes?after=3").await.status(), 410);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_request_ends_when_the_receiver_stops() {
    let receiver = TestReceiver::start().await;
    let url = format!("{}/api/v1/changes?wait=30", receiver.admin);
    let waiting = tokio::spawn(receiver.client.get(url).send());
    until(async || receiver.metric("event_listeners").await == 1.0).await;
    let begun = Instant::now();
    receiver.stop().await;
    let page: Value = waiting.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(page, json!({ "items": [], "next_after": 0 }));
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_removes_the_oldest_changes_and_a_reader_that_needs_them_is_answered_410() {
    let receiver = TestReceiver::start().await;
    let mut poller = Poller::default();
    for n in 1..=4 {
        receiver.accept(execution(&n.to_string(), "completed")).await;
        poller.until(&receiver, n).await;
    }
    age_by_three_days(&receiver).await;
    // A new batch between two old ones: the old one after it stays, so that the numbers have no gap.
    execute_when_recorded(&receiver, "UPDATE change_batches SET recorded_at = now() WHERE last_change = 3")
        .await;
    receiver.accept(execution("5", "completed")).await;
    poller.until(&receiver, 5).await;
    let limits = [("CHANGES", "2d")];
    assert_eq!(pruned(&receiver, &limits), json!({ "changes": 2 }));
    assert_eq!(pruned(&receiver, &limits), json!({ "changes": 0 }));
    for (after, status) in [(0, 410), (1, 410), (2, 200), (5, 200), (6, 410)] {
        let answer = receiver.get(&format!("/api/v1/changes?after={after}")).await;
        assert_eq!(answer.status(), status, "{after}");
        if status == 410 {
            let problem: Value = answer.json().await.unwrap();
            assert_eq!(problem["type"], "urn:workflow-receiver:problem:changes-removed");
        }
        assert_eq!(receiver.get(&format!("/api/v1/events?after={after}")).await.status(), status, "{after}");
    }
    // The last change is kept, and the numbers continue.
    age_by_three_days(&receiver).await;
    assert_eq!(pruned(&receiver, &limits), json!({ "changes": 2 }));
    assert_eq!(
        receiver.row("SELECT change, execution_id FROM changes").await,
        json!({ "change": 5, "execution_id": "5" })
    );
    receiver.accept(execution("6", "completed")).await;
    poller.until(&receiver, 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_database_is_replaced_open_streams_end_and_the_feed_begins_again() {
    let receiver = TestReceiver::start().await;
    let numbers = async |after: i64| {
        let page = get_json(&receiver, &format!("/api/v1/changes?after={after}&wait=30")).await;
        item_fields(&page, "change").into_iter().map(|change| change.as_i64().unwrap()).collect::<Vec<_>>()
    };
    // One by one, so that each has a batch of its own.
    for n in 0..8 {
        receiver.accept(execution(&format!("old{n}"), "completed")).await;
        assert_eq!(numbers(n).await, [n + 1]);
    }
    let mut stream = receiver.get("/api/v1/events?after=latest").await;
    assert_eq!(stream.status(), 200);

    let name = receiver.database.get_database().unwrap();
    let mut admin =
        PgConnection::connect_with(&receiver.database.clone().database("postgres")).await.unwrap();
    for statement in [format!("DROP DATABASE {name} WITH (FORCE)"), format!("CREATE DATABASE {name}")] {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut admin).await.unwrap();
    }
    receiver.accept(execution("new", "completed")).await;
    receiver.wait_until_recorded().await;
    until(async || {
        let answer = receiver.get("/api/v1/changes?after=0").await;
        answer.status() == 200 && answer.text().await.unwrap().contains(r#""execution_id":"new""#)
    })
    .await;
    assert_eq!(receiver.get("/api/v1/changes?after=8").await.status(), 410);
    // Heartbeats, and then the end.
    within(async { while stream.chunk().await.unwrap().is_some() {} }).await;
}
