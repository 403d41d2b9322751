//! `/api/v1/events`

use std::time::Duration;

use reqwest::Response;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use crate::support::fixtures::{execution, with};
use crate::support::receiver::TestReceiver;
use crate::support::wait::{until, within};

/// Reads server-sent events, one by one.
struct Listener {
    answer: Response,
    text: String,
}

impl Listener {
    /// Returns once the listener is subscribed.
    async fn start(receiver: &TestReceiver, query: &str) -> Self {
        let answer = receiver.get(&format!("/api/v1/events{query}")).await;
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        let mut listener = Self { answer, text: String::new() };
        assert_eq!(listener.next().await.unwrap(), ": subscribed");
        listener
    }

    /// The text of the next event or comment; `None` at the end of the stream.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                return Some(event);
            }
            let chunk = within(self.answer.chunk()).await.unwrap()?;
            self.text += std::str::from_utf8(&chunk).unwrap();
        }
    }

    /// The data of the next event. Panics if it is of another kind.
    async fn event(&mut self, kind: &str) -> Value {
        loop {
            let event = self.next().await.expect("the stream ended");
            if !event.starts_with(':') {
                let (event, data) = event.split_once('\n').unwrap();
                assert_eq!(event, format!("event: {kind}"));
                return serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_published_after_their_commit() {
    let receiver = TestReceiver::start_with(|s| s.admin.heartbeat = Duration::from_millis(500)).await;
    let mut all = Listener::start(&receiver, "").await;
    let mut of_bulk = Listener::start(&receiver, "?bulk=b&status=completed").await;
    let mut of_workflow = Listener::start(&receiver, "?workflow=v").await;
    let body = |status| with(execution("e", status), json!({ "bulk_id": "b" }));
    let mut expect_change = async |outcome: &str, status: Value| {
        let event = all.event("recorded").await;
        assert_eq!((&event["outcome"], &event["status"]), (&json!(outcome), &status));
        assert!(event["received_at"].as_str().unwrap().ends_with('Z'));
        event
    };
    receiver.accept(body("running")).await;
    let event = expect_change("new", json!("running")).await;
    assert_eq!(
        (&event["execution_id"], &event["workflow_id"], &event["bulk_id"]),
        (&json!("e"), &json!("w"), &json!("b"))
    );
    assert_eq!(receiver.rows("SELECT * FROM executions").await.len(), 1);
    receiver.accept(body("completed")).await;
    expect_change("replacement", json!("completed")).await;
    receiver.accept(body("completed")).await;
    receiver.accept(body("failed")).await;
    expect_change("conflict", json!("failed")).await;
    assert_eq!(receiver.post("{}").await.status(), 422);
    let event = expect_change("quarantined", json!(null)).await;
    assert_eq!(event["execution_id"], Value::Null);
    receiver.accept(with(execution("f", "completed"), json!({ "workflow_id": "v" }))).await;
    expect_change("new", json!("completed")).await;
    assert_eq!(
        of_bulk.event("recorded").await["outcome"],
        "replacement",
        "no earlier event matches its filter"
    );
    assert_eq!(of_workflow.event("recorded").await["execution_id"], "f");
    assert_eq!(receiver.metric("event_listeners").await, 3.0);
    // A silent stream has heartbeats.
    assert_eq!(all.next().await.unwrap(), ": heartbeat");
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
}

#[tokio::test(flavor = "multi_thread")]
async fn at_shutdown_a_stream_ends_after_the_last_change() {
    let receiver = TestReceiver::start().await;
    let mut listener = Listener::start(&receiver, "").await;
    let held = receiver.hold_recording().await;
    receiver.accept(execution("last", "completed")).await;
    let (stopped, ()) = tokio::join!(receiver.stop(), held.release());
    drop(stopped);
    assert_eq!(listener.event("recorded").await["execution_id"], "held");
    assert_eq!(listener.event("recorded").await["execution_id"], "last");
    while let Some(comment) = listener.next().await {
        assert!(comment.starts_with(':'), "{comment}");
    }
}

/// More than the capacity of the event bus and of the socket buffers together.
const MANY: usize = 24_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_missed_events_and_does_not_delay_recording() {
    let receiver = TestReceiver::start().await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    let address = receiver.admin.strip_prefix("http://").unwrap();
    let mut stream = socket.connect(address.parse().unwrap()).await.unwrap();
    let request = format!("GET /api/v1/events HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    until(async || receiver.metric("event_listeners").await == 1.0).await;

    let bulk = "b".repeat(250);
    let posts = (0..16).map(|part| {
        let (receiver, bulk) = (&receiver, &bulk);
        async move {
            for n in 0..MANY / 16 {
                let body = with(execution(&format!("{part}-{n}"), "completed"), json!({ "bulk_id": bulk }));
                receiver.accept(body).await;
            }
        }
    });
    futures_util::future::join_all(posts).await;
    receiver.wait_until_recorded().await;

    let (mut events, mut missed, mut text) = (0, 0, String::new());
    let mut piece = vec![0; 64 << 10];
    while events + missed < MANY {
        let size = within(stream.read(&mut piece)).await.unwrap();
        assert!(size > 0, "the stream ended after {events} events and {missed} missed ones");
        text += std::str::from_utf8(&piece[..size]).unwrap();
        while let Some((event, rest)) = text.split_once("\n\n") {
            if event.starts_with("event: recorded") {
                events += 1;
            } else if let Some(number) = event.strip_prefix("event: missed\ndata: {\"missed\":") {
                missed += number.trim_end_matches('}').parse::<usize>().unwrap();
            }
            text = rest.to_owned();
        }
    }
    assert!(events + missed == MANY && missed > 0, "{events} events, {missed} missed");
    assert_eq!(receiver.metric("events_missed_total").await, missed as f64);
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
