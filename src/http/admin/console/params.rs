//! The query of a page's URL. Unknown parameters, invalid identifiers and invalid cursors are ignored. An invalid time is
//! shown as an error on the page.

use std::fmt::Debug;

use axum::http::Uri;
use form_urlencoded::Serializer;
use time::OffsetDateTime;

use super::text::url_part;
use crate::db::queries::page::Position;
use crate::db::queries::period::parse_time;
use crate::db::queries::{ListQuery, ListRow, PageRequest, TimeRange};
use crate::execution::identifier;

/// Rows of a page.
const LIMIT: i64 = 50;
/// Values of `since` that pages offer, with their names.
pub(super) const PERIODS: [(&str, &str); 4] =
    [("1h", "1 h"), ("24h", "24 h"), ("7d", "7 d"), ("30d", "30 d")];

pub(super) struct Params {
    path: String,
    pairs: Vec<(String, String)>,
}

impl Params {
    pub(super) fn of(uri: &Uri) -> Self {
        let pairs = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned();
        let pairs = pairs.filter(|(_, value)| !value.trim().is_empty() && !value.contains('\0')).collect();
        Self { path: uri.path().to_owned(), pairs }
    }

    /// The trimmed value of a parameter. `None` if it is missing or empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(given, _)| given == name).map(|(_, value)| value.trim())
    }

    /// A value that can be an identifier or a status.
    pub(super) fn identifier(&self, name: &str) -> Option<String> {
        self.get(name).filter(|value| identifier::is_valid(value)).map(str::to_owned)
    }

    /// The URL of this page with other values; `None` removes a parameter. Without a new `cursor`, the list begins at its first
    /// row.
    pub(super) fn with(&self, changes: &[(&str, Option<&str>)]) -> String {
        let is_changed = |name: &str| name == "cursor" || changes.iter().any(|(changed, _)| *changed == name);
        let kept = self.pairs.iter().filter(|(name, _)| !is_changed(name));
        let kept = kept.map(|(name, value)| (&**name, &**value));
        let added = changes.iter().filter_map(|(name, value)| Some((*name, (*value)?)));
        let query = Serializer::new(String::new()).extend_pairs(kept.chain(added)).finish();
        if query.is_empty() { self.path.clone() } else { format!("{}?{query}", self.path) }
    }

    /// The page that the cursor names, or the first page. A cursor of another list or filter is ignored.
    pub(super) fn page<Q: ListQuery>(&self, filter: &dyn Debug) -> PageRequest {
        let position = |cursor| Position::of_cursor(cursor, <Q::Row>::LIST, filter).ok();
        PageRequest { limit: LIMIT, after: self.get("cursor").and_then(position) }
    }

    /// Whether the page is not the first one.
    pub(super) fn is_continued(&self) -> bool {
        self.get("cursor").is_some()
    }

    /// The period: `since` (such as 24h), or `from` and `to` in UTC, as an `<input type="datetime-local">` writes them.
    ///
    /// # Errors
    /// A sentence about the first invalid time.
    pub(super) fn period(&self) -> Result<TimeRange, String> {
        let since = self.time("since")?;
        Ok(TimeRange { from: since.or(self.time("from")?), to: self.time("to")? })
    }

    fn time(&self, name: &str) -> Result<Option<OffsetDateTime>, String> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let time = match text.len() {
            // 2026-03-02T10:00
            16 if text.as_bytes()[10] == b'T' => parse_time(&format!("{text}:00Z")),
            _ => parse_time(text),
        };
        time.map(Some).map_err(|forms| format!("The time \u{201c}{text}\u{201d} {forms}. No rows are shown."))
    }
}

/// The path of a page about one row, such as `/executions/ID`.
pub(super) fn path(kind: &str, id: &str) -> String {
    format!("/{kind}/{}", url_part(id))
}

/// A URL with one parameter.
pub(super) fn url(path: &str, name: &str, value: &str) -> String {
    filtered(path, [(name, Some(value))])
}

/// A URL with the parameters that have a value.
pub(super) fn filtered<'v>(
    path: &str,
    pairs: impl IntoIterator<Item = (&'v str, Option<&'v str>)>,
) -> String {
    let pairs = pairs.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let query = Serializer::new(String::new()).extend_pairs(pairs).finish();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_keeps_the_other_parameters_and_begins_at_the_first_row() {
        let params = Params::of(&"/executions?status=failed&q=a%20b&cursor=x&bulk=".parse().unwrap());
        assert_eq!(params.with(&[("status", Some("running"))]), "/executions?q=a+b&status=running");
        assert_eq!(params.with(&[("status", None), ("q", None)]), "/executions");
        assert_eq!(params.with(&[("cursor", Some("y"))]), "/executions?status=failed&q=a+b&cursor=y");
        assert_eq!((params.get("q"), params.get("bulk")), (Some("a b"), None));
    }

    #[test]
    fn times_are_accepted_as_browsers_write_them() {
        let period = |query: &str| Params::of(&format!("/?{query}").parse().unwrap()).period();
        let at = period("from=2026-03-02T10:00").unwrap().from.unwrap();
        assert_eq!(at.unix_timestamp(), 1_772_445_600);
        assert!(period("since=24h").unwrap().from.is_some());
        assert!(period("to=tomorrow").unwrap_err().starts_with("The time \u{201c}tomorrow\u{201d} must be"));
    }

    #[test]
    fn an_identifier_is_encoded_in_a_path() {
        assert_eq!(path("bulks", "b/1 é+?"), "/bulks/b%2F1%20%C3%A9%2B%3F");
        assert_eq!(url("/executions", "bulk", "a&b"), "/executions?bulk=a%26b");
        assert_eq!(filtered("/executions", [("bulk", None), ("q", Some("a b"))]), "/executions?q=a+b");
    }
}
