//! The search boxes of the lists, and where else a search without a match finds something.

use maud::{Markup, html};

use super::components::{count, empty};
use super::failure_class;
use super::params::{Params, path, url};
use super::state::Console;
use crate::db::queries::executions::{self, Executions};
use crate::db::queries::lookup::{Found, Lookup, Table, WithPrefix};
use crate::db::queries::predictions::{self, Predictions};
use crate::db::queries::quarantine::{self, Quarantine};
use crate::db::queries::reference::ReferenceFilter;
use crate::db::queries::search::Words;
use crate::db::queries::{Page, PageRequest, QueryError};
use crate::execution::identifier;

/// Executions that are shown if the first characters of their identifiers are in the search box.
const MAX_WITH_PREFIX: i64 = 10;

/// Matches in another list that are counted. More are shown as `1 000+`. A search by words scans no more rows.
const MAX_COUNTED: i64 = 1_000;

/// What a search box contains: `name=value`, or words.
#[derive(Default)]
pub(super) struct Search {
    pub(super) reference: Option<ReferenceFilter>,
    pub(super) words: Option<Words>,
}

impl Search {
    pub(super) fn of(params: &Params) -> Self {
        let Some(text) = params.get("q") else { return Self::default() };
        let name = text.split_once('=').map(|(name, _)| name);
        let is_name = |name: &str| !name.is_empty() && !name.contains(char::is_whitespace);
        match text.parse() {
            Ok(reference) if name.is_some_and(is_name) => Self { reference: Some(reference), words: None },
            _ => {
                let words = Words::new(text).map(|words| words.or_classes(failure_class::described_by(text)));
                Self { reference: None, words }
            }
        }
    }
}

/// The URL of the row whose identifier is in the search box, or of the list of a workflow or a class of failures.
pub(super) async fn find(console: &Console, params: &Params) -> Result<Option<String>, QueryError> {
    let Some(id) = identifier_of(params) else { return Ok(None) };
    let filtered = |name| Some(params.with(&[("q", None), (name, Some(id))]));
    Ok(match console.run(&Lookup { id: id.to_owned() }).await? {
        Found::Execution => Some(path("executions", id)),
        Found::Prediction => Some(path("predictions", id)),
        Found::Bulk => Some(path("bulks", id)),
        Found::Workflow => filtered("workflow"),
        Found::Nothing if failure_class::is_class(id) => filtered("class"),
        Found::Nothing => None,
    })
}

/// The search text, if it can be an identifier.
fn identifier_of(params: &Params) -> Option<&str> {
    let is_identifier = |text: &&str| identifier::is_valid(text) && !text.contains(char::is_whitespace);
    params.get("q").filter(is_identifier).filter(|_| !params.is_continued())
}

/// The identifiers of executions that begin with the search text.
pub(super) async fn with_prefix(console: &Console, params: &Params) -> Result<Vec<String>, QueryError> {
    let Some(prefix) = identifier_of(params) else { return Ok(Vec::new()) };
    let (table, prefix) = (Table::Executions, prefix.to_owned());
    console.run(&WithPrefix { table, prefix, limit: MAX_WITH_PREFIX }).await
}

/// The search box of a list. `kept` are the parameters that a new search keeps.
pub(super) fn form(params: &Params, action: &str, label: &str, placeholder: &str, kept: &[&str]) -> Markup {
    html! {
        form.search role="search" action=(action) {
            input type="search" name="q" value=[params.get("q")] aria-label=(label) placeholder=(placeholder)
                autocomplete="off" spellcheck="false";
            (hidden(params, kept))
            button { "Search" }
        }
    }
}

/// The given parameters as hidden fields.
pub(super) fn hidden(params: &Params, names: &[&str]) -> Markup {
    html! {
        @for name in names {
            @if let Some(value) = params.get(name) { input type="hidden" name=(name) value=(value); }
        }
    }
}

/// The lists that a search reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Searched {
    Executions,
    Predictions,
    Quarantine,
}

/// The text of a search without a match: `hint` says what it finds, and links lead to the other lists that have a match.
pub(super) async fn nothing_found(
    console: &Console,
    params: &Params,
    here: Searched,
    title: &str,
    hint: Markup,
) -> Result<Markup, QueryError> {
    let text = params.get("q").unwrap_or_default();
    let mut elsewhere = Vec::new();
    for list in [Searched::Executions, Searched::Predictions, Searched::Quarantine] {
        if list != here {
            let (number, more) = matches(console, params, list).await?;
            if number > 0 || more {
                let number = format!("{}{}", count(number), if more { "+" } else { "" });
                let (path, one, many) = match list {
                    Searched::Executions => ("/executions", "execution matches", "executions match"),
                    Searched::Predictions => ("/predictions", "prediction matches", "predictions match"),
                    Searched::Quarantine => {
                        ("/quarantine", "webhook in quarantine matches", "webhooks in quarantine match")
                    }
                };
                elsewhere.push((
                    url(path, "q", text),
                    format!("{number} {}", if number == "1" { one } else { many }),
                ));
            }
        }
    }
    Ok(empty(
        title,
        html! {
            @for (href, text) in &elsewhere { strong { a href=(href) { (text) } } br; }
            (hint)
        },
    ))
}

/// The number of matches in a list, and whether there can be more.
async fn matches(console: &Console, params: &Params, list: Searched) -> Result<(i64, bool), QueryError> {
    let Search { reference, words } = Search::of(params);
    let page = PageRequest { limit: MAX_COUNTED, after: None };
    Ok(match list {
        Searched::Executions => {
            let filter = executions::Filter { reference, words, ..executions::Filter::default() };
            counted(&console.run(&Executions { filter, page, ..Executions::default() }).await?)
        }
        Searched::Predictions => {
            let filter = predictions::Filter { reference, words, ..predictions::Filter::default() };
            counted(&console.run(&Predictions { filter, page, ..Predictions::default() }).await?)
        }
        Searched::Quarantine => {
            let filter = quarantine::Filter { reference, words, reason: None };
            counted(&console.run(&Quarantine { filter, page, ..Quarantine::default() }).await?)
        }
    })
}

fn counted<T>(page: &Page<T>) -> (i64, bool) {
    let number = i64::try_from(page.items.len()).unwrap_or(i64::MAX);
    // A page without a match can end at the scan limit. The quarantine is searched up to this number, too.
    (number, number > 0 && (page.next.is_some() || number == MAX_COUNTED))
}
