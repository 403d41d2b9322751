//! The conflicts of an execution, compared with the recorded result.

use std::collections::BTreeMap;

use maud::{Markup, html};
use serde_json::value::RawValue;

use super::components::{ago, plural};
use super::conflicts;
use super::diff;
use super::json_view::indented;
use super::layout::PageError;
use super::params::url;
use super::sections::authentication;
use super::state::Console;
use super::text::visible;
use crate::db::queries::PageRequest;
use crate::db::queries::conflicts::{ConflictDetail, Conflicts, Filter, GetConflict};
use crate::db::queries::executions::ExecutionDetail;
use crate::db::queries::json::Json;
use crate::logging::escape_json;

/// Conflicts that are compared.
const MAX_CONFLICTS: i64 = 5;

/// Reads the first conflicts of an execution.
pub(super) async fn read(
    console: &Console,
    execution: &ExecutionDetail,
) -> Result<Vec<ConflictDetail>, PageError> {
    let mut details = Vec::new();
    if execution.conflicts > 0 {
        let filter = Filter { execution: Some(execution.execution.execution_id.clone()) };
        let page = PageRequest { limit: MAX_CONFLICTS, after: None };
        let list = console.run(&Conflicts { filter, page, ..Conflicts::default() }).await?;
        for conflict in list.items {
            details.extend(console.run(&GetConflict { conflict_id: conflict.conflict_id }).await?);
        }
    }
    Ok(details)
}

/// `payload` is the recorded body.
pub(super) fn section(
    recorded: &ExecutionDetail,
    payload: Option<&str>,
    conflicts: &[ConflictDetail],
) -> Markup {
    let (execution, count) = (&recorded.execution, recorded.conflicts);
    html! {
        section.card.conflicts aria-label="Conflicts" {
            details {
                summary {
                    h2 { (plural(count, "conflict", "conflicts")) } " "
                    "Later webhooks contradict the recorded result. The recorded result is not changed."
                }
                // A link to an identifier in the content opens the element.
                div #conflicts {
                    @for detail in conflicts {
                        @let conflict = &detail.conflict;
                        article.conflict {
                            h3 {
                                "Received " (ago(conflict.first_received_at)) ", " (plural(conflict.deliveries.into(), "delivery", "deliveries"))
                                ", authenticated by: " (authentication(conflict.delivered_authenticated_by.as_deref()))
                            }
                            (fields(recorded, payload, detail))
                        }
                    }
                    @if let Some(more) = usize::try_from(count).ok().and_then(|count| count.checked_sub(conflicts.len())).filter(|more| *more > 0) {
                        p.soft { (more) " more conflicts: " a href=(url("/api/v1/conflicts", "execution", &execution.execution_id)) { "all as JSON" } }
                    }
                }
            }
        }
    }
}

fn fields(recorded: &ExecutionDetail, payload: Option<&str>, detail: &ConflictDetail) -> Markup {
    let (execution, conflict) = (&recorded.execution, &detail.conflict);
    let differs = conflict.differs_in.clone().unwrap_or_default();
    let output = |output: &Option<Json>| output.as_ref().map(|output| indented(&escape_json(&output.0)));
    let values = |field: &str| match field {
        "status" => (conflict.recorded_status.clone(), Some(conflict.delivered_status.clone())),
        "workflow_id" => (Some(execution.workflow_id.clone()), Some(conflict.workflow_id.clone())),
        "bulk_id" => (execution.bulk_id.clone(), conflict.bulk_id.clone()),
        "error_cause" => (conflict.recorded_error_cause.clone(), conflict.delivered_error_cause.clone()),
        "output" => (output(&detail.recorded_output), output(&detail.delivered_output)),
        _ => (
            payload.and_then(|body| field_of(body, field)),
            detail
                .payload_text
                .as_deref()
                .or(detail.payload.as_ref().map(|body| &*body.0))
                .and_then(|body| field_of(body, field)),
        ),
    };
    html! {
        @if differs.is_empty() { p.soft { "The webhooks differ in bytes that PostgreSQL cannot store as JSON." } }
        @for field in &differs {
            @let (recorded, delivered) = values(field);
            h4 { (visible(conflicts::name(field))) }
            @if recorded.is_none() && delivered.is_none() { p.soft { "See the payload of the conflict." } }
            @else { (diff::lines(recorded.as_deref().unwrap_or(""), delivered.as_deref().unwrap_or(""))) }
        }
        p { a href=(format!("/api/v1/conflicts/{}", conflict.conflict_id)) { "Show the conflicting webhook as JSON" } }
    }
}

/// The value of a field in a webhook's body: a string as its text, another value as JSON.
fn field_of(body: &str, field: &str) -> Option<String> {
    let fields: BTreeMap<String, &RawValue> = serde_json::from_str(body).ok()?;
    let value = fields.get(field)?.get();
    serde_json::from_str(value).ok().or_else(|| (value != "null").then(|| indented(&escape_json(value))))
}
