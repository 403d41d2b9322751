//! The spans of a webhook request: one for the request, one for the time until its delivery is on disk.

use std::time::SystemTime;

use axum::http::StatusCode;
use axum::http::request::Parts;
use opentelemetry::KeyValue;
use opentelemetry::trace::{Span as _, SpanBuilder, SpanContext, SpanKind, Status};
use opentelemetry_sdk::trace::Span;

use crate::delivery::{RejectReason, TraceContext, trace_context};
use crate::traces::{EXECUTION_ID, Traces};

/// The spans of one request. The spans end when this value is dropped.
#[derive(Debug)]
pub(crate) struct RequestTrace {
    traces: Traces,
    parent: Option<SpanContext>,
    route: &'static str,
    start: SystemTime,
    /// `None` until the sender is authenticated: an unknown sender must not create spans or continue a trace.
    span: Option<Span>,
    spooling: Option<Span>,
}

impl Traces {
    /// Creates the trace of a request. Call it when the head has arrived. `route` replaces the path, which may contain
    /// a token.
    pub(crate) fn request(&self, head: &Parts, route: &'static str) -> Box<RequestTrace> {
        let traceparent = head.headers.get("traceparent").and_then(|value| value.to_str().ok());
        Box::new(RequestTrace {
            traces: self.clone(),
            parent: traceparent.and_then(trace_context::parse),
            route,
            start: SystemTime::now(),
            span: None,
            spooling: None,
        })
    }
}

impl RequestTrace {
    /// Begins the request's span, with the time of its head as the start.
    pub(crate) fn authenticated(&mut self) {
        let route = self.route;
        let span = SpanBuilder::from_name(format!("POST {route}"))
            .with_kind(SpanKind::Server)
            .with_start_time(self.start)
            .with_attributes([
                KeyValue::new("http.request.method", "POST"),
                KeyValue::new("http.route", route),
                KeyValue::new("url.scheme", "http"),
            ]);
        self.span = Some(self.traces.begin(span, self.parent.take()));
    }

    pub(crate) fn set_execution_id(&mut self, execution_id: &str) {
        if let Some(span) = self.span.as_mut().filter(|span| span.is_recording()) {
            span.set_attribute(KeyValue::new(EXECUTION_ID, execution_id.to_owned()));
        }
    }

    /// The context that the delivery carries to the recorder.
    pub(crate) fn context(&self) -> Option<TraceContext> {
        TraceContext::of(self.span.as_ref()?.span_context())
    }

    /// Begins the span `spool`.
    pub(crate) fn start_enqueue(&mut self) {
        self.spooling = self.context().map(|request| {
            let span = SpanBuilder::from_name("spool");
            self.traces.begin(span, Some(request.span()))
        });
    }

    /// Ends the span `spool`.
    pub(crate) fn end_enqueue(&mut self, result: Result<(), RejectReason>) {
        if let (Some(span), Err(reason)) = (&mut self.spooling, result) {
            span.set_status(Status::error(reason.to_string()));
        }
        self.spooling = None;
    }

    /// Ends the request's span.
    pub(crate) fn finish(mut self: Box<Self>, status: StatusCode) {
        let Some(span) = &mut self.span else { return };
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        if status.is_server_error() {
            span.set_attribute(KeyValue::new("error.type", status.as_u16().to_string()));
            span.set_status(Status::error(""));
        }
    }
}
