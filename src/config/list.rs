//! A list of texts: an array, or comma-separated text as in the environment.

use serde::Deserialize;

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum List {
    Text(String),
    Items(Vec<String>),
}

impl List {
    /// The trimmed parts of a comma-separated text that are not empty.
    pub(super) fn parts(text: &str) -> impl Iterator<Item = &str> {
        text.split(',').map(str::trim).filter(|part| !part.is_empty())
    }
}
