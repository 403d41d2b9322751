//! A damaged spool: saving what can be read, setting the rest aside.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, Row, Transaction};
use time::OffsetDateTime;

use super::file::LAST_SEQ;
use super::log::Log;
use super::row::{COLUMNS, INSERT, Stored};
use super::{Seq, SpoolError, file};
use crate::metrics::Metrics;

/// Puts a new spool in the place of a damaged one, with every delivery that can still be read.
///
/// The damaged files stay as they are, under another name, for people to look at: nothing changes
/// or deletes them. A crash on the way costs nothing: either all begins anew, or [`finish`] ends it.
pub(super) fn salvage(path: &Path, why: &str, metrics: &Metrics) -> Result<(), SpoolError> {
    let unusable = |source| SpoolError::Directory { dir: path.to_owned(), source };
    let (copy, saved) = (beside(path, ".copy"), beside(path, ".saving"));
    for leftover in with_companions(&copy).into_iter().chain(with_companions(&saved)) {
        let _ = fs::remove_file(leftover);
    }
    fs::copy(path, &copy).map_err(unusable)?;
    if let Some(log) = Log::read(&beside(path, "-wal")).map_err(unusable)? {
        File::options().write(true).open(&copy).and_then(|copy| log.apply(&copy)).map_err(unusable)?;
    }
    let mut to = file::prepare(&saved)?;
    let counts = Salvage::default().run(&Connection::open(&copy)?, &mut to)?;
    to.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE;")?;
    drop(to);
    for leftover in with_companions(&copy) {
        let _ = fs::remove_file(leftover);
    }
    // From here on the saved file is whole, and its name says so.
    fs::rename(&saved, beside(path, SAVED)).map_err(unusable)?;
    finish(path)?;
    tracing::error!(
        cause = why,
        saved = counts.saved,
        lost_at_most = counts.lost.map_or("unknown".to_owned(), |lost| lost.to_string()),
        "the spool was damaged: what could be read goes on, the file is set aside as spool.db.damaged-…"
    );
    metrics.spool_salvaged(counts.saved, counts.lost.unwrap_or(1));
    Ok(())
}

/// The name of what was saved, until it takes the place of the damaged file.
const SAVED: &str = ".saved";

/// Puts what was saved in its place, if there is any: also after a crash in the middle of doing so.
pub(super) fn finish(path: &Path) -> Result<(), SpoolError> {
    let saved = beside(path, SAVED);
    if !saved.exists() {
        return Ok(());
    }
    let swap = || {
        let dir = path.parent().unwrap_or(Path::new("."));
        file::sync(dir)?;
        let aside = free_name(path);
        for (old, new) in with_companions(path).into_iter().zip(with_companions(&aside)) {
            if old.exists() {
                fs::rename(old, new)?;
            }
        }
        file::sync(dir)?;
        fs::rename(&saved, path)?;
        file::sync(dir)
    };
    swap().map_err(|source| SpoolError::Directory { dir: path.to_owned(), source })
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

/// The file with SQLite's write-ahead log and its index.
fn with_companions(path: &Path) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|suffix| beside(path, suffix))
}

fn free_name(path: &Path) -> PathBuf {
    let mut n = OffsetDateTime::now_utc().unix_timestamp();
    loop {
        let name = beside(path, &format!(".damaged-{n}"));
        if with_companions(&name).iter().all(|name| !name.exists()) {
            return name;
        }
        n += 1;
    }
}

struct Counts {
    saved: u64,
    /// At most; `None` when the numbers of the deliveries cannot be read either.
    lost: Option<u64>,
}

/// Places tried one by one in a hole before the rest of it is given up: some seconds.
const TRIES: usize = 1_000_000;

/// Reading what can be read. Errors of reading are what it is about; those of writing end it.
#[derive(Default)]
struct Salvage {
    saved: u64,
    /// The last place known to have been given out; places beyond are damage.
    end: Option<Seq>,
    /// The statement that reads deliveries.
    select: String,
}

type Delivery = (Seq, Stored<Vec<u8>>);

