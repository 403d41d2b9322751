//! The programs and statements of `docs/applications.md` do what the page says.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use futures_util::{StreamExt, stream};
use private_postgres::Postgres;
use rand::RngExt;
use serde_json::{Value, json};
use sqlx::postgres::PgListener;
use sqlx::{AssertSqlSafe, PgConnection};
use tempfile::TempDir;

use crate::support::fixtures::{execution, with};
use crate::support::postgres::{execute, execute_when_recorded, programs, rows, until_rows};
use crate::support::receiver::{TestReceiver, two_receivers};
use crate::support::retention::{age_by_three_days, pruned};
use crate::support::wait::{pause, until, within};

/// The block of the page that begins with this comment.
fn code(comment: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/applications.md");
    let page = fs::read_to_string(page).unwrap();
    let block =
        page.split("```").find_map(|piece| piece.split_once('\n')?.1.strip_prefix(&format!("{comment}\n")));
    block.unwrap_or_else(|| panic!("no block {comment} in docs/applications.md")).to_owned()
}

/// A Python program of the page in a directory of its own.
struct Application {
    program: &'static str,
    receivers: String,
    dir: TempDir,
}

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Application {
    fn new(program: &'static str, receivers: &[TestReceiver]) -> Self {
        let dir = TempDir::new().unwrap();
        for file in ["store.py", program] {
            fs::write(dir.path().join(file), code(&format!("# {file}"))).unwrap();
        }
        let receivers: Vec<_> = receivers.iter().map(|receiver| receiver.admin.clone()).collect();
        Self { program, receivers: receivers.join(" "), dir }
    }

    fn start(&self) -> Running {
        let mut python = Command::new("python3");
        python.arg(self.program).current_dir(self.dir.path()).env("RECEIVERS", &self.receivers);
        Running(python.stdout(Stdio::null()).spawn().expect("python3"))
    }

    /// Runs a query on the application's database; `None` before its tables exist.
    fn query<T: rusqlite::types::FromSql>(&self, query: &str) -> Option<T> {
        let file = rusqlite::Connection::open(self.dir.path().join("results.db")).unwrap();
        file.query_row(query, [], |row| row.get(0)).ok()
    }

    fn results(&self) -> usize {
        self.query("SELECT count(*) FROM results").map_or(0, |count: i64| usize::try_from(count).unwrap())
    }

    /// Waits until the application has stored `count` results. The time limit is for each new result.
    async fn until(&self, count: usize) {
        loop {
            let before = self.results();
            if before >= count {
                return;
            }
            until(async || self.results() > before).await;
        }
    }

    fn status_of_each(&self) -> BTreeMap<String, String> {
        let file = rusqlite::Connection::open(self.dir.path().join("results.db")).unwrap();
        let mut query = file.prepare("SELECT execution_id, status FROM results").unwrap();
        let results = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        results.map(Result::unwrap).collect()
    }
}

fn final_status(n: usize) -> &'static str {
    ["completed", "failed", "cancelled"][n % 3]
}

/// The number of executions of [`is_killed_at_random_and_sees_each_final_status_once`].
fn executions() -> usize {
    std::env::var("APPLICATION_EXECUTIONS").map_or(300, |count| count.parse().unwrap())
}

