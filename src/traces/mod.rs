//! Traces, sent to a collector over OTLP. Without `traces.otlp_endpoint`, tracing is off and costs nothing.
//!
//! One trace reaches from the request to the commit in PostgreSQL. The spool stores the delivery's
//! [`TraceContext`](crate::delivery::TraceContext), so the trace survives a crash.
//!
//! | span | parent | begins | ends |
//! |---|---|---|---|
//! | `POST /webhooks/…` | the sender's span, if sent | with the request, if it is authenticated | with the response |
//! | `spool` | the request | with the wait for the disk | when the delivery is on disk |
//! | `record` | the request | with the transaction | with the commit |
//! | `record batch` | none; linked with its deliveries | with an attempt at the transaction | with the commit or the failure |
//!
//! No span contains a secret or a body; the `execution_id` is an attribute.

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

use crate::config::{self, SettingsError};
use crate::metrics::Metrics;
pub(crate) use exporter::Exporter;

/// The attribute with the execution of a span.
pub(crate) const EXECUTION_ID: Key = Key::from_static_str("workflow_receiver.execution_id");

/// Begins spans. Ended spans go to the [`Exporter`].
#[derive(Debug, Clone)]
pub(crate) struct Traces {
    tracer: SdkTracer,
}

impl Traces {
    /// `None` when traces are off.
    ///
    /// # Errors
    /// [`SettingsError`] for invalid settings.
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
        let (queue, exporter) = Exporter::new(collector, &resource, metrics);
        let ratio = Sampler::TraceIdRatioBased(settings.sample_ratio);
        let provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_sampler(BatchSampler(Sampler::ParentBased(Box::new(ratio))))
            .with_span_processor(queue)
            .build();
        let scope = InstrumentationScope::builder("workflow-receiver").with_version(version).build();
        Ok(Some((Self { tracer: provider.tracer_with_scope(scope) }, exporter)))
    }

    /// Begins a child span of `parent`, or a new trace.
    pub(crate) fn begin(&self, span: SpanBuilder, parent: Option<SpanContext>) -> Span {
        let parent =
            parent.map_or_else(Context::new, |parent| Context::new().with_remote_span_context(parent));
        self.tracer.build_with_context(span, &parent)
    }
}

/// Samples a span if its parent is sampled; without a parent, at random. A batch has no parent: it is sampled if one of its
/// deliveries is.
#[derive(Debug, Clone)]
struct BatchSampler(Sampler);

impl ShouldSample for BatchSampler {
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
