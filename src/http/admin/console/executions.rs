//! `/executions`: filters and the list.

use std::collections::HashMap;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use super::components::{ago, chip, count, empty, notice, period_chips, status};
use super::expected;
use super::failure_class::{self, Fault, failure_class};
use super::hosts::ResultHosts;
use super::layout::{self, PageError, Tab};
use super::media::thumbnail;
use super::next_page::next_page;
use super::params::{Params, path};
use super::search::{self, Search, Searched, nothing_found};
use super::sections::fetched;
use super::state::{Console, ConsoleState};
use super::text::{excerpt, visible, visible_attribute};
use super::units;
use super::view::View;
use crate::db::queries::changes::LastChange;
use crate::db::queries::executions::{Execution, Executions, Filter};
use crate::db::queries::expected::{Expected, ExpectedQuery, Filter as ExpectedFilter};
use crate::db::queries::previews::{Preview, Previews};
use crate::db::queries::{Page, PageRequest, QueryError, Scope, TimeRange};
use crate::execution::status::is_successful;

/// Characters of a cause or a prompt in a row.
const EXCERPT: usize = 220;

/// Registered executions that are shown above the list.
const EXPECTED_ROWS: i64 = 20;

const STATUSES: [&str; 4] = ["completed", "failed", "cancelled", "running"];
/// The parameters, without the search and the cursor.
const FILTERS: [&str; 10] =
    ["status", "fetched", "workflow", "bulk", "class", "fault", "model", "since", "from", "to"];
/// Filters that the change feed cannot apply: with them, new and changed executions are not counted.
const UNCOUNTED: [&str; 5] = ["q", "fetched", "class", "fault", "model"];
/// Filters that are shown with their value, and removed by a click.
const REMOVABLE: [(&str, &str); 8] = [
    ("workflow", "Workflow"),
    ("bulk", "Bulk"),
    ("class", "Class"),
    ("fault", "At fault"),
    ("model", "Failed model"),
    ("q", "Search"),
    ("from", "From"),
    ("to", "To"),
];

