//! Traces, sent over OTLP to a collector: off unless `traces.otlp_endpoint` is set, and free then.
//!
//! One trace leads from the request to the commit in PostgreSQL. The spool keeps a delivery's [`TraceContext`](crate::delivery::TraceContext) beside
//! it, so that it survives a crash.
//!
//! | span | of | ends with |
//! |---|---|---|
//! | `POST /webhooks/…` | a request, once its sender is known | the answer |
//! | `spool` | the wait for the disk; its child | the receipt |
//! | `record` | the transaction that recorded the delivery; its child, too | the commit |
//! | `record batch` | an attempt at that transaction: a trace of its own, linked with all that share it | the commit, or its failure |
//!
//! No span holds a secret or a body, but for the `execution_id`.

mod exporter;

use std::sync::Arc;

use opentelemetry::trace::{
    Link, SpanBuilder, SpanContext, SpanKind, TraceContextExt, TraceId, Tracer, TracerProvider,
};
use opentelemetry::{Context, InstrumentationScope, Key, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    Sampler, SamplingDecision, SamplingResult, SdkTracer, SdkTracerProvider, ShouldSample, Span,
};

use crate::config;
use crate::config::SettingsError;
use crate::metrics::Metrics;
pub(crate) use exporter::Exporter;

/// Which execution a span is about.
pub(crate) const EXECUTION_ID: Key = Key::from_static_str("workflow_receiver.execution_id");

/// Where spans are begun. What ends goes to [`Exporter`].
#[derive(Debug, Clone)]
pub(crate) struct Traces {
    tracer: SdkTracer,
}

impl Traces {
    /// `None` when traces are off.
    ///
    /// # Errors
    /// [`SettingsError`] for settings that are not allowed.
    pub(crate) fn new(
        settings: &config::Traces,
        metrics: &Arc<Metrics>,
    ) -> Result<Option<(Self, Exporter)>, SettingsError> {
        let Some(collector) = settings.collector()? else { return Ok(None) };
        let version = env!("CARGO_PKG_VERSION");
        let resource = Resource::builder()
            .with_service_name(settings.service_name.clone())
            .with_attribute(KeyValue::new("service.version", version))
            .build();
        let (queue, sending) = Exporter::new(collector, &resource, metrics);
        let ratio = Sampler::TraceIdRatioBased(settings.sample_ratio);
        let provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_sampler(Sampling(Sampler::ParentBased(Box::new(ratio))))
            .with_span_processor(queue)
            .build();
        let scope = InstrumentationScope::builder("workflow-receiver").with_version(version).build();
        Ok(Some((Self { tracer: provider.tracer_with_scope(scope) }, sending)))
    }

    /// Begins a span below `parent`, or a trace.
    pub(crate) fn begin(&self, span: SpanBuilder, parent: Option<SpanContext>) -> Span {
        let parent =
            parent.map_or_else(Context::new, |parent| Context::new().with_remote_span_context(parent));
        self.tracer.build_with_context(span, &parent)
    }
}

/// What a span's parent says, or else chance. A batch has no parent: its span is sent when the trace of one of its
/// deliveries is.
#[derive(Debug, Clone)]
struct Sampling(Sampler);

impl ShouldSample for Sampling {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let mut result = self.0.should_sample(parent, trace_id, name, kind, attributes, links);
        if links.iter().any(|link| link.span_context.is_sampled()) {
            result.decision = SamplingDecision::RecordAndSample;
        }
        result
    }
}
