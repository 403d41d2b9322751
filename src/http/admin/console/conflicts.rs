//! `/conflicts`: webhooks that contradict a recorded result.

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};

use super::components::{ago, empty, status};
use super::layout::{self, PageError, Tab};
use super::state::{Console, ConsoleState};
use super::text::{excerpt, url_part, visible};
use super::view::View;
use crate::db::queries::conflicts::{Conflict, Conflicts};
use crate::http::admin::api::query::parse;

/// Characters of an identifier.
const ID_CHARS: usize = 80;

pub(super) async fn page(State(console): ConsoleState, view: View) -> Response {
    layout::page(&view, Tab::Overview, "Conflicts", content(&console, &view).await)
}

async fn content(console: &Console, view: &View) -> Result<Markup, PageError> {
    let page = console.run(&parse::<Conflicts>(&view.uri)?).await?;
    Ok(html! {
        h1 { "Conflicts" }
        p.soft {
            "Webhooks that contradict a recorded result, the latest first. The recorded result stays; the page of the \
             execution shows the difference."
        }
        @if page.items.is_empty() {
            (empty("No conflicts", html! { "No webhook contradicts a recorded result in this period." }))
        } @else {
            div.card.flush {
                table.rows {
                    thead { tr { th { "Execution" } th { "Recorded" } th { "Webhook" } th { "Differs in" } th.num { "Received" } } }
                    tbody { @for conflict in &page.items { (row(conflict)) } }
                }
            }
        }
        @if let Some(next) = &page.next {
            nav.pager aria-label="Pages of the list" { span {} a.button rel="next" href={ "/conflicts?cursor=" (next) } { "Older" } }
        }
    })
}

fn row(conflict: &Conflict) -> Markup {
    let (id, more) = excerpt(&conflict.execution_id, ID_CHARS);
    html! {
        tr data-row {
            td.id { a href={ "/executions/" (url_part(&conflict.execution_id)) } { (visible(id)) @if more { "…" } } }
            td data-label="Recorded" { @if let Some(recorded) = &conflict.recorded_status { (status(recorded)) } }
            td data-label="Webhook" { (status(&conflict.delivered_status)) }
            td data-label="Differs in" {
                @match conflict.differs_in.as_deref() {
                    None => { "the execution was removed" }
                    Some([]) => { "bytes that PostgreSQL cannot store as JSON" }
                    Some(fields) => { (fields.join(", ")) }
                }
            }
            td.num data-label="Received" {
                (ago(conflict.first_received_at))
                @if conflict.deliveries > 1 { small.soft { " " (conflict.deliveries) " times" } }
            }
        }
    }
}
