//! The health of the receiver, derived from measurements, for `/health/ready`, `/metrics` and `workflow-receiver status`.
//!
//! Each part has its own state. Readiness depends on the spool and the shutdown alone: while the spool has space, webhooks
//! are accepted even if PostgreSQL is unreachable.

mod acknowledged;
mod parts;
mod progress;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use acknowledged::{Acknowledged, count_acknowledged};
use parts::{Measurements, Parts};
use progress::RecordingProgress;

use crate::config::Settings;
use crate::db::queries::QueryPool;
use crate::metrics::Metrics;
use crate::recorder::{RecorderView, StuckStatus};
use crate::retention::RetentionState;
use crate::spool::Intake;
use crate::verification::VerificationStatus;

/// The response of `/health/ready`.
#[derive(Debug, Serialize)]
pub(crate) struct Health {
    #[serde(flatten)]
    pub(crate) summary: Summary,
    /// Each part with its state and its numbers.
    pub(crate) parts: Parts,
}

/// [`Health`] without the parts.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Health)]
pub(crate) struct Summary {
    /// `ok`: no part has a problem; `degraded`: webhooks are accepted, but see `problems`; `unavailable`: webhooks are
    /// answered 503, or the receiver is stopping.
    #[schema(example = "ok")]
    status: &'static str,
    /// A sentence for each problem.
    problems: Vec<String>,
    /// Deliveries on disk that wait for PostgreSQL.
    spooled: i64,
}

impl Summary {
    pub(crate) fn problems(&self) -> &[String] {
        &self.problems
    }
}

impl Health {
    /// Whether webhooks are accepted, with or without PostgreSQL, and the receiver is not stopping. False during
    /// `shutdown.grace`, although webhooks are still accepted.
    pub(crate) fn is_ready(&self) -> bool {
        self.summary.status != "unavailable"
    }

    pub(crate) fn status(&self) -> &'static str {
        self.summary.status
    }
}

/// The reports of the parts.
#[derive(Debug, Clone)]
pub(crate) struct Observed {
    pub(crate) recorder: RecorderView,
    pub(crate) intake: Intake,
    pub(crate) stuck: watch::Receiver<StuckStatus>,
    pub(crate) retention: watch::Receiver<RetentionState>,
    pub(crate) verification: watch::Receiver<VerificationStatus>,
}

#[derive(Debug, Clone)]
pub(crate) struct Monitor {
    observed: Observed,
    progress: RecordingProgress,
    acknowledged: watch::Receiver<Acknowledged>,
    stopping: CancellationToken,
    /// `admin.stalled_after`
    stalled_after: Duration,
    /// `spool.max_bytes`
    max_bytes: u64,
}

impl Monitor {
    /// Starts the tasks that measure, and returns them. They end with the recorder. `pool` is for health checks only.
    pub(crate) fn start(
        settings: &Settings,
        pool: QueryPool,
        metrics: Arc<Metrics>,
        observed: Observed,
        stopping: CancellationToken,
    ) -> (Self, JoinSet<()>) {
        let (progress, follow) = RecordingProgress::follow(observed.stuck.clone());
        let (count, acknowledged) = watch::channel(Acknowledged::Unknown(None));
        let mut tasks = JoinSet::new();
        tasks.spawn(follow);
        tasks.spawn(count_acknowledged(pool, metrics, observed.recorder.clone(), count));
        let (stalled_after, max_bytes) = (settings.admin.stalled_after, settings.spool.max_bytes);
        (Self { observed, progress, acknowledged, stopping, stalled_after, max_bytes }, tasks)
    }

    /// When the oldest stuck delivery was received.
    pub(crate) fn oldest_stuck(&self) -> Option<OffsetDateTime> {
        self.observed.stuck.borrow().oldest
    }

    /// The current health. Reads memory only, so it never waits for PostgreSQL or the disk.
    pub(crate) fn health(&self) -> Health {
        Measurements {
            spool: *self.observed.recorder.spool.borrow(),
            stalled: self.observed.intake.stalled_for(),
            recording: self.observed.recorder.health.borrow().clone(),
            stuck: self.observed.stuck.borrow().clone(),
            retention: self.observed.retention.borrow().clone(),
            verification: self.observed.verification.borrow().clone(),
            idle: self.progress.idle(Instant::now()),
            acknowledged: self.acknowledged.borrow().clone(),
            stopping: self.stopping.is_cancelled(),
            stalled_after: self.stalled_after,
            max_bytes: self.max_bytes,
            now: OffsetDateTime::now_utc(),
        }
        .health()
    }
}

