//! What this process knows of the file: keys, accounts and live holds, as long as nobody else has written to it.
//!
//! What is known is true of one [`Sight`]: while the file is to be seen as it was then, it is all that the file says.
//! What this process commits it takes over into memory; when anybody else has written, everything is forgotten. Two
//! numbers in the file, both drawn by lot, tell whose a commit is: that of the policy, and that of the ledger, which every
//! transaction of ours draws anew.

use std::collections::{HashMap, VecDeque, vec_deque};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use jiff::Timestamp;
use rusqlite::Connection;

use super::decode::AccountRow;
use super::error::Result;
use super::index::{Place, REMEMBERED};
use super::read::Snapshot;
use super::statement::one;
use super::watch::{Sight, Watch};
use crate::ledger::{BalanceRow, Book, Changes, HoldRow, HoldState, MAX_DEPTH, Posting};
use crate::store::Found;
use crate::store::plain::holds_of;
use crate::token::ByToken;
use crate::{AccountId, Clock, Key, KeyId, Lineage, PostingId, TokenHash};

/// So many keys are remembered.
const MOST_KEYS: usize = 100_000;

#[derive(Default)]
pub(super) struct Known(RwLock<Memory>);

/// The two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    policy: i64,
    ledger: i64,
}

/// What memory was true of when somebody looked into it. What has been read since is learned only if it still is: a
/// forgetting in between may have been for a hand that leaves the numbers as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) state: State,
    epoch: u64,
}

impl State {
    fn read(connection: &Connection) -> Result<Option<Self>> {
        const SQL: &str = "SELECT p.version, l.state FROM agentkey_policy p CROSS JOIN agentkey_ledger l \
                           WHERE p.id = 0 AND l.id = 0";
        one(connection, SQL, [], |mut cells| Ok(Self { policy: cells.read()?, ledger: cells.read()? }))
    }

    /// Draws the number of the state that the transaction leaves behind.
    pub(super) fn next(connection: &Connection) -> Result<Option<Self>> {
        const SQL: &str = "UPDATE agentkey_ledger SET state = random() WHERE id = 0 \
                           RETURNING (SELECT p.version FROM agentkey_policy p WHERE p.id = 0), state";
        let next = one(connection, SQL, [], |mut cells| Ok((cells.read::<Option<_>>()?, cells.read()?)))?;
        Ok(next.and_then(|(policy, ledger)| Some(Self { policy: policy?, ledger })))
    }
}

#[derive(Default)]
struct Memory {
    /// What is known is true of this. `None`: nothing is known.
    at: Option<Sight>,
    /// The numbers that were read then.
    state: Option<State>,
    /// Goes up with every forgetting.
    epoch: u64,
    tokens: ByToken<KeyId>,
    keys: HashMap<KeyId, KnownKey>,
    accounts: HashMap<AccountId, KnownAccount>,
    /// The last entries, without a gap.
    places: VecDeque<Place>,
    /// The commit under way. Readers may see that it was made before the writer knows.
    sent: Option<Sent>,
}

struct KnownKey {
    key: Key,
    /// Its present token, if it was looked up by that.
    token: Option<TokenHash>,
}

struct KnownAccount {
    row: AccountRow,
    keys: Vec<KeyId>,
    holds: HashMap<PostingId, HoldRow>,
}

struct Sent {
    from: Option<State>,
    to: Option<State>,
    effect: Effect,
}

/// What a transaction makes of what is known.
#[derive(Default)]
pub(super) struct Effect {
    accounts: Vec<AccountRow>,
    balances: Vec<BalanceRow>,
    holds: Vec<HoldRow>,
    places: Vec<Place>,
    forgotten: Vec<AccountId>,
}

impl Effect {
    /// Adds postings; `accounts` are the rows of their accounts as they are after them, `places` those of their entries.
    pub(super) fn add(&mut self, accounts: Vec<AccountRow>, places: Vec<Place>, changes: Changes) {
        self.accounts.extend(accounts);
        self.places.extend(places);
        self.balances.extend(changes.balances);
        self.holds.extend(changes.new_holds);
        self.holds.extend(changes.changed_holds);
    }

    /// A change of policy in these accounts.
    pub(super) fn forgetting(accounts: Vec<AccountId>) -> Self {
        Self { forgotten: accounts, ..Self::default() }
    }
}

impl Known {
    fn read(&self) -> RwLockReadGuard<'_, Memory> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Memory> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets everything: what answers from now on may be another file, or who moved memory panicked half-way.
    pub(super) fn forget_all(&self) {
        let old = self.write().replaced();
        self.0.clear_poison();
        drop(old); // without the lock
    }

    /// Brings memory to what a transaction sees in which nobody else can write, and tells what it is true of; `sight` was
    /// seen in it.
    pub(super) fn enter(&self, connection: &Connection, sight: Option<&Sight>) -> Result<Option<Moment>> {
        let Some(sight) = sight.filter(|sight| sight.is_proven()) else { return Ok(None) };
        let mut memory = self.write();
        if memory.at.as_ref() != Some(sight) {
            memory.move_to(sight.clone(), State::read(connection)?);
        }
        Ok(memory.moment())
    }

