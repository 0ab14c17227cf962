//! The cached data, bounded in bytes.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use jiff::Timestamp;

use super::pending::CacheDelta;
use super::size::{OVERHEAD, size_of_hold, texts_of_key};
use super::validator::{Validated, Validator};
use crate::ledger::{BalanceRow, HoldRow, HoldState, MAX_DEPTH};
use crate::model::{AccountId, Key, KeyId, Lineage, PostingId, TokenHash};
use crate::store::Found;
use crate::store::account_row::AccountRow;

/// The maximum of cached bytes, by an estimate.
const MAX_SIZE: usize = if cfg!(test) { 256 * 1024 } else { 64 * 1024 * 1024 };

pub(super) struct Entries<V: Validator> {
    accounts: HashMap<AccountId, CachedAccount<V>>,
    /// Each with the generation of its account, and when it was validated.
    tokens: ByToken<(CachedToken<V>, u64, Validated)>,
    size: usize,
}

pub(super) struct CachedAccount<V: Validator> {
    pub(super) row: AccountRow,
    pub(super) holds: HashMap<PostingId, HoldRow>,
    keys: HashMap<KeyId, CachedKey<V>>,
    tokens: Vec<TokenHash>,
    generation: u64,
    validated: Validated,
    /// The bytes of its keys and holds, with their texts.
    bytes: usize,
}

pub(super) struct CachedKey<V: Validator> {
    pub(super) key: Key,
    pub(super) version: V::RowVersion,
    validated: Validated,
}

/// The key that a token belongs to, while the key's row has this version.
#[derive(Debug)]
pub(in crate::store) struct CachedToken<V: Validator> {
    pub(in crate::store) account: AccountId,
    pub(in crate::store) key: KeyId,
    pub(in crate::store) version: V::RowVersion,
    /// The end of the grace, if the token was rotated away.
    pub(in crate::store) retires_at: Option<Timestamp>,
}

/// What was read from a store in one snapshot: whole lineages with their accounts.
pub(in crate::store) struct Snapshot<V: Validator> {
    pub(super) accounts: HashMap<AccountId, AccountRow>,
    keys: HashMap<KeyId, (Key, V::RowVersion)>,
    pub(super) tokens: Vec<(TokenHash, CachedToken<V>)>,
}

impl<V: Validator> Snapshot<V> {
    pub(in crate::store) fn add_account(&mut self, row: AccountRow) {
        self.accounts.insert(row.account.id.clone(), row);
    }

    pub(in crate::store) fn add_key(&mut self, key: Key, version: V::RowVersion) {
        self.keys.insert(key.id, (key, version));
    }

    pub(in crate::store) fn add_token(
        &mut self,
        hash: TokenHash,
        key: &Key,
        version: V::RowVersion,
        retires_at: Option<Timestamp>,
    ) {
        self.tokens.push((
            hash,
            CachedToken { account: key.account.clone(), key: key.id, version, retires_at },
        ));
    }
}

impl<V: Validator> Entries<V> {
    /// Returns the key of a token if it was read in this generation.
    pub(super) fn token(&self, hash: &TokenHash, generation: u64) -> Option<&CachedToken<V>> {
        self.tokens.get(hash).filter(|(_, since, _)| *since == generation).map(|(token, ..)| token)
    }

    /// Returns the account if it belongs to this generation.
    pub(super) fn account(&self, id: &AccountId, generation: u64) -> Option<&CachedAccount<V>> {
        self.accounts.get(id).filter(|cached| cached.generation == generation)
    }

    /// Returns the lineage of a token if all of it is cached, `is_valid` accepts when it was validated, and none of
    /// its holds may have expired.
    pub(super) fn find(
        &self,
        hash: &TokenHash,
        now: Timestamp,
        is_valid: impl Fn(Validated) -> bool,
    ) -> Option<Found> {
        let (token, ..) = self.tokens.get(hash).filter(|(.., validated)| is_valid(*validated))?;
        let cached =
            self.accounts.get(&token.account).filter(|cached| is_valid(cached.validated))?;
        let mut keys = Vec::new();
        for cached in cached.lineage(token.key) {
            if !is_valid(cached.validated) {
                return None;
            }
            keys.push(cached.key.clone());
        }
        if keys.last()?.parent.is_some() || cached.keys.get(&token.key)?.version != token.version {
            return None;
        }
        let (mut keys, now) = (keys.into_iter(), now.max(cached.row.changed_at));
        // The time of an account does not go back when the clock does.
        if token.retires_at.is_some_and(|end| end <= now) {
            return None;
        }
        let lineage = Lineage::new(keys.next()?, keys.collect(), cached.row.account.clone(), now);
        if cached.row.may_count_expired(&lineage) {
            return None;
        }
        Some(Found::new(lineage, token.retires_at))
    }

