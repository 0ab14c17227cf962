//! Changes of accounts.

use jiff::Timestamp;

use crate::ledger::checks::check_budget;
use crate::ledger::events;
use crate::model::{Account, AccountId, Budget, ChangeError, Event, Origin, Spent};

/// A change of one account.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum AccountChange {
    /// Creates the account with this ceiling. An account that exists stays as it is.
    Ensure(Budget),
    /// Sets the ceiling of an account that exists.
    SetBudget(Budget),
}

/// What a store writes for a change of an account, in one transaction.
#[derive(Clone, Debug)]
pub struct AccountWrite {
    /// The account after the change.
    pub account: Account,
    /// The instant of the change.
    pub at: Timestamp,
    /// The windows of new limits.
    ///
    /// The store sets what was spent in each to the sum of the entries that count at its start or
    /// later. The sum is over the record and everything below it.
    pub recount: Vec<Spent>,
    /// The event of the change. `None`: nothing changed, and nothing is written.
    pub event: Option<Event>,
}

impl AccountWrite {
    /// Decides a change of an account.
    ///
    /// `loaded` is the account, rolled to its time, and that time. `now` is the store's own time,
    /// for a new account. The event has the `origin`.
    ///
    /// # Errors
    ///
    /// [`ChangeError::Invalid`] where the limit is negative. [`ChangeError::UnknownAccount`] where
    /// the budget of an account is set that does not exist.
    pub fn decide(
        id: &AccountId,
        change: AccountChange,
        loaded: Option<(Account, Timestamp)>,
        now: Timestamp,
        origin: &Origin,
    ) -> Result<Self, ChangeError> {
        let (AccountChange::Ensure(budget) | AccountChange::SetBudget(budget)) = change;
        check_budget(&budget)?;
        let is_new = loaded.is_none();
        let (mut account, at) = match (change, loaded) {
            (AccountChange::Ensure(_), Some((account, at))) => {
                return Ok(Self { account, at, recount: Vec::new(), event: None });
            }
            (AccountChange::Ensure(_), None) => (Account::new(id.clone(), now), now),
            (AccountChange::SetBudget(_), Some(loaded)) => loaded,
            (AccountChange::SetBudget(_), None) => {
                return Err(ChangeError::UnknownAccount(id.clone()));
            }
        };
        let recount = account.balance.realign(&budget, account.created_at, at);
        let event = (is_new || account.budget != budget)
            .then(|| events::of_account(&account, &budget, is_new, at, origin));
        account.budget = budget;
        Ok(Self { account, at, recount, event })
    }
}
