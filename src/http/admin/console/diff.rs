//! Two texts beside each other, with their differing lines marked.

use maud::{Markup, html};

use super::text::{excerpt, visible};

/// Unchanged lines that are shown before and after the change.
const CONTEXT: usize = 2;
/// Lines of each side, and characters of a line.
const MAX_LINES: usize = 200;
const MAX_LINE: usize = 2_000;

/// Shows the lines between the common beginning and the common end of two texts.
pub(super) fn lines(recorded: &str, delivered: &str) -> Markup {
    let (old, new): (Vec<_>, Vec<_>) = (recorded.lines().collect(), delivered.lines().collect());
    let start = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let (old_rest, new_rest) = (&old[start..], &new[start..]);
    let end = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(|(old, new)| old == new).count();
    let before = &old[start.saturating_sub(CONTEXT)..start];
    let after = &old_rest[old_rest.len() - end..][..end.min(CONTEXT)];
    let side = |title: &str, all: &[&str], rest: &[&str]| {
        let changed = &rest[..rest.len() - end];
        let line = |line: &str| visible(excerpt(line, MAX_LINE).0);
        html! {
            div {
                span.soft { (title) }
                pre.block tabindex="0" {
                    @if all.is_empty() { span.soft { "nothing" } }
                    @for text in before { span.same { (line(text)) } }
                    @for text in changed.iter().take(MAX_LINES) { mark { (line(text)) } }
                    @for text in after { span.same { (line(text)) } }
                    @if changed.len() > MAX_LINES { span.same { "\u{2026} more lines are not shown" } }
                }
            }
        }
    };
    html! { div.diff { (side("recorded", &old, old_rest)) (side("later webhook", &new, new_rest)) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_changed_lines_are_marked() {
        let html = lines("a\nb\nc\nd\ne", "a\nb\nX\nY\nd\ne").into_string();
        assert!(html.contains("<mark><bdi>c</bdi></mark>"), "{html}");
        assert_eq!(html.matches("<mark>").count(), 3, "{html}");
        let html = lines("", "x").into_string();
        assert!(html.contains("nothing") && html.matches("<mark>").count() == 1, "{html}");
        assert_eq!(lines("a\na", "a").into_string().matches("<mark>").count(), 1);
    }
}
