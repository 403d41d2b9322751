//! The meaning of statuses. A status is compared exactly, because indexes and rollups have the words as they are: `Failed`,
//! ` failed ` and `canceled` are statuses of their own, which are not terminal.

/// Whether an execution with this status has ended. The same as `is_terminal_status` in SQL.
pub(crate) fn is_terminal(status: &str) -> bool {
    class(status) != OTHER
}

/// Whether the status is `completed`, or a word for it in predictions and legacy flows. The same as
/// `is_successful_status` in SQL.
pub(crate) fn is_successful(status: &str) -> bool {
    matches!(status, "completed" | "succeeded" | "success")
}

/// The statuses of executions that have ended.
pub(crate) const TERMINAL: [&str; 5] = ["completed", "succeeded", "success", "failed", "cancelled"];

/// The results of [`class`].
pub(crate) const CLASSES: [&str; 4] = [COMPLETED, "failed", "cancelled", OTHER];
pub(crate) const COMPLETED: &str = "completed";
pub(crate) const OTHER: &str = "other";

/// The class in which a status is counted. Senders can send any status.
pub(crate) fn class(status: &str) -> &'static str {
    match status {
        status if is_successful(status) => COMPLETED,
        "failed" => "failed",
        "cancelled" => "cancelled",
        _ => OTHER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_listed_statuses_are_terminal() {
        assert!(TERMINAL.into_iter().all(is_terminal));
        for other in ["running", "Failed", "SUCCEEDED", " succeeded ", "canceled", ""] {
            assert!(!is_terminal(other), "{other:?}");
        }
    }

    #[test]
    fn the_functions_in_sql_have_the_same_words() {
        let sql = include_str!("../../migrations/0001_executions.sql");
        let words = |is_one: fn(&str) -> bool| {
            let words = TERMINAL.into_iter().filter(|word| is_one(word));
            words.map(|word| format!("'{word}'")).collect::<Vec<_>>().join(", ")
        };
        for (function, words) in
            [("is_terminal_status", words(is_terminal)), ("is_successful_status", words(is_successful))]
        {
            let definition = sql.split(&format!("CREATE FUNCTION {function}(")).nth(1).unwrap();
            let body = definition.split(';').next().unwrap();
            assert!(body.ends_with(&format!("RETURN status IN ({words})")), "{body}");
        }
    }
}
