//! Reconciliation: balances are compared with the ledger, and mended where the application says so.

use crate::engine::agent_keys::AgentKeys;
use crate::engine::error::Error;
use crate::engine::page::{Page, PageStream, page_limit};
use crate::model::{AccountId, ChangeError, Holder, Reconciled};
use crate::store::{AccountQuery, KeyQuery};

/// Which balances to compare with the ledger: accounts in the order of their ids, and then keys in the
/// order of theirs.
///
/// ```
/// use agentkey::ReconcileQuery;
///
/// let query = ReconcileQuery::for_account("acme".parse()?).limit(50);
/// # let _ = query; Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
#[must_use = "a query does nothing until it is passed to `AgentKeys::reconcile`"]
pub struct ReconcileQuery {
    /// Only this account and its keys.
    pub account: Option<AccountId>,
    /// Only balances after that of this holder.
    pub after: Option<Holder>,
    /// The most balances on a page: 1 to 1,000.
    pub limit: u32,
}

impl ReconcileQuery {
    /// Queries the first 100 balances of the store.
    pub const fn all() -> Self {
        Self { account: None, after: None, limit: 100 }
    }

    /// Queries the first 100 balances of an account and its keys.
    pub const fn for_account(account: AccountId) -> Self {
        Self { account: Some(account), after: None, limit: 100 }
    }

    /// Continues after the last balance of a page.
    pub fn after(mut self, holder: Holder) -> Self {
        self.after = Some(holder);
        self
    }

    /// Compares at most `limit` balances on a page, from 1 to 1,000.
    pub fn limit(mut self, limit: u32) -> Self {
        self.limit = limit;
        self
    }
}

impl AgentKeys {
    /// Compares balances with the ledger, and returns a page of what it found of each: the figures that
    /// differ, or none.
    ///
    /// What was spent is compared with the entries of the current window, and what is held with the
    /// live holds. Each balance is read in one snapshot with its entries and holds, so charges that go
    /// on make no difference. Comparing takes no lock, and reads the entries of the windows of each balance.
    ///
    /// A balance differs where the application's own SQL wrote it, where a database was restored in
    /// part, or by a fault of this crate. A page may be empty or short while there are more. Keys
    /// that are out of service are left out.
    ///
    /// # Errors
    ///
    /// [`Error::Change`] where the limit of the query is not 1 to 1,000; [`Error::Store`] where the
    /// store does not answer.
    pub async fn reconcile(
        &self,
        query: &ReconcileQuery,
    ) -> Result<Page<Reconciled, Holder>, Error> {
        let Page { items: holders, next } = self.holders(query).await?;
        let mut items = Vec::with_capacity(holders.len());
        for holder in &holders {
            items.extend(self.with_store(|store| store.reconcile(holder)).await?);
        }
        Ok(Page { items, next })
    }

    /// Returns a stream of what was found of each balance, over all pages. The limit of the query is the
    /// size of a page.
    ///
    /// The stream ends with the first error. [`ReconcileQuery::after`] goes on behind the holder that
    /// failed.
    ///
    /// ```
    /// use agentkey::{AgentKeys, Amount, MemoryStore, NewKey, ReconcileQuery};
    /// use futures_util::TryStreamExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let keys = AgentKeys::new(MemoryStore::new())?;
    /// let key = keys.create(NewKey::new("acme".parse()?)).await?.key;
    /// keys.adjust(key.id, Amount::cents(5), "a correction", None).await?;
    ///
    /// let mut found = keys.reconcile_stream(ReconcileQuery::all());
    /// let mut compared = 0;
    /// while let Some(found) = found.try_next().await? {
    ///     compared += 1;
    ///     for difference in &found.differences {
    ///         println!("{:?}: {difference:?}", found.holder());
    ///     }
    ///     if !found.agrees() {
    ///         keys.mend_balance(found.holder()).await?;
    ///     }
    /// }
    /// assert_eq!(compared, 2); // the account and the key
    /// # keys.shutdown().await;
    /// # Ok(()) }
    /// ```
    pub fn reconcile_stream(&self, query: ReconcileQuery) -> PageStream<Reconciled, Holder> {
        let keys = self.clone();
        PageStream::new(query.after.clone(), move |after| {
            let (keys, query) = (keys.clone(), ReconcileQuery { after, ..query.clone() });
            Box::pin(async move { keys.reconcile(&query).await })
        })
    }

