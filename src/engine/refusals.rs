//! Refused requests, counted in memory and written by the sweep, so that no request waits for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde_json::json;

use crate::ledger::actor_of;
use crate::model::clock::from_micros;
use crate::model::{AccountId, Event, EventKind, KeyId, Lineage, Origin, Refusal};
use crate::store::{Store, unwinding};

/// The most events in one write.
const BATCH: usize = 500;

const SHARDS: usize = 16;

/// The most events that a shard keeps: together 4,096, each of up to 2 KB.
const MAX_EVENTS: usize = 256;

/// The most events of a key with a route of their own. Refusals on more routes are counted without a
/// route, so that a client cannot fill the trail with paths.
const MAX_ROUTES: usize = 32;

const MINUTE: i64 = 60_000_000;

/// The refusals that are not written yet, folded by key, minute, reason and route.
///
/// They are in 16 shards, so that requests seldom wait for each other. A shard that is full has the same
/// share for each account, so no account's flood keeps out the refusals of another. A refusal for which
/// there is no room is counted, and the count is logged.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    shards: [Mutex<Shard>; SHARDS],
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Shard {
    by_key: HashMap<KeyId, Vec<Event>>,
    /// How many events each account has.
    of_account: HashMap<AccountId, usize>,
    events: usize,
}

impl Refusals {
    /// Counts a refusal of a key, if it is of those that the audit trail has.
    pub(crate) fn record(
        &self,
        refusal: &Refusal,
        lineage: &Lineage,
        now: Timestamp,
        origin: impl FnOnce() -> Origin,
    ) {
        let code = refusal.code();
        let is_of_trail = matches!(
            code,
            "revoked_key"
                | "expired_key"
                | "disabled_key"
                | "insufficient_scope"
                | "budget_exceeded"
                | "rate_limited"
                | "address_not_allowed"
        );
        if is_of_trail {
            self.add(event(code, lineage, now, origin()));
        }
    }

    fn add(&self, event: Event) {
        let Some(key) = event.key else { return };
        let shard = usize::try_from(key.get().rem_euclid(SHARDS as i64)).ok();
        let Some(shard) = shard.and_then(|shard| self.shards.get(shard)) else { return };
        let lost = lock(shard).add(key, event);
        self.lost.fetch_add(lost, Ordering::Relaxed);
    }

    /// Writes what was counted. What the store does not accept now is kept for the next write. What it
    /// rejects for good is lost, and keeps nothing else out.
    ///
    /// If an answer of the store is lost, the refusals of that write may be counted twice.
    pub(crate) async fn write(&self, store: &dyn Store) {
        let mut unwritten = self.take();
        let (mut size, mut rejected) = (BATCH, None);
        while let Some(batch) = unwritten.events.chunks(size).next() {
            let written = batch.len();
            match unwinding(|| store.record_refusals(batch)).await {
                Ok(()) => {}
                Err(error) if error.is_transient() => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "agentkey could not write events of refusals; the next sweep tries again"
                    );
                    break;
                }
                // One of them is rejected, so each is written by itself.
                Err(_) if written > 1 => {
                    size = 1;
                    continue;
                }
                Err(error) => rejected = Some(error),
            }
            unwritten.events.drain(..written);
        }
        if let Some(error) = rejected {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the store rejects events of refusals, which are lost"
            );
        }
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!(refusals = lost, "agentkey had no room for refusals in its events");
        }
    }

    fn take(&self) -> Unwritten<'_> {
        let taken = self.shards.iter().map(|shard| std::mem::take(&mut *lock(shard)));
        let mut events: Vec<_> =
            taken.flat_map(|shard| shard.by_key.into_values().flatten()).collect();
        events.sort_by_key(|event| (event.at, event.key));
        Unwritten { refusals: self, events }
    }
}

/// Events that are being written. Those that are left are counted again: the store has failed, or
/// shutdown has ended the task that wrote them.
struct Unwritten<'a> {
    refusals: &'a Refusals,
    events: Vec<Event>,
}

