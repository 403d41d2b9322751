//! The meaning of statuses.

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
pub(crate) const FINAL: [&str; 5] = ["completed", "succeeded", "success", "failed", "cancelled"];

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
    fn final_statuses_are_terminal() {
        assert!(FINAL.into_iter().all(is_terminal) && !is_terminal("running"));
    }
}
