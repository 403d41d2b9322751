//! The caller's reference: the query parameters of `webhook_url`.
//!
//! The requests of `each::labs` that trigger a workflow have no field for data of the caller. A caller can only add
//! parameters to `webhook_url`, such as `?order=1234&user=42`. The sender's signature does not cover them.

use axum::http::Uri;
use serde_json::{Map, Value};

/// The maximum size of a reference as JSON text, in bytes.
pub(crate) const MAX_REFERENCE_BYTES: usize = 2_048;

/// The parameter of a URL token, in upper or lower case.
const TOKEN: &str = "token";

/// A parameter is not recorded if its name ends with one of these words, in upper or lower case. Digits and signs after the
/// word are ignored.
const SECRET_NAMES: [&str; 8] =
    [TOKEN, "secret", "password", "authorization", "signature", "api_key", "api-key", "apikey"];

/// Shorter texts after `token=` are not searched for in other parameters: they cannot be URL tokens. A configured secret
/// that is shorter is found only if it is the whole text.
const MIN_SECRET_LENGTH: usize = 8;

/// The query parameters of a URL.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct UrlParameters {
    /// The recorded parameters as a JSON object of strings; `None` without any.
    pub(crate) reference: Option<String>,
    /// Whether parameters are left out because the object would have more than [`MAX_REFERENCE_BYTES`].
    pub(crate) is_cut: bool,
    /// Whether a parameter other than `token` is left out because it is or may be a secret.
    pub(crate) has_secret: bool,
}

impl UrlParameters {
    /// Reads the parameters of `uri`. The first value of a repeated name counts. Parameters are added in their order while
    /// the object has at most [`MAX_REFERENCE_BYTES`] bytes. A parameter with one of [`SECRET_NAMES`], or that contains one
    /// of `tokens` (the tokens of this URL) or of `secrets` (the configured ones), is left out.
    pub(crate) fn of_uri<'t, 's>(
        uri: &Uri,
        tokens: impl Iterator<Item = &'t str>,
        secrets: impl Iterator<Item = &'s str>,
    ) -> Self {
        let mut parameters = Self::default();
        let Some(query) = uri.query() else { return parameters };
        let tokens = tokens.filter(|token| token.len() >= MIN_SECRET_LENGTH);
        let secrets = [tokens.collect::<Vec<_>>(), secrets.collect()].concat();
        let mut reference = Map::new();
        let mut bytes = "{}".len();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if name.is_empty() || name.eq_ignore_ascii_case(TOKEN) || reference.contains_key(&*name) {
                continue;
            }
            if has_secret_name(&name) || [&name, &value].into_iter().any(|text| has_secret(text, &secrets)) {
                parameters.has_secret = true;
                continue;
            }
            // jsonb cannot hold U+0000.
            let [name, value] = [name, value].map(|text| text.replace('\0', "\u{fffd}"));
            let value = Value::from(value);
            bytes += Value::from(&*name).to_string().len() + value.to_string().len() + ":,".len();
            if bytes > MAX_REFERENCE_BYTES {
                parameters.is_cut = true;
                break;
            }
            reference.insert(name, value);
        }
        parameters.reference = (!reference.is_empty()).then(|| Value::Object(reference).to_string());
        parameters
    }
}

fn has_secret_name(name: &str) -> bool {
    [name.to_owned(), decoded_again(name)].into_iter().any(|name| {
        let name = name.trim_end_matches(|c: char| !c.is_alphabetic()).to_ascii_lowercase();
        SECRET_NAMES.iter().any(|word| name.ends_with(word))
    })
}

fn has_secret(text: &str, secrets: &[&str]) -> bool {
    let found = |text: &str| {
        secrets.iter().any(|secret| {
            if secret.len() < MIN_SECRET_LENGTH { text == *secret } else { text.contains(secret) }
        })
    };
    found(text) || text.contains('%') && found(&decoded_again(text))
}

/// Decodes a decoded text again: parts of a URL can be encoded twice.
fn decoded_again(text: &str) -> String {
    let one_name = text.replace('&', "%26").replace('=', "%3D").replace('+', "%2B");
    form_urlencoded::parse(one_name.as_bytes()).next().map(|(name, _)| name.into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIGURED: [&str; 3] = ["a_configured_secret", "the+previous=secret", "short"];

    fn parameters(query: &str) -> UrlParameters {
        let uri = format!("http://host/webhooks/workflow-completed?{query}").parse().unwrap();
        UrlParameters::of_uri(&uri, ["a_valid_token", "1"].into_iter(), CONFIGURED.into_iter())
    }

    fn reference(query: &str) -> Option<String> {
        parameters(query).reference
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
    fn a_parameter_with_a_secret_or_the_name_of_one_is_left_out() {
        for secret in [
            "webhook_secret=x",
            "access_token=x",
            "authToken=x",
            "+token+=x",
            "token%00=x",
            "token[]=x",
            "token[0]=x",
            "%2574oken=x",
            "user[password]=x",
            "API_KEY=x",
            "x-api-key=x",
            "apikey=x",
            "X-Authorization=x",
            "signature=x",
            "ref=a_configured_secret",
            "ref=https%3A%2F%2Fhost%2Fa_configured_secret%3Fa",
            "a_configured_secret=1",
            "ref=x/the%2Bprevious%3Dsecret",
            "ref=https://host?a%3Dthe%252Bprevious%253Dsecret",
            "ref=short",
        ] {
            let expected = UrlParameters {
                reference: Some(r#"{"order":"5","user":"42"}"#.to_owned()),
                is_cut: false,
                has_secret: true,
            };
            assert_eq!(parameters(&format!("order=5&{secret}&user=42")), expected, "{secret}");
        }
        for ordinary in [
            "order",
            "user",
            "tokens_used",
            "max_tokens",
            "secretary",
            "key",
            "tokenizer",
            "api_key_id",
            "signatures",
        ] {
            let expected = Some(format!(r#"{{"{ordinary}":"short-1%"}}"#));
            let read = parameters(&format!("{ordinary}=short-1%25"));
            assert_eq!((read.reference, read.has_secret), (expected, false), "{ordinary}");
        }
        assert_eq!(parameters("token=x&Token=x"), UrlParameters::default());
    }

    #[test]
    fn a_reference_is_bounded() {
        let longest = "x".repeat(MAX_REFERENCE_BYTES - r#"{"a":"","b":""}"#.len() - 2);
        let stored = reference(&format!("a={longest}&b=&c=1")).unwrap();
        assert_eq!(stored, format!(r#"{{"a":"{longest}","b":""}}"#));
        assert!(stored.len() <= MAX_REFERENCE_BYTES);
        let longer = UrlParameters { is_cut: true, ..UrlParameters::default() };
        assert_eq!(parameters(&format!("a={longest}{longest}")), longer);
        // Escaped characters count as their JSON text.
        assert_eq!(reference(&format!("a={}", "%01".repeat(MAX_REFERENCE_BYTES / 4))), None);
    }
}
