//! The stand-in for the sender, and settings of a receiver that uses its API.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sender_stand_in::{Options, StandIn, Trigger};
use serde_json::Value;
use sqlx::postgres::PgConnectOptions;
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
    let receiver = TestReceiver::start_with(|settings| {
        with_api(settings, &unused_address(), stand_in.base_url());
        change(settings, &stand_in);
    })
    .await;
    (stand_in, receiver)
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
