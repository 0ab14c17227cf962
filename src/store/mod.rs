//! Stores: where keys, balances, holds and entries are kept.
//!
//! A store locks, loads and writes back; what is decided is decided by the [`ledger`](crate::ledger). To write one:
//! implement [`Store`], then let the suite of the `testing` feature run against it.

#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod account_row;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
// Each of the two stores uses a part of it that the other does not.
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
mod query;
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

use crate::ledger::{KeyChange, Posted, Posting, Rules};
use crate::model::{Account, AccountId, Budget, ChangeError, Entry, EntryId, Key, KeyId, Lineage, Refusal, TokenHash};

#[cfg(feature = "postgres")]
pub use error::PostingError;
pub use error::StoreError;
pub use memory::MemoryStore;
#[cfg(feature = "postgres")]
pub use postgres::{Adoption, KeyColumn, PostgresOptions, PostgresStore};
pub use query::{Cursor, EntryQuery, KeyQuery, KeysOf, Usage, UsageBy, UsageQuery};
#[cfg(feature = "sqlite")]
pub use sqlite::{SqliteOptions, SqliteStore};

/// A boxed future, as the methods of a [`Store`] return it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The answer of a store.
pub type StoreResult<T> = Result<T, StoreError>;

/// The answer of a store to a change of policy.
pub type ChangeResult<T> = StoreResult<Result<T, ChangeError>>;

/// Where keys and money are kept.
///
/// Not for other crates to implement: until 1.0 its methods change with every version.
///
/// # What a store promises
///
/// - **Current.** [`find`](Self::find) sees every change that was acknowledged before it was called, by any process.
/// - **One after the other.** [`post`](Self::post), [`change_key`](Self::change_key),
///   [`set_account`](Self::set_account) and [`sweep`](Self::sweep) decide by what an account is when they commit. Either they take the rows of all their accounts as locks, in the order of the
///   account ids, before they read anything they decide by; or they write only on condition that the version of the
///   account, which every change moves, is still the one that they read.
/// - **Timed.** Their instant is read from the store's clock after the lock is held, or before such a write, and is
///   never before that of the account's last change.
/// - **Atomic and durable.** What a batch posts to one account is one transaction. When a method returns `Ok`,
///   everything it accepted will survive the death of the process and of the machine. When it returns an error, what is
///   posted to an account took effect whole or not at all: ids make it safe to send the same postings again.
/// - **Decided once.** Outcomes and figures are those of [`Book::post`](crate::ledger::Book::post),
///   [`KeyChange::decide`] and [`AccountWrite::decide`](crate::ledger::AccountWrite::decide), never the store's own.
///
/// Methods are called from many tasks at once. A future that is dropped leaves either no effect or all of it.
#[doc(hidden)]
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// The lineages of the keys with these token hashes, in the same order; `None` where no key has the hash. A
    /// hash that was rotated away is found until its grace has run out.
    fn find<'a>(&'a self, hashes: &'a [TokenHash]) -> BoxFuture<'a, StoreResult<Vec<Option<Found>>>>;

    /// The same for one of them, where the store can answer at once, on the thread of a request, from what it has cached.
    /// Where `max_staleness` is given, that may be policy that was in force less than that ago, with figures of money that
    /// may be older; a change made through this store is in force at once all the same. The answer only lets in, and never
    /// refuses. `None`: the store has to be asked. So is one that does not implement this.
    fn try_find_cached(&self, _hash: &TokenHash, _max_staleness: Option<Duration>) -> Option<Found> {
        None
    }

    /// Asks which policy is in force, so that [`try_find_cached`](Self::try_find_cached) can go by it. Called several times
    /// in each `max_staleness` of [`Builder::cache`](crate::Builder::cache), and never where that was not asked for.
    fn poll_policy_version(&self) -> BoxFuture<'_, StoreResult<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Puts postings to the ledger, those of one account in this order; answers in the same order. A refused posting
    /// does not hinder the others; one that is answered with [`Refusal::Unavailable`], because somebody else keeps its
    /// account or the store failed half-way, is to be sent again.
    fn post<'a>(&'a self, postings: &'a [Posting]) -> BoxFuture<'a, StoreResult<Vec<Result<Posted, Refusal>>>>;

    /// Makes a change of a key, and returns the key as it is after it.
    fn change_key<'a>(&'a self, change: &'a KeyChange, rules: &'a Rules) -> BoxFuture<'a, ChangeResult<Key>>;

    /// Sets an account's ceiling, makes the account if there is none, and returns it as it is after it.
    fn set_account<'a>(&'a self, account: &'a AccountId, budget: Budget) -> BoxFuture<'a, ChangeResult<Account>>;

    /// The lineage of a key, as a change would see it now: holds that have run out are not counted.
    fn lineage(&self, key: KeyId) -> BoxFuture<'_, StoreResult<Option<Lineage>>>;

    /// An account, as a change would see it now.
    fn account<'a>(&'a self, account: &'a AccountId) -> BoxFuture<'a, StoreResult<Option<Account>>>;

    /// Keys, in the order of their ids.
    fn keys<'a>(&'a self, query: &'a KeyQuery) -> BoxFuture<'a, StoreResult<Vec<Key>>>;

    /// Entries, oldest first, each with its place in the ledger.
    fn entries<'a>(&'a self, query: &'a EntryQuery) -> BoxFuture<'a, StoreResult<Vec<(Cursor, Entry)>>>;

    /// One entry.
    fn entry(&self, id: EntryId) -> BoxFuture<'_, StoreResult<Option<Entry>>>;

    /// Sums of entries by group, in the order of the groups.
    fn usage<'a>(&'a self, query: &'a UsageQuery) -> BoxFuture<'a, StoreResult<Vec<Usage>>>;

    /// Ends holds that have run out, of all accounts, some at a time; tells how many there were.
    fn sweep(&self) -> BoxFuture<'_, StoreResult<usize>>;

    /// Takes note of when keys were last used. Told now and then, for many keys at once, never at each use; a time
    /// before the one that is known changes nothing.
    fn record_last_used<'a>(&'a self, uses: &'a [(KeyId, Timestamp)]) -> BoxFuture<'a, StoreResult<()>>;

    /// When keys were last used, as far as it was noted, in the same order.
    fn last_used<'a>(&'a self, keys: &'a [KeyId]) -> BoxFuture<'a, StoreResult<Vec<Option<Timestamp>>>>;

    /// How many look-ups and how many batches of postings the store can work on at once.
    fn width(&self) -> Width {
        Width::default()
    }

    /// Lets go of files and connections. Nothing is called after it.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// How much a store can do at once.
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

/// What a look-up by token found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Found {
    /// The key and all that decides about it.
    pub lineage: Lineage,
    /// Set where the token was rotated away: until when it still works.
    pub retires_at: Option<Timestamp>,
}

impl Found {
    /// A key found by its token.
    pub const fn new(lineage: Lineage, retires_at: Option<Timestamp>) -> Self {
        Self { lineage, retires_at }
    }
}

/// Awaits what a store does, and takes a panic in it for a failure, so that no lane dies of it.
pub(crate) async fn unwinding<'a, T>(call: impl FnOnce() -> BoxFuture<'a, StoreResult<T>>) -> StoreResult<T> {
    let panicked = |_| StoreError::failed("the store panicked");
    let mut future = catch_unwind(AssertUnwindSafe(call)).map_err(panicked)?;
    poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)));
        polled.unwrap_or_else(|panic| Poll::Ready(Err(panicked(panic))))
    })
    .await
}