    /// The lineages of the tokens that are known; and what all of it is true of. The transaction has seen nothing yet.
    pub(super) fn found(
        &self,
        connection: &Connection,
        watch: &Watch,
        hashes: &[TokenHash],
        now: Timestamp,
    ) -> Result<(Vec<Option<Found>>, Option<Moment>)> {
        // The look is taken while nobody moves memory: what it sees is at least as new as what is there.
        let mut memory = self.write();
        let nothing = || Ok((vec![None; hashes.len()], None));
        let Some(sight) = watch.look().filter(Sight::is_proven) else { return nothing() };
        let state = State::read(connection)?;
        if watch.look().as_ref() != Some(&sight) {
            return nothing();
        }
        memory.move_to(sight, state);
        Ok((hashes.iter().map(|hash| memory.found(hash, now)).collect(), memory.moment()))
    }

    /// The lineage of this token, if it is known and nobody waits in the way: without a look into the database.
    pub(super) fn at_hand(&self, hash: &TokenHash, clock: &Clock) -> Option<Found> {
        let memory = self.0.try_read().ok()?;
        memory.at.as_ref().filter(|at| at.is_now())?;
        memory.found(hash, clock.now())
    }

    /// Takes note of what was read since then.
    pub(super) fn learn(&self, since: Option<Moment>, snapshot: Snapshot) {
        let mut memory = self.write();
        if since.is_none() || memory.moment() != since {
            return;
        }
        if memory.keys.len().max(memory.tokens.len()) > MOST_KEYS {
            let (at, state) = (memory.at.take(), memory.state);
            memory.forget();
            (memory.at, memory.state) = (at, state);
        }
        memory.learn(snapshot);
    }

    /// The keys of these postings that are not known.
    pub(super) fn unknown_keys<'a>(&self, postings: impl Iterator<Item = &'a Posting>) -> Vec<KeyId> {
        let memory = self.read();
        postings.map(|posting| posting.key).filter(|key| !memory.keys.contains_key(key)).collect()
    }

    /// Adds to a book all that these postings of one account need, and answers with the account's row; `None` where they
    /// need more than is known.
    pub(super) fn fill(
        &self,
        book: &mut Book,
        since: Option<Moment>,
        account: &AccountId,
        postings: &[&Posting],
        now: Timestamp,
    ) -> Option<AccountRow> {
        let memory = self.read();
        let known = memory.accounts.get(account)?;
        if since.is_none() || memory.moment() != since || known.row.is_overdue(now) {
            return None;
        }
        let (mut keys, mut holds) = (HashMap::new(), Vec::new());
        for posting in postings {
            for hold in holds_of(&posting.action)? {
                let hold = known.holds.get(hold)?;
                for key in &hold.path {
                    memory.climb(*key, account, &mut keys)?;
                }
                holds.push(hold);
            }
            memory.climb(posting.key, account, &mut keys)?;
        }
        book.open(known.row.account.clone(), known.row.changed_at, now);
        keys.into_values().for_each(|key| book.add_key(key.clone()));
        holds.into_iter().for_each(|hold| book.add_hold(hold.clone()));
        Some(known.row.clone())
    }

    /// What is made of the places of the entries behind number `last` and up to `end`, where all of them are known.
    pub(super) fn places<T>(
        &self,
        since: Option<Moment>,
        last: i64,
        end: i64,
        make: impl FnOnce(vec_deque::Iter<'_, Place>) -> T,
    ) -> Option<T> {
        let memory = self.read();
        let (first, newest) = (memory.places.front()?.number, memory.places.back()?.number);
        if since.is_none() || memory.moment() != since || first > last.saturating_add(1) || newest < end {
            return None;
        }
        let behind = |number| memory.places.partition_point(|place| place.number <= number);
        let from = behind(last);
        Some(make(memory.places.range(from..behind(end).max(from))))
    }

    /// Takes note of a commit that is about to be made.
    pub(super) fn sending(&self, from: Option<State>, to: Option<State>, effect: Effect) {
        self.write().sent = Some(Sent { from, to, effect });
    }

    /// Takes note of what came of it; of what was to be seen before it, when nobody else could write, and after it.
    pub(super) fn sent(&self, is_committed: bool, before: Option<Sight>, after: Option<Sight>) {
        if !is_committed {
            return self.forget_all();
        }
        let mut memory = self.write();
        let sent = memory.sent.take();
        let (Some(before), Some(after)) = (before, after) else { return };
        after.prove(&before);
        if !after.is_proven() {
            return memory.forget();
        }
        let Some(sent) = sent.filter(|sent| sent.from == memory.state) else { return };
        // A reader may have been faster; or somebody else has written since, and then the next look forgets.
        if memory.at.as_ref().is_some_and(|at| after.is_next_of(at)) {
            memory.take_over(sent.effect);
            (memory.at, memory.state) = (Some(after), sent.to);
        }
    }
}

