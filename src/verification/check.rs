//! Compares an unsigned delivery with the sender's API.
//!
//! The execution of a workflow is requested by its identifier, and if the API does not have it, from the delivery log: it
//! may be the execution of another organisation's workflow. A prediction is only in the delivery log.

use bytes::Bytes;

use crate::eachlabs::{ApiError, Client, Page};
use crate::execution::{Execution, Kind, api_key, status};

/// Rows of a page of the delivery log, and the number of pages in which a prediction is searched.
const PAGE: usize = 50;
const MAX_PAGES: usize = 4;

/// The result of a check.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Equal to this body of the API.
    Confirmed(Bytes),
    /// The API does not have the execution, or not as ended. It may have it later.
    Unknown {
        reason: String,
        api_body: Option<Bytes>,
    },
    Different {
        reason: String,
        api_body: Bytes,
    },
}

impl Verdict {
    fn unknown(reason: impl Into<String>) -> Self {
        Self::Unknown { reason: format!("not confirmed: {}", reason.into()), api_body: None }
    }
}

/// Requests the execution that `body` names, and compares the two.
///
/// # Errors
/// [`ApiError`] if the API cannot be used now.
pub(super) async fn check(client: &Client, body: &[u8]) -> Result<Verdict, ApiError> {
    let Ok(delivered) = Execution::parse(body) else {
        return Ok(Verdict::unknown("the body is not an execution"));
    };
    let found = match delivered.kind {
        Kind::Workflow => workflow(client, &delivered.execution_id).await,
        Kind::Prediction => prediction(client, &delivered.execution_id).await,
    };
    match found {
        Ok(Some(known)) => Ok(compare(&delivered, known)),
        Ok(None) => Ok(Verdict::unknown(match delivered.kind {
            Kind::Workflow => "each::labs does not have the execution",
            Kind::Prediction => "the delivery log of each::labs does not have the prediction",
        })),
        Err(error) if error.is_about_the_request() => Ok(Verdict::unknown(error.to_string())),
        Err(error) => Err(error),
    }
}

async fn workflow(client: &Client, execution_id: &str) -> Result<Option<Bytes>, ApiError> {
    if let Some(body) = client.execution(execution_id).await? {
        return Ok(Some(body));
    }
    match client.delivery(execution_id).await {
        Err(ApiError::Unsupported(_)) => Ok(None),
        logged => Ok(logged?.map(|logged| logged.body)),
    }
}

async fn prediction(client: &Client, prediction_id: &str) -> Result<Option<Bytes>, ApiError> {
    if let Some(logged) = client.delivery(prediction_id).await? {
        return Ok(Some(logged.body));
    }
    // Predictions can be logged without an identifier.
    let mut offset = 0;
    for _ in 0..MAX_PAGES {
        let Page { rows, size, is_last } = client.deliveries(offset, PAGE).await?;
        let is_wanted = |body: &[u8]| {
            Execution::parse(body)
                .is_ok_and(|e| e.kind == Kind::Prediction && e.execution_id == prediction_id)
        };
        if let Some(row) = rows.into_iter().find(|row| is_wanted(&row.body)) {
            return Ok(Some(row.body));
        }
        if is_last {
            break;
        }
        offset += size;
    }
    Ok(None)
}

fn compare(delivered: &Execution<'_>, api_body: Bytes) -> Verdict {
    let api_body = api_key::remove(&api_body).map_or(api_body, Bytes::from);
    let known = match Execution::parse(&api_body) {
        Ok(known) => known,
        Err(error) => return Verdict::unknown(format!("the response of each::labs: {error}")),
    };
    let different = different_fields(delivered, &known);
    if different.is_empty() {
        return Verdict::Confirmed(api_body);
    }
    if status::is_terminal(&delivered.status) && !status::is_terminal(&known.status) {
        let reason = format!("not confirmed: the execution is {} at each::labs", known.status);
        return Verdict::Unknown { reason, api_body: Some(api_body) };
    }
    Verdict::Different { reason: format!("differs from each::labs in {}", different.join(", ")), api_body }
}

/// The compared fields that differ. An empty text counts as missing.
fn different_fields(delivered: &Execution<'_>, known: &Execution<'_>) -> Vec<&'static str> {
    fn text<'e>(text: Option<&'e std::borrow::Cow<'_, str>>) -> Option<&'e str> {
        text.map(AsRef::as_ref).filter(|text| !text.is_empty())
    }
    let pairs = [
        ("execution_id", delivered.kind == known.kind && delivered.execution_id == known.execution_id),
        ("workflow_id", text(delivered.workflow_id.as_ref()) == text(known.workflow_id.as_ref())),
        ("bulk_id", text(delivered.bulk_id.as_ref()) == text(known.bulk_id.as_ref())),
        ("status", delivered.status == known.status),
        ("output", same_json(delivered.output, known.output)),
        ("error", text(delivered.error.as_ref()) == text(known.error.as_ref())),
        ("error_cause", text(delivered.error_cause.as_ref()) == text(known.error_cause.as_ref())),
    ];
    pairs.into_iter().filter(|(_, is_same)| !is_same).map(|(name, _)| name).collect()
}

/// Compares values, not their notation.
fn same_json(one: Option<&str>, other: Option<&str>) -> bool {
    if one == other {
        return true;
    }
    let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
    matches!((one.and_then(value), other.and_then(value)), (Some(one), Some(other)) if one == other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_fields_are_compared_by_value() {
        let verdict = |delivered: &str, known: &str| {
            compare(&Execution::parse(delivered.as_bytes()).unwrap(), Bytes::from(known.to_owned()))
        };
        let body = |fields: &str| format!(r#"{{"execution_id":"e","workflow_id":"w",{fields}}}"#);
        let completed =
            body(r#""status":"completed","output":{"a":[1,"é"],"b":null},"bulk_id":null,"error":"""#);
        let known =
            body(r#""output" : {"b":null,"a":[1, "\u00e9"]},"status":"completed","api_key":"k","inputs":{}"#);
        let Verdict::Confirmed(body_of_api) = verdict(&completed, &known) else { panic!("{known}") };
        let text = String::from_utf8_lossy(&body_of_api);
        assert!(
            text.contains("inputs") && !text.contains("\"k\""),
            "the version of the API, without the key"
        );
        for (fields, different) in [
            (r#""status":"failed""#, "status, output"),
            (r#""status":"completed","output":{"a":[1,"é"]}"#, "output"),
            (r#""status":"completed","output":{"a":[1,"é"],"b":null},"bulk_id":"b""#, "bulk_id"),
            (
                r#""status":"completed","output":{"a":[1,"é"],"b":null},"error":"x","error_cause":"y""#,
                "error, error_cause",
            ),
        ] {
            let Verdict::Different { reason, .. } = verdict(&body(fields), &known) else {
                panic!("{fields}")
            };
            assert_eq!(reason, format!("differs from each::labs in {different}"));
        }
        let other = known.replace("\"w\"", "\"v\"").replace("\"e\"", "\"f\"");
        let Verdict::Different { reason, .. } = verdict(&completed, &other) else { panic!() };
        assert_eq!(reason, "differs from each::labs in execution_id, workflow_id");

        let running = body(r#""status":"running""#);
        assert!(matches!(verdict(&completed, &running), Verdict::Unknown { api_body: Some(_), .. }));
        assert!(matches!(verdict(&running, &running), Verdict::Confirmed(_)));
        assert!(matches!(verdict(&completed, "{}"), Verdict::Unknown { api_body: None, .. }));
    }
}
