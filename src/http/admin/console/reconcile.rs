//! The action *Reconcile*: fetches executions whose webhook did not arrive, in the background.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};

use super::components::plural;
use super::form::{self, FormData};
use super::layout::{self, PageError, Tab};
use super::login::local;
use super::params::path;
use super::state::{Console, ConsoleState};
use super::view::View;
use crate::auth::Operator;
use crate::db::DbConnection;
use crate::db::queries::PageRequest;
use crate::db::queries::expected::ExpectedQuery;
use crate::db::queries::page::MAX_LIMIT;
use crate::http::admin::api::query::{PathId, path_identifier};
use crate::http::problem::Problem;
use crate::reconcile::{Counts, Scope};

/// The field with the page that shows the result.
const BACK: &str = "back";
/// Why the button is disabled.
pub(super) const NO_KEY: &str = "Set eachlabs.api_key to fetch executions from each::labs.";

/// The button for one row: `kind` is `executions` or `bulks`. `view` is the page that shows the result.
pub(super) fn button(console: &Console, view: &View, kind: &str, id: &str) -> Markup {
    html! {
        @if console.admin.reconciler.is_some() {
            (form::action(&view.operator, &(path(kind, id) + "/reconcile"), "", html! {
                input type="hidden" name=(BACK) value=(view.uri);
                button { "Reconcile" }
            }))
        } @else {
            button type="button" disabled title=(NO_KEY) { "Reconcile" }
        }
    }
}

/// `POST /executions/{execution_id}/reconcile`
pub(super) async fn execution(
    State(console): ConsoleState,
    view: View,
    fields: FormData,
    id: PathId<String>,
) -> Response {
    let scope = async |id: &str| Ok(Scope::Executions(vec![id.to_owned()]));
    run(&console, &view, &fields, path_identifier(id, "execution"), scope).await
}

/// `POST /bulks/{bulk_id}/reconcile`
pub(super) async fn bulk(
    State(console): ConsoleState,
    view: View,
    fields: FormData,
    id: PathId<String>,
) -> Response {
    let scope = async |id: &str| scope_of_bulk(&console, id).await;
    run(&console, &view, &fields, path_identifier(id, "bulk"), scope).await
}

async fn run(
    console: &Arc<Console>,
    view: &View,
    fields: &FormData,
    id: Result<String, Problem>,
    scope: impl AsyncFnOnce(&str) -> Result<Scope, PageError>,
) -> Response {
    let started = async {
        let id = id?;
        let scope = scope(&id).await?;
        start(console, &view.operator, id, scope).await
    };
    form::done(local(fields.get(BACK)), started.await)
        .unwrap_or_else(|error| layout::page(view, Tab::Bulks, "Not started", Err(error)))
}

/// Up to 1,000 missing executions of a registered bulk. The whole bulk if it is not registered, or misses none.
async fn scope_of_bulk(console: &Console, bulk_id: &str) -> Result<Scope, PageError> {
    let mut query = ExpectedQuery::missing_of_bulk(bulk_id);
    query.page = PageRequest { limit: MAX_LIMIT, after: None };
    let missing = console.run(&query).await?.items;
    let ids: Vec<_> = missing.into_iter().filter_map(|expected| expected.execution_id).collect();
    Ok(if ids.is_empty() {
        Scope::Bulk { bulk: bulk_id.to_owned(), workflow: None }
    } else {
        Scope::Executions(ids)
    })
}

/// Writes the action to the table `audit` and starts the run. The result is written at its end. Returns the number of the
/// action.
async fn start(
    console: &Arc<Console>,
    operator: &Operator,
    target: String,
    scope: Scope,
) -> Result<i64, PageError> {
    let reconciler = console.admin.reconciler.clone().ok_or(PageError::Rejected(NO_KEY))?;
    let busy =
        PageError::Rejected("An earlier reconciliation from the console is still running. Try again later.");
    let permit = console.reconciling.clone().try_acquire_owned().map_err(|_| busy)?;
    let audit_id = console.begin(operator, "reconcile", &target).await?;
    let (console, actor) = (console.clone(), operator.name.clone());
    tokio::spawn(async move {
        let _permit = permit;
        let closing = console.admin.closing.clone();
        let (succeeded, result) = tokio::select! {
            (counts, ended) = reconciler.run(&scope, false, None) => match ended {
                Ok(()) => (true, sentence(&counts)),
                Err(error) => (false, format!("{}: {error}", sentence(&counts))),
            },
            () = closing.cancelled() => return,
        };
        tracing::info!(actor, action = "reconcile", target, succeeded, result, "action of an operator");
        let end = async {
            let mut connection = DbConnection::for_command(&console.admin.credentials.database).await?;
            connection.end_audit(audit_id, succeeded, &result).await
        };
        if let Err(error) = end.await {
            tracing::warn!(audit_id, %error, "the result of an action could not be written to the table audit");
        }
    });
    Ok(audit_id)
}

/// The result of a run.
fn sentence(counts: &Counts) -> String {
    let Counts { checked, recorded, fetched, missing: _, running, absent, unusable, other_urls } = counts;
    let compared = plural(i64::try_from(*checked).unwrap_or(i64::MAX), "execution", "executions");
    let parts = [
        (recorded, "already recorded"),
        (running, "still running"),
        (absent, "absent at each::labs"),
        (unusable, "not readable"),
        (other_urls, "sent to other URLs"),
    ];
    let parts = parts.into_iter().filter(|(number, _)| **number > 0);
    let parts: String = parts.map(|(number, what)| [", ", &number.to_string(), " ", what].concat()).collect();
    format!("Compared {compared} with each::labs: {fetched} fetched{parts}")
}
