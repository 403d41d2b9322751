//! The form of identifiers in URLs and in `/openapi.json`.

use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// Identifiers have at most 255 bytes; a schema can limit characters only.
pub(crate) const MAX_CHARS: usize = 255;

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

/// Whether `text` conforms to the schema of [`Identifier`].
pub(crate) fn is_valid(text: &str) -> bool {
    !text.is_empty() && text.chars().nth(MAX_CHARS).is_none() && !text.contains('\0')
}
