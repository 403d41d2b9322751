//! Writes the log of operators' actions. A row is written before its action, so no action is missing after a crash.

use super::{DbConnection, DbError};

impl DbConnection {
    /// Stores an action before it runs, and returns its number.
    pub(crate) async fn begin_audit(
        &mut self,
        actor: &str,
        action: &str,
        target: &str,
    ) -> Result<i64, DbError> {
        let insert = sqlx::query_scalar!(
            "INSERT INTO audit (actor, action, target) VALUES ($1, $2, $3) RETURNING audit_id",
            actor,
            action,
            target
        );
        self.transact(async |transaction| insert.fetch_one(transaction).await).await
    }

    /// Stores the result of an action. U+0000, which PostgreSQL cannot store, is removed from the text.
    pub(crate) async fn end_audit(
        &mut self,
        audit_id: i64,
        succeeded: bool,
        result: &str,
    ) -> Result<(), DbError> {
        let result = result.replace('\0', "");
        let update = sqlx::query!(
            "UPDATE audit SET succeeded = $2, result = $3 WHERE audit_id = $1",
            audit_id,
            succeeded,
            result
        );
        self.transact(async |transaction| update.execute(transaction).await).await?;
        Ok(())
    }
}
