//! The spans of recording: one for each attempt, and one for each recorded delivery.

use std::time::SystemTime;

use opentelemetry::KeyValue;
use opentelemetry::trace::{Link, Span as _, SpanBuilder, SpanKind, Status};

use crate::db::{DbError, RecordItem};
use crate::delivery::Disposition;
use crate::traces::{EXECUTION_ID, Traces};

impl Traces {
    /// Adds the spans of an attempt that lasted from `begun` until now.
    pub(crate) fn attempted(
        &self,
        begun: SystemTime,
        items: &[RecordItem<'_>],
        dispositions: Result<&[Disposition], &DbError>,
    ) {
        let ended = SystemTime::now();
        let links: Vec<_> = items
            .iter()
            .filter_map(|item| item.delivery().trace)
            .map(|trace| Link::with_context(trace.span()))
            .collect();
        if links.is_empty() {
            return;
        }
        let size = i64::try_from(items.len()).unwrap_or(i64::MAX);
        // The SDK drops and counts links above its limit.
        let batch = SpanBuilder::from_name("record batch")
            .with_kind(SpanKind::Client)
            .with_start_time(begun)
            .with_links(links)
            .with_attributes([
                KeyValue::new("db.system.name", "postgresql"),
                KeyValue::new("db.operation.batch.size", size),
            ]);
        let mut batch = self.begin(batch, None);
        if let Err(error) = dispositions {
            batch.set_attribute(KeyValue::new("error.type", error.kind()));
            if let Some(code) = error.code() {
                batch.set_attribute(KeyValue::new("db.response.status_code", code.to_owned()));
            }
            batch.set_status(Status::error(""));
        }
        batch.end_with_timestamp(ended);
        for (item, disposition) in items.iter().zip(dispositions.unwrap_or_default()) {
            let Some(trace) = item.delivery().trace else { continue };
            let mut attributes = vec![KeyValue::new("workflow_receiver.outcome", disposition.as_str())];
            attributes.extend(item.execution_id().map(|id| KeyValue::new(EXECUTION_ID, id.to_owned())));
            let record = SpanBuilder::from_name("record")
                .with_start_time(begun)
                .with_links(vec![Link::with_context(batch.span_context().clone())])
                .with_attributes(attributes);
            self.begin(record, Some(trace.span())).end_with_timestamp(ended);
        }
    }
}
