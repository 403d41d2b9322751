//! What `jsonb` can hold of a JSON text.
//!
//! jsonb refuses U+0000, lone surrogates and numbers beyond `numeric`, runs out of stack on deep
//! nesting, and keeps only the last of a key given twice. PostgreSQL would refuse a whole batch
//! for one such text, so it is found out before.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// How well jsonb holds a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// All of it.
    Whole,
    /// It would drop a value, since a key is given twice.
    Partly,
    /// Not at all.
    Not,
}

/// Deeper nesting than 127 levels (what `serde_json` walks) counts as too deep.
pub(super) fn fit(text: &str) -> Fit {
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
        let mut keys = Keys::default();
        while let Some(Key(key)) = object.next_key()? {
            if key.contains('\0') {
                return Err(A::Error::custom("U+0000"));
            }
            object.next_value_seed(Walk { repeated: &mut *self.repeated })?;
            *self.repeated |= keys.is_there(key);
        }
        Ok(())
    }
}

/// A key, borrowed from the text where it holds no escape.
struct Key<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// The keys of one object. Most have few, which are compared; many are hashed.
#[derive(Default)]
struct Keys<'de> {
    few: Vec<Cow<'de, str>>,
    many: HashSet<Cow<'de, str>>,
}

impl<'de> Keys<'de> {
    /// Whether `key` came before; it has come now.
    fn is_there(&mut self, key: Cow<'de, str>) -> bool {
        const FEW: usize = 16;
        if self.few.len() < FEW {
            let there = self.few.contains(&key);
            self.few.push(key);
            return there;
        }
        self.few.contains(&key) || !self.many.insert(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_jsonb_refuses_is_told_from_what_it_holds() {
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
