//! A trace collector: OTLP over HTTP with protobuf.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value::{IntValue, StringValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{Span, span};
use prost::Message;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::wait::within;

/// Returns the answer to a message from the number of earlier messages.
type Answer = fn(usize) -> (StatusCode, ExportTraceServiceResponse);

pub(crate) struct Collector {
    pub(crate) endpoint: String,
    received: watch::Receiver<Received>,
    _serving: JoinSet<()>,
}

/// All messages, and the spans of the accepted ones.
#[derive(Default)]
struct Received {
    messages: Vec<(HeaderMap, Bytes)>,
    resources: Vec<Resource>,
    spans: Vec<Span>,
}

impl Collector {
    /// Accepts every message.
    pub(crate) async fn start() -> Self {
        Self::answering(|_| (StatusCode::OK, ExportTraceServiceResponse::default())).await
    }

    pub(crate) async fn answering(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (to, received) = watch::channel(Received::default());
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = service_fn(|request| handle(request, answer, &to));
                let http = hyper::server::conn::http1::Builder::new();
                // The exporter sends one message at a time.
                let _ = http.serve_connection(TokioIo::new(stream), service).await;
            }
        });
        Self { endpoint, received, _serving: serving }
    }

    /// Waits for `at_least` spans, and returns all spans so far.
    pub(crate) async fn spans(&self, at_least: usize) -> Vec<Span> {
        self.spans_once(|spans| spans.len() >= at_least).await
    }

    /// Waits until `enough` is true, and returns all spans so far.
    pub(crate) async fn spans_once(&self, enough: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let mut received = self.received.clone();
        within(received.wait_for(|received| enough(&received.spans))).await.unwrap().spans.clone()
    }

    /// The distinct resources of the spans so far.
    pub(crate) fn resources(&self) -> Vec<Value> {
        let mut resources: Vec<_> = self
            .received
            .borrow()
            .resources
            .iter()
            .map(|resource| attributes(&resource.attributes))
            .collect();
        resources.dedup();
        resources
    }

    /// The messages so far.
    pub(crate) fn messages(&self) -> Vec<(HeaderMap, Bytes)> {
        self.received.borrow().messages.clone()
    }
}

async fn handle(
    request: Request<Incoming>,
    answer: Answer,
    to: &watch::Sender<Received>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/v1/traces"));
    assert_eq!(request.headers()["content-type"], "application/x-protobuf");
    let headers = request.headers().clone();
    let message = request.into_body().collect().await.unwrap().to_bytes();
    let (status, body) = answer(to.borrow().messages.len());
    to.send_modify(|received| {
        let taken = ExportTraceServiceRequest::decode(message.clone()).unwrap().resource_spans;
        received.messages.push((headers, message));
        for of_resource in taken.into_iter().filter(|_| status.is_success()) {
            received.resources.extend(of_resource.resource);
            received.spans.extend(of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    });
    let mut response = Response::new(Full::from(body.encode_to_vec()));
    *response.status_mut() = status;
    Ok(response)
}

/// An answer that accepts a message except for some of its spans.
pub(crate) fn rejecting(rejected_spans: i64) -> ExportTraceServiceResponse {
    let error_message = "too many".to_owned();
    let partial_success = Some(ExportTracePartialSuccess { rejected_spans, error_message });
    ExportTraceServiceResponse { partial_success }
}

/// The spans with this name.
pub(crate) fn named<'s>(spans: &'s [Span], name: &str) -> Vec<&'s Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

/// The only span with this name.
pub(crate) fn one<'s>(spans: &'s [Span], name: &str) -> &'s Span {
    let found = named(spans, name);
    assert_eq!(found.len(), 1, "{name} in {spans:#?}");
    found[0]
}

/// Attributes as a JSON object.
pub(crate) fn attributes(attributes: &[KeyValue]) -> Value {
    let value = |attribute: &KeyValue| match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(StringValue(text)) => json!(text),
        Some(IntValue(number)) => json!(number),
        other => panic!("{other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.clone(), value(attribute))).collect()
}

/// Whether `link` points to the span `to`.
pub(crate) fn links(link: &span::Link, to: &Span) -> bool {
    (&link.trace_id, &link.span_id) == (&to.trace_id, &to.span_id)
}

/// An id in hexadecimal.
pub(crate) fn hex(id: &[u8]) -> String {
    id.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
