//! The failures of the period, grouped by cause.

use std::cmp::Reverse;
use std::collections::BTreeMap;

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

/// Groups of executions, and groups of predictions, that are shown.
const EXECUTION_ROWS: usize = 8;
const PREDICTION_ROWS: usize = 3;

pub(super) fn table(data: &Data, period: Period) -> Markup {
    let groups = &data.failures.groups;
    let executions: Vec<_> = groups.iter().filter(|group| group.latest_execution_id.is_some()).collect();
    // The groups beyond those that were read.
    let unread = data.failures.failed - groups.iter().map(|group| group.failed).sum::<i64>();
    html! {
        @if executions.is_empty() && unread == 0 {
            div.empty { p { "No failures in this period." } }
        } @else {
            (part(data, period, &executions, EXECUTION_ROWS, unread))
            @if data.failures.partial {
                p.note.soft { small { "Only the latest " (count(data.failures.failed)) " failures are grouped." } }
            }
        }
    }
}

/// The failed predictions, as a card. Nothing without any.
pub(super) fn predictions(data: &Data, period: Period) -> Markup {
    let groups = data.failures.groups.iter();
    let predictions: Vec<_> = groups.filter(|group| group.latest_prediction_id.is_some()).collect();
    html! {
        @if !predictions.is_empty() {
            section.card.flush {
                div.head {
                    h2 { "Failed predictions" }
                    a href={ "/predictions?status=failed&since=" (period.as_str()) } { "All failed predictions" }
                }
                (part(data, period, &predictions, PREDICTION_ROWS, 0))
            }
        }
    }
}

/// The first `rows` groups, ordered by class, and the number of failures in the other groups, including `unread` failures of
/// groups that were not read.
fn part(data: &Data, period: Period, groups: &[&Group], rows: usize, unread: i64) -> Markup {
    let (shown, others) = groups.split_at(groups.len().min(rows));
    let others = unread + others.iter().map(|group| group.failed).sum::<i64>();
    let mut classes: BTreeMap<&str, i64> = BTreeMap::new();
    for group in groups {
        *classes.entry(&group.failure_class).or_default() += group.failed;
    }
    let mut shown = shown.to_vec();
    shown.sort_by_key(|group| (Reverse(classes[&*group.failure_class]), &group.failure_class));
    let is_alone = |class: &str| shown.iter().filter(|group| group.failure_class == class).count() == 1;
    html! {
        table.rows {
            thead { tr { th { "Cause" } th.num { "Failed" } th { "Latest" } } }
            @for class in shown.chunk_by(|one, other| one.failure_class == other.failure_class) {
                @let name = &*class[0].failure_class;
                tbody {
                    @if let Some(words) = failure_class(name).filter(|_| !is_alone(name)) {
                        tr.class { th scope="rowgroup" { (words) } td.num { (count(classes[name])) } td {} }
                    }
                    @for group in class { (row(data, period, group, is_alone(name))) }
                }
            }
        }
        @if others > 0 {
            p.note.soft { small {
                "and " (count(others)) " in other causes"
                @if unread > 0 { ", including predictions" }
            } }
        }
    }
}

fn row(data: &Data, period: Period, group: &Group, with_class: bool) -> Markup {
    let list = list(group, period);
    let class = failure_class(&group.failure_class).filter(|_| with_class);
    html! {
        tr data-row {
            td {
                a.cut href=(list) { (cause(group)) }
                small.soft {
                    @if is_new(group, data) { (badge("warn", html! { "new" })) " " }
                    @if let Some(class) = &class { (class) }
                    @if let Some(workflow) = &group.workflow_id {
                        @if class.is_some() { " · " }
                        (visible(excerpt(workflow, 60).0))
                    }
                }
            }
            td.num data-label="Failed" { a href=(list) { (count(group.failed)) } }
            td.time data-label="Latest" { a href=(latest(group)) { (ago(group.latest_received_at)) } }
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
