//! Which answers may come from the cache.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::validator::Validated;
use super::*;
use crate::ledger::{Action, BalanceRow, Book, HoldRow, HoldState, OnExpiry, Posting, WriteSet};
use crate::model::{
    Account, AccountId, Amount, Balance, Budget, Key, KeyId, Note, Period, PostingId, Spent,
    TokenHash,
};
use crate::store::account_row::AccountRow;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;
const LONG: Duration = Duration::from_secs(3_600);

/// As on SQLite: the epoch validates everything.
enum ByEpoch {}

impl Validator for ByEpoch {
    type Epoch = u32;
    type RowVersion = ();
    type Answer = u32;

    fn epoch(answer: &u32) -> Option<u32> {
        Some(*answer)
    }

    fn account_version(_: &u32, cached: &AccountRow) -> Option<i64> {
        Some(cached.version)
    }

    fn is_current(_: &u32, _: KeyId, (): ()) -> bool {
        true
    }
}

/// As on PostgreSQL: accounts and the rows of keys have versions.
enum ByVersion {}

struct Versions {
    epoch: u32,
    account: i64,
    row: u32,
}

impl Validator for ByVersion {
    type Epoch = u32;
    type RowVersion = u32;
    type Answer = Versions;

    fn epoch(answer: &Versions) -> Option<u32> {
        Some(answer.epoch)
    }

    fn account_version(answer: &Versions, _: &AccountRow) -> Option<i64> {
        Some(answer.account)
    }

    fn is_current(answer: &Versions, _: KeyId, cached: u32) -> bool {
        answer.row == cached
    }
}

fn id(name: &str) -> AccountId {
    name.parse().unwrap()
}

fn hash(n: i64) -> TokenHash {
    TokenHash::digest(&n.to_string())
}

fn blank() -> Balance {
    Balance::empty(&Budget::unlimited(), NOW, NOW)
}

fn row(name: &str, version: i64) -> AccountRow {
    let account = Account::stored(id(name), Budget::unlimited(), NOW, blank());
    AccountRow { account, version, changed_at: NOW, next_expiry: None, last_entry: 0 }
}

/// An account with one key of the same number, found by its token.
fn snapshot<V: Validator>(
    name: &str,
    n: i64,
    version: i64,
    row_version: V::RowVersion,
    spent: i32,
) -> Snapshot<V> {
    let mut snapshot = Snapshot::default();
    let mut key = Key::stored(KeyId::new(n), id(name), NOW, blank());
    key.balance.set_spent(Spent::new(Period::Lifetime, Amount::cents(spent), jiff::Timestamp::MIN));
    snapshot.add_account(row(name, version));
    snapshot.add_token(hash(n), &key, row_version, None);
    snapshot.add_key(key, row_version);
    snapshot
}

/// A write that spends that many cents with the key of that number.
fn delta(name: &str, n: i64, from: i64, version: i64, spent: i32) -> CacheDelta {
    let mut balance = blank();
    balance.set_spent(Spent::new(Period::Lifetime, Amount::cents(spent), jiff::Timestamp::MIN));
    let balances = vec![BalanceRow { key: KeyId::new(n), account: id(name), balance }];
    CacheDelta::new(from, row(name, version), &WriteSet { balances, ..WriteSet::default() })
}

impl<V: Validator> AccountCache<V> {
    fn revalidation(&self) -> Revalidation<V> {
        self.revalidate(&[hash(1), hash(2)], |_| false)
    }

    /// Returns the cents that key 1 has spent, if its token is found.
    fn found(&self, revalidation: &Revalidation<V>, answer: V::Answer) -> Option<i64> {
        let found = self.lookup(&[hash(1)], revalidation, &answer, NOW).pop().unwrap()?;
        Some(found.lineage.key().balance.spent().as_micros() / 10_000)
    }

    fn is_stale_found(&self, max_staleness: Duration) -> bool {
        self.try_find_cached(&hash(1), max_staleness, NOW).is_some()
    }
}

fn by_epoch() -> AccountCache<ByEpoch> {
    let cache = AccountCache::default();
    cache.insert(&cache.revalidation(), 1, snapshot("acme", 1, 1, (), 0));
    assert_eq!(cache.found(&cache.revalidation(), 1), Some(0));
    cache
}

