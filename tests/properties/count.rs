//! The naive count: it knows no ledger.

use super::*;

/// An entry, by the naive count. The ledger itself names the entries it takes others back with.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) id: Option<EntryId>,
    pub(super) account: AccountId,
    pub(super) key: Option<KeyId>,
    pub(super) kind: EntryKind,
    pub(super) amount: i64,
    pub(super) at: Timestamp,
    pub(super) counts_at: Timestamp,
    pub(super) refunds: Option<EntryId>,
}

#[derive(Clone, Debug)]
pub(super) struct Aside {
    pub(super) id: PostingId,
    pub(super) key: KeyId,
    pub(super) amount: i64,
    pub(super) made_at: Timestamp,
    pub(super) until: Timestamp,
    pub(super) charge: bool,
    pub(super) lives: bool,
}

/// The naive count.
#[derive(Debug, Default)]
pub(super) struct Count {
    pub(super) keys: Vec<Key>,
    pub(super) ceilings: Vec<(AccountId, Budget, Timestamp)>,
    pub(super) lines: Vec<Line>,
    pub(super) holds: Vec<Aside>,
    /// The postings that were accepted and changed something, to see that none does twice.
    pub(super) done: Vec<PostingId>,
}

/// Who counts: a key with all under it, or an account.
#[derive(Clone, Debug)]
pub(super) enum Member {
    Key(KeyId),
    Account(AccountId),
}

impl Count {
    pub(super) fn key(&self, id: KeyId) -> &Key {
        self.keys.iter().find(|key| key.id == id).unwrap()
    }

    pub(super) fn put(&mut self, key: Key) {
        if !self.ceilings.iter().any(|(id, ..)| *id == key.account) {
            self.ceilings.push((key.account.clone(), Budget::unlimited(), key.created_at));
        }
        self.keys.retain(|old| old.id != key.id);
        self.keys.push(key);
    }

    pub(super) fn put_ceiling(
        &mut self,
        account: &AccountId,
        budget: Budget,
        created_at: Timestamp,
    ) {
        self.ceilings.retain(|(id, ..)| id != account);
        self.ceilings.push((account.clone(), budget, created_at));
    }

    pub(super) fn members(&self, key: KeyId) -> Vec<Member> {
        let mut members = vec![Member::Key(key)];
        let mut at = self.key(key);
        while let Some(parent) = at.parent {
            members.push(Member::Key(parent));
            at = self.key(parent);
        }
        members.push(Member::Account(at.account.clone()));
        members
    }

    pub(super) fn counts_for(&self, line: &Line, member: &Member) -> bool {
        match member {
            Member::Account(account) => line.account == *account,
            Member::Key(_) => line.key.is_some_and(|key| self.is_under(key, member)),
        }
    }

    pub(super) fn is_under(&self, key: KeyId, member: &Member) -> bool {
        match member {
            Member::Account(account) => self.key(key).account == *account,
            Member::Key(id) => {
                key == *id
                    || self.key(key).parent.is_some_and(|parent| self.is_under(parent, member))
            }
        }
    }

    pub(super) fn policy(&self, member: &Member) -> (Budget, Timestamp) {
        match member {
            Member::Key(id) => (self.key(*id).budget, self.key(*id).created_at),
            Member::Account(account) => {
                let (_, budget, made) =
                    self.ceilings.iter().find(|(id, ..)| id == account).unwrap();
                (*budget, *made)
            }
        }
    }

    /// What was spent in each period that is counted, and what is held.
    pub(super) fn figures(&self, member: &Member, now: Timestamp) -> (Vec<(Period, i64)>, i64) {
        let (budget, _) = self.policy(member);
        let mut periods: Vec<_> = budget.limits().map(|limit| limit.period).collect();
        if budget.limit.is_none() {
            periods.insert(0, budget.period);
        }
        let spent =
            periods.into_iter().map(|period| (period, self.spent(member, period, now))).collect();
        (spent, self.held(member))
    }

