//! `/`

mod attention;
mod chart;
mod failures;
mod models;
mod parts;
pub(super) mod welcome;
mod workflows;

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use maud::{Markup, html};
use time::{Duration, OffsetDateTime};
use tokio::time::timeout;

use self::chart::{Step, chart};
use super::components::{ago, chip, count, notice, percent, plural};
use super::layout::{self, PageError, Tab, database_error};
use super::params::PERIODS;
use super::state::{Console, ConsoleState};
use super::text::visible;
use super::view::View;
use crate::db::queries::executions::Executions;
use crate::db::queries::failures::{By as FailuresBy, FailureQuery, Failures};
use crate::db::queries::minutes::Minutes;
use crate::db::queries::overview::{By, Counts, Overview, OverviewQuery};
use crate::db::queries::page::MAX_LIMIT;
use crate::db::queries::workflows::{Order, Workflow, Workflows};
use crate::db::queries::{Choice, PageRequest, QueryError, TimeRange};
use crate::health::Health;
use crate::http::admin::api::query::Parameters;
use crate::http::problem::Problem;

/// Time limit for the data of PostgreSQL. After it, the page shows the state of the receiver alone.
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3);
/// Workflows in the table.
const MAX_WORKFLOWS: i64 = 8;
/// A cause is new if it did not occur in this time before the period.
const KNOWN_CAUSES: Duration = Duration::days(7);

/// The period of the page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
enum Period {
    #[strum(serialize = "1h")]
    Hour,
    #[default]
    #[strum(serialize = "24h")]
    Day,
    #[strum(serialize = "7d")]
    Week,
    #[strum(serialize = "30d")]
    Month,
}

impl Period {
    fn length(self) -> Duration {
        match self {
            Self::Hour => Duration::HOUR,
            Self::Day => Duration::DAY,
            Self::Week => Duration::days(7),
            Self::Month => Duration::days(30),
        }
    }

    fn days(self) -> i64 {
        self.length().whole_days().max(1)
    }

    fn step(self) -> Step {
        match self {
            Self::Hour => Step::Minute,
            Self::Day => Step::Hour,
            Self::Week | Self::Month => Step::Day,
        }
    }

    /// As in the lists.
    fn short_name(self) -> &'static str {
        PERIODS.iter().find(|(value, _)| *value == self.as_str()).map_or(self.as_str(), |(_, name)| *name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Hour => "last hour",
            Self::Day => "last 24 hours",
            Self::Week => "last 7 days",
            Self::Month => "last 30 days",
        }
    }
}

/// What the page shows of PostgreSQL.
struct Data {
    overview: Overview,
    /// If the period has too many executions to count: only those after this time are counted.
    counted_since: Option<OffsetDateTime>,
    failures: Failures,
    earlier_failures: Failures,
    failed_models: Failures,
    workflows: Vec<Workflow>,
    attention: Vec<attention::Item>,
    /// Whether any execution is recorded.
    any: bool,
}

pub(super) async fn page(State(console): ConsoleState, view: View) -> Response {
    layout::page(&view, Tab::Overview, "Overview", content(&console, &view).await)
}

async fn content(console: &Console, view: &View) -> Result<Markup, PageError> {
    let period = period(&view.uri)?;
    let health = console.admin.health.health();
    let data = timeout(TIMEOUT, Box::pin(data(console, period))).await.unwrap_or(Err(QueryError::TimedOut));
    Ok(html! {
        (state(&health))
        @match data {
            // The cause is in the state.
            Err(_) if health.status() != "ok" => (notice("warn", html! {
                strong { "The database cannot be read. " } "Executions and failures are shown as soon as it answers."
            })),
            Err(error) => (database_error(&error)),
            Ok(data) if !data.any && data.attention.is_empty() => (welcome::welcome(&view.operator)),
            Ok(data) => (loaded(&data, period)),
        }
    })
}

fn period(uri: &Uri) -> Result<Period, Problem> {
    let mut parameters = Parameters::of(uri);
    let period = parameters.choice("period")?.unwrap_or_default();
    parameters.finish()?;
    Ok(period)
}

