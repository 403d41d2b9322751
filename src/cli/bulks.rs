//! `workflow-receiver bulks`

use clap::{Args, Subcommand};
use serde::Serialize;

use super::args::{OutputArgs, TimeArgs, choice_parser};
use super::expected::EXPECTED;
use super::failures::CAUSES;
use super::output::{Output, note};
use super::results::RESULTS;
use super::table::{Column, Table, text, timestamp_or_empty};
use super::{CommandError, database, query_pool};
use crate::config::Settings;
use crate::db::DbConnection;
use crate::db::queries::bulks::{Bulk, BulkDetail, Complete, GetBulk};
use crate::db::queries::executions::Executions;
use crate::db::queries::expected::ExpectedQuery;
use crate::db::queries::failures::{FailureQuery, Failures};
use crate::db::queries::results::ResultsQuery;
use crate::db::queries::{QueryPool, Scope};
use crate::words::counted;

/// Arguments of `bulks`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Bulks {
    #[command(subcommand)]
    command: Option<BulkCommand>,
    /// Show this bulk with its missing executions, failures and results
    #[arg(value_name = "BULK", conflicts_with_all = ["complete", "period"])]
    id: Option<String>,
    /// Only bulks that are complete, incomplete, or of unknown size
    #[arg(long, value_parser = choice_parser::<Complete>())]
    complete: Option<Complete>,
    #[command(flatten)]
    time: TimeArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Subcommand)]
enum BulkCommand {
    /// Set the expected number of executions of a bulk. If you have the response of bulk-trigger, use `workflow-receiver
    /// register` instead
    SetSize(SetSize),
}

#[derive(Debug, Args)]
struct SetSize {
    /// The bulk
    #[arg(value_name = "BULK")]
    id: String,
    /// The expected number of executions
    #[arg(value_name = "EXECUTIONS", required_unless_present = "unset", value_parser = clap::value_parser!(i32).range(1..))]
    executions: Option<i32>,
    /// Remove the number, so that the size is unknown again. A bulk without executions is removed
    #[arg(long, conflicts_with = "executions")]
    unset: bool,
    /// Also set the number of a bulk without executions, or of a bulk whose response is registered
    #[arg(long)]
    force: bool,
    /// Print JSON as in the read API
    #[arg(long)]
    json: bool,
}

const BULKS: &[Column<Bulk>] = &[
    text("bulk", |b| b.bulk_id.clone()),
    text("complete", complete_with_reason),
    text("received", received),
    text("by status", by_status),
    text("last received", |b| timestamp_or_empty(b.last_received_at)),
];

fn complete(bulk: &Bulk) -> String {
    match bulk.complete {
        Some(true) => "yes",
        Some(false) => "no",
        None => "unknown",
    }
    .to_owned()
}

/// Whether the bulk is complete, and if not, why.
fn complete_with_reason(bulk: &Bulk) -> String {
    let reasons =
        if bulk.expected.is_some() { bulk.reasons(|number| number.to_string()) } else { Vec::new() };
    if reasons.is_empty() { complete(bulk) } else { format!("{}: {}", complete(bulk), reasons.join(", ")) }
}

fn received(bulk: &Bulk) -> String {
    match bulk.expected {
        Some(expected) => format!("{} of {expected}", bulk.received),
        None => bulk.received.to_string(),
    }
}

fn by_status(bulk: &Bulk) -> String {
    let Bulk { completed, failed, cancelled, other, .. } = bulk;
    let counts = [(completed, "completed"), (failed, "failed"), (cancelled, "cancelled"), (other, "running")];
    let present = counts.iter().filter(|(count, _)| **count > 0);
    present.map(|(count, status)| format!("{count} {status}")).collect::<Vec<_>>().join(", ")
}

/// A bulk as in the read API, with its failures.
#[derive(Serialize)]
struct BulkJson {
    #[serde(flatten)]
    bulk: BulkDetail,
    failures: Failures,
}

