//! Numbers with their noun.

use std::fmt::Display;

/// `1 delivery`, `2 deliveries`.
pub(crate) fn counted<N: Display + Copy + Into<i128>>(number: N, one: &str, many: &str) -> String {
    format!("{number} {}", if number.into() == 1 { one } else { many })
}