async fn data(console: &Console, period: Period) -> Result<Data, QueryError> {
    let now = OffsetDateTime::now_utc();
    let from = now - period.length();
    // If PostgreSQL does not answer, the other queries are not run.
    let (overview, counted_since) = counts(console, period, now).await?;
    let failures = |from, to| FailureQuery {
        period: TimeRange { from: Some(from), to: Some(to) },
        limit: MAX_LIMIT,
        ..FailureQuery::default()
    };
    let (recent, earlier) = (failures(from, now), failures(from - KNOWN_CAUSES, from));
    let models = FailureQuery { by: FailuresBy::Model, limit: models::LIMIT, ..failures(from, now) };
    let workflows = Workflows { days: period.days(), order: Order::Cost, limit: MAX_WORKFLOWS };
    let latest = Executions { page: PageRequest { limit: 1, after: None }, ..Executions::default() };
    let (recent, earlier, models, workflows, attention, any) = tokio::join!(
        console.run(&recent),
        console.run(&earlier),
        console.run(&models),
        console.run(&workflows),
        attention::items(console),
        any_recorded(console, &overview, &latest)
    );
    Ok(Data {
        overview,
        counted_since,
        failures: recent?,
        earlier_failures: earlier?,
        failed_models: models?,
        workflows: workflows?.items,
        attention: attention?,
        any: any?,
    })
}

async fn any_recorded(
    console: &Console,
    overview: &Overview,
    latest: &Executions,
) -> Result<bool, QueryError> {
    if overview.total.executions > 0 {
        return Ok(true);
    }
    Ok(!console.run(latest).await?.items.is_empty())
}

async fn counts(
    console: &Console,
    period: Period,
    now: OffsetDateTime,
) -> Result<(Overview, Option<OffsetDateTime>), QueryError> {
    let by = match period {
        Period::Hour => {
            let counted = console.run(&Minutes { now, minutes: 60 }).await?;
            return Ok((counted.overview, counted.counted_since));
        }
        Period::Day => By::Hour,
        Period::Week | Period::Month => By::Day,
    };
    // The last point is not over yet.
    let from = now - period.length() + by.length();
    let query = OverviewQuery::new(by, TimeRange { from: Some(from), to: None }, None, now);
    Ok((console.run(&query).await?, None))
}

/// The state of the receiver in one sentence, and the state of its parts.
fn state(health: &Health) -> Markup {
    let sentence = match health.status() {
        "ok" => "Webhooks are accepted and recorded.",
        "degraded" => "Webhooks are accepted, but something needs attention.",
        _ => "Webhooks are not accepted.",
    };
    html! {
        section.card.state.(health.status()) aria-label="State of the receiver" {
            div {
                h1 { (sentence) }
                @if !health.summary.problems().is_empty() {
                    ul { @for problem in health.summary.problems() { li { (visible(problem)) } } }
                }
            }
            (parts::parts(health))
        }
    }
}

fn loaded(data: &Data, period: Period) -> Markup {
    let total = &data.overview.total;
    html! {
        section.card {
            div.head {
                h2 { "Executions, " (period.name()) }
                nav.chips aria-label="Period" {
                    @for choice in Period::ALL {
                        (chip(&format!("/?period={}", choice.as_str()), choice.short_name(), *choice == period))
                    }
                }
            }
            (numbers(total, period))
            (chart(&data.overview.series, period.step()))
            div.head {
                ul.legend {
                    @for (kind, name) in [("ok", "completed"), ("bad", "failed"), ("muted", "cancelled"), ("run", "running")] {
                        li.(kind) { span.dot {} (name) }
                    }
                }
                small.soft {
                    @if let Some(since) = data.counted_since {
                        "Too many executions to count: executions first received before " (ago(since)) " are not included. "
                    }
                    "Times in UTC"
                }
            }
        }
        section.card { h2 { "Needs attention" } (attention::list(&data.attention)) }
        section.card.flush {
            div.head { h2 { "Failures by cause" } a href={ "/executions?status=failed&since=" (period.as_str()) } { "All failures" } }
            (failures::table(data, period))
        }
        (models::card(&data.failed_models, period))
        (failures::predictions(data, period))
        section.card.flush {
            div.head {
                h2 {
                    "Workflows by cost, "
                    @if period.days() == 1 { "today" } @else { "the last " (plural(period.days(), "day", "days")) }
                    " (UTC)"
                }
            }
            (workflows::table(&data.workflows, period))
        }
    }
}

fn numbers(total: &Counts, period: Period) -> Markup {
    let of = |status: &str| format!("/executions?status={status}&since={}", period.as_str());
    html! {
        dl.numbers {
            div { dt { "received" } dd { a href={ "/executions?since=" (period.as_str()) } { (count(total.executions)) } } }
            div { dt { "completed" } dd { a href=(of("completed")) { (count(total.completed)) } } }
            div { dt { "failed" } dd {
                a href=(of("failed")) { (count(total.failed)) }
                @if let Some(rate) = total.failure_rate.filter(|rate| *rate > 0.0) { small { " " (percent(rate)) } }
            } }
            @if total.cancelled > 0 { div { dt { "cancelled" } dd { a href=(of("cancelled")) { (count(total.cancelled)) } } } }
            @if total.other > 0 { div { dt { "running" } dd { a href=(of("running")) { (count(total.other)) } } } }
        }
    }
}
