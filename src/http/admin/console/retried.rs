//! `/quarantine/retried`: entries that were recorded from the quarantine, which can be undone.

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};
use time::OffsetDateTime;

use super::components::{actor, ago, empty, plural};
use super::form::{self, FormData, done};
use super::layout::{self, PageError, Tab};
use super::params::path;
use super::quarantine::finish;
use super::state::{Console, ConsoleState};
use super::text::{visible, with_code};
use super::view::View;
use crate::auth::Operator;
use crate::db::queries::retries::{RetriedEntries, RetriedEntry};
use crate::db::{DbConnection, Undone};

/// Retries on the page: the latest ones.
const SHOWN: usize = 100;

pub(super) async fn page(State(console): ConsoleState, view: View) -> Response {
    let content = content(&console, &view.operator).await;
    layout::page(&view, Tab::Quarantine, "Recorded entries", content)
}

async fn content(console: &Console, operator: &Operator) -> Result<Markup, PageError> {
    let limit = i64::try_from(SHOWN).unwrap_or(i64::MAX);
    let retried = console.run(&RetriedEntries { since: OffsetDateTime::UNIX_EPOCH, limit }).await?;
    let number = plural(i64::try_from(retried.len()).unwrap_or_default(), "entry", "entries");
    let all = format!("Return {number} to quarantine?");
    Ok(html! {
        div.page-head {
            p.crumbs { a href="/quarantine" { "Quarantine" } " / Recorded entries" }
            h1 { "Recorded entries" }
            p.soft {
                "Entries that were recorded from the quarantine. An undo removes the recorded rows, or restores their earlier \
                 values, and the entry returns to quarantine. It is refused if the execution has received another delivery since."
            }
        }
        section.card.flush aria-label="Recorded entries" {
            @if retried.is_empty() {
                (empty("Nothing has been recorded from the quarantine yet", html! { a href="/quarantine" { "Show the quarantine" } "." }))
            } @else {
                table.rows {
                    thead {
                        tr {
                            th.num scope="col" { "Number" }
                            th scope="col" { "Recorded as" }
                            th scope="col" { "Recorded" }
                            th scope="col" { span.visually-hidden { "Action" } }
                        }
                    }
                    tbody { @for entry in &retried { (row(operator, entry)) } }
                }
            }
        }
        @if retried.len() > 1 {
            (form::action(operator, "/quarantine/undo", &all, html! {
                @for entry in &retried { input type="hidden" name="id" value=(entry.quarantine_id); }
                button.danger { "Undo all of these" }
            }))
        }
    })
}

fn row(operator: &Operator, retried: &RetriedEntry) -> Markup {
    let recorded = retried.ids.iter().zip(&retried.are_predictions).zip(&retried.dispositions);
    let more = usize::try_from(retried.recorded).unwrap_or_default() - retried.ids.len();
    html! {
        tr data-row {
            td.num data-label="Number" { (retried.quarantine_id) }
            td.main {
                @for (n, ((id, is_prediction), disposition)) in recorded.enumerate() {
                    @if n > 0 { ", " }
                    a href=(path(if *is_prediction { "predictions" } else { "executions" }, id)) { (visible(id)) }
                    " (" (disposition) ")"
                }
                @if more > 0 { " and " (more) " more" }
                div.soft { (with_code(&retried.reason)) }
            }
            td.time data-label="Recorded" { (ago(retried.retried_at)) " by " (actor(&retried.retried_by)) }
            td.act {
                (form::action(operator, "/quarantine/undo", "", html! {
                    input type="hidden" name="id" value=(retried.quarantine_id);
                    button { "Undo" }
                }))
            }
        }
    }
}

/// `POST /quarantine/undo`: undoes the retries of the entries in the fields `id`.
pub(super) async fn undo(State(console): ConsoleState, view: View, form: FormData) -> Response {
    let ids: Vec<i64> = form.all("id").filter_map(|id| id.parse().ok()).take(SHOWN).collect();
    let target = ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let run = async |connection: &mut DbConnection| undo_all(connection, &ids).await;
    let action = console.act(&view.operator, "quarantine.undo", &target, run).await;
    let page = if action.is_ok() { "/quarantine" } else { "/quarantine/retried" };
    finish(&view, done(page, action))
}

async fn undo_all(connection: &mut DbConnection, ids: &[i64]) -> Result<String, String> {
    let (mut undone, mut not_undone) = (Vec::new(), Vec::new());
    for id in ids {
        match connection.undo_retry(*id).await.map_err(|error| error.to_string())? {
            Undone::Restored(executions) => undone.extend(executions),
            Undone::Refused(why) => not_undone.push(format!("{id}: {why}")),
            Undone::Absent => not_undone.push(format!("{id}: nothing can be undone")),
        }
    }
    let mut parts = Vec::new();
    if !undone.is_empty() {
        parts.push(format!("Undone: {}", undone.join(", ")));
    }
    if !not_undone.is_empty() {
        parts.push(format!("Not undone: {}", not_undone.join("; ")));
    }
    if undone.is_empty() { Err(parts.join(". ")) } else { Ok(parts.join(". ")) }
}
