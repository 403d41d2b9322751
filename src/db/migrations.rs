//! Brings the schema up to date.
//!
//! Each migration is one transaction. The table `_sqlx_migrations` has the form that sqlx's own tool reads. sqlx's runner
//! is not used: its lock and its prepared statements stay in the session.

use std::time::{Duration, Instant};

use sqlx::migrate::{Migration, Migrator};
use tokio::time::timeout;

use super::transaction::{Transaction, TransactionSettings};
use super::{DbConnection, DbError};

static MIGRATIONS: Migrator = sqlx::migrate!();

/// A migration in the database.
#[derive(sqlx::FromRow)]
struct Applied {
    version: i64,
    checksum: Vec<u8>,
}

impl DbConnection {
    /// Applies the missing migrations. If several receivers start at once, one migrates and the others wait. `check_limit` is
    /// the time limit of the check whether one is missing, `limit` that of the migrations. A schema of a newer version is left
    /// as it is: it still works with this binary.
    pub(crate) async fn migrate(&mut self, check_limit: Duration, limit: Duration) -> Result<(), DbError> {
        let applied = timeout(check_limit, self.transact(applied)).await.unwrap_or(Err(DbError::TimedOut))?;
        if next(&applied)?.is_none() {
            return Ok(());
        }
        let migrate = async {
            while self.migrate_once().await? {}
            Ok(())
        };
        timeout(limit, migrate).await.unwrap_or(Err(DbError::TimedOut))
    }

    /// Applies the next migration. Returns false if there is none.
    async fn migrate_once(&mut self) -> Result<bool, DbError> {
        let mut transaction =
            Transaction::begin(&mut self.connection, TransactionSettings::migrating()).await?;
        sqlx::raw_sql(
            "SELECT pg_advisory_xact_lock(hashtextextended('workflow-receiver migrate', 0));
             CREATE TABLE IF NOT EXISTS _sqlx_migrations (
                 version bigint PRIMARY KEY,
                 description text NOT NULL,
                 installed_on timestamptz NOT NULL DEFAULT now(),
                 success boolean NOT NULL,
                 checksum bytea NOT NULL,
                 execution_time bigint NOT NULL
             )",
        )
        .execute(&mut transaction)
        .await?;
        let applied = applied(&mut transaction).await?;
        let Some(migration) = next(&applied)? else {
            transaction.rollback().await?;
            return Ok(false);
        };
        let begun = Instant::now();
        sqlx::raw_sql(migration.sql.clone()).execute(&mut transaction).await?;
        let nanos = i64::try_from(begun.elapsed().as_nanos()).unwrap_or(i64::MAX);
        sqlx::query(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES ($1, $2, true, $3, $4)",
        )
        .bind(migration.version)
        .bind(&*migration.description)
        .bind(&*migration.checksum)
        .bind(nanos)
        .execute(&mut transaction)
        .await?;
        transaction.commit().await?;
        Ok(true)
    }
}

async fn applied(transaction: &mut Transaction<'_>) -> Result<Vec<Applied>, sqlx::Error> {
    let exists = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL");
    if !exists.fetch_one(&mut *transaction).await? {
        return Ok(Vec::new());
    }
    sqlx::query_as("SELECT version, checksum FROM _sqlx_migrations").fetch_all(transaction).await
}

/// The first migration that is not applied.
fn next(applied: &[Applied]) -> Result<Option<&'static Migration>, DbError> {
    for migration in MIGRATIONS.iter() {
        let Some(applied) = applied.iter().find(|applied| applied.version == migration.version) else {
            return Ok(Some(migration));
        };
        if applied.checksum != *migration.checksum {
            let version = migration.version;
            let message = format!(
                "migration {version} of this database differs from this program's: a pre-release created the schema. \
                 Use another database, or drop this one and create it again"
            );
            return Err(DbError::Unavailable { code: None, message });
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    /// ASCII means the same in every encoding of the database and of the client.
    #[test]
    fn migrations_are_ascii() {
        for migration in super::MIGRATIONS.iter() {
            let (version, sql) = (migration.version, migration.sql.as_str());
            let line = sql.lines().find(|line| !line.is_ascii());
            assert_eq!(line, None, "migration {version}");
        }
    }
}
