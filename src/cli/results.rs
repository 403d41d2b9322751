//! `workflow-receiver results`

use clap::Args;

use super::args::{OutputArgs, TimeArgs};
use super::table::{Column, number, or_empty, text};
use super::{CommandError, query_pool};
use crate::config::Settings;
use crate::db::queries::results::{Filter, ResultItem, ResultsQuery};
use crate::db::queries::{EXCERPT_CHARS, PageRequest};

/// Arguments of `results`.
#[derive(Debug, Args)]
pub struct Results {
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    time: TimeArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// The values are not prose, so they are not cut to the terminal's width: half a URL is useless.
pub(super) const RESULTS: &[Column<ResultItem>] = &[
    text("execution", |r| r.execution_id.clone()),
    number("position", |r| r.position.to_string()),
    text("name", |r| or_empty(r.name.as_ref())),
    text("kind", |r| r.kind.clone()),
    text("value", |r| excerpt(r.value.as_deref().unwrap_or("null"))),
];

fn excerpt(value: &str) -> String {
    let max = usize::try_from(EXCERPT_CHARS).unwrap_or(usize::MAX);
    match value.char_indices().nth(max) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}

impl Results {
    /// Runs the command.
    ///
    /// # Errors
    /// If PostgreSQL does not answer.
    pub async fn run(&self, settings: &Settings) -> Result<(), CommandError> {
        let (filter, period) = (self.filter.clone(), self.time.period());
        let query = ResultsQuery { filter, period, page: PageRequest::default() };
        self.output.print_list(&query_pool(settings)?, query, RESULTS).await
    }
}