impl Drop for Unwritten<'_> {
    fn drop(&mut self) {
        self.events.drain(..).for_each(|event| self.refusals.add(event));
    }
}

impl Shard {
    /// Returns how many refusals are lost: this one, or those of the event that made room for it.
    fn add(&mut self, key: KeyId, mut event: Event) -> u64 {
        if let Some(events) = self.by_key.get_mut(&key) {
            if fold(events, &event) {
                return 0;
            }
            let is_full = events.len() >= MAX_ROUTES;
            if is_full && event.origin.route.take().is_some() && fold(events, &event) {
                return 0;
            }
        }
        let mut lost = 0;
        if self.events >= MAX_EVENTS {
            if !self.is_below_share(&event.account) {
                return event.count;
            }
            lost = self.make_room();
        }
        *self.of_account.entry(event.account.clone()).or_default() += 1;
        self.by_key.entry(key).or_default().push(event);
        self.events += 1;
        lost
    }

    /// Returns whether an account has less than an equal share of the places.
    fn is_below_share(&self, account: &AccountId) -> bool {
        let events = self.of_account.get(account).copied().unwrap_or(0);
        let accounts = self.of_account.len() + usize::from(events == 0);
        events < MAX_EVENTS / accounts.max(1)
    }

    /// Removes an event of the account that has the most, and returns its count.
    fn make_room(&mut self) -> u64 {
        let Some((account, left)) = self.of_account.iter_mut().max_by_key(|(_, events)| **events)
        else {
            return 0;
        };
        *left -= 1;
        let of_account = |events: &&mut Vec<Event>| {
            events.first().is_some_and(|event| event.account == *account)
        };
        let most = self.by_key.values_mut().filter(of_account).max_by_key(|events| events.len());
        let removed = most.and_then(Vec::pop);
        self.by_key.retain(|_, events| !events.is_empty());
        self.of_account.retain(|_, events| *events > 0);
        self.events -= 1;
        removed.map_or(0, |event| event.count)
    }
}

/// Adds to the count of an event that is there. Returns whether there was one.
fn fold(events: &mut [Event], event: &Event) -> bool {
    let same = events.iter_mut().find(|it| {
        it.at == event.at && it.origin.route == event.origin.route && it.reason() == event.reason()
    });
    same.map(|same| same.count = same.count.saturating_add(event.count)).is_some()
}

