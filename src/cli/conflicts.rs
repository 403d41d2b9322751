//! `workflow-receiver conflicts`

use clap::Args;

use super::args::ListArgs;
use super::table::{Column, number, or_empty, prose, text, timestamp};
use super::{CommandError, query_pool};
use crate::config::Settings;
use crate::db::queries::conflicts::{Conflict, Filter};

/// Arguments of `conflicts`.
#[derive(Debug, Args)]
pub(crate) struct Conflicts {
    #[command(flatten)]
    list: ListArgs<Filter>,
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
    pub(crate) async fn run(&self, settings: &Settings) -> Result<(), CommandError> {
        self.list.output.print_list(&query_pool(settings)?, self.list.listing(), CONFLICTS).await
    }
}
