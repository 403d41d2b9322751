//! The file `reconciled-until` in the directory of the spool: all executions that ended before this time were received or
//! reconciled.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const NAME: &str = "reconciled-until";

#[derive(Debug)]
pub(crate) struct ReconciledUntil {
    file: PathBuf,
}

impl ReconciledUntil {
    pub(crate) fn new(spool_dir: &Path) -> Self {
        Self { file: spool_dir.join(NAME) }
    }

    /// `None` before the first write, or if the file is not readable.
    pub(super) fn read(&self) -> Option<OffsetDateTime> {
        OffsetDateTime::parse(std::fs::read_to_string(&self.file).ok()?.trim(), &Rfc3339).ok()
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
        assert_eq!(ReconciledUntil::new(dir.path()).read(), None);
        ReconciledUntil::new(dir.path()).write(now).unwrap();
        assert_eq!(ReconciledUntil::new(dir.path()).read(), Some(now));
        std::fs::write(dir.path().join(NAME), "damaged").unwrap();
        assert_eq!(ReconciledUntil::new(dir.path()).read(), None);
    }
}
