//! Finding out whether PostgreSQL records anything at all.

use bytes::Bytes;
use rand::RngExt;
use rand::distr::Alphanumeric;
use serde_json::json;
use sqlx::Connection;
use time::OffsetDateTime;

use super::record::item::RecordItem;
use super::{Bounds, DbConnection, DbError, record};
use crate::delivery::Delivery;
use crate::execution::Execution;

impl DbConnection {
    /// Does what [`DbConnection::record`] does, with a synthetic execution: a new one in a bulk, its replacement, and a
    /// conflict; and with a body for the quarantine. `kinds` says which of both. `fill`: with so many bytes more.
    ///
    /// Nothing of it stays: it is rolled back to a savepoint. What is committed then has written, so that the commit
    /// waits for the disk and for standbys like any other; and deferred constraints are checked before.
    ///
    /// # Errors
    /// What keeps PostgreSQL from recording any delivery.
    pub(crate) async fn canary(
        &mut self,
        kinds: (bool, bool),
        fill: usize,
        bounds: Bounds,
    ) -> Result<(), DbError> {
        // A name of its own, so that canaries do not wait for each other.
        let name = format!("workflow-receiver canary {:032x}", rand::rng().random::<u128>());
        // Random, so that PostgreSQL does not compress it away.
        let fill: String = rand::rng().sample_iter(Alphanumeric).take(fill).map(char::from).collect();
        let delivery = |body: String| Delivery {
            body: Bytes::from(body),
            received_at: OffsetDateTime::now_utc(),
            authenticated_by: None,
            acknowledged: true,
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
        if kinds.0 {
            for delivery in &executions {
                let execution = Execution::parse(&delivery.body);
                items.extend(execution.map(|execution| RecordItem::from_execution(execution, delivery)));
            }
        }
        if kinds.1 {
            items.push(RecordItem::quarantined("canary".to_owned(), &body));
        }
        let mut transaction = self.connection.begin().await?;
        let mut savepoint = transaction.begin().await?;
        let mut outcomes = record::record(&mut savepoint, &items, bounds.conflicts).await?;
        record::insert_quarantined(&mut savepoint, &items, bounds.quarantine, &mut outcomes).await?;
        sqlx::query!("SET CONSTRAINTS ALL IMMEDIATE").execute(&mut *savepoint).await?;
        savepoint.rollback().await?;
        transaction.commit().await?;
        Ok(())
    }
}
