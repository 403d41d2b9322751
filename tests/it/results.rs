//! The results of executions: which values count, their kinds, and where they are found.

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::support::fixtures::{example, execution, with};
use crate::support::http::{get_json, item_fields, problem};
use crate::support::postgres::{execute, url};
use crate::support::process::{program, run_to_end};
use crate::support::receiver::TestReceiver;

/// The execution of deep-outputs.json.
const DEEP: &str = "c2b9d6de-5f2a-44f5-9a8e-3d6f0f6b7a21";

/// The results of an execution in the view, each as an array of `columns`.
async fn results(receiver: &TestReceiver, id: &str, columns: &str) -> Value {
    let query = format!(
        "SELECT coalesce(json_agg(json_build_array({columns}) ORDER BY position), '[]') AS rows FROM results
         WHERE execution_id = '{id}'"
    );
    receiver.row(&query).await["rows"].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_output_of_a_workflow_with_steps_is_listed_once_with_its_kind() {
    let receiver = TestReceiver::start().await;
    receiver.accept(example("deep-outputs.json")).await;
    receiver.accept(example("full-execution.json")).await;
    let columns = "path, step_id, is_final, kind, media_type, url, text";
    let cdn = |file: &str| format!("https://cdn-us.eachlabs.ai/uploads/{file}");
    let expected = json!([
        ["workflow_output.clip", "animate", true, "video", "video/mp4", cdn("a1.mp4"), null],
        ["workflow_output.caption", "draft", true, "text", null, null, "A fox at dawn"],
        ["step_outputs.stills.output.images[0]", "stills", false, "image", "image/png", cdn("s1.png"), null],
        [
            "step_outputs.stills.output.images[1].url",
            "stills",
            false,
            "image",
            "image/webp",
            cdn("s2.webp"),
            null
        ],
    ]);
    assert_eq!(results(&receiver, DEEP, columns).await, expected);
    let of_one_step = results(&receiver, "e2dba2bb-bc1d-4651-b6bf-fbbbebdee104", "path, step_id, text").await;
    assert_eq!(of_one_step, json!([["output", "step1", "A breathtaking panoramic view..."]]));
    // The path finds the value in the payload.
    let read = "SELECT count(*) FROM results AS r INNER JOIN executions AS e ON r.execution_id = e.execution_id
        WHERE coalesce(r.url, r.text) = jsonb_path_query_first(e.payload, ('$.' || r.path)::jsonpath) #>> '{}'";
    assert_eq!(receiver.row(read).await["count"], 5);

    let page = get_json(&receiver, &format!("/api/v1/executions/{DEEP}")).await;
    assert_eq!(item_fields(&page["results"], "path").len(), 4);
    assert_eq!(item_fields(&page["results"], "position"), [1, 2, 3, 4]);
}

/// An execution with this output.
fn producing(id: &str, output: Value) -> Value {
    with(execution(id, "completed"), json!({ "output": output }))
}

/// Records each output and checks the path, the kind and the value of its results.
async fn check_outputs<const N: usize>(cases: [(&str, Value, Value); N]) {
    let receiver = TestReceiver::start().await;
    for (id, output, expected) in cases {
        receiver.accept(producing(id, output)).await;
        assert_eq!(results(&receiver, id, "path, kind, coalesce(url, text)").await, expected, "{id}");
    }
}

const PNG: &str = "https://example.com/a.png";
/// A URL without an extension.
const BARE: &str = "https://example.com/v";

#[tokio::test(flavor = "multi_thread")]
async fn urls_are_found_at_any_depth_except_in_echoed_requests() {
    check_outputs([
        ("url", json!(PNG), json!([["output", "image", PNG]])),
        ("array", json!([PNG, null, PNG, { "c": [1] }]), json!([["output[0]", "image", PNG]])),
        ("object", json!({ "url": PNG }), json!([["output.url", "image", PNG]])),
        (
            "number beside",
            json!({ "audio": { "url": BARE }, "seconds": 8 }),
            json!([["output.audio.url", "audio", BARE]]),
        ),
        (
            "odd key",
            json!({ "my images": [{ "url": BARE }] }),
            json!([["output.\"my images\"[0].url", "image", BARE]]),
        ),
        (
            "http step",
            json!({ "status_code": 200, "headers": { "location": BARE }, "body": { "result": PNG } }),
            json!([["output.body.result", "image", PNG]]),
        ),
        (
            "echo",
            json!({ "input": { "image": BARE }, "webhook_url": BARE, "output": [PNG] }),
            json!([["output.output[0]", "image", PNG]]),
        ),
        (
            "replicate",
            json!({
                "urls": { "get": "https://api.example.com/p", "cancel": "https://api.example.com/p/cancel" },
                "$schema": "https://example.com/schema", "input_image": BARE, "output": PNG
            }),
            json!([["output.output", "image", PNG]]),
        ),
        ("blanks around", json!([format!(" {PNG}\n")]), json!([["output[0]", "image", PNG]])),
        ("two lines", json!("https://a\nb"), json!([["output", "text", "https://a\nb"]])),
        ("control character", json!("https://a\u{1b}"), json!([["output", "text", "https://a\u{1b}"]])),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kind_of_a_url_comes_from_its_media_type_or_its_path() {
    let (upper, pdf) = ("HTTPS://example.com/a.PNG?x=1.mp4", "https://example.com/a.pdf");
    check_outputs([
        ("upper case", json!(upper), json!([["output", "image", upper]])),
        ("bucket", json!("gs://bucket/a.mp3"), json!([["output", "audio", "gs://bucket/a.mp3"]])),
        ("named", json!({ "video_url": BARE }), json!([["output.video_url", "video", BARE]])),
        (
            "last word",
            json!({ "video": { "thumbnail": BARE } }),
            json!([["output.video.thumbnail", "image", BARE]]),
        ),
        (
            "declared",
            json!({ "url": BARE, "content_type": "audio/wav; x=1" }),
            json!([["output.url", "audio", BARE]]),
        ),
        (
            "declared as unknown",
            json!({ "image": BARE, "mime_type": "application/octet-stream" }),
            json!([["output.image", "image", BARE]]),
        ),
        (
            "documents",
            json!([pdf, BARE, "https://example.mov"]),
            json!([
                ["output[0]", "document", pdf],
                ["output[1]", "document", BARE],
                ["output[2]", "document", "https://example.mov"]
            ]),
        ),
        (
            "declared before the extension",
            json!([
                { "audio": { "url": "https://example.com/a.webm", "content_type": "audio/webm" } },
                { "video": { "url": "https://example.com/a.ogg", "content_type": "video/ogg" } },
                { "type": "image", "url": BARE }
            ]),
            json!([
                ["output[0].audio.url", "audio", "https://example.com/a.webm"],
                ["output[1].video.url", "video", "https://example.com/a.ogg"],
                ["output[2].url", "image", BARE]
            ]),
        ),
        (
            "rare extensions",
            json!([
                "https://example.com/a.mpg",
                "https://example.com/a.m3u8",
                "https://example.com/a.oga",
                "https://example.com/a.jfif",
                "https://example.com/a.png;v=1",
                "https://example.com/a%2EPNG?x=.mp4#y"
            ]),
            json!([
                ["output[0]", "video", "https://example.com/a.mpg"],
                ["output[1]", "video", "https://example.com/a.m3u8"],
                ["output[2]", "audio", "https://example.com/a.oga"],
                ["output[3]", "image", "https://example.com/a.jfif"],
                ["output[4]", "image", "https://example.com/a.png;v=1"],
                ["output[5]", "image", "https://example.com/a%2EPNG?x=.mp4#y"]
            ]),
        ),
        ("csv", json!("https://example.com/a.csv"), json!([["output", "data", "https://example.com/a.csv"]])),
        (
            "text file",
            json!("https://example.com/a.txt"),
            json!([["output", "text", "https://example.com/a.txt"]]),
        ),
        (
            "data urls",
            json!({ "a": "data:image/PNG;base64,QUJD", "b": "data:image/PNG;base64,QUJE", "c": "DATA:image/PNG;base64,QQ" }),
            json!([
                ["output.a", "image", "data:image/PNG;base64,"],
                ["output.b", "image", "data:image/PNG;base64,"],
                ["output.c", "image", "DATA:image/PNG;base64,"]
            ]),
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_outputs_or_have_a_key_of_a_text_and_other_outputs_are_data() {
    let message = |content: &str| {
        json!({ "id": "chatcmpl-1", "model": "gpt", "choices": [{ "index": 0, "finish_reason": "stop",
                "message": { "role": "assistant", "content": content } }] })
    };
    check_outputs([
        ("text", json!("see https://example.com"), json!([["output", "text", "see https://example.com"]])),
        ("texts", json!(["a", null, "b"]), json!([["output[0]", "text", "a"], ["output[2]", "text", "b"]])),
        ("language model", message("Hello"), json!([["output.choices[0].message.content", "text", "Hello"]])),
        (
            "parts",
            json!({ "content": [{ "type": "text", "text": "Hello" }, { "type": "image_url", "image_url": { "url": PNG } }] }),
            json!([
                ["output.content[0].text", "text", "Hello"],
                ["output.content[1].image_url.url", "image", PNG]
            ]),
        ),
        ("http step", json!({ "status_code": 200, "body": "done" }), json!([["output.body", "text", "done"]])),
        ("number", json!(4.5), json!([["output", "data", "4.5"]])),
        ("yes", json!(true), json!([["output", "data", "true"]])),
        ("numbers", json!([1, { "c": [2] }]), json!([["output", "data", "[1, {\"c\": [2]}]"]])),
        ("fields", json!({ "id": "x", "score": 0.5 }), json!([["output", "data", "{\"id\": \"x\", \"score\": 0.5}"]])),
        ("no text", json!(""), json!([])),
        ("no elements", json!([]), json!([])),
        ("no fields", json!({}), json!([])),
        ("null", json!(null), json!([])),
        (
            "answer in json",
            message("{\"title\":\"A\"}"),
            json!([["output.choices[0].message.content", "data", "{\"title\": \"A\"}"]]),
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn json_in_a_text_is_read() {
    check_outputs([
        (
            "object",
            json!("{\"images\": [\"https://example.com/a.png\"]}"),
            json!([["output.images[0]", "image", PNG]]),
        ),
        (
            "json in json",
            json!({ "body": json!([json!({ "url": PNG }).to_string()]).to_string() }),
            json!([["output.body[0].url", "image", PNG]]),
        ),
        (
            "encoded several times",
            json!(json!(json!({ "url": PNG }).to_string()).to_string()),
            json!([["output.url", "image", PNG]]),
        ),
        (
            "under any key",
            json!({ "text": json!({ "images": json!([PNG]).to_string() }).to_string(), "config": "{\"a\":1}" }),
            json!([["output.text.images[0]", "image", PNG]]),
        ),
        ("no json", json!("[not json]"), json!([["output", "text", "[not json]"]])),
        ("huge number", json!("[1e131071]"), json!([["output", "text", "[1e131071]"]])),
        (
            "digits in a url",
            json!("[\"https://example.com/5e123.png\"]"),
            json!([["output[0]", "image", "https://example.com/5e123.png"]]),
        ),
        ("nul", json!(r#"{"a": "\u0000"}"#), json!([["output", "text", "{\"a\": \"\\u0000\"}"]])),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_contains_only_urls_is_read_like_an_array_of_them() {
    let (comma, prose) = ("https://example.com/w_1,h_2/b.mp4", format!("See {PNG} and {BARE}"));
    let both = json!([["output[0]", "image", PNG], ["output[1]", "video", comma]]);
    check_outputs([
        ("blank", json!(format!("{PNG} {comma}")), both.clone()),
        ("lines", json!(format!(" {PNG}\r\n{comma}\n")), both.clone()),
        ("commas", json!(format!("{PNG},{comma}, {PNG}")), both),
        (
            "in an object",
            json!({ "images": format!("{PNG}\n{BARE}") }),
            json!([["output.images[0]", "image", PNG], ["output.images[1]", "image", BARE]]),
        ),
        (
            "in an array",
            json!([format!("{PNG} {BARE}")]),
            json!([["output[0][0]", "image", PNG], ["output[0][1]", "document", BARE]]),
        ),
        ("prose", json!(prose), json!([["output", "text", prose]])),
        (
            "words after it",
            json!(format!("{PNG} {BARE} are ready")),
            json!([["output", "text", format!("{PNG} {BARE} are ready")]]),
        ),
        ("blank inside", json!("https://a b.png"), json!([["output", "text", "https://a b.png"]])),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn results_come_from_named_outputs_the_output_and_successful_steps() {
    let receiver = TestReceiver::start().await;
    let step = |status: &str, at: u8, output: &str| json!({ "status": status, "started_at": format!("2026-03-02T09:00:0{at}Z"), "output": output });
    let fields = json!({
        "workflow_output": { "count": 3, "title": "A", "empty": null, "model_card": { "x": 1 } },
        "output": ["A", "B"],
        "step_outputs": {
            "a": with(step("completed", 3, "late"), json!({ "step_id": "own id" })), "bb": step("completed", 1, "B"),
            "ccc": step("completed", 2, "B"), "d": step("failed", 1, "lost"), "e": step("skipped", 1, "none"),
            "f": step("cancelled", 1, "stopped"), "g": { "output": "unknown" }, "h": "text", "i": null
        }
    });
    receiver.accept(with(execution("e", "failed"), fields)).await;
    let expected = json!([
        ["workflow_output.count", null, true, "data", "3"],
        ["workflow_output.title", null, true, "text", "A"],
        ["workflow_output.model_card", null, true, "data", "{\"x\": 1}"],
        ["output[1]", "bb", true, "text", "B"],
        ["step_outputs.a.output", "own id", false, "text", "late"],
        ["step_outputs.g.output", "g", false, "text", "unknown"]
    ]);
    assert_eq!(results(&receiver, "e", "path, step_id, is_final, kind, text").await, expected);
    // Other shapes of the fields.
    for (id, fields, expected) in [
        (
            "odd",
            json!({ "workflow_output": ["A"], "step_outputs": ["B"] }),
            json!([["workflow_output[0]", null, "A"]]),
        ),
        (
            "flow",
            json!({ "step_results": [{ "step_id": "s", "output": "A" }, { "output": "B", "status": "failed" }, 7] }),
            json!([["step_results[0].output", "s", "A"]]),
        ),
        (
            "array",
            json!({ "step_outputs": [{ "step_id": "s", "output": "A" }], "step_results": [{ "output": "B" }] }),
            json!([["step_outputs[0].output", "s", "A"]]),
        ),
        (
            "object",
            json!({ "step_outputs": {}, "step_results": { "s": { "output": "A" } } }),
            json!([["step_results.s.output", "s", "A"]]),
        ),
        (
            "none",
            json!({ "step_results": {}, "workflow_output": 1 }),
            json!([["workflow_output", null, "1"]]),
        ),
    ] {
        receiver.accept(with(execution(id, "completed"), fields)).await;
        assert_eq!(results(&receiver, id, "path, step_id, text").await, expected, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_is_read_if_the_payload_is_stored_as_bytes_only() {
    let receiver = TestReceiver::start().await;
    let body = with(producing("e", json!(["https://example.com/a.png"])), json!({ "inputs": "NUL" }));
    receiver.accept(body.to_string().replace("NUL", "\\u0000")).await;
    let row = receiver.row("SELECT payload IS NULL AS bytes_only FROM executions").await;
    assert_eq!(row["bytes_only"], true);
    assert_eq!(results(&receiver, "e", "path, kind").await, json!([["output[0]", "image"]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_payloads_are_read_within_limits() {
    let receiver = TestReceiver::start().await;
    let nested = (0..20_000).map(|n| json!({ "a": { "url": format!("https://example.com/{n}") } }));
    let long_key = Map::from_iter([("k ".repeat(200_000), json!(vec!["https://example.com/a.png"; 10_000]))]);
    let mut deep = json!("https://example.com/deep.png");
    for _ in 0..100 {
        deep = json!({ "a": deep });
    }
    for (id, output, count) in [
        ("nested", json!(nested.collect::<Vec<_>>()), 1_000),
        ("long key", Value::Object(long_key), 1),
        ("deep", deep, 1),
        ("no json", json!((0..20_000).map(|n| format!("[{n}, x]")).collect::<Vec<_>>()), 9_999),
        (
            "large data url",
            json!({ "image": format!("data:image/png;base64,{}", "QUJD".repeat(1_000_000)) }),
            1,
        ),
        (
            "escaped json",
            json!(json!(json!(json!(json!(["deep"]).to_string()).to_string()).to_string()).to_string()),
            1,
        ),
    ] {
        receiver.accept(producing(id, output)).await;
        let query = format!(
            "SELECT count(*), max(length(path)) AS path, max(length(url)) AS url FROM results WHERE execution_id = '{id}'"
        );
        let row = receiver.row(&query).await;
        assert_eq!(row["count"], count, "{id}");
        assert!(row["path"].as_i64() <= Some(1_000) && row["url"].as_i64() <= Some(40), "{id}: {row}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn results_that_were_not_searched_for_within_the_limits_are_announced_everywhere() {
    let receiver = TestReceiver::start().await;
    let urls = |count: usize| (0..count).map(|n| format!("https://example.com/{n}.png")).collect::<Vec<_>>();
    let files = |count| urls(count).iter().map(|url| json!({ "url": url })).collect::<Vec<_>>();
    let nested = |levels: usize| (0..levels).fold(json!(PNG), |value, _| json!({ "a": value }));
    let fields = |count: usize| (0..count).map(|n| (format!("f{n}"), json!(n))).collect::<Map<_, _>>();
    let all: Map<_, _> = (0..6).map(|n| (format!("o{n}"), json!(fields(9_000)))).collect();
    for (id, fields, is_partial) in [
        ("texts", json!({ "output": urls(10_001) }), true),
        ("many texts", json!({ "output": urls(9_000) }), false),
        ("objects", json!({ "output": files(1_001) }), true),
        ("many objects", json!({ "output": files(1_000) }), false),
        ("json", json!({ "output": json!(files(1_001)).to_string() }), true),
        ("depth", json!({ "output": nested(16) }), true),
        ("deep", json!({ "output": nested(15) }), false),
        ("values", json!({ "output": [fields(10_000), PNG] }), true),
        ("places", json!({ "workflow_output": fields(2_001) }), true),
        ("numbers", json!({ "output": { "url": PNG, "embedding": vec![0; 20_000] } }), false),
        // The limit of all places.
        ("all", json!({ "workflow_output": all }), true),
    ] {
        receiver.accept(with(execution(id, "completed"), fields)).await;
        let query = format!("SELECT DISTINCT is_partial FROM results WHERE execution_id = '{id}'");
        assert_eq!(receiver.rows(&query).await, [json!({ "is_partial": is_partial })], "{id}");
        let page =
            get_json(&receiver, &format!("/api/v1/results?limit=1&execution={}", id.replace(' ', "%20")))
                .await;
        assert_eq!(item_fields(&page, "is_partial"), [is_partial], "{id}");
    }
    let note = "There can be more results in the payload.";
    for (id, is_partial) in [("objects", true), ("many%20objects", false)] {
        let html = receiver.get(&format!("/executions/{id}")).await.text().await.unwrap();
        assert_eq!(html.contains(note), is_partial, "{id}");
    }
    for (id, is_partial) in [("objects", true), ("many objects", false)] {
        for option in ["--all", "--urls"] {
            let text = workflow_receiver(&receiver, &["results", "--execution", id, option]);
            assert_eq!(text.contains("is_partial"), is_partial, "{id} {option}");
        }
    }
    let text = workflow_receiver(&receiver, &["executions", "objects"]);
    assert!(text.contains("is_partial"), "{text}");
    let csv = receiver.get("/api/v1/export/results?execution=depth&format=csv").await.text().await.unwrap();
    assert!(csv.lines().next().unwrap().contains("is_partial"), "{csv}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_transcript_hides_no_file() {
    let receiver = TestReceiver::start().await;
    let words: Vec<_> = (0..11_000).map(|n| json!({ "word": "a", "start": n, "end": n + 1 })).collect();
    let file = |name: &str| json!({ "url": format!("https://example.com/{name}") });
    let fields = json!({
        "workflow_output": { "heard": { "words": words }, "res": { "clip": { "file": file("clip.mp4") } } },
        "output": { "result": { "files": { "video": file("video.mp4") } }, "words": words },
        "step_outputs": {
            "a": { "output": { "transcription": "Hello", "words": words } },
            "b": { "output": { "data": { "images": [file("image.png")] } } }
        }
    });
    receiver.accept(with(execution("e", "completed"), fields)).await;
    let expected = json!([
        ["workflow_output.res.clip.file.url", "video", true],
        ["output.result.files.video.url", "video", true],
        ["step_outputs.a.output.transcription", "text", false],
        ["step_outputs.b.output.data.images[0].url", "image", false]
    ]);
    let query = "SELECT json_agg(json_build_array(path, kind, is_final) ORDER BY position)
        FILTER (WHERE kind <> 'data') AS files FROM results";
    assert_eq!(receiver.row(query).await["files"], expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_are_no_results_count_for_the_limit_but_arrays_of_numbers_are_not_read() {
    let receiver = TestReceiver::start().await;
    let file = json!({ "a": { "b": { "c": [{ "url": PNG }] } } });
    let row: Map<String, Value> = (0..20).map(|n| (format!("field{n}"), json!(n))).collect();
    let output = json!({ "rows": vec![row; 1_000], "z": file });
    receiver.accept(producing("rows", output)).await;
    assert_eq!(results(&receiver, "rows", "path, kind").await, json!([["output", "data"]]));

    // The text is large: it is not built as a value.
    let embedding = format!("{{\"embedding\":[0.1{}]}}", ",0.1".repeat(1_535));
    let data = format!("[{embedding}{}]", format!(",{embedding}").repeat(499));
    let body = producing("numbers", json!({ "data": "DATA", "z": file })).to_string();
    receiver.accept(body.replace("\"DATA\"", &data)).await;
    receiver.wait_until_recorded().await;
    let detail = get_json(&receiver, "/api/v1/executions/numbers").await;
    assert_eq!(item_fields(&detail["results"], "path"), ["output.z.a.b.c[0].url"]);
    let page = get_json(&receiver, "/api/v1/results?workflow=w").await;
    assert_eq!(page["next"], json!(null));
}

fn workflow_receiver(receiver: &TestReceiver, arguments: &[&str]) -> String {
    let dir = TempDir::new().unwrap();
    let mut command = program(dir.path());
    let (text, code) = run_to_end(command.args(arguments).env("DATABASE_URL", url(&receiver.database)));
    assert_eq!(code, Some(0), "{arguments:?}: {text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_filtered_by_kind_and_exported_as_urls() {
    let receiver = TestReceiver::start().await;
    receiver
        .accept(with(serde_json::from_str(&example("deep-outputs.json")).unwrap(), json!({ "bulk_id": "b" })))
        .await;
    receiver
        .accept(with(producing("inline", json!(["data:image/png;base64,QUJD"])), json!({ "bulk_id": "b" })))
        .await;
    receiver.accept(producing("other", json!(["https://example.com/x.png"]))).await;
    receiver.wait_until_recorded().await;
    let images = get_json(&receiver, "/api/v1/results?bulk=b&kind=image").await;
    let stills = ["https://cdn-us.eachlabs.ai/uploads/s1.png", "https://cdn-us.eachlabs.ai/uploads/s2.webp"];
    assert_eq!(item_fields(&images, "url"), ["data:image/png;base64,", stills[0], stills[1]]);
    assert_eq!(item_fields(&images, "truncated"), [true, false, false]);
    let finals = get_json(&receiver, "/api/v1/results?bulk=b&final=true&limit=1").await;
    let next = finals["next"].as_str().unwrap();
    let page = get_json(&receiver, &format!("/api/v1/results?bulk=b&final=true&cursor={next}")).await;
    assert_eq!(item_fields(&page, "kind"), ["video", "text"]);
    for (parameter, allowed) in
        [("kind=url", "image, video, audio, text, document, data"), ("final=1", "true or false")]
    {
        let (kind, detail) = problem(receiver.get(&format!("/api/v1/results?{parameter}")).await, 400).await;
        assert_eq!(kind, "bad-parameter");
        assert!(detail.contains(allowed), "{detail}");
    }

    let urls = receiver.get("/api/v1/export/results?bulk=b&format=urls").await;
    assert_eq!(urls.headers()["content-type"], "text/plain; charset=utf-8");
    assert_eq!(urls.headers()["content-disposition"], "attachment; filename=\"results.txt\"");
    let video = "https://cdn-us.eachlabs.ai/uploads/a1.mp4";
    assert_eq!(urls.text().await.unwrap().lines().collect::<Vec<_>>(), [video, stills[0], stills[1]]);
    let (_, detail) = problem(receiver.get("/api/v1/export/executions?format=urls").await, 400).await;
    assert!(detail.contains("jsonl, csv"), "{detail}");

    let lines = workflow_receiver(&receiver, &["results", "--bulk", "b", "--final", "--urls", "--all"]);
    assert_eq!(lines.lines().collect::<Vec<_>>(), [video]);
    let table = workflow_receiver(&receiver, &["results", "--kind", "image", "--since", "7d"]);
    assert!(
        table.contains("data:image/png;base64,…") && table.contains(stills[0]) && !table.contains(video),
        "{table}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_a_rare_kind_neither_skip_nor_repeat_results() {
    let receiver = TestReceiver::start().await;
    execute(
        &receiver,
        "INSERT INTO executions (execution_id, workflow_id, status, output, payload, deliveries,
            first_received_at, last_received_at)
        SELECT 'e' || n, 'w', 'completed',
            jsonb_build_array('text', format('https://example.com/%s.%s', n, CASE n % 1000 WHEN 7 THEN 'mp4' ELSE 'png' END)),
            '{}', 1, at, at
        FROM (SELECT n, timestamptz '2026-03-02' - n / 10 * interval '1 second' AS at FROM generate_series(1, 6000) AS n) AS n",
    )
    .await;
    for limit in [1, 4, 1000] {
        let (mut urls, mut cursor) = (Vec::new(), String::new());
        loop {
            let page =
                get_json(&receiver, &format!("/api/v1/results?kind=video&limit={limit}{cursor}")).await;
            urls.extend(item_fields(&page, "url").into_iter().cloned());
            let Some(next) = page["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        let expected = [7, 1007, 2007, 3007, 4007, 5007].map(|n| format!("https://example.com/{n}.mp4"));
        assert_eq!(urls, expected, "by {limit}");
    }
}