impl Bulks {
    /// # Errors
    /// If PostgreSQL does not answer, or the bulk is unknown.
    pub(crate) async fn run(&self, settings: &Settings) -> Result<(), CommandError> {
        let pool = query_pool(settings)?;
        if let Some(BulkCommand::SetSize(set_size)) = &self.command {
            set_size.run(settings, &pool).await?;
            let get = GetBulk { bulk_id: set_size.id.clone() };
            if set_size.unset && pool.run(&get).await?.is_none() {
                note("The bulk had no executions and is removed.");
                return Ok(());
            }
            let output = OutputArgs::default_limit(set_size.json);
            return show(&pool, &set_size.id, &output).await;
        }
        if let Some(id) = &self.id {
            return show(&pool, id, &self.output).await;
        }
        self.output.print_list(&pool, self.time.listing(self.complete), BULKS).await
    }
}

async fn show(pool: &QueryPool, id: &str, output_args: &OutputArgs) -> Result<(), CommandError> {
    let Some(mut bulk) = pool.run(&GetBulk { bulk_id: id.to_owned() }).await? else {
        return Err(unknown(id));
    };
    bulk.results = output_args.read_list(pool, ResultsQuery::of_bulk(id)).await?;
    if output_args.json {
        bulk.executions = output_args.read_list(pool, Executions::of_bulk(id)).await?;
    }
    let failures = pool.run(&FailureQuery { scope: Scope::of_bulk(id), ..FailureQuery::default() }).await?;
    bulk.missing_executions = output_args.read_list(pool, ExpectedQuery::missing_of_bulk(id)).await?;
    let more = bulk.missing_executions.next.is_some()
        || bulk.results.next.is_some()
        || output_args.json && bulk.executions.next.is_some();
    let nothing_received = bulk.bulk.received == 0;
    let mut output = Output::new();
    if output_args.json {
        output.json(&BulkJson { bulk, failures })?;
    } else {
        print(&mut output, &bulk, &failures)?;
    }
    output.flush()?;
    if more {
        output_args.note_more();
    }
    if nothing_received {
        note(&format!("No execution of {id:?} is recorded yet."));
    }
    Ok(())
}

impl SetSize {
    async fn run(&self, settings: &Settings, pool: &QueryPool) -> Result<(), CommandError> {
        let id = &self.id;
        match pool.run(&GetBulk { bulk_id: id.clone() }).await? {
            None if self.unset => return Err(unknown(id)),
            None if !self.force => {
                return Err(format!(
                    "no execution of bulk {id:?} is recorded. If the identifier is right, use --force"
                )
                .into());
            }
            Some(BulkDetail { bulk: Bulk { expected: Some(expected), rejected: Some(_), .. }, .. })
                if !self.force =>
            {
                return Err(format!(
                    "the response of bulk-trigger is registered for bulk {id:?}: {}. To change the number, use --force",
                    counted(expected, "execution", "executions")
                )
                .into());
            }
            _ => {}
        }
        Ok(DbConnection::for_command(&database(settings)?).await?.set_bulk_size(id, self.executions).await?)
    }
}

fn unknown(id: &str) -> CommandError {
    format!("unknown bulk {id:?}").into()
}

fn print(output: &mut Output, detail: &BulkDetail, failures: &Failures) -> std::io::Result<()> {
    let bulk = &detail.bulk;
    let complete = match bulk.complete {
        Some(_) => complete_with_reason(bulk),
        None => {
            format!("unknown. Set the size: {}", bulk.set_size_command())
        }
    };
    output.key_values(&[
        ("bulk", bulk.bulk_id.clone()),
        ("complete", complete),
        ("received", received(bulk)),
        ("by status", by_status(bulk)),
        (
            "rejected",
            bulk.rejected
                .filter(|rejected| *rejected > 0)
                .map(|n| counted(n, "input", "inputs"))
                .unwrap_or_default(),
        ),
        ("first received", timestamp_or_empty(bulk.first_received_at)),
        ("last received", timestamp_or_empty(bulk.last_received_at)),
    ])?;
    output.section("Missing executions", output.table(EXPECTED), &detail.missing_executions.items)?;
    output.section("Failures", output.table(CAUSES), &failures.groups)?;
    output.section("Results", Table::new(RESULTS, None), &detail.results.items)
}
