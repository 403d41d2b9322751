//! Sends ended spans to the collector, from a bounded queue.
//!
//! No other part waits for the exporter. While the collector is unreachable, the queue fills; further spans are dropped and
//! counted. The SDK's own batch processor needs a thread and a blocking client, and does not count dropped spans.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Request, StatusCode};
use opentelemetry::Context;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::Collector;
use crate::http_client;
use crate::metrics::Metrics;

/// Maximum queued spans: some megabytes.
const QUEUE_SPANS: usize = 4096;
/// Maximum spans of a message.
const BATCH_SPANS: usize = 512;
/// How long a message waits for further spans.
const LINGER: Duration = Duration::from_millis(500);
/// Time limit of a request to the collector.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The pause before a retry.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Queues ended spans.
#[derive(Debug)]
pub(super) struct SpanQueue {
    spans: mpsc::Sender<SpanData>,
    metrics: Arc<Metrics>,
}

impl SpanProcessor for SpanQueue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.spans.try_send(span).is_err() {
            self.metrics.spans_dropped.inc();
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

#[derive(Debug)]
pub(crate) struct Exporter {
    spans: mpsc::Receiver<SpanData>,
    collector: Collector,
    resource: ResourceAttributesWithSchema,
    metrics: Arc<Metrics>,
    /// The last message was not sent.
    failing: bool,
}

#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("the collector cannot be reached: {0}")]
    Unreachable(Box<dyn Error + Send + Sync>),
    #[error("the collector did not answer in time")]
    TimedOut,
    #[error("the collector answered {0}")]
    Rejected(StatusCode),
}

impl ExportError {
    /// Whether a retry may succeed.
    fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::TimedOut => true,
            Self::Rejected(status) => matches!(status.as_u16(), 429 | 502 | 503 | 504),
        }
    }
}

impl Exporter {
    pub(super) fn new(
        collector: Collector,
        resource: &Resource,
        metrics: &Arc<Metrics>,
    ) -> (SpanQueue, Self) {
        let (sender, spans) = mpsc::channel(QUEUE_SPANS);
        let exporter =
            Self { spans, collector, resource: resource.into(), metrics: metrics.clone(), failing: false };
        (SpanQueue { spans: sender, metrics: metrics.clone() }, exporter)
    }

    /// Sends spans until `stop`. Then sends the queued ones, without retries.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            let batch = self.next_batch(&stop).await;
            if batch.is_empty() {
                return;
            }
            self.send(batch, &stop).await;
        }
    }

    /// Waits for the next spans; empty after `stop` once all are sent.
    async fn next_batch(&mut self, stop: &CancellationToken) -> Vec<SpanData> {
        let mut batch = Vec::new();
        let receive = async {
            self.spans.recv_many(&mut batch, BATCH_SPANS).await;
            let more = async {
                let mut free = BATCH_SPANS - batch.len();
                while free > 0 {
                    match self.spans.recv_many(&mut batch, free).await {
                        0 => break,
                        received => free -= received,
                    }
                }
            };
            let _ = timeout(LINGER, more).await;
        };
        tokio::select! {
            () = receive => {}
            () = stop.cancelled() => {
                self.spans.close();
                let free = BATCH_SPANS - batch.len();
                self.spans.recv_many(&mut batch, free).await;
            }
        }
        batch
    }

    async fn send(&mut self, batch: Vec<SpanData>, stop: &CancellationToken) {
        let spans = batch.len() as u64;
        let resource_spans = group_spans_by_resource_and_scope(batch, &self.resource);
        let message = Bytes::from(ExportTraceServiceRequest { resource_spans }.encode_to_vec());
        loop {
            match self.post(message.clone()).await {
                Ok(rejected) => {
                    let rejected = rejected.min(spans);
                    if std::mem::take(&mut self.failing) {
                        tracing::info!("traces are sent again");
                    }
                    self.metrics.spans_sent.inc_by(spans - rejected);
                    self.metrics.spans_dropped.inc_by(rejected);
                    return;
                }
                Err(why) => {
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::warn!("traces cannot be sent: {why}");
                    }
                    if stop.is_cancelled() || !why.is_temporary() {
                        self.metrics.spans_dropped.inc_by(spans);
                        return;
                    }
                }
            }
            tokio::select! {
                () = sleep(RETRY_INTERVAL) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Sends a message. Returns how many of its spans the collector rejected.
    async fn post(&self, message: Bytes) -> Result<u64, ExportError> {
        let mut request = Request::new(Full::new(message));
        *request.method_mut() = hyper::Method::POST;
        *request.uri_mut() = self.collector.path.clone();
        *request.headers_mut() = self.collector.headers.clone();
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let answer = timeout(TIMEOUT, http_client::send(&self.collector.address, request)).await;
        let (status, body) = answer.map_err(|_| ExportError::TimedOut)?.map_err(ExportError::Unreachable)?;
        if !status.is_success() {
            return Err(ExportError::Rejected(status));
        }
        let partial = ExportTraceServiceResponse::decode(body).ok().and_then(|answer| answer.partial_success);
        Ok(partial.and_then(|partial| u64::try_from(partial.rejected_spans).ok()).unwrap_or(0))
    }
}
