//! A test transaction that shows whether PostgreSQL records anything at all.

use rand::RngExt;
use rand::distr::Alphanumeric;
use serde_json::json;
use time::OffsetDateTime;

use super::record::item::{ItemKind, RecordItem};
use super::{Bounds, DbConnection, DbError, record};
use crate::auth::AuthMethod;
use crate::delivery::Delivery;

/// What a canary writes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CanaryRows {
    pub(crate) kind: ItemKind,
    /// How many bytes are added to one body.
    pub(crate) fill: usize,
}

impl DbConnection {
    /// Runs the statements of [`DbConnection::record`] with synthetic deliveries of one kind: an execution in a bulk or a
    /// prediction (a new one, its replacement and a conflict), a body for the quarantine, or an unverified delivery.
    ///
    /// All rows are rolled back to a savepoint. The transaction that commits afterwards has written something, so its
    /// commit waits for the disk and for standbys like any other; deferred constraints are checked before.
    ///
    /// # Errors
    /// The reason why PostgreSQL records no delivery.
    pub(crate) async fn canary(&mut self, rows: CanaryRows, bounds: Bounds) -> Result<(), DbError> {
        // A unique name, so that canaries do not wait for each other's locks.
        let name = format!("workflow-receiver canary {:032x}", rand::rng().random::<u128>());
        // Random, so that PostgreSQL cannot compress it.
        let fill: String = rand::rng().sample_iter(Alphanumeric).take(rows.fill).map(char::from).collect();
        let unverified = rows.kind == ItemKind::Unverified;
        let delivery = |body: String| Delivery {
            authenticated_by: unverified.then_some(AuthMethod::Unverified),
            reference: Some(r#"{"canary":""}"#.to_owned()),
            ..Delivery::new(body.into(), OffsetDateTime::now_utc())
        };
        let execution = |status: &str| {
            json!({
                "execution_id": name, "workflow_id": name, "bulk_id": name, "status": status, "output": [name],
                "total_cost": 0, "fill": if status == "running" { &fill } else { "" },
            })
            .to_string()
        };
        let prediction = |status: &str| {
            json!({
                "exec_id": name, "flow_id": name, "status": status, "output": [name],
                "metrics": { "cost": 0, "predict_time": 0 }, "fill": if status == "running" { &fill } else { "" },
            })
            .to_string()
        };
        let bodies = match rows.kind {
            ItemKind::Execution => ["running", "completed", "failed"].map(execution).to_vec(),
            ItemKind::Prediction => ["running", "completed", "failed"].map(prediction).to_vec(),
            ItemKind::Unverified => vec![execution("running")],
            // Not JSON.
            ItemKind::Quarantined => vec![format!("{name} {fill}")],
        };
        let deliveries: Vec<_> = bodies.into_iter().map(delivery).collect();
        let items: Vec<_> =
            deliveries.iter().map(|delivery| RecordItem::from_spooled(delivery, true)).collect();
        let mut transaction = self.begin_batch(None).await?;
        sqlx::raw_sql("SAVEPOINT canary").execute(&mut transaction).await?;
        let mut dispositions = record::record(&mut transaction, &items, bounds.conflicts).await?;
        record::insert_quarantined(&mut transaction, &items, bounds.quarantine, &mut dispositions).await?;
        record::insert_unverified(&mut transaction, &items, &mut dispositions).await?;
        let undo = "SET CONSTRAINTS ALL IMMEDIATE; ROLLBACK TO SAVEPOINT canary";
        sqlx::raw_sql(undo).execute(&mut transaction).await?;
        transaction.commit().await?;
        Ok(())
    }
}
