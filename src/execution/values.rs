//! Iterates over the values in a JSON array or object without building them.

use serde_json::value::RawValue;

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
}
