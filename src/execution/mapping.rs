//! Extracts executions from a quarantined body, and applies a mapping of an operator to them.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Execution, api_key};

/// The fields of a body that become columns. Not `step_outputs`: views read it from the unchanged payload.
pub(crate) const FIELDS: &[&str] = super::FIELDS.split_last().expect("eleven fields").1;

/// Other fields of the sender. Views and pages read them from the unchanged payload.
const PAYLOAD_FIELDS: [&str; 4] = ["inputs", "step_outputs", "version_id", "workflow_output"];

/// An execution in a quarantined body.
#[derive(Debug)]
pub(crate) struct Extracted {
    /// The body with the operator's mapping applied, which is parsed.
    pub(crate) mapped: Bytes,
    /// The original part of the body, which becomes the payload.
    pub(crate) original: Bytes,
    /// The keys that neither the receiver nor the mapping reads, as sources of a mapping: `result`, `/data/bulk`.
    pub(crate) ignored: Vec<String>,
}

/// A field that an execution would lack, although a key that the mapping does not read probably has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) field: &'static str,
    /// The key, as a source of a mapping.
    pub(crate) source: String,
}

/// Why a body is not extracted. The text has no full stop at its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExtractError {
    #[error("{0}")]
    Invalid(String),
    #[error(
        "`{}` is not read, and the execution would have no `{}`. Add {}={} to the mapping, or use --force",
        .0.source, .0.field, .0.field, .0.source
    )]
    Lost(Lost),
}

impl From<String> for ExtractError {
    fn from(why: String) -> Self {
        Self::Invalid(why)
    }
}

impl Extracted {
    /// The fields that the execution would lack, although an ignored key probably has them.
    pub(crate) fn lost(&self) -> Vec<Lost> {
        let Ok(execution) = Execution::parse(&self.mapped) else { return Vec::new() };
        let fields = [
            ("bulk_id", execution.bulk_id.is_some(), &["bulk"][..]),
            ("output", execution.output.is_some(), &["output", "result"]),
        ];
        let lost = |(field, is_present, parts): (&'static str, bool, &[&str])| {
            let may_have = |key: &&String| parts.iter().any(|part| key.to_ascii_lowercase().contains(part));
            let source = self.ignored.iter().find(may_have).filter(|_| !is_present)?;
            Some(Lost { field, source: source.clone() })
        };
        fields.into_iter().filter_map(lost).collect()
    }
}

/// Parses an argument of `--map` or `--set`.
pub(crate) fn parse_pair(argument: &str) -> Result<(String, String), String> {
    let (field, value) =
        argument.split_once('=').ok_or("must be FIELD=SOURCE for --map, FIELD=VALUE for --set")?;
    if FIELDS.contains(&field) {
        Ok((field.to_owned(), value.to_owned()))
    } else {
        Err(format!("the field must be one of {}", FIELDS.join(", ")))
    }
}

/// A mapping of an operator.
pub(crate) struct Mapping<'a> {
    /// Pairs of a field and its source: a key, or a JSON pointer.
    pub(crate) maps: &'a [(String, String)],
    /// Pairs of a field and its value.
    pub(crate) sets: &'a [(String, String)],
}

