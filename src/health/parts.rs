//! The state of each part, with its numbers and a sentence.

use std::time::Duration;

use serde::Serialize;
use time::format_description::well_known::Rfc3339;

use super::{Acknowledged, Measurements};
use crate::recorder::RecorderHealth;
use crate::retention::RetentionState;

/// The parts of a receiver.
#[derive(Debug, Serialize)]
pub(crate) struct Parts {
    /// Deliveries on disk: whether webhooks are taken.
    pub(crate) spool: SpoolHealth,
    /// The connection to PostgreSQL.
    pub(crate) database: DatabaseHealth,
    /// Whether what waits gets into PostgreSQL.
    pub(crate) recording: RecordingHealth,
    /// Deliveries that were answered 200 and are not in `executions`.
    pub(crate) quarantine: QuarantineHealth,
    /// The removal of old rows.
    pub(crate) retention: RetentionHealth,
}

/// The spool.
#[derive(Debug, Serialize)]
pub(crate) struct SpoolHealth {
    /// `ok`: a delivery can be written; `refusing`: it cannot, webhooks are answered 503; `stopping`: the receiver stops.
    pub(crate) state: &'static str,
    /// The state in a sentence.
    pub(crate) detail: String,
    /// Disk space that deliveries take.
    used_bytes: u64,
    /// Disk space that they may take: `spool.max_bytes`.
    max_bytes: u64,
}

impl SpoolHealth {
    pub(super) fn takes_webhooks(&self) -> bool {
        self.state == "ok"
    }
}

/// PostgreSQL, as the recorder sees it.
#[derive(Debug, Serialize)]
pub(crate) struct DatabaseHealth {
    /// `ok`: the last statement worked; `starting`: PostgreSQL has not answered yet; `failing`: it is away or refuses.
    pub(crate) state: &'static str,
    /// The state in a sentence.
    pub(crate) detail: String,
    /// When it began to fail; null when it does not.
    failing_since: Option<String>,
}

/// Recording.
#[derive(Debug, Serialize)]
pub(crate) struct RecordingHealth {
    /// `ok`: what waits is younger than `admin.stalled_after`; `behind`: it is older, and deliveries are being recorded;
    /// `stalled`: it is older, and none was recorded for `admin.stalled_after`; `stuck`: deliveries fail alone while
    /// others are recorded, and are retried.
    pub(crate) state: &'static str,
    /// The state in a sentence.
    pub(crate) detail: String,
    /// Deliveries on disk that wait for PostgreSQL.
    waiting: i64,
    /// Age of the oldest of them; null when none waits.
    pub(crate) oldest_age_seconds: Option<u64>,
    /// Those of them that fail alone while others are recorded, and later ones of their executions.
    pub(crate) stuck: usize,
    /// Age of the oldest of these; null when there is none.
    pub(crate) oldest_stuck_age_seconds: Option<u64>,
    /// How long ago a delivery was recorded, or the receiver started.
    idle_seconds: u64,
}

impl RecordingHealth {
    pub(crate) fn stalled(&self) -> bool {
        self.state == "stalled"
    }
}

/// The quarantine.
#[derive(Debug, Serialize)]
pub(crate) struct QuarantineHealth {
    /// `ok`: it holds nothing that was answered 200; `acknowledged`: it does; `unknown`: PostgreSQL has not said.
    pub(crate) state: &'static str,
    /// The state in a sentence.
    pub(crate) detail: String,
    /// Bodies in quarantine whose sender was answered 200; null when not known.
    pub(crate) acknowledged: Option<i64>,
}

/// Retention.
#[derive(Debug, Serialize)]
pub(crate) struct RetentionHealth {
    /// `off`: no limit is set; `starting`: nothing was removed yet; `ok`; `paused`: a clock is wrong; `failing`.
    pub(crate) state: &'static str,
    /// The state in a sentence.
    pub(crate) detail: String,
    /// The receiver's clock minus PostgreSQL's, when removing is paused.
    clock_skew_seconds: Option<i64>,
}

impl Measurements {
    /// The parts, and what is wrong with them.
    pub(super) fn parts(&self) -> (Parts, Vec<String>) {
        let mut problems = Vec::new();
        let spool = self.spool(&mut problems);
        let database = self.database(&mut problems);
        let recording = self.recording(&mut problems);
        let quarantine = self.quarantine(&mut problems);
        let retention = self.retention(&mut problems);
        (Parts { spool, database, recording, quarantine, retention }, problems)
    }

    /// Why a delivery cannot be written now, as the spool's writer has measured it.
    fn unwritable(&self) -> Option<String> {
        let measured = self.kept.unwritable.map(|why| why.to_string());
        measured.or_else(|| self.kept.rejecting.map(|why| why.to_string()))
    }

    fn spool(&self, problems: &mut Vec<String>) -> SpoolHealth {
        let (state, detail) = if let Some(why) = self.unwritable() {
            ("refusing", format!("webhooks are answered 503: {why}"))
        } else if self.stopping {
            ("stopping", "the receiver is stopping".to_owned())
        } else {
            ("ok", "webhooks are taken".to_owned())
        };
        if state != "ok" {
            problems.push(detail.clone());
        }
        SpoolHealth { state, detail, used_bytes: self.kept.bytes, max_bytes: self.max_bytes }
    }

