//! The form of identifiers in URLs and in `/openapi.json`.

use serde::Serialize;
use utoipa::ToSchema;

/// Identifiers have at most 255 bytes; a schema can limit characters only.
pub(crate) const MAX_CHARS: usize = 255;

// No doc comment: it would become the description of every parameter.
#[derive(Serialize, ToSchema)]
#[schema(min_length = 1, max_length = 255, pattern = r"^[^\x00]+$")]
pub(crate) struct Identifier(String);

// No doc comments: see above.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "for the OpenAPI document only")]
pub(crate) enum IdentifierOrInteger {
    Text(Identifier),
    Integer(i64),
}

/// Whether `text` conforms to the schema of [`Identifier`].
pub(crate) fn is_valid(text: &str) -> bool {
    !text.is_empty() && text.chars().nth(MAX_CHARS).is_none() && !text.contains('\0')
}
