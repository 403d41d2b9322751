//! What a run reports.

use serde::{Deserialize, Serialize};

/// A line of the response of `POST /api/v1/reconcile`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Event {
    /// Another run is active. The run begins after its end.
    Waiting,
    /// An execution that is not recorded with a terminal status.
    Execution { execution_id: String, result: CheckResult },
    /// The counts so far.
    Progress(Counts),
    /// The run has ended.
    Done(Counts),
    /// The run ended early.
    Failed {
        error: String,
        #[serde(flatten)]
        counts: Counts,
    },
}

/// The result for an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub(crate) enum CheckResult {
    /// Appended to the spool.
    Fetched,
    /// The run has `dry_run`. Without it, the execution would be fetched.
    Missing,
    /// The execution has not ended at the sender.
    Running,
    /// The sender does not have it.
    Absent,
    /// The sender's answer is not an execution.
    Unusable,
}

/// The number of executions with each result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// All executions that were compared with PostgreSQL.
    pub(crate) checked: u64,
    /// Recorded with a terminal status before the run.
    pub(crate) recorded: u64,
    pub(crate) fetched: u64,
    pub(crate) missing: u64,
    pub(crate) running: u64,
    pub(crate) absent: u64,
    pub(crate) unusable: u64,
    /// Entries of the delivery log that were sent to other URLs than `eachlabs.webhook_url`. They are not executions of this
    /// receiver.
    pub(crate) other_urls: u64,
}

impl Counts {
    /// Whether the delivery log has entries, and all of them were sent to other URLs. `eachlabs.webhook_url` may be wrong.
    pub(crate) fn is_for_others(&self) -> bool {
        self.other_urls > 0 && self.checked == 0 && self.unusable == 0
    }

    pub(super) fn add(&mut self, result: CheckResult) {
        *match result {
            CheckResult::Fetched => &mut self.fetched,
            CheckResult::Missing => &mut self.missing,
            CheckResult::Running => &mut self.running,
            CheckResult::Absent => &mut self.absent,
            CheckResult::Unusable => &mut self.unusable,
        } += 1;
    }
}
