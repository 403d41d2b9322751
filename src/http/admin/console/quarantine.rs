//! `/quarantine`: entries grouped by reason, and the actions on all entries with one reason.

use std::collections::HashMap;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use super::components::{ago, badge, bytes, count, empty, notice, plural};
use super::form::{self, FormData, done};
use super::layout::{self, PageError, Tab};
use super::mapping_form::MappingForm;
use super::next_page::next_page;
use super::params::{Params, url};
use super::search::{self, Search, Searched, nothing_found};
use super::state::{Console, ConsoleState};
use super::text::{visible, with_code};
use super::view::View;
use crate::auth::Operator;
use crate::db::queries::page::MAX_LIMIT;
use crate::db::queries::quarantine::{
    BodyStarts, Filter, MAX_SEARCHED, Quarantine, QuarantineReasons, Quarantined, ReasonGroup,
};
use crate::db::queries::{Page, PageRequest, TimeRange};
use crate::db::{DbConnection, Retried, RetryMode};

/// Maximum entries that one action changes. Afterwards the page still offers the action for the rest.
pub(super) const MAX_ENTRIES: i64 = MAX_LIMIT;

pub(super) async fn page(State(console): ConsoleState, view: View) -> Response {
    let params = Params::of(&view.uri);
    let content = content(&console, &view.operator, &params).await;
    layout::page(&view, Tab::Quarantine, "Quarantine", content)
}

async fn content(console: &Console, operator: &Operator, params: &Params) -> Result<Markup, PageError> {
    let reason = params.get("reason").map(str::to_owned);
    let list = match params.period() {
        Ok(period) => list(console, operator, params, reason, period).await?,
        Err(error) => notice("bad", visible(&error)),
    };
    Ok(html! {
        div.page-head {
            div.head { h1 { "Quarantine" } a.button href="/quarantine/retried" { "Recorded entries" } }
            p.soft { "Webhooks that could not be read as an execution, and unsigned webhooks that each::labs did not confirm. Their bodies are stored unchanged." }
        }
        (search::form(
            params, "/quarantine", "Search the quarantine", "Words of the body or the reason, or order=1234", &["reason", "since"],
        ))
        (list)
    })
}

async fn list(
    console: &Console,
    operator: &Operator,
    params: &Params,
    reason: Option<String>,
    period: TimeRange,
) -> Result<Markup, PageError> {
    let groups = console.run(&QuarantineReasons::PAGE).await?;
    let Search { reference, words } = Search::of(params);
    let is_search = params.get("q").is_some();
    let filter = Filter { reason: reason.clone(), reference, words };
    let page = params.page::<Quarantine>(&filter);
    let page = console.run(&Quarantine { filter, period, page }).await?;
    if is_search && page.items.is_empty() {
        let hint = html! {
            "The search reads the newest " (count(MAX_SEARCHED)) " entries. "
            a href="/quarantine" { "Show the whole quarantine" } "."
        };
        let nothing = nothing_found(console, params, Searched::Quarantine, "No entry matches", hint).await?;
        return Ok(html! { section.card { (nothing) } });
    }
    let quarantine_ids = page.items.iter().map(|entry| entry.quarantine_id).collect();
    let starts = console.run(&BodyStarts { quarantine_ids }).await?;
    let group = groups.iter().find(|group| reason.as_deref() == Some(&*group.reason));
    Ok(html! {
        @if groups.is_empty() {
            section.card { (empty("The quarantine is empty", html! { "No webhook waits here for a mapping or a decision." })) }
        } @else {
            @match &reason {
                None if is_search => {}
                None => (groups_table(&groups)),
                Some(reason) => (group_card(operator, reason, group, &page)),
            }
            (entries(&page, &starts, reason.is_none()))
            (next_page(params, page.next.as_deref(), "Older"))
        }
    })
}

fn groups_table(groups: &[ReasonGroup]) -> Markup {
    html! {
        section.card.flush aria-labelledby="reasons" {
            h2 #reasons { "Reasons" }
            table.rows {
                thead {
                    tr {
                        th scope="col" { "Reason" }
                        th.num scope="col" { "Entries" }
                        th scope="col" { "Latest" }
                    }
                }
                tbody {
                    @for group in groups {
                        tr data-row {
                            td.main {
                                a.row-link href=(url("/quarantine", "reason", &group.reason)) { (with_code(&group.reason)) }
                                @if group.acknowledged > 0 {
                                    " " (badge("bad", html! { (count(group.acknowledged)) " answered 200" }))
                                }
                            }
                            td.num data-label="Entries" { (count(group.entries)) }
                            td.time data-label="Latest" { (ago(group.latest_received_at)) }
                        }
                    }
                }
            }
        }
    }
}

fn group_card(
    operator: &Operator,
    reason: &str,
    group: Option<&ReasonGroup>,
    page: &Page<Quarantined>,
) -> Markup {
    let entries = group.map_or(0, |group| group.entries);
    html! {
        section.card aria-labelledby="group" {
            p.crumbs { a href="/quarantine" { "All reasons" } }
            h2 #group { (with_code(reason)) }
            p.soft { (plural(entries, "entry", "entries")) }
            div.actions {
                @if let Some(first) = page.items.first() {
                    a.button.primary href=(format!("/quarantine/{}", first.quarantine_id)) { "Map the first entry" }
                }
                (form::action(operator, "/quarantine/retry", "", html! {
                    input type="hidden" name="reason" value=(reason);
                    button title="Records the entries that this version can read without a mapping" { "Record readable entries" }
                }))
                (form::action(
                    operator, "/quarantine/drop",
                    "Delete these entries permanently? each::labs does not send a webhook again if it was answered 200.",
                    html! {
                        input type="hidden" name="reason" value=(reason);
                        button.danger { "Drop all" }
                    },
                ))
            }
        }
    }
}

