//! `workflow-receiver trigger` and `workflow-receiver bulk-trigger`

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use secrecy::ExposeSecret;
use serde_json::{Deserializer, Value, json};

use super::output::{note, print_line};
use super::register::{CallerArgs, read, sentence};
use super::{CommandError, database};
use crate::config::Settings;
use crate::db::DbConnection;
use crate::eachlabs::Client;
use crate::logging::escape_json;
use crate::metrics::Metrics;
use crate::trigger::Triggered;

/// Arguments of `trigger`.
#[derive(Debug, Args)]
pub struct Trigger {
    /// File with the inputs, a JSON object; - for standard input
    #[arg(value_name = "FILE")]
    inputs: PathBuf,
    #[command(flatten)]
    common: TriggerArgs,
}

/// Arguments of `bulk-trigger`.
#[derive(Debug, Args)]
#[expect(clippy::doc_markdown, reason = "help texts are plain text")]
pub struct BulkTrigger {
    /// File with the inputs: a JSON array of objects, or objects one after the other; - for standard input. each::labs
    /// accepts up to 10
    #[arg(value_name = "FILE")]
    inputs: PathBuf,
    #[command(flatten)]
    common: TriggerArgs,
}

#[derive(Debug, Args)]
struct TriggerArgs {
    /// The workflow to trigger
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    workflow: String,
    /// The version of the workflow. Required, except for the older host (eachlabs.paths)
    #[arg(long = "workflow-version", value_name = "VERSION", value_parser = NonEmptyStringValueParser::new())]
    version: Option<String>,
    #[command(flatten)]
    caller: CallerArgs,
}

impl Trigger {
    /// Triggers an execution whose webhook is sent to this receiver, prints the response, and registers it.
    ///
    /// # Errors
    /// If a setting is missing, `each::labs` rejects the request, or the response cannot be registered.
    pub async fn run(&self, settings: &Settings) -> Result<(), CommandError> {
        let inputs = inputs(&self.inputs)?;
        let [inputs @ Value::Object(_)] = &*inputs else {
            return Err(
                "the file must contain one JSON object, the inputs. For several executions, use bulk-trigger"
                    .into(),
            );
        };
        self.common.trigger(settings, inputs, false).await
    }
}

impl BulkTrigger {
    /// As [`Trigger::run`], for several inputs.
    ///
    /// # Errors
    /// As [`Trigger::run`].
    pub async fn run(&self, settings: &Settings) -> Result<(), CommandError> {
        let mut inputs = inputs(&self.inputs)?;
        if let [Value::Array(array)] = &mut *inputs {
            inputs = std::mem::take(array);
        }
        if inputs.is_empty() || !inputs.iter().all(Value::is_object) {
            return Err("the file must contain JSON objects, one for each execution".into());
        }
        self.common.trigger(settings, &Value::Array(inputs), true).await
    }
}

fn inputs(file: &std::path::Path) -> Result<Vec<Value>, CommandError> {
    let text = read(file)?;
    let values = Deserializer::from_slice(&text).into_iter().collect::<Result<Vec<Value>, _>>();
    values.map_err(|error| format!("{}: not JSON: {error}", file.display()).into())
}

impl TriggerArgs {
    async fn trigger(&self, settings: &Settings, inputs: &Value, is_bulk: bool) -> Result<(), CommandError> {
        let metrics = Arc::new(Metrics::new());
        let client = Client::new(&settings.eachlabs, settings.http.max_body_bytes, metrics)?
            .ok_or("eachlabs.api_key is not set (RECEIVER__EACHLABS__API_KEY)")?;
        let secrets = [&*settings.auth.webhook_secrets.0, &*settings.auth.url_tokens.0].concat();
        let client = client.for_trigger(secrets, |error, pause| {
            note(&format!("{error}. The request is sent again in {} s.", pause.as_secs_f64().ceil()));
        });
        let is_older = settings.eachlabs.access()?.is_some_and(|access| access.is_older);
        if self.version.is_none() && !is_older {
            return Err("--workflow-version is required: it is part of the address of the request".into());
        }
        let webhook_url = &settings.eachlabs.webhook_url;
        if webhook_url.is_empty() {
            return Err("eachlabs.webhook_url is not set: each::labs sends the webhooks to this URL \
                        (RECEIVER__EACHLABS__WEBHOOK_URL=https://…/webhooks/workflow-completed)"
                .into());
        }
        let mut body = json!({ "inputs": inputs, "webhook_url": webhook_url });
        match settings.auth.webhook_secrets.0.first() {
            Some(secret) => body["webhook_secret"] = secret.expose_secret().into(),
            None => note("auth.webhook_secrets is not set: the webhooks will not be signed."),
        }
        // Connect before the request: with a wrong address of the database, nothing is triggered.
        let mut connection = DbConnection::for_command(&database(settings)?).await?;
        let (body, version) = (body.to_string().into(), self.version.as_deref().unwrap_or_default());
        let response = client.trigger(&self.workflow, version, is_bulk, body).await?;
        // Printed before everything else: the response cannot be requested again.
        print_line(escape_json(&String::from_utf8_lossy(&response)));
        let not_registered = |error: &dyn std::fmt::Display| {
            format!(
                "triggered, but not registered: {error}. Save the response above in a file and run: workflow-receiver \
                 register FILE"
            )
        };
        let mut triggered = Triggered::parse(&response).map_err(|error| not_registered(&error))?;
        self.caller.apply(&mut triggered);
        triggered.workflow_id.get_or_insert_with(|| self.workflow.clone());
        let registered = connection.register(&triggered, settings.expected.overdue_after).await;
        let registered = registered.map_err(|error| not_registered(&error))?;
        note(&sentence(&registered.map_err(|error| not_registered(&error))?));
        Ok(())
    }
}
