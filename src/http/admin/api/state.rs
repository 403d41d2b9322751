//! State and helpers that the handlers of the API share.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::query::{FromQuery, Parameters, parse};
use crate::db::queries::status::check_status;
use crate::db::queries::{Query, QueryError};
use crate::http::admin::state::AdminState;
use crate::http::problem::Problem;

/// Limit of open event streams. The admin port accepts more connections than event streams and exports together, so
/// health and metrics always get an answer.
const MAX_EVENT_STREAMS: usize = 16;
/// Limit of concurrent exports.
const MAX_EXPORTS: usize = 4;
/// Limit of requests that run a reconciliation or wait for the running one.
const MAX_RECONCILIATIONS: usize = 4;
/// Limit of responses in memory, in addition to one for each connection to PostgreSQL.
const EXTRA_RESPONSES: usize = 2;

pub(super) struct Api {
    pub(super) admin: AdminState,
    pub(super) responses: Arc<Semaphore>,
    event_streams: Arc<Semaphore>,
    exports: Arc<Semaphore>,
    reconciliations: Arc<Semaphore>,
}

pub(super) type ApiState = State<Arc<Api>>;
pub(super) type JsonResult<T> = Result<Json<T>, Problem>;

impl Api {
    pub(super) fn new(admin: AdminState) -> Arc<Self> {
        let responses = admin.pool.connections() + EXTRA_RESPONSES;
        let [responses, event_streams, exports, reconciliations] =
            [responses, MAX_EVENT_STREAMS, MAX_EXPORTS, MAX_RECONCILIATIONS]
                .map(|permits| Arc::new(Semaphore::new(permits)));
        Arc::new(Self { admin, responses, event_streams, exports, reconciliations })
    }

    pub(super) async fn run<Q: Query>(&self, query: &Q) -> Result<Q::Answer, QueryError> {
        self.admin.run(query).await
    }

    /// Runs the query that the parameters of `uri` describe.
    pub(super) async fn list<Q: FromQuery>(&self, uri: &Uri) -> JsonResult<Q::Answer> {
        let query = parse::<Q>(uri)?;
        self.check_status(&query).await?;
        Ok(Json(self.run(&query).await?))
    }

    /// # Errors
    /// [`Problem::Parameter`] if no execution has the status of the filter.
    pub(super) async fn check_status(&self, query: &impl FromQuery) -> Result<(), Problem> {
        let checked = check_status(&self.admin.pool, query.status()).await?;
        checked.map_err(|why| Problem::parameter("status", why.to_string()))
    }

    /// Runs a query for one row. `kind` names it in the error, such as "execution".
    ///
    /// # Errors
    /// [`Problem::NotRecorded`] if there is no such row.
    pub(super) async fn detail<T, Q>(&self, uri: &Uri, query: Q, kind: &'static str) -> JsonResult<T>
    where
        Q: Query<Answer = Option<T>>,
    {
        Parameters::of(uri).finish()?;
        self.run(&query).await?.map(Json).ok_or(Problem::NotRecorded { kind })
    }

    /// # Errors
    /// [`Problem::TooMany`]
    pub(super) fn event_stream_permit(&self) -> Result<OwnedSemaphorePermit, Problem> {
        permit(&self.event_streams, "event streams")
    }

    /// # Errors
    /// [`Problem::TooMany`]
    pub(super) fn export_permit(&self) -> Result<OwnedSemaphorePermit, Problem> {
        permit(&self.exports, "exports")
    }

    /// # Errors
    /// [`Problem::TooMany`]
    pub(super) fn reconcile_permit(&self) -> Result<OwnedSemaphorePermit, Problem> {
        permit(&self.reconciliations, "reconciliations")
    }
}

fn permit(semaphore: &Arc<Semaphore>, kind: &'static str) -> Result<OwnedSemaphorePermit, Problem> {
    semaphore.clone().try_acquire_owned().map_err(|_| Problem::TooMany { kind })
}
