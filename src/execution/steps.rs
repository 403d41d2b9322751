//! Failed steps of an execution.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::values::each_field;

/// Whether one of the steps has the status `failed`. `steps` is an object of steps or, in legacy flows, an array of them.
/// Values in another shape are no steps. The view `failed_steps` has the same rule.
pub(crate) fn any_failed(steps: &str) -> bool {
    // A fast path for most executions. A backslash may hide the word in an escape.
    if !steps.contains("failed") && !steps.contains('\\') {
        return false;
    }
    if let Ok(steps) = serde_json::from_str::<Vec<&RawValue>>(steps) {
        return steps.iter().any(|step| has_failed(step.get()));
    }
    let mut failed = false;
    each_field(steps, |_, step| failed |= has_failed(step));
    failed
}

/// Whether the JSON text is an object or an array that is not empty.
pub(super) fn has_steps(steps: &str) -> bool {
    let mut begin = steps.bytes().filter(|byte| !byte.is_ascii_whitespace());
    match begin.next() {
        Some(b'{') => begin.next() != Some(b'}'),
        Some(b'[') => begin.next() != Some(b']'),
        _ => false,
    }
}

fn has_failed(step: &str) -> bool {
    let mut status = "";
    each_field(step, |key, text| {
        if key == b"status" {
            status = text;
        }
    });
    serde_json::from_str::<Cow<'_, str>>(status).is_ok_and(|status| status == "failed")
}

#[cfg(test)]
mod tests {
    use super::{any_failed, has_steps};

    #[test]
    fn only_an_object_or_array_with_a_value_has_steps() {
        for steps in [r#"{ "a":1}"#, "[ 1]", "[{}]", "[[]]"] {
            assert!(has_steps(steps), "{steps}");
        }
        for empty in ["{}", "[]", "{ }", "[\n]", "null", "7", r#""text""#] {
            assert!(!has_steps(empty), "{empty}");
        }
    }

    #[test]
    fn a_failed_step_is_found_and_other_shapes_are_ignored() {
        for failed in [
            r#"{"a":{"status":"completed"},"b":{"step_id":"b","status":"failed","output":null}}"#,
            r#"{"\ud800":{"status":"failed","x":"\u0000\udfff"}}"#,
            r#"{"a":{"stat\u0075s":"\u0066ailed"}}"#,
            r#"{"a":{"status":"completed","status":"failed"}}"#,
            r#"[{"step_id":"a","status":"succeeded"},1,{"step_id":"b","status":"failed"}]"#,
        ] {
            assert!(any_failed(failed), "{failed}");
        }
        let deep = format!("{}{{\"status\":\"failed\"}}{}", r#"{"a":"#.repeat(100_000), "}".repeat(100_000));
        for other in [
            "null",
            r#""failed""#,
            r#"["failed"]"#,
            r#"[[{"status":"failed"}]]"#,
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
