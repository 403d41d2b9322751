//! The program: start and stop, the private PostgreSQL, secrets.

use std::path::{Path, PathBuf};

use reqwest::Client;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::collector::Collector;
use crate::support::fixtures::{example, execution, with};
use crate::support::http::signed;
use crate::support::postgres::{UNREACHABLE, new_database, rows, until_rows, url};
use crate::support::process::{Process, program, run_to_end, running_postgres};
use crate::support::wait::until;

#[tokio::test(flavor = "multi_thread")]
async fn without_authentication_the_program_refuses_to_listen_beyond_loopback() {
    let dir = TempDir::new().unwrap();
    let (text, code) = run_to_end(program(dir.path()).env("RECEIVER__HTTP__LISTEN", "0.0.0.0:0"));
    assert_eq!(code, Some(1));
    assert!(
        text.contains("http.listen = 0.0.0.0:0") && text.contains("RECEIVER__AUTH__ALLOW_UNAUTHENTICATED"),
        "{text}"
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "no file is created");

    let database = new_database().await;
    let allowed = Process::start(
        program(dir.path())
            .env("DATABASE_URL", url(&database))
            .env("RECEIVER__HTTP__LISTEN", "0.0.0.0:0")
            .env("RECEIVER__AUTH__ALLOW_UNAUTHENTICATED", "true"),
    );
    let log = allowed.terminate();
    assert!(
        log.iter().any(|line| line.contains("Anyone who can reach this port can post webhooks")),
        "{log:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_receiver_listens_on_the_port_of_the_platform() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let command = |port: &str| {
        let mut command = program(dir.path());
        command.env_remove("RECEIVER__HTTP__LISTEN").env("PORT", port).env("DATABASE_URL", url(&database));
        command
    };
    let (text, code) = run_to_end(&mut command("8080"));
    assert!(code == Some(1) && text.contains("overrides PORT"), "without authentication: {text}");
    let (text, code) = run_to_end(&mut command("http"));
    assert!(code == Some(1) && text.contains("PORT = http: must be a port from 1 to 65535"), "{text}");

    let token = "kMzTgn5Yp0OQx3vB7wEa";
    let process = Process::start(command(&port.to_string()).env("RECEIVER__AUTH__URL_TOKENS", token));
    assert_eq!(process.url, format!("http://0.0.0.0:{port}/webhooks/workflow-completed"));
    let url = format!("http://127.0.0.1:{port}/webhooks/workflow-completed/{token}");
    let answer = Client::new().post(url).body(execution("e", "completed").to_string()).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    process.terminate();
}

#[test]
fn an_invalid_setting_ends_the_program_with_an_error_that_names_it() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("my.toml");
    std::fs::write(&file, "[http]\nlisten_on = \"127.0.0.1:1\"\n").unwrap();
    let (text, code) = run_to_end(program(dir.path()).arg("--config").arg(&file));
    assert_eq!(code, Some(1));
    assert!(text.contains("listen_on") && text.contains("max_body_bytes"), "{text}");
    let (text, code) = run_to_end(program(dir.path()).arg("--config").arg("absent.toml"));
    assert_eq!(code, Some(1));
    assert!(text.contains("absent.toml"), "{text}");
    let (text, _) = run_to_end(program(dir.path()).env("RECEIVER__SPOOL__MAX_BYTES", "5"));
    assert!(text.contains("spool.max_bytes = 5: must be from 35651584"), "{text}");
}

