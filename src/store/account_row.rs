//! An account as a database stores it.

use jiff::Timestamp;

use super::fast_path::next_seq;
use crate::ledger::{HoldState, WriteSet};
use crate::model::{Account, Amount, Lineage};

/// An account, with the columns that only a store uses.
#[derive(Clone, Debug)]
pub(super) struct AccountRow {
    pub(super) account: Account,
    /// Changes with every policy change, and on PostgreSQL with every commit.
    pub(super) version: i64,
    /// The instant of its last change.
    pub(super) changed_at: Timestamp,
    /// No live hold of the account expires before this instant.
    pub(super) next_expiry: Option<Timestamp>,
    /// The `seq` of its last entry.
    pub(super) last_entry: i64,
}

impl AccountRow {
    /// Returns whether holds of the account may have expired.
    pub(super) fn is_overdue(&self, now: Timestamp) -> bool {
        self.next_expiry.is_some_and(|at| at <= now.max(self.changed_at))
    }

    /// Returns whether the figures of a lineage of the account may count expired holds.
    pub(super) fn may_count_expired(&self, lineage: &Lineage) -> bool {
        let held = lineage.keys().map(|key| key.balance.held);
        let is_held = held.chain([lineage.account().balance.held]).any(Amount::is_positive);
        is_held && self.is_overdue(lineage.at())
    }

    /// Returns the row after these changes, with an unchanged version.
    pub(super) fn after(&self, changes: &WriteSet) -> Self {
        let mut after = self.clone();
        for (account, at) in
            changes.accounts.iter().filter(|(account, _)| account.id == self.account.id)
        {
            after.account.clone_from(account);
            after.changed_at = *at;
        }
        let holds = changes.new_holds.iter().chain(&changes.changed_holds);
        let live =
            holds.filter(|hold| hold.account == self.account.id && hold.state == HoldState::Live);
        after.next_expiry = live.map(|hold| hold.expires_at).chain(self.next_expiry).min();
        let entries = changes.entries.iter().filter(|entry| entry.account == self.account.id);
        after.last_entry = entries.fold(self.last_entry, |last, entry| next_seq(last, entry.at));
        after
    }
}
