//! The background task that verifies the deliveries in `unverified_deliveries`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use time::OffsetDateTime;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::check::{Verdict, check};
use super::limit::UnverifiedLimit;
use super::status::VerificationStatus;
use crate::auth::AuthMethod;
use crate::config;
use crate::db::{ConnectionPool, DbConnection, DbError, Unverified, UnverifiedUsage};
use crate::delivery::{Delivery, Disposition};
use crate::eachlabs::{ApiError, Client};
use crate::memory::MemoryBudget;
use crate::metrics::{Metrics, Verification};
use crate::recorder::RecorderHealth;
use crate::spool::WeakSpoolHandle;

/// Deliveries that are verified at the same time. `eachlabs.max_requests` limits the requests.
const CONCURRENT: usize = 16;
/// How long a claim lasts after a crash, and how often a running receiver renews it.
const CLAIM_TIME: Duration = Duration::from_secs(20);
const RENEW_INTERVAL: Duration = Duration::from_secs(5);
/// Time between two looks for due rows and between two measurements, with `auth.verify_unsigned` and without it.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
const POLL_INTERVAL_OFF: Duration = Duration::from_mins(1);
/// The pause after a measurement is this many times as long as the measurement took, at least.
const PAUSE_FACTOR: u32 = 50;
/// The pause before an unknown execution is requested again.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(5);
/// The pause while the API fails. It doubles with each failure. The client has tried each request again.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Time limit for the release of the claims at the end.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) struct Verifier {
    pub(crate) client: Arc<Client>,
    pub(crate) spool: WeakSpoolHandle,
    pub(crate) memory: MemoryBudget,
    /// The recorder's pool.
    pub(crate) pool: Arc<ConnectionPool>,
    pub(crate) statement_timeout: Duration,
    pub(crate) metrics: Arc<Metrics>,
    /// `verification.grace`
    pub(crate) grace: Duration,
    pub(crate) quarantine: config::Quarantine,
    pub(crate) limit: Arc<UnverifiedLimit>,
    pub(crate) status: watch::Sender<VerificationStatus>,
    /// Notified after a delivery was stored.
    pub(crate) stored: Arc<Notify>,
    /// Nothing is requested while recording fails.
    pub(crate) recording: watch::Receiver<RecorderHealth>,
    pub(crate) stop: CancellationToken,
    /// Random: marks the claims of this process.
    pub(crate) receiver: i64,
}

/// Why a check had no result.
enum Failure {
    Api(ApiError),
    Database(DbError),
}

impl From<DbError> for Failure {
    fn from(error: DbError) -> Self {
        Self::Database(error)
    }
}