    /// Records that the cached data of a token was validated.
    pub(super) fn set_validated(&mut self, hash: &TokenHash, validated: Validated) {
        let Some((token, _, token_validated)) = self.tokens.get_mut(hash) else { return };
        token_validated.renew(validated);
        let Some(cached) = self.accounts.get_mut(&token.account) else { return };
        cached.validated.renew(validated);
        let mut next = Some(token.key);
        for _ in 0..=MAX_DEPTH {
            let Some(cached) = next.and_then(|id| cached.keys.get_mut(&id)) else { break };
            cached.validated.renew(validated);
            next = cached.key.parent;
        }
    }

    pub(super) fn insert(&mut self, snapshot: Snapshot<V>, generation: u64, validated: Validated) {
        let Snapshot { accounts, keys, tokens } = snapshot;
        for (id, row) in &accounts {
            match self.accounts.get_mut(id).filter(|cached| cached.generation == generation) {
                Some(cached) if cached.row.version > row.version => {}
                Some(cached) if cached.row.version == row.version => {
                    cached.validated.renew(validated)
                }
                _ => {
                    let mut cached = CachedAccount::new(row.clone(), generation, validated);
                    // Its tokens keep their older generation: they are as valid as when they were read.
                    if let Some(old) = self.accounts.remove(id) {
                        self.size -= old.size();
                        cached.tokens = old.tokens;
                    }
                    self.size += cached.size();
                    self.accounts.insert(id.clone(), cached);
                }
            }
        }
        let is_read = |cached: &CachedAccount<V>| {
            accounts
                .get(&cached.row.account.id)
                .is_some_and(|row| row.version == cached.row.version)
        };
        for (id, (key, version)) in keys {
            let account = key.account.clone();
            self.change(&account, |cached| {
                if !is_read(cached) {
                    return;
                }
                match cached.keys.get_mut(&id) {
                    Some(cached) if cached.version == version => cached.validated.renew(validated),
                    _ => cached.insert_key(CachedKey { key, version, validated }),
                }
            });
        }
        for (hash, token) in tokens {
            let account = token.account.clone();
            let is_new =
                self.tokens.get(&hash).is_none_or(|(cached, ..)| cached.account != account);
            let is_cached = self.change(&account, |cached| {
                let is_cached = is_read(cached) && cached.keys.contains_key(&token.key);
                cached.tokens.extend((is_cached && is_new).then_some(hash));
                is_cached
            });
            if is_cached == Some(true) {
                self.tokens.insert(hash, (token, generation, validated));
            }
        }
    }

    /// Applies a write to the cached data of its account.
    pub(super) fn apply(&mut self, delta: CacheDelta) {
        let CacheDelta { after, balances, holds, .. } = delta;
        let id = after.account.id.clone();
        self.change(&id, |cached| {
            cached.row = after;
            for BalanceRow { key, balance, .. } in balances {
                match cached.keys.get_mut(&key).filter(|cached| balance.counts(&cached.key.budget))
                {
                    Some(cached) => cached.key.balance = balance,
                    None => cached.remove_key(key),
                }
            }
            for hold in holds {
                match hold.state {
                    HoldState::Live => cached.insert_hold(hold),
                    HoldState::Ended | HoldState::Charged => cached.remove_hold(hold.id),
                }
            }
        });
    }

    pub(super) fn remove(&mut self, id: &AccountId) {
        drop(self.take(id));
    }

    fn take(&mut self, id: &AccountId) -> Option<CachedAccount<V>> {
        let cached = self.accounts.remove(id)?;
        self.size -= cached.size();
        cached.tokens.iter().for_each(|hash| drop(self.tokens.remove(hash)));
        Some(cached)
    }

