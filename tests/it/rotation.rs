//! Secrets in files: parsing and rotation at run time.

use std::path::{Path, PathBuf};

use reqwest::{Client, RequestBuilder};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::sync::watch;

use crate::support::fixtures::execution;
use crate::support::http::signed;
use crate::support::postgres::{new_database, url};
use crate::support::process::{Process, program, run_to_end};
use crate::support::wait::{until, within};

const FIRST: &str = "whsec_the_first_secret";
const SECOND: &str = "whsec_the_second_secret";
const TOKENS: [&str; 2] = ["the-first-token-of-all", "the-second-token-of-all"];

fn write(dir: &Path, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    // Replaces the file, as `kubectl` and editors do.
    let (new, file) = (dir.join(format!("{name}.new")), dir.join(name));
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, &file).unwrap();
    file
}

async fn status(request: RequestBuilder) -> u16 {
    request.send().await.unwrap().status().as_u16()
}

/// Posts a webhook signed with `secret`.
async fn post(process: &Process, secret: &str) -> u16 {
    let body = execution("e", "completed").to_string();
    let now = OffsetDateTime::now_utc().unix_timestamp();
    status(signed(Client::new().post(&process.url), secret, now, &body)).await
}

/// Posts a webhook with `token` in its URL.
async fn post_to(process: &Process, token: &str) -> u16 {
    let body = execution("e", "completed").to_string();
    status(Client::new().post(format!("{}/{token}", process.url)).body(body)).await
}

