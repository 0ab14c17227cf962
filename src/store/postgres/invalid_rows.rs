//! Invalid rows of an adopted table, which the application may have written. The key of such a row is out of service
//! until the row is corrected, and no other key fails.

use crate::model::{Balance, Budget, Key, KeyId};
use crate::store::broken_lineage::{BrokenLineage, OutOfService};
use crate::store::key_row::{KeyRow, StoredKey, account_id};

/// The keys that a store has read and that are out of service.
#[derive(Debug, Default)]
pub(super) struct InvalidRows {
    rows: OutOfService,
    lineages: OutOfService,
}

impl InvalidRows {
    /// Returns the key. Returns `None` for an invalid row, and logs it.
    pub(super) fn decode(&self, stored: StoredKey<'_>) -> Option<KeyRow> {
        let id = stored.id;
        match stored.decode() {
            Ok(row) => {
                self.rows.forget(id);
                Some(row)
            }
            Err(error) => {
                self.rows.log(id, &error);
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

    /// Logs a key whose valid parents, from the key up, lead to no root.
    pub(super) fn check_lineage<'k>(&self, id: KeyId, keys: impl IntoIterator<Item = &'k Key>) {
        match BrokenLineage::of(keys) {
            Some(reason) => self.lineages.log(id, &reason),
            None => self.lineages.forget(id),
        }
    }
}
