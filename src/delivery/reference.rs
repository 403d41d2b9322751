//! The caller's reference: the query parameters of `webhook_url`.
//!
//! The requests of `each::labs` that trigger a workflow have no field for data of the caller. A caller can only add
//! parameters to `webhook_url`, such as `?order=1234&user=42`. The sender's signature does not cover them.

use axum::http::Uri;
use serde_json::{Map, Value};

/// The maximum size of a reference as JSON text, in bytes.
pub(crate) const MAX_REFERENCE_BYTES: usize = 2_048;

/// The parameter of a URL token, in upper or lower case. It is never stored.
const TOKEN: &str = "token";

/// A shorter text after `token=` cannot be a URL token, so other parameters may contain it.
const MIN_TOKEN_LENGTH: usize = 8;

/// The query parameters of `uri` as a JSON object of strings; `None` without parameters. The first value of a repeated
/// name counts. Parameters are added in their order while the object has at most [`MAX_REFERENCE_BYTES`] bytes; `on_cut`
/// is called if the others are left out. A parameter that contains one of `tokens`, for example after a misspelt
/// `&amp;token=`, is left out, too.
pub(crate) fn of_uri<'u>(
    uri: &Uri,
    tokens: impl Iterator<Item = &'u str>,
    on_cut: impl FnOnce(),
) -> Option<String> {
    let tokens: Vec<_> = tokens.filter(|token| token.len() >= MIN_TOKEN_LENGTH).collect();
    let mut reference = Map::new();
    let mut bytes = "{}".len();
    for (name, value) in form_urlencoded::parse(uri.query()?.as_bytes()) {
        let has_token = tokens.iter().any(|token| name.contains(token) || value.contains(token));
        if name.is_empty() || name.eq_ignore_ascii_case(TOKEN) || has_token || reference.contains_key(&*name)
        {
            continue;
        }
        // jsonb cannot hold U+0000.
        let [name, value] = [name, value].map(|text| text.replace('\0', "\u{fffd}"));
        let value = Value::from(value);
        bytes += Value::from(&*name).to_string().len() + value.to_string().len() + ":,".len();
        if bytes > MAX_REFERENCE_BYTES {
            on_cut();
            break;
        }
        reference.insert(name, value);
    }
    (!reference.is_empty()).then(|| Value::Object(reference).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(query: &str) -> Option<String> {
        let uri = format!("http://host/webhooks/workflow-completed?{query}").parse().unwrap();
        of_uri(&uri, ["a_valid_token"].into_iter(), || {})
    }

    #[test]
    fn a_reference_has_every_query_parameter_except_the_token() {
        for (query, expected) in [
            ("order=1234&user=42", Some(r#"{"order":"1234","user":"42"}"#)),
            ("order=1234&token=secret&%74oken=secret&Token=secret", Some(r#"{"order":"1234"}"#)),
            ("token=secret", None),
            (
                "amp;token=a_valid_token&token[]=a_valid_token&ref=x/a_valid_token&a=1;token=a_valid_token",
                None,
            ),
            ("", None),
            ("&&=1", None),
            ("flag", Some(r#"{"flag":""}"#)),
            ("order=first&order=second", Some(r#"{"order":"first"}"#)),
            ("a+b=%22c%20%C3%A4%22", Some(r#"{"a b":"\"c ä\""}"#)),
            ("a=%00%ff", Some("{\"a\":\"\u{fffd}\u{fffd}\"}")),
        ] {
            assert_eq!(reference(query).as_deref(), expected, "{query}");
        }
    }

    #[test]
    fn a_reference_is_bounded() {
        let longest = "x".repeat(MAX_REFERENCE_BYTES - r#"{"a":"","b":""}"#.len() - 2);
        let stored = reference(&format!("a={longest}&b=&c=1")).unwrap();
        assert_eq!(stored, format!(r#"{{"a":"{longest}","b":""}}"#));
        assert!(stored.len() <= MAX_REFERENCE_BYTES);
        assert_eq!(reference(&format!("a={longest}{longest}")), None);
        // Escaped characters count as their JSON text.
        assert_eq!(reference(&format!("a={}", "%01".repeat(MAX_REFERENCE_BYTES / 4))), None);
    }
}
