//! Stores of keys, balances, holds and entries.
//!
//! A store locks, loads and writes back; the [`ledger`](crate::ledger) decides. To write a store, implement [`Store`]
//! and run the suite of the `testing` feature against it.

#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod account_row;
pub(crate) mod address;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod broken_lineage;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
// Each of the two stores uses parts of the cache that the other does not.
#[cfg_attr(not(all(feature = "postgres", feature = "sqlite")), allow(dead_code, unused_imports))]
mod cache;
mod error;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod fast_path;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod key_row;
mod memory;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
mod prune;
mod query;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod range;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod records;
#[cfg(feature = "sqlite")]
pub(crate) mod sqlite;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod stale;
mod usage_sums;

use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use jiff::Timestamp;

use crate::ledger::{
    AccountChange, FirstSeenClaim, ImportDraft, KeyChange, NewSigningKey, Posted, Posting, Rules,
    Take, Taken,
};
use crate::model::{
    Account, AccountId, ChangeError, Entry, EntryId, Event, Holder, Imported, Key, KeyId, Lineage,
    OpenHold, Origin, Reconciled, Refusal, StoredSigningKey, Subject, TokenHash,
};

#[cfg(feature = "postgres")]
pub use error::PostingError;
pub use error::StoreError;
pub use memory::MemoryStore;
#[cfg(feature = "postgres")]
pub use postgres::{Adoption, KeyColumn, PostgresOptions, PostgresStore, SwitchedOff};
pub use prune::{Prunable, PruneCutoffs, PrunePosition, PruneStep, PruneTable, PrunedStep};
pub use query::{
    AccountQuery, Cursor, EntryQuery, EventQuery, KeyQuery, KeysOf, UnknownUsageBy, Usage, UsageBy,
    UsageQuery,
};
#[cfg(feature = "sqlite")]
pub use sqlite::{SqliteOptions, SqliteStore};

/// A boxed future, as the methods of a [`Store`] return it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The result of a store call.
pub type StoreResult<T> = Result<T, StoreError>;

/// The result of a policy change.
pub type ChangeResult<T> = StoreResult<Result<T, ChangeError>>;

/// What an import of one key came to.
pub type ImportResult = Result<Imported, ChangeError>;

/// What look-ups found, and what was taken from rate limits with them, if it was.
pub type FoundAndTaken = (Vec<Option<Found>>, Option<Vec<Taken>>);

