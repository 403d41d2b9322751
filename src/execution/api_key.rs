//! Removes secrets from bodies. The bodies of legacy flows contain the caller's key of `each::labs` as plain text. An execution
//! that was read from the API can contain more secrets, such as those in its inputs.

use memchr::{memchr, memmem};
use serde_json::value::RawValue;

use super::values::{Values, each_field, end_of_string, unescaped};

const NAME: &str = "api_key";
/// The names of fields with secrets in a fetched or quarantined body. Names are compared without case.
const SECRETS: [&str; 2] = [NAME, "webhook_secret"];

/// The body with `null` as the value of each `api_key`; `None` if there is nothing to replace. Only the fields of the body
/// itself, or of the elements of an array, are replaced. A body that is not JSON is cleaned up to the error;
/// the receiver does not store such a body.
pub(crate) fn remove(body: &[u8]) -> Option<Vec<u8>> {
    // An escaped name contains \u00.
    memmem::find(body, NAME.as_bytes()).or_else(|| memmem::find(body, b"\\u00"))?;
    let text = super::text(body).ok()?.trim_ascii_start();
    let mut values: Vec<&str> = Vec::new();
    let mut collect = |object| {
        each_field(object, |key, value| {
            if key == NAME.as_bytes() {
                values.push(value);
            }
        });
    };
    if text.starts_with('[') {
        Values::of(text).for_each(collect);
    } else {
        collect(text);
    }
    replaced(body, &values)
}

/// A fetched or quarantined body with `null` as the value of each of [`SECRETS`], at any depth; `None` if there is nothing to
/// replace. All other bytes stay. A body that is not JSON is cleaned up to the error.
pub(crate) fn remove_at_any_depth(body: &[u8]) -> Option<Vec<u8>> {
    replaced(body, &secrets(super::text(body).ok()?).0)
}

/// The start of a body, with `null` as the value of each of [`SECRETS`], at any depth. The result ends before a secret that is
/// cut off.
pub(crate) fn remove_from_start(start: &str) -> String {
    let (values, cut) = secrets(start);
    let start = &start[..cut.unwrap_or(start.len())];
    let cleaned = replaced(start.as_bytes(), &values);
    cleaned.map_or_else(|| start.to_owned(), |cleaned| String::from_utf8_lossy(&cleaned).into_owned())
}

/// The values of [`SECRETS`] at any depth, up to a syntax error, and the index of a value that is not complete.
fn secrets(text: &str) -> (Vec<&str>, Option<usize>) {
    let bytes = text.as_bytes();
    let (mut values, mut at) = (Vec::new(), 0);
    // Every string is read, and those before a colon are keys. No recursion: bodies can be nested deeply.
    while let Some(start) = memchr(b'"', &bytes[at..]).map(|found| at + found) {
        let Some(end) = end_of_string(bytes, start) else { break };
        at = end + bytes[end..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        if bytes.get(at) != Some(&b':') || !is_secret(&text[start..end]) {
            continue;
        }
        let mut value = serde_json::Deserializer::from_str(&text[at + 1..]).into_iter::<&RawValue>();
        let Some(Ok(value)) = value.next() else { return (values, Some(at + 1)) };
        values.push(value.get());
        at = value.get().as_ptr().addr() - bytes.as_ptr().addr() + value.get().len();
    }
    (values, None)
}

fn is_secret(key: &str) -> bool {
    let key = unescaped(key);
    SECRETS.iter().any(|secret| key.eq_ignore_ascii_case(secret.as_bytes()))
}

/// `body` with `null` in place of `values`. These are slices of `body`, in the order of their position. `None` if all of them
/// are null.
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

    #[test]
    fn the_start_of_a_body_ends_before_a_secret_that_is_cut_off() {
        for (start, expected) in [
            (r#"{"a":{"api_key":"s","x":"\""#, r#"{"a":{"api_key":null,"x":"\""#),
            (
                r#"{"api_key":"s","a":[{"Webhook_Secret" : "cut"#,
                r#"{"api_key":null,"a":[{"Webhook_Secret" :"#,
            ),
            (r#"{"api\u005fkey":{"a":"cut"#, r#"{"api\u005fkey":"#),
            (r#"{"a":"api_key"#, r#"{"a":"api_key"#),
            ("not JSON", "not JSON"),
        ] {
            assert_eq!(remove_from_start(start), expected, "{start}");
        }
    }
}
