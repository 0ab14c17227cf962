//! What this process knows of accounts from its last look: enough to decide without asking again.
//!
//! Every commit gives an account another version, so what is known of a version stays true for as long as the account
//! has that version; the write asks for that, and for the versions of the keys' own rows, which the host's SQL may
//! change. What turns out to be out of date is forgotten, and decided anew behind the lock.
//!
//! All of it was told by one run of one server. Another one may have another history, with the same numbers in it; who
//! stands behind a name or a pooler changes without a connection breaking. So all that is asked names the run.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::types::Stamp;
use super::write::{last_entry, next_expiry};
use crate::ledger::{BalanceRow, Book, Changes, HoldRow, HoldState, Posting};
use crate::store::Found;
use crate::store::account_row::AccountRow;
use crate::store::plain::holds_of;
use crate::{AccountId, Key, KeyId, Lineage, PostingId, TokenHash};

/// So many keys are remembered.
const MOST_KEYS: usize = 100_000;

/// For so many batches at most an account is decided behind the lock after somebody else was faster.
const MOST_BATCHES: u8 = 32;

#[derive(Default)]
pub(super) struct Known(Mutex<Memory>);

#[derive(Default)]
struct Memory {
    /// When the server was started that told all this.
    run: Option<Timestamp>,
    accounts: HashMap<AccountId, KnownAccount>,
    tokens: HashMap<TokenHash, KnownToken>,
    /// Accounts that others write to as well.
    shared: HashMap<AccountId, Shared>,
    keys: usize,
}

struct KnownAccount {
    row: AccountRow,
    keys: HashMap<KeyId, (Key, Stamp)>,
    holds: HashMap<PostingId, HoldRow>,
    /// Writes under way. Others may see that one of them was committed before its answer is here.
    sent: Vec<Sent>,
}

/// What a write makes of an account, if it stands.
struct Sent {
    from: i64,
    after: AccountRow,
    balances: Vec<BalanceRow>,
    holds: Vec<HoldRow>,
}

/// How it went with an account that others write to as well.
#[derive(Default)]
struct Shared {
    /// How often somebody else was faster; less by one for each time that nobody was.
    misses: u8,
    /// For how many batches more what is known of it is not tried.
    left: u8,
}

/// Whose a token is, for as long as the key's row is as it was.
struct KnownToken {
    account: AccountId,
    key: KeyId,
    stamp: Stamp,
}

/// What a decision was based on: the account's version, and those of the keys' rows.
#[derive(Clone, Debug)]
pub(super) struct Basis {
    /// The run of the server that told it. `None` where it is written in the transaction that read it.
    pub(super) run: Option<Timestamp>,
    pub(super) account: AccountId,
    pub(super) version: i64,
    pub(super) next_expiry: Option<Timestamp>,
    pub(super) last_entry: i64,
    pub(super) keys: Vec<(KeyId, Stamp)>,
}

/// What is known only until somebody else changes it: the versions of keys' rows, and whose they are.
#[derive(Default)]
pub(super) struct Doubts {
    pub(super) run: Option<Timestamp>,
    pub(super) keys: HashMap<KeyId, Stamp>,
    pub(super) accounts: HashSet<AccountId>,
}

impl Known {
    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a lineage as it was read in one snapshot.
    pub(super) fn learn(&self, run: Timestamp, row: &AccountRow, keys: impl Iterator<Item = (Key, Stamp)>) {
        let mut memory = self.lock();
        if memory.run != Some(run) || memory.keys.max(memory.tokens.len()) > MOST_KEYS {
            let old = std::mem::replace(&mut *memory, Memory { run: Some(run), ..Memory::default() });
            drop(memory);
            drop(old); // without the lock
            memory = self.lock();
            if memory.run != Some(run) {
                return;
            }
        }
        let known = memory.accounts.entry(row.account.id.clone()).or_insert_with(|| KnownAccount::new(row.clone()));
        if known.row.version > row.version {
            return;
        }
        let before = known.keys.len();
        known.catch_up(row.version);
        if known.row.version < row.version {
            *known = KnownAccount::new(row.clone());
        }
        known.keys.extend(keys.map(|(key, stamp)| (key.id, (key, stamp))));
        let after = known.keys.len();
        memory.keys = memory.keys.saturating_sub(before) + after;
    }

    /// Takes note of a key's present token.
    pub(super) fn learn_token(&self, run: Timestamp, hash: TokenHash, key: &Key, stamp: Stamp) {
        let token = KnownToken { account: key.account.clone(), key: key.id, stamp };
        let mut memory = self.lock();
        if memory.run == Some(run) {
            memory.tokens.insert(hash, token);
        }
    }

