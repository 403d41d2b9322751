//! A test transaction that shows whether PostgreSQL records anything at all.

use bytes::Bytes;
use rand::RngExt;
use rand::distr::Alphanumeric;
use serde_json::json;
use time::OffsetDateTime;

use super::record::item::{ItemKind, RecordItem};
use super::{Bounds, DbConnection, DbError, record};
use crate::delivery::Delivery;
use crate::execution::Execution;

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
        let delivery = |body: String| Delivery {
            body: Bytes::from(body),
            received_at: OffsetDateTime::now_utc(),
            authenticated_by: None,
            acknowledged: true,
            reference: Some(r#"{"canary":""}"#.to_owned()),
            fetched_from: None,
            is_redelivery: false,
            trace: None,
        };
        let execution = |status: &str| {
            let id = if rows.kind == ItemKind::Prediction { "exec_id" } else { "execution_id" };
            let workflow_id = if rows.kind == ItemKind::Prediction { "flow_id" } else { "workflow_id" };
            let body = json!({
                id: name, workflow_id: name, "bulk_id": name, "status": status, "output": [name],
                "total_cost": 0, "fill": if status == "running" { &fill } else { "" },
            });
            delivery(body.to_string())
        };
        let deliveries = match rows.kind {
            ItemKind::Execution | ItemKind::Prediction => {
                ["running", "completed", "failed"].map(execution).to_vec()
            }
            ItemKind::Unverified => vec![execution("running")],
            ItemKind::Quarantined => vec![delivery(format!("{name} {fill}"))],
        };
        let item = |delivery| match rows.kind {
            ItemKind::Quarantined => Some(RecordItem::quarantined("canary".to_owned(), delivery)),
            ItemKind::Unverified => Execution::parse(&delivery.body)
                .ok()
                .map(|execution| RecordItem::unverified(execution, delivery)),
            ItemKind::Execution | ItemKind::Prediction => Execution::parse(&delivery.body)
                .ok()
                .map(|execution| RecordItem::from_execution(execution, delivery)),
        };
        let items: Vec<_> = deliveries.iter().filter_map(item).collect();
        let mut transaction = self.begin().await?;
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
