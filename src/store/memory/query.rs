//! What lists and sums of a store in memory have.

use jiff::Timestamp;

use super::Tables;
use crate::ledger::{EntryRow, Rollup};
use crate::model::{
    Account, AccountId, Clock, Entry, EntryKind, Event, Key, KeyId, Labels, OpenHold,
};
use crate::store::usage_sums::{UsageSums, bucket};
use crate::store::{
    AccountQuery, Cursor, EntryQuery, EventQuery, KeyQuery, KeysOf, Usage, UsageBy, UsageQuery,
};

impl Tables {
    pub(super) fn keys(&mut self, query: &KeyQuery, clock: &Clock) -> Vec<Key> {
        let wanted = |key: &&Key| match &query.of {
            KeysOf::All => true,
            KeysOf::Account(account) => key.account == *account,
            KeysOf::Parent(parent) => key.parent == Some(*parent),
            KeysOf::Subtree(root) => self.book.path(key.id).contains(root),
        };
        let after = |key: &&Key| query.after.is_none_or(|after| key.id > after);
        let is_kind = |key: &&Key| !query.only_subjects || key.subject.is_some();
        let mut ids: Vec<_> = self
            .book
            .keys()
            .filter(wanted)
            .filter(is_kind)
            .filter(after)
            .map(|key| key.id)
            .collect();
        ids.sort_unstable();
        ids.truncate(query.limit as usize);
        ids.into_iter()
            .filter_map(|id| Some(self.current_lineage(id, clock)?.key().clone()))
            .collect()
    }

    pub(super) fn current_account(&mut self, id: &AccountId, clock: &Clock) -> Option<Account> {
        let now = self.expire(id, clock.now());
        self.book.account(id).cloned().map(|account| account.rolled(now))
    }

    pub(super) fn accounts(&mut self, query: &AccountQuery, clock: &Clock) -> Vec<Account> {
        let after = |id: &AccountId| query.after.as_ref().is_none_or(|after| id > after);
        let mut ids: Vec<_> = self.book.accounts().filter(|id| after(id)).cloned().collect();
        ids.sort_unstable();
        ids.truncate(query.limit as usize);
        ids.iter().filter_map(|id| self.current_account(id, clock)).collect()
    }

    pub(super) fn open_holds(&self, limit: u32) -> Vec<OpenHold> {
        let mut holds: Vec<OpenHold> =
            self.book.live_holds().map(|hold| hold.clone().into()).collect();
        holds.sort_unstable_by_key(|hold| (hold.created_at, hold.id));
        holds.truncate(limit as usize);
        holds
    }

    pub(super) fn entries(&self, query: &EntryQuery) -> Vec<(Cursor, Entry)> {
        let all = self.order.iter().enumerate().filter_map(|(position, id)| {
            let position = i64::try_from(position).ok()?.checked_add(1)?;
            Some((Cursor(position), &self.book.entry(*id)?.entry))
        });
        all.filter(|(position, entry)| {
            entry.account == query.account
                && self.is_of(entry.key, query.key, query.with_descendants)
                && query.since.is_none_or(|since| entry.at >= since)
                && query.until.is_none_or(|until| entry.at < until)
                && query.after.is_none_or(|after| *position > after)
        })
        .take(query.limit as usize)
        .map(|(position, entry)| (position, self.with_delegator(entry)))
        .collect()
    }

    pub(super) fn events(&self, query: &EventQuery) -> Vec<(Cursor, Event)> {
        let all = self.trail.iter().map(|(position, event)| (Cursor(position), event));
        all.filter(|(position, event)| {
            event.account == query.account
                && self.is_of(event.key, query.key, query.with_descendants)
                && (query.kinds.is_empty() || query.kinds.contains(&event.kind))
                && query.since.is_none_or(|since| event.at >= since)
                && query.until.is_none_or(|until| event.at < until)
                && query.after.is_none_or(|after| *position > after)
        })
        .take(query.limit as usize)
        .map(|(position, event)| (position, event.clone()))
        .collect()
    }

    /// Returns whether what was done with `of` is to be read of this key.
    fn is_of(&self, of: Option<KeyId>, key: Option<KeyId>, with_descendants: bool) -> bool {
        key.is_none_or(|key| match with_descendants {
            true => self.book.path(of).contains(&key),
            false => of == Some(key),
        })
    }

    pub(super) fn with_delegator(&self, entry: &Entry) -> Entry {
        let key = entry.key.and_then(|key| self.book.key(key));
        Entry { delegated_by: key.and_then(|key| key.delegated_by.clone()), ..entry.clone() }
    }

    pub(super) fn usage(&self, query: &UsageQuery) -> Vec<Usage> {
        let mut groups = UsageSums::default();
        for EntryRow { entry, refunded } in self.book.entries() {
            let counts = entry.account == query.account
                && self.is_of(entry.key, query.key, query.with_descendants)
                && query.since.is_none_or(|since| entry.counts_at >= since)
                && query.until.is_none_or(|until| entry.counts_at < until);
            if !counts {
                continue;
            }
            let group = group(query, entry.key, entry.counts_at, &entry.note.labels);
            let is_kept = !refunded.is_positive() || *refunded < entry.amount;
            let is_charge = entry.kind != EntryKind::Refund && is_kept;
            let micros = i128::from(entry.amount.as_micros());
            match entry.kind {
                EntryKind::Adjust => groups.add(group, 0, 0, micros),
                _ => groups.add(group, micros, u64::from(is_charge), 0),
            }
        }
        let rollups = self.rollups.values().filter(|rollup| {
            rollup.account == query.account
                && self.is_of(rollup.key, query.key, query.with_descendants)
                && query.since.is_none_or(|since| rollup.counts_at >= since)
                && query.until.is_none_or(|until| rollup.counts_at < until)
        });
        for Rollup { key, counts_at, labels, amount, charges, adjusted, .. } in rollups {
            let group = group(query, *key, *counts_at, labels);
            groups.add(group, *amount, charges.unsigned_abs(), *adjusted);
        }
        groups.into_usage()
    }
}

/// Returns the group, and the group within it, of what a key was charged at an instant with these labels.
fn group(
    query: &UsageQuery,
    key: Option<KeyId>,
    counts_at: Timestamp,
    labels: &Labels,
) -> (String, Option<String>) {
    let group = |by: &UsageBy| match (by, by.unit()) {
        (_, Some(unit)) => bucket(counts_at, unit),
        (UsageBy::Label(name), _) => labels.get(name).unwrap_or("").to_owned(),
        _ => key.map_or_else(String::new, |key| key.to_string()),
    };
    (group(&query.by), query.then_by.as_ref().map(group))
}
