//! The effect of a decision: entries are written, and balances, holds and idempotency keys change with them.

use jiff::Timestamp;

use super::check::rolled;
use super::{Book, EntryRow, HoldState, IdempotencyRow, OpenAccount};
use crate::model::{
    AccountId, Amount, Balance, Entry, EntryId, EntryKind, Event, Key, KeyId, PostingId, Spent,
};

impl Book {
    /// Changes the balance of every key of `path` and of the account, after rolling it to `now`.
    ///
    /// Keys that are not loaded, or are of another account, are skipped.
    pub(super) fn each_member(
        &mut self,
        account: &AccountId,
        path: &[KeyId],
        now: Timestamp,
        change: impl Fn(&mut Balance),
    ) {
        for id in path {
            if let Some(key) = self.keys.get_mut(id).filter(|key| key.account == *account) {
                key.roll(now);
                change(&mut key.balance);
                self.touched.keys.insert(*id);
            }
        }
        if let Some(OpenAccount { account, .. }) = self.accounts.get_mut(account) {
            account.roll(now);
            change(&mut account.balance);
            self.touched.accounts.insert(account.id.clone());
        }
    }

    /// Writes a charge or an adjustment, and moves `spent` along the lineage.
    ///
    /// Charges saturate: the entry records no more than every balance can absorb. So a refund takes
    /// back no more than that.
    pub(super) fn charge(&mut self, path: &[KeyId], mut entry: Entry) {
        entry.amount = self.absorbed(&entry.account, path, entry.at, entry.amount, |_| true);
        let amount = entry.amount;
        self.each_member(&entry.account, path, entry.at, |balance| {
            for spent in balance.windows_mut() {
                spent.amount = spent.amount.saturating_add(amount);
            }
        });
        self.record(entry);
    }

    /// Returns how much of an amount every balance can absorb in the windows that count it.
    fn absorbed(
        &self,
        account: &AccountId,
        path: &[KeyId],
        at: Timestamp,
        amount: Amount,
        counts: impl Fn(&Spent) -> bool,
    ) -> Amount {
        let members = || {
            let keys = path
                .iter()
                .filter_map(|id| self.keys.get(id))
                .filter(|key| key.account == *account);
            let account = self.account(account);
            let account = account.map(|account| (account.created_at, &account.balance));
            keys.map(|key| (key.anchor, &key.balance)).chain(account)
        };
        let overflows = |spent: &Spent| spent.amount.checked_add(amount).is_none();
        // Where a balance seems full, its window may have ended, which makes room.
        if !members().any(|(_, balance)| balance.windows().any(overflows)) {
            return amount;
        }
        let rolled = members().map(|(anchor, balance)| rolled(anchor, *balance, at));
        let rolled: Vec<_> = rolled.collect();
        let spent = rolled.iter().flat_map(Balance::windows).filter(|spent| counts(spent));
        let spent = spent.map(|spent| spent.amount);
        if amount.is_negative() {
            let room = spent.map(|spent| Amount::micros(i64::MIN).saturating_sub(spent)).max();
            room.map_or(amount, |room| room.min(Amount::ZERO).max(amount))
        } else {
            let room = spent.map(|spent| Amount::MAX.saturating_sub(spent)).min();
            room.map_or(amount, |room| room.min(amount))
        }
    }

    /// Writes a refund, and reduces `spent` of each limit whose window of the refunded entry is
    /// current. Refunds saturate as charges do.
    pub(super) fn give_back(&mut self, id: EntryId, of: EntryId, amount: Amount, now: Timestamp) {
        let Some(row) = self.entries.get(&of) else { return };
        let Entry { account, key, counts_at, note, .. } = row.entry.clone();
        let path = self.path(key);
        let counts = |spent: &Spent| counts_at >= spent.since;
        let amount = Amount::ZERO.saturating_sub(amount);
        let amount = self.absorbed(&account, &path, now, amount, counts);
        if let Some(row) = self.entries.get_mut(&of) {
            row.refunded = row.refunded.saturating_sub(amount);
        }
        self.each_member(&account, &path, now, |balance| {
            for spent in balance.windows_mut().filter(|spent| counts(spent)) {
                spent.amount = spent.amount.saturating_add(amount);
            }
        });
        let mut entry = Entry::stored(id, account, key, EntryKind::Refund, amount, now);
        entry.counts_at = counts_at;
        entry.refunds = Some(of);
        entry.note = note;
        self.record(entry);
    }

    /// Reverses an entry once, as far as it was not refunded: an expiry's, or one whose answer was
    /// lost.
    pub(super) fn take_back(&mut self, of: EntryId, now: Timestamp) {
        let Some(row) = self.entries.get(&of) else { return };
        let left = row.entry.amount.saturating_sub(row.refunded);
        if row.entry.kind != EntryKind::Adjust
            && left.is_positive()
            && !self.entries.contains_key(&of.reversal())
        {
            self.give_back(of.reversal(), of, left, now);
        }
    }

    pub(super) fn record(&mut self, entry: Entry) {
        self.touched.entries.push(entry.id);
        self.entries.insert(entry.id, EntryRow { entry, refunded: Amount::ZERO });
    }

    /// Adds the event of an entry that was just written, with the loaded keys of its path.
    pub(super) fn add_event(
        &mut self,
        entry: EntryId,
        path: &[KeyId],
        event: impl FnOnce(&Entry, Vec<&Key>) -> Event,
    ) {
        let Some(row) = self.entries.get(&entry) else { return };
        let keys = path.iter().filter_map(|id| self.keys.get(id)).collect();
        let event = event(&row.entry, keys);
        self.touched.events.push(event);
    }

    pub(super) fn end_hold(&mut self, id: PostingId, state: HoldState) {
        let Some(hold) = self.holds.get_mut(&id) else { return };
        hold.state = state;
        self.live.remove(&id);
        let (account, path, amount) = (hold.account.clone(), hold.path.clone(), hold.amount);
        self.touch_hold(id);
        let now = self.accounts.get(&account).map_or(Timestamp::MIN, |open| open.now);
        self.each_member(&account, &path, now, |balance| {
            balance.held = balance.held.saturating_sub(amount).max(Amount::ZERO);
        });
    }

    pub(super) fn touch_hold(&mut self, id: PostingId) {
        if !self.touched.new_holds.contains(&id) {
            self.touched.old_holds.insert(id);
        }
    }

    pub(super) fn insert_claim(&mut self, row: IdempotencyRow) {
        let id = (row.key, row.claim.key.clone());
        self.claims.insert(id.clone(), row);
        self.touched.claims.insert(id);
    }

    pub(super) fn remove_claim(&mut self, row: &IdempotencyRow) {
        let id = (row.key, row.claim.key.clone());
        self.claims.remove(&id);
        self.touched.claims.insert(id);
    }
}
