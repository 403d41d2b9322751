//! The chart of executions over time: stacked columns as SVG.

use maud::{Markup, html};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::db::queries::overview::{Counts, Point};
use crate::http::admin::console::components::{count, plural};

/// Units of the drawing. The browser stretches it to the size of the page; labels are HTML and keep their size.
const WIDTH: i64 = 1_200;
const HEIGHT: i64 = 180;
/// Maximum labels below the columns.
const TICKS: usize = 8;

/// The time that a column covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Minute,
    Hour,
    Day,
}

impl Step {
    /// The label of a column on the axis.
    fn label(self, at: OffsetDateTime) -> String {
        match self {
            Self::Minute | Self::Hour => format!("{:02}:{:02}", at.hour(), at.minute()),
            Self::Day => format!("{} {}", at.day(), &at.month().to_string()[..3]),
        }
    }
}

/// Completed, failed, cancelled and other executions, stacked.
pub(super) fn chart(series: &[Point], step: Step) -> Markup {
    let columns = i64::try_from(series.len()).unwrap_or(1).max(1);
    let top = series.iter().map(|point| point.counts.executions).max().unwrap_or_default();
    let scale = rounded_up(top);
    let total: i64 = series.iter().map(|point| point.counts.executions).sum();
    let failed: i64 = series.iter().map(|point| point.counts.failed).sum();
    let label = format!("{}, {} of them failed", plural(total, "execution", "executions"), count(failed));
    let viewbox = format!("0 0 {WIDTH} {HEIGHT}");
    html! {
        div.plot {
            svg.chart viewBox=(viewbox) preserveAspectRatio="none" role="img" aria-label=(label) {
                @for y in [1, HEIGHT / 2, HEIGHT - 1] { line.grid x1="0" x2=(WIDTH) y1=(y) y2=(y) {} }
                @for (at, point) in (0..).zip(series) {
                    @let left = at * WIDTH / columns;
                    @let width = ((at + 1) * WIDTH / columns - left).max(2);
                    g.column {
                        rect.hit x=(left) y="0" width=(width) height=(HEIGHT) { title { (describe(point)) } }
                        @for (kind, y, height) in stacked(&point.counts, scale) {
                            rect.(kind) x=(left + 1) y=(y) width=((width - 2).max(1)) height=(height) {}
                        }
                    }
                }
            }
            div.scale aria-hidden="true" { span { (short(scale, scale)) } span { (short(scale / 2, scale)) } span { "0" } }
        }
        div.ticks aria-hidden="true" {
            @for point in series.iter().step_by(tick_step(series.len())) { span { (step.label(point.at)) } }
        }
    }
}

/// Columns between two labels: a divisor of their number, so that all labels have the same width.
fn tick_step(columns: usize) -> usize {
    let divides = |step: &usize| columns.is_multiple_of(*step) && columns / step <= TICKS;
    (1..=columns).find(divides).unwrap_or(1)
}

/// The parts of a column from the bottom: kind, top and height.
fn stacked(counts: &Counts, scale: i64) -> Vec<(&'static str, i64, i64)> {
    let mut bottom = HEIGHT;
    let parts = [
        ("bad", counts.failed),
        ("muted", counts.cancelled),
        ("run", counts.other),
        ("ok", counts.completed),
    ];
    parts
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(kind, count)| {
            // A few failures among many executions are visible.
            let height = (count * HEIGHT / scale.max(1)).max(2).min(bottom);
            bottom -= height;
            (kind, bottom, height)
        })
        .collect()
}

fn describe(point: &Point) -> String {
    let at = point.at.format(&Rfc3339).unwrap_or_default();
    let Counts { executions, completed, failed, cancelled, other, .. } = point.counts;
    let parts = [(completed, "completed"), (failed, "failed"), (cancelled, "cancelled"), (other, "running")];
    let parts: Vec<_> = parts
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, name)| format!("{} {name}", count(*number)))
        .collect();
    let total = plural(executions, "execution", "executions");
    if parts.is_empty() { format!("{at}: {total}") } else { format!("{at}: {total} ({})", parts.join(", ")) }
}

/// The next of 2, 4, 6, 8, 10, 20, 40, 60, …
fn rounded_up(top: i64) -> i64 {
    let mut power = 1;
    loop {
        for step in [2, 4, 6, 8, 10] {
            if top <= step * power {
                return step * power;
            }
        }
        power *= 10;
    }
}

/// A number for an axis that ends at `scale`: `40k`. All numbers of an axis have the same unit.
fn short(number: i64, scale: i64) -> String {
    match scale {
        ..10_000 => count(number),
        10_000..10_000_000 => format!("{}k", number / 1_000),
        _ => format!("{}M", number / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_is_a_round_number() {
        let scales = [0, 1, 2, 3, 5, 11, 21, 61, 99, 101].map(rounded_up);
        assert_eq!(scales, [2, 2, 2, 4, 6, 20, 40, 80, 100, 200]);
        let ends = [8_000, 10_000, 20_000_000];
        assert_eq!(ends.map(|scale| short(scale, scale)), ["8\u{202f}000", "10k", "20M"]);
        assert_eq!(ends.map(|scale| short(scale / 2, scale)), ["4\u{202f}000", "5k", "10M"]);
    }

    #[test]
    fn each_label_covers_the_same_number_of_columns() {
        assert_eq!([0, 7, 24, 30, 60].map(tick_step), [1, 1, 3, 5, 10]);
    }

    #[test]
    fn one_failure_among_many_executions_is_visible() {
        let parts = stacked(&[10_000, 9_999, 1, 0, 0].into(), 10_000);
        assert_eq!(parts, [("bad", 178, 2), ("ok", 0, 178)]);
    }
}
