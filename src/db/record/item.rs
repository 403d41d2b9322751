//! A delivery in the form in which it is recorded.

use time::OffsetDateTime;

use crate::auth::AuthMethod;
use crate::db::DbError;
use crate::delivery::Delivery;
use crate::execution::jsonb::{Fit, expansion, fit};
use crate::execution::steps;
use crate::execution::{self, Execution, Kind};

/// PostgreSQL's message in the reason for quarantine is cut to this length: a trigger's message may quote the row.
const MAX_REASON_CHARS: usize = 1_000;
/// Maximum digits that the exponent of a cost adds. The largest double has 308.
const MAX_COST_EXPANSION: usize = 400;

#[derive(Debug)]
pub(crate) enum RecordItem<'a> {
    Execution(Box<ExecutionRow<'a>>),
    Quarantined(QuarantineRow<'a>),
    Unverified(UnverifiedRow<'a>),
}

/// Where a delivery is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ItemKind {
    /// In `executions`.
    Execution,
    /// In `predictions`.
    Prediction,
    /// In `quarantine`.
    Quarantined,
    /// In `unverified_deliveries`.
    Unverified,
}

/// A delivery that reports an execution of a workflow, or a prediction.
#[derive(Debug)]
pub(crate) struct ExecutionRow<'a> {
    pub(super) execution: Execution<'a>,
    /// The whole body as JSON text, if jsonb can hold it.
    pub(super) payload: Option<&'a str>,
    /// The body's bytes, if jsonb cannot hold all of it.
    pub(super) payload_bytes: Option<&'a [u8]>,
    pub(super) step_failed: bool,
    pub(super) delivery: &'a Delivery,
    /// Later than `delivery.received_at` if the row represents several deliveries of one body (`quarantine retry`).
    pub(super) last_received_at: OffsetDateTime,
    pub(super) deliveries: i32,
    /// How many of them have `X-Webhook-Redelivery`.
    pub(super) redeliveries: i32,
    degradation: Option<Box<Degradation<'a>>>,
}

/// The state of [`RecordItem::degrade`].
#[derive(Debug)]
struct Degradation<'a> {
    /// `payload`, `output` and `total_cost` before anything was left out.
    columns: [Option<&'a str>; 3],
    /// The index of the next form in [`LEFT_OUT`].
    next: usize,
    /// The error of the first step.
    error: DbError,
}

/// The forms of a degraded execution, as bit masks of the columns that are left out: 1 for `payload`, 2 for `output`, 4
/// for `total_cost`. Forms that lose fewer columns are first; `payload_bytes` always has the whole body.
const LEFT_OUT: [u8; 7] = [0b001, 0b010, 0b100, 0b011, 0b101, 0b110, 0b111];

/// The result of [`RecordItem::degrade`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Degraded {
    /// Columns are left out, or the execution goes to quarantine.
    Reduced,
    /// The delivery was answered 422, and PostgreSQL rejects it in quarantine: it is not stored.
    Dropped,
}

/// A delivery that is stored in quarantine.
#[derive(Debug)]
pub(crate) struct QuarantineRow<'a> {
    pub(super) reason: String,
    pub(super) delivery: &'a Delivery,
    /// Whether the webhook was answered 200. False for an unsigned one that was not confirmed: the limits apply to it.
    pub(super) acknowledged: bool,
    /// Whether the body's checksum in the spool was right.
    pub(super) intact: bool,
    /// How many deliveries of this body the row represents.
    pub(super) deliveries: i32,
    /// The execution as the sender's API has it, if it differs from the body.
    pub(super) api_body: Option<&'a [u8]>,
}

impl<'a> QuarantineRow<'a> {
    fn new(reason: String, delivery: &'a Delivery, acknowledged: bool) -> Self {
        Self { reason, delivery, acknowledged, intact: true, deliveries: 1, api_body: None }
    }
}

/// An unsigned delivery that the sender's API has to confirm. It has no `execution_id()`: it is neither ordered after nor
/// compared with other deliveries.
#[derive(Debug)]
pub(crate) struct UnverifiedRow<'a> {
    pub(super) execution: Box<Execution<'a>>,
    pub(super) delivery: &'a Delivery,
    /// How many deliveries of this body the row represents.
    pub(super) deliveries: i32,
}

