//! `workflow-receiver quarantine`

mod retry;

use std::io::{self, Write};

use clap::Subcommand;

use super::CommandError;
use super::output::{Output, note, print_line};
use super::table::{Column, number, prose, text, timestamp};
use crate::db::queries::quarantine::Quarantined;
use crate::db::{Database, DbConnection};

/// Entries per query.
const PAGE: i64 = 1_000;

/// Arguments of `quarantine`.
#[derive(Debug, Subcommand)]
pub enum Quarantine {
    /// List the entries, oldest first
    List {
        /// Print one JSON object per line, with the fields of the read API
        #[arg(long)]
        json: bool,
    },
    /// Write the unchanged body of an entry to standard output
    Show {
        /// The number of the entry
        #[arg(value_name = "NUMBER")]
        id: i64,
    },
    /// Replay entries: record those that can be read now (after an upgrade, or with --map/--set) and remove them from
    /// quarantine. Arrays are split
    Retry(retry::Retry),
    /// Delete entries permanently. Do not drop entries answered 200: the sender does not send them again
    Drop {
        /// The numbers of the entries
        #[arg(required = true, value_name = "NUMBER")]
        ids: Vec<i64>,
    },
}

const ENTRIES: &[Column<Quarantined>] = &[
    number("number", |e| e.quarantine_id.to_string()),
    text("first received", |e| timestamp(e.first_received_at)),
    number("answered", |e| if e.acknowledged { "200" } else { "422" }.to_owned()),
    number("deliveries", |e| e.deliveries.to_string()),
    number("bytes", |e| e.body_bytes.to_string()),
    prose("reason", |e| e.reason.clone()),
];

impl Quarantine {
    /// Runs the command.
    ///
    /// # Errors
    /// If PostgreSQL does not answer, an entry does not exist, or an entry stays in quarantine after `retry`.
    pub async fn run(&self, database: &Database) -> Result<(), CommandError> {
        let mut connection = DbConnection::for_command(database).await?;
        match self {
            Self::List { json } => list(&mut connection, *json).await,
            Self::Show { id } => {
                let body = connection.quarantined_body(*id).await?.ok_or_else(|| absent(*id))?;
                Ok(io::stdout().write_all(&body)?)
            }
            Self::Retry(retry) => retry.run(&mut connection).await,
            Self::Drop { ids } => {
                let dropped = connection.drop_quarantined(ids).await?;
                print_line(format_args!("dropped {}", dropped.len()));
                match ids.iter().find(|id| !dropped.contains(id)) {
                    Some(id) => Err(absent(*id).into()),
                    None => Ok(()),
                }
            }
        }
    }
}

fn absent(id: i64) -> String {
    format!("there is no entry {id} in quarantine: `workflow-receiver quarantine list` lists all entries")
}

async fn list(connection: &mut DbConnection, json: bool) -> Result<(), CommandError> {
    let mut output = Output::new();
    let mut table = output.table(ENTRIES);
    let mut after = 0;
    loop {
        let page = connection.quarantined(after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.quarantine_id;
        output.items(json, &mut table, &page)?;
    }
    output.flush()?;
    if after == 0 && !json {
        note("The quarantine is empty.");
    }
    Ok(())
}