fn by_version() -> AccountCache<ByVersion> {
    let cache = AccountCache::default();
    cache.insert(&cache.revalidation(), 1, snapshot("acme", 1, 1, 7, 0));
    assert_eq!(
        cache.found(&cache.revalidation(), Versions { epoch: 1, account: 1, row: 7 }),
        Some(0)
    );
    cache
}

fn write(epoch: u32, next: Option<u32>, deltas: Vec<CacheDelta>) -> Write<u32> {
    Write { epoch: Some(epoch), next, deltas, policy: Vec::new() }
}

fn change(epoch: u32, next: Option<u32>) -> Write<u32> {
    Write { epoch: Some(epoch), next, deltas: Vec::new(), policy: vec![id("acme")] }
}

#[test]
fn a_commit_of_another_process_invalidates_the_cache() {
    let cache = by_epoch();
    let revalidation = cache.revalidation();
    assert_eq!(cache.found(&revalidation, 2), None);
    assert_eq!(cache.found(&cache.revalidation(), 2), None);
    cache.insert(&cache.revalidation(), 2, snapshot("acme", 1, 1, (), 5));
    assert_eq!(cache.found(&cache.revalidation(), 2), Some(5));
}

#[test]
fn our_own_commit_is_applied_by_its_first_reader() {
    for is_seen in [true, false] {
        let cache = by_epoch();
        let pending = cache.begin_write(write(1, Some(2), vec![delta("acme", 1, 1, 1, 3)]));
        assert_eq!(cache.found(&cache.revalidation(), 1), Some(0));
        if is_seen {
            assert_eq!(cache.found(&cache.revalidation(), 2), Some(3));
        }
        pending.on_commit();
        assert_eq!(cache.found(&cache.revalidation(), 2), Some(3));

        let cache = by_version();
        let pending = cache.begin_write(write(1, None, vec![delta("acme", 1, 1, 4, 3)]));
        assert_eq!(
            cache.found(&cache.revalidation(), Versions { epoch: 1, account: 1, row: 7 }),
            Some(0)
        );
        if is_seen {
            assert_eq!(
                cache.found(&cache.revalidation(), Versions { epoch: 1, account: 4, row: 7 }),
                Some(3)
            );
        }
        pending.on_commit();
        assert_eq!(
            cache.found(&cache.revalidation(), Versions { epoch: 1, account: 4, row: 7 }),
            Some(3)
        );
    }
}

/// An account that is read during a write gets that write applied.
#[test]
fn what_is_inserted_during_a_write_has_the_write_applied() {
    let cache = by_epoch();
    let revalidation = cache.revalidation();
    let pending = cache.begin_write(write(1, Some(2), vec![delta("beta", 2, 1, 1, 3)]));
    cache.insert(&revalidation, 1, snapshot("beta", 2, 1, (), 0));
    pending.on_commit();
    let found = cache.lookup(&[hash(2)], &cache.revalidation(), &2, NOW).pop().unwrap().unwrap();
    assert_eq!(found.lineage.key().balance.spent(), Amount::cents(3));
}

#[test]
fn an_older_snapshot_neither_clears_nor_inserts() {
    let cache = by_epoch();
    let revalidation = cache.revalidation();
    cache.begin_write(write(1, Some(2), vec![delta("acme", 1, 1, 1, 3)])).on_commit();
    // The snapshot began before the commit, so the newer cached data answers it.
    assert_eq!(cache.found(&revalidation, 1), Some(3));
    cache.insert(&revalidation, 1, snapshot("acme", 1, 1, (), 0));
    cache.insert(&revalidation, 1, snapshot("beta", 2, 1, (), 0));
    assert_eq!(cache.found(&cache.revalidation(), 2), Some(3));
    assert!(cache.lookup(&[hash(2)], &cache.revalidation(), &2, NOW)[0].is_none());
    // A snapshot from before a commit of another process says nothing.
    assert_eq!(cache.found(&cache.revalidation(), 3), None);
    cache.insert(&cache.revalidation(), 3, snapshot("acme", 1, 1, (), 9));
    assert_eq!(cache.found(&revalidation, 1), None);
    assert_eq!(cache.found(&cache.revalidation(), 3), Some(9));
}

/// A restored file has an epoch that this process had before.
#[test]
fn an_epoch_that_comes_back_invalidates_the_cache() {
    let cache = by_epoch();
    cache.begin_write(write(1, Some(2), vec![delta("acme", 1, 1, 1, 3)])).on_commit();
    assert_eq!(cache.found(&cache.revalidation(), 1), None);
}

