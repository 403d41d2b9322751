//! `/settings`: the settings in force, the version and the licences.

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};

use super::components::{actor, badge, bytes};
use super::layout::{self, PageError, Tab};
use super::overview::welcome::test_button;
use super::state::{Console, ConsoleState};
use super::text::visible;
use super::view::View;
use crate::config::Shown;
use crate::http::admin::api::query::Parameters;

const LICENCES: [(&str, &str); 2] = [
    ("MIT", include_str!("../../../../LICENSE-MIT")),
    ("Apache 2.0", include_str!("../../../../LICENSE-APACHE")),
];

pub(super) async fn page(State(console): ConsoleState, view: View) -> Response {
    layout::page(&view, Tab::Settings, "Settings", content(&console, &view))
}

fn content(console: &Console, view: &View) -> Result<Markup, PageError> {
    Parameters::of(&view.uri).finish()?;
    let settings = console.admin.settings.shown();
    let sections = settings.chunk_by(|one, next| one.section == next.section);
    let role: &str = view.operator.role.into();
    Ok(html! {
        div.head { h1 { "Settings" } a.button href="/audit" { "Audit log" } }
        div.cards { section.card {
            h2 { "This receiver" }
            dl.pairs {
                dt { "Version" } dd { (env!("CARGO_PKG_VERSION")) }
                dt { "Webhooks" } dd { code { (console.admin.webhook_address) } }
                @if console.admin.credentials.current().admin_tokens.are_required() {
                    dt { "You" } dd { (actor(&view.operator.name)) " " (badge("muted", html! { (role) })) }
                } @else {
                    dt { "Login" } dd { "not required: no token is set. Everyone who can open this page can run actions." }
                }
            }
        }
        (test_button(&view.operator)) }
        section.card.flush {
            div.head {
                h2 { "Settings in force" }
                small.soft { "Values from the file of " code { "--config" } " and from the environment, otherwise defaults. Secrets are not shown." }
            }
            table.rows.settings {
                thead.visually-hidden { tr { th { "Key" } th { "Value" } } }
                @for section in sections {
                    tbody {
                        tr.section { th colspan="2" scope="rowgroup" { (section[0].section) } }
                        @for setting in section { (row(setting)) }
                    }
                }
            }
        }
        section.card {
            h2 { "Licences" }
            p {
                "workflow-receiver is licensed under MIT or Apache 2.0, at your option. The container image lists its \
                 components and their licences in " code { "/usr/share/sbom/workflow-receiver.cdx.json" } "."
            }
            @for (name, text) in LICENCES {
                details { summary { (name) } pre.block tabindex="0" { (text) } }
            }
        }
    })
}

fn row(setting: &Shown) -> Markup {
    html! {
        tr {
            td {
                @if setting.comment.is_empty() {
                    code { (setting.key) }
                } @else {
                    details { summary { code { (setting.key) } } small.soft { (setting.comment) } }
                }
            }
            td.id { (value(setting)) @if setting.changed { " " (badge("run", html! { "changed" })) } }
        }
    }
}

/// The value; a size also with its unit.
fn value(setting: &Shown) -> Markup {
    let size = setting.value.parse().ok().filter(|_| setting.key.contains("bytes"));
    html! {
        @if setting.value.is_empty() { span.soft { "not set" } } @else { (visible(&setting.value)) }
        @if let Some(size) = size { " " span.soft { "(" (bytes(size)) ")" } }
    }
}
