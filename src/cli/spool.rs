//! `workflow-receiver spool`: lists and shows deliveries that are not recorded yet.

use std::io::{self, Write};

use clap::{Args, Subcommand};

use super::CommandError;
use super::output::{Output, note};
use super::table::{Column, number, or_empty, text, timestamp};
use crate::config::Settings;
use crate::spool::{Inspector, ListedDelivery, set_aside_bytes};

/// Deliveries per read of the spool.
const PAGE: usize = 100;

/// Arguments of `spool`. Both commands only read; a receiver may be running.
#[derive(Debug, Subcommand)]
pub(crate) enum Spool {
    /// List the deliveries that are not recorded yet, oldest first
    List(List),
    /// Print the exact bytes of a body
    Show {
        /// The number (seq) from `spool list`
        seq: i64,
    },
}

/// The options of `spool list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Maximum number of deliveries
    #[arg(long, value_name = "ROWS", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// List all deliveries
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

const COLUMNS: &[Column<ListedDelivery>] = &[
    number("seq", |delivery| delivery.seq.to_string()),
    text("received", |delivery| timestamp(delivery.received_at)),
    text("execution", |delivery| or_empty(delivery.execution_id.as_ref())),
    number("bytes", |delivery| delivery.body_bytes.to_string()),
    number("answered", |delivery| if delivery.acknowledged { "200" } else { "422" }.to_owned()),
    text("authenticated by", |delivery| or_empty(delivery.authenticated_by.as_ref())),
    text("intact", |delivery| if delivery.intact { "yes" } else { "no" }.to_owned()),
];

impl Spool {
    /// # Errors
    /// If the spool cannot be read, or has no delivery with this number.
    pub(crate) fn run(&self, settings: &Settings) -> Result<(), CommandError> {
        let spool = Inspector::open(&settings.spool.dir)?;
        match self {
            Self::List(list) => {
                list.run(&spool)?;
                let bytes = set_aside_bytes(&settings.spool.dir);
                if bytes > 0 && !list.json {
                    note(&format!(
                        "Files that are set aside (spool.db.damaged-… and others): {bytes} bytes. See docs/operating.md."
                    ));
                }
                Ok(())
            }
            Self::Show { seq } => {
                let absent = || format!("the spool has no delivery {seq}: it may be recorded already");
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
        let (mut after, mut empty) = (0, true);
        while left > 0 {
            let page = spool.page(after, PAGE.min(left))?;
            let Some(last) = page.last() else { break };
            (after, empty) = (last.seq, false);
            left -= page.len();
            output.items(self.json, &mut table, &page)?;
        }
        output.flush()?;
        if empty && !self.json {
            note("The spool is empty: every delivery is recorded.");
        }
        Ok(())
    }
}
