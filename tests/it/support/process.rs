//! The program as a process that tests can signal and kill.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeWriter};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use reqwest::Client;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sqlx::postgres::PgConnectOptions;

use super::fixtures::execution;
use super::http::metric_of;
use super::wait::{PATIENCE, pause, within};

/// The program, on free ports. Settings in the environment of the test process are removed.
pub(crate) fn program(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_workflow-receiver"));
    command.current_dir(dir).env_remove("DATABASE_URL").env_remove("PORT");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RECEIVER__") {
            command.env_remove(name);
        }
    }
    command.env("RECEIVER__HTTP__LISTEN", "127.0.0.1:0").env("RECEIVER__ADMIN__LISTEN", "127.0.0.1:0");
    command
}

/// Runs the program until it exits by itself. Returns its output and its exit code.
pub(crate) fn run_to_end(command: &mut Command) -> (String, Option<i32>) {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8(text).unwrap(), output.status.code())
}

/// `workflow-receiver serve`, running.
pub(crate) struct Process {
    pub(crate) url: String,
    pub(crate) admin: String,
    child: Child,
    lines: mpsc::Receiver<String>,
    /// The lines read from standard error so far.
    pub(crate) log: Vec<String>,
}

impl Process {
    /// Starts the receiver and waits until it accepts webhooks.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut process = Self::spawn(command);
        let receiving = process.wait_for("\"receiving\"");
        let receiving: Value = serde_json::from_str(&receiving).unwrap();
        let text = |key: &str| receiving[key].as_str().unwrap().to_owned();
        (process.url, process.admin) = (text("webhooks"), text("admin"));
        process
    }

    /// Starts the receiver without waiting.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (to, lines) = mpsc::channel();
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| to.send(line)));
        Self { url: String::new(), admin: String::new(), child, lines, log: Vec::new() }
    }

    /// Waits for a log line with `text`. Lines written before the call count, too.
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        let mut searched = 0;
        loop {
            if let Some(line) = self.log[searched..].iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            searched = self.log.len();
            let next = self.lines.recv_timeout(PATIENCE);
            let next = next.unwrap_or_else(|_| panic!("no {text:?} in {:#?}", self.log));
            self.log.push(next);
        }
    }

    /// Waits for the next log line, at most for `limit`.
    pub(crate) fn wait_at_most(&mut self, limit: Duration) {
        self.log.extend(self.lines.recv_timeout(limit));
    }

    /// Whether the process has exited.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Posts a body and checks that it is acknowledged.
    pub(crate) async fn accept(&self, body: impl ToString) {
        let answer = Client::new().post(&self.url).body(body.to_string()).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }

    /// The value of a counter; see [`metric_of`].
    pub(crate) async fn counter(&self, name: &str) -> i64 {
        let page = within(reqwest::get(format!("http://{}/metrics", self.admin))).await.unwrap();
        let page = page.text().await.unwrap();
        metric_of(&page, name).unwrap_or_else(|| panic!("no {name} in {page}"))
    }

    /// The resident memory, or 0 once the process has ended.
    pub(crate) fn resident_kib(&self) -> u64 {
        self.memory_kib("VmRSS:").unwrap_or(0)
    }

    /// The highest resident memory so far. A container's limit counts resident memory; a limit on the address space
    /// would also count reserved arenas and the stacks of threads.
    pub(crate) fn peak_resident_kib(&self) -> u64 {
        self.memory_kib("VmHWM:").expect("a running process")
    }

    fn memory_kib(&self, field: &str) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        line.split_whitespace().next()?.parse().ok()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until the process exits. Returns its whole log.
    pub(crate) fn ended(mut self) -> (ExitStatus, Vec<String>) {
        let status = self.child.wait().unwrap();
        self.log.extend(self.lines.iter());
        (status, std::mem::take(&mut self.log))
    }

    /// Sends SIGTERM and waits until the process exits successfully.
    pub(crate) fn terminate(self) -> Vec<String> {
        self.signal(Signal::TERM);
        let (status, log) = self.ended();
        assert!(status.success(), "{log:#?}");
        log
    }

    pub(crate) fn kill(self) {
        self.signal(Signal::KILL);
        self.ended();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The private PostgreSQL of a program in `dir`, while it runs.
pub(crate) fn running_postgres(dir: &Path) -> Option<PgConnectOptions> {
    private_postgres::running(&dir.join("data/postgres")).ok()
}

/// A loopback address that no other test uses.
pub(crate) fn unused_host() -> Ipv4Addr {
    static COUNT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 100 + COUNT.fetch_add(1, Ordering::Relaxed) % 150, high, low)
}

/// A receiver whose log is not read. Its addresses are therefore chosen before its start.
pub(crate) struct Unobserved {
    child: Child,
    pub(crate) url: String,
    admin: String,
    client: Client,
}

impl Unobserved {
    /// Starts the receiver on a loopback address that no other test uses, and waits until its health is "ok".
    pub(crate) async fn start(command: &mut Command, stderr: impl Into<Stdio>) -> Self {
        let mut receiver = Self::spawn(command, stderr);
        receiver.until_ok().await;
        receiver
    }

    pub(crate) fn spawn(command: &mut Command, stderr: impl Into<Stdio>) -> Self {
        let host = unused_host();
        let (url, admin) = (format!("{host}:18080"), format!("{host}:19090"));
        command.env("RECEIVER__HTTP__LISTEN", &url).env("RECEIVER__ADMIN__LISTEN", &admin);
        let child = command.stdin(Stdio::null()).stderr(stderr).spawn().unwrap();
        // The command would otherwise keep its end of the pipe open.
        command.stderr(Stdio::null()).stdout(Stdio::null());
        let url = format!("http://{url}/webhooks/workflow-completed");
        Self { child, url, admin: format!("http://{admin}"), client: Client::new() }
    }

    async fn until_ok(&mut self) {
        within(async {
            while self.health().await != "ok" {
                assert!(!self.has_ended(), "the receiver ended");
                pause().await;
            }
        })
        .await;
    }

    /// The status in `/health/ready`; empty without an answer.
    pub(crate) async fn health(&self) -> String {
        let Ok(answer) = self.client.get(format!("{}/health/ready", self.admin)).send().await else {
            return String::new();
        };
        answer.json::<Value>().await.unwrap()["status"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn accept(&self, id: &str) {
        let body = execution(id, "completed").to_string();
        let answer = within(self.client.post(&self.url).body(body).send()).await.unwrap();
        assert_eq!(answer.status(), 200);
    }

    pub(crate) async fn dropped_lines(&self) -> f64 {
        let page = within(self.client.get(format!("{}/metrics", self.admin)).send()).await.unwrap();
        let page = page.text().await.unwrap();
        metric_of(&page, "log_lines_dropped_total").unwrap_or_else(|| panic!("no such metric in {page}"))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub(crate) async fn ended(mut self) -> ExitStatus {
        within(tokio::task::spawn_blocking(move || self.child.wait().unwrap())).await.unwrap()
    }
}

impl Drop for Unobserved {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A pipe without a reader.
pub(crate) fn closed_pipe() -> PipeWriter {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer
}

/// A file that accepts no byte.
pub(crate) fn full_device() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}
