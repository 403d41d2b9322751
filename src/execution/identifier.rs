//! The form of identifiers: in a webhook, in URLs, and in `/openapi.json`.

use std::borrow::Cow;

use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// Maximum length of an identifier or status in bytes. The sender documents no limit; its examples have 36 bytes. An index
/// row of PostgreSQL holds about 2,700.
pub const MAX_ID_BYTES: usize = 255;
const TOO_LONG: &str = "is longer than 255 bytes";

// No doc comment: it would become the description of every parameter.
#[derive(ToSchema)]
#[schema(min_length = 1, max_length = 255, pattern = r"^[^\x00]+$")]
pub(crate) struct Identifier(#[expect(dead_code, reason = "for the OpenAPI document only")] String);

/// An [`Identifier`], or an integer of any size.
pub(crate) struct IdentifierOrInteger;

impl PartialSchema for IdentifierOrInteger {
    fn schema() -> RefOr<Schema> {
        let integer = ObjectBuilder::new().schema_type(Type::Integer);
        OneOfBuilder::new().item(Identifier::schema()).item(integer).into()
    }
}

impl ToSchema for IdentifierOrInteger {}

/// Whether `text` conforms to the schema of [`Identifier`], which limits the length in characters, not in bytes.
pub(crate) fn is_valid(text: &str) -> bool {
    !text.is_empty() && text.chars().nth(MAX_ID_BYTES).is_none() && !text.contains('\0')
}

/// Parses an identifier: a JSON string, or the digits of a JSON integer. A number with a fraction or an exponent is
/// rejected, because it can be written in several ways.
pub(super) fn identifier(raw: &str) -> Result<Cow<'_, str>, &'static str> {
    match raw.as_bytes() {
        [b'-' | b'0'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit) => {
            if raw.len() > MAX_ID_BYTES { Err(TOO_LONG) } else { Ok(Cow::Borrowed(raw)) }
        }
        [b'"', ..] => short_text(raw),
        _ => Err("is neither a string nor an integer"),
    }
}

/// Parses a JSON string of 1 to [`MAX_ID_BYTES`] bytes without U+0000.
pub(super) fn short_text(raw: &str) -> Result<Cow<'_, str>, &'static str> {
    let Some(plain) = raw.strip_prefix('"').and_then(|r| r.strip_suffix('"')) else {
        return Err("is not a string");
    };
    let id = if plain.contains('\\') {
        Cow::Owned(serde_json::from_str(raw).map_err(|_| "holds a lone surrogate")?)
    } else {
        Cow::Borrowed(plain)
    };
    match &*id {
        "" => Err("is empty"),
        id if id.len() > MAX_ID_BYTES => Err(TOO_LONG),
        id if id.contains('\0') => Err("holds U+0000"),
        _ => Ok(id),
    }
}
