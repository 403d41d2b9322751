//! `make demo`: starts a receiver with its data in `data/demo`, and sends webhooks to it until Ctrl-C.
//!
//! Environment variables change the addresses: `RECEIVER__HTTP__LISTEN`, `RECEIVER__ADMIN__LISTEN`, and
//! `STAND_IN__LISTEN` for the stand-in with the results. With `LOGIN=1`, the console requires one of two tokens.

use std::error::Error;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};
use sender_stand_in::demo::{self, Demo};
use sender_stand_in::{Options, StandIn};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

const DIR: &str = "data/demo";
const LOG: &str = "data/demo/receiver.log";
/// The number of runs on this data. Each run has other numbers of orders.
const RUNS: &str = "data/demo/runs";
const SECRET: &str = "webhook-secret-of-the-demo";
const OPERATE: &str = "demo-token-that-may-operate";
const READ: &str = "demo-token-that-may-read";

struct Addresses {
    webhooks: SocketAddr,
    admin: SocketAddr,
    stand_in: SocketAddr,
}

/// Runs until a signal. Returns after the receiver has ended.
pub(crate) async fn run(program: &str) -> Result<(), Box<dyn Error>> {
    let mut signals = signals()?;
    let addresses = Addresses {
        webhooks: free_address("RECEIVER__HTTP__LISTEN", "127.0.0.1:8080")?,
        admin: free_address("RECEIVER__ADMIN__LISTEN", "127.0.0.1:9090")?,
        stand_in: free_address("STAND_IN__LISTEN", "127.0.0.1:8090")?,
    };
    // Other identifiers than in earlier runs, whose executions are still recorded.
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let options = Options { seed: Some(seed), ..Options::default() };
    let stand_in = StandIn::start(addresses.stand_in, options.clone()).await?;
    fs::create_dir_all(DIR)?;
    let run = next_run()?;
    let with_login = std::env::var("LOGIN").is_ok_and(|login| login == "1");
    let mut receiver = start(program, &addresses, &stand_in, &options, with_login)?;
    println!("Starting the receiver and its private PostgreSQL …");
    tokio::select! {
        status = receiver.wait() => return Err(ended(status?).into()),
        _ = signals.recv() => {}
        () = send(program, &addresses, &stand_in, run, with_login) => {}
    }
    stop(&mut receiver, &mut signals).await
}

/// SIGINT, SIGTERM and SIGHUP (the terminal was closed).
fn signals() -> std::io::Result<mpsc::Receiver<()>> {
    let (sender, receiver) = mpsc::channel(1);
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let (mut signal, sender) = (signal(kind)?, sender.clone());
        tokio::spawn(async move {
            while signal.recv().await.is_some() {
                let _ = sender.try_send(());
            }
        });
    }
    Ok(receiver)
}

fn free_address(variable: &str, default: &str) -> Result<SocketAddr, String> {
    let text = std::env::var(variable).unwrap_or_else(|_| default.to_owned());
    let address: SocketAddr = text.parse().map_err(|error| format!("{variable}={text}: {error}"))?;
    match TcpListener::bind(address) {
        Ok(_) => Ok(address),
        Err(error) => {
            let other = SocketAddr::new(address.ip(), address.port().wrapping_add(10_000));
            Err(format!(
                "make demo cannot listen on {address}: {error}.\nStop the program that listens there (perhaps `make \
                 run`), or use another address: make demo {variable}={other}"
            ))
        }
    }
}

fn start(
    program: &str,
    addresses: &Addresses,
    stand_in: &StandIn,
    options: &Options,
    with_login: bool,
) -> Result<Child, Box<dyn Error>> {
    let log = fs::File::create(LOG)?;
    let mut command = Command::new(program);
    for (name, _) in std::env::vars() {
        if name.starts_with("RECEIVER__") || name == "DATABASE_URL" || name == "PORT" {
            command.env_remove(name);
        }
    }
    command
        .env("RECEIVER__HTTP__LISTEN", addresses.webhooks.to_string())
        .env("RECEIVER__ADMIN__LISTEN", addresses.admin.to_string())
        .env("RECEIVER__SPOOL__DIR", format!("{DIR}/spool"))
        .env("RECEIVER__DATABASE__PRIVATE_DIR", format!("{DIR}/postgres"))
        .env("RECEIVER__AUTH__WEBHOOK_SECRETS", SECRET)
        .env("RECEIVER__CONSOLE__RESULT_HOSTS", stand_in.base_url())
        .env("RECEIVER__EACHLABS__API_KEY", &options.api_key)
        .env("RECEIVER__EACHLABS__BASE_URL", stand_in.base_url())
        .env("RECEIVER__EACHLABS__WEBHOOK_URL", webhook_url(addresses))
        // Most videos run for 8 seconds.
        .env("RECEIVER__RECONCILE__INTERVAL", "10s")
        .env("RECEIVER__RECONCILE__RUNNING_AFTER", "20s")
        .env("RECEIVER__EXPECTED__OVERDUE_AFTER", "1m")
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C signals the process group of the terminal. The receiver gets one signal, from `stop`: a second one would
        // end it at once.
        .process_group(0)
        .kill_on_drop(true);
    if with_login {
        command.env("RECEIVER__ADMIN__TOKENS", format!("olga:operate:{OPERATE},rita:read:{READ}"));
    }
    command.spawn().map_err(|error| format!("{program} cannot be started: {error}").into())
}

