//! `workflow-receiver failures`

use clap::Args;

use super::args::{TimeArgs, choice_parser};
use super::output::{Output, note};
use super::table::{Column, execution_or_prediction, number, or_empty, prose, text, timestamp};
use super::{CommandError, query_pool};
use crate::config::Settings;
use crate::db::queries::Scope;
use crate::db::queries::failures::{By, FailureQuery, Group};
use crate::db::queries::page::MAX_LIMIT;
use crate::db::queries::reference::ReferenceFilter;

/// Arguments of `failures`.
#[derive(Debug, Args)]
pub(crate) struct Failures {
    /// Group failed executions and predictions by cause, or failed steps (also of completed executions) by step or by
    /// model
    #[arg(long, default_value = "cause", value_parser = choice_parser::<By>())]
    by: By,
    #[command(flatten)]
    scope: Scope,
    /// Only failures whose webhook URL has this query parameter, such as `order=1234`
    #[arg(long, value_name = "NAME=VALUE")]
    reference: Option<ReferenceFilter>,
    #[command(flatten)]
    time: TimeArgs,
    /// Maximum number of groups (1 to 1000)
    #[arg(long, value_name = "GROUPS", default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=MAX_LIMIT))]
    limit: i64,
    /// Print JSON as in the read API
    #[arg(long)]
    json: bool,
}

const FAILED: Column<Group> = number("failed", |g| g.failed.to_string());
const WORKFLOW: Column<Group> = text("workflow", |g| or_empty(g.workflow_id.as_ref()));
const STEP: Column<Group> = text("step", |g| or_empty(g.step_id.as_ref()));
const MODEL: Column<Group> = text("model", |g| or_empty(g.model.as_ref()));
const CLASS: Column<Group> = text("class", |g| g.failure_class.clone());
const CAUSE: Column<Group> = prose("cause", cause);
const MOST_FREQUENT: Column<Group> = prose("most frequent cause", cause);
const LATEST: Column<Group> = text("latest", |g| timestamp(g.latest_received_at));
const ID: Column<Group> = text("latest failure", |g| {
    execution_or_prediction(g.latest_execution_id.as_ref(), g.latest_prediction_id.as_ref())
});

pub(super) const CAUSES: &[Column<Group>] = &[FAILED, WORKFLOW, CLASS, CAUSE, LATEST, ID];
const STEPS: &[Column<Group>] = &[FAILED, WORKFLOW, STEP, CLASS, CAUSE, LATEST, ID];
const MODELS: &[Column<Group>] = &[FAILED, MODEL, CLASS, MOST_FREQUENT, LATEST, ID];

fn cause(group: &Group) -> String {
    or_empty(group.error_cause.as_ref().or(group.error.as_ref()))
}

impl Failures {
    pub(crate) async fn run(&self, settings: &Settings) -> Result<(), CommandError> {
        let query = FailureQuery {
            by: self.by,
            scope: self.scope.clone(),
            period: self.time.period(),
            reference: self.reference.clone(),
            limit: self.limit,
        };
        let failures = query_pool(settings)?.run(&query).await?;
        let mut output = Output::new();
        if self.json {
            output.json(&failures)?;
        } else {
            let columns = match self.by {
                By::Cause => CAUSES,
                By::Step => STEPS,
                By::Model => MODELS,
            };
            output.rows(&mut output.table(columns), &failures.groups)?;
        }
        output.flush()?;
        if let Some(since) = failures.since.filter(|_| failures.partial) {
            note(&format!(
                "These are the latest failures, since {}. For older ones, use --since and --until.",
                timestamp(since)
            ));
        }
        let shown: i64 = failures.groups.iter().map(|group| group.failed).sum();
        if shown < failures.failed {
            let hidden = failures.failed - shown;
            note(&format!("Groups that are not shown have {hidden} failures: use --limit GROUPS."));
        } else if failures.groups.is_empty() && !self.json {
            note("No failures.");
        }
        Ok(())
    }
}