    /// Returns a page of the holders of balances: of accounts first, then of keys.
    async fn holders(&self, query: &ReconcileQuery) -> Result<Page<Holder, Holder>, Error> {
        let limit = page_limit(query.limit)?;
        let key = match &query.after {
            Some(Holder::Key(key)) => Some(*key),
            after => {
                let items = self.accounts_after(query, after.as_ref()).await?;
                // The last page of accounts does not know that it is: keys follow an empty one.
                if let Some(last) = items.last().cloned() {
                    return Ok(Page { items, next: Some(last) });
                }
                None
            }
        };
        let keys = query.account.clone().map_or_else(KeyQuery::all, KeyQuery::for_account);
        let Page { items, next } = self.keys(&KeyQuery { after: key, limit, ..keys }).await?;
        let items = items.into_iter().map(|key| Holder::Key(key.id)).collect();
        Ok(Page { items, next: next.map(Holder::Key) })
    }

    async fn accounts_after(
        &self,
        query: &ReconcileQuery,
        after: Option<&Holder>,
    ) -> Result<Vec<Holder>, Error> {
        let after = match after {
            Some(Holder::Account(account)) => Some(account.clone()),
            _ => None,
        };
        let accounts = match &query.account {
            Some(_) if after.is_some() => Vec::new(),
            Some(account) => self.account(account).await?.into_iter().collect(),
            None => {
                let limit = query.limit;
                self.accounts(&AccountQuery { after, limit }).await?.items
            }
        };
        Ok(accounts.into_iter().map(|account| Holder::Account(account.id)).collect())
    }

    /// Sets the figures of a balance that differ from the ledger to what the ledger says, and returns
    /// them. It sets nothing where the balance agrees.
    ///
    /// The balance is compared again under the lock of its account, so the charges of the account wait
    /// while the entries of its windows are read. The balance is set in that transaction, and every
    /// process decides by it from then on. For each figure there is an entry of the kind
    /// [`Adjust`](crate::model::EntryKind::Adjust) and of amount zero, so that the entries add up to
    /// the same as before, and an [event](AgentKeys::events). The labels of the entry are
    /// [`reason`](crate::model::Note::REASON) (`reconciled`), `figure` (`spent` or `held`), `period`,
    /// `from_cents` and `to_cents`.
    ///
    /// This is for the application's own code alone. No route, layer or extractor of this crate calls
    /// it.
    ///
    /// # Errors
    ///
    /// [`ChangeError::UnknownKey`] or [`ChangeError::UnknownAccount`] where there is no such holder, or
    /// the key is out of service. [`Error::Store`] where the store does not answer. The call may be
    /// repeated.
    ///
    /// ```
    /// use agentkey::{AgentKeys, MemoryStore, NewKey};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let keys = AgentKeys::new(MemoryStore::new())?;
    /// let key = keys.create(NewKey::new("acme".parse()?)).await?.key;
    /// assert!(keys.mend_balance(key.id).await?.agrees()); // nothing was to be mended
    /// # keys.shutdown().await;
    /// # Ok(()) }
    /// ```
    pub async fn mend_balance(&self, holder: impl Into<Holder>) -> Result<Reconciled, Error> {
        let holder = holder.into();
        let mended = self.change_store(|store| store.mend(&holder, &self.origin)).await?;
        let Some(mended) = mended else {
            return Err(match holder {
                Holder::Key(key) => ChangeError::UnknownKey(key),
                Holder::Account(account) => ChangeError::UnknownAccount(account),
            }
            .into());
        };
        for difference in &mended.differences {
            tracing::warn!(
                account = %mended.account,
                key = mended.key.map(tracing::field::display),
                figure = difference.figure.as_str(),
                period = difference.figure.period().map(tracing::field::display),
                from_micros = difference.stored.as_micros(),
                to_micros = difference.computed.as_micros(),
                "agentkey mended a balance that differed from its entries or holds"
            );
        }
        Ok(mended)
    }
}
