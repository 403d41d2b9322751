//! Traces: a delivery keeps its trace from the sender to the commit, also across a crash. No part waits for the
//! collector.

use hyper::StatusCode;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as SpanStatus;
use reqwest::{Client, Response};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use workflow_receiver::config::Settings;

use crate::support::collector::{Collector, attributes, hex, links, named, one, rejecting};
use crate::support::fixtures::{execution, with};
use crate::support::http::signed;
use crate::support::postgres::{UNREACHABLE, new_database, no_database, url};
use crate::support::process::{Process, program};
use crate::support::receiver::{TestReceiver, fast_retries};
use crate::support::spool::spool_file;
use crate::support::wait::{until, within};

const POST: &str = "POST /webhooks/workflow-completed";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A `traceparent` header with the sampled flag.
fn traceparent() -> String {
    format!("00-{TRACE}-{PARENT}-01")
}

fn traced(collector: &Collector) -> impl FnOnce(&mut Settings) {
    let endpoint = collector.endpoint.clone();
    |settings| settings.traces.otlp_endpoint = endpoint
}

impl TestReceiver {
    async fn post_in_trace(&self, traceparent: &str, body: impl ToString) -> Response {
        let request = self.client.post(&self.url).header("traceparent", traceparent);
        request.body(body.to_string()).send().await.unwrap()
    }
}

fn status(span: &Span) -> SpanStatus {
    span.status.as_ref().map_or(SpanStatus::Unset, opentelemetry_proto::tonic::trace::v1::Status::code)
}

