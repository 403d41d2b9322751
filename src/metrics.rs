//! Prometheus metrics: name, unit, labels and meaning. `/metrics` on the admin port serves them, `docs/metrics.md` lists
//! them.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use strum::{IntoEnumIterator, IntoStaticStr, VariantArray};
use time::OffsetDateTime;

use crate::auth::AuthError;
use crate::delivery::{Disposition, FetchSource};
use crate::execution::{Kind, status};
use crate::logging;

/// Declares [`Metrics`]: `name [unit]: type (= initial value), help;`. The name gets the prefix `workflow_receiver_` and
/// the unit as suffix, a counter also `_total`.
macro_rules! metrics {
    ($($(#[$attribute:meta])* $name:ident $([$unit:ident])?: $type:ty $(= $value:expr)?, $help:literal;)*) => {
        /// The receiver's metrics.
        #[derive(Debug)]
        pub(crate) struct Metrics {
            registry: Registry,
            /// The series of `webhooks_answered` for the status 200.
            answered_200: Counter,
            $($(#[$attribute])* pub(crate) $name: $type,)*
        }

        impl Metrics {
            fn register() -> Self {
                let mut registry = Registry::with_prefix("workflow_receiver");
                $(
                    let $name: $type = metrics!(@value $($value)?);
                    metrics!(@register registry, $name, $help $(, $unit)?);
                )*
                Self { registry, answered_200: Counter::default(), $($name),* }
            }
        }
    };
    (@value) => { Default::default() };
    (@value $value:expr) => { $value };
    (@register $registry:ident, $name:ident, $help:literal) => {
        $registry.register(stringify!($name), $help, $name.clone());
    };
    (@register $registry:ident, $name:ident, $help:literal, $unit:ident) => {
        $registry.register_with_unit(stringify!($name), $help, Unit::$unit, $name.clone());
    };
}

metrics! {
    webhooks_answered: Family<Label<u16>, Counter>,
        "Responses of the webhook port except health checks, by HTTP status; 400 and 431 also count malformed and oversized heads";
    webhooks_unrouted: Family<Label, Counter>,
        "Requests to the webhook port answered 404 or 405, by reason: double_slash (POST with // in the path), unknown_path (other POST), wrong_method (webhook path without POST), other";
    webhooks_unauthenticated: Family<Label, Counter>,
        "Requests answered 401, by reason: no_credentials, timestamp, signature, secret, token";
    requests_in_flight: Gauge,
        "Requests to the webhook route without a response yet";
    requests_receiving_body: Gauge,
        "Requests in flight whose body has not arrived completely";
    connections_rejected: Counter,
        "Connections closed at once because the limit was reached and no connection could be evicted";
    connections_unanswered: Family<[(&'static str, &'static str); 2], Counter>,
        "Connections that ended without a response, by port (webhooks, admin) and reason: tls_on_plain_port, proxy_protocol, no_request (no byte was received), head_timeout (also evicted at http.max_connections), head_interrupted, request_dropped (ended before the response: evicted, or over HTTP/2 reset by the client)";
    panics: Counter,
        "Requests that ended in a panic: each is a bug";
    body_memory [Bytes]: Gauge,
        "Memory reserved for bodies beyond 64 KiB each (limit: http.max_bytes_in_flight)";
    intake_depth: Gauge,
        "Deliveries in memory that wait for the spool's next write (limit: intake.capacity)";
    ready: Gauge,
        "1 while /health/ready answers 200: webhooks are accepted, and the receiver is not stopping; 0 otherwise";
    spool_depth: Gauge,
        "Deliveries in the spool that are not recorded in PostgreSQL yet";
    spool_oldest_age [Seconds]: Gauge<f64, AtomicU64>,
        "Age of the oldest delivery in the spool; 0 when it is empty";
    spool_used [Bytes]: Gauge,
        "Disk space of the spool that counts against spool.max_bytes: deliveries and write-ahead log";
    spool_max [Bytes]: Gauge,
        "Limit of the disk space of the spool (spool.max_bytes)";
    spool_wal [Bytes]: Gauge,
        "Size of the spool's write-ahead log; it grows while another process keeps reading spool.db";
    spool_set_aside [Bytes]: Gauge,
        "Size of damaged and other files that are set aside in spool.dir (spool.db.damaged-… and others); it has no limit";
    spool_commit [Seconds]: Histogram = seconds(),
        "Duration of a commit in the spool, fsync included";
    spool_group_rows: Histogram = rows(),
        "Deliveries in one commit of the spool";
    spool_salvaged: Counter,
        "Deliveries copied out of a spool whose files were damaged, removed, moved, truncated, replaced or overwritten";
    spool_unreadable: Counter,
        "Upper bound of deliveries that are missing in the spool or cannot be read; 1 if the number is unknown";
    database_up: Gauge,
        "1 while PostgreSQL records deliveries, 0 while it is unreachable or refuses all of them";
    deliveries_recorded: Family<Label, Counter>,
        "Deliveries committed to PostgreSQL, by outcome: new, replacement, duplicate, conflict, conflict_dropped, quarantined, unverified (unsigned: waits for its verification, not recorded yet), dropped";
    executions_recorded: Family<Label, Counter>,
        "New executions and replaced statuses committed to PostgreSQL, by status of the execution: completed (also succeeded and success), failed, cancelled, other (any other status, which is not terminal)";
    predictions_recorded: Family<Label, Counter>,
        "New predictions and replaced statuses committed to PostgreSQL, by status as in executions_recorded, which does not count predictions";
    record_batch_rows: Histogram = rows(),
        "Deliveries in one transaction in PostgreSQL";
    record_delay [Seconds]: Histogram = delays(),
        "Time from the arrival of a batch's oldest delivery to its commit in PostgreSQL";
    record_retries: Counter,
        "Batches that failed and were retried";
    recording_stalled: Gauge,
        "1 while deliveries wait in the spool and none was recorded for admin.stalled_after, 0 otherwise; stuck deliveries do not count";
    stuck_deliveries: Gauge,
        "Deliveries that fail while others are recorded, alone or in a group with a slow one, and later deliveries that wait for them";
    stuck_oldest_age [Seconds]: Gauge<f64, AtomicU64>,
        "Age of the oldest stuck delivery; 0 when there is none";
    executions_overdue: Gauge,
        "Expected executions without a terminal status after expected.overdue_after, by the latest count in PostgreSQL";
    executions_degraded: Counter,
        "Executions and predictions recorded without the columns that PostgreSQL refused; the body is stored as bytes";
    quarantine_dropped: Counter,
        "Deliveries answered 422, and unsigned ones that each::labs did not confirm, that were not stored: the quarantine is full, or PostgreSQL refused the row";
    quarantine_acknowledged: Gauge,
        "Quarantine entries that were answered 200, except unsigned ones that each::labs did not confirm, by the latest count in PostgreSQL";
    pruned: Family<Label, Counter>,
        "Rows removed because of retention.*, by kind: executions, payloads, predictions, prediction_payloads, expected, bulks, conflicts, prediction_conflicts, quarantine, quarantine_retries, changes (in batches)";
    prune_failing: Gauge,
        "1 while old rows cannot be removed, 0 otherwise";
    prune_success_timestamp [Seconds]: Gauge,
        "Unix time at which this receiver last completed a removal of old rows; 0 before the first";
    clock_skew [Seconds]: Gauge<f64, AtomicU64>,
        "The receiver's clock minus PostgreSQL's, compared before rows are removed (retention.*); 0 before the first comparison";
    api_answered: Family<Label<u16>, Counter>,
        "Requests to /api/v1 on the admin port, by HTTP status of the response";
    api_read [Seconds]: Histogram = seconds(),
        "Duration of a query of the read API in PostgreSQL, the wait for a connection included";
    changes_numbered_timestamp [Seconds]: Gauge,
        "Unix time at which this receiver last found that every committed change has a number; 0 before the first";
    eachlabs_requests: Family<Label, Counter>,
        "Requests to the API of each::labs, by result: ok, not_found, denied (the key was rejected), throttled (429), rejected (other 4xx), failed (5xx), unreachable (no complete response), unusable (too large, or not the documented JSON)";
    executions_fetched: Family<Label, Counter>,
        "Executions read from the API of each::labs because their webhook did not arrive, by source: delivery_log, list, execution";
    reconcile_failing: Gauge,
        "1 while missed webhooks cannot be fetched in the background, 0 otherwise";
    reconcile_success_timestamp [Seconds]: Gauge,
        "Unix time at which this receiver last completed a comparison with each::labs in the background; 0 before the first";
    verifications: Family<Label, Counter>,
        "Unsigned webhooks (auth.verify_unsigned), by the result of their verification: confirmed (recorded), different and unknown (stored in quarantine)";
    verification_failing: Gauge,
        "1 while unsigned webhooks cannot be verified because the API of each::labs cannot be used, 0 otherwise";
    unverified_waiting: Gauge,
        "Unsigned webhooks that wait for their verification, by the latest count in PostgreSQL (limit: verification.max_rows)";
    unverified_oldest_age [Seconds]: Gauge<f64, AtomicU64>,
        "Age of the oldest unsigned webhook that waits for its verification, at the latest count; 0 when there is none";
    event_listeners: Gauge,
        "Subscribers of /api/v1/events, and requests to /api/v1/changes that wait for a change";
    spans_sent: Counter,
        "Spans that the collector of traces accepted";
    spans_dropped: Counter,
        "Spans that were not sent: the queue was full, or the collector rejected them or failed during the shutdown";
    #[expect(dead_code, reason = "the log's queue increments it")]
    log_lines_dropped: Counter = logging::dropped_lines(),
        "Log lines lost because standard error was read too slowly or could not be written";
}

fn seconds() -> Histogram {
    Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
}

fn delays() -> Histogram {
    let minutes = [30.0, 120.0, 600.0, 3600.0];
    Histogram::new(
        [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0].into_iter().chain(minutes),
    )
}

fn rows() -> Histogram {
    Histogram::new([1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0])
}

/// The name and value of the only label of a metric.
type Label<Value = &'static str> = [(&'static str, Value); 1];

/// How a request to the API of `each::labs` ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum ApiResult {
    Ok,
    NotFound,
    /// The key was rejected.
    Denied,
    Throttled,
    /// Another 4xx.
    Rejected,
    /// 5xx
    Failed,
    Unreachable,
    /// Too large, or not the documented JSON.
    Unusable,
}

/// The result of verifying an unsigned webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum VerificationResult {
    Confirmed,
    Different,
    /// The API does not have the execution, or not as ended.
    Unknown,
}

