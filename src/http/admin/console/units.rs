//! Numbers with their units.

use maud::{Markup, html};

use crate::words;

/// A duration, such as `350 ms`, `8.2 s` or `4 min 5 s`.
pub(super) fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 0.9995 => format!("{:.0} ms", s * 1_000.0),
        s if s < 99.95 => format!("{s:.1} s"),
        s if s < 7_200.0 => format!("{} min {} s", (s / 60.0).floor(), (s % 60.0).floor()),
        s => format!("{} h {} min", (s / 3_600.0).floor(), (s % 3_600.0 / 60.0).floor()),
    }
}

/// A cost in the sender's unit; the title is the exact value.
pub(super) fn cost(number: &str) -> Markup {
    html! { span title=(number) { (words::cost(number)) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_few_digits() {
        let durations = [0.0, 0.35, 7.5, 163.0, 7_260.0].map(seconds);
        assert_eq!(durations, ["0 ms", "350 ms", "7.5 s", "2 min 43 s", "2 h 1 min"]);
    }
}
