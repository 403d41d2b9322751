//! `/predictions/{prediction_id}`, and the download of the payload.

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};

use super::components::{ago, conflicts_badge, plural, row_head, status};
use super::failure_class::failure_class;
use super::hosts::ResultHosts;
use super::layout::{self, PageError, Tab};
use super::params::{filtered, url};
use super::results::{Size, gallery, partial_note};
use super::sections::{self, Deliveries, MAX_SEARCHED, Payload, authentication, recorded_by};
use super::state::{Console, ConsoleState};
use super::text::{excerpt, visible, visible_attribute};
use super::units;
use super::view::View;
use crate::db::queries::Page;
use crate::db::queries::predictions::{GetPrediction, Prediction, PredictionDetail};
use crate::db::queries::results::{ResultItem, ResultsQuery};
use crate::db::queries::retries::{GetRecordedBy, RecordedBy};
use crate::http::admin::api::query::{PathId, path_identifier};

pub(super) async fn page(State(console): ConsoleState, view: View, id: PathId<String>) -> Response {
    let read = async {
        let detail = read(&console, id).await?;
        let id = detail.prediction.prediction_id.clone();
        let results = console.run(&ResultsQuery::of_prediction(&id)).await?;
        let recorded_by = console.run(&GetRecordedBy { id, is_prediction: true }).await?;
        Ok((detail, results, recorded_by))
    };
    match read.await {
        Ok((detail, results, recorded_by)) => {
            let content = content(&console, &detail, &results, recorded_by.as_ref());
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

fn content(
    console: &Console,
    detail: &PredictionDetail,
    results: &Page<ResultItem>,
    recorded_by: Option<&RecordedBy>,
) -> Markup {
    let prediction = &detail.prediction;
    html! {
        (head(detail))
        (failure(prediction))
        (result(&console.result_hosts, detail, results))
        div.cards {
            (facts(prediction, recorded_by))
        }
        @if !detail.contradicted_by.is_empty() { (conflicts(detail)) }
        (payload(detail).section())
    }
}

fn head(detail: &PredictionDetail) -> Markup {
    let prediction = &detail.prediction;
    html! {
        div.page-head {
            (row_head(["/predictions", "Predictions"], &prediction.prediction_id, None, html! {}))
            ul.facts {
                li { (status(&prediction.status)) }
                @if !detail.contradicted_by.is_empty() { li { (conflicts_badge(prediction.conflicts.into())) } }
                @if let Some(seconds) = prediction.duration_seconds { li { "took " (units::seconds(seconds)) } }
                @if let Some(cost) = &prediction.total_cost { li { "cost " (units::cost(&cost.0)) } }
                @if let Some(model) = &prediction.model { li { "model " a href=(url("/predictions", "q", model)) { (visible(model)) } } }
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
            @let class = prediction.failure_class.as_deref().map(|class| {
                failure_class(class, &filtered("/predictions", [("status", Some("failed")), ("class", Some(class))]))
            });
            (sections::failure(error, cause, class, html! {
                @if let Some(text) = cause.or(error) {
                    a href=(filtered("/predictions", [("status", Some("failed")), ("q", Some(excerpt(text, MAX_SEARCHED).0))])) {
                        "Predictions with the same cause"
                    }
                }
            }))
        }
    }
}

fn result(hosts: &ResultHosts, detail: &PredictionDetail, results: &Page<ResultItem>) -> Markup {
    // The output of a failed prediction is its error.
    if detail.prediction.status == "failed" && results.items.iter().all(|result| result.url.is_none()) {
        return html! {};
    }
    html! {
        section.card aria-labelledby="result" {
            h2 #result { "Result" }
            @if !results.items.is_empty() {
                (gallery(hosts, Size::Large, &results.items, |result| (&*result.path).into()))
                (partial_note(&results.items))
                @if results.next.is_some() {
                    p.soft { "These are the first " (results.items.len()) " results. "
                        a href=(url("/api/v1/export/results", "prediction", &detail.prediction.prediction_id)) { "Download all" } }
                }
            } @else if detail.omitted.iter().any(|field| field == "output") {
                p.soft { "The output is larger than 16 MiB. Read it with psql." }
            } @else if detail.payload_removed_at.is_some() {
                p.soft { "The result was removed with the payload (retention.payloads)." }
            } @else {
                p.soft { "The webhook has no result." }
            }
        }
    }
}

fn facts(prediction: &Prediction, retry: Option<&RecordedBy>) -> Markup {
    let deliveries = Deliveries {
        list: "/predictions",
        count: prediction.deliveries,
        redeliveries: prediction.redeliveries,
        first: prediction.first_received_at,
        last: prediction.last_received_at,
        reference: prediction.reference.as_ref(),
        fetched_from: None,
        ended: None,
    };
    let more = html! {
        dt { "Authenticated by" } dd { (authentication(prediction.authenticated_by.as_deref())) }
        (recorded_by(retry))
    };
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
