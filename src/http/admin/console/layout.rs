//! The frame of all pages: head, navigation and footer.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};

use super::assets::{ICON, SCRIPT, STYLE};
use super::components::notice;
pub(super) use super::error::{PageError, database_error};
use super::form;
use super::params::url;
use super::text::{visible, visible_attribute, with_code};
use super::view::View;
use crate::db::queries::audit::Action;

/// An entry of the navigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tab {
    Overview,
    Executions,
    Bulks,
    Predictions,
    Quarantine,
    Settings,
    /// A page that the navigation does not have, such as `/docs`.
    Other,
}

impl Tab {
    const ALL: [(Self, &'static str, &'static str); 6] = [
        (Self::Overview, "/", "Overview"),
        (Self::Executions, "/executions", "Executions"),
        (Self::Bulks, "/bulks", "Bulks"),
        (Self::Predictions, "/predictions", "Predictions"),
        (Self::Quarantine, "/quarantine", "Quarantine"),
        (Self::Settings, "/settings", "Settings"),
    ];
}

/// The notice of an action that has no result yet.
const RUNNING: &str = "The action has started. Reload the page to see its result.";

/// The result of an action, and where a recorded entry of the quarantine is undone.
fn result(done: &Action) -> Markup {
    let is_recorded = done.result.as_deref().is_some_and(|text| text.starts_with("Recorded "));
    let can_undo = is_recorded && matches!(&*done.action, "quarantine.retry" | "quarantine.retry_reason");
    html! {
        (text_of(done))
        @if can_undo { ". " a href="/quarantine/retried" { "Check or undo" } }
    }
}

/// The text of the result. The executions that it names are links: the search opens an execution or a prediction, and says if
/// it is not recorded.
fn text_of(done: &Action) -> Markup {
    let text = done.result.as_deref().unwrap_or(RUNNING);
    let (before, rest, after) = match &*done.action {
        "webhook.test" => ("Test webhook ", text.strip_prefix("Test webhook "), " was answered "),
        "quarantine.retry" => ("Recorded ", text.strip_prefix("Recorded "), " ("),
        "quarantine.undo" => return text_of_undo(text),
        _ => return with_code(text),
    };
    let Some((id, after_id)) = rest.and_then(|rest| rest.split_once(after)) else { return with_code(text) };
    html! { (before) (link_to(id)) (with_code(&format!("{after}{after_id}"))) }
}

/// The result of [`super::retried::undo`].
fn text_of_undo(text: &str) -> Markup {
    let Some(ids) = text.strip_prefix("Undone: ") else { return with_code(text) };
    let (ids, not_undone) = ids.find(". Not undone: ").map_or((ids, ""), |end| ids.split_at(end));
    html! {
        "Undone: "
        @for (n, id) in ids.split(", ").enumerate() { @if n > 0 { ", " } (link_to(id)) }
        (with_code(not_undone))
    }
}

fn link_to(id: &str) -> Markup {
    html! { a href=(url("/executions", "q", id)) { (visible(id)) } }
}

fn log_out(view: &View) -> Markup {
    html! {
        form method="post" action="/logout" {
            (form::key(&view.operator))
            button.plain { "Log out" }
        }
    }
}

/// The head of a document.
#[expect(clippy::needless_pass_by_value, reason = "calls with `html! { … }` are shorter")]
pub(super) fn head(title: &str, script: Markup) -> Markup {
    html! {
        head {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width, initial-scale=1";
            meta name="color-scheme" content="light dark";
            meta name="referrer" content="no-referrer";
            title { (visible_attribute(title)) " · workflow-receiver" }
            link rel="icon" href=(ICON.path) type="image/svg+xml";
            link rel="stylesheet" href=(STYLE.path);
            (script)
        }
    }
}

/// The name of the operator, and that a reader cannot run actions.
fn viewer(view: &View) -> Markup {
    html! {
        div.viewer {
            span {
                (view.operator.name)
                @if !view.operator.may_operate() { " " span.badge.muted title=(form::READ_ONLY) { "read only" } }
            }
            (log_out(view))
        }
    }
}

/// Renders a page. `title` is also the title of the browser's tab. An error sets the status of the response.
pub(super) fn page(view: &View, tab: Tab, title: &str, content: Result<Markup, PageError>) -> Response {
    let (status, content) = match content {
        Ok(content) => (StatusCode::OK, content),
        Err(error) if error.has_heading() => (error.status(), error.content()),
        Err(error) => (error.status(), html! { h1 { (visible(title)) } (error.content()) }),
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            (head(title, html! { script src=(SCRIPT.path) defer {} }))
            body {
                a.skip href="#content" { "Skip to content" }
                header.top {
                    a.brand href="/" title="Overview" {
                        img src=(ICON.path) alt="" width="22" height="22";
                        span { "workflow-receiver" }
                    }
                    nav aria-label="Pages" {
                        @for (this, href, name) in Tab::ALL {
                            a href=(href) aria-current=[(this == tab).then_some("page")] { (name) }
                        }
                    }
                    a.health.(view.health) href="/" title={ "Receiver: " (view.health) } {
                        span.dot {} span { (view.health) }
                    }
                    @if view.operator.session.is_some() { (viewer(view)) }
                }
                main #content tabindex="-1" {
                    @if let Some(done) = &view.done {
                        div data-live=[(done.action == "reconcile").then_some("action")] data-pending[done.succeeded.is_none()] {
                            (notice(
                                match done.succeeded { Some(true) => "ok", Some(false) => "bad", None => "info" },
                                result(done),
                            ))
                        }
                    }
                    (content)
                }
                footer {
                    span { "workflow-receiver " (env!("CARGO_PKG_VERSION")) }
                    a href="/docs" { "API" }
                    a href="/metrics" { "Metrics" }
                    button.plain type="button" data-shortcuts hidden { "Keyboard shortcuts " kbd { "?" } }
                }
                // For pages without a search box.
                dialog #search aria-label="Search executions" {
                    form.search action="/executions" {
                        input type="search" name="q" aria-label="Search executions" placeholder="Search executions"
                            autocomplete="off" spellcheck="false";
                        button { "Search" }
                    }
                }
                dialog #shortcuts aria-labelledby="shortcuts-title" {
                    h2 #shortcuts-title { "Keyboard shortcuts" }
                    dl.pairs {
                        dt { kbd { "/" } } dd { "Search" }
                        dt { kbd { "j" } " " kbd { "k" } } dd { "Next or previous row" }
                        dt { kbd { "Enter" } } dd { "Open the row" }
                        dt { kbd { "g" } " then " kbd { "o" } kbd { "e" } kbd { "b" } kbd { "p" } kbd { "q" } kbd { "s" } }
                        dd { "Overview, Executions, Bulks, Predictions, Quarantine, Settings" }
                        dt { kbd { "?" } } dd { "Show this list" }
                    }
                    form method="dialog" { button { "Close" } }
                }
            }
        }
    };
    (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], page.into_string()).into_response()
}
