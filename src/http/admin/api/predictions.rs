//! `/api/v1/predictions`

use axum::extract::State;
use axum::http::Uri;

use super::query::{FromQuery, Paging, Parameters, PathId, path_identifier};
use super::state::{ApiState, JsonResult};
use crate::db::queries::predictions::{Filter, GetPrediction, Prediction, PredictionDetail, Predictions};
use crate::db::queries::{Page, TimeRange};
use crate::http::problem::{ApiProblems, DetailProblems, Problem};

impl FromQuery for Predictions {
    fn from_query(p: &mut Parameters) -> Result<Self, Problem> {
        let filter = Filter {
            workflow: p.text("workflow")?,
            status: p.text("status")?,
            cause: p.text("cause")?,
            reference: p.reference()?,
            ..Filter::default()
        };
        Ok(Self { period: p.period()?, page: p.page::<Self>(&filter)?, filter })
    }
}

/// List predictions, newest first
///
/// A prediction is an execution of a single model, on its own or as a step of a workflow. No count of executions includes
/// predictions.
#[utoipa::path(
    get, path = "/api/v1/predictions", tag = "Predictions",
    params(Filter, TimeRange, Paging),
    responses((status = 200, body = Page<Prediction>, description = "A page of predictions."), ApiProblems)
)]
pub(super) async fn list_predictions(State(api): ApiState, uri: Uri) -> JsonResult<Page<Prediction>> {
    api.list::<Predictions>(&uri).await
}

/// Get a prediction with its output, conflicts and payload
#[utoipa::path(
    get, path = "/api/v1/predictions/{prediction_id}", tag = "Predictions",
    params(("prediction_id" = String, Path, description = "The sender's identifier of the prediction.")),
    responses((status = 200, body = PredictionDetail, description = "The prediction."), DetailProblems)
)]
pub(super) async fn get_prediction(
    State(api): ApiState,
    uri: Uri,
    id: PathId<String>,
) -> JsonResult<PredictionDetail> {
    let prediction_id = path_identifier(id, "prediction")?;
    api.detail(&uri, GetPrediction { prediction_id }, "prediction").await
}
