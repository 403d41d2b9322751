//! Generates bodies, each with its expected row.
//!
//! The expected columns are not parsed from the JSON text, so that they do not repeat a mistake of the receiver's
//! parser.

use std::fmt::Write;

use rand::RngExt;
use rand::rngs::ThreadRng;
use rand::seq::IndexedRandom;
use serde_json::json;

/// How much of a body jsonb can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// All.
    Whole,
    /// jsonb drops the first of two values of a key: the bytes are stored, too.
    Partly,
    /// Nothing: the bytes are stored instead.
    Not,
}

/// The expected columns of an execution. `output` is JSON text; times and costs are as written in the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Columns {
    pub(crate) id: String,
    pub(crate) workflow: String,
    pub(crate) bulk: Option<String>,
    pub(crate) status: String,
    pub(crate) started: Option<String>,
    pub(crate) completed: Option<String>,
    pub(crate) output: Option<String>,
    pub(crate) error: Option<String>,
    pub(crate) error_cause: Option<String>,
    pub(crate) cost: Option<String>,
    pub(crate) step_failed: bool,
    pub(crate) fit: Fit,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Body {
    pub(crate) text: String,
    /// `None` for a body that is not an execution: it is answered 422.
    pub(crate) columns: Option<Columns>,
}

const TEXTS: [&str; 9] = [
    "timed out after 30 s",
    "",
    "Zażółć gęślą jaźń",
    "𝕏\u{10ffff}\u{fdd0}",
    "👩‍👩‍👧‍👦 e\u{301}",
    "\u{202e}right to left\u{202c}",
    "quote \" backslash \\ slash / tab \t line \n",
    "\u{2028}\u{feff}\u{7f}\u{1}",
    "'; DROP TABLE executions; --",
];
const NUMBERS: [&str; 9] = [
    "0",
    "-0.0",
    "0.1",
    "1e3",
    "2.5E-7",
    "9007199254740993",
    "123456789012345678901234567890.5",
    "-1",
    "1.50",
];
const COSTS: [&str; 6] = ["0.042", "0", "12", "1e-7", "0.30000000000000004", "3.50"];
const TIMES: [&str; 5] = [
    "2026-11-24T10:20:30Z",
    "2026-11-24T12:20:30.123456+02:00",
    "1999-12-31T23:59:59.999999-08:00",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
];
/// JSON texts that jsonb cannot hold. `REPEATED` is a text that jsonb holds in part.
const UNFIT: [&str; 5] = [r#""\u0000""#, r#""\ud800""#, "1e400", r#"{"\u0000":1}"#, r#"["a\udc00b"]"#];
const REPEATED: &str = r#"{"a":1,"b":{"c":2,"c":3}}"#;

fn quoted(text: &str) -> String {
    json!(text).to_string()
}

/// A string as JSON: plain, or with every character escaped.
fn escaped(rng: &mut ThreadRng, text: &str) -> String {
    if rng.random_bool(0.8) {
        return quoted(text);
    }
    let mut units = String::new();
    for unit in text.encode_utf16() {
        write!(units, "\\u{unit:04x}").unwrap();
    }
    format!("\"{units}\"")
}

fn output(rng: &mut ThreadRng, unique: &str) -> String {
    let text = quoted(TEXTS.choose(rng).unwrap());
    let number = NUMBERS.choose(rng).unwrap();
    match rng.random_range(0..5) {
        0 => quoted(unique),
        1 => format!("[{}, {text}, {number}, null, true]", quoted(unique)),
        2 => format!(r#"{{"url":{},"nested":{{"deep":[{number},{text}]}}}}"#, quoted(unique)),
        3 => format!("[{}{}{}]", "[".repeat(60), quoted(unique), "]".repeat(60)),
        _ => format!(r#"{{"id":{},"n":{number}}}"#, quoted(unique)),
    }
}

/// A number of bytes between 0 and 400 kB, mostly small.
fn fill(rng: &mut ThreadRng) -> usize {
    match rng.random_range(0..100) {
        0 => rng.random_range(100_000..400_000),
        1..10 => rng.random_range(4_000..70_000),
        _ => rng.random_range(0..900),
    }
}

/// A new execution, or another result of an execution that was sent before.
pub(crate) fn execution(rng: &mut ThreadRng, id: &str, bulk: &str, result_number: u64) -> Body {
    let status = *["completed", "succeeded", "failed", "cancelled", "running", "paused"].choose(rng).unwrap();
    let unique = format!("{id}/{result_number}");
    let mut fields: Vec<(&str, String)> = Vec::new();
    let workflow = rng.random_range(0..5);
    let has_number = rng.random_bool(0.2);
    let mut columns = Columns {
        id: id.to_owned(),
        workflow: if has_number { workflow.to_string() } else { format!("w{workflow}") },
        bulk: rng.random_bool(0.7).then(|| bulk.to_owned()),
        status: status.to_owned(),
        started: None,
        completed: None,
        output: None,
        error: None,
        error_cause: None,
        cost: None,
        step_failed: false,
        fit: Fit::Whole,
    };
    fields.push(("execution_id", escaped(rng, id)));
    let workflow = columns.workflow.clone();
    fields.push(("workflow_id", if has_number { workflow } else { quoted(&workflow) }));
    fields.push(("status", escaped(rng, status)));
    if let Some(bulk) = &columns.bulk {
        fields.push(("bulk_id", quoted(bulk)));
    }
    if rng.random_bool(0.8) {
        let (started, completed) = (*TIMES.choose(rng).unwrap(), *TIMES.choose(rng).unwrap());
        (columns.started, columns.completed) = (Some(started.to_owned()), Some(completed.to_owned()));
        fields.extend([("started_at", quoted(started)), ("completed_at", quoted(completed))]);
    } else {
        fields.extend([("started_at", quoted("yesterday")), ("completed_at", "17".to_owned())]);
    }
    match rng.random_range(0..10) {
        0 => fields.push(("output", "null".to_owned())),
        1 => {}
        _ => {
            let output = output(rng, &unique);
            fields.push(("output", output.clone()));
            columns.output = Some(output);
        }
    }
    if status == "failed" || rng.random_bool(0.1) {
        let cause = format!("{} {unique}", TEXTS.choose(rng).unwrap());
        fields.push(("error_cause", escaped(rng, &cause)));
        columns.error_cause = Some(cause);
        let error = *TEXTS.choose(rng).unwrap();
        fields.push(("error", quoted(error)));
        columns.error = Some(error.to_owned());
    }
    match rng.random_range(0..4) {
        0 => {}
        1 => fields.push(("total_cost", quoted("a lot"))),
        _ => {
            let cost = *COSTS.choose(rng).unwrap();
            fields.push(("total_cost", cost.to_owned()));
            columns.cost = Some(cost.to_owned());
        }
    }
    if rng.random_bool(0.2) {
        columns.step_failed = rng.random_bool(0.5);
        let step = if columns.step_failed { "failed" } else { "completed" };
        fields
            .push(("step_outputs", format!(r#"{{"s":{{"status":"{step}","output":{}}}}}"#, quoted(&unique))));
    }
    fields.push(("fill", quoted(&"x".repeat(fill(rng)))));
    match rng.random_range(0..20) {
        0 => {
            columns.fit = Fit::Not;
            fields.push(("odd", (*UNFIT.choose(rng).unwrap()).to_owned()));
        }
        1 => {
            // An output that jsonb cannot hold is in the bytes only.
            columns.fit = Fit::Not;
            columns.output = None;
            fields.retain(|field| field.0 != "output");
            fields.push(("output", format!("[{},{}]", quoted(&unique), UNFIT.choose(rng).unwrap())));
        }
        2 => {
            columns.fit = Fit::Partly;
            fields.push(("odd", REPEATED.to_owned()));
        }
        3 => {
            columns.fit = Fit::Not;
            fields.push(("deep", format!("{}{}", "[".repeat(200), "]".repeat(200))));
        }
        _ => {}
    }
    let text = written(rng, &fields);
    Body { text, columns: Some(columns) }
}

/// The same execution in other bytes: equal as jsonb. Only for bodies that jsonb can hold whole.
pub(crate) fn rewritten(body: &Body) -> Body {
    let text = body.text.trim_start_matches('\u{feff}');
    Body { text: format!(" \t{text}\r\n"), columns: body.columns.clone() }
}

/// A JSON value that is not an execution, different each time.
pub(crate) fn no_execution(rng: &mut ThreadRng, unique: &str) -> Body {
    let id = quoted(unique);
    let text = match rng.random_range(0..6) {
        0 => format!(r#"{{"executionId":{id},"workflow_id":"w","status":"completed"}}"#),
        1 => format!(r#"{{"execution_id":{id},"workflow_id":7.0,"status":"completed"}}"#),
        2 => format!(r#"{{"execution_id":{id},"workflow_id":"w","status":""}}"#),
        3 => format!(r#"[{{"execution_id":{id}}},{{"odd":"\u0000"}}]"#),
        4 => format!(
            r#"{{"execution_id":"{}","of":{id},"workflow_id":"w","status":"completed"}}"#,
            "i".repeat(256)
        ),
        _ => format!(r#"{{"execution_id":"\ud800","of":{id},"fill":"{}"}}"#, "x".repeat(fill(rng))),
    };
    Body { text, columns: None }
}

fn written(rng: &mut ThreadRng, fields: &[(&str, String)]) -> String {
    let space = *["", "", " ", "\n  "].choose(rng).unwrap();
    let fields: Vec<_> =
        fields.iter().map(|(key, value)| format!("{space}\"{key}\":{space}{value}")).collect();
    let mark = if rng.random_bool(0.02) { "\u{feff}" } else { "" };
    format!("{mark}{{{}{space}}}", fields.join(","))
}
