//! Why a page has no content.

use axum::http::StatusCode;
use maud::{Markup, html};

use super::components::notice;
use super::params::url;
use super::text::visible;
use crate::db::queries::QueryError;
use crate::http::problem::Problem;

#[derive(Debug)]
pub(super) enum PageError {
    /// 503: the query failed.
    Query(QueryError),
    /// 404. `kind` is "execution", for example.
    NotFound { kind: &'static str, id: String },
    /// 404: no page has this path.
    NoPage,
    /// 403: the form is rejected, for this reason.
    Rejected(&'static str),
    /// Any other problem, such as an invalid parameter.
    Problem(Problem),
}

impl From<QueryError> for PageError {
    fn from(error: QueryError) -> Self {
        Self::Query(error)
    }
}

impl From<Problem> for PageError {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl PageError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Query(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotFound { .. } | Self::NoPage => StatusCode::NOT_FOUND,
            Self::Rejected(_) => StatusCode::FORBIDDEN,
            Self::Problem(problem) => problem.parts().0,
        }
    }

    /// Whether the content has a heading.
    pub(super) fn has_heading(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::NoPage)
    }

    pub(super) fn content(&self) -> Markup {
        match self {
            Self::Query(error) => database_error(error),
            Self::NotFound { kind, id } => unknown(kind, id),
            Self::NoPage => html! {
                div.empty {
                    h1 { "Page not found" }
                    p { "No page has this address. Go to the " a href="/" { "overview" } " or search the " a href="/executions" { "executions" } "." }
                }
            },
            Self::Rejected(why) => notice("bad", html! { (why) }),
            Self::Problem(problem) => notice("bad", html! { (problem.parts().2) }),
        }
    }
}

fn unknown(kind: &str, id: &str) -> Markup {
    let list = match kind {
        "prediction" => ("/predictions", "predictions"),
        "bulk" => ("/bulks", "bulks"),
        "quarantine entry" => ("/quarantine", "quarantine"),
        _ => ("/executions", "executions"),
    };
    html! {
        div.empty {
            h1 { "Unknown " (kind) }
            p.id { (visible(id)) }
            @if list.0 == "/quarantine" {
                p { "There is no entry with this number: a retry has recorded it, or it was removed." }
                p { "Show the " a href=(list.0) { (list.1) } "." }
            } @else {
                p { "No " (kind) " with this identifier is recorded. It may still wait in the spool, or it was removed." }
                p {
                    "Show the " a href=(list.0) { (list.1) } ", " a href=(url("/executions", "q", id)) { "search for the identifier" }
                    ", or look into the " a href="/quarantine" { "quarantine" } "."
                }
            }
        }
    }
}

/// The notice of a part of a page whose query failed.
pub(super) fn database_error(error: &QueryError) -> Markup {
    notice(
        "warn",
        html! {
            strong { "The database cannot be read. " }
            (error.to_string()) ". Webhooks are accepted as long as the spool has space."
        },
    )
}
