//! Random histories: two stores side by side must agree on every answer, and both with a naive count.
//!
//! The count knows no ledger. It keeps a flat list of entries and one of holds, and adds them up again, with windows of
//! its own, for every question.

use std::fmt::Debug;
use std::time::Duration;

use agentkey::ledger::{
    AccountChange, Action, IdempotencyClaim, IdempotencyKey, KeyChange, NewToken, OnExpiry,
    Outcome, Posted, Posting,
};
use agentkey::model::ChangeError;
use agentkey::model::{Balance, Clock, EntryKind, Limit, Note, Period, PostingId, TokenHash};
use agentkey::store::KeyQuery;
use agentkey::store::{Store, UsageBy};
use agentkey::testing::World;
use agentkey::{
    AccountId, Amount, Budget, EntryId, EntryQuery, Holder, Key, KeyId, KeyPatch, MemoryStore,
    NewKey, Refusal, ScopeSet, UsageQuery,
};
use jiff::tz::Offset;
use jiff::{Span, Timestamp};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, FileFailurePersistence};

mod count;
mod history;
#[cfg(feature = "postgres")]
#[path = "../support/postgres.rs"]
mod postgres_server;

use count::*;
use history::*;

const ACCOUNTS: [&str; 2] = ["acme", "other"];

/// Two stores side by side, and the count of what they should say.
struct Sides<A, B> {
    a: World<A>,
    b: World<B>,
    count: Count,
    postings: Vec<Posting>,
    claims: Vec<(KeyId, IdempotencyClaim)>,
    tokens: u32,
    hashes: Vec<TokenHash>,
}

#[track_caller]
fn same<T: PartialEq + Debug>(a: T, b: T) -> T {
    assert_eq!(a, b, "the stores disagree");
    a
}

impl<A: Store, B: Store> Sides<A, B> {
    async fn new(a: impl AsyncFn(Clock) -> A, b: impl AsyncFn(Clock) -> B) -> Self {
        let (a, b) = (World::new(a).await, World::new(b).await);
        let (count, postings, claims, hashes) = Default::default();
        Self { a, b, count, postings, claims, tokens: 0, hashes }
    }

    fn now(&self) -> Timestamp {
        same(self.a.clock.now(), self.b.clock.now())
    }

