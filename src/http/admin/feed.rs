//! The latest changes in memory, for event streams and for requests that wait for a change.
//!
//! While there are subscribers, one task reads the new changes of all receivers from PostgreSQL. A subscriber
//! whose position is older than the changes in memory reads from PostgreSQL itself. So a slow subscriber misses nothing,
//! and memory is bounded.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use crate::db::queries::changes::{Change, ChangesAfter, LastChange};
use crate::db::queries::{QueryError, QueryPool};

/// Changes in memory.
const CAPACITY: usize = 8_192;
/// Changes that are read at once.
const PAGE: i64 = 1_000;
/// Time between two queries for changes of other receivers, and the pause after an error.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(crate) struct Feed {
    pool: Arc<QueryPool>,
    tail: Arc<watch::Sender<Tail>>,
    /// Notified by each new subscriber.
    subscribed: Arc<Notify>,
}

/// The changes up to the number `last`. Not kept up to date without subscribers.
#[derive(Default)]
struct Tail {
    last: i64,
    recent: VecDeque<Arc<Change>>,
}

/// The changes in memory after a position.
enum Recent {
    Changes(Vec<Arc<Change>>),
    /// There is no change after the position yet.
    None,
    /// The position is higher than the last number in memory. That number may be out of date, or the database may have been
    /// replaced.
    Ahead,
    /// The next change is older than the changes in memory.
    TooOld,
}

impl Tail {
    fn after(&self, position: i64) -> Recent {
        let missing = match usize::try_from(self.last.saturating_sub(position)) {
            Ok(0) => return Recent::None,
            Ok(missing) => missing,
            Err(_) => return Recent::Ahead,
        };
        let Some(skipped) = self.recent.len().checked_sub(missing) else { return Recent::TooOld };
        let page = usize::try_from(PAGE).unwrap_or(usize::MAX);
        Recent::Changes(self.recent.iter().skip(skipped).take(page).cloned().collect())
    }

    fn push(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.last = change.change;
            self.recent.push_back(Arc::new(change));
        }
        let excess = self.recent.len().saturating_sub(CAPACITY);
        self.recent.drain(..excess);
    }
}

impl Feed {
    pub(crate) fn new(pool: Arc<QueryPool>) -> Self {
        Self { pool, tail: Arc::default(), subscribed: Arc::default() }
    }

    /// Reads new changes until dropped. `numbered` changes when this receiver has numbered changes.
    pub(crate) async fn run(self, mut numbered: watch::Receiver<()>) -> Infallible {
        loop {
            while self.subscribers() == 0 {
                self.subscribed.notified().await;
            }
            if let Err(error) = self.follow(&mut numbered).await {
                tracing::debug!(%error, "the change feed cannot be read");
                sleep(POLL_INTERVAL).await;
            }
            // The next subscriber may find another database.
            self.tail.send_modify(|tail| *tail = Tail::default());
        }
    }

    /// Reads new changes while there are subscribers. Also returns when the next change was removed.
    async fn follow(&self, numbered: &mut watch::Receiver<()>) -> Result<(), QueryError> {
        let mut last = self.pool.run(&LastChange).await?;
        self.tail.send_modify(|tail| *tail = Tail { last, recent: VecDeque::new() });
        while self.subscribers() > 0 {
            numbered.mark_unchanged();
            let changes = self.pool.run(&ChangesAfter { after: last, limit: PAGE }).await?;
            let Some(changes) = changes else { return Ok(()) };
            if let Some(newest) = changes.last() {
                last = newest.change;
                self.tail.send_modify(|tail| tail.push(changes));
            } else {
                let _ = timeout(POLL_INTERVAL, numbered.changed()).await;
            }
        }
        Ok(())
    }

    pub(crate) fn subscribe(&self) -> Subscriber {
        let subscriber = Subscriber { pool: self.pool.clone(), tail: self.tail.subscribe() };
        self.subscribed.notify_one();
        subscriber
    }

    pub(crate) fn subscribers(&self) -> usize {
        self.tail.receiver_count()
    }
}

pub(crate) struct Subscriber {
    pool: Arc<QueryPool>,
    tail: watch::Receiver<Tail>,
}

impl Subscriber {
    /// Waits for changes after `position`. Errors of PostgreSQL are retried. `None` if the next change was removed.
    pub(crate) async fn after(&mut self, position: i64) -> Option<Vec<Arc<Change>>> {
        loop {
            let recent = self.tail.borrow_and_update().after(position);
            match recent {
                Recent::Changes(changes) => return Some(changes),
                Recent::None => {
                    // Fails only when the process ends.
                    let _ = self.tail.changed().await;
                }
                Recent::Ahead | Recent::TooOld => {
                    match self.pool.run(&ChangesAfter { after: position, limit: PAGE }).await {
                        Ok(Some(changes)) if changes.is_empty() => {
                            let _ = self.tail.changed().await;
                        }
                        Ok(changes) => return Some(changes?.into_iter().map(Arc::new).collect()),
                        Err(_) => sleep(POLL_INTERVAL).await,
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    #[test]
    fn a_position_older_than_the_changes_in_memory_is_too_old() {
        let change = |change| Change {
            change,
            r#type: "execution.ended".to_owned(),
            execution_id: Some("e".to_owned()),
            workflow_id: None,
            bulk_id: None,
            status: None,
            recorded_at: OffsetDateTime::UNIX_EPOCH,
        };
        let mut tail = Tail { last: 10, recent: VecDeque::new() };
        let capacity = i64::try_from(CAPACITY).unwrap();
        tail.push((11..=11 + capacity).map(change).collect());
        let numbers = |position| match tail.after(position) {
            Recent::Changes(changes) => changes.iter().map(|change| change.change).collect(),
            Recent::None => Vec::new(),
            Recent::TooOld => vec![-1],
            Recent::Ahead => vec![-2],
        };
        assert_eq!(numbers(10), [-1]);
        assert_eq!(numbers(11), (12..12 + PAGE).collect::<Vec<_>>());
        assert_eq!(numbers(10 + capacity), [11 + capacity]);
        assert_eq!(numbers(11 + capacity), Vec::<i64>::new());
        assert_eq!(numbers(12 + capacity), [-2]);
        assert_eq!(numbers(i64::MAX), [-2]);
        assert_eq!(numbers(0), [-1]);
    }
}
