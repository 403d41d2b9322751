//! `workflow-receiver executions`: which there are, and one in full.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde::Serialize;

use super::args::{Form, When};
use super::output::Output;
use super::table::{Column, Table, number, or_empty, text, timestamp, timestamp_or_empty, words};
use super::{CommandError, reader};
use crate::config::Settings;
use crate::db::queries::conflicts::{self, Conflict, Conflicts};
use crate::db::queries::executions::{self, Execution, ExecutionDetail, GetExecution, Step};
use crate::db::queries::results::{self, ResultItem as Made, ResultsQuery};
use crate::db::queries::{EXCERPT_CHARS, PageRequest, QueryPool, TimeRange};

/// Which executions, and how they are shown.
#[derive(Debug, Args)]
pub struct Executions {
    /// One execution, with its steps, results and conflicts
    #[arg(value_name = "EXECUTION", conflicts_with_all = ["filter", "period"])]
    id: Option<String>,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    when: When,
    #[command(flatten)]
    form: Form,
}

#[derive(Debug, Args)]
#[group(id = "filter", multiple = true)]
struct Filter {
    /// Only those with this status: completed, failed, cancelled, running, ...
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    status: Option<String>,
    /// Only those of this workflow
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    workflow: Option<String>,
    /// Only those of this bulk
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    bulk: Option<String>,
    /// Only failed ones (or those with --status) whose cause has this text in it, in upper or lower case
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    cause: Option<String>,
}

const COLUMNS: &[Column<Execution>] = &[
    text("first received", |e| timestamp(e.first_received_at)),
    text("execution", |e| e.execution_id.clone()),
    text("workflow", |e| e.workflow_id.clone()),
    text("status", |e| e.status.clone()),
    number("seconds", |e| or_empty(e.duration_seconds.as_ref())),
    number("cost", |e| or_empty(e.total_cost.as_ref().map(|cost| &cost.0))),
    words("cause", |e| or_empty(e.error_cause.as_ref().or(e.error.as_ref()))),
];

const STEPS: &[Column<Step>] = &[
    text("step", |s| s.step_id.clone()),
    text("status", |s| or_empty(s.status.as_ref())),
    text("started", |s| or_empty(s.started_at.as_ref())),
    text("completed", |s| or_empty(s.completed_at.as_ref())),
    words("cause", |s| or_empty(s.error_cause.as_ref().or(s.error.as_ref()))),
];

const CONFLICTS: &[Column<Conflict>] = &[
    text("first received", |c| timestamp(c.first_received_at)),
    text("status", |c| c.delivered_status.clone()),
    text("differs in", |c| c.differs_in.as_ref().map(|fields| fields.join(", ")).unwrap_or_default()),
    number("deliveries", |c| c.deliveries.to_string()),
    words("cause", |c| or_empty(c.delivered_error_cause.as_ref())),
];

/// Nothing is cut, wherever it is shown: half an address leads nowhere.
pub(super) const RESULTS: &[Column<Made>] = &[
    text("execution", |r| r.execution_id.clone()),
    number("position", |r| r.position.to_string()),
    text("name", |r| or_empty(r.name.as_ref())),
    text("kind", |r| r.kind.clone()),
    text("value", |r| excerpt(r.value.as_deref().unwrap_or("null"))),
];

/// What is long is not for tables.
fn excerpt(value: &str) -> String {
    let most = usize::try_from(EXCERPT_CHARS).unwrap_or(usize::MAX);
    match value.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}

/// One execution as the API has it, with the conflicts that it counts.
#[derive(Serialize)]
struct Known {
    #[serde(flatten)]
    whole: ExecutionDetail,
    contradicted_by: Vec<Conflict>,
}

impl Executions {
    /// Shows them.
    ///
    /// # Errors
    /// What went wrong, in a sentence; also when there is no such execution.
    pub async fn run(&self, settings: &Settings) -> Result<(), CommandError> {
        let pool = reader(settings)?;
        if let Some(id) = &self.id {
            return self.one(&pool, id).await;
        }
        let Filter { status, workflow, bulk, cause } = &self.filter;
        let filter = executions::Filter {
            status: status.clone(),
            workflow: workflow.clone(),
            bulk: bulk.clone(),
            cause: cause.clone(),
        };
        let question =
            executions::Executions { filter, period: self.when.period(), page: PageRequest::default() };
        self.form.list(&pool, question, COLUMNS).await
    }

    async fn one(&self, pool: &QueryPool, id: &str) -> Result<(), CommandError> {
        let Some(mut whole) = pool.run(&GetExecution { execution_id: id.to_owned() }).await? else {
            return Err(format!("no execution {id:?} is recorded").into());
        };
        if whole.results.next.is_some() {
            let filter = results::Filter { execution: Some(id.to_owned()), ..results::Filter::default() };
            whole.results = self.form.page(pool, ResultsQuery { filter, ..ResultsQuery::default() }).await?;
        }
        let filter = conflicts::Filter { execution: Some(id.to_owned()) };
        let conflicts = Conflicts { filter, period: TimeRange::default(), page: PageRequest::default() };
        let conflicts = self.form.page(pool, conflicts).await?;
        let more = whole.results.next.is_some() || conflicts.next.is_some();
        let mut output = Output::new();
        if self.form.json {
            output.json(&Known { whole, contradicted_by: conflicts.items })?;
        } else {
            show(&mut output, &whole, &conflicts.items)?;
        }
        output.flush()?;
        if more {
            self.form.more();
        }
        Ok(())
    }
}

fn show(output: &mut Output, whole: &ExecutionDetail, conflicts: &[Conflict]) -> std::io::Result<()> {
    let ExecutionDetail { execution: e, steps, results, payload, payload_text, payload_removed_at, .. } =
        whole;
    let bytes = payload_text.as_ref().or(payload.as_ref().map(|payload| &payload.0)).map(String::len);
    let too_large = if whole.omitted.is_empty() {
        String::new()
    } else {
        "too large to be shown here: psql shows it".to_owned()
    };
    output.key_values(&[
        ("execution", e.execution_id.clone()),
        ("workflow", e.workflow_id.clone()),
        ("bulk", or_empty(e.bulk_id.as_ref())),
        ("status", e.status.clone()),
        ("error", or_empty(e.error.as_ref())),
        ("cause", or_empty(e.error_cause.as_ref())),
        ("cost", or_empty(e.total_cost.as_ref().map(|cost| &cost.0))),
        ("started", timestamp_or_empty(e.started_at)),
        ("completed", timestamp_or_empty(e.completed_at)),
        ("seconds", or_empty(e.duration_seconds.as_ref())),
        ("first received", timestamp(e.first_received_at)),
        ("last received", timestamp(e.last_received_at)),
        ("deliveries", e.deliveries.to_string()),
        ("authenticated by", or_empty(e.authenticated_by.as_ref())),
        ("payload", bytes.map_or(too_large, |bytes| format!("{bytes} bytes: --json shows it"))),
        ("payload removed", timestamp_or_empty(*payload_removed_at)),
    ])?;
    output.section("Steps", output.table(STEPS), steps)?;
    output.section("Results", Table::new(RESULTS, None), &results.items)?;
    output.section("Contradicted by", output.table(CONFLICTS), conflicts)
}
