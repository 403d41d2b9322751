//! The roles of `docs/roles.sql`, and TLS to PostgreSQL.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use private_postgres::Postgres;
use reqwest::Client;
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

use crate::support::fixtures::{execution, with};
use crate::support::postgres::{grant, new_database, programs, rows, url};
use crate::support::process::{Process, program, run_to_end};
use crate::support::rollups::wrong_counts;
use crate::support::wait::until;

/// The error of `statement` run as `role`; empty when it succeeds.
async fn error_of(role: &str, database: &PgConnectOptions, statement: &'static str) -> String {
    let mut connection = PgConnection::connect_with(&database.clone().username(role)).await.unwrap();
    match sqlx::raw_sql(statement).execute(&mut connection).await {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    }
}

fn url_of(role: &str, database: &PgConnectOptions) -> String {
    url(database).replace("user=postgres", &format!("user={role}"))
}

/// Reads every view and runs the commands that read.
async fn can_read_everything(operator: &PgConnectOptions, url: &str) {
    assert_eq!(wrong_counts(operator).await, Vec::<Value>::new());
    for view in rows(operator, "SELECT viewname AS name FROM pg_views WHERE schemaname = 'public'").await {
        rows(operator, &format!("SELECT * FROM {}", view["name"].as_str().unwrap())).await;
    }
    let dir = TempDir::new().unwrap();
    for command in [&["executions"][..], &["executions", "e"], &["bulks", "b"], &["failures"]] {
        let (text, code) = run_to_end(program(dir.path()).args(command).env("DATABASE_URL", url));
        assert_eq!(code, Some(0), "{command:?}: {text}");
    }
}

