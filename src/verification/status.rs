//! The state of the verification, for health checks.

use crate::db::UnverifiedUsage;

#[derive(Debug, Clone, Default)]
pub(crate) struct VerificationStatus {
    /// `auth.verify_unsigned`
    pub(crate) is_on: bool,
    /// `eachlabs.api_key` is set.
    pub(crate) has_key: bool,
    /// The latest measurement; `None` before the first one.
    pub(crate) usage: Option<UnverifiedUsage>,
    /// Unsigned webhooks were answered 503 between the last two measurements, or later.
    pub(crate) is_full: bool,
    /// Why the API confirms nothing now.
    pub(crate) failing: Option<String>,
}
