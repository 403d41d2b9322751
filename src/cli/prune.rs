//! `workflow-receiver prune`

use std::fmt;
use std::io::{self, IsTerminal, Write};

use clap::Args;
use serde::Serialize;
use strum::VariantArray;
use time::OffsetDateTime;
use time::serde::rfc3339;
use tokio::time::sleep;

use super::CommandError;
use super::output::print_items;
use super::table::{Column, number, text, timestamp, timestamp_or_empty};
use crate::config::Retention;
use crate::db::{Cutoffs, Database, DbConnection, DbError, RetentionTarget};
use crate::retention::{Clocks, Removal, Step, Walk};

/// Arguments of `prune`.
#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// Count the rows, but do not remove them
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// The removed rows of one kind, or with `--dry-run` the rows that would be removed.
#[derive(Serialize)]
struct Removed {
    kind: &'static str,
    dry_run: bool,
    rows: u64,
    /// When the oldest row was first received.
    #[serde(with = "rfc3339::option")]
    oldest: Option<OffsetDateTime>,
    #[serde(with = "rfc3339::option")]
    newest: Option<OffsetDateTime>,
    /// Older rows are removed.
    #[serde(with = "rfc3339")]
    before: OffsetDateTime,
}

const fn columns(rows: &'static str) -> [Column<Removed>; 5] {
    [
        text("", |r| r.kind.to_owned()),
        number(rows, |r| r.rows.to_string()),
        text("oldest", |r| timestamp_or_empty(r.oldest)),
        text("newest", |r| timestamp_or_empty(r.newest)),
        text("before", |r| timestamp(r.before)),
    ]
}

const REMOVED: &[Column<Removed>] = &columns("removed");
const DRY_RUN: &[Column<Removed>] = &columns("would be removed");

impl Prune {
    /// Runs the command. After each step it pauses for as long as the step took, to leave PostgreSQL to other clients.
    ///
    /// # Errors
    /// If PostgreSQL does not answer, or its clock and the clock of this machine differ by more than five minutes. Rows that
    /// were removed before an error stay removed, and are printed.
    pub(crate) async fn run(&self, database: &Database, retention: &Retention) -> Result<(), CommandError> {
        if !retention.removes_something() {
            return Err("no retention limit is set: set one, for example RECEIVER__RETENTION__PAYLOADS=90d (retention.* in \
                        config/default.toml)"
                .into());
        }
        let mut connection = DbConnection::for_pruning(database, None).await?;
        let clocks = Clocks::read(&mut connection).await?.agreed()?;
        let cutoffs = Cutoffs::at(clocks.earlier, *retention);
        let mut report: Vec<_> = RetentionTarget::VARIANTS
            .iter()
            .filter_map(|target| {
                let (kind, before) = (target.as_str(), cutoffs.of(*target)?);
                Some(Removed { kind, dry_run: self.dry_run, rows: 0, oldest: None, newest: None, before })
            })
            .collect();
        let result = self.walk(&mut connection, &cutoffs, &mut report).await;
        print_items(self.json, if self.dry_run { DRY_RUN } else { REMOVED }, &report)?;
        Ok(result?)
    }

    async fn walk(
        &self,
        connection: &mut DbConnection,
        cutoffs: &Cutoffs,
        report: &mut [Removed],
    ) -> Result<(), DbError> {
        let progress = Progress::on_terminal();
        let removal = if self.dry_run { Removal::DryRun } else { Removal::Always };
        for mut walk in Walk::all() {
            let Some(tally) = report.iter_mut().find(|tally| tally.kind == walk.target.as_str()) else {
                continue;
            };
            while let Step::Walked { expired, took } = walk.step(connection, cutoffs, removal).await? {
                tally.add(&expired);
                progress.show(&walk, tally);
                sleep(took).await;
            }
        }
        Ok(())
    }
}

impl Removed {
    fn add(&mut self, removed: &[OffsetDateTime]) {
        self.rows += removed.len() as u64;
        self.oldest = self.oldest.into_iter().chain(removed.iter().copied()).min();
        self.newest = self.newest.max(removed.iter().max().copied());
    }
}

/// A line on the terminal that each step overwrites.
struct Progress {
    shown: bool,
}

impl Progress {
    fn on_terminal() -> Self {
        Self { shown: io::stderr().is_terminal() }
    }

    fn show(&self, walk: &Walk, Removed { kind, rows, before, .. }: &Removed) {
        let (at, end) = (timestamp(walk.at.first_received_at), timestamp(*before));
        self.write(format_args!("{kind}: {rows}, at {at} of {end}"));
    }

    fn write(&self, line: fmt::Arguments<'_>) {
        if self.shown {
            // Return to the start of the line and clear it. An error does not end the command.
            let _ = write!(io::stderr(), "\r\x1b[K{line}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.write(format_args!(""));
    }
}
