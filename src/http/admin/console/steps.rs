//! The steps of an execution, each with its time as a bar.

use maud::{Markup, html};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::components::badge;
use super::failure_class::failure_class;
use super::params::filtered;
use super::sections::MAX_CAUSE;
use super::text::{excerpt, visible};
use super::units;
use crate::db::queries::executions::Step;
use crate::execution::status::is_successful;

/// With `is_removed`, retention has removed the steps with the payload.
pub(super) fn section(steps: &[Step], is_removed: bool) -> Markup {
    let scale = Scale::of(steps);
    html! {
        section.card aria-labelledby="steps" {
            h2 #steps { "Steps" }
            @if steps.is_empty() {
                p.soft {
                    @if is_removed { "The steps were removed with the payload (retention.payloads)." }
                    @else { "The webhook has no steps." }
                }
            } @else {
                ol.timeline { @for (n, step) in steps.iter().enumerate() { (step_item(n, step, scale.as_ref())) } }
            }
        }
    }
}

fn step_item(n: usize, step: &Step, scale: Option<&Scale>) -> Markup {
    let kind = match step.status.as_deref() {
        Some(status) if is_successful(status) => {
            if step.is_fallback {
                "warn"
            } else {
                "ok"
            }
        }
        Some("failed") => "bad",
        Some("running" | "queued") => "run",
        _ => "muted",
    };
    let text = |text: &str| visible(excerpt(text, MAX_CAUSE).0);
    html! {
        li.(kind) id={ "step-" (n) } {
            div.head {
                strong { (text(&step.step_id)) }
                span.soft.nowrap {
                    @if let Some(seconds) = step.duration_seconds { (units::seconds(seconds)) }
                    @if let Some(cost) = &step.cost { " \u{b7} cost " (units::cost(&cost.0)) }
                }
            }
            div.soft {
                (step.status.as_deref().map_or_else(|| html! { "status unknown" }, text))
                @if let Some(model) = &step.model {
                    " \u{b7} " (text(model))
                    @if let Some(version) = &step.model_version { " " (text(version)) }
                }
                @if let Some(selected) = &step.selected { " \u{b7} selected " (text(selected)) }
            }
            @if let Some((x, width)) = scale.and_then(|scale| scale.place(step)) {
                svg.bar viewBox="0 0 1000 10" preserveAspectRatio="none" aria-hidden="true" {
                    rect.(kind) x=(x) y="0" width=(width) height="10" {}
                }
            }
            @if step.is_fallback {
                p { (badge("warn", html! { "fallback" })) " The first model failed"
                    @if let Some(error) = &step.first_error { ": " (text(error)) } @else { "." } }
            }
            @if let Some(cause) = step.error_cause.as_ref().or(step.error.as_ref()) {
                p.cause.text { (text(cause)) }
                @if let Some(class) = &step.failure_class {
                    small.soft { (failure_class(class, &filtered("/executions", [("status", Some("failed")), ("class", Some(class))]))) }
                }
            }
        }
    }
}

/// The period of all steps that have times.
struct Scale {
    start: OffsetDateTime,
    seconds: f64,
}

fn times(step: &Step) -> Option<(OffsetDateTime, OffsetDateTime)> {
    let time = |text: &Option<String>| OffsetDateTime::parse(text.as_deref()?, &Rfc3339).ok();
    let (start, end) = (time(&step.started_at)?, time(&step.completed_at)?);
    (start <= end).then_some((start, end))
}

impl Scale {
    /// `None` for fewer than two steps with times: a single bar shows nothing.
    fn of(steps: &[Step]) -> Option<Self> {
        let times: Vec<_> = steps.iter().filter_map(times).collect();
        let start = times.iter().map(|(start, _)| *start).min()?;
        let end = times.iter().map(|(_, end)| *end).max()?;
        let seconds = (end - start).as_seconds_f64();
        (times.len() > 1 && seconds > 0.0).then_some(Self { start, seconds })
    }

    /// Position and width of a step, in thousandths.
    fn place(&self, step: &Step) -> Option<(String, String)> {
        let (start, end) = times(step)?;
        let thousandths = |seconds: f64| seconds / self.seconds * 1_000.0;
        let width = thousandths((end - start).as_seconds_f64()).max(6.0);
        let x = thousandths((start - self.start).as_seconds_f64()).min(1_000.0 - width);
        Some((format!("{x:.0}"), format!("{width:.0}")))
    }
}
