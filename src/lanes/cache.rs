//! Look-ups answered from memory.
//!
//! An answer is kept with what was known just before the store was asked for it: the store's [`Mark`], the epoch of
//! the handle's own changes, and the instant. It is used while both are still the same, it is younger than was asked
//! for, and the time has not come at which it changes by itself: an expiry, the end of a grace or of a window. So an
//! answer is never adapted, only used as it is or thrown away; and since only keys in force are kept, the cache lets
//! in and never refuses.

use std::fmt;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::TokenHash;
use crate::store::{Found, Mark};
use crate::token::ByToken;

/// So many keys are kept at most.
const MOST: usize = 100_000;
const SHARDS: usize = 16;

/// The answers that were kept.
pub(crate) struct Cache {
    max_staleness: Duration,
    /// Goes up with every change that this handle made.
    epoch: AtomicU64,
    shards: [RwLock<Shard>; SHARDS],
}

/// What was known before the store was asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    mark: Mark,
    epoch: u64,
    at: Instant,
}

#[derive(Clone, Debug)]
struct Kept {
    found: Arc<Found>,
    asked: Asked,
    /// From when on it is not so any more, by the store's clock.
    until: Timestamp,
}

/// Two generations: when the younger is full, or all of the older too stale, the older is forgotten at once. So what
/// was read first goes first, and nobody has to look for it.
#[derive(Debug)]
struct Shard {
    young: ByToken<Kept>,
    old: ByToken<Kept>,
    young_since: Instant,
}

/// A change under way. When it ends, however it does, nothing that was read before is used any more.
#[derive(Debug)]
pub(crate) struct Changing<'a>(Option<&'a Cache>);

impl Cache {
    pub(super) fn new(max_staleness: Duration) -> Self {
        Self { max_staleness, epoch: AtomicU64::new(0), shards: std::array::from_fn(|_| RwLock::new(Shard::new())) }
    }

    /// What is known now, for a store that vouches for this mark.
    pub(super) fn asked(&self, mark: Mark) -> Asked {
        Asked { mark, epoch: self.epoch.load(Ordering::SeqCst), at: Instant::now() }
    }

    /// The answer of the store, where it would still be the same.
    pub(super) fn recall(&self, hash: &TokenHash, now: Asked) -> Option<Arc<Found>> {
        let shard = self.shard(hash)?.read().unwrap_or_else(PoisonError::into_inner);
        let kept = shard.young.get(hash).or_else(|| shard.old.get(hash))?;
        kept.holds(now, self.max_staleness).then(|| kept.found.clone())
    }

    /// Keeps the answer to a question, if it lets somebody in.
    pub(super) fn keep(&self, hash: TokenHash, found: &Arc<Found>, asked: Asked) {
        let Some(shard) = self.shard(&hash) else { return };
        if found.lineage.standing().is_err() {
            return;
        }
        let until = found.retires_at.into_iter().chain(found.lineage.holds_until()).min().unwrap_or(Timestamp::MAX);
        let kept = Kept { found: found.clone(), asked, until };
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        let forgotten = shard.turn(asked.at, self.max_staleness);
        shard.young.insert(hash, kept);
        drop(shard);
        // Thousands of them, while nobody waits.
        drop(forgotten);
    }

    /// Forgets an answer.
    pub(super) fn forget(&self, hash: &TokenHash) {
        let Some(shard) = self.shard(hash) else { return };
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        shard.young.remove(hash);
        shard.old.remove(hash);
    }

    fn shard(&self, hash: &TokenHash) -> Option<&RwLock<Shard>> {
        // Not the byte that chooses the lane, or each lane would have a part of the shards only.
        self.shards.get(usize::from(hash.as_bytes()[1]) % SHARDS)
    }
}

impl Kept {
    fn holds(&self, now: Asked, max_staleness: Duration) -> bool {
        let Self { asked, until, .. } = self;
        asked.mark.version == now.mark.version
            && asked.epoch == now.epoch
            && now.at.saturating_duration_since(asked.at) < max_staleness
            && now.mark.at < *until
    }
}

impl Shard {
    fn new() -> Self {
        Self { young: ByToken::default(), old: ByToken::default(), young_since: Instant::now() }
    }

    /// Makes room for one more; gives what is forgotten for it.
    fn turn(&mut self, now: Instant, max_staleness: Duration) -> ByToken<Kept> {
        if self.young.len() < MOST / SHARDS / 2 && now.saturating_duration_since(self.young_since) < max_staleness {
            return ByToken::default();
        }
        self.young_since = now;
        mem::replace(&mut self.old, mem::take(&mut self.young))
    }
}

impl<'a> Changing<'a> {
    pub(super) fn new(cache: Option<&'a Cache>) -> Self {
        Self(cache)
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        if let Some(cache) = self.0 {
            cache.epoch.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("max_staleness", &self.max_staleness).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Account, AccountId, Balance, Budget, Key, KeyId, Lineage};

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;
    const STALE: Duration = Duration::from_secs(10);

    fn hash(n: usize) -> TokenHash {
        TokenHash::of(&n.to_string())
    }

    fn found(change: impl FnOnce(&mut Key)) -> Arc<Found> {
        let account: AccountId = "acme".parse().unwrap();
        let mut key = Key::stored(KeyId::new(1), account.clone(), NOW, Balance::empty(NOW));
        change(&mut key);
        let account = Account::stored(account, Budget::unlimited(), NOW, Balance::empty(NOW));
        Arc::new(Found::new(Lineage::new(key, Vec::new(), account, NOW), None))
    }

    fn kept(cache: &Cache) -> usize {
        cache.shards.iter().map(|shard| shard.read().unwrap()).map(|shard| shard.young.len() + shard.old.len()).sum()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_is_bounded_and_the_first_goes_first() {
        let cache = Cache::new(STALE);
        let found = found(|_| ());
        for n in 0..2 * MOST {
            cache.keep(hash(n), &found, cache.asked(Mark::new(1, NOW)));
            // A key that is used all the time is no more than one key.
            cache.keep(hash(2 * MOST), &found, cache.asked(Mark::new(1, NOW)));
        }
        assert!((MOST / 2..=MOST).contains(&kept(&cache)), "{}", kept(&cache));
        let now = cache.asked(Mark::new(1, NOW));
        assert!(cache.recall(&hash(0), now).is_none());
        assert!(cache.recall(&hash(2 * MOST - 1), now).is_some());
        assert!(cache.recall(&hash(2 * MOST), now).is_some());

        // What nobody asks for again goes when time has passed.
        for _ in 0..2 {
            tokio::time::advance(STALE).await;
            for n in 0..1_000 {
                cache.keep(hash(n), &found, cache.asked(Mark::new(1, NOW)));
            }
        }
        assert_eq!(kept(&cache), 2_000, "each of the 1,000 in both generations");
    }

    #[test]
    fn keys_that_are_not_in_force_are_not_kept() {
        let cache = Cache::new(STALE);
        for refused in [found(|key| key.revoked_at = Some(NOW)), found(|key| key.expires_at = Some(NOW))] {
            cache.keep(hash(1), &refused, cache.asked(Mark::new(1, NOW)));
        }
        assert_eq!(kept(&cache), 0);
    }

    #[test]
    fn a_question_asked_during_a_change_is_not_answered_from_before_it() {
        let cache = Cache::new(STALE);
        let changing = Changing::new(Some(&cache));
        let asked = cache.asked(Mark::new(1, NOW));
        drop(changing);
        cache.keep(hash(1), &found(|_| ()), asked);
        assert!(cache.recall(&hash(1), cache.asked(Mark::new(1, NOW))).is_none());
    }
}
