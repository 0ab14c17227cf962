//! A JWK set (RFC 7517 §5), of which each entry is read by itself.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::jwk::{Key, Unusable};
use super::token::Token;

/// The most keys that are kept of a set. Further ones are left out.
const MAX_KEYS: usize = 10_000;
/// The most keys that are tried for one token: those with its `kid`, or all that fit where it has none.
const MAX_TRIES: usize = 16;
/// The most entries of a set that are logged one by one.
const MAX_LOGGED: usize = 10;

/// The keys of an issuer.
#[derive(Debug)]
pub(super) struct KeySet {
    keys: Vec<Key>,
    by_kid: HashMap<String, Vec<usize>>,
    /// A secret has no `kid`, and is for tokens with any.
    ignores_kid: bool,
}

/// What a key set says of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// One of the keys signed it.
    Signed,
    /// It names a key of the set, and that one did not sign it.
    Forged,
    /// It names a key that is not in the set, or none and no key of the set signed it.
    Unknown,
}

impl KeySet {
    pub(super) fn of_secret(secret: Key) -> Self {
        Self { keys: vec![secret], by_kid: HashMap::new(), ignores_kid: true }
    }

    /// Reads a set. An entry that cannot be used is left out and logged.
    ///
    /// # Errors
    ///
    /// Where the text is no JSON object with an array `keys`.
    pub(super) fn parse(issuer: &str, text: &[u8]) -> Result<Self, serde_json::Error> {
        let mut read = Reading::default();
        let mut json = serde_json::Deserializer::from_slice(text);
        (&mut json).deserialize_map(SetVisitor(&mut read))?;
        json.end()?;
        let Reading { keys, faulty, .. } = read;
        if faulty > 0 {
            tracing::warn!(issuer, faulty, usable = keys.len(), "keys of an issuer are left out");
        }
        let mut by_kid = HashMap::<String, Vec<usize>>::new();
        for (index, key) in keys.iter().enumerate() {
            if let Some(kid) = &key.kid {
                by_kid.entry(kid.clone()).or_default().push(index);
            }
        }
        Ok(Self { keys, by_kid, ignores_kid: false })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns who signed a token, as far as this set tells.
    pub(super) fn find(&self, token: &Token<'_>) -> Finding {
        let named = match token.kid.as_deref().filter(|_| !self.ignores_kid) {
            None => {
                let fitting = self.keys.iter().filter(|key| key.fits(token.algorithm));
                let signed = fitting.take(MAX_TRIES).any(|key| key.has_signed(token));
                return if signed { Finding::Signed } else { Finding::Unknown };
            }
            Some(kid) => self.by_kid.get(kid),
        };
        let Some(named) = named else { return Finding::Unknown };
        let mut named = named.iter().take(MAX_TRIES).filter_map(|index| self.keys.get(*index));
        if named.any(|key| key.has_signed(token)) { Finding::Signed } else { Finding::Forged }
    }
}

/// What is read of a set so far.
#[derive(Default)]
struct Reading {
    keys: Vec<Key>,
    faulty: usize,
    has_keys: bool,
}

impl Reading {
    fn take(&mut self, entry: &Value) {
        let reason = match Key::from_jwk(entry) {
            Ok(_) if self.keys.len() >= MAX_KEYS => "there are too many",
            Ok(key) => return self.keys.push(key),
            Err(Unusable::OtherUse) => return,
            Err(Unusable::Faulty(reason)) => reason,
        };
        self.faulty += 1;
        if self.faulty <= MAX_LOGGED {
            let kid = entry.get("kid").and_then(Value::as_str).unwrap_or_default();
            let kid = kid.get(..64).unwrap_or(kid);
            tracing::warn!(kid, reason, "a key of an issuer is left out");
        }
    }
}

struct SetVisitor<'a>(&'a mut Reading);

impl<'de> Visitor<'de> for SetVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JWK set")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(name) = members.next_key::<String>()? {
            if name != "keys" {
                members.next_value::<IgnoredAny>()?;
            } else if std::mem::replace(&mut self.0.has_keys, true) {
                return Err(A::Error::duplicate_field("keys"));
            } else {
                members.next_value_seed(Entries(self.0))?;
            }
        }
        if self.0.has_keys { Ok(()) } else { Err(A::Error::missing_field("keys")) }
    }
}

/// The array `keys`, of which one entry at a time is in memory.
struct Entries<'a>(&'a mut Reading);

impl<'de> serde::de::DeserializeSeed<'de> for Entries<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of keys")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while let Some(entry) = entries.next_element::<Value>()? {
            self.0.take(&entry);
        }
        Ok(())
    }
}
