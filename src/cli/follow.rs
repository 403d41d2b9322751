//! `workflow-receiver follow`

use std::time::Duration;

use clap::Args;
use tokio::time::sleep;

use super::output::{Output, note};
use super::table::{or_empty, timestamp};
use super::{CommandError, query_pool};
use crate::config::Settings;
use crate::db::queries::QueryError;
use crate::db::queries::changes::{Change, ChangeFilter, ChangesAfter, LastChange};

/// The pause between two queries.
const INTERVAL: Duration = Duration::from_millis(500);
/// Changes per query.
const PAGE: i64 = 1_000;

/// Arguments of `follow`.
#[derive(Debug, Args)]
pub(crate) struct Follow {
    #[command(flatten)]
    filter: ChangeFilter,
    /// Begin after the change with this number, instead of the latest; 0 for all stored changes
    #[arg(long, value_name = "CHANGE", value_parser = clap::value_parser!(i64).range(0..))]
    after: Option<i64>,
    /// Print one JSON object per line, as in the API
    #[arg(long)]
    json: bool,
}

impl Follow {
    /// Prints changes as they are recorded, until it is interrupted.
    ///
    /// # Errors
    /// If PostgreSQL does not answer at the start, or the changes after `--after` were removed.
    pub(crate) async fn run(&self, settings: &Settings) -> Result<(), CommandError> {
        let pool = query_pool(settings)?;
        let mut after = match self.after {
            Some(after) => after,
            None => pool.run(&LastChange).await?,
        };
        note(&format!("Following changes after number {after}. Press Ctrl-C to stop."));
        let (mut output, mut is_first, mut failing) = (Output::new(), true, false);
        loop {
            let full = match pool.run(&ChangesAfter { after, limit: PAGE }).await {
                Ok(Some(changes)) => {
                    for change in changes.iter().filter(|change| self.filter.matches(change)) {
                        self.print(&mut output, change)?;
                    }
                    output.flush()?;
                    (is_first, failing) = (false, false);
                    after = changes.last().map_or(after, |last| last.change);
                    changes.len() as u64 == PAGE.unsigned_abs()
                }
                Ok(None) => {
                    return Err(format!(
                        "the change after number {after} is not stored: it was removed (retention.changes), or the number is \
                         higher than the last one"
                    )
                    .into());
                }
                Err(QueryError::Failed(error)) if !is_first => {
                    if !failing {
                        note(&format!("{error}. Trying again …"));
                    }
                    failing = true;
                    false
                }
                Err(error) => return Err(error.into()),
            };
            if !full {
                sleep(INTERVAL).await;
            }
        }
    }

    fn print(&self, output: &mut Output, change: &Change) -> Result<(), CommandError> {
        if self.json {
            return output.json(change);
        }
        let id = or_empty(change.execution_id.as_ref().or(change.bulk_id.as_ref()));
        let parts = [
            timestamp(change.recorded_at),
            change.r#type.clone(),
            id,
            or_empty(change.status.as_ref()),
            change.workflow_id.as_ref().map(|id| format!("workflow {id}")).unwrap_or_default(),
        ];
        let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        Ok(output.line(&parts.join("  "))?)
    }
}
