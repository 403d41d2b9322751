//! The webhooks of `make demo`. `crates/sender-stand-in/tests` tests the program.

use std::time::Duration;

use sender_stand_in::demo::{self, Demo};
use sender_stand_in::{Options, StandIn};
use workflow_receiver::config::{Secret, Secrets};

use crate::support::receiver::TestReceiver;
use crate::support::wait::until;

const SECRET: &str = "webhook-secret-of-the-test";
const ADMIN_TOKEN: &str = "an-admin-token-of-the-test";

/// What a newcomer finds in the console, each `true` or `false`.
const SHOWN: &str = "SELECT
    EXISTS (SELECT FROM executions WHERE status = 'running') AS running,
    (SELECT count(DISTINCT status) FROM executions WHERE status IN ('completed', 'failed')) = 2 AS ended,
    (SELECT count(DISTINCT failure_class(error_cause)) FROM executions WHERE status = 'failed') >= 4 AS classes,
    NOT EXISTS (SELECT FROM executions WHERE failure_class(error_cause) = 'unknown' AND status = 'failed') AS known,
    EXISTS (SELECT FROM executions WHERE deliveries = 2 AND conflicts IS NULL AND fetched_from IS NULL) AS duplicate,
    EXISTS (SELECT FROM execution_conflicts) AS conflict,
    EXISTS (SELECT FROM steps WHERE is_fallback) AS fallback,
    (SELECT count(DISTINCT status) FROM predictions) = 2 AS predictions,
    EXISTS (SELECT FROM quarantine) AS quarantine,
    EXISTS (SELECT FROM changes WHERE type = 'bulk.completed') AS bulk,
    EXISTS (SELECT FROM expected_executions WHERE execution_id IS NULL) AS rejected,
    EXISTS (SELECT FROM executions WHERE fetched_from IS NOT NULL) AS fetched,
    EXISTS (SELECT FROM executions WHERE reference ? 'order' AND reference ? 'user') AS reference";

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_fills_every_page_of_the_console() {
    let options = Options { seed: Some(1), ..Options::default() };
    let (api_key, listen) = (options.api_key.clone(), "127.0.0.1:0".parse().unwrap());
    let stand_in = StandIn::start(listen, options).await.unwrap();
    let receiver = TestReceiver::start_with(|settings| {
        settings.auth.webhook_secrets = Secrets::of(&[SECRET]);
        settings.admin.token = Secret::from(ADMIN_TOKEN);
        settings.eachlabs.api_key = (&*api_key).into();
        settings.eachlabs.base_url = stand_in.base_url();
        settings.reconcile.interval = Duration::from_millis(200);
        settings.reconcile.running_after = Duration::from_secs(1);
    })
    .await;
    let demo = Demo {
        webhook_url: receiver.url.clone(),
        admin_url: receiver.admin.clone(),
        admin_token: Some(ADMIN_TOKEN.to_owned()),
        first_order: 1_000,
        webhook_secret: SECRET.to_owned(),
        second: Duration::from_millis(50),
    };
    tokio::select! {
        () = demo::run(&stand_in, &demo) => {}
        () = until(async || {
            let shown = receiver.rows_now(SHOWN).await.remove(0);
            shown.as_object().unwrap().values().all(|shown| *shown == true)
        }) => {}
    }
    for (kind, extension) in [("image/png", "png"), ("audio/wav", "wav"), ("video/mp4", "mp4")] {
        let query = format!(
            "SELECT (regexp_match(output::text, 'http[^\"]+{extension}'))[1] AS url FROM executions
             WHERE output::text LIKE '%.{extension}%' LIMIT 1"
        );
        let url = receiver.row(&query).await["url"].as_str().unwrap().to_owned();
        let get = || receiver.client.get(&url);
        let answer = get().send().await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), answer.headers()["content-type"] == kind),
            (200, true),
            "{url}"
        );
        let whole = answer.bytes().await.unwrap();
        assert!(whole.len() > 1_000, "{url}");
        assert_eq!(get().send().await.unwrap().bytes().await.unwrap(), whole, "the same content");
        if extension != "png" {
            let part = get().header("Range", "bytes=4-7").send().await.unwrap();
            assert_eq!(part.status(), 206);
            assert_eq!(part.bytes().await.unwrap(), whole[4..8]);
        }
    }
}
