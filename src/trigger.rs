//! The responses of trigger and bulk-trigger: the executions that will send webhooks.
//!
//! A response is accepted unchanged, from both generations of the API of `each::labs`. A caller can add a reference for each
//! input, because the order of the inputs is the only link between an input and its execution.

use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::delivery::reference::MAX_REFERENCE_BYTES;
use crate::execution::MAX_ID_BYTES;

/// A response of trigger or bulk-trigger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Triggered {
    /// `None` for a single trigger.
    pub(crate) bulk_id: Option<String>,
    pub(crate) workflow_id: Option<String>,
    /// In the order of the inputs.
    pub(crate) inputs: Vec<TriggeredInput>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TriggeredInput {
    /// `None` if the input was rejected: it sends no webhook.
    pub(crate) execution_id: Option<String>,
    /// Why the input was rejected.
    pub(crate) message: Option<String>,
    /// The caller's reference: the text of a JSON object of strings.
    pub(crate) reference: Option<String>,
}

/// Why a response cannot be registered. Quotes no value of the response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct InvalidResponse(String);

fn invalid<T>(why: impl Into<String>) -> Result<T, InvalidResponse> {
    Err(InvalidResponse(why.into()))
}

impl Triggered {
    /// Parses the JSON text of a response, with optional `reference`, `references` and `workflow_id`.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, InvalidResponse> {
        match serde_json::from_slice(text) {
            Ok(response) => Self::of(&response),
            Err(error) => invalid(format!("not JSON (line {}, column {})", error.line(), error.column())),
        }
    }

    pub(crate) fn of(response: &Value) -> Result<Self, InvalidResponse> {
        let Value::Object(response) = response else {
            return invalid("must be a JSON object: the response of trigger or bulk-trigger");
        };
        let workflow_id = identifier(response, "workflow_id", "")?;
        let bulk_id = identifier(response, "bulk_id", "")?;
        // The older API may name the execution `trigger_id`.
        let (execution_id, trigger_id) =
            (identifier(response, "execution_id", "")?, identifier(response, "trigger_id", "")?);
        let inputs = match (present(response, "executions"), &bulk_id) {
            (Some(Value::Array(executions)), Some(_)) => bulk_inputs(executions, response)?,
            (Some(Value::Array(_)), None) => {
                return invalid("`bulk_id` is missing. Send the response of bulk-trigger unchanged");
            }
            (Some(_), _) => return invalid("`executions` must be an array"),
            (None, Some(_)) => {
                return invalid("`executions` is missing. Send the response of bulk-trigger unchanged");
            }
            (None, None) => vec![single_input(response, execution_id.or(trigger_id))?],
        };
        Ok(Self { bulk_id, workflow_id, inputs })
    }

    /// Sets the reference of each input that has none.
    pub(crate) fn set_missing_references(&mut self, reference: &str) {
        for input in &mut self.inputs {
            input.reference.get_or_insert_with(|| reference.to_owned());
        }
    }

    /// How many inputs were rejected.
    pub(crate) fn rejected(&self) -> usize {
        self.inputs.iter().filter(|input| input.execution_id.is_none()).count()
    }
}

/// The response of a single trigger.
fn single_input(
    response: &Map<String, Value>,
    execution_id: Option<String>,
) -> Result<TriggeredInput, InvalidResponse> {
    if response.contains_key("references") {
        return invalid("`references` is for bulk-trigger. Use `reference` for a single execution");
    }
    if execution_id.is_none() {
        return invalid(
            "neither `execution_id` nor `executions` is present. Send the response of trigger or bulk-trigger; a trigger \
             that failed has no execution",
        );
    }
    let reference = reference_of(response.get("reference"), "reference")?;
    Ok(TriggeredInput { execution_id, message: None, reference })
}

