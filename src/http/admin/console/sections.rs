//! Sections that the pages of an execution and of a prediction share.

#![expect(clippy::needless_pass_by_value, reason = "calls with `html! { … }` are shorter")]

use axum::http::header;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::components::{actor, ago, notice, plural};
use super::json_view::indented;
use super::layout::PageError;
use super::params::{filtered, path, url};
use super::text::{excerpt, visible};
use crate::db::queries::json::Json;
use crate::db::queries::reference::Reference;
use crate::db::queries::retries::RecordedBy;
use crate::logging::escape_json;

/// Characters of an error or a cause.
pub(super) const MAX_CAUSE: usize = 10_000;
/// Characters of a cause that fit without scrolling.
const FOLDED: usize = 600;
/// Characters of a cause that a link searches for.
pub(super) const MAX_SEARCHED: usize = 200;
/// Maximum characters of the payload on the page. The download has the full payload.
const MAX_PAYLOAD: usize = 200_000;

/// Why an execution or a prediction failed. `class` is its [`super::failure_class::failure_class`]; `more` follows the error.
pub(super) fn failure(
    error: Option<&str>,
    cause: Option<&str>,
    class: Option<Markup>,
    more: Markup,
) -> Markup {
    notice(
        "bad",
        html! {
            h2 { "Why it failed" }
            @match cause.or(error) {
                // A long text is scrolled, also with the keyboard.
                Some(text) => p.text tabindex=[excerpt(text, FOLDED).1.then_some("0")] { (visible(excerpt(text, MAX_CAUSE).0)) },
                None => p { "each::labs sent no reason." },
            }
            @if let Some(class) = class { p { "At fault: " (class) } }
            p.soft {
                @if cause.is_some() { @if let Some(error) = error { "Error: " (visible(excerpt(error, MAX_CAUSE).0)) ". " } }
                (more)
            }
        },
    )
}

/// The list of failed executions with the words of a cause. `pairs` are further filters.
pub(super) fn with_cause<'v>(
    cause: Option<&'v str>,
    pairs: impl IntoIterator<Item = (&'v str, Option<&'v str>)>,
) -> String {
    let cause = cause.map(|cause| excerpt(cause, MAX_SEARCHED).0);
    filtered("/executions", [("status", Some("failed")), ("q", cause)].into_iter().chain(pairs))
}

/// When and how often the webhook of an execution or a prediction arrived.
pub(super) struct Deliveries<'d> {
    /// The list that a reference searches: `/executions` or `/predictions`.
    pub(super) list: &'static str,
    pub(super) count: i32,
    pub(super) redeliveries: i32,
    pub(super) first: OffsetDateTime,
    pub(super) last: OffsetDateTime,
    pub(super) reference: Option<&'d Reference>,
    /// `fetched_from`: one of the deliveries was read from the API of `each::labs`.
    pub(super) fetched_from: Option<&'d str>,
    /// When the execution ended, by the sender's clock.
    pub(super) ended: Option<OffsetDateTime>,
}

impl Deliveries<'_> {
    /// Whether a webhook arrived before the end of a fetched execution. Its status was not terminal.
    fn is_fetched_after_a_webhook(&self) -> bool {
        self.fetched_from.is_some() && self.count > 1 && self.ended.is_some_and(|ended| self.first < ended)
    }
}

/// `more` has further pairs of `dt` and `dd`.
pub(super) fn deliveries(deliveries: &Deliveries<'_>, more: Markup) -> Markup {
    html! {
        section.card aria-labelledby="deliveries" {
            h2 #deliveries { "Deliveries" }
            dl.pairs {
                dt { "Webhooks" }
                dd {
                    @match (deliveries.fetched_from, i64::from(deliveries.count) - 1) {
                        (None, _) => (plural(deliveries.count.into(), "delivery", "deliveries")),
                        (Some(_), ..1) => { "none: the execution was fetched" }
                        (Some(_), 1) if deliveries.is_fetched_after_a_webhook() => {
                            "1 delivery before the execution ended (such as " code { "running" } "), no final one. The result was fetched."
                        }
                        (Some(_), webhooks) => { (plural(webhooks, "delivery", "deliveries")) ", and 1 fetched copy" }
                    }
                    @if deliveries.redeliveries > 0 { ", " (deliveries.redeliveries) " sent again on request" }
                }
                dt { @if deliveries.fetched_from.is_some() && deliveries.count == 1 { "Fetched" } @else { "First" } }
                dd { (exact(deliveries.first)) }
                @if deliveries.count > 1 {
                    dt { @if deliveries.count == 2 && deliveries.is_fetched_after_a_webhook() { "Fetched" } @else { "Latest" } }
                    dd { (exact(deliveries.last)) }
                }
                (more)
            }
        }
        @if let Some(reference) = deliveries.reference { (references(deliveries.list, reference)) }
    }
}

