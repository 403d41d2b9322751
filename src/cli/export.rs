//! `workflow-receiver export`

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::args::{TimeArgs, choice_parser};
use super::{CommandError, query_pool};
use crate::config::Settings;
use crate::db::queries::bulks::Complete;
use crate::db::queries::results::{self, Kind};
use crate::db::queries::status::check_status;
use crate::db::queries::{ListQuery, QueryPool, executions, predictions};
use crate::export::{Encoding, Export, Format, ResultFormat};

/// Arguments of `export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    #[command(subcommand)]
    list: ExportList,
    /// Write to this file instead of standard output. A file with this name is replaced when the export is complete
    #[arg(short, long, value_name = "FILE", global = true)]
    output: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum ExportList {
    /// Executions, newest first
    Executions(RowArgs<executions::Filter>),
    /// Predictions, newest first
    Predictions(RowArgs<predictions::Filter>),
    /// Results, newest executions first
    Results {
        /// The format. `urls`: one URL per line, without data URLs
        #[arg(long, default_value = "jsonl", value_parser = choice_parser::<ResultFormat>())]
        format: ResultFormat,
        /// Only results of this kind
        #[arg(long, value_parser = choice_parser::<Kind>())]
        kind: Option<Kind>,
        #[command(flatten)]
        filter: results::Filter,
        #[command(flatten)]
        time: TimeArgs,
    },
    /// Bulks with their progress, newest first
    Bulks {
        /// The format
        #[arg(long, default_value = "jsonl", value_parser = choice_parser::<Format>())]
        format: Format,
        /// Only bulks that are complete, incomplete, or of unknown size
        #[arg(long, value_parser = choice_parser::<Complete>())]
        complete: Option<Complete>,
        #[command(flatten)]
        time: TimeArgs,
    },
}

#[derive(Debug, Args)]
struct RowArgs<F: Args> {
    /// The format. In CSV, a text that a spreadsheet could run as a formula starts with an apostrophe
    #[arg(long, default_value = "jsonl", value_parser = choice_parser::<Format>())]
    format: Format,
    #[command(flatten)]
    filter: F,
    #[command(flatten)]
    time: TimeArgs,
}

impl ExportArgs {
    /// # Errors
    /// If PostgreSQL does not answer, or the output cannot be written. A file keeps its earlier content then.
    pub(crate) async fn run(&self, settings: &Settings) -> Result<(), CommandError> {
        let pool = query_pool(settings)?;
        let Some(path) = &self.output else {
            return self.list.write(&pool, &mut io::stdout().lock()).await;
        };
        let failed = |error: io::Error| format!("{}: {error}", path.display());
        // In the same directory, because a file system cannot rename into another one.
        let mut name = path.file_name().ok_or("--output must be the path of a file")?.to_owned();
        name.push(".incomplete");
        let incomplete = path.with_file_name(name);
        let mut file = File::create(&incomplete).map_err(failed)?;
        let written = self.list.write(&pool, &mut file).await;
        if let Err(error) = written {
            let _ = std::fs::remove_file(&incomplete);
            return Err(format!("{}: {error}", path.display()).into());
        }
        Ok(std::fs::rename(&incomplete, path).map_err(failed)?)
    }
}

impl ExportList {
    async fn write(&self, pool: &QueryPool, out: &mut impl Write) -> Result<(), CommandError> {
        match self {
            Self::Executions(RowArgs { format, filter, time }) => {
                let status = check_status(pool, filter.status.as_deref()).await?;
                status.map_err(|why| format!("--status {why}"))?;
                write(pool, time.listing(filter.clone()), format.encoding(), out).await
            }
            Self::Predictions(RowArgs { format, filter, time }) => {
                write(pool, time.listing(filter.clone()), format.encoding(), out).await
            }
            Self::Results { format, kind, filter, time } => {
                let filter = results::Filter { kind: *kind, ..filter.clone() };
                write(pool, time.listing(filter), format.encoding(), out).await
            }
            Self::Bulks { format, complete, time } => {
                write(pool, time.listing(*complete), format.encoding(), out).await
            }
        }
    }
}

/// Writes each page when it is read.
async fn write<L: ListQuery<Row: Send> + Send>(
    pool: &QueryPool,
    query: L,
    encoding: Encoding<L::Row>,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    let mut export = Export::new(query, encoding);
    while let Some(text) = export.next(pool).await? {
        out.write_all(text.as_bytes())?;
    }
    Ok(out.flush()?)
}
