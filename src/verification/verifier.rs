//! The background task that verifies the deliveries in `unverified_deliveries`.
//!
//! Each row has its own schedule: a row whose request fails delays no other row. New rows have slots of their own, so rows
//! that are requested again and predictions cannot delay them.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::api_state::ApiState;
use super::check::{Checker, Found, Verdict};
use super::status::VerificationStatus;
use crate::auth::AuthMethod;
use crate::config;
use crate::db::{ClaimLimits, ConnectionPool, DbConnection, DbError, QuarantinedUnverified, Unverified};
use crate::delivery::Delivery;
use crate::eachlabs::ApiError;
use crate::logging::LineLimit;
use crate::memory::MemoryBudget;
use crate::metrics::{Metrics, VerificationResult};
use crate::recorder::{RecorderHealth, RecorderView};
use crate::spool::WeakSpoolHandle;

/// How long a claim lasts without a renewal.
const CLAIM_TIME: Duration = Duration::from_secs(20);
/// How often a running receiver renews its claims.
const RENEW_INTERVAL: Duration = Duration::from_secs(5);
/// Time between two searches for due rows, with `auth.verify_unsigned` and without it.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
const POLL_INTERVAL_OFF: Duration = Duration::from_mins(1);
/// The first pause before a row is requested again. Each further pause is twice as long, up to `MAX_PAUSE`.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The same, for a row whose execution the API does not have.
const FIRST_UNKNOWN_PAUSE: Duration = Duration::from_secs(5);
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Minimum time between two claims of a repeated row while the API fails.
const FAILING_PAUSE: Duration = Duration::from_secs(2);
/// The pause while the quarantine is full.
const FULL_PAUSE: Duration = Duration::from_mins(10);
/// A row is moved to quarantine after this many strikes ([`ApiState`]), if it is at least [`STRIKES_AGE`] old.
const MAX_STRIKES: i32 = 10;
/// Minimum age of a row that is moved to quarantine for its strikes.
const STRIKES_AGE: Duration = Duration::from_mins(10);
/// Maximum bytes of the API's version that the quarantine stores. The API still has the whole version.
const MAX_API_BODY_BYTES: usize = 64 << 10;
/// Time limit for the release of the claims at the end.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) struct Verifier {
    pub(crate) checker: Checker,
    /// `eachlabs.max_requests`
    pub(crate) max_requests: usize,
    pub(crate) spool: WeakSpoolHandle,
    pub(crate) memory: MemoryBudget,
    /// The recorder's pool.
    pub(crate) pool: Arc<ConnectionPool>,
    /// No row is claimed while recording fails.
    pub(crate) recorder: RecorderView,
    pub(crate) metrics: Arc<Metrics>,
    /// `verification.grace`
    pub(crate) grace: Duration,
    pub(crate) quarantine: config::Quarantine,
    pub(crate) status: watch::Sender<VerificationStatus>,
    pub(crate) stop: CancellationToken,
    /// Random: marks the claims of this process.
    pub(crate) receiver_id: i64,
}

/// Rows that are being verified.
#[derive(Debug, Default)]
struct InFlight {
    new: usize,
    repeated: usize,
    predictions: usize,
    /// When a repeated row was last claimed.
    repeated_at: Option<Instant>,
}

/// The kinds of rows that are claimed separately.
#[derive(Debug, Clone, Copy)]
enum Slot {
    New,
    Repeated,
    Prediction,
}

impl InFlight {
    fn count(&mut self, slot: Slot) -> &mut usize {
        match slot {
            Slot::New => &mut self.new,
            Slot::Repeated => &mut self.repeated,
            Slot::Prediction => &mut self.predictions,
        }
    }
}

/// The state of a running verifier.
#[derive(Default)]
struct Run {
    api: ApiState,
    /// Limits the log lines about failing requests.
    failures: LineLimit,
    /// The latest failure was logged.
    has_logged_failure: AtomicBool,
    /// Limits the log lines about webhooks that were not confirmed.
    lines: LineLimit,
    /// The rows that are being verified. Only their claims are renewed: after an error, the claim ends, and the row is claimed
    /// again.
    verifying: Mutex<HashSet<i64>>,
}

