//! `/bulks/{bulk_id}`: progress, results, failures, missing executions and exports of one bulk.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};

use super::bulks::{progress, received};
use super::components::{ago, chip, copy_button, count, empty, notice, row_head};
use super::executions::{of_bulk, previews, table};
use super::expected as expected_page;
use super::failure_class::failure_class;
use super::layout::{self, PageError, Tab};
use super::next_page::next_page;
use super::params::{Params, filtered, url};
use super::reconcile;
use super::results::{Label, Size, gallery, partial_note};
use super::sections::with_cause;
use super::state::{Console, ConsoleState};
use super::text::{excerpt, visible};
use super::view::View;
use crate::db::queries::Scope;
use crate::db::queries::bulks::{Bulk, GetBulkProgress};
use crate::db::queries::changes::LastChange;
use crate::db::queries::expected::{self, ExpectedQuery, ExpectedState};
use crate::db::queries::failures::{FailureQuery, Failures};
use crate::db::queries::previews::{Preview, Previews};
use crate::db::queries::results::{Filter, ResultItem, ResultsQuery};
use crate::db::queries::{PageRequest, TimeRange};
use crate::http::admin::api::query::{PathId, path_identifier};

/// Results of a page of the gallery.
const GALLERY: i64 = 48;
/// Rejected inputs that are read.
const MAX_REJECTED: i64 = 1_000;
/// Positions that are shown for a message.
const MAX_POSITIONS: usize = 20;
/// Characters of a message.
const MAX_MESSAGE: usize = 300;
/// Groups of failures.
const MAX_CAUSES: i64 = 10;

/// List, format and title of each download.
const EXPORTS: [(&str, &str, &str); 5] = [
    ("results", "urls", "URLs of results"),
    ("results", "csv", "Results as CSV"),
    ("results", "jsonl", "Results as JSON Lines"),
    ("executions", "csv", "Executions as CSV"),
    ("executions", "jsonl", "Executions as JSON Lines"),
];

/// What is listed below the progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Show {
    Results,
    Failures,
    Running,
    Missing,
    Executions,
}

impl Show {
    const ALL: [(Self, &'static str, &'static str); 5] = [
        (Self::Results, "results", "Results"),
        (Self::Failures, "failures", "Failures"),
        (Self::Running, "running", "Running"),
        (Self::Missing, "missing", "Missing"),
        (Self::Executions, "executions", "All executions"),
    ];

    fn of(params: &Params) -> Self {
        let name = params.get("show").unwrap_or_default();
        Self::ALL.iter().find(|(_, known, _)| *known == name).map_or(Self::Results, |(show, _, _)| *show)
    }
}

pub(super) async fn page(State(console): ConsoleState, view: View, id: PathId<String>) -> Response {
    let params = Params::of(&view.uri);
    // Read first: the page counts later changes as new.
    let read = async { Ok((console.run(&LastChange).await?, read(&console, id).await?)) };
    match read.await {
        Ok((last_change, bulk)) => {
            let content = content(&console, &view, &params, &bulk, last_change).await;
            layout::page(&view, Tab::Bulks, &bulk.bulk_id, content)
        }
        Err(error) => layout::page(&view, Tab::Bulks, "Bulk", Err(error)),
    }
}

async fn read(console: &Console, id: PathId<String>) -> Result<Bulk, PageError> {
    let bulk_id = path_identifier(id, "bulk")?;
    let bulk = console.run(&GetBulkProgress { bulk_id: bulk_id.clone() }).await?;
    bulk.ok_or(PageError::NotFound { kind: "bulk", id: bulk_id })
}

