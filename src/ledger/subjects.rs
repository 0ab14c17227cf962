//! The keys of subjects, and who may make one.

use std::time::Duration;

use serde_json::Value;

use crate::model::{ChangeError, Key, KeyId, PostingId, Subject, TokenHash};

/// A subject that gets a key.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct NewSubject {
    pub subject: Subject,
    /// Who acts for the subject, as its credential said at first sight: the last one first.
    pub actors: Vec<Actor>,
}

/// An actor of the claim `act` (RFC 8693 §4.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Actor {
    pub issuer: Option<String>,
    pub id: Option<String>,
}

/// A claim to be the one who makes the key of a subject that was never seen before.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct FirstSeenClaim {
    /// What the subject is found by.
    pub subject: TokenHash,
    pub owner: PostingId,
    /// How long the claim keeps others out. A claim of the same owner is renewed.
    pub lease: Duration,
}

impl NewSubject {
    /// Checks the key that a store has found for the subject; `None` where its row is out of service.
    ///
    /// # Errors
    ///
    /// [`ChangeError::Invalid`] where the application has given its row another subject, or the row is
    /// out of service.
    pub fn check_found(&self, id: KeyId, key: Option<&Key>) -> Result<Key, ChangeError> {
        let reason = match key {
            Some(key) if key.subject.as_ref() == Some(&self.subject) => return Ok(key.clone()),
            Some(_) => "whose row has another subject now: put it back",
            None => "whose row is out of service: correct it",
        };
        Err(ChangeError::invalid("subject", format!("has key {id}, {reason}")))
    }
}

impl Actor {
    /// The most actors of a chain that are kept.
    const MAX: usize = 8;
    /// The most bytes of a text that are kept.
    const MAX_LEN: usize = 255;

    /// Reads the chain of a claim `act`, as far as it is kept: `iss` and `sub` of the first eight
    /// actors.
    pub fn chain(mut claim: Option<&Value>) -> Vec<Self> {
        let mut actors = Vec::new();
        while let Some(Value::Object(actor)) = claim
            && actors.len() < Self::MAX
        {
            let text = |name: &str| actor.get(name).and_then(Value::as_str).map(kept);
            actors.push(Self { issuer: text("iss"), id: text("sub") });
            claim = actor.get("act");
        }
        actors
    }

    pub(super) fn json(&self) -> Value {
        let mut members = serde_json::Map::new();
        members.extend(self.issuer.clone().map(|issuer| ("iss".to_owned(), issuer.into())));
        members.extend(self.id.clone().map(|id| ("sub".to_owned(), id.into())));
        members.into()
    }
}

/// Returns a text without control characters, which PostgreSQL does not store in JSON, and cut.
fn kept(text: &str) -> String {
    let mut text: String = text.chars().filter(|c| !c.is_control()).take(Actor::MAX_LEN).collect();
    text.truncate(text.floor_char_boundary(Actor::MAX_LEN));
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_chain_of_actors_is_kept_within_bounds() {
        let deep = (0..20).rfold(Value::Null, |act, n| json!({"sub": format!("a{n}"), "act": act}));
        let chain = Actor::chain(Some(&deep));
        assert_eq!(chain.len(), 8);
        assert_eq!(chain.first().unwrap().id.as_deref(), Some("a0"));

        let long = "é".repeat(1_000);
        let act =
            json!({"sub": long, "iss": "a\u{0}b", "email": "x@example.com", "act": "no object"});
        let chain = Actor::chain(Some(&act));
        assert_eq!(chain.len(), 1);
        assert_eq!(chain[0].id.as_deref(), Some(&*"é".repeat(127)));
        assert_eq!(chain[0].json(), json!({"iss": "ab", "sub": "é".repeat(127)}));
        assert_eq!(Actor::chain(None), []);
        assert_eq!(Actor::chain(Some(&json!(["act"]))), []);
    }
}
