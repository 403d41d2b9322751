//! The failed steps of the period, by model.

use maud::{Markup, html};

use super::Period;
use crate::db::queries::Choice;
use crate::db::queries::failed_models::{FailedModel, FailedModels};
use crate::http::admin::console::components::{ago, count};
use crate::http::admin::console::failure_class::failure_class;
use crate::http::admin::console::params::filtered;
use crate::http::admin::console::text::{excerpt, visible};

/// Models that are shown.
const ROWS: usize = 6;
/// Models that are read: one more shows that there are others.
pub(super) const LIMIT: i64 = 7;
/// Characters of a cause.
const CAUSE_CHARS: usize = 160;

/// A card. Nothing if no step with a model has failed.
pub(super) fn card(failed: &FailedModels, period: Period) -> Markup {
    html! {
        @if !failed.models.is_empty() {
            section.card.flush {
                div.head {
                    h2 { "Failures by model" }
                    small.soft { "Failed steps, also of executions that completed" }
                }
                @if failed.is_partial {
                    p.note.soft { small { "Only the latest executions with a failed step are counted here." } }
                }
                table.rows {
                    thead { tr { th { "Model" } th.num { "Failed steps" } th { "Most frequent cause" } th { "At fault" } th { "Latest" } } }
                    tbody { @for model in failed.models.iter().take(ROWS) { (row(model, period)) } }
                }
                @if failed.models.len() > ROWS { p.note.soft { small { "Models with fewer failed steps are not shown." } } }
            }
        }
    }
}

fn row(model: &FailedModel, period: Period) -> Markup {
    let filter = |name: &str, value: &str| {
        filtered("/executions", [(name, Some(value)), ("since", Some(period.as_str()))])
    };
    let cause = model.error_cause.as_deref().or(model.error.as_deref());
    let (cause, more) = excerpt(cause.unwrap_or("no cause was sent"), CAUSE_CHARS);
    html! {
        tr data-row {
            td { a.row-link.cut href=(filter("model", &model.model)) { (visible(&model.model)) } }
            td.num data-label="Failed steps" { (count(model.all_failed)) }
            td.main {
                span.cut { (visible(cause)) @if more { "\u{2026}" } }
                @if model.failed < model.all_failed { small.soft { (count(model.failed)) " of " (count(model.all_failed)) } }
            }
            td { small { (failure_class(&model.failure_class, &filter("class", &model.failure_class))) } }
            td.time data-label="Latest" { (ago(model.latest_received_at)) }
        }
    }
}