/// The parts of a body that the columns of an execution can hold.
pub(in crate::db) struct Storable<'a> {
    /// The whole body as JSON text, if jsonb can hold it.
    pub(in crate::db) payload: Option<&'a str>,
    /// Whether `payload` is all of the body.
    pub(in crate::db) is_whole: bool,
    pub(in crate::db) output: Option<&'a str>,
    pub(in crate::db) total_cost: Option<&'a str>,
}

impl<'a> Storable<'a> {
    /// `execution` may come from another text than `body`.
    pub(in crate::db) fn of(body: &'a [u8], execution: Option<&Execution<'a>>) -> Self {
        let text = execution::text(body).unwrap_or_default();
        let fits = fit(text);
        let output = execution.and_then(|execution| execution.output);
        let total_cost = execution.and_then(|execution| execution.total_cost);
        Self {
            payload: (fits != Fit::Not).then_some(text),
            is_whole: fits == Fit::Whole,
            output: output.filter(|output| fits != Fit::Not || fit(output) == Fit::Whole),
            total_cost: total_cost.filter(|cost| expansion(cost) <= MAX_COST_EXPANSION),
        }
    }
}

impl<'a> RecordItem<'a> {
    pub(crate) fn from_spooled(delivery: &'a Delivery, intact: bool) -> Self {
        if !intact {
            let reason = "damaged in the spool: the bytes are not those that were received".to_owned();
            // The stored flag may be damaged, too: the webhook may have been answered 200.
            return Self::Quarantined(QuarantineRow { intact, ..QuarantineRow::new(reason, delivery, true) });
        }
        match Execution::parse(&delivery.body) {
            Err(why) => Self::quarantined(why.to_string(), delivery),
            Ok(execution) if delivery.authenticated_by == Some(AuthMethod::Unverified) => {
                Self::unverified(execution, delivery)
            }
            Ok(execution) => Self::from_execution(execution, delivery),
        }
    }

    /// `execution` may come from another text than the delivery's body (`quarantine retry --map`).
    pub(crate) fn from_execution(mut execution: Execution<'a>, delivery: &'a Delivery) -> Self {
        let body: &[u8] = &delivery.body;
        let Storable { payload, is_whole, output, total_cost } = Storable::of(body, Some(&execution));
        (execution.output, execution.total_cost) = (output, total_cost);
        let step_failed = execution.step_outputs.is_some_and(steps::any_failed);
        Self::Execution(Box::new(ExecutionRow {
            execution,
            step_failed,
            payload,
            payload_bytes: (!is_whole).then_some(body),
            delivery,
            last_received_at: delivery.received_at,
            deliveries: 1,
            redeliveries: delivery.is_redelivery.into(),
            degradation: None,
        }))
    }

    pub(crate) fn unverified(execution: Execution<'a>, delivery: &'a Delivery) -> Self {
        Self::Unverified(UnverifiedRow { execution: Box::new(execution), delivery, deliveries: 1 })
    }

    /// Makes the row represent several deliveries of one body.
    pub(crate) fn with_deliveries(
        mut self,
        deliveries: i32,
        redeliveries: i32,
        last_received_at: OffsetDateTime,
    ) -> Self {
        match &mut self {
            Self::Execution(row) => {
                (row.deliveries, row.redeliveries) = (deliveries, redeliveries);
                row.last_received_at = last_received_at;
            }
            Self::Unverified(row) => row.deliveries = deliveries,
            Self::Quarantined(row) => row.deliveries = deliveries,
        }
        self
    }

    pub(in crate::db) fn quarantined(reason: String, delivery: &'a Delivery) -> Self {
        Self::Quarantined(QuarantineRow::new(reason, delivery, delivery.acknowledged))
    }

    /// An unsigned delivery, received `deliveries` times, that the sender's API did not confirm. The limits of the
    /// quarantine apply to it.
    pub(in crate::db) fn not_confirmed(
        reason: String,
        delivery: &'a Delivery,
        deliveries: i32,
        api_body: Option<&'a [u8]>,
    ) -> Self {
        let row = QuarantineRow::new(reason, delivery, false);
        Self::Quarantined(QuarantineRow { deliveries, api_body, ..row })
    }

