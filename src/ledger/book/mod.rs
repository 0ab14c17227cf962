//! Books: the loaded state of some accounts, on which postings are decided.

mod check;
mod decide;
mod effect;
mod mend;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::posting::{Action, IdempotencyClaim, IdempotencyKey, OnExpiry, Posting};
use crate::model::{
    Account, AccountId, Amount, Balance, Entry, EntryId, Event, Key, KeyId, Lineage, Note,
    OpenHold, PostingId,
};

/// The state of some accounts while a store has locked them.
///
/// A store fills the book with what [`Needs`] asks for, posts, and writes back the [`WriteSet`]. A
/// book of everything, kept in memory, is the reference model.
#[derive(Debug, Default)]
pub struct Book {
    accounts: HashMap<AccountId, OpenAccount>,
    keys: HashMap<KeyId, Key>,
    holds: HashMap<PostingId, HoldRow>,
    live: HashSet<PostingId>,
    entries: HashMap<EntryId, EntryRow>,
    claims: HashMap<(KeyId, Arc<str>), IdempotencyRow>,
    touched: Touched,
}

#[derive(Debug)]
struct OpenAccount {
    account: Account,
    now: Timestamp,
}

#[derive(Debug, Default)]
struct Touched {
    accounts: HashSet<AccountId>,
    keys: HashSet<KeyId>,
    new_holds: HashSet<PostingId>,
    old_holds: HashSet<PostingId>,
    entries: Vec<EntryId>,
    events: Vec<Event>,
    claims: HashSet<(KeyId, Arc<str>)>,
}

/// Money that is set aside. The row stays when the hold has ended, so that its id stays known.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct HoldRow {
    pub id: PostingId,
    pub account: AccountId,
    pub key: KeyId,
    /// The key and its ancestors when the money was set aside. The money goes back to these
    /// members.
    pub path: Vec<KeyId>,
    pub amount: Amount,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
    pub on_expiry: OnExpiry,
    pub note: Note,
    pub state: HoldState,
}

impl From<HoldRow> for OpenHold {
    fn from(row: HoldRow) -> Self {
        Self::stored(row.id, row.account, row.key, row.amount, row.created_at, row.expires_at)
    }
}

/// Whether a hold still sets money aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldState {
    /// It sets money aside until it expires.
    Live,
    /// It was settled, or it expired and was released.
    Ended,
    /// It expired and was charged whole.
    Charged,
}

/// An entry, and how much of it was refunded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct EntryRow {
    pub entry: Entry,
    pub refunded: Amount,
}

/// A client's `Idempotency-Key`, and the entry that it was charged by.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct IdempotencyRow {
    pub key: KeyId,
    pub claim: IdempotencyKey,
    pub owner: PostingId,
    /// Until when it refuses other requests; `None` once its request has ended.
    pub in_flight_until: Option<Timestamp>,
    /// The entry that was charged under it.
    pub entry: Option<EntryId>,
}

/// What a store has to write after a batch. Every row occurs once.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct WriteSet {
    /// Accounts in which anything changed, with the instant of the change.
    pub accounts: Vec<(Account, Timestamp)>,
    pub balances: Vec<BalanceRow>,
    pub new_holds: Vec<HoldRow>,
    /// Holds whose `expires_at` or `state` changed.
    pub changed_holds: Vec<HoldRow>,
    pub entries: Vec<Entry>,
    /// What the audit trail says of the entries.
    pub events: Vec<Event>,
    /// Claims, with the accounts of their keys.
    pub claims: Vec<(AccountId, IdempotencyRow)>,
    pub dropped_claims: Vec<(AccountId, KeyId, Arc<str>)>,
}

/// The balance of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct BalanceRow {
    pub key: KeyId,
    pub account: AccountId,
    pub balance: Balance,
}

impl BalanceRow {
    /// Returns the row of this key.
    pub fn of(key: &Key) -> Self {
        Self { key: key.id, account: key.account.clone(), balance: key.balance }
    }
}

impl WriteSet {
    /// Returns whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }
}

/// What a book must contain before postings are decided. Rows that do not exist are left out.
///
/// A store loads, in this order:
///
/// 1. the accounts;
/// 2. their live holds that have expired, and the `holds`;
/// 3. the `claims`;
/// 4. the `entries` and those that loaded claims name, with the sum of their refunds;
/// 5. the lineages of the `keys` and of [`Book::row_keys`].
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Needs {
    pub accounts: Vec<AccountId>,
    pub keys: Vec<KeyId>,
    pub holds: Vec<PostingId>,
    pub entries: Vec<EntryId>,
    pub claims: Vec<(KeyId, Arc<str>)>,
}