    /// What has to be asked about the keys with these tokens, as far as they are known.
    pub(super) fn doubts(&self, hashes: &[TokenHash]) -> Doubts {
        let memory = self.lock();
        let mut doubts = Doubts { run: memory.run, ..Doubts::default() };
        for token in hashes.iter().filter_map(|hash| memory.tokens.get(hash)) {
            // Of what others write to, the versions would be others.
            if memory.shared.get(&token.account).is_some_and(|shared| shared.left > 0) {
                continue;
            }
            let Some(known) = memory.accounts.get(&token.account).filter(|known| known.has(token)) else { continue };
            known.each_member(token.key, |id, stamp| {
                doubts.keys.insert(id, stamp);
            });
            doubts.accounts.insert(token.account.clone());
        }
        doubts
    }

    /// The lineages of the tokens that are still as they were; `moved` are keys of which that is not so, `versions` are
    /// those that the accounts have.
    pub(super) fn found(
        &self,
        hashes: &[TokenHash],
        asked: &Doubts,
        moved: &HashSet<KeyId>,
        versions: &HashMap<AccountId, i64>,
        now: Timestamp,
    ) -> Vec<Option<Found>> {
        let mut memory = self.lock();
        if memory.run != asked.run {
            return hashes.iter().map(|_| None).collect();
        }
        for (account, version) in versions {
            if let Some(known) = memory.accounts.get_mut(account) {
                known.catch_up(*version);
            }
        }
        let found = |hash: &TokenHash| {
            let token = memory.tokens.get(hash)?;
            let known = memory.accounts.get(&token.account).filter(|known| known.has(token))?;
            // What is known may be newer than the answer: then it is from a commit of this process's own.
            versions.get(&token.account).filter(|version| known.row.version >= **version)?;
            let mut keys = Vec::new();
            let mut next = Some(token.key);
            while let Some(id) = next {
                let (key, stamp) = known.keys.get(&id)?;
                if moved.contains(&id) || asked.keys.get(&id) != Some(stamp) || keys.len() > 64 {
                    return None;
                }
                keys.push(key.clone());
                next = key.parent;
            }
            let mut keys = keys.into_iter();
            let (key, now) = (keys.next()?, now.max(known.row.changed_at));
            Some(Found::new(Lineage::new(key, keys.collect(), known.row.account.clone(), now), None))
        };
        hashes.iter().map(found).collect()
    }

    /// Whether this is known already, so that it need not be copied.
    pub(super) fn knows(&self, run: Timestamp, account: &AccountId, version: i64, key: KeyId, stamp: Stamp) -> bool {
        let memory = self.lock();
        let known = memory.accounts.get(account).filter(|_| memory.run == Some(run));
        known.is_some_and(|known| {
            known.row.version > version
                || known.row.version == version && known.keys.get(&key).is_some_and(|(_, known)| *known == stamp)
        })
    }

    /// Forgets an account that somebody else wrote to in between. Once, what was known may just have been old; where that
    /// goes on, others are writing all the time.
    pub(super) fn lost(&self, account: &AccountId) {
        self.forget([account].into_iter());
        let mut memory = self.lock();
        if memory.shared.len() > MOST_KEYS {
            memory.shared.clear();
        }
        let shared = memory.shared.entry(account.clone()).or_default();
        shared.misses = (shared.misses + 1).min(5);
        shared.left = if shared.misses == 1 { 0 } else { (1 << shared.misses).min(MOST_BATCHES) };
    }

    /// Whether it is worth a try to decide for this account by what is known.
    pub(super) fn is_worth_a_try(&self, account: &AccountId) -> bool {
        let mut memory = self.lock();
        let Some(shared) = memory.shared.get_mut(account).filter(|shared| shared.left > 0) else { return true };
        shared.left -= 1;
        false
    }

    /// Forgets everything: what answers from now on may be a server with another history, whose versions are lower.
    pub(super) fn forget_all(&self) {
        let old = std::mem::take(&mut *self.lock());
        drop(old); // without the lock
    }

