//! Ends sessions of the console (`migrations/0012_sessions.sql`).

use time::OffsetDateTime;

use super::{DbConnection, DbError};

impl DbConnection {
    /// Ends a session. Also removes sessions that have expired.
    pub(crate) async fn end_session(
        &mut self,
        sha256: &[u8],
        expires_at: OffsetDateTime,
    ) -> Result<(), DbError> {
        let expired = sqlx::query!("DELETE FROM ended_sessions WHERE expires_at < now()");
        let insert = sqlx::query!(
            "INSERT INTO ended_sessions (session_sha256, expires_at) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            sha256,
            expires_at
        );
        self.transact(async |transaction| {
            expired.execute(&mut *transaction).await?;
            insert.execute(transaction).await
        })
        .await?;
        Ok(())
    }
}
