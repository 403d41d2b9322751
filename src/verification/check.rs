//! Compares an unsigned delivery with the sender's API.
//!
//! The execution of a workflow is requested from the delivery log if `eachlabs.webhook_url` is set: its entry also has the
//! URL of the webhook, which confirms the reference. Otherwise, or without a usable entry, it is requested by its identifier.
//! A prediction is only in the delivery log.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::task::spawn_blocking;

use super::predictions::PredictionSearch;
use super::same_json::same_json;
use crate::credentials::Credentials;
use crate::eachlabs::{ApiError, Client, LoggedDelivery, OwnUrl};
use crate::execution::{Execution, Kind, api_key, status};

/// The result of a check.
#[derive(Debug)]
pub(super) enum Verdict {
    Confirmed(Found),
    /// The API does not have the execution, or the execution has not ended. Both may change.
    Unknown {
        reason: String,
        api_body: Option<Bytes>,
    },
    Different {
        reason: String,
        api_body: Bytes,
    },
    /// The API can never confirm this body.
    Impossible {
        reason: String,
    },
}

/// An execution or a prediction of the API.
#[derive(Debug)]
pub(super) struct Found {
    /// In the form of a webhook. In a [`Verdict`], secrets are removed.
    pub(super) body: Bytes,
    /// From the URL of the webhook in the delivery log.
    pub(super) reference: Option<String>,
}

impl Verdict {
    fn unknown(reason: impl Into<String>) -> Self {
        Self::Unknown { reason: format!("not confirmed: {}", reason.into()), api_body: None }
    }

    pub(super) fn impossible(reason: impl std::fmt::Display) -> Self {
        Self::Impossible { reason: format!("not confirmed: {reason}") }
    }
}

/// Requests executions and compares them with unsigned deliveries.
#[derive(Debug)]
pub(crate) struct Checker {
    pub(crate) client: Client,
    pub(crate) predictions: PredictionSearch,
    /// `eachlabs.webhook_url`
    pub(crate) own_url: Option<OwnUrl>,
    pub(crate) credentials: Arc<Credentials>,
}

impl Checker {
    /// Requests the execution that `body` names, and compares the two.
    ///
    /// # Errors
    /// [`ApiError`] if the API has no usable answer now.
    pub(super) async fn check(&self, body: &Bytes, received_at: OffsetDateTime) -> Result<Verdict, ApiError> {
        let Ok(delivered) = Execution::parse(body) else {
            return Ok(Verdict::impossible("the body is not an execution"));
        };
        if !Client::is_requestable(&delivered.execution_id) {
            return Ok(Verdict::impossible("each::labs has no such identifier"));
        }
        let found = match delivered.kind {
            Kind::Workflow => self.workflow(&delivered.execution_id).await,
            Kind::Prediction => self.prediction(&delivered.execution_id, received_at).await,
        };
        match found {
            Ok(Some(found)) => {
                let body = body.clone();
                // Large or deeply nested bodies need seconds.
                let compared = spawn_blocking(move || compare(&body, found)).await;
                compared.unwrap_or(Err(ApiError::Malformed("it cannot be compared")))
            }
            Ok(None) => Ok(Verdict::unknown(match delivered.kind {
                Kind::Workflow => "each::labs does not have the execution",
                Kind::Prediction => "the delivery log of each::labs does not have the prediction",
            })),
            Err(error @ ApiError::Unsupported(_)) => Ok(Verdict::impossible(error)),
            Err(error) if error.is_about_the_request() => Ok(Verdict::unknown(error.to_string())),
            Err(error) => Err(error),
        }
    }

    async fn workflow(&self, execution_id: &str) -> Result<Option<Found>, ApiError> {
        let mut logged = None;
        if self.own_url.is_some() {
            logged = self.client.usable_delivery(execution_id).await?.map(|logged| self.found(logged));
            // An entry whose status is not terminal can be that of an earlier webhook.
            let has_ended =
                |found: &Found| Execution::parse(&found.body).is_ok_and(|e| status::is_terminal(&e.status));
            if logged.as_ref().is_some_and(has_ended) {
                return Ok(logged);
            }
        }
        if let Some(body) = self.client.execution(execution_id).await? {
            return Ok(Some(Found { body, reference: logged.and_then(|logged| logged.reference) }));
        }
        if self.own_url.is_none() {
            // It may be the execution of another organisation's workflow.
            logged = self.client.usable_delivery(execution_id).await?.map(|logged| self.found(logged));
        }
        Ok(logged)
    }

    async fn prediction(
        &self,
        prediction_id: &str,
        received_at: OffsetDateTime,
    ) -> Result<Option<Found>, ApiError> {
        // Predictions can be logged without an identifier.
        let logged = match self.client.delivery(prediction_id).await? {
            Some(logged) => Some(logged),
            None => self.predictions.find(prediction_id, received_at).await?,
        };
        Ok(logged.map(|logged| self.found(logged)))
    }

    fn found(&self, logged: LoggedDelivery) -> Found {
        Found { reference: self.reference(&logged), body: logged.body }
    }

    /// The reference of a delivery to this receiver.
    fn reference(&self, logged: &LoggedDelivery) -> Option<String> {
        let secrets = self.credentials.current();
        self.own_url.as_ref()?.matched(&logged.url, secrets.sender_secrets())?.reference
    }
}

