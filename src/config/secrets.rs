//! A secret, a list of secrets, and files of secrets.

use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::ops::Deref;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rand::RngExt;
use rand::distr::Alphanumeric;
use rustix::fs::{Mode, OFlags};
use secrecy::{ExposeSecret, SecretString};
use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};

use super::error::{NOT_SHOWN, SettingsError, not_allowed, secret_error};
use super::list::List;

/// Shells remove quotation marks; `docker run --env-file` and others do not, and the marks would become part of the
/// secret.
pub(super) const QUOTED: &str = "begins with a quotation mark: remove the quotation marks (if a webhook secret really \
                                 begins with one, put it into an array in the file of --config)";

/// Whether a value seems to be quoted for a shell, for TOML or for JSON.
pub(super) fn is_quoted(text: &str) -> bool {
    text.strip_prefix('[').unwrap_or(text).trim_start().starts_with(['"', '\''])
}

/// One secret. Neither `Debug` nor an error shows it.
#[derive(Debug, Clone, Default)]
pub struct Secret(SecretString);

impl Deref for Secret {
    type Target = SecretString;

    fn deref(&self) -> &SecretString {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(secret: &str) -> Self {
        Self(secret.into())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The error's text may contain the secret.
        let secret = String::deserialize(deserializer).map_err(|_| secret_error("must be a string"))?;
        Ok(Self(secret.into()))
    }
}

/// Shows whether a secret is set, but not the secret.
impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.expose_secret().is_empty() { "" } else { "(set, not shown)" })
    }
}

/// Shows the number of secrets.
impl Serialize for Secrets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.len() {
            0 => serializer.serialize_str(""),
            set => serializer.collect_str(&format_args!("({set} set, not shown)")),
        }
    }
}

/// A list of secrets: an array, or comma-separated text as in the environment.
#[derive(Debug, Clone, Default)]
pub struct Secrets(pub Vec<SecretString>);

impl Secrets {
    #[must_use]
    pub fn of(secrets: &[&str]) -> Self {
        Self(secrets.iter().map(|secret| (*secret).into()).collect())
    }

    /// The length of the shortest secret in bytes; `usize::MAX` if the list is empty.
    #[must_use]
    pub fn shortest(&self) -> usize {
        self.0.iter().map(|secret| secret.expose_secret().len()).min().unwrap_or(usize::MAX)
    }

    /// Whether both have the same secrets in the same order.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        let [mine, theirs] = [self, other].map(|list| list.0.iter().map(ExposeSecret::expose_secret));
        mine.eq(theirs)
    }
}

impl<'de> Deserialize<'de> for Secrets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let secrets = match List::deserialize(deserializer) {
            Ok(List::Text(text)) => {
                let secrets: Vec<_> = List::parts(&text).map(SecretString::from).collect();
                // An empty list would leave webhooks unauthenticated.
                if secrets.is_empty() && !text.is_empty() {
                    Err("contains no secret")
                } else if List::parts(&text).any(is_quoted) {
                    Err(QUOTED)
                } else {
                    Ok(secrets)
                }
            }
            Ok(List::Items(items)) if items.iter().any(|item| item.trim().is_empty()) => {
                Err("contains an empty secret")
            }
            Ok(List::Items(items)) => Ok(items.into_iter().map(SecretString::from).collect()),
            // The text of serde's own errors may contain the secret.
            Err(_) => Err("must be a string, or a list of strings"),
        };
        secrets.map(Self).map_err(secret_error)
    }
}

/// Adds the secrets in `file`, one per line. An empty path is no file.
pub(super) fn read_list(key: &str, file: &Path, list: &mut Secrets) -> Result<(), SettingsError> {
    list.0.extend(read(key, file)?.into_iter().map(SecretString::from));
    Ok(())
}

/// Reads the only secret in `file`. An empty path is no file.
pub(super) fn read_one(key: &str, file: &Path, secret: &mut Secret) -> Result<(), SettingsError> {
    let lines = read(key, file)?;
    let Some(first) = lines.first() else { return Ok(()) };
    if !secret.expose_secret().is_empty() {
        let why = format!("{} is set, too: set only one of them", key.trim_end_matches("_file"));
        return not_allowed(key, displayed(file), why);
    }
    if lines.len() > 1 {
        return not_allowed(key, displayed(file), "the file contains more than one line");
    }
    *secret = first.as_str().into();
    Ok(())
}

/// Each of the 62 possible characters has 5.95 bits, so a token has 256.
const RANDOM_TOKEN_LENGTH: usize = 43;