/// Two receivers record executions and their status changes, while the application is killed and started again.
async fn is_killed_at_random_and_sees_each_final_status_once(program: &'static str) {
    let receivers = two_receivers().await;
    let application = Application::new(program, &receivers);
    let count = executions();
    let post = async |n: usize| {
        receivers[n % 2].accept(execution(&n.to_string(), "running")).await;
        receivers[(n / 2) % 2].accept(execution(&n.to_string(), final_status(n))).await;
    };
    // A part is posted when the application has results of the part before, so it is killed several times.
    let size = (count / 10).clamp(1, 1_000);
    let posts = async {
        for from in (0..count).step_by(size) {
            application.until(from.saturating_sub(size / 2)).await;
            let part = stream::iter(from..(from + size).min(count)).map(post).buffer_unordered(16);
            part.for_each(async |()| {}).await;
        }
    };
    let kills = async {
        let mut kills = 0;
        while application.results() < count {
            let before = application.results();
            let running = application.start();
            // Every second time it is killed after a random time, perhaps before it has done anything.
            if kills % 2 == 0 {
                application.until((before + 1).min(count)).await;
            }
            for _ in 0..rand::rng().random_range(0..40) {
                pause().await;
            }
            drop(running);
            kills += 1;
        }
        kills
    };
    let ((), kills) = tokio::join!(posts, kills);
    assert!(kills >= 5, "the application was killed {kills} times");
    let expected = (0..count).map(|n| (n.to_string(), final_status(n).to_owned()));
    assert_eq!(application.status_of_each(), expected.collect());
    let running = application.start();
    let last = receivers[0].row("SELECT max(last_change) AS last FROM change_batches").await["last"].as_i64();
    until(async || application.query("SELECT change FROM position") == last).await;
    drop(running);
    assert_eq!(application.query("SELECT max(seen) FROM results"), Some(1), "an execution was seen twice");
    println!("{program}: {count} executions, {kills} kills, last change {last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polling_application_that_is_killed_at_random_sees_each_final_status_once() {
    is_killed_at_random_and_sees_each_final_status_once("poll.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_on_an_event_stream_that_is_killed_at_random_sees_each_final_status_once() {
    is_killed_at_random_and_sees_each_final_status_once("follow.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_reloads_the_list_after_its_next_change_was_removed() {
    for program in ["poll.py", "follow.py"] {
        let receiver = TestReceiver::start().await;
        for n in 0..3 {
            receiver.accept(execution(&n.to_string(), final_status(n))).await;
            receiver.wait_until_recorded().await;
        }
        until_rows(&receiver.database, "SELECT FROM changes", 3).await;
        age_by_three_days(&receiver).await;
        assert_eq!(pruned(&receiver, &[("CHANGES", "2d")]), json!({ "changes": 2 }));
        let receivers = [receiver];
        let application = Application::new(program, &receivers);
        let _running = application.start();
        application.until(3).await;
        receivers[0].accept(execution("later", "completed")).await;
        application.until(4).await;
        assert_eq!(application.query("SELECT max(seen) FROM results"), Some(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_in_sql_is_woken_up_and_applies_each_change_once() {
    let receiver = TestReceiver::start().await;
    receiver.accept(execution("before", "completed")).await;
    execute_when_recorded(&receiver, &code("-- feed.sql")).await;
    let consume = async |connection: &mut PgConnection| {
        let statement = code("-- consume.sql");
        let consume = sqlx::query_scalar::<_, Option<i64>>(AssertSqlSafe(statement));
        consume.fetch_one(connection).await
    };
    let mut listener =
        PgListener::connect_with(&sqlx::PgPool::connect_lazy_with(receiver.database.clone())).await.unwrap();
    listener.listen("workflow_changes").await.unwrap();
    let mut connection = receiver.connection().await;
    let output = json!({ "output": ["https://example.com/a.png"] });
    receiver.accept(execution("e", "running")).await;
    receiver.accept(with(execution("e", "completed"), output.clone())).await;
    receiver.accept(execution("f", "failed")).await;
    let results = "SELECT execution_id, status, output FROM app.results ORDER BY execution_id";
    within(async {
        while receiver.rows_now(results).await.len() < 3 {
            while consume(&mut connection).await.unwrap().is_some() {}
            if receiver.rows_now(results).await.len() < 3 {
                listener.recv().await.unwrap();
            }
        }
    })
    .await;
    assert_eq!(
        receiver.rows(results).await,
        [
            json!({ "execution_id": "before", "status": "completed", "output": null }),
            with(json!({ "execution_id": "e", "status": "completed" }), output),
            json!({ "execution_id": "f", "status": "failed", "output": null }),
        ]
    );
    // The position is stored with the effects.
    execute(&receiver, "TRUNCATE app.results").await;
    while consume(&mut connection).await.unwrap().is_some() {}
    assert_eq!(receiver.rows(results).await, Vec::<Value>::new());
    execute(&receiver, "UPDATE app.position SET change = -1").await;
    let error = consume(&mut connection).await.unwrap_err().to_string();
    assert!(error.contains("reload from executions"), "{error}");
}

/// Runs each statement in a transaction of its own.
fn psql(url: &str, statements: &str) {
    let mut psql = Command::new(programs().join("psql"));
    let mut psql = psql.args(["-qX", "-v", "ON_ERROR_STOP=1", url]).stdin(Stdio::piped()).spawn().unwrap();
    psql.stdin.take().unwrap().write_all(statements.as_bytes()).unwrap();
    assert!(psql.wait().unwrap().success(), "{statements}");
}

/// A PostgreSQL with `wal_level = logical`.
async fn logical_postgres(dir: &Path) -> Postgres {
    let place = dir.join("postgres");
    let made = tokio::task::block_in_place(|| Postgres::start(&place)).unwrap();
    made.stop().await;
    let settings = place.join("data/postgresql.conf");
    let text = fs::read_to_string(&settings).unwrap();
    fs::write(settings, text + "\nwal_level = logical\n").unwrap();
    tokio::task::block_in_place(|| Postgres::start(&place)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn logical_replication_copies_each_ended_execution_once() {
    let dir = tempfile::Builder::new().tempdir_in("/tmp").unwrap();
    fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let server = logical_postgres(dir.path()).await;
    let database = server.connect_options().database("receiver");
    let own = server.connect_options().database("application");
    for database in [&database, &own] {
        workflow_receiver::db::create_database(database).await.unwrap();
    }
    let receiver = TestReceiver::start_on(database, |_| {}).await;
    within(receiver.progress.clone().recording()).await;
    receiver.accept(execution("before", "failed")).await;
    receiver.wait_until_recorded().await;
    let url = |name: &str| server.url().replace("/workflow_receiver?", &format!("/{name}?"));
    let host = server.url().split("host=").nth(1).and_then(|rest| rest.split('&').next()).unwrap().to_owned();
    let connection = format!("host={host} dbname=receiver user=postgres");
    let subscriber = code("-- subscriber.sql")
        .replace("host=receiver-db.example.com dbname=receiver user=replicator", &connection);
    psql(&url("receiver"), &code("-- publisher.sql"));
    psql(&url("application"), &subscriber);
    let results = "SELECT execution_id, status, output FROM results ORDER BY execution_id";
    until_rows(&own, results, 1).await;
    let output = json!({ "output": { "seconds": 8 } });
    for body in [
        execution("e", "running"),
        with(execution("e", "completed"), output.clone()),
        with(execution("e", "completed"), output.clone()),
        execution("e", "failed"),
        execution("last", "cancelled"),
    ] {
        receiver.accept(body).await;
        receiver.wait_until_recorded().await;
    }
    until_rows(&own, results, 3).await;
    assert_eq!(
        rows(&own, results).await,
        [
            json!({ "execution_id": "before", "status": "failed", "output": null }),
            with(json!({ "execution_id": "e", "status": "completed" }), output),
            json!({ "execution_id": "last", "status": "cancelled", "output": null }),
        ]
    );
    drop(receiver);
    server.stop().await;
}