#[test]
fn a_later_commit_of_another_process_is_not_taken_for_ours() {
    let cache = by_epoch();
    let pending = cache.begin_write(write(1, Some(2), vec![delta("acme", 1, 1, 1, 3)]));
    assert_eq!(cache.found(&cache.revalidation(), 3), None);
    cache.insert(&cache.revalidation(), 3, snapshot("acme", 1, 1, (), 8));
    pending.on_commit();
    assert_eq!(cache.found(&cache.revalidation(), 3), Some(8));
}

#[test]
fn a_conflict_and_an_unknown_outcome_are_read_again() {
    let cache = by_version();
    let versions = |account| Versions { epoch: 1, account, row: 7 };
    cache.begin_write(write(1, None, vec![delta("acme", 1, 1, 4, 3)])).on_conflict();
    assert_eq!(cache.found(&cache.revalidation(), versions(1)), None);
    let cache = by_version();
    drop(cache.begin_write(write(1, None, vec![delta("acme", 1, 1, 4, 3)])));
    assert_eq!(cache.found(&cache.revalidation(), versions(4)), None);
    // The dropped write is not applied to what is read later.
    cache.insert(&cache.revalidation(), 1, snapshot("acme", 1, 1, 7, 0));
    assert_eq!(cache.found(&cache.revalidation(), versions(4)), None);

    let cache = by_epoch();
    drop(cache.begin_write(write(1, Some(2), vec![delta("acme", 1, 1, 1, 3)])));
    assert_eq!(cache.found(&cache.revalidation(), 1), None);
}

/// Several writes of an account may be in progress, and one of them is committed.
#[test]
fn of_two_writes_the_one_that_was_committed_is_applied() {
    let cache = by_version();
    let one = cache.begin_write(write(1, None, vec![delta("acme", 1, 1, 4, 3)]));
    let other = cache.begin_write(write(1, None, vec![delta("acme", 1, 1, 5, 6)]));
    assert_eq!(
        cache.found(&cache.revalidation(), Versions { epoch: 1, account: 5, row: 7 }),
        Some(6)
    );
    other.on_commit();
    assert_eq!(
        cache.found(&cache.revalidation(), Versions { epoch: 1, account: 5, row: 7 }),
        Some(6)
    );
    one.on_conflict();
    assert_eq!(cache.found(&cache.revalidation(), Versions { epoch: 1, account: 5, row: 7 }), None);
}

#[test]
fn versions_that_differ_from_the_store_are_read_again() {
    let cache = by_version();
    for (epoch, account, row) in [(1, 2, 7), (1, 1, 8), (2, 1, 7)] {
        assert_eq!(cache.found(&cache.revalidation(), Versions { epoch, account, row }), None);
    }
    // The answer has an older account version than the cache: it was read before our commit.
    let cache = by_version();
    cache.begin_write(write(1, None, vec![delta("acme", 1, 1, 4, 3)])).on_commit();
    assert_eq!(
        cache.found(&cache.revalidation(), Versions { epoch: 1, account: 1, row: 7 }),
        Some(3)
    );
    cache.insert(&cache.revalidation(), 1, snapshot("acme", 1, 1, 7, 0));
    assert_eq!(
        cache.found(&cache.revalidation(), Versions { epoch: 1, account: 4, row: 7 }),
        Some(3)
    );
    // A changed row invalidates the token that was read with the old one.
    let mut changed = snapshot("acme", 1, 4, 8, 3);
    changed.tokens.clear();
    cache.insert(&cache.revalidation(), 1, changed);
    assert_eq!(cache.found(&cache.revalidation(), Versions { epoch: 1, account: 4, row: 8 }), None);
}

