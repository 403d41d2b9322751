//! The examples in `docs/operators.md` have the output that it shows.

use std::path::Path;
use std::process::Command;

use sqlx::postgres::PgRow;
use sqlx::{Column, PgConnection, Row, TypeInfo, ValueRef};

use crate::support::fixtures::{STOPPED_CLOCK, cookbook_page, cookbook_pieces, cookbook_queries, example};
use crate::support::postgres::{until_rows, url};
use crate::support::process::run_to_end;
use crate::support::receiver::TestReceiver;
use crate::support::rollups::recount_rollups;
use crate::support::wait::until;

/// Sets the times at which the webhooks of the page arrived.
const TIMES: &str = "
    UPDATE executions SET
        first_received_at = coalesce(completed_at, started_at) + interval '1 second',
        last_received_at = coalesce(completed_at, started_at) + interval '1 second';
    UPDATE bulks SET first_received_at = e.first, last_received_at = e.last
    FROM (
        SELECT bulk_id, min(first_received_at) AS first, max(last_received_at) AS last
        FROM executions GROUP BY bulk_id
    ) AS e WHERE e.bulk_id = bulks.bulk_id;
    UPDATE execution_conflicts SET
        first_received_at = '2026-03-02 09:15:21Z', last_received_at = '2026-03-02 09:15:21Z';
    UPDATE predictions SET
        first_received_at = timestamptz '2026-03-02 09:50Z' + right(prediction_id, 1)::integer * interval '1 minute',
        last_received_at = timestamptz '2026-03-02 09:50Z' + right(prediction_id, 1)::integer * interval '1 minute';
    UPDATE quarantine SET
        first_received_at = '2026-03-02 09:50:00Z', last_received_at = '2026-03-02 09:50:10Z';
    INSERT INTO expected_executions
        (execution_id, workflow_id, bulk_id, position, reference, registered_at, due_at)
    VALUES
        ('exec-112', 'product-photos', 'summer-catalogue', 3, '{\"order\": \"1240\"}', '2026-03-02 09:20Z', '2026-03-02 09:40Z');
    INSERT INTO unverified_deliveries
        (execution_id, workflow_id, status, body, received_at, attempts, last_error, due_at)
    VALUES
        ('exec-401', 'product-photos', 'completed', '{}', '2026-03-02 09:55Z', 4,
         'each::labs answered HTTP 503', '2026-03-02 10:00:20Z')";

