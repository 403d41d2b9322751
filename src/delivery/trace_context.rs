//! The trace of a delivery, and the `traceparent` header.

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

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
    let mut fields = traceparent.split('-');
    let mut field = |length| {
        let hex = |text: &&str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        fields.next().filter(|text| text.len() == length).filter(hex)
    };
    let (version, trace_id, span_id, flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
    // Later versions may add fields.
    if version == "ff" || (version == "00" && fields.next().is_some()) {
        return None;
    }
    let (trace_id, span_id) = (TraceId::from_hex(trace_id).ok()?, SpanId::from_hex(span_id).ok()?);
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    Some(SpanContext::new(trace_id, span_id, flags, true, TraceState::NONE)).filter(SpanContext::is_valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    #[test]
    fn a_traceparent_is_read_and_stored() {
        for (text, sampled) in [
            (format!("00-{TRACE}-{SPAN}-01"), true),
            (format!("00-{TRACE}-{SPAN}-00"), false),
            (format!("00-{TRACE}-{SPAN}-fe"), false),
            (format!("01-{TRACE}-{SPAN}-03-more"), true),
        ] {
            let span = parse(&text).unwrap();
            assert_eq!(
                (span.trace_id().to_string(), span.span_id().to_string()),
                (TRACE.into(), SPAN.into())
            );
            assert_eq!((span.is_sampled(), span.is_remote()), (sampled, true), "{text}");
            let stored = TraceContext::of(&span);
            assert_eq!(stored.is_some(), sampled);
            if let Some(stored) = stored {
                assert_eq!(TraceContext::from_bytes(stored.to_bytes()), stored);
                assert_eq!(stored.span(), span);
            }
        }
    }

    #[test]
    fn an_invalid_traceparent_is_ignored() {
        for text in [
            String::new(),
            TRACE.to_owned(),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-+{}-{SPAN}-01", &TRACE[1..]),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{TRACE}0-{SPAN}-01"),
            format!("00_{TRACE}_{SPAN}_01"),
        ] {
            assert_eq!(parse(&text), None, "{text}");
        }
    }
}
