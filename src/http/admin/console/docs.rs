//! `/docs`: the API, with a form for each request. Its script reads `/openapi.json`.

use axum::extract::State;
use axum::response::Response;
use maud::html;

use super::assets::DOCS;
use super::layout::{self, Tab};
use super::state::ConsoleState;
use super::view::View;

pub(super) async fn page(State(_): ConsoleState, view: View) -> Response {
    let content = html! {
        div.head {
            h1 { "API" }
            a.button href="/openapi.json" download="openapi.json" { "Download openapi.json" }
        }
        p.soft #about { "Reading openapi.json …" }
        noscript { p { "This page needs JavaScript. The content is also in " a href="/openapi.json" { "openapi.json" } "." } }
        nav.chips #sections aria-label="Sections" {}
        div #operations {}
        script src=(DOCS.path) defer {}
    };
    layout::page(&view, Tab::Other, "API", Ok(content))
}
