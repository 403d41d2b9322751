//! `workflow-receiver status`

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::{Duration, OffsetDateTime, Time};

use super::healthcheck::healthcheck;
use super::output::Output;
use super::{CommandError, query_pool};
use crate::config::{self, Settings};
use crate::db::queries::overview::{By, Counts, OverviewQuery};
use crate::db::queries::quarantine::{GetQuarantineUsage, QuarantineUsage};
use crate::words::counted;

/// Arguments of `status`.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Print JSON in one line
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct State {
    /// The receiver has no problem, the database answers, and no delivery answered 200 is in quarantine.
    well: bool,
    receiver: Receiver,
    database: Database,
}

#[derive(Serialize)]
struct Receiver {
    /// The response of `/health/ready`; null if there is none.
    health: Option<Health>,
    /// Why `health` is null, or has no details.
    problem: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Health {
    status: String,
    /// Null without the token. So are the following fields.
    problems: Option<Vec<String>>,
    spooled: Option<i64>,
    /// The state of each part.
    #[serde(default)]
    parts: Value,
}

impl Health {
    /// `detail` of a part; empty if the receiver does not report the part.
    fn detail(&self, part: &str) -> String {
        self.parts[part]["detail"].as_str().unwrap_or_default().to_owned()
    }

    /// Whether unsigned webhooks wait for their verification.
    fn has_unverified(&self) -> bool {
        self.parts["verification"]["waiting"].as_i64() > Some(0)
    }
}

#[derive(Serialize)]
struct Database {
    /// Counts of executions since midnight (UTC); null if the database does not answer.
    today: Option<Counts>,
    /// Null if the database does not answer in time.
    quarantine: Option<QuarantineUsage>,
    /// Why `today` is null.
    problem: Option<String>,
}

impl Receiver {
    async fn query(settings: &Settings) -> Self {
        let (Ok(text) | Err(text)) = healthcheck(&settings.admin).await;
        match serde_json::from_str::<Health>(&text) {
            Ok(health) => {
                let hidden = health.problems.is_none();
                let problem = hidden.then(|| "set RECEIVER__ADMIN__TOKEN to see the details".to_owned());
                Self { health: Some(health), problem }
            }
            Err(_) => Self { health: None, problem: Some(text) },
        }
    }

    fn is_well(&self) -> bool {
        self.health.as_ref().is_some_and(|health| health.status == "ok")
    }

    fn sentence(&self) -> String {
        let problem = self.problem.clone().unwrap_or_default();
        let Some(Health { status, problems, spooled, .. }) = &self.health else { return problem };
        let (Some(problems), Some(spooled)) = (problems, spooled) else {
            return format!("{status}: {problem}");
        };
        let problems = problems.join("; ");
        let meaning = match &**status {
            "ok" => "webhooks are accepted and recorded".to_owned(),
            "degraded" => format!("webhooks are accepted, but {problems}"),
            _ => problems,
        };
        format!("{status}: {meaning}; deliveries waiting in the spool: {spooled}")
    }
}

impl Database {
    async fn query(settings: &Settings) -> Self {
        match Self::try_query(settings).await {
            Ok((today, quarantine)) => Self { today: Some(today), quarantine, problem: None },
            Err(problem) => Self { today: None, quarantine: None, problem: Some(problem.to_string()) },
        }
    }

    /// False if a delivery answered 200 is in quarantine.
    fn is_well(&self) -> bool {
        self.quarantine.as_ref().is_none_or(|usage| usage.acknowledged == 0)
    }

    async fn try_query(settings: &Settings) -> Result<(Counts, Option<QuarantineUsage>), CommandError> {
        let midnight = OffsetDateTime::now_utc().replace_time(Time::MIDNIGHT);
        let day = OverviewQuery { by: By::Day, from: midnight, to: midnight + Duration::DAY, workflow: None };
        let pool = query_pool(settings)?;
        // Counting a large quarantine may time out.
        Ok((pool.run(&day).await?.total, pool.run(&GetQuarantineUsage).await.ok()))
    }
}

fn counts_sentence(counts: &Counts) -> String {
    let Counts { executions, completed, failed, cancelled, other, failure_rate } = counts;
    let rate = failure_rate.map(|rate| format!(" ({:.1} %)", rate * 100.0)).unwrap_or_default();
    format!(
        "{} since midnight (UTC): {completed} completed, {failed} failed{rate}, {cancelled} cancelled, {other} running",
        counted(*executions, "execution", "executions")
    )
}

/// Empty for an empty quarantine.
fn quarantine_sentence(usage: &QuarantineUsage, limits: config::Quarantine) -> String {
    let &QuarantineUsage { bodies, acknowledged, rejected_bytes } = usage;
    let rejected = bodies - acknowledged;
    let percent = |used: i64, limit: i64| used.saturating_mul(100) / limit.max(1);
    let used = percent(rejected, limits.max_rows).max(percent(rejected_bytes, limits.max_bytes));
    let mut parts = Vec::new();
    if acknowledged > 0 {
        parts.push(format!("{} answered 200", counted(acknowledged, "webhook", "webhooks")));
    }
    if rejected > 0 {
        parts.push(format!(
            "{} ({used} % of the limit)",
            counted(rejected, "rejected or unconfirmed webhook", "rejected or unconfirmed webhooks")
        ));
    }
    match bodies {
        0 => String::new(),
        _ => format!("{}. See: workflow-receiver quarantine list", parts.join(", ")),
    }
}

impl Status {
    /// # Errors
    /// If the receiver or the database does not answer, the receiver has a problem, or a delivery answered 200 is in
    /// quarantine.
    pub(crate) async fn run(&self, settings: &Settings) -> Result<(), CommandError> {
        let (receiver, database) = tokio::join!(Receiver::query(settings), Database::query(settings));
        let well = receiver.is_well() && database.today.is_some() && database.is_well();
        let state = State { well, receiver, database };
        let mut output = Output::new();
        if self.json {
            output.json(&state)?;
        } else {
            let problem = || state.database.problem.clone().unwrap_or_default();
            let today = state.database.today.as_ref().map(counts_sentence);
            let usage = state.database.quarantine.as_ref();
            let quarantine = usage.map(|usage| quarantine_sentence(usage, settings.quarantine));
            let detail =
                |part| state.receiver.health.as_ref().map(|health| health.detail(part)).unwrap_or_default();
            let waits = state.receiver.health.as_ref().is_some_and(Health::has_unverified);
            output.key_values(&[
                ("receiver", state.receiver.sentence()),
                ("recording", detail("recording")),
                ("database", if today.is_some() { "answers".to_owned() } else { problem() }),
                ("today", today.unwrap_or_default()),
                ("quarantine", quarantine.unwrap_or_default()),
                ("retention", detail("retention")),
                (
                    "unsigned",
                    if settings.auth.verify_unsigned || waits {
                        detail("verification")
                    } else {
                        String::new()
                    },
                ),
            ])?;
        }
        output.flush()?;
        if well { Ok(()) } else { Err("there are problems".into()) }
    }
}
