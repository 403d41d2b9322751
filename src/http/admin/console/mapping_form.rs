//! The mapping of a quarantined body as fields of a form: `map.FIELD` is a key or a JSON pointer, `set.FIELD` a value.

use std::collections::BTreeMap;

use maud::{Markup, html};
use serde_json::value::RawValue;

use super::text::visible_attribute;
use crate::execution;
use crate::execution::mapping::{Extracted, FIELDS, Mapping};

/// Fields without which a body is not an execution.
const REQUIRED: [&str; 3] = ["execution_id", "workflow_id", "status"];

#[derive(Debug, Default)]
pub(super) struct MappingForm {
    maps: Vec<(String, String)>,
    sets: Vec<(String, String)>,
    /// Also record executions without the output or the bulk that an unread key probably has.
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

    pub(super) fn extract(&self, body: &[u8]) -> Result<Vec<Extracted>, String> {
        Mapping { maps: &self.maps, sets: &self.sets }.extract(body, self.force)
    }

    /// `target` with the mapping in the form of the command line, for the audit log.
    pub(super) fn describe(&self, target: &str) -> String {
        let mut text = Mapping { maps: &self.maps, sets: &self.sets }.describe(target);
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

    /// The form. `keys` are suggested as sources.
    pub(super) fn inputs(&self, keys: &[String]) -> Markup {
        let value = |pairs: &[(String, String)], field: &str| {
            pairs.iter().find(|(given, _)| given == field).map(|(_, value)| value.clone())
        };
        html! {
            datalist #keys { @for key in keys { option value=(key) {} } }
            table.rows.mapping {
                thead { tr { th scope="col" { "Field" } th scope="col" { "Read from (key or /json/pointer)" } th scope="col" { "Or set to" } } }
                tbody {
                    @for field in FIELDS {
                        @let has_key = keys.iter().any(|key| key == field);
                        tr {
                            th scope="row" {
                                code { (field) }
                                @if REQUIRED.contains(field) && !has_key { " " span.badge.warn { "required" } }
                            }
                            td {
                                input name={ "map." (field) } list="keys" value=[value(&self.maps, field)] maxlength="255"
                                    placeholder=[has_key.then_some(*field)] autocomplete="off" spellcheck="false"
                                    aria-label={ "Read " (field) " from" };
                            }
                            td {
                                input name={ "set." (field) } value=[value(&self.sets, field)] maxlength="255"
                                    autocomplete="off" spellcheck="false" aria-label={ "Set " (field) " to" };
                            }
                        }
                    }
                }
            }
            label.check {
                input type="checkbox" name="force" value="on" checked[self.force];
                " Record even if an unread key probably has the output or the bulk (--force)"
            }
        }
    }
}

/// The top-level keys of a body, or of the first element of an array.
pub(super) fn keys(body: &str) -> Vec<String> {
    let Ok(text) = execution::text(body.as_bytes()) else { return Vec::new() };
    let keys = serde_json::from_str::<BTreeMap<String, &RawValue>>(text).or_else(|_| {
        serde_json::from_str::<Vec<BTreeMap<String, &RawValue>>>(text)
            .map(|elements| elements.into_iter().next().unwrap_or_default())
    });
    keys.unwrap_or_default().into_keys().take(100).map(|key| visible_attribute(&key)).collect()
}