    pub(super) fn spent(&self, member: &Member, period: Period, now: Timestamp) -> i64 {
        let since = window_start(period, self.policy(member).1, now);
        let counts = |line: &&Line| {
            since.is_none_or(|since| line.counts_at >= since) && self.counts_for(line, member)
        };
        self.lines.iter().filter(counts).map(|line| line.amount).sum()
    }

    pub(super) fn held(&self, member: &Member) -> i64 {
        let lives = |hold: &&Aside| hold.lives && self.is_under(hold.key, member);
        self.holds.iter().filter(lives).map(|hold| hold.amount).sum()
    }

    /// What `member` has left, below zero where it is in debt; `None` without a limit.
    pub(super) fn left(&self, member: &Member, now: Timestamp) -> Option<i64> {
        let left = |limit: Limit| limit.amount.as_micros() - self.spent(member, limit.period, now);
        Some(self.policy(member).0.limits().map(left).min()? - self.held(member))
    }

    pub(super) fn remaining(&self, key: KeyId, now: Timestamp) -> Option<Amount> {
        self.least(&self.members(key), now)
    }

    pub(super) fn least(&self, members: &[Member], now: Timestamp) -> Option<Amount> {
        let left = members.iter().filter_map(|member| self.left(member, now)).min();
        left.map(|left| Amount::micros(left.max(0)))
    }

    pub(super) fn is_in_force(&self, key: KeyId, now: Timestamp) -> bool {
        self.members(key).iter().all(|member| match member {
            Member::Account(_) => true,
            Member::Key(id) => {
                let key = self.key(*id);
                key.revoked_at.is_none()
                    && key.disabled_at.is_none()
                    && key.expires_at.is_none_or(|at| at > now)
            }
        })
    }

    pub(super) fn left_of(&self, entry: EntryId) -> Option<i64> {
        let line = self.lines.iter().find(|line| {
            line.id == Some(entry) && !matches!(line.kind, EntryKind::Refund | EntryKind::Adjust)
        })?;
        let back: i64 =
            self.lines.iter().filter(|it| it.refunds == Some(entry)).map(|it| it.amount).sum();
        Some(line.amount + back)
    }

    pub(super) fn charge(
        &mut self,
        id: PostingId,
        key: KeyId,
        kind: EntryKind,
        amount: i64,
        now: Timestamp,
    ) {
        let account = self.key(key).account.clone();
        self.add(id, account, Some(key), kind, amount, now);
    }

    pub(super) fn add(
        &mut self,
        id: PostingId,
        account: AccountId,
        key: Option<KeyId>,
        kind: EntryKind,
        amount: i64,
        now: Timestamp,
    ) {
        let id = Some(id.into());
        self.lines.push(Line {
            id,
            account,
            key,
            kind,
            amount,
            at: now,
            counts_at: now,
            refunds: None,
        });
    }

    pub(super) fn give_back(
        &mut self,
        id: Option<EntryId>,
        of: EntryId,
        amount: i64,
        now: Timestamp,
    ) {
        let line = self.lines.iter().find(|line| line.id == Some(of)).unwrap();
        let (account, key, counts_at) = (line.account.clone(), line.key, line.counts_at);
        let kind = EntryKind::Refund;
        self.lines.push(Line {
            id,
            account,
            key,
            kind,
            amount: -amount,
            at: now,
            counts_at,
            refunds: Some(of),
        });
    }

    pub(super) fn take_back(&mut self, id: PostingId, now: Timestamp) {
        if let Some(left) = self.left_of(id.into()).filter(|left| *left > 0) {
            self.give_back(None, id.into(), left, now);
        }
    }

