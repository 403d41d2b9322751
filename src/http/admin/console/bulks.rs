//! `/bulks`

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};

use super::layout::{self, PageError, Tab};
use super::state::{Console, ConsoleState};
use super::view::View;

pub(super) async fn page(State(console): ConsoleState, view: View) -> Response {
    layout::page(&view, Tab::Bulks, "Bulks", content(&console, &view).await)
}

async fn content(_console: &Console, view: &View) -> Result<Markup, PageError> {
    Ok(html! { h1 { "Bulks" } p { (view.uri.path()) } })
}
