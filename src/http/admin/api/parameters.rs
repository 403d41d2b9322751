//! What the query of a URL asks for. What is not understood is refused, and not ignored: a filter with a misspelt
//! name would answer another question.

use axum::http::Uri;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};
use utoipa::IntoParams;

use crate::db::queries::page::{List, MAX_LIMIT, Position};
use crate::db::queries::results::EXPORT_LIMIT;
use crate::db::queries::{Choice, PageRequest, TimeRange};
use crate::http::problem::Problem;

/// Which page of a list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "its documentation; Parameters::page reads it")]
pub(super) struct Paging {
    /// How many items at most.
    #[param(minimum = 1, maximum = 1000, default = 50)]
    limit: Option<i64>,
    /// The `next` of the page before, with the same filters.
    #[param(min_length = 1, pattern = "^[A-Za-z0-9_-]+$")]
    cursor: Option<String>,
}

/// The longest text taken, in characters; identifiers have no more bytes.
const MAX_TEXT: usize = 255;

/// The parameters of a request, taken out one by one.
pub(super) struct Parameters {
    given: Vec<(String, String)>,
    known: Vec<&'static str>,
    /// A whole list is asked for, and no page of it.
    whole: bool,
}

fn not_allowed<T>(name: &'static str, allowed: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::Parameter { name: Some(name), allowed: allowed.into() })
}

impl Parameters {
    pub(super) fn of(uri: &Uri) -> Self {
        let given = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        Self { given: given.into_owned().collect(), known: Vec::new(), whole: false }
    }

    /// Those of a request for a whole list.
    pub(super) fn of_whole(uri: &Uri) -> Self {
        Self { whole: true, ..Self::of(uri) }
    }

    /// Any value of `name`.
    fn take(&mut self, name: &'static str) -> Result<Option<String>, Problem> {
        self.known.push(name);
        let mut values = self.given.extract_if(.., |(given, _)| given == name);
        let value = values.next().map(|(_, value)| value);
        if values.next().is_some() { not_allowed(name, "must be given once") } else { Ok(value) }
    }

    /// A text that something recorded may have.
    pub(super) fn text(&mut self, name: &'static str) -> Result<Option<String>, Problem> {
        let value = self.take(name)?;
        let usable =
            |text: &String| !text.is_empty() && text.chars().nth(MAX_TEXT).is_none() && !text.contains('\0');
        if value.as_ref().is_none_or(usable) {
            return Ok(value);
        }
        not_allowed(name, format!("must be 1 to {MAX_TEXT} characters, without U+0000"))
    }

    pub(super) fn time(&mut self, name: &'static str) -> Result<Option<OffsetDateTime>, Problem> {
        let Some(value) = self.take(name)? else { return Ok(None) };
        let at = OffsetDateTime::parse(&value, &Rfc3339).ok();
        // The end of the calendar is left on the way to UTC, which PostgreSQL is asked in.
        let at = at.and_then(|at| at.checked_to_offset(UtcOffset::UTC));
        at.map_or_else(
            || {
                not_allowed(
                    name,
                    "must be a time like 2026-03-02T10:00:00Z (RFC 3339; a + in it is sent as %2B)",
                )
            },
            |at| Ok(Some(at)),
        )
    }

    pub(super) fn number(&mut self, name: &'static str, usual: i64, most: i64) -> Result<i64, Problem> {
        let Some(value) = self.take(name)? else { return Ok(usual) };
        let number = value.parse().ok().filter(|number| (1..=most).contains(number));
        number.map_or_else(|| not_allowed(name, format!("must be a whole number from 1 to {most}")), Ok)
    }

    pub(super) fn choice<C: Choice>(&mut self, name: &'static str) -> Result<Option<C>, Problem> {
        let Some(value) = self.take(name)? else { return Ok(None) };
        let chosen = C::ALL.iter().find(|choice| choice.as_str() == value).copied();
        chosen.map_or_else(
            || {
                let names: Vec<_> = C::ALL.iter().map(|choice| choice.as_str()).collect();
                not_allowed(name, format!("must be one of {}", names.join(", ")))
            },
            |chosen| Ok(Some(chosen)),
        )
    }

    pub(super) fn period(&mut self) -> Result<TimeRange, Problem> {
        Ok(TimeRange { from: self.time("from")?, to: self.time("to")? })
    }

    pub(super) fn page(&mut self, list: List) -> Result<PageRequest, Problem> {
        if self.whole {
            let limit = if list == List::Results { EXPORT_LIMIT } else { MAX_LIMIT };
            return Ok(PageRequest { limit, after: None });
        }
        let limit = self.number("limit", PageRequest::default().limit, MAX_LIMIT)?;
        let Some(cursor) = self.take("cursor")? else { return Ok(PageRequest { limit, after: None }) };
        match Position::of_cursor(&cursor, list) {
            after @ Some(_) => Ok(PageRequest { limit, after }),
            None => not_allowed("cursor", "must be the `next` of a page of this list, as it came"),
        }
    }

    /// All are taken that mean anything.
    pub(super) fn end(self) -> Result<(), Problem> {
        if self.given.is_empty() {
            return Ok(());
        }
        let allowed = if self.known.is_empty() {
            "No parameters are known here".to_owned()
        } else {
            format!("A parameter is not known here; these are: {}", self.known.join(", "))
        };
        Err(Problem::Parameter { name: None, allowed })
    }
}