fn webhook_url(addresses: &Addresses) -> String {
    format!("http://{}/webhooks/workflow-completed", addresses.webhooks)
}

/// Counts the runs, from 0.
fn next_run() -> std::io::Result<usize> {
    let run = fs::read_to_string(RUNS).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    fs::write(RUNS, (run + 1).to_string())?;
    Ok(run)
}

/// The command that opens the private PostgreSQL. The receiver prints it, perhaps just after it is ready.
async fn psql_line() -> Option<String> {
    for _ in 0..20 {
        let log = fs::read_to_string(LOG).ok()?;
        if let Some(line) = log.lines().find(|line| line.starts_with("  ") && line.contains("psql")) {
            return Some(line.trim().to_owned());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    None
}

/// What a newcomer can try.
fn first_steps(program: &str, console: &str, psql: Option<&str>, with_login: bool) -> String {
    let login = if with_login {
        format!("Log in with one of these tokens:\n    {OPERATE}\n    {READ}")
    } else {
        "No login is required. With tokens and roles: make demo LOGIN=1".to_owned()
    };
    let psql = psql.map(|line| format!("  The database:\n    {line}\n")).unwrap_or_default();
    // The commands that ask the receiver need a token, too.
    let token = if with_login { format!(" RECEIVER__ADMIN__TOKEN={OPERATE}") } else { String::new() };
    let programs = Path::new(program).parent().unwrap_or(Path::new(".")).display();
    format!(
        "\n  The console: {console}\n    {login}\n\n{psql}  The command line, in another terminal in this directory:\n    \
         export PATH=$PWD/{programs}:$PATH RECEIVER__DATABASE__PRIVATE_DIR={DIR}/postgres{token}\n    \
         workflow-receiver status\n\n  Webhooks arrive all the time. The sender is a stand-in: it runs no model.\n  \
         Ctrl-C stops everything. Data and log: {DIR}\n"
    )
}

/// Waits until the receiver is ready, prints its address, and sends webhooks.
async fn send(program: &str, addresses: &Addresses, stand_in: &StandIn, run: usize, with_login: bool) {
    let console = format!("http://{}", addresses.admin);
    let ready = format!("{console}/health/ready");
    while !reqwest::get(&ready).await.is_ok_and(|response| response.status().is_success()) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("{}", first_steps(program, &console, psql_line().await.as_deref(), with_login));
    let demo = Demo {
        webhook_url: webhook_url(addresses),
        admin_url: console,
        admin_token: with_login.then(|| OPERATE.to_owned()),
        first_order: 1_000 + 100_000 * run,
        webhook_secret: SECRET.to_owned(),
        second: Duration::from_secs(1),
    };
    demo::run(stand_in, &demo).await;
}

/// Stops the receiver as SIGTERM does; each further signal is passed on.
async fn stop(receiver: &mut Child, signals: &mut mpsc::Receiver<()>) -> Result<(), Box<dyn Error>> {
    println!("Stopping …");
    loop {
        if let Some(pid) = receiver.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)) {
            let _ = kill_process(pid, Signal::TERM);
        }
        tokio::select! {
            status = receiver.wait() => {
                let status = status?;
                return if status.success() { Ok(()) } else { Err(ended(status).into()) };
            }
            _ = signals.recv() => {}
        }
    }
}

/// The message for a receiver that ended by itself, with the end of its log.
fn ended(status: ExitStatus) -> String {
    let log = fs::read_to_string(Path::new(LOG)).unwrap_or_default();
    let lines: Vec<_> = log.lines().collect();
    let last = lines[lines.len().saturating_sub(10)..].join("\n");
    format!("The receiver ended ({status}). The end of its log, {LOG}:\n{last}")
}
