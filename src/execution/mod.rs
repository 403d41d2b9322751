//! Parses the body of a webhook.
//!
//! The sender documents the body as "Same structure as Get Execution response". The top-level fields that become columns
//! are parsed; all other fields are skipped, and stay in the payload. The identifiers and the status are required. The other
//! parsed fields are lenient: missing and null are the same, and an unusable value is left out of its column (the payload
//! still has it).
//!
//! The sender posts other bodies to the same URL. The fields of a body show its kind:
//!
//! | fields | body |
//! |---|---|
//! | `execution_id`, `workflow_id` | an execution of a workflow |
//! | `execution_id`, `flow_id` | an execution of a workflow, in the form of legacy flows |
//! | `execution_id`, and `flow_id` null or empty; no `workflow_id`, no steps | a prediction |
//! | `exec_id`; no `execution_id`, no `workflow_id` | a prediction |
//! | `id`, and `input` or `metrics`; none of the three identifiers above | a prediction in its oldest form |
//!
//! An empty identifier counts as missing in this table. A body with other fields is not recorded.
//!
//! The same function parses a body in the webhook handler, where it decides the response, and again in the recorder, where
//! it decides the row. The spool therefore does not store parsed fields.

pub(crate) mod api_key;
pub(crate) mod cost;
pub(crate) mod identifier;
pub(crate) mod jsonb;
pub(crate) mod mapping;
mod prediction;
pub(crate) mod status;
pub(crate) mod steps;
mod values;

use std::borrow::Cow;

use serde_json::value::RawValue;
use time::OffsetDateTime;

pub use identifier::MAX_ID_BYTES;
use identifier::{identifier, short_text};
pub(crate) use values::{Values, unescaped};
use values::{lossy_text, number, timestamp, try_each_field};

/// The keys of the parsed fields of a workflow's execution. `step_outputs` is the last, because [`mapping::FIELDS`] leaves
/// it out.
pub(crate) const FIELDS: [&str; 11] = [
    "execution_id",
    "workflow_id",
    "status",
    "bulk_id",
    "started_at",
    "completed_at",
    "output",
    "error",
    "error_cause",
    "total_cost",
    "step_outputs",
];

/// The keys of the parsed fields that only legacy flows and predictions have.
const OTHER_FIELDS: [&str; 7] = ["flow_id", "ended_at", "step_results", "exec_id", "id", "input", "metrics"];

/// What was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A workflow.
    Workflow,
    /// A single model, on its own or as a step of a workflow.
    Prediction,
}

/// The parsed fields. Borrows from the body.
#[derive(Debug)]
pub struct Execution<'a> {
    /// A prediction has only the fields that the sender sends for one: no bulk, times or steps.
    pub kind: Kind,
    /// Opaque, never empty, at most [`MAX_ID_BYTES`]. The identifiers can also be sent as JSON integers.
    pub execution_id: Cow<'a, str>,
    /// Opaque, never empty, at most [`MAX_ID_BYTES`]. `None` only for a prediction that is not a step of a workflow.
    pub workflow_id: Option<Cow<'a, str>>,
    /// As sent, never empty: `completed`, `failed`, `cancelled`, `running` or any other text.
    pub status: Cow<'a, str>,
    /// `None` outside of a bulk.
    pub bulk_id: Option<Cow<'a, str>>,
    /// `None` if missing or not an RFC 3339 timestamp.
    pub started_at: Option<OffsetDateTime>,
    /// `None` if missing or not an RFC 3339 timestamp.
    pub completed_at: Option<OffsetDateTime>,
    /// The JSON text of the output.
    pub output: Option<&'a str>,
    /// The kind of failure: for a prediction its `error_code`.
    pub error: Option<Cow<'a, str>>,
    /// The reason for the failure: for a prediction its `error_message`, or `error` as text.
    pub error_cause: Option<Cow<'a, str>>,
    /// A JSON number, as written.
    pub total_cost: Option<&'a str>,
    /// How long the model of a prediction ran. `None` for a workflow.
    pub duration_seconds: Option<f64>,
    /// The JSON text of the steps and their outputs.
    pub step_outputs: Option<&'a str>,
}

/// Why a body is not an execution. The text is safe for responses and logs: it does not quote the body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPayload {
    /// The body is not JSON.
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    /// The body is an array, a string, a number, a boolean or null.
    #[error("the body is JSON, but not an object")]
    NotAnObject,
    /// A required field is missing or unusable.
    #[error("`{field}` {problem}")]
    Field {
        /// The name of the field.
        field: &'static str,
        /// Completes the sentence "`field` …".
        problem: &'static str,
    },
}

