//! `workflow-receiver expected`

use clap::Args;

use super::args::{OutputArgs, choice_parser};
use super::table::{Column, number, or_empty, prose, text, timestamp, timestamp_or_empty};
use super::{CommandError, query_pool};
use crate::config::Settings;
use crate::db::queries::PageRequest;
use crate::db::queries::expected::{self, ExpectedQuery, ExpectedState, Filter};
use crate::db::queries::reference::Reference;

/// Arguments of `expected`.
#[derive(Debug, Args)]
pub(crate) struct Expected {
    /// Only executions that are missing (also the overdue ones), overdue or arrived, or rejected inputs
    #[arg(long, value_parser = choice_parser::<ExpectedState>())]
    state: Option<ExpectedState>,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) const EXPECTED: &[Column<expected::Expected>] = &[
    text("registered", |e| timestamp(e.registered_at)),
    text("bulk", |e| or_empty(e.bulk_id.as_ref())),
    number("input", |e| e.position.to_string()),
    text("execution", |e| or_empty(e.execution_id.as_ref())),
    text("state", |e| e.state.clone()),
    text("status", |e| or_empty(e.status.as_ref())),
    text("due", |e| timestamp_or_empty(e.due_at)),
    text("reference", |e| e.reference.as_ref().map(Reference::to_line).unwrap_or_default()),
    prose("message", |e| or_empty(e.message.as_ref())),
];

impl Expected {
    pub(crate) async fn run(&self, settings: &Settings) -> Result<(), CommandError> {
        let filter = Filter { state: self.state, ..self.filter.clone() };
        let query = ExpectedQuery { filter, page: PageRequest::default() };
        self.output.print_list(&query_pool(settings)?, query, EXPECTED).await
    }
}