/// The trace ids of the only delivery in the spool.
fn stored_trace(dir: &TempDir) -> Option<Vec<u8>> {
    let spool = rusqlite::Connection::open(spool_file(dir.path())).unwrap();
    spool.query_row("SELECT trace FROM deliveries", [], |row| row.get(0)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_covers_the_request_the_spool_and_the_commit() {
    let collector = Collector::start().await;
    let receiver = TestReceiver::start_with(traced(&collector)).await;
    let answer = receiver.post_in_trace(&traceparent(), execution("e", "completed")).await;
    assert_eq!(answer.status(), 200);
    receiver.wait_until_recorded().await;
    let spans = collector.spans(4).await;
    let (request, spool) = (one(&spans, POST), one(&spans, "spool"));
    let (batch, record) = (one(&spans, "record batch"), one(&spans, "record"));

    for (span, parent) in
        [(request, PARENT.to_owned()), (spool, hex(&request.span_id)), (record, hex(&request.span_id))]
    {
        assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.to_owned(), parent), "{span:#?}");
    }
    assert!(hex(&batch.trace_id) != TRACE && batch.parent_span_id.is_empty(), "{batch:#?}");
    assert!(batch.links.len() == 1 && links(&batch.links[0], request), "{batch:#?}");
    assert!(record.links.len() == 1 && links(&record.links[0], batch), "{record:#?}");

    let times = |span: &Span| span.start_time_unix_nano..=span.end_time_unix_nano;
    assert!(times(request).contains(times(spool).start()) && times(request).contains(times(spool).end()));
    assert!(times(record).start() >= times(spool).start() && times(record) == times(batch));
    assert!(spans.iter().all(|span| status(span) == SpanStatus::Unset), "{spans:#?}");
    assert_eq!((request.kind(), batch.kind()), (SpanKind::Server, SpanKind::Client));
    let id = ("workflow_receiver.execution_id", "e");
    assert_eq!(
        attributes(&request.attributes),
        json!({ "http.request.method": "POST", "http.route": "/webhooks/workflow-completed", "url.scheme": "http",
            "http.response.status_code": 200, id.0: id.1 })
    );
    assert_eq!(attributes(&spool.attributes), json!({}));
    assert_eq!(attributes(&record.attributes), json!({ "workflow_receiver.outcome": "new", id.0: id.1 }));
    assert_eq!(
        attributes(&batch.attributes),
        json!({ "db.system.name": "postgresql", "db.operation.batch.size": 1 })
    );
    let [resource] = &collector.resources()[..] else { panic!("{:?}", collector.resources()) };
    assert_eq!(resource["service.name"], "workflow-receiver");
    assert_eq!(resource["service.version"], env!("CARGO_PKG_VERSION"));
    // Counted after the collector has answered.
    until(async || receiver.metric("spans_sent_total").await == 4.0).await;
    assert_eq!(receiver.metric("spans_dropped_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_continues_after_a_kill_between_the_200_and_the_commit() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let collector = Collector::start().await;
    let start = |database: &str| {
        let mut program = program(dir.path());
        program.env("DATABASE_URL", database).env("RECEIVER__TRACES__OTLP_ENDPOINT", &collector.endpoint);
        Process::start(program.env("RECEIVER__LOG__FILTER", "info,workflow_receiver=debug"))
    };
    let away = start(UNREACHABLE);
    let request = Client::new().post(&away.url).header("traceparent", traceparent());
    let answer = request.body(execution("e", "completed").to_string()).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    away.kill();
    let path = dir.path().join("data/spool/spool.db");
    let kept: Vec<u8> = rusqlite::Connection::open(path)
        .and_then(|spool| spool.query_row("SELECT trace FROM deliveries", [], |row| row.get(0)))
        .unwrap();

    let mut back = start(&url(&database));
    let line: Value = serde_json::from_str(&back.wait_for("\"recorded\"")).unwrap();
    assert_eq!(line["trace_id"], TRACE);
    back.terminate();
    let spans = collector.spans_once(|spans| !named(spans, "record").is_empty()).await;
    let record = one(&spans, "record");
    assert_eq!(hex(&record.trace_id), TRACE);
    assert_eq!([&record.trace_id[..], &record.parent_span_id[..]].concat(), kept);
    assert!(links(&record.links[0], named(&spans, "record batch").last().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_survives_a_damaged_spool_and_a_damaged_trace_loses_no_delivery() {
    let collector = Collector::start().await;
    let receiver = TestReceiver::start_on(no_database(), |settings| {
        fast_retries(settings);
        traced(&collector)(settings);
    })
    .await;
    for id in ["whole", "damaged"] {
        assert_eq!(receiver.post_in_trace(&traceparent(), execution(id, "completed")).await.status(), 200);
    }
    let (dir, _) = receiver.stop().await;
    rusqlite::Connection::open(spool_file(dir.path()))
        .and_then(|spool| {
            spool.execute_batch(
                "UPDATE sqlite_sequence SET seq = 1 << 60; UPDATE deliveries SET trace = X'07' WHERE seq = 2",
            )
        })
        .unwrap();
    let receiver = TestReceiver::start_in(dir, new_database().await, traced(&collector)).await;
    let recorded = receiver.rows("SELECT execution_id FROM executions ORDER BY 1").await;
    assert_eq!(recorded, [json!({ "execution_id": "damaged" }), json!({ "execution_id": "whole" })]);
    assert_eq!(receiver.metric("spool_salvaged_total").await, 2.0);
    let spans = collector.spans_once(|spans| !named(spans, "record").is_empty()).await;
    let record = one(&spans, "record");
    assert_eq!(hex(&record.trace_id), TRACE);
    assert_eq!(attributes(&record.attributes)["workflow_receiver.execution_id"], "whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_spans_are_sent_before_the_receiver_stops() {
    let collector = Collector::start().await;
    let receiver = TestReceiver::start_with(traced(&collector)).await;
    receiver.accept(execution("e", "completed")).await;
    receiver.stop().await;
    one(&collector.spans(4).await, "record");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_traces_off_no_trace_is_stored() {
    let receiver = TestReceiver::start_on(no_database(), fast_retries).await;
    assert_eq!(receiver.post_in_trace(&traceparent(), execution("e", "completed")).await.status(), 200);
    assert_eq!(stored_trace(&receiver.stop().await.0), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sampled_flag_of_the_sender_decides_and_without_it_the_sample_ratio() {
    let collector = Collector::start().await;
    let receiver = TestReceiver::start_with(|settings| {
        traced(&collector)(settings);
        settings.traces.sample_ratio = 0.0;
    })
    .await;
    receiver.accept(execution("by chance", "completed")).await;
    for not_sampled in [
        format!("00-{TRACE}-{PARENT}-00"),
        // Invalid headers.
        format!("00-{}-{PARENT}-01", "0".repeat(32)),
        format!("00-{TRACE}-{PARENT}"),
        "\u{e9}".to_owned(),
    ] {
        let answer = receiver.post_in_trace(&not_sampled, execution("not sampled", "completed")).await;
        assert_eq!(answer.status(), 200, "{not_sampled}");
    }
    receiver.wait_until_recorded().await;
    receiver.post_in_trace(&traceparent(), execution("sampled", "completed")).await;
    receiver.wait_until_recorded().await;
    collector.spans(4).await;
    receiver.stop().await;
    let spans = collector.spans(4).await;
    assert_eq!(spans.len(), 4, "{spans:#?}");
    assert_eq!(attributes(&one(&spans, "record").attributes)["workflow_receiver.execution_id"], "sampled");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_traceparent_starts_a_new_trace() {
    let collector = Collector::start().await;
    let receiver = TestReceiver::start_with(traced(&collector)).await;
    receiver
        .post_in_trace(&format!("00-{}-{PARENT}-01", TRACE.to_uppercase()), execution("e", "completed"))
        .await;
    receiver.wait_until_recorded().await;
    let spans = collector.spans(4).await;
    let request = one(&spans, POST);
    assert!(hex(&request.trace_id) != TRACE && request.parent_span_id.is_empty(), "{request:#?}");
    assert_eq!(one(&spans, "record").trace_id, request.trace_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unauthenticated_request_is_not_traced() {
    let collector = Collector::start().await;
    let receiver = TestReceiver::start_with(|settings| {
        traced(&collector)(settings);
        settings.auth.webhook_secrets = workflow_receiver::config::Secrets::of(&["whsec_secret"]);
        settings.auth.url_tokens = workflow_receiver::config::Secrets::of(&["a-long-enough-token"]);
    })
    .await;
    let body = execution("e", "completed").to_string();
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let post = |suffix: &str| receiver.client.post(format!("{}{suffix}", receiver.url));
    for unauthenticated in [
        post("").body(body.clone()),
        post("/another-long-enough-token").body(body.clone()),
        signed(post(""), "whsec_another", now, &body),
    ] {
        let answer = unauthenticated.header("traceparent", traceparent()).send().await.unwrap();
        assert_eq!(answer.status(), 401);
    }
    let known = post("/a-long-enough-token").header("traceparent", traceparent().replace("0af", "0be"));
    assert_eq!(known.body(body).send().await.unwrap().status(), 200);
    receiver.wait_until_recorded().await;
    collector.spans(4).await;
    receiver.stop().await;
    let spans = collector.spans(4).await;
    assert_eq!(spans.len(), 4, "{spans:#?}");
    let request = one(&spans, &format!("{POST}/{{token}}"));
    assert_eq!(hex(&request.trace_id), TRACE.replace("0af", "0be"));
    assert_eq!(attributes(&request.attributes)["http.route"], "/webhooks/workflow-completed/{token}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_request_is_traced_with_its_status() {
    let collector = Collector::start().await;
    let receiver = TestReceiver::start_on(no_database(), |settings| {
        fast_retries(settings);
        traced(&collector)(settings);
        settings.http.max_body_bytes = 1 << 20;
        settings.spool.max_bytes = 2 << 20;
    })
    .await;
    assert_eq!(receiver.post("no JSON").await.status(), 400);
    assert_eq!(receiver.post("{}").await.status(), 422);
    let large = with(execution("e", "completed"), json!({ "fill": "x".repeat(1_000_000) })).to_string();
    let mut posted = 3;
    while receiver.post(large.clone()).await.status() == 200 {
        posted += 1;
    }
    // There are also spans of the attempts to record.
    let all =
        |spans: &[Span]| named(spans, POST).len() == posted && named(spans, "spool").len() == posted - 1;
    let spans = collector.spans_once(all).await;
    let answered = |code: u16| {
        let matches = |span: &&&Span| attributes(&span.attributes)["http.response.status_code"] == code;
        *named(&spans, POST).iter().find(matches).unwrap_or_else(|| panic!("no {code} in {spans:#?}"))
    };
    let child = |of: &Span| named(&spans, "spool").into_iter().find(|span| span.parent_span_id == of.span_id);
    assert!(status(answered(400)) == SpanStatus::Unset && child(answered(400)).is_none());
    assert!(status(answered(422)) == SpanStatus::Unset && child(answered(422)).is_some());
    let full = answered(503);
    assert_eq!(
        (status(full), &attributes(&full.attributes)["error.type"]),
        (SpanStatus::Error, &json!("503"))
    );
    assert_eq!(child(full).unwrap().status.as_ref().unwrap().message, "the spool is full");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_links_to_the_traces_of_at_most_128_deliveries() {
    let collector = Collector::start().await;
    let receiver = TestReceiver::start_with(traced(&collector)).await;
    let held = receiver.hold_recording().await;
    for n in 0..200 {
        receiver.accept(execution(&format!("e{n}"), "completed")).await;
    }
    held.release().await;
    receiver.wait_until_recorded().await;
    let spans = collector.spans(3 * 201 + 2).await;
    let size = |span: &&&Span| attributes(&span.attributes)["db.operation.batch.size"] == 200;
    let batches = named(&spans, "record batch");
    let batch = batches.iter().find(size).unwrap_or_else(|| panic!("{batches:#?}"));
    assert_eq!((batch.links.len(), batch.dropped_links_count), (128, 72));
    let requests = named(&spans, POST);
    assert!(batch.links.iter().all(|link| requests.iter().any(|request| links(link, request))));
    let recorded = named(&spans, "record");
    assert_eq!(recorded.iter().filter(|record| links(&record.links[0], batch)).count(), 200);
    assert!(recorded.iter().all(|record| record.trace_id != batch.trace_id));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_span_of_a_failed_batch_has_the_error_and_no_row_data() {
    let database = new_database().await;
    TestReceiver::start_on(database.clone(), |_| {}).await.stop().await;
    let mut connection = <sqlx::PgConnection as sqlx::Connection>::connect_with(&database).await.unwrap();
    let refuse = "ALTER TABLE executions ADD CONSTRAINT not_this CHECK (status <> 'PRIVATE')";
    sqlx::raw_sql(refuse).execute(&mut connection).await.unwrap();
    let collector = Collector::start().await;
    let receiver = TestReceiver::start_on(database, traced(&collector)).await;
    receiver.accept(execution("e", "PRIVATE")).await;
    receiver.wait_until_recorded().await;
    // The first attempt, three strikes, and one attempt with the payload as bytes; then it goes to quarantine.
    let spans = collector.spans(9).await;
    let failed: Vec<_> =
        named(&spans, "record batch").into_iter().filter(|span| status(span) == SpanStatus::Error).collect();
    assert_eq!(failed.len(), 5, "{spans:#?}");
    for batch in failed {
        assert_eq!(
            attributes(&batch.attributes),
            json!({ "db.system.name": "postgresql", "db.operation.batch.size": 1, "error.type": "invalid_row",
                "db.response.status_code": "23514" })
        );
    }
    assert_eq!(
        attributes(&one(&spans, "record").attributes),
        json!({ "workflow_receiver.outcome": "quarantined" })
    );
    for (_, message) in collector.messages() {
        assert!(!message.windows(7).any(|window| window == b"PRIVATE"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_webhooks_are_acknowledged_and_recorded_and_the_receiver_stops() {
    // The first address refuses connections, the second accepts them and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for endpoint in ["127.0.0.1:1".to_owned(), silent.local_addr().unwrap().to_string()] {
        let receiver =
            TestReceiver::start_with(|s| s.traces.otlp_endpoint = format!("http://{endpoint}")).await;
        // More spans than the queue holds.
        for group in 0..40 {
            let posts = (0..50).map(|n| receiver.accept(execution(&format!("{group}-{n}"), "completed")));
            futures_util::future::join_all(posts).await;
        }
        let row = receiver.row("SELECT count(*) FROM executions").await;
        assert_eq!(row, json!({ "count": 2000 }));
        assert!(receiver.metric("spans_dropped_total").await > 0.0);
        assert_eq!(receiver.metric("spans_sent_total").await, 0.0);
        assert_eq!(receiver.ready().await.1["status"], "ok");
        within(receiver.stop()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_are_sent_again_after_a_collector_was_unavailable() {
    let collector = Collector::answering(|n| {
        let status = if n < 2 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        (status, ExportTraceServiceResponse::default())
    })
    .await;
    let receiver = TestReceiver::start_with(traced(&collector)).await;
    receiver.accept(execution("e", "completed")).await;
    assert_eq!(collector.spans(4).await.len(), 4);
    until(async || receiver.metric("spans_sent_total").await == 4.0).await;
    assert_eq!(receiver.metric("spans_dropped_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_that_the_collector_rejects_are_counted() {
    let rejects_message = Collector::answering(|_| (StatusCode::BAD_REQUEST, rejecting(0))).await;
    let rejects_one_span = Collector::answering(|_| (StatusCode::OK, rejecting(1))).await;
    let rejects_more_spans_than_sent = Collector::answering(|_| (StatusCode::OK, rejecting(1_000))).await;
    for (collector, rejects_all) in
        [(rejects_message, true), (rejects_more_spans_than_sent, true), (rejects_one_span, false)]
    {
        let receiver = TestReceiver::start_with(traced(&collector)).await;
        receiver.accept(execution("e", "completed")).await;
        let counts = async || {
            (receiver.metric("spans_sent_total").await, receiver.metric("spans_dropped_total").await)
        };
        until(async || counts().await.0 + counts().await.1 == 4.0).await;
        let dropped = if rejects_all { 4.0 } else { collector.messages().len() as f64 };
        assert_eq!(counts().await, (4.0 - dropped, dropped));
    }
}
