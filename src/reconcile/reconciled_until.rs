//! The file `reconciled-until` in the directory of the spool. It contains a time: all executions that ended before it were
//! received or reconciled.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

const NAME: &str = "reconciled-until";
/// The comparison begins this much before the start if the file has no usable time.
const LOOK_BACK: Duration = Duration::days(1);

#[derive(Debug, Clone)]
pub(crate) struct ReconciledUntil {
    file: PathBuf,
    is_first_start: bool,
}

impl ReconciledUntil {
    pub(crate) fn new(spool_dir: &Path, is_first_start: bool) -> Self {
        Self { file: spool_dir.join(NAME), is_first_start }
    }

    /// `None` at the first start. If the file is missing at a later start, is damaged, or has a time after `now` because the
    /// clock was ahead, the last day is compared.
    pub(super) fn read(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        let why = match std::fs::read_to_string(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.is_first_start => return None,
            Err(error) => error.to_string(),
            Ok(text) => match OffsetDateTime::parse(text.trim(), &Rfc3339) {
                Ok(time) if time <= now => return Some(time),
                Ok(_) => "its time is in the future".to_owned(),
                Err(_) => "it has no time".to_owned(),
            },
        };
        tracing::warn!(
            "{} cannot be used: {why}. The last day is compared with each::labs",
            self.file.display()
        );
        Some(now - LOOK_BACK)
    }

    /// Replaces the file. After a crash it has the old or the new time.
    pub(super) fn write(&self, time: OffsetDateTime) -> io::Result<()> {
        let unfinished = self.file.with_extension("new");
        let mut new = File::create(&unfinished)?;
        new.write_all(time.format(&Rfc3339).unwrap_or_default().as_bytes())?;
        new.sync_all()?;
        std::fs::rename(&unfinished, &self.file)
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
        file.write(now).unwrap();
        assert_eq!(ReconciledUntil::new(dir.path(), false).read(now), Some(now));
    }

    #[test]
    fn the_last_day_is_compared_after_a_clock_was_ahead_or_the_file_is_damaged_or_missing() {
        let dir = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::now_utc();
        let file = ReconciledUntil::new(dir.path(), false);
        assert_eq!(file.read(now), Some(now - LOOK_BACK));
        file.write(now + Duration::days(1)).unwrap();
        assert_eq!(file.read(now), Some(now - LOOK_BACK));
        for damaged in ["", "damaged"] {
            std::fs::write(dir.path().join(NAME), damaged).unwrap();
            assert_eq!(file.read(now), Some(now - LOOK_BACK));
        }
    }
}
