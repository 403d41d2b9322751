//! The links between the pages of a list.

use maud::{Markup, html};

use super::params::Params;

/// Links to the newest rows and to older ones.
pub(super) fn next_page(params: &Params, next: Option<&str>, older: &str) -> Markup {
    html! {
        @if params.is_continued() || next.is_some() {
            nav.pager aria-label="Pages of the list" {
                @if params.is_continued() { a.button href=(params.with(&[])) { "Newest" } } @else { span {} }
                @if next.is_some() { a.button rel="next" href=(params.with(&[("cursor", next)])) { (older) } }
            }
        }
    }
}