    fn database(&self, problems: &mut Vec<String>) -> DatabaseHealth {
        let (state, detail, failing_since) = match &self.recording {
            RecorderHealth::Working => ("ok", "PostgreSQL answers".to_owned(), None),
            RecorderHealth::Starting => ("starting", "PostgreSQL has not answered yet".to_owned(), None),
            RecorderHealth::Failing { since, why } => {
                let since = since.truncate_to_second().format(&Rfc3339).unwrap_or_default();
                ("failing", format!("not recording since {since}: {why}"), Some(since))
            }
        };
        if state != "ok" {
            problems.push(detail.clone());
        }
        DatabaseHealth { state, detail, failing_since }
    }

    fn recording(&self, problems: &mut Vec<String>) -> RecordingHealth {
        let waiting = self.kept.depth();
        // A delivery received in the future was received before the clock was set back.
        let age = |oldest| Duration::try_from(self.now - oldest).unwrap_or_default();
        let oldest = self.kept.oldest_received_at.filter(|_| waiting > 0).map(age);
        let old = oldest.is_some_and(|age| age > self.stalled_after);
        let (stuck, oldest_stuck) =
            (self.stuck.deliveries, self.stuck.oldest.map(age).map(|age| age.as_secs()));
        let only_stuck = stuck > 0 && self.stuck.handled >= self.kept.last_seq;
        let (idle, oldest_age) = (self.idle.as_secs(), oldest.unwrap_or_default().as_secs());
        let (state, detail) = if old && self.idle > self.stalled_after && !only_stuck {
            let what = format!(
                "recording has stalled: {waiting} deliveries wait on disk, the oldest for {oldest_age} s"
            );
            ("stalled", format!("{what}, and none was recorded for {idle} s"))
        } else if stuck > 0 {
            ("stuck", self.why_stuck())
        } else if old {
            let what = format!(
                "recording is behind: {waiting} deliveries wait on disk, the oldest for {oldest_age} s"
            );
            ("behind", what)
        } else if waiting > 0 {
            ("ok", format!("{waiting} deliveries wait on disk, the oldest for {oldest_age} s"))
        } else {
            ("ok", "all deliveries are recorded".to_owned())
        };
        if state != "ok" {
            problems.push(detail.clone());
        }
        if state == "stalled" && stuck > 0 {
            problems.push(self.why_stuck());
        }
        let oldest_age_seconds = oldest.map(|age| age.as_secs());
        RecordingHealth {
            state,
            detail,
            waiting,
            oldest_age_seconds,
            stuck,
            oldest_stuck_age_seconds: oldest_stuck,
            idle_seconds: idle,
        }
    }

    fn why_stuck(&self) -> String {
        let why = self.stuck.why.as_ref().map(ToString::to_string).unwrap_or_default();
        let deliveries = self.stuck.deliveries;
        format!(
            "{deliveries} deliveries fail alone while others are recorded, they wait on disk and are retried: {why}"
        )
    }

    fn quarantine(&self, problems: &mut Vec<String>) -> QuarantineHealth {
        match &self.acknowledged {
            Acknowledged::Counted(0) => {
                let detail = "no delivery that was answered 200 is in quarantine".to_owned();
                QuarantineHealth { state: "ok", detail, acknowledged: Some(0) }
            }
            Acknowledged::Counted(bodies) => {
                let detail = format!(
                    "{bodies} bodies in quarantine were answered 200 and are not in executions: see `workflow-receiver \
                     quarantine list`"
                );
                problems.push(detail.clone());
                QuarantineHealth { state: "acknowledged", detail, acknowledged: Some(*bodies) }
            }
            Acknowledged::Unknown(why) => {
                let why = why.as_deref().unwrap_or("PostgreSQL was not asked yet");
                let detail = format!("the quarantine is not known: {why}");
                QuarantineHealth { state: "unknown", detail, acknowledged: None }
            }
        }
    }

    fn retention(&self, problems: &mut Vec<String>) -> RetentionHealth {
        let (state, detail, skew) = match &self.retention {
            RetentionState::Off => ("off", "everything is kept for ever".to_owned(), None),
            RetentionState::Starting => ("starting", "no old row was removed yet".to_owned(), None),
            RetentionState::Working { future: None } => ("ok", "old rows are removed".to_owned(), None),
            RetentionState::Working { future: Some(newest) } => {
                let newest = newest.truncate_to_second().format(&Rfc3339).unwrap_or_default();
                let detail =
                    format!("old rows are removed; the latest row was received in the future, at {newest}");
                ("ok", detail, None)
            }
            RetentionState::Failing(fault) => ("failing", format!("old rows are not removed: {fault}"), None),
            RetentionState::Paused(skew) => ("paused", skew.to_string(), Some(skew.0.whole_seconds())),
        };
        if state == "paused" {
            problems.push(detail.clone());
        }
        RetentionHealth { state, detail, clock_skew_seconds: skew }
    }
}