    /// Switches to the next form that PostgreSQL may accept. An execution first loses columns, in the order of [`LEFT_OUT`].
    /// After the last of these forms, its body goes to quarantine. Returns `None` for an acknowledged delivery that
    /// PostgreSQL also rejects in quarantine.
    ///
    /// For an error that is not about the contents, only two forms are tried: without the payload, and without all
    /// three columns.
    pub(crate) fn degrade(&mut self, error: &DbError) -> Option<Degraded> {
        let row = match self {
            Self::Execution(row) => row,
            Self::Quarantined(row) => return (!row.acknowledged).then_some(Degraded::Dropped),
            Self::Unverified(row) => {
                *self = Self::refused(error, row.delivery);
                return Some(Degraded::Reduced);
            }
        };
        let columns = [row.payload, row.execution.output, row.execution.total_cost];
        let degradation = row
            .degradation
            .get_or_insert_with(|| Box::new(Degradation { columns, next: 0, error: error.clone() }));
        let columns = degradation.columns;
        let present = (0..3).filter(|n| columns[*n].is_some()).fold(0, |present, n| present | 1 << n);
        while let Some(&left_out) = LEFT_OUT.get(degradation.next) {
            degradation.next += 1;
            // A form that also leaves out a missing column is the same as an earlier form.
            let is_new = left_out & !present == 0;
            if !is_new || !(error.is_repeatable() || degradation.next == 1 || left_out == present) {
                continue;
            }
            let kept = |n: usize| columns[n].filter(|_| left_out & 1 << n == 0);
            (row.payload, row.execution.output, row.execution.total_cost) = (kept(0), kept(1), kept(2));
            row.payload_bytes = Some(&row.delivery.body);
            return Some(Degraded::Reduced);
        }
        *self = Self::refused(error, row.delivery);
        Some(Degraded::Reduced)
    }

    /// A delivery that was answered 200 and that PostgreSQL rejects.
    fn refused(error: &DbError, delivery: &'a Delivery) -> Self {
        let reason = match error {
            DbError::InvalidRow { code, message } => {
                let message: String = message.chars().take(MAX_REASON_CHARS).collect();
                format!("refused by PostgreSQL: {message} (SQLSTATE {code})")
            }
            other => other.to_string(),
        };
        Self::Quarantined(QuarantineRow::new(reason, delivery, true))
    }

    /// The error that columns were left out for.
    pub(crate) fn degraded_by(&self) -> Option<&DbError> {
        match self {
            Self::Execution(row) => row.degradation.as_ref().map(|degradation| &degradation.error),
            Self::Quarantined(_) | Self::Unverified(_) => None,
        }
    }

    pub(crate) fn kind(&self) -> ItemKind {
        match self {
            Self::Execution(row) => match row.execution.kind {
                Kind::Workflow => ItemKind::Execution,
                Kind::Prediction => ItemKind::Prediction,
            },
            Self::Quarantined(_) => ItemKind::Quarantined,
            Self::Unverified(_) => ItemKind::Unverified,
        }
    }

    /// `None` for an item that goes to quarantine, and for an unverified delivery.
    pub(crate) fn execution(&self) -> Option<&Execution<'a>> {
        match self {
            Self::Execution(row) => Some(&row.execution),
            Self::Quarantined(_) | Self::Unverified(_) => None,
        }
    }

    /// Why the delivery goes to quarantine. A message of PostgreSQL in it may quote the row.
    pub(crate) fn quarantine_reason(&self) -> Option<&str> {
        match self {
            Self::Execution(_) | Self::Unverified(_) => None,
            Self::Quarantined(row) => Some(&row.reason),
        }
    }

    pub(crate) fn execution_id(&self) -> Option<&str> {
        self.execution().map(|execution| &*execution.execution_id)
    }

    pub(crate) fn delivery(&self) -> &'a Delivery {
        match self {
            Self::Execution(row) => row.delivery,
            Self::Quarantined(row) => row.delivery,
            Self::Unverified(row) => row.delivery,
        }
    }
}
