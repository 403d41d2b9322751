//! How the receiver is, derived from measurements: `/health/ready`, `/metrics` and `workflow-receiver status` report it.
//!
//! Each part has a state of its own. Whether webhooks are taken depends on the spool alone: PostgreSQL may be away for
//! as long as the spool has room.

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

use acknowledged::{Acknowledged, AcknowledgedCounter};
use parts::Parts;
use progress::RecordingProgress;

use crate::config::Settings;
use crate::db::queries::Pool;
use crate::metrics::Metrics;
use crate::recorder::{RecorderHealth, Stuck};
use crate::retention::RetentionState;
use crate::spool::{Seq, SpoolStatus};

/// The response of `/health/ready`.
#[derive(Debug, Serialize)]
pub(crate) struct Health {
    /// `ok`: no part has a problem; `degraded`: webhooks are taken, but see `problems`; `unavailable`: webhooks are
    /// answered 503.
    pub(crate) status: &'static str,
    /// What is wrong, a sentence each.
    pub(crate) problems: Vec<String>,
    /// Deliveries on disk that wait for PostgreSQL.
    pub(crate) spooled: i64,
    /// Each part with its state and its numbers.
    pub(crate) parts: Parts,
}

/// The same without the parts.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Health)]
pub(crate) struct Summary {
    /// `ok`: no part has a problem; `degraded`: webhooks are taken, but see `problems`; `unavailable`: webhooks are
    /// answered 503.
    status: &'static str,
    /// What is wrong, a sentence each.
    problems: Vec<String>,
    /// Deliveries on disk that wait for PostgreSQL.
    spooled: i64,
}

impl From<Health> for Summary {
    fn from(Health { status, problems, spooled, .. }: Health) -> Self {
        Self { status, problems, spooled }
    }
}

impl Health {
    /// Whether webhooks can be taken.
    pub(crate) fn takes_webhooks(&self) -> bool {
        self.status != "unavailable"
    }
}

/// What the parts report of themselves.
#[derive(Debug, Clone)]
pub(crate) struct Observed {
    pub(crate) kept: watch::Receiver<SpoolStatus>,
    pub(crate) recorded: watch::Receiver<Seq>,
    pub(crate) recording: watch::Receiver<RecorderHealth>,
    pub(crate) stuck: watch::Receiver<Stuck>,
    pub(crate) retention: watch::Receiver<RetentionState>,
}

