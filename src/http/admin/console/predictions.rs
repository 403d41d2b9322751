//! `/predictions`: executions of single models.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use super::components::{ago, chip, empty, notice, period_chips, status};
use super::failure_class::{self, Fault, failure_class};
use super::layout::{self, PageError, Tab};
use super::next_page::next_page;
use super::params::{Params, path};
use super::search::{self, Search, Searched, nothing_found};
use super::state::{Console, ConsoleState};
use super::text::{excerpt, visible, visible_attribute};
use super::units;
use super::view::View;
use crate::db::queries::predictions::{Filter, Prediction, Predictions};
use crate::db::queries::reference::Reference;
use crate::db::queries::{QueryError, TimeRange};

/// Characters of a cause in a row.
const EXCERPT: usize = 220;

/// The parameters, without the search and the cursor.
const FILTERS: [&str; 7] = ["status", "workflow", "class", "fault", "since", "from", "to"];
/// Filters that are shown with their value, and removed by a click.
const REMOVABLE: [(&str, &str); 4] =
    [("workflow", "Workflow"), ("class", "Class"), ("fault", "At fault"), ("q", "Search")];

/// `succeeded` also finds `success`, and `running` all predictions that have not ended.
const STATUSES: [&str; 4] = ["succeeded", "failed", "cancelled", "running"];

pub(super) async fn page(State(console): ConsoleState, view: View) -> Response {
    let params = Params::of(&view.uri);
    match search::find(&console, &params).await {
        Ok(Some(location)) => (StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response(),
        Ok(None) => layout::page(&view, Tab::Predictions, "Predictions", content(&console, &params).await),
        Err(error) => layout::page(&view, Tab::Predictions, "Predictions", Err(error.into())),
    }
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
        (search::form(
            params, "/predictions", "Search predictions", "Id, cause, words of the input, model, or user=42", &FILTERS,
        ))
        div.filters { (filters(params)) (period_chips(params, html! {})) }
        (list)
    })
}

async fn list(console: &Console, params: &Params, period: TimeRange) -> Result<Markup, PageError> {
    let Search { reference, words } = Search::of(params);
    let failure_classes = failure_class::filter(params);
    let workflow = params.identifier("workflow");
    let filter = Filter { workflow, reference, failure_classes, words, ..Filter::default() };
    let filter = filter.with_status(params.identifier("status"));
    let page = params.page::<Predictions>(&filter);
    let page = console.run(&Predictions { filter, period, page }).await?;
    let list = if page.items.is_empty() {
        no_rows(console, params, page.next.is_some()).await?
    } else {
        table(params, &page.items)
    };
    Ok(html! {
        section.card.flush aria-label="Predictions" { (list) }
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
            @for (name, title) in REMOVABLE {
                @if let Some(value) = params.get(name) {
                    @let fault = Fault::ALL.iter().find(|fault| name == "fault" && fault.as_str() == value);
                    a.chip aria-current="true" href=(params.with(&[(name, None)])) {
                        (title) ": " (visible(fault.map_or(value, |fault| fault.name()))) " \u{2715}"
                    }
                }
            }
        }
    }
}

async fn no_rows(console: &Console, params: &Params, has_more: bool) -> Result<Markup, QueryError> {
    if has_more {
        return Ok(empty(
            "No match yet",
            html! { "Older predictions were not searched yet: use " em { "Older" } " below." },
        ));
    }
    let hint = html! { a href="/predictions" { "Show all predictions" } "." };
    if params.get("q").is_some() {
        return nothing_found(console, params, Searched::Predictions, "No prediction matches", hint).await;
    }
    if FILTERS.iter().any(|name| params.get(name).is_some()) {
        return Ok(empty("No prediction matches", hint));
    }
    Ok(empty(
        "No prediction is recorded yet",
        html! { "Set the receiver's URL as " code { "webhook_url" } " of a prediction. each::labs sends a webhook when the prediction ends." },
    ))
}

fn table(params: &Params, predictions: &[Prediction]) -> Markup {
    let has_workflows = predictions.iter().any(|prediction| prediction.workflow_id.is_some());
    let has_models = predictions.iter().any(|prediction| prediction.model.is_some());
    html! {
        table.rows {
            thead { tr {
                th scope="col" { "Prediction" }
                th scope="col" { "Status" }
                @if has_models { th scope="col" { "Model" } }
                @if has_workflows { th scope="col" { "Workflow" } }
                th.num scope="col" { "Duration" }
                th.num scope="col" { "Cost" }
                th scope="col" { "Received" }
            } }
            tbody { @for prediction in predictions { (row(params, prediction, has_models, has_workflows)) } }
        }
    }
}

fn row(params: &Params, prediction: &Prediction, has_models: bool, has_workflows: bool) -> Markup {
    let cause = prediction.error_cause.as_deref().or(prediction.error.as_deref());
    html! {
        tr data-row {
            td.main {
                a.row-link.cut href=(path("predictions", &prediction.prediction_id)) { (visible(&prediction.prediction_id)) }
                @if let Some(cause) = cause { div.cause.cut { (visible(excerpt(cause, EXCERPT).0)) } }
                @if let Some(class) = &prediction.failure_class {
                    small.soft { (failure_class(class, &params.with(&[("class", Some(class))]))) }
                }
                @let reference = reference(prediction);
                @if !reference.is_empty() { div.ids { span.id { (visible(&reference)) } } }
            }
            td { (status(&prediction.status)) }
            @if has_models {
                td.workflow data-label="Model" {
                    @if let Some(model) = &prediction.model {
                        a.quiet.cut href=(params.with(&[("q", Some(model))])) { (visible(model)) }
                    }
                }
            }
            @if has_workflows {
                td.workflow data-label="Workflow" {
                    @if let Some(workflow) = &prediction.workflow_id {
                        a.quiet.cut href=(params.with(&[("workflow", Some(workflow))])) { (visible(workflow)) }
                    }
                }
            }
            td.num data-label="Duration" { @if let Some(seconds) = prediction.duration_seconds { (units::seconds(seconds)) } }
            td.num data-label="Cost" { @if let Some(cost) = &prediction.total_cost { (units::cost(&cost.0)) } }
            td.time data-label="Received" { (ago(prediction.first_received_at)) }
        }
    }
}

/// The reference without the model, which has a column.
fn reference(prediction: &Prediction) -> String {
    let pairs = prediction.reference.as_ref().map(Reference::pairs).unwrap_or_default();
    let is_model = |name: &str, value: &str| name == "model" && prediction.model.as_deref() == Some(value);
    let shown = pairs.iter().filter(|(name, value)| !is_model(name, value));
    shown.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}
