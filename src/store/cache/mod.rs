//! The account cache of all databases: the rows, keys and live holds of accounts, and the keys that tokens belong to.
//!
//! Cached data is valid if the store's [`Validator`] says so. The store enters the cache in two ways:
//!
//! - A **look-up** takes a [`Revalidation`], queries the store with it, and reads what is valid
//!   ([`AccountCache::lookup`]). It reads uncached keys from the store in one snapshot. [`AccountCache::insert`] caches
//!   them if the cache is in the epoch of that snapshot.
//! - A **batch** is decided by cached data ([`AccountCache::fill_book`]). The store announces its write before it sends
//!   it ([`AccountCache::begin_write`]), because a look-up may see the commit before the store has the answer. Such a
//!   look-up applies the write to the cache. The end of the [`PendingWrite`] applies it too, or removes its accounts.
//! - A **policy change** removes its accounts at its begin and at its end. Look-ups that began in between or earlier
//!   insert nothing.
//!
//! An epoch is the history that all cached data belongs to. When the store is in another epoch, a new generation
//! begins, and data of an older generation is no longer valid. Only look-ups of bounded staleness still use it
//! ([`AccountCache::try_find_cached`]): they depend on the policy version, not on the epoch.

mod account_cache;
mod entries;
mod pending;
mod size;
#[cfg(test)]
mod tests;
mod validator;
mod write;

pub(super) use self::account_cache::{AccountCache, ExpectedVersion, Revalidation};
pub(super) use self::entries::Snapshot;
pub(super) use self::pending::{CacheDelta, Write};
pub(super) use self::validator::Validator;
pub(super) use self::write::PendingWrite;
