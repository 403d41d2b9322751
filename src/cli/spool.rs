//! `workflow-receiver spool`: the deliveries that PostgreSQL does not have yet.

use std::io::{self, Write};

use clap::{Args, Subcommand};
use serde::Serialize;
use time::OffsetDateTime;

use super::CommandError;
use super::output::Output;
use super::table::{Column, number, or_empty, text, timestamp};
use crate::config::Settings;
use crate::spool::{Inspector, ListedDelivery};

/// How many deliveries one read of the spool takes.
const PAGE: usize = 100;

/// What to do with the spool. Both read it beside a running receiver, or without one.
#[derive(Debug, Subcommand)]
pub enum Spool {
    /// List the deliveries that wait for PostgreSQL, the oldest first
    List(List),
    /// Write the body of a delivery, byte for byte
    Show {
        /// Its number (seq), as `spool list` shows it
        seq: i64,
    },
}

/// Which deliveries, and how they are shown.
#[derive(Debug, Args)]
pub struct List {
    /// How many deliveries at most
    #[arg(long, value_name = "ROWS", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// All deliveries
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// A JSON object a line
    #[arg(long)]
    json: bool,
}

/// A line of the list.
#[derive(Debug, Serialize)]
struct Line {
    seq: i64,
    #[serde(with = "time::serde::rfc3339")]
    received_at: OffsetDateTime,
    execution_id: Option<String>,
    body_bytes: usize,
    acknowledged: bool,
    authenticated_by: Option<&'static str>,
    intact: bool,
}

impl From<ListedDelivery> for Line {
    fn from(listed: ListedDelivery) -> Self {
        let ListedDelivery {
            seq,
            received_at,
            body_bytes,
            execution_id,
            acknowledged,
            authenticated_by,
            intact,
        } = listed;
        Self { seq, received_at, execution_id, body_bytes, acknowledged, authenticated_by, intact }
    }
}

const COLUMNS: &[Column<Line>] = &[
    number("seq", |line| line.seq.to_string()),
    text("received", |line| timestamp(line.received_at)),
    text("execution", |line| or_empty(line.execution_id.as_ref())),
    number("bytes", |line| line.body_bytes.to_string()),
    number("answered", |line| if line.acknowledged { "200" } else { "422" }.to_owned()),
    text("authenticated by", |line| or_empty(line.authenticated_by.as_ref())),
    text("intact", |line| if line.intact { "yes" } else { "no" }.to_owned()),
];

impl Spool {
    /// Runs the command.
    ///
    /// # Errors
    /// A sentence that says what is wrong; also when there is no delivery with the number.
    pub fn run(&self, settings: &Settings) -> Result<(), CommandError> {
        let spool = Inspector::open(&settings.spool.dir)?;
        match self {
            Self::List(list) => list.run(&spool),
            Self::Show { seq } => {
                let absent = || format!("there is no delivery {seq} in the spool: it may be recorded by now");
                let body = spool.body(*seq)?.ok_or_else(absent)?;
                Ok(io::stdout().write_all(&body)?)
            }
        }
    }
}

impl List {
    fn run(&self, spool: &Inspector) -> Result<(), CommandError> {
        let mut output = Output::new();
        let mut table = output.table(COLUMNS);
        let mut left = if self.all { usize::MAX } else { usize::try_from(self.limit).unwrap_or(usize::MAX) };
        let mut after = 0;
        while left > 0 {
            let page: Vec<Line> = spool.page(after, PAGE.min(left))?.into_iter().map(Line::from).collect();
            let Some(last) = page.last() else { break };
            after = last.seq;
            left -= page.len();
            if self.json {
                page.iter().try_for_each(|line| output.json(line))?;
            } else {
                output.rows(&mut table, &page)?;
            }
        }
        Ok(output.flush()?)
    }
}