#[test]
fn what_was_read_before_a_policy_change_ended_is_not_cached_over_it() {
    for reads_first in [true, false] {
        let cache = by_epoch();
        cache.record_policy_version(Some(1), Instant::now());
        let early = cache.revalidation();
        let pending = cache.begin_write(change(1, Some(2)));
        assert_eq!(cache.found(&cache.revalidation(), 1), None, "it was removed at the begin");
        let revalidation = if reads_first { early } else { cache.revalidation() };
        cache.insert(&revalidation, 1, snapshot("acme", 1, 1, (), 0));
        pending.on_commit();
        assert!(!cache.is_stale_found(LONG));
        assert_eq!(cache.found(&cache.revalidation(), 2), None);
        cache.insert(&revalidation, 2, snapshot("acme", 1, 1, (), 0));
        assert!(!cache.is_stale_found(LONG));
    }
    // The same if a reader sees the commit before the writer has its answer.
    let cache = by_epoch();
    let pending = cache.begin_write(change(1, Some(2)));
    cache.insert(&cache.revalidation(), 1, snapshot("acme", 1, 1, (), 0));
    assert_eq!(cache.found(&cache.revalidation(), 2), None);
    drop(pending);

    let cache = by_version();
    cache.record_policy_version(Some(1), Instant::now());
    let pending = cache.begin_write(change(1, None));
    let revalidation = cache.revalidation();
    cache.insert(&revalidation, 1, snapshot("acme", 1, 1, 7, 0));
    drop(pending);
    assert!(!cache.is_stale_found(LONG), "it may have been committed");
    cache.insert(&revalidation, 1, snapshot("acme", 1, 1, 7, 0));
    assert!(!cache.is_stale_found(LONG));
}

#[test]
fn a_stale_look_up_follows_the_latest_poll() {
    let cache = by_epoch();
    assert!(!cache.is_stale_found(LONG), "no policy was polled");
    cache.record_policy_version(Some(1), Instant::now());
    assert!(!cache.is_stale_found(LONG), "it was validated before");
    cache.found(&cache.revalidation(), 1);
    assert!(cache.is_stale_found(LONG));
    assert!(!cache.is_stale_found(Duration::ZERO));
    cache.record_policy_version(Some(1), Instant::now());
    assert!(cache.is_stale_found(LONG));
    // After a posting of another process the data is not valid, but may be used as stale.
    assert_eq!(cache.found(&cache.revalidation(), 2), None);
    assert!(cache.is_stale_found(LONG));
    // Another policy version, and an unknown one.
    cache.record_policy_version(Some(2), Instant::now());
    assert!(!cache.is_stale_found(LONG));
    cache.record_policy_version(None, Instant::now());
    assert!(!cache.is_stale_found(LONG));
    // A machine was suspended: only the system clock went on.
    cache.record_policy_version(Some(3), Instant::now());
    cache.found(&cache.revalidation(), 2);
    cache.insert(&cache.revalidation(), 2, snapshot("acme", 1, 1, (), 0));
    assert!(cache.is_stale_found(LONG));
    cache.write().policy.as_mut().unwrap().asked_on -= 2 * LONG;
    assert!(!cache.is_stale_found(LONG));
    // An answer of an earlier poll changes nothing.
    cache.record_policy_version(None, Instant::now());
    let before = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
    cache.record_policy_version(Some(1), before);
    assert!(!cache.is_stale_found(LONG));
}

#[test]
fn a_stale_look_up_respects_its_bound() {
    let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
    let cache = by_epoch();
    // The poll is old.
    cache.record_policy_version(Some(1), ago(20));
    cache.found(&cache.revalidation(), 1);
    assert!(!cache.is_stale_found(Duration::from_secs(10)));
    assert!(cache.is_stale_found(Duration::from_secs(30)));
    // The validation is old.
    let cache: AccountCache<ByEpoch> = AccountCache::default();
    let mut revalidation = cache.revalidation();
    revalidation.validated = Validated { asked_at: ago(20), policy: Some(1) };
    cache.record_policy_version(Some(1), Instant::now());
    cache.insert(&revalidation, 1, snapshot("acme", 1, 1, (), 0));
    assert!(!cache.is_stale_found(Duration::from_secs(10)));
    assert!(cache.is_stale_found(Duration::from_secs(30)));
    cache.found(&cache.revalidation(), 1);
    assert!(cache.is_stale_found(Duration::from_secs(10)));
}

#[test]
fn a_stale_look_up_never_refuses() {
    for refuse in
        [|key: &mut Key| key.revoked_at = Some(NOW), |key: &mut Key| key.expires_at = Some(NOW)]
    {
        let cache = by_epoch();
        cache.clear();
        cache.record_policy_version(Some(1), Instant::now());
        let mut key = Key::stored(KeyId::new(1), id("acme"), NOW, blank());
        refuse(&mut key);
        let mut snapshot = Snapshot::default();
        snapshot.add_account(row("acme", 1));
        snapshot.add_token(hash(1), &key, (), None);
        snapshot.add_key(key, ());
        cache.insert(&cache.revalidation(), 1, snapshot);
        assert_eq!(cache.found(&cache.revalidation(), 1), Some(0));
        assert!(!cache.is_stale_found(LONG));
    }
}

