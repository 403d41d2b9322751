//! Checks whether `jsonb` can hold a JSON text.
//!
//! jsonb rejects U+0000, lone surrogates and numbers beyond `numeric`, and runs out of stack on deep nesting. PostgreSQL
//! would reject a whole batch for one such text, so texts are checked before they are recorded. jsonb also keeps only the
//! last value of a repeated key.
//!
//! jsonb writes numbers without exponents: the five characters `1e308` become 309. A text that would become much longer
//! counts as one that jsonb cannot hold, too.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::values::end_of_string;

/// How much of a text jsonb can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// Everything.
    Whole,
    /// Everything except the earlier values of a repeated key.
    Partly,
    /// Nothing, or only as a much longer text.
    Not,
}

/// Exponents may make a text longer by half of its length plus this many bytes.
const FREE_EXPANSION: usize = 64 << 10;
/// More than the largest exponent of `numeric`, in either direction.
const MAX_EXPONENT: usize = 200_000;

/// How much of `text` jsonb can hold. The limits of `serde_json` are lower than those of jsonb: nesting deeper than 127
/// levels and numbers beyond a double do not fit.
pub(crate) fn fit(text: &str) -> Fit {
    let mut seen = Seen::default();
    let mut json = serde_json::Deserializer::from_str(text);
    match json.deserialize_any(&mut seen).and_then(|()| json.end()) {
        Err(_) => Fit::Not,
        Ok(()) if seen.large_exponent && expands(text) => Fit::Not,
        Ok(()) if seen.repeated => Fit::Partly,
        Ok(()) => Fit::Whole,
    }
}

/// Whether the text would become much longer in jsonb.
pub(crate) fn expands(text: &str) -> bool {
    expansion(text) > text.len() / 2 + FREE_EXPANSION
}

/// An upper bound for the digits that are added when the numbers of a JSON text are written without exponents.
pub(crate) fn expansion(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut at, mut expansion) = (0, 0_usize);
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'"' => at = end_of_string(bytes, at - 1).unwrap_or(bytes.len()),
            // Outside of strings, only numbers have a digit before an e.
            b'e' | b'E' if at >= 2 && bytes[at - 2].is_ascii_digit() => {
                let mut exponent = 0;
                at += usize::from(matches!(bytes.get(at), Some(b'+' | b'-')));
                while let Some(digit) = bytes.get(at).filter(|byte| byte.is_ascii_digit()) {
                    exponent = (exponent * 10 + usize::from(digit - b'0')).min(MAX_EXPONENT);
                    at += 1;
                }
                expansion = expansion.saturating_add(exponent);
            }
            _ => {}
        }
    }
    expansion
}

/// The findings of a walk.
#[derive(Default)]
struct Seen {
    /// A repeated key.
    repeated: bool,
    /// A number that may have a large exponent.
    large_exponent: bool,
}

impl<'de> DeserializeSeed<'de> for &mut Seen {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Seen {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        // A number that is too small for a double is 0 here.
        self.large_exponent |= number == 0.0 || !(1e-9..1e15).contains(&number.abs());
        Ok(())
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        if text.contains('\0') { Err(E::custom("U+0000")) } else { Ok(()) }
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        while array.next_element_seed(&mut *self)?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let mut keys = Keys::default();
        while let Some(Key(key)) = object.next_key()? {
            if key.contains('\0') {
                return Err(A::Error::custom("U+0000"));
            }
            object.next_value_seed(&mut *self)?;
            self.repeated |= keys.add(key);
        }
        Ok(())
    }
}

/// A key, borrowed from the text if it has no escape.
#[derive(Deserialize)]
struct Key<'t>(#[serde(borrow)] Cow<'t, str>);

/// The keys of one object. The first 16 are compared one by one, the others are hashed: most objects have few keys.
#[derive(Default)]
struct Keys<'de> {
    few: Vec<Cow<'de, str>>,
    many: HashSet<Cow<'de, str>>,
}

impl<'de> Keys<'de> {
    /// Adds a key. Returns whether the object had it before.
    fn add(&mut self, key: Cow<'de, str>) -> bool {
        const FEW: usize = 16;
        if self.few.len() < FEW {
            let is_repeated = self.few.contains(&key);
            self.few.push(key);
            return is_repeated;
        }
        self.few.contains(&key) || !self.many.insert(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_jsonb_would_write_much_longer_does_not_fit() {
        let numbers = |number: &str, count: usize| format!("[{}]", vec![number; count].join(","));
        for number in ["1e308", "-1.5E+300", "1e-308", "1e-16000", "0e-400", "0.0e-16383"] {
            assert_eq!(fit(&numbers(number, 10_000)), Fit::Not, "{number}");
            assert_eq!(fit(&numbers(number, 3)), Fit::Whole, "{number}");
        }
        for number in ["1e5", "0.0", "1.5e-4", "0.000000000000000000001", "\"1e308\"", "\"\\\"1e308\""] {
            assert_eq!(fit(&numbers(number, 10_000)), Fit::Whole, "{number}");
        }
        assert_eq!(expansion(r#"{"1e9":[1e3,-2.5E-7,true,"a\"1e9"],"b\\":3e+2}"#), 3 + 7 + 2);
        assert_eq!(expansion("1e99999999999999999999"), MAX_EXPONENT);
    }

    #[test]
    fn texts_that_jsonb_rejects_or_shortens_are_recognised() {
        let keys: Vec<_> = (0..40).map(|n| format!("\"k{n}\":{n}")).collect();
        let and = |last: &str| format!("{{{},\"{last}\":0}}", keys.join(","));
        let (distinct, early, late) = (and("z"), and("k3"), and("k38"));
        for whole in [
            r#"{"a":[1,-2.5,true,null,"\ud83d\ude00"],"b":{"a":1}}"#,
            "123456789012345678901234567890",
            r#""""#,
            &distinct,
        ] {
            assert_eq!(fit(whole), Fit::Whole, "{whole}");
        }
        for partly in [r#"{"a":1,"a":1}"#, r#"[{"x":{"\u0061":1,"a":2}}]"#, &early, &late] {
            assert_eq!(fit(partly), Fit::Partly, "{partly}");
        }
        let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
        for not in [r#""\u0000""#, r#"{"\u0000":1}"#, r#"["\ud800"]"#, r#"{"\udc00":1}"#, "1e400", &deep] {
            assert_eq!(fit(not), Fit::Not, "{not}");
        }
    }
}
