//! `workflow-receiver results`

use clap::Args;

use super::args::{ListArgs, choice_parser};
use super::table::{Column, execution_or_prediction, text};
use super::{CommandError, query_pool};
use crate::config::Settings;
use crate::db::queries::EXCERPT_CHARS;
use crate::db::queries::results::{Filter, Kind, ResultItem};

/// Arguments of `results`.
#[derive(Debug, Args)]
pub(crate) struct Results {
    /// Only results of this kind
    #[arg(long, value_parser = choice_parser::<Kind>())]
    kind: Option<Kind>,
    /// Print only the URLs, one per line, without data URLs
    #[arg(long, conflicts_with = "json")]
    urls: bool,
    #[command(flatten)]
    list: ListArgs<Filter>,
}

/// The values are not prose, so they are not cut to the terminal's width: half a URL is useless.
pub(super) const RESULTS: &[Column<ResultItem>] = &[
    text("execution", |r| execution_or_prediction(r.execution_id.as_ref(), r.prediction_id.as_ref())),
    text("kind", |r| r.kind.clone()),
    text("path", |r| r.path.clone()),
    text("value", |r| {
        let value = excerpt(r.url.as_ref().or(r.text.as_ref()).map_or("", String::as_str));
        if r.truncated && r.url.is_some() { value + "…" } else { value }
    }),
];

fn excerpt(value: &str) -> String {
    let max = usize::try_from(EXCERPT_CHARS).unwrap_or(usize::MAX);
    match value.char_indices().nth(max) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}

impl Results {
    pub(crate) async fn run(&self, settings: &Settings) -> Result<(), CommandError> {
        let mut query = self.list.listing();
        query.filter.kind = self.kind;
        let pool = query_pool(settings)?;
        if self.urls {
            return self.list.output.print_lines(&pool, query, ResultItem::whole_url).await;
        }
        self.list.output.print_list(&pool, query, RESULTS).await
    }
}
