//! Reading the ledger, and changes of money by the application: refunds, adjustments, lost charges.

use crate::engine::agent_keys::AgentKeys;
use crate::engine::error::Error;
use crate::engine::page::{Page, PageStream, page_limit};
use crate::ledger::{Action, Outcome, Posting};
use crate::model::{
    AccountId, Amount, ChangeError, Entry, EntryId, Holder, KeyId, Note, OpenHold, PostingId,
    Refusal,
};
use crate::store::{Cursor, EntryQuery, Usage, UsageQuery};

impl AgentKeys {
    /// Returns a page of entries, oldest first.
    ///
    /// # Errors
    ///
    /// [`Error::Change`] where the limit of the query is not 1 to 1,000; [`Error::Store`] where the
    /// store does not answer.
    pub async fn entries(&self, query: &EntryQuery) -> Result<Page<Entry, Cursor>, Error> {
        let limit = page_limit(query.limit)?;
        let query = EntryQuery { limit: limit + 1, ..query.clone() };
        let items = self.with_store(|store| store.entries(&query)).await?;
        let Page { items, next } = Page::cut(items, limit, |(cursor, _)| *cursor);
        Ok(Page { items: items.into_iter().map(|(_, entry)| entry).collect(), next })
    }

    /// Returns a stream of entries over all pages. The limit of the query is the size of a page.
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

    /// Returns one entry, if there is one with this id.
    ///
    /// # Errors
    ///
    /// [`Error::Store`] where the store does not answer.
    pub async fn entry(&self, id: EntryId) -> Result<Option<Entry>, Error> {
        self.with_store(|store| store.entry(id)).await
    }

    /// Returns the holds that are open now, of all accounts: at most `limit`, the oldest first.
    ///
    /// A hold that is older than [`max_hold_age`](crate::Builder::max_hold_age), or that expired
    /// and was not ended, says that a process or its sweep has stopped.
    ///
    /// # Errors
    ///
    /// [`Error::Change`] where the limit is not 1 to 1,000; [`Error::Store`] where the store does
    /// not answer.
    ///
    /// ```
    /// use agentkey::{AgentKeys, Amount, MemoryStore, NewKey};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let keys = AgentKeys::new(MemoryStore::new())?;
    /// let key = keys.create(NewKey::new("acme".parse()?)).await?.key;
    /// let context = keys.authorize_by_id(key.id).await?;
    /// let charge = keys.charge(&context).await?;
    /// charge.hold(Amount::cents(5)).await?;
    ///
    /// let holds = keys.open_holds(100).await?;
    /// assert_eq!((holds[0].key, holds[0].amount), (key.id, Amount::cents(5)));
    /// charge.settle().await?;
    /// assert!(keys.open_holds(100).await?.is_empty());
    /// # keys.shutdown().await;
    /// # Ok(()) }
    /// ```
    pub async fn open_holds(&self, limit: u32) -> Result<Vec<OpenHold>, Error> {
        let limit = page_limit(limit)?;
        self.with_store(|store| store.open_holds(limit)).await
    }

    /// Returns what was charged, summed by key, label or time, or by two of them, in the order of the
    /// groups.
    ///
    /// # Errors
    ///
    /// [`Error::Store`] where the store does not answer.
    pub async fn usage(&self, query: &UsageQuery) -> Result<Vec<Usage>, Error> {
        self.with_store(|store| store.usage(query)).await
    }

    /// Gives back what an entry charged, in part or whole, and returns the entry of the refund.
    ///
    /// # Errors
    ///
    /// [`Refusal::UnknownEntry`] where the account has no such charge. [`Refusal::RefundTooLarge`]
    /// where the entry has less left. [`Refusal::Unavailable`] or [`Error::Store`] where the store
    /// does not answer.
    pub async fn refund(
        &self,
        account: &AccountId,
        entry: EntryId,
        amount: Amount,
    ) -> Result<EntryId, Error> {
        self.refund_as(PostingId::new(), account, entry, amount).await
    }

    /// Refunds under this posting id, which takes effect at most once.
    ///
    /// Keep the id if you may have to repeat a refund in part.
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
        let charged =
            self.with_store(|store| store.entry(entry)).await?.ok_or(Refusal::UnknownEntry)?;
        let action = Action::Refund { entry, amount };
        let posting = Posting { id, ..Posting::new(account.clone(), charged.key, action) };
        self.inner().batches.post(posting).await?;
        Ok(id.into())
    }

    /// Adjusts what a key or an account has spent, and returns the id of the entry.
    ///
    /// An amount below zero is a top-up: so much more may be spent, in the current window. An
    /// amount above zero is a correction. Every limit is ignored, and the key may be revoked or
    /// expired. The adjustment counts along the lineage, as a charge does. It cannot be refunded.
    ///
    /// The entry's kind is [`Adjust`](crate::model::EntryKind::Adjust), and its label
    /// [`Note::REASON`](crate::model::Note::REASON) is the `reason`. An entry never records more
    /// than the balances can absorb.
    ///
    /// This is for the application's own code alone. No route, layer or extractor of this crate
    /// calls it, so no client can adjust its own key.
    ///
    /// # Errors
    ///
    /// [`ChangeError::UnknownKey`] or [`ChangeError::UnknownAccount`] where there is no such
    /// holder. [`ChangeError::Invalid`] where the reason is blank or over 255 characters, or
    /// [`Note::set_reference`](crate::model::Note::set_reference) refuses the reference.
    /// [`Refusal::ZeroAdjustment`] where the amount is zero. [`Refusal::Unavailable`] or
    /// [`Error::Store`] where the store does not answer.
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

    /// Adjusts under this posting id, which takes effect at most once. A second call returns the
    /// first entry.
    ///
    /// Keep the id if you may have to repeat an adjustment.
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
        let origin = Box::new((*self.origin).clone());
        let action = Action::Adjust { amount, note, origin };
        let posting = Posting { id, ..Posting::new(account, key, action) };
        self.inner().batches.post(posting).await?;
        Ok(id.into())
    }

    /// Posts a charge that could not be posted when it ended, and returns its entry; `None` where the
    /// cost is not positive.
    ///
    /// The log line of such a charge has everything that this takes. The id takes effect once: if
    /// the charge was committed after all, its entry is returned, and nothing is charged. As every
    /// settle it is always accepted, also for a key that is revoked or over its limit.
    ///
    /// `undone` is what the settle would have ended or taken back: the `holds` and the `void` of the
    /// line. A hold that was [charged when it expired](crate::http::OnExpiry::Charge) and a payment in
    /// doubt are charged beside the cost, unless they are named here.
    ///
    /// # Errors
    ///
    /// [`ChangeError::UnknownKey`] where there is no such key. [`Refusal::Unavailable`] or
    /// [`Error::Store`] where the store does not answer.
    pub async fn settle_as(
        &self,
        id: PostingId,
        key: KeyId,
        cost: Amount,
        note: Note,
        undone: Vec<PostingId>,
    ) -> Result<Option<EntryId>, Error> {
        let lineage = self.find_by_id(key).await?.ok_or(ChangeError::UnknownKey(key))?;
        let action =
            Action::Settle { holds: undone.clone(), void: undone, cost, note, claim: None };
        let posting = Posting { id, ..Posting::new(lineage.account_id().clone(), key, action) };
        match self.inner().batches.post(posting).await?.outcome {
            Outcome::Settled { entry } => Ok(entry),
            _ => Err(Refusal::Misconfigured.into()),
        }
    }
}