    pub(super) fn forget<'a>(&self, accounts: impl Iterator<Item = &'a AccountId>) {
        let mut memory = self.lock();
        for account in accounts {
            if let Some(known) = memory.accounts.remove(account) {
                memory.keys = memory.keys.saturating_sub(known.keys.len());
            }
        }
    }

    /// The keys of these postings that are not known.
    pub(super) fn unknown_keys(&self, postings: &[&Posting]) -> Vec<KeyId> {
        let memory = self.lock();
        let unknown = postings.iter().filter(|posting| {
            memory.accounts.get(&posting.account).is_none_or(|known| !known.keys.contains_key(&posting.key))
        });
        let unknown: HashSet<_> = unknown.map(|posting| posting.key).collect();
        unknown.into_iter().collect()
    }

    /// A book in which these postings of one account can be decided at `now`; `None` where that takes more than is
    /// known.
    pub(super) fn book(&self, account: &AccountId, postings: &[&Posting], now: Timestamp) -> Option<(Book, Basis)> {
        let memory = self.lock();
        let known = memory.accounts.get(account)?;
        let AccountRow { account: row, version, changed_at, next_expiry, last_entry } = known.row.clone();
        if next_expiry.is_some_and(|at| at <= now.max(changed_at)) {
            return None;
        }
        let mut book = Book::new();
        book.open(row, changed_at, now);
        let mut stamps: HashMap<KeyId, Stamp> = HashMap::new();
        for posting in postings {
            let holds = holds_of(&posting.action)?;
            let mut rows = Vec::with_capacity(holds.len());
            for hold in holds {
                rows.push(known.holds.get(hold)?);
            }
            let path = rows.iter().flat_map(|hold| hold.path.iter().copied());
            for key in path.chain([posting.key]) {
                known.add_lineage(key, &mut book, &mut stamps)?;
            }
            rows.into_iter().for_each(|hold| book.add_hold(hold.clone()));
        }
        let keys = stamps.into_iter().collect();
        let basis = Basis { run: memory.run, account: account.clone(), version, next_expiry, last_entry, keys };
        Some((book, basis))
    }

    /// Takes note of a write that is about to be sent; it gives the account this version.
    pub(super) fn sending(&self, basis: &Basis, version: i64, changes: &Changes) {
        let mut memory = self.lock();
        if memory.run != basis.run {
            return;
        }
        let Some(known) = memory.accounts.get_mut(&basis.account) else { return };
        let mut after = known.row.clone();
        after.version = version;
        after.next_expiry = next_expiry(basis, changes);
        after.last_entry = last_entry(basis, changes);
        for (account, at) in changes.accounts.iter().filter(|(account, _)| account.id == basis.account) {
            after.account.clone_from(account);
            after.changed_at = *at;
        }
        let holds = changes.new_holds.iter().chain(&changes.changed_holds).cloned().collect();
        known.sent.push(Sent { from: basis.version, after, balances: changes.balances.clone(), holds });
    }

    /// Takes note that a write has been committed that gave the account this version.
    pub(super) fn wrote(&self, account: &AccountId, version: i64) {
        let mut memory = self.lock();
        if let Some(known) = memory.accounts.get_mut(account) {
            known.catch_up(version);
            known.sent.retain(|sent| sent.after.version != version);
        }
        if let Some(shared) = memory.shared.get_mut(account) {
            shared.misses = shared.misses.saturating_sub(1);
            if shared.misses == 0 {
                memory.shared.remove(account);
            }
        }
    }
}

impl KnownAccount {
    fn new(row: AccountRow) -> Self {
        Self { row, keys: HashMap::new(), holds: HashMap::new(), sent: Vec::new() }
    }

    /// The account has this version: if a write under way gives it that, it has been committed.
    fn catch_up(&mut self, version: i64) {
        let stood = |sent: &Sent| sent.after.version == version && sent.from == self.row.version;
        let Some(place) = self.sent.iter().position(stood) else { return };
        let Sent { after, balances, holds, .. } = self.sent.swap_remove(place);
        self.row = after;
        // Others that were sent on the same basis do not stand.
        self.sent.retain(|sent| sent.from == version);
        for BalanceRow { key, period, balance, .. } in balances {
            match self.keys.get_mut(&key).filter(|(key, _)| key.budget.period == period) {
                Some((key, _)) => key.balance = balance,
                None => drop(self.keys.remove(&key)),
            }
        }
        for hold in holds {
            match hold.state {
                HoldState::Live => drop(self.holds.insert(hold.id, hold)),
                HoldState::Over | HoldState::Charged => drop(self.holds.remove(&hold.id)),
            }
        }
    }

    /// Whether the token's key is still the one that had it.
    fn has(&self, token: &KnownToken) -> bool {
        self.keys.get(&token.key).is_some_and(|(_, stamp)| *stamp == token.stamp)
    }

    /// Shows `look` a key and its ancestors, as far as they are known.
    fn each_member(&self, key: KeyId, mut look: impl FnMut(KeyId, Stamp)) {
        let mut next = Some(key);
        for _ in 0..=64 {
            let Some((key, stamp)) = next.and_then(|id| self.keys.get(&id)) else { return };
            look(key.id, *stamp);
            next = key.parent;
        }
    }

    /// Adds a key and its ancestors, up to the root.
    fn add_lineage(&self, key: KeyId, book: &mut Book, stamps: &mut HashMap<KeyId, Stamp>) -> Option<()> {
        let mut next = Some(key);
        while let Some(id) = next {
            let (key, stamp) = self.keys.get(&id)?;
            next = key.parent;
            if stamps.insert(id, *stamp).is_some() {
                break; // with its ancestors
            }
            book.add_key(key.clone());
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_miss_is_tried_again_at_once_and_more_of_them_ever_later() {
        let (known, account): (_, AccountId) = (Known::default(), "acme".parse().unwrap());
        let batches = || (0..100).take_while(|_| !known.is_worth_a_try(&account)).count();
        assert_eq!(batches(), 0);
        let waits: Vec<_> = (0..7)
            .map(|_| {
                known.lost(&account);
                batches()
            })
            .collect();
        assert_eq!(waits, [0, 4, 8, 16, 32, 32, 32]);
        for _ in 0..5 {
            known.wrote(&account, 7);
        }
        known.lost(&account);
        assert_eq!(batches(), 0, "it went well as often as not");
        known.wrote(&account, 8);
        assert!(known.lock().shared.is_empty());
    }
}