#[test]
fn a_token_that_was_rotated_away_ends_with_its_grace() {
    let cache: AccountCache<ByEpoch> = AccountCache::default();
    let end = NOW + Duration::from_secs(60);
    let mut read = snapshot("acme", 1, 1, (), 0);
    let key = Key::stored(KeyId::new(1), id("acme"), NOW, blank());
    read.add_token(hash(2), &key, (), Some(end));
    cache.insert(&cache.revalidation(), 1, read);
    let found = |now| cache.lookup(&[hash(2)], &cache.revalidation(), &1, now).pop().unwrap();
    assert_eq!(found(NOW).unwrap().retires_at, Some(end));
    assert_eq!(found(end), None);
}

#[test]
fn a_book_is_filled_only_with_all_that_is_needed() {
    let cache = by_epoch();
    let posting = |key, action| Posting::new(id("acme"), KeyId::new(key), action);
    let pay = Action::Pay { amount: Amount::cents(1), note: Note::default(), claim: None };
    let fill = |epoch, posting: &Posting, now| {
        cache.fill_book(&mut Book::new(), epoch, &id("acme"), &[posting], now).is_some()
    };
    assert!(fill(1, &posting(1, pay.clone()), NOW));
    assert!(!fill(2, &posting(1, pay.clone()), NOW), "another epoch");
    assert!(!fill(1, &posting(2, pay.clone()), NOW), "a key that is not cached");
    let held = PostingId::new();
    let settle = Action::Settle {
        holds: vec![held],
        void: Vec::new(),
        cost: Amount::cents(1),
        note: Note::default(),
        claim: None,
    };
    assert!(!fill(1, &posting(1, settle.clone()), NOW), "a hold that is not cached");
    let end = NOW + Duration::from_secs(60);
    let hold = HoldRow {
        id: held,
        account: id("acme"),
        key: KeyId::new(1),
        path: vec![KeyId::new(1)],
        amount: Amount::cents(1),
        created_at: NOW,
        expires_at: end,
        on_expiry: OnExpiry::Release,
        note: Note::default(),
        state: HoldState::Live,
    };
    let changes = WriteSet { new_holds: vec![hold], ..WriteSet::default() };
    let after = row("acme", 1).after(&changes);
    cache.begin_write(write(1, Some(2), vec![CacheDelta::new(1, after, &changes)])).on_commit();
    assert!(fill(2, &posting(1, settle.clone()), NOW));
    assert!(!fill(2, &posting(1, pay), end), "a hold has run out");
}

#[test]
fn what_is_cached_is_bounded() {
    let cache: AccountCache<ByEpoch> = AccountCache::default();
    let (mut max_size, mut kept) = (0, 0);
    for n in 0..2_000 {
        let name = format!("account {n}");
        cache.insert(&cache.revalidation(), 1, snapshot(&name, n, 1, (), 0));
        max_size = max_size.max(cache.read().entries.size());
    }
    for n in 0..2_000 {
        kept += usize::from(cache.lookup(&[hash(n)], &cache.revalidation(), &1, NOW)[0].is_some());
    }
    assert!(max_size <= 260 * 1024, "{max_size}");
    assert!(kept > 50 && kept < 1_000, "{kept}");
    // Texts count: fewer keys with a hundred long scopes are kept.
    let is_kept = |n: i64| cache.lookup(&[hash(n)], &cache.revalidation(), &1, NOW)[0].is_some();
    for n in 2_000..2_100 {
        let name = format!("account {n}");
        let mut key = Key::stored(KeyId::new(n), id(&name), NOW, blank());
        key.scopes = (0..100)
            .map(|n| format!("{n:0>100}").parse::<crate::model::Scope>().unwrap())
            .collect();
        let mut long = Snapshot::default();
        long.add_account(row(&name, 1));
        long.add_token(hash(n), &key, (), None);
        long.add_key(key, ());
        cache.insert(&cache.revalidation(), 1, long);
    }
    assert!((1..25).contains(&(2_000..2_100).filter(|n| is_kept(*n)).count()));
    // The counted size is the actual size.
    let state = cache.read();
    assert_eq!(state.entries.size(), state.entries.counted());
    drop(state);
    cache.clear();
    assert_eq!(cache.read().entries.size(), 0);
}
