//! The failed steps of the period, by model.

use maud::{Markup, html};

use super::Period;
use crate::db::queries::Choice;
use crate::db::queries::failures::{Failures, Group};
use crate::http::admin::console::components::{ago, count};
use crate::http::admin::console::failure_class::failure_class;
use crate::http::admin::console::params::filtered;
use crate::http::admin::console::text::{excerpt, visible};

/// Models that are shown.
const ROWS: usize = 6;
/// Groups that are read: one can be of steps without a model, and one more shows that there are others.
pub(super) const LIMIT: i64 = 8;
/// Characters of a cause.
const CAUSE_CHARS: usize = 160;

/// A card. Nothing if no step with a model has failed.
pub(super) fn card(failures: &Failures, period: Period) -> Markup {
    let models: Vec<_> =
        failures.groups.iter().filter_map(|group| Some((group.model.as_deref()?, group))).collect();
    html! {
        @if !models.is_empty() {
            section.card.flush {
                div.head {
                    h2 { "Failures by model" }
                    small.soft { "Failed steps, also of executions that completed" }
                }
                @if failures.partial {
                    p.note.soft { small { "Only the latest executions with a failed step are counted here." } }
                }
                table.rows {
                    thead { tr { th { "Model" } th.num { "Failed steps" } th { "Most frequent cause" } th { "At fault" } th { "Latest" } } }
                    tbody { @for (model, group) in models.iter().take(ROWS) { (row(model, group, period)) } }
                }
                @if models.len() > ROWS { p.note.soft { small { "Models with fewer failed steps are not shown." } } }
            }
        }
    }
}

fn row(model: &str, group: &Group, period: Period) -> Markup {
    let filter = |name: &str, value: &str| {
        filtered("/executions", [(name, Some(value)), ("since", Some(period.as_str()))])
    };
    let cause = group.error_cause.as_deref().or(group.error.as_deref());
    let (cause, more) = excerpt(cause.unwrap_or("no cause was sent"), CAUSE_CHARS);
    html! {
        tr data-row {
            td { a.row-link.cut href=(filter("model", model)) { (visible(model)) } }
            td.num data-label="Failed steps" { (count(group.failed)) }
            td.main {
                span.cut { (visible(cause)) @if more { "\u{2026}" } }
                @if group.with_cause < group.failed { small.soft { (count(group.with_cause)) " of " (count(group.failed)) } }
            }
            td { small { (failure_class(&group.failure_class, &filter("class", &group.failure_class))) } }
            td.time data-label="Latest" { (ago(group.latest_received_at)) }
        }
    }
}
