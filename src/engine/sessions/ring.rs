//! The signing keys in use: one signs, all verify.

use std::time::Duration;

use jiff::Timestamp;

use super::signing_key::{SessionAlgorithm, SigningKey};
use crate::model::StoredSigningKey;
use crate::model::clock::later;

/// How long a new key is only accepted before it signs. Until then, every process has read it.
pub(super) const PUBLISHED: Duration = Duration::from_secs(5 * 60);

/// The keys, oldest first, each with the instant from which it signs.
#[derive(Clone, Debug)]
pub(super) struct KeyRing(Vec<(SigningKey, Timestamp)>);

impl KeyRing {
    /// Returns the keys of the application, of which the first signs.
    pub(super) fn of_application(keys: &[SigningKey]) -> Self {
        let from = |index| if index == 0 { Timestamp::MIN } else { Timestamp::MAX };
        Self(keys.iter().enumerate().map(|(index, key)| (key.clone(), from(index))).collect())
    }

    /// Returns the keys of a store, oldest first. The oldest one signs at once.
    pub(super) fn of_store(stored: &[StoredSigningKey]) -> Self {
        let key = |(index, row): (usize, &StoredSigningKey)| {
            let key = SessionAlgorithm::from_name(&row.algorithm)
                .and_then(|algorithm| stored_key(algorithm, &row.kid, &row.secret));
            if key.is_none() {
                tracing::error!(kid = row.kid, "a signing key of the store cannot be used");
            }
            let published = later(row.created_at, PUBLISHED);
            Some((key?, if index == 0 { Timestamp::MIN } else { published }))
        };
        Self(stored.iter().enumerate().filter_map(key).collect())
    }

    /// Returns the key that signs at `now`: the newest that may, of this algorithm if there is one.
    pub(super) fn signing(
        &self,
        algorithm: SessionAlgorithm,
        now: Timestamp,
    ) -> Option<&SigningKey> {
        let ready = || self.0.iter().rev().filter(|(_, from)| *from <= now).map(|(key, _)| key);
        ready().find(|key| key.algorithm() == algorithm).or_else(|| ready().next())
    }

    pub(super) fn get(&self, kid: &str) -> Option<SigningKey> {
        self.0.iter().map(|(key, _)| key).find(|key| key.kid() == kid).cloned()
    }
}

fn stored_key(algorithm: SessionAlgorithm, kid: &str, secret: &[u8]) -> Option<SigningKey> {
    match algorithm {
        SessionAlgorithm::EdDsa => SigningKey::ed25519(kid, secret.try_into().ok()?).ok(),
        SessionAlgorithm::Hs256 => SigningKey::hs256(kid, secret).ok(),
    }
}
