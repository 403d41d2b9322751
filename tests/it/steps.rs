//! Steps with their models, and classes of failures: views, API and command line.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::fixtures::{example, execution, with};
use crate::support::http::get_json;
use crate::support::postgres::url;
use crate::support::process::{program, run_to_end};
use crate::support::receiver::TestReceiver;

/// An execution with a failed step of a model, and one that fell back.
fn failing(id: &str, model: &str, error_cause: &str) -> Value {
    let steps = json!({
        "draft": {
            "status": "failed", "error": "ExecutionFailed", "error_cause": error_cause,
            "started_at": "2026-03-02T09:00:00Z", "completed_at": "2026-03-02T09:00:02.5Z",
            "metadata": { "model": model, "version": "1.2" }, "cost": 0.25
        },
        "draft_fallback": {
            "status": "completed", "fallback": { "reason": "draft failed" }, "metadata": { "elapsed_seconds": 3 }
        },
        "choose": { "status": "completed", "selected": "long" },
        "short": { "status": "skipped" }
    });
    with(execution(id, "completed"), json!({ "version_id": "v7", "step_outputs": steps }))
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_show_model_duration_cost_fallback_and_first_error() {
    let receiver = TestReceiver::start().await;
    receiver.accept(example("deep-outputs.json")).await;
    receiver.accept(failing("e", "flux", "Model timeout after 30s")).await;
    receiver.wait_until_recorded().await;
    let detail = get_json(&receiver, "/api/v1/executions/c2b9d6de-5f2a-44f5-9a8e-3d6f0f6b7a21").await;
    let fields = ["key", "model", "model_version", "is_fallback", "first_error", "failure_class"];
    let of = |detail: &Value, fields: &[&str]| -> Vec<Value> {
        let steps = detail["steps"].as_array().unwrap().iter();
        steps.map(|step| fields.iter().map(|field| step[field].clone()).collect()).collect()
    };
    let expected = [
        json!(["animate", "kling-v2", null, true, "Model timeout after 300s", null]),
        json!(["draft", "openai-chatgpt-5", "0.0.1", false, null, null]),
        json!(["stills", "flux-1-1-pro", null, false, null, null]),
    ];
    assert_eq!(of(&detail, &fields), expected);
    let detail = get_json(&receiver, "/api/v1/executions/e").await;
    let fields = [
        "key",
        "status",
        "duration_seconds",
        "cost",
        "is_fallback",
        "first_error",
        "failure_class",
        "selected",
    ];
    let expected = [
        json!(["draft", "failed", 2.5, 0.25, false, null, "execution_timeout", null]),
        json!(["choose", "completed", null, null, false, null, null, "long"]),
        json!(["draft_fallback", "completed", 3.0, null, true, "draft failed", null, null]),
        json!(["short", "skipped", null, null, false, null, null, null]),
    ];
    assert_eq!(of(&detail, &fields), expected);
    let row = receiver
        .row("SELECT version_id, model_version, cost FROM steps WHERE key = 'draft' AND execution_id = 'e'")
        .await;
    assert_eq!(row, json!({ "version_id": "v7", "model_version": "1.2", "cost": 0.25 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_steps_are_shown_without_the_values_that_cannot_be_read() {
    let receiver = TestReceiver::start().await;
    let steps = json!({
        "number": 1, "array": [], "null": null,
        "odd": {
            "status": { "deep": [1] }, "metadata": [1], "fallback": 7, "cost": "much", "error": ["a", 1],
            "started_at": "2026-02-30T00:00:00Z", "completed_at": 5, "selected": {}
        },
        "small": { "metadata": { "execution_time": "SMALL" } },
        "large": { "cost": 1e300, "metadata": { "elapsed_seconds": 1e300, "model": 1, "fallback_used": "true" } },
        "backwards": { "started_at": "2026-03-02T00:00:00Z", "completed_at": "2026-03-01T00:00:00Z" }
    });
    let body = with(execution("e", "failed"), json!({ "step_outputs": steps, "error_cause": { "a": 1 } }));
    // Smaller than a double can be.
    receiver.accept(body.to_string().replace("\"SMALL\"", "1e-400")).await;
    receiver.accept(with(execution("f", "failed"), json!({ "step_outputs": ["no object"] }))).await;
    receiver.wait_until_recorded().await;
    let rows = receiver.rows("SELECT key, duration_seconds, cost, is_fallback FROM steps ORDER BY key").await;
    let row = |key: &str, fallback: bool| json!({ "key": key, "duration_seconds": null, "cost": null, "is_fallback": fallback });
    let small = with(row("small", false), json!({ "duration_seconds": 0 }));
    assert_eq!(rows, [row("backwards", false), row("large", true), row("odd", false), small]);
    assert_eq!(get_json(&receiver, "/api/v1/executions/e").await["steps"].as_array().unwrap().len(), 4);
    let classes = receiver.rows("SELECT failure_class FROM failures").await;
    assert_eq!(classes, [json!({ "failure_class": "unknown" }), json!({ "failure_class": "unknown" })]);
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_counted_by_model_and_have_a_class() {
    let receiver = TestReceiver::start().await;
    for (id, model, cause) in [
        ("a", "flux", "Model timeout after 30s"),
        ("b", "flux", "Model timeout after 30s"),
        ("c", "flux", "too many requests"),
        ("d", "kling", "Prompt refused by the content policy"),
    ] {
        receiver.accept(failing(id, model, cause)).await;
    }
    receiver.wait_until_recorded().await;
    let answer = get_json(&receiver, "/api/v1/failures?by=model").await;
    let groups: Vec<Value> = answer["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| {
            json!([
                group["model"],
                group["failed"],
                group["failure_class"],
                group["error_cause"],
                group["workflow_id"],
                group["latest_execution_id"]
            ])
        })
        .collect();
    let expected = [
        json!(["flux", 3, "execution_timeout", "Model timeout after 30s", null, "c"]),
        json!(["kling", 1, "content_moderation", "Prompt refused by the content policy", null, "d"]),
    ];
    assert_eq!(groups, expected);
    assert_eq!(answer["failed"], 4);
    let largest = get_json(&receiver, "/api/v1/failures?by=model&limit=1").await;
    assert_eq!((&largest["groups"], &largest["failed"]), (&json!([answer["groups"][0]]), &json!(4)));
    let dir = TempDir::new().unwrap();
    let mut command = program(dir.path());
    let (text, code) =
        run_to_end(command.args(["failures", "--by", "model"]).env("DATABASE_URL", url(&receiver.database)));
    assert_eq!(code, Some(0), "{text}");
    let cells: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().take(3).collect();
    assert_eq!(cells, ["3", "flux", "execution_timeout"], "{text}");
    assert_eq!(text.lines().count(), 3, "a line for each model: {text}");
}

/// Causes by their class.
const CAUSES: [(&str, &[&str]); 10] = [
    (
        "content_moderation",
        &[
            "content_policy_violation",
            "PROHIBITED_CONTENT",
            "The output was flagged as sensitive (E005)",
            "This request violates our usage policies",
            "Blocked by the content filtering system",
            "Rejected because of content policies",
            "The prompt violates our content policy",
        ],
    ),
    (
        "execution_timeout",
        &[
            "connect ETIMEDOUT 10.0.0.1:443",
            "The task took too long",
            "The model did not answer within 300 seconds",
            "Prediction exceeded maximum time",
            "ReadTimeout",
            "Prediction error: Read timed out while generating image",
            "504 Gateway Timeout",
            "Step 'generate_image' failed: Model timeout after 30s",
        ],
    ),
    (
        "invalid_user_input",
        &[
            "The file does not exist",
            "Image is too small",
            "aspect_ratio must be one of 1:1, 16:9",
            "Text must be at most 2500 characters",
            "File size exceeds 10MB",
            "No face detected",
            "Could not decode image",
            "400 Bad Request",
            "422 Unprocessable Entity",
            "Prompt must be under 500 characters",
            "Image must be at least 401 pixels wide",
            "Failed to fetch image: 403 Forbidden",
            "Failed to download image from https://a.b/429.png",
            "Error downloading video from the given URL: 404",
            "timeout must be a number",
            "Invalid parameter: timeout_seconds",
            "timeout_seconds must be at most 600",
            "timeouts must be positive",
            "Failed to load the image",
            "Invalid image: unsupported format",
            "INPUT_DOWNLOAD_ERROR",
            "Image could not be downloaded",
        ],
    ),
    (
        "invalid_model_config",
        &[
            "model_not_found",
            "Model flux-9 not found",
            "The model `flux-9` does not exist",
            "Model not found: flux-9",
        ],
    ),
    (
        "provider_auth",
        &[
            "Error: access denied to video generation API",
            "PERMISSION_DENIED",
            "invalid_api_key",
            "Access denied",
            "Invalid credentials",
            "HTTP/1.1 401",
            r#"{"code": 403, "detail": "x"}"#,
            "401 Unauthorized: invalid API key",
        ],
    ),
    (
        "provider_error",
        &["CUDA out of memory", "Prediction failed", "PROVIDER_BAD_REQUEST: timeout must be a number"],
    ),
    (
        "provider_rate_limit",
        &[
            "rate_limit_exceeded",
            "insufficient_quota",
            "RESOURCE_EXHAUSTED",
            "You exceeded your current quota, please check your plan",
            "Request was throttled. Expected available in 3 seconds.",
            "Too many concurrent requests",
            "Request failed with status code 429",
            "Upstream answered (429)",
            "429 Too Many Requests",
            "RateLimitError",
            "HTTP 429 Too Many Requests",
        ],
    ),
    (
        "provider_unavailable",
        &[
            "Failed to open connection to video service: connection refused",
            "Server overloaded: queue too long",
            "overloaded_error",
            "The server is busy, try again later",
            "No capacity available in this region",
            "read ECONNRESET",
            "HTTP 503",
            "status=502",
            "Service Unavailable",
            "503 Service Unavailable",
        ],
    ),
    (
        "internal_error",
        &["INTERNAL_ERROR", "Error code: 500 - {'detail': 'x'}", "Internal server error", "WORKER_LOST"],
    ),
    (
        "unknown",
        &[
            "Frame 502 of 1000 lost",
            "Rendered 503 frames (500 kept)",
            "Generated 429 tokens",
            "Step failed with status 404",
            "Failed to load model weights from file",
            "The model is sad",
            "Moderate noise in frame",
            "Invalid token at position 5 of the JSON",
            "Step 'b' failed",
        ],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_has_the_class_of_its_cause_of_its_steps_or_of_its_error() {
    let receiver = TestReceiver::start().await;
    let cases: Vec<_> = CAUSES
        .iter()
        .flat_map(|(class, causes)| causes.iter().map(move |cause| json!([cause, class])))
        .collect();
    let table = Value::Array(cases).to_string().replace('\'', "''");
    let wrong = format!(
        "SELECT c ->> 0 AS cause, c ->> 1 AS class, failure_class(c ->> 0) AS found
         FROM jsonb_array_elements('{table}') AS c WHERE failure_class(c ->> 0) <> c ->> 1"
    );
    assert_eq!(receiver.rows(&wrong).await, Vec::<Value>::new());
    // The cause of the execution says nothing; that of its step does.
    let steps = json!({ "a": { "status": "completed", "error": "timeout" }, "b": { "status": "failed", "error": "NSFW" } });
    let body = json!({ "execution_id": "s", "error_cause": "Step b failed", "error": "timeout", "step_outputs": steps });
    receiver.accept(with(execution("s", "failed"), body)).await;
    receiver.wait_until_recorded().await;
    let query = "SELECT failure_class FROM failures WHERE execution_id = 's'";
    assert_eq!(receiver.row(query).await["failure_class"], "content_moderation");
}

#[tokio::test(flavor = "multi_thread")]
async fn view_api_and_command_line_agree_on_the_class_of_an_execution() {
    let receiver = TestReceiver::start().await;
    let step = json!({ "status": "failed", "error_cause": "Model timeout after 300s" });
    let long = format!("Model timeout {}", (0..20_000).map(|n| n.to_string()).collect::<String>());
    for (id, workflow, step) in
        [("e", "w1", step.clone()), ("large", "w2", with(step, json!({ "error_cause": long })))]
    {
        let fields = json!({
            "workflow_id": workflow, "error": "ExecutionFailed", "error_cause": "Step 'animate' failed",
            "step_outputs": { "animate": step }
        });
        receiver.accept(with(execution(id, "failed"), fields)).await;
    }
    receiver.wait_until_recorded().await;
    // The steps of a large payload are not read.
    for (id, workflow, class) in [("e", "w1", "execution_timeout"), ("large", "w2", "unknown")] {
        let view = format!("SELECT failure_class FROM failures WHERE execution_id = '{id}'");
        assert_eq!(receiver.row(&view).await["failure_class"], class, "{id}");
        let detail = get_json(&receiver, &format!("/api/v1/executions/{id}")).await;
        assert_eq!(detail["failure_class"], class, "{id}");
        let list = get_json(&receiver, &format!("/api/v1/executions?workflow={workflow}")).await;
        assert_eq!(list["items"][0]["failure_class"], class, "{id}");
        let failures = get_json(&receiver, &format!("/api/v1/failures?workflow={workflow}")).await;
        assert_eq!(failures["groups"][0]["failure_class"], class, "{id}");
        let dir = TempDir::new().unwrap();
        let mut command = program(dir.path());
        let command = command.args(["failures", "--workflow", workflow]);
        let (text, _) = run_to_end(command.env("DATABASE_URL", url(&receiver.database)));
        assert!(text.lines().nth(1).unwrap().contains(class), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_are_read_from_any_shape_and_null_is_as_good_as_missing() {
    let receiver = TestReceiver::start().await;
    for (id, fields) in [
        ("object", json!({ "step_outputs": {}, "step_results": { "s": { "status": "failed" } } })),
        ("array", json!({ "step_outputs": [{ "step_id": "s", "status": "failed" }] })),
        ("both", json!({ "step_outputs": "none", "step_results": [{ "step_id": "s", "status": "failed" }] })),
    ] {
        receiver.accept(with(execution(id, "completed"), fields)).await;
    }
    receiver.wait_until_recorded().await;
    let rows = receiver.rows("SELECT execution_id, step_id FROM failed_steps ORDER BY execution_id").await;
    assert_eq!(rows, ["array", "both", "object"].map(|id| json!({ "execution_id": id, "step_id": "s" })));

    let steps = json!({
        "a": { "cost": null, "metadata": { "elapsed_seconds": null, "execution_time": 7, "cost": 0.05 } },
        "b": { "metadata": { "fallback": { "reason": "busy" }, "elapsed_seconds": -5 } },
        "c": {
            "fallback": "slow", "started_at": "2026-03-02T09:00:00.1234567890123Z",
            "completed_at": "2026-03-02T09:00:01.1234567890123Z"
        },
        "d": { "metadata": { "primary_error": "busy" } },
        "e": { "fallback": "", "metadata": { "fallback_used": false, "primary_error": "busy" } }
    });
    receiver.accept(with(execution("values", "completed"), json!({ "step_outputs": steps }))).await;
    receiver.wait_until_recorded().await;
    let rows = receiver
        .row("SELECT json_agg(json_build_array(key, duration_seconds, cost, is_fallback, first_error) ORDER BY key) AS rows
            FROM steps WHERE execution_id = 'values'")
        .await;
    let expected = json!([
        ["a", 7.0, 0.05, false, null],
        ["b", null, null, true, "busy"],
        ["c", 1.0, null, true, "slow"],
        ["d", null, null, true, "busy"],
        ["e", null, null, false, null]
    ]);
    // Numbers in JSON: 7 and 7.0 are equal.
    let text = |rows: &Value| rows.to_string().replace(".0,", ",");
    assert_eq!(text(&rows["rows"]), text(&expected));
}