impl Mapping<'_> {
    /// `target` with the mapping in the form of the command line, for the audit log.
    pub(crate) fn describe(&self, target: &str) -> String {
        let mut text = target.to_owned();
        for (option, pairs) in [("--map", self.maps), ("--set", self.sets)] {
            for (field, value) in pairs {
                text.extend([" ", option, " ", field, "=", value]);
            }
        }
        text
    }

    /// The executions and predictions in a body: the body itself, or the elements of an array. API keys are removed.
    ///
    /// # Errors
    /// If the body cannot be parsed or mapped. Unless `force` is set, also if the mapping does not read a key that probably
    /// has the output or the bulk.
    pub(crate) fn extract(&self, body: &[u8], force: bool) -> Result<Vec<Extracted>, ExtractError> {
        let without_key = api_key::remove(body);
        let text = super::text(without_key.as_deref().unwrap_or(body)).map_err(|why| why.to_string())?;
        let extract_part = |part: &&str| {
            let mapped = self.apply(part)?;
            let original = Bytes::copy_from_slice(part.as_bytes());
            let extracted = Extracted { mapped, original, ignored: self.ignored(part) };
            match extracted.lost().into_iter().next() {
                Some(lost) if !force && !self.is_empty() => Err(ExtractError::Lost(lost)),
                _ => Ok(extracted),
            }
        };
        parts(text)?.iter().map(extract_part).collect()
    }

    /// The sources of the mapping that no execution in `text` has.
    pub(crate) fn absent_sources(&self, text: &str) -> Vec<&str> {
        let parts = parts(text).unwrap_or_default();
        let is_absent = |source: &&str| !parts.iter().any(|part| at(part, &pointer(source)).is_some());
        self.maps.iter().map(|(_, source)| &**source).filter(is_absent).collect()
    }

    /// The keys of an object that neither the receiver nor the mapping reads; none if `text` is not an object.
    fn ignored(&self, text: &str) -> Vec<String> {
        let mut ignored = Vec::new();
        if let Ok(Value::Object(body)) = serde_json::from_str(text) {
            let pointers: Vec<_> = self.maps.iter().map(|(_, source)| pointer(source)).collect();
            let is_read = |name: &str| FIELDS.contains(&name) || PAYLOAD_FIELDS.contains(&name);
            let others = body.iter().filter(|(name, _)| !is_read(name));
            others.for_each(|(name, value)| collect_ignored(&pointer(name), value, &pointers, &mut ignored));
        }
        ignored
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.maps.is_empty() && self.sets.is_empty()
    }

    /// `text` with the mapped and set fields.
    fn apply(&self, text: &str) -> Result<Bytes, String> {
        if self.is_empty() {
            return Ok(Bytes::copy_from_slice(text.as_bytes()));
        }
        let raw = |text: &str| RawValue::from_string(text.to_owned()).map_err(|e| e.to_string());
        let not_object = |e| format!("only a JSON object can be mapped: {e}");
        let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(text).map_err(not_object)?;
        for (field, source) in self.maps {
            if let Some(value) = at(text, &pointer(source)) {
                fields.insert(field.clone(), raw(value)?);
            }
        }
        for (field, value) in self.sets {
            // `--set` fills a missing field or a null. It does not replace another value.
            if fields.get(field).is_none_or(|value| value.get() == "null") {
                let value = serde_json::to_string(value).map_err(|e| e.to_string())?;
                fields.insert(field.clone(), raw(&value)?);
            }
        }
        serde_json::to_vec(&fields).map(Bytes::from).map_err(|e| e.to_string())
    }
}

/// A body, or the elements of an array.
fn parts(text: &str) -> Result<Vec<&str>, String> {
    let text = text.trim();
    if !text.starts_with('[') {
        return Ok(vec![text]);
    }
    let elements: Vec<&RawValue> = serde_json::from_str(text).map_err(|e| e.to_string())?;
    Ok(elements.into_iter().map(RawValue::get).collect())
}

/// The problems of the `required` fields, such as "`status` is missing or null"; empty if the body can be recorded, or is not
/// an object. [`Execution::parse`] returns only the first problem, so each field is checked with the others filled.
pub(crate) fn problems(mapped: &[u8], required: &[&str]) -> Vec<String> {
    let Ok(fields) = serde_json::from_slice::<BTreeMap<String, Box<RawValue>>>(mapped) else {
        return Vec::new();
    };
    if Execution::parse(mapped).is_ok() {
        return Vec::new();
    }
    // The identifier of a prediction.
    let required = if fields.contains_key("exec_id") { &["exec_id", "status"] } else { required };
    let problem = |field: &&str| {
        let mut filled = fields.clone();
        for other in required.iter().filter(|other| *other != field) {
            filled.insert((*other).to_owned(), RawValue::from_string("\"x\"".to_owned()).ok()?);
        }
        Execution::parse(&serde_json::to_vec(&filled).ok()?).err().map(|why| why.to_string())
    };
    let mut problems: Vec<_> = required.iter().filter_map(problem).collect();
    problems.dedup();
    problems
}

/// The JSON pointer of a source: the source itself, or the pointer of a key.
fn pointer(source: &str) -> String {
    if source.starts_with('/') {
        source.to_owned()
    } else {
        format!("/{}", source.replace('~', "~0").replace('/', "~1"))
    }
}

/// Adds `path`, or the keys below it that no pointer reads.
fn collect_ignored(path: &str, value: &Value, pointers: &[String], ignored: &mut Vec<String>) {
    if pointers.iter().any(|pointer| pointer == path) {
        return;
    }
    let below = format!("{path}/");
    if !pointers.iter().any(|pointer| pointer.starts_with(&below)) {
        ignored.push(source(path));
    } else if let Value::Object(fields) = value {
        for (name, value) in fields {
            let name = pointer(name);
            collect_ignored(&format!("{path}{name}"), value, pointers, ignored);
        }
    }
}