fn entries(page: &Page<Quarantined>, starts: &HashMap<i64, String>, with_reason: bool) -> Markup {
    html! {
        section.card.flush aria-labelledby="entries" {
            h2 #entries { "Entries" }
            @if page.items.is_empty() {
                (empty("No entry", html! { a href="/quarantine" { "Show the whole quarantine" } "." }))
            } @else {
                table.rows {
                    thead {
                        tr {
                            th.num scope="col" { "Number" }
                            th scope="col" { @if with_reason { "Reason and body" } @else { "Body" } }
                            th scope="col" { "Answered" }
                            th.num scope="col" { "Deliveries" }
                            th.num scope="col" { "Size" }
                            th scope="col" { "Received" }
                        }
                    }
                    tbody {
                        @for entry in &page.items {
                            tr data-row {
                                td.num data-label="Number" {
                                    a.row-link href=(format!("/quarantine/{}", entry.quarantine_id)) { (entry.quarantine_id) }
                                }
                                td.main {
                                    @if with_reason { (with_code(&entry.reason)) }
                                    @if !entry.intact { " " (badge("bad", html! { "damaged" })) }
                                    @if let Some(start) = starts.get(&entry.quarantine_id) { div.id.cut { (visible(start)) @if u64::try_from(entry.body_bytes).unwrap_or_default() > start.len() as u64 { "\u{2026}" } } }
                                    @if let Some(reference) = &entry.reference { div.id { (visible(&reference.to_line())) } }
                                }
                                td data-label="Answered" { (answered(entry)) }
                                td.num data-label="Deliveries" { (count(entry.deliveries.into())) }
                                td.num data-label="Size" { (bytes(u64::try_from(entry.body_bytes).unwrap_or_default())) }
                                td.time data-label="Received" { (ago(entry.first_received_at)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn answered(entry: &Quarantined) -> Markup {
    badge(if entry.acknowledged { "bad" } else { "muted" }, html! { (entry.answered()) })
}

/// `POST /quarantine/retry`: retries the entries with a reason, with the mapping of the form.
pub(super) async fn retry(State(console): ConsoleState, view: View, form: FormData) -> Response {
    let reason = form.get("reason").to_owned();
    let mapping = MappingForm::of(|name| Some(form.get(name)));
    let target = url("/quarantine", "reason", &reason);
    let action = async {
        if mapping.sets_execution_id() {
            return Err(PageError::Rejected("A mapping that sets execution_id is for one entry only."));
        }
        let entries = intact(&console, &reason).await?.into_iter();
        let ids: Vec<_> =
            entries.filter(|entry| !entry.is_unconfirmed()).map(|entry| entry.quarantine_id).collect();
        let mode = RetryMode::Record { by: &view.operator.name };
        let run = async |connection: &mut DbConnection| retry_all(connection, mode, &ids, &mapping).await;
        let name = "quarantine.retry_reason";
        done(&target, console.act(&view.operator, name, &mapping.describe(&reason), run).await)
    };
    finish(&view, action.await)
}

/// `POST /quarantine/drop`: deletes the entries with a reason.
pub(super) async fn drop_all(State(console): ConsoleState, view: View, form: FormData) -> Response {
    let reason = form.get("reason").to_owned();
    let action = async {
        let entries = intact(&console, &reason).await?.into_iter();
        let ids: Vec<_> = entries.map(|entry| entry.quarantine_id).collect();
        let run = async |connection: &mut DbConnection| {
            let dropped = connection.drop_quarantined(&ids).await.map_err(|error| error.to_string())?;
            Ok(format!("Dropped {}", dropped.len()))
        };
        done("/quarantine", console.act(&view.operator, "quarantine.drop_reason", &reason, run).await)
    };
    finish(&view, action.await)
}

pub(super) fn finish(view: &View, response: Result<Response, PageError>) -> Response {
    response
        .unwrap_or_else(|error| layout::page(view, Tab::Quarantine, "Not done", Err(error)).into_response())
}

/// The newest intact entries with a reason.
async fn intact(console: &Console, reason: &str) -> Result<Vec<Quarantined>, PageError> {
    let page = PageRequest { limit: MAX_ENTRIES, after: None };
    let filter = Filter { reason: Some(reason.to_owned()), ..Filter::default() };
    let page = console.run(&Quarantine { filter, period: TimeRange::default(), page }).await?;
    Ok(page.items.into_iter().filter(|entry| entry.intact).collect())
}

async fn retry_all(
    connection: &mut DbConnection,
    mode: RetryMode<'_>,
    ids: &[i64],
    mapping: &MappingForm,
) -> Result<String, String> {
    let (mut recorded, mut retained, mut last_reason) = (0_usize, 0_usize, None);
    for id in ids {
        let retried = connection.retry_quarantined(*id, mode, |body| mapping.extract(body)).await;
        match retried.map_err(|error| error.to_string())? {
            Retried::Recorded(_) | Retried::Unverified => recorded += 1,
            Retried::Retained(why) => {
                retained += 1;
                last_reason = Some(why);
            }
            Retried::Absent => {}
        }
    }
    let why = last_reason.map(|why| format!("; {retained} stay in quarantine: {why}")).unwrap_or_default();
    let entries = if recorded == 1 { "entry" } else { "entries" };
    let text = format!("Recorded {recorded} {entries}{why}");
    if recorded == 0 && retained > 0 { Err(text) } else { Ok(text) }
}