impl Salvage {
    fn run(mut self, from: &Connection, to: &mut Connection) -> rusqlite::Result<Counts> {
        let place = |query: &str| {
            let place = from.query_row(query, [], |row| row.get(0));
            place.ok().filter(|place: &Seq| (0..=LAST_SEQ).contains(place))
        };
        self.end = place("SELECT seq FROM sqlite_sequence WHERE name = 'deliveries'");
        // The versions of the layout before had less columns.
        let there_is = |columns: &&str| from.prepare(&format!("SELECT {columns} FROM deliveries")).is_ok();
        let of_version_2 = "received_at, authenticated_by, acknowledged, checksum, body, NULL";
        let of_version_1 = "received_at, 0, 1, checksum, body, NULL";
        let columns = [COLUMNS, of_version_2].into_iter().find(there_is).unwrap_or(of_version_1);
        self.select = format!("SELECT seq, {columns} FROM deliveries");
        let forgotten = place("SELECT through FROM forgotten");
        let to = to.transaction()?;
        let (whole, last) = self.walk(from, "ORDER BY seq", &to)?;
        if !whole {
            // From the other end, and then into the hole between.
            let (_, first) = self.walk(from, "ORDER BY seq DESC", &to)?;
            let behind = first.or(self.end.map(|end| end + 1)).unwrap_or(0);
            let hole = last.unwrap_or(0) + 1..behind;
            if let Ok(mut one) = from.prepare(&format!("{} WHERE seq = ?", self.select)) {
                for seq in hole.take(TRIES) {
                    if let Ok(Some(delivery)) = one.query_row([seq], read).optional() {
                        self.save(delivery, &to)?;
                    }
                }
            }
        }
        to.execute("UPDATE forgotten SET through = ?", [forgotten.unwrap_or(0)])?;
        to.commit()?;
        let there_were = self.end.map(|end| u64::try_from(end - forgotten.unwrap_or(0)).unwrap_or(0));
        Ok(Counts {
            saved: self.saved,
            lost: there_were.map(|there_were| there_were.saturating_sub(self.saved)),
        })
    }

    /// Walks the table until its end, or until it cannot be read on. Whether it came to its end, and
    /// the last place that it came to.
    fn walk(
        &mut self,
        from: &Connection,
        order: &str,
        to: &Transaction,
    ) -> rusqlite::Result<(bool, Option<Seq>)> {
        let mut last = None;
        let Ok(mut statement) = from.prepare(&format!("{} {order}", self.select)) else {
            return Ok((false, None));
        };
        let Ok(mut rows) = statement.query([]) else { return Ok((false, None)) };
        loop {
            match rows.next() {
                Err(_) => return Ok((false, last)),
                Ok(None) => return Ok((true, last)),
                Ok(Some(row)) => {
                    if let Ok(delivery) = read(row) {
                        last = Some(delivery.0);
                        self.save(delivery, to)?;
                    }
                }
            }
        }
    }

    /// Keeps a delivery at its place, or behind all others when its place is damaged.
    fn save(&mut self, (seq, row): Delivery, to: &Transaction) -> rusqlite::Result<()> {
        let plausible = (1..=self.end.unwrap_or(LAST_SEQ)).contains(&seq);
        let same = "SELECT checksum = ? AND body = ? FROM deliveries WHERE seq = ?";
        let mut same = to.prepare_cached(same)?;
        let there: Option<bool> =
            same.query_row((row.checksum, &row.body, seq), |row| row.get(0)).optional()?;
        if there == Some(true) {
            return Ok(());
        }
        let place = (plausible && there.is_none()).then_some(seq);
        let mut insert = to.prepare_cached(INSERT)?;
        row.insert(&mut insert, place)?;
        self.saved += 1;
        Ok(())
    }
}

fn read(row: &Row) -> rusqlite::Result<Delivery> {
    let stored = Stored {
        received_at: row.get(1)?,
        authenticated_by: row.get(2)?,
        acknowledged: row.get(3)?,
        checksum: row.get(4)?,
        body: row.get(5)?,
        trace: row.get(6).unwrap_or_default(),
    };
    Ok((row.get(0)?, stored))
}
