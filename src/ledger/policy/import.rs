//! Keys whose tokens another program made.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::create::KeyDraft;
use super::expiry::truncated;
use super::load::Load;
use super::rules::Rules;
use super::tokens::NewToken;
use super::writes::{KeyRecord, KeyWrite};
use crate::ledger::checks::check_start;
use crate::ledger::events;
use crate::model::{Amount, Balance, ChangeError, EventKind, Lineage, Opening};

/// A key to be imported, whose account is loaded.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct ImportDraft {
    pub draft: KeyDraft,
    pub token: NewToken,
    pub opening: Opening,
    pub is_disabled: bool,
}

/// What a store writes for an imported key, in one transaction.
#[derive(Clone, Debug)]
pub struct ImportWrite {
    /// The key. It is written with its [`anchor`](crate::Key::anchor).
    pub write: KeyWrite,
    /// What the key has spent. If it is not zero, the store posts an
    /// [`Opening`](crate::ledger::Action::Opening) of it once the key has its id.
    pub spent: Amount,
}

impl ImportDraft {
    /// Returns what [`decide`](Self::decide) needs.
    pub fn load(&self) -> Load<'_> {
        self.draft.load()
    }

    /// Decides by the loaded lineage of the parent; for a key without a parent, at `time`.
    ///
    /// Unlike a new key, an imported one may have expired.
    ///
    /// # Errors
    ///
    /// As [`KeyChange::decide`], and [`ChangeError::Invalid`] where the opening is below zero.
    pub fn decide(
        &self,
        parent: Option<&Lineage>,
        time: Timestamp,
        rules: &Rules,
    ) -> Result<ImportWrite, ChangeError> {
        let Self { draft, token, opening, is_disabled } = self;
        let parent = draft.parent(parent)?;
        let now = parent.map_or(time, Lineage::at);
        let expires_at = draft.expiry.resolve(now)?;
        let mut key = draft.key(token, parent, 0, rules, now, expires_at)?;
        check_start(&token.hash, &token.prefix, &token.start)?;
        key.disabled_at = is_disabled.then_some(now);
        let spent = opening
            .spent
            .non_negative()
            .map_err(|error| ChangeError::invalid("spent", error.to_string()))?;
        let resets_at = opening.resets_at.map(truncated);
        key.anchor = resets_at.unwrap_or(now);
        key.balance = Balance::empty(&key.budget, key.anchor, now);
        // The window of a lifetime does not end.
        let is_over = resets_at.is_some_and(|at| at <= now && key.resets_at(now).is_some());
        let spent = if is_over { Amount::ZERO } else { spent };
        let mut detail = events::fields(&key);
        detail.insert("spent_cents".to_owned(), json!(spent));
        let detail = Value::Object(detail);
        let event = events::of_new_key(EventKind::KeyImported, &key, parent, now, detail);
        let write = KeyWrite { key, at: now, record: Some((KeyRecord::Insert(token.hash), event)) };
        Ok(ImportWrite { write, spent })
    }
}
