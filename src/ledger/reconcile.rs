//! Reconciliation: a stored balance is compared with the ledger.

use jiff::Timestamp;

use crate::model::{
    Account, AccountId, Amount, Balance, Difference, Figure, Key, KeyId, Period, Reconciled, Spent,
};

/// A stored balance, and what entries and live holds add up to, all of one snapshot.
///
/// A store reads the balance and the holds, and sums up the entries of each [window](Self::windows).
/// Where a key does not agree then, it also sums up those of the keys whose rows are gone.
#[derive(Clone, Debug)]
pub struct Recount {
    pub(super) account: AccountId,
    pub(super) key: Option<KeyId>,
    /// What is stored as held, and what live holds add up to.
    held: (Amount, Amount),
    counted: Vec<Counted>,
}

/// What is stored as spent in a window, and what entries add up to.
#[derive(Clone, Debug)]
struct Counted {
    window: Spent,
    sum: Option<Amount>,
    /// How much less and how much more it may be, by keys whose rows are gone.
    slack: (Amount, Amount),
}

impl Recount {
    /// Returns the recount of a key as it is stored, at the time of its account. `held` is the sum of the
    /// live holds.
    pub fn of_key(key: &Key, at: Timestamp, held: Amount) -> Self {
        Self::new(&key.account, Some(key.id), key.balance, key.anchor, at, held)
    }

    /// Returns the recount of an account itself.
    pub fn of_account(account: &Account, at: Timestamp, held: Amount) -> Self {
        Self::new(&account.id, None, account.balance, account.created_at, at, held)
    }

    fn new(
        account: &AccountId,
        key: Option<KeyId>,
        mut balance: Balance,
        anchor: Timestamp,
        at: Timestamp,
        held: Amount,
    ) -> Self {
        balance.roll(anchor, at);
        // The balance of an adopted key begins with the adoption, and roll-ups count at the start of
        // their day, which is before it.
        let counted = |spent: &Spent| {
            let window = Spent { since: spent.period.window(anchor, at).start, ..*spent };
            Counted { window, sum: None, slack: (Amount::ZERO, Amount::ZERO) }
        };
        let counted = balance.windows().map(counted).collect();
        Self { account: account.clone(), key, held: (balance.held, held), counted }
    }

    /// Returns the windows whose entries are to be summed up.
    pub fn windows(&self) -> Vec<Spent> {
        self.counted.iter().map(|counted| counted.window).collect()
    }

    /// Sets the sum of the entries of a window.
    pub fn set_sum(&mut self, window: Spent, sum: Amount) {
        self.counted_in(window).for_each(|counted| counted.sum = Some(sum));
    }

    /// Adds the sum of the entries of a window of a key whose row is gone. Which ancestors that key
    /// had is not known any more, so its entries may count for this key or not.
    pub fn add_sum_of_gone(&mut self, window: Spent, sum: Amount) {
        for counted in self.counted_in(window) {
            let (less, more) = counted.slack;
            counted.slack = match sum.is_negative() {
                true => (less.saturating_add(sum), more),
                false => (less, more.saturating_add(sum)),
            };
        }
    }

    fn counted_in(&mut self, window: Spent) -> impl Iterator<Item = &mut Counted> {
        self.counted.iter_mut().filter(move |counted| counted.window.period == window.period)
    }

    /// Returns what was found.
    pub fn reconciled(&self) -> Reconciled {
        Reconciled::new(self.account.clone(), self.key, self.differences())
    }

    /// Returns the figures of the balance that differ from what was counted.
    pub(super) fn differences(&self) -> Vec<Difference> {
        let spent = self.counted.iter().filter_map(|counted| {
            let Spent { period, since, amount, .. } = counted.window;
            let since = Some(since).filter(|_| period != Period::Lifetime);
            Some(Difference::new(Figure::Spent { period, since }, amount, counted.computed()?))
        });
        let (stored, computed) = self.held;
        let held = Difference::new(Figure::Held, stored, computed);
        spent.chain([held]).filter(|it| it.stored != it.computed).collect()
    }
}

impl Counted {
    /// Returns the amount that agrees with the entries and is nearest to the stored one; `None` where
    /// that cannot be said.
    fn computed(&self) -> Option<Amount> {
        // At the bounds of an amount, the entries may add up to more than a balance can have.
        let sum = self.sum.filter(|sum| ![Amount::MAX, Amount::micros(i64::MIN)].contains(sum))?;
        let (less, more) = self.slack;
        Some(self.window.amount.max(sum.saturating_add(less)).min(sum.saturating_add(more)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Budget;

    const START: Timestamp = Timestamp::UNIX_EPOCH;

    /// Returns a recount of a key that spent 5 cents of its day and 9 of its life, and holds 2.
    fn recount() -> Recount {
        let budget = Budget::lifetime(Amount::cents(50)).and_daily(Amount::cents(10));
        let mut balance = Balance::empty(&budget, START, START);
        balance.held = Amount::cents(2);
        balance.set_spent(Spent::new(Period::Day, Amount::cents(5), START));
        balance.set_spent(Spent::new(Period::Lifetime, Amount::cents(9), START));
        let key = Key::stored(KeyId::new(7), "acme".parse().unwrap(), START, balance);
        Recount::of_key(&key, START, Amount::cents(2))
    }

    fn with_sums(lifetime: Amount, day: Amount) -> Recount {
        let mut recount = recount();
        for (window, sum) in recount.windows().into_iter().zip([lifetime, day]) {
            recount.set_sum(window, sum);
        }
        recount
    }

    #[test]
    fn each_figure_is_compared_for_itself() {
        assert!(with_sums(Amount::cents(9), Amount::cents(5)).reconciled().agrees());
        let mut other = with_sums(Amount::cents(9), Amount::cents(4));
        other.held.1 = Amount::cents(3);
        let day = Figure::Spent { period: Period::Day, since: Some(START) };
        assert_eq!(
            other.differences(),
            [
                Difference::new(day, Amount::cents(5), Amount::cents(4)),
                Difference::new(Figure::Held, Amount::cents(2), Amount::cents(3)),
            ]
        );
        let lifetime = Figure::Spent { period: Period::Lifetime, since: None };
        let wanted = Difference::new(lifetime, Amount::cents(9), Amount::cents(10));
        assert_eq!(with_sums(Amount::cents(10), Amount::cents(5)).differences(), [wanted]);
    }

    #[test]
    fn a_lifetime_is_counted_from_its_beginning() {
        let [lifetime, day] = recount().windows()[..] else { panic!("two windows") };
        assert_eq!((lifetime.since, day.since), (Timestamp::MIN, START));
    }

    #[test]
    fn what_keys_were_charged_that_are_gone_may_count_or_not() {
        for (gone, computed) in [(3, 8), (4, 9), (6, 9), (-1, 5)] {
            let mut recount = with_sums(Amount::cents(5), Amount::cents(5));
            let [lifetime, _] = recount.windows()[..] else { panic!("two windows") };
            recount.add_sum_of_gone(lifetime, Amount::cents(gone));
            let found = recount.differences().first().map_or(Amount::cents(9), |it| it.computed);
            assert_eq!(found, Amount::cents(computed), "{gone}");
        }
    }

    #[test]
    fn a_sum_that_no_amount_can_have_is_not_compared() {
        for sum in [Amount::MAX, Amount::micros(i64::MIN)] {
            assert!(with_sums(sum, Amount::cents(5)).reconciled().agrees());
        }
    }
}
