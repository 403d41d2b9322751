//! `/executions/{execution_id}`

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};

use super::layout::{self, PageError, Tab};
use super::state::{Console, ConsoleState};
use super::text::visible;
use super::view::View;
use crate::http::admin::api::query::{PathId, path_identifier};

pub(super) async fn page(State(console): ConsoleState, view: View, id: PathId<String>) -> Response {
    layout::page(&view, Tab::Executions, "Execution", content(&console, id).await)
}

async fn content(_console: &Console, id: PathId<String>) -> Result<Markup, PageError> {
    let execution_id = path_identifier(id, "execution")?;
    Ok(html! { h1 { (visible(&execution_id)) } })
}
