//! `workflow-receiver repair`

use clap::Args;

use super::CommandError;
use super::output::print_line;
use crate::db::{Database, DbConnection, Repaired};
use crate::logging::printable;

/// Executions per query.
const PAGE: i64 = 1_000;

/// Arguments of `repair`.
#[derive(Debug, Args)]
#[expect(clippy::doc_markdown, reason = "help texts are plain text")]
pub struct Repair {
    /// The executions to repair
    #[arg(required_unless_present = "all", value_name = "EXECUTION")]
    ids: Vec<String>,
    /// Repair all executions with payload_bytes
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
    /// Runs the command.
    ///
    /// # Errors
    /// If PostgreSQL does not answer, or still refuses a column.
    pub async fn run(&self, database: &Database) -> Result<(), CommandError> {
        let mut connection = DbConnection::for_command(database).await?;
        let mut tally = Tally::default();
        let mut ids =
            if self.all { connection.with_payload_bytes("", PAGE).await? } else { self.ids.clone() };
        while let Some(last) = ids.last() {
            for id in &ids {
                self.repair(&mut connection, id, &mut tally).await?;
            }
            ids = if self.all { connection.with_payload_bytes(last, PAGE).await? } else { Vec::new() };
        }
        let Tally { repaired, unchanged, refused } = tally;
        print_line(format_args!("repaired {repaired}, unchanged {unchanged}, refused {refused}"));
        if refused == 0 { Ok(()) } else { Err(format!("{refused} could not be repaired").into()) }
    }

    async fn repair(
        &self,
        connection: &mut DbConnection,
        id: &str,
        tally: &mut Tally,
    ) -> Result<(), CommandError> {
        match connection.repair(id).await? {
            Some(Repaired::Filled) => {
                tally.repaired += 1;
                print_line(format_args!("{}: repaired", printable(id)));
            }
            Some(Repaired::Refused(why)) => {
                tally.refused += 1;
                print_line(format_args!("{}: stays as it is: {}", printable(id), printable(&why)));
            }
            // No column is missing, or jsonb cannot hold it.
            Some(Repaired::Unchanged) => tally.unchanged += 1,
            None if self.all => {}
            None => {
                tally.unchanged += 1;
                print_line(format_args!(
                    "{}: there is no execution with this identifier and payload_bytes",
                    printable(id)
                ));
            }
        }
        Ok(())
    }
}
