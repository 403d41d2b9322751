//! `workflow-receiver quarantine`

mod retry;
mod undo;

use std::io::{self, Write};

use clap::{Args, Subcommand};

use super::args::{OutputArgs, TimeArgs};
use super::output::{print_items, print_line};
use super::table::{Column, number, prose, text, timestamp};
use super::{CommandError, database, query_pool};
use crate::config::Settings;
use crate::db::DbConnection;
use crate::db::queries::quarantine::{
    Quarantine as EntriesQuery, QuarantineReasons, Quarantined, ReasonGroup,
};

/// The name of the operator in the audit log.
const ACTOR: &str = "command line";

/// Arguments of `quarantine`.
#[derive(Debug, Subcommand)]
pub(crate) enum Quarantine {
    /// List the entries, newest first
    List(ListArgs),
    /// Print the body of an entry, unchanged
    Show {
        /// The number of the entry
        #[arg(value_name = "NUMBER")]
        id: i64,
        /// Print the version of the sender's API instead of the body, for an unsigned webhook that was not confirmed
        #[arg(long)]
        api: bool,
    },
    /// Record the entries that can be read now (after an upgrade, or with --map or --set), and remove them from quarantine.
    /// Each object of an array is recorded separately. `quarantine undo` undoes a retry
    Retry(retry::Retry),
    /// Undo retries: restore executions and counts as they were before a retry, and put its entry back into quarantine.
    /// Refused if an execution of the retry has received another delivery since then
    Undo(undo::Undo),
    /// Delete entries permanently. Do not drop entries answered 200: the sender does not send them again
    Drop {
        /// The numbers of the entries
        #[arg(required = true, value_name = "NUMBER")]
        ids: Vec<i64>,
    },
}

/// Arguments of `quarantine list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Count the entries by reason, instead of listing them
    #[arg(long, conflicts_with_all = ["limit", "all"])]
    by_reason: bool,
    /// List the retries that `quarantine undo` can undo, newest first. --since is the time of the retry
    #[arg(long, conflicts_with_all = ["by_reason", "until"])]
    retried: bool,
    #[command(flatten)]
    time: TimeArgs,
    #[command(flatten)]
    output: OutputArgs,
}

const REASONS: &[Column<ReasonGroup>] = &[
    number("entries", |r| r.entries.to_string()),
    number("deliveries", |r| r.deliveries.to_string()),
    text("latest", |r| timestamp(r.latest_received_at)),
    number("latest number", |r| r.latest_quarantine_id.to_string()),
    prose("reason", |r| r.reason.clone()),
];

const ENTRIES: &[Column<Quarantined>] = &[
    number("number", |e| e.quarantine_id.to_string()),
    text("first received", |e| timestamp(e.first_received_at)),
    number("answered", |e| e.answered().to_owned()),
    number("deliveries", |e| e.deliveries.to_string()),
    number("bytes", |e| e.body_bytes.to_string()),
    prose("reason", |e| e.reason.clone()),
];

impl Quarantine {
    /// # Errors
    /// If PostgreSQL does not answer, an entry does not exist, or an entry stays in quarantine after `retry`.
    pub(crate) async fn run(&self, settings: &Settings) -> Result<(), CommandError> {
        let connect =
            async || DbConnection::for_command(&database(settings)?).await.map_err(CommandError::from);
        match self {
            Self::List(list) => list.run(settings).await,
            Self::Show { id, api: true } => {
                let body = connect().await?.quarantined_api_body(*id).await?;
                let body = body.ok_or_else(|| format!("entry {id} has no version of each::labs"))?;
                Ok(io::stdout().write_all(&body)?)
            }
            Self::Show { id, api: false } => {
                let body = connect().await?.quarantined_body(*id).await?.ok_or_else(|| absent(*id))?;
                Ok(io::stdout().write_all(&body)?)
            }
            Self::Retry(retry) => retry.run(&mut connect().await?).await,
            Self::Undo(undo) => undo.run(settings, &mut connect().await?).await,
            Self::Drop { ids } => drop_entries(&mut connect().await?, ids).await,
        }
    }
}

async fn drop_entries(connection: &mut DbConnection, ids: &[i64]) -> Result<(), CommandError> {
    let audit_id = connection.begin_audit(ACTOR, "quarantine.drop", &list(ids)).await?;
    let dropped = connection.drop_quarantined(ids).await?;
    let result = format!("dropped {}", dropped.len());
    connection.end_audit(audit_id, true, &result).await?;
    print_line(result);
    match ids.iter().find(|id| !dropped.contains(id)) {
        Some(id) => Err(absent(*id).into()),
        None => Ok(()),
    }
}

/// Numbers of entries, for the audit log.
fn list(ids: &[i64]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn absent(id: i64) -> String {
    format!("there is no entry {id} in quarantine: `workflow-receiver quarantine list` lists all entries")
}

impl ListArgs {
    async fn run(&self, settings: &Settings) -> Result<(), CommandError> {
        let pool = query_pool(settings)?;
        if self.retried {
            return undo::list_retried(&pool, &self.output, &self.time).await;
        }
        let period = self.time.period();
        if !self.by_reason {
            let query = EntriesQuery { period, ..EntriesQuery::default() };
            return self.output.print_list(&pool, query, ENTRIES).await;
        }
        let reasons = QuarantineReasons { period, entries: i64::MAX, groups: i64::MAX };
        print_items(self.output.json, REASONS, &pool.run(&reasons).await?)
    }
}