/// The shortest source with this pointer.
fn source(pointer: &str) -> String {
    let key = pointer.strip_prefix('/').filter(|key| !key.contains(['/', '~']));
    key.unwrap_or(pointer).to_owned()
}

/// The unchanged JSON text at a pointer (RFC 6901).
fn at<'t>(text: &'t str, pointer: &str) -> Option<&'t str> {
    let mut text = text.trim();
    for step in pointer.split('/').skip(1) {
        let step = step.replace("~1", "/").replace("~0", "~");
        text = if text.starts_with('[') {
            serde_json::from_str::<Vec<&RawValue>>(text).ok()?.get(step.parse::<usize>().ok()?)?.get()
        } else {
            serde_json::from_str::<BTreeMap<String, &RawValue>>(text).ok()?.get(&step)?.get()
        };
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_not_read_are_listed() {
        let body =
            br#"{"executionId":"x","workflow_id":"w","inputs":{},"result":[1],"meta/data":{"bulk":"b"}}"#;
        let ignored = |maps: &[(&str, &str)]| {
            let maps: Vec<_> = maps.iter().map(|(f, s)| ((*f).to_owned(), (*s).to_owned())).collect();
            Mapping { maps: &maps, sets: &[] }.extract(body, true).unwrap().remove(0).ignored
        };
        assert_eq!(ignored(&[]), ["executionId", "/meta~1data", "result"]);
        let maps = [("execution_id", "executionId"), ("bulk_id", "/meta~1data/bulk")];
        assert_eq!(ignored(&maps), ["result"]);
        let body = br#"{"data":{"id":"x","bulk":"b","more":{"c":1}}}"#;
        let maps = [parse_pair("execution_id=/data/id").unwrap()];
        let extracted = Mapping { maps: &maps, sets: &[] }.extract(body, true).unwrap().remove(0);
        assert_eq!(extracted.ignored, ["/data/bulk", "/data/more"]);
    }

    #[test]
    fn the_source_of_a_lost_field_is_a_source_of_the_body() {
        let id = parse_pair("execution_id=/data/id").unwrap();
        for body in [
            r#"{"data":{"id":"x"},"workflow_id":"w","status":"s","meta/bulk~":"b"}"#,
            r#"{"data":{"id":"x","bulk":"b"},"workflow_id":"w","status":"s"}"#,
        ] {
            let maps = [id.clone()];
            let lost = Mapping { maps: &maps, sets: &[] }.extract(body.as_bytes(), true).unwrap()[0].lost();
            assert_eq!(lost.len(), 1, "{body}");
            let maps = [id.clone(), (lost[0].field.to_owned(), lost[0].source.clone())];
            let found = Mapping { maps: &maps, sets: &[] }.extract(body.as_bytes(), false).unwrap();
            assert_eq!(Execution::parse(&found[0].mapped).unwrap().bulk_id.as_deref(), Some("b"), "{body}");
        }
    }

    #[test]
    fn a_mapping_reads_fields_from_their_sources_unchanged() {
        let pairs = |pairs: &[&str]| pairs.iter().map(|pair| parse_pair(pair).unwrap()).collect::<Vec<_>>();
        let body = r#"{"data":[{"a/b~c":{"id":"x"}}],"cost":1.10,"status":"failed"}"#;
        let maps = pairs(&["execution_id=/data/0/a~1b~0c/id", "total_cost=cost"]);
        let sets = pairs(&["workflow_id=w", "status=completed", "execution_id=no"]);
        let mapped = Mapping { maps: &maps, sets: &sets }.apply(body).unwrap();
        let execution = Execution::parse(&mapped).unwrap();
        assert_eq!((&*execution.execution_id, &*execution.status), ("x", "failed"));
        assert_eq!(execution.total_cost, Some("1.10"));
        let (maps, sets) = (pairs(&["execution_id=id"]), pairs(&["workflow_id=w", "status=completed"]));
        let each = Mapping { maps: &maps, sets: &sets };
        let extracted = each.extract(br#" [{"id":"y"}, {"id":"z"}]"#, true).unwrap();
        assert_eq!(extracted.len(), 2);
        assert_eq!(Execution::parse(&extracted[1].mapped).unwrap().execution_id, "z");
        assert_eq!(&*extracted[1].original, br#"{"id":"z"}"#);
        assert!(each.extract(b"[1]", true).is_err() && each.extract(b"7", true).is_err());
        assert!(parse_pair("executionId=x").is_err() && parse_pair("status").is_err());
    }
}
