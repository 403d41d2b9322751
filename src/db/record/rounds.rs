//! The deliveries of a batch, so that each statement decides about an execution once.
//!
//! An execution that comes once in a batch, as nearly all do, is in the first round. Of one that comes several times,
//! the rule of `settle_known.sql` needs only some deliveries, however many there are:
//!
//! 1. the first;
//! 2. of non-terminal statuses before a terminal one, the last two that differ: those before them are replaced by them;
//! 3. the first terminal one;
//! 4. all after it, together: the execution has ended, so each of them is a duplicate or a conflict.

use std::collections::HashMap;

use time::OffsetDateTime;

use super::item::{RecordItem, Row};
use crate::delivery::Disposition;

/// Deliveries of one execution that are recorded as one.
pub(super) struct Group<'r> {
    pub(super) row: &'r Row<'r>,
    /// Where they stand among the items, `row` first.
    places: Vec<usize>,
    /// Deliveries before `row` with statuses that it replaces at once.
    passed: Vec<usize>,
    pub(super) deliveries: i32,
    pub(super) first_received_at: OffsetDateTime,
    pub(super) last_received_at: OffsetDateTime,
}

/// Whether an execution with this status has ended, as `is_terminal_status` has it.
pub(super) fn is_terminal(status: &str) -> bool {
    matches!(status, "completed" | "failed" | "cancelled")
}

impl<'r> Group<'r> {
    fn new(row: &'r Row<'r>, place: usize) -> Self {
        Self {
            row,
            places: vec![place],
            passed: Vec::new(),
            deliveries: row.deliveries,
            first_received_at: row.received_at,
            last_received_at: row.last_received_at,
        }
    }

    /// Counts `other` here.
    fn absorb(&mut self, other: Self, passed: bool) {
        let into = if passed { &mut self.passed } else { &mut self.places };
        into.extend(other.places.into_iter().chain(other.passed));
        self.deliveries = self.deliveries.saturating_add(other.deliveries);
        self.first_received_at = self.first_received_at.min(other.first_received_at);
        self.last_received_at = self.last_received_at.max(other.last_received_at);
    }

    /// What conflicts are stored once by: see `body_sha256` in `settle_known.sql`.
    fn content(&self) -> &'r [u8] {
        self.row.payload_bytes.or(self.row.payload.map(str::as_bytes)).unwrap_or(self.row.body)
    }

    /// The first gets `outcome`; its repetitions are duplicates, or the same conflict again. `was`: the status recorded
    /// before.
    pub(super) fn set_disposition(
        &self,
        outcomes: &mut [Disposition],
        outcome: Disposition,
        was: Option<&str>,
    ) {
        let again = match outcome {
            Disposition::Conflict | Disposition::ConflictDropped => outcome,
            _ => Disposition::Duplicate,
        };
        for (n, place) in self.places.iter().enumerate() {
            outcomes[*place] = if n == 0 { outcome } else { again };
        }
        let passed =
            if was.is_some_and(is_terminal) { Disposition::Duplicate } else { Disposition::Replacement };
        for place in &self.passed {
            outcomes[*place] = passed;
        }
    }
}

/// The deliveries of executions among `items`. Within a round, each execution is there once, but for the last round,
/// where all have ended.
pub(super) fn split_rounds<'r>(items: &'r [RecordItem<'r>]) -> Vec<Vec<Group<'r>>> {
    let mut first: Vec<Group<'r>> = Vec::with_capacity(items.len());
    let mut places: HashMap<&str, usize> = HashMap::with_capacity(items.len());
    let mut further: HashMap<usize, Vec<Group<'r>>> = HashMap::new();
    for (place, item) in items.iter().enumerate() {
        let RecordItem::Execution(row) = item else { continue };
        let incoming = Group::new(row, place);
        match places.get(&*row.execution.execution_id) {
            None => {
                places.insert(&row.execution.execution_id, first.len());
                first.push(incoming);
            }
            Some(&at) => further.entry(at).or_default().push(incoming),
        }
    }
    let mut rounds: Vec<Vec<Group<'r>>> = Vec::new();
    let mut last = Vec::new();
    for (at, incoming) in further {
        let (in_turn, ended) = split(&mut first[at], incoming);
        for (n, incoming) in in_turn.into_iter().enumerate() {
            if rounds.len() == n {
                rounds.push(Vec::new());
            }
            rounds[n].push(incoming);
        }
        last.extend(ended);
    }
    if !first.is_empty() {
        rounds.insert(0, first);
    }
    if !last.is_empty() {
        rounds.push(last);
    }
    rounds
}

/// Splits the deliveries after the `first` one of an execution: those that are applied in turn, and those after the
/// first terminal one.
fn split<'r>(first: &mut Group<'r>, further: Vec<Group<'r>>) -> (Vec<Group<'r>>, Vec<Group<'r>>) {
    let mut further = further.into_iter().peekable();
    let mut in_turn: Vec<Group<'r>> = Vec::new();
    let mut ended = is_terminal(&first.row.execution.status);
    while !ended && let Some(next) = further.next() {
        let before = in_turn.last_mut().unwrap_or(first);
        if next.row.execution.status == before.row.execution.status {
            // Whatever is recorded: the status that `before` leaves is this one, or has ended.
            before.absorb(next, false);
            continue;
        }
        ended = is_terminal(&next.row.execution.status);
        in_turn.push(next);
        // The last two decide, and the terminal one.
        if in_turn.len() > 2 && !ended {
            let passed = in_turn.remove(0);
            in_turn[0].absorb(passed, true);
        }
    }
    let terminal = in_turn.last_mut().unwrap_or(first);
    let mut rest: Vec<Group<'r>> = Vec::new();
    let mut by_content: HashMap<Option<&[u8]>, usize> = HashMap::new();
    for next in further {
        // What has not ended only counts.
        let content = is_terminal(&next.row.execution.status).then(|| next.content());
        if content == Some(terminal.content()) {
            terminal.absorb(next, false);
            continue;
        }
        if let Some(&at) = by_content.get(&content) {
            rest[at].absorb(next, false);
        } else {
            by_content.insert(content, rest.len());
            rest.push(next);
        }
    }
    (in_turn, rest)
}
