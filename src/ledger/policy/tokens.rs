//! Tokens: another one for a key, and the end of those that were rotated away.

use std::time::Duration;

use serde_json::json;

use super::writes::{KeyRecord, KeyWrite};
use crate::ledger::checks::check_not_revoked;
use crate::ledger::events;
use crate::model::clock::later;
use crate::model::{ChangeError, EventKind, Key, Lineage, Token, TokenHash};

/// What a store keeps of a token.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct NewToken {
    pub hash: TokenHash,
    pub prefix: String,
    pub start: String,
}

impl NewToken {
    pub(crate) fn from_token(token: &Token) -> Self {
        Self {
            hash: token.hash(),
            prefix: token.prefix().to_owned(),
            start: token.start().to_owned(),
        }
    }

    pub(super) fn rotate(
        &self,
        lineage: &Lineage,
        grace: Duration,
    ) -> Result<KeyWrite, ChangeError> {
        check_not_revoked(lineage)?;
        let (mut key, at) = (lineage.key().clone(), lineage.at());
        if key.is_session() {
            return Err(ChangeError::invalid("key", "is a session, whose token is not rotated"));
        }
        if key.subject.is_some() || key.was_made_for_subject() {
            let reason =
                "is for a subject, whose credential its issuer makes: it has no token to rotate";
            return Err(ChangeError::invalid("key", reason));
        }
        self.set_on(&mut key);
        let retires_at = later(at, grace);
        let detail =
            json!({"prefix": key.prefix, "start": key.start, "old_retires_at": retires_at});
        let ancestors = lineage.ancestors();
        let event = events::of_key(EventKind::KeyRotated, &key, ancestors, at, detail);
        Ok(KeyWrite {
            key,
            at,
            record: Some((KeyRecord::Rotate { hash: self.hash, retires_at }, event)),
        })
    }

    pub(super) fn set_on(&self, key: &mut Key) {
        key.prefix.clone_from(&self.prefix);
        key.start.clone_from(&self.start);
    }
}

/// Ends the grace of the tokens that were rotated away, if there are any. The key stays as it is.
pub(super) fn end_grace(lineage: &Lineage, in_grace: u64) -> KeyWrite {
    let (key, at) = (lineage.key().clone(), lineage.at());
    if in_grace == 0 {
        return KeyWrite { key, at, record: None };
    }
    let (kind, ancestors) = (EventKind::KeyGraceEnded, lineage.ancestors());
    let event = events::of_key(kind, &key, ancestors, at, json!({}));
    KeyWrite { key, at, record: Some((KeyRecord::EndGrace, event)) }
}
