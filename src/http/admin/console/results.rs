//! Results of executions as a gallery.

use maud::{Markup, html};

use super::json_view::tree;
use super::media::{Media, ResultHosts, link, player};
use super::params::path;
use super::text::{excerpt, visible};
use crate::db::queries::results::ResultItem;

/// Characters of a text in a gallery; the page of the execution shows more.
const GALLERY_TEXT: usize = 400;
const LARGE_TEXT: usize = 20_000;

/// Where the results are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// The page of the execution.
    Large,
    /// The gallery of a bulk: each result links to its execution.
    Small,
}

/// A gallery. `label` describes the media to screen readers, such as the prompt.
pub(super) fn gallery(
    hosts: ResultHosts<'_>,
    size: Size,
    results: &[ResultItem],
    label: impl Fn(&ResultItem) -> String,
) -> Markup {
    let class = if size == Size::Large { "gallery large" } else { "gallery" };
    html! {
        div class=(class) {
            @for result in results {
                figure data-row[size == Size::Small] {
                    (content(hosts, size, result, &label(result)))
                    figcaption { (caption(hosts, size, result, &label(result))) }
                }
            }
        }
    }
}

/// The URL of a result, and whether the kind is known better than by the URL.
fn url(result: &ResultItem) -> Option<&str> {
    result.value.as_deref().filter(|_| result.kind == "url")
}

fn content(hosts: ResultHosts<'_>, size: Size, result: &ResultItem, label: &str) -> Markup {
    let value = result.value.as_deref().unwrap_or("null");
    if let Some(url) = url(result) {
        let media = hosts.media(url, None);
        return player(media, url, label).unwrap_or_else(|| html! { div.media.other { (link(url)) } });
    }
    match (&*result.kind, size) {
        ("text", Size::Small) => text(value, GALLERY_TEXT),
        ("text", Size::Large) => text(value, LARGE_TEXT),
        (_, Size::Small) => text(value, GALLERY_TEXT),
        _ => html! { div.media.value { (tree(value)) } },
    }
}

fn text(value: &str, limit: usize) -> Markup {
    let (shown, more) = excerpt(value, limit);
    html! { div.media.value { p.text { (visible(shown)) @if more { "\u{2026}" } } } }
}

fn caption(hosts: ResultHosts<'_>, size: Size, result: &ResultItem, label: &str) -> Markup {
    let name = result.name.clone().unwrap_or_else(|| format!("Result {}", result.position));
    html! {
        @match size {
            Size::Large => {
                strong { (visible(&name)) }
                @if let Some(url) = url(result).filter(|url| hosts.media(url, None) != Media::Link) {
                    " " (link(url))
                }
                @if result.truncated { " The value is cut off. Download the payload for all of it." }
            }
            Size::Small => a.row-link.cut href=(path("executions", &result.execution_id)) { (visible(label)) },
        }
    }
}
