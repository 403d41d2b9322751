//! Every metric: its name, unit, labels and meaning. Served at `/metrics` on the admin port.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry, Unit};
use strum::VariantArray;
use time::OffsetDateTime;

use crate::auth::AuthError;
use crate::delivery::Disposition;
use crate::logging;

/// The receiver's metrics. All names begin with `workflow_receiver_`.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    answers: Family<Answer, Counter>,
    /// The one of `answers` that nearly all are, looked up once.
    answers_200: Counter,
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
    spool_max_bytes: Gauge,
    spool_wal_bytes: Gauge,
    spool_oldest_age: Gauge<f64, AtomicU64>,
    spool_commit: Histogram,
    spool_group: Histogram,
    salvaged: Counter,
    unreadable: Counter,
    panics: Counter,
    unauthenticated: Family<Reason, Counter>,
    connections_refused: Counter,
    quarantine_dropped: Counter,
    degraded: Counter,
    pruned: Family<Pruned, Counter>,
    prune_failing: Gauge,
    prune_success: Gauge,
    clock_skew: Gauge<f64, AtomicU64>,
    ready: Gauge,
    recording_stalled: Gauge,
    stuck: Gauge,
    stuck_oldest_age: Gauge<f64, AtomicU64>,
    quarantine_acknowledged: Gauge,
    spans_sent: Counter,
    spans_dropped: Counter,
    api_answers: Family<Answer, Counter>,
    api_read: Histogram,
    event_listeners: Gauge,
    events_missed: Counter,
    #[expect(dead_code, reason = "the log's queue counts")]
    log_lines_dropped: Counter,
}

