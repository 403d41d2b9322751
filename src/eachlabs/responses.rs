//! Parses responses. In a row, a value of another type counts as missing. A row that cannot be used is skipped and counted.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::error::ApiError;
use crate::execution::status;

/// A page of a list.
#[derive(Debug)]
pub(crate) struct Page<T> {
    /// The usable rows.
    pub(crate) rows: Vec<T>,
    /// The number of rows, including unusable ones.
    pub(crate) size: usize,
    /// The page is shorter than its limit.
    pub(crate) is_last: bool,
}

impl<T> Page<T> {
    /// How many rows of the page are not usable.
    pub(crate) fn unusable(&self) -> u64 {
        self.size.saturating_sub(self.rows.len()) as u64
    }
}

/// An execution in the list of a workflow.
#[derive(Debug)]
pub(crate) struct ExecutionRow {
    pub(crate) execution_id: String,
    pub(crate) bulk_id: Option<String>,
    /// Whether the status is terminal.
    pub(crate) has_ended: bool,
    /// The end; without it, the start or the creation.
    pub(crate) time: Option<OffsetDateTime>,
    /// The row as the body of a webhook, without `api_key` and `webhook_secret`.
    pub(crate) body: Bytes,
}

/// An entry of the delivery log. The field `headers` is not read: it may contain the webhook secret.
#[derive(Debug)]
pub(crate) struct LoggedDelivery {
    /// The URL that `each::labs` sent the webhook to. Its query and its path may contain a token.
    pub(crate) url: String,
    pub(crate) created_at: Option<OffsetDateTime>,
    /// The body as it was sent.
    pub(crate) body: Bytes,
}

#[derive(Deserialize)]
struct Rows {
    #[serde(alias = "webhooks")]
    executions: Option<Vec<Box<RawValue>>>,
    limit: Option<serde_json::Value>,
    total_count: Option<serde_json::Value>,
}

type Fields = std::collections::BTreeMap<String, Box<RawValue>>;

/// Parses a list. `limit` is the requested page size; the API may use a smaller one.
///
/// # Errors
/// [`ApiError::Malformed`] without the array of rows: an empty list would mean that nothing was missed.
fn page<T>(body: &[u8], limit: usize, parse: impl Fn(&RawValue) -> Option<T>) -> Result<Page<T>, ApiError> {
    let Rows { executions: rows, limit: used, total_count } =
        serde_json::from_slice(body).map_err(|_| ApiError::Malformed("not a list"))?;
    // Some servers write null for an empty array.
    let is_empty = total_count.is_some_and(|count| count == 0);
    let rows = rows.or(is_empty.then(Vec::new)).ok_or(ApiError::Malformed("a list without its rows"))?;
    let used = used.and_then(|used| usize::try_from(used.as_u64()?).ok()).filter(|used| *used > 0);
    let (size, limit) = (rows.len(), used.map_or(limit, |used| used.min(limit)));
    Ok(Page { rows: rows.iter().filter_map(|row| parse(row)).collect(), size, is_last: size < limit })
}

pub(super) fn executions(body: &[u8], workflow: &str, limit: usize) -> Result<Page<ExecutionRow>, ApiError> {
    page(body, limit, |row| execution_row(row, workflow))
}

pub(super) fn deliveries(body: &[u8], limit: usize) -> Result<Page<LoggedDelivery>, ApiError> {
    page(body, limit, logged_delivery)
}

pub(super) fn delivery(body: &[u8]) -> Result<LoggedDelivery, ApiError> {
    let entry: &RawValue = serde_json::from_slice(body).map_err(|_| ApiError::Malformed("not JSON"))?;
    logged_delivery(entry).ok_or(ApiError::Malformed("a delivery without a URL or a body"))
}

/// A string of a row.
fn string(row: &Fields, name: &str) -> Option<String> {
    serde_json::from_str(row.get(name)?.get()).ok().filter(|text: &String| !text.is_empty())
}

fn timestamp(row: &Fields, name: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(&string(row, name)?, &Rfc3339).ok()
}

fn logged_delivery(row: &RawValue) -> Option<LoggedDelivery> {
    let row: Fields = serde_json::from_str(row.get()).ok()?;
    let body = match string(&row, "request") {
        Some(text) => text,
        // The API documents a string. An object is read, too.
        None => row.get("request").filter(|request| request.get().starts_with('{'))?.get().to_owned(),
    };
    let url = string(&row, "url")?;
    Some(LoggedDelivery { url, created_at: timestamp(&row, "created_at"), body: body.into() })
}

/// The fields of a row that have another name in a webhook.
const RENAMED: [(&str, &str); 4] = [
    ("flow_id", "workflow_id"),
    ("ended_at", "completed_at"),
    ("output_json", "output"),
    ("cost", "total_cost"),
];