    fn pick_key(&self, index: &Index) -> Option<&Key> {
        (!self.count.keys.is_empty()).then(|| index.get(&self.count.keys))
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Create { account, parent, budget, expires_in } => {
                self.sweep().await;
                let mut new = match parent.as_ref().and_then(|parent| self.pick_key(parent)) {
                    Some(parent) => NewKey::child_of(parent.id),
                    None => NewKey::new(ACCOUNTS[*account].parse().unwrap()),
                };
                new = new.budget(*budget).scopes(ScopeSet::none());
                if let Some(secs) = expires_in {
                    new = new.expires_at(self.now() + Duration::from_secs(*secs));
                }
                let made = same(self.a.try_create(new.clone()).await, self.b.try_create(new).await);
                if let Ok((key, hash)) = made {
                    self.hashes.push(hash);
                    self.count.put(key);
                }
            }
            Step::Update { key, budget, expires_in, scopes, disabled } => {
                let Some(key) = self.pick_key(key).map(|key| key.id) else { return };
                let mut patch = KeyPatch::new();
                if let Some(budget) = budget {
                    patch = patch.budget(*budget);
                }
                if let Some(expires_in) = expires_in {
                    let at = expires_in.map(|secs| self.now() + Duration::from_secs(secs));
                    patch = at.map_or_else(
                        || patch.clone().never_expires(),
                        |at| patch.clone().expires_at(at),
                    );
                }
                if let Some(all) = scopes {
                    patch = patch.scopes(if *all {
                        ScopeSet::unrestricted()
                    } else {
                        ScopeSet::none()
                    });
                }
                if let Some(is_disabled) = disabled {
                    patch = patch.disabled(*is_disabled);
                }
                self.change_key(KeyChange::Update { key, patch }).await;
            }
            Step::Ceiling { account, budget } => {
                self.sweep().await;
                let account: AccountId = ACCOUNTS[*account].parse().unwrap();
                let (a, b) = (&self.a, &self.b);
                for change in [AccountChange::Ensure(*budget), AccountChange::SetBudget(*budget)] {
                    same(
                        a.change_account(&account, change).await,
                        b.change_account(&account, change).await,
                    )
                    .unwrap();
                }
                let now = self.a.store.account(&account).await.unwrap().unwrap();
                self.count.put_ceiling(&account, *budget, now.created_at);
            }
            Step::Rotate { key, grace } => {
                let Some(key) = self.pick_key(key).map(|key| key.id) else { return };
                self.tokens += 1;
                let hash = TokenHash::digest(&format!("rotated {}", self.tokens));
                let token =
                    NewToken { hash, prefix: "ak".into(), start: format!("{:08}", self.tokens) };
                self.hashes.push(hash);
                self.change_key(KeyChange::Rotate {
                    key,
                    token,
                    grace: Duration::from_secs(*grace),
                })
                .await;
            }
            Step::Revoke { key } => {
                let Some(key) = self.pick_key(key).map(|key| key.id) else { return };
                self.change_key(KeyChange::Revoke { key, reason: None }).await;
            }
            Step::Post(asks) => self.post(asks).await,
            Step::Wait(time) => self.wait_until(self.now() + *time),
            Step::WaitForMonthEnd => {
                let now = Offset::UTC.to_datetime(self.now());
                let last = now.last_of_month();
                let end = if last > now {
                    last
                } else {
                    now.checked_add(Span::new().days(1)).unwrap().last_of_month()
                };
                self.wait_until(Offset::UTC.to_timestamp(end).unwrap());
            }
            Step::Sweep => self.sweep().await,
            Step::Compare => self.compare().await,
        }
    }

    fn wait_until(&self, at: Timestamp) {
        self.a.clock.set(at);
        self.b.clock.set(at);
    }

    async fn change_key(&mut self, change: KeyChange) {
        self.sweep().await;
        let changed: Result<Key, ChangeError> =
            same(self.a.change_key(change.clone()).await, self.b.change_key(change).await);
        if let Ok(key) = changed {
            self.count.put(key);
            self.count.keys.sort_by_key(|key| key.id);
        }
    }

    /// Ends what has run out in both, so that what follows finds the same.
    async fn sweep(&mut self) {
        for store in [&*self.a.store as &dyn Store, &*self.b.store as &dyn Store] {
            while store.sweep().await.unwrap() > 0 {}
        }
        self.count.expire(None, self.now());
    }

    async fn post(&mut self, asks: &[Ask]) {
        let batch: Vec<_> = asks.iter().filter_map(|ask| self.posting(ask)).collect();
        let answers = same(self.a.post_all(&batch).await, self.b.post_all(&batch).await);
        let now = self.now();
        for posting in &batch {
            self.count.expire(Some(&posting.account), now);
        }
        for (posting, answer) in batch.iter().zip(&answers) {
            self.count.take(posting, answer, now);
        }
    }

    fn posting(&mut self, ask: &Ask) -> Option<Posting> {
        let holds: Vec<_> =
            self.postings.iter().filter(|it| matches!(it.action, Action::Hold { .. })).collect();
        let hold = |index: &Index| (!holds.is_empty()).then(|| *index.get(&holds));
        let claim = |index: &Option<Index>| {
            let index = index.filter(|_| !self.claims.is_empty())?;
            Some(index.get(&self.claims).clone())
        };
        let note = Note::default();
        let (key, action) = match ask {
            Ask::Open { key, claim } => {
                let claim = claim.map(|(name, content)| {
                    IdempotencyKey::new(format!("claim {name}"), [content; 32])
                });
                (self.pick_key(key)?.id, Action::Open { claim, ttl: Duration::from_secs(60) })
            }
            Ask::Hold { key, amount, ttl, charge } => {
                let on_expiry = if *charge { OnExpiry::Charge } else { OnExpiry::Release };
                let ttl = Duration::from_secs(*ttl);
                (
                    self.pick_key(key)?.id,
                    Action::Hold { amount: *amount, ttl, on_expiry, note, claim: None },
                )
            }
            Ask::Renew { hold: one, also, ttl, max_age, claim: claimed } => {
                let (one, also) = (hold(one)?, hold(also)?);
                let (ttl, max_age) = (Duration::from_secs(*ttl), Duration::from_secs(*max_age));
                let (key, claim) =
                    claim(claimed).map_or((one.key?, None), |(key, claim)| (key, Some(claim)));
                (key, Action::Renew { holds: vec![one.id, also.id], ttl, max_age, claim })
            }
            Ask::Settle { holds, void, key, cost, claim: claimed } => {
                let holds: Vec<_> = holds.iter().filter_map(hold).collect();
                let key = holds.first().map_or(self.pick_key(key)?.id, |hold| hold.key.unwrap());
                let pays: Vec<_> = self
                    .postings
                    .iter()
                    .filter(|it| matches!(it.action, Action::Pay { .. }))
                    .collect();
                let void = void.filter(|_| !pays.is_empty()).map(|index| index.get(&pays).id);
                let (key, claim) = claim(claimed)
                    .filter(|(claimed, _)| {
                        self.count.key(*claimed).account == self.count.key(key).account
                    })
                    .map_or((key, None), |(key, claim)| (key, Some(claim)));
                let holds = holds.iter().map(|hold| hold.id).collect();
                (
                    key,
                    Action::Settle {
                        holds,
                        void: void.into_iter().collect(),
                        cost: *cost,
                        note,
                        claim,
                    },
                )
            }
            Ask::Pay { key, amount, claim: claimed } => {
                let (key, claim) = claim(claimed)
                    .map_or((self.pick_key(key)?.id, None), |(key, claim)| (key, Some(claim)));
                (key, Action::Pay { amount: *amount, note, claim })
            }
            Ask::Refund { of, amount } => {
                let lines: Vec<_> =
                    self.count.lines.iter().filter(|line| line.id.is_some()).collect();
                let of = *(!lines.is_empty()).then(|| of.get(&lines))?;
                // Of an account's own adjustment too, as any key of it.
                let key = of.key.or_else(|| {
                    Some(self.count.keys.iter().find(|key| key.account == of.account)?.id)
                });
                (key?, Action::Refund { entry: of.id?, amount: *amount })
            }
            Ask::Adjust { key, amount, .. } => (
                self.pick_key(key)?.id,
                Action::Adjust { amount: *amount, note, origin: Box::default() },
            ),
            Ask::Again(which) => {
                return (!self.postings.is_empty()).then(|| which.get(&self.postings).clone());
            }
        };
        let mut posting = Posting::new(self.count.key(key).account.clone(), key, action);
        if matches!(ask, Ask::Adjust { of_account: true, .. }) {
            posting.key = None;
        }
        // The same ids in each run, so that a failing history fails again.
        let number = u128::try_from(self.postings.len()).unwrap() + 1;
        posting.id = PostingId::from_bytes(
            (0x0190_0000_0000_7000_8000_0000_0000_0000 + number).to_be_bytes(),
        );
        if let Action::Open { claim: Some(claim), .. } = &posting.action {
            self.claims.push((key, IdempotencyClaim::new(claim.key.clone(), posting.id)));
        }
        self.postings.push(posting.clone());
        Some(posting)
    }

    /// Each balance agrees with its entries and holds, also where expired holds were not ended.
    async fn reconcile(&self) {
        let keys = self.count.keys.iter().map(|key| Holder::Key(key.id));
        let accounts = ACCOUNTS.map(|account| Holder::Account(account.parse().unwrap()));
        for holder in keys.chain(accounts) {
            let a = self.a.store.reconcile(&holder).await.unwrap();
            let found = same(a, self.b.store.reconcile(&holder).await.unwrap());
            assert!(found.is_none_or(|found| found.agrees()), "of {holder:?}");
        }
    }

    /// Everything that can be read, of both stores, and the figures by the count.
    async fn compare(&mut self) {
        self.reconcile().await;
        self.sweep().await;
        let now = self.now();
        let (a, b): (&dyn Store, &dyn Store) = (&*self.a.store, &*self.b.store);
        same(a.find(&self.hashes).await.unwrap(), b.find(&self.hashes).await.unwrap());
        for key in &self.count.keys {
            let lineage =
                same(a.lineage(key.id).await.unwrap(), b.lineage(key.id).await.unwrap()).unwrap();
            let balance = lineage.key().balance;
            let member = Member::Key(key.id);
            assert_eq!(figures(&balance), self.count.figures(&member, now), "of key {}", key.id);
            assert_eq!(lineage.remaining(), self.count.remaining(key.id, now));
        }
        let mut lines = Vec::new();
        for account in ACCOUNTS {
            let id: AccountId = account.parse().unwrap();
            let kept = same(a.account(&id).await.unwrap(), b.account(&id).await.unwrap());
            if let Some(kept) = kept {
                let member = Member::Account(id.clone());
                let counted = self.count.figures(&member, now);
                assert_eq!(figures(&kept.balance), counted, "of account {account}");
            }
            let keys = KeyQuery::for_account(id.clone()).limit(1_000);
            same(a.keys(&keys).await.unwrap(), b.keys(&keys).await.unwrap());
            for by in [
                UsageBy::Key,
                UsageBy::Hour,
                UsageBy::Day,
                UsageBy::Month,
                UsageBy::Label("x".into()),
            ] {
                let query = UsageQuery::for_account(id.clone(), by);
                same(a.usage(&query).await.unwrap(), b.usage(&query).await.unwrap());
            }
            let query = EntryQuery::for_account(id).limit(1_000);
            let entries = |page: Vec<_>| {
                page.into_iter().map(|(_, entry)| entry).collect::<Vec<agentkey::model::Entry>>()
            };
            let kept = entries(a.entries(&query).await.unwrap());
            lines.extend(same(kept, entries(b.entries(&query).await.unwrap())));
        }
        let known =
            |id: EntryId| self.postings.iter().any(|posting| EntryId::from(posting.id) == id);
        let kept = lines.into_iter().map(|entry| Line {
            id: Some(entry.id).filter(|id| known(*id)),
            account: entry.account,
            key: entry.key,
            kind: entry.kind,
            amount: entry.amount.as_micros(),
            at: entry.at,
            counts_at: entry.counts_at,
            refunds: entry.refunds,
        });
        assert_eq!(in_order(kept.collect()), in_order(self.count.lines.clone()), "the entries");
    }
}