/// How full things are, asked when the page is.
#[derive(Debug)]
pub(crate) struct Levels {
    pub(crate) requests_in_hand: usize,
    pub(crate) requests_reading: usize,
    pub(crate) body_memory: usize,
    pub(crate) intake_depth: usize,
    pub(crate) spool_depth: i64,
    pub(crate) spool_bytes: u64,
    pub(crate) spool_wal_bytes: u64,
    pub(crate) spool_oldest_received_at: Option<OffsetDateTime>,
    pub(crate) event_listeners: usize,
    /// Webhooks can be taken.
    pub(crate) ready: bool,
    pub(crate) recording_stalled: bool,
    /// Deliveries that fail alone, and when the oldest of them was received.
    pub(crate) stuck: usize,
    pub(crate) stuck_oldest: Option<OffsetDateTime>,
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

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Pruned {
    kind: &'static str,
}

fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

fn add_with_unit<M: Metric + Clone>(
    registry: &mut Registry,
    name: &str,
    unit: Unit,
    help: &str,
    metric: M,
) -> M {
    registry.register_with_unit(name, help, unit, metric.clone());
    metric
}

impl Metrics {
    #[expect(clippy::too_many_lines, reason = "a list, to be read as one")]
    pub(crate) fn new() -> Self {
        let seconds = || {
            Histogram::new([
                0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
            ])
        };
        let rows =
            || Histogram::new([1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0]);
        let mut registry = Registry::with_prefix("workflow_receiver");
        let r = &mut registry;
        let answers = Family::<Answer, Counter>::default();
        let answers_200 = answers.get_or_create(&Answer { status: 200 }).clone();
        let metrics = Self {
            answers_200,
            answers: add(
                r,
                "webhooks_answered",
                "Requests to the webhook route, by the HTTP status answered",
                answers,
            ),
            recorded: add(
                r,
                "deliveries_recorded",
                "Deliveries committed to PostgreSQL, by outcome: new, replacement, duplicate, conflict, conflict_dropped, quarantined, dropped",
                Family::default(),
            ),
            batch_rows: add(r, "record_batch_rows", "Deliveries in one transaction in PostgreSQL", rows()),
            record_delay: add_with_unit(
                r,
                "record_delay",
                Unit::Seconds,
                "From a batch's oldest delivery being received to its commit in PostgreSQL",
                Histogram::new([
                    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0,
                    3600.0,
                ]),
            ),
            retries: add(r, "record_retries", "Batches that failed and were tried again", Counter::default()),
            connected: add(
                r,
                "database_up",
                "1 while recording works, 0 while PostgreSQL is away or refuses",
                Gauge::default(),
            ),
            requests_in_hand: add(
                r,
                "requests_in_hand",
                "Requests to the webhook route that are not answered yet",
                Gauge::default(),
            ),
            requests_reading: add(
                r,
                "requests_reading",
                "Those of them whose sender has not sent all of the body yet",
                Gauge::default(),
            ),
            body_memory: add_with_unit(
                r,
                "body_memory",
                Unit::Bytes,
                "Memory reserved for bodies beyond 64 KiB each (http.max_bytes_in_flight)",
                Gauge::default(),
            ),
            intake_depth: add(
                r,
                "intake_depth",
                "Deliveries in process that wait for the disk",
                Gauge::default(),
            ),
            spool_depth: add(
                r,
                "spool_depth",
                "Deliveries on disk that wait for PostgreSQL",
                Gauge::default(),
            ),
            spool_bytes: add_with_unit(
                r,
                "spool_used",
                Unit::Bytes,
                "Disk space that counts against spool.max_bytes: the spooled deliveries and the spool's write-ahead log",
                Gauge::default(),
            ),
            spool_wal_bytes: add_with_unit(
                r,
                "spool_wal",
                Unit::Bytes,
                "Size of the spool's write-ahead log; it grows while another process keeps reading spool.db",
                Gauge::default(),
            ),
            spool_max_bytes: add_with_unit(
                r,
                "spool_max",
                Unit::Bytes,
                "Disk space that they may take: spool.max_bytes",
                Gauge::default(),
            ),
            spool_oldest_age: add_with_unit(
                r,
                "spool_oldest_age",
                Unit::Seconds,
                "Age of the oldest delivery in the spool; 0 when it is empty",
                Gauge::default(),
            ),
            spool_commit: add_with_unit(
                r,
                "spool_commit",
                Unit::Seconds,
                "One write to the spool, fsync included",
                seconds(),
            ),
            spool_group: add(r, "spool_group_rows", "Deliveries that shared one write to the spool", rows()),
            salvaged: add(
                r,
                "spool_salvaged",
                "Deliveries saved out of a spool that was damaged, removed, moved, truncated or replaced",
                Counter::default(),
            ),
            unreadable: add(
                r,
                "spool_unreadable",
                "Deliveries, at most, that are missing in the spool or cannot be read; 1 where their number is unknown",
                Counter::default(),
            ),
            panics: add(r, "panics", "Requests that ended in a panic: each is a bug", Counter::default()),
            unauthenticated: add(
                r,
                "webhooks_unauthenticated",
                "Requests answered 401, by reason: no_credentials, timestamp, signature, secret, token",
                Family::default(),
            ),
            connections_refused: add(
                r,
                "connections_refused",
                "Connections closed at once, since as many as may be were waiting for the receiver",
                Counter::default(),
            ),
            quarantine_dropped: add(
                r,
                "quarantine_dropped",
                "Deliveries answered 422 that the quarantine had no room for (quarantine.max_rows, max_bytes)",
                Counter::default(),
            ),
            degraded: add(
                r,
                "executions_degraded",
                "Executions recorded with parts of their payload as bytes only, since PostgreSQL refused them",
                Counter::default(),
            ),
            pruned: add(
                r,
                "pruned",
                "What was removed since it had been kept long enough (retention.*), by kind: executions, payloads, bulks, conflicts, quarantine",
                Family::default(),
            ),
            prune_failing: add(
                r,
                "prune_failing",
                "1 while what was kept long enough cannot be removed, 0 otherwise",
                Gauge::default(),
            ),
            prune_success: add_with_unit(
                r,
                "prune_success_timestamp",
                Unit::Seconds,
                "When this receiver last had removed all that was kept long enough, in Unix time; 0 before that",
                Gauge::default(),
            ),
            clock_skew: add_with_unit(
                r,
                "clock_skew",
                Unit::Seconds,
                "The receiver's clock minus PostgreSQL's, as compared before rows are removed (retention.*); 0 before that",
                Gauge::default(),
            ),
            ready: add(
                r,
                "ready",
                "1 while webhooks can be taken (/health/ready answers 200), 0 otherwise",
                Gauge::default(),
            ),
            recording_stalled: add(
                r,
                "recording_stalled",
                "1 while deliveries that are not stuck wait and none was recorded for admin.stalled_after, 0 otherwise",
                Gauge::default(),
            ),
            stuck: add(
                r,
                "stuck_deliveries",
                "Deliveries that fail alone while others are recorded, and later ones of their executions: they wait for a lock, or can be stored nowhere",
                Gauge::default(),
            ),
            stuck_oldest_age: add_with_unit(
                r,
                "stuck_oldest_age",
                Unit::Seconds,
                "Age of the oldest of these; 0 when there is none",
                Gauge::default(),
            ),
            quarantine_acknowledged: add(
                r,
                "quarantine_acknowledged",
                "Bodies in quarantine whose sender was answered 200, as last counted in PostgreSQL",
                Gauge::default(),
            ),
            spans_sent: add(r, "spans_sent", "Spans that the collector of traces took", Counter::default()),
            spans_dropped: add(
                r,
                "spans_dropped",
                "Spans that it did not take, or that found no room to wait for it",
                Counter::default(),
            ),
            api_answers: add(
                r,
                "api_answered",
                "Requests to /api/v1 on the admin port, by the HTTP status answered",
                Family::default(),
            ),
            api_read: add_with_unit(
                r,
                "api_read",
                Unit::Seconds,
                "What operators ask: from a question to PostgreSQL's answer, with the wait for a connection",
                seconds(),
            ),
            event_listeners: add(
                r,
                "event_listeners",
                "Requests that follow what is recorded (/api/v1/events)",
                Gauge::default(),
            ),
            events_missed: add(
                r,
                "events_missed",
                "Changes that were not told to a listener, since it did not read on",
                Counter::default(),
            ),
            log_lines_dropped: add(
                r,
                "log_lines_dropped",
                "Log lines lost because standard error was read too slowly or could not be written to",
                logging::dropped_lines(),
            ),
            registry,
        };
        metrics.show_from_the_start();
        metrics
    }

