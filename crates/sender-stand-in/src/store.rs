//! The executions and the delivery log, in memory.

use std::fmt::Write as _;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A request to trigger a workflow.
#[derive(Debug, Clone, Default)]
pub struct Trigger {
    /// The workflow.
    pub workflow: String,
    /// The bulk; `None` outside of a bulk.
    pub bulk: Option<String>,
    /// The inputs. With `"fail": true`, the execution fails.
    pub inputs: Value,
    /// Where the webhook is sent; `None` for no webhook.
    pub webhook_url: Option<String>,
    /// Signs the webhook; `None` for an unsigned one.
    pub webhook_secret: Option<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Store {
    executions: Vec<Execution>,
    log: Vec<Delivery>,
    /// The number of identifiers so far.
    ids: u64,
    /// Makes the identifiers random; `None` for a sequence.
    seed: Option<u64>,
}

#[derive(Debug, Clone)]
pub(crate) struct Execution {
    /// The response of Get Execution, and the body of the webhook.
    pub(crate) body: Value,
    pub(crate) webhook_url: Option<String>,
    pub(crate) webhook_secret: Option<String>,
    /// Get Execution answers 404.
    hidden: bool,
}

/// An entry of the delivery log.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    execution_id: Option<String>,
    url: String,
    pub(crate) request: String,
    pub(crate) headers: Value,
    created_at: String,
    /// In the order of time.
    pub(crate) attempts: Vec<Value>,
}

impl Delivery {
    /// The entry as the API shows it.
    pub(crate) fn show(&self, with_attempts: bool) -> Value {
        let Self { execution_id, url, request, headers, created_at, attempts } = self;
        let mut shown = json!({
            "execution_id": execution_id, "url": url, "request": request, "headers": headers,
            "source": "workflow", "created_at": created_at
        });
        if with_attempts {
            shown["attempts"] = json!(attempts);
        }
        shown
    }
}

impl Execution {
    pub(crate) fn id(&self) -> &str {
        self.body["execution_id"].as_str().unwrap_or_default()
    }

    /// The row in the list of the workflow, where some fields have other names.
    fn row(&self) -> Value {
        let body = &self.body;
        json!({
            "execution_id": body["execution_id"], "flow_id": body["workflow_id"], "bulk_id": body["bulk_id"],
            "status": body["status"], "started_at": body["started_at"], "ended_at": body["completed_at"],
            "output": body["output"].to_string(), "output_json": body["output"], "cost": body["total_cost"],
            "error": body["error"].as_str().unwrap_or_default(),
            "api_key": "the-callers-key", "step_results": [], "deleted_at": null
        })
    }
}

/// The current time in the form of the API.
pub(crate) fn now() -> String {
    OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default()
}

/// The store removes the oldest executions above this number, and the oldest entries of the log.
const MAX_ROWS: usize = 20_000;

fn push<T>(rows: &mut Vec<T>, row: T) {
    if rows.len() >= MAX_ROWS {
        rows.drain(..MAX_ROWS / 10);
    }
    rows.push(row);
}

impl Store {
    pub(crate) fn new(seed: Option<u64>) -> Self {
        Self { seed, ..Self::default() }
    }

    /// An identifier in the form of a UUID.
    pub(crate) fn new_id(&mut self) -> String {
        self.ids += 1;
        let Some(seed) = self.seed else { return format!("00000000-0000-4000-8000-{:012x}", self.ids) };
        let digest = Sha256::digest([seed.to_be_bytes(), self.ids.to_be_bytes()].concat());
        let mut hex = String::new();
        for byte in &digest[..16] {
            let _ = write!(hex, "{byte:02x}");
        }
        format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
    }

