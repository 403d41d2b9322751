//! `/executions/{execution_id}`, and the download of the payload.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};
use serde_json::value::RawValue;

use super::compared_conflicts;
use super::components::{ago, badge, conflicts_badge, plural, row_head, status};
use super::failure_class::failure_class;
use super::hosts::ResultHosts;
use super::json_view::tree;
use super::layout::{self, PageError, Tab};
use super::params::{filtered, path, url};
use super::reconcile;
use super::results::{Label, Size, gallery, partial_note};
use super::sections::{
    self, Deliveries, Payload, authentication, exact, fetched, recorded_by, source_of, with_cause,
};
use super::state::{Console, ConsoleState};
use super::steps;
use super::text::{excerpt, visible, visible_attribute};
use super::units;
use super::view::View;
use crate::db::queries::conflicts::ConflictDetail;
use crate::db::queries::executions::{Execution, ExecutionDetail, GetExecution, Step};
use crate::db::queries::expected::{GetRegisteredInput, RegisteredInput};
use crate::db::queries::reference::Reference;
use crate::db::queries::results::ResultItem;
use crate::db::queries::retries::{GetRecordedBy, RecordedBy};
use crate::execution::status::is_terminal;
use crate::http::admin::api::query::{PathId, path_identifier};

pub(super) async fn page(State(console): ConsoleState, view: View, id: PathId<String>) -> Response {
    let read = async {
        let execution = read(&console, id).await?;
        let conflicts = compared_conflicts::read(&console, &execution).await?;
        let execution_id = execution.execution.execution_id.clone();
        let registered = console.run(&GetRegisteredInput { execution_id: execution_id.clone() }).await?;
        let recorded_by = console.run(&GetRecordedBy { id: execution_id, is_prediction: false }).await?;
        Ok((execution, conflicts, Origin { registered, recorded_by }))
    };
    match read.await {
        Ok((execution, conflicts, origin)) => {
            let title = execution.execution.execution_id.clone();
            let content = content(&console, &view, &execution, &conflicts, &origin);
            layout::page(&view, Tab::Executions, &title, Ok(content))
        }
        Err(error) => layout::page(&view, Tab::Executions, "Execution", Err(error)),
    }
}

/// Where an execution comes from, besides its webhooks.
struct Origin {
    registered: Option<RegisteredInput>,
    recorded_by: Option<RecordedBy>,
}

async fn read(console: &Console, id: PathId<String>) -> Result<ExecutionDetail, PageError> {
    let execution_id = path_identifier(id, "execution")?;
    let execution = console.run(&GetExecution { execution_id: execution_id.clone() }).await?;
    execution.ok_or(PageError::NotFound { kind: "execution", id: execution_id })
}

/// `/executions/{execution_id}/payload`: the webhook's body as a file.
pub(super) async fn download(State(console): ConsoleState, view: View, id: PathId<String>) -> Response {
    let file = read(&console, id).await.and_then(|detail| payload(&detail).file());
    file.unwrap_or_else(|error| layout::page(&view, Tab::Executions, "Payload", Err(error)))
}

fn payload(detail: &ExecutionDetail) -> Payload<'_> {
    Payload {
        table: "executions",
        id: &detail.execution.execution_id,
        text: detail.payload_text.as_deref(),
        json: detail.payload.as_ref(),
        removed_at: detail.payload_removed_at,
        is_omitted: !detail.omitted.is_empty(),
    }
}