    pub(super) fn expire(&mut self, account: Option<&AccountId>, now: Timestamp) {
        let mut over: Vec<_> =
            self.holds.iter().filter(|hold| hold.lives && hold.until <= now).cloned().collect();
        over.retain(|hold| account.is_none_or(|account| self.key(hold.key).account == *account));
        for hold in over {
            self.holds.iter_mut().filter(|it| it.id == hold.id).for_each(|it| it.lives = false);
            if hold.charge {
                self.charge(hold.id, hold.key, EntryKind::Expiry, hold.amount, now);
            }
        }
    }

    /// Takes the effect of an answered posting, and checks what can be said of the answer.
    pub(super) fn take(
        &mut self,
        posting: &Posting,
        answer: &Result<Posted, Refusal>,
        now: Timestamp,
    ) {
        let id = posting.id;
        let again = self.done.contains(&id);
        if let Action::Adjust { amount, .. } = &posting.action {
            return self.take_adjustment(posting, *amount, again, answer, now);
        }
        let key = posting.key.expect("only an adjustment is of no key");
        if let (Action::Hold { amount, .. } | Action::Pay { amount, claim: None, .. }, false) =
            (&posting.action, again)
        {
            let amount = amount.as_micros();
            let mut lefts =
                self.members(key).into_iter().filter_map(|member| self.left(&member, now));
            let fits =
                amount >= 0 && self.is_in_force(key, now) && lefts.all(|left| left >= amount);
            assert_eq!(answer.is_ok(), fits, "{posting:?} was answered {answer:?}");
        }
        let Ok(posted) = answer else { return };
        match (&posting.action, &posted.outcome) {
            (Action::Open { .. }, Outcome::Opened | Outcome::Claimed { .. }) => {}
            (Action::Hold { amount, ttl, on_expiry, .. }, Outcome::Held { until }) => {
                if again {
                    let known = self.holds.iter().find(|hold| hold.id == id).unwrap();
                    assert!(
                        known.lives && known.until == *until,
                        "{known:?} was answered {posted:?}"
                    );
                } else {
                    assert_eq!(*until, now + *ttl);
                    let (amount, charge) = (amount.as_micros(), *on_expiry == OnExpiry::Charge);
                    self.holds.push(Aside {
                        id,
                        key,
                        amount,
                        made_at: now,
                        until: *until,
                        charge,
                        lives: true,
                    });
                    self.done.push(id);
                }
            }
            (Action::Renew { holds, ttl, max_age, .. }, Outcome::Renewed { until, .. }) => {
                let account = self.key(key).account.clone();
                let keys: Vec<_> = self
                    .keys
                    .iter()
                    .filter(|key| key.account == account)
                    .map(|key| key.id)
                    .collect();
                let mut ends = Vec::new();
                for hold in &mut self.holds {
                    if holds.contains(&hold.id) && hold.lives && keys.contains(&hold.key) {
                        hold.until = hold.until.max((now + *ttl).min(hold.made_at + *max_age));
                        ends.push(hold.until);
                    }
                }
                assert_eq!(*until, ends.into_iter().min());
            }
            (Action::Settle { holds, void, cost, .. }, Outcome::Settled { entry }) => {
                if again {
                    assert_eq!(*entry, Some(id.into()));
                } else {
                    let account = self.key(key).account.clone();
                    for hold in holds {
                        let Some(at) = self.holds.iter().position(|it| it.id == *hold) else {
                            continue;
                        };
                        if self.key(self.holds[at].key).account == account {
                            let lived = std::mem::replace(&mut self.holds[at].lives, false);
                            if !lived && self.holds[at].charge {
                                self.take_back(*hold, now);
                            }
                        }
                    }
                    for payment in void {
                        let paid =
                            self.lines.iter().find(|line| line.id == Some(EntryId::from(*payment)));
                        if paid.is_some_and(|line| line.account == account) {
                            self.take_back(*payment, now);
                        }
                    }
                    let cost = cost.as_micros().max(0);
                    assert_eq!(*entry, (cost > 0).then_some(id.into()));
                    if cost > 0 {
                        self.charge(id, key, EntryKind::Settle, cost, now);
                        self.done.push(id);
                    }
                }
            }
            (Action::Pay { amount, .. }, Outcome::Paid { entry }) => {
                assert_eq!(*entry, EntryId::from(id));
                if !again {
                    self.charge(id, key, EntryKind::Pay, amount.as_micros(), now);
                    self.done.push(id);
                }
            }
            (Action::Refund { entry, amount }, Outcome::Refunded { entry: made }) => {
                assert_eq!(*made, EntryId::from(id));
                if !again {
                    let left = self.left_of(*entry).expect("what is refunded is there");
                    assert!(amount.as_micros() <= left, "{amount} was refunded of {left} micros");
                    self.give_back(Some(id.into()), *entry, amount.as_micros(), now);
                    self.done.push(id);
                }
            }
            other => panic!("{:?} was answered with {other:?}", posting.action),
        }
        let new_work = matches!(posting.action, Action::Hold { .. } | Action::Pay { .. }) && !again;
        if new_work {
            for member in self.members(key) {
                let left = self.left(&member, now);
                assert!(
                    left.is_none_or(|left| left >= 0),
                    "{member:?} is {left:?} micros over after {posting:?}"
                );
            }
        }
        assert_eq!(posted.remaining, self.remaining(key, now), "what {posting:?} leaves");
    }
}

