//! `/executions/{execution_id}`, and the download of the payload.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::components::{ago, badge, conflicts_badge, crumbs, plural, status};
use super::conflicts;
use super::diff;
use super::failure_class::failure_class;
use super::hosts::ResultHosts;
use super::json_view::{indented, tree};
use super::layout::{self, PageError, Tab};
use super::params::{path, url};
use super::reconcile;
use super::results::{Label, Size, gallery};
use super::sections::{
    self, Deliveries, MAX_CAUSE, Payload, authentication, exact, fetched, source_of, with_cause,
};
use super::state::{Console, ConsoleState};
use super::text::{excerpt, visible, visible_attribute};
use super::units;
use super::view::View;
use crate::db::queries::PageRequest;
use crate::db::queries::conflicts::{ConflictDetail, Conflicts, Filter, GetConflict};
use crate::db::queries::executions::{Execution, ExecutionDetail, GetExecution, Step};
use crate::db::queries::expected::{GetRegisteredInput, RegisteredInput};
use crate::db::queries::results::ResultItem;
use crate::execution::status::{is_successful, is_terminal};
use crate::http::admin::api::query::{PathId, path_identifier};
use crate::logging::escape_json;

/// Conflicts that are compared on the page.
const MAX_CONFLICTS: i64 = 5;

pub(super) async fn page(State(console): ConsoleState, view: View, id: PathId<String>) -> Response {
    let read = async {
        let execution = read(&console, id).await?;
        let conflicts = read_conflicts(&console, &execution).await?;
        let execution_id = execution.execution.execution_id.clone();
        let registered = console.run(&GetRegisteredInput { execution_id }).await?;
        Ok((execution, conflicts, registered))
    };
    match read.await {
        Ok((execution, conflicts, registered)) => {
            let title = execution.execution.execution_id.clone();
            let content = content(&console, &view, &execution, &conflicts, registered.as_ref());
            layout::page(&view, Tab::Executions, &title, Ok(content))
        }
        Err(error) => layout::page(&view, Tab::Executions, "Execution", Err(error)),
    }
}

async fn read(console: &Console, id: PathId<String>) -> Result<ExecutionDetail, PageError> {
    let execution_id = path_identifier(id, "execution")?;
    let execution = console.run(&GetExecution { execution_id: execution_id.clone() }).await?;
    execution.ok_or(PageError::NotFound { kind: "execution", id: execution_id })
}

async fn read_conflicts(
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

/// `/executions/{execution_id}/payload`: the webhook's body as a file.
pub(super) async fn download(State(console): ConsoleState, view: View, id: PathId<String>) -> Response {
    let file = async {
        let execution = read(&console, id).await?;
        let id = execution.execution.execution_id.clone();
        payload(&execution).file().ok_or(PageError::NotFound { kind: "payload", id })
    };
    file.await.unwrap_or_else(|error| layout::page(&view, Tab::Executions, "Payload", Err(error)))
}

fn payload(detail: &ExecutionDetail) -> Payload<'_> {
    Payload {
        text: detail.payload_text.as_deref(),
        json: detail.payload.as_ref(),
        removed_at: detail.payload_removed_at,
        is_omitted: !detail.omitted.is_empty(),
        download: path("executions", &detail.execution.execution_id) + "/payload",
        table: "executions",
    }
}

