//! `/api/v1/executions`

use axum::extract::State;
use axum::http::Uri;

use super::query::{FromQuery, Paging, Parameters, PathId, path_identifier};
use super::state::{ApiState, JsonResult};
use crate::db::queries::executions::{Execution, ExecutionDetail, Executions, Filter, GetExecution};
use crate::db::queries::{Page, Scope, TimeRange};
use crate::http::problem::{ApiProblems, DetailProblems, Problem};

impl FromQuery for Executions {
    fn from_query(p: &mut Parameters) -> Result<Self, Problem> {
        let filter = Filter {
            status: p.text("status")?,
            scope: p.scope()?,
            cause: p.text("cause")?,
            reference: p.reference()?,
            ..Filter::default()
        };
        Ok(Self { period: p.period()?, page: p.page::<Self>(&filter)?, filter })
    }

    fn status(&self) -> Option<&str> {
        self.filter.status.as_deref()
    }
}

/// List executions, newest first
#[utoipa::path(
    get, path = "/api/v1/executions", tag = "Executions",
    params(Filter, Scope, TimeRange, Paging),
    responses((status = 200, body = Page<Execution>, description = "A page of executions."), ApiProblems)
)]
pub(super) async fn list_executions(State(api): ApiState, uri: Uri) -> JsonResult<Page<Execution>> {
    api.list::<Executions>(&uri).await
}

/// Get an execution with its results, steps and payload
#[utoipa::path(
    get, path = "/api/v1/executions/{execution_id}", tag = "Executions",
    params(("execution_id" = String, Path, description = "The sender's identifier of the execution.")),
    responses((status = 200, body = ExecutionDetail, description = "The execution."), DetailProblems)
)]
pub(super) async fn get_execution(
    State(api): ApiState,
    uri: Uri,
    id: PathId<String>,
) -> JsonResult<ExecutionDetail> {
    let execution_id = path_identifier(id, "execution")?;
    api.detail(&uri, GetExecution { execution_id }, "execution").await
}
