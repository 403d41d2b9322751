//! Text from webhooks. It is hostile: a sender can put any character into it.

use std::fmt::Write as _;

use maud::{Escaper, Markup, PreEscaped, html};

use crate::logging::is_terminal_control;

/// Escapes `text` for the content of an element. Control characters and invisible characters are shown by their code
/// point; line breaks and tabs stay. `<bdi>` keeps right-to-left text from changing the order of the text around it.
pub(super) fn visible(text: &str) -> Markup {
    let mut html = String::with_capacity(text.len() + 16);
    html.push_str("<bdi>");
    for part in text.split_inclusive(is_shown_by_code) {
        let mut characters = part.chars();
        let last = characters.next_back();
        let (plain, hidden) = match last.filter(|last| is_shown_by_code(*last)) {
            Some(hidden) => (characters.as_str(), Some(hidden)),
            None => (part, None),
        };
        let _ = Escaper::new(&mut html).write_str(plain);
        if let Some(hidden) = hidden {
            let _ = write!(html, "<span class=\"code-point\">U+{:04X}</span>", u32::from(hidden));
        }
    }
    html.push_str("</bdi>");
    PreEscaped(html)
}

/// [`visible`] text in which the parts between backticks are `code`.
pub(super) fn with_code(text: &str) -> Markup {
    let parts: Vec<_> = text.split('`').collect();
    if parts.len().is_multiple_of(2) {
        return visible(text);
    }
    html! {
        @for (n, part) in parts.iter().enumerate() {
            @if n % 2 == 1 { code { (visible(part)) } } @else if !part.is_empty() { (visible(part)) }
        }
    }
}

/// `text` without control characters and invisible characters, for an attribute such as `title`. Maud escapes the rest.
pub(super) fn visible_attribute(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_shown_by_code(character) {
            let _ = write!(shown, "[U+{:04X}]", u32::from(character));
        } else {
            shown.push(character);
        }
    }
    shown
}

/// The first `max` characters of a text, and whether there are more.
pub(super) fn excerpt(text: &str, max: usize) -> (&str, bool) {
    match text.char_indices().nth(max) {
        Some((end, _)) => (&text[..end], true),
        None => (text, false),
    }
}

/// `text` as a segment of a path or a value of a query.
pub(super) fn url_part(text: &str) -> String {
    let encoded: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
    // A plus sign in a path is not a space.
    encoded.replace('+', "%20")
}

/// Joiners stay: emoji and several scripts need them.
fn is_shown_by_code(character: char) -> bool {
    let invisible = matches!(
        character,
        '\u{ad}' | '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{200b}' | '\u{2060}'..='\u{2064}'
            | '\u{206a}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
    );
    invisible || is_terminal_control(character) && !matches!(character, '\n' | '\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_is_escaped_and_hidden_characters_are_shown_by_their_code_point() {
        let shown = visible("<script>\"x\"&\u{202e}gnp.exe\u{200b}\r\n\t👩\u{200d}🚀").into_string();
        let code = |point| format!("<span class=\"code-point\">U+{point}</span>");
        let expected = format!(
            "<bdi>&lt;script&gt;&quot;x&quot;&amp;{}gnp.exe{}{}\n\t👩\u{200d}🚀</bdi>",
            code("202E"),
            code("200B"),
            code("000D")
        );
        assert_eq!(shown, expected);
        assert_eq!(visible_attribute("a\u{202e}b\u{7}"), "a[U+202E]b[U+0007]");
        assert_eq!(visible("").into_string(), "<bdi></bdi>");
    }

    #[test]
    fn names_in_backticks_are_code() {
        let shown = with_code("`a<b` is missing").into_string();
        assert_eq!(shown, "<code><bdi>a&lt;b</bdi></code><bdi> is missing</bdi>");
        assert_eq!(with_code("one ` only").into_string(), "<bdi>one ` only</bdi>");
    }

    #[test]
    fn a_part_of_a_url_is_encoded() {
        assert_eq!(url_part("a b/c?d=é&\"<+"), "a%20b%2Fc%3Fd%3D%C3%A9%26%22%3C%2B");
    }

    #[test]
    fn an_excerpt_ends_between_characters() {
        assert_eq!(excerpt("héllo", 2), ("hé", true));
        assert_eq!(excerpt("hé", 2), ("hé", false));
    }
}