    /// Drops accounts in arbitrary order until half of the room is free, if the cache is full. Returns them.
    pub(super) fn make_room(&mut self) -> Vec<CachedAccount<V>> {
        if self.size <= MAX_SIZE {
            return Vec::new();
        }
        let mut left = self.size;
        let accounts = self.accounts.iter().take_while(|(_, cached)| {
            let is_enough = left <= MAX_SIZE / 2;
            left -= cached.size();
            !is_enough
        });
        let accounts: Vec<_> = accounts.map(|(id, _)| id.clone()).collect();
        accounts.iter().filter_map(|id| self.take(id)).collect()
    }

    fn change<T>(
        &mut self,
        id: &AccountId,
        change: impl FnOnce(&mut CachedAccount<V>) -> T,
    ) -> Option<T> {
        let cached = self.accounts.get_mut(id)?;
        let before = cached.size();
        let value = change(cached);
        self.size = self.size - before + cached.size();
        Some(value)
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.size
    }

    #[cfg(test)]
    pub(super) fn counted(&self) -> usize {
        assert_eq!(
            self.tokens.len(),
            self.accounts.values().map(|cached| cached.tokens.len()).sum::<usize>()
        );
        self.accounts.values().map(CachedAccount::size).sum()
    }
}

impl<V: Validator> CachedAccount<V> {
    fn new(row: AccountRow, generation: u64, validated: Validated) -> Self {
        Self {
            row,
            holds: HashMap::new(),
            keys: HashMap::new(),
            tokens: Vec::new(),
            generation,
            validated,
            bytes: 0,
        }
    }

    fn insert_key(&mut self, cached: CachedKey<V>) {
        self.bytes += cached.size();
        let before = self.keys.insert(cached.key.id, cached);
        self.bytes -= before.map_or(0, |before| before.size());
    }

    fn remove_key(&mut self, key: KeyId) {
        self.bytes -= self.keys.remove(&key).map_or(0, |cached| cached.size());
    }

    fn insert_hold(&mut self, hold: HoldRow) {
        self.bytes += size_of_hold(&hold);
        let before = self.holds.insert(hold.id, hold);
        self.bytes -= before.as_ref().map_or(0, size_of_hold);
    }

    fn remove_hold(&mut self, hold: PostingId) {
        self.bytes -= self.holds.remove(&hold).as_ref().map_or(0, size_of_hold);
    }

    /// Returns a key and its ancestors, as far as they are cached.
    pub(super) fn lineage(&self, key: KeyId) -> impl Iterator<Item = &CachedKey<V>> {
        let up = |child: &&CachedKey<V>| self.keys.get(&child.key.parent?);
        std::iter::successors(self.keys.get(&key), up).take(MAX_DEPTH + 1)
    }

    /// Adds a key and its ancestors up to the root. Returns `None` if one is not cached.
    pub(super) fn ancestors<'a>(
        &'a self,
        key: KeyId,
        keys: &mut HashMap<KeyId, &'a CachedKey<V>>,
    ) -> Option<()> {
        let mut next = Some(key);
        while let Some(id) = next.filter(|id| !keys.contains_key(id)) {
            let cached = self.keys.get(&id)?;
            next = cached.key.parent;
            keys.insert(id, cached);
        }
        Some(())
    }

    fn size(&self) -> usize {
        let token =
            size_of::<TokenHash>() + size_of::<(TokenHash, CachedToken<V>, u64, Validated)>();
        OVERHEAD + size_of::<(AccountId, Self)>() + self.bytes + self.tokens.len() * token
    }
}

impl<V: Validator> CachedKey<V> {
    fn size(&self) -> usize {
        OVERHEAD + size_of::<(KeyId, Self)>() + texts_of_key(&self.key)
    }
}

impl<V: Validator> Default for Entries<V> {
    fn default() -> Self {
        Self { accounts: HashMap::new(), tokens: ByToken::default(), size: 0 }
    }
}

impl<V: Validator> Default for Snapshot<V> {
    fn default() -> Self {
        Self { accounts: HashMap::new(), keys: HashMap::new(), tokens: Vec::new() }
    }
}

/// A map by token hashes. The hashes are evenly distributed, and no client can choose which of them are cached.
type ByToken<V> = HashMap<TokenHash, V, BuildHasherDefault<TokenHasher>>;

/// Uses the token's hash as the hash of the map.
#[derive(Debug, Default)]
struct TokenHasher(u64);

impl Hasher for TokenHasher {
    fn write_u64(&mut self, part: u64) {
        self.0 = part;
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
