//! `workflow-receiver executions`

use clap::Args;
use serde::Serialize;

use super::args::{ListArgs, note_partial};
use super::output::Output;
use super::results::RESULTS;
use super::table::{Column, Table, number, optional, or_empty, prose, text, timestamp, timestamp_or_empty};
use super::{CommandError, query_pool};
use crate::config::Settings;
use crate::db::queries::QueryPool;
use crate::db::queries::conflicts::{self, Conflict, Conflicts};
use crate::db::queries::executions::{Execution, ExecutionDetail, Filter, GetExecution, Step};
use crate::db::queries::reference::Reference;
use crate::db::queries::results::ResultsQuery;
use crate::db::queries::status::check_status;

/// Arguments of `executions`.
#[derive(Debug, Args)]
pub(crate) struct Executions {
    /// Show this execution with its steps, results and conflicts
    #[arg(value_name = "EXECUTION", conflicts_with_all = ["status", "cause", "reference", "scope", "period"])]
    id: Option<String>,
    #[command(flatten)]
    list: ListArgs<Filter>,
}

const EXECUTIONS: &[Column<Execution>] = &[
    text("first received", |e| timestamp(e.first_received_at)),
    text("execution", |e| e.execution_id.clone()),
    text("workflow", |e| e.workflow_id.clone()),
    text("status", |e| e.status.clone()),
    number("seconds", |e| or_empty(e.duration_seconds.as_ref())),
    number("cost", |e| or_empty(e.total_cost.as_ref().map(|cost| &cost.0))),
    optional("reference", |e| e.reference.as_ref().map(Reference::to_line).unwrap_or_default()),
    prose("cause", |e| or_empty(e.error_cause.as_ref().or(e.error.as_ref()))),
];

const STEPS: &[Column<Step>] = &[
    text("step", |s| s.step_id.clone()),
    text("status", |s| or_empty(s.status.as_ref())),
    text("model", |s| or_empty(s.model.as_ref())),
    optional("version", |s| or_empty(s.model_version.as_ref())),
    number("seconds", |s| or_empty(s.duration_seconds.as_ref())),
    text("fallback", |s| if s.is_fallback { "yes" } else { "" }.to_owned()),
    prose("cause", |s| or_empty(s.error_cause.as_ref().or(s.error.as_ref()).or(s.first_error.as_ref()))),
];

const CONFLICTS: &[Column<Conflict>] = &[
    text("first received", |c| timestamp(c.first_received_at)),
    text("status", |c| c.delivered_status.clone()),
    text("differs in", |c| c.differs_in.as_ref().map(|fields| fields.join(", ")).unwrap_or_default()),
    number("deliveries", |c| c.deliveries.to_string()),
    prose("cause", |c| or_empty(c.delivered_error_cause.as_ref())),
];

/// An execution as in the read API, with its conflicts.
#[derive(Serialize)]
struct ExecutionJson {
    #[serde(flatten)]
    execution: ExecutionDetail,
    contradicted_by: Vec<Conflict>,
}

impl Executions {
    /// # Errors
    /// If PostgreSQL does not answer, or the execution is not recorded.
    pub(crate) async fn run(&self, settings: &Settings) -> Result<(), CommandError> {
        let pool = query_pool(settings)?;
        if let Some(id) = &self.id {
            return self.show(&pool, id).await;
        }
        let query = self.list.listing();
        check_status(&pool, query.filter.status.as_deref())
            .await?
            .map_err(|why| format!("--status {why}"))?;
        self.list.output.print_list(&pool, query, EXECUTIONS).await
    }

    async fn show(&self, pool: &QueryPool, id: &str) -> Result<(), CommandError> {
        let Some(mut execution) = pool.run(&GetExecution { execution_id: id.to_owned() }).await? else {
            return Err(format!(
                "execution {id:?} is not recorded. If its webhook was answered 200, it may still be in the spool: see \
                 `workflow-receiver status`. If it was answered 422: see `workflow-receiver quarantine list`"
            )
            .into());
        };
        if execution.results.next.is_some() {
            execution.results = self.list.output.read_list(pool, ResultsQuery::of_execution(id)).await?;
        }
        let filter = conflicts::Filter { execution: Some(id.to_owned()) };
        let conflicts = Conflicts { filter, ..Conflicts::default() };
        let conflicts = self.list.output.read_list(pool, conflicts).await?;
        let more = execution.results.next.is_some() || conflicts.next.is_some();
        let is_partial = execution.results.items.iter().any(|result| result.is_partial);
        let mut output = Output::new();
        if self.list.output.json {
            output.json(&ExecutionJson { execution, contradicted_by: conflicts.items })?;
        } else {
            print(&mut output, &execution, &conflicts.items)?;
        }
        output.flush()?;
        if more {
            self.list.output.note_more();
        }
        if is_partial {
            note_partial();
        }
        Ok(())
    }
}

fn print(output: &mut Output, detail: &ExecutionDetail, conflicts: &[Conflict]) -> std::io::Result<()> {
    let ExecutionDetail { execution: e, steps, results, payload, payload_text, payload_removed_at, .. } =
        detail;
    let bytes = payload_text.as_ref().or(payload.as_ref().map(|payload| &payload.0)).map(String::len);
    let omitted = if detail.omitted.is_empty() { "" } else { "too large: use psql" };
    output.key_values(&[
        ("execution", e.execution_id.clone()),
        ("workflow", e.workflow_id.clone()),
        ("version", or_empty(detail.version_id.as_ref())),
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
        ("redeliveries", e.redeliveries.to_string()),
        ("reference", e.reference.as_ref().map(Reference::to_line).unwrap_or_default()),
        ("authenticated by", or_empty(e.authenticated_by.as_ref())),
        ("fetched from", or_empty(e.fetched_from.as_ref())),
        ("payload", bytes.map_or(omitted.to_owned(), |bytes| format!("{bytes} bytes (show with --json)"))),
        ("payload removed", timestamp_or_empty(*payload_removed_at)),
    ])?;
    output.section("Steps", output.table(STEPS), steps)?;
    output.section("Results", Table::new(RESULTS, None), &results.items)?;
    output.section("Conflicts", output.table(CONFLICTS), conflicts)
}
