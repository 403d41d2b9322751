//! `/expected`: the executions that were triggered and registered, and the missing ones of a bulk.

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};

use super::components::{badge, chip, count, due, empty, status};
use super::layout::{self, PageError, Tab};
use super::next_page::next_page;
use super::params::{Params, path};
use super::reconcile;
use super::state::{Console, ConsoleState};
use super::text::{excerpt, visible};
use super::view::View;
use crate::db::queries::Choice;
use crate::db::queries::expected::{Expected, ExpectedQuery, ExpectedState, Filter};

/// Characters of the message of a rejected input.
const MESSAGE: usize = 300;

const STATES: [(ExpectedState, &str); 4] = [
    (ExpectedState::Overdue, "Overdue"),
    (ExpectedState::Missing, "Missing"),
    (ExpectedState::Arrived, "Arrived"),
    (ExpectedState::Rejected, "Rejected"),
];

pub(super) async fn page(State(console): ConsoleState, view: View) -> Response {
    let params = Params::of(&view.uri);
    layout::page(&view, Tab::Bulks, "Expected executions", content(&console, &view, &params).await)
}

async fn content(console: &Console, view: &View, params: &Params) -> Result<Markup, PageError> {
    let state = params.get("state").and_then(ExpectedState::named);
    let filter = Filter { bulk: params.identifier("bulk"), state, ..Filter::default() };
    Ok(html! {
        div.page-head {
            p.crumbs { a href="/bulks" { "Bulks" } " / Expected executions" }
            h1 { "Expected executions" }
            p.soft {
                "Executions from the registered responses of trigger and bulk-trigger. An execution is missing until its final \
                 webhook is recorded, and overdue from " (overdue_after(console)) " after its registration."
            }
        }
        div.chips role="group" aria-label="State" {
            (chip(&params.with(&[("state", None)]), "All", state.is_none()))
            @for (this, name) in STATES {
                (chip(&params.with(&[("state", Some(this.as_str()))]), name, state == Some(this)))
            }
            @if let Some(bulk) = &filter.bulk {
                a.chip aria-current="true" href=(params.with(&[("bulk", None)])) { "Bulk: " (visible(bulk)) " \u{2715}" }
            }
        }
        (list(console, view, params, filter).await?)
    })
}

fn overdue_after(console: &Console) -> String {
    super::components::duration(console.admin.settings.expected.overdue_after.as_secs())
}

/// A page of expected executions.
pub(super) async fn list(
    console: &Console,
    view: &View,
    params: &Params,
    filter: Filter,
) -> Result<Markup, PageError> {
    let in_bulk = filter.bulk.is_some();
    let state = filter.state;
    let page = params.page::<ExpectedQuery>(&filter);
    let page = console.run(&ExpectedQuery { filter, page }).await?;
    Ok(html! {
        section.card.flush aria-label="Expected executions" {
            @if page.items.is_empty() { (no_rows(state, page.next.is_some())) }
            @else { (table(console, view, &page.items, in_bulk)) }
        }
        (next_page(params, page.next.as_deref(), "Older"))
    })
}

/// The rows of a list of expected executions. `in_bulk`: all belong to one bulk, so its name is not shown.
pub(super) fn table(console: &Console, view: &View, expected: &[Expected], in_bulk: bool) -> Markup {
    html! {
        table.rows {
            thead { tr {
                th.num scope="col" { "Input" }
                th scope="col" { "Execution" }
                th scope="col" { "State" }
                th scope="col" { "Reference" }
                th scope="col" { "Due" }
                th scope="col" { span.visually-hidden { "Action" } }
            } }
            tbody { @for expected in expected { (row(console, view, expected, in_bulk)) } }
        }
    }
}

fn no_rows(state: Option<ExpectedState>, has_more: bool) -> Markup {
    match state {
        _ if has_more => {
            empty("No match yet", html! { "Older rows were not searched yet: use " em { "Older" } " below." })
        }
        Some(ExpectedState::Overdue) => {
            empty("Nothing is overdue", html! { "Every registered execution has ended or is not due yet." })
        }
        Some(ExpectedState::Missing) => {
            empty("Nothing is missing", html! { "All registered executions have ended." })
        }
        Some(_) => empty("No row matches", html! { a href="/expected" { "Show all" } "." }),
        None => empty(
            "No response is registered",
            html! { "Register the responses of trigger and bulk-trigger with " code { "workflow-receiver register" } " or "
            code { "POST /api/v1/expected" } ". Then this page shows which executions are missing." },
        ),
    }
}

fn row(console: &Console, view: &View, expected: &Expected, in_bulk: bool) -> Markup {
    let has_webhook = expected.status.is_some();
    let is_overdue = expected.state == "overdue";
    html! {
        tr data-row {
            td.num data-label="Input" { (count(expected.position.into())) }
            td.main {
                @match &expected.execution_id {
                    Some(id) if has_webhook => a.row-link.id.cut href=(path("executions", id)) { (visible(id)) },
                    Some(id) => span.id.cut { (visible(id)) },
                    None => span.soft { "no execution" },
                }
                @if let Some(message) = &expected.message { div.cause.cut { (visible(excerpt(message, MESSAGE).0)) } }
                @if let Some(bulk) = expected.bulk_id.as_ref().filter(|_| !in_bulk) {
                    div.id.cut { "Bulk " a href=(path("bulks", bulk)) { (visible(bulk)) } }
                }
                @if let Some(workflow) = expected.workflow_id.as_ref().filter(|_| !in_bulk) {
                    div.id.cut { "Workflow " (visible(workflow)) }
                }
            }
            td.nowrap {
                @match &expected.status {
                    // The status says that it has not ended.
                    Some(recorded) if expected.state == "missing" => (status(recorded)),
                    Some(recorded) => { (state(&expected.state)) " " (status(recorded)) }
                    None => (state(&expected.state)),
                }
            }
            td.id data-label="Reference" {
                @if let Some(reference) = &expected.reference { span.cut { (visible(&reference.to_line())) } }
            }
            td.time data-label="Due" {
                @if let Some(at) = expected.due_at.filter(|_| expected.state != "arrived") { (due(at)) }
            }
            td.num {
                @if let Some(id) = expected.execution_id.as_ref().filter(|_| is_overdue) {
                    (reconcile::button(console, view, "executions", id))
                }
            }
        }
    }
}

fn state(state: &str) -> Markup {
    let kind = match state {
        "overdue" => "bad",
        "missing" => "run",
        _ => "muted",
    };
    badge(kind, html! { (state) })
}
