//! The operator console: HTML pages on the admin port, rendered on the server.
//!
//! A file has the handlers of one page. Pages run the queries in [`crate::db::queries`] and never contain SQL.
//! [`layout::page`] renders the frame around the content, [`components`] has the parts that pages share, and
//! [`text::visible`] escapes text from webhooks. Actions are POST forms: [`action`] checks and audits them. The pages work
//! without JavaScript.

mod assets;
mod bulk;
mod bulks;
mod components;
mod diff;
mod execution;
mod executions;
mod json_view;
mod layout;
mod media;
mod overview;
mod params;
mod quarantine;
mod results;
mod settings;
mod state;
mod text;
mod units;
mod view;

use axum::Router;
use axum::middleware;
use axum::routing::get;

use self::state::Console;
use super::auth;
use super::state::AdminState;

pub(super) fn routes(admin: AdminState) -> Router {
    let credentials = admin.credentials.clone();
    let console = Console::new(admin);
    Router::new()
        .route("/", get(overview::page))
        .route("/executions", get(executions::page))
        .route("/executions/{execution_id}", get(execution::page))
        .route("/executions/{execution_id}/payload", get(execution::payload))
        .route("/bulks", get(bulks::page))
        .route("/bulks/{bulk_id}", get(bulk::page))
        .route("/quarantine", get(quarantine::page))
        .route("/settings", get(settings::page))
        .layer(middleware::from_fn_with_state(console.clone(), view::secure))
        .merge(assets::routes())
        .layer(middleware::from_fn_with_state(credentials, auth::reject_foreign_host))
        .with_state(console)
}
