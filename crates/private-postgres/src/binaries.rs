//! Finding PostgreSQL's programs on this machine.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::PrivatePostgresError;

/// Where `make` installs PostgreSQL if the machine has none: in the checkout, and for root in a directory that the
/// unprivileged user can read.
const INSTALLED_BY_MAKE: [&str; 2] = [".postgresql/bin", "/var/lib/workflow-receiver/postgresql/bin"];

/// A directory with `initdb` and `postgres`.
#[derive(Debug)]
pub(crate) struct Binaries {
    dir: PathBuf,
}

impl Binaries {
    /// Searches `PG_BIN` (if set, only there), the PATH, the directories of packages, and those of `make`. Existing data
    /// requires its own major version.
    pub(crate) fn find(data: &Path) -> Result<Self, PrivatePostgresError> {
        let needed = fs::read_to_string(data.join("PG_VERSION")).ok();
        let needed = needed.as_deref().map(str::trim);
        let fits = |dir: &Path| match needed {
            None => true,
            Some(version) => major_version(dir).as_deref() == Some(version),
        };
        if let Some(dir) = candidates().into_iter().filter_map(|dir| real_dir(&dir)).find(|dir| fits(dir)) {
            return Ok(Self { dir });
        }
        let version = needed.map_or(String::new(), |v| format!(" {v} (the version of {})", data.display()));
        Err(PrivatePostgresError::Binaries(format!(
            "no PostgreSQL{version} found to start a private server: install it (`make run` does), set PG_BIN to \
             the directory of its programs, or set DATABASE_URL to use another server"
        )))
    }

    pub(crate) fn initdb(&self) -> PathBuf {
        self.dir.join("initdb")
    }

    pub(crate) fn postgres(&self) -> PathBuf {
        self.dir.join("postgres")
    }

    /// The client in the same directory, or the one on the PATH.
    pub(crate) fn psql(&self) -> PathBuf {
        let psql = self.dir.join("psql");
        if psql.exists() { psql } else { PathBuf::from("psql") }
    }
}

fn candidates() -> Vec<PathBuf> {
    if let Some(named) = env::var_os("PG_BIN").filter(|dir| !dir.is_empty()) {
        return vec![named.into()];
    }
    let mut dirs: Vec<PathBuf> = env::var_os("PATH").iter().flat_map(env::split_paths).collect();
    dirs.extend(below("/usr/lib/postgresql", "bin"));
    for homebrew in ["/opt/homebrew/opt", "/usr/local/opt"] {
        dirs.extend(
            below(homebrew, "bin").into_iter().filter(|d| d.to_string_lossy().contains("/postgresql")),
        );
    }
    dirs.extend(below("/Applications/Postgres.app/Contents/Versions", "bin"));
    dirs.extend(INSTALLED_BY_MAKE.map(PathBuf::from));
    dirs
}

/// `parent/*/name`, in descending order of the name in the middle.
fn below(parent: &str, name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let mut dirs: Vec<_> = entries.map(|entry| entry.path().join(name)).collect();
    dirs.sort_unstable();
    dirs.reverse();
    dirs
}

/// The directory of the real `postgres` if `initdb` is there, too. Symbolic links are resolved, since PostgreSQL finds
/// its other files relative to the program.
fn real_dir(dir: &Path) -> Option<PathBuf> {
    let dir = dir.join("postgres").canonicalize().ok()?.parent()?.to_owned();
    dir.join("initdb").exists().then_some(dir)
}

fn major_version(dir: &Path) -> Option<String> {
    let output = Command::new(dir.join("postgres")).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let version = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    version.split('.').next().map(str::to_owned)
}
