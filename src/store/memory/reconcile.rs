//! Reconciliation: balances beside what entries and live holds add up to.

use jiff::Timestamp;

use super::Tables;
use crate::ledger::{HoldRow, Recount};
use crate::model::{AccountId, Holder, Origin, Reconciled};
use crate::store::usage_sums::saturated;

impl Tables {
    /// Returns the balance of a holder beside what its entries and live holds add up to.
    pub(super) fn recount(&self, holder: &Holder, now: Timestamp) -> Option<Recount> {
        let time = |account: &AccountId| self.book.now(account).map_or(now, |last| last.max(now));
        let held = |of: &dyn Fn(&HoldRow) -> bool| {
            let live = self.book.live_holds().filter(|hold| of(hold));
            saturated(live.map(|hold| i128::from(hold.amount.as_micros())).sum())
        };
        match holder {
            Holder::Account(id) => {
                let held = held(&|hold| hold.account == *id);
                let mut recount = Recount::of_account(self.book.account(id)?, time(id), held);
                for window in recount.windows() {
                    recount.set_sum(window, self.spent_by_account(id, window.since));
                }
                Some(recount)
            }
            Holder::Key(id) => {
                let key = self.book.key(*id)?;
                let held = held(&|hold| hold.account == key.account && hold.path.contains(id));
                let mut recount = Recount::of_key(key, time(&key.account), held);
                for window in recount.windows() {
                    recount.set_sum(window, self.spent_by_key(key, window.since));
                }
                Some(recount)
            }
        }
    }

    /// Sets what differs of a balance to what its entries and live holds add up to.
    pub(super) fn mend(
        &mut self,
        holder: &Holder,
        origin: &Origin,
        now: Timestamp,
    ) -> Option<Reconciled> {
        let account = match holder {
            Holder::Account(id) => id.clone(),
            Holder::Key(id) => self.book.key(*id)?.account.clone(),
        };
        let now = self.expire(&account, now);
        let recount = self.recount(holder, now)?;
        let differences = self.book.mend(&recount, origin);
        self.record();
        Some(Reconciled { differences, ..recount.reconciled() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Action, KeyChange, Posting, Rules};
    use crate::ledger::{KeyDraft, NewToken};
    use crate::model::TokenHash;
    use crate::model::{Amount, Budget, Difference, Figure, NewKey, Note};
    use crate::store::{EntryQuery, MemoryStore, Store};

    #[tokio::test]
    async fn a_falsified_balance_is_found_and_mended() {
        let store = MemoryStore::new();
        let account: AccountId = "acme".parse().unwrap();
        let new = NewKey::new(account.clone()).budget(Budget::lifetime(Amount::cents(10)));
        let hash = TokenHash::digest("a token");
        let token = NewToken { hash, prefix: "ak".into(), start: "0".into() };
        let change = KeyChange::Create { draft: KeyDraft::new(account.clone(), None, new), token };
        let mut key = store.change_key(&change, &Rules::default()).await.unwrap().unwrap();
        let (amount, note) = (Amount::cents(4), Note::default());
        let pay = Posting::new(account.clone(), key.id, Action::Pay { amount, note, claim: None });
        store.post(std::slice::from_ref(&pay)).await.unwrap().pop().unwrap().unwrap();
        key.balance.held = Amount::cents(9);
        store.lock().book.add_key(key.clone());

        let found = store.reconcile(&key.id.into()).await.unwrap().unwrap();
        let spent = Figure::Spent { period: key.balance.period(), since: None };
        let wanted = [
            Difference::new(spent, Amount::ZERO, Amount::cents(4)),
            Difference::new(Figure::Held, Amount::cents(9), Amount::ZERO),
        ];
        assert_eq!(found.differences, wanted);
        let mended = store.mend(&key.id.into(), &Origin::new()).await.unwrap().unwrap();
        assert_eq!(mended, found);
        assert!(store.reconcile(&key.id.into()).await.unwrap().unwrap().agrees());
        let entries = store.entries(&EntryQuery::for_account(account.clone())).await.unwrap();
        assert_eq!(entries.len(), 3);
        assert!(store.reconcile(&account.into()).await.unwrap().unwrap().agrees());
    }
}
