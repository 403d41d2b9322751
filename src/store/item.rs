//! One delivery as it goes to PostgreSQL.

use time::OffsetDateTime;

use super::Fault;
use super::jsonb::{Fit, expansion, fit};
use super::steps;
use crate::auth::Method;
use crate::intake::Delivery;
use crate::payload::{self, Execution};
use crate::spool::Spooled;
use crate::traces::TraceContext;

/// Digits that the exponent of a cost may stand for: those of the largest double, and some more.
const MAX_COST_EXPANSION: usize = 400;

/// What becomes of a delivery in the database.
#[derive(Debug)]
pub(crate) enum Item<'a> {
    /// A row of `executions`, or what that row's rule makes of it.
    Execution(Box<Row<'a>>),
    /// A row of `quarantine`.
    Quarantined(Quarantined<'a>),
}

/// A delivery that reports an execution.
#[derive(Debug)]
pub(crate) struct Row<'a> {
    pub(super) execution: Execution<'a>,
    /// The whole body as JSON text, where jsonb can hold it.
    pub(super) payload: Option<&'a str>,
    /// The body's bytes, where jsonb would not give them back.
    pub(super) payload_bytes: Option<&'a [u8]>,
    pub(super) step_failed: bool,
    pub(super) body: &'a [u8],
    pub(super) received_at: OffsetDateTime,
    /// The same, unless it stands for several deliveries of one body (`quarantine retry`).
    pub(super) last_received_at: OffsetDateTime,
    pub(super) deliveries: i32,
    pub(super) authenticated_by: Option<Method>,
    trace: Option<TraceContext>,
}

/// A delivery that cannot be recorded as an execution.
#[derive(Debug)]
pub(crate) struct Quarantined<'a> {
    pub(super) reason: String,
    pub(super) body: &'a [u8],
    pub(super) received_at: OffsetDateTime,
    pub(super) authenticated_by: Option<Method>,
    /// Whether the sender was answered 200.
    pub(super) acknowledged: bool,
    /// Whether the body is the one that came.
    pub(super) intact: bool,
    trace: Option<TraceContext>,
}

impl<'a> Item<'a> {
    /// Reads a delivery.
    pub(crate) fn read(spooled: &'a Spooled) -> Self {
        let delivery = &spooled.delivery;
        if !spooled.intact {
            // Whatever it says of itself, it may have been answered 200.
            return Self::Quarantined(Quarantined {
                reason: "damaged in the spool: the bytes are not those that came".to_owned(),
                body: &delivery.body,
                received_at: delivery.received_at,
                authenticated_by: delivery.authenticated_by,
                acknowledged: true,
                intact: false,
                trace: delivery.trace,
            });
        }
        match Execution::parse(&delivery.body) {
            Err(why) => Self::quarantined(why.to_string(), delivery),
            Ok(execution) => Self::execution(execution, delivery),
        }
    }

    /// A delivery with what it says of an execution, which may have been read from another text than
    /// its body (`quarantine retry --map`).
    pub(crate) fn execution(mut execution: Execution<'a>, delivery: &'a Delivery) -> Self {
        let body: &[u8] = &delivery.body;
        let text = payload::text(body).unwrap_or_default();
        let fits = fit(text);
        execution.total_cost = execution.total_cost.filter(|cost| expansion(cost) <= MAX_COST_EXPANSION);
        if fits == Fit::Not {
            execution.output = execution.output.filter(|output| fit(output) == Fit::Whole);
        }
        let step_failed = execution.step_outputs.is_some_and(steps::any_failed);
        Self::Execution(Box::new(Row {
            execution,
            step_failed,
            payload: (fits != Fit::Not).then_some(text),
            payload_bytes: (fits != Fit::Whole).then_some(body),
            body,
            received_at: delivery.received_at,
            last_received_at: delivery.received_at,
            deliveries: 1,
            authenticated_by: delivery.authenticated_by,
            trace: delivery.trace,
        }))
    }

    /// The same execution, delivered so often, and the last time then.
    pub(crate) fn repeated(mut self, deliveries: i32, last_received_at: OffsetDateTime) -> Self {
        if let Self::Execution(row) = &mut self {
            (row.deliveries, row.last_received_at) = (deliveries, last_received_at);
        }
        self
    }

    fn quarantined(reason: String, delivery: &'a Delivery) -> Self {
        let Delivery { body, received_at, authenticated_by, acknowledged, trace } = delivery;
        Self::Quarantined(Quarantined {
            reason,
            body,
            received_at: *received_at,
            authenticated_by: *authenticated_by,
            acknowledged: *acknowledged,
            intact: true,
            trace: *trace,
        })
    }

    /// Turns to the next best way to keep a delivery that PostgreSQL does not accept: its outcome
    /// beside its bytes, or, when even that is refused, its bytes in quarantine. False when there
    /// is no other way left.
    pub(crate) fn weaken(&mut self, fault: &Fault) -> bool {
        let Self::Execution(row) = self else { return false };
        let converted = [row.payload.take(), row.execution.output.take(), row.execution.total_cost.take()];
        if converted.iter().any(Option::is_some) {
            row.payload_bytes = Some(row.body);
            return true;
        }
        let reason = match fault {
            Fault::Unacceptable { code, message } => {
                format!("refused by PostgreSQL: {message} (SQLSTATE {code})")
            }
            other => other.to_string(),
        };
        *self = Self::Quarantined(Quarantined {
            reason,
            body: row.body,
            received_at: row.received_at,
            authenticated_by: row.authenticated_by,
            acknowledged: true,
            intact: true,
            trace: row.trace,
        });
        true
    }

    /// The execution that it is about, where that could be read.
    pub(crate) fn execution_id(&self) -> Option<&str> {
        self.reported().map(|execution| &*execution.execution_id)
    }

    /// The execution that it reports, where that could be read.
    pub(crate) fn reported(&self) -> Option<&Execution<'a>> {
        match self {
            Self::Execution(row) => Some(&row.execution),
            Self::Quarantined(_) => None,
        }
    }

    /// The trace that it belongs to, when that is sampled.
    pub(crate) fn trace(&self) -> Option<TraceContext> {
        match self {
            Self::Execution(row) => row.trace,
            Self::Quarantined(q) => q.trace,
        }
    }

    /// When it came.
    pub(crate) fn received_at(&self) -> OffsetDateTime {
        match self {
            Self::Execution(row) => row.received_at,
            Self::Quarantined(q) => q.received_at,
        }
    }
}
