//! What this process knows of accounts from its last look: enough to decide without asking again.
//!
//! Every commit gives an account another version, so what is known of a version stays true for as long as the account
//! has that version; the write asks for that, and for the versions of the keys' own rows, which the host's SQL may
//! change. What turns out to be out of date is forgotten, and decided anew behind the lock.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::decode::AccountRow;
use super::types::Stamp;
use crate::ledger::{Action, Book, Changes, HoldRow, HoldState, Posting};
use crate::{AccountId, Key, KeyId, PostingId};

/// So many keys are remembered.
const MOST_KEYS: usize = 100_000;

#[derive(Default)]
pub(super) struct Known(Mutex<Memory>);

#[derive(Default)]
struct Memory {
    accounts: HashMap<AccountId, KnownAccount>,
    keys: usize,
}

struct KnownAccount {
    row: AccountRow,
    keys: HashMap<KeyId, (Key, Stamp)>,
    holds: HashMap<PostingId, HoldRow>,
}

/// What a decision was based on: the account's version, and those of the keys' rows.
#[derive(Clone, Debug)]
pub(super) struct Basis {
    pub(super) account: AccountId,
    pub(super) version: i64,
    pub(super) next_expiry: Option<Timestamp>,
    pub(super) keys: Vec<(KeyId, Stamp)>,
}

impl Known {
    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a lineage as it was read in one snapshot.
    pub(super) fn learn(&self, row: &AccountRow, keys: impl Iterator<Item = (Key, Stamp)>) {
        let mut memory = self.lock();
        if memory.keys > MOST_KEYS {
            *memory = Memory::default();
        }
        let known = memory.accounts.entry(row.account.id.clone()).or_insert_with(|| KnownAccount::new(row.clone()));
        if known.row.version > row.version {
            return;
        }
        let before = known.keys.len();
        if known.row.version < row.version {
            *known = KnownAccount::new(row.clone());
        }
        known.keys.extend(keys.map(|(key, stamp)| (key.id, (key, stamp))));
        let after = known.keys.len();
        memory.keys = memory.keys.saturating_sub(before) + after;
    }

    /// Whether this is known already, so that it need not be copied.
    pub(super) fn knows(&self, account: &AccountId, version: i64, key: KeyId, stamp: Stamp) -> bool {
        let memory = self.lock();
        memory.accounts.get(account).is_some_and(|known| {
            known.row.version > version
                || known.row.version == version && known.keys.get(&key).is_some_and(|(_, known)| *known == stamp)
        })
    }

    pub(super) fn forget<'a>(&self, accounts: impl Iterator<Item = &'a AccountId>) {
        let mut memory = self.lock();
        for account in accounts {
            if let Some(known) = memory.accounts.remove(account) {
                memory.keys = memory.keys.saturating_sub(known.keys.len());
            }
        }
    }

    pub(super) fn forget_all(&self) {
        *self.lock() = Memory::default();
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
        let AccountRow { account: row, version, changed_at, next_expiry } = &known.row;
        if next_expiry.is_some_and(|at| at <= now.max(*changed_at)) {
            return None;
        }
        let mut book = Book::new();
        book.open(row.clone(), *changed_at, now);
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
        Some((book, Basis { account: account.clone(), version: *version, next_expiry: *next_expiry, keys }))
    }

    /// Takes note of what was written on this basis: the account has the version after it.
    pub(super) fn wrote(&self, basis: &Basis, version: i64, next_expiry: Option<Timestamp>, changes: &Changes) {
        let mut memory = self.lock();
        let Some(known) = memory.accounts.get_mut(&basis.account) else { return };
        if known.row.version != basis.version {
            return;
        }
        known.row.version = version;
        known.row.next_expiry = next_expiry;
        for (account, at) in changes.accounts.iter().filter(|(account, _)| account.id == basis.account) {
            known.row.account.clone_from(account);
            known.row.changed_at = *at;
        }
        for (key, period, balance) in &changes.balances {
            match known.keys.get_mut(key).filter(|(key, _)| key.budget.period == *period) {
                Some((key, _)) => key.balance = *balance,
                None => drop(known.keys.remove(key)),
            }
        }
        for hold in changes.new_holds.iter().chain(&changes.changed_holds) {
            match hold.state {
                HoldState::Live => drop(known.holds.insert(hold.id, hold.clone())),
                HoldState::Over | HoldState::Charged => drop(known.holds.remove(&hold.id)),
            }
        }
    }
}

impl KnownAccount {
    fn new(row: AccountRow) -> Self {
        Self { row, keys: HashMap::new(), holds: HashMap::new() }
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

/// Whether a posting may be decided by what is known: whether it asks for nothing but its lineage and live holds, and
/// whether its own id, if it was taken before, makes the write fail.
pub(super) fn is_plain(posting: &Posting) -> bool {
    holds_of(&posting.action).is_some()
}

/// The holds that a plain posting needs.
fn holds_of(action: &Action) -> Option<&[PostingId]> {
    match action {
        Action::Hold { .. } | Action::Pay { claim: None, .. } => Some(&[]),
        Action::Renew { holds, claim: None, .. } => Some(holds),
        Action::Settle { holds, void, claim: None, .. } if void.is_empty() => Some(holds),
        _ => None,
    }
}
