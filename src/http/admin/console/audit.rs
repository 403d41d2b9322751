//! `/audit`: the actions of operators.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use maud::{Markup, html};

use super::components::{actor, ago, badge, empty};
use super::layout::{self, PageError, Tab};
use super::state::{Console, ConsoleState};
use super::text::{visible, with_code};
use super::view::View;
use crate::db::queries::audit::{Action, Actions};
use crate::http::admin::api::query::Parameters;
use crate::http::problem::Problem;

/// Actions on a page.
const PAGE: usize = 100;

pub(super) async fn page(State(console): ConsoleState, view: View) -> Response {
    layout::page(&view, Tab::Settings, "Audit log", content(&console, &view.uri).await)
}

async fn content(console: &Console, uri: &Uri) -> Result<Markup, PageError> {
    let before = before(uri)?;
    let limit = i64::try_from(PAGE + 1).unwrap_or(i64::MAX);
    let mut actions = console.run(&Actions { before: before.unwrap_or(i64::MAX), limit }).await?;
    let more = actions.len() > PAGE;
    actions.truncate(PAGE);
    let last = actions.last().map(|action| action.audit_id).filter(|_| more);
    Ok(html! {
        div.page-head {
            p.crumbs { a href="/settings" { "Settings" } " / Audit log" }
            h1 { "Audit log" }
            p.soft { "The actions of operators, the latest first. They are in the table " code { "audit" } "." }
        }
        @if actions.is_empty() {
            section.card { (empty("No actions", html! { "Actions such as dropping a quarantined webhook are listed here." })) }
        } @else {
            div.card.flush {
                table.rows {
                    thead { tr { th { "Time" } th { "Who" } th { "Action" } th { "Target" } th { "Result" } } }
                    tbody { @for action in &actions { (row(action)) } }
                }
            }
            @if let Some(last) = last {
                nav.pager aria-label="Pages of the list" { span {} a.button href={ "/audit?before=" (last) } { "Older" } }
            }
        }
    })
}

fn row(action: &Action) -> Markup {
    html! {
        tr data-row {
            td.time { (ago(action.at)) }
            td.nowrap data-label="Who" { (actor(&action.actor)) }
            td.nowrap { code { (visible(&action.action)) } }
            td.id { (with_code(&action.target)) }
            td {
                @match action.succeeded {
                    Some(true) => {}
                    Some(false) => { (badge("bad", html! { "failed" })) " " }
                    None => { (badge("warn", html! { "not finished" })) }
                }
                (with_code(action.result.as_deref().unwrap_or_default()))
            }
        }
    }
}

fn before(uri: &Uri) -> Result<Option<i64>, Problem> {
    let mut parameters = Parameters::of(uri);
    let before = parameters.optional_number("before", i64::MAX)?;
    parameters.finish()?;
    Ok(before)
}
