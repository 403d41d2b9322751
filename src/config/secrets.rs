//! Settings that are secrets: lists of them, and files that hold them.

use std::fmt;
use std::path::Path;

use secrecy::{ExposeSecret, SecretString};
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

use super::complaint::not_allowed;
use super::{NOT_SHOWN, SettingsError};

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

    /// Without what is empty, such as what follows the last separator.
    fn split(text: &str, separator: char) -> impl Iterator<Item = SecretString> {
        text.split(separator).map(str::trim).filter(|secret| !secret.is_empty()).map(SecretString::from)
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
                let secrets: Vec<_> = Secrets::split(text, ',').collect();
                // What was to be a secret must not open the door.
                if secrets.is_empty() && !text.is_empty() {
                    return Err(E::custom("holds none"));
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
    if let Some(text) = read(key, file)? {
        list.0.extend(Secrets::split(&text, '\n'));
    }
    Ok(())
}

/// Takes the one that `file` holds, if one is named.
pub(super) fn one_of_file(key: &str, file: &Path, secret: &mut SecretString) -> Result<(), SettingsError> {
    let Some(text) = read(key, file)? else { return Ok(()) };
    if !secret.expose_secret().is_empty() {
        let why = format!("{} is set, too: set one of them", key.trim_end_matches("_file"));
        return not_allowed(key, &shown(file), why);
    }
    *secret = text.trim().into();
    Ok(())
}

fn read(key: &str, file: &Path) -> Result<Option<String>, SettingsError> {
    if file.as_os_str().is_empty() {
        return Ok(None);
    }
    match std::fs::read_to_string(file) {
        // A file that was not filled must not open the door.
        Ok(text) if text.trim().is_empty() => {
            not_allowed(key, &shown(file), "the file is empty; one a line belongs there".to_owned())
        }
        Ok(text) => Ok(Some(text)),
        Err(error) => not_allowed(key, &shown(file), format!("the file cannot be read: {error}")),
    }
}

/// A path, unless it may be the secret itself, put here by mistake.
fn shown(file: &Path) -> String {
    if file.is_absolute() || file.exists() { file.display().to_string() } else { NOT_SHOWN.to_owned() }
}