impl Count {
    pub(super) fn take_adjustment(
        &mut self,
        posting: &Posting,
        amount: Amount,
        again: bool,
        answer: &Result<Posted, Refusal>,
        now: Timestamp,
    ) {
        let entry = EntryId::from(posting.id);
        if amount.is_zero() {
            return assert_eq!(*answer, Err(Refusal::ZeroAdjustment));
        }
        if !again {
            let (account, key, kind) = (posting.account.clone(), posting.key, EntryKind::Adjust);
            self.add(posting.id, account, key, kind, amount.as_micros(), now);
            self.done.push(posting.id);
        }
        let members = posting.key.map_or_else(
            || vec![Member::Account(posting.account.clone())],
            |key| self.members(key),
        );
        let remaining = self.least(&members, now);
        assert_eq!(*answer, Ok(Posted::new(Outcome::Adjusted { entry }, remaining)), "{posting:?}");
    }
}

/// The start of the window, found by counting windows from the first on. No clock in these tests goes back.
pub(super) fn window_start(period: Period, anchor: Timestamp, now: Timestamp) -> Option<Timestamp> {
    let civil = |at| Offset::UTC.to_datetime(at);
    let monday_and_first = |text: &str| text.parse::<Timestamp>().unwrap();
    let (anchor, days, months) = match period {
        Period::Lifetime => return None,
        Period::Day => (anchor, 1, 0),
        Period::Week => (anchor, 7, 0),
        Period::Month => (anchor, 0, 1),
        Period::CalendarDay => (monday_and_first("2026-01-01T00:00:00Z"), 1, 0),
        Period::CalendarWeek => (monday_and_first("2025-12-29T00:00:00Z"), 7, 0),
        Period::CalendarMonth => (monday_and_first("2026-01-01T00:00:00Z"), 0, 1),
        other => panic!("a new period: {other}"),
    };
    let first = civil(anchor);
    let nth = |n: i32| {
        if months == 0 {
            return first.checked_add(Span::new().days(days * n)).unwrap();
        }
        let month = i32::from(first.month()) - 1 + n;
        let (year, month) = (
            first.year() + i16::try_from(month / 12).unwrap(),
            i8::try_from(month % 12 + 1).unwrap(),
        );
        let last = jiff::civil::date(year, month, 1).days_in_month();
        jiff::civil::date(year, month, first.day().min(last)).to_datetime(first.time())
    };
    let start = (0..).map(nth).take_while(|start| *start <= civil(now)).last().unwrap_or(first);
    Some(Offset::UTC.to_timestamp(start).unwrap())
}
