//! `workflow-receiver workflows`

use clap::Args;

use super::args::choice_parser;
use super::output::print_items;
use super::table::{Column, number, or_empty, text};
use super::{CommandError, query_pool};
use crate::config::Settings;
use crate::db::queries::page::MAX_LIMIT;
use crate::db::queries::workflows::{self, MAX_DAYS, Order, Workflow};
use crate::words::cost;

/// Arguments of `workflows`.
#[derive(Debug, Args)]
pub(crate) struct Workflows {
    /// Sort by total cost, failed executions, or executions; highest first
    #[arg(long, default_value = "cost", value_parser = choice_parser::<Order>())]
    by: Order,
    /// Number of days (UTC), today included (1 to 366)
    #[arg(long, default_value_t = workflows::DEFAULT_DAYS, value_parser = clap::value_parser!(i64).range(1..=MAX_DAYS))]
    days: i64,
    /// Maximum number of workflows (1 to 1000)
    #[arg(long, value_name = "ROWS", default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=MAX_LIMIT))]
    limit: i64,
    /// Print JSON as in the read API, one value per line
    #[arg(long)]
    json: bool,
}

const WORKFLOWS: &[Column<Workflow>] = &[
    text("workflow", |w| w.workflow_id.clone()),
    // Empty if no webhook contained a cost.
    number("total cost", |w| or_empty(w.average_cost.as_ref().map(|_| cost(&w.total_cost.0)).as_ref())),
    number("average cost", |w| or_empty(w.average_cost.as_ref().map(|average| cost(&average.0)).as_ref())),
    number("executions", |w| w.counts.executions.to_string()),
    number("completed", |w| w.counts.completed.to_string()),
    number("failed", |w| w.counts.failed.to_string()),
];

impl Workflows {
    pub(crate) async fn run(&self, settings: &Settings) -> Result<(), CommandError> {
        let &Self { days, by: order, limit, json } = self;
        let page = query_pool(settings)?.run(&workflows::Workflows { days, order, limit }).await?;
        print_items(json, WORKFLOWS, &page.items)
    }
}
