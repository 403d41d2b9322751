//! Parts that pages share. The classes are those of `assets/console.css`.

#![expect(clippy::needless_pass_by_value, reason = "calls with `html! { … }` are shorter")]

use maud::{Markup, html};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use super::params::{PERIODS, Params};
use super::text::{visible, visible_attribute};
use crate::auth::ANYONE;
use crate::execution::status::{COMPLETED, class};

/// A message in a box. `kind` is `info`, `ok`, `warn` or `bad`.
pub(super) fn notice(kind: &str, content: Markup) -> Markup {
    html! { div.notice.(kind) role=(if kind == "bad" { "alert" } else { "status" }) { (content) } }
}

/// Replaces a list without rows. `next` is the operator's next step.
pub(super) fn empty(title: &str, next: Markup) -> Markup {
    html! { div.empty { h2 { (title) } p { (next) } } }
}

/// The status of an execution, in its colour.
pub(super) fn status(status: &str) -> Markup {
    let kind = match class(status) {
        COMPLETED => "ok",
        "failed" => "bad",
        "cancelled" => "muted",
        _ => "run",
    };
    badge(kind, visible(status))
}

/// A short label. `kind` is `ok`, `bad`, `warn`, `run` or `muted`.
pub(super) fn badge(kind: &str, text: Markup) -> Markup {
    html! { span.badge.(kind) { (text) } }
}

/// A time as how long ago; the title is the exact time.
pub(super) fn ago(at: OffsetDateTime) -> Markup {
    let exact = at.truncate_to_second().format(&Rfc3339).unwrap_or_default();
    html! { time datetime=(exact) title=(exact) { (relative(OffsetDateTime::now_utc() - at)) } }
}

/// A time that may be in the future, such as `in 20 min`.
pub(super) fn due(at: OffsetDateTime) -> Markup {
    let left = u64::try_from((at - OffsetDateTime::now_utc()).whole_seconds()).unwrap_or_default();
    if left == 0 {
        return ago(at);
    }
    let exact = at.truncate_to_second().format(&Rfc3339).unwrap_or_default();
    html! { time datetime=(exact) title={ "Due at " (exact) } { "in " (duration(left)) } }
}

