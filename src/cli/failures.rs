//! `workflow-receiver failures`: what failed how often, and why.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::args::{When, choice};
use super::output::{Output, note};
use super::table::{Column, number, or_empty, text, timestamp, words};
use super::{CommandError, reader};
use crate::config::Settings;
use crate::db::queries::failures::{By, FailureQuery, Filter, Group};
use crate::db::queries::page::MAX_LIMIT;

/// Whose failures, and how they are shown.
#[derive(Debug, Args)]
pub struct Failures {
    /// What is grouped: failed executions by their cause, or failed steps, also those of completed executions
    #[arg(long, default_value = "cause", value_parser = choice::<By>())]
    by: By,
    /// Only those of this workflow
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    workflow: Option<String>,
    /// Only those of this bulk
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    bulk: Option<String>,
    #[command(flatten)]
    when: When,
    /// How many groups at most, up to 1000
    #[arg(long, value_name = "GROUPS", default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=MAX_LIMIT))]
    limit: i64,
    /// JSON as the read API has it
    #[arg(long)]
    json: bool,
}

pub(super) const CAUSES: &[Column<Group>] = &[
    number("failed", |g| g.failed.to_string()),
    text("workflow", |g| g.workflow_id.clone()),
    words("cause", cause),
    text("latest", |g| timestamp(g.latest_received_at)),
    text("latest execution", |g| g.latest_execution_id.clone()),
];

const STEPS: &[Column<Group>] = &[
    number("failed", |g| g.failed.to_string()),
    text("workflow", |g| g.workflow_id.clone()),
    text("step", |g| or_empty(g.step_id.as_ref())),
    words("cause", cause),
    text("latest", |g| timestamp(g.latest_received_at)),
    text("latest execution", |g| g.latest_execution_id.clone()),
];

fn cause(group: &Group) -> String {
    or_empty(group.error_cause.as_ref().or(group.error.as_ref()))
}

impl Failures {
    /// Shows them.
    ///
    /// # Errors
    /// What went wrong, in a sentence.
    pub async fn run(&self, settings: &Settings) -> Result<(), CommandError> {
        let filter = Filter { workflow: self.workflow.clone(), bulk: self.bulk.clone() };
        let grouped = FailureQuery { by: self.by, filter, period: self.when.period(), limit: self.limit };
        let failures = reader(settings)?.run(&grouped).await?;
        let mut output = Output::new();
        if self.json {
            output.json(&failures)?;
        } else {
            let columns = match self.by {
                By::Cause => CAUSES,
                By::Step => STEPS,
            };
            output.rows(&mut output.table(columns), &failures.groups)?;
        }
        output.flush()?;
        if let Some(since) = failures.since.filter(|_| !failures.complete) {
            let since = timestamp(since);
            note(&format!(
                "There are too many to group all: these are the latest, since {since}. --since and \
                             --until choose others."
            ));
        }
        let shown: i64 = failures.groups.iter().map(|group| group.failed).sum();
        if shown < failures.failed {
            note(&format!(
                "{} more are in other groups: --limit GROUPS shows these.",
                failures.failed - shown
            ));
        } else if failures.groups.is_empty() && !self.json {
            note("Nothing failed.");
        }
        Ok(())
    }
}
