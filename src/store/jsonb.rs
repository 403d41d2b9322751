//! What `jsonb` can hold of a JSON text.
//!
//! jsonb refuses U+0000, lone surrogates and numbers beyond `numeric`, runs out of stack on deep
//! nesting, and keeps only the last of a key given twice. PostgreSQL would refuse a whole batch
//! for one such text, so it is found out before.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// How well jsonb holds a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// All of it.
    Whole,
    /// It would drop a value, since a key is given twice.
    Partly,
    /// Not at all.
    Not,
}

/// Deeper nesting than 127 levels (what `serde_json` walks) counts as too deep.
pub(crate) fn fit(text: &str) -> Fit {
    let mut repeated = false;
    let mut json = serde_json::Deserializer::from_str(text);
    match (Walk { repeated: &mut repeated }).deserialize(&mut json).and_then(|()| json.end()) {
        Err(_) => Fit::Not,
        Ok(()) if repeated => Fit::Partly,
        Ok(()) => Fit::Whole,
    }
}

struct Walk<'r> {
    repeated: &'r mut bool,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
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
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        if text.contains('\0') { Err(E::custom("U+0000")) } else { Ok(()) }
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        while array.next_element_seed(Walk { repeated: &mut *self.repeated })?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = object.next_key::<String>()? {
            if key.contains('\0') {
                return Err(A::Error::custom("U+0000"));
            }
            object.next_value_seed(Walk { repeated: &mut *self.repeated })?;
            *self.repeated |= !keys.insert(key);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_jsonb_refuses_is_told_from_what_it_holds() {
        for whole in [
            r#"{"a":[1,-2.5,true,null,"\ud83d\ude00"],"b":{"a":1}}"#,
            "123456789012345678901234567890",
            r#""""#,
        ] {
            assert_eq!(fit(whole), Fit::Whole, "{whole}");
        }
        for partly in [r#"{"a":1,"a":1}"#, r#"[{"x":{"\u0061":1,"a":2}}]"#] {
            assert_eq!(fit(partly), Fit::Partly, "{partly}");
        }
        let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
        for not in [r#""\u0000""#, r#"{"\u0000":1}"#, r#"["\ud800"]"#, r#"{"\udc00":1}"#, "1e400", &deep] {
            assert_eq!(fit(not), Fit::Not, "{not}");
        }
    }
}