    pub(crate) fn begin(&mut self, trigger: &Trigger) -> String {
        let id = self.new_id();
        let body = json!({
            "execution_id": id, "workflow_id": trigger.workflow, "bulk_id": trigger.bulk, "status": "running",
            "started_at": now(), "inputs": trigger.inputs
        });
        let (webhook_url, webhook_secret) = (trigger.webhook_url.clone(), trigger.webhook_secret.clone());
        push(&mut self.executions, Execution { body, webhook_url, webhook_secret, hidden: false });
        id
    }

    pub(crate) fn end(&mut self, id: &str) {
        let fails = self.find(id).is_some_and(|execution| execution.body["inputs"]["fail"] == true);
        let fields = if fails {
            json!({
                "status": "failed", "total_cost": 0.25, "error": "ExecutionFailed",
                "error_cause": "Step 'draw' failed: the prompt was rejected"
            })
        } else {
            let output = [format!("https://cdn.example.com/uploads/{id}.png")];
            json!({ "status": "completed", "total_cost": 0.25, "output": output })
        };
        self.end_with(id, fields);
    }

    /// Sets `fields` of the body, which must be an object.
    pub(crate) fn end_with(&mut self, id: &str, fields: Value) {
        let Some(execution) = self.executions.iter_mut().find(|execution| execution.id() == id) else {
            return;
        };
        let body = &mut execution.body;
        body["completed_at"] = json!(now());
        if let (Value::Object(body), Value::Object(fields)) = (body, fields) {
            body.extend(fields);
        }
        if let Some(url) = execution.webhook_url.clone() {
            let request = execution.body.to_string();
            // The log has the secret, because the log of each::labs may have it, too.
            let headers = json!({ "X-Webhook-Secret": execution.webhook_secret });
            let execution_id = Some(id.to_owned());
            let entry =
                Delivery { execution_id, url, request, headers, created_at: now(), attempts: Vec::new() };
            push(&mut self.log, entry);
        }
    }

    pub(crate) fn execute(&mut self, trigger: &Trigger) -> String {
        let id = self.begin(trigger);
        self.end(&id);
        id
    }

    pub(crate) fn predict(&mut self, url: &str) -> Value {
        let body = json!({ "exec_id": self.new_id(), "flow_id": null, "status": "succeeded", "output": "x" });
        let (url, request, headers) = (url.to_owned(), body.to_string(), json!({}));
        self.log.push(Delivery {
            execution_id: None,
            url,
            request,
            headers,
            created_at: now(),
            attempts: Vec::new(),
        });
        body
    }

    pub(crate) fn find(&self, id: &str) -> Option<&Execution> {
        self.executions.iter().find(|execution| execution.id() == id && !execution.hidden)
    }

    pub(crate) fn delivery(&mut self, id: &str) -> Option<&mut Delivery> {
        self.log.iter_mut().rev().find(|delivery| delivery.execution_id.as_deref() == Some(id))
    }

    pub(crate) fn remove(&mut self, id: &str) {
        self.executions.retain(|execution| execution.id() != id);
        self.remove_deliveries(id);
    }

    pub(crate) fn remove_deliveries(&mut self, id: &str) {
        self.log.retain(|delivery| delivery.execution_id.as_deref() != Some(id));
    }

    pub(crate) fn hide(&mut self, id: &str) {
        if let Some(execution) = self.executions.iter_mut().find(|execution| execution.id() == id) {
            execution.hidden = true;
        }
    }

    /// The rows of a workflow, the latest first; `None` for an unknown workflow.
    pub(crate) fn rows(&self, workflow: &str, bulk: Option<&str>) -> Option<Vec<Value>> {
        let of_workflow = || self.executions.iter().rev().filter(|e| e.body["workflow_id"] == workflow);
        of_workflow().next()?;
        let of_bulk = of_workflow().filter(|e| bulk.is_none_or(|bulk| e.body["bulk_id"] == bulk));
        Some(of_bulk.map(Execution::row).collect())
    }

    /// The delivery log, the latest entry first.
    pub(crate) fn log(&self) -> impl Iterator<Item = &Delivery> {
        self.log.iter().rev()
    }
}
