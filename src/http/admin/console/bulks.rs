//! `/bulks`: bulks with their progress.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use super::components::{ago, badge, bar, chip, count, empty, notice, plural};
use super::layout::{self, PageError, Tab};
use super::next_page::next_page;
use super::params::{Params, filtered, path};
use super::state::{Console, ConsoleState};
use super::text::visible;
use super::view::View;
use crate::db::queries::bulks::{Bulk, Bulks, Complete};
use crate::db::queries::changes::LastChange;
use crate::db::queries::lookup::{Table, WithPrefix};
use crate::db::queries::{Choice, TimeRange};

/// Bulks that a search by the beginning of the identifier shows.
const MAX_FOUND: i64 = 20;

pub(super) async fn page(State(console): ConsoleState, view: View) -> Response {
    let params = Params::of(&view.uri);
    let found = match params.get("open") {
        Some(prefix) => {
            let (table, prefix) = (Table::Bulks, prefix.to_owned());
            console.run(&WithPrefix { table, prefix, limit: MAX_FOUND + 1 }).await
        }
        None => Ok(Vec::new()),
    };
    match found {
        Ok(found) => {
            // The first one is the shortest: the whole identifier.
            let opened =
                found.first().filter(|first| found.len() == 1 || Some(&***first) == params.get("open"));
            if let Some(id) = opened {
                return (StatusCode::SEE_OTHER, [(header::LOCATION, path("bulks", id))]).into_response();
            }
            layout::page(&view, Tab::Bulks, "Bulks", content(&console, &params, &found).await)
        }
        Err(error) => layout::page(&view, Tab::Bulks, "Bulks", Err(error.into())),
    }
}

/// `found` are the bulks whose identifier begins with the text of the search.
async fn content(console: &Console, params: &Params, found: &[String]) -> Result<Markup, PageError> {
    let complete = params.get("complete").and_then(Complete::named);
    let list = match params.period() {
        Ok(period) => list(console, params, complete, period).await?,
        Err(error) => notice("bad", visible(&error)),
    };
    Ok(html! {
        div.head { h1 { "Bulks" } a.button href="/expected" { "Expected executions" } }
        form.search role="search" action="/bulks" {
            input type="search" name="open" value=[params.get("open")] aria-label="Open a bulk by its id" placeholder="Open a bulk by its id, or by its first characters"
                autocomplete="off" spellcheck="false" required;
            button { "Open" }
        }
        @if let Some(id) = params.get("open") {
            (search_result(id, found))
        }
        div.chips role="group" aria-label="Completeness" {
            (chip(&params.with(&[("complete", None), ("open", None)]), "All", complete.is_none()))
            @for (value, name) in [(Complete::No, "Incomplete"), (Complete::Yes, "Complete"), (Complete::Unknown, "Size not set")] {
                (chip(&params.with(&[("complete", Some(value.as_str())), ("open", None)]), name, complete == Some(value)))
            }
        }
        (list)
    })
}

fn search_result(text: &str, found: &[String]) -> Markup {
    if found.is_empty() {
        return notice(
            "warn",
            html! { "No bulk has an id that begins with " span.id { (visible(text)) } "." },
        );
    }
    let shown = usize::try_from(MAX_FOUND).unwrap_or(usize::MAX);
    notice(
        "info",
        html! {
            "Bulks whose id begins with " span.id { (visible(text)) } ":"
            ul { @for id in found.iter().take(shown) { li.id { a href=(path("bulks", id)) { (visible(id)) } } } }
            @if found.len() > shown { "There are more." }
        },
    )
}

async fn list(
    console: &Console,
    params: &Params,
    filter: Option<Complete>,
    period: TimeRange,
) -> Result<Markup, PageError> {
    let last_change = console.run(&LastChange).await?;
    let page = params.page::<Bulks>(&filter);
    let page = console.run(&Bulks { filter, period, page }).await?;
    Ok(html! {
        section.card.flush aria-label="Bulks" data-after=(last_change) {
            @if page.items.is_empty() { (no_rows(filter, page.next.is_some())) }
            @else { (table(&page.items)) }
        }
        (next_page(params, page.next.as_deref(), "Older"))
    })
}

fn no_rows(complete: Option<Complete>, has_more: bool) -> Markup {
    match complete {
        _ if has_more => empty(
            "No match yet",
            html! { "Older bulks were not searched yet: use " em { "Older" } " below." },
        ),
        Some(Complete::No) => {
            empty("No bulk is incomplete", html! { "All bulks with a known size are complete." })
        }
        Some(_) => empty("No bulk matches", html! { a href="/bulks" { "Show all bulks" } "." }),
        None => empty(
            "No bulk is recorded yet",
            html! { "Executions of one bulk-trigger call have the same " code { "bulk_id" } ". Their progress is shown here \
            as soon as the first webhook of the bulk is recorded." },
        ),
    }
}

fn table(bulks: &[Bulk]) -> Markup {
    html! {
        table.rows.bulks {
            thead {
                tr {
                    th scope="col" { "Bulk" }
                    th scope="col" { "Progress" }
                    th.num scope="col" { "Received" }
                    th scope="col" { "Latest change" }
                }
            }
            tbody {
                @for bulk in bulks {
                    tr data-row {
                        td.main { a.row-link.cut href=(path("bulks", &bulk.bulk_id)) { (visible(&bulk.bulk_id)) } }
                        td.progress data-live={ "progress " (bulk.bulk_id) } { (progress(bulk)) }
                        td.num data-label="Received" data-live={ "received " (bulk.bulk_id) } { (received(bulk)) }
                        td.time data-label="Latest change" data-live={ "latest " (bulk.bulk_id) } { @if let Some(at) = bulk.last_received_at { (ago(at)) } }
                    }
                }
            }
        }
    }
}