impl Needs {
    /// Returns what these postings need. Accounts are sorted and distinct, so that stores lock them
    /// in that order.
    pub fn of(postings: &[Posting]) -> Self {
        let mut needs = Self::default();
        for posting in postings {
            needs.accounts.push(posting.account.clone());
            needs.keys.extend(posting.key);
            needs.add(posting);
        }
        needs.accounts.sort_unstable();
        needs.accounts.dedup();
        needs.keys.sort_unstable();
        needs.keys.dedup();
        needs
    }

    fn add(&mut self, posting: &Posting) {
        match &posting.action {
            Action::Open { claim, .. } => {
                self.claims.extend(
                    posting.key.zip(claim.as_ref()).map(|(key, claim)| (key, claim.key.clone())),
                );
            }
            Action::Hold { claim, .. } => {
                self.holds.push(posting.id);
                self.add_claim(posting.key, claim.as_ref());
            }
            Action::Renew { holds, claim, .. } => {
                self.holds.extend(holds);
                self.add_claim(posting.key, claim.as_ref());
            }
            Action::Settle { holds, void, claim, .. } => {
                self.entries.push(posting.id.into());
                self.holds.extend(holds);
                for id in holds.iter().chain(void) {
                    let entry = EntryId::from(*id);
                    self.entries.extend([entry, entry.reversal()]);
                }
                self.entries.extend(
                    claim.iter().flat_map(|claim| &claim.paid).map(|paid| EntryId::from(*paid)),
                );
                self.add_claim(posting.key, claim.as_ref());
            }
            Action::Adjust { .. } | Action::Opening { .. } => self.entries.push(posting.id.into()),
            Action::Pay { claim, .. } => {
                self.entries.push(posting.id.into());
                self.add_claim(posting.key, claim.as_ref());
            }
            Action::Refund { entry, .. } => self.entries.extend([posting.id.into(), *entry]),
        }
    }

    fn add_claim(&mut self, key: Option<KeyId>, claim: Option<&IdempotencyClaim>) {
        self.claims.extend(key.zip(claim).map(|(key, claim)| (key, claim.key.clone())));
    }
}

/// Loads rows and takes writes, for stores.
impl Book {
    /// Returns an empty book.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens a locked account at `now`, which is read after the lock was taken.
    ///
    /// The account's time never goes back behind `last`, the instant of its last change.
    pub fn open(&mut self, account: Account, last: Timestamp, now: Timestamp) {
        self.accounts.insert(account.id.clone(), OpenAccount { account, now: now.max(last) });
    }

    /// Adds a key of a lineage.
    pub fn add_key(&mut self, key: Key) {
        self.keys.insert(key.id, key);
    }

    /// Adds a key whose balance was counted again. The balance is written.
    pub fn add_recounted(&mut self, key: Key) {
        self.touched.accounts.insert(key.account.clone());
        self.touched.keys.insert(key.id);
        self.add_key(key);
    }

    /// Returns the present instant of an opened account.
    pub fn now(&self, account: &AccountId) -> Option<Timestamp> {
        self.accounts.get(account).map(|open| open.now)
    }

    /// Adds a hold.
    pub fn add_hold(&mut self, hold: HoldRow) {
        if hold.state == HoldState::Live {
            self.live.insert(hold.id);
        }
        self.holds.insert(hold.id, hold);
    }

    /// Adds an entry.
    pub fn add_entry(&mut self, row: EntryRow) {
        self.entries.insert(row.entry.id, row);
    }

    /// Adds a claim.
    pub fn add_claim(&mut self, claim: IdempotencyRow) {
        self.claims.insert((claim.key, claim.claim.key.clone()), claim);
    }

    /// Returns the entries that the loaded claims name. They must be loaded too.
    pub fn claimed_entries(&self) -> impl Iterator<Item = EntryId> {
        self.claims.values().filter_map(|claim| claim.entry)
    }

    /// Returns the keys that loaded holds and entries name. Their lineages must be loaded too.
    pub fn row_keys(&self) -> impl Iterator<Item = KeyId> {
        let holds = self.holds.values().flat_map(|hold| hold.path.iter().copied());
        holds.chain(self.entries.values().filter_map(|row| row.entry.key))
    }

    /// Takes what has to be written. From here on it counts as written.
    pub fn take_writes(&mut self) -> WriteSet {
        let touched = std::mem::take(&mut self.touched);
        let mut writes = WriteSet {
            accounts: Vec::with_capacity(touched.accounts.len()),
            balances: Vec::with_capacity(touched.keys.len()),
            new_holds: touched
                .new_holds
                .iter()
                .filter_map(|id| self.holds.get(id).cloned())
                .collect(),
            changed_holds: touched
                .old_holds
                .iter()
                .filter_map(|id| self.holds.get(id).cloned())
                .collect(),
            entries: Vec::with_capacity(touched.entries.len()),
            events: touched.events,
            claims: Vec::new(),
            dropped_claims: Vec::new(),
        };
        writes
            .balances
            .extend(touched.keys.iter().filter_map(|id| self.keys.get(id)).map(BalanceRow::of));
        writes.entries.extend(
            touched.entries.iter().filter_map(|id| Some(self.entries.get(id)?.entry.clone())),
        );
        for (key, name) in touched.claims {
            let Some(account) = self.keys.get(&key).map(|key| key.account.clone()) else {
                continue;
            };
            match self.claims.get(&(key, name.clone())) {
                Some(claim) => writes.claims.push((account, claim.clone())),
                None => writes.dropped_claims.push((account, key, name)),
            }
        }
        for id in touched.accounts {
            writes
                .accounts
                .extend(self.accounts.get(&id).map(|open| (open.account.clone(), open.now)));
        }
        writes
    }
}