/// What was spent in each period, and what is held.
fn figures(balance: &Balance) -> (Vec<(Period, i64)>, i64) {
    let spent = balance.windows().map(|spent| (spent.period, spent.amount.as_micros()));
    (spent.collect(), balance.held.as_micros())
}

fn in_order(mut lines: Vec<Line>) -> Vec<Line> {
    lines.sort_by_key(|line| (line.at, line.id, line.refunds, line.amount));
    lines
}

fn replay<A: Store, B: Store>(
    a: impl AsyncFn(Clock) -> A,
    b: impl AsyncFn(Clock) -> B,
    history: &[Step],
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut sides = Sides::new(a, b).await;
        for step in history {
            sides.step(step).await;
        }
        sides.compare().await;
        sides.a.store.close().await;
        sides.b.store.close().await;
    });
}

async fn memory(clock: Clock) -> MemoryStore {
    MemoryStore::with_clock(clock)
}

/// Histories that once failed are kept in `proptest-regressions/`, and run first.
fn config(cases: u32) -> Config {
    let kept = FileFailurePersistence::Direct("proptest-regressions/properties.txt");
    let cases =
        std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(cases);
    Config {
        cases,
        failure_persistence: Some(Box::new(kept)),
        max_shrink_iters: 4_000,
        ..Config::default()
    }
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn the_ledger_agrees_with_the_naive_count(history in histories()) {
        replay(memory, memory, &history);
    }
}