impl<'a> Execution<'a> {
    /// # Errors
    /// [`InvalidPayload`] if the body is not a JSON object with the usable identifiers and the status of an execution or
    /// of a prediction.
    pub fn parse(body: &'a [u8]) -> Result<Self, InvalidPayload> {
        let text = text(body)?;
        let fields = Fields::read(text).map_err(|e| classify_error(text, &e))?;
        match fields.prediction_id() {
            Some((name, id)) => Self::of_prediction(&fields, name, id),
            None => Self::of_workflow(&fields),
        }
    }

    fn of_workflow(fields: &Fields<'a>) -> Result<Self, InvalidPayload> {
        let [execution_id, workflow, status, bulk, started, completed, output, error, cause, cost, steps] =
            fields.documented;
        let [flow, ended, step_results, ..] = fields.other;
        let (workflow_field, workflow) = match (workflow, flow) {
            (None | Some(EMPTY), Some(_)) if flow != Some(EMPTY) || workflow.is_none() => ("flow_id", flow),
            _ => ("workflow_id", workflow),
        };
        Ok(Self {
            kind: Kind::Workflow,
            execution_id: required("execution_id", execution_id, identifier)?,
            workflow_id: Some(required(workflow_field, workflow, identifier)?),
            status: required("status", status, short_text)?,
            // The execution can be recorded without it.
            bulk_id: bulk.and_then(|raw| identifier(raw).ok()),
            started_at: started.and_then(timestamp),
            completed_at: completed.or(ended).and_then(timestamp),
            output,
            error: error.map(lossy_text),
            error_cause: cause.map(lossy_text),
            total_cost: cost.and_then(number),
            duration_seconds: None,
            step_outputs: steps.filter(|steps| steps::has_steps(steps)).or(step_results),
        })
    }

    /// `name` is the field of the identifier `id`.
    fn of_prediction(fields: &Fields<'a>, name: &'static str, id: &'a str) -> Result<Self, InvalidPayload> {
        let [_, _, status, _, _, _, output, error, ..] = fields.documented;
        let [flow, .., metrics] = fields.other;
        let execution_id = required(name, Some(id), identifier)?;
        let status = required("status", status, short_text)?;
        let failure = prediction::failure(error, output, &status);
        let metrics = metrics.map(prediction::metrics).unwrap_or_default();
        Ok(Self {
            kind: Kind::Prediction,
            execution_id,
            // Null or empty if the prediction is not a step of a workflow.
            workflow_id: flow.and_then(|raw| identifier(raw).ok()),
            status,
            bulk_id: None,
            started_at: None,
            completed_at: None,
            output,
            error: failure.code,
            error_cause: failure.message,
            total_cost: metrics.cost,
            duration_seconds: metrics.predict_seconds,
            step_outputs: None,
        })
    }
}

/// The JSON text of a body, without a byte order mark.
///
/// # Errors
/// [`InvalidPayload::NotJson`] if the body is not UTF-8.
pub fn text(body: &[u8]) -> Result<&str, InvalidPayload> {
    let text = std::str::from_utf8(body)
        .map_err(|e| InvalidPayload::NotJson(format!("invalid UTF-8 after {} bytes", e.valid_up_to())))?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// Serde's message may quote the body, so only the position is used.
fn classify_error(text: &str, error: &serde_json::Error) -> InvalidPayload {
    let Ok(value) = serde_json::from_str::<&RawValue>(text) else {
        return InvalidPayload::NotJson(match error.classify() {
            serde_json::error::Category::Eof => "it ends too early".to_owned(),
            _ => format!("syntax error at line {} column {}", error.line(), error.column()),
        });
    };
    let value = value.get();
    // An array of objects may be a future format with several executions. The webhook handler stores such a body.
    if value.starts_with('[') && Values::of(value).any(|element| element.starts_with('{')) {
        return InvalidPayload::Field {
            field: "execution_id",
            problem: "is missing: the body is an array of objects",
        };
    }
    InvalidPayload::NotAnObject
}

fn required<'a>(
    field: &'static str,
    raw: Option<&'a str>,
    parse: fn(&'a str) -> Result<Cow<'a, str>, &'static str>,
) -> Result<Cow<'a, str>, InvalidPayload> {
    let raw = raw.ok_or(InvalidPayload::Field { field, problem: "is missing or null" })?;
    parse(raw).map_err(|problem| InvalidPayload::Field { field, problem })
}

