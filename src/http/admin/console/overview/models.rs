//! The failed steps of the period, by model.

use std::cmp::Reverse;

use maud::{Markup, html};

use super::Period;
use crate::db::queries::Choice;
use crate::db::queries::failures::{Failures, Group};
use crate::http::admin::console::components::{ago, count};
use crate::http::admin::console::failure_class::failure_class;
use crate::http::admin::console::params::{filtered, path};
use crate::http::admin::console::text::{excerpt, visible};

/// Models that are shown.
const ROWS: usize = 6;
/// Characters of a cause.
const CAUSE_CHARS: usize = 160;

/// The failed steps of a model.
struct Model<'f> {
    name: &'f str,
    failed: i64,
    /// The most frequent cause.
    main: &'f Group,
    latest: &'f Group,
}

/// The models, those with the most failed steps first. `groups` are the causes of each model, the most frequent first.
fn models(groups: &[Group]) -> Vec<Model<'_>> {
    let mut models: Vec<Model<'_>> = Vec::new();
    for group in groups {
        let Some(name) = group.model.as_deref() else { continue };
        match models.iter_mut().find(|model| model.name == name) {
            None => models.push(Model { name, failed: group.failed, main: group, latest: group }),
            Some(model) => {
                model.failed += group.failed;
                if group.latest_received_at > model.latest.latest_received_at {
                    model.latest = group;
                }
            }
        }
    }
    models.sort_by_key(|model| Reverse(model.failed));
    models
}

/// A card. Nothing if no step with a model has failed.
pub(super) fn card(failures: &Failures, period: Period) -> Markup {
    let models = models(&failures.groups);
    let (shown, others) = models.split_at(models.len().min(ROWS));
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
                    tbody { @for model in shown { (row(model, period)) } }
                }
                @if !others.is_empty() { p.note.soft { small { "and " (others.len()) " more models" } } }
            }
        }
    }
}

fn row(model: &Model<'_>, period: Period) -> Markup {
    let filter = |name: &str, value: &str| {
        filtered("/executions", [(name, Some(value)), ("since", Some(period.as_str()))])
    };
    let cause = model.main.error_cause.as_deref().or(model.main.error.as_deref());
    let (cause, more) = excerpt(cause.unwrap_or("no cause was sent"), CAUSE_CHARS);
    let latest = path("executions", model.latest.latest_execution_id.as_deref().unwrap_or_default());
    html! {
        tr data-row {
            td { a.row-link.cut href=(filter("model", model.name)) { (visible(model.name)) } }
            td.num data-label="Failed steps" { (count(model.failed)) }
            td.main {
                span.cut { (visible(cause)) @if more { "\u{2026}" } }
                @if model.main.failed < model.failed { small.soft { (count(model.main.failed)) " of " (count(model.failed)) } }
            }
            td { small { (failure_class(&model.main.failure_class, &filter("class", &model.main.failure_class))) } }
            td.time data-label="Latest" { a href=(latest) { (ago(model.latest.latest_received_at)) } }
        }
    }
}
