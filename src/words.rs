//! Numbers in texts for people.

use std::fmt::Display;

/// The smallest cost that has a digit.
const MIN_COST: f64 = 0.0001;

/// `1 delivery`, `2 deliveries`.
pub(crate) fn counted<N: Display + Copy + Into<i128>>(number: N, one: &str, many: &str) -> String {
    format!("{number} {}", if number.into() == 1 { one } else { many })
}

/// A cost in the sender's unit with four decimals, so that a column of costs is aligned: `1.5000`, `<0.0001`. A text that is
/// not a number stays as it is.
pub(crate) fn cost(number: &str) -> String {
    match number.parse::<f64>() {
        Ok(cost) if cost > 0.0 && cost < MIN_COST => format!("<{MIN_COST}"),
        Ok(cost) => format!("{cost:.4}"),
        Err(_) => number.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_have_four_decimals() {
        assert_eq!(
            ["0.4125", "1.50", "0", "0.000012", "3.14159", "12345"].map(cost),
            ["0.4125", "1.5000", "0.0000", "<0.0001", "3.1416", "12345.0000"]
        );
    }
}