#[tokio::test(flavor = "multi_thread")]
async fn every_example_of_the_cookbook_has_the_output_that_it_shows() {
    let receiver = TestReceiver::start().await;
    for body in example("cookbook.jsonl").lines() {
        let has_reference = ["exec-105", "exec-106"].iter().any(|id| body.contains(id));
        let query = if has_reference { "?order=1234&user=42" } else { "" };
        let request = receiver.client.post(format!("{}{query}", receiver.url)).body(body.to_owned());
        request.send().await.unwrap();
        receiver.wait_until_recorded().await;
    }
    let mut connection = receiver.connection().await;
    sqlx::raw_sql(TIMES).execute(&mut connection).await.unwrap();
    recount_rollups(&receiver).await;
    sqlx::raw_sql(STOPPED_CLOCK).execute(&mut connection).await.unwrap();
    until(async || receiver.ready().await.1["spooled"] == 0).await;
    until_rows(&receiver.database, "SELECT FROM change_batches WHERE last_change IS NULL", 0).await;
    let shown = cookbook_pieces();
    let mut real = shown.clone();
    for n in 0..shown.len() {
        if let Some(query) = shown[n].strip_prefix("sql\n") {
            assert!(shown[n + 2].starts_with("text\n"), "no output is shown for {query}");
            real[n + 2] = format!("text\n{}", answer(&mut connection, query).await);
        }
        let is_shown = shown.get(n + 2).is_some_and(|answer| answer.starts_with("json\n"));
        if let Some(curl) = shown[n].strip_prefix("sh\ncurl ").filter(|_| is_shown) {
            real[n + 2] = format!("json\n{}", answer_over_http(&receiver, curl).await);
        }
        if let Some(arguments) = shown[n].strip_prefix("sh\nworkflow-receiver ") {
            assert!(shown[n + 2].starts_with("text\n"), "no output is shown for {arguments}");
            real[n + 2] = format!("text\n{}", printed(&receiver, &shown[n][3..]));
        }
    }
    // `BLESS=1 cargo test cookbook` rewrites the page.
    if std::env::var_os("BLESS").is_some() {
        return std::fs::write(cookbook_page(), real.join("```")).unwrap();
    }
    assert_eq!(
        shown.join("```"),
        real.join("```"),
        "BLESS=1 cargo test --test it cookbook:: updates the page"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cookbook_queries_every_view() {
    let receiver = TestReceiver::start().await;
    let views = receiver.rows("SELECT viewname FROM pg_views WHERE schemaname = 'public'").await;
    assert!(!views.is_empty());
    for view in views {
        let source = format!("FROM {}\n", view["viewname"].as_str().unwrap());
        assert!(cookbook_queries().iter().any(|query| query.contains(&source)), "{source}");
    }
}

/// The answer of the admin port, indented, with its fields in their order.
async fn answer_over_http(receiver: &TestReceiver, curl: &str) -> String {
    let path = curl.trim().trim_matches('\'').strip_prefix("http://127.0.0.1:9090").unwrap();
    let text = receiver.get(path).await.text().await.unwrap();
    let (mut indented, mut depth, mut quoted, mut escaped) = (String::new(), 0, false, false);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if quoted {
            indented.push(c);
            quoted = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        // A reference is written as jsonb writes it, with blanks.
        if c == ' ' {
            continue;
        }
        if matches!(c, '}' | ']') {
            depth -= 1;
            indented.extend(["\n", &"  ".repeat(depth)]);
        }
        indented.push(c);
        match c {
            '{' | '[' if matches!(rest.peek(), Some('}' | ']')) => indented.extend(rest.next()),
            '{' | '[' | ',' => {
                depth += usize::from(c != ',');
                indented.extend(["\n", &"  ".repeat(depth)]);
            }
            ':' => indented.push(' '),
            _ => quoted = c == '"',
        }
    }
    // The clock of the receiver is not stopped, so this number is replaced.
    let example_value = |line: &str| match line.split_once("\"seconds_since_last\": ") {
        Some((indent, number)) => {
            format!("{indent}\"seconds_since_last\": 2700{}\n", number.trim_matches(char::is_numeric))
        }
        None => format!("{line}\n"),
    };
    indented.lines().map(example_value).collect()
}

/// The output of a command line.
fn printed(receiver: &TestReceiver, line: &str) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_workflow-receiver")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("sh");
    shell.args(["-c", line]).env("PATH", path).env("DATABASE_URL", url(&receiver.database));
    let (text, code) = run_to_end(&mut shell);
    assert_eq!(code, Some(0), "{line}: {text}");
    text
}

/// The result as `psql` prints it.
async fn answer(connection: &mut PgConnection, query: &str) -> String {
    // The simple protocol returns text.
    let rows = sqlx::raw_sql(sqlx::AssertSqlSafe(query)).fetch_all(&mut *connection).await.unwrap();
    let columns = rows.first().unwrap_or_else(|| panic!("no rows: {query}")).columns();
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| (0..columns.len()).map(|n| text(row, n)).collect()).collect();
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(n, column)| {
            cells.iter().map(|row| row[n].chars().count()).chain([column.name().len()]).max().unwrap()
        })
        .collect();
    let line = |cells: Vec<String>| format!(" {}", cells.join(" | ").trim_end());
    let mut lines = vec![
        line(columns.iter().zip(&widths).map(|(c, width)| format!("{:^width$}", c.name())).collect()),
        widths.iter().map(|width| "-".repeat(width + 2)).collect::<Vec<_>>().join("+"),
    ];
    for row in cells {
        let aligned = row.into_iter().zip(columns).zip(&widths).map(|((cell, column), width)| {
            match column.type_info().name() {
                "INT4" | "INT8" | "NUMERIC" | "FLOAT8" => format!("{cell:>width$}"),
                _ => format!("{cell:width$}"),
            }
        });
        lines.push(line(aligned.collect()));
    }
    lines.push(format!("({} row{})\n", rows.len(), if rows.len() == 1 { "" } else { "s" }));
    lines.join("\n")
}

fn text(row: &PgRow, column: usize) -> String {
    let value = row.try_get_raw(column).unwrap();
    if value.is_null() { String::new() } else { value.as_str().unwrap().to_owned() }
}
