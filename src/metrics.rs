//! Every metric: its name, unit, labels and meaning. Served at `/metrics` on the admin port.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use time::OffsetDateTime;

use crate::auth::Refusal;
use crate::spool::Kept;
use crate::store::Outcome;

/// The receiver's metrics. All names begin with `workflow_receiver_`.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    answers: Family<Answer, Counter>,
    recorded: Family<RecordedAs, Counter>,
    batch_rows: Histogram,
    record_delay: Histogram,
    retries: Counter,
    connected: Gauge,
    requests_in_hand: Gauge,
    requests_reading: Gauge,
    body_memory: Gauge,
    intake_depth: Gauge,
    spool_depth: Gauge,
    spool_bytes: Gauge,
    spool_oldest_age: Gauge<f64, AtomicU64>,
    spool_commit: Histogram,
    spool_group: Histogram,
    salvaged: Counter,
    unreadable: Counter,
    panics: Counter,
    unauthenticated: Family<Reason, Counter>,
    connections_refused: Counter,
    quarantine_dropped: Counter,
}

/// How full things are, asked when the page is.
#[derive(Debug)]
pub(crate) struct Levels {
    pub(crate) requests_in_hand: usize,
    pub(crate) requests_reading: usize,
    pub(crate) body_memory: usize,
    pub(crate) intake_depth: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RecordedAs {
    outcome: &'static str,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let seconds = || {
            Histogram::new([
                0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
            ])
        };
        let rows =
            || Histogram::new([1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0]);
        let mut r = Registry::with_prefix("workflow_receiver");
        let answers = Family::default();
        r.register(
            "webhooks_answered",
            "Requests to the webhook route, by the HTTP status answered",
            answers.clone(),
        );
        let recorded = Family::default();
        r.register(
            "deliveries_recorded",
            "Deliveries committed to PostgreSQL, by outcome: new, replacement, duplicate, conflict, quarantined, dropped",
            recorded.clone(),
        );
        let batch_rows = rows();
        r.register("record_batch_rows", "Deliveries in one transaction in PostgreSQL", batch_rows.clone());
        let record_delay = Histogram::new([
            0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0,
        ]);
        r.register_with_unit(
            "record_delay",
            "From a batch's oldest delivery being received to its commit in PostgreSQL",
            Unit::Seconds,
            record_delay.clone(),
        );
        let retries = Counter::default();
        r.register("record_retries", "Batches that failed and were tried again", retries.clone());
        let connected = Gauge::default();
        r.register(
            "database_up",
            "1 while recording works, 0 while PostgreSQL is away or refuses",
            connected.clone(),
        );
        let requests_in_hand = Gauge::default();
        r.register(
            "requests_in_hand",
            "Requests to the webhook route that are not answered yet",
            requests_in_hand.clone(),
        );
        let requests_reading = Gauge::default();
        r.register(
            "requests_reading",
            "Those of them whose sender has not sent all of the body yet",
            requests_reading.clone(),
        );
        let body_memory = Gauge::default();
        r.register_with_unit(
            "body_memory",
            "Memory that bodies take beyond what each may take freely (http.max_bytes_in_flight)",
            Unit::Bytes,
            body_memory.clone(),
        );
        let intake_depth = Gauge::default();
        r.register("intake_depth", "Deliveries in process that wait for the disk", intake_depth.clone());
        let spool_depth = Gauge::default();
        r.register("spool_depth", "Deliveries on disk that wait for PostgreSQL", spool_depth.clone());
        let spool_bytes = Gauge::default();
        r.register_with_unit(
            "spool_used",
            "Disk space that the spooled deliveries take",
            Unit::Bytes,
            spool_bytes.clone(),
        );
        let spool_oldest_age = Gauge::default();
        r.register_with_unit(
            "spool_oldest_age",
            "Age of the oldest delivery in the spool; 0 when it is empty",
            Unit::Seconds,
            spool_oldest_age.clone(),
        );
        let spool_commit = seconds();
        r.register_with_unit(
            "spool_commit",
            "One write to the spool, fsync included",
            Unit::Seconds,
            spool_commit.clone(),
        );
        let spool_group = rows();
        r.register("spool_group_rows", "Deliveries that shared one write to the spool", spool_group.clone());
        let salvaged = Counter::default();
        r.register("spool_salvaged", "Deliveries saved out of a damaged spool", salvaged.clone());
        let unreadable = Counter::default();
        r.register(
            "spool_unreadable",
            "Deliveries, at most, that a damaged spool did not give back; 1 where their number is unknown",
            unreadable.clone(),
        );
        let panics = Counter::default();
        r.register("panics", "Requests that ended in a panic: each is a bug", panics.clone());
        let unauthenticated = Family::default();
        r.register(
            "webhooks_unauthenticated",
            "Requests answered 401, by reason: no_credentials, timestamp, signature, secret, token",
            unauthenticated.clone(),
        );
        let connections_refused = Counter::default();
        r.register(
            "connections_refused",
            "Connections closed at once, since as many as may be were waiting for the receiver",
            connections_refused.clone(),
        );
        let quarantine_dropped = Counter::default();
        r.register(
            "quarantine_dropped",
            "Deliveries answered 422 that the quarantine had no room for (quarantine.max_rows, max_bytes)",
            quarantine_dropped.clone(),
        );
        Self {
            registry: r,
            answers,
            recorded,
            batch_rows,
            record_delay,
            retries,
            connected,
            requests_in_hand,
            requests_reading,
            body_memory,
            intake_depth,
            spool_depth,
            spool_bytes,
            spool_oldest_age,
            spool_commit,
            spool_group,
            salvaged,
            unreadable,
            panics,
            unauthenticated,
            connections_refused,
            quarantine_dropped,
        }
    }

    pub(crate) fn answered(&self, status: u16) {
        self.answers.get_or_create(&Answer { status }).inc();
    }

    pub(crate) fn recorded(&self, outcome: Outcome) {
        self.recorded.get_or_create(&RecordedAs { outcome: outcome.as_str() }).inc();
    }

    pub(crate) fn batch_recorded(&self, rows: usize, oldest: OffsetDateTime) {
        self.batch_rows.observe(approximate(rows));
        self.record_delay.observe(age(oldest));
    }

    pub(crate) fn retried(&self) {
        self.retries.inc();
    }

    pub(crate) fn database_up(&self, up: bool) {
        self.connected.set(i64::from(up));
    }

    pub(crate) fn spool_committed(&self, took: Duration, group: usize) {
        self.spool_commit.observe(took.as_secs_f64());
        if group > 0 {
            self.spool_group.observe(approximate(group));
        }
    }

    pub(crate) fn spool_salvaged(&self, saved: u64, lost: u64) {
        self.salvaged.inc_by(saved);
        self.unreadable.inc_by(lost);
    }

    pub(crate) fn unauthenticated(&self, refusal: Refusal) {
        self.unauthenticated.get_or_create(&Reason { reason: refusal.as_str() }).inc();
    }

    pub(crate) fn connection_refused(&self) {
        self.connections_refused.inc();
    }

    pub(crate) fn quarantine_dropped(&self, deliveries: usize) {
        self.quarantine_dropped.inc_by(deliveries as u64);
    }

    pub(crate) fn panicked(&self) {
        self.panics.inc();
    }

    /// The text of `/metrics`, with the gauges as of now.
    pub(crate) fn render(&self, now: &Levels, kept: &Kept) -> String {
        let level = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.requests_in_hand.set(level(now.requests_in_hand));
        self.requests_reading.set(level(now.requests_reading));
        self.body_memory.set(level(now.body_memory));
        self.intake_depth.set(level(now.intake_depth));
        self.spool_depth.set(kept.depth());
        self.spool_bytes.set(i64::try_from(kept.bytes).unwrap_or(i64::MAX));
        self.spool_oldest_age.set(kept.oldest.map_or(0.0, age));
        let mut page = String::new();
        text::encode(&mut page, &self.registry).expect("writing to a string cannot fail");
        page
    }
}

fn age(since: OffsetDateTime) -> f64 {
    (OffsetDateTime::now_utc() - since).as_seconds_f64().max(0.0)
}

fn approximate(rows: usize) -> f64 {
    u32::try_from(rows).map_or(f64::INFINITY, f64::from)
}
