//! Parses the query of a URL. Unknown and repeated parameters are errors: a misspelt filter would return other rows.

use std::fmt::Debug;

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::Uri;
use time::OffsetDateTime;
use utoipa::IntoParams;

use crate::db::queries::page::{MAX_LIMIT, Position};
use crate::db::queries::period::{TIME_FORMS, parse_time};
use crate::db::queries::reference::{InvalidReference, ReferenceFilter};
use crate::db::queries::{Choice, ListQuery, ListRow, PageRequest, Query, Scope, TimeRange};
use crate::execution::identifier;
use crate::http::problem::Problem;

/// Maximum characters of an unknown parameter's name in the error.
const MAX_NAME_CHARS: usize = 50;

/// A query whose parameters come from a URL.
pub(crate) trait FromQuery: Query + Sized {
    fn from_query(p: &mut Parameters) -> Result<Self, Problem>;

    /// The status of the filter, for [`super::state::Api::check_status`].
    fn status(&self) -> Option<&str> {
        None
    }
}

/// Parses all parameters of `uri`.
pub(crate) fn parse<Q: FromQuery>(uri: &Uri) -> Result<Q, Problem> {
    let mut parameters = Parameters::of(uri);
    let query = Q::from_query(&mut parameters)?;
    parameters.finish()?;
    Ok(query)
}

// Documents `Parameters::page`.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "for the OpenAPI document only")]
pub(crate) struct Paging {
    /// Maximum number of items.
    #[param(minimum = 1, maximum = 1000, default = 50)]
    limit: Option<i64>,
    /// The `next` of the previous page. Only `from`, `to` and `limit` may differ from the request for that page.
    #[param(min_length = 1, pattern = "^[A-Za-z0-9_-]+$")]
    cursor: Option<String>,
}

/// The parameters of a request. Each method removes the parameter that it returns; [`Self::finish`] rejects the others.
pub(crate) struct Parameters {
    given: Vec<(String, String)>,
    known: Vec<&'static str>,
    /// The request exports a whole list: it has no `limit` and `cursor`.
    export: bool,
}

fn invalid<T>(name: &'static str, allowed: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::parameter(name, allowed))
}

impl Parameters {
    pub(crate) fn of(uri: &Uri) -> Self {
        let given = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        Self { given: given.into_owned().collect(), known: Vec::new(), export: false }
    }

    pub(crate) fn of_export(uri: &Uri) -> Self {
        Self { export: true, ..Self::of(uri) }
    }

    fn take(&mut self, name: &'static str) -> Result<Option<String>, Problem> {
        self.known.push(name);
        let mut values = self.given.extract_if(.., |(given, _)| given == name);
        let value = values.next().map(|(_, value)| value);
        if values.next().is_some() { invalid(name, "must be given once") } else { Ok(value) }
    }

    /// Takes `name` and parses it with `from`; `allowed` describes the valid values.
    fn parsed<T>(
        &mut self,
        name: &'static str,
        from: impl FnOnce(&str) -> Option<T>,
        allowed: impl FnOnce() -> String,
    ) -> Result<Option<T>, Problem> {
        let Some(value) = self.take(name)? else { return Ok(None) };
        from(&value).map_or_else(|| invalid(name, allowed()), |value| Ok(Some(value)))
    }

    /// An identifier, a status, or a part of a cause.
    pub(crate) fn text(&mut self, name: &'static str) -> Result<Option<String>, Problem> {
        let text = |value: &str| identifier::is_valid(value).then(|| value.to_owned());
        let allowed = || format!("must be 1 to {} characters, without U+0000", identifier::MAX_ID_BYTES);
        self.parsed(name, text, allowed)
    }

    /// A parameter of the webhook's URL, as `name=value`.
    pub(crate) fn reference(&mut self) -> Result<Option<ReferenceFilter>, Problem> {
        self.parsed("reference", |value| value.parse().ok(), || InvalidReference.to_string())
    }

    pub(super) fn time(&mut self, name: &'static str) -> Result<Option<OffsetDateTime>, Problem> {
        self.parsed(name, |text| parse_time(text).ok(), || format!("{TIME_FORMS}; encode + as %2B"))
    }