/// A store of keys and money.
///
/// Other crates must not implement it: until 1.0 its methods change with every version.
///
/// # What a store promises
///
/// - **Current.** [`find`](Self::find) sees every change that was acknowledged before the call, by any process.
/// - **Serialized.** [`post`](Self::post), [`change_key`](Self::change_key), [`change_account`](Self::change_account) and
///   [`sweep`](Self::sweep) decide by the state of an account at their commit. They may lock the rows of all their
///   accounts, in the order of the account ids, before they read anything they decide by. Or they write on condition
///   that the version of the account, which every change moves, is still the one that they read.
/// - **Timed.** They read the instant from the store's clock after they have the lock, or before a conditional write.
///   It is never before the last change of the account.
/// - **Atomic and durable.** The postings of a batch to one account are one transaction. When a method returns `Ok`,
///   everything it accepted survives a crash of the process and of the machine. When it returns an error, the postings
///   to an account took effect as a whole or not at all. Their ids make it safe to send the same postings again.
/// - **Decided once.** Outcomes and figures are those of [`Book::post`](crate::ledger::Book::post),
///   [`KeyChange::decide`], [`ImportDraft::decide`] and [`AccountWrite::decide`](crate::ledger::AccountWrite::decide),
///   never the store's own.
///
/// Many tasks call the methods at once. A future that is dropped has no effect or its whole effect.
#[doc(hidden)]
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// Returns the lineages of the keys with these token hashes, in the same order; `None` if no key has the hash. A
    /// hash that was rotated away is found until its grace ends.
    fn find<'a>(
        &'a self,
        hashes: &'a [TokenHash],
    ) -> BoxFuture<'a, StoreResult<Vec<Option<Found>>>>;

    /// Returns the lineage of one hash if the store can answer at once from its cache, on the thread of a request. With
    /// `max_staleness`, the answer may follow a policy that was in force less than that ago. Its figures of money may
    /// be older. A change through this store is in force at once in either case. The answer is always an active key,
    /// never a refusal. `None` means that [`find`](Self::find) has to be called. A store that does not implement this
    /// always returns `None`.
    fn try_find_cached(
        &self,
        _hash: &TokenHash,
        _max_staleness: Option<Duration>,
    ) -> Option<Found> {
        None
    }

    /// Returns the lineage of one hash as it was cached, whether it is still valid or not. A store that does not answer
    /// [`find_and_take`](Self::find_and_take) together always returns `None`.
    fn peek(&self, _hash: &TokenHash) -> Option<Found> {
        None
    }

    /// Looks up as [`find`](Self::find) does, and takes from rate limits in the same round trip. `None` in place of what was
    /// taken means that nothing was, and [`take`](Self::take) has to be called.
    fn find_and_take<'a>(
        &'a self,
        hashes: &'a [TokenHash],
        _takes: &'a [Take],
    ) -> BoxFuture<'a, StoreResult<FoundAndTaken>> {
        Box::pin(async move { Ok((self.find(hashes).await?, None)) })
    }

    /// Takes requests from rate limits that all processes share, in this order, and answers in the same order. What is taken
    /// need not survive a crash of the machine.
    fn take<'a>(&'a self, _takes: &'a [Take]) -> BoxFuture<'a, StoreResult<Vec<Taken>>> {
        let error = StoreError::failed("this store keeps no rate limits for several processes");
        Box::pin(std::future::ready(Err(error)))
    }

    /// Polls the policy version for [`try_find_cached`](Self::try_find_cached). It is called several times in each
    /// `max_staleness` of [`Builder::cache`](crate::Builder::cache), and never without that option.
    fn poll_policy_version(&self) -> BoxFuture<'_, StoreResult<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Posts to the ledger, the postings of one account in this order, and answers in the same order. A refused posting
    /// does not hinder the others. A posting that is answered with [`Refusal::Unavailable`] is to be sent again:
    /// another transaction has its account locked, or the store failed half-way.
    fn post<'a>(
        &'a self,
        postings: &'a [Posting],
    ) -> BoxFuture<'a, StoreResult<Vec<Result<Posted, Refusal>>>>;

    /// Changes a key, and returns the key after the change. For [`KeyChange::EnsureSubject`] that is the key which the
    /// subject has, if it has one; of many that ensure a subject at once, one makes its key.
    fn change_key<'a>(
        &'a self,
        change: &'a KeyChange,
        rules: &'a Rules,
    ) -> BoxFuture<'a, ChangeResult<Key>>;

    /// Imports keys, in one transaction, and answers in the same order. A hash that a key has, or had before a rotation,
    /// changes nothing. An import that is refused does not hinder the others. What a key has spent is in its account and
    /// ancestors with the key itself.
    fn import_keys<'a>(
        &'a self,
        imports: &'a [ImportDraft],
        rules: &'a Rules,
    ) -> BoxFuture<'a, StoreResult<Vec<ImportResult>>>;

    /// Creates or changes an account, and returns the account after the change.
    fn change_account<'a>(
        &'a self,
        account: &'a AccountId,
        change: AccountChange,
        origin: &'a Origin,
    ) -> BoxFuture<'a, ChangeResult<Account>>;

    /// Returns the lineage of a key, as [`lineages`](Self::lineages) does.
    fn lineage(&self, key: KeyId) -> BoxFuture<'_, StoreResult<Option<Lineage>>> {
        Box::pin(async move { Ok(self.lineages(&[key]).await?.pop().flatten()) })
    }

    /// Returns the lineages of keys, each at the place of its key, as a change would see them now:
    /// expired holds are not counted.
    fn lineages<'a>(
        &'a self,
        keys: &'a [KeyId],
    ) -> BoxFuture<'a, StoreResult<Vec<Option<Lineage>>>>;

    /// Returns an account, as a change would see it now.
    fn account<'a>(&'a self, account: &'a AccountId)
    -> BoxFuture<'a, StoreResult<Option<Account>>>;

    /// Returns accounts that have a row, in the order of their ids' bytes, each as [`account`](Self::account) does.
    fn accounts<'a>(&'a self, query: &'a AccountQuery) -> BoxFuture<'a, StoreResult<Vec<Account>>>;

    /// Returns the holds that are live, or have expired and were not ended yet, the oldest first.
    fn open_holds(&self, limit: u32) -> BoxFuture<'_, StoreResult<Vec<OpenHold>>>;

    /// Returns keys, in the order of their ids.
    fn keys<'a>(&'a self, query: &'a KeyQuery) -> BoxFuture<'a, StoreResult<Vec<Key>>>;

    /// Returns entries, oldest first, each with its position in the ledger.
    fn entries<'a>(
        &'a self,
        query: &'a EntryQuery,
    ) -> BoxFuture<'a, StoreResult<Vec<(Cursor, Entry)>>>;

    /// Returns events, in the order in which they were written, each with its position. The events of an account are
    /// written in the order of their positions, so that none appears before a page that was read.
    fn events<'a>(
        &'a self,
        query: &'a EventQuery,
    ) -> BoxFuture<'a, StoreResult<Vec<(Cursor, Event)>>>;

    /// Writes events of refusals. Those with the key, the instant, the reason and the route of an event that is there are
    /// added to its count.
    fn record_refusals<'a>(&'a self, refusals: &'a [Event]) -> BoxFuture<'a, StoreResult<()>>;

    /// Returns one entry.
    fn entry(&self, id: EntryId) -> BoxFuture<'_, StoreResult<Option<Entry>>>;

    /// Returns the sums of entries by group, in the order of the groups.
    fn usage<'a>(&'a self, query: &'a UsageQuery) -> BoxFuture<'a, StoreResult<Vec<Usage>>>;

    /// Ends expired holds of all accounts, some at a time. Returns how many it ended.
    fn sweep(&self) -> BoxFuture<'_, StoreResult<usize>>;

    /// Records when keys were last used. It is called for many keys at once, not at each use. A time before the
    /// recorded one changes nothing.
    fn record_last_used<'a>(
        &'a self,
        used: &'a [(KeyId, Timestamp)],
    ) -> BoxFuture<'a, StoreResult<()>>;

    /// Returns when keys were last used, as far as it was recorded, in the same order.
    fn last_used<'a>(
        &'a self,
        keys: &'a [KeyId],
    ) -> BoxFuture<'a, StoreResult<Vec<Option<Timestamp>>>>;

    /// Returns whether another program has made tokens of the store's keys, as in an adopted table.
    fn has_foreign_tokens(&self) -> bool {
        false
    }

    /// Returns the present time of the store's clock, as far as this process knows it without asking. It may be late, and
    /// is never early.
    fn now(&self) -> Timestamp;

    /// Returns the keys that sign sessions, oldest first, after it has added one if that is
    /// [decided](NewSigningKey::decide).
    fn signing_keys<'a>(
        &'a self,
        new: Option<&'a NewSigningKey>,
    ) -> BoxFuture<'a, StoreResult<Vec<StoredSigningKey>>>;

    /// Makes the row that the application's own software has for a subject found by it. Returns whether there is one.
    /// Only a store that has adopted a table has such rows.
    fn bind_subject<'a>(&'a self, _subject: &'a Subject) -> BoxFuture<'a, StoreResult<bool>> {
        Box::pin(std::future::ready(Ok(false)))
    }

    /// Takes or renews a claim, and returns whether its owner has it now. A claim whose lease has ended is free.
    fn claim_first_seen(&self, claim: FirstSeenClaim) -> BoxFuture<'_, StoreResult<bool>>;

    /// Ends a claim, if its owner has it.
    fn release_first_seen(&self, claim: FirstSeenClaim) -> BoxFuture<'_, StoreResult<()>>;

    /// Deletes rows that retention no longer keeps, some of one table in one transaction. Entries are rolled up by
    /// [`roll_up`](crate::ledger::roll_up) in the same transaction, and their sums stay in [`usage`](Self::usage) and in
    /// every window that is counted again.
    fn prune<'a>(&'a self, step: &'a PruneStep) -> BoxFuture<'a, StoreResult<PrunedStep>>;

    /// Counts the rows that are older than retention keeps them.
    fn prunable(&self, cutoffs: PruneCutoffs) -> BoxFuture<'_, StoreResult<Prunable>>;

    /// Returns how many look-ups and how many batches of postings the store can process at once.
    fn width(&self) -> Width {
        Width::default()
    }

    /// Closes files and connections. No method is called after it.
    fn close(&self) -> BoxFuture<'_, ()>;

    /// Compares the balance of a holder with the sums of its entries and its live holds, all of one snapshot. `None` if
    /// there is no such holder, or its key is out of service. It changes nothing.
    fn reconcile<'a>(
        &'a self,
        holder: &'a Holder,
    ) -> BoxFuture<'a, StoreResult<Option<Reconciled>>>;

    /// Compares as [`reconcile`](Self::reconcile) does, and sets what differs by
    /// [`Book::mend`](crate::ledger::Book::mend), in one transaction under the lock. Returns what it has set.
    fn mend<'a>(
        &'a self,
        holder: &'a Holder,
        origin: &'a Origin,
    ) -> BoxFuture<'a, StoreResult<Option<Reconciled>>>;

    /// Fails if the store takes no postings now. It changes nothing.
    fn check_writable(&self) -> BoxFuture<'_, StoreResult<()>>;
}

/// How much a store can process at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Width {
    pub lookups: usize,
    pub postings: usize,
}

impl Default for Width {
    fn default() -> Self {
        Self { lookups: 1, postings: 1 }
    }
}

/// The result of a look-up by token.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Found {
    /// The key with its ancestors and its account.
    pub lineage: Lineage,
    /// The end of the grace, if the token was rotated away.
    pub retires_at: Option<Timestamp>,
}

impl Found {
    /// Returns what a look-up by token found.
    pub const fn new(lineage: Lineage, retires_at: Option<Timestamp>) -> Self {
        Self { lineage, retires_at }
    }
}

/// Awaits a store call. Turns a panic in it into an error, so that no task of a batch ends with it.
pub(crate) async fn unwinding<'a, T>(
    call: impl FnOnce() -> BoxFuture<'a, StoreResult<T>>,
) -> StoreResult<T> {
    let panicked = |_| StoreError::failed("the store panicked");
    let mut future = catch_unwind(AssertUnwindSafe(call)).map_err(panicked)?;
    poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)));
        polled.unwrap_or_else(|panic| Poll::Ready(Err(panicked(panic))))
    })
    .await
}