/// Reads and edits a book, for a store that keeps everything in one.
impl Book {
    pub(crate) fn account(&self, id: &AccountId) -> Option<&Account> {
        self.accounts.get(id).map(|open| &open.account)
    }

    /// Advances an account's time to `now` if that is later, and returns the account's time.
    pub(crate) fn advance_time(&mut self, id: &AccountId, now: Timestamp) -> Timestamp {
        self.accounts.get_mut(id).map_or(now, |open| {
            open.now = open.now.max(now);
            open.now
        })
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.keys.values()
    }

    pub(crate) fn key(&self, id: KeyId) -> Option<&Key> {
        self.keys.get(&id)
    }

    pub(crate) fn accounts(&self) -> impl Iterator<Item = &AccountId> {
        self.accounts.keys()
    }

    pub(crate) fn entry(&self, id: EntryId) -> Option<&EntryRow> {
        self.entries.get(&id)
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &EntryRow> {
        self.entries.values()
    }

    /// Takes entries out of the book, with the claims that are bound to them. Returns how many claims.
    pub(crate) fn remove_entries(&mut self, ids: &HashSet<EntryId>) -> usize {
        self.entries.retain(|id, _| !ids.contains(id));
        self.remove_claims(|claim| claim.entry.is_some_and(|entry| ids.contains(&entry)))
    }

    /// Takes holds out of the book that a condition names. Returns how many.
    pub(crate) fn remove_holds(&mut self, is_over: impl Fn(&HoldRow) -> bool) -> usize {
        let before = self.holds.len();
        self.holds.retain(|_, hold| !is_over(hold));
        before - self.holds.len()
    }

    /// Takes claims out of the book that a condition names. Returns how many.
    pub(crate) fn remove_claims(&mut self, is_over: impl Fn(&IdempotencyRow) -> bool) -> usize {
        let before = self.claims.len();
        self.claims.retain(|_, claim| !is_over(claim));
        before - self.claims.len()
    }

    pub(crate) fn holds(&self) -> impl Iterator<Item = &HoldRow> {
        self.holds.values()
    }

    pub(crate) fn claims(&self) -> impl Iterator<Item = &IdempotencyRow> {
        self.claims.values()
    }

    /// Returns the holds that are live, in no order.
    pub fn live_holds(&self) -> impl Iterator<Item = &HoldRow> {
        self.live.iter().filter_map(|id| self.holds.get(id))
    }

    /// Returns the live holds of an account that have expired at `now`.
    pub(crate) fn expired(
        &self,
        account: &AccountId,
        now: Timestamp,
    ) -> impl Iterator<Item = &HoldRow> {
        (self.live.iter().filter_map(|id| self.holds.get(id)))
            .filter(move |hold| hold.account == *account && hold.expires_at <= now)
    }

    /// Returns a lineage as it is after those of these holds of its account have ended that have expired.
    pub(crate) fn after_expiry(
        lineage: &Lineage,
        holds: impl IntoIterator<Item = HoldRow>,
    ) -> Lineage {
        let mut book = Self::new();
        book.open(lineage.account().clone(), lineage.at(), lineage.at());
        lineage.keys().for_each(|key| book.add_key(key.clone()));
        holds.into_iter().for_each(|hold| book.add_hold(hold));
        book.expire(lineage.account_id());
        let key = |before: &Key| book.key(before.id).unwrap_or(before).clone();
        let account = book.account(lineage.account_id()).unwrap_or(lineage.account());
        Lineage::new(
            key(lineage.key()),
            lineage.ancestors().iter().map(key).collect(),
            account.clone(),
            lineage.at(),
        )
    }

    /// Returns the keys from `key` to the root, as far as they are loaded.
    pub(crate) fn path(&self, key: impl Into<Option<KeyId>>) -> Vec<KeyId> {
        let mut path = Vec::with_capacity(4);
        let mut next = key.into();
        while let Some(key) = next.and_then(|id| self.keys.get(&id)) {
            if path.contains(&key.id) {
                break;
            }
            path.push(key.id);
            next = key.parent;
        }
        path
    }
}
