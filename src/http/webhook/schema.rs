//! Request and response of a webhook, for `/openapi.json`.
#![expect(dead_code, reason = "for `/openapi.json` only; `Execution::parse` reads webhooks")]

use utoipa::ToSchema;

use crate::execution::identifier::{Identifier, IdentifierOrInteger};

/// The body of a webhook. Only the first three fields are required; invalid values elsewhere do not prevent recording.
#[derive(ToSchema)]
pub(super) struct Webhook {
    /// Identifies the execution: at most 255 bytes. An integer is stored as its digits.
    execution_id: IdentifierOrInteger,
    /// Identifies the workflow: at most 255 bytes. An integer is stored as its digits.
    workflow_id: IdentifierOrInteger,
    /// completed, succeeded, success, failed and cancelled are terminal; any other status, such as running, is not.
    status: Identifier,
    /// The bulk of the execution: a string or an integer.
    #[schema(required = false)]
    bulk_id: serde_json::Value,
    /// The start of the execution: an RFC 3339 time.
    #[schema(required = false)]
    started_at: serde_json::Value,
    /// The end of the execution: an RFC 3339 time.
    #[schema(required = false)]
    completed_at: serde_json::Value,
    /// The output: any JSON.
    #[schema(required = false)]
    output: serde_json::Value,
    /// The kind of failure: a string.
    #[schema(required = false)]
    error: serde_json::Value,
    /// The cause of the failure: a string.
    #[schema(required = false)]
    error_cause: serde_json::Value,
    /// The cost: a number.
    #[schema(required = false)]
    total_cost: serde_json::Value,
    /// The steps with their outputs: an object.
    #[schema(required = false)]
    step_outputs: serde_json::Value,
}

/// The webhook is on disk.
#[derive(ToSchema)]
pub(super) struct Received {
    /// Always true.
    #[schema(example = true)]
    received: bool,
}
