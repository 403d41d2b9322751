//! The spool's files.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::postgres::no_database;
use super::receiver::{TestReceiver, fast_retries};

/// The spool's file of a receiver that runs in `dir`.
pub(crate) fn spool_file(dir: &Path) -> PathBuf {
    dir.join("spool/spool.db")
}

/// The sorted names of the files in the directory of a spool that contain `part`.
pub(crate) fn names(spool: &Path, part: &str) -> Vec<String> {
    let names =
        std::fs::read_dir(spool).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.contains(part)).collect();
    names.sort();
    names
}

/// The directory of a stopped receiver whose spool holds `bodies`.
pub(crate) async fn spool_holding(bodies: impl IntoIterator<Item = String>) -> TempDir {
    let receiver = TestReceiver::start_on(no_database(), fast_retries).await;
    for body in bodies {
        receiver.accept(body).await;
    }
    receiver.stop().await.0
}