impl Verifier {
    /// Runs until `stop`. An error of the API or of PostgreSQL never ends it.
    pub(crate) async fn run(self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.verify() => {}
            () = self.measure() => {}
        }
        let release = self.query(async |db| db.release_claims(self.receiver).await);
        let _ = timeout(RELEASE_TIMEOUT, release).await;
    }

    /// Verifies due deliveries. While the API fails, one delivery at a time is tried.
    async fn verify(&self) {
        let mut recording = self.recording.clone();
        let mut failures: u32 = 0;
        while recording.wait_for(|recording| matches!(recording, RecorderHealth::Working)).await.is_ok() {
            let stored = self.stored.notified();
            match self.round(if failures == 0 { CONCURRENT } else { 1 }).await {
                Ok(0) => {
                    tokio::select! {
                        () = stored => {}
                        () = sleep(self.poll_interval()) => {}
                    }
                }
                Ok(_) => {
                    if failures > 0 {
                        tracing::info!("unsigned webhooks are verified again");
                    }
                    failures = 0;
                    self.set_failing(None);
                }
                // The recorder reports outages of PostgreSQL.
                Err(Failure::Database(error)) => {
                    tracing::debug!("unsigned webhooks cannot be verified now: {error}");
                    sleep(FIRST_PAUSE).await;
                }
                Err(Failure::Api(error)) => {
                    if failures == 0 {
                        tracing::error!("unsigned webhooks cannot be verified now, they wait: {error}");
                    }
                    self.set_failing(Some(error.to_string()));
                    sleep(pause(failures)).await;
                    failures = failures.saturating_add(1);
                }
            }
        }
    }

    fn set_failing(&self, failing: Option<String>) {
        self.metrics.verification_failing.set(failing.is_some().into());
        self.status.send_modify(|status| status.failing = failing);
    }

    fn poll_interval(&self) -> Duration {
        if self.status.borrow().is_on { POLL_INTERVAL } else { POLL_INTERVAL_OFF }
    }

    /// Verifies up to `limit` due deliveries. Returns their number.
    async fn round(&self, limit: usize) -> Result<usize, Failure> {
        let rows = i64::try_from(limit).unwrap_or(i64::MAX);
        let claimed =
            self.query(async |db| db.claim_unverified(self.receiver, CLAIM_TIME, rows).await).await?;
        let count = claimed.len();
        let checks = async {
            let mut checks =
                stream::iter(claimed).map(|row| self.verify_row(row)).buffer_unordered(CONCURRENT);
            let mut result = Ok(count);
            while let Some(checked) = checks.next().await {
                // The other checks continue.
                result = result.and_then(|count| checked.map(|()| count));
            }
            result
        };
        tokio::select! {
            result = checks => result,
            never = self.renew_claims() => match never {},
        }
    }

    async fn renew_claims(&self) -> std::convert::Infallible {
        loop {
            sleep(RENEW_INTERVAL).await;
            // Without a renewal, the claims end.
            let _ = self.query(async |db| db.renew_claims(self.receiver, CLAIM_TIME).await).await;
        }
    }

    async fn verify_row(&self, row: Unverified) -> Result<(), Failure> {
        let Unverified { unverified_id, body, reference, is_redelivery, received_at, attempts } = row;
        let delivery = Delivery {
            body: body.into(),
            received_at,
            authenticated_by: Some(AuthMethod::Unverified),
            fetched_from: None,
            acknowledged: true,
            reference,
            is_redelivery,
            trace: None,
        };
        match check(&self.client, &delivery.body).await {
            Err(error) => {
                let pause = pause(attempts.unsigned_abs());
                self.postpone(unverified_id, &error.to_string(), pause).await?;
                Err(Failure::Api(error))
            }
            Ok(Verdict::Confirmed(body)) => {
                self.confirmed(
                    unverified_id,
                    Delivery { body, authenticated_by: Some(AuthMethod::Callback), ..delivery },
                )
                .await
            }
            Ok(Verdict::Unknown { reason, .. }) if OffsetDateTime::now_utc() - received_at < self.grace => {
                self.postpone(unverified_id, &reason, UNKNOWN_PAUSE.min(self.grace)).await
            }
            Ok(Verdict::Unknown { reason, api_body }) => {
                let body = api_body.as_deref();
                self.not_confirmed(Verification::Unknown, unverified_id, &delivery, reason, body).await
            }
            Ok(Verdict::Different { reason, api_body }) => {
                let body = Some(&*api_body);
                self.not_confirmed(Verification::Different, unverified_id, &delivery, reason, body).await
            }
        }
    }

    /// Appends the API's version to the spool, and removes the row once the append is durable.
    async fn confirmed(&self, unverified_id: i64, delivery: Delivery) -> Result<(), Failure> {
        let has_claim =
            async |db: &mut DbConnection| db.has_claim(self.receiver, unverified_id, CLAIM_TIME).await;
        if !self.query(has_claim).await? {
            return Ok(());
        }
        // The body is in memory already, as a part of a response whose size is limited.
        let memory = self.memory.permit(true, &Arc::new(Notify::new()));
        if let Err(reason) = self.spool.append(delivery, memory).await {
            return self.postpone(unverified_id, &reason.to_string(), FIRST_PAUSE).await;
        }
        self.metrics.verified(Verification::Confirmed);
        Ok(self.query(async |db| db.remove_unverified(unverified_id).await).await?)
    }

    async fn not_confirmed(
        &self,
        result: Verification,
        unverified_id: i64,
        delivery: &Delivery,
        reason: String,
        api_body: Option<&[u8]>,
    ) -> Result<(), Failure> {
        let text = reason.clone();
        let quarantined = self.query(async |db| {
            db.quarantine_unverified(
                self.receiver,
                unverified_id,
                delivery,
                reason.clone(),
                api_body,
                self.quarantine,
            )
            .await
        });
        match quarantined.await? {
            None => return Ok(()),
            Some(Disposition::Quarantined { quarantine_id }) => {
                tracing::warn!(quarantine_id, reason = text, "an unsigned webhook is stored in quarantine");
            }
            Some(_) => drop(self.metrics.quarantine_dropped.inc()),
        }
        self.metrics.verified(result);
        Ok(())
    }

    async fn postpone(&self, unverified_id: i64, why: &str, pause: Duration) -> Result<(), Failure> {
        let postpone = async |db: &mut DbConnection| {
            db.postpone_unverified(self.receiver, unverified_id, why, pause).await
        };
        Ok(self.query(postpone).await?)
    }

    /// Measures the waiting deliveries.
    async fn measure(&self) {
        let mut recording = self.recording.clone();
        while recording.wait_for(|recording| matches!(recording, RecorderHealth::Working)).await.is_ok() {
            let begun = Instant::now();
            if let Ok(usage) = self.query(async |db| db.unverified_usage().await).await {
                self.measured(usage);
            }
            sleep((begun.elapsed() * PAUSE_FACTOR).max(self.poll_interval())).await;
        }
    }

    fn measured(&self, usage: UnverifiedUsage) {
        let is_full = self.limit.measured(&usage);
        self.metrics.unverified_waiting.set(usage.rows);
        let age =
            usage.oldest_received_at.map(|oldest| (OffsetDateTime::now_utc() - oldest).as_seconds_f64());
        self.metrics.unverified_oldest_age.set(age.unwrap_or_default().max(0.0));
        self.status.send_modify(|status| (status.usage, status.is_full) = (Some(usage), is_full));
    }

    /// Runs statements within `database.statement_timeout`.
    async fn query<T>(
        &self,
        statements: impl AsyncFnOnce(&mut DbConnection) -> Result<T, DbError>,
    ) -> Result<T, DbError> {
        let query = async {
            let mut connection = self.pool.get().await?;
            let result = statements(&mut connection.db).await?;
            connection.release();
            Ok(result)
        };
        let result = timeout(self.statement_timeout, query).await.unwrap_or(Err(DbError::TimedOut));
        result.map_err(DbError::without_row_blame)
    }
}

/// The pause after `failures` failures in a row.
fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures)).min(MAX_PAUSE)
}
