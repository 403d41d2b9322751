//! The state of recording, of the database and of the spool.

use maud::{Markup, html};

use crate::health::Health;
use crate::http::admin::console::components::{badge, bar, bytes, count, duration};
use crate::http::admin::console::text::visible;

pub(super) fn parts(health: &Health) -> Markup {
    let parts = &health.parts;
    let share = |part: u64, whole: u64| {
        i64::try_from(u128::from(part) * 1_000 / u128::from(whole.max(1))).unwrap_or(1_000)
    };
    let used = share(parts.spool.used_bytes, parts.spool.max_bytes);
    // The problems are listed beside the parts.
    let is_unlisted = |state: &str, detail: &str| {
        state != "ok" && !health.summary.problems().iter().any(|known| known == detail)
    };
    html! {
        div.parts {
            div.stat {
                span { "Recording" }
                strong {
                    @match parts.recording.waiting {
                        0 if parts.recording.state == "ok" && parts.database.state != "ok" => (badge("warn", html! { "paused" })),
                        0 => (part_state(parts.recording.state)),
                        waiting => {
                            (count(waiting)) " waiting "
                            @if parts.recording.state != "ok" { (part_state(parts.recording.state)) }
                        }
                    }
                }
                // A healthy recorder needs up to some seconds.
                @if let Some(age) = parts.recording.oldest_age_seconds.filter(|age| *age >= 5) {
                    small.soft { "The oldest delivery has waited for " (duration(age)) "." }
                }
                @if is_unlisted(parts.recording.state, &parts.recording.detail) { small.soft { (visible(&parts.recording.detail)) } }
            }
            div.stat {
                span { "Database" }
                strong { (part_state(parts.database.state)) }
                @if is_unlisted(parts.database.state, &parts.database.detail) { small.soft { (visible(&parts.database.detail)) } }
            }
            div.stat {
                span { "Spool files" }
                strong { (bytes(parts.spool.used_bytes)) small { " of " (bytes(parts.spool.max_bytes)) } }
                (bar(&[(if used > 800 { "bad" } else { "run" }, used)], 1_000, "Used space of the spool"))
            }
        }
    }
}

fn part_state(state: &str) -> Markup {
    let kind = match state {
        "ok" => "ok",
        "starting" | "behind" | "stuck" | "stopping" => "warn",
        _ => "bad",
    };
    badge(kind, html! { (state) })
}
