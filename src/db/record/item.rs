//! One delivery as it goes to PostgreSQL.

use time::OffsetDateTime;

use crate::auth::AuthMethod;
use crate::db::DbError;
use crate::delivery::Delivery;
use crate::delivery::TraceContext;
use crate::execution::jsonb::{Fit, expansion, fit};
use crate::execution::steps;
use crate::execution::{self, Execution};

/// The longest message of PostgreSQL that is a reason for quarantine: a trigger's may quote the row.
const MAX_REASON_CHARS: usize = 1_000;
/// Digits that the exponent of a cost may stand for: those of the largest double, and some more.
const MAX_COST_EXPANSION: usize = 400;

/// What becomes of a delivery in the database.
#[derive(Debug)]
pub(crate) enum RecordItem<'a> {
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
    pub(super) authenticated_by: Option<AuthMethod>,
    trace: Option<TraceContext>,
    /// Set by [`RecordItem::degrade`].
    degraded: Option<Box<Degrading<'a>>>,
}

/// How far an execution is degraded.
#[derive(Debug)]
struct Degrading<'a> {
    payload: Option<&'a str>,
    output: Option<&'a str>,
    total_cost: Option<&'a str>,
    /// The next of [`FORMS`] to try.
    next: usize,
    /// Why.
    fault: DbError,
}

/// What is left out of the columns, one after the other: `payload`, `output`, `total_cost`. Each form loses no more
/// than the next ones. All of it stays in `payload_bytes`.
const FORMS: [[bool; 3]; 7] = [
    [true, false, false],
    [false, true, false],
    [false, false, true],
    [true, true, false],
    [true, false, true],
    [false, true, true],
    [true, true, true],
];

/// What [`RecordItem::degrade`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Degraded {
    /// Columns of an execution are left out.
    Columns,
    /// The execution goes to quarantine.
    Quarantined,
    /// A body that was answered 422, and that the quarantine refuses, is not stored at all.
    Dropped,
}

/// A delivery that cannot be recorded as an execution.
#[derive(Debug)]
pub(crate) struct Quarantined<'a> {
    pub(super) reason: String,
    pub(super) body: &'a [u8],
    pub(super) received_at: OffsetDateTime,
    pub(super) authenticated_by: Option<AuthMethod>,
    /// Whether the sender was answered 200.
    pub(super) acknowledged: bool,
    /// Whether the body is the one that came.
    pub(super) intact: bool,
    trace: Option<TraceContext>,
}

impl<'a> RecordItem<'a> {
    /// Reads a delivery.
    pub(crate) fn from_spooled(delivery: &'a Delivery, intact: bool) -> Self {
        if !intact {
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
            Ok(execution) => Self::from_execution(execution, delivery),
        }
    }

    /// A delivery with what it says of an execution, which may have been read from another text than
    /// its body (`quarantine retry --map`).
    pub(crate) fn from_execution(mut execution: Execution<'a>, delivery: &'a Delivery) -> Self {
        let body: &[u8] = &delivery.body;
        let text = execution::text(body).unwrap_or_default();
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
            degraded: None,
        }))
    }

    /// The same execution, delivered so often, and the last time then.
    pub(crate) fn with_deliveries(mut self, deliveries: i32, last_received_at: OffsetDateTime) -> Self {
        if let Self::Execution(row) = &mut self {
            (row.deliveries, row.last_received_at) = (deliveries, last_received_at);
        }
        self
    }

    /// A body for the quarantine.
    pub(in crate::db) fn quarantined(reason: String, delivery: &'a Delivery) -> Self {
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

    /// Turns to the next form in which PostgreSQL may accept a delivery: with the columns left out that it may refuse,
    /// or, when it refuses all forms, as a body in quarantine. `None` for an acknowledged delivery that the quarantine
    /// refuses: there is no further form.
    ///
    /// An error that is not about contents is not tried with each column: only with all, without the payload, and
    /// without all three.
    pub(crate) fn degrade(&mut self, fault: &DbError) -> Option<Degraded> {
        let row = match self {
            Self::Execution(row) => row,
            Self::Quarantined(q) => return (!q.acknowledged).then_some(Degraded::Dropped),
        };
        let execution = &mut row.execution;
        let (payload, output, total_cost) = (row.payload, execution.output, execution.total_cost);
        let degrading = row.degraded.get_or_insert_with(|| {
            Box::new(Degrading { payload, output, total_cost, next: 0, fault: fault.clone() })
        });
        let present =
            [degrading.payload.is_some(), degrading.output.is_some(), degrading.total_cost.is_some()];
        while let Some(form) = FORMS.get(degrading.next) {
            degrading.next += 1;
            let changes_something = form.iter().zip(present).all(|(left_out, present)| present || !left_out);
            let is_last = form.iter().zip(present).all(|(left_out, present)| *left_out == present);
            if !changes_something || !(fault.is_repeatable() || degrading.next == 1 || is_last) {
                continue;
            }
            let [no_payload, no_output, no_cost] = *form;
            row.payload = degrading.payload.filter(|_| !no_payload);
            execution.output = degrading.output.filter(|_| !no_output);
            execution.total_cost = degrading.total_cost.filter(|_| !no_cost);
            row.payload_bytes = Some(row.body);
            return Some(Degraded::Columns);
        }
        let reason = match fault {
            DbError::InvalidRow { code, message } => {
                let message: String = message.chars().take(MAX_REASON_CHARS).collect();
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
        Some(Degraded::Quarantined)
    }

    /// Why columns are left out, when some are.
    pub(crate) fn degraded_by(&self) -> Option<&DbError> {
        match self {
            Self::Execution(row) => row.degraded.as_ref().map(|degrading| &degrading.fault),
            Self::Quarantined(_) => None,
        }
    }

    /// Whether it goes to `quarantine`.
    pub(crate) fn is_quarantined(&self) -> bool {
        matches!(self, Self::Quarantined(_))
    }

    /// The length of its body.
    pub(crate) fn body_bytes(&self) -> usize {
        match self {
            Self::Execution(row) => row.body.len(),
            Self::Quarantined(q) => q.body.len(),
        }
    }

    /// The execution that it is about, where that could be read.
    pub(crate) fn execution_id(&self) -> Option<&str> {
        self.execution().map(|execution| &*execution.execution_id)
    }

    /// The execution that it reports, where that could be read.
    pub(crate) fn execution(&self) -> Option<&Execution<'a>> {
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