pub(crate) fn random_token() -> String {
    rand::rng().sample_iter(Alphanumeric).take(RANDOM_TOKEN_LENGTH).map(char::from).collect()
}

/// Writes a random token into `file`, unless the file exists. Only the owner can read it. Returns whether it was created.
/// A relative path is not used: it may be the token itself, set here by mistake.
pub(super) fn create_token(key: &str, file: &Path) -> Result<bool, SettingsError> {
    if !file.is_absolute() || file.symlink_metadata().is_ok() {
        return Ok(false);
    }
    // After a crash the file is complete, or does not exist.
    let unfinished = file.with_extension("new");
    let write = || {
        // A file that exists may have other permissions.
        let _ = std::fs::remove_file(&unfinished);
        let mut new = File::options().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        new.write_all(format!("{}\n", random_token()).as_bytes())?;
        new.sync_all()?;
        std::fs::rename(&unfinished, file)
    };
    match write() {
        Ok(()) => Ok(true),
        Err(error) => not_allowed(
            key,
            displayed(file),
            format!("the file does not exist and cannot be created: {error}"),
        ),
    }
}

/// The largest file of secrets or settings, in bytes.
const MAX_BYTES: u64 = 64 << 10;

/// Reads a file of secrets or settings. Pipes and devices are errors: reading them could block forever.
pub(super) fn read_file(file: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(file, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::other("it is larger than 64 KiB"));
    }
    Ok(bytes)
}

/// The lines of a file of secrets, without blank lines and comments. Empty for an empty path.
fn read(key: &str, file: &Path) -> Result<Vec<String>, SettingsError> {
    if file.as_os_str().is_empty() {
        return Ok(Vec::new());
    }
    let invalid = |why: &str| not_allowed(key, displayed(file), why);
    let bytes = match read_file(file) {
        Ok(bytes) => bytes,
        Err(error) => return invalid(&format!("the file cannot be read: {error}")),
    };
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) || bytes.contains(&0) {
        return invalid("the file is UTF-16 or binary: save it as UTF-8");
    }
    let Ok(text) = String::from_utf8(bytes) else {
        return invalid("the file is not UTF-8");
    };
    // Editors write a byte order mark at the start of a file. If files were concatenated, other lines can begin with one, too.
    let lines = text.lines().map(|line| line.trim_start_matches('\u{feff}').trim());
    let lines: Vec<_> =
        lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect();
    // An empty list would leave webhooks unauthenticated.
    if lines.is_empty() {
        return invalid("the file is empty: write one value per line");
    }
    if lines.iter().any(|line| is_quoted(line)) {
        return invalid(&format!("a line {QUOTED}"));
    }
    if lines.iter().any(|line| line.contains(char::is_control)) {
        return invalid("a line contains a control character");
    }
    Ok(lines)
}

/// The path, or [`NOT_SHOWN`] if it may be the secret itself, set here by mistake.
fn displayed(file: &Path) -> String {
    if file.is_absolute() || file.exists() { file.display().to_string() } else { NOT_SHOWN.to_owned() }
}

/// The files that the secrets were read from, with their state at that time. Without the files of `traces.otlp_headers` and
/// `eachlabs.api_key`, whose changes need a restart.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    /// The file of `--config`.
    pub(crate) config: Option<PathBuf>,
    files: Vec<(PathBuf, Option<Stamp>)>,
}

/// Modification time (seconds, nanoseconds), size, device and inode. It changes when the contents change.
type Stamp = (i64, i64, u64, u64, u64);

fn stamp(file: &Path) -> Option<Stamp> {
    let of = |m: Metadata| (m.mtime(), m.mtime_nsec(), m.size(), m.dev(), m.ino());
    std::fs::metadata(file).ok().map(of)
}

impl Sources {
    /// Call it before reading the files, so that a change during the read is noticed.
    pub(super) fn of<'p>(config: Option<&'p Path>, files: impl IntoIterator<Item = &'p Path>) -> Self {
        let named = files.into_iter().chain(config).filter(|file| !file.as_os_str().is_empty());
        Self {
            config: config.map(Path::to_owned),
            files: named.map(|file| (file.to_owned(), stamp(file))).collect(),
        }
    }

    pub(crate) fn has_files(&self) -> bool {
        !self.files.is_empty()
    }

    /// Whether a file has changed since [`Sources::of`].
    pub(crate) fn changed(&self) -> bool {
        self.files.iter().any(|(file, before)| stamp(file) != *before)
    }
}
