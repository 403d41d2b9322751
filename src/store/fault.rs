//! What can go wrong with PostgreSQL, sorted by what is to be done about it.

/// A failed attempt. Its text is safe to log: it holds no row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// No connection, or it was lost: connect again, for ever.
    #[error("PostgreSQL cannot be reached: {0}")]
    Away(String),
    /// It took longer than `database.statement_timeout`, or `database.connect_timeout`.
    #[error("PostgreSQL did not answer in time")]
    Slow,
    /// The server cannot or will not do it now, whatever the rows: try again, and say so.
    #[error("PostgreSQL refuses: {message}{}", hint(code.as_deref()))]
    Refused {
        /// The SQLSTATE.
        code: Option<String>,
        /// What the server said.
        message: String,
    },
    /// A row among those given is not acceptable: find it.
    #[error("PostgreSQL does not accept a row (SQLSTATE {code})")]
    Unacceptable {
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

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        let Some(database) = error.as_database_error() else {
            return Self::Away(error.to_string());
        };
        let code = database.code().map(std::borrow::Cow::into_owned);
        let message = database.message().to_owned();
        match code.as_deref() {
            // Data exceptions, integrity violations, limits of a row, and what a trigger raises.
            Some(c) if ["22", "23", "54", "P0"].iter().any(|class| c.starts_with(class)) => {
                Self::Unacceptable { code: c.to_owned(), message }
            }
            Some("57014") => Self::Slow,
            // Connection exceptions, and a server that starts, stops or has no place.
            Some(c) if c.starts_with("08") || c.starts_with("57P") || c == "53300" => Self::Away(message),
            _ => Self::Refused { code, message },
        }
    }
}

impl Fault {
    /// For what was said while no row was at stake.
    pub(crate) fn not_of_a_row(self) -> Self {
        match self {
            Self::Unacceptable { code, message } => Self::Refused { code: Some(code), message },
            other => other,
        }
    }

    /// Whether another transaction was in the way: trying again at once is right.
    pub(crate) fn is_contention(&self) -> bool {
        matches!(self, Self::Refused { code: Some(code), .. } if code == "40P01" || code == "40001")
    }
}
