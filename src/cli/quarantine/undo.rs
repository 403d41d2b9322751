//! `workflow-receiver quarantine undo`, and the list of the retries that it can undo.

use clap::Args;
use time::OffsetDateTime;

use super::{ACTOR, list};
use crate::cli::args::{OutputArgs, TimeArgs};
use crate::cli::output::{print_items, print_line};
use crate::cli::table::{Column, number, prose, text, timestamp};
use crate::cli::{CommandError, query_pool};
use crate::config::Settings;
use crate::db::queries::QueryPool;
use crate::db::queries::period::parse_time;
use crate::db::queries::retries::{RetriedEntries, RetriedEntry};
use crate::db::{DbConnection, Undone};
use crate::logging::printable;

/// Maximum retries that one command undoes with `--since`.
const MAX_UNDONE: i64 = 100_000;
/// Maximum retries of an action in the audit log.
const MAX_AUDITED: usize = 1_000;

/// Arguments of `quarantine undo`.
#[derive(Debug, Args)]
pub(crate) struct Undo {
    /// The numbers of the entries, as printed by `quarantine retry` and `quarantine list --retried`
    #[arg(required_unless_present = "since", value_name = "NUMBER")]
    ids: Vec<i64>,
    /// Undo all retries at this time or later, such as 10m, the latest first
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with = "ids")]
    since: Option<OffsetDateTime>,
}

const RETRIED: &[Column<RetriedEntry>] = &[
    number("number", |r| r.quarantine_id.to_string()),
    text("retried", |r| timestamp(r.retried_at)),
    text("by", |r| r.retried_by.clone()),
    prose("recorded as", recorded),
    prose("reason", |r| r.reason.clone()),
];

fn recorded(retried: &RetriedEntry) -> String {
    let pairs = retried.ids.iter().zip(&retried.dispositions);
    let shown: Vec<_> = pairs.map(|(id, disposition)| format!("{id} ({disposition})")).collect();
    let more = usize::try_from(retried.recorded).unwrap_or_default() - shown.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

/// Prints the retries that can be undone.
pub(super) async fn list_retried(
    pool: &QueryPool,
    output: &OutputArgs,
    time: &TimeArgs,
) -> Result<(), CommandError> {
    let since = time.period().from.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let limit = output.max_rows();
    let mut retried = pool.run(&RetriedEntries { since, limit: limit.saturating_add(1) }).await?;
    let more = i64::try_from(retried.len()).is_ok_and(|rows| rows > limit);
    retried.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    print_items(output.json, RETRIED, &retried)?;
    if more {
        output.note_more();
    }
    Ok(())
}

impl Undo {
    pub(super) async fn run(
        &self,
        settings: &Settings,
        connection: &mut DbConnection,
    ) -> Result<(), CommandError> {
        let ids = match self.since {
            None => self.ids.clone(),
            Some(since) => {
                let pool = query_pool(settings)?;
                let retried = pool.run(&RetriedEntries { since, limit: MAX_UNDONE }).await?;
                retried.iter().map(|retried| retried.quarantine_id).collect()
            }
        };
        let (mut undone, mut not_undone) = (0, 0);
        for ids in ids.chunks(MAX_AUDITED) {
            let audit_id = connection.begin_audit(ACTOR, "quarantine.undo", &list(ids)).await?;
            let before = not_undone;
            for id in ids {
                match connection.undo_retry(*id).await? {
                    Undone::Restored(executions) => {
                        undone += 1;
                        let executions = executions.join(", ");
                        print_line(format_args!(
                            "{id}: in quarantine again. Undone: {}",
                            printable(&executions)
                        ));
                    }
                    Undone::Refused(why) => {
                        not_undone += 1;
                        print_line(format_args!("{id}: not undone: {}", printable(&why)));
                    }
                    Undone::Absent => {
                        not_undone += 1;
                        print_line(format_args!(
                            "{id}: no retry can be undone: `workflow-receiver quarantine list --retried` lists them"
                        ));
                    }
                }
            }
            let result = format!("undone {undone}, not undone {not_undone}");
            connection.end_audit(audit_id, before == not_undone, &result).await?;
        }
        print_line(format_args!("undone {undone}, not undone {not_undone}"));
        if not_undone == 0 { Ok(()) } else { Err(format!("{not_undone} could not be undone").into()) }
    }
}
