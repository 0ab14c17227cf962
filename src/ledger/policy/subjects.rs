//! The key of a subject that was never seen before.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::create::KeyDraft;
use super::rules::Rules;
use super::tokens::NewToken;
use super::writes::KeyWrite;
use crate::ledger::subjects::{ActClaim, NewSubject};
use crate::model::{ChangeError, EventKind, Key, Lineage};

impl NewSubject {
    /// Returns what the key is found by in place of a token.
    pub fn token(&self) -> NewToken {
        let (hash, prefix) = (self.subject.digest(), Key::SUBJECT_PREFIX.to_owned());
        NewToken { hash, prefix, start: String::new() }
    }

    pub(super) fn create(
        &self,
        draft: &KeyDraft,
        parent: Option<&Lineage>,
        rules: &Rules,
        now: Timestamp,
    ) -> Result<KeyWrite, ChangeError> {
        let mut write = draft.create(&self.token(), parent, 0, rules, now)?;
        write.key.subject = Some(self.subject.clone());
        if let Some((_, event)) = &mut write.record
            && let Value::Object(detail) = &mut event.detail
        {
            event.kind = EventKind::SubjectFirstSeen;
            detail.insert("subject".to_owned(), json!(self.subject));
            if !self.actors.is_empty() {
                let actors = self.actors.iter().map(ActClaim::json);
                detail.insert("act".to_owned(), actors.collect());
            }
        }
        Ok(write)
    }
}
