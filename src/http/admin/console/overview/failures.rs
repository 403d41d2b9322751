//! The failures of the period, grouped by cause.

use maud::{Markup, html};

use super::{Data, Period};
use crate::db::queries::Choice;
use crate::db::queries::failures::Group;
use crate::http::admin::console::components::{ago, badge, count};
use crate::http::admin::console::failure_class::failure_class;
use crate::http::admin::console::params::{filtered, path};
use crate::http::admin::console::sections::with_cause;
use crate::http::admin::console::text::{excerpt, visible};

/// Characters of a cause.
const CAUSE_CHARS: usize = 220;

pub(super) fn table(data: &Data, period: Period) -> Markup {
    let groups = &data.failures.groups;
    html! {
        @if groups.is_empty() {
            div.empty { p { "No failures in this period." } }
        } @else {
            table.rows {
                thead { tr { th { "Cause" } th.num { "Failed" } th.num { "Latest" } } }
                tbody {
                    @for group in groups {
                        @let list = list(group, period);
                        @let class = failure_class(&group.failure_class);
                        tr data-row {
                            td {
                                a.cut href=(list) { (cause(group)) }
                                small.soft {
                                    @if is_new(group, data) { (badge("warn", html! { "new" })) " " }
                                    @if group.latest_prediction_id.is_some() { (badge("muted", html! { "prediction" })) " " }
                                    @if let Some(class) = &class { (class) }
                                    @if let Some(workflow) = &group.workflow_id {
                                        @if class.is_some() { " · " }
                                        (visible(excerpt(workflow, 60).0))
                                    }
                                }
                            }
                            td.num data-label="Failed" { a href=(list) { (count(group.failed)) } }
                            td.num data-label="Latest" { a href=(latest(group)) { (ago(group.latest_received_at)) } }
                        }
                    }
                }
            }
            @if data.failures.partial {
                p.note.soft { small { "Only the latest " (count(data.failures.failed)) " failures are grouped." } }
            }
        }
    }
}

/// The list of the executions or predictions in the group. Predictions cannot be searched by their cause.
fn list(group: &Group, period: Period) -> String {
    let (workflow, since) = (group.workflow_id.as_deref(), Some(period.as_str()));
    let pairs = [("workflow", workflow), ("since", since)];
    if group.latest_prediction_id.is_some() {
        filtered("/predictions", [("status", Some("failed"))].into_iter().chain(pairs))
    } else {
        with_cause(group.error_cause.as_deref().or(group.error.as_deref()), pairs)
    }
}

/// The address of the latest execution or prediction in the group.
fn latest(group: &Group) -> String {
    match (&group.latest_execution_id, &group.latest_prediction_id) {
        (None, Some(id)) => path("predictions", id),
        (id, _) => path("executions", id.as_deref().unwrap_or_default()),
    }
}

fn cause(group: &Group) -> Markup {
    let text = group.error_cause.as_deref().or(group.error.as_deref());
    let (text, more) = excerpt(text.unwrap_or("no cause was sent"), CAUSE_CHARS);
    html! { (visible(text)) @if more { "…" } }
}

/// Whether no earlier failure has this cause. Not marked if there are no earlier failures, or too many to compare.
fn is_new(group: &Group, data: &Data) -> bool {
    let same = |earlier: &&Group| {
        (&earlier.workflow_id, &earlier.error, &earlier.error_cause)
            == (&group.workflow_id, &group.error, &group.error_cause)
    };
    let earlier = &data.earlier_failures;
    !earlier.partial && !earlier.groups.is_empty() && !earlier.groups.iter().any(|earlier| same(&earlier))
}
