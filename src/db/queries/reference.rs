//! References of the caller: the query parameters of `webhook_url`.

use std::str::FromStr;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::columns::Cell;
use super::json::Json;

/// The parameters as the text of a JSON object of strings.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::Type)]
#[sqlx(transparent)]
pub(crate) struct Reference(String);

impl Reference {
    /// The names and values.
    pub(crate) fn pairs(&self) -> Vec<(String, String)> {
        let parameters: Map<String, Value> = serde_json::from_str(&self.0).unwrap_or_default();
        let pair = |(name, value): (String, Value)| (name, value.as_str().unwrap_or_default().to_owned());
        parameters.into_iter().map(pair).collect()
    }

    /// The parameters in one line, such as `order=1234 user=42`.
    pub(crate) fn to_line(&self) -> String {
        let pair = |(name, value): &(String, String)| format!("{name}={value}");
        self.pairs().iter().map(pair).collect::<Vec<_>>().join(" ")
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Json(self.0.clone()).serialize(serializer)
    }
}

impl<'r> From<&'r Reference> for Cell<'r> {
    fn from(reference: &'r Reference) -> Self {
        Self::Text(&reference.0)
    }
}

/// Maximum length of a filter in characters. A reference has at most 2,048 bytes.
const MAX_CHARS: usize = 2_048;

// No doc comment: it would become the description of every parameter.
#[derive(ToSchema)]
#[schema(min_length = 2, max_length = 2048, pattern = r"^[^=\x00]+=[^\x00]*$")]
pub(crate) struct ReferenceText(#[expect(dead_code, reason = "for the OpenAPI document only")] String);

/// A filter by one parameter, given as [`ReferenceText`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReferenceFilter {
    /// A JSON object that the reference must contain.
    json: String,
}

impl ReferenceFilter {
    pub(super) fn as_json(&self) -> &str {
        &self.json
    }
}

/// A text that is not a [`ReferenceFilter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be name=value, such as order=1234")]
pub(crate) struct InvalidReference;

impl FromStr for ReferenceFilter {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let (name, value) = text.split_once('=').ok_or(InvalidReference)?;
        if name.is_empty() || text.contains('\0') || text.chars().nth(MAX_CHARS).is_some() {
            return Err(InvalidReference);
        }
        Ok(Self { json: json!({ name: value }).to_string() })
    }
}
