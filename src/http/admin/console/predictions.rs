//! `/predictions`: executions of single models.

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};

use super::components::{ago, chip, empty, notice, period_chips, status};
use super::failure_class::failure_class;
use super::layout::{self, PageError, Tab};
use super::next_page::next_page;
use super::params::{Params, path, url};
use super::state::{Console, ConsoleState};
use super::text::{excerpt, visible, visible_attribute};
use super::units;
use super::view::View;
use crate::db::queries::TimeRange;
use crate::db::queries::predictions::{Filter, Prediction, Predictions};

/// Characters of a cause in a row.
const EXCERPT: usize = 220;

/// `succeeded` also finds `success`.
const STATUSES: [&str; 3] = ["succeeded", "failed", "cancelled"];

pub(super) async fn page(State(console): ConsoleState, view: View) -> Response {
    let params = Params::of(&view.uri);
    layout::page(&view, Tab::Predictions, "Predictions", content(&console, &params).await)
}

async fn content(console: &Console, params: &Params) -> Result<Markup, PageError> {
    let list = match params.period() {
        Ok(period) => list(console, params, period).await?,
        Err(error) => notice("bad", visible(&error)),
    };
    Ok(html! {
        div.page-head {
            h1 { "Predictions" }
            p.soft { "A prediction is the execution of a single model, on its own or as a step of a workflow. Predictions are not included in the counts of executions." }
        }
        div.filters { (filters(params)) (period_chips(params, html! {})) }
        (list)
    })
}

async fn list(console: &Console, params: &Params, period: TimeRange) -> Result<Markup, PageError> {
    let filter = Filter { workflow: params.identifier("workflow"), ..Filter::default() };
    let filter = filter.with_status(params.identifier("status"));
    let page = params.page::<Predictions>(&filter);
    let page = console.run(&Predictions { filter, period, page }).await?;
    Ok(html! {
        section.card.flush aria-label="Predictions" {
            @if page.items.is_empty() { (no_rows(params, page.next.is_some())) }
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

fn no_rows(params: &Params, has_more: bool) -> Markup {
    if has_more {
        return empty(
            "No match yet",
            html! { "Older predictions were not searched yet: use " em { "Older" } " below." },
        );
    }
    if ["status", "workflow", "since", "from", "to"].iter().any(|name| params.get(name).is_some()) {
        return empty(
            "No prediction matches",
            html! { a href="/predictions" { "Show all predictions" } "." },
        );
    }
    empty(
        "No prediction is recorded yet",
        html! { "Set the receiver's URL as " code { "webhook_url" } " of a prediction. each::labs sends a webhook when the prediction ends." },
    )
}

fn table(predictions: &[Prediction]) -> Markup {
    let has_workflows = predictions.iter().any(|prediction| prediction.workflow_id.is_some());
    html! {
        table.rows {
            thead { tr {
                th scope="col" { "Prediction" }
                th scope="col" { "Status" }
                @if has_workflows { th scope="col" { "Workflow" } }
                th.num scope="col" { "Duration" }
                th.num scope="col" { "Cost" }
                th scope="col" { "Received" }
            } }
            tbody { @for prediction in predictions { (row(prediction, has_workflows)) } }
        }
    }
}

fn row(prediction: &Prediction, has_workflows: bool) -> Markup {
    let cause = prediction.error_cause.as_deref().or(prediction.error.as_deref());
    html! {
        tr data-row {
            td.main {
                a.row-link.cut href=(path("predictions", &prediction.prediction_id)) { (visible(&prediction.prediction_id)) }
                @if let Some(cause) = cause { div.cause.cut { (visible(excerpt(cause, EXCERPT).0)) } }
                @if let Some(class) = prediction.failure_class.as_deref().and_then(failure_class) { small.soft { (class) } }
                @if let Some(reference) = &prediction.reference { div.id.cut { (visible(&reference.to_line())) } }
            }
            td { (status(&prediction.status)) }
            @if has_workflows {
                td.workflow data-label="Workflow" {
                    @if let Some(workflow) = &prediction.workflow_id {
                        a.quiet.cut href=(url("/predictions", "workflow", workflow)) { (visible(workflow)) }
                    }
                }
            }
            td.num data-label="Duration" { @if let Some(seconds) = prediction.duration_seconds { (units::seconds(seconds)) } }
            td.num data-label="Cost" { @if let Some(cost) = &prediction.total_cost { (units::cost(&cost.0)) } }
            td.time data-label="Received" { (ago(prediction.first_received_at)) }
        }
    }
}
