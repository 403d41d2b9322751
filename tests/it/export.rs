//! Exports as JSON Lines and CSV.

use std::process::Stdio;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Client;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::fixtures::{execution, with};
use crate::support::http::{get_json, rest};
use crate::support::postgres::{new_database, url};
use crate::support::process::{Process, program, run_to_end};
use crate::support::receiver::TestReceiver;
use crate::support::wait::{pause, until, within};

/// Executions with causes of about a kilobyte.
async fn fill(connection: &mut PgConnection, count: u32) {
    let fill = format!(
        "INSERT INTO executions (execution_id, workflow_id, status, error_cause, output, payload, deliveries,
             first_received_at, last_received_at)
         SELECT 'e' || n, 'w', CASE WHEN n % 2 = 0 THEN 'failed' ELSE 'completed' END, repeat(md5(n::text), 28),
             to_jsonb(ARRAY[n::text, 'x']), '{{}}', 1, at, at
         FROM (SELECT n, timestamptz '2026-03-02' - n * interval '1 second' AS at
               FROM generate_series(1, {count}) AS n) AS n;
         ANALYZE executions"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(fill)).execute(connection).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_contains_the_whole_list_with_the_same_filters() {
    let receiver = TestReceiver::start().await;
    fill(&mut receiver.connection().await, 2_500).await;
    for (list, filter, count) in [
        ("executions", "", 2_500),
        ("executions", "status=failed&from=2026-03-01T23:40:00Z", 600),
        ("executions", "cause=no+such", 0),
        ("results", "workflow=w", 5_000),
        ("results", "execution=e7", 2),
    ] {
        let lines = receiver.get(&format!("/api/v1/export/{list}?{filter}")).await;
        assert_eq!(lines.headers()["content-type"], "application/jsonl");
        let text = lines.text().await.unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), count, "{list} {filter}");
        let page = get_json(&receiver, &format!("/api/v1/{list}?limit=1000&{filter}")).await;
        let page = page["items"].as_array().unwrap();
        assert_eq!(&lines[..page.len()], &page[..], "{list} {filter}");

        let answer = receiver.get(&format!("/api/v1/export/{list}?format=csv&{filter}")).await;
        assert_eq!(answer.headers()["content-type"], "text/csv; charset=utf-8; header=present");
        assert_eq!(answer.headers()["content-disposition"], format!("attachment; filename=\"{list}.csv\""));
        let text = answer.text().await.unwrap();
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let columns: Vec<_> = reader.headers().unwrap().iter().map(str::to_owned).collect();
        assert!(columns.len() >= 8, "{columns:?}");
        let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        assert_eq!(rows.len(), count, "{list} {filter}");
        for (row, line) in rows.iter().zip(&lines) {
            assert_eq!(line.as_object().unwrap().len(), columns.len());
            for (column, cell) in columns.iter().zip(row) {
                let value = match &line[column] {
                    Value::Null => String::new(),
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                assert_eq!(cell, value, "{column}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_writes_what_the_api_exports() {
    let receiver = TestReceiver::start().await;
    fill(&mut receiver.connection().await, 2_500).await;
    for (id, status) in [("b1", "completed"), ("b2", "running"), ("b2-other", "failed")] {
        let more = json!({ "bulk_id": &id[..2], "output": [format!("https://cdn.example.com/{id}.png")] });
        receiver.accept(with(execution(id, status), more)).await;
    }
    receiver.wait_until_recorded().await;
    let dir = TempDir::new().unwrap();
    let export = |arguments: &str| {
        let mut command = program(dir.path());
        let arguments = arguments.split_whitespace();
        run_to_end(command.arg("export").args(arguments).env("DATABASE_URL", url(&receiver.database)))
    };
    for (command, path) in [
        ("executions", "executions"),
        (
            "executions --status failed --since 2026-03-01T23:40:00Z --format csv",
            "executions?status=failed&from=2026-03-01T23:40:00Z&format=csv",
        ),
        ("executions --cause no-such --format csv", "executions?cause=no-such&format=csv"),
        ("results --workflow w --format csv", "results?workflow=w&format=csv"),
        ("results --bulk b2 --format urls", "results?bulk=b2&format=urls"),
    ] {
        let expected = receiver.get(&format!("/api/v1/export/{path}")).await.text().await.unwrap();
        assert!(!expected.is_empty());
        assert_eq!(export(command), (expected, Some(0)), "{command}");
    }
    let (text, code) = export("executions --status faild");
    assert!(code == Some(1) && text.contains("--status"), "{text}");
    let (text, _) = export("bulks");
    let bulks: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(bulks.iter().map(|bulk| &bulk["received"]).collect::<Vec<_>>(), [2, 1]);
    let (text, code) = export("bulks --complete unknown --format csv -o bulks.csv");
    assert_eq!((&*text, code), ("", Some(0)));
    let mut csv = csv::Reader::from_path(dir.path().join("bulks.csv")).unwrap();
    assert_eq!(csv.headers().unwrap().get(0), Some("bulk_id"));
    assert_eq!(csv.records().count(), 2);

    // A reader that closes the pipe is not an error. A failed export keeps the earlier file.
    let mut command = program(dir.path());
    command.args(["export", "executions"]).env("DATABASE_URL", url(&receiver.database));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &*String::from_utf8_lossy(&output.stderr)), (Some(0), ""));
    let gone = "ALTER TABLE bulks RENAME TO elsewhere";
    sqlx::raw_sql(gone).execute(&mut receiver.connection().await).await.unwrap();
    let drop = "DROP VIEW bulk_progress CASCADE";
    sqlx::raw_sql(drop).execute(&mut receiver.connection().await).await.unwrap();
    let (text, code) = export("bulks -o bulks.csv");
    assert!(code == Some(1) && text.contains("bulks.csv: "), "{text}");
    let files: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(
        files.contains(&"bulks.csv".into()) && !files.contains(&"bulks.csv.incomplete".into()),
        "{files:?}"
    );
    assert!(std::fs::read_to_string(dir.path().join("bulks.csv")).unwrap().starts_with("bulk_id,"));
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_contains_any_text_and_no_formula() {
    let receiver = TestReceiver::start().await;
    for (id, cause, cell) in [
        ("formula", "=HYPERLINK(\"http://example.com\")", "'=HYPERLINK(\"http://example.com\")"),
        ("plus", "+1", "'+1"),
        ("minus", "-1", "'-1"),
        ("at", "@SUM(A1)", "'@SUM(A1)"),
        ("tab", "\t=1", "'\t=1"),
        ("return", "\r\n=1", "'\r\n=1"),
        ("blank", "  =1", "'  =1"),
        ("no-break space", "\u{a0}=1", "'\u{a0}=1"),
        ("byte order mark", "\u{feff}=1", "'\u{feff}=1"),
        ("zero width", "\u{200b}@1", "'\u{200b}@1"),
        ("control", "\u{1}text", "'\u{1}text"),
        ("full-width =", "＝1", "'＝1"),
        ("full-width +", " ＋1", "' ＋1"),
        ("full-width -", "－1", "'－1"),
        ("full-width @", "＠SUM(A1)", "'＠SUM(A1)"),
        ("blank text", "  text", "  text"),
        ("quotes", "a \"b\", c\nd", "a \"b\", c\nd"),
        ("inside", "a=1", "a=1"),
        ("é", "日本", "日本"),
    ] {
        let failed = json!({ "error_cause": cause, "total_cost": -0.5, "output": [cause] });
        receiver.accept(with(execution(id, "failed"), failed)).await;
        receiver.wait_until_recorded().await;
        for (list, column) in [("executions", 5), ("results", 11)] {
            let text = receiver.get(&format!("/api/v1/export/{list}?format=csv")).await.text().await.unwrap();
            let mut reader = csv::Reader::from_reader(text.as_bytes());
            let newest = reader.records().next().unwrap().unwrap();
            assert_eq!((&newest[0], &newest[column]), (id, cell));
        }
    }
    let text = receiver.get("/api/v1/export/executions?format=csv").await.text().await.unwrap();
    assert!(text.contains(",-0.5,"), "a number is no formula: {text}");
    receiver.accept(execution("=1", "completed")).await;
    receiver.wait_until_recorded().await;
    let lines = receiver.get("/api/v1/export/executions").await.text().await.unwrap();
    assert!(lines.starts_with(r#"{"execution_id":"=1","#), "JSON Lines contain the unchanged text: {lines}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_of_an_export_does_not_grow_with_its_length() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let (text, code) = run_to_end(program(dir.path()).arg("migrate").env("DATABASE_URL", url(&database)));
    assert_eq!(code, Some(0), "{text}");
    fill(&mut PgConnection::connect_with(&database).await.unwrap(), 100_000).await;
    let process = Process::start(program(dir.path()).env("DATABASE_URL", url(&database)));
    let read = async |path: &str| {
        let mut answer = Client::new().get(format!("http://{}{path}", process.admin)).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let (mut bytes, mut most) = (0, 0);
        while let Some(chunk) = answer.chunk().await.unwrap() {
            bytes += chunk.len();
            most = most.max(process.resident_kib());
        }
        (bytes, most)
    };
    // The first export reads a third of the rows, so that the allocator already holds the memory that any export needs.
    let (part, before) = read("/api/v1/export/executions?from=2026-03-01T15:00:00Z").await;
    let (bytes, most) = read("/api/v1/export/executions").await;
    assert!(bytes > 100_000_000, "{bytes} bytes");
    assert!((bytes / 4..bytes / 2).contains(&part), "{part} of {bytes} bytes");
    assert!(most < before + (16 << 10), "{before} KiB after {part} bytes, {most} KiB while all was read");
    process.terminate();
}

/// Requests an export and does not read the response.
async fn unread_export(receiver: &TestReceiver) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    let address = receiver.admin.strip_prefix("http://").unwrap();
    let mut stream = socket.connect(address.parse().unwrap()).await.unwrap();
    let request = format!("GET /api/v1/export/executions HTTP/1.1\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_export_holds_no_transaction() {
    let receiver = TestReceiver::start().await;
    fill(&mut receiver.connection().await, 30_000).await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(unread_export(&receiver).await);
    }
    let reading =
        "SELECT count(*) FILTER (WHERE state = 'idle') AS idle, count(*) AS all FROM pg_stat_activity
        WHERE application_name = 'workflow-receiver reading' AND datname = current_database()";
    // The maximum number of exports, all stalled.
    let another = async || receiver.get("/api/v1/export/results?execution=none").await;
    until(async || another().await.status() == 503).await;
    let problem: Value = another().await.json().await.unwrap();
    assert_eq!(problem["type"], "urn:workflow-receiver:problem:too-many");
    until(async || receiver.row(reading).await == json!({ "idle": 2, "all": 2 })).await;
    get_json(&receiver, "/api/v1/executions").await;
    receiver.accept(execution("meanwhile", "completed")).await;
    receiver.wait_until_recorded().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_export_is_disconnected_after_the_idle_timeout() {
    let receiver = TestReceiver::start_with(|settings| {
        settings.http.idle_timeout = Duration::from_millis(500);
    })
    .await;
    fill(&mut receiver.connection().await, 30_000).await;
    // Stalled exports are evicted after the idle timeout, even if no other connection arrives.
    let four_exports = async || {
        let streams = [(); 4].map(async |()| {
            let mut stream = unread_export(&receiver).await;
            let mut status = [0; 12];
            let began = within(stream.read_exact(&mut status)).await.is_ok() && status == *b"HTTP/1.1 200";
            began.then_some(stream)
        });
        join_all(streams).await.into_iter().collect::<Option<Vec<_>>>()
    };
    let streams = within(async {
        loop {
            if let Some(streams) = four_exports().await {
                break streams;
            }
            pause().await;
        }
    })
    .await;
    until(async || four_exports().await.is_some()).await;
    assert_eq!(receiver.ready().await.0, 200);
    for mut stream in streams {
        assert!(!rest(&mut stream).await.ends_with("\r\n0\r\n\r\n"), "the export ended normally");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_visibly_incomplete_after_an_error_of_postgres() {
    let receiver = TestReceiver::start().await;
    fill(&mut receiver.connection().await, 30_000).await;
    let mut answer = receiver.get("/api/v1/export/executions").await;
    within(answer.chunk()).await.unwrap();
    let gone = "DROP TABLE executions CASCADE";
    sqlx::raw_sql(gone).execute(&mut receiver.connection().await).await.unwrap();
    let mut ended = Ok(());
    loop {
        match within(answer.chunk()).await {
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(error) => {
                ended = Err(error);
                break;
            }
        }
    }
    assert!(ended.is_err(), "the response ended normally");
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_export_parameters_are_problems() {
    let receiver = TestReceiver::start().await;
    receiver.wait_until_recorded().await;
    let rename = "ALTER TABLE executions RENAME TO elsewhere";
    sqlx::raw_sql(rename).execute(&mut receiver.connection().await).await.unwrap();
    for format in ["jsonl", "csv"] {
        let answer = receiver.get(&format!("/api/v1/export/executions?format={format}")).await;
        assert_eq!(answer.status(), 503, "{format}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
    }
}