fn event(code: &str, lineage: &Lineage, now: Timestamp, mut origin: Origin) -> Event {
    let key = lineage.key();
    let minute = from_micros(now.as_microsecond().div_euclid(MINUTE).saturating_mul(MINUTE));
    let detail = json!({"reason": code});
    let mut event = Event::new(minute, key.account.clone(), EventKind::Refused, detail);
    event.key = Some(key.id);
    event.key_name = Some(key.name.clone());
    event.lineage = lineage.keys().map(|key| key.id).collect();
    event.delegated_by = lineage.delegated_by().map(str::to_owned);
    origin.actor = actor_of(key);
    // A request for a tunnel has no path. Stores fold such refusals with those without a route.
    origin.route = origin.route.filter(|route| !route.is_empty());
    event.origin = origin;
    event
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::model::{Account, Actor, Balance, Budget, Key};

    fn lineage(id: i64) -> Lineage {
        lineage_of("acme", id)
    }

    fn lineage_of(account: &str, id: i64) -> Lineage {
        let (at, account) = (Timestamp::UNIX_EPOCH, AccountId::new(account).unwrap());
        let balance = Balance::empty(&Budget::unlimited(), at, at);
        let key = Key::stored(KeyId::new(id), account.clone(), at, balance);
        Lineage::new(key, Vec::new(), Account::new(account, at), at)
    }

    fn kept(refusals: &Refusals) -> Vec<Event> {
        let shards = refusals.shards.iter();
        shards.flat_map(|shard| lock(shard).by_key.clone().into_values().flatten()).collect()
    }

    #[test]
    fn a_flood_leaves_a_handful_of_events() {
        let (refusals, key) = (Refusals::default(), lineage(7));
        for n in 0..100_000 {
            let refusal = if n % 2 == 0 { Refusal::RevokedKey } else { Refusal::DisabledKey };
            let route = if n % 4 < 2 { "/a" } else { "/b" };
            let now = from_micros(n % 60 * 1_000_000);
            refusals.record(&refusal, &key, now, || Origin::new().route(route));
            refusals.record(&Refusal::NotFound, &key, now, Origin::new);
        }
        let mut kept = kept(&refusals);
        kept.sort_by_key(|event| (event.origin.route.clone(), event.count));
        let counts: Vec<_> = kept.iter().map(|event| event.count).collect();
        assert_eq!(counts, [25_000; 4]);
        assert_eq!(kept[0].at, Timestamp::UNIX_EPOCH);
        assert_eq!(kept[0].origin.actor, Actor::Key { id: KeyId::new(7) });
    }

    #[test]
    fn what_is_not_written_is_kept() {
        let (refusals, key) = (Refusals::default(), lineage(7));
        let record = || refusals.record(&Refusal::RevokedKey, &key, key.at(), Origin::new);
        record();
        let writing = refusals.take();
        record();
        assert_eq!(kept(&refusals)[0].count, 1);
        drop(writing);
        assert_eq!(kept(&refusals)[0].count, 2);
    }

    #[test]
    fn memory_is_bounded_whatever_clients_send() {
        let refusals = Refusals::default();
        for n in 0..1_000 {
            let origin = || Origin::new().route(&format!("/{n}"));
            refusals.record(&Refusal::RevokedKey, &lineage(16), Timestamp::UNIX_EPOCH, origin);
        }
        let of_paths = kept(&refusals);
        assert_eq!(of_paths.len(), MAX_ROUTES + 1);
        assert_eq!(of_paths.iter().map(|event| event.count).sum::<u64>(), 1_000);

        for id in 1..1_000 {
            let refusal = Refusal::RevokedKey;
            refusals.record(&refusal, &lineage(id * 16), Timestamp::UNIX_EPOCH, Origin::new);
        }
        let of_keys = kept(&refusals);
        assert_eq!(of_keys.len(), MAX_EVENTS);
        let lost = refusals.lost.load(Ordering::Relaxed);
        assert_eq!(of_keys.iter().map(|event| event.count).sum::<u64>() + lost, 1_999);
        let keys: usize = refusals.shards.iter().map(|shard| lock(shard).by_key.len()).sum();
        assert!(keys <= MAX_EVENTS, "{keys} keys are kept of {MAX_EVENTS} events");
    }

    #[test]
    fn an_account_takes_no_more_than_its_share_from_the_others() {
        let refusals = Refusals::default();
        let sent = Cell::new(0);
        let refuse = |account: &str, id: i64, routes: i64| {
            for n in 0..routes {
                let (refusal, at) = (Refusal::RevokedKey, Timestamp::UNIX_EPOCH);
                let origin = || Origin::new().route(&format!("/{n}"));
                refusals.record(&refusal, &lineage_of(account, id), at, origin);
                sent.set(sent.get() + 1);
            }
        };
        let flood = |account, first| (first..first + 5_000).for_each(|id| refuse(account, id, 2));
        let of = |account: &str| {
            let kept = kept(&refusals);
            kept.iter().filter(|event| event.account.as_str() == account).count()
        };
        flood("noisy", 0);
        assert_eq!(of("noisy"), SHARDS * MAX_EVENTS, "nobody else needs the places");
        flood("calm", 10_000);
        assert_eq!([of("noisy"), of("calm")], [SHARDS * MAX_EVENTS / 2; 2]);
        flood("noisy", 20_000);
        refuse("quiet", 30_000, 3);
        flood("noisy", 40_000);
        assert_eq!((of("quiet"), of("noisy") + of("calm")), (3, SHARDS * MAX_EVENTS - 3));
        assert!(of("noisy").abs_diff(of("calm")) <= 3);
        // What made room is lost, and counted.
        let kept: u64 = kept(&refusals).iter().map(|event| event.count).sum();
        assert_eq!(kept + refusals.lost.load(Ordering::Relaxed), sent.get());
    }
}
