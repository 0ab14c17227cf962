//! `AgentKeys`: the way to keys and money for the host's own code.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;

use crate::engine::batch::Batches;
use crate::engine::build_error::BuildError;
use crate::engine::error::Error;
use crate::engine::last_used::LastUsed;
use crate::engine::options::Options;
use crate::engine::page::{Page, PageStream};
use crate::engine::renewals::Renewals;
use crate::ledger::{Action, KeyChange, KeyDraft, NewToken, Posting, Rules};
use crate::model::key::Owner;
use crate::model::{
    Account, AccountId, Amount, Budget, ChangeError, Entry, EntryId, Grace, Key, KeyId, KeyPatch, Lineage, NewKey,
    Note, PostingId, Refusal, Token,
};
use crate::store::{Cursor, EntryQuery, KeyQuery, Store, StoreResult, Usage, UsageQuery, unwinding};

/// The keys of a service: makes, finds, changes and revokes them, and stands behind [`AgentKeyLayer`].
///
/// Clones are one handle and cheap. It must be made inside a tokio runtime, which its lanes run on.
///
/// ```
/// use agentkey::{AgentKeys, Amount, Budget, NewKey, ScopeSet};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # #[cfg(feature = "sqlite")] {
/// let keys = AgentKeys::in_memory().await?;
/// keys.ensure_account("acme".parse()?, Budget::monthly(Amount::units(100))).await?;
///
/// let created = keys
///     .create(
///         NewKey::new("acme".parse()?)
///             .name("crawler")
///             .scopes(ScopeSet::parse(["read", "proxy.*"])?)
///             .budget(Budget::monthly(Amount::units(20)))
///             .expires_in("30d".parse()?),
///     )
///     .await?;
/// println!("the token, shown once: {}", created.token.expose());
///
/// keys.revoke(created.key.id).await?;
/// keys.shutdown().await;
/// # }
/// # Ok(()) }
/// ```
///
/// [`AgentKeyLayer`]: crate::AgentKeyLayer
#[derive(Clone, Debug)]
pub struct AgentKeys {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    store: Arc<dyn Store>,
    pub(crate) batches: Batches,
    pub(crate) renewals: Arc<Renewals>,
    pub(crate) options: Options,
    pub(crate) rules: Rules,
    pub(crate) last_used: Arc<LastUsed>,
    helpers: [AbortHandle; 2],
}

/// A key just made or rotated, with its token, which is never shown again.
///
/// Serialised, it has the secret in it: it is the answer that shows the token once.
#[derive(Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Created {
    /// The record.
    pub key: Key,
    /// The secret.
    #[serde(with = "exposed")]
    pub token: Token,
}

/// The text of a token, for the one answer that shows it.
mod exposed {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::model::Token;

