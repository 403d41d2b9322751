//! Forms of actions. [`Console::act`] runs an action and writes it to the table `audit`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use tokio::time::timeout;

use super::error::PageError;
use super::state::Console;
use crate::auth::Operator;
use crate::db::queries::QueryError;
use crate::db::{DbConnection, DbError};

/// The field with [`Operator::form_key`].
pub(super) const KEY: &str = "form_key";
/// Why an operator cannot run an action.
pub(super) const READ_ONLY: &str =
    "Your token has the role \u{201c}read\u{201d}. Actions need the role \u{201c}operate\u{201d}.";
/// Time limit of an action.
const ACTION_TIMEOUT: Duration = Duration::from_secs(30);

/// The fields of a form. Extractor for the handlers of actions.
#[derive(Debug, Clone, Default)]
pub(super) struct FormData(Arc<Vec<(String, String)>>);

impl FormData {
    pub(super) fn parse(body: &[u8]) -> Self {
        Self(Arc::new(form_urlencoded::parse(body).into_owned().collect()))
    }

    /// The value of a field; empty if there is none.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(given, _)| given == name).map_or("", |(_, value)| value)
    }

    /// The values of a repeated field.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(given, _)| given == name).map(|(_, value)| &**value)
    }
}

impl<S: Sync> FromRequestParts<S> for FormData {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get().cloned().unwrap_or_default())
    }
}

/// A form whose button runs an action. `confirm` is a question for actions that cannot be undone; empty for others. An
/// operator with the role `read` sees disabled buttons.
#[expect(clippy::needless_pass_by_value, reason = "calls with `html! { … }` are shorter")]
pub(super) fn action(operator: &Operator, path: &str, confirm: &str, fields: Markup) -> Markup {
    html! {
        form.actions method="post" action=(path) data-confirm=[(!confirm.is_empty()).then_some(confirm)] {
            (key(operator))
            fieldset.plain disabled[!operator.may_operate()]
                title=[(!operator.may_operate()).then_some(READ_ONLY)] {
                (fields)
            }
        }
    }
}

/// The field that each form needs.
pub(super) fn key(operator: &Operator) -> Markup {
    html! { input type="hidden" name=(KEY) value=(operator.form_key); }
}

impl Console {
    /// Runs an action and writes it to the table `audit`. `name` is such as `quarantine.drop`; `target` is the identifier of
    /// the changed row. `run` returns a sentence: the change, or the cause of the failure. Returns the number of the action
    /// for [`done`].
    ///
    /// # Errors
    /// If PostgreSQL does not answer. If that happens before the action begins, the action does not run.
    pub(super) async fn act(
        &self,
        operator: &Operator,
        name: &'static str,
        target: &str,
        run: impl AsyncFnOnce(&mut DbConnection) -> Result<String, String>,
    ) -> Result<i64, PageError> {
        let action = async {
            let mut connection = DbConnection::for_command(&self.admin.credentials.database).await?;
            let target = target.replace('\0', "");
            let audit_id = connection.begin_audit(&operator.name, name, &target).await?;
            let result = run(&mut connection).await;
            let (succeeded, result) = match &result {
                Ok(result) => (true, result),
                Err(why) => (false, why),
            };
            tracing::info!(
                actor = operator.name,
                action = name,
                target,
                succeeded,
                result,
                "action of an operator"
            );
            connection.end_audit(audit_id, succeeded, result).await?;
            Ok::<_, DbError>(audit_id)
        };
        let done = timeout(ACTION_TIMEOUT, action).await.unwrap_or(Err(DbError::TimedOut));
        done.map_err(|error| PageError::Query(QueryError::from(error)))
    }

    /// Writes to the table `audit` that an action begins, for actions that end after the response.
    pub(super) async fn begin(
        &self,
        operator: &Operator,
        name: &'static str,
        target: &str,
    ) -> Result<i64, PageError> {
        let begin = async {
            let mut connection = DbConnection::for_command(&self.admin.credentials.database).await?;
            connection.begin_audit(&operator.name, name, &target.replace('\0', "")).await
        };
        let audit_id = timeout(ACTION_TIMEOUT, begin).await.unwrap_or(Err(DbError::TimedOut));
        audit_id.map_err(|error| PageError::Query(QueryError::from(error)))
    }
}

/// Shows `path` with the result of an action.
pub(super) fn done(path: &str, action: Result<i64, PageError>) -> Result<Response, PageError> {
    let audit_id = action?;
    let separator = if path.contains('?') { '&' } else { '?' };
    Ok(Redirect::to(&format!("{path}{separator}done={audit_id}")).into_response())
}