/// The receiver's role can read everything that the admin API returns.
async fn api_answers(process: &Process) {
    let get = async |path: &str| {
        let answer =
            Client::new().get(format!("http://{}/api/v1/{path}", process.admin)).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    until(async || get("quarantine/2").await.0 == 200).await;
    for path in [
        "executions",
        "executions/e",
        "results",
        "predictions",
        "predictions/p",
        "bulks",
        "bulks/b",
        "failures",
        "failures?by=step",
        "conflicts",
        "conflicts/1",
        "quarantine",
        "overview",
        "workflows",
        "changes",
        "expected",
    ] {
        let (status, text) = get(path).await;
        assert_eq!(status, 200, "{path}: {text}");
    }
}

/// The number in the row `executions` of what `prune` prints.
fn pruned_executions(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("executions")?.split_whitespace().next())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_receiver_runs_with_least_privileges_and_operators_can_only_read() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let of = |role| url_of(role, &database);
    let grant = || grant(&database, &[]);
    // A schema that another role created gets the new owner.
    assert_eq!(run_to_end(program(dir.path()).arg("migrate").env("DATABASE_URL", url(&database))).1, Some(0));
    assert_eq!(grant(), (String::new(), Some(0)));
    let migrated =
        run_to_end(program(dir.path()).arg("migrate").env("DATABASE_URL", of("workflow_receiver_owner")));
    assert_eq!(migrated.1, Some(0), "{}", migrated.0);
    let other_owners = "SELECT c.oid::regclass::text AS name FROM pg_class AS c
            WHERE c.relnamespace = 'public'::regnamespace AND c.relowner <> 'workflow_receiver_owner'::regrole
        UNION ALL SELECT p.proname FROM pg_proc AS p
            WHERE p.pronamespace = 'public'::regnamespace AND p.proowner <> 'workflow_receiver_owner'::regrole";
    assert_eq!(rows(&database, other_owners).await, Vec::<Value>::new());
    assert_eq!(grant(), (String::new(), Some(0)), "roles.sql can be run again");

    let mut receiver = program(dir.path());
    receiver.env("DATABASE_URL", of("workflow_receiver")).env("RECEIVER__DATABASE__MIGRATE", "false");
    let process = Process::start(&mut receiver);
    let bulk = json!({ "bulk_id": "b" });
    for body in [
        with(execution("e", "running"), bulk.clone()),
        with(execution("e", "completed"), bulk.clone()),
        with(execution("e", "failed"), bulk),
        json!({ "exec_id": "p", "status": "succeeded", "output": 1 }),
        json!({ "exec_id": "p", "status": "failed" }),
        json!({ "mend": "me" }),
        json!({ "drop": "me" }),
    ] {
        Client::new().post(&process.url).body(body.to_string()).send().await.unwrap();
    }
    let response = json!({ "bulk_id": "b", "executions": [{ "execution_id": "e", "status": "queued" }] });
    let register = Client::new().post(format!("http://{}/api/v1/expected", process.admin)).json(&response);
    assert_eq!(register.send().await.unwrap().status(), 200);
    api_answers(&process).await;
    let log = process.terminate();
    assert!(!log.iter().any(|line| line.contains("privilege")), "{log:#?}");
    for (command, id) in [
        (
            vec!["retry", "1", "--set", "execution_id=m", "--set", "workflow_id=w", "--set", "status=failed"],
            "1",
        ),
        (vec!["drop", "2"], "2"),
    ] {
        let (text, code) = run_to_end(
            program(dir.path()).arg("quarantine").args(command).env("DATABASE_URL", of("workflow_receiver")),
        );
        assert_eq!(code, Some(0), "{id}: {text}");
    }
    let mut unset_size = program(dir.path());
    unset_size.args(["bulks", "set-size", "b", "--unset", "--force"]);
    let (text, code) = run_to_end(unset_size.env("DATABASE_URL", of("workflow_receiver")));
    assert_eq!(code, Some(0), "the size of a bulk with executions is removed, and the bulk stays: {text}");
    pruning_needs_a_privilege_of_its_own(&database).await;
    let counts = "SELECT (SELECT count(*) FROM executions) AS executions, (SELECT count(*) FROM bulks) AS bulks,
        (SELECT count(*) FROM execution_conflicts) AS conflicts, (SELECT count(*) FROM quarantine) AS quarantine";
    let expected = json!({ "executions": 2, "bulks": 1, "conflicts": 1, "quarantine": 0 });
    let operator = database.clone().username("workflow_receiver_operator");
    assert_eq!(rows(&operator, counts).await, [expected], "read by the operator");
    let sums = "SELECT sum(executions) AS executions, sum(failed) AS failed FROM failure_rates";
    assert_eq!(rows(&operator, sums).await, [json!({ "executions": 2, "failed": 1 })]);
    can_read_everything(&operator, &of("workflow_receiver_operator")).await;

    for statement in [
        "DELETE FROM executions",
        "DELETE FROM execution_conflicts",
        "DELETE FROM change_batches",
        "DELETE FROM workflow_hours",
        "TRUNCATE bulks",
        "DROP TABLE bulks",
        "ALTER TABLE executions ADD COLUMN a text",
        "CREATE TABLE a ()",
        "UPDATE _sqlx_migrations SET success = false",
    ] {
        let error = error_of("workflow_receiver", &database, statement).await;
        assert!(
            error.contains("permission denied") || error.contains("must be owner"),
            "{statement}: {error}"
        );
    }
    for statement in [
        "INSERT INTO bulks (bulk_id) VALUES ('x')",
        "SET default_transaction_read_only = off; INSERT INTO bulks (bulk_id) VALUES ('x')",
        "SET default_transaction_read_only = off; UPDATE executions SET status = 'completed'",
        "SET default_transaction_read_only = off; DELETE FROM quarantine",
        "SET default_transaction_read_only = off; CREATE TABLE a ()",
        "SET default_transaction_read_only = off; CREATE TEMPORARY TABLE a ()",
        "SET default_transaction_read_only = off; SELECT lo_from_bytea(0, 'a')",
    ] {
        let error = error_of("workflow_receiver_operator", &database, statement).await;
        assert!(error.contains("permission denied") || error.contains("read-only"), "{statement}: {error}");
    }
}