/// Where the measurements are read.
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
    /// Begins to measure. The tasks end with the recorder, or when they are dropped. `pool` is for health checks alone.
    pub(crate) fn start(
        settings: &Settings,
        pool: Pool,
        metrics: Arc<Metrics>,
        observed: Observed,
        stopping: CancellationToken,
    ) -> (Self, JoinSet<()>) {
        let (progress, follow) = RecordingProgress::follow(observed.stuck.clone());
        let (report, acknowledged) = watch::channel(Acknowledged::Unknown(None));
        let (recorded, recording) = (observed.recorded.clone(), observed.recording.clone());
        let counter = AcknowledgedCounter { pool, metrics, recorded, recording, report };
        let mut tasks = JoinSet::new();
        tasks.spawn(follow);
        tasks.spawn(counter.run());
        let (stalled_after, max_bytes) = (settings.admin.stalled_after, settings.spool.max_bytes);
        (Self { observed, progress, acknowledged, stopping, stalled_after, max_bytes }, tasks)
    }

    /// When the oldest stuck delivery was received.
    pub(crate) fn oldest_stuck(&self) -> Option<OffsetDateTime> {
        self.observed.stuck.borrow().oldest
    }

    /// The state of all parts, as of now. Reads memory only, so it never waits for PostgreSQL or the disk.
    pub(crate) fn health(&self) -> Health {
        Measurements {
            kept: *self.observed.kept.borrow(),
            recording: self.observed.recording.borrow().clone(),
            stuck: self.observed.stuck.borrow().clone(),
            retention: self.observed.retention.borrow().clone(),
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

/// All that is measured, at one moment.
struct Measurements {
    kept: SpoolStatus,
    recording: RecorderHealth,
    stuck: Stuck,
    retention: RetentionState,
    /// How long ago a delivery was recorded, or the receiver started.
    idle: Duration,
    acknowledged: Acknowledged,
    stopping: bool,
    stalled_after: Duration,
    max_bytes: u64,
    now: OffsetDateTime,
}

impl Measurements {
    fn health(self) -> Health {
        let (parts, problems) = self.parts();
        let status = match (parts.spool.takes_webhooks(), problems.is_empty()) {
            (false, _) => "unavailable",
            (true, false) => "degraded",
            (true, true) => "ok",
        };
        Health { status, problems, spooled: self.kept.depth(), parts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::DbError;
    use crate::delivery::RejectReason;
    use crate::retention::ClockSkew;
    use crate::spool::Unwritable;

    const LIMIT: Duration = Duration::from_mins(2);

    fn well() -> Measurements {
        Measurements {
            kept: SpoolStatus { last_seq: 5, acked_seq: 5, bytes: 4096, ..SpoolStatus::default() },
            recording: RecorderHealth::Working,
            stuck: Stuck { handled: 5, ..Stuck::default() },
            retention: RetentionState::Off,
            idle: Duration::from_hours(9),
            acknowledged: Acknowledged::Counted(0),
            stopping: false,
            stalled_after: LIMIT,
            max_bytes: 1 << 20,
            now: OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap(),
        }
    }

    fn waiting(since: Duration, idle: Duration) -> Measurements {
        let mut measured = well();
        measured.kept.last_seq = 7;
        measured.kept.oldest_received_at = Some(measured.now - since);
        measured.idle = idle;
        measured
    }

    fn states(health: &Health) -> [&'static str; 5] {
        let Parts { spool, database, recording, quarantine, retention } = &health.parts;
        [spool.state, database.state, recording.state, quarantine.state, retention.state]
    }

    #[test]
    fn without_a_problem_all_is_ok_however_long_nothing_came() {
        let health = well().health();
        assert_eq!((health.status, health.problems.len(), health.spooled), ("ok", 0, 0));
        assert_eq!(states(&health), ["ok", "ok", "ok", "ok", "off"]);
    }

    #[test]
    fn whether_webhooks_are_taken_depends_on_the_spool_alone() {
        let mut away = waiting(LIMIT * 9, LIMIT * 9);
        away.recording = RecorderHealth::Failing {
            since: away.now - LIMIT,
            why: DbError::Unreachable("no route".to_owned()),
        };
        let away = away.health();
        assert_eq!((away.status, away.takes_webhooks()), ("degraded", true));
        assert_eq!(states(&away)[1..3], ["failing", "stalled"]);
        assert!(away.problems[0].contains("no route"), "{:?}", away.problems);

        let refusing = |change: fn(&mut Measurements)| {
            let mut measured = well();
            change(&mut measured);
            measured.health()
        };
        for health in [
            refusing(|m| m.kept.rejecting = Some(RejectReason::DiskError)),
            refusing(|m| m.kept.unwritable = Some(Unwritable::Full)),
            refusing(|m| m.stopping = true),
        ] {
            assert_eq!((health.status, health.takes_webhooks()), ("unavailable", false), "{health:?}");
            assert_eq!(health.problems.len(), 1);
        }
    }

    #[test]
    fn recording_has_stalled_when_what_waits_is_old_and_nothing_was_recorded_since() {
        let (short, long) = (LIMIT / 2, LIMIT * 2);
        for (since, idle, state, status) in [
            (short, short, "ok", "ok"),
            // The receiver was idle before.
            (short, long, "ok", "ok"),
            // After an outage: it works off what waited.
            (long, short, "behind", "degraded"),
            (long, long, "stalled", "degraded"),
        ] {
            let health = waiting(since, idle).health();
            assert_eq!((health.parts.recording.state, health.status), (state, status), "{since:?} {idle:?}");
            assert_eq!(health.parts.recording.stalled(), state == "stalled");
        }
        let mut future = waiting(long, long);
        future.kept.oldest_received_at = Some(future.now + long);
        assert_eq!(future.health().parts.recording.oldest_age_seconds, Some(0));
    }

    #[test]
    fn stuck_deliveries_are_a_problem_and_recording_stalls_only_when_others_wait() {
        let (short, long) = (LIMIT / 2, LIMIT * 2);
        for (others, idle, state) in
            [(false, long, "stuck"), (true, short, "stuck"), (true, long, "stalled"), (false, short, "stuck")]
        {
            let mut measured = waiting(long, idle);
            let handled = if others { 6 } else { 7 };
            let (oldest, why) = (Some(measured.now - long), Some(DbError::TimedOut));
            measured.stuck = Stuck { deliveries: 1, oldest, why, handled };
            let health = measured.health();
            assert_eq!(
                (health.parts.recording.state, health.status),
                (state, "degraded"),
                "{others} {idle:?}"
            );
            assert_eq!(health.parts.recording.stuck, 1);
            assert_eq!(health.parts.recording.oldest_stuck_age_seconds, Some(long.as_secs()));
            assert!(health.problems.iter().any(|p| p.contains("did not answer in time")), "{health:?}");
        }
    }

    #[test]
    fn acknowledged_rows_in_quarantine_and_a_wrong_clock_are_problems() {
        let mut measured = well();
        measured.acknowledged = Acknowledged::Counted(3);
        measured.retention = RetentionState::Paused(ClockSkew(time::Duration::days(400)));
        let health = measured.health();
        assert_eq!(states(&health), ["ok", "ok", "ok", "acknowledged", "paused"]);
        assert_eq!((health.status, health.problems.len()), ("degraded", 2));
        assert_eq!(health.parts.quarantine.acknowledged, Some(3));

        let mut unknown = well();
        unknown.acknowledged = Acknowledged::Unknown(Some("PostgreSQL cannot be reached".to_owned()));
        unknown.retention = RetentionState::Failing(DbError::TimedOut);
        let health = unknown.health();
        assert_eq!(states(&health)[3..], ["unknown", "failing"]);
        assert_eq!(health.status, "ok", "webhooks are taken and recorded");
    }
}
