//! Removes secrets from bodies. The bodies of legacy flows contain the caller's key of `each::labs` in clear. An execution of
//! the API can contain more secrets, such as those in its inputs.

use std::fmt;

use memchr::{memchr, memchr2, memmem};
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::values::unescaped;

const NAME: &str = "api_key";
/// The names of secrets in a body of the API, in upper or lower case.
const SECRETS: [&str; 2] = [NAME, "webhook_secret"];

/// The body with `null` as the value of each `api_key`; `None` if it has none. Only the fields of the body itself, or of the
/// elements of an array, are replaced. A body that is not JSON is left as it is: it is not stored.
pub(crate) fn remove(body: &[u8]) -> Option<Vec<u8>> {
    // An escaped name contains \u00.
    memmem::find(body, NAME.as_bytes()).or_else(|| memmem::find(body, b"\\u00"))?;
    let text = super::text(body).ok()?;
    let mut values: Vec<&str> = Vec::new();
    let mut parser = serde_json::Deserializer::from_str(text);
    // After an error, the values before it are removed all the same.
    let _ = parser.deserialize_any(Values { found: &mut values, is_element: false });
    replaced(body, &values)
}

/// A fetched or quarantined body with `null` as the value of each of [`SECRETS`], at any depth; `None` if it has none. All
/// other bytes stay.
/// A body that is not JSON is cleaned up to the error: it is not stored.
pub(crate) fn remove_at_any_depth(body: &[u8]) -> Option<Vec<u8>> {
    let text = super::text(body).ok()?;
    let bytes = text.as_bytes();
    let mut values: Vec<&str> = Vec::new();
    let mut at = 0;
    // Every string is read, and those before a colon are keys. No recursion: bodies can be nested deeply.
    while let Some(start) = memchr(b'"', &bytes[at..]).map(|found| at + found) {
        let Some(end) = end_of_string(bytes, start) else { break };
        at = end + bytes[end..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        if bytes.get(at) != Some(&b':') || !is_secret(&text[start..end]) {
            continue;
        }
        let mut value = serde_json::Deserializer::from_str(&text[at + 1..]).into_iter::<&RawValue>();
        let Some(Ok(value)) = value.next() else { break };
        values.push(value.get());
        at = value.get().as_ptr().addr() - bytes.as_ptr().addr() + value.get().len();
    }
    replaced(body, &values)
}

/// The end of the string that begins at `start`.
fn end_of_string(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        at += memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at + 1);
        }
        // The escaped character can be a quotation mark.
        at += 2;
    }
}

fn is_secret(key: &str) -> bool {
    let key = unescaped(key);
    SECRETS.iter().any(|secret| key.eq_ignore_ascii_case(secret.as_bytes()))
}

/// `body` with `null` in place of `values`, which are parts of it, in their order. `None` if all of them are null.
fn replaced(body: &[u8], values: &[&str]) -> Option<Vec<u8>> {
    let mut cleaned = Vec::with_capacity(if values.is_empty() { 0 } else { body.len() });
    let mut copied = 0;
    for value in values.iter().filter(|value| **value != "null") {
        let start = value.as_ptr().addr() - body.as_ptr().addr();
        cleaned.extend_from_slice(&body[copied..start]);
        cleaned.extend_from_slice(b"null");
        copied = start + value.len();
    }
    (copied > 0).then(|| {
        cleaned.extend_from_slice(&body[copied..]);
        cleaned
    })
}

/// Collects the JSON texts of the values of `api_key`.
struct Values<'v, 'de> {
    found: &'v mut Vec<&'de str>,
    is_element: bool,
}

impl<'de> Visitor<'de> for Values<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object, or an array of objects")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        while let Some(key) = fields.next_key::<&RawValue>()? {
            let value = fields.next_value::<&RawValue>()?.get();
            if *unescaped(key.get()) == *NAME.as_bytes() {
                self.found.push(value);
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while let Some(element) = elements.next_element::<&RawValue>()? {
            if element.get().starts_with('{') && !self.is_element {
                let mut parser = serde_json::Deserializer::from_str(element.get());
                let _ = parser.deserialize_any(Values { found: &mut *self.found, is_element: true });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_api_key_of_the_body_or_of_its_elements_is_removed() {
        for (body, expected) in [
            (r#"{"api_key":"secret","a":1}"#, Some(r#"{"api_key":null,"a":1}"#)),
            ("\u{feff}{\"a\":\"ä\",\"api_key\" : \"s\" }", Some("\u{feff}{\"a\":\"ä\",\"api_key\" : null }")),
            (
                r#"{"api_key":"s","api_key":{"b":["c"]},"b":2}"#,
                Some(r#"{"api_key":null,"api_key":null,"b":2}"#),
            ),
            (r#"{"api_key":"s","api\u005fkey":"t"}"#, Some(r#"{"api_key":null,"api\u005fkey":null}"#)),
            (r#"{"\u0061pi_key":"s"}"#, Some(r#"{"\u0061pi_key":null}"#)),
            (r#"[1,{"api_key":"s"},{"api_key":null}]"#, Some(r#"[1,{"api_key":null},{"api_key":null}]"#)),
            (r#"{"api_key":null}"#, None),
            (r#"{"inputs":"the api_key"}"#, None),
            (r#"{"a":1}"#, None),
            (r#""api_key""#, None),
        ] {
            let cleaned = remove(body.as_bytes()).map(|cleaned| String::from_utf8(cleaned).unwrap());
            assert_eq!(cleaned.as_deref(), expected, "{body}");
        }
    }

    #[test]
    fn secrets_at_any_depth_are_removed_from_a_fetched_body() {
        let deep = |value: &str| {
            format!("{}{{\"api_key\":{value}}}{}", "[{\"a\":".repeat(5_000), "}]".repeat(5_000))
        };
        let (deeply, cleaned) = (deep("\"s\""), deep("null"));
        for (body, expected) in [
            (r#"{"api_key":"s","a":1.10}"#, Some(r#"{"api_key":null,"a":1.10}"#)),
            (
                r#"{"steps":{"s":{"API_Key" : {"b":["c"]} , "x":"\"api_key\":1"}},"inputs":[{"webhook_secret":"t"}]}"#,
                Some(
                    r#"{"steps":{"s":{"API_Key" : null , "x":"\"api_key\":1"}},"inputs":[{"webhook_secret":null}]}"#,
                ),
            ),
            (r#"[[{"api\u005fkey":7,"b\\":"\\"}]]"#, Some(r#"[[{"api\u005fkey":null,"b\\":"\\"}]]"#)),
            (&deeply, Some(&*cleaned)),
            ("\u{feff}{\"a\":{\"api_key\":\"ä\"}}", Some("\u{feff}{\"a\":{\"api_key\":null}}")),
            (r#"{"a":{"api_key":null}}"#, None),
            (r#"{"a":"api_key","b":["api_key","webhook_secret"],"my_api_key":1}"#, None),
            (r#"{"a":{"api_key":"#, None),
            (r#"{"api_key"#, None),
            (r#"{"a\"#, None),
        ] {
            let cleaned = remove_at_any_depth(body.as_bytes());
            let cleaned = cleaned.map(|cleaned| String::from_utf8(cleaned).unwrap());
            assert_eq!(cleaned.as_deref(), expected, "{body}");
        }
    }
}
