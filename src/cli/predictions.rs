//! `workflow-receiver predictions`

use clap::Args;

use super::args::ListArgs;
use super::output::Output;
use super::table::{Column, number, optional, or_empty, prose, text, timestamp, timestamp_or_empty};
use super::{CommandError, query_pool};
use crate::config::Settings;
use crate::db::queries::QueryPool;
use crate::db::queries::predictions::{
    Filter, GetPrediction, Prediction, PredictionConflict, PredictionDetail,
};
use crate::db::queries::reference::Reference;

/// Arguments of `predictions`.
#[derive(Debug, Args)]
pub(crate) struct Predictions {
    /// Show this prediction with its output and conflicts
    #[arg(value_name = "PREDICTION", conflicts_with_all = ["prediction_filter", "period"])]
    id: Option<String>,
    #[command(flatten)]
    list: ListArgs<Filter>,
}

const PREDICTIONS: &[Column<Prediction>] = &[
    text("first received", |p| timestamp(p.first_received_at)),
    text("prediction", |p| p.prediction_id.clone()),
    text("workflow", |p| or_empty(p.workflow_id.as_ref())),
    text("status", |p| p.status.clone()),
    number("seconds", |p| or_empty(p.duration_seconds.as_ref())),
    number("cost", |p| or_empty(p.total_cost.as_ref().map(|cost| &cost.0))),
    optional("reference", |p| p.reference.as_ref().map(Reference::to_line).unwrap_or_default()),
    prose("cause", |p| or_empty(p.error_cause.as_ref().or(p.error.as_ref()))),
];

const CONFLICTS: &[Column<PredictionConflict>] = &[
    text("first received", |c| timestamp(c.first_received_at)),
    text("status", |c| c.status.clone()),
    number("deliveries", |c| c.deliveries.to_string()),
    prose("cause", |c| or_empty(c.error_cause.as_ref().or(c.error.as_ref()))),
];

impl Predictions {
    /// # Errors
    /// If PostgreSQL does not answer, or the prediction is not recorded.
    pub(crate) async fn run(&self, settings: &Settings) -> Result<(), CommandError> {
        let pool = query_pool(settings)?;
        if let Some(id) = &self.id {
            return self.show(&pool, id).await;
        }
        self.list.output.print_list(&pool, self.list.listing(), PREDICTIONS).await
    }

    async fn show(&self, pool: &QueryPool, id: &str) -> Result<(), CommandError> {
        let Some(prediction) = pool.run(&GetPrediction { prediction_id: id.to_owned() }).await? else {
            return Err(format!(
                "prediction {id:?} is not recorded. If its webhook was answered 200, it may still be in the spool: see \
                 `workflow-receiver status`"
            )
            .into());
        };
        let mut output = Output::new();
        if self.list.output.json {
            output.json(&prediction)?;
        } else {
            print(&mut output, &prediction)?;
        }
        Ok(output.flush()?)
    }
}

fn print(output: &mut Output, detail: &PredictionDetail) -> std::io::Result<()> {
    let p = &detail.prediction;
    let is_omitted = detail.omitted.iter().any(|field| field == "output");
    let omitted = if is_omitted { "too large: use psql" } else { "" };
    output.key_values(&[
        ("prediction", p.prediction_id.clone()),
        ("workflow", or_empty(p.workflow_id.as_ref())),
        ("status", p.status.clone()),
        ("output", detail.output.as_ref().map_or(omitted.to_owned(), |output| output.0.clone())),
        ("error", or_empty(p.error.as_ref())),
        ("cause", or_empty(p.error_cause.as_ref())),
        ("class", or_empty(p.failure_class.as_ref())),
        ("cost", or_empty(p.total_cost.as_ref().map(|cost| &cost.0))),
        ("seconds", or_empty(p.duration_seconds.as_ref())),
        ("first received", timestamp(p.first_received_at)),
        ("last received", timestamp(p.last_received_at)),
        ("deliveries", p.deliveries.to_string()),
        ("redeliveries", p.redeliveries.to_string()),
        ("reference", p.reference.as_ref().map(Reference::to_line).unwrap_or_default()),
        ("authenticated by", or_empty(p.authenticated_by.as_ref())),
        ("payload removed", timestamp_or_empty(detail.payload_removed_at)),
    ])?;
    output.section("Conflicts", output.table(CONFLICTS), &detail.contradicted_by)
}