impl Verifier {
    /// Runs until `stop`. An error of the API or of PostgreSQL never ends it.
    pub(crate) async fn run(self) {
        let run = Run::default();
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.verify(&run) => {}
            never = self.renew_claims(&run) => match never {},
        }
        let release = self.pool.run(async |db| db.release_claims(self.receiver_id).await);
        let _ = timeout(RELEASE_TIMEOUT, release).await;
    }

    /// Verifies due rows.
    async fn verify(&self, run: &Run) {
        let poll_interval = if self.status.borrow().is_on { POLL_INTERVAL } else { POLL_INTERVAL_OFF };
        let (mut checks, mut in_flight) = (FuturesUnordered::new(), InFlight::default());
        let mut recorded = self.recorder.unverified.clone();
        loop {
            let limits = self.claim_limits(&in_flight, run.api.is_failing());
            // The recorder reports outages of PostgreSQL.
            for row in self.claim(limits).await.unwrap_or_default() {
                let slot = match row.attempts {
                    _ if row.is_prediction => Slot::Prediction,
                    0 => Slot::New,
                    _ => Slot::Repeated,
                };
                *in_flight.count(slot) += 1;
                if matches!(slot, Slot::Repeated) {
                    in_flight.repeated_at = Some(Instant::now());
                }
                let unverified_id = row.unverified_id;
                run.verifying.lock().insert(unverified_id);
                checks.push(async move { (slot, unverified_id, self.verify_row(run, row).await) });
            }
            tokio::select! {
                Some((slot, unverified_id, result)) = checks.next() => {
                    *in_flight.count(slot) -= 1;
                    run.verifying.lock().remove(&unverified_id);
                    if let Err(error) = result {
                        tracing::debug!("an unsigned webhook cannot be verified now: {error}");
                    }
                }
                Ok(()) = recorded.changed() => {}
                () = sleep(poll_interval) => {}
            }
        }
    }

    /// Repeated rows use at most half of the requests, so new rows can always use the other half. While the API fails, one
    /// repeated row at a time tests it. Predictions need many requests, so they are verified one at a time.
    fn claim_limits(&self, in_flight: &InFlight, is_failing: bool) -> ClaimLimits {
        let free = |slots: usize, used: usize| i64::try_from(slots.saturating_sub(used)).unwrap_or(i64::MAX);
        let is_paused = is_failing && in_flight.repeated_at.is_some_and(|at| at.elapsed() < FAILING_PAUSE);
        let repeated = match (is_paused, is_failing) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => self.max_requests.div_ceil(2),
        };
        ClaimLimits {
            new: free(self.max_requests, in_flight.new),
            repeated: free(repeated, in_flight.repeated),
            predictions: free(1, in_flight.predictions),
        }
    }

    async fn claim(&self, limits: ClaimLimits) -> Result<Vec<Unverified>, DbError> {
        let is_recording = matches!(*self.recorder.health.borrow(), RecorderHealth::Working);
        if !is_recording || limits.new + limits.repeated + limits.predictions == 0 {
            return Ok(Vec::new());
        }
        self.pool.run(async |db| db.claim_unverified(self.receiver_id, CLAIM_TIME, limits).await).await
    }

    async fn renew_claims(&self, run: &Run) -> std::convert::Infallible {
        loop {
            sleep(RENEW_INTERVAL).await;
            let ids: Vec<_> = run.verifying.lock().iter().copied().collect();
            // Without a renewal, the claims end.
            let _ = self.pool.run(async |db| db.renew_claims(self.receiver_id, &ids, CLAIM_TIME).await).await;
        }
    }

    async fn verify_row(&self, run: &Run, mut row: Unverified) -> Result<(), DbError> {
        let age = OffsetDateTime::now_utc() - row.received_at;
        let unknown_for =
            Duration::try_from_secs_f64(row.unknown_seconds.unwrap_or_default()).unwrap_or_default();
        let delivery = Delivery {
            authenticated_by: Some(AuthMethod::Unverified),
            is_redelivery: row.is_redelivery,
            ..Delivery::new(std::mem::take(&mut row.body).into(), row.received_at)
        };
        let verdict = match self.checker.check(&delivery.body, row.received_at).await {
            Ok(verdict @ Verdict::Impossible { .. }) => verdict,
            Ok(verdict) => {
                self.api_answered(run);
                verdict
            }
            Err(error) => {
                self.api_failed(run, &row, &error);
                let strikes = i32::from(run.api.answers_others());
                let pause = pause(FIRST_PAUSE, row.attempts);
                if row.strikes + strikes < MAX_STRIKES || age < STRIKES_AGE || strikes == 0 {
                    return self.postpone(&row, &error.to_string(), pause, strikes, false).await;
                }
                Verdict::impossible(error)
            }
        };
        match verdict {
            Verdict::Confirmed(Found { body, reference }) => {
                let authenticated_by = Some(AuthMethod::Callback);
                self.confirmed(&row, Delivery { body, authenticated_by, reference, ..delivery }).await
            }
            Verdict::Unknown { reason, .. } if unknown_for < self.grace => {
                let pause =
                    pause(FIRST_UNKNOWN_PAUSE, row.attempts).min(self.grace.saturating_sub(unknown_for));
                self.postpone(&row, &reason, pause, 0, true).await
            }
            Verdict::Impossible { reason } => {
                self.not_confirmed(run, VerificationResult::Unknown, &row, &delivery, reason, None).await
            }
            Verdict::Unknown { reason, api_body } => {
                let body = api_body.as_deref();
                self.not_confirmed(run, VerificationResult::Unknown, &row, &delivery, reason, body).await
            }
            Verdict::Different { reason, api_body } => {
                let body = Some(&*api_body);
                self.not_confirmed(run, VerificationResult::Different, &row, &delivery, reason, body).await
            }
        }
    }

    fn api_answered(&self, run: &Run) {
        if run.api.answered() {
            self.set_failing(None);
            if run.has_logged_failure.swap(false, Ordering::Relaxed) {
                tracing::info!("unsigned webhooks can be verified again");
            }
        }
    }

    fn api_failed(&self, run: &Run, row: &Unverified, error: &ApiError) {
        if run.api.failed(row.unverified_id) {
            self.set_failing(Some(error.to_string()));
            // Peers can cause such failures: they choose the identifiers, and a proxy before the API may reject some of them.
            let Some(times) = run.failures.count(1) else { return };
            run.has_logged_failure.store(true, Ordering::Relaxed);
            if run.api.answers_others() {
                tracing::warn!(
                    times,
                    "requests for several unsigned webhooks failed, although each::labs answered others; they wait; at \
                     most one line a minute: {error}"
                );
            } else {
                tracing::error!(times, "unsigned webhooks cannot be verified now and wait: {error}");
            }
        }
    }

    fn set_failing(&self, failing: Option<String>) {
        self.metrics.verification_failing.set(failing.is_some().into());
        self.status.send_modify(|status| status.failing = failing);
    }

    /// Appends the API's version to the spool, and removes the row once the append is durable.
    async fn confirmed(&self, row: &Unverified, delivery: Delivery) -> Result<(), DbError> {
        let unverified_id = row.unverified_id;
        let has_claim =
            async |db: &mut DbConnection| db.has_claim(self.receiver_id, unverified_id, CLAIM_TIME).await;
        if !self.pool.run(has_claim).await? {
            return Ok(());
        }
        // The body is in memory already, as a part of a response whose size is limited.
        let memory = self.memory.permit(true, &Arc::new(Notify::new()));
        if let Err(reason) = self.spool.append(delivery, memory).await {
            return self.postpone(row, &reason.to_string(), FIRST_PAUSE, 0, false).await;
        }
        self.metrics.verified(VerificationResult::Confirmed);
        self.pool.run(async |db| db.remove_unverified(unverified_id).await).await
    }

    async fn not_confirmed(
        &self,
        run: &Run,
        result: VerificationResult,
        row: &Unverified,
        delivery: &Delivery,
        reason: String,
        api_body: Option<&[u8]>,
    ) -> Result<(), DbError> {
        let api_body = api_body.map(cut);
        let quarantined = self.pool.run(async |db| {
            db.quarantine_unverified(
                self.receiver_id,
                row.unverified_id,
                delivery,
                row.deliveries,
                reason.clone(),
                api_body.as_deref(),
                self.quarantine,
            )
            .await
        });
        match quarantined.await? {
            QuarantinedUnverified::Unclaimed => {}
            QuarantinedUnverified::Full => {
                let why =
                    format!("the quarantine is full (quarantine.max_rows, quarantine.max_bytes); {reason}");
                self.postpone(row, &why, FULL_PAUSE, 0, false).await?;
            }
            QuarantinedUnverified::Moved { quarantine_id } => {
                self.metrics.verified(result);
                // The peers control the number of such webhooks.
                if let Some(webhooks) = run.lines.count(1) {
                    tracing::warn!(
                        webhooks,
                        quarantine_id,
                        reason,
                        "unsigned webhooks were not confirmed and are stored in quarantine; at most one line a minute"
                    );
                }
            }
        }
        Ok(())
    }

    async fn postpone(
        &self,
        row: &Unverified,
        why: &str,
        pause: Duration,
        strikes: i32,
        is_unknown: bool,
    ) -> Result<(), DbError> {
        let postpone = async |db: &mut DbConnection| {
            db.postpone_unverified(self.receiver_id, row.unverified_id, why, pause, strikes, is_unknown).await
        };
        self.pool.run(postpone).await
    }
}

/// The pause after a row was requested `attempts` + 1 times.
fn pause(first: Duration, attempts: i32) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(attempts.unsigned_abs())).min(MAX_PAUSE)
}

/// The first [`MAX_API_BODY_BYTES`] of a body, with a mark if it is longer.
fn cut(body: &[u8]) -> Vec<u8> {
    let Some(start) = body.get(..MAX_API_BODY_BYTES) else { return body.to_vec() };
    let text = String::from_utf8_lossy(start);
    let text = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
    format!("{text}\n[cut: the first {} of {} bytes]", text.len(), body.len()).into_bytes()
}