impl Memory {
    fn moment(&self) -> Option<Moment> {
        self.state.map(|state| Moment { state, epoch: self.epoch })
    }

    fn replaced(&mut self) -> Self {
        let epoch = self.epoch.wrapping_add(1);
        std::mem::replace(self, Self { epoch, ..Self::default() })
    }

    fn forget(&mut self) {
        self.sent = self.replaced().sent;
    }

    /// This is to be seen now, with these numbers.
    fn move_to(&mut self, sight: Sight, state: Option<State>) {
        if self.at.as_ref() == Some(&sight) {
            return;
        }
        let commits = self.at.as_ref().and_then(|at| sight.commits_since(at));
        let is_ours = |sent: &mut Sent| commits == Some(1) && sent.to == state && sent.from == self.state;
        // Nobody else has written then; but our own commit may have begun the WAL anew.
        let is_under_way = |sent: &Sent| commits == Some(0) && sent.from == state && self.state == state;
        if let Some(sent) = self.sent.take_if(is_ours) {
            self.take_over(sent.effect);
        } else if !self.sent.as_ref().is_some_and(is_under_way) {
            self.forget();
        }
        (self.at, self.state) = (Some(sight), state);
    }

    fn take_over(&mut self, effect: Effect) {
        for row in effect.accounts {
            if let Some(known) = self.accounts.get_mut(&row.account.id) {
                known.row = row;
            }
        }
        for BalanceRow { key, period, balance, .. } in effect.balances {
            if self.keys.get(&key).is_some_and(|known| known.key.budget.period != period) {
                self.keys.remove(&key);
            }
            if let Some(known) = self.keys.get_mut(&key) {
                known.key.balance = balance;
            }
        }
        for hold in effect.holds {
            let Some(known) = self.accounts.get_mut(&hold.account) else { continue };
            match hold.state {
                HoldState::Live => drop(known.holds.insert(hold.id, hold)),
                HoldState::Over | HoldState::Charged => drop(known.holds.remove(&hold.id)),
            }
        }
        self.append(effect.places);
        for account in effect.forgotten {
            for key in self.accounts.remove(&account).into_iter().flat_map(|known| known.keys) {
                self.keys.remove(&key);
            }
        }
    }

    fn append(&mut self, places: Vec<Place>) {
        let is_next = |place: &Place| self.places.back().is_some_and(|newest| place.number == newest.number + 1);
        if places.first().is_some_and(|place| !is_next(place)) {
            self.places.clear();
        }
        self.places.extend(places);
        self.places.drain(..self.places.len().saturating_sub(REMEMBERED));
    }

    /// Keys that make sense, of accounts that are there.
    fn learn(&mut self, snapshot: Snapshot) {
        let Snapshot { keys, accounts, tokens } = snapshot;
        for row in accounts.into_values().flatten() {
            let known = || KnownAccount { row: row.clone(), keys: Vec::new(), holds: HashMap::new() };
            self.accounts.entry(row.account.id.clone()).or_insert_with(known);
        }
        for row in keys.into_values().flatten().filter(|row| !row.is_behind) {
            let key = row.key;
            let Some(account) = self.accounts.get_mut(&key.account).filter(|_| !self.keys.contains_key(&key.id)) else {
                continue;
            };
            account.keys.push(key.id);
            self.keys.insert(key.id, KnownKey { key, token: None });
        }
        for (hash, id) in tokens {
            if let Some(known) = self.keys.get_mut(&id) {
                known.token = Some(hash);
                self.tokens.insert(hash, id);
            }
        }
    }

    fn found(&self, hash: &TokenHash, now: Timestamp) -> Option<Found> {
        let known = self.keys.get(self.tokens.get(hash)?).filter(|known| known.token.as_ref() == Some(hash))?;
        let account = self.accounts.get(&known.key.account)?;
        let mut ancestors = Vec::new();
        let mut next = known.key.parent;
        while let Some(id) = next {
            let KnownKey { key, .. } = self.keys.get(&id).filter(|_| ancestors.len() < MAX_DEPTH)?;
            if key.account != known.key.account {
                return None;
            }
            next = key.parent;
            ancestors.push(key.clone());
        }
        let at = now.max(account.row.changed_at);
        Some(Found::new(Lineage::new(known.key.clone(), ancestors, account.row.account.clone(), at), None))
    }

    /// Adds a key and its ancestors, up to the root.
    fn climb<'m>(&'m self, key: KeyId, account: &AccountId, keys: &mut HashMap<KeyId, &'m Key>) -> Option<()> {
        let mut next = Some(key);
        while let Some(id) = next.filter(|id| !keys.contains_key(id)) {
            let key = &self.keys.get(&id)?.key;
            if key.account != *account {
                return None;
            }
            next = key.parent;
            keys.insert(id, key);
        }
        Some(())
    }
}