async fn content(
    console: &Console,
    view: &View,
    params: &Params,
    bulk: &Bulk,
    last_change: i64,
) -> Result<Markup, PageError> {
    let show = Show::of(params);
    let list = match show {
        Show::Results => results(console, params, bulk).await?,
        Show::Failures => failures(console, params, bulk).await?,
        Show::Running => executions(console, params, bulk, Some("running")).await?,
        Show::Missing => missing_executions(console, view, params, bulk).await?,
        Show::Executions => executions(console, params, bulk, None).await?,
    };
    let rejected = rejected(console, bulk).await?;
    Ok(html! {
        div.page-head {
            (row_head(["/bulks", "Bulks"], &bulk.bulk_id, None, html! {
                div.actions {
                    @if bulk.complete != Some(true) { (reconcile::button(console, view, "bulks", &bulk.bulk_id)) }
                    (exports(&bulk.bulk_id))
                }
            }))
        }
        section.card aria-label="Progress" data-live="progress" data-after=(last_change) data-bulk=(bulk.bulk_id) { (summary(bulk, &rejected, console.admin.reconciler.is_some())) }
        @if bulk.expected.is_none() { (size_hint(bulk)) }
        nav.chips aria-label="Lists of the bulk" data-live="tabs" {
            @for (this, name, title) in Show::ALL {
                @let number = match this {
                    Show::Failures => Some(bulk.failed),
                    Show::Running => Some(bulk.other),
                    Show::Executions => Some(bulk.received),
                    Show::Missing => bulk.missing,
                    Show::Results => None,
                };
                @let title = number.map_or_else(|| title.to_owned(), |number| format!("{title} {}", count(number.into())));
                (chip(&params.with(&[("show", Some(name))]), &title, this == show))
            }
        }
        @if !params.is_continued() {
            a.chip.new-rows href=(params.with(&[])) hidden data-new-rows data-after=(last_change) data-bulk=(bulk.bulk_id) {}
        }
        (list)
    })
}

fn summary(bulk: &Bulk, rejected: &Rejected, has_api_key: bool) -> Markup {
    html! {
        (progress(bulk))
        dl.pairs.wide {
            dt { "Received" } dd { (received(bulk)) }
            @if let Some(at) = bulk.first_received_at { dt { @if bulk.received > 0 { "First webhook" } @else { "Registered" } } dd { (ago(at)) } }
            @if let Some(at) = bulk.last_received_at { dt { "Latest change" } dd { (ago(at)) } }
        }
        @if bulk.not_received() > 0 && !has_api_key { p.soft { (reconcile::NO_KEY) } }
        @if !rejected.is_empty() {
            p.soft { "each::labs rejected these inputs of the bulk. It sends no webhook for them:" }
            ul.soft {
                @for (message, positions) in rejected {
                    li {
                        (visible(message)) " (input"
                        @if positions.len() > 1 { "s" } " "
                        (positions.iter().take(MAX_POSITIONS).map(ToString::to_string).collect::<Vec<_>>().join(", "))
                        @if positions.len() > MAX_POSITIONS { ", and " (positions.len() - MAX_POSITIONS) " more" } ")"
                    }
                }
            }
        }
    }
}

/// The positions of rejected inputs, by the message of the response.
type Rejected = BTreeMap<String, Vec<i32>>;

async fn rejected(console: &Console, bulk: &Bulk) -> Result<Rejected, PageError> {
    let mut rejected = Rejected::new();
    if bulk.rejected.is_none_or(|rejected| rejected == 0) {
        return Ok(rejected);
    }
    let filter = expected::Filter {
        bulk: Some(bulk.bulk_id.clone()),
        state: Some(ExpectedState::Rejected),
        ..expected::Filter::default()
    };
    let page = PageRequest { limit: MAX_REJECTED, after: None };
    for input in console.run(&ExpectedQuery { filter, page }).await?.items {
        let message = input.message.unwrap_or_else(|| "no reason was sent".to_owned());
        rejected.entry(excerpt(&message, MAX_MESSAGE).0.to_owned()).or_default().push(input.position);
    }
    Ok(rejected)
}

/// The registered executions that have not ended. Only a registered bulk has their identifiers.
async fn missing_executions(
    console: &Console,
    view: &View,
    params: &Params,
    bulk: &Bulk,
) -> Result<Markup, PageError> {
    if bulk.rejected.is_none() {
        return Ok(html! {
            section.card {
                (empty("The expected executions are not known", html! {
                    "Register the response of bulk-trigger with " code { "workflow-receiver register" }
                    ". Then the missing executions are listed here."
                }))
            }
        });
    }
    let ExpectedQuery { filter, .. } = ExpectedQuery::missing_of_bulk(&bulk.bulk_id);
    expected_page::list(console, view, params, filter).await
}

/// How to set the size of the bulk.
fn size_hint(bulk: &Bulk) -> Markup {
    let command = bulk.set_size_command();
    notice(
        "info",
        html! { "Set the size of the bulk to see whether it is complete: " code { (command) } (copy_button(&command)) },
    )
}

/// Downloads of the read API.
fn exports(bulk_id: &str) -> Markup {
    let export = |list: &str, format: &str| {
        format!("{}&format={format}", url(&format!("/api/v1/export/{list}"), "bulk", bulk_id))
    };
    html! {
        details.menu {
            summary.button { "Export" }
            ul {
                @for (list, format, name) in EXPORTS { li { a href=(export(list, format)) download { (name) } } }
            }
        }
    }
}

