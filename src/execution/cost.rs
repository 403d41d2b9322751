//! Parses costs exactly, so that the receiver can add them without rounding errors.

/// The cost in units of 10⁻¹², rounded half away from zero like `sensible_cost` in SQL. `None` if it is not below 10¹²: no
/// execution costs that much. `number` is in the format of JSON or of PostgreSQL.
pub(crate) fn picos(number: &str) -> Option<i128> {
    let (decimal, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (sign, decimal) = decimal.strip_prefix('-').map_or((1, decimal), |decimal| (-1, decimal));
    let (whole, fraction) = decimal.split_once('.').unwrap_or((decimal, ""));
    let digits = [whole, fraction].concat();
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Some(0);
    }
    // The number of digits before the decimal point of the cost in units of 10⁻¹².
    let scale = i64::try_from(digits.len()).ok()? - i64::try_from(fraction.len()).ok()?;
    let before = scale.checked_add(exponent.parse::<i64>().ok()?)?.checked_add(12)?;
    if before > 24 {
        return None;
    }
    let Ok(before) = usize::try_from(before) else { return Some(0) };
    let whole = format!("{:0<before$}", &digits[..before.min(digits.len())]);
    let whole = if before == 0 { 0 } else { whole.parse::<i128>().ok()? };
    let rounded = digits.as_bytes().get(before).is_some_and(|digit| *digit >= b'5');
    Some(sign * (whole + i128::from(rounded)))
}

#[cfg(test)]
mod tests {
    use super::picos;

    #[test]
    fn a_cost_is_exact_to_the_last_digit() {
        const ONE: i128 = 1_000_000_000_000;
        for (written, cost) in [
            ("0", 0),
            ("-0.000e999999999999999999", 0),
            ("1", ONE),
            ("-1.5", -ONE * 3 / 2),
            ("0.25e2", 25 * ONE),
            ("1E+3", 1000 * ONE),
            ("0.042000", ONE * 42 / 1000),
            ("120e-2", ONE * 12 / 10),
            ("0.0000000000004", 0),
            ("0.0000000000005", 1),
            ("-5e-13", -1),
            ("0.00000000000149", 1),
            ("0.00000000000249999999999999999999999999999999999999999999999", 2),
            ("1e-400", 0),
            ("99999999999.9999999999999", 100_000_000_000 * ONE),
            ("999999999999.9999999999999", ONE * ONE),
            ("999999999999", 999_999_999_999 * ONE),
        ] {
            assert_eq!(picos(written), Some(cost), "{written}");
        }
        for none in ["1e12", "-1000000000000", "9e131071", "1e99999999999999999999"] {
            assert_eq!(picos(none), None, "{none}");
        }
    }
}