fn content(
    console: &Console,
    view: &View,
    detail: &ExecutionDetail,
    conflicts: &[ConflictDetail],
    registered: Option<&RegisteredInput>,
) -> Markup {
    let execution = &detail.execution;
    let inputs = inputs(detail);
    let prompt = inputs.and_then(prompt);
    html! {
        (head(console, view, detail, prompt.as_deref()))
        @if detail.conflicts > 0 { (conflict_section(detail, conflicts)) }
        (failure(detail))
        (results(&console.result_hosts, detail, prompt.as_deref()))
        div.cards {
            div.stack {
                (steps(&detail.steps, detail.payload_removed_at.is_some()))
                (payload(detail).section())
            }
            div.stack {
                @if let Some(inputs) = inputs {
                    section.card aria-labelledby="inputs" { h2 #inputs { "Inputs" } (tree(inputs)) }
                }
                (facts(execution, registered))
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
    html! {
        div.page-head {
            (crumbs("/executions", "Executions", &execution.execution_id))
            div.head {
                h1 {
                    @match prompt {
                        Some(prompt) => span.cut { (visible(excerpt(prompt, 300).0)) },
                        None => span.cut { (visible(&execution.execution_id)) },
                    }
                }
                @if !is_terminal(&execution.status) { (reconcile::button(console, view, "executions", &execution.execution_id)) }
            }
            ul.facts {
                li { (status(&execution.status)) }
                @if conflicts > 0 { li { (conflicts_badge(conflicts)) } }
                @if execution.step_failed && execution.status != "failed" { li { (badge("warn", html! { "step failed" })) } }
                @if let Some(seconds) = execution.duration_seconds.filter(|seconds| *seconds > 0.0) { li { "took " (units::seconds(seconds)) } }
                @if let Some(cost) = &execution.total_cost { li { "cost " (units::cost(&cost.0)) } }
                li { "received " (ago(execution.first_received_at)) }
                @if let Some(source) = &execution.fetched_from { li { (fetched(source)) } }
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
    let class = execution.failure_class.as_deref();
    let reason = cause.or(error);
    html! {
        @if execution.status == "failed" || reason.is_some() {
            (sections::failure(error, cause, class, html! {
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

fn steps(steps: &[Step], is_removed: bool) -> Markup {
    let scale = Scale::of(steps);
    html! {
        section.card aria-labelledby="steps" {
            h2 #steps { "Steps" }
            @if steps.is_empty() {
                p.soft {
                    @if is_removed { "The steps were removed with the payload (retention.payloads)." }
                    @else { "The webhook has no steps." }
                }
            } @else {
                ol.timeline { @for step in steps { (step_item(step, scale.as_ref())) } }
            }
        }
    }
}

fn step_item(step: &Step, scale: Option<&Scale>) -> Markup {
    let kind = match step.status.as_deref() {
        Some(status) if is_successful(status) => {
            if step.is_fallback {
                "warn"
            } else {
                "ok"
            }
        }
        Some("failed") => "bad",
        Some("running" | "queued") => "run",
        _ => "muted",
    };
    let text = |text: &str| visible(excerpt(text, MAX_CAUSE).0);
    html! {
        li.(kind) {
            div.head {
                strong { (text(&step.step_id)) }
                span.soft.nowrap {
                    @if let Some(seconds) = step.duration_seconds { (units::seconds(seconds)) }
                    @if let Some(cost) = &step.cost { " \u{b7} cost " (units::cost(&cost.0)) }
                }
            }
            div.soft {
                (step.status.as_deref().map_or_else(|| html! { "status unknown" }, text))
                @if let Some(model) = &step.model {
                    " \u{b7} " (text(model))
                    @if let Some(version) = &step.model_version { " " (text(version)) }
                }
                @if let Some(selected) = &step.selected { " \u{b7} selected " (text(selected)) }
            }
            @if let Some((x, width)) = scale.and_then(|scale| scale.place(step)) {
                svg.bar viewBox="0 0 1000 10" preserveAspectRatio="none" aria-hidden="true" {
                    rect.(kind) x=(x) y="0" width=(width) height="10" {}
                }
            }
            @if step.is_fallback {
                p { (badge("warn", html! { "fallback" })) " The first model failed"
                    @if let Some(error) = &step.first_error { ": " (text(error)) } @else { "." } }
            }
            @if let Some(cause) = step.error_cause.as_ref().or(step.error.as_ref()) {
                p.cause.text { (text(cause)) }
                @if let Some(class) = step.failure_class.as_deref().and_then(failure_class) { small.soft { (class) } }
            }
        }
    }
}

/// The period of all steps that have times.
struct Scale {
    start: OffsetDateTime,
    seconds: f64,
}

fn times(step: &Step) -> Option<(OffsetDateTime, OffsetDateTime)> {
    let time = |text: &Option<String>| OffsetDateTime::parse(text.as_deref()?, &Rfc3339).ok();
    let (start, end) = (time(&step.started_at)?, time(&step.completed_at)?);
    (start <= end).then_some((start, end))
}

impl Scale {
    /// `None` for fewer than two steps with times: a single bar shows nothing.
    fn of(steps: &[Step]) -> Option<Self> {
        let times: Vec<_> = steps.iter().filter_map(times).collect();
        let start = times.iter().map(|(start, _)| *start).min()?;
        let end = times.iter().map(|(_, end)| *end).max()?;
        let seconds = (end - start).as_seconds_f64();
        (times.len() > 1 && seconds > 0.0).then_some(Self { start, seconds })
    }

    /// Position and width of a step, in thousandths.
    fn place(&self, step: &Step) -> Option<(String, String)> {
        let (start, end) = times(step)?;
        let thousandths = |seconds: f64| seconds / self.seconds * 1_000.0;
        let width = thousandths((end - start).as_seconds_f64()).max(6.0);
        let x = thousandths((start - self.start).as_seconds_f64()).min(1_000.0 - width);
        Some((format!("{x:.0}"), format!("{width:.0}")))
    }
}

fn facts(execution: &Execution, registered: Option<&RegisteredInput>) -> Markup {
    let deliveries = Deliveries {
        count: execution.deliveries,
        redeliveries: execution.redeliveries,
        first: execution.first_received_at,
        last: execution.last_received_at,
        reference: execution.reference.as_ref(),
        fetched_from: execution.fetched_from.as_deref(),
    };
    let more = html! {
        @match &execution.fetched_from {
            None => { dt { "Authenticated by" } dd { (authentication(execution.authenticated_by.as_deref())) } },
            Some(source) => { dt { "Why fetched" } dd { (source_of(source)) } },
        }
        @if let Some(started) = execution.started_at { dt { "Started" } dd { (exact(started)) } }
        @if let Some(completed) = execution.completed_at { dt { "Ended" } dd { (exact(completed)) } }
        @if let Some(input) = registered {
            @if input.is_in_bulk { dt { "Input of the bulk" } dd { (input.position) } }
            @if let Some(reference) = &input.reference { dt { "Registered reference" } dd.id { (visible(&reference.to_line())) } }
        }
    };
    sections::deliveries(&deliveries, more)
}

/// The value of a field in a webhook's body: a string as its text, another value as JSON.
fn field_of(body: &str, field: &str) -> Option<String> {
    let fields: BTreeMap<String, &RawValue> = serde_json::from_str(body).ok()?;
    let value = fields.get(field)?.get();
    serde_json::from_str(value).ok().or_else(|| (value != "null").then(|| indented(&escape_json(value))))
}

fn conflict_section(recorded: &ExecutionDetail, conflicts: &[ConflictDetail]) -> Markup {
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
                            (conflict_fields(recorded, detail))
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

fn conflict_fields(recorded: &ExecutionDetail, detail: &ConflictDetail) -> Markup {
    let (execution, conflict) = (&recorded.execution, &detail.conflict);
    let differs = conflict.differs_in.clone().unwrap_or_default();
    let output = |output: &Option<crate::db::queries::json::Json>| {
        output.as_ref().map(|output| indented(&escape_json(&output.0)))
    };
    let values = |field: &str| match field {
        "status" => (conflict.recorded_status.clone(), Some(conflict.delivered_status.clone())),
        "workflow_id" => (Some(execution.workflow_id.clone()), Some(conflict.workflow_id.clone())),
        "bulk_id" => (execution.bulk_id.clone(), conflict.bulk_id.clone()),
        "error_cause" => (conflict.recorded_error_cause.clone(), conflict.delivered_error_cause.clone()),
        "output" => (output(&detail.recorded_output), output(&detail.delivered_output)),
        _ => (
            payload(recorded).text().and_then(|body| field_of(body, field)),
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
