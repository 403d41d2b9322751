//! Paging of lists.

use std::collections::HashSet;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::support::fixtures::{execution, with};
use crate::support::http::{get_json, item_fields};
use crate::support::receiver::TestReceiver;

/// The items of all pages with this `limit`. Runs `between` after each page.
async fn pages(receiver: &TestReceiver, path: &str, limit: usize, between: impl AsyncFn()) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let sign = if path.contains('?') { '&' } else { '?' };
        let page = get_json(receiver, &format!("{path}{sign}limit={limit}{cursor}")).await;
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= limit);
        all.extend(items.iter().cloned());
        let Some(next) = page["next"].as_str() else { return all };
        cursor = format!("&cursor={next}");
        between().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn paging_neither_skips_nor_repeats_rows_while_new_ones_are_recorded() {
    let receiver = TestReceiver::start().await;
    let inserted = "
        INSERT INTO executions (execution_id, workflow_id, bulk_id, status, output, payload, deliveries,
            first_received_at, last_received_at)
        SELECT format('%s.%s', n % 7, n), 'w', 'b', CASE WHEN n % 2 = 0 THEN 'failed' ELSE 'completed' END,
            '[\"1\", \"2\", \"3\"]', '{}', 1, at, at
        FROM (SELECT n, timestamptz '2026-03-02' - n / 10 * interval '1 hour' AS at FROM generate_series(1, 60) AS n) AS n;
        INSERT INTO bulks (bulk_id, first_received_at)
        SELECT execution_id, first_received_at FROM executions;
        INSERT INTO execution_conflicts (execution_id, workflow_id, status, payload, body_sha256, deliveries,
            first_received_at, last_received_at)
        SELECT execution_id, 'w', 'failed', '{}', '', 1, first_received_at, last_received_at FROM executions;
        INSERT INTO quarantine (reason, body, body_sha256, deliveries, first_received_at, last_received_at)
        SELECT 'odd', '', execution_id::bytea, 1, first_received_at, last_received_at FROM executions";
    sqlx::raw_sql(inserted).execute(&mut receiver.connection().await).await.unwrap();
    let rounds = std::sync::atomic::AtomicUsize::new(0);
    let meanwhile = async || {
        let n = rounds.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        receiver
            .accept(with(execution(&format!("new {n}"), "failed"), json!({ "bulk_id": "b", "output": [n] })))
            .await;
        receiver
            .accept(with(
                execution(&format!("new {n}"), "completed"),
                json!({ "bulk_id": format!("new {n}") }),
            ))
            .await;
        receiver.post(json!({ "n": n }).to_string()).await;
        receiver.wait_until_recorded().await;
    };
    for (path, key, count) in [
        ("/api/v1/executions", "execution_id", 60),
        ("/api/v1/executions?status=failed", "execution_id", 30),
        ("/api/v1/executions?workflow=w", "execution_id", 60),
        ("/api/v1/executions?bulk=b&status=completed", "execution_id", 30),
        ("/api/v1/results?bulk=b", "execution_id", 180),
        ("/api/v1/bulks", "bulk_id", 60),
        ("/api/v1/conflicts", "conflict_id", 60),
        ("/api/v1/quarantine", "quarantine_id", 60),
    ] {
        let until = "2026-03-02T00:00:01Z";
        for period in ["", &format!("to={until}")] {
            let sign = if path.contains('?') { '&' } else { '?' };
            let all = pages(&receiver, &format!("{path}{sign}{period}"), 7, meanwhile).await;
            let old: Vec<_> =
                all.iter().filter(|item| item["first_received_at"].as_str() < Some(until)).collect();
            let keys: HashSet<_> =
                old.iter().map(|item| format!("{} {}", item[key], item["position"])).collect();
            assert_eq!((old.len(), keys.len()), (count, count), "{path} {period}");
            // The texts cannot be compared: trailing zeros are missing.
            let time = |item: &Value| {
                OffsetDateTime::parse(item["first_received_at"].as_str().unwrap(), &Rfc3339).unwrap()
            };
            let times: Vec<_> = all.iter().map(time).collect();
            assert!(times.is_sorted_by(|a, b| a >= b), "{path} {period} {times:?}");
        }
    }
}

