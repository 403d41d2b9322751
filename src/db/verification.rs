//! Statements of [`crate::verification`]: unsigned deliveries that the sender's API has to confirm.
//!
//! A receiver claims rows for a short time and renews the claim while it requests their executions. After a crash, the
//! claim ends, and any receiver claims the rows again. No transaction is open during a request.

use std::time::Duration;

use time::OffsetDateTime;

use super::record::insert_quarantined;
use super::record::item::RecordItem;
use super::{DbConnection, DbError};
use crate::config;
use crate::delivery::{Delivery, Disposition};

/// A claimed row of `unverified_deliveries`.
#[derive(Debug)]
#[expect(clippy::struct_field_names, reason = "the name of the column")]
pub(crate) struct Unverified {
    pub(crate) unverified_id: i64,
    pub(crate) body: Vec<u8>,
    pub(crate) deliveries: i32,
    pub(crate) is_redelivery: bool,
    pub(crate) is_prediction: bool,
    pub(crate) received_at: OffsetDateTime,
    /// How many times its execution was requested without a result.
    pub(crate) attempts: i32,
    /// How many times the request failed although the API answered other requests.
    pub(crate) strikes: i32,
    /// For how long the API has answered that it does not have the execution, or that it has not ended.
    pub(crate) unknown_seconds: Option<f64>,
}

/// The deliveries that wait for their verification.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct UnverifiedUsage {
    pub(crate) rows: i64,
    /// The size of the bodies.
    pub(crate) bytes: i64,
    pub(crate) oldest_received_at: Option<OffsetDateTime>,
    /// Why the oldest one has no result.
    pub(crate) last_error: Option<String>,
}

/// The result of moving a row to the quarantine.
#[derive(Debug)]
pub(crate) enum QuarantinedUnverified {
    Moved {
        quarantine_id: i64,
    },
    /// The quarantine has reached a limit.
    Full,
    /// Another receiver has claimed the row.
    Unclaimed,
}

/// How many rows a receiver claims.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClaimLimits {
    /// Rows that were not requested before.
    pub(crate) new: i64,
    /// Rows that were requested without a result.
    pub(crate) repeated: i64,
    /// Predictions, which count in neither of the others.
    pub(crate) predictions: i64,
}

