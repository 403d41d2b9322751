//! The operator console: HTML pages on the admin port, rendered on the server.
//!
//! A file has the handlers of one page. Pages run the queries in [`crate::db::queries`] and never contain SQL.
//! [`layout::page`] renders the frame around the content, [`components`] has the parts that pages share, and
//! [`text::visible`] escapes text from webhooks. Actions are POST forms: [`check`] checks them, and [`form`] runs and audits
//! them. The pages work without JavaScript.

mod assets;
mod audit;
mod bulk;
mod bulks;
mod check;
mod compared_conflicts;
mod components;
mod conflicts;
mod diff;
mod docs;
mod error;
mod execution;
mod executions;
mod expected;
mod failure_class;
mod form;
mod hosts;
mod json_view;
mod layout;
pub(super) mod login;
mod login_limit;
mod mapping_form;
mod media;
mod next_page;
mod not_found;
mod overview;
mod params;
mod prediction;
mod predictions;
mod quarantine;
mod quarantine_entry;
mod reconcile;
mod results;
mod retried;
mod search;
mod sections;
mod settings;
mod state;
mod steps;
mod text;
mod units;
mod view;

use axum::Router;
use axum::middleware;
use axum::routing::{get, post};

use self::state::Console;
use super::auth;
use super::state::AdminState;

pub(super) struct Routes {
    /// Pages that need a token or a session.
    pub(super) pages: Router,
    /// The answer to an unknown path, which needs a token or a session, too.
    pub(super) not_found: Router,
    /// The login page and the files of all pages.
    pub(super) login: Router,
}

pub(super) fn routes(admin: AdminState) -> Routes {
    let accepted = (admin.credentials.clone(), auth::LOCAL_HOSTS);
    let reject_foreign_host = middleware::from_fn_with_state(accepted, auth::check_host);
    let console = Console::new(admin);
    let secure = middleware::from_fn_with_state(console.clone(), view::secure);
    let pages = Router::new()
        .route("/", get(overview::page))
        .route("/executions", get(executions::page))
        .route("/executions/{execution_id}", get(execution::page))
        .route("/executions/{execution_id}/payload", get(execution::download))
        .route("/executions/{execution_id}/reconcile", post(reconcile::execution))
        .route("/bulks", get(bulks::page))
        .route("/bulks/{bulk_id}", get(bulk::page))
        .route("/bulks/{bulk_id}/reconcile", post(reconcile::bulk))
        .route("/expected", get(expected::page))
        .route("/predictions", get(predictions::page))
        .route("/predictions/{prediction_id}", get(prediction::page))
        .route("/predictions/{prediction_id}/payload", get(prediction::download))
        .route("/quarantine", get(quarantine::page))
        .route("/conflicts", get(conflicts::page))
        .route("/quarantine/drop", post(quarantine::drop_all))
        .route("/quarantine/retry", post(quarantine::retry))
        .route("/quarantine/retried", get(retried::page))
        .route("/quarantine/undo", post(retried::undo))
        .route("/quarantine/{quarantine_id}", get(quarantine_entry::page))
        .route("/quarantine/{quarantine_id}/drop", post(quarantine_entry::drop_entry))
        .route("/quarantine/{quarantine_id}/retry", post(quarantine_entry::retry))
        .route("/settings", get(settings::page))
        .route("/audit", get(audit::page))
        .route("/docs", get(docs::page))
        .route("/logout", post(login::log_out))
        .route("/test-webhook", post(overview::welcome::send))
        .layer(middleware::from_fn_with_state(console.clone(), check::check_form));
    let login = Router::new().route("/login", get(login::show).post(login::log_in));
    let [pages, login] = [pages, login].map(|routes| {
        routes
            .layer(middleware::from_fn(check::read_form))
            .layer(secure.clone())
            .layer(reject_foreign_host.clone())
            .with_state(console.clone())
    });
    let not_found = Router::new()
        .fallback(not_found::answer)
        .layer(secure)
        .layer(reject_foreign_host.clone())
        .with_state(console);
    Routes { pages, not_found, login: login.merge(assets::routes().layer(reject_foreign_host)) }
}
