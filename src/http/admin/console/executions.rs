//! `/executions`: search, filters and the list.

use std::collections::HashMap;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use super::components::{ago, chip, count, empty, notice, period_chips, status};
use super::expected;
use super::failure_class::failure_class;
use super::hosts::ResultHosts;
use super::layout::{self, PageError, Tab};
use super::media::thumbnail;
use super::next_page::next_page;
use super::params::{Params, path};
use super::sections::fetched;
use super::state::{Console, ConsoleState};
use super::text::{excerpt, visible, visible_attribute};
use super::units;
use super::view::View;
use crate::db::queries::executions::{Execution, Executions, Filter, SEARCH_SCAN_LIMIT, Words};
use crate::db::queries::expected::{Expected, ExpectedQuery, ExpectedState, Filter as ExpectedFilter};
use crate::db::queries::lookup::{Found, Lookup};
use crate::db::queries::previews::{Preview, Previews};
use crate::db::queries::reference::ReferenceFilter;
use crate::db::queries::{Page, PageRequest, QueryError, Scope, TimeRange};
use crate::execution::identifier;
use crate::execution::status::is_successful;

/// Characters of a cause or a prompt in a row.
const EXCERPT: usize = 220;

/// Missing executions that are shown above the list.
const EXPECTED_ROWS: i64 = 20;

const STATUSES: [&str; 4] = ["completed", "failed", "cancelled", "running"];
/// Filters that are shown with their value, and removed by a click.
const FILTERS: [(&str, &str); 5] =
    [("workflow", "Workflow"), ("bulk", "Bulk"), ("q", "Search"), ("from", "From"), ("to", "To")];