/// A time as how long ago, followed by the exact time.
pub(super) fn exact(at: OffsetDateTime) -> Markup {
    html! { (ago(at)) " " small.exact { (at.truncate_to_second().format(&Rfc3339).unwrap_or_default()) } }
}

pub(super) fn authentication(method: Option<&str>) -> &'static str {
    match method {
        Some("signature") => "signature",
        Some("secret_header") => "secret header",
        Some("url_token") => "token in the URL",
        Some("callback") => "confirmed by the API of each::labs",
        Some("none") => "none (no authentication is configured)",
        _ => "unknown",
    }
}

/// Where an execution was read from. `source` is `fetched_from`.
pub(super) fn source_of(source: &str) -> &'static str {
    match source {
        "delivery_log" => {
            "No final webhook had arrived in time. The execution was read from the delivery log of each::labs."
        }
        "list" => "No final webhook had arrived in time. The execution was read from a list of each::labs.",
        _ => "No final webhook had arrived in time. The execution was read from the API of each::labs.",
    }
}

/// The mark of a fetched execution.
pub(super) fn fetched(source: &str) -> Markup {
    html! { span.badge.muted title=(source_of(source)) { "fetched" } }
}

/// The retry that recorded an execution or a prediction, as a pair of `dt` and `dd`.
pub(super) fn recorded_by(retry: Option<&RecordedBy>) -> Markup {
    html! {
        @if let Some(retry) = retry {
            dt { "Recorded from" }
            dd {
                a href="/quarantine/retried" { "quarantine entry " (retry.quarantine_id) }
                " by " (actor(&retry.retried_by)) ", " (exact(retry.retried_at))
            }
        }
    }
}

fn references(list: &str, reference: &Reference) -> Markup {
    html! {
        section.card aria-labelledby="references" {
            h2 #references { "Reference in the webhook's URL" }
            dl.pairs {
                @for (name, value) in reference.pairs() {
                    dt { (visible(&name)) }
                    dd { a href=(url(list, "q", &format!("{name}={value}"))) { (visible(&value)) } }
                }
            }
            p.soft { "The signature does not protect these parameters: any client that knows the URL can change them." }
        }
    }
}

/// The body of a webhook as PostgreSQL has it.
pub(super) struct Payload<'d> {
    /// The table, which is also the first segment of the path.
    pub(super) table: &'static str,
    pub(super) id: &'d str,
    /// The exact body, if jsonb would differ from it.
    pub(super) text: Option<&'d str>,
    pub(super) json: Option<&'d Json>,
    pub(super) removed_at: Option<OffsetDateTime>,
    /// The body is larger than the API reads.
    pub(super) is_omitted: bool,
}

impl<'d> Payload<'d> {
    pub(super) fn text(&self) -> Option<&'d str> {
        self.text.or(self.json.map(|json| &*json.0))
    }

    /// The body as a file.
    ///
    /// # Errors
    /// [`PageError::NotFound`] if the body is not readable text.
    pub(super) fn file(&self) -> Result<Response, PageError> {
        let headers = [
            (header::CONTENT_TYPE, "application/json"),
            (header::CONTENT_DISPOSITION, "attachment; filename=\"payload.json\""),
        ];
        let not_found = || PageError::NotFound { kind: "payload", id: self.id.to_owned() };
        Ok((headers, self.text().ok_or_else(not_found)?.to_owned()).into_response())
    }

    pub(super) fn section(&self) -> Markup {
        html! {
            section.card aria-labelledby="raw" {
                @if let Some(text) = self.text() {
                    @let text = indented(&escape_json(text));
                    @let (shown, more) = excerpt(&text, MAX_PAYLOAD);
                    div.head {
                        h2 #raw { "Payload" }
                        div.actions {
                            button type="button" data-copy-from="payload" hidden { "Copy" }
                            a.button href={ (path(self.table, self.id)) "/payload" } download { "Download" }
                        }
                    }
                    @if self.text.is_some() {
                        p.soft { "PostgreSQL's jsonb cannot store this body exactly. The exact body is shown here." }
                    }
                    details {
                        summary { "Show the body (" (text.lines().count()) " lines)" }
                        pre.block #payload tabindex="0" { (visible(shown)) }
                        @if more { p.soft { "The rest is not shown. The download has the full payload." } }
                    }
                } @else {
                    h2 #raw { "Payload" }
                    p.soft {
                        @match self.removed_at {
                            Some(at) => { "The payload was removed " (ago(at)) " (retention.payloads)." }
                            None if self.is_omitted => { "The payload is larger than 16 MiB. Read it with psql." }
                            None => { "The payload is not text. Read it with psql: " code { "SELECT payload_bytes FROM " (self.table) } }
                        }
                    }
                }
            }
        }
    }
}
