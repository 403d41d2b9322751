//! The spans of a batch on its way to PostgreSQL: of each attempt, and of what it recorded.

use std::time::SystemTime;

use opentelemetry::KeyValue;
use opentelemetry::trace::{Link, Span as _, SpanBuilder, SpanKind, Status};

use crate::db::{DbError, RecordItem};
use crate::delivery::Disposition;
use crate::traces::{EXECUTION_ID, Traces};

impl Traces {
    /// An attempt at a transaction, from `begun` to now, with one outcome for each of `items`.
    pub(crate) fn attempted(
        &self,
        begun: SystemTime,
        items: &[RecordItem<'_>],
        outcomes: Result<&[Disposition], &DbError>,
    ) {
        let ended = SystemTime::now();
        let links: Vec<_> = items
            .iter()
            .filter_map(RecordItem::trace)
            .map(|trace| Link::with_context(trace.span()))
            .collect();
        if links.is_empty() {
            return;
        }
        let size = i64::try_from(items.len()).unwrap_or(i64::MAX);
        // Links beyond those that a span may have are counted and left out.
        let batch = SpanBuilder::from_name("record batch")
            .with_kind(SpanKind::Client)
            .with_start_time(begun)
            .with_links(links)
            .with_attributes([
                KeyValue::new("db.system.name", "postgresql"),
                KeyValue::new("db.operation.batch.size", size),
            ]);
        let mut batch = self.begin(batch, None);
        if let Err(fault) = outcomes {
            batch.set_attribute(KeyValue::new("error.type", fault.kind()));
            if let Some(code) = fault.code() {
                batch.set_attribute(KeyValue::new("db.response.status_code", code.to_owned()));
            }
            batch.set_status(Status::error(""));
        }
        batch.end_with_timestamp(ended);
        for (item, outcome) in items.iter().zip(outcomes.unwrap_or_default()) {
            let Some(trace) = item.trace() else { continue };
            let mut attributes = vec![KeyValue::new("workflow_receiver.outcome", outcome.as_str())];
            attributes.extend(item.execution_id().map(|id| KeyValue::new(EXECUTION_ID, id.to_owned())));
            let record = SpanBuilder::from_name("record")
                .with_start_time(begun)
                .with_links(vec![Link::with_context(batch.span_context().clone())])
                .with_attributes(attributes);
            self.begin(record, Some(trace.span())).end_with_timestamp(ended);
        }
    }
}
