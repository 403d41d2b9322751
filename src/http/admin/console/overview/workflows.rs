//! The workflows of the period, by cost.

use maud::{Markup, html};

use super::Period;
use crate::db::queries::Choice;
use crate::db::queries::workflows::Workflow;
use crate::http::admin::console::components::{bar, count, percent};
use crate::http::admin::console::params::filtered;
use crate::http::admin::console::text::visible;
use crate::http::admin::console::units;

pub(super) fn table(workflows: &[Workflow], period: Period) -> Markup {
    // The costs are counted by day, in UTC.
    let since = if period.days() == 1 { "today" } else { period.as_str() };
    html! {
        @if workflows.is_empty() {
            div.empty { p { "No executions in this period." } }
        } @else {
            table.rows {
                thead { tr {
                    th { "Workflow" } th.num { "Cost" } th.num { "Average" } th.num { "Executions" } th.num { "Failed" } th {}
                } }
                tbody {
                    @for workflow in workflows {
                        @let counts = &workflow.counts;
                        tr data-row {
                            td.main {
                                a.row-link.cut href=(filtered("/executions", [("workflow", Some(&*workflow.workflow_id)), ("since", Some(since))])) {
                                    (visible(&workflow.workflow_id))
                                }
                            }
                            td.num data-label="Cost" { @if workflow.executions_with_cost > 0 { (units::cost(&workflow.total_cost.0)) } }
                            td.num data-label="Average" { @if let Some(cost) = &workflow.average_cost { (units::cost(&cost.0)) } }
                            td.num data-label="Executions" { (count(counts.executions)) }
                            td.num data-label="Failed" {
                                (count(counts.failed))
                                @if let Some(rate) = counts.failure_rate.filter(|rate| *rate > 0.0) { small.soft { " " (percent(rate)) } }
                            }
                            td.wide {
                                (bar(
                                    &[("ok", counts.completed), ("bad", counts.failed), ("muted", counts.cancelled), ("run", counts.other)],
                                    counts.executions,
                                    "Executions by status",
                                ))
                            }
                        }
                    }
                }
            }
            p.note.soft { small { "The average is that of the executions with a cost. Running executions have no cost yet." } }
        }
    }
}