pub(super) async fn page(State(console): ConsoleState, view: View) -> Response {
    let params = Params::of(&view.uri);
    match find(&console, &params).await {
        Ok(Some(location)) => (StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response(),
        Ok(None) => {
            layout::page(&view, Tab::Executions, "Executions", content(&console, &view, &params).await)
        }
        Err(error) => layout::page(&view, Tab::Executions, "Executions", Err(error.into())),
    }
}

/// What the search box contains.
enum Search {
    None,
    /// `name=value`
    Reference(ReferenceFilter),
    Words(Words),
}

impl Search {
    fn of(params: &Params) -> Self {
        let Some(text) = params.get("q") else { return Self::None };
        let name = text.split_once('=').map(|(name, _)| name);
        let is_name = |name: &str| !name.is_empty() && !name.contains(char::is_whitespace);
        match text.parse() {
            Ok(reference) if name.is_some_and(is_name) => Self::Reference(reference),
            _ => Words::new(text).map_or(Self::None, Self::Words),
        }
    }
}

/// The URL of the row whose identifier is in the search box.
async fn find(console: &Console, params: &Params) -> Result<Option<String>, QueryError> {
    let is_identifier = |text: &&str| identifier::is_valid(text) && !text.contains(char::is_whitespace);
    let Some(id) = params.get("q").filter(is_identifier) else { return Ok(None) };
    if params.is_continued() {
        return Ok(None);
    }
    Ok(match console.run(&Lookup { id: id.to_owned() }).await? {
        Found::Execution => Some(path("executions", id)),
        Found::Prediction => Some(path("predictions", id)),
        Found::Bulk => Some(path("bulks", id)),
        Found::Workflow => Some(params.with(&[("q", None), ("workflow", Some(id))])),
        Found::Nothing => None,
    })
}

async fn content(console: &Console, view: &View, params: &Params) -> Result<Markup, PageError> {
    let list = match params.period() {
        Ok(period) => list(console, view, params, period).await?,
        Err(error) => notice("bad", visible(&error)),
    };
    Ok(html! {
        div.head { h1 { "Executions" } }
        (search(params))
        (filters(params))
        (list)
    })
}

async fn list(
    console: &Console,
    view: &View,
    params: &Params,
    period: TimeRange,
) -> Result<Markup, PageError> {
    let (reference, words) = match Search::of(params) {
        Search::None => (None, None),
        Search::Reference(reference) => (Some(reference), None),
        Search::Words(words) => (None, Some(words)),
    };
    let is_search = words.is_some();
    let scope = Scope { workflow: params.identifier("workflow"), bulk: params.identifier("bulk") };
    let fetched = params.get("fetched").is_some();
    let mut missing = missing(console, params, reference.as_ref()).await?;
    let filter = Filter { scope, reference, fetched, words, ..Filter::default() };
    let filter = filter.with_status(params.identifier("status"));
    let page = params.page::<Executions>(&filter);
    let page = console.run(&Executions { filter, period, page }).await?;
    missing.retain(|expected| {
        page.items.iter().all(|row| Some(&row.execution_id) != expected.execution_id.as_ref())
    });
    let previews = previews(console, &page.items).await?;
    Ok(html! {
        // The feed of changes does not say which executions were fetched.
        @if !params.is_continued() && !fetched {
            a.chip.new-rows href=(params.with(&[])) hidden data-new-rows data-status=[params.get("status")]
                data-workflow=[params.get("workflow")] data-bulk=[params.get("bulk")] {}
        }
        @if !missing.is_empty() {
            section.card.flush aria-labelledby="missing" {
                h2 #missing { "Missing executions" }
                (expected::table(console, view, &missing, false))
            }
        }
        @if missing.is_empty() || !page.items.is_empty() || page.next.is_some() {
            section.card.flush aria-label="Executions" {
                @if page.items.is_empty() { (no_rows(params, is_search, page.next.is_some())) }
                @else { (table(&console.result_hosts, &page.items, &previews, false)) }
            }
        }
        (pager(params, &page, is_search))
    })
}

/// The registered executions with the reference that have not ended.
async fn missing(
    console: &Console,
    params: &Params,
    reference: Option<&ReferenceFilter>,
) -> Result<Vec<Expected>, QueryError> {
    let filters = ["status", "fetched", "workflow", "since", "from", "to", "cursor"];
    let Some(reference) = reference.filter(|_| filters.iter().all(|name| params.get(name).is_none())) else {
        return Ok(Vec::new());
    };
    let filter = ExpectedFilter {
        bulk: params.identifier("bulk"),
        state: Some(ExpectedState::Missing),
        reference: Some(reference.clone()),
    };
    let page = PageRequest { limit: EXPECTED_ROWS, after: None };
    Ok(console.run(&ExpectedQuery { filter, page }).await?.items)
}

/// Prompts and first results of the listed executions, by their identifiers.
pub(super) async fn previews(
    console: &Console,
    executions: &[Execution],
) -> Result<HashMap<String, Preview>, QueryError> {
    if executions.is_empty() {
        return Ok(HashMap::new());
    }
    let execution_ids = executions.iter().map(|execution| execution.execution_id.clone()).collect();
    let previews = console.run(&Previews { execution_ids }).await?;
    Ok(previews.into_iter().map(|preview| (preview.execution_id.clone(), preview)).collect())
}

fn search(params: &Params) -> Markup {
    html! {
        form.search role="search" action="/executions" {
            input type="search" name="q" value=[params.get("q")] aria-label="Search executions"
                placeholder="Id, cause, words of the prompt, or order=1234" autocomplete="off" spellcheck="false";
            @for name in ["status", "fetched", "workflow", "bulk", "since", "from", "to"] {
                @if let Some(value) = params.get(name) { input type="hidden" name=(name) value=(value); }
            }
            button { "Search" }
        }
    }
}

fn filters(params: &Params) -> Markup {
    let status = params.get("status");
    let is_fetched = params.get("fetched").is_some();
    let is_range = params.get("from").is_some() || params.get("to").is_some();
    html! {
        div.filters {
            div.chips role="group" aria-label="Status" {
                (chip(&params.with(&[("status", None)]), "All", status.is_none()))
                @for name in STATUSES {
                    (chip(&params.with(&[("status", Some(name))]), name, status == Some(name)))
                }
                @if let Some(other) = status.filter(|status| !STATUSES.contains(status)) {
                    (chip(&params.with(&[]), &visible_attribute(other), true))
                }
            }
            div.chips role="group" aria-label="Origin" {
                (chip(&params.with(&[("fetched", if is_fetched { None } else { Some("1") })]), "Fetched", is_fetched))
            }
            (period_chips(params, html! {
                details.range {
                    summary.chip aria-current=[is_range.then_some("true")] { "Range" }
                    form {
                        @for name in ["q", "status", "fetched", "workflow", "bulk"] {
                            @if let Some(value) = params.get(name) {
                                input type="hidden" name=(name) value=(value);
                            }
                        }
                        label { span { "From (UTC)" } input type="datetime-local" name="from" value=[params.get("from")]; }
                        label { span { "To (UTC)" } input type="datetime-local" name="to" value=[params.get("to")]; }
                        button { "Apply" }
                    }
                }
            }))
            @if FILTERS.iter().any(|(name, _)| params.get(name).is_some()) {
                div.chips role="group" aria-label="Filters" {
                    @for (name, title) in FILTERS {
                        @if let Some(value) = params.get(name) {
                            a.chip aria-current="true" href=(params.with(&[(name, None)]))
                                title={ "Remove the filter " (visible_attribute(value)) } {
                                (title) ": "
                                (filter_value(name, value))
                                " \u{2715}"
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A value of a filter. A time of the form `2026-03-02T10:00` is in UTC.
fn filter_value(name: &str, value: &str) -> Markup {
    match value.split_once('T') {
        Some((day, time)) if matches!(name, "from" | "to") && value.len() == 16 => {
            html! { (visible(day)) " " (visible(time)) " UTC" }
        }
        _ => visible(value),
    }
}

/// The text of an empty list.
fn no_rows(params: &Params, is_search: bool, has_more: bool) -> Markup {
    if is_search && has_more {
        return empty(
            "No match yet",
            html! { "No match among the newest " (count(SEARCH_SCAN_LIMIT)) " executions. Search older executions below, or \
            choose a period." },
        );
    }
    if has_more {
        return empty(
            "No match yet",
            html! { "Older executions were not searched yet: use " em { "Older" } " below." },
        );
    }
    let is_filtered = ["status", "fetched", "workflow", "bulk", "since", "from", "to"]
        .iter()
        .any(|name| params.get(name).is_some());
    if !is_filtered && params.get("q").is_some() {
        return empty(
            "No execution matches",
            html! {
                "The search finds an id, words of a cause or a prompt, or a reference such as " code { "order=1484" } ". "
                a href="/executions" { "Show all executions" } "."
            },
        );
    }
    if is_filtered {
        return empty(
            "No execution matches",
            html! {
                "Remove a filter, or " a href="/executions" { "show all executions" } ". Webhooks that could not be read \
                are in the " a href="/quarantine" { "quarantine" } "."
            },
        );
    }
    empty(
        "No execution is recorded yet",
        html! { "The " a href="/" { "overview" } " shows how to send the first webhook." },
    )
}

/// The rows of a list of executions. `in_bulk`: all belong to one bulk, so its name is not shown.
pub(super) fn table(
    hosts: &ResultHosts,
    executions: &[Execution],
    previews: &HashMap<String, Preview>,
    in_bulk: bool,
) -> Markup {
    html! {
        table.rows.executions {
            thead {
                tr {
                    th scope="col" { span.visually-hidden { "Result" } }
                    th scope="col" { "Execution" }
                    th scope="col" { "Status" }
                    th scope="col" { "Workflow" }
                    th.num scope="col" { "Duration" }
                    th.num scope="col" { "Cost" }
                    th scope="col" { "Received" }
                }
            }
            tbody { @for execution in executions { (row(hosts, execution, previews.get(&execution.execution_id), in_bulk)) } }
        }
    }
}

fn row(hosts: &ResultHosts, execution: &Execution, preview: Option<&Preview>, in_bulk: bool) -> Markup {
    let href = path("executions", &execution.execution_id);
    let url = preview.and_then(|preview| preview.urls.first());
    let prompt = preview.and_then(|preview| preview.prompt.as_deref());
    let cause = execution.error_cause.as_deref().or(execution.error.as_deref());
    html! {
        tr data-row {
            td.picture { @if let Some(url) = url { (thumbnail(hosts, url, &href)) } }
            td.main {
                a.row-link.cut href=(href) {
                    @match prompt {
                        Some(prompt) => (visible(excerpt(prompt, EXCERPT).0)),
                        None => (visible(&execution.execution_id)),
                    }
                }
                @if let Some(cause) = cause { div.cause.cut { (visible(excerpt(cause, EXCERPT).0)) } }
                @if let Some(class) = execution.failure_class.as_deref().and_then(failure_class) { small.soft { (class) } }
                div.ids {
                    @if prompt.is_some() { span.id { (visible(&execution.execution_id)) } }
                    @if let Some(bulk) = execution.bulk_id.as_ref().filter(|_| !in_bulk) {
                        span.id { "Bulk " a href=(path("bulks", bulk)) { (visible(bulk)) } }
                    }
                    @if let Some(reference) = &execution.reference { span.id { (visible(&reference.to_line())) } }
                }
            }
            td {
                (status(&execution.status))
                @if execution.step_failed && is_successful(&execution.status) {
                    " " span.badge.warn title="A step failed; the execution completed" { "step failed" }
                }
                @if let Some(source) = &execution.fetched_from { " " (fetched(source)) }
            }
            td.workflow data-label="Workflow" {
                a.quiet.cut href=(super::params::url("/executions", "workflow", &execution.workflow_id)) {
                    (visible(&execution.workflow_id))
                }
            }
            td.num data-label="Duration" {
                @if let Some(seconds) = execution.duration_seconds { (units::seconds(seconds)) }
            }
            td.num data-label="Cost" {
                @if let Some(cost) = &execution.total_cost { (units::cost(&cost.0)) }
            }
            td.time data-label="Received" { (ago(execution.first_received_at)) }
        }
    }
}

/// Says what a search covers, and links to the first and to the next page.
fn pager(params: &Params, page: &Page<Execution>, is_search: bool) -> Markup {
    let older = if is_search { "Search older executions" } else { "Older" };
    html! {
        @if is_search {
            p.soft {
                "The search reads the error, the cause and the inputs of " (count(SEARCH_SCAN_LIMIT)) " executions at a time, the \
                newest first. It does not read inputs of very large payloads."
            }
        }
        (next_page(params, page.next.as_deref(), older))
    }
}

/// The query for a page of a bulk's executions.
pub(super) fn of_bulk(bulk_id: &str, status: Option<&str>, params: &Params) -> Executions {
    let filter = Filter { scope: Scope::of_bulk(bulk_id), ..Filter::default() };
    let filter = filter.with_status(status.map(str::to_owned));
    let page = params.page::<Executions>(&filter);
    Executions { filter, period: TimeRange::default(), page }
}
