//! Shows JSON from webhooks: as a tree that can be folded, and as indented text. Numbers keep all their digits.

use std::collections::BTreeMap;
use std::fmt::Write;

use maud::{Markup, html};
use serde_json::value::RawValue;

use super::components::plural;
use super::text::{excerpt, visible};

/// Maximum values in a tree. Further values are counted. Deeper values are shown as an ellipsis. The payload has all.
const MAX_NODES: usize = 1_500;
const MAX_DEPTH: usize = 16;
/// A tree of a larger text is not rendered.
const MAX_TREE_BYTES: usize = 1 << 20;
/// Maximum bytes of an indented text. The rest is not shown.
const MAX_INDENTED_BYTES: usize = 1 << 20;
/// Deeper lines of an indented text have the indentation of this level.
const MAX_INDENTED_LEVELS: usize = 32;
/// Characters of a string in a tree.
const MAX_STRING: usize = 2_000;
/// Levels of a tree that are open at first.
const OPEN_LEVELS: usize = 2;

/// A tree. A value that is too large is replaced by a hint. Text that is not JSON is shown as text.
pub(super) fn tree(json: &str) -> Markup {
    if json.len() > MAX_TREE_BYTES {
        return html! { p.soft { "This value is too large to be shown here. Download the payload." } };
    }
    let mut nodes = MAX_NODES;
    html! { div.json { (node(json, 0, &mut nodes)) } }
}

fn node(json: &str, depth: usize, nodes: &mut usize) -> Markup {
    let json = json.trim();
    if *nodes == 0 || depth > MAX_DEPTH {
        return html! { span.soft { "\u{2026}" } };
    }
    *nodes -= 1;
    match json.as_bytes().first() {
        Some(b'{') => {
            if let Ok(fields) = serde_json::from_str::<BTreeMap<String, &RawValue>>(json) {
                let items = fields.iter().map(|(key, value)| (Some(&**key), value.get()));
                return children("{\u{2026}}", fields.len(), items, depth, nodes);
            }
        }
        Some(b'[') => {
            if let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(json) {
                let count = items.len();
                let items = items.iter().map(|item| (None, item.get()));
                return children("[\u{2026}]", count, items, depth, nodes);
            }
        }
        Some(b'"') => {
            let text: String = serde_json::from_str(json).unwrap_or_else(|_| json.to_owned());
            let (shown, more) = excerpt(&text, MAX_STRING);
            return html! { span.string { @if text.is_empty() { "\"\"" } (visible(shown)) @if more { "\u{2026}" } } };
        }
        _ => {}
    }
    html! { span.plain { (visible(json)) } }
}

fn children<'j>(
    folded: &str,
    count: usize,
    items: impl Iterator<Item = (Option<&'j str>, &'j str)>,
    depth: usize,
    nodes: &mut usize,
) -> Markup {
    if count == 0 {
        return html! { span.plain { @if folded.starts_with('{') { "{}" } @else { "[]" } } };
    }
    let mut shown = Vec::new();
    for (n, (key, value)) in items.enumerate() {
        if *nodes == 0 {
            shown.push(html! { div.soft { "\u{2026} " (count - n) " more: see the payload" } });
            break;
        }
        shown.push(html! {
            div {
                @if let Some(key) = key { span.key { (visible(key)) ": " } } @else { span.soft { (n) ": " } }
                (node(value, depth + 1, nodes))
            }
        });
    }
    html! {
        details open[depth < OPEN_LEVELS] {
            summary { (folded) " " span.soft { (plural(i64::try_from(count).unwrap_or(i64::MAX), "value", "values")) } }
            @for item in &shown { (item) }
        }
    }
}

/// JSON text with a line for each value, up to [`MAX_INDENTED_BYTES`]. Text that is not JSON is returned unchanged.
pub(super) fn indented(json: &str) -> String {
    if serde_json::from_str::<&RawValue>(json).is_err() {
        return json.to_owned();
    }
    let mut text = String::new();
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    let mut characters = json.chars().peekable();
    while text.len() < MAX_INDENTED_BYTES
        && let Some(character) = characters.next()
    {
        if in_string {
            text.push(character);
            in_string = escaped || character != '"';
            escaped = !escaped && character == '\\';
            continue;
        }
        match character {
            '"' => {
                in_string = true;
                text.push('"');
            }
            '{' | '[' => {
                text.push(character);
                while characters.next_if(char::is_ascii_whitespace).is_some() {}
                if let Some(close) = characters.next_if(|next| matches!(next, '}' | ']')) {
                    text.push(close);
                } else {
                    depth += 1;
                    line(&mut text, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut text, depth);
                text.push(character);
            }
            ',' => {
                text.push(',');
                line(&mut text, depth);
            }
            ':' => text.push_str(": "),
            space if space.is_ascii_whitespace() => {}
            other => text.push(other),
        }
    }
    text
}

fn line(text: &mut String, depth: usize) {
    let _ = write!(text, "\n{:width$}", "", width = depth.min(MAX_INDENTED_LEVELS) * 2);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indented_json_keeps_its_numbers_and_strings() {
        let json = r#"{"a": [1.10,2e400, {}, [ ]],"b{,":"x\\\"},{","c":{"d":null}}"#;
        let expected = "{\n  \"a\": [\n    1.10,\n    2e400,\n    {},\n    []\n  ],\n  \"b{,\": \"x\\\\\\\"},{\",\n  \"c\": {\n    \"d\": null\n  }\n}";
        assert_eq!(indented(json), expected);
        assert_eq!(indented("not {json"), "not {json");
    }

    #[test]
    fn deep_and_wide_json_is_indented_within_bounds() {
        for (depth, width) in [(100_000, 1), (32_000, 100_000)] {
            let json = format!("{}{}1{}", "[".repeat(depth), "1,".repeat(width), "]".repeat(depth));
            assert!(indented(&json).len() < MAX_INDENTED_BYTES + 100, "{depth} {width}");
        }
    }

    #[test]
    fn a_tree_is_bounded_and_escaped() {
        let many = format!("[{}]", vec!["0"; 5_000].join(","));
        let html = tree(&many).into_string();
        assert!(html.contains("3501 more: see the payload") && html.len() < 200_000, "{}", html.len());
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        assert!(tree(&deep).into_string().len() < 5_000);
        assert!(tree(r#"{"a":""}"#).into_string().contains("&quot;&quot;"));
        let html = tree(r#"{"<b>":"</ul><script>"}"#).into_string();
        assert!(
            !html.contains("<b>") && !html.contains("<script>") && html.contains("&lt;script&gt;"),
            "{html}"
        );
    }
}
