//! Sessions of the console that were ended.

use super::Query;
use crate::db::Transaction;

/// Whether a log-out has ended a session, by its hash.
#[derive(Debug)]
pub(crate) struct HasSessionEnded<'s>(pub(crate) &'s [u8]);

impl Query for HasSessionEnded<'_> {
    type Answer = bool;

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<bool, sqlx::Error> {
        let exists = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM ended_sessions WHERE session_sha256 = $1) AS "exists!""#,
            self.0
        );
        exists.fetch_one(transaction).await
    }
}
