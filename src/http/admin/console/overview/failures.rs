//! The failures of the period, grouped by cause.

use std::cmp::Reverse;
use std::collections::HashMap;

use maud::{Markup, html};

use super::{Data, Period};
use crate::db::queries::Choice;
use crate::db::queries::failures::Group;
use crate::http::admin::console::components::{ago, badge, count};
use crate::http::admin::console::failure_class::{Fault, failure_class};
use crate::http::admin::console::params::{filtered, path};
use crate::http::admin::console::sections::{MAX_SEARCHED, with_cause};
use crate::http::admin::console::text::{excerpt, visible};

/// Characters of a cause.
const CAUSE_CHARS: usize = 220;

/// Names of workflows, and characters of a name.
const WORKFLOWS: usize = 2;
const WORKFLOW_CHARS: usize = 40;

/// Causes of executions, and causes of predictions, that are shown.
const EXECUTION_ROWS: usize = 8;
const PREDICTION_ROWS: usize = 3;

/// Failures with the same cause, in all workflows.
struct Cause<'d> {
    latest: &'d Group,
    failed: i64,
    /// The workflow with the most failures first.
    workflows: Vec<&'d str>,
}

fn text(group: &Group) -> Option<&str> {
    group.error_cause.as_deref().or(group.error.as_deref())
}

/// The causes, the most frequent first. `groups` are the groups of each workflow, the largest first.
fn causes<'d>(groups: impl Iterator<Item = &'d Group>) -> Vec<Cause<'d>> {
    let mut causes: Vec<Cause<'d>> = Vec::new();
    let mut places = HashMap::new();
    for group in groups {
        let place = *places.entry((text(group), &group.failure_class)).or_insert(causes.len());
        if place == causes.len() {
            causes.push(Cause { latest: group, failed: 0, workflows: Vec::new() });
        }
        let cause = &mut causes[place];
        cause.failed += group.failed;
        cause.workflows.extend(group.workflow_id.as_deref().filter(|name| !cause.workflows.contains(name)));
        if group.latest_received_at > cause.latest.latest_received_at {
            cause.latest = group;
        }
    }
    causes.sort_by_key(|cause| Reverse(cause.failed));
    causes
}

pub(super) fn table(data: &Data, period: Period) -> Markup {
    let groups = data.failures.groups.iter();
    let causes = causes(groups.filter(|group| group.latest_execution_id.is_some()));
    html! {
        @if causes.is_empty() {
            div.empty { p { "No failures in this period." } }
        } @else {
            @if data.failures.partial {
                p.note.soft { small { "Only the latest " (count(data.failures.failed)) " failures are counted here." } }
            }
            (sides(&causes, period))
            (part(data, period, &causes, EXECUTION_ROWS))
        }
    }
}

