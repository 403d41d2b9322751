//! Forms of actions. Each needs the role `operate` and the form key of its operator; [`Console::act`] writes the action to
//! the table `audit`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use http_body_util::{BodyExt, Limited};
use maud::{Markup, html};
use tokio::time::timeout;

use super::layout::{PageError, Tab, page};
use super::state::Console;
use super::view::View;
use crate::auth::Operator;
use crate::db::queries::QueryError;
use crate::db::{DbConnection, DbError};

/// The field with [`Operator::form_key`].
const KEY: &str = "form_key";
/// The largest form, in bytes.
const MAX_FORM: usize = 1 << 20;
/// Time limit of an action.
const ACTION_TIMEOUT: Duration = Duration::from_secs(30);

/// The fields of a form. Extractor for the handlers of actions.
#[derive(Debug, Clone, Default)]
pub(super) struct FormData(Arc<Vec<(String, String)>>);

impl FormData {
    /// The value of a field; empty if there is none.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(given, _)| given == name).map_or("", |(_, value)| value)
    }

    /// The values of a field that occurs several times.
    pub(super) fn all<'f>(&'f self, name: &'f str) -> impl Iterator<Item = &'f str> {
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
pub(super) fn action(operator: &Operator, path: &str, confirm: &str, fields: Markup) -> Markup {
    html! {
        form.actions method="post" action=(path) data-confirm=[(!confirm.is_empty()).then_some(confirm)] {
            (key(operator))
            fieldset.plain disabled[!operator.may_operate()]
                title=[(!operator.may_operate()).then_some("Your token has the role read. Actions need the role operate.")] {
                (fields)
            }
        }
    }
}

/// The field that [`check`] requires in each form.
pub(super) fn key(operator: &Operator) -> Markup {
    html! { input type="hidden" name=(KEY) value=(operator.form_key); }
}

/// Reads the form of a POST request for [`FormData`].
pub(super) async fn read(mut request: Request, next: Next) -> Response {
    if request.method() == Method::POST {
        let body = std::mem::replace(request.body_mut(), Body::empty());
        let Ok(body) = Limited::new(body, MAX_FORM).collect().await else {
            return (StatusCode::PAYLOAD_TOO_LARGE, "The form is too large or incomplete.").into_response();
        };
        let fields = form_urlencoded::parse(&body.to_bytes()).into_owned().collect();
        request.extensions_mut().insert(FormData(Arc::new(fields)));
    }
    next.run(request).await
}

/// Rejects a POST request without the role `operate` or without the form key of its operator.
pub(super) async fn check(
    State(_): State<Arc<Console>>,
    view: View,
    request: Request,
    next: Next,
) -> Response {
    if *request.method() == Method::GET || *request.method() == Method::HEAD {
        return next.run(request).await;
    }
    let form = request.extensions().get::<FormData>().cloned().unwrap_or_default();
    if !view.operator.owns_form(form.get(KEY)) {
        return page(
            &view,
            Tab::Overview,
            "Not done",
            Err(PageError::Refused(
                "The form is out of date: the session has changed, or another web page sent it. Go back, reload the page and \
             try again.",
            )),
        );
    }
    // Each operator may log out.
    if !view.operator.may_operate() && request.uri().path() != "/logout" {
        let why = "Your token has the role read. Actions need the role operate.";
        return page(&view, Tab::Overview, "Not done", Err(PageError::Refused(why)));
    }
    next.run(request).await
}

impl Console {
    /// Runs an action and writes it to the table `audit`: `action` such as `quarantine.drop`, and the identifier of the
    /// row that it concerns. `run` returns what it has changed, or why it has failed, as a sentence. Returns the number of
    /// the action for [`done`].
    ///
    /// # Errors
    /// If PostgreSQL does not answer before the action begins: then it does not run.
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
}

/// Shows `path` with the result of an action.
pub(super) fn done(path: &str, action: Result<i64, PageError>) -> Result<Response, PageError> {
    let audit_id = action?;
    let separator = if path.contains('?') { '&' } else { '?' };
    Ok(Redirect::to(&format!("{path}{separator}done={audit_id}")).into_response())
}