/// `117 of 120`, and on a second line `2 of 122 inputs rejected`.
pub(super) fn received(bulk: &Bulk) -> Markup {
    html! {
        (count(bulk.received.into()))
        @if let Some(expected) = bulk.expected { " of " (count(expected.into())) }
        @if let Some(rejected) = bulk.rejected.filter(|rejected| *rejected > 0) {
            @let inputs = i64::from(bulk.expected.unwrap_or_default()) + i64::from(rejected);
            " "
            br;
            small.nowrap {
                (count(rejected.into())) " of " (plural(inputs, "input", "inputs")) " "
                a href=(filtered("/expected", [("state", Some("rejected")), ("bulk", Some(&*bulk.bulk_id))])) { "rejected" }
            }
        }
    }
}

/// The state of a bulk as a badge, and the reasons in words.
pub(super) fn state(bulk: &Bulk) -> Markup {
    let mut reasons = if bulk.complete.is_some() { bulk.reasons(count) } else { Vec::new() };
    if bulk.complete == Some(true) && bulk.failed > 0 {
        reasons.push(format!("{} failed", count(bulk.failed.into())));
    }
    let (kind, name) = match bulk.complete {
        Some(true) if bulk.not_received() < 0 => ("warn", "complete"),
        Some(true) => ("ok", "complete"),
        Some(false) if bulk.is_in_progress() => ("run", "in progress"),
        Some(false) => ("warn", "incomplete"),
        None => ("muted", "size not set"),
    };
    html! { (badge(kind, html! { (name) })) " " span.reasons { (reasons.join(", ")) } }
}

/// The bar with its legend.
pub(super) fn progress(bulk: &Bulk) -> Markup {
    let parts = [
        ("ok", i64::from(bulk.completed), "completed"),
        ("bad", i64::from(bulk.failed), "failed"),
        ("muted", i64::from(bulk.cancelled), "cancelled"),
        ("run", i64::from(bulk.other), "running"),
    ];
    let total = bulk.expected.map_or(0, i64::from).max(i64::from(bulk.received));
    let words: Vec<_> = parts
        .iter()
        .filter(|(_, count, _)| *count > 0)
        .map(|(_, number, name)| format!("{} {name}", count(*number)))
        .collect();
    let label = format!("{}, of {}", words.join(", "), plural(total, "execution", "executions"));
    let not_received = bulk.not_received();
    html! {
        div.state-line { (state(bulk)) }
        (bar(&parts.map(|(kind, count, _)| (kind, count)), total, &label))
        ul.legend {
            @for (kind, number, name) in parts {
                @if number > 0 { li.(kind) { span.dot {} (count(number)) " " (name) } }
            }
            @if not_received > 0 { li.missing { span.dot {} (count(not_received)) " not received" } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(expected: Option<i32>, completed: i32, failed: i32, other: i32) -> Bulk {
        let received = completed + failed + other;
        Bulk::sample(
            expected,
            expected.map(|expected| completed + failed >= expected),
            [received, completed, failed, other],
        )
    }

    fn text(bulk: &Bulk) -> String {
        let html = state(bulk).into_string();
        let mut text = String::new();
        let mut in_tag = false;
        for character in html.chars() {
            match character {
                '<' => in_tag = true,
                '>' => in_tag = false,
                character if !in_tag => text.push(character),
                _ => {}
            }
        }
        text.trim().to_owned()
    }

    #[test]
    fn the_state_of_a_bulk_says_why_it_is_incomplete() {
        let changed = |change: &dyn Fn(&mut Bulk)| {
            let mut bulk = bulk(Some(10), 6, 0, 0);
            change(&mut bulk);
            bulk
        };
        for (bulk, expected) in [
            (bulk(Some(10), 10, 0, 0), "complete"),
            (bulk(Some(10), 6, 1, 3), "incomplete 3 running"),
            (bulk(Some(10), 5, 0, 2), "incomplete 5 missing: 3 not received, 2 running"),
            (
                changed(&|bulk| (bulk.received, bulk.other, bulk.missing) = (11, 1, Some(1))),
                "incomplete 1 missing, 1 more than expected, 1 running",
            ),
            (bulk(Some(100), 117, 0, 0), "complete 17 more than expected"),
            (bulk(Some(10), 8, 2, 0), "complete 2 failed"),
            (bulk(None, 2, 0, 1), "size not set"),
            (changed(&|bulk| bulk.seconds_since_last = Some(60)), "in progress 4 missing"),
            (changed(&|bulk| bulk.seconds_since_last = Some(7_200)), "incomplete 4 missing"),
            (changed(&|bulk| bulk.rejected = Some(0)), "in progress 4 missing"),
            (changed(&|bulk| (bulk.rejected, bulk.has_overdue) = (Some(0), true)), "incomplete 4 missing"),
        ] {
            assert_eq!(text(&bulk), expected);
        }
    }
}
