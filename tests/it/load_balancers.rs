//! Two receivers behind HAProxy, nginx and Caddy, with the configurations of `deploy/`: while each receiver in turn is
//! stopped and started again, every webhook is answered 200 and recorded.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::Client;
use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::{JoinSet, block_in_place};

use crate::support::fixtures::{execution, with};
use crate::support::postgres::{new_database, rows, url};
use crate::support::process::{Process, program, unused_host};
use crate::support::proxy::{Proxy, dns};
use crate::support::wait::{until, within};

const PORT: u16 = 18080;

/// A receiver with a directory and an address of its own.
struct Receiver {
    host: Ipv4Addr,
    dir: TempDir,
    grace: &'static str,
    process: Option<Process>,
}

impl Receiver {
    fn start(database: &PgConnectOptions, grace: &'static str) -> Self {
        let mut receiver = Self { host: unused_host(), dir: TempDir::new().unwrap(), grace, process: None };
        receiver.start_again(database);
        receiver
    }

    fn start_again(&mut self, database: &PgConnectOptions) {
        let mut command: Command = program(self.dir.path());
        command.env("DATABASE_URL", url(database)).env("RECEIVER__HTTP__LISTEN", self.address());
        command.env("RECEIVER__HTTP__HEALTH", "true").env("RECEIVER__SHUTDOWN__GRACE", self.grace);
        self.process = Some(Process::start(&mut command));
    }

    fn address(&self) -> String {
        format!("{}:{PORT}", self.host)
    }

    /// Waits until the proxy sends webhooks to the receiver.
    async fn until_used(&self) {
        let process = self.process.as_ref().unwrap();
        until(async || process.counter("webhooks_answered_total{status=\"200\"}").await > 0).await;
    }
}

/// Senders that post new executions until they are stopped.
struct Traffic {
    answered: watch::Sender<usize>,
    stop: Arc<AtomicBool>,
    /// Return the failed requests.
    senders: JoinSet<Vec<String>>,
}

impl Traffic {
    /// Half of the senders reuse their connection, the others open one for each request.
    fn start(proxy: &Proxy) -> Self {
        let mut traffic =
            Self { answered: watch::Sender::default(), stop: Arc::default(), senders: JoinSet::new() };
        for sender in 0..4 {
            let client = Client::builder().pool_max_idle_per_host(sender % 2).build().unwrap();
            let url = format!("http://{}/webhooks/workflow-completed", proxy.address);
            let (answered, stop) = (traffic.answered.clone(), traffic.stop.clone());
            traffic.senders.spawn(async move {
                let mut failed = Vec::new();
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let id = format!("{sender}-{n}");
                    let output = if n % 10 == 0 { "x".repeat(100_000) } else { String::new() };
                    let body = with(execution(&id, "completed"), json!({ "output": output }));
                    let answer = within(client.post(&url).body(body.to_string()).send()).await;
                    match answer.map(|answer| (answer.status(), answer.text())) {
                        Ok((status, text)) => {
                            // Caddy answers 200 to requests for an unknown host.
                            let text = text.await.unwrap_or_default();
                            if status != 200 || text != r#"{"received":true}"# {
                                failed.push(format!("{id}: {status} {text}"));
                            }
                        }
                        Err(error) => failed.push(format!("{id}: {error:?}")),
                    }
                    answered.send_modify(|answered| *answered += 1);
                }
                failed
            });
        }
        traffic
    }

    async fn work(&self, more: usize) {
        let until = *self.answered.borrow() + more;
        within(self.answered.subscribe().wait_for(|answered| *answered >= until)).await.unwrap();
    }

    /// Returns the number of requests.
    async fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let failed = within(self.senders.join_all()).await.concat();
        assert!(failed.is_empty(), "{} of {} failed: {failed:#?}", failed.len(), *self.answered.borrow());
        *self.answered.borrow()
    }
}

async fn restart_each(proxy: &Proxy, receivers: &mut [Receiver; 2], database: &PgConnectOptions) {
    let traffic = Traffic::start(proxy);
    for receiver in receivers.iter() {
        receiver.until_used().await;
    }
    for receiver in receivers.iter_mut() {
        traffic.work(100).await;
        let process = receiver.process.take().unwrap();
        process.signal(Signal::TERM);
        let (status, log) = block_in_place(|| process.ended());
        assert!(status.success(), "{log:#?}");
        traffic.work(100).await;
        receiver.start_again(database);
        receiver.until_used().await;
    }
    let sent = traffic.stop().await;
    for receiver in receivers {
        block_in_place(|| receiver.process.take().unwrap().terminate());
    }
    let counted = rows(database, "SELECT count(*), sum(deliveries) AS deliveries FROM executions").await;
    let [counts]: [Value; 1] = counted.try_into().unwrap();
    assert_eq!(counts, json!({ "count": sent, "deliveries": sent }));
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_haproxy_a_rolling_restart_fails_no_request() {
    let database = new_database().await;
    let mut receivers = [Receiver::start(&database, "4s"), Receiver::start(&database, "4s")];
    let [first, second] = receivers.each_ref().map(Receiver::address);
    let changes = [
        ("receiver-1:8080", &*first),
        ("receiver-2:8080", &second),
        (":8443 ssl crt /etc/haproxy/webhooks.pem", "LISTEN"),
        ("ge 1000 }", "ge 1000000 }"),
    ];
    let proxy = Proxy::start("haproxy", &["-db", "-f"], "haproxy.cfg", &changes).await;
    restart_each(&proxy, &mut receivers, &database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_caddy_a_rolling_restart_fails_no_request() {
    let database = new_database().await;
    let mut receivers = [Receiver::start(&database, "4s"), Receiver::start(&database, "4s")];
    let [first, second] = receivers.each_ref().map(Receiver::address);
    let changes = [
        ("receiver-1:8080", &*first),
        ("receiver-2:8080", &second),
        ("hooks.example.com {", "http://LISTEN {\n\tbind HOST"),
    ];
    let arguments = ["run", "--adapter", "caddyfile", "--config"];
    let proxy = Proxy::start("caddy", &arguments, "Caddyfile", &changes).await;
    restart_each(&proxy, &mut receivers, &database).await;
}

/// nginx does not check health: a receiver needs no grace.
#[tokio::test(flavor = "multi_thread")]
async fn behind_nginx_a_rolling_restart_fails_no_request() {
    let database = new_database().await;
    let mut receivers = [Receiver::start(&database, "0s"), Receiver::start(&database, "0s")];
    let resolver = dns(receivers.each_ref().map(|receiver| receiver.host).to_vec()).to_string();
    let changes = [
        ("receiver:8080", &*format!("receiver:{PORT}")),
        ("resolver 127.0.0.11", &format!("resolver {resolver}")),
        ("listen 8443 ssl", "listen LISTEN"),
        ("ssl_certificate", "# ssl_certificate"),
        ("rate=100r/s", "rate=100000r/s"),
        ("/tmp/", "DIR/"),
    ];
    let proxy = Proxy::start("nginx", &["-g", "daemon off;", "-c"], "nginx.conf", &changes).await;
    restart_each(&proxy, &mut receivers, &database).await;
}