impl Measurements {
    fn health(self) -> Health {
        let (parts, problems) = self.parts();
        let status = match (parts.spool.is_ready(), problems.is_empty()) {
            (false, _) => "unavailable",
            (true, false) => "degraded",
            (true, true) => "ok",
        };
        Health { summary: Summary { status, problems, spooled: self.spool.depth() }, parts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::{DbError, UnverifiedUsage};
    use crate::delivery::RejectReason;
    use crate::recorder::RecorderHealth;
    use crate::retention::ClockSkew;
    use crate::spool::{SpoolStatus, Unwritable};

    const LIMIT: Duration = Duration::from_mins(2);

    fn healthy() -> Measurements {
        Measurements {
            spool: SpoolStatus { last_seq: 5, acked_seq: 5, bytes: 4096, ..SpoolStatus::default() },
            stalled: None,
            recording: RecorderHealth::Working,
            stuck: StuckStatus { handled: 5, ..StuckStatus::default() },
            retention: RetentionState::Off,
            verification: VerificationStatus::default(),
            idle: Duration::from_hours(9),
            acknowledged: Acknowledged::Counted(0),
            stopping: false,
            stalled_after: LIMIT,
            max_bytes: 1 << 20,
            now: OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap(),
        }
    }

    fn waiting(since: Duration, idle: Duration) -> Measurements {
        let mut measured = healthy();
        measured.spool.last_seq = 7;
        measured.spool.oldest_received_at = Some(measured.now - since);
        measured.idle = idle;
        measured
    }

    fn states(health: &Health) -> [&'static str; 5] {
        let Parts { spool, database, recording, quarantine, retention, verification: _ } = &health.parts;
        [spool.state, database.state, recording.state, quarantine.state, retention.state]
    }

    #[test]
    fn an_idle_receiver_without_a_problem_is_ok() {
        let health = healthy().health();
        assert_eq!(
            (health.summary.status, health.summary.problems.len(), health.summary.spooled),
            ("ok", 0, 0)
        );
        assert_eq!(states(&health), ["ok", "ok", "ok", "ok", "off"]);
    }

    #[test]
    fn readiness_depends_on_the_spool_and_the_shutdown_alone() {
        let mut unreachable = waiting(LIMIT * 9, LIMIT * 9);
        unreachable.recording = RecorderHealth::Failing {
            since: unreachable.now - LIMIT,
            why: DbError::Unreachable("no route".to_owned()),
        };
        let health = unreachable.health();
        assert_eq!((health.summary.status, health.is_ready()), ("degraded", true));
        assert_eq!(states(&health)[1..3], ["failing", "stalled"]);
        assert!(health.summary.problems[0].contains("no route"), "{:?}", health.summary.problems);

        let rejecting = |change: fn(&mut Measurements)| {
            let mut measured = healthy();
            change(&mut measured);
            measured.health()
        };
        for health in [
            rejecting(|m| m.spool.rejecting = Some(RejectReason::DiskError)),
            rejecting(|m| m.spool.unwritable = Some(Unwritable::Full)),
            rejecting(|m| m.stalled = Some(Duration::from_secs(12))),
            rejecting(|m| m.stopping = true),
        ] {
            assert_eq!((health.summary.status, health.is_ready()), ("unavailable", false), "{health:?}");
            assert_eq!(health.summary.problems.len(), 1);
        }
    }

    #[test]
    fn recording_has_stalled_when_an_old_delivery_waits_and_none_was_recorded_meanwhile() {
        let (short, long) = (LIMIT / 2, LIMIT * 2);
        for (since, idle, state, status) in [
            (short, short, "ok", "ok"),
            // The receiver was idle before.
            (short, long, "ok", "ok"),
            // After an outage, the backlog is being recorded.
            (long, short, "behind", "degraded"),
            (long, long, "stalled", "degraded"),
        ] {
            let health = waiting(since, idle).health();
            assert_eq!(
                (health.parts.recording.state, health.summary.status),
                (state, status),
                "{since:?} {idle:?}"
            );
            assert_eq!(health.parts.recording.stalled(), state == "stalled");
        }
        let mut future = waiting(long, long);
        future.spool.oldest_received_at = Some(future.now + long);
        assert_eq!(future.health().parts.recording.oldest_age_seconds, Some(0));
    }

    #[test]
    fn stuck_deliveries_are_a_problem_and_recording_has_stalled_only_if_others_wait() {
        let (short, long) = (LIMIT / 2, LIMIT * 2);
        for (others, idle, state) in
            [(false, long, "stuck"), (true, short, "stuck"), (true, long, "stalled"), (false, short, "stuck")]
        {
            let mut measured = waiting(long, idle);
            let handled = if others { 6 } else { 7 };
            let (oldest, why) = (Some(measured.now - long), Some(DbError::TimedOut));
            measured.stuck = StuckStatus { deliveries: 1, oldest, why, handled };
            let health = measured.health();
            assert_eq!(
                (health.parts.recording.state, health.summary.status),
                (state, "degraded"),
                "{others} {idle:?}"
            );
            assert_eq!(health.parts.recording.stuck, 1);
            assert_eq!(health.parts.recording.oldest_stuck_age_seconds, Some(long.as_secs()));
            assert!(
                health.summary.problems.iter().any(|p| p.contains("did not answer in time")),
                "{health:?}"
            );
        }
    }

    #[test]
    fn unsigned_webhooks_that_wait_for_long_are_a_problem() {
        let verification = |rows: i64, age: Duration, is_full: bool| {
            let mut measured = healthy();
            let oldest_received_at = (rows > 0).then_some(measured.now - age);
            let usage = Some(UnverifiedUsage { rows, bytes: 9, oldest_received_at, last_error: None });
            let failing = Some("each::labs answered HTTP 500".to_owned());
            measured.verification =
                VerificationStatus { is_on: true, has_key: true, usage, is_full, failing };
            let health = measured.health();
            (health.parts.verification.state, health.summary.status, health.summary.problems)
        };
        assert_eq!(verification(0, LIMIT, false).0, "ok");
        assert_eq!(verification(3, LIMIT / 2, false).0, "ok");
        let (state, status, problems) = verification(3, LIMIT * 2, false);
        assert_eq!((state, status), ("waiting", "degraded"));
        let problem =
            "3 unsigned webhooks are not verified yet, the oldest for 240 s: each::labs answered HTTP 500";
        assert_eq!(problems, [problem]);
        let (_, _, problems) = verification(1, LIMIT * 2, false);
        assert!(problems[0].starts_with("1 unsigned webhook is not verified yet"), "{problems:?}");
        let (state, status, problems) = verification(3, LIMIT / 2, true);
        assert_eq!((state, status), ("full", "degraded"));
        assert!(problems[0].contains("answered 503"), "{problems:?}");
        assert_eq!(healthy().health().parts.verification.state, "off");

        // Verification was switched off, and the key removed.
        let mut measured = healthy();
        measured.verification.usage = Some(UnverifiedUsage { rows: 2, ..UnverifiedUsage::default() });
        let health = measured.health();
        assert_eq!((health.parts.verification.state, health.summary.status), ("waiting", "degraded"));
        assert!(health.summary.problems[0].contains("set eachlabs.api_key"), "{health:?}");
    }

    #[test]
    fn acknowledged_rows_in_quarantine_and_a_wrong_clock_are_problems() {
        let mut measured = healthy();
        measured.acknowledged = Acknowledged::Counted(3);
        measured.retention = RetentionState::Paused(ClockSkew(time::Duration::days(400)));
        let health = measured.health();
        assert_eq!(states(&health), ["ok", "ok", "ok", "acknowledged", "paused"]);
        assert_eq!((health.summary.status, health.summary.problems.len()), ("degraded", 2));
        assert_eq!(health.parts.quarantine.acknowledged, Some(3));

        let mut unknown = healthy();
        unknown.acknowledged = Acknowledged::Unknown(Some("PostgreSQL cannot be reached".to_owned()));
        unknown.retention = RetentionState::Failing(DbError::TimedOut);
        let health = unknown.health();
        assert_eq!(states(&health)[3..], ["unknown", "failing"]);
        assert_eq!(health.summary.status, "ok", "webhooks are accepted and recorded");
    }
}