async fn pruning_needs_a_privilege_of_its_own(database: &PgConnectOptions) {
    let dir = TempDir::new().unwrap();
    let prune = |role, arguments: &[&str]| {
        let mut prune = program(dir.path());
        for kind in ["PAYLOADS", "EXECUTIONS", "CONFLICTS", "QUARANTINE", "CHANGES"] {
            prune.env(format!("RECEIVER__RETENTION__{kind}"), "1d");
        }
        run_to_end(prune.arg("prune").args(arguments).env("DATABASE_URL", url_of(role, database)))
    };
    let old = "INSERT INTO executions (execution_id, workflow_id, bulk_id, status, payload, deliveries, first_received_at,
            last_received_at, recorded_at)
        SELECT 'old-' || n, 'w', 'old', 'completed', '{}', 1, '2026-01-01', '2026-01-01', '2026-01-01' FROM generate_series(1, 2) AS n;
        INSERT INTO bulks (bulk_id, first_received_at, last_received_at) VALUES ('old', '2026-01-01', '2026-01-01');
        INSERT INTO execution_conflicts (execution_id, workflow_id, status, payload, body_sha256, deliveries,
            first_received_at, last_received_at, recorded_at)
        VALUES ('old', 'w', 'failed', '{}', '', 1, '2026-01-01', '2026-01-01', '2026-01-01')";
    assert_eq!(error_of("postgres", database, old).await, "");
    let (text, code) = prune("workflow_receiver", &[]);
    assert!(code == Some(1) && text.contains("permission denied for table executions"), "{text}");
    assert_eq!(grant(database, &["-v", "retention=on"]), (String::new(), Some(0)));
    let (text, code) = prune("workflow_receiver_operator", &["--dry-run"]);
    assert!(code == Some(0) && pruned_executions(&text) == Some("2"), "{text}");
    let (text, code) = prune("workflow_receiver_operator", &[]);
    assert!(code == Some(1) && text.contains("PostgreSQL refuses"), "{text}");
    let (text, code) = prune("workflow_receiver", &[]);
    assert!(code == Some(0) && pruned_executions(&text) == Some("2"), "{text}");
    assert_eq!(
        grant(database, &[]),
        (String::new(), Some(0)),
        "without `retention=on` the privilege is revoked"
    );
}

/// A PostgreSQL that accepts only TLS connections over TCP.
struct TlsPostgres {
    server: Child,
    port: u16,
    dir: TempDir,
}

impl TlsPostgres {
    async fn start() -> Self {
        // The user that runs PostgreSQL needs access to this directory.
        let dir = tempfile::Builder::new().tempdir_in("/tmp").unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        let place = dir.path().join("postgres");
        // Creates the data directory only.
        let made = tokio::task::block_in_place(|| Postgres::start(&place)).unwrap();
        workflow_receiver::db::create_database(&made.connect_options()).await.unwrap();
        made.stop().await;
        let data = place.join("data");
        let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&data).unwrap());
        let group = std::os::unix::fs::MetadataExt::gid(&fs::metadata(&data).unwrap());

        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        for (name, text) in [
            ("server.crt", cert.pem()),
            ("server.key", signing_key.serialize_pem()),
            ("pg_hba.conf", "hostssl all all 127.0.0.1/32 trust\n".to_owned()),
        ] {
            fs::write(data.join(name), text).unwrap();
            fs::set_permissions(data.join(name), fs::Permissions::from_mode(0o600)).unwrap();
            chown(data.join(name), Some(owner), Some(group)).unwrap();
        }
        fs::write(dir.path().join("root.crt"), cert.pem()).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Command::new(programs().join("postgres"));
        server.arg("-D").arg(&data).args(["-c", "listen_addresses=127.0.0.1", "-c", &format!("port={port}")]);
        server
            .args(["-c", "ssl=on", "-c", "unix_socket_directories="])
            .current_dir(&data)
            .uid(owner)
            .gid(group);
        let server = server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let tls = Self { server, port, dir };
        until(async || tls.connects("require").await).await;
        tls
    }

    fn url(&self, mode: &str) -> String {
        let root = self.dir.path().join("root.crt");
        format!(
            "postgres://postgres@localhost:{}/workflow_receiver?sslmode={mode}&sslrootcert={}",
            self.port,
            root.display()
        )
    }

    async fn connects(&self, mode: &str) -> bool {
        PgConnection::connect(&self.url(mode)).await.is_ok()
    }
}

impl Drop for TlsPostgres {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_to_postgres_works_by_url_and_an_unknown_certificate_is_rejected() {
    let (dir, server) = (TempDir::new().unwrap(), TlsPostgres::start().await);
    assert!(!server.connects("disable").await, "a connection without TLS is refused");
    for mode in ["require", "verify-ca", "verify-full"] {
        let mut process = Process::start(program(dir.path()).env("DATABASE_URL", server.url(mode)));
        Client::new().post(&process.url).body(execution(mode, "completed").to_string()).send().await.unwrap();
        process.wait_for("recording to PostgreSQL");
        process.terminate();
    }
    let database: PgConnectOptions = server.url("verify-full").parse().unwrap();
    assert_eq!(rows(&database, "SELECT execution_id FROM executions").await.len(), 3);
    // A certificate that the server does not have.
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    fs::write(server.dir.path().join("root.crt"), other.cert.pem()).unwrap();
    let mut process = Process::start(program(dir.path()).env("DATABASE_URL", server.url("verify-full")));
    let line = process.wait_for("cannot be recorded yet");
    assert!(line.contains("certificate"), "{line}");
    process.kill();
}