    pub(crate) fn scope(&mut self) -> Result<Scope, Problem> {
        Ok(Scope { workflow: self.text("workflow")?, bulk: self.text("bulk")? })
    }

    /// A number from 1 to `max`.
    pub(crate) fn number(&mut self, name: &'static str, default: i64, max: i64) -> Result<i64, Problem> {
        Ok(self.optional_number(name, max)?.unwrap_or(default))
    }

    /// A number from 1 to `max`, or none.
    pub(crate) fn optional_number(&mut self, name: &'static str, max: i64) -> Result<Option<i64>, Problem> {
        let number = |value: &str| value.parse().ok().filter(|number| (1..=max).contains(number));
        self.parsed(name, number, || format!("must be a whole number from 1 to {max}"))
    }

    /// A position in the change feed.
    pub(crate) fn position(&mut self, name: &'static str) -> Result<Option<ChangePosition>, Problem> {
        let allowed = "must be the number of a change, 0 or latest";
        self.parsed(name, ChangePosition::parse, || allowed.to_owned())
    }

    /// `true` or `false`. False if the parameter is not given.
    pub(super) fn flag(&mut self, name: &'static str) -> Result<bool, Problem> {
        let flag = self.parsed(name, |text| text.parse().ok(), || "must be true or false".to_owned())?;
        Ok(flag.unwrap_or_default())
    }

    pub(crate) fn choice<C: Choice>(&mut self, name: &'static str) -> Result<Option<C>, Problem> {
        let allowed = || {
            let names: Vec<_> = C::ALL.iter().map(|choice| choice.as_str()).collect();
            format!("must be one of {}", names.join(", "))
        };
        self.parsed(name, C::named, allowed)
    }

    pub(crate) fn period(&mut self) -> Result<TimeRange, Problem> {
        Ok(TimeRange { from: self.time("from")?, to: self.time("to")? })
    }

    /// `filter` is [`ListQuery::filter`] of the query.
    pub(crate) fn page<Q: ListQuery>(&mut self, filter: &dyn Debug) -> Result<PageRequest, Problem> {
        if self.export {
            return Ok(PageRequest { limit: Q::EXPORT_LIMIT, after: None });
        }
        let limit = self.number("limit", PageRequest::default().limit, MAX_LIMIT)?;
        let after = match self.take("cursor")? {
            Some(cursor) => match Position::of_cursor(&cursor, <Q::Row>::LIST, filter) {
                Ok(position) => Some(position),
                Err(why) => return invalid("cursor", why.to_string()),
            },
            None => None,
        };
        Ok(PageRequest { limit, after })
    }

    /// # Errors
    /// [`Problem::Parameter`] if there are other parameters.
    pub(crate) fn finish(self) -> Result<(), Problem> {
        let Some((unknown, _)) = self.given.into_iter().next() else { return Ok(()) };
        let name: String = unknown.chars().take(MAX_NAME_CHARS).collect();
        let allowed = if self.known.is_empty() {
            "is unknown: this path has no parameters".to_owned()
        } else {
            format!("is unknown. The parameters are: {}", self.known.join(", "))
        };
        Err(Problem::parameter(name, allowed))
    }
}

/// A position in the change feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChangePosition {
    Number(i64),
    Latest,
}

impl ChangePosition {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text == "latest" {
            return Some(Self::Latest);
        }
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| is_number).map(Self::Number)
    }
}

pub(crate) type PathId<T> = Result<Path<T>, PathRejection>;

/// The identifier in a path. [`Problem::NotRecorded`] if it cannot exist.
pub(crate) fn path_identifier(id: PathId<String>, kind: &'static str) -> Result<String, Problem> {
    let id = id.ok().map(|Path(id)| id).filter(|id| !id.contains('\0'));
    id.ok_or(Problem::NotRecorded { kind })
}

/// The number in a path.
pub(crate) fn path_number(id: PathId<i64>, name: &'static str) -> Result<i64, Problem> {
    id.map_or_else(|_| invalid(name, "must be a whole number"), |Path(id)| Ok(id))
}