    pub(super) fn serialize<S: Serializer>(token: &Token, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(token.expose())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Token, D::Error> {
        Token::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// Who has a balance of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Holder {
    /// A key: its balance, those of its ancestors, and its account's.
    Key(KeyId),
    /// An account alone.
    Account(AccountId),
}

impl From<KeyId> for Holder {
    fn from(key: KeyId) -> Self {
        Self::Key(key)
    }
}

impl From<AccountId> for Holder {
    fn from(account: AccountId) -> Self {
        Self::Account(account)
    }
}

impl AgentKeys {
    /// Starts the tasks of a handle on the current runtime.
    pub(crate) fn start(store: Arc<dyn Store>, options: Options, rules: Rules) -> Result<Self, BuildError> {
        tokio::runtime::Handle::try_current().map_err(|_| BuildError::NoRuntime)?;
        let batches = Batches::start(&store, options.batches);
        let renewals = Arc::new(Renewals::default());
        let renewing = tokio::spawn(Renewals::run(renewals.clone()));
        let last_used = Arc::new(LastUsed::default());
        let sweeping = tokio::spawn(sweep(store.clone(), last_used.clone(), options.sweep_interval));
        let helpers = [renewing.abort_handle(), sweeping.abort_handle()];
        Ok(Self { inner: Arc::new(Inner { store, batches, renewals, options, rules, last_used, helpers }) })
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// Makes a key. Its token is in the answer and nowhere else.
    ///
    /// # Errors
    ///
    /// [`ChangeError`] where a field is out of bounds or outside the parent's, or the parent is not in force.
    pub async fn create(&self, new: NewKey) -> Result<Created, Error> {
        let (account, parent) = match new.owner {
            Owner::Account(account) => (account, None),
            Owner::Parent(parent) => {
                let lineage = self.find_by_id(parent).await?.ok_or(ChangeError::UnknownKey(parent))?;
                (lineage.account_id().clone(), Some(parent))
            }
        };
        let NewKey { name, scopes, budget, expiry, prefix, .. } = new;
        let token = Token::generate(prefix.as_ref().unwrap_or(&self.inner.options.prefix))?;
        let draft = KeyDraft { account, parent, name, scopes, budget, expiry };
        let change = KeyChange::Create { draft, token: NewToken::of(&token) };
        Ok(Created { key: self.change_key(change).await?, token })
    }

    /// Sets an account's ceiling, over all its keys together; makes the account where it is new.
    ///
    /// # Errors
    ///
    /// When the limit is negative, or the store does not answer.
    pub async fn ensure_account(&self, account: AccountId, budget: Budget) -> Result<Account, Error> {
        Ok(self.ask(|store| store.set_account(&account, budget)).await??)
    }

    /// An account, if it has been seen.
    ///
    /// # Errors
    ///
    /// When the store does not answer.
    pub async fn account(&self, account: &AccountId) -> Result<Option<Account>, Error> {
        self.ask(|store| store.account(account)).await
    }

    /// The key with this token, in force or not. See [`Lineage::check_active`].
    ///
    /// # Errors
    ///
    /// When the store does not answer.
    pub async fn find(&self, token: &Token) -> Result<Option<Lineage>, Error> {
        let found = match self.inner.batches.try_find_cached(&token.hash()) {
            Some(found) => Some(found),
            None => self.inner.batches.find(token.hash()).await?,
        };
        Ok(found.map(|found| found.lineage.clone()))
    }

    /// The key with this id, in force or not.
    ///
    /// # Errors
    ///
    /// When the store does not answer.
    pub async fn find_by_id(&self, key: KeyId) -> Result<Option<Lineage>, Error> {
        self.ask(|store| store.lineage(key)).await
    }

    /// Lists keys: those of an account, or those minted directly from a key.
    ///
    /// # Errors
    ///
    /// When the limit of the query is not 1 to 1,000, or the store does not answer.
    pub async fn keys(&self, query: &KeyQuery) -> Result<Page<Key, KeyId>, Error> {
        let limit = page_limit(query.limit)?;
        let query = KeyQuery { limit: limit + 1, ..query.clone() };
        let items = self.ask(|store| store.keys(&query)).await?;
        Ok(Page::cut(items, limit, |key| key.id))
    }

    /// Lists keys page by page, as a stream of keys. The limit of the query is the size of a page.
    ///
    /// The stream ends with the first error.
    pub fn key_stream(&self, query: KeyQuery) -> PageStream<Key, KeyId> {
        let keys = self.clone();
        PageStream::new(query.after, move |after| {
            let (keys, query) = (keys.clone(), KeyQuery { after, ..query.clone() });
            Box::pin(async move { keys.keys(&query).await })
        })
    }

    /// Changes a key; in force from the next request on.
    ///
    /// # Errors
    ///
    /// [`ChangeError`] where a field is out of bounds or outside the parent's, or the key is revoked.
    pub async fn update(&self, key: KeyId, patch: KeyPatch) -> Result<Key, Error> {
        self.change_key(KeyChange::Update { key, patch }).await
    }

    /// Gives a key another token. Its id, policy, balance and children stay.
    ///
    /// # Errors
    ///
    /// When there is no such key, or it is revoked.
    pub async fn rotate(&self, key: KeyId, grace: Grace) -> Result<Created, Error> {
        let old = self.find_by_id(key).await?.ok_or(ChangeError::UnknownKey(key))?;
        let own: Option<crate::model::TokenPrefix> = old.key().prefix.parse().ok();
        let token = Token::generate(own.as_ref().unwrap_or(&self.inner.options.prefix))?;
        let change = KeyChange::Rotate { key, token: NewToken::of(&token), grace: grace.0 };
        Ok(Created { key: self.change_key(change).await?, token })
    }

    /// Revokes a key and everything minted from it: refused from the next request on. Revoking again changes nothing.
    ///
    /// # Errors
    ///
    /// When there is no such key.
    pub async fn revoke(&self, key: KeyId) -> Result<Key, Error> {
        self.change_key(KeyChange::Revoke { key }).await
    }

    /// When keys were last let through by an [`AgentKeyLayer`](crate::AgentKeyLayer), in the same order; `None` where
    /// that was never. It is written now and then ([`sweep_interval`](crate::Builder::sweep_interval)), so the last seconds
    /// may be missing, and those of a killed process are.
    ///
    /// # Errors
    ///
    /// When the store does not answer.
    pub async fn last_used(&self, keys: &[KeyId]) -> Result<Vec<Option<Timestamp>>, Error> {
        self.ask(|store| store.last_used(keys)).await
    }

    /// Lists entries, oldest first.
    ///
    /// # Errors
    ///
    /// When the limit of the query is not 1 to 1,000, or the store does not answer.
    pub async fn entries(&self, query: &EntryQuery) -> Result<Page<Entry, Cursor>, Error> {
        let limit = page_limit(query.limit)?;
        let query = EntryQuery { limit: limit + 1, ..query.clone() };
        let items = self.ask(|store| store.entries(&query)).await?;
        let Page { items, next } = Page::cut(items, limit, |(place, _)| *place);
        Ok(Page { items: items.into_iter().map(|(_, entry)| entry).collect(), next })
    }

    /// Lists entries page by page, as a stream of entries. The limit of the query is the size of a page.
    ///
    /// The stream ends with the first error.
    ///
    /// ```
    /// use agentkey::{AgentKeys, EntryQuery, MemoryStore};
    /// use futures_util::TryStreamExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let keys = AgentKeys::new(MemoryStore::new())?;
    /// let entries: Vec<_> = keys.entry_stream(EntryQuery::for_account("acme".parse()?)).try_collect().await?;
    /// assert!(entries.is_empty());
    /// # Ok(()) }
    /// ```
    pub fn entry_stream(&self, query: EntryQuery) -> PageStream<Entry, Cursor> {
        let keys = self.clone();
        PageStream::new(query.after, move |after| {
            let (keys, query) = (keys.clone(), EntryQuery { after, ..query.clone() });
            Box::pin(async move { keys.entries(&query).await })
        })
    }

    /// What was charged, summed by key, label or time, in the order of the groups.
    ///
    /// # Errors
    ///
    /// When the store does not answer.
    pub async fn usage(&self, query: &UsageQuery) -> Result<Vec<Usage>, Error> {
        self.ask(|store| store.usage(query)).await
    }

    /// Gives back what an entry charged, in part or whole; answers with the entry of the refund.
    ///
    /// # Errors
    ///
    /// [`Refusal::UnknownEntry`] where there is no such charge, or it is of another account; [`Refusal::RefundTooLarge`] where
    /// it has not so much left.
    pub async fn refund(&self, account: &AccountId, entry: EntryId, amount: Amount) -> Result<EntryId, Error> {
        self.refund_as(PostingId::new(), account, entry, amount).await
    }

    /// The same as a posting with this id: however often it is sent, it takes effect once. Keep the id where a refund
    /// in part may have to be tried again.
    ///
    /// # Errors
    ///
    /// As for [`refund`](Self::refund).
    pub async fn refund_as(
        &self,
        id: PostingId,
        account: &AccountId,
        entry: EntryId,
        amount: Amount,
    ) -> Result<EntryId, Error> {
        let charged = self.ask(|store| store.entry(entry)).await?.ok_or(Refusal::UnknownEntry)?;
        let action = Action::Refund { entry, amount };
        let posting = Posting { id, ..Posting::new(account.clone(), charged.key, action) };
        self.inner.batches.post(posting).await?;
        Ok(id.into())
    }

    /// Adjusts what a key or an account has spent. Below zero it is a top-up: so much more may be spent, in a limit with
    /// a period only in the window that is current. Above zero it is a correction. It is accepted beyond every limit, and
    /// for a key that is revoked or expired. It counts along the lineage, as a charge does, and cannot be refunded.
    ///
    /// The answer is the id of its entry, of the kind [`Adjust`](crate::model::EntryKind::Adjust), whose label
    /// [`Note::REASON`](crate::model::Note::REASON) is the `reason`. An entry never records more than the balances could absorb.
    ///
    /// This is for the host's own code alone: no route, extractor or layer of this crate leads here, so a key cannot
    /// adjust itself with its own credential.
    ///
    /// # Errors
    ///
    /// [`ChangeError::UnknownKey`] and [`ChangeError::UnknownAccount`] where there is no such holder,
    /// [`ChangeError::Invalid`] where the reason is blank or over 255 characters, or the reference cannot be kept (see
    /// [`Note::set_reference`](crate::model::Note::set_reference)), and [`Refusal::ZeroAdjustment`] for an amount of zero.
    ///
    /// ```
    /// use agentkey::{AgentKeys, Amount, Budget, MemoryStore, NewKey};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let keys = AgentKeys::new(MemoryStore::new())?;
    /// let new = NewKey::new("acme".parse()?).budget(Budget::monthly(Amount::units(20)));
    /// let key = keys.create(new).await?.key;
    ///
    /// keys.adjust(key.id, Amount::units(-5), "goodwill for the outage", Some("ticket 17")).await?;
    /// let topped_up = keys.find_by_id(key.id).await?.expect("it was just made");
    /// assert_eq!(topped_up.remaining(), Some(Amount::units(25)));
    /// # keys.shutdown().await;
    /// # Ok(()) }
    /// ```
    pub async fn adjust(
        &self,
        holder: impl Into<Holder>,
        amount: Amount,
        reason: &str,
        reference: Option<&str>,
    ) -> Result<EntryId, Error> {
        self.adjust_as(PostingId::new(), holder, amount, reason, reference).await
    }

    /// The same as a posting with this id: however often it is sent, it takes effect once, and the answer is the first
    /// entry. Keep the id where an adjustment may have to be tried again.
    ///
    /// # Errors
    ///
    /// As for [`adjust`](Self::adjust).
    pub async fn adjust_as(
        &self,
        id: PostingId,
        holder: impl Into<Holder>,
        amount: Amount,
        reason: &str,
        reference: Option<&str>,
    ) -> Result<EntryId, Error> {
        let note = Note::adjusting(reason, reference)?;
        let (account, key) = match holder.into() {
            Holder::Key(key) => {
                let lineage = self.find_by_id(key).await?.ok_or(ChangeError::UnknownKey(key))?;
                (lineage.account_id().clone(), Some(key))
            }
            Holder::Account(account) => match self.account(&account).await? {
                Some(_) => (account, None),
                None => return Err(ChangeError::UnknownAccount(account).into()),
            },
        };
        let posting = Posting { id, ..Posting::new(account, key, Action::Adjust { amount, note }) };
        self.inner.batches.post(posting).await?;
        Ok(id.into())
    }

    /// Waits until every open charge is posted, lets none open again, and closes the store. Call it after the server
    /// has shut down gracefully. It has no bound of its own: a [`Charge`](crate::Charge) that is kept somewhere keeps it
    /// waiting.
    pub async fn shutdown(&self) {
        self.inner.batches.drain().await;
        self.inner.stop_helpers();
        self.inner.last_used.write(&*self.inner.store).await;
        self.inner.store.close().await;
    }

    async fn change_key(&self, change: KeyChange) -> Result<Key, Error> {
        let rules = &self.inner.rules;
        Ok(self.ask(|store| store.change_key(&change, rules)).await??)
    }

    async fn ask<'a, T>(
        &'a self,
        call: impl FnOnce(&'a dyn Store) -> crate::store::BoxFuture<'a, StoreResult<T>>,
    ) -> Result<T, Error> {
        Ok(unwinding(|| call(&*self.inner.store)).await?)
    }
}

/// Checks how many a page is to have.
fn page_limit(limit: u32) -> Result<u32, ChangeError> {
    match limit {
        1..=1_000 => Ok(limit),
        _ => Err(ChangeError::invalid("limit", format!("is {limit}, and must be 1 to 1,000"))),
    }
}

impl NewToken {
    fn of(token: &Token) -> Self {
        Self { hash: token.hash(), prefix: token.prefix().to_owned(), start: token.start().to_owned() }
    }
}

impl Inner {
    fn stop_helpers(&self) {
        self.helpers.iter().for_each(AbortHandle::abort);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop_helpers();
    }
}

/// Ends holds that have run out now and then, so that they are in the books of accounts that nobody asks for.
/// Takes note of when keys were used, in the same turn.
async fn sweep(store: Arc<dyn Store>, last_used: Arc<LastUsed>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        last_used.write(&*store).await;
        match unwinding(|| store.sweep()).await {
            Ok(0) => {}
            Ok(holds) => tracing::debug!(holds, "agentkey ended holds that had run out"),
            Err(error) => tracing::warn!(%error, "agentkey could not end holds that have run out; it will try again"),
        }
    }
}
