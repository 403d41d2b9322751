//! `workflow-receiver conflicts`

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::args::{OutputArgs, TimeArgs};
use super::table::{Column, number, or_empty, prose, text, timestamp};
use super::{CommandError, query_pool};
use crate::config::Settings;
use crate::db::queries::PageRequest;
use crate::db::queries::conflicts::{self, Conflict, Filter};

/// Arguments of `conflicts`.
#[derive(Debug, Args)]
pub(crate) struct Conflicts {
    /// Only conflicts of this execution
    #[arg(value_name = "EXECUTION", value_parser = NonEmptyStringValueParser::new())]
    execution: Option<String>,
    #[command(flatten)]
    time: TimeArgs,
    #[command(flatten)]
    output: OutputArgs,
}

const CONFLICTS: &[Column<Conflict>] = &[
    text("first received", |c| timestamp(c.first_received_at)),
    text("execution", |c| c.execution_id.clone()),
    text("recorded", |c| or_empty(c.recorded_status.as_ref())),
    text("delivered", |c| c.delivered_status.clone()),
    text("differs in", |c| c.differs_in.as_ref().map(|fields| fields.join(", ")).unwrap_or_default()),
    number("deliveries", |c| c.deliveries.to_string()),
    prose("cause", |c| or_empty(c.delivered_error_cause.as_ref())),
];

impl Conflicts {
    /// Runs the command.
    ///
    /// # Errors
    /// If PostgreSQL does not answer.
    pub(crate) async fn run(&self, settings: &Settings) -> Result<(), CommandError> {
        let (filter, period) = (Filter { execution: self.execution.clone() }, self.time.period());
        let query = conflicts::Conflicts { filter, period, page: PageRequest::default() };
        self.output.print_list(&query_pool(settings)?, query, CONFLICTS).await
    }
}
