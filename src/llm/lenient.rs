//! Reads JSON of which only some is known: what is not expected says nothing.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Reads the name of a member without a copy of it, and says what it means.
pub(super) struct NameOf<T>(pub(super) fn(&str) -> T);

impl<'de, T> DeserializeSeed<'de> for NameOf<T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<T> Visitor<'_> for NameOf<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<T, E> {
        Ok((self.0)(name))
    }
}

/// Reads an object, or a string.
pub(super) trait ReadMembers: Sized {
    type Value: Default;

    /// Reads the members of an object.
    fn read<'de, A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Self::Value::default())
    }

    /// Reads a string.
    fn text(self, _: &str) -> Self::Value {
        Self::Value::default()
    }
}

/// Reads what its reader reads; anything else is the default.
pub(super) struct ObjectOr<R>(pub(super) R);

impl<'de, R: ReadMembers> Visitor<'de> for ObjectOr<R> {
    type Value = R::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<R::Value, A::Error> {
        self.0.read(members)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<R::Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(R::Value::default())
    }

    fn visit_unit<E: Error>(self) -> Result<R::Value, E> {
        Ok(R::Value::default())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<R::Value, E> {
        Ok(R::Value::default())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<R::Value, E> {
        Ok(R::Value::default())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<R::Value, E> {
        Ok(R::Value::default())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<R::Value, E> {
        Ok(R::Value::default())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<R::Value, E> {
        Ok(self.0.text(text))
    }
}
