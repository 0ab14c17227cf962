//! Accounts and their ceilings.

use crate::engine::agent_keys::AgentKeys;
use crate::engine::error::Error;
use crate::engine::page::{Page, PageStream, page_limit};
use crate::ledger::AccountChange;
use crate::model::{Account, AccountId, Budget};
use crate::store::AccountQuery;

impl AgentKeys {
    /// Creates an account with a ceiling over all its keys together, and returns it.
    ///
    /// An account that exists is returned as it is: every instance may call this when it starts.
    /// Its ceiling is changed by [`set_account_budget`](Self::set_account_budget) alone. An account
    /// that its first key has created has no ceiling.
    ///
    /// # Errors
    ///
    /// [`Error::Change`] where the limit is negative; [`Error::Store`] where the store does not
    /// answer.
    pub async fn ensure_account(
        &self,
        account: AccountId,
        budget: Budget,
    ) -> Result<Account, Error> {
        self.change_account(&account, AccountChange::Ensure(budget)).await
    }

    /// Sets the ceiling of an account. What its keys have spent and hold stays.
    ///
    /// # Errors
    ///
    /// [`Error::Change`] where the limit is negative, or there is no such account; [`Error::Store`]
    /// where the store does not answer.
    pub async fn set_account_budget(
        &self,
        account: &AccountId,
        budget: Budget,
    ) -> Result<Account, Error> {
        self.change_account(account, AccountChange::SetBudget(budget)).await
    }

    /// Returns an account, if there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Store`] where the store does not answer.
    pub async fn account(&self, account: &AccountId) -> Result<Option<Account>, Error> {
        self.with_store(|store| store.account(account)).await
    }

    /// Returns a page of accounts, in the order of their ids.
    ///
    /// In an adopted table, an account is there from its first charge, or from its first change
    /// through this crate.
    ///
    /// # Errors
    ///
    /// [`Error::Change`] where the limit of the query is not 1 to 1,000; [`Error::Store`] where the
    /// store does not answer.
    pub async fn accounts(&self, query: &AccountQuery) -> Result<Page<Account, AccountId>, Error> {
        let limit = page_limit(query.limit)?;
        let query = AccountQuery { limit: limit + 1, ..query.clone() };
        let items = self.with_store(|store| store.accounts(&query)).await?;
        Ok(Page::cut(items, limit, |account| account.id.clone()))
    }

    /// Returns a stream of accounts over all pages. The limit of the query is the size of a page.
    ///
    /// The stream ends with the first error.
    ///
    /// ```
    /// use agentkey::store::AccountQuery;
    /// use agentkey::{AgentKeys, Budget, MemoryStore};
    /// use futures_util::TryStreamExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let keys = AgentKeys::new(MemoryStore::new())?;
    /// keys.ensure_account("acme".parse()?, Budget::unlimited()).await?;
    /// let accounts: Vec<_> = keys.account_stream(AccountQuery::all()).try_collect().await?;
    /// assert_eq!(accounts[0].id.as_str(), "acme");
    /// # Ok(()) }
    /// ```
    pub fn account_stream(&self, query: AccountQuery) -> PageStream<Account, AccountId> {
        let keys = self.clone();
        PageStream::new(query.after.clone(), move |after| {
            let (keys, query) = (keys.clone(), AccountQuery { after, ..query.clone() });
            Box::pin(async move { keys.accounts(&query).await })
        })
    }

    async fn change_account(
        &self,
        account: &AccountId,
        change: AccountChange,
    ) -> Result<Account, Error> {
        let changed = self
            .change_store(|store| store.change_account(account, change, &self.origin))
            .await??;
        if let AccountChange::SetBudget(_) = change {
            tracing::info!(%account, "agentkey set the ceiling of an account");
        }
        Ok(changed)
    }
}