#[cfg(feature = "sqlite")]
proptest! {
    #![proptest_config(config(128))]

    #[test]
    fn sqlite_agrees_with_the_model(history in histories()) {
        let sqlite = async |clock: Clock| {
            agentkey::SqliteStore::open(agentkey::store::SqliteOptions::new(":memory:").clock(clock)).await.unwrap()
        };
        replay(memory, sqlite, &history);
    }
}

#[cfg(feature = "postgres")]
mod postgres {
    use std::sync::atomic::{AtomicU32, Ordering};

    use agentkey::PostgresStore;
    use agentkey::store::PostgresOptions;

    use super::*;
    use crate::postgres_server::Server;

    /// A schema for each history, in one database.
    #[test]
    #[ignore = "needs PostgreSQL: ./scripts/test"]
    fn postgres_agrees_with_the_model() {
        let Some(server) = Server::shared() else { return };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let database = runtime.block_on(server.database());
        let histories_so_far = AtomicU32::new(0);
        // A failing history is reported soon, if not at its shortest.
        let config = Config { max_shrink_iters: 100, ..config(24) };
        proptest!(config, |(history in histories())| {
            let schema = format!("history_{}", histories_so_far.fetch_add(1, Ordering::Relaxed));
            let postgres = async |clock: Clock| {
                let options = PostgresOptions::new(database.url()).schema(&schema).clock(clock);
                PostgresStore::open(options).await.unwrap()
            };
            replay(memory, postgres, &history);
        });
    }
}