async fn results(console: &Console, params: &Params, bulk: &Bulk) -> Result<Markup, PageError> {
    let filter = Filter { scope: Scope::of_bulk(&bulk.bulk_id), is_final: true, ..Filter::default() };
    let page = PageRequest { limit: GALLERY, ..params.page::<ResultsQuery>(&filter) };
    let page = console.run(&ResultsQuery { filter, period: TimeRange::default(), page }).await?;
    if page.items.is_empty() && page.next.is_none() {
        return Ok(html! {
            section.card {
                (empty("No results yet", html! { "Results are shown as soon as an execution of the bulk completes." }))
            }
        });
    }
    let mut execution_ids: Vec<_> =
        page.items.iter().filter_map(|result| result.execution_id.clone()).collect();
    execution_ids.dedup();
    let previews = console.run(&Previews { execution_ids }).await?;
    let label = |result| label(&previews, result);
    Ok(html! {
        (gallery(&console.result_hosts, Size::Small, &page.items, label))
        (partial_note(&page.items))
        (next_page(params, page.next.as_deref(), "More results"))
    })
}

/// The prompt of the execution, or its identifier. Predictions have no bulk.
fn label<'r>(previews: &'r [Preview], result: &'r ResultItem) -> Label<'r> {
    let execution_id = result.execution_id.as_deref().unwrap_or_default();
    let preview = previews.iter().find(|preview| preview.execution_id == execution_id);
    let prompt = preview.and_then(|preview| preview.prompt.as_deref());
    Label {
        text: excerpt(prompt.unwrap_or(execution_id), 200).0,
        fetched_from: preview.and_then(|preview| preview.fetched_from.as_deref()),
    }
}

async fn failures(console: &Console, params: &Params, bulk: &Bulk) -> Result<Markup, PageError> {
    let causes = if params.is_continued() || bulk.failed == 0 {
        None
    } else {
        let scope = Scope::of_bulk(&bulk.bulk_id);
        Some(console.run(&FailureQuery { scope, limit: MAX_CAUSES, ..FailureQuery::default() }).await?)
    };
    let list = executions(console, params, bulk, Some("failed")).await?;
    Ok(html! { @if let Some(causes) = causes { (cause_table(&bulk.bulk_id, &causes)) } (list) })
}

fn cause_table(bulk_id: &str, failures: &Failures) -> Markup {
    html! {
        @if failures.groups.len() > 1 {
            section.card.flush aria-labelledby="causes" {
                h2 #causes { "Causes" }
                table.rows {
                    thead { tr { th scope="col" { "Cause" } th scope="col" { "At fault" } th.num scope="col" { "Failed" } } }
                    tbody {
                        @for group in &failures.groups {
                            @let cause = group.error_cause.as_deref().or(group.error.as_deref());
                            tr {
                                td { a.cut href=(with_cause(cause, [("bulk", Some(bulk_id))])) { (visible(cause.unwrap_or("no cause was sent"))) } }
                                @let class = &*group.failure_class;
                                @let list = filtered("/executions", [("status", Some("failed")), ("class", Some(class)), ("bulk", Some(bulk_id))]);
                                td { small { (failure_class(class, &list)) } }
                                td.num data-label="Failed" { (count(group.failed)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

async fn executions(
    console: &Console,
    params: &Params,
    bulk: &Bulk,
    status: Option<&str>,
) -> Result<Markup, PageError> {
    let page = console.run(&of_bulk(&bulk.bulk_id, status, params)).await?;
    let previews = previews(console, &page.items).await?;
    let with_filter = |name: &str, value: &str| {
        filtered("/executions", [("bulk", Some(&*bulk.bulk_id)), (name, Some(value))])
    };
    Ok(html! {
        section.card.flush aria-label="Executions" {
            @if page.items.is_empty() {
                @match status {
                    Some("failed") => (empty("No execution failed", html! { "Failures of this bulk are listed here with their prompt and cause." })),
                    Some("running") => (empty("No execution is running", html! { "All received executions of this bulk have ended." })),
                    _ => (empty("No execution", html! { "No webhook of this bulk is recorded yet." })),
                }
            } @else { (table(&console.result_hosts, &page.items, &previews, true, with_filter)) }
        }
        (next_page(params, page.next.as_deref(), "Older"))
    })
}
