//! Reconciliation: a stored balance is compared with the ledger.

use crate::model::{
    AccountId, Amount, Balance, Difference, Figure, KeyId, Period, Reconciled, Spent,
};

/// A stored balance, and what entries and live holds add up to, all of one snapshot.
///
/// A store reads the balance and the holds, and sums up the entries of each [window](Self::windows).
/// Where a key does not agree then, it also sums up those of the keys whose rows are gone.
#[derive(Clone, Debug)]
pub struct Recount {
    pub(super) account: AccountId,
    pub(super) key: Option<KeyId>,
    balance: Balance,
    held: Amount,
    sums: Vec<Sum>,
}

/// What was counted in the window of a period.
#[derive(Clone, Debug)]
struct Sum {
    period: Period,
    amount: Amount,
    /// How much less and how much more it may be, by keys whose rows are gone.
    slack: (Amount, Amount),
}

impl Recount {
    /// Returns a recount of a balance that was rolled to the time of its account. `held` is the sum
    /// of the live holds.
    pub const fn new(
        account: AccountId,
        key: Option<KeyId>,
        balance: Balance,
        held: Amount,
    ) -> Self {
        Self { account, key, balance, held, sums: Vec::new() }
    }

    /// Returns the windows whose entries are to be summed up.
    pub fn windows(&self) -> Vec<Spent> {
        self.balance.windows().copied().collect()
    }

    /// Adds the sum of the entries of a window.
    pub fn add_sum(&mut self, window: Spent, amount: Amount) {
        let slack = (Amount::ZERO, Amount::ZERO);
        self.sums.push(Sum { period: window.period, amount, slack });
    }

    /// Adds the sum of the entries of a window of a key whose row is gone. Which ancestors that key
    /// had is not known any more, so its entries may count for this key or not.
    pub fn add_sum_of_gone(&mut self, window: Spent, amount: Amount) {
        for sum in self.sums.iter_mut().filter(|sum| sum.period == window.period) {
            let (less, more) = sum.slack;
            sum.slack = match amount.is_negative() {
                true => (less.saturating_add(amount), more),
                false => (less, more.saturating_add(amount)),
            };
        }
    }

    /// Returns what was found.
    pub fn reconciled(&self) -> Reconciled {
        Reconciled::new(self.account.clone(), self.key, self.differences())
    }

    /// Returns the figures of the balance that differ from what was counted.
    pub(super) fn differences(&self) -> Vec<Difference> {
        let compared = |spent: &Spent| {
            let sum = self.sums.iter().find(|sum| sum.period == spent.period)?;
            let (period, since) = (spent.period, Some(spent.since));
            let since = since.filter(|_| period != Period::Lifetime);
            let figure = Figure::Spent { period, since };
            Some(Difference::new(figure, spent.amount, sum.nearest_to(spent.amount)))
        };
        let held = Difference::new(Figure::Held, self.balance.held, self.held);
        let spent = self.balance.windows().filter_map(compared);
        spent.chain([held]).filter(|it| it.stored != it.computed).collect()
    }
}

impl Sum {
    /// Returns the amount nearest to the stored one that agrees with the entries.
    fn nearest_to(&self, stored: Amount) -> Amount {
        // At the bounds of an amount, the entries may add up to more than a balance can have.
        if [Amount::MAX, Amount::micros(i64::MIN)].contains(&self.amount) {
            return stored;
        }
        let (less, more) = self.slack;
        stored.max(self.amount.saturating_add(less)).min(self.amount.saturating_add(more))
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::model::Budget;

    const START: Timestamp = Timestamp::UNIX_EPOCH;

    /// Returns a recount of a key that spent 5 cents of its day and 9 of its life, and holds 2.
    fn recount() -> Recount {
        let budget = Budget::lifetime(Amount::cents(50)).and_daily(Amount::cents(10));
        let mut balance = Balance::empty(&budget, START, START);
        balance.held = Amount::cents(2);
        balance.set_spent(Spent::new(Period::Day, Amount::cents(5), START));
        balance.set_spent(Spent::new(Period::Lifetime, Amount::cents(9), Timestamp::MIN));
        Recount::new("acme".parse().unwrap(), Some(KeyId::new(7)), balance, Amount::cents(2))
    }

    fn with_sums(lifetime: Amount, day: Amount) -> Recount {
        let mut recount = recount();
        for (window, sum) in recount.windows().into_iter().zip([lifetime, day]) {
            recount.add_sum(window, sum);
        }
        recount
    }

    #[test]
    fn each_figure_is_compared_for_itself() {
        assert!(with_sums(Amount::cents(9), Amount::cents(5)).reconciled().agrees());
        let mut other = with_sums(Amount::cents(9), Amount::cents(4));
        other.held = Amount::cents(3);
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
