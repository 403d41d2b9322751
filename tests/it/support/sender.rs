//! The stand-in for the sender, and settings of a receiver that uses its API.

use std::time::Duration;

use sender_stand_in::{Options, StandIn, Trigger};
use serde_json::Value;
use workflow_receiver::config::Settings;

use super::process::unused_host;

pub(crate) const KEY: &str = "an-api-key-of-the-test";
pub(crate) const SECRET: &str = "a-webhook-secret-of-the-test";

/// An impatient stand-in.
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

pub(crate) fn webhook_url(address: &str) -> String {
    format!("http://{address}/webhooks/workflow-completed")
}

pub(crate) fn unused_address() -> String {
    format!("{}:18080", unused_host())
}
