//! The mapping of a quarantined body as fields of a form: `map.FIELD` is a key or a JSON pointer, `set.FIELD` a value.

use std::collections::BTreeMap;

use maud::{Markup, html};
use serde_json::value::RawValue;

use super::text::{visible, visible_attribute};
use crate::execution;
use crate::execution::mapping::{ExtractError, Extracted, FIELDS, Lost, Mapping, problems};
use crate::execution::status::TERMINAL;

/// Fields without which a body is not an execution.
const REQUIRED: [&str; 3] = ["execution_id", "workflow_id", "status"];
/// Optional fields that are not folded.
const MAIN: [&str; 2] = ["output", "bulk_id"];

/// Maximum problems that a preview lists.
const MAX_PROBLEMS: usize = 10;
/// Maximum suggested keys.
const MAX_KEYS: usize = 100;
/// Maximum levels of objects whose keys are suggested.
const MAX_LEVELS: usize = 4;

#[derive(Debug, Default)]
pub(super) struct MappingForm {
    maps: Vec<(String, String)>,
    sets: Vec<(String, String)>,
    /// Also records executions whose output or bulk is probably in a key that the mapping does not read.
    force: bool,
}

impl MappingForm {
    /// Reads the fields with `get`. Empty fields are left out.
    pub(super) fn of<'f>(get: impl Fn(&str) -> Option<&'f str>) -> Self {
        let pairs = |kind: &str| {
            let pair = |field: &&str| {
                let value = get(&format!("{kind}.{field}"))?.trim();
                (!value.is_empty()).then(|| ((*field).to_owned(), value.to_owned()))
            };
            FIELDS.iter().filter_map(pair).collect()
        };
        Self {
            maps: pairs("map"),
            sets: pairs("set"),
            force: get("force").is_some_and(|value| !value.is_empty()),
        }
    }

    fn mapping(&self) -> Mapping<'_> {
        Mapping { maps: &self.maps, sets: &self.sets }
    }

    /// # Errors
    /// A sentence without its full stop. A field that is both read and set is an error: only one of the values would count.
    pub(super) fn extract(&self, body: &[u8]) -> Result<Vec<Extracted>, String> {
        let is_set = |field: &String| self.sets.iter().any(|(set, _)| set == field);
        if let Some((field, _)) = self.maps.iter().find(|(field, _)| is_set(field)) {
            return Err(format!(
                "`{field}`: choose one of the two, \u{201c}Read from\u{201d} or \u{201c}Or set to\u{201d}"
            ));
        }
        self.mapping().extract(body, self.force).map_err(|error| match error {
            ExtractError::Invalid(why) => why,
            ExtractError::Lost(lost) => format!(
                "`{}` is not read, and the execution would have no `{}`. Read {} from `{}`, or select \u{201c}{}\u{201d}",
                lost.source,
                lost.field,
                lost.field,
                lost.source,
                force_label(std::slice::from_ref(&lost))
            ),
        })
    }

    /// Why the body would not be recorded: sources that it does not have, and required fields without a value.
    pub(super) fn problems(&self, body: &str) -> Vec<String> {
        let mapping = self.mapping();
        let absent = mapping.absent_sources(body).into_iter();
        let mut all: Vec<_> = absent.map(absent_source).collect();
        let extracted = self.mapping().extract(body.as_bytes(), true).unwrap_or_default();
        for extracted in &extracted {
            all.extend(problems(&extracted.mapped, &REQUIRED));
            all.dedup();
        }
        all.truncate(MAX_PROBLEMS);
        all
    }

    /// The fields that an execution would lack, although the body probably has them.
    fn lost(&self, body: &str) -> Vec<Lost> {
        if self.mapping().is_empty() {
            return Vec::new();
        }
        let extracted = self.mapping().extract(body.as_bytes(), true).unwrap_or_default();
        extracted.iter().map(Extracted::lost).find(|lost| !lost.is_empty()).unwrap_or_default()
    }

    /// Whether the mapping sets the identifier. It is then for a single entry: all entries would get the same identifier.
    pub(super) fn sets_execution_id(&self) -> bool {
        self.sets.iter().any(|(field, _)| field == "execution_id")
    }

    /// `target` with the mapping in the form of the command line, for the audit log.
    pub(super) fn describe(&self, target: &str) -> String {
        let mut text = self.mapping().describe(target);
        if self.force {
            text.push_str(" --force");
        }
        text
    }

    /// The mapping as hidden fields.
    pub(super) fn hidden(&self) -> Markup {
        html! {
            @for (kind, pairs) in [("map", &self.maps), ("set", &self.sets)] {
                @for (field, value) in pairs { input type="hidden" name={ (kind) "." (field) } value=(value); }
            }
            @if self.force { input type="hidden" name="force" value="on"; }
        }
    }

    /// The form. The keys of the body are suggested as sources.
    pub(super) fn inputs(&self, body: &str) -> Markup {
        let keys = keys(body);
        let is_given = |field: &str| self.maps.iter().chain(&self.sets).any(|(given, _)| given == field);
        let (first, more): (Vec<&str>, Vec<&str>) = FIELDS
            .iter()
            .partition(|field| REQUIRED.contains(field) || MAIN.contains(field) || is_given(field));
        let lost = self.lost(body);
        html! {
            datalist #statuses { @for status in TERMINAL { option value=(status) {} } }
            datalist #keys { @for key in &keys { option value=(key) {} } }
            (self.table(&first, &keys))
            details { summary { "More fields" } (self.table(&more, &keys)) }
            @if !lost.is_empty() {
                label.check {
                    input type="checkbox" name="force" value="on" checked[self.force];
                    " " (visible(&force_label(&lost)))
                }
            }
        }
    }

    fn table(&self, fields: &[&str], keys: &[String]) -> Markup {
        let value = |pairs: &[(String, String)], field: &str| {
            pairs.iter().find(|(given, _)| given == field).map(|(_, value)| value.clone())
        };
        html! {
            table.rows.mapping {
                thead { tr { th scope="col" { "Field" } th scope="col" { "Read from (key or /json/pointer)" } th scope="col" { "Or set to" } } }
                tbody {
                    @for field in fields {
                        @let has_key = keys.iter().any(|key| key == field);
                        tr {
                            th scope="row" {
                                code { (field) }
                                @if REQUIRED.contains(field) && !has_key { " " span.badge.warn { "required" } }
                            }
                            td {
                                input name={ "map." (field) } list="keys" value=[value(&self.maps, field)] maxlength="255"
                                    placeholder=[has_key.then_some(field)] autocomplete="off" spellcheck="false"
                                    aria-label={ "Read " (field) " from" };
                            }
                            td {
                                input name={ "set." (field) } list=[(*field == "status").then_some("statuses")] value=[value(&self.sets, field)] maxlength="255"
                                    autocomplete="off" spellcheck="false" aria-label={ "Set " (field) " to" };
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Says that the body does not have this source. A path with dots or without its first slash is probably a JSON pointer.
fn absent_source(source: &str) -> String {
    if source.starts_with('/') {
        return format!("The body has no value at `{source}`");
    }
    let path = source.trim_start_matches("$.").replace('.', "/");
    if path.contains('/') {
        format!(
            "The body has no key `{source}`. To read a key in an object, enter its JSON pointer: `/{path}`"
        )
    } else {
        format!("The body has no key `{source}`")
    }
}

/// The label of the field `force`, such as `Record without output (ignore /data/result)`.
fn force_label(lost: &[Lost]) -> String {
    let parts: Vec<_> =
        lost.iter().map(|lost| format!("without {} (ignore {})", lost.field, lost.source)).collect();
    format!("Record {}", parts.join(" and "))
}

type Fields<'t> = BTreeMap<String, &'t RawValue>;

/// The keys of a body, or of the first element of an array, and the pointers of keys in its objects. The outer ones are
/// first.
fn keys(body: &str) -> Vec<String> {
    let Ok(text) = execution::text(body.as_bytes()) else { return Vec::new() };
    let fields = serde_json::from_str::<Fields<'_>>(text).or_else(|_| {
        serde_json::from_str(text).map(|all: Vec<Fields<'_>>| all.into_iter().next().unwrap_or_default())
    });
    let mut level = vec![(String::new(), fields.unwrap_or_default())];
    let mut keys = Vec::new();
    for _ in 0..MAX_LEVELS {
        let mut next = Vec::new();
        for (parent, fields) in level {
            for (key, value) in fields {
                let pointer = format!("{parent}/{}", key.replace('~', "~0").replace('/', "~1"));
                let is_key = parent.is_empty() && !key.starts_with('/');
                keys.push(visible_attribute(if is_key { &key } else { &pointer }));
                if keys.len() == MAX_KEYS {
                    return keys;
                }
                if let Ok(fields) = serde_json::from_str(value.get()) {
                    next.push((pointer, fields));
                }
            }
        }
        level = next;
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_objects_are_suggested_as_pointers_within_bounds() {
        let body = r#"{"data":{"run/id":{"deep":{"more":{"most":1}}},"n":[1]},"event":"x"}"#;
        let expected =
            ["data", "event", "/data/n", "/data/run~1id", "/data/run~1id/deep", "/data/run~1id/deep/more"];
        assert_eq!(keys(body), expected);
        assert_eq!(keys(&format!("[{body}]")), expected);
        let wide: Vec<_> = (0..1_000).map(|n| format!("\"k{n}\":{{\"x\":1}}")).collect();
        assert_eq!(keys(&format!("{{{}}}", wide.join(","))).len(), MAX_KEYS);
        assert!(keys("7").is_empty());
    }
}
