//! The commands that read recorded data, shell completions and manual pages.

use std::collections::HashSet;
use std::process::{Command, Stdio};

use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::{Value, json};
use tempfile::TempDir;
use workflow_receiver::config::Secrets;

use crate::support::fixtures::{execution, sample_receiver, with};
use crate::support::http::get_json;
use crate::support::postgres::{UNREACHABLE, new_database, no_database, url};
use crate::support::process::{program, run_to_end};
use crate::support::receiver::TestReceiver;
use crate::support::terminal::Terminal;
use crate::support::wait::until;

struct CommandOutput {
    stdout: String,
    stderr: String,
    success: bool,
}

impl CommandOutput {
    fn of(mut command: Command) -> Self {
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { stdout: text(output.stdout), stderr: text(output.stderr), success: output.status.success() }
    }

    /// One JSON value per line.
    fn json(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// `workflow-receiver …` with the settings of `receiver`.
fn command(dir: &TempDir, receiver: &TestReceiver, arguments: &[&str]) -> Command {
    let mut command = program(dir.path());
    command.args(arguments).env("DATABASE_URL", url(&receiver.database));
    command.env("RECEIVER__ADMIN__LISTEN", receiver.admin.trim_start_matches("http://"));
    command
}

fn run(receiver: &TestReceiver, arguments: &[&str]) -> CommandOutput {
    CommandOutput::of(command(&TempDir::new().unwrap(), receiver, arguments))
}

/// The output on a terminal that is `columns` wide.
fn at_terminal(mut command: Command, columns: u16) -> String {
    let terminal = Terminal::open();
    let inside = terminal.program_end();
    let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&inside, size).unwrap();
    let mut child = command.stdout(inside).stderr(Stdio::null()).spawn().unwrap();
    drop(command);
    let written = terminal.written();
    assert!(child.wait().unwrap().success());
    written
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_print_the_data_of_the_read_api() {
    let receiver = sample_receiver().await;
    let bulk = "b/1 é";
    for (arguments, path) in [
        (vec!["executions"], "executions"),
        (vec!["executions", "--status", "failed"], "executions?status=failed"),
        (vec!["executions", "--workflow", "v"], "executions?workflow=v"),
        (vec!["executions", "--bulk", bulk], "executions?bulk=b%2F1+%C3%A9"),
        (vec!["executions", "--cause", "TIMEOUT"], "executions?cause=TIMEOUT"),
        (vec!["executions", "--workflow", "none"], "executions?workflow=none"),
        (vec!["executions", "--to", "2000-01-01T00:00:00Z"], "executions?to=2000-01-01T00:00:00Z"),
        (vec!["executions", "--until", "1h"], "executions?to=2000-01-01T00:00:00Z"),
        (vec!["executions", "--since", "1h", "--until", "0s"], "executions?from=1h&to=0s"),
        (vec!["executions", "--since", "yesterday"], "executions?from=yesterday"),
        (vec!["bulks"], "bulks"),
        (vec!["bulks", "--complete", "unknown", "--since", "1d"], "bulks?complete=unknown"),
        (vec!["bulks", "--complete", "yes"], "bulks?complete=yes"),
    ] {
        let output = run(&receiver, &[&arguments[..], &["--json"]].concat());
        let page = get_json(&receiver, &format!("/api/v1/{path}")).await;
        assert_eq!(without_age(json!(output.json())), without_age(page["items"].clone()), "{arguments:?}");
        let table = run(&receiver, &arguments);
        for item in page["items"].as_array().unwrap() {
            let id = item["execution_id"].as_str().or(item["bulk_id"].as_str()).unwrap();
            assert!(table.stdout.lines().skip(1).any(|line| line.contains(id)), "{}", table.stdout);
        }
        assert_eq!(table.stdout.is_empty(), output.stdout.is_empty(), "{arguments:?}");
        assert_eq!(table.stderr.is_empty(), !output.stdout.is_empty(), "{}", table.stderr);
    }
    let misspelt = run(&receiver, &["executions", "--status", "faild"]);
    let error = "--status must be one of the statuses in use: cancelled, completed, failed, running\n";
    assert!(!misspelt.success && misspelt.stderr.ends_with(error), "{}", misspelt.stderr);
    for (arguments, path) in [
        (vec!["failures"], "failures"),
        (vec!["failures", "--by", "step"], "failures?by=step"),
        (vec!["failures", "--workflow", "w", "--since", "1d"], "failures?workflow=w"),
        (vec!["failures", "--bulk", bulk, "--limit", "1"], "failures?bulk=b%2F1+%C3%A9"),
    ] {
        let output = run(&receiver, &[&arguments[..], &["--json"]].concat());
        assert_eq!(output.json(), [get_json(&receiver, &format!("/api/v1/{path}")).await], "{arguments:?}");
    }
    for (arguments, path) in [
        (vec!["workflows"], "workflows"),
        (
            vec!["workflows", "--by", "failed", "--days", "1", "--limit", "1"],
            "workflows?order=failed&days=1&limit=1",
        ),
    ] {
        let output = run(&receiver, &[&arguments[..], &["--json"]].concat());
        assert_eq!(
            json!(output.json()),
            get_json(&receiver, &format!("/api/v1/{path}")).await["items"],
            "{arguments:?}"
        );
        assert_eq!(run(&receiver, &arguments).stdout.lines().count(), output.json().len() + 1);
    }
    let workflows = run(&receiver, &["workflows"]).stdout;
    assert!(workflows.contains("  0.2500  "), "{workflows}");
    let steps = run(&receiver, &["failures", "--by", "step"]).stdout;
    assert!(
        steps.lines().nth(1).unwrap().starts_with("     1  w         d     invalid_user_input  too large  "),
        "{steps}"
    );
}

/// Removes the field that depends on the time of the query.
fn without_age(mut items: Value) -> Value {
    for item in items.as_array_mut().unwrap() {
        item.as_object_mut().unwrap().remove("seconds_since_last");
    }
    items
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_and_a_bulk_are_shown_with_all_details() {
    let receiver = sample_receiver().await;
    for id in ["plain", "failed", "step"] {
        let output = run(&receiver, &["executions", id, "--json"]).json().remove(0);
        for (field, value) in
            get_json(&receiver, &format!("/api/v1/executions/{id}")).await.as_object().unwrap()
        {
            assert_eq!(output[field], *value, "{field}");
        }
        let conflicts = get_json(&receiver, &format!("/api/v1/conflicts?execution={id}")).await;
        assert_eq!(output["contradicted_by"], conflicts["items"]);
    }
    let plain = run(&receiver, &["executions", "plain"]).stdout;
    for part in [
        "status            completed\n",
        "cost              0.25\n",
        "  image  output[0]  https://example.com/a.png\n",
        "it changed",
    ] {
        assert!(plain.contains(part), "{plain}");
    }
    let step = run(&receiver, &["executions", "step"]).stdout;
    for part in
        ["seconds           7.5\n", "too large\n", "  video  output.video  https://example.com/v.mp4\n"]
    {
        assert!(step.contains(part), "{step}");
    }

    let output = run(&receiver, &["bulks", "b/1 é", "--json"]).json().remove(0);
    let mut whole = get_json(&receiver, "/api/v1/bulks/b%2F1%20%C3%A9").await;
    whole["failures"] = get_json(&receiver, "/api/v1/failures?bulk=b%2F1+%C3%A9").await;
    assert_eq!(without_age(json!([output])), without_age(json!([whole])));
    let bulk = run(&receiver, &["bulks", "b/1 é"]).stdout;
    for part in [
        "complete        unknown. Set the size: workflow-receiver bulks set-size BULK EXECUTIONS\n",
        "by status       1 completed, 1 failed\n",
        "Model Timeout",
        "/v.mp4\n",
    ] {
        assert!(bulk.contains(part), "{bulk}");
    }

    let complete = run(&receiver, &["bulks", "set-size", "b/1 é", "2"]).stdout;
    assert!(
        complete.contains("complete        yes\n") && complete.contains("received        2 of 2\n"),
        "{complete}"
    );
    let announced =
        run(&receiver, &["bulks", "set-size", "announced", "3", "--force", "--json"]).json().remove(0);
    assert_eq!((&announced["complete"], &announced["expected"]), (&json!(false), &json!(3)));
    let mistyped = run(&receiver, &["bulks", "set-size", "mistyped", "3"]);
    assert!(!mistyped.success && mistyped.stderr.contains("--force"), "{}", mistyped.stderr);
    let removed = run(&receiver, &["bulks", "set-size", "announced", "--unset"]);
    assert!(removed.success && removed.stderr.contains("is removed"), "{}", removed.stderr);
    let unknown = run(&receiver, &["bulks", "set-size", "b/1 é", "--unset", "--json"]).json().remove(0);
    assert_eq!((&unknown["expected"], &unknown["received"]), (&json!(null), &json!(2)));
    let refused = run(&receiver, &["bulks", "set-size", "b/1 é", "0"]);
    assert!(!refused.success && refused.stderr.contains("1.."), "{}", refused.stderr);

    for arguments in [["executions", "absent"], ["bulks", "absent"]] {
        let output = run(&receiver, &arguments);
        assert!(
            !output.success && output.stdout.is_empty() && output.stderr.contains("\"absent\""),
            "{}",
            output.stderr
        );
    }
}

/// More rows than a page of the API.
const MANY: usize = 2_345;

async fn receiver_with_many_rows() -> TestReceiver {
    let receiver = TestReceiver::start().await;
    let many =
        "INSERT INTO executions (execution_id, workflow_id, status, bulk_id, output, payload, deliveries,
            first_received_at, last_received_at)
        SELECT 'e' || n, 'w', 'completed', 'b', '[\"1\", \"2\"]', '{}', 1, t, t
        FROM generate_series(1, $1) AS n, LATERAL (SELECT now() - interval '1 s' * (n / 3)) AS x (t)";
    sqlx::query(many)
        .bind(i64::try_from(MANY).unwrap())
        .execute(&mut receiver.connection().await)
        .await
        .unwrap();
    sqlx::raw_sql("INSERT INTO bulks (bulk_id, expected) VALUES ('b', 1)")
        .execute(&mut receiver.connection().await)
        .await
        .unwrap();
    receiver
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_is_limited_with_a_note_or_shown_completely() {
    let receiver = receiver_with_many_rows().await;
    let usual = run(&receiver, &["executions"]);
    assert_eq!(usual.stdout.lines().count(), 51);
    assert!(usual.stderr.contains("--all"), "{}", usual.stderr);
    assert_eq!(run(&receiver, &["executions", "--json", "--limit", "1001"]).json().len(), 1001);
    let whole = run(&receiver, &["executions", "--all", "--json"]);
    let ids: HashSet<String> = whole.json().iter().map(|item| item["execution_id"].to_string()).collect();
    assert_eq!((ids.len(), whole.stdout.lines().count(), &*whole.stderr), (MANY, MANY, ""));
    let table = run(&receiver, &["executions", "--all"]).stdout;
    assert_eq!(table.lines().count(), MANY + 1, "one heading, however many pages");
    let bulk = |limit: &[&str]| {
        let output = run(&receiver, &[&["bulks", "b", "--json"], limit].concat());
        let bulk = output.json().remove(0);
        let count = |list: &str| bulk[list]["items"].as_array().unwrap().len();
        (count("executions"), count("results"), output.stderr.contains("--all"))
    };
    assert_eq!(bulk(&[]), (50, 50, true));
    assert_eq!(bulk(&["--all"]), (MANY, 2 * MANY, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_pipe_ends_a_command_without_an_error() {
    let receiver = receiver_with_many_rows().await;
    for arguments in
        [&["executions", "--all"][..], &["executions", "--all", "--json"], &["completions", "bash"]]
    {
        let mut command = command(&receiver.dir, &receiver, arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn control_characters_of_a_sender_do_not_reach_the_terminal() {
    let receiver = TestReceiver::start().await;
    let hostile = "\u{1b}[2J\u{9b}31m\r\n\t\u{7f}\u{202e}x";
    let failed = json!({ "workflow_id": hostile, "bulk_id": hostile, "error": hostile, "error_cause": hostile,
        "output": { hostile: hostile }, "started_at": hostile,
        "step_outputs": { hostile: { "step_id": hostile, "status": "failed", "error_cause": hostile, "started_at": hostile } } });
    receiver.accept(with(execution(hostile, "failed"), failed.clone())).await;
    receiver.wait_until_recorded().await;
    receiver.accept(with(execution(hostile, hostile), failed.clone())).await;
    receiver
        .accept(with(with(execution(hostile, "cancelled"), failed), json!({ "error_cause": "\u{1b}c" })))
        .await;
    receiver.wait_until_recorded().await;
    for arguments in [
        &["executions"][..],
        &["executions", hostile],
        &["bulks"],
        &["bulks", hostile],
        &["failures"],
        &["failures", "--by", "step"],
    ] {
        for form in [&[][..], &["--json"]] {
            let arguments = [arguments, form].concat();
            let output = run(&receiver, &arguments);
            let has_controls = |text: &str| {
                let plain = |c: char| c == '\n' || !(c.is_control() || c == '\u{202e}');
                !text.chars().all(plain)
            };
            assert!(
                output.success && !has_controls(&output.stdout) && !has_controls(&output.stderr),
                "{arguments:?} {:?}",
                output.stdout
            );
            assert!(output.stdout.contains(r"[2J"), "{arguments:?}: {}", output.stdout);
            if !form.is_empty() {
                assert!(output.json()[0].to_string().contains(&json!(hostile).to_string()), "the same text");
            }
        }
    }
    let unknown = run(&receiver, &["executions", "\u{1b}[2J"]);
    assert!(!unknown.success && !unknown.stderr.contains('\u{1b}'), "{:?}", unknown.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_fits_the_terminal_and_is_not_cut_in_a_pipe() {
    let receiver = TestReceiver::start().await;
    let cause = "the model did not answer ".repeat(20);
    let id = "0d9a4f1c-5f0e-4d57-9d6e-6c1a2b3c4d5e";
    let address = format!("https://example.com/{}.png", "a".repeat(200));
    let failed =
        json!({ "error_cause": cause, "workflow_id": "product-photos", "bulk_id": id, "output": address });
    receiver.accept(with(execution(id, "failed"), failed)).await;
    receiver.wait_until_recorded().await;
    let seen = |arguments: &[&str], columns, no_color: &str| {
        let mut command = command(&receiver.dir, &receiver, arguments);
        at_terminal(
            {
                command.env("NO_COLOR", no_color).env("TERM", "xterm");
                command
            },
            columns,
        )
    };
    for arguments in [&["executions"][..], &["bulks"], &["failures"]] {
        for columns in [20, 80, 140] {
            let table = seen(arguments, columns, "1");
            assert!(!table.contains('\u{1b}'), "{table:?}");
            assert!(table.contains(id), "identifiers are never cut: {table}");
            let widths = table.lines().map(|line| line.chars().count());
            assert!(columns < 140 || widths.max().unwrap() <= 140, "{table}");
        }
        assert!(seen(arguments, 140, "").starts_with("\u{1b}[1m"), "headings are bold");
        assert!(!run(&receiver, arguments).stdout.contains('\u{1b}'));
    }
    assert!(seen(&["executions"], 140, "").contains(id), "causes are cut");
    assert!(seen(&["executions"], 140, "").lines().nth(1).unwrap().ends_with('…'));
    assert!(run(&receiver, &["executions"]).stdout.contains(cause.trim_end()));
    // Details are never cut.
    assert!(seen(&["executions", id], 80, "1").contains(cause.trim_end()));
    assert!(seen(&["bulks", id], 80, "1").contains(&address), "URLs are never cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_receiver_and_database_with_either_down() {
    let receiver = sample_receiver().await;
    until(async || receiver.ready().await.1["spooled"] == 0).await;
    until(async || receiver.ready().await.1["parts"]["quarantine"]["state"] == "ok").await;
    let well = run(&receiver, &["status"]);
    assert!(well.success && well.stderr.is_empty(), "{}", well.stderr);
    assert!(
        well.stdout.starts_with(
            "receiver    ok: webhooks are accepted and recorded; deliveries waiting in the spool: 0"
        ),
        "{}",
        well.stdout
    );
    let quarantine = "\nquarantine  1 rejected or unconfirmed webhook (0 % of the limit). See: workflow-receiver quarantine list\n";
    assert!(well.stdout.contains(quarantine), "{}", well.stdout);
    let output = run(&receiver, &["status", "--json"]).json().remove(0);
    assert_eq!(output["well"], true);
    let held = json!({ "bodies": 1, "acknowledged": 0, "rejected_bytes": 34 });
    assert_eq!(output["database"]["quarantine"], held);
    let health = &output["receiver"]["health"];
    let problems = json!([health["status"], health["problems"], health["spooled"]]);
    assert_eq!(problems, json!(["ok", [], 0]));
    for part in ["spool", "database", "recording", "quarantine"] {
        assert_eq!(health["parts"][part]["state"], "ok", "{part}: {health}");
    }
    assert!(well.stdout.contains("\nrecording   all deliveries are recorded\n"), "{}", well.stdout);
    // Midnight may have passed since the executions were received.
    let today = &output["database"]["today"];
    assert!(today["executions"] == 5 && today["failed"] == 1 || today["executions"] == 0, "{today}");

    let with_away = |arguments: &[&str]| {
        let mut command = command(&receiver.dir, &receiver, arguments);
        command.env("DATABASE_URL", UNREACHABLE);
        CommandOutput::of(command)
    };
    let away = with_away(&["status"]);
    assert!(!away.success, "{}", away.stdout);
    assert!(
        away.stdout.contains("receiver    ok") && away.stdout.contains("PostgreSQL cannot be reached"),
        "{}",
        away.stdout
    );
    for arguments in [&["executions"][..], &["bulks", "b"], &["failures"]] {
        let output = with_away(arguments);
        assert!(!output.success && output.stdout.is_empty(), "{}", output.stdout);
        assert!(output.stderr.contains("PostgreSQL cannot be reached"), "{}", output.stderr);
    }

    let (dir, database, admin) = (TempDir::new().unwrap(), url(&receiver.database), receiver.admin.clone());
    receiver.stop().await;
    let mut down = program(dir.path());
    let admin = admin.trim_start_matches("http://");
    down.arg("status").env("DATABASE_URL", database).env("RECEIVER__ADMIN__LISTEN", admin);
    let down = CommandOutput::of(down);
    assert!(
        !down.success && down.stdout.contains(&format!("receiver    no answer from {admin}")),
        "{}",
        down.stdout
    );
    assert!(
        down.stdout.contains("database    answers") && down.stdout.contains("since midnight"),
        "{}",
        down.stdout
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn status_sends_the_token_and_shows_waiting_deliveries() {
    let receiver = TestReceiver::start_on(no_database(), |settings| {
        settings.admin.token = "a-long-enough-token".into();
    })
    .await;
    receiver.accept(execution("e", "completed")).await;
    let status = |token: &str| {
        let mut command = command(&receiver.dir, &receiver, &["status", "--json"]);
        command.env("DATABASE_URL", UNREACHABLE).env("RECEIVER__ADMIN__TOKEN", token);
        let output = CommandOutput::of(command);
        assert!(!output.success, "{}", output.stdout);
        output.json().remove(0)
    };
    let output = status("a-long-enough-token");
    assert_eq!(output["receiver"]["health"]["status"], "degraded", "{output}");
    assert_eq!(output["receiver"]["health"]["spooled"], 1);
    let wrong_token = status("another-token-that-is-long");
    let problem = wrong_token["receiver"]["problem"].as_str().unwrap();
    assert!(problem.contains("RECEIVER__ADMIN__TOKEN") && !problem.contains("another"), "{problem}");
    let health = json!({ "status": "degraded", "problems": null, "spooled": null, "parts": null });
    assert_eq!(wrong_token["receiver"]["health"], health);
}

#[test]
fn invalid_arguments_are_errors_that_name_valid_ones() {
    let dir = TempDir::new().unwrap();
    for (arguments, right) in [
        (&["executions", "--since", "tomorrow"][..], "how long ago (30m, 1h, 7d), today or yesterday (UTC)"),
        (&["executions", "--limit", "0"], "1.."),
        (&["executions", "--limit", "5", "--all"], "cannot be used with"),
        (&["executions", "e", "--status", "failed"], "cannot be used with"),
        (&["executions", "e", "--since", "1h"], "cannot be used with"),
        (&["executions", "e", "--reference", "order=1234"], "cannot be used with"),
        (&["executions", "--status", ""], "a value is required"),
        (&["bulks", "b", "--complete", "no"], "cannot be used with"),
        (&["bulks", "--complete", "perhaps"], "yes, no, unknown"),
        (&["failures", "--by", "workflow"], "cause, step"),
        (&["failures", "--limit", "1001"], "1..=1000"),
    ] {
        let (text, code) = run_to_end(program(dir.path()).args(arguments));
        assert!(code == Some(2) && text.contains(right), "{arguments:?}: {text}");
    }
    let (text, code) = run_to_end(program(dir.path()).arg("executions"));
    assert!(code == Some(1) && text.contains("database.url is not set"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_schema_the_error_names_migrate() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let (text, code) = run_to_end(program(dir.path()).arg("executions").env("DATABASE_URL", url(&database)));
    assert!(code == Some(1) && text.contains("workflow-receiver migrate"), "{text}");
}

#[test]
fn completions_and_manual_pages_contain_every_command() {
    let dir = TempDir::new().unwrap();
    let (help, _) = run_to_end(program(dir.path()).arg("--help"));
    let commands = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let commands: Vec<&str> = commands
        .lines()
        .map(|line| line.split_whitespace().next().unwrap())
        .filter(|c| *c != "help")
        .collect();
    assert!(commands.contains(&"executions") && commands.contains(&"man"), "{help}");

    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (script, code) = run_to_end(program(dir.path()).args(["completions", shell]));
        assert_eq!(code, Some(0), "{script}");
        for command in &commands {
            assert!(script.contains(command), "{shell} does not know {command}");
        }
    }
    let complete = "eval \"$(\"$PROGRAM\" completions bash)\"; COMP_WORDS=(workflow-receiver failures --by st); \
        COMP_CWORD=3; _workflow__receiver workflow-receiver st --by; echo \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash");
    bash.args(["-c", complete]).env("PROGRAM", env!("CARGO_BIN_EXE_workflow-receiver"));
    assert_eq!(run_to_end(&mut bash), ("step\n".to_owned(), Some(0)));

    let pages = dir.path().join("share/man/man1");
    assert_eq!(run_to_end(program(dir.path()).arg("man").arg(&pages)), (String::new(), Some(0)));
    let page = |name: &str| std::fs::read_to_string(pages.join(format!("{name}.1"))).unwrap();
    for command in commands {
        let names = page("workflow-receiver")
            .contains(&format!("workflow\\-receiver\\-{}(1)", command.replace('-', "\\-")));
        assert!(names, "{command} is in the program's page");
        assert!(page(&format!("workflow-receiver-{command}")).starts_with(".ie"), "{command} has a page");
    }
    assert!(page("workflow-receiver-executions").contains("\\-\\-since"));
    std::fs::write(dir.path().join("file"), "").unwrap();
    let (text, code) = run_to_end(program(dir.path()).args(["man", "file/man1"]));
    assert!(code == Some(1) && text.contains("file/man1 cannot be written to"), "{text}");
}

#[test]
fn the_settings_in_force_are_shown_without_secrets() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("my.toml");
    std::fs::write(&file, "[retention]\npayloads = \"90d\"\n").unwrap();
    let mut show = program(dir.path());
    show.args(["config", "show", "--config"]).arg(&file);
    show.env("DATABASE_URL", "postgres://user:hidden-password@host/name");
    let secrets = [
        ("ADMIN__TOKEN", "hidden-admin-token-12345"),
        ("ADMIN__TOKENS", "anna:read:hidden-admin-token-67890"),
        ("AUTH__WEBHOOK_SECRETS", "hidden-webhook-secret-1,hidden-webhook-secret-2"),
        ("AUTH__URL_TOKENS", "hidden-url-token-1234567"),
        ("EACHLABS__API_KEY", "hidden-api-key"),
        ("EACHLABS__WEBHOOK_URL", "https://h.example/webhooks/workflow-completed/hidden-token"),
        ("TRACES__OTLP_HEADERS", "api-key=hidden-header"),
        ("HTTP__MAX_REQUESTS", "77"),
    ];
    for (name, value) in secrets {
        show.env(format!("RECEIVER__{name}"), value);
    }
    let (text, code) = run_to_end(&mut show);
    assert_eq!(code, Some(0), "{text}");
    assert!(!text.contains("hidden"), "{text}");
    for line in [
        "[retention]\npayloads = \"90d\" # default: \"forever\"\n",
        "max_requests = 77 # default: 2048\n",
        "token = \"(not shown)\" # default: \"\"\n",
        "[expected]\noverdue_after = \"20m\"\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let keys = |text: &str| {
        let is_key = |line: &&str| line.starts_with('[') || line.contains(" = ") && !line.starts_with('#');
        let name = |line: &str| line.split(" = ").next().unwrap().to_owned();
        text.lines().filter(is_key).map(name).collect::<Vec<_>>()
    };
    assert_eq!(keys(&text), keys(workflow_receiver::config::DEFAULTS));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_webhook_is_signed_recorded_and_followed() {
    let secret = "a-webhook-secret-of-this-receiver";
    let receiver =
        TestReceiver::start_with(|settings| settings.auth.webhook_secrets = Secrets::of(&[secret])).await;
    let mut follow = command(&receiver.dir, &receiver, &["follow", "--json", "--after", "0"]);
    let mut follow = follow.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(follow.stdout.take().unwrap()));

    let address = receiver.url.trim_start_matches("http://").split('/').next().unwrap().to_owned();
    let send_with = |secret: &str| {
        let mut command = command(&receiver.dir, &receiver, &["send-test", "--status", "failed"]);
        command.env("RECEIVER__HTTP__LISTEN", &address).env("RECEIVER__AUTH__WEBHOOK_SECRETS", secret);
        tokio::task::spawn_blocking(move || CommandOutput::of(command))
    };
    let sent = send_with(secret).await.unwrap();
    assert!(sent.success && sent.stdout.contains("answered 200"), "{} {}", sent.stdout, sent.stderr);
    let rejected = send_with("another-secret-than-the-receiver's").await.unwrap();
    assert!(!rejected.success && rejected.stderr.contains("answered 401"), "{}", rejected.stderr);
    let row = receiver.row("SELECT execution_id, authenticated_by, status FROM executions").await;
    assert_eq!((&row["authenticated_by"], &row["status"]), (&json!("signature"), &json!("failed")));
    assert!(sent.stdout.contains(row["execution_id"].as_str().unwrap()), "{}", sent.stdout);

    let first =
        tokio::task::spawn_blocking(move || lines.into_iter().next().unwrap().unwrap()).await.unwrap();
    let change: Value = serde_json::from_str(&first).unwrap();
    assert_eq!((&change["change"], &change["execution_id"]), (&json!(1), &row["execution_id"]));
    follow.kill().unwrap();
    follow.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_are_listed() {
    let receiver = sample_receiver().await;
    let page = get_json(&receiver, "/api/v1/conflicts").await;
    for arguments in [&["conflicts", "--json"][..], &["conflicts", "plain", "--since", "1h", "--json"]] {
        assert_eq!(json!(run(&receiver, arguments).json()), page["items"], "{arguments:?}");
    }
    let table = run(&receiver, &["conflicts"]).stdout;
    assert!(table.contains("plain") && table.contains("error_cause"), "{table}");
    assert_eq!(run(&receiver, &["conflicts", "failed"]).stderr, "No rows.\n");
}

#[test]
fn the_short_help_has_no_examples_and_the_long_help_has_valid_ones() {
    let dir = TempDir::new().unwrap();
    let help = |arguments: &[&str]| run_to_end(program(dir.path()).args(arguments)).0;
    let commands = [
        "status",
        "executions",
        "results",
        "bulks",
        "expected",
        "register",
        "trigger",
        "bulk-trigger",
        "failures",
        "workflows",
        "conflicts",
        "follow",
        "send-test",
        "quarantine",
        "reconcile",
    ];
    for name in commands {
        let (short, long) = (help(&[name, "-h"]), help(&[name, "--help"]));
        assert!(!short.contains("Examples:") && short.contains("Global options:"), "{short}");
        let examples = long.split("Examples:\n").nth(1).unwrap_or_else(|| panic!("{name}: {long}"));
        let lines: Vec<_> = examples.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
        assert!(!lines.is_empty(), "{long}");
        for line in lines {
            let line = line.split([' ']).take_while(|word| !matches!(*word, "<" | ">"));
            let words: Vec<_> = line.skip(1).collect();
            assert_eq!(words[0], name);
            // An unknown argument is reported before the database is needed.
            let (text, code) = run_to_end(program(dir.path()).args(&words).stdin(Stdio::null()));
            assert_ne!(code, Some(2), "{words:?}: {text}");
        }
    }
}
