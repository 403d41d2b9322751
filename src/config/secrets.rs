//! Settings that are secrets: lists of them, and files that hold them.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use secrecy::{ExposeSecret, SecretString};
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

use super::error::not_allowed;
use super::{NOT_SHOWN, SettingsError};

/// Shells remove quotation marks, `docker run --env-file` and others do not: they would become part of the secret.
pub(super) const QUOTED: &str = "begins with a quotation mark: write it without (a webhook secret that really begins \
                                 with one belongs in an array of the file that --config names)";

/// Whether a value looks as if it was quoted for a shell, or for TOML or JSON.
pub(super) fn is_quoted(text: &str) -> bool {
    text.strip_prefix('[').unwrap_or(text).trim_start().starts_with(['"', '\''])
}

/// A list of secrets: an array, or text with commas between them, as in the environment.
#[derive(Debug, Clone, Default)]
pub struct Secrets(pub Vec<SecretString>);

impl Secrets {
    /// These.
    #[must_use]
    pub fn of(secrets: &[&str]) -> Self {
        Self(secrets.iter().map(|secret| (*secret).into()).collect())
    }

    /// The length of the shortest, in bytes.
    #[must_use]
    pub fn shortest(&self) -> usize {
        self.0.iter().map(|secret| secret.expose_secret().len()).min().unwrap_or(usize::MAX)
    }

    /// Whether both have the same secrets in the same order.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        let exposed = |list: &Self| list.0.iter().map(|s| s.expose_secret().to_owned()).collect::<Vec<_>>();
        exposed(self) == exposed(other)
    }
}

impl<'de> Deserialize<'de> for Secrets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Secrets;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a list of texts")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Secrets, E> {
                let parts = || text.split(',').map(str::trim).filter(|secret| !secret.is_empty());
                let secrets: Vec<_> = parts().map(SecretString::from).collect();
                // An empty list here would leave webhooks unauthenticated.
                if secrets.is_empty() && !text.is_empty() {
                    return Err(E::custom("holds none"));
                }
                if parts().any(is_quoted) {
                    return Err(E::custom(QUOTED));
                }
                Ok(Secrets(secrets))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Secrets, A::Error> {
                let mut secrets = Vec::new();
                while let Some(secret) = list.next_element::<String>()? {
                    if secret.trim().is_empty() {
                        return Err(A::Error::custom("must not hold an empty one"));
                    }
                    secrets.push(secret.into());
                }
                Ok(Secrets(secrets))
            }
        }
        deserializer.deserialize_any(List)
    }
}

/// Adds what `file` holds, one a line, if one is named.
pub(super) fn read_list(key: &str, file: &Path, list: &mut Secrets) -> Result<(), SettingsError> {
    list.0.extend(read(key, file)?.into_iter().map(SecretString::from));
    Ok(())
}

/// Takes the one that `file` holds, if one is named.
pub(super) fn one_of_file(key: &str, file: &Path, secret: &mut SecretString) -> Result<(), SettingsError> {
    let lines = read(key, file)?;
    let Some(first) = lines.first() else { return Ok(()) };
    if !secret.expose_secret().is_empty() {
        let why = format!("{} is set, too: set one of them", key.trim_end_matches("_file"));
        return not_allowed(key, &shown(file), why);
    }
    if lines.len() > 1 {
        return not_allowed(key, &shown(file), "the file holds more than one line".to_owned());
    }
    *secret = first.as_str().into();
    Ok(())
}

/// The largest file of secrets or settings, in bytes.
const MAX_BYTES: u64 = 64 << 10;

/// The contents of a file of secrets or settings. Blocks on no pipe or device: a reload would wait for it without end.
pub(super) fn bytes(file: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(file, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::other("it is larger than 64 KiB"));
    }
    Ok(bytes)
}

/// The lines of a file of secrets, without blank ones and comments. Empty when no file is named.
fn read(key: &str, file: &Path) -> Result<Vec<String>, SettingsError> {
    if file.as_os_str().is_empty() {
        return Ok(Vec::new());
    }
    let complain = |why: String| not_allowed(key, &shown(file), why);
    let bytes = match bytes(file) {
        Ok(bytes) => bytes,
        Err(error) => return complain(format!("the file cannot be read: {error}")),
    };
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) || bytes.contains(&0) {
        return complain("the file is UTF-16 or binary: save it as UTF-8".to_owned());
    }
    let Ok(text) = String::from_utf8(bytes) else {
        return complain("the file is not UTF-8".to_owned());
    };
    // Editors put a byte order mark at the start; concatenated files have it before other lines, too.
    let lines = text.lines().map(|line| line.trim_start_matches('\u{feff}').trim());
    let lines: Vec<_> =
        lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect();
    // An empty list here would leave webhooks unauthenticated.
    if lines.is_empty() {
        return complain("the file is empty; one a line belongs there".to_owned());
    }
    if lines.iter().any(|line| is_quoted(line)) {
        return complain(format!("a line {QUOTED}"));
    }
    if lines.iter().any(|line| line.contains(char::is_control)) {
        return complain("a line holds a control character".to_owned());
    }
    Ok(lines)
}

/// A path, unless it may be the secret itself, put here by mistake.
fn shown(file: &Path) -> String {
    if file.is_absolute() || file.exists() { file.display().to_string() } else { NOT_SHOWN.to_owned() }
}

/// The files that secrets were read from, and how to know that one has changed since.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    /// The file that `--config` names.
    pub(super) config: Option<PathBuf>,
    files: Vec<(PathBuf, Option<Stamp>)>,
}

/// What changes with a file's contents: time of modification, size, file system and inode.
type Stamp = (i64, i64, u64, u64, u64);

fn stamp(file: &Path) -> Option<Stamp> {
    let of = |m: Metadata| (m.mtime(), m.mtime_nsec(), m.size(), m.dev(), m.ino());
    std::fs::metadata(file).ok().map(of)
}

impl Sources {
    /// To be called before the files are read: a change while they are read is noticed later.
    pub(super) fn of<'p>(config: Option<&'p Path>, files: impl IntoIterator<Item = &'p Path>) -> Self {
        let named = files.into_iter().chain(config).filter(|file| !file.as_os_str().is_empty());
        Self {
            config: config.map(Path::to_owned),
            files: named.map(|file| (file.to_owned(), stamp(file))).collect(),
        }
    }

    /// Whether there is a file at all.
    pub(crate) fn any(&self) -> bool {
        !self.files.is_empty()
    }

    /// Whether a file is another one than when it was read.
    pub(crate) fn changed(&self) -> bool {
        self.files.iter().any(|(file, before)| stamp(file) != *before)
    }
}
