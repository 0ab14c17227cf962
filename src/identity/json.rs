//! JSON objects without a repeated member, which two readers could understand differently.

use std::collections::HashSet;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Reads an object in which no object has the same member twice. Returns `None` for any other text.
///
/// RFC 7519 §4 and RFC 7515 §4 let a reader refuse repeated members, or take the last one.
pub(super) fn parse_object(text: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_slice::<Distinct>(text).ok()?;
    serde_json::from_slice(text).ok()
}

/// Any JSON, of which only the names of members are looked at.
///
/// The values are read by `serde_json` in a second pass: how it passes numbers to another reader
/// depends on features that the application's dependencies decide.
struct Distinct;

impl<'de> Deserialize<'de> for Distinct {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DistinctVisitor)
    }
}

struct DistinctVisitor;

impl<'de> Visitor<'de> for DistinctVisitor {
    type Value = Distinct;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without repeated members")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_str<E>(self, _: &str) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_unit<E>(self) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Distinct, A::Error> {
        while items.next_element::<Distinct>()?.is_some() {}
        Ok(Distinct)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Distinct, A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = members.next_key::<String>()? {
            if !names.insert(name) {
                // The rest is read, because a reader of JSON expects it.
                members.next_value::<IgnoredAny>()?;
                return Err(de::Error::custom("a member is repeated"));
            }
            members.next_value::<Distinct>()?;
        }
        Ok(Distinct)
    }
}

#[cfg(test)]
mod tests {
    use super::parse_object;

    #[test]
    fn an_object_is_read_unless_a_member_is_repeated() {
        let read = parse_object(br#" {"a": [1, 2.5, null, true, "x"], "b": {"a": -1}} "#).unwrap();
        let expected = serde_json::json!({"a": [1, 2.5, null, true, "x"], "b": {"a": -1}});
        assert_eq!(serde_json::Value::from(read), expected);
        for refused in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"b":{"a":1,"a":2}}"#,
            r#"{"b":[{"a":1,"a":2}]}"#,
            r#"[{"a":1}]"#,
            r#"{"a":1} {"#,
            "",
            "null",
        ] {
            assert_eq!(parse_object(refused.as_bytes()), None, "{refused}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(parse_object(format!(r#"{{"a":{deep}"#).as_bytes()), None);
    }
}