/// # Errors
/// [`ApiError::Malformed`] if the body of the API is not an execution.
fn compare(delivered: &[u8], found: Found) -> Result<Verdict, ApiError> {
    let Ok(delivered) = Execution::parse(delivered) else {
        return Ok(Verdict::impossible("the body is not an execution"));
    };
    let known = Execution::parse(&found.body).map_err(|_| ApiError::Malformed("not an execution"))?;
    let has_ended = |execution: &Execution<'_>| status::is_terminal(&execution.status);
    // The delivered status is an earlier one. The API has the result.
    let is_earlier = !has_ended(&delivered) && has_ended(&known);
    let different = different_fields(&delivered, &known, is_earlier);
    let body = api_key::remove_at_any_depth(&found.body).map_or_else(|| found.body.clone(), Bytes::from);
    if different.is_empty() {
        return Ok(Verdict::Confirmed(Found { body, ..found }));
    }
    if has_ended(&delivered) && !has_ended(&known) {
        let reason = format!("not confirmed: the execution is {} at each::labs", known.status);
        return Ok(Verdict::Unknown { reason, api_body: Some(body) });
    }
    let reason = format!("differs from each::labs in {}", different.join(", "));
    Ok(Verdict::Different { reason, api_body: body })
}

/// The compared fields that differ. As for fetched executions (`resolve_duplicates.rs`), a field that one of the two lacks
/// is not compared. An empty text counts as missing. With `only_identifiers`, the result is not compared.
fn different_fields(
    delivered: &Execution<'_>,
    known: &Execution<'_>,
    only_identifiers: bool,
) -> Vec<&'static str> {
    fn same(one: Option<&Cow<'_, str>>, other: Option<&Cow<'_, str>>) -> bool {
        let given = |text: &&Cow<'_, str>| !text.is_empty();
        one.filter(given).zip(other.filter(given)).is_none_or(|(one, other)| one == other)
    }
    let identifiers = [
        ("execution_id", delivered.kind == known.kind && delivered.execution_id == known.execution_id),
        ("workflow_id", same(delivered.workflow_id.as_ref(), known.workflow_id.as_ref())),
        ("bulk_id", same(delivered.bulk_id.as_ref(), known.bulk_id.as_ref())),
    ];
    let result = [
        ("status", delivered.status == known.status),
        ("output", delivered.output.zip(known.output).is_none_or(|(one, other)| same_json(one, other))),
        ("error", same(delivered.error.as_ref(), known.error.as_ref())),
        ("error_cause", same(delivered.error_cause.as_ref(), known.error_cause.as_ref())),
    ];
    let result = result.into_iter().filter(|_| !only_identifiers);
    identifiers.into_iter().chain(result).filter(|(_, is_same)| !is_same).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(delivered: &str, known: &str) -> Result<Verdict, ApiError> {
        let found = Found { body: Bytes::from(known.to_owned()), reference: None };
        compare(delivered.as_bytes(), found)
    }

    fn body(fields: &str) -> String {
        format!(r#"{{"execution_id":"e","workflow_id":"w",{fields}}}"#)
    }

    #[test]
    fn the_documented_fields_are_compared_by_value() {
        let completed =
            body(r#""status":"completed","output":{"a":[1,"é"],"b":null},"bulk_id":null,"error":"""#);
        let known = body(
            r#""output" : {"b":null,"a":[1, "\u00e9"]},"status":"completed","bulk_id":"b","api_key":"k","inputs":{"Api_Key":"k"}"#,
        );
        let Ok(Verdict::Confirmed(found)) = verdict(&completed, &known) else { panic!("{known}") };
        let text = String::from_utf8_lossy(&found.body);
        assert!(
            text.contains("inputs") && !text.contains("\"k\""),
            "the version of the API, without the keys at any depth"
        );
        for (fields, different) in [
            (r#""status":"failed""#, "status"),
            (r#""status":"completed","output":{"a":[1,"é"]}"#, "output"),
            (r#""status":"completed","output":{"a":[1,"é"],"b":null},"bulk_id":"c""#, "bulk_id"),
        ] {
            let Ok(Verdict::Different { reason, .. }) = verdict(&body(fields), &known) else {
                panic!("{fields}")
            };
            assert_eq!(reason, format!("differs from each::labs in {different}"));
        }
        let failed =
            |error: &str| body(&format!(r#""status":"failed","error":"{error}","error_cause":"{error}""#));
        let Ok(Verdict::Different { reason, .. }) = verdict(&failed("x"), &failed("y")) else { panic!() };
        assert_eq!(reason, "differs from each::labs in error, error_cause");
        let other = known.replace("\"w\"", "\"v\"").replace("\"e\"", "\"f\"");
        let Ok(Verdict::Different { reason, .. }) = verdict(&completed, &other) else { panic!() };
        assert_eq!(reason, "differs from each::labs in execution_id, workflow_id");
        assert!(matches!(verdict(&completed, "{}"), Err(ApiError::Malformed(_))));
    }

    #[test]
    fn a_field_that_the_api_leaves_out_is_not_a_difference() {
        let delivered = body(r#""status":"failed","output":1,"error":"x","error_cause":"y","bulk_id":"b""#);
        let known = body(r#""status":"failed","output":1"#);
        assert!(matches!(verdict(&delivered, &known), Ok(Verdict::Confirmed(_))));
    }

    #[test]
    fn an_earlier_status_is_confirmed_by_the_ended_execution() {
        let (completed, running) =
            (body(r#""status":"completed","output":1"#), body(r#""status":"running","output":2"#));
        let Ok(Verdict::Confirmed(found)) = verdict(&running, &completed) else { panic!() };
        assert_eq!(found.body, completed);
        assert!(matches!(verdict(&completed, &running), Ok(Verdict::Unknown { api_body: Some(_), .. })));
        assert!(matches!(verdict(&running, &running), Ok(Verdict::Confirmed(_))));
        let queued = body(r#""status":"queued""#);
        assert!(matches!(verdict(&running, &queued), Ok(Verdict::Different { .. })));
    }
}