/// A port of the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Port {
    Webhooks,
    Admin,
}

/// Why a request to the webhook port was answered 404 or 405.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Unrouted {
    /// A POST to a path with two slashes.
    DoubleSlash,
    /// A POST to another unknown path.
    UnknownPath,
    /// The path of webhooks, but not a POST.
    WrongMethod,
    /// Another method and an unknown path: scanners, browsers, health checks.
    Other,
}

/// Why a connection ended without a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Unanswered {
    TlsOnPlainPort,
    ProxyProtocol,
    /// No byte was received.
    NoRequest,
    /// The receiver closed the connection within a head: a timeout, or an eviction.
    HeadTimeout,
    /// The peer closed the connection within a head.
    HeadInterrupted,
    /// The receiver or the peer ended the connection, or an HTTP/2 stream, before the response.
    RequestDropped,
}

impl Metrics {
    /// Counters start at 0, also those of the most important labels: an alert sees the first 503 as an increase.
    pub(crate) fn new() -> Self {
        let mut metrics = Self::register();
        metrics.answered_200 = metrics.webhooks_answered.get_or_create(&[("status", 200)]).clone();
        for status in [400, 401, 403, 404, 405, 408, 413, 415, 422, 431, 500, 503] {
            let _ = metrics.webhooks_answered.get_or_create(&[("status", status)]);
        }
        for status in [200, 503] {
            let _ = metrics.api_answered.get_or_create(&[("status", status)]);
        }
        for (port, reason) in
            Port::VARIANTS.iter().flat_map(|port| Unanswered::VARIANTS.iter().map(move |r| (port, r)))
        {
            let label = [("port", port.into()), ("reason", reason.into())];
            let _ = metrics.connections_unanswered.get_or_create(&label);
        }
        start(&metrics.webhooks_unrouted, "reason", Unrouted::VARIANTS);
        start(&metrics.webhooks_unauthenticated, "reason", AuthError::VARIANTS);
        start(&metrics.executions_recorded, "status", status::CLASSES);
        start(&metrics.predictions_recorded, "status", status::CLASSES);
        start(&metrics.deliveries_recorded, "outcome", Disposition::iter());
        start(&metrics.eachlabs_requests, "result", ApiResult::VARIANTS);
        start(&metrics.verifications, "result", VerificationResult::VARIANTS);
        start(&metrics.executions_fetched, "source", FetchSource::VARIANTS);
        metrics
    }

