//! Compares JSON texts by value.

use std::cmp::Ordering;
use std::num::NonZeroU32;

use serde_json::Number;
use serde_json::value::RawValue;

use crate::execution::{Values, unescaped};

/// The limit of `serde_json` for nested values.
const MAX_DEPTH: usize = 127;

/// Whether two JSON texts have the same value: like `serde_json::Value`, which would need up to 100 times the memory of the
/// texts. Spaces, escapes and the order of fields do not matter, and the last of several fields with the same name counts.
/// `1` and `1.0` differ; `1.0` and `1e0` are the same. Values at a depth of more than [`MAX_DEPTH`] are the same only if
/// their texts are equal.
///
/// The comparison needs 24 bytes for each field of an object in `known`, and none for `delivered`.
pub(super) fn same_json(delivered: &str, known: &str) -> bool {
    same(delivered, known, MAX_DEPTH)
}

fn same(delivered: &str, known: &str, depth: usize) -> bool {
    let start = |text: &str| text.bytes().next();
    delivered == known
        || match (start(delivered), start(known)) {
            (Some(b'['), Some(b'[')) => depth > 0 && same_elements(delivered, known, depth - 1),
            (Some(b'{'), Some(b'{')) => depth > 0 && same_fields(delivered, known, depth - 1),
            (Some(b'"'), Some(b'"')) => same_parsed::<String>(delivered, known),
            // Equal texts of booleans and null were found above.
            _ => same_parsed::<Number>(delivered, known),
        }
}

fn same_parsed<T: PartialEq + serde::de::DeserializeOwned>(delivered: &str, known: &str) -> bool {
    let parsed = |text| serde_json::from_str::<T>(text).ok();
    parsed(delivered).is_some_and(|value| parsed(known) == Some(value))
}

fn same_elements(delivered: &str, known: &str, depth: usize) -> bool {
    let (mut delivered, mut known) = (Values::of(delivered), Values::of(known));
    loop {
        match (delivered.next(), known.next()) {
            (None, None) => return true,
            (Some(one), Some(other)) if same(one, other, depth) => {}
            _ => return false,
        }
    }
}

/// A field of the object `known`. Positions of values save memory.
struct Field<'k> {
    name: &'k str,
    known: u32,
    /// `None` until the delivered object has the field.
    delivered: Option<NonZeroU32>,
}

fn same_fields(delivered: &str, known: &str, depth: usize) -> bool {
    let mut fields: Vec<Field<'_>> = Vec::new();
    let mut values = Values::of(known);
    while let (Some(name), Some(value)) = (values.next(), values.next()) {
        let Some(known) = position(known, value) else { return false };
        fields.push(Field { name, known: known.get(), delivered: None });
    }
    // Of several fields with the same name, the last one in the text is sorted to the front, and stays.
    fields.sort_unstable_by(|one, other| by_name(one.name, other.name).then(other.known.cmp(&one.known)));
    fields.dedup_by(|later, first| by_name(later.name, first.name).is_eq());

    let mut values = Values::of(delivered);
    while let (Some(name), Some(value)) = (values.next(), values.next()) {
        let Ok(index) = fields.binary_search_by(|field| by_name(field.name, name)) else { return false };
        fields[index].delivered = position(delivered, value);
    }
    fields.iter().all(|field| {
        let Some(at) = field.delivered else { return false };
        value_at(delivered, at.get())
            .zip(value_at(known, field.known))
            .is_some_and(|(one, other)| same(one, other, depth))
    })
}

/// Compares the unescaped names.
fn by_name(one: &str, other: &str) -> Ordering {
    unescaped(one).cmp(&unescaped(other))
}

/// The position of `value` in the object `text` that contains it.
fn position(text: &str, value: &str) -> Option<NonZeroU32> {
    let position = value.as_ptr().addr() - text.as_ptr().addr();
    u32::try_from(position).ok()?.try_into().ok()
}

fn value_at(text: &str, position: u32) -> Option<&str> {
    let rest = text.get(usize::try_from(position).ok()?..)?;
    let mut values = serde_json::Deserializer::from_str(rest).into_iter::<&RawValue>();
    values.next()?.ok().map(RawValue::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_compared_like_parsed_values() {
        let nested = |depth: usize, inner: &str| [&*"[".repeat(depth), inner, &*"]".repeat(depth)].concat();
        let texts = [
            "null",
            "true",
            "false",
            "0",
            "-0",
            "-0.0",
            "0.0",
            "0e5",
            "1",
            "1.0",
            "1e0",
            "1.00",
            "10e-1",
            "-1",
            "18446744073709551615",
            "18446744073709551616",
            "18446744073709551617",
            "1e400",
            "1.8446744073709552e19",
            r#""""#,
            r#""a""#,
            r#""\u0061""#,
            r#""é""#,
            r#""\u00e9""#,
            r#""\/""#,
            r#""/""#,
            r#""\ud83d\ude00""#,
            r#""😀""#,
            r#""1""#,
            "[]",
            "[ ]",
            "[1]",
            "[ 1 ]",
            "[1,2]",
            "[2,1]",
            "[1.0,2]",
            "[1e0 , 2]",
            "[[1],[]]",
            "[[1], [ ]]",
            "[[],[1]]",
            "{}",
            "{ }",
            r#"{"a":1}"#,
            r#"{ "\u0061" : 1 }"#,
            r#"{"a":1,"b":2}"#,
            r#"{"b":2,"a":1}"#,
            r#"{"a":0,"b":2,"a":1}"#,
            r#"{"a":1,"b":2,"a":0}"#,
            r#"{"a":[{"b":{}}],"c":null}"#,
            r#"{"c":null,"a":[ {"b": { } } ]}"#,
            r#"{"c":null,"a":[{"b":[]}]}"#,
            r#"{"":0,"":1}"#,
            r#"{"":1}"#,
            r#"{"a":{"x":1,"y":2}}"#,
            r#"{"a":{"y":2,"x":1}}"#,
            r#"{"a":{"y":2,"x":1},"a":0}"#,
            r#"{"a":null}"#,
        ];
        let deep = [nested(126, "[1]"), nested(126, "[ 1]"), nested(127, "[1]"), nested(127, "[ 1]")];
        let texts: Vec<&str> = texts.into_iter().chain(deep.iter().map(String::as_str)).collect();
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
        for one in &texts {
            for other in &texts {
                let expected = one == other || value(one).is_some_and(|one| value(other) == Some(one));
                assert_eq!(same_json(one, other), expected, "{one} {other}");
            }
        }
    }

    #[test]
    fn texts_that_serde_json_cannot_parse_are_compared_as_texts() {
        assert!(same_json(r#"["\ud800", 1e999]"#, r#"["\ud800",1e999]"#));
        assert!(!same_json(r#"["\ud800"]"#, r#"["\uD800"]"#));
    }
}
