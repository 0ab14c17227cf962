//! The reference model: everything in one book, under one lock.

mod prune;
mod query;
mod reconcile;
mod trail;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use self::trail::Trail;
use super::usage_sums::saturated;
use super::{
    AccountQuery, BoxFuture, ChangeResult, Cursor, EntryQuery, EventQuery, Found, ImportResult,
    KeyQuery, Prunable, PruneCutoffs, PruneStep, PrunedStep, Store, StoreResult, Usage, UsageQuery,
};
use crate::ledger::{
    AccountChange, AccountWrite, Action, Book, FirstSeenClaim, ImportDraft, ImportWrite, KeyChange,
    KeyRecord, KeyWrite, Load, Loaded, NewSigningKey, Posted, Posting, RateId, Rollup, Rules, Take,
    Taken, rate_time,
};
use crate::model::clock::later;
use crate::model::{
    Account, AccountId, Amount, ChangeError, Clock, Entry, EntryId, Event, Holder, Imported, Key,
    KeyId, Lineage, OpenHold, Origin, PostingId, Reconciled, Refusal, Spent, StoredSigningKey,
    TokenHash,
};

/// A store in memory, which is dropped with its process. It is meant for tests, and is the model that every other store
/// is compared with.
///
/// ```
/// use agentkey::{AgentKeys, MemoryStore};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), agentkey::BuildError> {
/// let keys = AgentKeys::new(MemoryStore::new())?;
/// # drop(keys); Ok(()) }
/// ```
#[derive(Debug, Default)]
pub struct MemoryStore {
    clock: Clock,
    state: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    book: Book,
    tokens: HashMap<TokenHash, TokenRow>,
    /// Entries in the order in which they were written.
    order: Vec<EntryId>,
    trail: Trail,
    last_key: i64,
    last_used: HashMap<KeyId, Timestamp>,
    signing_keys: Vec<StoredSigningKey>,
    /// By subject, who is making its key and until when.
    first_seen: HashMap<TokenHash, (PostingId, Timestamp)>,
    rate_limits: HashMap<RateId, i64>,
    /// The sums of entries that are no longer kept, by their ids.
    rollups: HashMap<[u8; 16], Rollup>,
}

#[derive(Clone, Copy, Debug)]
struct TokenRow {
    key: KeyId,
    retires_at: Option<Timestamp>,
}

impl MemoryStore {
    /// Returns an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns an empty store with the given clock.
    pub fn with_clock(clock: impl Into<Clock>) -> Self {
        Self { clock: clock.into(), ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn find<'a>(
        &'a self,
        hashes: &'a [TokenHash],
    ) -> BoxFuture<'a, StoreResult<Vec<Option<Found>>>> {
        let state = self.lock();
        let now = self.clock.now();
        let found = hashes.iter().map(|hash| state.find(hash, now)).collect();
        Box::pin(std::future::ready(Ok(found)))
    }

    /// Returns current data, because all of it is in memory.
    fn try_find_cached(&self, hash: &TokenHash, max_staleness: Option<Duration>) -> Option<Found> {
        max_staleness?;
        let found = self.state.try_lock().ok()?.find(hash, self.clock.now())?;
        found.lineage.check_active().is_ok().then_some(found)
    }