    pub(crate) fn answered(&self, status: u16) {
        if status == 200 {
            self.answered_200.inc();
        } else {
            self.webhooks_answered.get_or_create(&[("status", status)]).inc();
        }
    }

    /// The number of webhooks that were answered 503.
    pub(crate) fn answered_503(&self) -> u64 {
        self.webhooks_answered.get_or_create(&[("status", 503)]).get()
    }

    pub(crate) fn unrouted(&self, reason: Unrouted) {
        self.webhooks_unrouted.get_or_create(&[("reason", reason.into())]).inc();
    }

    pub(crate) fn unanswered(&self, port: Port, reason: Unanswered) {
        let label = [("port", port.into()), ("reason", reason.into())];
        self.connections_unanswered.get_or_create(&label).inc();
    }

    /// An execution or prediction is new, or has replaced a non-terminal status with `status`.
    pub(crate) fn execution_recorded(&self, kind: Kind, status: &str) {
        let counters = match kind {
            Kind::Workflow => &self.executions_recorded,
            Kind::Prediction => &self.predictions_recorded,
        };
        counters.get_or_create(&[("status", status::class(status))]).inc();
    }

    pub(crate) fn eachlabs_requested(&self, result: ApiResult) {
        self.eachlabs_requests.get_or_create(&[("result", result.into())]).inc();
    }

