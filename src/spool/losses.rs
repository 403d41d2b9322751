//! Counts lost deliveries. Sequence numbers are contiguous: a number without a row after the last acked delivery is a
//! lost delivery. The table `acked` holds the number of losses that were counted before. Losses are counted at the start,
//! and when later deliveries are deleted.

use rusqlite::{Connection, OptionalExtension};

use super::mark::Mark;
use super::schema::{has_identity, runs};
use super::{ReconciledUntil, Seq, SpoolError};
use crate::metrics::Metrics;

/// The last number given to a delivery. (`max` of two values is `NULL` when one of them is.)
const LAST: &str = "max(coalesce((SELECT max(seq) FROM deliveries), 0),
                        coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'deliveries'), 0))";

/// Sets the last acked position to ?1. Runs directly after the `DELETE` of all deliveries up to ?1, whose row count is
/// `changes()`. Numbers up to ?1 without a row are subtracted from `missing`. If the result is negative, that many losses
/// were not counted before.
const ACK: &str = "UPDATE acked SET seq = ?1, missing = missing - (?1 - seq - changes()) RETURNING missing";

/// Makes the numbers of new deliveries start after `last`.
pub(super) fn advance(connection: &Connection, last: Seq) -> rusqlite::Result<()> {
    let ensure_row = "INSERT INTO sqlite_sequence (name, seq) SELECT 'deliveries', 0
                WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'deliveries')";
    connection.execute(ensure_row, [])?;
    let advance = "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'deliveries'";
    connection.execute(advance, [last]).map(drop)
}

/// Prepares an empty spool for the copy of another one with these positions. If a crash ends the copy before [`store`], at most
/// the deliveries that were not acked are counted as lost.
pub(super) fn begin_copy(connection: &Connection, last: Seq, acked: Seq) -> rusqlite::Result<()> {
    advance(connection, last)?;
    connection.execute("UPDATE acked SET seq = ?", [acked]).map(drop)
}

/// Stores the last acked delivery and the number of missing ones in `acked`, so that no loss is counted twice. Writes
/// nothing when both are stored already.
pub(super) fn store(connection: &Connection) -> rusqlite::Result<()> {
    let select = format!(
        "SELECT coalesce((SELECT min(seq) FROM deliveries) - 1, {LAST}), {LAST}, (SELECT count(*) FROM deliveries)"
    );
    let (acked, missing): (Seq, i64) = connection.query_row(&select, [], |row| {
        let (acked, last, present): (Seq, Seq, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok((acked, last - acked - present))
    })?;
    connection.execute("INSERT INTO acked SELECT 0, 0 WHERE NOT EXISTS (SELECT 1 FROM acked)", [])?;
    let update = "UPDATE acked SET seq = ?1, missing = ?2 WHERE (seq, missing) IS NOT (?1, ?2)";
    connection.execute(update, (acked, missing)).map(drop)
}

/// Logs and counts the deliveries that are missing and were not counted before. `mark` is from the last run.
pub(super) fn report(
    connection: &Connection,
    mark: Option<Mark>,
    metrics: &Metrics,
    reconciled_until: &ReconciledUntil,
) -> Result<(), SpoolError> {
    let last: Seq = connection.query_row(&format!("SELECT {LAST}"), [], |row| row.get(0))?;
    let acked = connection
        .query_row("SELECT seq, missing FROM acked", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let (own_mark, mut missing) = match mark {
        Some(mark) if !has_identity(connection, mark.identity)? => (None, mark.unacked()),
        // The database is another copy of the spool: all deliveries of the last run are lost.
        Some(mark) if !runs(connection)?.contains(&mark.run) => {
            let (before, unacked) = mark.before_run();
            (Some(before), unacked)
        }
        own => (own, 0),
    };
    let last = last.max(own_mark.map_or(0, |mark| mark.last_seq));
    // Ignores damaged numbers.
    let acked = acked.filter(|(acked, counted): &(Seq, i64)| {
        (0..=last).contains(acked) && (0..=last - acked).contains(counted)
    });
    if let Some((acked, counted)) = acked.max(own_mark.map(|mark| (mark.acked_seq, 0))) {
        let present = "SELECT count(*) FROM deliveries WHERE seq > ?";
        let present: i64 = connection.query_row(present, [acked], |row| row.get(0))?;
        missing += (last - acked - counted - present).max(0);
    }
    if missing > 0 {
        reconciled_until.set_back(mark.and_then(|mark| mark.oldest_received_at));
    }
    count(missing, metrics);
    Ok(())
}

/// Deletes all deliveries up to `seq`, and stores that they were acked. Returns how many numbers up to `seq` had no row and were
/// not counted before: another program has removed these deliveries while the receiver was running.
pub(super) fn ack(connection: &Connection, seq: Seq) -> rusqlite::Result<i64> {
    connection.prepare_cached("DELETE FROM deliveries WHERE seq <= ?")?.execute([seq])?;
    let missing = connection.prepare_cached(ACK)?.query_row([seq], |row| row.get(0)).optional()?;
    let missing: i64 = missing.unwrap_or_default();
    if missing < 0 {
        connection.execute("UPDATE acked SET missing = 0", [])?;
    }
    Ok(-missing.min(0))
}

/// Logs and counts `missing` deliveries, if there are any.
pub(super) fn count(missing: i64, metrics: &Metrics) {
    if let Ok(missing @ 1..) = u64::try_from(missing) {
        tracing::error!(
            lost_at_most = missing,
            "acknowledged deliveries are missing in the spool: its files are not those of the last run, or parts of them \
             were removed. Look for the missing files or a backup, and see docs/runbooks.md"
        );
        metrics.spool_salvaged(0, missing);
    }
}
