//! `workflow-receiver workflows`: which cost most, failed most, or ran most.

use clap::Args;

use super::args::choice;
use super::output::{Output, note};
use super::table::{Column, number, or_empty, text};
use super::{CommandError, reader};
use crate::config::Settings;
use crate::db::queries::page::MAX_LIMIT;
use crate::db::queries::workflows::{self, MAX_DAYS, Order, Workflow};

/// Which workflows, and how they are shown.
#[derive(Debug, Args)]
pub struct Workflows {
    /// What comes first: the dearest, those that failed most, or those that ran most
    #[arg(long, default_value = "cost", value_parser = choice::<Order>())]
    by: Order,
    /// In how many of the latest days (UTC), today included, up to 366
    #[arg(long, default_value_t = workflows::DEFAULT_DAYS, value_parser = clap::value_parser!(i64).range(1..=MAX_DAYS))]
    days: i64,
    /// How many at most, up to 1000
    #[arg(long, value_name = "ROWS", default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=MAX_LIMIT))]
    limit: i64,
    /// JSON as the read API has it, one value a line
    #[arg(long)]
    json: bool,
}

const WORKFLOWS: &[Column<Workflow>] = &[
    text("workflow", |w| w.workflow_id.clone()),
    // Nothing where no webhook has named a cost.
    number("cost", |w| or_empty(w.average_cost.as_ref().map(|_| &w.total_cost.0))),
    number("on average", |w| or_empty(w.average_cost.as_ref().map(|cost| &cost.0))),
    number("executions", |w| w.counts.executions.to_string()),
    number("completed", |w| w.counts.completed.to_string()),
    number("failed", |w| w.counts.failed.to_string()),
];

impl Workflows {
    /// Shows them.
    ///
    /// # Errors
    /// What went wrong, in a sentence.
    pub async fn run(&self, settings: &Settings) -> Result<(), CommandError> {
        let &Self { days, by: order, limit, json } = self;
        let page = reader(settings)?.run(&workflows::Workflows { days, order, limit }).await?;
        let mut output = Output::new();
        if json {
            page.items.iter().try_for_each(|workflow| output.json(workflow))?;
        } else {
            output.rows(&mut output.table(WORKFLOWS), &page.items)?;
        }
        output.flush()?;
        if page.items.is_empty() {
            note("There is none.");
        }
        Ok(())
    }
}
