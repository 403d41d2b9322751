//! What the steps of an execution say.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::payload::Key;

/// Whether one of the steps in `step_outputs` has the status `failed`. What is in another shape than
/// the sender documents has no such step. The view `failed_steps` tells them in the same way.
pub(super) fn any_failed(step_outputs: &str) -> bool {
    // For most executions, this is all that is looked at.
    if !step_outputs.contains("failed") && !step_outputs.contains('\\') {
        return false;
    }
    fields(step_outputs).iter().any(|(_, step)| {
        let status = fields(step).into_iter().rfind(|(key, _)| key.0 == b"status");
        status
            .is_some_and(|(_, text)| serde_json::from_str::<Cow<'_, str>>(text).is_ok_and(|s| s == "failed"))
    })
}

/// The fields of an object, with their JSON texts; of anything else, none.
fn fields(text: &str) -> Vec<(Key, &str)> {
    serde_json::from_str::<Fields<'_>>(text).map(|fields| fields.0).unwrap_or_default()
}

struct Fields<'a>(Vec<(Key, &'a str)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(key) = map.next_key::<Key>()? {
                    fields.push((key, map.next_value::<&RawValue>()?.get()));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::any_failed;

    #[test]
    fn a_failed_step_is_told_and_nothing_odd_is_taken_for_one() {
        for failed in [
            r#"{"a":{"status":"completed"},"b":{"step_id":"b","status":"failed","output":null}}"#,
            r#"{"\ud800":{"status":"failed","x":"\u0000\udfff"}}"#,
            r#"{"a":{"stat\u0075s":"\u0066ailed"}}"#,
            r#"{"a":{"status":"completed","status":"failed"}}"#,
        ] {
            assert!(any_failed(failed), "{failed}");
        }
        let deep = format!("{}{{\"status\":\"failed\"}}{}", r#"{"a":"#.repeat(100_000), "}".repeat(100_000));
        for other in [
            "null",
            r#""failed""#,
            r#"["failed"]"#,
            r#"[{"status":"failed"}]"#,
            r#"{"status":"failed"}"#,
            r#"{"a":"failed","b":["failed"],"c":null,"d":1e400}"#,
            r#"{"a":{"status":["failed"]},"b":{"status":"\udfff failed"},"c":{"error":"failed"}}"#,
            r#"{"a":{"status":"failed","status":"completed"}}"#,
            &deep,
        ] {
            assert!(!any_failed(other), "{other}");
        }
    }
}
