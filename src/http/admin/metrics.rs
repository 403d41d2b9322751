//! `/metrics`, in OpenMetrics or in Prometheus's text format.

use std::collections::HashSet;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::IntoResponse;

use super::state::AdminState;
use crate::metrics::age;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers in OpenMetrics if `Accept` prefers it. Otherwise answers in the text format, which every scraper reads, even if
/// `Accept` allows neither format.
pub(super) async fn metrics(State(admin): State<AdminState>, headers: HeaderMap) -> impl IntoResponse {
    let spool = *admin.recorder.spool.borrow();
    let health = admin.health.health();
    let (metrics, recording) = (&admin.metrics, &health.parts.recording);
    let level = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    metrics.requests_in_flight.set(level(admin.requests.in_use()));
    metrics.requests_receiving_body.set(level(admin.requests.waiting_on_peer()));
    metrics.body_memory.set(level(admin.memory.reserved()));
    metrics.intake_depth.set(level(admin.intake.get()));
    metrics.event_listeners.set(level(admin.feed.subscribers()));
    metrics.ready.set(i64::from(health.is_ready()));
    metrics.recording_stalled.set(i64::from(recording.stalled()));
    metrics.stuck_deliveries.set(level(recording.stuck));
    metrics.stuck_oldest_age.set(admin.health.oldest_stuck().map_or(0.0, age));
    metrics.spool_depth.set(spool.depth());
    metrics.spool_used.set(i64::try_from(spool.bytes).unwrap_or(i64::MAX));
    metrics.spool_wal.set(i64::try_from(spool.wal_bytes).unwrap_or(i64::MAX));
    metrics.spool_set_aside.set(i64::try_from(spool.set_aside_bytes).unwrap_or(i64::MAX));
    metrics.spool_oldest_age.set(spool.oldest_received_at.map_or(0.0, age));
    let page = metrics.render();
    let accept: Vec<_> =
        headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    if prefers_open_metrics(&accept.join(",")) {
        ([(header::CONTENT_TYPE, OPEN_METRICS)], page)
    } else {
        ([(header::CONTENT_TYPE, TEXT)], to_text(&page))
    }
}

fn prefers_open_metrics(accept: &str) -> bool {
    let (mut open_metrics, mut text) = (0.0_f32, 0.0_f32);
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let (mut quality, mut is_version_1) = (1.0, true);
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name {
                "q" => quality = value.parse().unwrap_or(0.0),
                "version" => is_version_1 = value.trim_matches('"') == "1.0.0",
                _ => {}
            }
        }
        if media.eq_ignore_ascii_case("application/openmetrics-text") && is_version_1 {
            open_metrics = open_metrics.max(quality);
        } else if media.eq_ignore_ascii_case("text/plain") {
            text = text.max(quality);
        }
    }
    open_metrics > 0.0 && open_metrics >= text
}

/// The metrics library writes OpenMetrics only. In the text format, `# HELP` and `# TYPE` of a counter have the name of its
/// series, with `_total`.
fn to_text(open_metrics: &str) -> String {
    let counters: HashSet<_> = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut text = String::with_capacity(open_metrics.len() + 1024);
    for line in open_metrics.lines() {
        let comment = line.strip_prefix("# ").and_then(|comment| {
            let (keyword, rest) = comment.split_once(' ')?;
            let (name, rest) = rest.split_once(' ')?;
            Some((keyword, name, rest))
        });
        match comment {
            Some(("HELP" | "TYPE", name, rest)) if counters.contains(name) => {
                let keyword = &line[..6];
                text.extend([keyword, " ", name, "_total ", rest, "\n"]);
            }
            Some(("UNIT", ..)) => {}
            None if line == "# EOF" => {}
            _ => text.extend([line, "\n"]),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{prefers_open_metrics, to_text};

    #[test]
    fn open_metrics_is_chosen_only_if_it_is_preferred_to_text() {
        for accept in [
            "application/openmetrics-text",
            "application/openmetrics-text; version=1.0.0",
            "application/openmetrics-text;version=\"1.0.0\",text/plain;q=0.9",
            "Application/OpenMetrics-Text;q=0.1",
            // Prometheus 3
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;\
             version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
        ] {
            assert!(prefers_open_metrics(accept), "{accept}");
        }
        for accept in [
            "",
            "*/*",
            "text/plain;version=0.0.4",
            "text/html,application/xhtml+xml,*/*;q=0.8",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;version=0.0.1",
            "application/openmetrics-text;q=0.5,text/plain;q=0.6",
            "application/json",
        ] {
            assert!(!prefers_open_metrics(accept), "{accept}");
        }
    }

    #[test]
    fn in_the_text_format_counters_are_declared_under_the_name_of_their_series() {
        let open_metrics = "# HELP requests Requests.\n# TYPE requests counter\nrequests_total{a=\"# EOF\"} 1\n\
                            # HELP took_seconds Time.\n# TYPE took_seconds gauge\n# UNIT took_seconds seconds\n\
                            took_seconds 0.5\n# EOF\n";
        let text = "# HELP requests_total Requests.\n# TYPE requests_total counter\nrequests_total{a=\"# EOF\"} 1\n\
                    # HELP took_seconds Time.\n# TYPE took_seconds gauge\ntook_seconds 0.5\n";
        assert_eq!(to_text(open_metrics), text);
    }
}
