//! The file `reconciled-until` in the directory of the spool. It contains a time: all executions that ended before it were
//! received or reconciled. Reconciliation advances the time. The spool sets it back before it stores that acknowledged
//! deliveries are lost, so they are fetched, even after a crash.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use super::files;

const NAME: &str = "reconciled-until";
/// The comparison begins this much before now if the file has no usable time, or if the time of a loss is unknown.
const LOOK_BACK: Duration = Duration::days(1);
/// After a loss, the comparison begins at most this much before now: the stored time of the loss may be damaged.
const MAX_LOOK_BACK: Duration = Duration::days(30);

#[derive(Debug)]
pub(crate) struct ReconciledUntil {
    file: PathBuf,
    is_first_start: bool,
    losses: Mutex<Losses>,
    /// The time in the file, as far as this process knows. Held during a write.
    known: Mutex<Option<OffsetDateTime>>,
}

/// The losses of this run.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Losses {
    count: u64,
    /// When the oldest of the deliveries that were lost since the last [`ReconciledUntil::take_losses`] was received.
    pub(crate) since: Option<OffsetDateTime>,
}

impl ReconciledUntil {
    pub(crate) fn new(spool_dir: &Path, is_first_start: bool) -> Self {
        let (losses, known) = (Mutex::default(), Mutex::default());
        Self { file: spool_dir.join(NAME), is_first_start, losses, known }
    }

    /// `None` at the first start. If the file is missing at a later start, is damaged, or has a time after `now` because the
    /// clock was ahead, the last day is compared.
    pub(crate) fn read(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        if self.is_first_start && !self.file.exists() {
            return None;
        }
        let stored = self.stored(now);
        *self.known.lock() = stored.as_ref().ok().copied();
        let time = stored.unwrap_or_else(|why| {
            tracing::warn!(
                "{} cannot be used: {why}. The last day is compared with each::labs",
                self.file.display()
            );
            now - LOOK_BACK
        });
        Some(time)
    }

    fn stored(&self, now: OffsetDateTime) -> Result<OffsetDateTime, String> {
        let text = fs::read_to_string(&self.file).map_err(|error| error.to_string())?;
        match OffsetDateTime::parse(text.trim(), &Rfc3339) {
            Ok(time) if time <= now => Ok(time),
            Ok(_) => Err("its time is in the future".to_owned()),
            Err(_) => Err("it has no time".to_owned()),
        }
    }

    /// Sets the time back, because acknowledged deliveries that were received at `since` or later are lost; `None`: at an unknown
    /// time. Call it before the loss is stored. Does not change a missing or damaged file: for it, [`Self::read`] returns the
    /// time one day ago.
    pub(super) fn set_back(&self, since: Option<OffsetDateTime>) {
        let now = OffsetDateTime::now_utc();
        let since = since.filter(|since| *since <= now).unwrap_or(now - LOOK_BACK).max(now - MAX_LOOK_BACK);
        self.add_loss(since);
        let mut known = self.known.lock();
        if self.stored(now).is_ok_and(|until| since < until)
            && let Err(error) = self.write(since, &mut known)
        {
            tracing::warn!(%error, "{} cannot be written: if the receiver is killed now, lost deliveries are not fetched", self.file.display());
        }
    }

    fn add_loss(&self, since: OffsetDateTime) {
        let mut losses = self.losses.lock();
        losses.count += 1;
        losses.since = Some(losses.since.map_or(since, |earlier| earlier.min(since)));
    }

    /// The losses so far. The caller has to compare the executions since the returned time.
    pub(crate) fn take_losses(&self) -> Losses {
        let mut losses = self.losses.lock();
        let taken = *losses;
        losses.since = None;
        taken
    }