    fn post<'a>(
        &'a self,
        postings: &'a [Posting],
    ) -> BoxFuture<'a, StoreResult<Vec<Result<Posted, Refusal>>>> {
        let mut state = self.lock();
        for posting in postings {
            state.expire(&posting.account, self.clock.now());
        }
        let posted = postings.iter().map(|posting| state.book.post(posting)).collect();
        state.record();
        Box::pin(std::future::ready(Ok(posted)))
    }

    fn change_key<'a>(
        &'a self,
        change: &'a KeyChange,
        rules: &'a Rules,
    ) -> BoxFuture<'a, ChangeResult<Key>> {
        let mut state = self.lock();
        let changed = state.change_key(change, rules, &self.clock);
        drop(state);
        Box::pin(std::future::ready(Ok(changed)))
    }

    fn import_keys<'a>(
        &'a self,
        imports: &'a [ImportDraft],
        rules: &'a Rules,
    ) -> BoxFuture<'a, StoreResult<Vec<ImportResult>>> {
        let mut state = self.lock();
        let imported =
            imports.iter().map(|import| state.import_key(import, rules, &self.clock)).collect();
        drop(state);
        Box::pin(std::future::ready(Ok(imported)))
    }

    fn change_account<'a>(
        &'a self,
        account: &'a AccountId,
        change: AccountChange,
        origin: &'a Origin,
    ) -> BoxFuture<'a, ChangeResult<Account>> {
        let mut state = self.lock();
        let changed = state.change_account(account, change, self.clock.now(), origin);
        drop(state);
        Box::pin(std::future::ready(Ok(changed)))
    }

    fn lineages<'a>(
        &'a self,
        keys: &'a [KeyId],
    ) -> BoxFuture<'a, StoreResult<Vec<Option<Lineage>>>> {
        let mut state = self.lock();
        let lineages = keys.iter().map(|key| state.current_lineage(*key, &self.clock)).collect();
        Box::pin(std::future::ready(Ok(lineages)))
    }

    fn account<'a>(
        &'a self,
        account: &'a AccountId,
    ) -> BoxFuture<'a, StoreResult<Option<Account>>> {
        let account = self.lock().current_account(account, &self.clock);
        Box::pin(std::future::ready(Ok(account)))
    }

    fn accounts<'a>(&'a self, query: &'a AccountQuery) -> BoxFuture<'a, StoreResult<Vec<Account>>> {
        let accounts = self.lock().accounts(query, &self.clock);
        Box::pin(std::future::ready(Ok(accounts)))
    }

    fn open_holds(&self, limit: u32) -> BoxFuture<'_, StoreResult<Vec<OpenHold>>> {
        Box::pin(std::future::ready(Ok(self.lock().open_holds(limit))))
    }

    fn keys<'a>(&'a self, query: &'a KeyQuery) -> BoxFuture<'a, StoreResult<Vec<Key>>> {
        let keys = self.lock().keys(query, &self.clock);
        Box::pin(std::future::ready(Ok(keys)))
    }

    fn entries<'a>(
        &'a self,
        query: &'a EntryQuery,
    ) -> BoxFuture<'a, StoreResult<Vec<(Cursor, Entry)>>> {
        let entries = self.lock().entries(query);
        Box::pin(std::future::ready(Ok(entries)))
    }

    fn events<'a>(
        &'a self,
        query: &'a EventQuery,
    ) -> BoxFuture<'a, StoreResult<Vec<(Cursor, Event)>>> {
        let events = self.lock().events(query);
        Box::pin(std::future::ready(Ok(events)))
    }

    fn record_refusals<'a>(&'a self, refusals: &'a [Event]) -> BoxFuture<'a, StoreResult<()>> {
        let mut state = self.lock();
        refusals.iter().for_each(|event| state.trail.fold(event));
        Box::pin(std::future::ready(Ok(())))
    }

    fn entry(&self, id: EntryId) -> BoxFuture<'_, StoreResult<Option<Entry>>> {
        let state = self.lock();
        let entry = state.book.entry(id).map(|row| state.with_delegator(&row.entry));
        Box::pin(std::future::ready(Ok(entry)))
    }

    fn usage<'a>(&'a self, query: &'a UsageQuery) -> BoxFuture<'a, StoreResult<Vec<Usage>>> {
        let usage = self.lock().usage(query);
        Box::pin(std::future::ready(Ok(usage)))
    }

    fn sweep(&self) -> BoxFuture<'_, StoreResult<usize>> {
        let mut state = self.lock();
        let accounts: Vec<_> = state.book.accounts().cloned().collect();
        for account in accounts {
            state.book.advance_time(&account, self.clock.now());
            state.book.expire(&account);
        }
        let ended = state.record();
        Box::pin(std::future::ready(Ok(ended)))
    }

    fn record_last_used<'a>(
        &'a self,
        used: &'a [(KeyId, Timestamp)],
    ) -> BoxFuture<'a, StoreResult<()>> {
        let mut state = self.lock();
        for (key, at) in used {
            let last = state.last_used.entry(*key).or_insert(*at);
            *last = (*last).max(*at);
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn last_used<'a>(
        &'a self,
        keys: &'a [KeyId],
    ) -> BoxFuture<'a, StoreResult<Vec<Option<Timestamp>>>> {
        let state = self.lock();
        let last_used = keys.iter().map(|key| state.last_used.get(key).copied()).collect();
        Box::pin(std::future::ready(Ok(last_used)))
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn signing_keys<'a>(
        &'a self,
        new: Option<&'a NewSigningKey>,
    ) -> BoxFuture<'a, StoreResult<Vec<StoredSigningKey>>> {
        let keys = &mut self.lock().signing_keys;
        if let Some(write) = new.and_then(|new| new.decide(keys, self.clock.now())) {
            keys.retain(|key| !write.delete.contains(&key.kid));
            keys.push(write.insert);
        }
        Box::pin(std::future::ready(Ok(keys.clone())))
    }

    fn claim_first_seen(&self, claim: FirstSeenClaim) -> BoxFuture<'_, StoreResult<bool>> {
        let now = self.clock.now();
        let until = later(now, claim.lease);
        let claims = &mut self.lock().first_seen;
        let held = claims.entry(claim.subject).or_insert((claim.owner, until));
        let is_own = held.0 == claim.owner || held.1 <= now;
        if is_own {
            *held = (claim.owner, until);
        }
        Box::pin(std::future::ready(Ok(is_own)))
    }

    fn release_first_seen(&self, claim: FirstSeenClaim) -> BoxFuture<'_, StoreResult<()>> {
        let now = self.clock.now();
        let is_over = |subject: &TokenHash, (owner, until): &(PostingId, Timestamp)| {
            (*subject, *owner) == (claim.subject, claim.owner) || *until <= now
        };
        self.lock().first_seen.retain(|subject, held| !is_over(subject, held));
        Box::pin(std::future::ready(Ok(())))
    }

    fn take<'a>(&'a self, takes: &'a [Take]) -> BoxFuture<'a, StoreResult<Vec<Taken>>> {
        let (used, at) = (&mut self.lock().rate_limits, rate_time(self.clock.now()));
        let taken = takes.iter().map(|take| {
            let before = take.limits.iter().map(|(key, _)| used.get(key).copied().unwrap_or(0));
            let taken = take.decide(&before.collect::<Vec<_>>(), at);
            used.extend(take.limits.iter().map(|(key, _)| *key).zip(taken.used.iter().copied()));
            taken
        });
        let taken = taken.collect();
        Box::pin(std::future::ready(Ok(taken)))
    }

    fn prune<'a>(&'a self, step: &'a PruneStep) -> BoxFuture<'a, StoreResult<PrunedStep>> {
        let pruned = self.lock().prune(step);
        Box::pin(std::future::ready(Ok(pruned)))
    }

    fn prunable(&self, cutoffs: PruneCutoffs) -> BoxFuture<'_, StoreResult<Prunable>> {
        let prunable = self.lock().prunable(cutoffs);
        Box::pin(std::future::ready(Ok(prunable)))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn reconcile<'a>(
        &'a self,
        holder: &'a Holder,
    ) -> BoxFuture<'a, StoreResult<Option<Reconciled>>> {
        let recount = self.lock().recount(holder, self.clock.now());
        Box::pin(std::future::ready(Ok(recount.map(|recount| recount.reconciled()))))
    }

    fn mend<'a>(
        &'a self,
        holder: &'a Holder,
        origin: &'a Origin,
    ) -> BoxFuture<'a, StoreResult<Option<Reconciled>>> {
        let mended = self.lock().mend(holder, origin, self.clock.now());
        Box::pin(std::future::ready(Ok(mended)))
    }

    fn check_writable(&self) -> BoxFuture<'_, StoreResult<()>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Tables {
    fn find(&self, hash: &TokenHash, now: Timestamp) -> Option<Found> {
        let token = self.tokens.get(hash)?;
        // The time of an account does not go back when the clock does.
        let now = self.book.now(&self.book.key(token.key)?.account)?.max(now);
        let lineage =
            self.lineage(token.key, now).filter(|_| token.retires_at.is_none_or(|at| at > now))?;
        let expired = self.book.expired(lineage.account_id(), now).cloned();
        let lineage = Book::after_expiry(&lineage, expired);
        Some(Found::new(lineage, token.retires_at))
    }

    fn lineage(&self, key: KeyId, now: Timestamp) -> Option<Lineage> {
        let mut keys = self.book.path(key).into_iter().filter_map(|id| self.book.key(id).cloned());
        let key = keys.next()?;
        let account = self.book.account(&key.account)?.clone();
        Some(Lineage::new(key, keys.collect(), account, now))
    }

    fn current_lineage(&mut self, key: KeyId, clock: &Clock) -> Option<Lineage> {
        let account = self.book.key(key)?.account.clone();
        let now = self.expire(&account, clock.now());
        self.lineage(key, now)
    }

    /// Advances the account's time, and ends its expired holds.
    fn expire(&mut self, account: &AccountId, now: Timestamp) -> Timestamp {
        let now = self.book.advance_time(account, now);
        self.book.expire(account);
        self.record();
        now
    }

    /// Records the order of new entries. Returns how many holds changed.
    fn record(&mut self) -> usize {
        let changes = self.book.take_writes();
        self.order.extend(changes.entries.iter().map(|entry| entry.id));
        changes.events.into_iter().for_each(|event| self.trail.add(event));
        changes.changed_holds.len()
    }

    fn change_key(
        &mut self,
        change: &KeyChange,
        rules: &Rules,
        clock: &Clock,
    ) -> Result<Key, ChangeError> {
        if let KeyChange::EnsureSubject { subject, .. } = change
            && let Some(token) = self.tokens.get(&subject.subject.digest())
        {
            let id = token.key;
            let lineage = self.current_lineage(id, clock);
            return subject.check_found(id, lineage.as_ref().map(Lineage::key));
        }
        let (lineage, time) = self.load(change.load(), clock);
        let caller = change
            .load_caller(lineage.as_ref(), rules)
            .and_then(|caller| self.current_lineage(caller, clock));
        let children = change
            .count_children(rules)
            .map_or(0, |parent| self.children_in_force(parent, clock.now()));
        let descendants = change.count_descendants().map_or(0, |key| self.descendants(key));
        let in_grace = change.count_in_grace().map_or(0, |key| self.in_grace(key, clock.now()));
        let loaded = Loaded { lineage, caller, children, descendants, in_grace, time };
        Ok(self.write_key(change.decide(&loaded, rules)?))
    }

    fn load(&mut self, load: Load<'_>, clock: &Clock) -> (Option<Lineage>, Timestamp) {
        let now = clock.now();
        match load {
            Load::Lineage(id) => (self.current_lineage(id, clock), now),
            Load::Time(account) => (None, self.expire(account, now)),
        }
    }

    fn import_key(&mut self, import: &ImportDraft, rules: &Rules, clock: &Clock) -> ImportResult {
        if let Some(known) = self.tokens.get(&import.token.hash) {
            return Ok(Imported::Known(known.key));
        }
        let (parent, time) = self.load(import.load(), clock);
        let ImportWrite { write, spent } = import.decide(parent.as_ref(), time, rules)?;
        let key = self.write_key(write);
        if !spent.is_zero() {
            let opening = Action::Opening { amount: spent };
            let posting = Posting::new(key.account.clone(), key.id, opening);
            let invalid = |refusal: Refusal| ChangeError::invalid("spent", refusal.to_string());
            self.book.post(&posting).map_err(invalid)?;
            self.record();
        }
        Ok(Imported::New(key.id))
    }

    fn write_key(&mut self, write: KeyWrite) -> Key {
        let KeyWrite { mut key, at, record } = write;
        let Some((record, mut event)) = record else { return key };
        match record {
            KeyRecord::Insert(hash) => {
                self.make_account(&key.account, at);
                self.last_key += 1;
                key.id = KeyId::new(self.last_key);
                event.set_new_key(key.id);
                self.tokens.insert(hash, TokenRow { key: key.id, retires_at: None });
            }
            KeyRecord::Update { recount, .. } => {
                for window in recount {
                    let amount = self.spent_by_key(&key, window.since);
                    key.balance.set_spent(Spent { amount, ..window });
                }
            }
            KeyRecord::Rotate { hash, retires_at } => {
                for old in self.tokens.values_mut().filter(|old| old.key == key.id) {
                    old.retires_at =
                        Some(old.retires_at.map_or(retires_at, |end| end.min(retires_at)));
                }
                self.tokens.insert(hash, TokenRow { key: key.id, retires_at: None });
            }
            KeyRecord::EndGrace => {
                self.tokens.retain(|_, token| token.key != key.id || token.retires_at.is_none());
            }
            KeyRecord::Revoke => {}
        }
        self.book.add_key(key.clone());
        self.trail.add(event);
        key
    }

    fn descendants(&self, key: KeyId) -> u64 {
        let is_counted = |it: &&Key| {
            it.id != key && it.revoked_at.is_none() && self.book.path(it.id).contains(&key)
        };
        self.book.keys().filter(is_counted).map(|_| 1).sum()
    }

    fn in_grace(&self, key: KeyId, now: Timestamp) -> u64 {
        let works = |token: &&TokenRow| {
            token.key == key && token.retires_at.is_some_and(|retires_at| retires_at > now)
        };
        self.tokens.values().filter(works).map(|_| 1).sum()
    }

    fn children_in_force(&self, parent: KeyId, now: Timestamp) -> u64 {
        let is_counted =
            |key: &&Key| key.parent == Some(parent) && key.check_not_ended(now).is_ok();
        self.book.keys().filter(is_counted).map(|_| 1).sum()
    }

    fn change_account(
        &mut self,
        id: &AccountId,
        change: AccountChange,
        now: Timestamp,
        origin: &Origin,
    ) -> Result<Account, ChangeError> {
        let time = self.expire(id, now);
        let current = self.book.account(id).cloned().map(|account| (account.rolled(time), time));
        let AccountWrite { mut account, at, recount, event } =
            AccountWrite::decide(id, change, current, now, origin)?;
        for window in recount {
            let amount = self.spent_by_account(id, window.since);
            account.balance.set_spent(Spent { amount, ..window });
        }
        self.book.open(account.clone(), at, at);
        event.into_iter().for_each(|event| self.trail.add(event));
        Ok(account)
    }

    fn make_account(&mut self, id: &AccountId, now: Timestamp) {
        if self.book.account(id).is_none() {
            self.book.open(Account::new(id.clone(), now), now, now);
        }
    }

    /// Returns what a key and its descendants were charged since then in its account.
    fn spent_by_key(&self, key: &Key, since: Timestamp) -> Amount {
        self.spent(&key.account, since, |of| self.book.path(of).contains(&key.id))
    }

    /// Returns what all keys of an account were charged since then.
    fn spent_by_account(&self, id: &AccountId, since: Timestamp) -> Amount {
        self.spent(id, since, |_| true)
    }

    fn spent(
        &self,
        account: &AccountId,
        since: Timestamp,
        is_of: impl Fn(Option<KeyId>) -> bool,
    ) -> Amount {
        let counts = |of: &AccountId, key: Option<KeyId>, at: Timestamp| {
            of == account && at >= since && is_of(key)
        };
        let entries = self.book.entries().map(|row| &row.entry);
        let entries = entries.filter(|it| counts(&it.account, it.key, it.counts_at));
        let rollups = self.rollups.values().filter(|it| counts(&it.account, it.key, it.counts_at));
        let kept: i128 = entries.map(|entry| i128::from(entry.amount.as_micros())).sum();
        saturated(kept + rollups.map(|rollup| rollup.amount + rollup.adjusted).sum::<i128>())
    }
}

impl Account {
    pub(crate) fn rolled(mut self, now: Timestamp) -> Self {
        self.roll(now);
        self
    }
}
