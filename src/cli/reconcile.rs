//! `workflow-receiver reconcile`

use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use secrecy::ExposeSecret;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::timeout;
use url::Url;

use super::CommandError;
use super::output::{note, print_line};
use crate::config::Settings;
use crate::db::queries::period::parse_time;
use crate::http_client::reachable;
use crate::logging::{escape_json, printable};
use crate::reconcile::{Counts, Event};

/// A time without an answer after which the command reports that it waits.
const QUIET: Duration = Duration::from_secs(10);

/// Arguments of `reconcile`.
#[derive(Debug, Args)]
pub(crate) struct Reconcile {
    /// Only these executions
    #[arg(value_name = "EXECUTION", value_parser = NonEmptyStringValueParser::new(),
        required_unless_present_any = ["bulk", "workflow", "since"], conflicts_with_all = ["bulk", "workflow", "since"])]
    executions: Vec<String>,
    /// Only this bulk. Add --workflow if none of its executions is recorded
    #[arg(long, value_parser = NonEmptyStringValueParser::new(), conflicts_with = "since")]
    bulk: Option<String>,
    /// Only this workflow
    #[arg(long, value_parser = NonEmptyStringValueParser::new(), conflicts_with = "since")]
    workflow: Option<String>,
    /// Executions that ended at this time or later: 2026-03-02T10:00:00Z (RFC 3339), how long ago (2h, 7d), today or
    /// yesterday (UTC)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<OffsetDateTime>,
    /// Only show what is missing
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object per line, as POST /api/v1/reconcile
    #[arg(long)]
    json: bool,
}

impl Reconcile {
    /// Requests the run from the running receiver. If the command is interrupted, the receiver ends the run.
    ///
    /// # Errors
    /// If the receiver does not answer or rejects the request, or the run fails.
    pub(crate) async fn run(&self, settings: &Settings) -> Result<(), CommandError> {
        let url = format!("http://{}/api/v1/reconcile", reachable(settings.admin.listen));
        let mut url = Url::parse(&url)?;
        {
            let mut query = url.query_pairs_mut();
            let since = self.since.map(|since| since.format(&Rfc3339)).transpose()?;
            for (name, value) in [("bulk", &self.bulk), ("workflow", &self.workflow), ("since", &since)] {
                if let Some(value) = value {
                    query.append_pair(name, value);
                }
            }
            if self.dry_run {
                query.append_pair("dry_run", "true");
            }
        }
        if self.executions.is_empty() {
            return self.request(settings, url).await;
        }
        for execution in &self.executions {
            let mut url = url.clone();
            url.query_pairs_mut().append_pair("execution", execution);
            self.request(settings, url).await?;
        }
        Ok(())
    }

    async fn request(&self, settings: &Settings, url: Url) -> Result<(), CommandError> {
        let address = reachable(settings.admin.listen);
        let client = Client::builder(TokioExecutor::new()).build_http();
        let mut request = Request::post(url.as_str()).body(Empty::<Bytes>::new())?;
        let token = settings.admin.token.expose_secret();
        if !token.is_empty() {
            let mut bearer = HeaderValue::try_from(format!("Bearer {token}"))?;
            bearer.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, bearer);
        }
        let response = client.request(request).await;
        let response = response.map_err(|_| format!("no answer from {address}. Is the receiver running?"))?;
        let (head, body) = response.into_parts();
        if !head.status.is_success() {
            let problem: serde_json::Value = serde_json::from_slice(&body.collect().await?.to_bytes())?;
            return Err(problem["detail"].as_str().unwrap_or("the receiver rejected the request").into());
        }
        self.follow(body).await
    }

    /// Prints the lines of the response as they arrive.
    async fn follow(&self, mut body: Incoming) -> Result<(), CommandError> {
        let mut waiting = Vec::new();
        loop {
            let Ok(frame) = timeout(QUIET, body.frame()).await else {
                note(
                    "the receiver is still waiting for each::labs, for PostgreSQL or for another run. Ctrl-C ends the run",
                );
                continue;
            };
            let Some(frame) = frame else { break };
            waiting.extend_from_slice(&frame?.into_data().unwrap_or_default());
            while let Some(end) = waiting.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = waiting.drain(..=end).collect();
                let event: Event = serde_json::from_slice(&line)?;
                if self.json {
                    print_line(escape_json(String::from_utf8_lossy(&line).trim_end()));
                }
                match event {
                    Event::Execution { execution_id, result } if !self.json => {
                        let result: &str = result.into();
                        print_line(format_args!("{}: {result}", printable(&execution_id)));
                    }
                    Event::Waiting if !self.json => note("another run is active: waiting for its end"),
                    Event::Progress(counts) if !self.json => note(&sentence(&counts)),
                    Event::Done(counts) => {
                        if !self.json {
                            print_line(sentence(&counts));
                        }
                        if counts.is_for_others() {
                            note("no webhook was sent to this receiver: check eachlabs.webhook_url");
                        }
                        return Ok(());
                    }
                    Event::Failed { error, counts } => {
                        return Err(format!("{error} ({}). Run the command again", sentence(&counts)).into());
                    }
                    _ => {}
                }
            }
        }
        Err("the receiver stopped: start it and run the command again".into())
    }
}

fn sentence(counts: &Counts) -> String {
    let Counts { checked, recorded, fetched, missing, running, absent, unusable, other_urls } = counts;
    let mut parts = vec![format!("checked {checked}, already recorded {recorded}, fetched {fetched}")];
    for (number, name) in [
        (missing, "missing"),
        (running, "still running"),
        (absent, "absent at each::labs"),
        (unusable, "unusable"),
        (other_urls, "sent to other URLs"),
    ] {
        if *number > 0 {
            parts.push(format!("{name} {number}"));
        }
    }
    parts.join(", ")
}
