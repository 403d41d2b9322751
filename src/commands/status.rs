//! `workflow-receiver status`: is it well, and how did today go?

use clap::Args;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime, Time};

use super::output::Output;
use super::{Failure, reader};
use crate::config::Settings;
use crate::healthcheck;
use crate::reading::overview::{By, Chart, Counts};

/// How it is shown.
#[derive(Debug, Args)]
pub struct Status {
    /// JSON, in one line
    #[arg(long)]
    json: bool,
}

/// How receiver and database are.
#[derive(Serialize)]
struct State {
    /// Whether webhooks are taken and recorded.
    well: bool,
    receiver: Receiver,
    database: Database,
}

#[derive(Serialize)]
struct Receiver {
    /// What `/health/ready` says; null when nobody answers there as a receiver does.
    health: Option<Health>,
    /// Why there is no `health`.
    problem: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Health {
    status: String,
    problems: Vec<String>,
    spooled: i64,
}

#[derive(Serialize)]
struct Database {
    /// How executions went that came since midnight (UTC); null when the database does not say.
    today: Option<Counts>,
    /// Why there is no `today`.
    problem: Option<String>,
}

impl Receiver {
    async fn ask(settings: &Settings) -> Self {
        let (Ok(text) | Err(text)) = healthcheck(&settings.admin).await;
        match serde_json::from_str(&text) {
            Ok(health) => Self { health: Some(health), problem: None },
            Err(_) => Self { health: None, problem: Some(text) },
        }
    }

    fn is_well(&self) -> bool {
        self.health.as_ref().is_some_and(|health| health.status == "ok")
    }

    fn sentence(&self) -> String {
        let Some(Health { status, problems, spooled }) = &self.health else {
            return self.problem.clone().unwrap_or_default();
        };
        let problems = problems.join("; ");
        let meaning = match &**status {
            "ok" => "webhooks are taken and recorded".to_owned(),
            "degraded" => format!("webhooks are taken, but {problems}"),
            _ => problems,
        };
        format!("{status}: {meaning}; {spooled} wait on disk to be recorded")
    }
}

impl Database {
    async fn ask(settings: &Settings) -> Self {
        match Self::today(settings).await {
            Ok(today) => Self { today: Some(today), problem: None },
            Err(problem) => Self { today: None, problem: Some(problem.to_string()) },
        }
    }

    async fn today(settings: &Settings) -> Result<Counts, Failure> {
        let midnight = OffsetDateTime::now_utc().replace_time(Time::MIDNIGHT);
        let day = Chart { by: By::Day, from: midnight, to: midnight + Duration::DAY, workflow: None };
        Ok(reader(settings)?.ask(&day).await?.total)
    }
}

/// How they went, in words.
fn sentence(counts: &Counts) -> String {
    let Counts { executions, completed, failed, cancelled, other, failure_rate } = counts;
    let rate = failure_rate.map(|rate| format!(" ({:.1} %)", rate * 100.0)).unwrap_or_default();
    format!(
        "{executions} executions since midnight (UTC): {completed} completed, {failed} failed{rate}, {cancelled} \
         cancelled, {other} other"
    )
}

impl Status {
    /// Shows it, with whatever can be reached.
    ///
    /// # Errors
    /// When webhooks are not taken and recorded, or when receiver or database do not say.
    pub async fn run(&self, settings: &Settings) -> Result<(), Failure> {
        let (receiver, database) = tokio::join!(Receiver::ask(settings), Database::ask(settings));
        let well = receiver.is_well() && database.today.is_some();
        let state = State { well, receiver, database };
        let mut output = Output::new();
        if self.json {
            output.json(&state)?;
        } else {
            let problem = || state.database.problem.clone().unwrap_or_default();
            let today = state.database.today.as_ref().map(sentence);
            output.facts(&[
                ("receiver", state.receiver.sentence()),
                ("database", if today.is_some() { "answers".to_owned() } else { problem() }),
                ("today", today.unwrap_or_default()),
            ])?;
        }
        output.flush()?;
        if well { Ok(()) } else { Err("not all is well".into()) }
    }
}