fn content(
    console: &Console,
    view: &View,
    detail: &ExecutionDetail,
    conflicts: &[ConflictDetail],
    origin: &Origin,
) -> Markup {
    let execution = &detail.execution;
    let inputs = inputs(detail);
    let prompt = inputs.and_then(prompt);
    html! {
        (head(console, view, detail, prompt.as_deref()))
        @if detail.conflicts > 0 { (compared_conflicts::section(detail, payload(detail).text(), conflicts)) }
        (failure(detail))
        (results(&console.result_hosts, detail, prompt.as_deref()))
        div.cards {
            div.stack {
                (steps::section(&detail.steps, detail.payload_removed_at.is_some()))
                (payload(detail).section())
            }
            div.stack {
                @if let Some(inputs) = inputs {
                    section.card aria-labelledby="inputs" { h2 #inputs { "Inputs" } (tree(inputs)) }
                }
                (facts(execution, origin))
            }
        }
    }
}

/// The JSON text of the field `inputs`.
fn inputs(detail: &ExecutionDetail) -> Option<&str> {
    let fields: BTreeMap<&str, &RawValue> = serde_json::from_str(payload(detail).text()?).ok()?;
    fields.get("inputs").map(|inputs| inputs.get()).filter(|inputs| *inputs != "null")
}

fn prompt(inputs: &str) -> Option<String> {
    let fields: BTreeMap<String, &RawValue> = serde_json::from_str(inputs).ok()?;
    serde_json::from_str(fields.get("prompt")?.get()).ok()
}

fn head(console: &Console, view: &View, detail: &ExecutionDetail, prompt: Option<&str>) -> Markup {
    let (execution, conflicts) = (&detail.execution, detail.conflicts);
    let title = prompt.map(|prompt| visible(excerpt(prompt, 300).0));
    let reconcile = html! {
        @if !is_terminal(&execution.status) { (reconcile::button(console, view, "executions", &execution.execution_id)) }
    };
    html! {
        div.page-head {
            (row_head(["/executions", "Executions"], &execution.execution_id, title, reconcile))
            ul.facts {
                li { (status(&execution.status)) }
                @if conflicts > 0 { li { (conflicts_badge(conflicts)) } }
                @if execution.step_failed && execution.status != "failed" { li { (badge("warn", html! { "step failed" })) } }
                @if let Some(seconds) = execution.duration_seconds.filter(|seconds| *seconds > 0.0) { li { "took " (units::seconds(seconds)) } }
                @if let Some(cost) = &execution.total_cost { li { "cost " (units::cost(&cost.0)) } }
                @match &execution.fetched_from {
                    None => li { "received " (ago(execution.first_received_at)) },
                    Some(source) if execution.deliveries == 1 => li { (fetched(source)) " " (ago(execution.first_received_at)) },
                    Some(source) => { li { "first webhook " (ago(execution.first_received_at)) } li { (fetched(source)) } }
                }
                li title=(visible_attribute(&execution.workflow_id)) {
                    "workflow " a href=(url("/executions", "workflow", &execution.workflow_id)) { (visible(&execution.workflow_id)) }
                }
                @if let Some(bulk) = &execution.bulk_id {
                    li title=(visible_attribute(bulk)) { "bulk " a href=(path("bulks", bulk)) { (visible(bulk)) } }
                }
            }
        }
    }
}

fn failure(detail: &ExecutionDetail) -> Markup {
    let execution = &detail.execution;
    let (error, cause) = (execution.error.as_deref(), execution.error_cause.as_deref());
    let list =
        |name: &str, value: &str| filtered("/executions", [("status", Some("failed")), (name, Some(value))]);
    let class = execution.failure_class.as_deref().map(|class| failure_class(class, &list("class", class)));
    let is_failed = |(_, step): &(usize, &Step)| step.status.as_deref() == Some("failed");
    let failed = detail.steps.iter().enumerate().find(is_failed);
    let reason = cause.or(error);
    html! {
        @if execution.status == "failed" || reason.is_some() {
            (sections::failure(error, cause, class, html! {
                @if let Some((n, step)) = failed {
                    "Failed step: " a href=(format!("#step-{n}")) { (visible(&step.step_id)) }
                    @if let Some(model) = &step.model { ", model " a href=(url("/executions", "model", model)) { (visible(model)) } }
                    ". "
                }
                @if reason.is_some() { a href=(with_cause(reason, [])) { "Executions with the same cause" } }
            }))
        }
    }
}

fn results(hosts: &ResultHosts, detail: &ExecutionDetail, prompt: Option<&str>) -> Markup {
    let page = &detail.results;
    let (finals, of_steps): (Vec<_>, Vec<_>) = page.items.iter().partition(|result| result.is_final);
    let has_finals = !finals.is_empty();
    let label = |result| label(result, prompt);
    if page.items.is_empty() && detail.execution.status == "failed" {
        return html! {};
    }
    html! {
        section.card aria-labelledby="results" {
            h2 #results { "Results" }
            @if page.items.is_empty() {
                p.soft {
                    @if detail.payload_removed_at.is_some() { "The results were removed with the payload (retention.payloads)." }
                    @else if !is_terminal(&detail.execution.status) {
                        "The execution is running. Its results are shown here after the next webhook."
                    }
                    @else { "The webhook has no results." }
                }
            } @else {
                (gallery(hosts, Size::Large, finals, label))
                @if !of_steps.is_empty() {
                    details open[!has_finals] {
                        summary { (plural(i64::try_from(of_steps.len()).unwrap_or_default(), "result", "results")) " of steps" }
                        (gallery(hosts, Size::Large, of_steps, label))
                    }
                }
                (partial_note(&page.items))
                @if page.next.is_some() {
                    p.soft { "These are the first " (page.items.len()) " results. "
                        a href=(url("/api/v1/export/results", "execution", &detail.execution.execution_id)) { "Download all" } }
                }
            }
        }
    }
}

fn label<'r>(result: &'r ResultItem, prompt: Option<&'r str>) -> Label<'r> {
    prompt.map_or(&*result.path, |prompt| excerpt(prompt, 300).0).into()
}

fn facts(execution: &Execution, origin: &Origin) -> Markup {
    let deliveries = Deliveries {
        list: "/executions",
        count: execution.deliveries,
        redeliveries: execution.redeliveries,
        first: execution.first_received_at,
        last: execution.last_received_at,
        reference: execution.reference.as_ref(),
        fetched_from: execution.fetched_from.as_deref(),
        ended: execution.completed_at,
    };
    let more = html! {
        @match &execution.fetched_from {
            None => { dt { "Authenticated by" } dd { (authentication(execution.authenticated_by.as_deref())) } },
            Some(source) => { dt { "Why fetched" } dd { (source_of(source)) } },
        }
        (recorded_by(origin.recorded_by.as_ref()))
        @if let Some(started) = execution.started_at { dt { "Started" } dd { (exact(started)) } }
        @if let Some(completed) = execution.completed_at { dt { "Ended" } dd { (exact(completed)) } }
        @if let Some(input) = &origin.registered {
            @if input.is_in_bulk { dt { "Input of the bulk" } dd { (input.position) } }
            @if let Some(reference) = &input.reference { dt { "Registered reference" } dd.id { (registered_reference(reference)) } }
        }
    };
    sections::deliveries(&deliveries, more)
}

/// The reference of the caller in the registration; each parameter searches for executions with it.
fn registered_reference(reference: &Reference) -> Markup {
    html! {
        @for (n, (name, value)) in reference.pairs().iter().enumerate() {
            @if n > 0 { " " }
            @let pair = format!("{name}={value}");
            a href=(url("/executions", "q", &pair)) { (visible(&pair)) }
        }
    }
}
