//! The trace of a delivery, and the `traceparent` header.

use std::collections::HashMap;

use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use opentelemetry_sdk::propagation::TraceContextPropagator;

/// The ids of a sampled trace and of the request's span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TraceContext {
    pub(crate) trace_id: TraceId,
    span_id: SpanId,
}

impl TraceContext {
    /// `None` when the span is not sampled.
    pub(crate) fn of(span: &SpanContext) -> Option<Self> {
        span.is_sampled().then(|| Self { trace_id: span.trace_id(), span_id: span.span_id() })
    }

    /// The trace id (16 bytes) and the span id (8 bytes), for the spool.
    pub(crate) fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..16].copy_from_slice(&self.trace_id.to_bytes());
        bytes[16..].copy_from_slice(&self.span_id.to_bytes());
        bytes
    }

    /// Reads the stored ids. Any bytes are accepted; damaged ones give an unknown trace id.
    pub(crate) fn from_bytes(bytes: [u8; 24]) -> Self {
        let (trace, span) = bytes.split_at(16);
        Self {
            trace_id: TraceId::from_bytes(trace.try_into().expect("16 of 24")),
            span_id: SpanId::from_bytes(span.try_into().expect("8 of 24")),
        }
    }

    /// The span as a parent or link of other spans.
    pub(crate) fn span(self) -> SpanContext {
        SpanContext::new(self.trace_id, self.span_id, TraceFlags::SAMPLED, true, TraceState::NONE)
    }
}

/// Reads a `traceparent` header (W3C Trace Context); `None` when it is invalid.
pub(crate) fn parse(traceparent: &str) -> Option<SpanContext> {
    let headers = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &headers);
    Some(context.span().span_context().clone()).filter(SpanContext::is_valid)
}
