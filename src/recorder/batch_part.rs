//! A batch, or a part of one after it was halved.

use crate::db::{ItemKind, RecordItem};
use crate::spool::{Seq, SpooledDelivery};

/// Deliveries that are recorded in one transaction, each with its position in the spool.
#[derive(Default)]
pub(super) struct BatchPart<'i> {
    seqs: Vec<Seq>,
    items: Vec<RecordItem<'i>>,
}

impl<'i> BatchPart<'i> {
    pub(super) fn from_spooled(batch: &'i [SpooledDelivery]) -> Self {
        let item = |spooled: &'i SpooledDelivery| RecordItem::from_spooled(&spooled.delivery, spooled.intact);
        Self {
            seqs: batch.iter().map(|spooled| spooled.seq).collect(),
            items: batch.iter().map(item).collect(),
        }
    }

    pub(super) fn items(&self) -> &[RecordItem<'i>] {
        &self.items
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Seq, &RecordItem<'i>)> {
        self.seqs.iter().copied().zip(&self.items)
    }

    /// Splits off the deliveries that match `predicate`. Both parts keep their order.
    pub(super) fn partition(self, predicate: impl Fn(&RecordItem<'i>) -> bool) -> (Self, Self) {
        let (mut matching, mut others) = (Self::default(), Self::default());
        for (seq, item) in self.seqs.into_iter().zip(self.items) {
            let part = if predicate(&item) { &mut matching } else { &mut others };
            part.seqs.push(seq);
            part.items.push(item);
        }
        (matching, others)
    }

    pub(super) fn halve(mut self) -> (Self, Self) {
        let middle = self.items.len() / 2;
        let second = Self { seqs: self.seqs.split_off(middle), items: self.items.split_off(middle) };
        (self, second)
    }

    /// Whether the part holds items of several kinds.
    pub(super) fn is_mixed(&self) -> bool {
        self.items.windows(2).any(|items| items[0].kind() != items[1].kind())
    }

    /// The kind that is attempted first: executions, if the part holds any; otherwise the kind of its first item.
    pub(super) fn first_kind(&self) -> ItemKind {
        let mut kinds = self.items.iter().map(RecordItem::kind);
        let first = kinds.next().unwrap_or(ItemKind::Execution);
        if kinds.any(|kind| kind == ItemKind::Execution) { ItemKind::Execution } else { first }
    }
}