impl DbConnection {
    /// Claims due rows for `receiver`, in the order in which they became due. The claim ends after `claim_time`. Rows that
    /// another receiver claims at the same time are skipped.
    pub(crate) async fn claim_unverified(
        &mut self,
        receiver: i64,
        claim_time: Duration,
        limits: ClaimLimits,
    ) -> Result<Vec<Unverified>, DbError> {
        let claim = sqlx::query_as!(
            Unverified,
            r#"WITH new AS (
                 SELECT d.unverified_id FROM unverified_deliveries AS d
                 WHERE NOT d.is_prediction AND NOT d.attempts > 0 AND d.due_at <= now()
                 ORDER BY d.due_at LIMIT $3 FOR UPDATE SKIP LOCKED
             ),
             repeated AS (
                 SELECT d.unverified_id FROM unverified_deliveries AS d
                 WHERE NOT d.is_prediction AND d.attempts > 0 AND d.due_at <= now()
                 ORDER BY d.due_at LIMIT $4 FOR UPDATE SKIP LOCKED
             ),
             predictions AS (
                 SELECT d.unverified_id FROM unverified_deliveries AS d
                 WHERE d.is_prediction AND d.due_at <= now()
                 ORDER BY d.due_at LIMIT $5 FOR UPDATE SKIP LOCKED
             )
             UPDATE unverified_deliveries AS u
             SET claimed_by = $1, due_at = now() + make_interval(secs => $2)
             WHERE u.unverified_id IN (SELECT n.unverified_id FROM new AS n)
                 OR u.unverified_id IN (SELECT r.unverified_id FROM repeated AS r)
                 OR u.unverified_id IN (SELECT p.unverified_id FROM predictions AS p)
             RETURNING
                 u.unverified_id, u.body, u.deliveries, u.is_redelivery, u.is_prediction, u.received_at, u.attempts,
                 u.strikes, extract(epoch FROM now() - u.unknown_since)::double precision AS unknown_seconds"#,
            receiver,
            claim_time.as_secs_f64(),
            limits.new,
            limits.repeated,
            limits.predictions
        );
        self.transact(async |transaction| claim.fetch_all(transaction).await).await
    }

    /// Renews the claims of `receiver` on these rows. Locked rows are skipped: their claims are renewed the next time.
    pub(crate) async fn renew_claims(
        &mut self,
        receiver: i64,
        unverified_ids: &[i64],
        claim_time: Duration,
    ) -> Result<(), DbError> {
        let renew = sqlx::query!(
            "UPDATE unverified_deliveries SET due_at = now() + make_interval(secs => $3)
             WHERE unverified_id IN (
                 SELECT d.unverified_id FROM unverified_deliveries AS d
                 WHERE d.claimed_by = $1 AND d.unverified_id = ANY($2) FOR UPDATE SKIP LOCKED
             )",
            receiver,
            unverified_ids,
            claim_time.as_secs_f64()
        );
        self.transact(async |transaction| renew.execute(transaction).await).await?;
        Ok(())
    }

    /// Ends the claims of `receiver`: another receiver can claim the rows at once. Locked rows are skipped.
    pub(crate) async fn release_claims(&mut self, receiver: i64) -> Result<(), DbError> {
        let release = sqlx::query!(
            "UPDATE unverified_deliveries SET claimed_by = NULL, due_at = now()
             WHERE unverified_id IN (
                 SELECT d.unverified_id FROM unverified_deliveries AS d
                 WHERE d.claimed_by = $1 FOR UPDATE SKIP LOCKED
             )",
            receiver
        );
        self.transact(async |transaction| release.execute(transaction).await).await?;
        Ok(())
    }

    /// Whether `receiver` still has the claim of a row. Renews the claim.
    pub(crate) async fn has_claim(
        &mut self,
        receiver: i64,
        unverified_id: i64,
        claim_time: Duration,
    ) -> Result<bool, DbError> {
        let renew = sqlx::query!(
            "UPDATE unverified_deliveries SET due_at = now() + make_interval(secs => $3)
             WHERE unverified_id = $1 AND claimed_by = $2",
            unverified_id,
            receiver,
            claim_time.as_secs_f64()
        );
        let renewed = self.transact(async |transaction| renew.execute(transaction).await).await?;
        Ok(renewed.rows_affected() > 0)
    }

    /// Ends the claim of a row without a result. The row is due again after `pause`. `is_unknown`: the API answered that it
    /// does not have the execution, or that it has not ended.
    pub(crate) async fn postpone_unverified(
        &mut self,
        receiver: i64,
        unverified_id: i64,
        error: &str,
        pause: Duration,
        strikes: i32,
        is_unknown: bool,
    ) -> Result<(), DbError> {
        let postpone = sqlx::query!(
            "UPDATE unverified_deliveries
             SET claimed_by = NULL, attempts = attempts + 1, strikes = strikes + $5, last_error = $3,
                 due_at = now() + make_interval(secs => $4),
                 unknown_since = CASE WHEN $6 THEN coalesce(unknown_since, now()) ELSE unknown_since END
             WHERE unverified_id = $1 AND claimed_by = $2",
            unverified_id,
            receiver,
            error,
            pause.as_secs_f64(),
            strikes,
            is_unknown
        );
        self.transact(async |transaction| postpone.execute(transaction).await).await?;
        Ok(())
    }

    /// Deletes a row after its delivery was appended to the spool.
    pub(crate) async fn remove_unverified(&mut self, unverified_id: i64) -> Result<(), DbError> {
        let remove =
            sqlx::query!("DELETE FROM unverified_deliveries WHERE unverified_id = $1", unverified_id);
        self.transact(async |transaction| remove.execute(transaction).await).await?;
        Ok(())
    }

    /// Moves a row to the quarantine. `api_body` is the execution as the sender's API has it. Changes nothing if `limits`
    /// do not allow the entry, or if `receiver` no longer has the claim.
    #[expect(clippy::too_many_arguments, reason = "the columns of the entry")]
    pub(crate) async fn quarantine_unverified(
        &mut self,
        receiver: i64,
        unverified_id: i64,
        delivery: &Delivery,
        deliveries: i32,
        reason: String,
        api_body: Option<&[u8]>,
        limits: config::Quarantine,
    ) -> Result<QuarantinedUnverified, DbError> {
        let items = [RecordItem::not_confirmed(reason, delivery, deliveries, api_body)];
        let mut dispositions = [Disposition::Dropped];
        let mut transaction = self.begin().await?;
        insert_quarantined(&mut transaction, &items, limits, &mut dispositions).await?;
        let [Disposition::Quarantined { quarantine_id }] = dispositions else {
            transaction.rollback().await?;
            return Ok(QuarantinedUnverified::Full);
        };
        let remove = sqlx::query!(
            "DELETE FROM unverified_deliveries WHERE unverified_id = $1 AND claimed_by = $2",
            unverified_id,
            receiver
        );
        if remove.execute(&mut transaction).await?.rows_affected() == 0 {
            transaction.rollback().await?;
            return Ok(QuarantinedUnverified::Unclaimed);
        }
        transaction.commit().await?;
        Ok(QuarantinedUnverified::Moved { quarantine_id })
    }

    pub(crate) async fn unverified_usage(&mut self) -> Result<UnverifiedUsage, DbError> {
        let usage = sqlx::query_as!(
            UnverifiedUsage,
            r#"SELECT
                   count(*) AS "rows!",
                   coalesce(sum(octet_length(body)), 0)::bigint AS "bytes!",
                   min(received_at) AS oldest_received_at,
                   (array_agg(last_error ORDER BY received_at))[1] AS last_error
               FROM unverified_deliveries"#
        );
        self.transact(async |transaction| usage.fetch_one(transaction).await).await
    }
}
