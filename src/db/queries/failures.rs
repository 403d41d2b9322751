//! Failures, grouped: what failed how often, and why.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;
use time::serde::rfc3339;
use utoipa::{IntoParams, ToSchema};

use super::{Choice, EXCERPT_CHARS, Query, TimeRange};
use crate::execution::identifier::Identifier;

/// How many executions are looked at.
const SCAN_LIMIT: i64 = 1_000;
/// And for their steps: each has its payload unpacked.
const LOOK_AT_STEPS: i64 = 500;

/// Failures of one workflow for one cause.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Group {
    /// The workflow that ran.
    pub(crate) workflow_id: String,
    /// The step that failed; null where executions are grouped, and not steps.
    pub(crate) step_id: Option<String>,
    /// The kind of failure, such as `ExecutionFailed`; null unless sent. The first 1,000 characters.
    pub(crate) error: Option<String>,
    /// Why, in the sender's words; null unless sent. The first 1,000 characters.
    pub(crate) error_cause: Option<String>,
    /// How many failed so.
    pub(crate) failed: i64,
    /// The execution that failed so last.
    pub(crate) latest_execution_id: String,
    /// When the first delivery of the earliest of them came, by the receiver's clock.
    #[serde(with = "rfc3339")]
    pub(crate) earliest_received_at: OffsetDateTime,
    /// When the first delivery of the latest of them came.
    #[serde(with = "rfc3339")]
    pub(crate) latest_received_at: OffsetDateTime,
    #[serde(skip)]
    all_failed: i64,
    #[serde(skip)]
    looked_at: i64,
    #[serde(skip)]
    earliest: OffsetDateTime,
}

/// Failures, the most frequent first.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Failures {
    /// The most frequent, `limit` of them at most.
    pub(crate) groups: Vec<Group>,
    /// How many failures were grouped, those in groups beyond `limit` included.
    pub(crate) failed: i64,
    /// False when there were too many to look at all: then only the latest were grouped, back to `since`.
    pub(crate) complete: bool,
    /// When the first delivery of the earliest that was looked at came; null when nothing failed.
    #[serde(with = "rfc3339::option")]
    pub(crate) since: Option<OffsetDateTime>,
}

/// What is grouped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum By {
    /// Failed executions, by workflow, error and cause.
    #[default]
    Cause,
    /// Failed steps, also those of completed executions, by workflow, step, error and cause. Where the payload was
    /// removed, no steps are known any more.
    Step,
}

impl Choice for By {
    const ALL: &'static [Self] = &[Self::Cause, Self::Step];

    fn as_str(self) -> &'static str {
        match self {
            Self::Cause => "cause",
            Self::Step => "step",
        }
    }
}

// Parameters of the API and of the command line. All of them must match.
#[derive(Debug, Clone, Default, IntoParams, Args)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// Only failures of this workflow.
    #[param(inline, value_type = Option<Identifier>)]
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) workflow: Option<String>,
    /// Only failures of this bulk.
    #[param(inline, value_type = Option<Identifier>)]
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) bulk: Option<String>,
}

/// What failed how often, and why.
#[derive(Debug, Clone)]
pub(crate) struct FailureQuery {
    pub(crate) by: By,
    pub(crate) filter: Filter,
    pub(crate) period: TimeRange,
    /// How many groups, from 1 to [`super::page::MAX_LIMIT`].
    pub(crate) limit: i64,
}

impl Default for FailureQuery {
    fn default() -> Self {
        Self {
            by: By::Cause,
            filter: Filter::default(),
            period: TimeRange::default(),
            limit: super::page::DEFAULT_LIMIT,
        }
    }
}

impl Query for FailureQuery {
    type Answer = Failures;

    async fn run(&self, connection: &mut PgConnection) -> Result<Failures, sqlx::Error> {
        let by_step = self.by == By::Step;
        let look_at = if by_step { LOOK_AT_STEPS } else { SCAN_LIMIT };
        let groups = sqlx::query_file_as!(
            Group,
            "src/db/queries/failures.sql",
            self.period.start(),
            self.period.end(),
            self.filter.workflow.as_deref(),
            self.filter.bulk.as_deref(),
            look_at,
            EXCERPT_CHARS,
            self.limit,
            by_step
        );
        let groups = groups.fetch_all(connection).await?;
        let first = groups.first();
        Ok(Failures {
            failed: first.map_or(0, |group| group.all_failed),
            complete: first.is_none_or(|group| group.looked_at < look_at),
            since: first.map(|group| group.earliest),
            groups,
        })
    }
}