/// The JSON texts of the fields. The last value of a repeated key counts, as in jsonb and in most parsers.
#[derive(Default)]
struct Fields<'a> {
    /// In the order of [`FIELDS`].
    documented: [Option<&'a str>; FIELDS.len()],
    /// In the order of [`OTHER_FIELDS`].
    other: [Option<&'a str>; OTHER_FIELDS.len()],
    /// Whether `flow_id` is null or empty: a prediction that is not a step of a workflow.
    has_no_flow: bool,
}

/// An empty text, as JSON.
const EMPTY: &str = r#""""#;

impl<'a> Fields<'a> {
    fn read(text: &'a str) -> serde_json::Result<Self> {
        let mut fields = Self::default();
        try_each_field(text, |key, raw| {
            if let Some(field) = fields.field(key) {
                *field = (raw != "null").then_some(raw);
            }
            if key == b"flow_id" {
                fields.has_no_flow = matches!(raw, "null" | EMPTY);
            }
        })?;
        Ok(fields)
    }

    fn field(&mut self, key: &[u8]) -> Option<&mut Option<&'a str>> {
        let position = |names: &[&str]| names.iter().position(|name| name.as_bytes() == key);
        match position(&FIELDS) {
            Some(n) => Some(&mut self.documented[n]),
            None => position(&OTHER_FIELDS).map(|n| &mut self.other[n]),
        }
    }

    /// The identifier of a prediction with the name of its field; `None` for other bodies.
    fn prediction_id(&self) -> Option<(&'static str, &'a str)> {
        let usable = |id: Option<&'a str>| id.filter(|id| *id != EMPTY);
        let [execution_id, workflow_id, .., step_outputs] = self.documented;
        let [_, _, step_results, exec_id, id, input, metrics] = self.other;
        let [execution_id, workflow_id, exec_id, id] = [execution_id, workflow_id, exec_id, id].map(usable);
        if execution_id.or(workflow_id).is_some() {
            let is_prediction = self.has_no_flow && workflow_id.or(step_outputs).or(step_results).is_none();
            return execution_id.filter(|_| is_prediction).map(|id| ("execution_id", id));
        }
        // `id` and `status` alone are too common: other objects have them, too.
        let oldest_form = || id.filter(|_| input.or(metrics).is_some()).map(|id| ("id", id));
        exec_id.map(|id| ("exec_id", id)).or_else(oldest_form)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal(extra: &str) -> String {
        format!(r#"{{"execution_id":"e","workflow_id":"w","status":"completed"{extra}}}"#)
    }

    #[test]
    fn the_last_value_of_a_repeated_key_counts() {
        let body = minimal(r#","status":"failed""#);
        assert_eq!(Execution::parse(body.as_bytes()).unwrap().status, "failed");
    }

    #[test]
    fn keys_and_values_with_lone_surrogates_do_not_hide_other_fields() {
        let body = minimal(r#","\ud800":"\udfff","error_cause":"a\ud800b\u0000c","inputs":{"x":"\u0000"}"#);
        let execution = Execution::parse(body.as_bytes()).unwrap();
        let cause = execution.error_cause.unwrap();
        assert!(cause.starts_with('a') && cause.ends_with("b\u{fffd}c"), "{cause:?}");
    }

    #[test]
    fn an_integer_is_an_identifier_with_the_same_digits() {
        let parse = |id: &str| {
            let body =
                format!(r#"{{"execution_id":{id},"workflow_id":{id},"bulk_id":{id},"status":"completed"}}"#);
            let execution = Execution::parse(body.as_bytes()).ok()?;
            let ids = [execution.execution_id, execution.workflow_id?, execution.bulk_id?];
            ids.iter().all(|id| *id == ids[0]).then(|| ids[0].to_string())
        };
        let (longest, longer) = ("9".repeat(MAX_ID_BYTES), "9".repeat(MAX_ID_BYTES + 1));
        for id in ["0", "-0", "-17", "12345", "123456789012345678901234567890", &longest] {
            assert_eq!(parse(id).as_deref(), Some(id));
        }
        for id in ["1.0", "1e3", "-1E+3", "true", "[1]", "{}", &longer] {
            assert_eq!(parse(id), None, "{id}");
        }
        let status = r#"{"execution_id":"e","workflow_id":"w","status":7}"#;
        assert_eq!(Execution::parse(status.as_bytes()).unwrap_err().to_string(), "`status` is not a string");
    }

    #[test]
    fn unescaped_control_characters_are_rejected_everywhere() {
        let keyed = |key: &str| minimal(&format!(r#","{key}":"x""#));
        for body in [keyed("a\0"), keyed("status\n"), keyed("\u{1f}\\n"), minimal(",\"a\":\"\t\"")] {
            let parsed = Execution::parse(body.as_bytes());
            assert!(matches!(parsed, Err(InvalidPayload::NotJson(_))), "{body:?}: {parsed:?}");
        }
        let escaped = keyed(r"sta\u0074us");
        assert_eq!(
            Execution::parse(escaped.as_bytes()).unwrap().status,
            "x",
            "escaped characters are accepted"
        );
    }

    #[test]
    fn optional_fields_of_another_type_are_ignored_or_converted_to_text() {
        let body = minimal(
            r#","bulk_id":42,"started_at":"yesterday","completed_at":7,"error":{"a":1},"total_cost":"free","output":false"#,
        );
        let e = Execution::parse(body.as_bytes()).unwrap();
        assert_eq!(e.bulk_id.as_deref(), Some("42"));
        assert_eq!((e.started_at, e.completed_at, e.total_cost), (None, None, None));
        assert_eq!(e.error.as_deref(), Some(r#"{"a":1}"#));
        assert_eq!(e.output, Some("false"));
    }

    #[test]
    fn the_fields_show_which_body_it_is() {
        let parse = |body: &str| {
            let execution = Execution::parse(body.as_bytes()).map_err(|why| why.to_string())?;
            let workflow_id = execution.workflow_id.map(Cow::into_owned);
            Ok::<_, String>((execution.kind, execution.execution_id.into_owned(), workflow_id))
        };
        let workflow = |id: &str| (Kind::Workflow, id.to_owned(), Some("w".to_owned()));
        let prediction =
            |id: &str, workflow: Option<&str>| (Kind::Prediction, id.to_owned(), workflow.map(str::to_owned));
        for (body, expected) in [
            (r#"{"execution_id":"e","flow_id":"w","status":"s"}"#, workflow("e")),
            (
                r#"{"execution_id":"e","workflow_id":"w","flow_id":"f","exec_id":"p","status":"s"}"#,
                workflow("e"),
            ),
            (r#"{"exec_id":"p","flow_id":null,"status":"s"}"#, prediction("p", None)),
            (r#"{"exec_id":7,"flow_id":"","status":"s"}"#, prediction("7", None)),
            (r#"{"execution_id":"e","workflow_id":"","flow_id":"w","status":"s"}"#, workflow("e")),
            (r#"{"execution_id":"e","workflow_id":"w","flow_id":null,"status":"s"}"#, workflow("e")),
            (r#"{"execution_id":"p","flow_id":null,"status":"s"}"#, prediction("p", None)),
            (r#"{"execution_id":"p","flow_id":"","workflow_id":null,"status":"s"}"#, prediction("p", None)),
            (r#"{"execution_id":"","exec_id":"p","status":"s"}"#, prediction("p", None)),
            (
                r#"{"execution_id":"","workflow_id":"","exec_id":"","id":"p","input":1,"status":"s"}"#,
                prediction("p", None),
            ),
            (r#"{"exec_id":"p","flow_id":"w","id":"q","status":"s"}"#, prediction("p", Some("w"))),
            (r#"{"id":"p","status":"s","input":{}}"#, prediction("p", None)),
            (r#"{"id":"p","status":"s","metrics":{}}"#, prediction("p", None)),
        ] {
            assert_eq!(parse(body), Ok(expected), "{body}");
        }
        for (body, why) in [
            (r#"{"id":"p","status":"s"}"#, "`execution_id` is missing or null"),
            (r#"{"id":"p","status":"s","output":"o","input":null}"#, "`execution_id` is missing or null"),
            (r#"{"id":"p","workflow_id":"w","status":"s","input":1}"#, "`execution_id` is missing or null"),
            (r#"{"exec_id":"p","workflow_id":"w","status":"s"}"#, "`execution_id` is missing or null"),
            (r#"{"execution_id":"e","exec_id":"p","status":"s"}"#, "`workflow_id` is missing or null"),
            (r#"{"execution_id":"e","status":"s"}"#, "`workflow_id` is missing or null"),
            (r#"{"execution_id":"e","flow_id":"","step_results":[],"status":"s"}"#, "`flow_id` is empty"),
            (
                r#"{"execution_id":"e","workflow_id":"","flow_id":"","step_results":[],"status":"s"}"#,
                "`workflow_id` is empty",
            ),
            (
                r#"{"execution_id":"e","flow_id":null,"step_outputs":{},"status":"s"}"#,
                "`workflow_id` is missing or null",
            ),
            (
                r#"{"execution_id":"","workflow_id":"w","exec_id":"p","status":"s"}"#,
                "`execution_id` is empty",
            ),
            (r#"{"exec_id":"p"}"#, "`status` is missing or null"),
            (r#"{"exec_id":{},"status":"s"}"#, "`exec_id` is neither a string nor an integer"),
        ] {
            assert_eq!(parse(body), Err(why.to_owned()), "{body}");
        }
    }

    #[test]
    fn errors_name_the_problem_and_do_not_quote_the_body() {
        let why = |body: &str| Execution::parse(body.as_bytes()).unwrap_err().to_string();
        assert_eq!(why(r#"{"execution_id":"#), "the body is not JSON: it ends too early");
        assert_eq!(why("secret"), "the body is not JSON: syntax error at line 1 column 1");
        assert_eq!(why(r#""secret""#), "the body is JSON, but not an object");
        assert_eq!(why(r#"{"execution_id":7.0}"#), "`execution_id` is neither a string nor an integer");
        assert_eq!(why(r#"{"execution_id":"\ud800"}"#), "`execution_id` holds a lone surrogate");
    }
}
