//! The world of a check: a store, its clock, and helpers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;

use crate::ledger::{
    AccountChange, Action, IdempotencyClaim, KeyChange, KeyDraft, NewToken, OnExpiry, Outcome,
    Posted, Posting, Rules,
};
use crate::model::key::Owner;
use crate::model::{
    Account, AccountId, Amount, Budget, ChangeError, Clock, Entry, EntryId, Imported, Key, KeyId,
    KeyImport, KeyPatch, ManualClock, NewKey, Note, Origin, PostingId, Refusal, ScopeSet,
    Shortfall, TokenHash,
};
use crate::store::{Cursor, EntryQuery, Found, Store};

/// An empty store, and the clock that it reads.
///
/// Its methods panic if the store fails.
#[derive(Debug)]
pub struct World<S> {
    /// The store.
    pub store: Arc<S>,
    /// Its clock. It starts on 31 January 2026 at noon, UTC.
    pub clock: ManualClock,
    /// The rules of policy changes.
    pub rules: Rules,
    tokens: AtomicU64,
}

impl<S: Store> World<S> {
    /// Returns a world with the store that `make` makes.
    pub async fn new(make: impl AsyncFn(Clock) -> S) -> Self {
        let clock = ManualClock::at(at("2026-01-31T12:00:00Z"));
        let store = Arc::new(make(Clock::from(&clock)).await);
        Self { store, clock, rules: Rules::default(), tokens: AtomicU64::new(0) }
    }

    /// Creates a key with the next token of a fixed series.
    ///
    /// # Errors
    ///
    /// The store's [`ChangeError`].
    pub async fn try_create(&self, new: NewKey) -> Result<(Key, TokenHash), ChangeError> {
        let (account, parent) = match &new.owner {
            Owner::Account(account) => (account.clone(), None),
            Owner::Parent(parent) => {
                let lineage = self.store.lineage(*parent).await.unwrap();
                let lineage = lineage.ok_or(ChangeError::UnknownKey(*parent))?;
                (lineage.account_id().clone(), Some(*parent))
            }
        };
        self.create_in(account, parent, new).await
    }

    /// Creates a key with this owner, whatever owner `new` has.
    pub(super) async fn create_in(
        &self,
        account: AccountId,
        parent: Option<KeyId>,
        new: NewKey,
    ) -> Result<(Key, TokenHash), ChangeError> {
        let token = self.token();
        let hash = token.hash;
        let draft = KeyDraft::new(account, parent, new);
        Ok((self.change_key(KeyChange::Create { draft, token }).await?, hash))
    }

    pub(super) fn token(&self) -> NewToken {
        let n = self.tokens.fetch_add(1, Ordering::Relaxed);
        NewToken {
            hash: TokenHash::digest(&format!("token {n}")),
            prefix: "ak_test".into(),
            start: format!("{n:08}"),
        }
    }

    /// Changes a key.
    ///
    /// # Errors
    ///
    /// The store's [`ChangeError`].
    pub async fn change_key(&self, change: KeyChange) -> Result<Key, ChangeError> {
        self.store.change_key(&change, &self.rules).await.unwrap()
    }

    /// Imports keys in one batch.
    pub async fn import(&self, imports: Vec<KeyImport>) -> Vec<Result<Imported, ChangeError>> {
        let mut drafts = Vec::with_capacity(imports.len());
        for import in imports {
            let (account, parent) = match import.new.owner.clone() {
                Owner::Account(account) => (account, None),
                Owner::Parent(parent) => {
                    let lineage = self.store.lineage(parent).await.unwrap();
                    (lineage.expect("a parent").account_id().clone(), Some(parent))
                }
            };
            drafts.push(import.draft(account, parent));
        }
        let answers = self.store.import_keys(&drafts, &self.rules).await.unwrap();
        assert_eq!(answers.len(), drafts.len(), "a batch gets one answer for each import");
        answers
    }

    /// Creates or changes an account.
    ///
    /// # Errors
    ///
    /// The store's [`ChangeError`].
    pub async fn change_account(
        &self,
        account: &AccountId,
        change: AccountChange,
    ) -> Result<Account, ChangeError> {
        self.store.change_account(account, change, &Origin::new()).await.unwrap()
    }

    /// Posts one posting.
    ///
    /// # Errors
    ///
    /// The store's [`Refusal`].
    pub async fn post(&self, posting: &Posting) -> Result<Posted, Refusal> {
        let mut posted = self.post_all(std::slice::from_ref(posting)).await;
        posted.pop().unwrap()
    }

