//! Outputs and payloads that are small in storage and large as text: they are stored, read and exported within bounds.

use reqwest::Client;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

use crate::support::fixtures::{execution, with};
use crate::support::http::{get_json, gzip, item_fields};
use crate::support::postgres::{execute, new_database, url};
use crate::support::process::{Process, program};
use crate::support::receiver::TestReceiver;
use crate::support::wait::{until, within};

/// An execution with `count` numbers that jsonb writes with 309 digits.
fn exponents(id: &str, count: usize) -> String {
    let numbers = vec!["1e308"; count].join(",");
    let body = with(execution(id, "completed"), json!({ "output": "numbers" })).to_string();
    body.replace("\"numbers\"", &format!("[{numbers}]"))
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_jsonb_expands_are_stored_as_bytes_and_read_in_bounded_memory() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let process = Process::start(program(dir.path()).env("DATABASE_URL", url(&database)));
    let body = exponents("e", 1_000_000);
    let packed = gzip(&body);
    assert!(packed.len() < 20_000, "{} bytes", packed.len());
    let post = Client::new().post(&process.url).header("content-encoding", "gzip").body(packed);
    assert_eq!(post.send().await.unwrap().status(), 200);
    let path = format!("http://{}/api/v1/executions/e", process.admin);
    let found = async || Client::new().get(&path).send().await.unwrap();
    until(async || found().await.status() == 200).await;
    let before = process.resident_kib();
    let whole: Value = found().await.json().await.unwrap();
    assert_eq!(whole["payload"], Value::Null);
    assert_eq!(whole["payload_text"].as_str().map(str::len), Some(body.len()));
    assert_eq!((&whole["results"]["items"], &whole["omitted"]), (&json!([]), &json!([])));
    let after = process.resident_kib();
    println!("{before} KiB before, {after} KiB after");
    assert!(after < 256 << 10, "{before} KiB before, {after} KiB after");

    // A payload that was stored as jsonb.
    let mut connection = PgConnection::connect_with(&database).await.unwrap();
    let earlier = "INSERT INTO executions (execution_id, workflow_id, status, output, payload, deliveries,
            first_received_at, last_received_at)
        SELECT 'earlier', 'w', 'completed', n, jsonb_build_object('output', n), 1, now(), now()
        FROM (SELECT jsonb_build_array(jsonb_agg('1e308'::jsonb)) AS n FROM generate_series(1, 100000)) AS n";
    sqlx::raw_sql(earlier).execute(&mut connection).await.unwrap();
    let whole: Value = Client::new().get(format!("{path}arlier")).send().await.unwrap().json().await.unwrap();
    assert_eq!((&whole["payload"], &whole["omitted"]), (&Value::Null, &json!(["payload"])));
    let result = &whole["results"]["items"][0];
    assert_eq!(result["truncated"], json!(true));
    assert!(result["text"].as_str().unwrap().len() < 16 << 20);
    let after = process.resident_kib();
    assert!(after < 256 << 10, "{before} KiB before, {after} KiB after");
    process.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_whose_cost_has_a_large_exponent_is_recorded_without_the_cost() {
    let receiver = TestReceiver::start().await;
    for (id, cost) in [("tiny", "1e-16000"), ("usual", "0.042"), ("large", "1e308")] {
        let body = with(execution(id, "completed"), json!({ "total_cost": "cost" })).to_string();
        receiver.accept(body.replace("\"cost\"", cost)).await;
    }
    let rows =
        receiver.rows("SELECT execution_id, length(total_cost::text) AS n FROM executions ORDER BY 1").await;
    let expected = [("large", json!(309)), ("tiny", Value::Null), ("usual", json!(5))];
    assert_eq!(rows, expected.map(|(id, n)| json!({ "execution_id": id, "n": n })));
}

/// The positions of all exported results.
async fn exported(receiver: &TestReceiver, filter: &str) -> Vec<i64> {
    let export = receiver.get(&format!("/api/v1/export/results?{filter}")).await;
    assert_eq!(export.status(), 200);
    let text = within(export.text()).await.unwrap();
    // Lines may be long; only their beginning is needed.
    let position = |line: &str| {
        let (_, after) = line.split_once("\"position\":").unwrap();
        after.split_once(',').unwrap().0.parse().unwrap()
    };
    text.lines().map(position).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_with_very_many_elements_is_paged_and_exported_up_to_the_limit() {
    let receiver = TestReceiver::start().await;
    execute(
        &receiver,
        "INSERT INTO executions (execution_id, workflow_id, status, output, payload, deliveries,
                first_received_at, last_received_at)
            SELECT 'array', 'w', 'completed', jsonb_agg('text ' || n), '{}'::jsonb, 1, now(), now()
            FROM generate_series(1, 400000) AS n
            UNION ALL
            SELECT 'object', 'w', 'completed', jsonb_object_agg('key ' || n, n), '{}'::jsonb, 1, now(), now()
            FROM generate_series(1, 100000) AS n",
    )
    .await;
    let (mut cursor, mut next) = (String::new(), 1);
    for _ in 0..3 {
        let page = get_json(&receiver, &format!("/api/v1/results?execution=array&limit=1000{cursor}")).await;
        let positions: Vec<_> = item_fields(&page, "position").iter().map(|n| n.as_i64().unwrap()).collect();
        assert_eq!(positions, (next..next + 1000).collect::<Vec<_>>());
        next += 1000;
        cursor = format!("&cursor={}", page["next"].as_str().unwrap());
    }
    // The array is one of the 10,000 values that are read.
    assert_eq!(exported(&receiver, "execution=array").await, (1..=9_999).collect::<Vec<_>>());
    assert_eq!(exported(&receiver, "execution=object").await, [1], "numbers are one result of the kind data");
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_with_very_many_urls_are_read_and_exported_within_the_time_of_a_query() {
    let receiver = TestReceiver::start().await;
    execute(
        &receiver,
        "INSERT INTO executions (execution_id, workflow_id, status, output, payload, deliveries,
                first_received_at, last_received_at)
            SELECT 'urls', 'w', 'completed', jsonb_agg(repeat('a://b' || n || ' ', 140000)), '{}'::jsonb, 1, now(), now()
            FROM generate_series(1, 8) AS n",
    )
    .await;
    let whole = get_json(&receiver, "/api/v1/executions/urls").await;
    assert_eq!(whole["results"]["items"][0]["url"], "a://b1");
    // The URL of the first text; then the other texts, whose URLs are over the limit of 10,000 values.
    assert_eq!(exported(&receiver, "execution=urls").await, (1..=8).collect::<Vec<_>>());
    assert_eq!(whole["results"]["items"][1]["kind"], "data");
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_that_compress_well_are_paged_and_exported_by_the_size_of_their_text() {
    let receiver = TestReceiver::start().await;
    execute(
        &receiver,
        "INSERT INTO executions (execution_id, workflow_id, bulk_id, status, output, payload, deliveries,
            first_received_at, last_received_at)
        SELECT 'e' || n, 'w', 'b', 'completed', to_jsonb(ARRAY[repeat('a', 5000000), n::text]), '{}', 1, now(), now()
        FROM generate_series(1, 20) AS n",
    )
    .await;
    for filter in ["", "workflow=w", "bulk=b"] {
        let page = get_json(&receiver, &format!("/api/v1/results?limit=1000&{filter}")).await;
        assert_eq!(page["items"].as_array().unwrap().len(), 1, "a page ends after 4 MiB of values");
        assert!(page["next"].is_string());
    }
    let positions = exported(&receiver, "").await;
    assert_eq!(positions, [1, 2].repeat(20));
}
