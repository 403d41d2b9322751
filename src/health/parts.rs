//! The state of each part, with its numbers and a sentence.

use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::acknowledged::Acknowledged;
use crate::recorder::{RecorderHealth, StuckStatus};
use crate::retention::RetentionState;
use crate::spool::{SpoolStatus, Unwritable};
use crate::verification::VerificationStatus;
use crate::words::counted;

#[derive(Debug, Serialize)]
pub(crate) struct Parts {
    /// The deliveries on disk, and whether webhooks are accepted.
    pub(crate) spool: SpoolHealth,
    /// The connection to PostgreSQL.
    pub(crate) database: DatabaseHealth,
    /// Whether the deliveries on disk are recorded in PostgreSQL.
    pub(crate) recording: RecordingHealth,
    /// Webhooks that were answered 200 and are in quarantine, except unsigned ones that `each::labs` did not confirm.
    pub(crate) quarantine: QuarantineHealth,
    /// The removal of old rows.
    pub(crate) retention: RetentionHealth,
    /// Unsigned webhooks that the API of `each::labs` has to confirm.
    pub(crate) verification: VerificationHealth,
}

#[derive(Debug, Serialize)]
pub(crate) struct SpoolHealth {
    /// `ok`: webhooks are accepted; `rejecting`: webhooks are answered 503; `stopping`: the receiver stops.
    pub(crate) state: &'static str,
    /// The state in a sentence.
    pub(crate) detail: String,
    /// Used disk space.
    pub(crate) used_bytes: u64,
    /// Allowed disk space: `spool.max_bytes`.
    pub(crate) max_bytes: u64,
    /// Size of the files that are set aside (`spool.db.damaged-…` and others). It has no limit.
    pub(crate) set_aside_bytes: u64,
}

impl SpoolHealth {
    pub(super) fn is_ready(&self) -> bool {
        self.state == "ok"
    }
}

