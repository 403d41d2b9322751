//! The stand-in for the sender, and settings of a receiver that uses its API.

use std::convert::Infallible;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use sender_stand_in::{Options, StandIn, Trigger};
use serde_json::Value;
use sqlx::postgres::PgConnectOptions;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use workflow_receiver::config::Settings;

use super::postgres::url;
use super::process::{program, unused_host};
use super::receiver::TestReceiver;

pub(crate) const KEY: &str = "an-api-key-of-the-test";
pub(crate) const SECRET: &str = "a-webhook-secret-of-the-test";

/// A stand-in with short pauses between its attempts.
pub(crate) async fn stand_in(change: impl FnOnce(&mut Options)) -> StandIn {
    let mut options = Options {
        api_key: KEY.to_owned(),
        attempt_interval: Duration::from_millis(20),
        ..Options::default()
    };
    change(&mut options);
    StandIn::start("127.0.0.1:0".parse().unwrap(), options).await.unwrap()
}

pub(crate) fn trigger(workflow: &str, webhook_url: &str, inputs: Value) -> Trigger {
    Trigger {
        workflow: workflow.to_owned(),
        bulk: None,
        inputs,
        webhook_url: Some(webhook_url.to_owned()),
        webhook_secret: Some(SECRET.to_owned()),
    }
}

/// Settings of a receiver at `address` that uses the stand-in.
pub(crate) fn with_api(settings: &mut Settings, address: &str, base_url: String) {
    settings.http.listen = address.parse().unwrap();
    settings.eachlabs.api_key = KEY.into();
    settings.eachlabs.base_url = base_url;
    settings.eachlabs.webhook_url = webhook_url(address);
    settings.reconcile.enabled = false;
}

/// A stand-in, and a receiver that uses its API. The settings are those of [`with_api`], then `change`.
pub(crate) async fn receiver_with_api(
    options: impl FnOnce(&mut Options),
    change: impl FnOnce(&mut Settings, &StandIn),
) -> (StandIn, TestReceiver) {
    let stand_in = stand_in(options).await;
    let change = |settings: &mut Settings| change(settings, &stand_in);
    let receiver = receiver_with_api_at(stand_in.base_url(), change).await;
    (stand_in, receiver)
}

/// A receiver that uses the API at `base_url`. The settings are those of [`with_api`], then `change`.
pub(crate) async fn receiver_with_api_at(
    base_url: String,
    change: impl FnOnce(&mut Settings),
) -> TestReceiver {
    TestReceiver::start_with(|settings| {
        with_api(settings, &unused_address(), base_url);
        change(settings);
    })
    .await
}

/// The program in `dir` at `address`. It uses the stand-in, requires [`SECRET`], and logs everything.
pub(crate) fn program_with_api(
    dir: &Path,
    database: &PgConnectOptions,
    address: &str,
    stand_in: &StandIn,
) -> Command {
    let mut command = program(dir);
    command
        .env("DATABASE_URL", url(database))
        .env("RECEIVER__HTTP__LISTEN", address)
        .env("RECEIVER__AUTH__WEBHOOK_SECRETS", SECRET)
        .env("RECEIVER__EACHLABS__API_KEY", KEY)
        .env("RECEIVER__EACHLABS__BASE_URL", stand_in.base_url())
        .env("RECEIVER__EACHLABS__WEBHOOK_URL", webhook_url(address))
        .env("RECEIVER__LOG__FILTER", "debug");
    command
}

pub(crate) fn webhook_url(address: &str) -> String {
    format!("http://{address}/webhooks/workflow-completed")
}

pub(crate) fn unused_address() -> String {
    format!("{}:18080", unused_host())
}

/// A request to the API: its path, its key, and its body.
pub(crate) type ApiRequest = (String, String, Value);

/// An API that answers a request to a path with a status and a body. Returns its address and the requests.
pub(crate) async fn canned_api(
    answer: impl Fn(&str) -> (u16, Value) + Send + Sync + 'static,
) -> (String, mpsc::UnboundedReceiver<ApiRequest>) {
    let (to, requests) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (to, answer) = (to.clone(), answer.clone());
            let service = service_fn(move |request: hyper::Request<Incoming>| {
                let (to, answer) = (to.clone(), answer.clone());
                async move {
                    let key = request.headers()["x-api-key"].to_str().unwrap().to_owned();
                    let path = request.uri().path().to_owned();
                    let (status, body) = answer(&path);
                    let sent = request.into_body().collect().await.unwrap().to_bytes();
                    let _ = to.send((path, key, serde_json::from_slice(&sent).unwrap_or_default()));
                    let response = hyper::Response::builder().status(status).body(body.to_string());
                    Ok::<_, Infallible>(response.unwrap())
                }
            });
            let http = hyper::server::conn::http1::Builder::new();
            tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
        }
    });
    (address, requests)
}
