//! `workflow-receiver repair`: executions of which PostgreSQL refused parts, once it accepts them.

use std::io::{self, Write};

use clap::Args;
use sqlx::postgres::PgConnectOptions;

use super::CommandError;
use super::table::printable;
use crate::db::{DbConnection, Repaired};

/// How many executions are read at once.
const PAGE: i64 = 1_000;

/// Which executions to repair.
#[derive(Debug, Args)]
pub struct Repair {
    /// Their identifiers
    #[arg(required_unless_present = "all", value_name = "EXECUTION_ID")]
    ids: Vec<String>,
    /// Try all executions of which bytes are stored
    #[arg(long, conflicts_with = "ids")]
    all: bool,
}

#[derive(Default)]
struct Tally {
    filled: u64,
    unchanged: u64,
    refused: u64,
}

impl Repair {
    /// Fills in the columns.
    ///
    /// # Errors
    /// What went wrong, in a sentence; also when PostgreSQL still refuses a part.
    pub async fn run(&self, database: &PgConnectOptions) -> Result<(), CommandError> {
        let mut store = DbConnection::connect(database).await?;
        store.limit_lock_waits().await?;
        let mut tally = Tally::default();
        let mut ids = self.ids.clone();
        loop {
            if self.all {
                let after = ids.last().map_or("", String::as_str);
                ids = store.with_payload_bytes(after, PAGE).await?;
                if ids.is_empty() {
                    break;
                }
            }
            for id in &ids {
                self.one(&mut store, id, &mut tally).await?;
            }
            if !self.all {
                break;
            }
        }
        let Tally { filled, unchanged, refused } = tally;
        say(format_args!("repaired {filled}, unchanged {unchanged}, refused {refused}"));
        if refused == 0 { Ok(()) } else { Err(format!("{refused} could not be repaired").into()) }
    }

    async fn one(&self, store: &mut DbConnection, id: &str, tally: &mut Tally) -> Result<(), CommandError> {
        match store.repair(id).await? {
            Some(Repaired::Filled) => {
                tally.filled += 1;
                say(format_args!("{}: repaired", printable(id)));
            }
            Some(Repaired::Refused(why)) => {
                tally.refused += 1;
                say(format_args!("{}: stays as it is: {}", printable(id), printable(&why)));
            }
            // jsonb cannot hold it, or it changed meanwhile.
            Some(Repaired::Unchanged) => tally.unchanged += 1,
            None if self.all => {}
            None => {
                tally.unchanged += 1;
                say(format_args!("{}: no such execution has payload_bytes", printable(id)));
            }
        }
        Ok(())
    }
}

/// The reader of the output may have closed it: what is done does not depend on that.
fn say(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout(), "{line}");
}
