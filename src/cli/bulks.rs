//! `workflow-receiver bulks`

use clap::Args;
use serde::Serialize;

use super::args::{OutputArgs, TimeArgs, choice_parser};
use super::failures::CAUSES;
use super::output::{Output, note};
use super::results::RESULTS;
use super::table::{Column, Table, text, timestamp_or_empty};
use super::{CommandError, database, query_pool};
use crate::config::Settings;
use crate::db::DbConnection;
use crate::db::queries::bulks::{self, Bulk, BulkDetail, Complete, GetBulk};
use crate::db::queries::executions::{self, Executions};
use crate::db::queries::failures::{FailureQuery, Failures};
use crate::db::queries::results::ResultsQuery;
use crate::db::queries::{PageRequest, QueryPool, Scope};

/// Arguments of `bulks`.
#[derive(Debug, Args)]
pub struct Bulks {
    /// Show this bulk with its failures and results
    #[arg(value_name = "BULK", conflicts_with_all = ["complete", "period"])]
    id: Option<String>,
    /// Set the expected number of executions of BULK, and show it; 0 makes it unknown again
    #[arg(long, value_name = "EXECUTIONS", requires = "id", value_parser = clap::value_parser!(i32).range(0..))]
    expect: Option<i32>,
    /// Only bulks that are complete, incomplete, or of unknown size
    #[arg(long, value_parser = choice_parser::<Complete>())]
    complete: Option<Complete>,
    #[command(flatten)]
    time: TimeArgs,
    #[command(flatten)]
    output: OutputArgs,
}

const BULKS: &[Column<Bulk>] = &[
    text("bulk", |b| b.bulk_id.clone()),
    text("complete", complete),
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

fn received(bulk: &Bulk) -> String {
    match bulk.expected {
        Some(expected) => format!("{} of {expected}", bulk.received),
        None => bulk.received.to_string(),
    }
}

fn by_status(bulk: &Bulk) -> String {
    let Bulk { completed, failed, cancelled, other, .. } = bulk;
    let counts = [(completed, "completed"), (failed, "failed"), (cancelled, "cancelled"), (other, "other")];
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
    /// Runs the command.
    ///
    /// # Errors
    /// If PostgreSQL does not answer, or the bulk is unknown.
    pub async fn run(&self, settings: &Settings) -> Result<(), CommandError> {
        let pool = query_pool(settings)?;
        if let Some(id) = &self.id {
            if let Some(expected) = self.expect {
                let expected = Some(expected).filter(|expected| *expected > 0);
                DbConnection::for_command(&database(settings)?).await?.expect(id, expected).await?;
            }
            return self.show(&pool, id).await;
        }
        let (complete, period) = (self.complete, self.time.period());
        let query = bulks::Bulks { complete, period, page: PageRequest::default() };
        self.output.print_list(&pool, query, BULKS).await
    }

    async fn show(&self, pool: &QueryPool, id: &str) -> Result<(), CommandError> {
        let Some(mut bulk) = pool.run(&GetBulk { bulk_id: id.to_owned() }).await? else {
            return Err(format!("unknown bulk {id:?}").into());
        };
        let scope = Scope::of_bulk(id);
        bulk.results = self.output.read_list(pool, ResultsQuery::of_bulk(id)).await?;
        if self.output.json {
            let filter = executions::Filter { scope: scope.clone(), ..executions::Filter::default() };
            bulk.executions =
                self.output.read_list(pool, Executions { filter, ..Executions::default() }).await?;
        }
        let failures = pool.run(&FailureQuery { scope, ..FailureQuery::default() }).await?;
        let more = bulk.results.next.is_some() || self.output.json && bulk.executions.next.is_some();
        let is_new = bulk.bulk.received == 0;
        let mut output = Output::new();
        if self.output.json {
            output.json(&BulkJson { bulk, failures })?;
        } else {
            print(&mut output, &bulk, &failures)?;
        }
        output.flush()?;
        if more {
            self.output.note_more();
        }
        if is_new {
            note(&format!("No execution of {id:?} is recorded yet. To remove the bulk, use --expect 0."));
        }
        Ok(())
    }
}

fn print(output: &mut Output, detail: &BulkDetail, failures: &Failures) -> std::io::Result<()> {
    let bulk = &detail.bulk;
    let complete = match bulk.complete {
        Some(_) => complete(bulk),
        None => {
            format!(
                "unknown. Set the size: workflow-receiver bulks {} --expect EXECUTIONS",
                shell_argument(&bulk.bulk_id)
            )
        }
    };
    output.key_values(&[
        ("bulk", bulk.bulk_id.clone()),
        ("complete", complete),
        ("received", received(bulk)),
        ("by status", by_status(bulk)),
        ("first received", timestamp_or_empty(bulk.first_received_at)),
        ("last received", timestamp_or_empty(bulk.last_received_at)),
    ])?;
    output.section("Failures", output.table(CAUSES), &failures.groups)?;
    output.section("Results", Table::new(RESULTS, None), &detail.results.items)
}

/// The identifier, or the placeholder `BULK` if a shell needs quotation marks around it.
fn shell_argument(id: &str) -> &str {
    let plain =
        id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:/".contains(&b)) && !id.starts_with('-');
    if plain { id } else { "BULK" }
}