    /// Replaces the time, unless deliveries were lost since `losses` was taken. After a crash the file has the old or the new time.
    ///
    /// If the file has an earlier time that this process does not know, for example because a volume was mounted late, the
    /// executions since that time are compared first.
    pub(crate) fn advance(&self, time: OffsetDateTime, losses: Losses) -> io::Result<()> {
        let mut known = self.known.lock();
        if let Ok(stored) = self.stored(OffsetDateTime::now_utc())
            && *known != Some(stored)
            && stored < time
        {
            *known = Some(stored);
            self.add_loss(stored);
        }
        if self.losses.lock().count == losses.count { self.write(time, &mut known) } else { Ok(()) }
    }

    fn write(&self, time: OffsetDateTime, known: &mut Option<OffsetDateTime>) -> io::Result<()> {
        let unfinished = self.file.with_extension("new");
        let mut new = File::create(&unfinished)?;
        new.write_all(time.format(&Rfc3339).unwrap_or_default().as_bytes())?;
        new.sync_all()?;
        fs::rename(&unfinished, &self.file)?;
        *known = Some(time);
        files::sync_parent(&self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::now_utc();
        let file = ReconciledUntil::new(dir.path(), true);
        assert_eq!(file.read(now), None);
        file.advance(now, Losses::default()).unwrap();
        assert_eq!(ReconciledUntil::new(dir.path(), false).read(now), Some(now));
    }

    #[test]
    fn the_last_day_is_compared_after_a_clock_was_ahead_or_the_file_is_damaged_or_missing() {
        let dir = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::now_utc();
        let file = ReconciledUntil::new(dir.path(), false);
        assert_eq!(file.read(now), Some(now - LOOK_BACK));
        file.advance(now + Duration::days(1), Losses::default()).unwrap();
        assert_eq!(file.read(now), Some(now - LOOK_BACK));
        for damaged in ["", "damaged"] {
            fs::write(dir.path().join(NAME), damaged).unwrap();
            assert_eq!(file.read(now), Some(now - LOOK_BACK));
        }
    }

    #[test]
    fn a_loss_sets_the_time_back_until_it_is_known_to_the_reconciliation() {
        let dir = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::now_utc();
        let ago = |days| now - Duration::days(days);
        let file = ReconciledUntil::new(dir.path(), false);
        let known = file.take_losses();
        file.advance(ago(0), known).unwrap();
        for (since, until) in [(ago(2), ago(2)), (ago(1), ago(2)), (ago(3), ago(3))] {
            file.set_back(Some(since));
            assert_eq!(file.read(now), Some(until));
        }
        // A write that began before the loss.
        file.advance(now, known).unwrap();
        assert_eq!(file.read(now), Some(ago(3)));
        let losses = file.take_losses();
        assert_eq!((losses.since, file.take_losses().since), (Some(ago(3)), None));
        file.advance(now, losses).unwrap();
        assert_eq!(file.read(now), Some(now));
    }

    #[test]
    fn the_executions_since_an_earlier_time_that_appears_in_the_file_are_compared() {
        let dir = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::now_utc();
        let file = ReconciledUntil::new(dir.path(), true);
        assert_eq!(file.read(now), None);
        let known = file.take_losses();
        file.advance(now, known).unwrap();
        let earlier = now - Duration::days(9);
        fs::write(dir.path().join(NAME), earlier.format(&Rfc3339).unwrap()).unwrap();
        file.advance(now, known).unwrap();
        assert_eq!(file.read(now), Some(earlier), "the file is not overwritten");
        let losses = file.take_losses();
        assert_eq!(losses.since, Some(earlier));
        file.advance(now, losses).unwrap();
        assert_eq!(file.read(now), Some(now));
    }

    #[test]
    fn a_loss_at_an_unknown_time_sets_the_time_back_by_a_day_and_any_other_by_at_most_thirty() {
        let dir = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::now_utc();
        let file = ReconciledUntil::new(dir.path(), false);
        for (since, days) in
            [(None, 1), (Some(now + Duration::days(9)), 1), (Some(OffsetDateTime::UNIX_EPOCH), 30)]
        {
            file.advance(now, file.take_losses()).unwrap();
            file.set_back(since);
            let difference = now - Duration::days(days) - file.read(now).unwrap();
            assert!(difference.abs() < Duration::minutes(1), "{since:?}: {difference}");
        }
    }
}