fn bulk_inputs(
    executions: &[Value],
    response: &Map<String, Value>,
) -> Result<Vec<TriggeredInput>, InvalidResponse> {
    if executions.is_empty() {
        return invalid("`executions` is empty");
    }
    if response.contains_key("reference") {
        return invalid(
            "`reference` is for a single execution. Use `references`, with one item for each input",
        );
    }
    let references = match present(response, "references") {
        None => &[][..],
        Some(Value::Array(references)) if references.len() == executions.len() => references,
        Some(Value::Array(references)) => {
            let (given, inputs) = (references.len(), executions.len());
            return invalid(format!(
                "`references` has {given} items and `executions` has {inputs}. Send one item for each input, null for none"
            ));
        }
        Some(_) => return invalid("`references` must be an array"),
    };
    let mut seen = HashSet::new();
    let input = |(n, execution): (usize, &Value)| {
        let path = format!("executions[{n}]");
        let Value::Object(execution) = execution else {
            return invalid(format!("`{path}` must be an object"));
        };
        let execution_id = identifier(execution, "execution_id", &format!("{path}."))?;
        if execution_id.is_none() && execution.get("status") != Some(&Value::from("failed")) {
            return invalid(format!("`{path}` has neither an `execution_id` nor the status failed"));
        }
        if execution_id.as_ref().is_some_and(|id| !seen.insert(id.clone())) {
            return invalid(format!("`{path}` has the same `execution_id` as another one"));
        }
        let message = match execution_id {
            None => execution.get("message").and_then(Value::as_str).map(without_nul),
            Some(_) => None,
        };
        let own = reference_of(execution.get("reference"), &format!("{path}.reference"))?;
        let reference = match own {
            None => reference_of(references.get(n), &format!("references[{n}]"))?,
            own => own,
        };
        Ok(TriggeredInput { execution_id, message, reference })
    };
    executions.iter().enumerate().map(input).collect()
}

/// The value of a field; a null counts as absent.
fn present<'v>(object: &'v Map<String, Value>, field: &str) -> Option<&'v Value> {
    object.get(field).filter(|value| !value.is_null())
}

/// An identifier in the field `field`. An integer becomes its digits, as in webhooks. `path` precedes the name in errors.
fn identifier(
    object: &Map<String, Value>,
    field: &str,
    path: &str,
) -> Result<Option<String>, InvalidResponse> {
    let text = match present(object, field) {
        None => return Ok(None),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) if number.is_i64() || number.is_u64() => number.to_string(),
        Some(_) => return invalid(format!("`{path}{field}` must be a string")),
    };
    if text.is_empty() || text.len() > MAX_ID_BYTES || text.contains('\0') {
        return invalid(format!("`{path}{field}` must have 1 to {MAX_ID_BYTES} bytes, without U+0000"));
    }
    Ok(Some(text))
}

/// A caller's reference as the text of a JSON object of strings. Numbers and booleans become strings, so that the filter
/// `reference=order=1234` finds them.
fn reference_of(value: Option<&Value>, path: &str) -> Result<Option<String>, InvalidResponse> {
    let fields = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Object(fields)) if fields.is_empty() => return Ok(None),
        Some(Value::Object(fields)) => fields,
        Some(_) => return invalid(format!("`{path}` must be an object such as {{\"order\": \"1234\"}}")),
    };
    let mut reference = Map::new();
    for (name, value) in fields {
        let text = match value {
            Value::String(text) => without_nul(text),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            _ => return invalid(format!("the values of `{path}` must be strings, numbers or booleans")),
        };
        if name.is_empty() {
            return invalid(format!("`{path}` has an empty name"));
        }
        reference.insert(without_nul(name), Value::from(text));
    }
    let text = Value::Object(reference).to_string();
    if text.len() > MAX_REFERENCE_BYTES {
        return invalid(format!("`{path}` has more than {MAX_REFERENCE_BYTES} bytes"));
    }
    Ok(Some(text))
}