/// `12 s ago`. A time in the future counts as now.
fn relative(age: Duration) -> String {
    let seconds = age.whole_seconds();
    match seconds {
        ..5 => "now".to_owned(),
        5..60 => format!("{seconds} s ago"),
        60..3_600 => format!("{} min ago", seconds / 60),
        3_600..172_800 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// A duration in its largest unit, such as `3 min`.
pub(super) fn duration(seconds: u64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A count with thin spaces between groups of three digits: `12 345`.
pub(super) fn count(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = if number < 0 { "−".to_owned() } else { String::new() };
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// A size in bytes with a unit, such as `3.4 MiB`.
pub(super) fn bytes(size: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut tenths = u128::from(size) * 10;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1_024;
        unit += 1;
    }
    if unit == 0 || tenths >= 1_000 {
        format!("{} {}", tenths / 10, UNITS[unit])
    } else {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

/// A share from 0 to 1 in percent.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent == 0.0 || percent >= 10.0 { format!("{percent:.0} %") } else { format!("{percent:.1} %") }
}

/// `one` for 1, otherwise `many`: `plural(3, "delivery", "deliveries")` is `3 deliveries`.
pub(super) fn plural(number: i64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// A link that looks like a button of a group; the current one is marked.
pub(super) fn chip(href: &str, name: &str, current: bool) -> Markup {
    html! { a.chip href=(href) aria-current=[current.then_some("true")] { (name) } }
}

/// Chips for the period: `since` of the URL. `more` follows them, such as other ways to choose a period.
pub(super) fn period_chips(params: &Params, more: Markup) -> Markup {
    let since = params.get("since");
    let is_range = params.get("from").is_some() || params.get("to").is_some();
    let with = |since| params.with(&[("since", since), ("from", None), ("to", None)]);
    html! {
        div.chips role="group" aria-label="Period" {
            (chip(&with(None), "Any time", since.is_none() && !is_range))
            @for (value, name) in PERIODS { (chip(&with(Some(value)), name, since == Some(value))) }
            @if let Some(other) = since.filter(|since| PERIODS.iter().all(|(value, _)| value != since)) {
                (chip(&params.with(&[]), &visible_attribute(other), true))
            }
            (more)
        }
    }
}

/// A link to the list of the row, the actions of the row, and its title. Without a title, its identifier is the title.
pub(super) fn row_head([href, name]: [&str; 2], id: &str, title: Option<Markup>, actions: Markup) -> Markup {
    let is_named = title.is_some();
    html! {
        p.crumbs {
            a href=(href) { (name) }
            @if is_named { " / " span.id title=(visible_attribute(id)) { (visible(id)) } (copy_button(id)) }
        }
        div.head {
            h1 title=[(!is_named).then(|| visible_attribute(id))] {
                span.cut { @match title { Some(title) => (title), None => (visible(id)) } }
                @if !is_named { (copy_button(id)) }
            }
            (actions)
        }
    }
}

/// The name of the operator who ran an action: the name of a token, `command line`, or that no token was needed.
pub(super) fn actor(name: &str) -> Markup {
    if name == ANYONE {
        html! { "an operator without a token" }
    } else {
        visible(name)
    }
}

/// The number of conflicts, as a link to their section.
pub(super) fn conflicts_badge(number: i64) -> Markup {
    html! { a.badge.warn href="#conflicts" { (plural(number, "conflict", "conflicts")) } }
}

/// A button that copies `text`. Hidden without JavaScript.
pub(super) fn copy_button(text: &str) -> Markup {
    html! { button.copy.plain type="button" data-copy=(text) hidden { "Copy" } }
}

/// A horizontal bar of parts. Each part has a kind, which is its colour, and a count. `total` may be larger than their sum.
pub(super) fn bar(parts: &[(&str, i64)], total: i64, label: &str) -> Markup {
    let total = total.max(parts.iter().map(|(_, count)| count).sum()).max(1);
    let mut x = 0;
    let placed: Vec<_> = parts
        .iter()
        .map(|(kind, count)| {
            let start = x;
            x += count;
            (kind, thousandths(start, total), thousandths(*count, total))
        })
        .filter(|(_, _, width)| *width > 0)
        .collect();
    html! {
        svg.bar viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label=(label) {
            @for (kind, x, width) in placed { rect.(kind) x=(x) y="0" width=(width) height="10" {} }
        }
    }
}

/// At least 4 for a positive part, so that it is visible.
fn thousandths(part: i64, total: i64) -> i64 {
    let share = i128::from(part) * 1_000 / i128::from(total);
    let share = i64::try_from(share).unwrap_or_default();
    if part > 0 { share.max(4) } else { share }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!([count(0), count(999), count(1_234_567)], ["0", "999", "1\u{202f}234\u{202f}567"]);
        assert_eq!(
            [bytes(0), bytes(1_023), bytes(1_536), bytes(5 << 30)],
            ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]
        );
        assert_eq!([percent(0.0), percent(0.034), percent(0.5)], ["0 %", "3.4 %", "50 %"]);
        let relative = [0, 59, 3_599, 86_400, 200_000].map(|age| relative(Duration::seconds(age)));
        assert_eq!(relative, ["now", "59 s ago", "59 min ago", "24 h ago", "2 d ago"]);
    }

    #[test]
    fn a_small_part_of_a_bar_is_visible() {
        let bar = bar(&[("ok", 9_999), ("bad", 1), ("run", 0)], 20_000, "progress").into_string();
        assert!(bar.contains("class=\"ok\" x=\"0\" y=\"0\" width=\"499\""), "{bar}");
        assert!(bar.contains("class=\"bad\" x=\"499\" y=\"0\" width=\"4\""), "{bar}");
        assert!(!bar.contains("run"), "{bar}");
    }
}