    /// Posts postings in one batch.
    pub async fn post_all(&self, postings: &[Posting]) -> Vec<Result<Posted, Refusal>> {
        let posted = self.store.post(postings).await.unwrap();
        assert_eq!(posted.len(), postings.len(), "a batch gets one answer for each posting");
        posted
    }
}

impl<S: Store> World<S> {
    pub(super) async fn create(&self, new: NewKey) -> Key {
        self.create_with_token(new).await.0
    }

    pub(super) async fn create_with_token(&self, new: NewKey) -> (Key, TokenHash) {
        self.try_create(new).await.expect("the key may be made")
    }

    /// Creates a key with a lifetime budget of `cents` in the account "acme".
    pub(super) async fn key(&self, cents: i32) -> Key {
        self.create(acme().budget(Budget::lifetime(c(cents)))).await
    }

    pub(super) async fn child(&self, parent: &Key, cents: i32) -> Key {
        let budget = Budget::lifetime(c(cents));
        self.create(NewKey::child_of(parent.id).scopes(ScopeSet::none()).budget(budget)).await
    }

    pub(super) async fn update(&self, key: &Key, patch: KeyPatch) -> Result<Key, ChangeError> {
        self.change_key(KeyChange::Update { key: key.id, patch }).await
    }

    pub(super) async fn revoke(&self, key: &Key) -> Key {
        self.change_key(KeyChange::Revoke { key: key.id, reason: None })
            .await
            .expect("a key can always be revoked")
    }

    pub(super) async fn rotate(&self, key: &Key, grace: u64) -> (Key, TokenHash) {
        let token = self.token();
        let hash = token.hash;
        let change = KeyChange::Rotate { key: key.id, token, grace: secs(grace) };
        (self.change_key(change).await.expect("the key may be rotated"), hash)
    }

    pub(super) async fn ensure(&self, account: &AccountId, budget: Budget) -> Account {
        let ensured = self.change_account(account, AccountChange::Ensure(budget)).await;
        ensured.expect("the account may be made")
    }

    pub(super) async fn ceiling(&self, account: &AccountId, budget: Budget) -> Account {
        let set = self.change_account(account, AccountChange::SetBudget(budget)).await;
        set.expect("the ceiling may be set")
    }

    pub(super) async fn accept(&self, posting: &Posting) -> Posted {
        match self.post(posting).await {
            Ok(posted) => posted,
            Err(refusal) => {
                panic!("refused as {refusal:?}, though it is to be accepted: {posting:?}")
            }
        }
    }

    pub(super) async fn refuse(&self, posting: &Posting) -> Refusal {
        match self.post(posting).await {
            Ok(posted) => panic!("accepted as {posted:?}, though it is to be refused: {posting:?}"),
            Err(refusal) => refusal,
        }
    }

    /// Returns the figures of a posting that the budget does not cover.
    pub(super) async fn short(&self, posting: &Posting) -> Shortfall {
        match self.refuse(posting).await {
            Refusal::BudgetExceeded(shortfall) => *shortfall,
            other => panic!("refused as {other:?}, and not as BudgetExceeded: {posting:?}"),
        }
    }

    pub(super) async fn find(&self, hash: TokenHash) -> Option<Found> {
        let mut found = self.store.find(&[hash]).await.unwrap();
        assert_eq!(found.len(), 1, "a look-up gets one answer for each hash");
        found.pop().unwrap()
    }

    /// Returns what the key has spent and holds.
    pub(super) async fn balance(&self, key: &Key) -> (Amount, Amount) {
        let lineage = self.store.lineage(key.id).await.unwrap().expect("a created key is found");
        (lineage.key().balance.spent(), lineage.key().balance.held)
    }

    pub(super) async fn account_balance(&self, key: &Key) -> (Amount, Amount) {
        let account =
            self.store.account(&key.account).await.unwrap().expect("an account with keys is found");
        (account.balance.spent(), account.balance.held)
    }

    pub(super) async fn entries(&self, query: EntryQuery) -> Vec<Entry> {
        let page: Vec<(Cursor, Entry)> = self.store.entries(&query).await.unwrap();
        let cursors: Vec<_> = page.iter().map(|(cursor, _)| *cursor).collect();
        assert!(
            cursors.is_sorted_by(|a, b| a < b),
            "entries come in the order of their cursors: {cursors:?}"
        );
        page.into_iter().map(|(_, entry)| entry).collect()
    }

