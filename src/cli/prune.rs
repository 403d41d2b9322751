//! `workflow-receiver prune`: removing what has been kept long enough, now.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use clap::Args;
use serde::Serialize;
use sqlx::postgres::PgConnectOptions;
use strum::VariantArray;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::sleep;

use super::CommandError;
use super::table::{timestamp, timestamp_or_empty};
use crate::config::Retention;
use crate::db::{Cutoffs, DbConnection, DbError, RetentionTarget};
use crate::retention::{Clocks, Walk};

/// How to go about it.
#[derive(Debug, Args)]
pub struct Prune {
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

impl Prune {
    /// Does it, and says what went. Half of the time it leaves PostgreSQL to others.
    ///
    /// # Errors
    /// What went wrong, in a sentence; also when the clocks of this machine and of PostgreSQL disagree. What was
    /// removed before that stays removed, and was said.
    pub async fn run(&self, database: &PgConnectOptions, retention: &Retention) -> Result<(), CommandError> {
        if !retention.removes_something() {
            return Err("everything is kept for ever: say how long to keep what, for example with \
                        RECEIVER__RETENTION__PAYLOADS=90d (retention.* in config/default.toml)"
                .into());
        }
        let mut store = DbConnection::connect(database).await?;
        store.prepare_to_prune(None).await?;
        let clocks = Clocks::read(&mut store).await?.agreed()?;
        let cutoffs = Cutoffs::at(clocks.earlier, retention);
        let mut tallies = [const { Tally { rows: 0, span: None } }; RetentionTarget::VARIANTS.len()];
        let walked = self.walk(&mut store, &cutoffs, &mut tallies).await;
        self.report(&cutoffs, &tallies)?;
        Ok(walked?)
    }

    async fn walk(
        &self,
        store: &mut DbConnection,
        cutoffs: &Cutoffs,
        tallies: &mut [Tally],
    ) -> Result<(), DbError> {
        let progress = Progress::on_terminal();
        for mut walk in Walk::all() {
            while let Some((gone, took)) = walk.step(store, cutoffs, self.dry_run).await? {
                tallies[walk.target as usize].add(&gone);
                progress.show(&walk, cutoffs, tallies[walk.target as usize].rows);
                sleep(took).await;
            }
        }
        Ok(())
    }

    fn report(&self, cutoffs: &Cutoffs, tallies: &[Tally]) -> Result<(), CommandError> {
        let mut out = io::stdout().lock();
        if !self.json {
            let rows = if self.dry_run { "would go" } else { "removed" };
            writeln!(out, "{:<10}  {rows:>12}  {:<20}  {:<20}  before", "", "oldest", "newest")?;
        }
        for &kind in RetentionTarget::VARIANTS {
            let Some(before) = cutoffs.of(kind) else { continue };
            let Tally { rows, span } = &tallies[kind as usize];
            let [oldest, newest] = [span.map(|span| span.0), span.map(|span| span.1)];
            if self.json {
                let line = Line {
                    kind: kind.as_str(),
                    dry_run: self.dry_run,
                    rows: *rows,
                    oldest: oldest.map(|at| at.format(&Rfc3339)).transpose()?,
                    newest: newest.map(|at| at.format(&Rfc3339)).transpose()?,
                    before: before.format(&Rfc3339)?,
                };
                writeln!(out, "{}", serde_json::to_string(&line)?)?;
            } else {
                let ([oldest, newest], before) =
                    ([oldest, newest].map(timestamp_or_empty), timestamp(before));
                writeln!(out, "{:<10}  {rows:>12}  {oldest:<20}  {newest:<20}  {before}", kind.as_str())?;
            }
        }
        Ok(())
    }
}

/// What went of a kind.
#[derive(Debug, Default)]
struct Tally {
    rows: u64,
    /// When the oldest and the newest of them first came.
    span: Option<(OffsetDateTime, OffsetDateTime)>,
}

impl Tally {
    fn add(&mut self, gone: &[OffsetDateTime]) {
        self.rows += gone.len() as u64;
        for at in gone {
            let (oldest, newest) = self.span.unwrap_or((*at, *at));
            self.span = Some((oldest.min(*at), newest.max(*at)));
        }
    }
}

/// A kind as `--json` shows it.
#[derive(Serialize)]
struct Line {
    kind: &'static str,
    dry_run: bool,
    rows: u64,
    oldest: Option<String>,
    newest: Option<String>,
    before: String,
}

/// How far it is, for who sits and waits: one line, written anew with each batch.
struct Progress {
    shown: bool,
}

impl Progress {
    fn on_terminal() -> Self {
        Self { shown: io::stderr().is_terminal() }
    }

    fn show(&self, walk: &Walk, cutoffs: &Cutoffs, rows: u64) {
        let (at, end) = (timestamp(walk.at.first_received_at), timestamp_or_empty(cutoffs.of(walk.target)));
        self.write(format_args!("{}: {rows}, at {at} of {end}", walk.target.as_str()));
    }

    fn write(&self, line: fmt::Arguments<'_>) {
        if self.shown {
            // Back to the beginning of the line, and empty it. Nobody may be looking any more.
            let _ = write!(io::stderr(), "\r\x1b[K{line}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.write(format_args!(""));
    }
}
