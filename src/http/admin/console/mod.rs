//! The operator console: HTML pages on the admin port, rendered on the server.
//!
//! A file has the handlers of one page. Pages run the queries in [`crate::db::queries`] and never contain SQL.
//! [`layout::page`] renders the frame around the content, [`components`] has the parts that pages share, and
//! [`text::visible`] escapes text from webhooks. Actions are POST forms: [`check`] checks them, and
//! [`form`] runs and audits them. The pages work
//! without JavaScript.

mod assets;
mod audit;
mod bulk;
mod bulks;
mod check;
mod components;
mod conflicts;
mod diff;
mod docs;
mod error;
mod execution;
mod executions;
mod form;
mod hosts;
mod json_view;
mod layout;
pub(super) mod login;
mod mapping_form;
mod media;
mod overview;
mod params;
mod quarantine;
mod quarantine_entry;
mod results;
mod settings;
mod state;
mod text;
mod units;
mod view;

use axum::Router;
use axum::middleware;
use axum::routing::{get, post};

use self::state::Console;
use super::auth;
use super::state::AdminState;

/// The routes that need a token or a session, and those that do not: the login page and the files of all pages.
pub(super) fn routes(admin: AdminState) -> (Router, Router) {
    let reject_foreign_host =
        middleware::from_fn_with_state(admin.credentials.clone(), auth::reject_foreign_host);
    let console = Console::new(admin);
    let secure = middleware::from_fn_with_state(console.clone(), view::secure);
    let pages = Router::new()
        .route("/", get(overview::page))
        .route("/executions", get(executions::page))
        .route("/executions/{execution_id}", get(execution::page))
        .route("/executions/{execution_id}/payload", get(execution::payload))
        .route("/bulks", get(bulks::page))
        .route("/bulks/{bulk_id}", get(bulk::page))
        .route("/quarantine", get(quarantine::page))
        .route("/conflicts", get(conflicts::page))
        .route("/quarantine/drop", post(quarantine::drop_all))
        .route("/quarantine/retry", post(quarantine::retry))
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
    (pages, login.merge(assets::routes().layer(reject_foreign_host)))
}
