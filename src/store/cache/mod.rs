//! One cache of accounts for all databases: their rows, keys and live holds, and whose a token is.
//!
//! What is cached is valid if the store's [`Validator`] says so. The cache is entered at two places:
//!
//! - A **look-up** takes a [`Revalidation`], asks the store, and reads what is valid ([`AccountCache::lookup`]). What was
//!   not cached it reads from the store, in one snapshot, and inserts on condition that the cache belongs to that
//!   snapshot ([`AccountCache::insert`]).
//! - A **batch** is decided by what is cached ([`AccountCache::fill_book`]). Its write is announced before it is sent
//!   ([`AccountCache::begin_write`]), because others may see a commit before its answer is here: whoever does, applies it.
//!   The end of the [`PendingWrite`] applies it too, or removes its accounts. A change of policy removes its accounts at
//!   its begin and at its end, and between the two nothing is inserted that was asked for before.
//!
//! An epoch is a history that everything cached belongs to. Where the store is in another one, a new generation begins:
//! what is of an older generation is valid no more. It stays only for look-ups of bounded staleness
//! ([`AccountCache::try_find_cached`]), which go by the policy version and not by the store.

mod account_cache;
mod entries;
mod pending;
#[cfg(test)]
mod tests;
mod validator;
mod write;

pub(super) use self::account_cache::{AccountCache, ExpectedVersion, Revalidation};
pub(super) use self::entries::Snapshot;
pub(super) use self::pending::{CacheDelta, Write};
pub(super) use self::validator::Validator;
pub(super) use self::write::PendingWrite;