/// PostgreSQL stores no U+0000.
fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ids(triggered: &Triggered) -> Vec<Option<&str>> {
        triggered.inputs.iter().map(|input| input.execution_id.as_deref()).collect()
    }

    #[test]
    fn responses_of_both_generations_of_the_api_are_parsed_unchanged() {
        let bulk = json!({ "bulk_id": "b", "executions": [
            { "execution_id": "e1", "status": "queued" },
            { "status": "failed", "message": "no credits\0" },
            { "execution_id": 7, "status": "failed", "message": "x", "reference": { "n": 3, "ok": true } },
        ], "references": [{ "order": "1" }, null, null], "request_id": "r" });
        let bulk = Triggered::of(&bulk).unwrap();
        assert_eq!((bulk.bulk_id.as_deref(), ids(&bulk)), (Some("b"), vec![Some("e1"), None, Some("7")]));
        assert_eq!(bulk.rejected(), 1);
        assert_eq!(bulk.inputs[1].message.as_deref(), Some("no credits\u{fffd}"));
        assert_eq!(bulk.inputs[2].message, None, "an accepted input");
        let references: Vec<_> = bulk.inputs.iter().map(|input| input.reference.as_deref()).collect();
        assert_eq!(references, [Some(r#"{"order":"1"}"#), None, Some(r#"{"n":"3","ok":"true"}"#)]);

        for single in [
            json!({ "execution_id": "e", "status": "queued", "workflow_id": "w", "bulk_id": null }),
            json!({ "trigger_id": "e", "workflow_id": "w", "reference": {} }),
        ] {
            let mut single = Triggered::of(&single).unwrap();
            single.set_missing_references("{}");
            let input = TriggeredInput {
                execution_id: Some("e".to_owned()),
                message: None,
                reference: Some("{}".to_owned()),
            };
            let expected =
                Triggered { bulk_id: None, workflow_id: Some("w".to_owned()), inputs: vec![input] };
            assert_eq!(single, expected);
        }
    }

    #[test]
    fn the_error_for_another_body_says_what_is_wrong() {
        let of = |bulk: Value| json!({ "bulk_id": "b", "executions": [bulk] });
        for (response, part) in [
            (json!([]), "JSON object"),
            (json!({}), "neither `execution_id` nor `executions`"),
            (json!({ "error": "no credits" }), "neither `execution_id` nor `executions`"),
            (json!({ "bulk_id": "b" }), "`executions` is missing"),
            (json!({ "bulk_id": "b", "executions": [] }), "is empty"),
            (json!({ "bulk_id": "b", "executions": {} }), "must be an array"),
            (json!({ "executions": [{ "execution_id": "e" }] }), "`bulk_id` is missing"),
            (of(json!("e")), "`executions[0]` must be an object"),
            (of(json!({ "status": "queued" })), "`executions[0]` has neither"),
            (of(json!({ "execution_id": "" })), "1 to 255 bytes"),
            (
                of(json!({ "execution_id": "e", "reference": "r" })),
                "`executions[0].reference` must be an object",
            ),
            (
                of(json!({ "execution_id": "e", "reference": { "a": [] } })),
                "must be strings, numbers or booleans",
            ),
            (of(json!({ "execution_id": "e", "reference": { "a": "x".repeat(3_000) } })), "2048 bytes"),
            (json!({ "execution_id": [] }), "`execution_id` must be a string"),
            (
                json!({ "bulk_id": "b", "executions": [{ "execution_id": "e" }], "execution_id": 0.5 }),
                "`execution_id` must be a string",
            ),
            (json!({ "execution_id": "e", "references": [] }), "`references` is for bulk-trigger"),
            (
                json!({ "bulk_id": "b", "executions": [{ "execution_id": "e" }, { "execution_id": "e" }] }),
                "`executions[1]` has the same",
            ),
            (
                json!({ "bulk_id": "b", "executions": [{ "execution_id": "e" }], "references": [] }),
                "`references` has 0 items and `executions` has 1",
            ),
            (
                json!({ "bulk_id": "b", "executions": [{ "execution_id": "e" }], "reference": { "a": "b" } }),
                "Use `references`",
            ),
        ] {
            let error = Triggered::of(&response).unwrap_err().to_string();
            assert!(error.contains(part), "{response}: {error}");
        }
        assert_eq!(Triggered::parse(b"{\n oops").unwrap_err().to_string(), "not JSON (line 2, column 2)");
    }
}
