//! Removes API keys from bodies. The bodies of legacy flows contain the caller's key of `each::labs` in clear.

use std::fmt;

use memchr::memmem;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::unescaped;

const NAME: &str = "api_key";

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
    let mut cleaned = Vec::with_capacity(body.len());
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
}
