//! `workflow-receiver repair`

use clap::Args;

use super::CommandError;
use super::output::print_line;
use crate::db::{Database, DbConnection, Repaired};
use crate::execution::Kind;
use crate::logging::printable;

/// Arguments of `repair`.
#[derive(Debug, Args)]
#[expect(clippy::doc_markdown, reason = "help texts are plain text")]
pub(crate) struct Repair {
    /// The executions or predictions to repair
    #[arg(required_unless_present = "all", value_name = "EXECUTION")]
    ids: Vec<String>,
    /// Repair all executions and predictions with payload_bytes
    #[arg(long, conflicts_with = "ids")]
    all: bool,
}

#[derive(Default)]
struct Tally {
    repaired: u64,
    unchanged: u64,
    refused: u64,
}

impl Repair {
    /// # Errors
    /// If PostgreSQL does not answer, or still refuses a column.
    pub(crate) async fn run(&self, database: &Database) -> Result<(), CommandError> {
        let mut connection = DbConnection::for_command(database).await?;
        let mut tally = Tally::default();
        for id in &self.ids {
            let found = repair(&mut connection, Kind::Workflow, id, &mut tally).await?
                || repair(&mut connection, Kind::Prediction, id, &mut tally).await?;
            if !found {
                tally.unchanged += 1;
                print_line(format_args!(
                    "{}: no execution or prediction with this identifier has payload_bytes",
                    printable(id)
                ));
            }
        }
        if self.all {
            for (kind, id) in connection.with_payload_bytes().await? {
                repair(&mut connection, kind, &id, &mut tally).await?;
            }
        }
        let Tally { repaired, unchanged, refused } = tally;
        print_line(format_args!("repaired {repaired}, unchanged {unchanged}, refused {refused}"));
        if refused == 0 { Ok(()) } else { Err(format!("{refused} could not be repaired").into()) }
    }
}

/// Returns whether a row with this identifier has `payload_bytes`.
async fn repair(
    connection: &mut DbConnection,
    kind: Kind,
    id: &str,
    tally: &mut Tally,
) -> Result<bool, CommandError> {
    let Some(repaired) = connection.repair(kind, id).await? else { return Ok(false) };
    match repaired {
        Repaired::Filled => {
            tally.repaired += 1;
            print_line(format_args!("{}: repaired", printable(id)));
        }
        Repaired::Refused(why) => {
            tally.refused += 1;
            print_line(format_args!("{}: stays as it is: {}", printable(id), printable(&why)));
        }
        // No column is missing, or jsonb cannot hold it.
        Repaired::Unchanged => tally.unchanged += 1,
    }
    Ok(true)
}