    pub(crate) fn verified(&self, result: VerificationResult) {
        self.verifications.get_or_create(&[("result", result.into())]).inc();
    }

    pub(crate) fn fetched(&self, source: FetchSource) {
        self.executions_fetched.get_or_create(&[("source", source.as_str())]).inc();
    }

    pub(crate) fn recorded(&self, disposition: Disposition) {
        self.deliveries_recorded.get_or_create(&[("outcome", disposition.as_str())]).inc();
    }

    pub(crate) fn batch_recorded(&self, rows: usize, oldest: OffsetDateTime) {
        self.record_batch_rows.observe(approximate(rows));
        self.record_delay.observe(age(oldest));
    }

    pub(crate) fn spool_committed(&self, took: Duration, group: usize) {
        self.spool_commit.observe(took.as_secs_f64());
        if group > 0 {
            self.spool_group_rows.observe(approximate(group));
        }
    }

    pub(crate) fn spool_salvaged(&self, saved: u64, lost: u64) {
        self.spool_salvaged.inc_by(saved);
        self.spool_unreadable.inc_by(lost);
    }

    pub(crate) fn unauthenticated(&self, error: AuthError) {
        self.webhooks_unauthenticated.get_or_create(&[("reason", error.into())]).inc();
    }

    pub(crate) fn pruned(&self, kind: &'static str, removed: usize) {
        self.pruned.get_or_create(&[("kind", kind)]).inc_by(removed as u64);
    }

    /// Deliveries stored in quarantine since the start.
    pub(crate) fn quarantined(&self) -> u64 {
        let outcome = Disposition::Quarantined { quarantine_id: 0 }.as_str();
        self.deliveries_recorded.get_or_create(&[("outcome", outcome)]).get()
    }

    pub(crate) fn api_answered(&self, status: u16) {
        self.api_answered.get_or_create(&[("status", status)]).inc();
    }

    pub(crate) fn panicked(&self) {
        self.panics.inc();
    }

    /// The text of `/metrics`.
    pub(crate) fn render(&self) -> String {
        let mut page = String::new();
        text::encode(&mut page, &self.registry).expect("writing to a string cannot fail");
        page
    }
}

/// Adds a series for each value of the label.
fn start<V: Into<&'static str>>(
    counters: &Family<Label, Counter>,
    label: &'static str,
    values: impl IntoIterator<Item = V>,
) {
    for value in values {
        let _ = counters.get_or_create(&[(label, value.into())]);
    }
}

/// The seconds since a time; 0 for a time in the future.
pub(crate) fn age(since: OffsetDateTime) -> f64 {
    (OffsetDateTime::now_utc() - since).as_seconds_f64().max(0.0)
}

fn approximate(rows: usize) -> f64 {
    u32::try_from(rows).map_or(f64::INFINITY, f64::from)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fmt::Write;
    use std::{env, fs};

    use super::*;

    const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");

    /// The table of `docs/metrics.md`. `scripts/check-alerts` compares alerts, dashboard and documents with it.
    fn table() -> String {
        let metrics = Metrics::new();
        metrics.pruned("executions", 0);
        let text = metrics.render();
        let mut labels: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (series, set) in text.lines().filter_map(|line| line.split_once('{')) {
            let set = set.split_once('}').unwrap().0.split(',').map(|label| label.split_once('=').unwrap().0);
            labels.entry(series.trim_end_matches("_total")).or_default().extend(set);
        }
        let mut table = String::from("| metric | type | labels | meaning |\n|---|---|---|---|\n");
        let helps: BTreeMap<_, _> =
            text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' ')).collect();
        for (name, kind) in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            let labels: Vec<_> =
                labels.get(name).into_iter().flatten().map(|label| format!("`{label}`")).collect();
            let (labels, help) = (labels.join(", "), helps[name].trim_end_matches('.'));
            writeln!(table, "| `{name}{suffix}` | {kind} | {labels} | {help} |").unwrap();
        }
        table
    }

    #[test]
    fn the_document_lists_all_metrics() {
        let document = fs::read_to_string(DOCUMENT).unwrap_or_default();
        let (start, _) = document.split_once("| metric |").unwrap_or((&document, ""));
        let expected = format!("{start}{}", table());
        if env::var_os("BLESS").is_some() {
            fs::write(DOCUMENT, &expected).unwrap();
        } else {
            assert_eq!(document, expected, "run: BLESS=1 cargo test --lib metrics");
        }
    }
}
