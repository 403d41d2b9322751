//! Two texts beside each other, with their differing lines marked.

use maud::{Markup, html};

use super::text::{excerpt, visible};

/// Unchanged lines that are shown before and after the change.
const CONTEXT: usize = 2;
/// Pairs of lines that are compared. In longer texts, all lines between the common beginning and end count as changed.
const MAX_COMPARED: usize = 250_000;
/// Lines of each side, and characters of a line.
const MAX_LINES: usize = 200;
const MAX_LINE: usize = 2_000;

/// Shows the lines between the common beginning and the common end of two texts, and marks those that differ.
pub(super) fn lines(recorded: &str, delivered: &str) -> Markup {
    let (old, new): (Vec<_>, Vec<_>) = (recorded.lines().collect(), delivered.lines().collect());
    let start = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let (old_rest, new_rest) = (&old[start..], &new[start..]);
    let end = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(|(old, new)| old == new).count();
    let before = &old[start.saturating_sub(CONTEXT)..start];
    let after = &old_rest[old_rest.len() - end..][..end.min(CONTEXT)];
    let (old_part, new_part) = (&old_rest[..old_rest.len() - end], &new_rest[..new_rest.len() - end]);
    let (old_common, new_common) = common(old_part, new_part);
    let side = |title: &str, all: &[&str], part: &[&str], common: &[bool]| {
        let line = |line: &str| visible(excerpt(line, MAX_LINE).0);
        html! {
            div {
                span.soft { (title) }
                pre.block tabindex="0" {
                    @if all.is_empty() { span.soft { "nothing" } }
                    @for text in before { span.same { (line(text)) } }
                    @for (n, text) in part.iter().enumerate().take(MAX_LINES) {
                        @if !common[n] { mark { (line(text)) } }
                        @else if is_near(common, n) { span.same { (line(text)) } }
                        @else if n == 0 || is_near(common, n - 1) { span.same { "\u{2026}" } }
                    }
                    @for text in after { span.same { (line(text)) } }
                    @if part.len() > MAX_LINES { span.same { "\u{2026} more lines are not shown" } }
                }
            }
        }
    };
    html! {
        div.diff {
            (side("recorded", &old, old_part, &old_common))
            (side("later webhook", &new, new_part, &new_common))
        }
    }
}

/// Whether a changed line is within the context of a line.
fn is_near(common: &[bool], line: usize) -> bool {
    let end = common.len().min(line + CONTEXT + 1);
    common[line.saturating_sub(CONTEXT)..end].contains(&false)
}

/// For each line of both texts, whether it is in their longest common subsequence.
fn common(old: &[&str], new: &[&str]) -> (Vec<bool>, Vec<bool>) {
    let (mut of_old, mut of_new) = (vec![false; old.len()], vec![false; new.len()]);
    if old.len().saturating_mul(new.len()) > MAX_COMPARED {
        return (of_old, of_new);
    }
    // The length for the rests of both texts from each pair of lines.
    let mut lengths = vec![vec![0_u32; new.len() + 1]; old.len() + 1];
    for (i, old_line) in old.iter().enumerate().rev() {
        for (j, new_line) in new.iter().enumerate().rev() {
            lengths[i][j] = if old_line == new_line {
                lengths[i + 1][j + 1] + 1
            } else {
                lengths[i + 1][j].max(lengths[i][j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < old.len() && j < new.len() {
        if old[i] == new[j] {
            (of_old[i], of_new[j]) = (true, true);
            (i, j) = (i + 1, j + 1);
        } else if lengths[i + 1][j] >= lengths[i][j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    (of_old, of_new)
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
        // Two changes: the equal lines between them are not marked.
        let html = lines("A\n1\n2\n3\n4\n5\n6\nB", "a\n1\n2\n3\n4\n5\n6\nb").into_string();
        assert_eq!(html.matches("<mark>").count(), 4, "{html}");
        assert!(
            html.contains("2</bdi></span><span class=\"same\">\u{2026}</span><span class=\"same\"><bdi>5"),
            "{html}"
        );
    }
}
