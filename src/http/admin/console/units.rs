//! Numbers with their units.

/// A duration, such as `350 ms`, `8.2 s` or `4 min 5 s`.
pub(super) fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 0.9995 => format!("{:.0} ms", s * 1_000.0),
        s if s < 99.95 => format!("{s:.1} s"),
        s if s < 7_200.0 => format!("{} min {} s", (s / 60.0).floor(), (s % 60.0).floor()),
        s => format!("{} h {} min", (s / 3_600.0).floor(), (s % 3_600.0 / 60.0).floor()),
    }
}

/// A cost in the sender's unit, with at most four decimals; a smaller cost keeps its digits.
pub(super) fn cost(number: &str) -> String {
    match number.parse::<f64>() {
        Ok(cost) if cost == 0.0 || cost.abs() >= 0.0001 => {
            let text = format!("{cost:.4}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        _ => number.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_costs_have_few_digits() {
        let durations = [0.0, 0.35, 7.5, 163.0, 7_260.0].map(seconds);
        assert_eq!(durations, ["0 ms", "350 ms", "7.5 s", "2 min 43 s", "2 h 1 min"]);
        assert_eq!(
            ["0.4125", "1.50", "0", "0.000012", "3.14159"].map(cost),
            ["0.4125", "1.5", "0", "0.000012", "3.1416"]
        );
    }
}
