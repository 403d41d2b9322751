//! What needs an operator's attention, each item with a link.

use maud::{Markup, html};
use time::{Duration, OffsetDateTime};

use crate::db::queries::bulks::{Bulks, Complete};
use crate::db::queries::counts::{Count, Number};
use crate::db::queries::{PageRequest, QueryError, TimeRange};
use crate::http::admin::console::components::{badge, count};
use crate::http::admin::console::state::Console;

/// Incomplete bulks that are read, the newest first. Those that are probably running are not counted.
const MAX_BULKS: i64 = 100;
const OLDER_BULKS: &str = "older bulks are not counted";

/// An item of the list. To add one, add a function that returns it, and call it in [`items`].
pub(super) struct Item {
    kind: &'static str,
    number: Number,
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
    Ok(items.into_iter().filter(|item| item.number.counted > 0 || item.number.more).collect())
}

async fn quarantine(console: &Console) -> Result<Item, QueryError> {
    Ok(Item {
        kind: "bad",
        number: console.run(&Count::Quarantined).await?,
        text: ["webhook in quarantine", "webhooks in quarantine"],
        note: None,
        href: "/quarantine",
    })
}

async fn overdue_executions(console: &Console) -> Result<Item, QueryError> {
    let number = console.run(&Count::Overdue).await?;
    let text = ["execution is overdue", "executions are overdue"];
    Ok(Item { kind: "bad", number, text, note: None, href: "/expected?state=overdue" })
}

async fn incomplete_bulks(console: &Console) -> Result<Item, QueryError> {
    let page = PageRequest { limit: MAX_BULKS, after: None };
    let query = Bulks { filter: Some(Complete::No), period: TimeRange::default(), page };
    let mut page = console.run(&query).await?;
    page.items.retain(|bulk| !bulk.is_in_progress());
    Ok(Item {
        kind: "warn",
        number: Number {
            counted: i64::try_from(page.items.len()).unwrap_or(i64::MAX),
            more: page.next.is_some(),
        },
        text: ["bulk is incomplete", "bulks are incomplete"],
        note: page.next.is_some().then_some(OLDER_BULKS),
        href: "/bulks?complete=no",
    })
}

async fn conflicts(console: &Console) -> Result<Item, QueryError> {
    let number = console.run(&Count::Conflicts(OffsetDateTime::now_utc() - Duration::DAY)).await?;
    let text =
        ["webhook contradicts a recorded result (24 h)", "webhooks contradict a recorded result (24 h)"];
    Ok(Item { kind: "warn", number, text, note: None, href: "/conflicts?since=24h" })
}

async fn fetched_executions(console: &Console) -> Result<Item, QueryError> {
    let number = console.run(&Count::Fetched(OffsetDateTime::now_utc() - Duration::DAY)).await?;
    let text = [
        "fetched: its final webhook did not arrive in time (24 h)",
        "fetched: their final webhooks did not arrive in time (24 h)",
    ];
    Ok(Item { kind: "muted", number, text, note: None, href: "/executions?fetched=1&since=24h" })
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
                            (badge(item.kind, html! { (count(item.number.counted)) @if item.number.more { "+" } }))
                            " "
                            span {
                                (item.text[usize::from(item.number.counted != 1 || item.number.more)])
                                @if let Some(note) = item.note { " " small.soft { "(" (note) ")" } }
                            }
                        }
                    }
                }
            }
        }
    }
}