async fn metrics(process: &Process, token: &str) -> u16 {
    status(Client::new().get(format!("http://{}/metrics", process.admin)).bearer_auth(token)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_rereads_all_secrets_and_drops_no_request() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let config = write(dir.path(), "my.toml", format!("[auth]\nurl_tokens = [\"{}\"]\n", TOKENS[0]));
    let secrets = write(dir.path(), "secrets", FIRST);
    let admin = write(dir.path(), "admin", TOKENS[0]);
    let mut process = Process::start(
        program(dir.path())
            .arg("--config")
            .arg(&config)
            .env("DATABASE_URL", url(&database))
            .env("RECEIVER__AUTH__WEBHOOK_SECRETS_FILE", &secrets)
            .env("RECEIVER__ADMIN__TOKEN_FILE", &admin),
    );
    let (stop, stopped) = watch::channel(false);
    let (answer, mut answered) = watch::channel(0);
    let url = process.url.clone();
    let traffic = tokio::spawn(async move {
        let client = Client::new();
        while !*stopped.borrow() {
            let body = execution("e", "completed").to_string();
            let now = OffsetDateTime::now_utc().unix_timestamp();
            assert_eq!(status(signed(client.post(&url), FIRST, now, &body)).await, 200);
            answer.send_modify(|answered| *answered += 1);
        }
    });
    within(answered.changed()).await.unwrap();
    write(dir.path(), "secrets", format!("{FIRST}\n{SECOND}\n"));
    write(dir.path(), "my.toml", format!("[auth]\nurl_tokens = [\"{}\"]\n", TOKENS[1]));
    write(dir.path(), "admin", TOKENS[1]);
    process.signal(Signal::HUP);
    let line: Value = serde_json::from_str(&process.wait_for("secrets re-read")).unwrap();
    assert_eq!((&line["webhook_secrets"], &line["url_tokens"]), (&2.into(), &1.into()), "{line}");
    assert_eq!(line["admin_token_changed"], true);
    let before = *answered.borrow();
    within(answered.wait_for(|answered| *answered > before + 1)).await.unwrap();
    assert_eq!(post(&process, SECOND).await, 200);
    assert_eq!((post_to(&process, TOKENS[0]).await, post_to(&process, TOKENS[1]).await), (401, 200));
    assert_eq!((metrics(&process, TOKENS[0]).await, metrics(&process, TOKENS[1]).await), (401, 200));
    stop.send(true).unwrap();
    within(traffic).await.unwrap();
    let log = process.terminate();
    for secret in [FIRST, SECOND, TOKENS[0], TOKENS[1]] {
        assert!(!log.iter().any(|line| line.contains(secret)), "{log:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_file_at_sighup_keeps_the_previous_secrets() {
    let large = b"#".repeat((64 << 10) + 1);
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let secrets = write(dir.path(), "secrets", FIRST);
    let config = write(dir.path(), "my.toml", "");
    let mut process = Process::start(
        program(dir.path())
            .arg("--config")
            .arg(&config)
            .env("DATABASE_URL", url(&database))
            .env("RECEIVER__AUTH__WEBHOOK_SECRETS_FILE", &secrets),
    );
    for (name, broken, why) in [
        ("secrets", Some(&b" \n"[..]), "the file is empty"),
        ("secrets", Some(b"# all commented out\n"), "the file is empty"),
        ("secrets", Some(b"\xff\xfew\0"), "UTF-16"),
        ("secrets", Some(b"whsec_\xe9HUSH"), "not UTF-8"),
        ("secrets", None, "cannot be read"),
        ("secrets", Some(&*large), "larger than 64 KiB"),
        ("my.toml", Some(&*large), "larger than 64 KiB"),
        ("my.toml", Some(b"# HUSH\xe9"), "not UTF-8"),
        ("my.toml", Some(b"[auth]\nurl_tokens = [\"HUSH"), "my.toml"),
        ("my.toml", Some(b"[auth]\nwebhook_secrets_file = 7\nx = 1\n"), "webhook_secrets"),
    ] {
        match broken {
            Some(text) => drop(write(dir.path(), name, text)),
            None => std::fs::remove_file(dir.path().join(name)).unwrap(),
        }
        process.log.clear();
        process.signal(Signal::HUP);
        let line = process.wait_for("the new secrets cannot be used");
        assert!(line.contains("\"ERROR\"") && line.contains(why) && !line.contains("HUSH"), "{line}");
        assert_eq!(post(&process, FIRST).await, 200);
        assert_eq!(post(&process, "another").await, 401);
        write(dir.path(), "secrets", FIRST);
        write(dir.path(), "my.toml", "");
    }
    process.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_or_device_instead_of_a_file_is_an_error_and_the_next_reload_works() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let config = write(dir.path(), "my.toml", "");
    let files = [
        ("secrets", FIRST.to_owned(), "RECEIVER__AUTH__WEBHOOK_SECRETS_FILE"),
        ("tokens", TOKENS[0].to_owned(), "RECEIVER__AUTH__URL_TOKENS_FILE"),
        ("admin", TOKENS[0].to_owned(), "RECEIVER__ADMIN__TOKEN_FILE"),
        ("url", url(&database), "RECEIVER__DATABASE__URL_FILE"),
        ("headers", "a=b".to_owned(), "RECEIVER__TRACES__OTLP_HEADERS_FILE"),
    ];
    let mut command = program(dir.path());
    command.arg("--config").arg(&config);
    for (name, text, variable) in &files {
        command.env(variable, write(dir.path(), name, text));
    }
    let mut process = Process::start(&mut command);
    let files = files.iter().map(|(name, text, _)| (*name, &**text)).chain([("my.toml", "")]);
    for (name, text) in files {
        let file = dir.path().join(name);
        let pipe = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
        for special in [&*pipe, Path::new("/dev/zero"), dir.path()] {
            std::fs::remove_file(&file).unwrap();
            std::os::unix::fs::symlink(special, &file).unwrap();
            process.log.clear();
            process.signal(Signal::HUP);
            let line = process.wait_for("the new secrets cannot be used");
            assert!(line.contains("not a regular file"), "{name}: {line}");
            assert_eq!(post(&process, FIRST).await, 200);
        }
        std::fs::remove_file(&pipe).unwrap();
        // A symbolic link to a file, as Kubernetes mounts secrets.
        write(dir.path(), "real", text);
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("real", &file).unwrap();
        process.signal(Signal::HUP);
        process.wait_for("secrets re-read");
        write(dir.path(), name, text);
    }
    write(dir.path(), "secrets", SECOND);
    process.signal(Signal::HUP);
    until(async || post(&process, SECOND).await == 200).await;
    process.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_never_disables_authentication() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let closed = format!("[auth]\nurl_tokens = [\"{}\"]\n[admin]\ntoken = \"{}\"\n", TOKENS[0], TOKENS[0]);
    let config = write(dir.path(), "my.toml", &closed);
    let mut process =
        Process::start(program(dir.path()).arg("--config").arg(&config).env("DATABASE_URL", url(&database)));
    for (open, what) in [
        (format!("[admin]\ntoken = \"{}\"\n", TOKENS[0]), "auth.url_tokens"),
        (format!("[auth]\nurl_tokens = [\"{}\"]\n", TOKENS[0]), "admin.token"),
        // A reload does not change `auth.verify_unsigned`.
        (
            format!(
                "[auth]\nverify_unsigned = true\n[eachlabs]\napi_key = \"key\"\n[admin]\ntoken = \"{}\"\n",
                TOKENS[0]
            ),
            "auth.url_tokens",
        ),
    ] {
        write(dir.path(), "my.toml", open);
        process.log.clear();
        process.signal(Signal::HUP);
        assert!(process.wait_for("the new secrets cannot be used").contains(what));
        assert_eq!(post_to(&process, "").await, 401);
        assert_eq!(metrics(&process, "").await, 401);
    }
    process.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_added_to_its_file_is_accepted_without_a_signal() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let secrets = write(dir.path(), "secrets", FIRST);
    let tokens = write(dir.path(), "tokens", TOKENS[0]);
    let admin = write(dir.path(), "admin", TOKENS[0]);
    let mut process = Process::start(
        program(dir.path())
            .env("DATABASE_URL", url(&database))
            .env("RECEIVER__AUTH__WEBHOOK_SECRETS_FILE", &secrets)
            .env("RECEIVER__AUTH__URL_TOKENS_FILE", &tokens)
            .env("RECEIVER__ADMIN__TOKEN_FILE", &admin),
    );
    write(dir.path(), "secrets", format!("{FIRST}\n{SECOND}\n"));
    assert_eq!(post(&process, SECOND).await, 200, "the very first delivery");
    assert_eq!(post(&process, FIRST).await, 200);
    // The files are checked once in some seconds.
    write(dir.path(), "tokens", TOKENS[1]);
    until(async || post_to(&process, TOKENS[1]).await == 200).await;
    assert_eq!(post_to(&process, TOKENS[0]).await, 401);
    write(dir.path(), "admin", TOKENS[1]);
    until(async || metrics(&process, TOKENS[1]).await == 200).await;
    assert_eq!(metrics(&process, TOKENS[0]).await, 401);
    process.wait_for("\"admin_token_changed\":true");
    // An invalid file is logged once, however many requests are rejected.
    process.log.clear();
    write(dir.path(), "secrets", "");
    within(async {
        while !process.log.iter().any(|line| line.contains("the new secrets cannot be used")) {
            assert_eq!(post(&process, "another").await, 401);
            process.wait_at_most(std::time::Duration::from_millis(5));
        }
    })
    .await;
    assert_eq!(post(&process, SECOND).await, 200);
    process.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn byte_order_marks_line_ends_comments_and_blanks_are_not_part_of_a_secret() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let list = format!(
        "\u{feff}# of the \"workflows\"\r\n{FIRST}\r\n\r\n  # the next\r\n\t{SECOND} \r\n\u{feff}third\"'#\r\n"
    );
    let process = Process::start(
        program(dir.path())
            .env(
                "RECEIVER__DATABASE__URL_FILE",
                write(dir.path(), "url", format!("\u{feff}{} \r\n", url(&database))),
            )
            .env("RECEIVER__AUTH__WEBHOOK_SECRETS_FILE", write(dir.path(), "secrets", list))
            .env(
                "RECEIVER__AUTH__URL_TOKENS_FILE",
                write(dir.path(), "tokens", format!("\u{feff}{}\r\n", TOKENS[0])),
            )
            .env(
                "RECEIVER__ADMIN__TOKEN_FILE",
                write(dir.path(), "admin", format!("\u{feff}# a\n{}\r\n", TOKENS[1])),
            ),
    );
    for secret in [FIRST, SECOND, "third\"'#"] {
        assert_eq!(post(&process, secret).await, 200, "{secret}");
    }
    assert_eq!(post(&process, "# the next").await, 401);
    assert_eq!(post_to(&process, TOKENS[0]).await, 200);
    assert_eq!(metrics(&process, TOKENS[1]).await, 200);
    process.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_toml_file_may_have_a_byte_order_mark_and_secrets_with_quotation_marks() {
    let (dir, database) = (TempDir::new().unwrap(), new_database().await);
    let config =
        write(dir.path(), "my.toml", "\u{feff}[auth]\r\nwebhook_secrets = ['\"quoted-and-meant-so\"']\r\n");
    let process = Process::start(
        program(dir.path())
            .arg("--config")
            .arg(&config)
            .env("DATABASE_URL", format!(" {}\n", url(&database))),
    );
    assert_eq!(post(&process, "\"quoted-and-meant-so\"").await, 200);
    process.terminate();
}

#[test]
fn quoted_secrets_are_errors_that_do_not_show_them() {
    let dir = TempDir::new().unwrap();
    let file = |name: &str, bytes: &[u8]| write(dir.path(), name, bytes).to_str().unwrap().to_owned();
    let utf16: Vec<u8> = "\u{feff}HUSH".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let without_mark: Vec<u8> = "HUSH".encode_utf16().flat_map(u16::to_be_bytes).collect();
    let token = "HUSH-long-enough-for-a-token";
    let quoted = "begins with a quotation mark";
    for (variable, value, parts) in [
        (
            "RECEIVER__AUTH__WEBHOOK_SECRETS",
            "\"HUSH\",\"HUSH2\"".to_owned(),
            ["auth.webhook_secrets", quoted],
        ),
        ("RECEIVER__AUTH__WEBHOOK_SECRETS", "'HUSH,HUSH2'".to_owned(), ["auth.webhook_secrets", quoted]),
        ("RECEIVER__AUTH__WEBHOOK_SECRETS", "[\"HUSH\"]".to_owned(), ["auth.webhook_secrets", quoted]),
        ("RECEIVER__AUTH__URL_TOKENS", format!("\"{token}\""), ["auth.url_tokens", quoted]),
        ("RECEIVER__ADMIN__TOKEN", format!("'{token}'"), ["admin.token", quoted]),
        ("RECEIVER__TRACES__OTLP_HEADERS", "\"a=HUSH\"".to_owned(), ["traces.otlp_headers", quoted]),
        ("DATABASE_URL", "\"postgres://u:HUSH@h/d\"".to_owned(), ["database.url", quoted]),
        ("RECEIVER__AUTH__WEBHOOK_SECRETS_FILE", file("a", b"\"HUSH\"\n"), ["secrets_file", quoted]),
        ("RECEIVER__ADMIN__TOKEN_FILE", file("b", format!("\"{token}\"").as_bytes()), ["token_file", quoted]),
        ("RECEIVER__DATABASE__URL_FILE", file("c", b"'postgres://u:HUSH@h/d'"), ["url_file", quoted]),
        ("RECEIVER__AUTH__WEBHOOK_SECRETS_FILE", file("d", &utf16), ["secrets_file", "UTF-16"]),
        ("RECEIVER__AUTH__URL_TOKENS_FILE", file("e", &without_mark), ["tokens_file", "UTF-16"]),
        ("RECEIVER__AUTH__WEBHOOK_SECRETS_FILE", file("f", b"HUSH\xe9"), ["secrets_file", "not UTF-8"]),
        (
            "RECEIVER__AUTH__WEBHOOK_SECRETS_FILE",
            file("g", b"HU\x1bSH"),
            ["secrets_file", "control character"],
        ),
        ("RECEIVER__AUTH__WEBHOOK_SECRETS_FILE", file("h", b"# HUSH\n"), ["secrets_file", "empty"]),
        (
            "RECEIVER__ADMIN__TOKEN_FILE",
            file("i", format!("{token}\n{token}").as_bytes()),
            ["token_file", "one line"],
        ),
        ("RECEIVER__TRACES__OTLP_HEADERS_FILE", file("j", &utf16), ["otlp_headers_file", "UTF-16"]),
    ] {
        let (text, code) = run_to_end(program(dir.path()).env(variable, &value));
        assert_eq!(code, Some(1), "{variable}: {text}");
        assert!(!text.contains("HUSH"), "{text}");
        for part in parts {
            assert!(text.contains(part), "{text:?} lacks {part:?}");
        }
    }
}
