//! The errors of PostgreSQL, by what the receiver does about them.

use sqlx::postgres::{PgDatabaseError, PgQueryResult};

/// The SQLSTATE of a lock that was not free in time.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// A failed attempt. The text is safe to log: it quotes no row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DbError {
    /// There is no usable connection. Retried for ever.
    #[error("PostgreSQL cannot be reached: {0}")]
    Unreachable(String),
    /// `database.statement_timeout` has passed. Retried with fewer deliveries.
    #[error("PostgreSQL did not answer in time")]
    TimedOut,
    /// The server crashed or closed the connection during the attempt. Retried with fewer deliveries; a delivery that
    /// fails alone again and again is blamed.
    #[error("PostgreSQL failed while recording: {0}")]
    Crashed(String),
    /// The server rejects the statement, whatever the rows are. Retried and reported.
    #[error("PostgreSQL refuses: {message}{}", hint(code.as_deref()))]
    Unavailable {
        /// The SQLSTATE.
        code: Option<String>,
        message: String,
    },
    /// A wait for a lock in the statement that writes `bulks` was too long.
    #[error("another session locks a row of the table bulks")]
    BulkLocked,
    /// A name in one of the receiver's own statements is unknown to the server.
    #[error(
        "PostgreSQL refuses: {message}. If the schema is missing, `workflow-receiver migrate` creates it"
    )]
    MissingSchema {
        /// The SQLSTATE.
        code: String,
        message: String,
    },
    /// The server rejects one of the rows.
    #[error("PostgreSQL does not accept a row (SQLSTATE {code})")]
    InvalidRow {
        /// The SQLSTATE.
        code: String,
        /// PostgreSQL's message. Not for the log: it may quote the row.
        message: String,
    },
}

fn hint(code: Option<&str>) -> &'static str {
    match code {
        Some("42501") => ". The role lacks a privilege",
        Some("53100") => ". The server's disk is full",
        _ => "",
    }
}

