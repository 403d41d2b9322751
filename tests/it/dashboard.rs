//! The dashboard of results: every query runs as the role for tools and returns rows.

use std::path::Path;

use serde_json::{Value, json};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Column, Connection, PgConnection, Row, TypeInfo};

use crate::support::fixtures::{execution, sample_receiver, with};
use crate::support::postgres::{grant, url};
use crate::support::process::{program, run_to_end};

fn dashboard() -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/grafana-results.json");
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

/// Replaces the macros as Grafana does, for the time from yesterday to tomorrow.
fn expanded(query: &str, workflows: &str) -> String {
    let (from, to) = ("(now() - interval '1 day')::text", "(now() + interval '1 day')::text");
    let mut query = query
        .replace("$__timeFrom()", from)
        .replace("$__timeTo()", to)
        .replace("($workflow)", &format!("({workflows})"));
    while let Some((before, rest)) = query.split_once("$__timeFilter(") {
        let (column, after) = rest.split_once(')').unwrap();
        query = format!("{before}{column} BETWEEN {from}::timestamptz AND {to}::timestamptz{after}");
    }
    assert!(!query.contains('$'), "an unknown macro or variable: {query}");
    query
}

async fn run(connection: &mut PgConnection, query: String) -> Vec<PgRow> {
    let rows = sqlx::raw_sql(AssertSqlSafe(query.clone())).fetch_all(connection).await;
    let rows = rows.unwrap_or_else(|error| panic!("{error}: {query}"));
    assert!(!rows.is_empty(), "no rows: {query}");
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_the_dashboard_returns_rows_to_the_read_only_role() {
    let receiver = sample_receiver().await;
    receiver.accept(with(execution("cost", "completed"), json!({ "total_cost": 1.5 }))).await;
    receiver.wait_until_recorded().await;
    let mut expect = program(receiver.dir.path());
    let (text, code) = run_to_end(
        expect.args(["bulks", "set-size", "b/1 é", "9"]).env("DATABASE_URL", url(&receiver.database)),
    );
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(grant(&receiver.database, &[]), (String::new(), Some(0)));
    let operator = receiver.database.clone().username("workflow_receiver_operator");
    let mut connection = PgConnection::connect_with(&operator).await.unwrap();

    let board = dashboard();
    let variables = board["templating"]["list"].as_array().unwrap();
    let workflow = variables.iter().find(|variable| variable["name"] == "workflow").unwrap();
    let workflows = run(&mut connection, expanded(workflow["query"].as_str().unwrap(), "")).await;
    // Grafana quotes each value of the variable.
    let workflows: Vec<String> =
        workflows.iter().map(|row| format!("'{}'", row.get::<String, _>(0))).collect();
    assert_eq!(workflows, ["'v'", "'w'"]);
    let workflows = workflows.join(",");

    let panels = board["panels"].as_array().unwrap();
    assert!(panels.len() >= 10);
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        let target = &panel["targets"][0];
        assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
        let rows = run(&mut connection, expanded(target["rawSql"].as_str().unwrap(), &workflows)).await;
        if target["format"] == "time_series" {
            let time = &rows[0].columns()[0];
            assert_eq!((time.name(), time.type_info().name()), ("time", "TIMESTAMPTZ"), "{title}");
        }
    }
    let incomplete = panels.iter().find(|panel| panel["title"] == "Incomplete bulks").unwrap();
    let query = expanded(incomplete["targets"][0]["rawSql"].as_str().unwrap(), &workflows);
    let query = format!("SELECT bulk_id, received, expected FROM ({query}) AS q");
    assert_eq!(receiver.rows(&query).await, [json!({ "bulk_id": "b/1 é", "received": 2, "expected": 9 })]);
}
