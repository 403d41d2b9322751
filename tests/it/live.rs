//! `/api/v1/events`

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use crate::support::events::Listener;
use crate::support::fixtures::{execution, with};
use crate::support::postgres::{execute, new_database};
use crate::support::receiver::TestReceiver;
use crate::support::wait::{until, within};

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_published_after_their_commit() {
    let receiver = TestReceiver::start_with(|s| s.admin.heartbeat = Duration::from_millis(500)).await;
    let mut all = Listener::start(&receiver, "").await;
    let mut of_bulk = Listener::start(&receiver, "?bulk=b&status=completed").await;
    let mut of_workflow = Listener::start(&receiver, "?workflow=v").await;
    let body = |status| with(execution("e", status), json!({ "bulk_id": "b" }));
    let mut expect_change = async |number: i64, kind: &str, status: &str| {
        let change = all.change().await;
        assert_eq!(
            (&change["change"], &change["type"], &change["status"]),
            (&json!(number), &json!(kind), &json!(status))
        );
        assert!(change["recorded_at"].as_str().unwrap().ends_with('Z'));
        change
    };
    receiver.accept(body("running")).await;
    let change = expect_change(1, "execution.updated", "running").await;
    assert_eq!(
        (&change["execution_id"], &change["workflow_id"], &change["bulk_id"]),
        (&json!("e"), &json!("w"), &json!("b"))
    );
    assert_eq!(receiver.rows("SELECT * FROM executions").await.len(), 1);
    receiver.accept(body("completed")).await;
    expect_change(2, "execution.ended", "completed").await;
    receiver.accept(body("completed")).await;
    receiver.accept(body("failed")).await;
    expect_change(3, "execution.conflict", "failed").await;
    receiver.accept(with(execution("f", "completed"), json!({ "workflow_id": "v" }))).await;
    expect_change(4, "execution.ended", "completed").await;
    assert_eq!(of_bulk.change().await["type"], "execution.ended", "no earlier event matches its filter");
    assert_eq!(of_workflow.change().await["execution_id"], "f");
    assert_eq!(receiver.metric("event_listeners").await, 3.0);
    // A silent stream has heartbeats.
    assert_eq!(all.next().await.unwrap(), ": heartbeat");
    assert_eq!(all.id, "4");
    drop((all, of_bulk, of_workflow));
    until(async || receiver.metric("event_listeners").await == 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_filter_drops_all_changes_has_heartbeats() {
    let receiver = TestReceiver::start_with(|s| s.admin.heartbeat = Duration::from_millis(500)).await;
    let mut listener = Listener::start(&receiver, "?workflow=another").await;
    let others = async {
        for n in 0.. {
            receiver.accept(execution(&n.to_string(), "completed")).await;
            receiver.wait_until_recorded().await;
        }
    };
    tokio::select! {
        comment = listener.next() => assert_eq!(comment.unwrap(), ": heartbeat"),
        () = others => {}
    }
    assert_ne!(listener.id, "0", "the heartbeat has the number of a change that was filtered out");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_shutdown_a_stream_ends_after_the_last_change() {
    let receiver = TestReceiver::start().await;
    let mut listener = Listener::start(&receiver, "").await;
    let held = receiver.hold_recording().await;
    receiver.accept(execution("last", "completed")).await;
    let (stopped, ()) = tokio::join!(receiver.stop(), held.release());
    drop(stopped);
    assert_eq!(listener.change().await["execution_id"], "held");
    assert_eq!(listener.change().await["execution_id"], "last");
    while let Some(comment) = listener.next().await {
        assert!(comment.starts_with(':'), "{comment}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reconnect_to_another_receiver_a_stream_resumes_after_its_last_event() {
    let database = new_database().await;
    let one = TestReceiver::start_on(database.clone(), |_| {}).await;
    within(one.progress.clone().recording()).await;
    let other = TestReceiver::start_on(database, |_| {}).await;
    let mut listener = Listener::start(&one, "").await;
    one.accept(execution("1", "completed")).await;
    assert_eq!(listener.change().await["execution_id"], "1");
    let id = listener.id.clone();
    drop(listener);
    for n in 2..=5 {
        let receiver = if n % 2 == 0 { &one } else { &other };
        receiver.accept(execution(&n.to_string(), "completed")).await;
        receiver.wait_until_recorded().await;
    }
    let mut listener = Listener::resume(&other, &id).await;
    for n in 2..=4 {
        assert_eq!(listener.change().await["execution_id"], n.to_string());
    }
    // A change that another receiver records while the stream is open.
    let mut listener = Listener::resume(&one, &listener.id).await;
    other.accept(execution("6", "completed")).await;
    for n in 5..=6 {
        assert_eq!(listener.change().await["execution_id"], n.to_string());
    }
    let mut by_parameter = Listener::start(&one, "?after=5").await;
    assert_eq!(by_parameter.change().await["change"], 6);
    for id in ["7", "-1", "x", ""] {
        let url = format!("{}/api/v1/events?after=1", one.admin);
        let answer = one.client.get(url).header("Last-Event-ID", id).send().await.unwrap();
        assert_eq!(answer.status(), if id == "7" { 410 } else { 400 }, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reconnects_before_its_first_event_misses_nothing() {
    let receiver = TestReceiver::start().await;
    let listener = Listener::start(&receiver, "").await;
    let id = listener.id.clone();
    drop(listener);
    receiver.accept(execution("e", "completed")).await;
    receiver.wait_until_recorded().await;
    assert_eq!(Listener::resume(&receiver, &id).await.change().await["execution_id"], "e");
}

/// More than the changes in memory and in the socket buffers together.
const MANY: usize = 24_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_misses_nothing_and_does_not_delay_recording() {
    let receiver = TestReceiver::start().await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    let address = receiver.admin.strip_prefix("http://").unwrap();
    let mut stream = socket.connect(address.parse().unwrap()).await.unwrap();
    let request = format!("GET /api/v1/events HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    until(async || receiver.metric("event_listeners").await == 1.0).await;

    let changes = format!(
        "INSERT INTO change_batches (size, types, execution_ids, workflow_ids, bulk_ids, statuses)
         SELECT count(*), array_agg('execution.ended'::text), array_agg('e' || n), array_agg('w'::text),
             array_agg(repeat('b', 250)), array_agg('completed'::text)
         FROM generate_series(1, {MANY}) AS n GROUP BY n / 500"
    );
    execute(&receiver, changes).await;
    let unnumbered = "SELECT FROM change_batches WHERE last_change IS NULL";
    until(async || receiver.rows_now(unnumbered).await.is_empty()).await;
    receiver.accept(execution("last", "completed")).await;
    receiver.wait_until_recorded().await;

    let (mut events, mut text) = (0, String::new());
    let mut piece = vec![0; 64 << 10];
    while events < MANY {
        let size = within(stream.read(&mut piece)).await.unwrap();
        assert!(size > 0, "the stream ended after {events} events");
        text += std::str::from_utf8(&piece[..size]).unwrap();
        while let Some((event, rest)) = text.split_once("\n\n") {
            if let Some((id, data)) = event.split_once("\ndata: ") {
                events += 1;
                assert!(id.ends_with(&format!("id: {events}")), "{id}");
                assert_eq!(serde_json::from_str::<Value>(data).unwrap()["change"], events);
            }
            text = rest.to_owned();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_event_streams_is_limited_and_health_is_still_answered() {
    let receiver = TestReceiver::start().await;
    let mut listeners = Vec::new();
    for _ in 0..16 {
        listeners.push(Listener::start(&receiver, "").await);
    }
    let refused = receiver.get("/api/v1/events").await;
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (503, &"1".parse().unwrap()));
    assert_eq!(receiver.ready().await.0, 200);
    listeners.pop();
    until(async || receiver.get("/api/v1/events").await.status() == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_the_client_has_closed_ends_before_the_next_heartbeat() {
    let receiver = TestReceiver::start_with(|s| s.admin.heartbeat = Duration::from_hours(1)).await;
    let listener = Listener::start(&receiver, "").await;
    assert_eq!(receiver.metric("event_listeners").await, 1.0);
    drop(listener);
    until(async || receiver.metric("event_listeners").await == 0.0).await;
    // A client that only closes its sending direction is disconnected, too.
    let address = receiver.admin.strip_prefix("http://").unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream
        .write_all(format!("GET /api/v1/events HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    until(async || receiver.metric("event_listeners").await == 1.0).await;
    stream.shutdown().await.unwrap();
    until(async || receiver.metric("event_listeners").await == 0.0).await;
}
