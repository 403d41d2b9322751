//! A database in another encoding than UTF8 is rejected before anything is recorded.

use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;

use crate::support::fixtures::{execution, with};
use crate::support::postgres::{new_database, url};
use crate::support::process::{program, run_to_end};
use crate::support::receiver::{TestReceiver, fast_retries};
use crate::support::wait::until;

async fn execute(database: &PgConnectOptions, sql: String) {
    let mut connection = PgConnection::connect_with(&database.clone().database("postgres")).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
}

async fn in_encoding(database: &PgConnectOptions, encoding: &str) -> PgConnectOptions {
    let name = format!("{}_{}", database.get_database().unwrap(), encoding.to_lowercase());
    let make = format!("CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0");
    execute(database, format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
    execute(database, make).await;
    database.clone().database(&name)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_in_another_encoding_is_rejected_and_deliveries_wait_for_one_in_utf8() {
    let database = new_database().await;
    for encoding in ["LATIN1", "SQL_ASCII", "EUC_JP"] {
        let other = in_encoding(&database, encoding).await;
        let name = other.get_database().unwrap().to_owned();
        let dir = TempDir::new().unwrap();
        let (text, code) = run_to_end(program(dir.path()).arg("migrate").env("DATABASE_URL", url(&other)));
        let names_the_fix = |text: &str| {
            let how = "ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0";
            text.contains(&format!("has the encoding {encoding}, but must have UTF8")) && text.contains(how)
        };
        assert!(code == Some(1) && names_the_fix(&text), "{text}");

        let receiver = TestReceiver::start_on(other.clone(), fast_retries).await;
        let body = with(execution("é", "completed"), json!({ "output": "日本 ü €" }));
        receiver.accept(&body).await;
        until(async || names_the_fix(&receiver.ready().await.1["problems"].to_string())).await;
        assert_eq!(receiver.metric("database_up").await, 0.0);
        assert_eq!(receiver.metric("spool_depth").await, 1.0);
        // The statement from the error message.
        execute(&database, format!("DROP DATABASE {name} WITH (FORCE)")).await;
        execute(
            &database,
            format!("CREATE DATABASE \"{name}\" ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0"),
        )
        .await;
        assert_eq!(receiver.row("SELECT payload FROM executions").await["payload"], body);
        assert_eq!(receiver.ready().await.1["status"], "ok");
        receiver.stop().await;
        execute(&database, format!("DROP DATABASE {name} WITH (FORCE)")).await;
    }
}
