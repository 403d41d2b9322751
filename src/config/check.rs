//! The limits of the settings.

use std::time::Duration;

use super::error::{SettingsError, check_duration, check_range, not_allowed};
use super::{Conflicts, Quarantine, Settings, Verification};

impl Settings {
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        const KIB: u64 = 1 << 10;
        const MIB: u64 = 1 << 20;
        let (min, max) = (Duration::from_millis(100), Duration::from_mins(10));
        // A retry of a quarantined body stores it as text in jsonb: twice its size, and less than 256 MiB.
        check_range("http.max_body_bytes", self.http.max_body_bytes, KIB, 100 * MIB)?;
        let (body, in_flight) = (self.http.max_body_bytes as u64, self.http.max_bytes_in_flight);
        check_range("http.max_bytes_in_flight", in_flight, body, u64::from(u32::MAX))?;
        check_range("http.max_connections", self.http.max_connections, 16, 1_000_000)?;
        check_range("http.max_requests", self.http.max_requests, 1, 65_536)?;
        check_duration("http.header_timeout", self.http.header_timeout, min, max)?;
        check_duration("http.idle_timeout", self.http.idle_timeout, min, 6 * max)?;
        check_duration("http.body_timeout", self.http.body_timeout, min, max)?;
        self.auth.check()?;
        self.admin.check()?;
        self.console.check()?;
        let Quarantine { max_rows, max_bytes } = self.quarantine;
        check_range("quarantine.max_rows", max_rows, 0, 1_000_000)?;
        check_range("quarantine.max_bytes", max_bytes, 0, 1 << 40)?;
        let Verification { max_rows, max_bytes, grace, max_requests_per_minute } = self.verification;
        check_range("verification.max_rows", max_rows, 1, 1_000_000)?;
        check_range("verification.max_bytes", max_bytes, body, 1 << 40)?;
        check_duration("verification.grace", grace, Duration::ZERO, 6 * max)?;
        check_range("verification.max_requests_per_minute", max_requests_per_minute, 4, 1_000_000)?;
        let Conflicts { max_per_execution, max_bytes_per_execution } = self.conflicts;
        check_range("conflicts.max_per_execution", max_per_execution, 0, 1_000_000)?;
        check_range("conflicts.max_bytes_per_execution", max_bytes_per_execution, 0, 1 << 40)?;
        let week = Duration::from_hours(7 * 24);
        check_duration("expected.overdue_after", self.expected.overdue_after, Duration::from_mins(1), week)?;
        self.retention.check()?;
        check_range("intake.capacity", self.intake.capacity, 1, 65_536)?;
        // Space for the largest execution that the client of each::labs accepts, and for SQLite's overhead.
        check_range("spool.max_bytes", self.spool.max_bytes, 2 * body + 2 * MIB, i64::MAX as u64)?;
        check_range("recorder.connections", self.recorder.connections, 1, 64)?;
        check_range("recorder.batch_rows", self.recorder.batch_rows, 1, 100_000)?;
        check_range("recorder.batch_bytes", self.recorder.batch_bytes, 64 * KIB, 256 * MIB)?;
        check_duration("recorder.max_backoff", self.recorder.max_backoff, min, max)?;
        check_duration("reconcile.interval", self.reconcile.interval, min, 144 * max)?;
        check_duration("reconcile.running_after", self.reconcile.running_after, min, 144 * max)?;
        check_duration("database.connect_timeout", self.database.connect_timeout, min, max)?;
        check_duration("database.statement_timeout", self.database.statement_timeout, min, max)?;
        check_duration("shutdown.grace", self.shutdown.grace, Duration::ZERO, max)?;
        check_duration("shutdown.drain_timeout", self.shutdown.drain_timeout, Duration::ZERO, 6 * max)?;
        if let Err(e) = self.log.filter.parse::<tracing_subscriber::EnvFilter>() {
            return not_allowed(
                "log.filter",
                format_args!("{:?}", self.log.filter),
                format!("{e}; must be a level like \"info\", or levels by module"),
            );
        }
        self.database.servers()?;
        self.traces.collector()?;
        if self.eachlabs.access()?.is_none() && self.auth.verify_unsigned {
            let why = "unsigned webhooks are verified with the API of each::labs: set eachlabs.api_key, too (it is empty)";
            return not_allowed("auth.verify_unsigned", "true", why);
        }
        Ok(())
    }
}
