//! Any bytes as a body: no panic, and the result agrees with `serde_json`.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use serde_json::value::RawValue;
use workflow_receiver::execution::{Execution, InvalidPayload, Kind, MAX_ID_BYTES, text};
use workflow_receiver::fuzzing::{expands, fit};

fuzz_target!(|body: &[u8]| {
    let parsed = Execution::parse(body);
    let again = Execution::parse(body);
    assert_eq!(format!("{parsed:?}"), format!("{again:?}"), "not deterministic");

    let json = text(body).ok().filter(|text| serde_json::from_str::<&RawValue>(text).is_ok());
    assert_eq!(json.is_none(), matches!(parsed, Err(InvalidPayload::NotJson(_))), "JSON or not");
    if let Ok(execution) = &parsed {
        limits(execution);
    }
    let Some(json) = json else { return };
    // `None` for deep nesting, lone surrogates and numbers beyond f64, which jsonb may refuse.
    let value: Option<Value> = serde_json::from_str(json).ok();
    jsonb(json, value.as_ref());
    if let Some(value) = &value {
        agree(&parsed, json, value);
    }
});

/// The documented limits of an execution's fields.
fn limits(execution: &Execution) {
    let Execution { execution_id, workflow_id, status, bulk_id, .. } = execution;
    for id in [execution_id, status].into_iter().chain(workflow_id).chain(bulk_id) {
        assert!(!id.is_empty() && id.len() <= MAX_ID_BYTES && !id.contains('\0'), "{id:?}");
    }
    for text in [&execution.error, &execution.error_cause].into_iter().flatten() {
        assert!(!text.contains('\0'), "{text:?}");
    }
    if let Some(output) = execution.output {
        assert!(serde_json::from_str::<&RawValue>(output).is_ok(), "{output}");
    }
    if let Some(cost) = execution.total_cost {
        assert!(cost.parse().is_ok_and(f64::is_finite), "{cost}");
    }
    assert!(execution.duration_seconds.is_none_or(f64::is_finite), "{execution:?}");
}

/// Exactly the objects with valid identifiers are executions or predictions.
fn agree(parsed: &Result<Execution, InvalidPayload>, json: &str, value: &Value) {
    let short = |id: &str| !id.is_empty() && id.len() <= MAX_ID_BYTES && !id.contains('\0');
    let text = |field: &str| value.get(field).and_then(Value::as_str).filter(|text| short(text));
    // `Value` does not hold all digits of a large number.
    let raw: BTreeMap<String, &RawValue> = serde_json::from_str(json).unwrap_or_default();
    let integer = |field: &str| {
        let raw = raw.get(field).map(|raw| raw.get()).filter(|raw| short(raw))?;
        raw.strip_prefix('-').unwrap_or(raw).bytes().all(|byte| byte.is_ascii_digit()).then_some(raw)
    };
    let id = |field: &str| text(field).or_else(|| integer(field));
    let sent = |field: &str| value.get(field).is_some_and(|value| !value.is_null());
    // An empty text counts as missing.
    let usable = |field: &str| sent(field) && value[field] != "";
    let prediction_id = if usable("execution_id") || usable("workflow_id") {
        let has_no_flow = value.get("flow_id").is_some() && !usable("flow_id");
        let of_workflow = usable("workflow_id") || sent("step_outputs") || sent("step_results");
        (usable("execution_id") && has_no_flow && !of_workflow).then_some("execution_id")
    } else if usable("exec_id") {
        Some("exec_id")
    } else {
        (usable("id") && (sent("input") || sent("metrics"))).then_some("id")
    };
    let expected = || {
        if let Some(field) = prediction_id {
            return Some((Kind::Prediction, id(field)?, id("flow_id"), text("status")?));
        }
        let workflow = if usable("workflow_id") { "workflow_id" } else { "flow_id" };
        Some((Kind::Workflow, id("execution_id")?, Some(id(workflow)?), text("status")?))
    };
    let found =
        parsed.as_ref().ok().map(|e| (e.kind, &*e.execution_id, e.workflow_id.as_deref(), &*e.status));
    assert_eq!(found, expected(), "{value}");
    if let Ok(execution) = parsed {
        let output = execution.output.map(|output| serde_json::from_str(output).unwrap());
        let sent = value.get("output").filter(|output| !output.is_null());
        assert_eq!(output.as_ref(), sent);
    } else {
        let objects = value.as_array().is_some_and(|array| array.iter().any(Value::is_object));
        let quarantined = matches!(parsed, Err(InvalidPayload::Field { .. }));
        assert_eq!(
            quarantined,
            value.is_object() || objects,
            "objects and arrays of objects are quarantined"
        );
    }
}

/// jsonb accepts valid JSON without U+0000, and drops duplicate keys only.
fn jsonb(json: &str, value: Option<&Value>) {
    let held = value.filter(|value| !holds_nul(value)).map(|value| members(value) == colons(json));
    match (fit(json), held) {
        (found, expected) if found == expected => {}
        (None, Some(_)) if expands(json) => {}
        // The dropped part may contain U+0000.
        (None, Some(false)) => {}
        (found, expected) => panic!("{found:?} instead of {expected:?}: {json}"),
    }
}

fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(array) => array.iter().any(holds_nul),
        Value::Object(object) => object.iter().any(|(key, value)| key.contains('\0') || holds_nul(value)),
        _ => false,
    }
}

/// The number of distinct keys.
fn members(value: &Value) -> usize {
    match value {
        Value::Array(array) => array.iter().map(members).sum(),
        Value::Object(object) => object.len() + object.values().map(members).sum::<usize>(),
        _ => 0,
    }
}

/// The number of keys as written: each has a colon outside of strings.
fn colons(json: &str) -> usize {
    let (mut colons, mut in_string, mut escaped) = (0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            b':' if !in_string => colons += 1,
            _ => {}
        }
    }
    colons
}
