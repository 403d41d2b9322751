//! Results of executions as a gallery.

use maud::{Markup, html};

use super::hosts::ResultHosts;
use super::json_view::tree;
use super::media::{Media, link, media, player};
use super::params::path;
use super::sections::fetched;
use super::text::{excerpt, visible};
use crate::db::queries::results::ResultItem;

/// Characters of a text in a gallery; the page of the execution shows more.
const GALLERY_TEXT: usize = 400;
const LARGE_TEXT: usize = 20_000;
/// More results than this are shown smaller.
const MANY: usize = 6;

/// Where the results are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// The page of the execution.
    Large,
    /// The gallery of a bulk: each result links to its execution.
    Small,
}

/// The description of a result.
pub(super) struct Label<'r> {
    /// Describes the result to screen readers, such as the prompt.
    pub(super) text: &'r str,
    /// `fetched_from` of the execution, for [`Size::Small`].
    pub(super) fetched_from: Option<&'r str>,
}

impl<'r> From<&'r str> for Label<'r> {
    fn from(text: &'r str) -> Self {
        Self { text, fetched_from: None }
    }
}

pub(super) fn gallery<'r>(
    hosts: &ResultHosts,
    size: Size,
    results: impl IntoIterator<Item = &'r ResultItem>,
    label: impl Fn(&'r ResultItem) -> Label<'r>,
) -> Markup {
    let results: Vec<_> = results.into_iter().collect();
    let class = match size {
        Size::Large if results.len() > MANY => "gallery large many",
        Size::Large => "gallery large",
        Size::Small => "gallery",
    };
    html! {
        div class=(class) {
            @for result in results {
                @let label = label(result);
                figure data-row[size == Size::Small] {
                    (content(hosts, size, result, label.text))
                    figcaption { (caption(hosts, size, result, &label)) }
                }
            }
        }
    }
}

pub(super) fn partial_note(results: &[ResultItem]) -> Markup {
    html! {
        @if results.iter().any(|result| result.is_partial) {
            p.soft { "The payload has more values than are searched. There can be more results in the payload." }
        }
    }
}

fn content(hosts: &ResultHosts, size: Size, result: &ResultItem, label: &str) -> Markup {
    if let Some(url) = &result.url {
        let media = media(hosts, url, Some(&result.kind));
        return player(media, url, label).unwrap_or_else(|| html! { div.media.other { (link(url)) } });
    }
    let text = result.text.as_deref().unwrap_or("null");
    match (&*result.kind, size) {
        ("data", Size::Large) => html! { div.media.value tabindex="0" { (tree(text)) } },
        (_, Size::Large) => excerpt_of(text, LARGE_TEXT),
        (_, Size::Small) => excerpt_of(text, GALLERY_TEXT),
    }
}

fn excerpt_of(text: &str, limit: usize) -> Markup {
    let (shown, more) = excerpt(text, limit);
    html! { div.media.value tabindex=[(limit == LARGE_TEXT).then_some("0")] { p.text { (visible(shown)) @if more { "\u{2026}" } } } }
}

fn caption(hosts: &ResultHosts, size: Size, result: &ResultItem, label: &Label<'_>) -> Markup {
    html! {
        @match size {
            Size::Large => {
                span.id { (visible(&result.path)) }
                @if let Some(url) = &result.url {
                    @if media(hosts, url, Some(&result.kind)) != Media::Link { br; (link(url)) }
                }
                @if result.truncated { " The value is shortened. The payload has the full value." }
            }
            Size::Small => {
                a.row-link.cut href=(path("executions", result.execution_id.as_deref().unwrap_or_default())) { (visible(label.text)) }
                @if let Some(source) = label.fetched_from { (fetched(source)) }
            }
        }
    }
}