/// The number of failures by who is at fault.
fn sides(causes: &[Cause<'_>], period: Period) -> Markup {
    let of = |fault: &Fault| {
        let causes = causes.iter().filter(|cause| Fault::of(&cause.latest.failure_class) == *fault);
        causes.map(|cause| cause.failed).sum::<i64>()
    };
    let list = |fault: Fault| {
        filtered(
            "/executions",
            [("status", Some("failed")), ("fault", Some(fault.as_str())), ("since", Some(period.as_str()))],
        )
    };
    html! {
        div.note.chips {
            small.soft { "At fault:" }
            @for fault in Fault::ALL {
                @let number = of(&fault);
                @if number > 0 { a.chip href=(list(fault)) { (fault.name()) " " strong { (count(number)) } } }
            }
        }
    }
}

/// The failed predictions, as a card. Nothing without any.
pub(super) fn predictions(data: &Data, period: Period) -> Markup {
    let groups = data.failures.groups.iter();
    let causes = causes(groups.filter(|group| group.latest_prediction_id.is_some()));
    html! {
        @if !causes.is_empty() {
            section.card.flush {
                div.head {
                    h2 { "Failed predictions" }
                    a href={ "/predictions?status=failed&since=" (period.as_str()) } { "All failed predictions" }
                }
                (part(data, period, &causes, PREDICTION_ROWS))
            }
        }
    }
}

/// The most frequent causes, and the number of failures with other causes.
fn part(data: &Data, period: Period, causes: &[Cause<'_>], rows: usize) -> Markup {
    let (shown, others) = causes.split_at(causes.len().min(rows));
    let others: i64 = others.iter().map(|cause| cause.failed).sum();
    html! {
        table.rows {
            thead { tr { th { "Cause" } th { "At fault" } th { "Workflow" } th.num { "Failed" } th { "Latest" } } }
            tbody { @for cause in shown { (row(data, period, cause)) } }
        }
        @if others > 0 {
            @let is_prediction = causes[0].latest.latest_prediction_id.is_some();
            p.note.soft { small {
                "and " (count(others)) " "
                a href=(filtered(if is_prediction { "/predictions" } else { "/executions" }, all(period))) { "in other causes" }
            } }
        }
    }
}

fn row(data: &Data, period: Period, cause: &Cause<'_>) -> Markup {
    let list = list(cause, period);
    let text = text(cause.latest).unwrap_or("no cause was sent");
    let (text, more) = excerpt(text, CAUSE_CHARS);
    html! {
        tr data-row {
            td.main {
                a.row-link.cut href=(list) {
                    @if is_new(cause, data) { (badge("warn", html! { "new" })) " " }
                    (visible(text)) @if more { "…" }
                }
            }
            td { small { (failure_class(&cause.latest.failure_class, &of_class(cause, period))) } }
            td.workflow data-label="Workflow" { (workflows(&cause.workflows)) }
            td.num data-label="Failed" { a.quiet href=(list) { (count(cause.failed)) } }
            td.time data-label="Latest" { a href=(latest(cause.latest)) { (ago(cause.latest.latest_received_at)) } }
        }
    }
}

/// The first names, and the number of others.
fn workflows(names: &[&str]) -> Markup {
    let (shown, others) = names.split_at(names.len().min(WORKFLOWS));
    html! {
        small.cut {
            @for (n, name) in shown.iter().enumerate() {
                @if n > 0 { ", " }
                @let (name, more) = excerpt(name, WORKFLOW_CHARS);
                (visible(name)) @if more { "…" }
            }
            @if !others.is_empty() { " and " (others.len()) " more" }
        }
    }
}

/// The filters for all failures of the period.
fn all(period: Period) -> [(&'static str, Option<&'static str>); 2] {
    [("status", Some("failed")), ("since", Some(period.as_str()))]
}

/// The list of the executions or predictions with the class of the cause.
fn of_class(cause: &Cause<'_>, period: Period) -> String {
    let list = if cause.latest.latest_prediction_id.is_some() { "/predictions" } else { "/executions" };
    let class = [("class", Some(&*cause.latest.failure_class))];
    filtered(list, all(period).into_iter().chain(class))
}

/// The list of the executions or predictions with the cause.
fn list(cause: &Cause<'_>, period: Period) -> String {
    let workflow = Some(&cause.workflows).filter(|names| names.len() == 1).map(|names| names[0]);
    let pairs = [("workflow", workflow), ("since", Some(period.as_str()))];
    if cause.latest.latest_prediction_id.is_some() {
        let searched = text(cause.latest).map(|text| excerpt(text, MAX_SEARCHED).0);
        filtered("/predictions", [("status", Some("failed")), ("q", searched)].into_iter().chain(pairs))
    } else {
        with_cause(text(cause.latest), pairs)
    }
}

/// The address of the latest execution or prediction in the group.
fn latest(group: &Group) -> String {
    match (&group.latest_execution_id, &group.latest_prediction_id) {
        (None, Some(id)) => path("predictions", id),
        (id, _) => path("executions", id.as_deref().unwrap_or_default()),
    }
}

/// Whether no earlier failure has this cause. Not marked if there are no earlier failures, or too many to compare.
fn is_new(cause: &Cause<'_>, data: &Data) -> bool {
    let earlier = &data.earlier_failures;
    let mut known = earlier.groups.iter().map(text);
    !earlier.partial && !earlier.groups.is_empty() && !known.any(|known| known == text(cause.latest))
}
