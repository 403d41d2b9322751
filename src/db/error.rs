//! What can go wrong with PostgreSQL, sorted by what is to be done about it.

/// A failed attempt. Its text is safe to log: it holds no row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DbError {
    /// No connection, or one that cannot be used any more: connect again, for ever.
    #[error("PostgreSQL cannot be reached: {0}")]
    Unreachable(String),
    /// It took longer than `database.statement_timeout`, or `database.connect_timeout`: try again,
    /// with less.
    #[error("PostgreSQL did not answer in time")]
    TimedOut,
    /// The server failed at it, or the connection was lost over it: try again, with less. What fails
    /// on its own, again and again, is to blame itself.
    #[error("PostgreSQL failed while recording: {0}")]
    Crashed(String),
    /// The server cannot or will not do it now, whatever the rows: try again, and say so.
    #[error("PostgreSQL refuses: {message}{}", hint(code.as_deref()))]
    Unavailable {
        /// The SQLSTATE.
        code: Option<String>,
        /// What the server said.
        message: String,
    },
    /// A row among those given is not acceptable: find it.
    #[error("PostgreSQL does not accept a row (SQLSTATE {code})")]
    InvalidRow {
        /// The SQLSTATE.
        code: String,
        /// What the server said. It may quote the row: not for the log.
        message: String,
    },
}

fn hint(code: Option<&str>) -> &'static str {
    match code {
        Some("42P01" | "42703" | "42883") => ". Is the schema there? `workflow-receiver migrate` makes it",
        Some("42501") => ". The role lacks a privilege",
        Some("53100") => ". The server's disk is full",
        _ => "",
    }
}

impl From<sqlx::Error> for DbError {
    fn from(error: sqlx::Error) -> Self {
        if matches!(error, sqlx::Error::RowNotFound) {
            let message =
                "a row cannot be seen: it was just removed, or a trigger or a row-level security policy hides it"
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
            // Cancelled by a time limit: of the statement, within the transaction, or of the transaction.
            ("57014" | "25P03" | "25P04", _) => Self::TimedOut,
            // A standby, or a database that only reads.
            ("25006", _) => Self::Unavailable { code: Some(code), message },
            // About the connection, and what it should remember: it is lost, or a pooler has mixed it up with others
            // (prepared statements, cursors, transactions, savepoints); or the server starts, stops, has no room.
            ("53300" | "42P05", _) | (_, "08" | "0B" | "24" | "25" | "26" | "2D" | "34" | "3B" | "57") => {
                Self::Unreachable(message)
            }
            // Out of memory, internal errors.
            ("53200", _) | (_, "XX") => Self::Crashed(message),
            // Privileges, names, contention, resources, objects in use, the system.
            (_, "0A" | "28" | "3D" | "3F" | "40" | "42" | "53" | "55" | "58" | "F0" | "") => {
                Self::Unavailable { code: Some(code), message }
            }
            // Data exceptions, constraints, limits of a row, and whatever a trigger raises.
            _ => Self::InvalidRow { code, message },
        }
    }
}

impl DbError {
    /// For what was said while no row was at stake.
    pub(crate) fn without_row_blame(self) -> Self {
        match self {
            Self::InvalidRow { code, message } => Self::Unavailable { code: Some(code), message },
            other => other,
        }
    }

    /// For a canary's error: every row is refused, and the message may hold what a trigger says.
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

    /// Whether the server will answer the same statement in the same way again, as far as its kind tells.
    pub(crate) fn is_repeatable(&self) -> bool {
        match self {
            Self::InvalidRow { .. } | Self::Unavailable { code: None, .. } => true,
            Self::Unavailable { code: Some(code), .. } => {
                code != "25006" && !["40", "53", "55", "58", "F0"].iter().any(|class| code.starts_with(class))
            }
            Self::Unreachable(_) | Self::TimedOut | Self::Crashed(_) => false,
        }
    }

    /// Whether the server's disk is full, or fails.
    pub(crate) fn is_about_disk(&self) -> bool {
        matches!(self.code(), Some("53100" | "58030"))
    }

    /// For what was said while recording: that the connection was good before is known.
    pub(crate) fn during_record(self) -> Self {
        match self {
            Self::Unreachable(why) => Self::Crashed(why),
            other => other,
        }
    }

    /// Its name in traces.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "away",
            Self::TimedOut => "slow",
            Self::Crashed(_) => "broke",
            Self::Unavailable { .. } => "refused",
            Self::InvalidRow { .. } => "unacceptable",
        }
    }

    /// The SQLSTATE, where the server said one.
    pub(crate) fn code(&self) -> Option<&str> {
        match self {
            Self::Unavailable { code, .. } => code.as_deref(),
            Self::InvalidRow { code, .. } => Some(code),
            Self::Unreachable(_) | Self::TimedOut | Self::Crashed(_) => None,
        }
    }

    /// Whether another transaction was the reason: a lock that was not free in time (55P03), a deadlock, a failed
    /// serialization (class 40). The row is not at fault.
    pub(crate) fn is_contention(&self) -> bool {
        self.code().is_some_and(|code| code == "55P03" || code.starts_with("40"))
    }
}
