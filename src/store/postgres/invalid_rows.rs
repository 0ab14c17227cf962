//! Invalid rows of an adopted table, which the application may have written. The key of such a row is out of service
//! until the row is corrected, and no other key fails.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::model::{Balance, Budget, Key, KeyId};
use crate::store::key_row::{InvalidRow, KeyRow, StoredKey, account_id};

/// The invalid rows that a store has read. Each is logged once, and again if the reason changes.
#[derive(Debug, Default)]
pub(super) struct InvalidRows(Mutex<HashMap<KeyId, String>>);

impl InvalidRows {
    const MAX_REMEMBERED: usize = 1_000;

    /// Returns the key. Returns `None` for an invalid row, and logs it.
    pub(super) fn decode(&self, stored: StoredKey<'_>) -> Option<KeyRow> {
        let id = stored.id;
        match stored.decode() {
            Ok(row) => {
                self.forget(id);
                Some(row)
            }
            Err(error) => {
                self.log(id, &error);
                None
            }
        }
    }

    /// Returns the key as the ledger sees it. A key with an invalid row is returned as revoked, in the account of its
    /// money, so that its holds and spending still count.
    pub(super) fn decode_or_disabled(&self, stored: StoredKey<'_>) -> Option<KeyRow> {
        let created_at = stored.created_at;
        let account = stored.money.as_ref().and_then(|money| money.account).or(stored.account);
        let Ok(account) = account_id(account) else { return self.decode(stored) };
        let blank = || Balance::empty(&Budget::unlimited(), created_at, created_at);
        let balance = stored.money.as_ref().map_or_else(blank, |money| money.balance);
        let mut disabled = Key::stored(stored.id, account, created_at, balance);
        if let Some(money) = &stored.money {
            disabled.anchor = money.anchor.unwrap_or(created_at);
        }
        disabled.parent = stored.parent;
        disabled.revoked_at = Some(created_at);
        self.decode(stored).or(Some(KeyRow { key: disabled, is_stale: false }))
    }

    fn log(&self, key: KeyId, error: &InvalidRow) {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let reason = error.to_string();
        if logged.get(&key) == Some(&reason) {
            return;
        }
        tracing::error!(key = key.get(), %error, "this key is out of service until its row is corrected");
        if logged.len() >= Self::MAX_REMEMBERED {
            logged.clear();
        }
        logged.insert(key, reason);
    }

    fn forget(&self, key: KeyId) {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !logged.is_empty() {
            logged.remove(&key);
        }
    }
}
