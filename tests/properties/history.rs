//! Random histories.

use super::*;

/// One step of a history. An `Index` picks among what was made so far.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Create {
        account: usize,
        parent: Option<Index>,
        budget: Budget,
        expires_in: Option<u64>,
    },
    Update {
        key: Index,
        budget: Option<Budget>,
        expires_in: Option<Option<u64>>,
        scopes: Option<bool>,
        disabled: Option<bool>,
    },
    Ceiling {
        account: usize,
        budget: Budget,
    },
    Rotate {
        key: Index,
        grace: u64,
    },
    Revoke {
        key: Index,
    },
    Post(Vec<Ask>),
    Wait(Duration),
    WaitForMonthEnd,
    Sweep,
    Compare,
}

/// One posting to be.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    Open {
        key: Index,
        claim: Option<(u8, u8)>,
    },
    Hold {
        key: Index,
        amount: Amount,
        ttl: u64,
        charge: bool,
    },
    Renew {
        hold: Index,
        also: Index,
        ttl: u64,
        max_age: u64,
        claim: Option<Index>,
    },
    Settle {
        holds: Vec<Index>,
        void: Option<Index>,
        key: Index,
        cost: Amount,
        claim: Option<Index>,
    },
    Pay {
        key: Index,
        amount: Amount,
        claim: Option<Index>,
    },
    Refund {
        of: Index,
        amount: Amount,
    },
    /// Of a key, or of its account alone.
    Adjust {
        key: Index,
        of_account: bool,
        amount: Amount,
    },
    /// A posting sent again, whatever its outcome was.
    Again(Index),
}

pub(super) fn budgets() -> impl Strategy<Value = Budget> {
    let periods = [
        Period::Lifetime,
        Period::Day,
        Period::Week,
        Period::Month,
        Period::CalendarDay,
        Period::CalendarWeek,
        Period::CalendarMonth,
    ];
    let limits = prop_oneof![1 => Just(None), 4 => (0..120_i32).prop_map(|cents| Some(Amount::cents(cents)))];
    let more = prop_oneof![
        2 => Just(Vec::new()),
        1 => prop::collection::vec((0..120_i32, select(periods.to_vec())), 1..5),
    ];
    (limits, select(periods.to_vec()), more).prop_map(|(limit, period, more)| {
        let first = Budget::new(Some(Amount::ZERO), period);
        let mut budget = more
            .into_iter()
            .fold(first, |budget, (cents, period)| budget.and(Amount::cents(cents), period));
        // The first period is counted also where it alone has no limit.
        budget.limit = limit;
        budget
    })
}

pub(super) fn amounts() -> impl Strategy<Value = Amount> {
    prop_oneof![
        10 => (0..30_i32).prop_map(Amount::cents),
        2 => (0..30_000_i64).prop_map(Amount::micros),
        1 => Just(Amount::micros(-1)),
    ]
}

pub(super) fn ttls() -> impl Strategy<Value = u64> {
    select(vec![1, 30, 60, 600, 86_400, 40 * 86_400])
}

pub(super) fn asks() -> impl Strategy<Value = Ask> {
    let index = any::<Index>;
    let maybe = || proptest::option::weighted(0.3, any::<Index>());
    prop_oneof![
        2 => (index(), proptest::option::weighted(0.8, (0..3_u8, 0..2_u8)))
            .prop_map(|(key, claim)| Ask::Open { key, claim }),
        5 => (index(), amounts(), ttls(), any::<bool>())
            .prop_map(|(key, amount, ttl, charge)| Ask::Hold { key, amount, ttl, charge }),
        2 => (index(), index(), ttls(), ttls(), maybe())
            .prop_map(|(hold, also, ttl, max_age, claim)| Ask::Renew { hold, also, ttl, max_age, claim }),
        4 => (prop::collection::vec(index(), 0..3), maybe(), index(), amounts(), maybe())
            .prop_map(|(holds, void, key, cost, claim)| Ask::Settle { holds, void, key, cost, claim }),
        5 => (index(), amounts(), maybe()).prop_map(|(key, amount, claim)| Ask::Pay { key, amount, claim }),
        3 => (index(), amounts()).prop_map(|(of, amount)| Ask::Refund { of, amount }),
        2 => (index(), any::<bool>(), (-30..30_i32).prop_map(Amount::cents))
            .prop_map(|(key, of_account, amount)| Ask::Adjust { key, of_account, amount }),
        2 => index().prop_map(Ask::Again),
    ]
}

pub(super) fn steps() -> impl Strategy<Value = Step> {
    let account = || 0..ACCOUNTS.len();
    let wait = prop_oneof![
        Just(Duration::from_micros(1)),
        select(vec![1, 29, 30, 59, 60, 599, 3_600, 43_200, 86_399, 86_400, 7 * 86_400])
            .prop_map(Duration::from_secs),
        (1..10 * 86_400_000_000_u64).prop_map(Duration::from_micros),
    ];
    let expiry = || proptest::option::weighted(0.2, select(vec![60, 86_400, 40 * 86_400]));
    prop_oneof![
        3 => (account(), proptest::option::weighted(0.7, any::<Index>()), budgets(), expiry())
            .prop_map(|(account, parent, budget, expires_in)| Step::Create { account, parent, budget, expires_in }),
        2 => (
            any::<Index>(),
            proptest::option::weighted(0.7, budgets()),
            proptest::option::weighted(0.2, expiry()),
            proptest::option::weighted(0.1, any::<bool>()),
            proptest::option::weighted(0.2, any::<bool>()),
        )
            .prop_map(|(key, budget, expires_in, scopes, disabled)| Step::Update { key, budget, expires_in, scopes, disabled }),
        1 => (account(), budgets()).prop_map(|(account, budget)| Step::Ceiling { account, budget }),
        1 => (any::<Index>(), select(vec![0, 60, 86_400])).prop_map(|(key, grace)| Step::Rotate { key, grace }),
        1 => any::<Index>().prop_map(|key| Step::Revoke { key }),
        14 => prop::collection::vec(asks(), 1..6).prop_map(Step::Post),
        5 => wait.prop_map(Step::Wait),
        1 => Just(Step::WaitForMonthEnd),
        1 => Just(Step::Sweep),
        1 => Just(Step::Compare),
    ]
}

pub(super) fn histories() -> impl Strategy<Value = Vec<Step>> {
    // A history starts with some keys that have something to spend.
    let start = (10..200_i32).prop_map(|cents| Step::Create {
        account: 0,
        parent: None,
        budget: Budget::monthly(Amount::cents(cents)),
        expires_in: None,
    });
    (start, prop::collection::vec(steps(), 10..70))
        .prop_map(|(first, rest)| [vec![first], rest].concat())
}