/// More rows than the scan limit of a page.
#[tokio::test(flavor = "multi_thread")]
async fn rare_rows_are_found_after_short_or_empty_pages() {
    let receiver = TestReceiver::start().await;
    let inserted = "
        INSERT INTO executions (execution_id, workflow_id, status, error_cause, output, payload, deliveries,
            first_received_at, last_received_at)
        SELECT 'e' || n, 'w', CASE WHEN n % 5000 = 0 THEN 'completed' ELSE 'failed' END,
            CASE WHEN n % 4000 = 1 THEN 'Rare' ELSE 'frequent' END, CASE WHEN n % 3000 = 2 THEN '7'::jsonb END, '{}', 1, at, at
        FROM (SELECT n, timestamptz '2026-03-02' - n * interval '1 second' AS at FROM generate_series(1, 16000) AS n) AS n;
        INSERT INTO bulks (bulk_id, expected, received, completed, first_received_at)
        SELECT execution_id, CASE status WHEN 'completed' THEN 1 END, 1, 1, first_received_at FROM executions";
    sqlx::raw_sql(inserted).execute(&mut receiver.connection().await).await.unwrap();
    for (path, count) in [
        ("/api/v1/executions?workflow=w&status=completed", 3),
        ("/api/v1/executions?status=completed", 3),
        ("/api/v1/executions?cause=rare", 4),
        ("/api/v1/results", 6),
        ("/api/v1/bulks?complete=yes", 3),
        ("/api/v1/bulks?complete=unknown", 15_997),
        ("/api/v1/bulks?complete=no", 0),
    ] {
        for limit in [1, 2, 1000] {
            if count / limit > 100 {
                continue;
            }
            let found = pages(&receiver, path, limit, async || {}).await;
            let keys: HashSet<_> = found.iter().map(|item| item["first_received_at"].as_str()).collect();
            assert_eq!((found.len(), keys.len()), (count, count), "{path}");
        }
    }
    let first = get_json(&receiver, "/api/v1/bulks?complete=no").await;
    assert!(item_fields(&first, "bulk_id").is_empty() && first["next"].is_string(), "{first}");
    let groups = get_json(&receiver, "/api/v1/failures").await;
    assert_eq!((&groups["failed"], &groups["partial"]), (&json!(1_000), &json!(true)));
    let all = get_json(&receiver, "/api/v1/failures?from=2026-03-01T23:50:00Z").await;
    assert_eq!((&all["failed"], &all["partial"]), (&json!(600), &json!(false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn results_continue_within_an_execution_with_many_outputs_and_after_one_with_large_outputs() {
    let receiver = TestReceiver::start().await;
    // Text that PostgreSQL cannot compress.
    let words = (0_u64..400_000).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23));
    let noise = words.map(|word| format!("{word:016x}")).collect::<Vec<_>>().concat();
    receiver.accept(with(execution("few", "completed"), json!({ "output": ["x", null, "z"] }))).await;
    receiver.accept(with(execution("much", "completed"), json!({ "output": [noise, "y"] }))).await;
    receiver
        .accept(with(
            execution("many", "completed"),
            json!({ "output": (1..=25).map(|n| n.to_string()).collect::<Vec<_>>() }),
        ))
        .await;
    receiver.wait_until_recorded().await;
    for limit in [1, 10, 1000] {
        let all = pages(&receiver, "/api/v1/results", limit, async || {}).await;
        let found: Vec<_> = all
            .iter()
            .map(|r| format!("{} {}", r["execution_id"].as_str().unwrap(), r["position"]))
            .collect();
        let expected = (1..=25).map(|n| format!("many {n}"));
        let expected: Vec<_> =
            expected.chain(["much 1", "much 2", "few 1", "few 2"].map(str::to_owned)).collect();
        assert_eq!(found, expected, "by {limit}");
    }
    let page = get_json(&receiver, "/api/v1/results?limit=1000").await;
    assert_eq!(page["items"].as_array().unwrap().len(), 26, "a page ends after 4 MiB of values");
    let one = get_json(&receiver, "/api/v1/executions/much").await;
    assert_eq!(one["results"]["items"][0]["text"].as_str().map(str::len), Some(6_400_000));
}

/// PostgreSQL compresses these outputs to a hundredth.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_results_is_limited_in_bytes() {
    let receiver = TestReceiver::start().await;
    for n in 0..12 {
        let output = json!({ "workflow_id": "w", "output": ["a".repeat(1 << 20), n.to_string()] });
        receiver.accept(with(execution(&n.to_string(), "completed"), output)).await;
    }
    receiver.wait_until_recorded().await;
    for filter in ["", "&workflow=w"] {
        let (mut values, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/api/v1/results?limit=1000{filter}{cursor}");
            let page = get_json(&receiver, &path).await;
            let items = page["items"].as_array().unwrap();
            assert!(items.len() <= 9, "{}", items.len());
            values.extend(items.iter().map(|item| item["text"].as_str().unwrap().to_owned()));
            let Some(next) = page["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(values.iter().filter(|value| value.len() == 1 << 20).count(), 12);
        let numbers: Vec<_> = values.iter().filter(|value| value.len() < 3).collect();
        assert_eq!(numbers, ["11", "10", "9", "8", "7", "6", "5", "4", "3", "2", "1", "0"], "{filter}");
    }
    let export = receiver.get("/api/v1/export/results").await.text().await.unwrap();
    assert_eq!(export.lines().count(), 24);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_is_valid_for_the_same_filter_only_also_from_a_detail() {
    let receiver = TestReceiver::start().await;
    for n in 0..60 {
        let fields = json!({ "bulk_id": "b", "output": [n.to_string(), "x"] });
        receiver.accept(with(execution(&format!("e{n}"), "completed"), fields)).await;
    }
    receiver.wait_until_recorded().await;
    let bulk = get_json(&receiver, "/api/v1/bulks/b").await;
    for (list, rest) in [("executions", 10), ("results", 70)] {
        let next = bulk[list]["next"].as_str().unwrap();
        let continued = format!("/api/v1/{list}?bulk=b&limit=1000&from=1h&cursor={next}");
        let page = get_json(&receiver, &continued).await;
        assert_eq!(page["items"].as_array().unwrap().len(), rest, "{list}");
        let other = receiver.get(&format!("/api/v1/{list}?workflow=w&cursor={next}")).await;
        assert_eq!(other.status(), 400, "{list}");
    }
}