/// `workflow` is the workflow of the list.
fn execution_row(row: &RawValue, workflow: &str) -> Option<ExecutionRow> {
    let mut row: Fields = serde_json::from_str(row.get()).ok()?;
    // Secrets are never stored.
    row.remove("api_key");
    row.remove("webhook_secret");
    let is_null = |value: Option<&Box<RawValue>>| value.is_none_or(|value| value.get() == "null");
    for (name, webhook_name) in RENAMED {
        let Some(value) = row.remove(name) else { continue };
        // `output` is the text of `output_json`.
        if value.get() != "null" && (is_null(row.get(webhook_name)) || name == "output_json") {
            row.insert(webhook_name.to_owned(), value);
        }
    }
    if is_null(row.get("workflow_id")) {
        row.insert("workflow_id".to_owned(), serde_json::value::to_raw_value(workflow).ok()?);
    }
    // In a row, an empty text means that there is no value.
    row.retain(|_, value| value.get() != "\"\"");
    let time = ["completed_at", "started_at", "created_at"].iter().find_map(|name| timestamp(&row, name));
    Some(ExecutionRow {
        execution_id: string(&row, "execution_id").or_else(|| string(&row, "id"))?,
        bulk_id: string(&row, "bulk_id"),
        has_ended: status::is_terminal(&string(&row, "status")?),
        time,
        body: serde_json::to_vec(&row).ok()?.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execution::Execution;

    #[test]
    fn a_row_of_a_list_becomes_the_body_of_a_webhook() {
        let list = br#"{"executions": [
            {"execution_id": "e1", "flow_id": "w", "status": "completed", "output": "[\"u\"]", "output_json": ["u"],
             "started_at": "2026-10-01T10:00:00Z", "ended_at": "2026-10-01T10:00:09Z", "cost": 0.1, "error": "",
             "api_key": "secret", "deleted_at": null},
            7, {"flow_id": "w"}], "limit": 50, "total_count": 10}"#;
        let page = executions(list, "v", 100).unwrap();
        assert_eq!((page.rows.len(), page.size, page.is_last), (1, 3, true));
        let row = &page.rows[0];
        assert!(!String::from_utf8_lossy(&row.body).contains("secret"));
        let execution = Execution::parse(&row.body).unwrap();
        assert_eq!((&*execution.execution_id, execution.workflow_id.as_deref()), ("e1", Some("w")));
        assert_eq!((execution.output, execution.total_cost), (Some(r#"["u"]"#), Some("0.1")));
        assert_eq!(execution.completed_at, row.time);
        assert!(execution.error.is_none());
    }

    #[test]
    fn a_page_is_the_last_one_if_it_is_shorter_than_the_limit_in_use() {
        let list = |rows: usize, limit: &str| {
            let rows = vec![r#"{"execution_id":"e","status":"failed"}"#; rows].join(",");
            let list = format!(r#"{{"executions":[{rows}],"limit":{limit},"total_count":2}}"#);
            executions(list.as_bytes(), "w", 3).unwrap().is_last
        };
        assert!(list(2, "3"));
        assert!(!list(3, "3"));
        assert!(!list(2, "2"), "the API uses a smaller limit");
        assert!(list(2, "100"));
        assert!(list(2, "null"));
    }

    #[test]
    fn an_answer_without_the_array_of_rows_is_an_error() {
        for body in [
            "[]",
            "{}",
            r#"{"error":"temporarily unavailable","webhooks":null}"#,
            r#"{"error":"temporarily unavailable","executions":null,"limit":3}"#,
            r#"{"data":{"webhooks":[],"executions":[]}}"#,
            r#"{"webhooks":{},"executions":{}}"#,
        ] {
            assert!(matches!(deliveries(body.as_bytes(), 3), Err(ApiError::Malformed(_))), "{body}");
            assert!(matches!(executions(body.as_bytes(), "w", 3), Err(ApiError::Malformed(_))), "{body}");
        }
        let empty = deliveries(br#"{"webhooks":null,"total_count":0}"#, 3).unwrap();
        assert!((empty.size, empty.is_last) == (0, true));
    }

    #[test]
    fn the_delivery_log_has_bodies_as_strings() {
        let log = br#"{"webhooks": [
            {"execution_id": null, "url": "https://r/x", "request": "{\"a\":1.10}", "headers": {"X-Webhook-Secret": "s"},
             "created_at": "2026-10-01T10:00:00Z"},
            {"url": "https://r/x", "request": {"a": 1.10}}, {"url": "https://r/x"}, {"request": "{}"}]}"#;
        let page = deliveries(log, 100).unwrap();
        assert_eq!((page.size, page.unusable()), (4, 2));
        let bodies: Vec<_> = page.rows.iter().map(|row| &*row.body).collect();
        assert_eq!(bodies, [&br#"{"a":1.10}"#[..], br#"{"a": 1.10}"#]);
    }
}