pub(super) async fn page(State(console): ConsoleState, view: View) -> Response {
    let params = Params::of(&view.uri);
    match search::find(&console, &params).await {
        Ok(Some(location)) => (StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response(),
        Ok(None) => {
            layout::page(&view, Tab::Executions, "Executions", content(&console, &view, &params).await)
        }
        Err(error) => layout::page(&view, Tab::Executions, "Executions", Err(error.into())),
    }
}

async fn content(console: &Console, view: &View, params: &Params) -> Result<Markup, PageError> {
    let list = match params.period() {
        Ok(period) => list(console, view, params, period).await?,
        Err(error) => notice("bad", visible(&error)),
    };
    Ok(html! {
        div.head { h1 { "Executions" } }
        (search::form(
            params, "/executions", "Search executions", "Id, cause, words of the prompt, model, or order=1234", &FILTERS,
        ))
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
    let last_change = console.run(&LastChange).await?;
    let Search { reference, words } = Search::of(params);
    let is_search = words.is_some();
    let scope = Scope { workflow: params.identifier("workflow"), bulk: params.identifier("bulk") };
    let fetched = params.get("fetched").is_some();
    let failure_classes = failure_class::filter(params);
    let failed_model = params.get("model").map(str::to_owned);
    let filter =
        Filter { scope, reference, fetched, failure_classes, failed_model, words, ..Filter::default() };
    let filter = filter.with_status(params.identifier("status"));
    let page = params.page::<Executions>(&filter);
    let query = Executions { filter, period, page };
    let page = console.run(&query).await?;
    let mut registered = registered(console, params, &query.filter, page.items.is_empty()).await?;
    let with_prefix =
        if page.items.is_empty() { search::with_prefix(console, params).await? } else { Vec::new() };
    registered.retain(|expected| {
        page.items.iter().all(|row| Some(&row.execution_id) != expected.execution_id.as_ref())
    });
    let previews = previews(console, &page.items).await?;
    let with_filter = |name: &str, value: &str| params.with(&[(name, Some(value))]);
    let list = match &page.items[..] {
        [] if !(registered.is_empty() && with_prefix.is_empty()) && page.next.is_none() => html! {},
        [] => no_rows(console, params, &query.filter, page.next.is_some()).await?,
        rows => table(&console.result_hosts, rows, &previews, false, with_filter),
    };
    Ok(html! {
        // The change feed has the fields of the other filters only.
        @let is_counted = UNCOUNTED.iter().all(|name| params.get(name).is_none());
        @if is_counted && !params.is_continued() {
            a.chip.new-rows href=(params.with(&[])) hidden data-new-rows data-after=(last_change)
                data-status=[params.get("status")] data-workflow=[params.get("workflow")] data-bulk=[params.get("bulk")] {}
        }
        @if !registered.is_empty() {
            section.card.flush aria-labelledby="registered" {
                h2 #registered { "Registered executions" }
                (expected::table(console, view, &registered, false))
            }
        }
        @if !with_prefix.is_empty() {
            section.card aria-labelledby="prefix" {
                h2 #prefix { "Executions whose id begins with " (visible(params.get("q").unwrap_or_default())) }
                ul { @for id in &with_prefix { li { a.id href=(path("executions", id)) { (visible(id)) } } } }
            }
        }
        @if !list.0.is_empty() { section.card.flush aria-label="Executions" { (list) } }
        (pager(params, &page, is_search, query.filter.scan_limit()))
    })
}

/// The executions whose registered reference has the parameter or, if no recorded execution matches, the words of the
/// search, among the newest registrations.
async fn registered(
    console: &Console,
    params: &Params,
    filter: &Filter,
    nothing_recorded: bool,
) -> Result<Vec<Expected>, QueryError> {
    let is_whole = FILTERS.iter().all(|name| *name == "bulk" || params.get(name).is_none());
    let reference = filter.reference.clone();
    let words = filter.words.clone().filter(|_| nothing_recorded);
    if !is_whole || params.is_continued() || (reference.is_none() && words.is_none()) {
        return Ok(Vec::new());
    }
    let filter = ExpectedFilter { bulk: params.identifier("bulk"), state: None, reference, words };
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
                        (search::hidden(params, &["q", "status", "fetched", "workflow", "bulk", "class", "fault", "model"]))
                        label { span { "From (UTC)" } input type="datetime-local" name="from" value=[params.get("from")]; }
                        label { span { "To (UTC)" } input type="datetime-local" name="to" value=[params.get("to")]; }
                        button { "Apply" }
                    }
                }
            }))
            @if REMOVABLE.iter().any(|(name, _)| params.get(name).is_some()) {
                div.chips role="group" aria-label="Filters" {
                    @for (name, title) in REMOVABLE {
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
        _ if name == "fault" => {
            let fault = Fault::ALL.iter().find(|fault| fault.as_str() == value);
            visible(fault.map_or(value, |fault| fault.name()))
        }
        _ => visible(value),
    }
}

/// The text of an empty list.
async fn no_rows(
    console: &Console,
    params: &Params,
    filter: &Filter,
    has_more: bool,
) -> Result<Markup, QueryError> {
    if has_more {
        return Ok(empty(
            "No match yet",
            html! {
                "No match among the newest " (count(filter.scan_limit())) " executions. Search older executions below, or \
                choose a period."
            },
        ));
    }
    let is_filtered = FILTERS.iter().any(|name| params.get(name).is_some());
    if params.get("q").is_some() {
        let hint = html! {
            @if is_filtered { "Remove a filter. " }
            "The search finds an id, words of a cause, a prompt or a model, a class of failures, or a reference such as "
            code { "order=1484" } ". " a href="/executions" { "Show all executions" } "."
        };
        return nothing_found(console, params, Searched::Executions, "No execution matches", hint).await;
    }
    if is_filtered {
        return Ok(empty(
            "No execution matches",
            html! {
                "Remove a filter, or " a href="/executions" { "show all executions" } ". Webhooks that could not be read \
                are in the " a href="/quarantine" { "quarantine" } "."
            },
        ));
    }
    Ok(empty(
        "No execution is recorded yet",
        html! { "The " a href="/" { "overview" } " shows how to send the first webhook." },
    ))
}

/// The rows of a list of executions. `in_bulk`: all belong to one bulk, so its name is not shown. `with_filter` is the URL of
/// a list with a further filter, given its name and value.
pub(super) fn table(
    hosts: &ResultHosts,
    executions: &[Execution],
    previews: &HashMap<String, Preview>,
    in_bulk: bool,
    with_filter: impl Fn(&str, &str) -> String,
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
            tbody { @for execution in executions { (row(hosts, execution, previews.get(&execution.execution_id), in_bulk, &with_filter)) } }
        }
    }
}

fn row(
    hosts: &ResultHosts,
    execution: &Execution,
    preview: Option<&Preview>,
    in_bulk: bool,
    with_filter: impl Fn(&str, &str) -> String,
) -> Markup {
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
                div.ids {
                    @if let Some(class) = &execution.failure_class { small.soft { (failure_class(class, &with_filter("class", class))) } }
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
                a.quiet.cut href=(with_filter("workflow", &execution.workflow_id)) {
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
fn pager(params: &Params, page: &Page<Execution>, is_search: bool, scan_limit: i64) -> Markup {
    let older = if is_search { "Search older executions" } else { "Older" };
    html! {
        @if is_search {
            p.soft {
                "The search reads the cause, the class, the inputs, the models and the reference of " (count(scan_limit)) " executions \
                at a time, the newest first. It does not read inputs of very large payloads."
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
