//! `/predictions`: executions of single models.

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};

use super::components::{ago, chip, empty, notice, status};
use super::executions::next_page;
use super::layout::{self, PageError, Tab};
use super::params::{Params, path, url};
use super::state::{Console, ConsoleState};
use super::text::{excerpt, visible, visible_attribute};
use super::units;
use super::view::View;
use crate::db::queries::TimeRange;
use crate::db::queries::predictions::{Filter, Prediction, Predictions};

/// Characters of a cause in a row.
const EXCERPT: usize = 220;

/// As sent.
const STATUSES: [&str; 4] = ["succeeded", "success", "failed", "cancelled"];

pub(super) async fn page(State(console): ConsoleState, view: View) -> Response {
    let params = Params::of(&view.uri);
    layout::page(&view, Tab::Predictions, "Predictions", content(&console, &params).await)
}

async fn content(console: &Console, params: &Params) -> Result<Markup, PageError> {
    let (period, error) = match params.period() {
        Ok(period) => (period, None),
        Err(error) => (TimeRange::default(), Some(error)),
    };
    let (status, workflow) = (params.identifier("status"), params.identifier("workflow"));
    let filter = Filter { workflow, status, reference: None };
    let page = params.page::<Predictions>(&filter);
    let page = console.run(&Predictions { filter, period, page }).await?;
    Ok(html! {
        div.head { h1 { "Predictions" } }
        p.soft { "Executions of a single model, on its own or as a step of a workflow. No count of executions includes them." }
        (filters(params))
        @if let Some(error) = error { (notice("bad", html! { (visible(&error)) })) }
        section.card.flush aria-label="Predictions" {
            @if page.items.is_empty() { (none(params, page.next.is_some())) }
            @else { (table(&page.items)) }
        }
        (next_page(params, page.next.as_deref(), "Older"))
    })
}

fn filters(params: &Params) -> Markup {
    let status = params.get("status");
    html! {
        div.chips role="group" aria-label="Status" {
            (chip(&params.with(&[("status", None)]), "All", status.is_none()))
            @for name in STATUSES { (chip(&params.with(&[("status", Some(name))]), name, status == Some(name))) }
            @if let Some(other) = status.filter(|status| !STATUSES.contains(status)) {
                (chip(&params.with(&[]), &visible_attribute(other), true))
            }
            @if let Some(workflow) = params.get("workflow") {
                a.chip aria-current="true" href=(params.with(&[("workflow", None)])) {
                    "Workflow: " (visible(workflow)) " \u{2715}"
                }
            }
        }
    }
}

fn none(params: &Params, has_more: bool) -> Markup {
    if has_more {
        return empty(
            "No match yet",
            html! { "Older predictions were not searched yet: use " em { "Older" } " below." },
        );
    }
    if params.get("status").is_some() || params.get("workflow").is_some() || params.get("since").is_some() {
        return empty(
            "No prediction matches",
            html! { a href="/predictions" { "Show all predictions" } "." },
        );
    }
    empty(
        "No prediction is recorded yet",
        html! { "Set the receiver's URL as " code { "webhook_url" } " of a prediction. each::labs sends a webhook when it ends." },
    )
}

fn table(predictions: &[Prediction]) -> Markup {
    html! {
        table.rows {
            thead { tr {
                th scope="col" { "Prediction" }
                th scope="col" { "Status" }
                th scope="col" { "Workflow" }
                th.num scope="col" { "Duration" }
                th.num scope="col" { "Cost" }
                th scope="col" { "Received" }
            } }
            tbody { @for prediction in predictions { (row(prediction)) } }
        }
    }
}

fn row(prediction: &Prediction) -> Markup {
    let cause = prediction.error_cause.as_deref().or(prediction.error.as_deref());
    html! {
        tr data-row {
            td.main {
                a.row-link.cut href=(path("predictions", &prediction.prediction_id)) { (visible(&prediction.prediction_id)) }
                @if let Some(cause) = cause { div.cause.cut { (visible(excerpt(cause, EXCERPT).0)) } }
                @if let Some(reference) = &prediction.reference { div.id.cut { (visible(&reference.to_line())) } }
            }
            td { (status(&prediction.status)) }
            td.workflow data-label="Workflow" {
                @if let Some(workflow) = &prediction.workflow_id {
                    a.quiet.cut href=(url("/predictions", "workflow", workflow)) { (visible(workflow)) }
                }
            }
            td.num data-label="Duration" { @if let Some(seconds) = prediction.duration_seconds { (units::seconds(seconds)) } }
            td.num data-label="Cost" { @if let Some(cost) = &prediction.total_cost { (units::cost(&cost.0)) } }
            td.time { (ago(prediction.first_received_at)) }
        }
    }
}