/// The connection of the recorder to PostgreSQL.
#[derive(Debug, Serialize)]
pub(crate) struct DatabaseHealth {
    /// `ok`: the last transaction succeeded; `starting`: PostgreSQL has not answered yet; `failing`: nothing can be
    /// recorded.
    pub(crate) state: &'static str,
    /// The state in a sentence.
    pub(crate) detail: String,
    /// When recording began to fail; otherwise null.
    failing_since: Option<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct RecordingHealth {
    /// `ok`: the oldest waiting delivery is younger than `admin.stalled_after`; `behind`: it is older, and deliveries are
    /// being recorded; `stalled`: it is older, and none was recorded for `admin.stalled_after`; `stuck`: deliveries fail
    /// while others are recorded, and are retried.
    pub(crate) state: &'static str,
    /// The state in a sentence.
    pub(crate) detail: String,
    /// Deliveries on disk that are not recorded yet.
    pub(crate) waiting: i64,
    /// Age of the oldest waiting delivery; null if none waits.
    pub(crate) oldest_age_seconds: Option<u64>,
    /// Waiting deliveries that fail while others are recorded, alone or in a group with a slow one, and later ones that wait
    /// for them.
    pub(crate) stuck: usize,
    /// Age of the oldest stuck delivery; null if none is stuck.
    pub(crate) oldest_stuck_age_seconds: Option<u64>,
    /// Time since a delivery was recorded, or since the start.
    idle_seconds: u64,
}

impl RecordingHealth {
    pub(crate) fn stalled(&self) -> bool {
        self.state == "stalled"
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct QuarantineHealth {
    /// `ok`: there is none; `acknowledged`: there are some; `unknown`: PostgreSQL has not answered.
    pub(crate) state: &'static str,
    /// The state in a sentence.
    pub(crate) detail: String,
    /// Their number; null if unknown.
    pub(crate) acknowledged: Option<i64>,
}

#[derive(Debug, Serialize)]
pub(crate) struct RetentionHealth {
    /// `off`: no limit is set; `starting`: no round has ended yet; `ok`; `paused`: a clock is wrong; `failing`.
    pub(crate) state: &'static str,
    /// The state in a sentence.
    pub(crate) detail: String,
    /// The receiver's clock minus PostgreSQL's while `paused`; otherwise null.
    clock_skew_seconds: Option<i64>,
}

#[derive(Debug, Serialize)]
pub(crate) struct VerificationHealth {
    /// `off`: `auth.verify_unsigned` is false and none waits; `ok`; `waiting`: the oldest waits longer than
    /// `admin.stalled_after`, or no key is set; `full`: unsigned webhooks are answered 503; `unknown`: there was no count yet.
    pub(crate) state: &'static str,
    /// The state in a sentence.
    pub(crate) detail: String,
    /// Unsigned webhooks that wait; null if unknown.
    waiting: Option<i64>,
    /// Age of the oldest one; null if none waits.
    oldest_age_seconds: Option<u64>,
}

/// The measurements of one moment.
pub(super) struct Measurements {
    pub(super) spool: SpoolStatus,
    /// How long the current write to the spool has stalled.
    pub(super) stalled: Option<Duration>,
    pub(super) recording: RecorderHealth,
    pub(super) stuck: StuckStatus,
    pub(super) retention: RetentionState,
    pub(super) verification: VerificationStatus,
    /// Time since a delivery was recorded, or since the start.
    pub(super) idle: Duration,
    pub(super) acknowledged: Acknowledged,
    pub(super) stopping: bool,
    pub(super) stalled_after: Duration,
    pub(super) max_bytes: u64,
    pub(super) now: OffsetDateTime,
}

impl Measurements {
    /// The parts and their problems.
    pub(super) fn parts(&self) -> (Parts, Vec<String>) {
        let mut problems = Vec::new();
        let spool = self.spool_health(&mut problems);
        let database = self.database_health(&mut problems);
        let recording = self.recording_health(&mut problems);
        let quarantine = self.quarantine_health(&mut problems);
        let retention = self.retention_health(&mut problems);
        let verification = self.verification_health(&mut problems);
        (Parts { spool, database, recording, quarantine, retention, verification }, problems)
    }

    /// Why the spool's writer cannot write a delivery now.
    fn unwritable(&self) -> Option<String> {
        let SpoolStatus { unwritable, rejecting, .. } = self.spool;
        // Copying the deliveries into a new file may take longer than a write.
        let stalled = self.stalled.filter(|_| unwritable != Some(Unwritable::FilesChanged));
        let stalled = stalled
            .map(|time| format!("the disk of spool.dir has not completed a write for {} s", time.as_secs()));
        stalled
            .or_else(|| unwritable.map(|why| why.to_string()))
            .or_else(|| rejecting.map(|why| why.to_string()))
    }

    fn spool_health(&self, problems: &mut Vec<String>) -> SpoolHealth {
        let (state, detail) = if let Some(why) = self.unwritable() {
            ("rejecting", format!("webhooks are answered 503: {why}"))
        } else if self.stopping {
            ("stopping", "the receiver is stopping".to_owned())
        } else {
            ("ok", "webhooks are accepted".to_owned())
        };
        if state != "ok" {
            problems.push(detail.clone());
        }
        if self.spool.needs_space {
            problems.push(
                "the disk of spool.dir has too little space to add all rescued deliveries (spool.db.rescued-…) to the spool. They were \
                 answered 200, and are recorded once the disk has space"
                    .to_owned(),
            );
        }
        SpoolHealth {
            state,
            detail,
            used_bytes: self.spool.bytes,
            max_bytes: self.max_bytes,
            set_aside_bytes: self.spool.set_aside_bytes,
        }
    }

    fn database_health(&self, problems: &mut Vec<String>) -> DatabaseHealth {
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

    fn recording_health(&self, problems: &mut Vec<String>) -> RecordingHealth {
        let waiting = self.spool.depth();
        // A time in the future: the clock was set back.
        let age = |oldest| Duration::try_from(self.now - oldest).unwrap_or_default();
        let oldest = self.spool.oldest_received_at.filter(|_| waiting > 0).map(age);
        let old = oldest.is_some_and(|age| age > self.stalled_after);
        let (stuck, oldest_stuck) =
            (self.stuck.deliveries, self.stuck.oldest.map(age).map(|age| age.as_secs()));
        let only_stuck = stuck > 0 && self.stuck.handled >= self.spool.last_seq;
        let (idle, oldest_age) = (self.idle.as_secs(), oldest.unwrap_or_default().as_secs());
        let on_disk = counted(waiting, "delivery waits", "deliveries wait");
        let (state, detail) = if old && self.idle > self.stalled_after && !only_stuck {
            let detail = format!(
                "recording has stalled: {on_disk} on disk, the oldest for {oldest_age} s, and none was recorded for {idle} s"
            );
            ("stalled", detail)
        } else if stuck > 0 {
            ("stuck", self.why_stuck())
        } else if old {
            ("behind", format!("recording is behind: {on_disk} on disk, the oldest for {oldest_age} s"))
        } else if waiting > 0 {
            ("ok", format!("{on_disk} on disk, the oldest for {oldest_age} s"))
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
        let fail = counted(self.stuck.deliveries as u64, "delivery fails", "deliveries fail");
        format!(
            "{fail}, alone or in a group with a slow one, while others are recorded. Stuck deliveries wait on disk and are retried: {why}"
        )
    }

    fn quarantine_health(&self, problems: &mut Vec<String>) -> QuarantineHealth {
        match &self.acknowledged {
            Acknowledged::Counted(0) => {
                let detail = "no webhook that was answered 200 is in quarantine, except unsigned ones that each::labs did \
                              not confirm";
                let detail = detail.to_owned();
                QuarantineHealth { state: "ok", detail, acknowledged: Some(0) }
            }
            Acknowledged::Counted(webhooks) => {
                let count = counted(*webhooks, "webhook was", "webhooks were");
                let detail = format!(
                    "{count} answered 200 and could not be recorded. See `workflow-receiver quarantine list`"
                );
                problems.push(detail.clone());
                QuarantineHealth { state: "acknowledged", detail, acknowledged: Some(*webhooks) }
            }
            Acknowledged::Unknown(why) => {
                let why = why.as_deref().unwrap_or("there was no count yet");
                let detail = format!("the number of quarantined webhooks is unknown: {why}");
                QuarantineHealth { state: "unknown", detail, acknowledged: None }
            }
        }
    }

    fn verification_health(&self, problems: &mut Vec<String>) -> VerificationHealth {
        let VerificationStatus { is_on, has_key, usage, is_full, failing } = &self.verification;
        let usage = usage.as_ref();
        let waiting = usage.map_or(0, |usage| usage.rows);
        let oldest = usage.and_then(|usage| usage.oldest_received_at);
        let age = oldest.map(|oldest| Duration::try_from(self.now - oldest).unwrap_or_default());
        let why = failing.as_ref().or_else(|| usage?.last_error.as_ref());
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        let seconds = age.unwrap_or_default().as_secs();
        let are = counted(waiting, "unsigned webhook is", "unsigned webhooks are");
        let (state, detail) = if *is_full {
            let detail = format!(
                "unsigned webhooks are answered 503: too many wait for their verification (verification.max_rows, \
                 verification.max_bytes){why}"
            );
            ("full", detail)
        } else if waiting > 0 && !has_key {
            let were = counted(waiting, "unsigned webhook was", "unsigned webhooks were");
            ("waiting", format!("{were} answered 200 and not verified: set eachlabs.api_key"))
        } else if age.is_some_and(|age| age > self.stalled_after) {
            ("waiting", format!("{are} not verified yet, the oldest for {seconds} s{why}"))
        } else if waiting > 0 {
            ("ok", format!("{are} not verified yet, the oldest for {seconds} s"))
        } else if !is_on {
            ("off", "unsigned webhooks are not verified (auth.verify_unsigned)".to_owned())
        } else if usage.is_none() {
            ("unknown", "the unsigned webhooks were not counted yet".to_owned())
        } else {
            ("ok", "no unsigned webhook waits for its verification".to_owned())
        };
        if matches!(state, "full" | "waiting") {
            problems.push(detail.clone());
        }
        let oldest_age_seconds = age.map(|age| age.as_secs());
        VerificationHealth { state, detail, waiting: usage.map(|usage| usage.rows), oldest_age_seconds }
    }

    fn retention_health(&self, problems: &mut Vec<String>) -> RetentionHealth {
        let (state, detail, skew) = match &self.retention {
            RetentionState::Off => ("off", "no limit is set: nothing is removed".to_owned(), None),
            RetentionState::Starting => ("starting", "no round has ended yet".to_owned(), None),
            RetentionState::Working { future: None } => ("ok", "old rows are removed".to_owned(), None),
            RetentionState::Working { future: Some(newest) } => {
                let newest = newest.truncate_to_second().format(&Rfc3339).unwrap_or_default();
                let detail = format!(
                    "old rows are removed; the latest row has a time of receipt in the future: {newest}"
                );
                ("ok", detail, None)
            }
            RetentionState::Failing(error) => ("failing", format!("old rows are not removed: {error}"), None),
            RetentionState::Paused(skew) => ("paused", skew.to_string(), Some(skew.0.whole_seconds())),
        };
        if state == "paused" {
            problems.push(detail.clone());
        }
        RetentionHealth { state, detail, clock_skew_seconds: skew }
    }
}
