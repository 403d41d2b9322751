//! Splits a batch into rounds, so that each statement writes an execution once.
//!
//! Nearly every execution has one delivery in a batch: it is in the first round. The deliveries of other executions are
//! grouped, and their groups are recorded in at most five rounds:
//!
//! 1. the first delivery;
//! 2. and 3. of the non-terminal deliveries before the first terminal one, the last two with different statuses. They replace
//!    all earlier ones. The last one alone would count as a duplicate if the row already had its status, and its other
//!    fields would be lost;
//! 4. the first terminal delivery;
//! 5. all later deliveries, one group for each content. The execution has ended, so each of them is a duplicate or a
//!    conflict.

use std::collections::HashMap;

use time::OffsetDateTime;

use super::item::{ExecutionRow, RecordItem};
use crate::delivery::Disposition;
use crate::execution::Kind;
use crate::execution::status::is_terminal;

/// Deliveries of one execution that are recorded as one.
pub(super) struct Group<'r> {
    pub(super) row: &'r ExecutionRow<'r>,
    /// Indexes of the deliveries with the same content, `row` first.
    same: Vec<usize>,
    /// Indexes of earlier deliveries whose statuses `row` replaces.
    replaced: Vec<usize>,
    pub(super) deliveries: i32,
    pub(super) redeliveries: i32,
    /// The first reference among the deliveries.
    pub(super) reference: Option<&'r str>,
    pub(super) first_received_at: OffsetDateTime,
    pub(super) last_received_at: OffsetDateTime,
}

impl<'r> Group<'r> {
    fn new(row: &'r ExecutionRow<'r>, index: usize) -> Self {
        Self {
            row,
            same: vec![index],
            replaced: Vec::new(),
            deliveries: row.deliveries,
            redeliveries: row.redeliveries,
            reference: row.delivery.reference.as_deref(),
            first_received_at: row.delivery.received_at,
            last_received_at: row.last_received_at,
        }
    }

    fn absorb(&mut self, other: Self, replaced: bool) {
        let into = if replaced { &mut self.replaced } else { &mut self.same };
        into.extend(other.same.into_iter().chain(other.replaced));
        self.deliveries = self.deliveries.saturating_add(other.deliveries);
        self.redeliveries = self.redeliveries.saturating_add(other.redeliveries);
        self.reference = self.reference.or(other.reference);
        self.first_received_at = self.first_received_at.min(other.first_received_at);
        self.last_received_at = self.last_received_at.max(other.last_received_at);
    }

    /// The bytes that identify a conflict: see `body_sha256` in `resolve_duplicates.rs`.
    fn content(&self) -> &'r [u8] {
        self.row.payload_bytes.or(self.row.payload.map(str::as_bytes)).unwrap_or(&self.row.delivery.body)
    }

    /// Sets the disposition of the first delivery; its repetitions are duplicates, or the same conflict again.
    /// `previous_status`: the status recorded before.
    pub(super) fn set_disposition(
        &self,
        dispositions: &mut [Disposition],
        disposition: Disposition,
        previous_status: Option<&str>,
    ) {
        let repeated = match disposition {
            Disposition::Conflict | Disposition::ConflictDropped => disposition,
            _ => Disposition::Duplicate,
        };
        for (n, index) in self.same.iter().enumerate() {
            dispositions[*index] = if n == 0 { disposition } else { repeated };
        }
        let ended = previous_status.is_some_and(is_terminal);
        let replaced = if ended { Disposition::Duplicate } else { Disposition::Replacement };
        for index in &self.replaced {
            dispositions[*index] = replaced;
        }
    }
}

/// Splits the executions of one kind among `items` into rounds. Each round has an execution once; the last round may have
/// an ended execution several times.
pub(super) fn split_rounds<'r>(items: &'r [RecordItem<'r>], kind: Kind) -> Vec<Vec<Group<'r>>> {
    let rows = items.iter().enumerate().filter_map(|(index, item)| match item {
        RecordItem::Execution(row) if row.execution.kind == kind => Some((index, row)),
        _ => None,
    });
    let count = rows.clone().count();
    let mut first_round: Vec<Group<'r>> = Vec::with_capacity(count);
    let mut index_in_first: HashMap<&str, usize> = HashMap::with_capacity(count);
    let mut further: HashMap<usize, Vec<Group<'r>>> = HashMap::new();
    for (index, row) in rows {
        let group = Group::new(row, index);
        match index_in_first.get(&*row.execution.execution_id) {
            None => {
                index_in_first.insert(&row.execution.execution_id, first_round.len());
                first_round.push(group);
            }
            Some(&at) => further.entry(at).or_default().push(group),
        }
    }
    let mut rounds: Vec<Vec<Group<'r>>> = Vec::new();
    let mut last_round = Vec::new();
    for (at, groups) in further {
        let (in_turn, after_end) = split(&mut first_round[at], groups);
        for (n, group) in in_turn.into_iter().enumerate() {
            if rounds.len() == n {
                rounds.push(Vec::new());
            }
            rounds[n].push(group);
        }
        last_round.extend(after_end);
    }
    if !first_round.is_empty() {
        rounds.insert(0, first_round);
    }
    if !last_round.is_empty() {
        rounds.push(last_round);
    }
    rounds
}

/// Splits the deliveries after the `first` one of an execution into two lists. The deliveries up to the first terminal one
/// are applied in turn. The second list has the deliveries after it.
fn split<'r>(first: &mut Group<'r>, further: Vec<Group<'r>>) -> (Vec<Group<'r>>, Vec<Group<'r>>) {
    let mut further = further.into_iter();
    let mut in_turn: Vec<Group<'r>> = Vec::new();
    let mut ended = is_terminal(&first.row.execution.status);
    while !ended && let Some(next) = further.next() {
        let before = in_turn.last_mut().unwrap_or(first);
        if next.row.execution.status == before.row.execution.status {
            // After `before`, the recorded status is this one or a terminal one: in both cases a duplicate.
            before.absorb(next, false);
            continue;
        }
        ended = is_terminal(&next.row.execution.status);
        in_turn.push(next);
        // Only the last two non-terminal deliveries and the terminal one change the row.
        if in_turn.len() > 2 && !ended {
            let replaced = in_turn.remove(0);
            in_turn[0].absorb(replaced, true);
        }
    }
    let terminal = in_turn.last_mut().unwrap_or(first);
    let mut rest: Vec<Group<'r>> = Vec::new();
    let mut by_content: HashMap<Option<&[u8]>, usize> = HashMap::new();
    for next in further {
        // A late non-terminal status only counts.
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
