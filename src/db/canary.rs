//! A test transaction that shows whether PostgreSQL records anything at all.

use bytes::Bytes;
use rand::RngExt;
use rand::distr::Alphanumeric;
use serde_json::json;
use time::OffsetDateTime;

use super::record::item::RecordItem;
use super::{Bounds, DbConnection, DbError, record};
use crate::delivery::Delivery;
use crate::execution::Execution;

/// What a canary writes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CanaryRows {
    pub(crate) executions: bool,
    pub(crate) quarantined: bool,
    pub(crate) unverified: bool,
    /// How many bytes are added to one body of each kind.
    pub(crate) fill: usize,
}

impl DbConnection {
    /// Runs the statements of [`DbConnection::record`] with a synthetic execution in a bulk (a new one, its replacement
    /// and a conflict), a synthetic body for the quarantine and a synthetic unverified delivery.
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
            let body = json!({
                "execution_id": name, "workflow_id": name, "bulk_id": name, "status": status, "output": [name],
                "total_cost": 0, "fill": if status == "running" { &fill } else { "" },
            });
            delivery(body.to_string())
        };
        let executions = ["running", "completed", "failed"].map(execution);
        let body = delivery(format!("{name} {fill}"));
        let mut items = Vec::new();
        if rows.executions {
            for delivery in &executions {
                let execution = Execution::parse(&delivery.body);
                items.extend(execution.map(|execution| RecordItem::from_execution(execution, delivery)));
            }
        }
        if rows.quarantined {
            items.push(RecordItem::quarantined("canary".to_owned(), &body));
        }
        if rows.unverified {
            let execution = Execution::parse(&executions[0].body);
            items.extend(execution.map(|execution| RecordItem::unverified(execution, &executions[0])));
        }
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
