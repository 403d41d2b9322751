//! `/predictions/{prediction_id}`, and the download of the payload.

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};
use serde_json::Value;

use super::components::{ago, conflicts_badge, crumbs, plural, status};
use super::hosts::ResultHosts;
use super::json_view::tree;
use super::layout::{self, PageError, Tab};
use super::media::{media, player};
use super::params::url;
use super::sections::{self, Deliveries, Payload, authentication};
use super::state::{Console, ConsoleState};
use super::text::{visible, visible_attribute};
use super::units;
use super::view::View;
use crate::db::queries::predictions::{GetPrediction, Prediction, PredictionDetail};
use crate::http::admin::api::query::{PathId, path_identifier};

/// Results that are shown as media.
const MAX_MEDIA: usize = 24;

pub(super) async fn page(State(console): ConsoleState, view: View, id: PathId<String>) -> Response {
    match read(&console, id).await {
        Ok(detail) => {
            let content = content(&console, &detail);
            layout::page(&view, Tab::Predictions, &detail.prediction.prediction_id, Ok(content))
        }
        Err(error) => layout::page(&view, Tab::Predictions, "Prediction", Err(error)),
    }
}

/// `/predictions/{prediction_id}/payload`: the webhook's body as a file.
pub(super) async fn download(State(console): ConsoleState, view: View, id: PathId<String>) -> Response {
    let file = read(&console, id).await.and_then(|detail| payload(&detail).file());
    file.unwrap_or_else(|error| layout::page(&view, Tab::Predictions, "Payload", Err(error)))
}

fn payload(detail: &PredictionDetail) -> Payload<'_> {
    Payload {
        table: "predictions",
        id: &detail.prediction.prediction_id,
        text: detail.payload_text.as_deref(),
        json: detail.payload.as_ref(),
        removed_at: detail.payload_removed_at,
        is_omitted: !detail.omitted.is_empty(),
    }
}

async fn read(console: &Console, id: PathId<String>) -> Result<PredictionDetail, PageError> {
    let prediction_id = path_identifier(id, "prediction")?;
    let detail = console.run(&GetPrediction { prediction_id: prediction_id.clone() }).await?;
    detail.ok_or(PageError::NotFound { kind: "prediction", id: prediction_id })
}

fn content(console: &Console, detail: &PredictionDetail) -> Markup {
    let prediction = &detail.prediction;
    html! {
        (head(detail))
        (failure(prediction))
        (result(&console.result_hosts, detail))
        div.cards {
            (facts(prediction))
        }
        @if !detail.contradicted_by.is_empty() { (conflicts(detail)) }
        (payload(detail).section())
    }
}

fn head(detail: &PredictionDetail) -> Markup {
    let prediction = &detail.prediction;
    html! {
        div.page-head {
            (crumbs("/predictions", "Predictions", &prediction.prediction_id))
            h1 { span.cut { (visible(&prediction.prediction_id)) } }
            ul.facts {
                li { (status(&prediction.status)) }
                @if !detail.contradicted_by.is_empty() { li { (conflicts_badge(prediction.conflicts.into())) } }
                @if let Some(seconds) = prediction.duration_seconds { li { "took " (units::seconds(seconds)) } }
                @if let Some(cost) = &prediction.total_cost { li { "cost " (units::cost(&cost.0)) } }
                li { "received " (ago(prediction.first_received_at)) }
                @if let Some(workflow) = &prediction.workflow_id {
                    li title=(visible_attribute(workflow)) { "step of the workflow " a href=(url("/executions", "workflow", workflow)) { (visible(workflow)) } }
                }
            }
        }
    }
}

fn failure(prediction: &Prediction) -> Markup {
    let (error, cause) = (prediction.error.as_deref(), prediction.error_cause.as_deref());
    html! {
        @if prediction.status == "failed" || error.is_some() || cause.is_some() {
            (sections::failure(error, cause, prediction.failure_class.as_deref(), html! {}))
        }
    }
}

fn result(hosts: &ResultHosts, detail: &PredictionDetail) -> Markup {
    let output = detail.output.as_ref().map(|output| &*output.0).filter(|output| *output != "null");
    let mut urls = Vec::new();
    if let Some(output) = output.and_then(|output| serde_json::from_str(output).ok()) {
        texts(&output, &mut urls);
    }
    let label = &detail.prediction.prediction_id;
    let players: Vec<_> =
        urls.iter().filter_map(|url| player(media(hosts, url, None), url, label)).take(MAX_MEDIA).collect();
    html! {
        section.card aria-labelledby="result" {
            h2 #result { "Result" }
            @if !players.is_empty() { div.gallery.large { @for player in players { figure { (player) } } } }
            @match output {
                Some(output) => (tree(output)),
                None if detail.omitted.iter().any(|field| field == "output") => p.soft { "The output is larger than 16 MiB. Read it with psql." },
                None if detail.payload_removed_at.is_some() => p.soft { "The result was removed with the payload (retention.payloads)." },
                None => p.soft { "The webhook has no result." },
            }
        }
    }
}

/// The strings in a JSON value.
fn texts(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Object(fields) => fields.values().for_each(|field| texts(field, found)),
        _ => {}
    }
}

fn facts(prediction: &Prediction) -> Markup {
    let deliveries = Deliveries {
        count: prediction.deliveries,
        redeliveries: prediction.redeliveries,
        first: prediction.first_received_at,
        last: prediction.last_received_at,
        reference: prediction.reference.as_ref(),
        fetched_from: None,
    };
    let more =
        html! { dt { "Authenticated by" } dd { (authentication(prediction.authenticated_by.as_deref())) } };
    sections::deliveries(&deliveries, more)
}

fn conflicts(detail: &PredictionDetail) -> Markup {
    html! {
        section.card.flush aria-labelledby="conflicts" {
            h2 #conflicts { (plural(detail.prediction.conflicts.into(), "conflict", "conflicts")) }
            table.rows {
                thead { tr {
                    th scope="col" { "Status in the webhook" }
                    th scope="col" { "Cause" }
                    th scope="col" { "Received" }
                } }
                tbody {
                    @for conflict in &detail.contradicted_by {
                        tr {
                            td { (status(&conflict.status)) }
                            td { (visible(conflict.error_cause.as_deref().or(conflict.error.as_deref()).unwrap_or_default())) }
                            td.time { (ago(conflict.first_received_at)) }
                        }
                    }
                }
            }
        }
    }
}