/// Whether the error occurred in a function, such as a trigger's.
fn is_in_function(error: &sqlx::Error) -> bool {
    let error = error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    error.is_some_and(|error| error.r#where().is_some())
}

impl From<sqlx::Error> for DbError {
    fn from(error: sqlx::Error) -> Self {
        if matches!(error, sqlx::Error::RowNotFound) {
            let message =
                "a row is invisible: it was just removed, or a trigger or a row-level security policy hides it"
                    .to_owned();
            return Self::Unavailable { code: None, message };
        }
        let Some(database) = error.as_database_error() else {
            return Self::Unreachable(error.to_string());
        };
        let code = database.code().unwrap_or_default().into_owned();
        let message = database.message().to_owned();
        // https://www.postgresql.org/docs/current/errcodes-appendix.html
        match (&*code, code.get(..2).unwrap_or_default()) {
            // Cancelled by a time limit of the statement, of a pause in the transaction, or of the transaction.
            ("57014" | "25P03" | "25P04", _) => Self::TimedOut,
            // The name of a table, column, function or schema.
            ("42P01" | "42703" | "42883" | "3F000", _) if !is_in_function(&error) => {
                Self::MissingSchema { code, message }
            }
            // A standby or a read-only database.
            ("25006", _) => Self::Unavailable { code: Some(code), message },
            // The connection is lost, or a pooler has lost its state (prepared statements, cursors, transactions,
            // savepoints); or the server starts, stops, or has no free connection.
            ("53300" | "42P05", _) | (_, "08" | "0B" | "24" | "25" | "26" | "2D" | "34" | "3B" | "57") => {
                Self::Unreachable(message)
            }
            // Out of memory, internal errors.
            ("53200", _) | (_, "XX") => Self::Crashed(message),
            // Privileges, names, contention, resources, objects in use, the system.
            (_, "0A" | "28" | "3D" | "3F" | "40" | "42" | "53" | "55" | "58" | "F0" | "") => {
                Self::Unavailable { code: Some(code), message }
            }
            // Data exceptions, constraints, limits of a row, errors raised by triggers.
            _ => Self::InvalidRow { code, message },
        }
    }
}

impl DbError {
    /// # Errors
    /// If a statement wrote fewer rows to `table` than `expected`: a trigger returned null.
    pub(super) fn check_written(table: &str, written: &PgQueryResult, expected: usize) -> Result<(), Self> {
        if written.rows_affected() < expected as u64 { Err(Self::suppressed(table)) } else { Ok(()) }
    }

    pub(super) fn suppressed(table: &str) -> Self {
        Self::Unavailable { code: None, message: format!("a trigger on {table} suppressed a row") }
    }

    /// Converts an error of the statement that writes `bulks`.
    pub(super) fn while_writing_bulks(error: sqlx::Error) -> Self {
        let error = Self::from(error);
        if error.code() == Some(LOCK_NOT_AVAILABLE) { Self::BulkLocked } else { error }
    }

    /// Converts an error of a statement that contained no row.
    pub(crate) fn without_row_blame(self) -> Self {
        match self {
            Self::InvalidRow { code, message } => Self::Unavailable { code: Some(code), message },
            other => other,
        }
    }

    /// Converts an error of a canary: PostgreSQL rejects every row. The message is left out, because a trigger may quote
    /// the row.
    pub(crate) fn of_every_row(self) -> Self {
        match self {
            Self::InvalidRow { code, .. } => {
                let message = format!(
                    "every row (SQLSTATE {code}): look for a trigger or constraint that is not the receiver's"
                );
                Self::Unavailable { code: Some(code), message }
            }
            other => other,
        }
    }

    /// Converts an error on a connection that worked before.
    pub(crate) fn during_record(self) -> Self {
        match self {
            Self::Unreachable(why) => Self::Crashed(why),
            other => other,
        }
    }

    /// Whether the server will probably answer the same statement with the same error again.
    pub(crate) fn is_repeatable(&self) -> bool {
        match self {
            Self::InvalidRow { .. } | Self::MissingSchema { .. } | Self::Unavailable { code: None, .. } => {
                true
            }
            Self::Unavailable { code: Some(code), .. } => {
                code != "25006" && !["40", "53", "55", "58", "F0"].iter().any(|class| code.starts_with(class))
            }
            Self::Unreachable(_) | Self::TimedOut | Self::Crashed(_) | Self::BulkLocked => false,
        }
    }

    /// Whether another connection may succeed: this one is lost, its server accepts no writes, or the schema must be
    /// created.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::MissingSchema { .. }) || self.code() == Some("25006")
    }

    /// Whether the server's disk is full or fails.
    pub(crate) fn is_about_disk(&self) -> bool {
        matches!(self.code(), Some("53100" | "58030"))
    }

    /// Whether another transaction caused the error: a lock that was not free in time (55P03), a deadlock or a failed
    /// serialization (class 40). No row is to blame.
    pub(crate) fn is_contention(&self) -> bool {
        self.code().is_some_and(|code| code == LOCK_NOT_AVAILABLE || code.starts_with("40"))
    }

    /// The `error.type` in traces.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::TimedOut => "timeout",
            Self::Crashed(_) => "crashed",
            Self::Unavailable { .. } | Self::BulkLocked | Self::MissingSchema { .. } => "unavailable",
            Self::InvalidRow { .. } => "invalid_row",
        }
    }

    /// The SQLSTATE, if the server sent one.
    pub(crate) fn code(&self) -> Option<&str> {
        match self {
            Self::Unavailable { code, .. } => code.as_deref(),
            Self::BulkLocked => Some(LOCK_NOT_AVAILABLE),
            Self::InvalidRow { code, .. } | Self::MissingSchema { code, .. } => Some(code),
            Self::Unreachable(_) | Self::TimedOut | Self::Crashed(_) => None,
        }
    }
}
