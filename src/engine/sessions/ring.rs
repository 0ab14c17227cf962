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
pub(super) struct KeyRing {
    keys: Vec<(SigningKey, Timestamp)>,
    /// From then on, a key may sign soon that is not among these.
    stale_from: Timestamp,
}

impl KeyRing {
    /// Returns the keys of the application, of which the first signs.
    pub(super) fn of_application(keys: &[SigningKey]) -> Self {
        let from = |index| if index == 0 { Timestamp::MIN } else { Timestamp::MAX };
        let keys = keys.iter().enumerate().map(|(index, key)| (key.clone(), from(index)));
        Self { keys: keys.collect(), stale_from: Timestamp::MAX }
    }

    /// Returns the keys of a store as they were at `read_at`, oldest first. The oldest one signs at once.
    pub(super) fn of_store(stored: &[StoredSigningKey], read_at: Timestamp) -> Self {
        let key = |(index, row): (usize, &StoredSigningKey)| {
            let key = SessionAlgorithm::from_name(&row.algorithm)
                .and_then(|algorithm| stored_key(algorithm, &row.kid, &row.secret));
            if key.is_none() {
                tracing::error!(kid = row.kid, "a signing key of the store cannot be used");
            }
            let published = later(row.created_at, PUBLISHED);
            Some((key?, if index == 0 { Timestamp::MIN } else { published }))
        };
        let keys = stored.iter().enumerate().filter_map(key).collect();
        Self { keys, stale_from: later(read_at, PUBLISHED / 2) }
    }

    pub(super) fn is_stale(&self, now: Timestamp) -> bool {
        self.stale_from <= now
    }

    /// Returns the key that signs at `now`: the newest that may, of this algorithm if there is one.
    pub(super) fn signing(
        &self,
        algorithm: SessionAlgorithm,
        now: Timestamp,
    ) -> Option<&SigningKey> {
        let ready = || self.keys.iter().rev().filter(|(_, from)| *from <= now).map(|(key, _)| key);
        ready().find(|key| key.algorithm() == algorithm).or_else(|| ready().next())
    }

    /// Returns the keys with this `kid`. Those of an application may share one.
    pub(super) fn named(&self, kid: &str) -> impl Iterator<Item = &SigningKey> {
        self.keys.iter().map(|(key, _)| key).filter(move |key| key.kid() == kid)
    }
}

fn stored_key(algorithm: SessionAlgorithm, kid: &str, secret: &[u8]) -> Option<SigningKey> {
    match algorithm {
        SessionAlgorithm::EdDsa => SigningKey::ed25519(kid, secret.try_into().ok()?).ok(),
        SessionAlgorithm::Hs256 => SigningKey::hs256(kid, secret).ok(),
    }
}
