//! `workflow-receiver bulks`: how far they are, what is in one, and how many are expected.

use clap::Args;
use serde::Serialize;

use super::args::{Form, When, choice};
use super::executions::RESULTS;
use super::failures::CAUSES;
use super::output::Output;
use super::table::{Column, Table, text, timestamp_or_empty};
use super::{CommandError, database, reader};
use crate::config::Settings;
use crate::db::DbConnection;
use crate::db::queries::bulks::{self, Bulk, BulkDetail, Complete, GetBulk};
use crate::db::queries::executions::{self, Executions};
use crate::db::queries::failures::{self, FailureQuery, Failures};
use crate::db::queries::results::{self, ResultsQuery};
use crate::db::queries::{PageRequest, QueryPool};

/// Which bulks, and how they are shown.
#[derive(Debug, Args)]
pub struct Bulks {
    /// One bulk, with its failures and results
    #[arg(value_name = "BULK", conflicts_with_all = ["complete", "period"])]
    id: Option<String>,
    /// First say how many executions it has, before or after they come: then it is known when it is complete
    #[arg(long, value_name = "EXECUTIONS", requires = "id", value_parser = clap::value_parser!(i32).range(1..))]
    expect: Option<i32>,
    /// Only those that are complete, are not, or of which it is unknown how many executions are expected
    #[arg(long, value_parser = choice::<Complete>())]
    complete: Option<Complete>,
    #[command(flatten)]
    when: When,
    #[command(flatten)]
    form: Form,
}

const COLUMNS: &[Column<Bulk>] = &[
    text("bulk", |b| b.bulk_id.clone()),
    text("complete", complete),
    text("received", received),
    text("of which", of_which),
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

/// How those went that were received.
fn of_which(bulk: &Bulk) -> String {
    let Bulk { completed, failed, cancelled, other, .. } = bulk;
    let counts = [(completed, "completed"), (failed, "failed"), (cancelled, "cancelled"), (other, "other")];
    let some = counts.iter().filter(|(count, _)| **count > 0);
    some.map(|(count, status)| format!("{count} {status}")).collect::<Vec<_>>().join(", ")
}

/// One bulk as the API has it, with its failures.
#[derive(Serialize)]
struct Known {
    #[serde(flatten)]
    whole: BulkDetail,
    failures: Failures,
}

impl Bulks {
    /// Shows them.
    ///
    /// # Errors
    /// What went wrong, in a sentence; also when there is no such bulk.
    pub async fn run(&self, settings: &Settings) -> Result<(), CommandError> {
        let pool = reader(settings)?;
        if let Some(id) = &self.id {
            if let Some(expected) = self.expect {
                DbConnection::connect(&database(settings)?).await?.expect(id, expected).await?;
            }
            return self.one(&pool, id).await;
        }
        let question = bulks::Bulks {
            complete: self.complete,
            period: self.when.period(),
            page: PageRequest::default(),
        };
        self.form.list(&pool, question, COLUMNS).await
    }

    async fn one(&self, pool: &QueryPool, id: &str) -> Result<(), CommandError> {
        let Some(mut whole) = pool.run(&GetBulk { bulk_id: id.to_owned() }).await? else {
            return Err(format!("nothing came of a bulk {id:?}, and nobody said what is expected").into());
        };
        let bulk = Some(id.to_owned());
        let filter = results::Filter { bulk: bulk.clone(), ..results::Filter::default() };
        whole.results = self.form.page(pool, ResultsQuery { filter, ..ResultsQuery::default() }).await?;
        if self.form.json {
            let filter = executions::Filter { bulk: bulk.clone(), ..executions::Filter::default() };
            whole.executions = self.form.page(pool, Executions { filter, ..Executions::default() }).await?;
        }
        let filter = failures::Filter { bulk, ..failures::Filter::default() };
        let failures = pool.run(&FailureQuery { filter, ..FailureQuery::default() }).await?;
        let more = whole.results.next.is_some() || self.form.json && whole.executions.next.is_some();
        let mut output = Output::new();
        if self.form.json {
            output.json(&Known { whole, failures })?;
        } else {
            show(&mut output, &whole, &failures)?;
        }
        output.flush()?;
        if more {
            self.form.more();
        }
        Ok(())
    }
}

fn show(output: &mut Output, whole: &BulkDetail, failures: &Failures) -> std::io::Result<()> {
    let bulk = &whole.bulk;
    output.key_values(&[
        ("bulk", bulk.bulk_id.clone()),
        (
            "complete",
            bulk.complete
                .map_or("unknown: nobody said how many it has (--expect)".to_owned(), |_| complete(bulk)),
        ),
        ("received", received(bulk)),
        ("of which", of_which(bulk)),
        ("first received", timestamp_or_empty(bulk.first_received_at)),
        ("last received", timestamp_or_empty(bulk.last_received_at)),
    ])?;
    output.section("Failures", output.table(CAUSES), &failures.groups)?;
    output.section("Results", Table::new(RESULTS, None), &whole.results.items)
}
