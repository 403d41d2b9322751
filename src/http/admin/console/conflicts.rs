//! `/conflicts`: webhooks that contradict a recorded result.

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};

use super::components::{ago, empty, notice, period_chips, status};
use super::layout::{self, PageError, Tab};
use super::next_page::next_page;
use super::params::{Params, path};
use super::state::{Console, ConsoleState};
use super::text::visible;
use super::view::View;
use crate::db::queries::TimeRange;
use crate::db::queries::conflicts::{Conflict, Conflicts, Filter};

pub(super) async fn page(State(console): ConsoleState, view: View) -> Response {
    let params = Params::of(&view.uri);
    layout::page(&view, Tab::Overview, "Conflicts", content(&console, &params).await)
}

async fn content(console: &Console, params: &Params) -> Result<Markup, PageError> {
    let list = match params.period() {
        Ok(period) => list(console, params, period).await?,
        Err(error) => notice("bad", visible(&error)),
    };
    Ok(html! {
        div.page-head {
            p.crumbs { a href="/" { "Overview" } " / Conflicts" }
            h1 { "Conflicts" }
            p.soft {
                "Webhooks that contradict a recorded result, the latest first. The recorded result is not changed. The page of \
                 the execution shows the difference."
            }
        }
        (period_chips(params, html! {}))
        (list)
    })
}

async fn list(console: &Console, params: &Params, period: TimeRange) -> Result<Markup, PageError> {
    let filter = Filter { execution: params.identifier("execution") };
    let page = params.page::<Conflicts>(&filter);
    let page = console.run(&Conflicts { filter, period, page }).await?;
    Ok(html! {
        @if page.items.is_empty() {
            section.card { (empty("No conflicts", html! { "No webhook contradicts a recorded result in this period." })) }
        } @else {
            div.card.flush {
                table.rows {
                    thead { tr { th { "Execution" } th { "Recorded" } th { "Webhook" } th { "Differs in" } th { "Received" } } }
                    tbody { @for conflict in &page.items { (row(conflict)) } }
                }
            }
        }
        (next_page(params, page.next.as_deref(), "Older"))
    })
}

/// The words for a field in which a webhook differs.
pub(super) fn name(field: &str) -> &str {
    match field {
        "error" => "kind of error",
        "error_cause" => "cause",
        "workflow_id" => "workflow",
        "bulk_id" => "bulk",
        "total_cost" => "cost",
        "started_at" => "start",
        "completed_at" => "end",
        other => other,
    }
}

fn row(conflict: &Conflict) -> Markup {
    let href = format!("{}#conflicts", path("executions", &conflict.execution_id));
    html! {
        tr data-row {
            td.main { a.row-link.cut href=(href) { (visible(&conflict.execution_id)) } }
            td data-label="Recorded" { @if let Some(recorded) = &conflict.recorded_status { (status(recorded)) } }
            td data-label="Webhook" { (status(&conflict.delivered_status)) }
            td.differs data-label="Differs in" {
                @match conflict.differs_in.as_deref() {
                    None => { "the execution was removed" }
                    Some([]) => { "bytes that PostgreSQL cannot store as JSON" }
                    Some(fields) => { (fields.iter().map(|field| name(field)).collect::<Vec<_>>().join(", ")) }
                }
            }
            td.time data-label="Received" {
                (ago(conflict.first_received_at))
                @if conflict.deliveries > 1 { small.soft { " " (conflict.deliveries) " times" } }
            }
        }
    }
}
