//! Mending: a balance is set to what its entries and live holds add up to.

use jiff::Timestamp;

use super::Book;
use crate::ledger::events;
use crate::ledger::reconcile::Recount;
use crate::model::{
    AccountId, Amount, Balance, Difference, Entry, EntryKind, Figure, KeyId, Note, Origin,
    PostingId, Spent,
};

impl Book {
    /// Sets each figure of a balance that differs to what was counted, and writes an entry of zero
    /// and an event for it. Returns the figures.
    ///
    /// The book has the account, the key and its ancestors, at the time of the recount.
    pub fn mend(&mut self, recount: &Recount, origin: &Origin) -> Vec<Difference> {
        let (account, key) = (&recount.account, recount.key);
        let Some(now) = self.now(account) else { return Vec::new() };
        let mut mended = recount.differences();
        mended.retain(|difference| {
            let set = |balance: &mut Balance| set_figure(balance, difference);
            let Some(()) = self.with_balance(account, key, set) else { return false };
            let (id, kind) = (PostingId::new().into(), EntryKind::Adjust);
            let mut entry = Entry::stored(id, account.clone(), key, kind, Amount::ZERO, now);
            entry.note = Note::reconciling(difference);
            self.record(entry);
            let path = self.path(key);
            self.add_event(id, &path, |entry, keys| {
                events::of_mended_balance(entry, keys, difference, origin)
            });
            true
        });
        mended
    }

    /// Calls `change` with the balance of a key, or of the account itself, if that is loaded. The
    /// balance is rolled to the account's time first, and written.
    fn with_balance<T>(
        &mut self,
        account: &AccountId,
        key: Option<KeyId>,
        change: impl FnOnce(&mut Balance) -> T,
    ) -> Option<T> {
        let open = self.accounts.get_mut(account)?;
        let balance = match key {
            Some(id) => {
                let key = self.keys.get_mut(&id).filter(|key| key.account == *account)?;
                key.roll(open.now);
                self.touched.keys.insert(id);
                &mut key.balance
            }
            None => {
                open.account.roll(open.now);
                &mut open.account.balance
            }
        };
        self.touched.accounts.insert(account.clone());
        Some(change(balance))
    }
}

fn set_figure(balance: &mut Balance, difference: &Difference) {
    match difference.figure {
        Figure::Held => balance.held = difference.computed,
        Figure::Spent { period, since } => {
            let since = since.unwrap_or(Timestamp::MIN);
            balance.set_spent(Spent::new(period, difference.computed, since));
        }
    }
}
