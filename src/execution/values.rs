//! Reads JSON values without building them.

use std::borrow::Cow;
use std::fmt;

use memchr::memchr2;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

use super::identifier::short_text;

/// Maximum length of a cost or duration in characters.
const MAX_NUMBER_CHARS: usize = 64;

/// The JSON texts of the elements of an array; of an object, names and values in turn. Ends at a syntax error, and at once
/// for other values.
#[derive(Debug, Clone)]
pub(crate) struct Values<'t> {
    rest: &'t str,
}

impl<'t> Values<'t> {
    pub(crate) fn of(container: &'t str) -> Self {
        Self { rest: container.strip_prefix(['[', '{']).unwrap_or_default() }
    }
}

impl<'t> Iterator for Values<'t> {
    type Item = &'t str;

    fn next(&mut self) -> Option<&'t str> {
        let mut values = serde_json::Deserializer::from_str(self.rest).into_iter::<&RawValue>();
        let value = values.next()?.ok()?.get();
        let rest = self.rest.get(values.byte_offset()..)?.trim_ascii_start();
        self.rest = rest.strip_prefix([',', ':']).unwrap_or_default();
        Some(value)
    }
}

/// Calls `visit` with each field of an object and its JSON text; not at all for other values. A syntax error ends the visit.
pub(super) fn each_field<'t>(text: &'t str, visit: impl FnMut(&[u8], &'t str)) {
    let _ = try_each_field(text, visit);
}

/// As [`each_field`].
///
/// # Errors
/// If `text` is not the JSON text of an object.
pub(super) fn try_each_field<'t>(text: &'t str, visit: impl FnMut(&[u8], &'t str)) -> serde_json::Result<()> {
    let mut parser = serde_json::Deserializer::from_str(text);
    parser.deserialize_map(Each(visit))?;
    parser.end()
}

struct Each<F>(F);

impl<'de, F: FnMut(&[u8], &'de str)> Visitor<'de> for Each<F> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        // RawValue rejects control characters in keys; reading keys as bytes would not.
        while let Some(key) = map.next_key::<&RawValue>()? {
            (self.0)(&unescaped(key.get()), map.next_value::<&RawValue>()?.get());
        }
        Ok(())
    }
}

/// The index after the closing quotation mark of the string that begins at `start`.
pub(super) fn end_of_string(json: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        at += memchr2(b'"', b'\\', json.get(at..)?)?;
        if json[at] == b'"' {
            return Some(at + 1);
        }
        // The escaped character can be a quotation mark.
        at += 2;
    }
}

pub(super) fn timestamp(raw: &str) -> Option<OffsetDateTime> {
    // In UTC, a time near the end of the calendar may be outside of the range of `time` or of RFC 3339.
    let at =
        OffsetDateTime::parse(&short_text(raw).ok()?, &Rfc3339).ok()?.checked_to_offset(UtcOffset::UTC)?;
    (at.year() >= 0).then_some(at)
}

/// Converts any value to text that PostgreSQL can hold: a string as it is, another value as JSON. U+FFFD replaces U+0000
/// and lone surrogates.
pub(super) fn lossy_text(raw: &str) -> Cow<'_, str> {
    match raw.strip_prefix('"').and_then(|r| r.strip_suffix('"')) {
        None => Cow::Borrowed(raw),
        Some(plain) if !plain.contains('\\') => Cow::Borrowed(plain),
        Some(_) => Cow::Owned(String::from_utf8_lossy(&unescaped(raw)).replace('\0', "\u{fffd}")),
    }
}

/// Accepts a finite number of at most [`MAX_NUMBER_CHARS`].
pub(super) fn number(raw: &str) -> Option<&str> {
    let is_number = raw.starts_with(|c: char| c.is_ascii_digit() || c == '-');
    (is_number && raw.len() <= MAX_NUMBER_CHARS && raw.parse::<f64>().is_ok_and(f64::is_finite))
        .then_some(raw)
}

/// The content of a JSON string as bytes: it may contain lone surrogates, which `String` cannot hold.
pub(crate) fn unescaped(raw: &str) -> Cow<'_, [u8]> {
    match raw.strip_prefix('"').and_then(|r| r.strip_suffix('"')) {
        Some(plain) if !plain.contains('\\') => Cow::Borrowed(plain.as_bytes()),
        _ => Cow::Owned(serde_json::Deserializer::from_str(raw).deserialize_bytes(Bytes).unwrap_or_default()),
    }
}

struct Bytes;

impl Visitor<'_> for Bytes {
    type Value = Vec<u8>;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a string")
    }
    fn visit_bytes<E>(self, v: &[u8]) -> Result<Vec<u8>, E> {
        Ok(v.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_notation() {
        let values = |text| Values::of(text).collect::<Vec<_>>();
        assert_eq!(values(r#"[ 1 ,"a\"]" , [2, {}] ,null]"#), ["1", r#""a\"]""#, "[2, {}]", "null"]);
        assert_eq!(
            values(r#"{"a" : {"b":[1]}, "a":-1.0e5 }"#),
            [r#""a""#, r#"{"b":[1]}"#, r#""a""#, "-1.0e5"]
        );
        assert_eq!(values("[true,false]"), ["true", "false"]);
        for other in ["[]", "{ }", "1", "\"[1]\"", "null", ""] {
            assert!(values(other).is_empty(), "{other}");
        }
    }

    #[test]
    fn a_timestamp_outside_of_the_calendar_in_utc_is_ignored() {
        for (written, usable) in [
            ("9999-12-31T23:59:59-01:00", false),
            ("0000-01-01T00:00:00+01:00", false),
            ("9999-12-31T23:59:59Z", true),
            ("0000-01-01T00:00:00Z", true),
        ] {
            assert_eq!(timestamp(&format!(r#""{written}""#)).is_some(), usable, "{written}");
        }
    }
}
