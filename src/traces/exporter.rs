//! The way to the collector: a bounded queue of spans that have ended, and what sends them.
//!
//! Nobody waits for it. While the collector is away the queue fills, and what finds no room in it is dropped and
//! counted. The SDK's own batch processor takes a thread and a client that blocks, and does not count.

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

/// The most spans that wait: some megabytes.
const QUEUE: usize = 4096;
/// The most spans in one message, and how long the first of them waits for others.
const BATCH: usize = 512;
const GATHER: Duration = Duration::from_millis(500);
/// How long the collector may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often one that is away is tried.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// Where spans go when they end.
#[derive(Debug)]
pub(super) struct Queue {
    ended: mpsc::Sender<SpanData>,
    metrics: Arc<Metrics>,
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.ended.try_send(span).is_err() {
            self.metrics.spans_dropped(1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// What sends them.
#[derive(Debug)]
pub(crate) struct Exporter {
    ended: mpsc::Receiver<SpanData>,
    collector: Collector,
    resource: ResourceAttributesWithSchema,
    metrics: Arc<Metrics>,
    /// The last message was not taken.
    failing: bool,
}

/// Why the collector did not take a message.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("the collector cannot be reached: {0}")]
    Away(Box<dyn Error + Send + Sync>),
    #[error("the collector did not answer in time")]
    Slow,
    #[error("the collector answered {0}")]
    Refused(StatusCode),
}

impl ExportError {
    /// Whether it may take the same message another time.
    fn may_pass(&self) -> bool {
        match self {
            Self::Away(_) | Self::Slow => true,
            Self::Refused(status) => matches!(status.as_u16(), 429 | 502 | 503 | 504),
        }
    }
}

impl Exporter {
    pub(super) fn new(collector: Collector, resource: &Resource, metrics: &Arc<Metrics>) -> (Queue, Self) {
        let (queue, ended) = mpsc::channel(QUEUE);
        let sending =
            Self { ended, collector, resource: resource.into(), metrics: metrics.clone(), failing: false };
        (Queue { ended: queue, metrics: metrics.clone() }, sending)
    }

    /// Sends what ends until `stop`, and then what there is: as long as the collector takes it.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            let batch = self.gather(&stop).await;
            if batch.is_empty() {
                return;
            }
            self.send(batch, &stop).await;
        }
    }

    /// The next spans to send; none after `stop`, when all are sent.
    async fn gather(&mut self, stop: &CancellationToken) -> Vec<SpanData> {
        let mut batch = Vec::new();
        let several = async {
            self.ended.recv_many(&mut batch, BATCH).await;
            let more =
                async { while batch.len() < BATCH && self.ended.recv_many(&mut batch, BATCH).await > 0 {} };
            let _ = timeout(GATHER, more).await;
        };
        tokio::select! {
            () = several => {}
            () = stop.cancelled() => {
                self.ended.close();
                self.ended.recv_many(&mut batch, BATCH).await;
            }
        }
        batch
    }

    async fn send(&mut self, batch: Vec<SpanData>, stop: &CancellationToken) {
        let spans = batch.len();
        let resource_spans = group_spans_by_resource_and_scope(batch, &self.resource);
        let message = Bytes::from(ExportTraceServiceRequest { resource_spans }.encode_to_vec());
        loop {
            match self.post(message.clone()).await {
                Ok(rejected) => {
                    let rejected = rejected.min(spans);
                    if std::mem::take(&mut self.failing) {
                        tracing::info!("traces are sent again");
                    }
                    self.metrics.spans_sent(spans - rejected);
                    self.metrics.spans_dropped(rejected);
                    return;
                }
                Err(why) => {
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::warn!("traces cannot be sent: {why}");
                    }
                    if stop.is_cancelled() || !why.may_pass() {
                        self.metrics.spans_dropped(spans);
                        return;
                    }
                }
            }
            tokio::select! {
                () = sleep(RETRY_EVERY) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Sends a message. How many of its spans the collector does not want.
    async fn post(&self, message: Bytes) -> Result<usize, ExportError> {
        let mut request = Request::new(Full::new(message));
        *request.method_mut() = hyper::Method::POST;
        *request.uri_mut() = self.collector.path.clone();
        *request.headers_mut() = self.collector.headers.clone();
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let answer = timeout(TIMEOUT, http_client::send(&self.collector.address, request)).await;
        let (status, body) = answer.map_err(|_| ExportError::Slow)?.map_err(ExportError::Away)?;
        if !status.is_success() {
            return Err(ExportError::Refused(status));
        }
        let partial = ExportTraceServiceResponse::decode(body).ok().and_then(|answer| answer.partial_success);
        Ok(partial.and_then(|partial| usize::try_from(partial.rejected_spans).ok()).unwrap_or(0))
    }
}
