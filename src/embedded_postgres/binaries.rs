//! Finding PostgreSQL's programs on this machine.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use super::EmbeddedError;

/// Where `make` puts PostgreSQL when the machine has none: for a user's checkout, and for root,
/// whose checkout the unprivileged user that runs it may not be able to read.
const FROM_MAKE: [&str; 2] = [".postgresql/bin", "/var/lib/workflow-receiver/postgresql/bin"];

/// A directory with `initdb` and `postgres`.
#[derive(Debug)]
pub(super) struct Binaries {
    dir: PathBuf,
}

impl Binaries {
    /// The first that fits: `PG_BIN`, the PATH, where packages put it, where `make` puts it. Data
    /// that is there already decides the major version.
    pub(super) fn find(data: &Path) -> Result<Self, EmbeddedError> {
        let needed = fs::read_to_string(data.join("PG_VERSION")).ok();
        let needed = needed.as_deref().map(str::trim);
        let fits = |dir: &Path| match needed {
            None => true,
            Some(version) => major_version(dir).as_deref() == Some(version),
        };
        if let Some(dir) = candidates().into_iter().filter_map(|dir| whole(&dir)).find(|dir| fits(dir)) {
            return Ok(Self { dir });
        }
        let version = needed.map_or(String::new(), |v| format!(" {v}, which made {},", data.display()));
        Err(EmbeddedError::Binaries(format!(
            "no PostgreSQL{version} found to start a private one: install it (`make run` does), set PG_BIN to \
             the directory of its programs, or set DATABASE_URL to use a server"
        )))
    }

    pub(super) fn initdb(&self) -> PathBuf {
        self.dir.join("initdb")
    }

    pub(super) fn postgres(&self) -> PathBuf {
        self.dir.join("postgres")
    }

    /// The client beside the server, or whichever the PATH has.
    pub(super) fn psql(&self) -> PathBuf {
        let beside = self.dir.join("psql");
        if beside.exists() { beside } else { PathBuf::from("psql") }
    }
}

fn candidates() -> Vec<PathBuf> {
    // Named by the user: then no other will do.
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
    dirs.extend(FROM_MAKE.map(PathBuf::from));
    dirs
}

/// `parent/*/name`, the highest first.
fn below(parent: &str, name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let mut dirs: Vec<_> = entries.map(|entry| entry.path().join(name)).collect();
    dirs.sort_unstable();
    dirs.reverse();
    dirs
}

/// PostgreSQL finds its other files beside the real `postgres`, so a link is followed.
fn whole(dir: &Path) -> Option<PathBuf> {
    let dir = dir.join("postgres").canonicalize().ok()?.parent()?.to_owned();
    dir.join("initdb").exists().then_some(dir)
}

fn major_version(dir: &Path) -> Option<String> {
    let output = Command::new(dir.join("postgres")).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let version = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    version.split('.').next().map(str::to_owned)
}
