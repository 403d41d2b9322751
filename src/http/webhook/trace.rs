//! The spans of a request: of all of it, and of its wait for the disk.

use std::time::SystemTime;

use axum::http::StatusCode;
use axum::http::request::Parts;
use opentelemetry::KeyValue;
use opentelemetry::trace::{Span as _, SpanBuilder, SpanContext, SpanKind, Status};
use opentelemetry_sdk::trace::Span;

use crate::delivery::RejectReason;
use crate::delivery::{TraceContext, trace_context};
use crate::traces::{EXECUTION_ID, Traces};

/// A request on its way to its answer. Its spans end with it at the latest.
#[derive(Debug)]
pub(crate) struct RequestTrace {
    traces: Traces,
    parent: Option<SpanContext>,
    route: &'static str,
    begun: SystemTime,
    /// Of all of it; `None` until its sender is known: a stranger decides over no trace, and costs none.
    span: Option<Span>,
    spooling: Option<Span>,
}

impl Traces {
    /// A request whose head has come. `route` is what its path was found to be, not the path: that may hold a token.
    pub(crate) fn request(&self, head: &Parts, route: &'static str) -> Box<RequestTrace> {
        let traceparent = head.headers.get("traceparent").and_then(|value| value.to_str().ok());
        Box::new(RequestTrace {
            traces: self.clone(),
            parent: traceparent.and_then(trace_context::parse),
            route,
            begun: SystemTime::now(),
            span: None,
            spooling: None,
        })
    }
}

impl RequestTrace {
    /// The sender is known: from here on it is traced, beginning with its head, if its trace is sampled.
    pub(crate) fn authenticated(&mut self) {
        let route = self.route;
        let span = SpanBuilder::from_name(format!("POST {route}"))
            .with_kind(SpanKind::Server)
            .with_start_time(self.begun)
            .with_attributes([
                KeyValue::new("http.request.method", "POST"),
                KeyValue::new("http.route", route),
                KeyValue::new("url.scheme", "http"),
            ]);
        self.span = Some(self.traces.begin(span, self.parent.take()));
    }

    /// It is about this execution.
    pub(crate) fn set_execution_id(&mut self, execution_id: &str) {
        if let Some(span) = self.span.as_mut().filter(|span| span.is_recording()) {
            span.set_attribute(KeyValue::new(EXECUTION_ID, execution_id.to_owned()));
        }
    }

    /// What of it goes with its delivery.
    pub(crate) fn context(&self) -> Option<TraceContext> {
        TraceContext::of(self.span.as_ref()?.span_context())
    }

    /// From here on it waits for the disk.
    pub(crate) fn start_enqueue(&mut self) {
        self.spooling = self.context().map(|request| {
            let span = SpanBuilder::from_name("spool");
            self.traces.begin(span, Some(request.span()))
        });
    }

    /// Its delivery is on disk, or refused.
    pub(crate) fn end_enqueue(&mut self, kept: Result<(), RejectReason>) {
        if let (Some(span), Err(refused)) = (&mut self.spooling, kept) {
            span.set_status(Status::error(refused.to_string()));
        }
        self.spooling = None;
    }

    /// It is answered.
    pub(crate) fn finish(mut self: Box<Self>, status: StatusCode) {
        let Some(span) = &mut self.span else { return };
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        if status.is_server_error() {
            span.set_attribute(KeyValue::new("error.type", status.as_u16().to_string()));
            span.set_status(Status::error(""));
        }
    }
}
