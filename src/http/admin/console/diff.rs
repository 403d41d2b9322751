//! The difference between two texts, line by line.

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
    let (removed, added) = (&old_rest[..old_rest.len() - end], &new_rest[..new_rest.len() - end]);
    let before = &old[start.saturating_sub(CONTEXT)..start];
    let after = &old_rest[old_rest.len() - end..][..end.min(CONTEXT)];
    let line = |line: &str| visible(excerpt(line, MAX_LINE).0);
    html! {
        pre.block.diff tabindex="0" {
            @for text in before { span.same { (line(text)) } }
            @for text in removed.iter().take(MAX_LINES) { del { span.visually-hidden { "recorded: " } (line(text)) } }
            @if removed.is_empty() && old.is_empty() { del.soft { "nothing" } }
            @for text in added.iter().take(MAX_LINES) { ins { span.visually-hidden { "delivered: " } (line(text)) } }
            @if added.is_empty() && new.is_empty() { ins.soft { "nothing" } }
            @for text in after { span.same { (line(text)) } }
            @if removed.len().max(added.len()) > MAX_LINES { span.same.soft { "\u{2026} more lines are not shown" } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_changed_lines_are_marked() {
        let html = lines("a\nb\nc\nd\ne", "a\nb\nX\nY\nd\ne").into_string();
        assert!(
            html.contains("<del><span class=\"visually-hidden\">recorded: </span><bdi>c</bdi></del>"),
            "{html}"
        );
        assert_eq!((html.matches("<del>").count(), html.matches("<ins>").count()), (1, 2), "{html}");
        let html = lines("", "x").into_string();
        assert!(html.contains("nothing") && html.matches("<ins>").count() == 1, "{html}");
        assert_eq!(lines("a\na", "a").into_string().matches("<del>").count(), 1);
    }
}
