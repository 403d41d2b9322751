//! What needs an operator's attention, each item with a link.

use maud::{Markup, html};
use time::{Duration, OffsetDateTime};

use crate::db::queries::bulks::{Bulks, Complete};
use crate::db::queries::conflicts::Conflicts;
use crate::db::queries::executions::{self, Executions};
use crate::db::queries::expected::{self, ExpectedQuery, ExpectedState};
use crate::db::queries::quarantine::Quarantine;
use crate::db::queries::{Page, PageRequest, QueryError, TimeRange};
use crate::http::admin::console::components::{badge, count};
use crate::http::admin::console::state::Console;

/// Rows that are counted. More are shown as `20+`.
const MAX_COUNTED: i64 = 20;

/// Incomplete bulks that are read, the newest first. Those that are probably still running are not counted.
const MAX_BULKS: i64 = 100;
const OLDER_BULKS: &str = "older bulks are not counted";

/// An item of the list. To add one, add a function that returns it, and call it in [`items`].
pub(super) struct Item {
    kind: &'static str,
    /// The number and whether there are more.
    number: (i64, bool),
    /// The text after the number 1, and after any other number.
    text: [&'static str; 2],
    /// What the number does not contain.
    note: Option<&'static str>,
    href: &'static str,
}

/// The items with at least one row.
pub(super) async fn items(console: &Console) -> Result<Vec<Item>, QueryError> {
    let (quarantine, overdue, bulks, conflicts, fetched) = tokio::join!(
        quarantine(console),
        overdue_executions(console),
        incomplete_bulks(console),
        conflicts(console),
        fetched_executions(console)
    );
    let items = [quarantine?, overdue?, bulks?, conflicts?, fetched?];
    Ok(items.into_iter().filter(|item| item.number != (0, false)).collect())
}

async fn quarantine(console: &Console) -> Result<Item, QueryError> {
    let page = console.run(&Quarantine { page: first_rows(), ..Quarantine::default() }).await?;
    Ok(Item {
        kind: "bad",
        number: counted(&page),
        text: ["webhook in quarantine", "webhooks in quarantine"],
        note: None,
        href: "/quarantine",
    })
}

async fn overdue_executions(console: &Console) -> Result<Item, QueryError> {
    let filter = expected::Filter { state: Some(ExpectedState::Overdue), ..expected::Filter::default() };
    let page = console.run(&ExpectedQuery { filter, page: first_rows() }).await?;
    let text = ["execution is overdue", "executions are overdue"];
    Ok(Item { kind: "bad", number: counted(&page), text, note: None, href: "/expected?state=overdue" })
}

async fn incomplete_bulks(console: &Console) -> Result<Item, QueryError> {
    let page = PageRequest { limit: MAX_BULKS, after: None };
    let query = Bulks { filter: Some(Complete::No), period: TimeRange::default(), page };
    let mut page = console.run(&query).await?;
    page.items.retain(|bulk| !bulk.is_waiting());
    Ok(Item {
        kind: "warn",
        number: counted(&page),
        text: ["bulk is incomplete", "bulks are incomplete"],
        note: page.next.is_some().then_some(OLDER_BULKS),
        href: "/bulks?complete=no",
    })
}

async fn conflicts(console: &Console) -> Result<Item, QueryError> {
    let from = OffsetDateTime::now_utc() - Duration::DAY;
    let period = TimeRange { from: Some(from), to: None };
    let page = console.run(&Conflicts { period, page: first_rows(), ..Conflicts::default() }).await?;
    let text =
        ["webhook contradicts a recorded result (24 h)", "webhooks contradict a recorded result (24 h)"];
    Ok(Item { kind: "warn", number: counted(&page), text, note: None, href: "/conflicts?since=24h" })
}

async fn fetched_executions(console: &Console) -> Result<Item, QueryError> {
    let from = OffsetDateTime::now_utc() - Duration::DAY;
    let filter = executions::Filter { fetched: true, ..executions::Filter::default() };
    let period = TimeRange { from: Some(from), to: None };
    let page = console.run(&Executions { filter, period, page: first_rows() }).await?;
    let text = [
        "fetched: its final webhook did not arrive in time (24 h)",
        "fetched: their final webhooks did not arrive in time (24 h)",
    ];
    let number = counted(&page);
    Ok(Item { kind: "muted", number, text, note: None, href: "/executions?fetched=1&since=24h" })
}

fn first_rows() -> PageRequest {
    PageRequest { limit: MAX_COUNTED, after: None }
}

fn counted<T>(page: &Page<T>) -> (i64, bool) {
    (i64::try_from(page.items.len()).unwrap_or(i64::MAX), page.next.is_some())
}

pub(super) fn list(items: &[Item]) -> Markup {
    html! {
        @if items.is_empty() {
            p.soft { "Nothing needs attention." }
        } @else {
            ul.attention {
                @for item in items {
                    li {
                        a href=(item.href) {
                            (badge(item.kind, html! { (count(item.number.0)) @if item.number.1 { "+" } }))
                            " "
                            span {
                                (item.text[usize::from(item.number != (1, false))])
                                @if let Some(note) = item.note { " " small.soft { "(" (note) ")" } }
                            }
                        }
                    }
                }
            }
        }
    }
}