/// The text of all files of a directory, without the breaks of string literals.
fn source(dir: &Path) -> String {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let text = |file: PathBuf| {
        if file.is_dir() { source(&file) } else { std::fs::read_to_string(file).unwrap() }
    };
    let literals: Vec<String> =
        files.flat_map(|file| text(file).lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    literals.iter().fold(String::new(), |text, line| match text.strip_suffix('\\') {
        Some(start) => start.to_owned() + line.trim_start(),
        None => text + "\n" + line,
    })
}

#[test]
fn every_start_up_error_in_the_documentation_is_an_error_of_the_program() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut known = source(&root.join("src")) + &source(&root.join("crates/private-postgres/src"));
    // The operating system's texts, and one of the library for settings.
    let errors =
        [Errno::ADDRINUSE, Errno::ACCESS, Errno::ADDRNOTAVAIL, Errno::ROFS, Errno::NOENT, Errno::EXIST];
    for error in errors {
        known += &std::io::Error::from(error).to_string();
    }
    known += "unknown field";
    let page = std::fs::read_to_string(root.join("docs/deployment.md")).unwrap();
    let table = page.split("| the error contains | remedy |").nth(1).unwrap();
    let errors = table.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    let parts: Vec<&str> = errors
        .flat_map(|errors| errors.split('*').skip(1).step_by(2).flat_map(|error| error.split('…')))
        .collect();
    assert!(parts.len() > 20, "{parts:?}");
    for part in parts {
        assert!(known.contains(part.trim()), "{part}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_records_acknowledged_deliveries_and_exits_with_success() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    for signal in [Signal::TERM, Signal::INT] {
        let process = Process::start(program(dir.path()).env("DATABASE_URL", url(&database)));
        let id = format!("{signal:?}");
        process.accept(execution(&id, "completed")).await;
        process.signal(signal);
        let (status, log) = process.ended();
        assert!(status.success(), "{log:#?}");
        let recorded =
            rows(&database, &format!("SELECT status FROM executions WHERE execution_id = '{id}'")).await;
        assert_eq!(recorded, [json!({ "status": "completed" })]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_program_at_once_and_acknowledged_deliveries_stay_in_the_spool() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    // PostgreSQL cannot be reached, so the spool is not recorded.
    let mut away = Process::start(program(dir.path()).env("DATABASE_URL", UNREACHABLE));
    away.accept(execution("e", "completed")).await;
    away.signal(Signal::TERM);
    away.wait_for("another signal stops at once");
    away.signal(Signal::TERM);
    let (status, log) = away.ended();
    assert_eq!(status.code(), Some(1), "{log:#?}");

    Process::start(program(dir.path()).env("DATABASE_URL", url(&database))).terminate();
    assert_eq!(
        rows(&database, "SELECT execution_id FROM executions").await,
        [json!({ "execution_id": "e" })]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_drain_timeout_the_remaining_deliveries_stay_in_the_spool() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let away = Process::start(
        program(dir.path())
            .env("DATABASE_URL", UNREACHABLE)
            .env("RECEIVER__SHUTDOWN__DRAIN_TIMEOUT", "100ms"),
    );
    away.accept(execution("e", "completed")).await;
    let log = away.terminate();
    assert!(
        log.iter().any(|line| line.contains("drain_timeout is over") && line.contains("\"waiting\":1")),
        "{log:#?}"
    );

    Process::start(program(dir.path()).env("DATABASE_URL", url(&database))).terminate();
    assert_eq!(
        rows(&database, "SELECT execution_id FROM executions").await,
        [json!({ "execution_id": "e" })]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_creates_the_schema_and_serve_waits_for_it_with_migrate_off() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let mut process = Process::start(
        program(dir.path()).env("DATABASE_URL", url(&database)).env("RECEIVER__DATABASE__MIGRATE", "false"),
    );
    process.accept(execution("e", "completed")).await;
    assert!(process.wait_for("cannot be recorded yet").contains("workflow-receiver migrate"));
    let ready: Value =
        reqwest::get(format!("http://{}/health/ready", process.admin)).await.unwrap().json().await.unwrap();
    assert_eq!(ready["status"], "degraded");

    let migrate = || run_to_end(program(dir.path()).arg("migrate").env("DATABASE_URL", url(&database)));
    for _ in 0..2 {
        assert_eq!(migrate(), ("the schema is up to date\n".to_owned(), Some(0)));
    }
    process.wait_for("recording to PostgreSQL");
    process.terminate();
    assert_eq!(
        rows(&database, "SELECT execution_id FROM executions").await,
        [json!({ "execution_id": "e" })]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_table_and_column_has_a_comment() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let (text, code) = run_to_end(program(dir.path()).arg("migrate").env("DATABASE_URL", url(&database)));
    assert_eq!(code, Some(0), "{text}");
    let bare = "SELECT c.relname, a.attname FROM pg_class AS c
        LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v') AND c.relname NOT LIKE '\\_sqlx%'
            AND (col_description(c.oid, a.attnum) IS NULL OR obj_description(c.oid) IS NULL)";
    assert_eq!(rows(&database, bare).await, Vec::<Value>::new());
    // The query sees the tables.
    let tables = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'";
    let tables = rows(&database, tables).await;
    for table in
        ["executions", "execution_conflicts", "bulks", "quarantine", "workflow_hours", "workflow_days"]
    {
        assert!(tables.contains(&json!({ "relname": table })), "{table} is missing in {tables:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn healthcheck_queries_the_running_receiver() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let process = Process::start(program(dir.path()).env("DATABASE_URL", url(&database)));
    let healthcheck =
        || run_to_end(program(dir.path()).arg("healthcheck").env("RECEIVER__ADMIN__LISTEN", &process.admin));
    let (text, code) = healthcheck();
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["spooled"], 0);
    let admin = process.admin.clone();
    process.terminate();
    let (text, code) =
        run_to_end(program(dir.path()).arg("healthcheck").env("RECEIVER__ADMIN__LISTEN", &admin));
    assert_eq!(code, Some(1));
    assert!(text.contains(&format!("no answer from {admin}")), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_database_url_a_private_postgres_starts_and_stops_with_the_program_and_keeps_its_data() {
    let dir = TempDir::new().unwrap();
    let process = Process::start(&mut program(dir.path()));
    process.accept(example("completed.json")).await;
    assert!(running_postgres(dir.path()).is_some());
    process.terminate();
    assert!(running_postgres(dir.path()).is_none(), "the private PostgreSQL has stopped");

    let process = Process::start(&mut program(dir.path()));
    process.accept(example("bulk-completed.json")).await;
    process.kill();

    // After a kill, the private PostgreSQL stops by itself. The next start waits for it.
    let process = Process::start(&mut program(dir.path()));
    let second = run_to_end(&mut program(dir.path()));
    assert_eq!(second.1, Some(1));
    assert!(second.0.contains("in use by another receiver"), "{}", second.0);
    process.accept(example("full-execution.json")).await;
    let ids = "SELECT execution_id FROM executions";
    until_rows(&running_postgres(dir.path()).unwrap(), ids, 3).await;
    process.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_private_postgres_is_restarted_and_webhooks_are_accepted_meanwhile() {
    let dir = TempDir::new().unwrap();
    let postgres = dir.path().canonicalize().unwrap().join("data/postgres");
    let database = format!("postgres:///workflow_receiver?host={}&user=postgres", postgres.display());
    let database: sqlx::postgres::PgConnectOptions = database.parse().unwrap();
    let mut process = Process::start(&mut program(dir.path()));
    process.wait_for("recording to PostgreSQL");
    for times in 1..=2 {
        let pid = std::fs::read_to_string(postgres.join("data/postmaster.pid")).unwrap();
        let pid = Pid::from_raw(pid.lines().next().unwrap().parse().unwrap()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
        process.accept(execution(&format!("e{times}"), "completed")).await;
        let count = |process: &Process, text: &str| process.log.iter().filter(|l| l.contains(text)).count();
        while count(&process, "the private PostgreSQL was restarted") < times {
            process.wait_at_most(std::time::Duration::from_mins(1));
        }
        assert_eq!(count(&process, "the private PostgreSQL ended"), times);
        let ids = "SELECT execution_id FROM executions";
        until(async || rows(&database, ids).await.len() == times).await;
    }
    process.terminate();
    assert!(!postgres.join("data/postmaster.pid").exists(), "the private PostgreSQL has stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_accepted_while_the_private_postgres_cannot_start() {
    let dir = TempDir::new().unwrap();
    let postgres = dir.path().canonicalize().unwrap().join("data/postgres");
    let mut process = Process::start(&mut program(dir.path()));
    process.wait_for("recording to PostgreSQL");
    process.terminate();
    let settings = postgres.join("data/postgresql.auto.conf");
    let valid = std::fs::read(&settings).unwrap();
    std::fs::write(&settings, "no_such_setting = 1").unwrap();
    let mut process = Process::start(&mut program(dir.path()));
    process.wait_for("the private PostgreSQL cannot be started");
    process.accept(execution("e", "completed")).await;
    std::fs::write(&settings, valid).unwrap();
    process.wait_for("the private PostgreSQL was restarted");
    let database = running_postgres(dir.path()).unwrap();
    let ids = "SELECT execution_id FROM executions";
    until(async || rows(&database, ids).await.len() == 1).await;
    process.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_receiver_on_the_same_spool_refuses_to_start() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let first = Process::start(program(dir.path()).env("DATABASE_URL", url(&database)));
    let (text, code) = run_to_end(program(dir.path()).env("DATABASE_URL", url(&database)));
    assert_eq!(code, Some(1));
    assert!(text.contains("in use by another receiver") && text.contains("spool.dir"), "{text}");
    first.terminate();
}

/// Every secret contains HUSH, every body PRIVATE.
#[tokio::test(flavor = "multi_thread")]
async fn no_secret_and_no_body_appears_in_logs_answers_pages_traces_or_other_columns() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let collector = Collector::start().await;
    let url =
        url(&database).replace("postgres:///", "postgres://postgres:HUSH@localhost/") + "&password=HUSH";
    let misspelt = url.replace("&password=", "&pasword=");
    let (refused, code) = run_to_end(program(dir.path()).env("DATABASE_URL", misspelt));
    assert!(code == Some(1) && refused.contains("pasword") && !refused.contains("HUSH"), "{refused}");
    let process = Process::start(
        program(dir.path())
            .env("DATABASE_URL", url)
            .env("RECEIVER__LOG__FILTER", "trace")
            .env("RECEIVER__AUTH__WEBHOOK_SECRETS", "whsec_HUSH")
            .env("RECEIVER__AUTH__SECRET_HEADER", "true")
            .env("RECEIVER__AUTH__URL_TOKENS", "HUSH-a-long-enough-token")
            .env("RECEIVER__ADMIN__TOKEN", "HUSH-a-long-enough-token")
            .env("RECEIVER__TRACES__OTLP_ENDPOINT", &collector.endpoint)
            .env("RECEIVER__TRACES__OTLP_HEADERS", "authorization=Bearer HUSH"),
    );
    let bodies = [
        with(execution("e", "completed"), json!({ "inputs": { "prompt": "PRIVATE" } })).to_string(),
        with(execution("e", "failed"), json!({ "error_cause": "PRIVATE" })).to_string(),
        r#"{"execution_id":"f","workflow_id":"w","status":"completed","output":"\u0000PRIVATE"}"#.to_owned(),
        "PRIVATE".to_owned(),
        r#"{"execution_id":"e","PRIVATE":"PRIVATE"}"#.to_owned(),
        r#"{"execution_id":["PRIVATE"]}"#.to_owned(),
    ];
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let assert_no_leak = |text: &str| assert!(!text.contains("PRIVATE") && !text.contains("HUSH"), "{text}");
    for client in [Client::new(), Client::builder().http2_prior_knowledge().build().unwrap()] {
        for body in &bodies {
            let post = |suffix: &str| client.post(format!("{}{suffix}", process.url)).body(body.clone());
            for request in [
                signed(post(""), "whsec_HUSH", now, body),
                post("").header("X-Webhook-Secret", "whsec_HUSH"),
                post("").header("X-Webhook-Secret", "wrong_HUSH"),
                post("/HUSH-a-long-enough-token"),
                post("?token=HUSH-a-long-enough-token"),
                post("/wrong-HUSH"),
                post("/wrong-HUSH/token=HUSH"),
                post("?token=wrong-HUSH"),
                client.get(format!("{}/HUSH-a-long-enough-token", process.url)),
            ] {
                let answer = request.send().await.unwrap();
                assert_no_leak(&format!("{:?}", answer.headers()));
                assert_no_leak(&answer.text().await.unwrap());
            }
        }
        for (path, token) in [
            ("metrics", "HUSH-a-long-enough-token"),
            ("health/ready", "HUSH-a-long-enough-token"),
            ("metrics", "HUSH"),
        ] {
            let page = client.get(format!("http://{}/{path}", process.admin)).bearer_auth(token);
            assert_no_leak(&page.send().await.unwrap().text().await.unwrap());
        }
    }
    let log = process.terminate();
    let recorded =
        |line: &String| line.contains("\"execution_id\":\"e\"") && line.contains("\"outcome\":\"new\"");
    assert!(log.iter().any(recorded));
    assert!(log.iter().any(|line| line.contains("\"problem\":\"not-json\"")));
    assert!(log.iter().any(|line| line.contains("\"TRACE\"")), "the log contains all levels");
    for line in &log {
        assert_no_leak(line);
    }
    let spans = collector.spans(1).await;
    assert!(
        spans.iter().any(|span| span.name == "record")
            && spans.iter().any(|span| span.name.contains("{token}"))
    );
    for (headers, message) in collector.messages() {
        assert_eq!(headers["authorization"], "Bearer HUSH");
        assert_no_leak(&String::from_utf8_lossy(&message));
    }
    for entry in std::fs::read_dir(dir.path().join("data/spool")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(4).any(|window| window == b"HUSH"));
    }
    for table in ["executions", "execution_conflicts", "quarantine"] {
        let kept = rows(&database, &format!("SELECT * FROM {table}")).await;
        assert!(!kept.is_empty() && !json!(kept).to_string().contains("HUSH"), "{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_private_postgres_refuses_a_directory_with_other_files() {
    let dir = TempDir::new().unwrap();
    let mine = dir.path().join("mine");
    std::fs::create_dir(&mine).unwrap();
    std::fs::write(mine.join("thesis.txt"), "mine").unwrap();
    let before = std::fs::metadata(&mine).unwrap().permissions();
    let (text, code) = run_to_end(program(dir.path()).env("RECEIVER__DATABASE__PRIVATE_DIR", &mine));
    assert_eq!(code, Some(1));
    assert!(text.contains("contains other files") && text.contains("database.private_dir"), "{text}");
    assert_eq!(std::fs::metadata(&mine).unwrap().permissions(), before);
}