    /// Returns kind and amount of every entry of an account.
    pub(super) async fn ledger(&self, account: &AccountId) -> Vec<(&'static str, Amount)> {
        let entries = self.entries(EntryQuery::for_account(account.clone()).limit(1_000)).await;
        entries.iter().map(|entry| (entry.kind.as_str(), entry.amount)).collect()
    }

    /// Charges `cents`, and returns the id of the entry.
    pub(super) async fn paid(&self, key: &Key, cents: i32) -> EntryId {
        let posting = pay(key, c(cents));
        let posted = self.accept(&posting).await;
        assert_eq!(
            posted.outcome,
            Outcome::Paid { entry: posting.id.into() },
            "an entry has the id of its posting"
        );
        posting.id.into()
    }
}

pub(super) fn at(text: &str) -> Timestamp {
    text.parse().expect("a timestamp")
}

pub(super) const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub(super) const fn c(cents: i32) -> Amount {
    Amount::cents(cents)
}

pub(super) const MINUTE: u64 = 60;
pub(super) const DAY: u64 = 24 * 60 * MINUTE;
pub(super) const NOTHING: Amount = Amount::ZERO;

pub(super) fn account(name: &str) -> AccountId {
    name.parse().expect("an account id")
}

pub(super) fn acme() -> NewKey {
    NewKey::new(account("acme")).scopes(ScopeSet::unrestricted())
}

pub(super) fn posting(key: &Key, action: Action) -> Posting {
    Posting::new(key.account.clone(), key.id, action)
}

pub(super) fn pay(key: &Key, amount: Amount) -> Posting {
    pay_claimed(key, amount, None)
}

pub(super) fn pay_claimed(key: &Key, amount: Amount, claim: Option<IdempotencyClaim>) -> Posting {
    posting(key, Action::Pay { amount, note: Note::default(), claim })
}

pub(super) fn hold(key: &Key, amount: Amount, ttl: u64) -> Posting {
    let (ttl, on_expiry, note) = (secs(ttl), OnExpiry::Release, Note::default());
    posting(key, Action::Hold { amount, ttl, on_expiry, note, claim: None })
}

pub(super) fn hold_claimed(key: &Key, amount: Amount, claim: Option<IdempotencyClaim>) -> Posting {
    let (ttl, on_expiry, note) = (secs(MINUTE), OnExpiry::Release, Note::default());
    posting(key, Action::Hold { amount, ttl, on_expiry, note, claim })
}

pub(super) fn hold_or_charge(key: &Key, amount: Amount, ttl: u64) -> Posting {
    let (ttl, on_expiry, note) = (secs(ttl), OnExpiry::Charge, Note::default());
    posting(key, Action::Hold { amount, ttl, on_expiry, note, claim: None })
}

pub(super) fn renew(key: &Key, holds: &[&Posting], ttl: u64, max_age: u64) -> Posting {
    renew_claimed(key, holds, ttl, max_age, None)
}

pub(super) fn renew_claimed(
    key: &Key,
    holds: &[&Posting],
    ttl: u64,
    max_age: u64,
    claim: Option<IdempotencyClaim>,
) -> Posting {
    let holds = ids(holds);
    posting(key, Action::Renew { holds, ttl: secs(ttl), max_age: secs(max_age), claim })
}

pub(super) fn settle(key: &Key, holds: &[&Posting], cost: Amount) -> Posting {
    settle_with(key, holds, &[], cost, None)
}

pub(super) fn settle_with(
    key: &Key,
    holds: &[&Posting],
    void: &[&Posting],
    cost: Amount,
    claim: Option<IdempotencyClaim>,
) -> Posting {
    let (holds, void) = (ids(holds), ids(void));
    posting(key, Action::Settle { holds, void, cost, note: Note::default(), claim })
}

pub(super) fn refund(key: &Key, entry: EntryId, amount: Amount) -> Posting {
    posting(key, Action::Refund { entry, amount })
}

fn ids(postings: &[&Posting]) -> Vec<PostingId> {
    postings.iter().map(|posting| posting.id).collect()
}

/// Returns a note with one label and a reference.
pub(super) fn note(name: &str, value: &str, reference: &str) -> Note {
    let mut labels = crate::model::Labels::new();
    labels.insert(name, value).expect("a label");
    Note::new(labels, Some(reference.to_owned()))
}
