//! `workflow-receiver status`: is it well, and how did today go?

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::{Duration, OffsetDateTime, Time};

use super::healthcheck::healthcheck;
use super::output::Output;
use super::{CommandError, reader};
use crate::config::{self, Settings};
use crate::db::queries::overview::{By, Counts, OverviewQuery};
use crate::db::queries::quarantine::{GetQuarantineUsage, QuarantineUsage};

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
    /// No part of the receiver has a problem, the database answers, and nothing that was answered 200 is in quarantine.
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
    /// The state of each part, as `/health/ready` has it.
    #[serde(default)]
    parts: Value,
}

impl Health {
    /// The sentence on a part; empty for a receiver that does not report it.
    fn detail(&self, part: &str) -> String {
        self.parts[part]["detail"].as_str().unwrap_or_default().to_owned()
    }
}

#[derive(Serialize)]
struct Database {
    /// How executions went that came since midnight (UTC); null when the database does not say.
    today: Option<Counts>,
    /// What is in quarantine; null then, too, or when that takes too long.
    quarantine: Option<QuarantineUsage>,
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
        let Some(Health { status, problems, spooled, .. }) = &self.health else {
            return self.problem.clone().unwrap_or_default();
        };
        let problems = problems.join("; ");
        let meaning = match &**status {
            "ok" => "webhooks are taken and recorded".to_owned(),
            "degraded" => format!("webhooks are taken, but {problems}"),
            _ => problems,
        };
        format!("{status}: {meaning}; on disk, to be recorded: {spooled}")
    }
}

impl Database {
    async fn ask(settings: &Settings) -> Self {
        match Self::answers(settings).await {
            Ok((today, quarantine)) => Self { today: Some(today), quarantine, problem: None },
            Err(problem) => Self { today: None, quarantine: None, problem: Some(problem.to_string()) },
        }
    }

    /// What was answered 200 is not in quarantine, as far as is known.
    fn keeps_promises(&self) -> bool {
        self.quarantine.as_ref().is_none_or(|held| held.acknowledged == 0)
    }

    async fn answers(settings: &Settings) -> Result<(Counts, Option<QuarantineUsage>), CommandError> {
        let midnight = OffsetDateTime::now_utc().replace_time(Time::MIDNIGHT);
        let day = OverviewQuery { by: By::Day, from: midnight, to: midnight + Duration::DAY, workflow: None };
        let reader = reader(settings)?;
        // Of a large quarantine that may take too long.
        Ok((reader.run(&day).await?.total, reader.run(&GetQuarantineUsage).await.ok()))
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

/// What is in quarantine, in words; nothing when nothing is.
fn to_look_at(held: &QuarantineUsage, limits: config::Quarantine) -> String {
    let &QuarantineUsage { bodies, acknowledged, refused_bytes } = held;
    let refused = bodies - acknowledged;
    let percent = |held: i64, limit: i64| held.saturating_mul(100) / limit.max(1);
    let taken = percent(refused, limits.max_rows).max(percent(refused_bytes, limits.max_bytes));
    match bodies {
        0 => String::new(),
        _ => format!(
            "{acknowledged} bodies answered 200; {refused} answered 422, {taken} % of what there is room for"
        ),
    }
}

impl Status {
    /// Shows it, with whatever can be reached.
    ///
    /// # Errors
    /// When a part has a problem, when what was answered 200 is in quarantine, or when receiver or database do not
    /// answer.
    pub async fn run(&self, settings: &Settings) -> Result<(), CommandError> {
        let (receiver, database) = tokio::join!(Receiver::ask(settings), Database::ask(settings));
        let well = receiver.is_well() && database.today.is_some() && database.keeps_promises();
        let state = State { well, receiver, database };
        let mut output = Output::new();
        if self.json {
            output.json(&state)?;
        } else {
            let problem = || state.database.problem.clone().unwrap_or_default();
            let today = state.database.today.as_ref().map(sentence);
            let held = state.database.quarantine.as_ref();
            let quarantine = held.map(|held| to_look_at(held, settings.quarantine));
            let detail =
                |part| state.receiver.health.as_ref().map(|health| health.detail(part)).unwrap_or_default();
            output.key_values(&[
                ("receiver", state.receiver.sentence()),
                ("recording", detail("recording")),
                ("database", if today.is_some() { "answers".to_owned() } else { problem() }),
                ("today", today.unwrap_or_default()),
                ("quarantine", quarantine.unwrap_or_default()),
                ("retention", detail("retention")),
            ])?;
        }
        output.flush()?;
        if well { Ok(()) } else { Err("not all is well".into()) }
    }
}