    /// What has not happened yet is 0, and not absent: a first 503 is an increase then.
    fn show_from_the_start(&self) {
        for status in [400, 401, 408, 413, 415, 422, 500, 503] {
            let _ = self.answers.get_or_create(&Answer { status });
        }
        for status in [200, 503] {
            let _ = self.api_answers.get_or_create(&Answer { status });
        }
        for refusal in AuthError::ALL {
            let _ = self.unauthenticated.get_or_create(&Reason { reason: refusal.as_str() });
        }
        for &outcome in Disposition::VARIANTS {
            let _ = self.recorded.get_or_create(&RecordedAs { outcome: outcome.as_str() });
        }
    }

    pub(crate) fn answered(&self, status: u16) {
        if status == 200 {
            self.answers_200.inc();
        } else {
            self.answers.get_or_create(&Answer { status }).inc();
        }
    }

    pub(crate) fn recorded(&self, outcome: Disposition) {
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

    pub(crate) fn unauthenticated(&self, refusal: AuthError) {
        self.unauthenticated.get_or_create(&Reason { reason: refusal.as_str() }).inc();
    }

    pub(crate) fn connection_refused(&self) {
        self.connections_refused.inc();
    }

    pub(crate) fn quarantine_dropped(&self, deliveries: usize) {
        self.quarantine_dropped.inc_by(deliveries as u64);
    }

    pub(crate) fn degraded(&self) {
        self.degraded.inc();
    }

    pub(crate) fn pruned(&self, kind: &'static str, removed: usize) {
        self.pruned.get_or_create(&Pruned { kind }).inc_by(removed as u64);
    }

    pub(crate) fn prune_failing(&self, failing: bool) {
        self.prune_failing.set(i64::from(failing));
    }

    /// Nothing is left to be removed, as of then.
    pub(crate) fn prune_finished(&self, at: OffsetDateTime) {
        self.prune_failing(false);
        self.prune_success.set(at.unix_timestamp());
    }

    /// The receiver's clock minus PostgreSQL's.
    pub(crate) fn clock_skew(&self, skew: time::Duration) {
        self.clock_skew.set(skew.as_seconds_f64());
    }

    /// Deliveries that went to quarantine since the start.
    pub(crate) fn quarantined(&self) -> u64 {
        self.recorded.get_or_create(&RecordedAs { outcome: Disposition::Quarantined.as_str() }).get()
    }

    /// Bodies in quarantine that were answered 200.
    pub(crate) fn quarantine_acknowledged(&self, bodies: i64) {
        self.quarantine_acknowledged.set(bodies);
    }

    pub(crate) fn spans_sent(&self, spans: usize) {
        self.spans_sent.inc_by(spans as u64);
    }

    pub(crate) fn spans_dropped(&self, spans: usize) {
        self.spans_dropped.inc_by(spans as u64);
    }

    pub(crate) fn api_answered(&self, status: u16) {
        self.api_answers.get_or_create(&Answer { status }).inc();
    }

    pub(crate) fn api_read(&self, took: Duration) {
        self.api_read.observe(took.as_secs_f64());
    }

    pub(crate) fn events_missed(&self, changes: u64) {
        self.events_missed.inc_by(changes);
    }

    pub(crate) fn panicked(&self) {
        self.panics.inc();
    }

    /// How much the spool may take.
    pub(crate) fn spool_limit(&self, bytes: u64) {
        self.spool_max_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// The text of `/metrics`, with the gauges as of now.
    pub(crate) fn render(&self, now: &Levels) -> String {
        let level = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.requests_in_hand.set(level(now.requests_in_hand));
        self.requests_reading.set(level(now.requests_reading));
        self.body_memory.set(level(now.body_memory));
        self.intake_depth.set(level(now.intake_depth));
        self.event_listeners.set(level(now.event_listeners));
        self.ready.set(i64::from(now.ready));
        self.recording_stalled.set(i64::from(now.recording_stalled));
        self.stuck.set(level(now.stuck));
        self.stuck_oldest_age.set(now.stuck_oldest.map_or(0.0, age));
        self.spool_depth.set(now.spool_depth);
        self.spool_bytes.set(i64::try_from(now.spool_bytes).unwrap_or(i64::MAX));
        self.spool_wal_bytes.set(i64::try_from(now.spool_wal_bytes).unwrap_or(i64::MAX));
        self.spool_oldest_age.set(now.spool_oldest_received_at.map_or(0.0, age));
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
