//! Compares the store with the reference model: the same calls, the same answers.

use std::sync::Arc;

use super::*;
use crate::ledger::{AccountChange, IdempotencyClaim, IdempotencyKey, OnExpiry};
use crate::model::{KeyPatch, Labels, ManualClock, PostingId};
use crate::store::MemoryStore;

/// A pseudo-random generator that is the same in every run.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % end as u64).unwrap()
    }

    pub(super) fn pick<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())].clone()
    }
}

/// What has been posted so far, so that later postings can refer to it or repeat it.
struct Past {
    dice: Dice,
    keys: Vec<Key>,
    holds: Vec<PostingId>,
    pays: Vec<PostingId>,
    claims: Vec<IdempotencyClaim>,
    sent: Vec<Posting>,
}

const NAMES: [&str; 4] = ["model", "a.b \"c\" $[0]'", "\\u0041 \\", "é"];

impl Past {
    fn note(&mut self) -> Note {
        let mut labels = Labels::new();
        for _ in 0..self.dice.below(3) {
            labels
                .insert(self.dice.pick(&NAMES), self.dice.pick(&["x", "Y\"'", "", "\\n %", "ü"]))
                .unwrap();
        }
        Note::new(labels, self.dice.pick(&[None, Some("order \0 \"7\"".to_owned())]))
    }

    fn some_holds(&mut self) -> Vec<PostingId> {
        (0..self.dice.below(3))
            .filter(|_| !self.holds.is_empty())
            .map(|_| self.dice.pick(&self.holds))
            .collect()
    }

    fn some_claim(&mut self) -> Option<IdempotencyClaim> {
        (self.dice.below(2) == 0 && !self.claims.is_empty()).then(|| self.dice.pick(&self.claims))
    }

    fn posting(&mut self) -> Posting {
        if self.dice.below(12) == 0 && !self.sent.is_empty() {
            return self.dice.pick(&self.sent);
        }
        let key = self.dice.pick(&self.keys);
        let amount = Amount::micros(self.dice.below(3_000_000) as i64);
        let ttl = Duration::from_secs(self.dice.pick(&[1, 60, 3_600, 90_000]));
        let action = match self.dice.below(10) {
            0 => {
                let fingerprint = [self.dice.below(2) as u8; 32];
                let claim =
                    IdempotencyKey::new(self.dice.pick(&["one", "two", "\"3\" \0 '"]), fingerprint);
                Action::Open { claim: Some(claim), ttl }
            }
            1..=3 => {
                let on_expiry = self.dice.pick(&[OnExpiry::Release, OnExpiry::Charge]);
                Action::Hold { amount, ttl, on_expiry, note: self.note(), claim: None }
            }
            4 => Action::Renew {
                holds: self.some_holds(),
                ttl,
                max_age: Duration::from_secs(7_200),
                claim: self.some_claim(),
            },
            5..=6 => {
                let void =
                    if self.pays.is_empty() { vec![] } else { vec![self.dice.pick(&self.pays)] };
                let void = if self.dice.below(4) == 0 { void } else { vec![] };
                Action::Settle {
                    holds: self.some_holds(),
                    void,
                    cost: amount,
                    note: self.note(),
                    claim: self.some_claim(),
                }
            }
            7..=8 => Action::Pay { amount, note: self.note(), claim: self.some_claim() },
            _ if self.pays.is_empty() => Action::Pay { amount, note: self.note(), claim: None },
            _ => Action::Refund {
                entry: self.dice.pick(&self.pays).into(),
                amount: Amount::micros(amount.as_micros() / 4),
            },
        };
        let wrong_account = self.dice.below(40) == 0
            && !matches!(&action, Action::Settle { void, .. } if !void.is_empty());
        let owner = if wrong_account { account("beta") } else { key.account };
        let posting = Posting::new(owner, key.id, action);
        match &posting.action {
            Action::Hold { .. } => self.holds.push(posting.id),
            Action::Pay { .. } | Action::Settle { .. } => self.pays.push(posting.id),
            Action::Open { claim: Some(claim), .. } => {
                self.claims.push(IdempotencyClaim::new(claim.key.clone(), posting.id))
            }
            _ => {}
        }
        self.sent.push(posting.clone());
        posting
    }

    fn budget(&mut self) -> Budget {
        self.dice.pick(&[
            Budget::unlimited(),
            Budget::lifetime(Amount::units(2_000)),
            Budget::daily(Amount::units(9)),
            Budget::weekly(Amount::units(20)).calendar(),
            Budget::monthly(Amount::units(40)),
            Budget::monthly(Amount::units(30)).calendar(),
            Budget::lifetime(Amount::cents(-1)),
        ])
    }

    fn change(&mut self, n: u32) -> KeyChange {
        let budget = self.budget();
        let key = self.dice.pick(&self.keys);
        match self.dice.below(7) {
            0 | 1 => KeyChange::Create {
                draft: draft(key.account.as_str(), Some(key.id), budget),
                token: token(n),
            },
            2 => KeyChange::Create {
                draft: draft(&format!("new {n}"), None, budget),
                token: token(n),
            },
            3 | 4 => KeyChange::Update {
                key: key.id,
                patch: KeyPatch::new().budget(budget).name(format!("key {n}")),
            },
            5 => KeyChange::Rotate {
                key: key.id,
                token: token(n),
                grace: Duration::from_secs(self.dice.pick(&[0, 3_600])),
            },
            _ if self.dice.below(3) == 0 && key.id.get() > 3 => {
                KeyChange::Revoke { key: key.id, reason: None }
            }
            _ => KeyChange::Revoke { key: KeyId::new(9_999), reason: None },
        }
    }
}

#[tokio::test]
async fn the_store_answers_as_the_model_does() {
    for seed in 0..4 {
        let directory = directory();
        let clock = ManualClock::at(at("2026-01-31T12:00:00.000001Z"));
        let model = MemoryStore::with_clock(&clock);
        let target =
            if seed % 2 == 0 { directory.path().join("keys.db") } else { ":memory:".into() };
        let store = SqliteStore::open(SqliteOptions::new(target).clock(&clock)).await.unwrap();
        let stores: [Arc<dyn Store>; 2] = [Arc::new(model), Arc::new(store)];
        compare(&stores, &clock, seed).await;
    }
}

/// Calls a method of both stores, and asserts that the answers are the same.
macro_rules! same {
    ($stores:ident.$ask:ident($($with:expr),*)) => {{
        let model = $stores[0].$ask($($with),*).await.unwrap();
        let answer = $stores[1].$ask($($with),*).await.unwrap();
        assert_eq!(answer, model, stringify!($ask));
        answer
    }};
}

async fn compare(stores: &[Arc<dyn Store>; 2], clock: &ManualClock, seed: u64) {
    let rules = Rules::default();
    let mut past = Past {
        dice: Dice(seed),
        keys: vec![],
        holds: vec![],
        pays: vec![],
        claims: vec![],
        sent: vec![],
    };
    for (n, (owner, parent, budget)) in [
        ("acme", None, Budget::monthly(Amount::units(50))),
        ("acme", Some(KeyId::new(1)), Budget::daily(Amount::units(5))),
        ("beta", None, Budget::unlimited()),
    ]
    .into_iter()
    .enumerate()
    {
        let change =
            KeyChange::Create { draft: draft(owner, parent, budget), token: token(n as u32) };
        past.keys.extend(same!(stores.change_key(&change, &rules)));
    }
    for round in 0..300_u32 {
        let postings: Vec<_> = (0..past.dice.below(6)).map(|_| past.posting()).collect();
        same!(stores.post(&postings));
        clock.advance(Duration::from_secs(past.dice.pick(&[0, 0, 1, 30, 900, 20_000, 200_000])));
        if past.dice.below(6) == 0 {
            let change = past.change(100 + round);
            let changed = same!(stores.change_key(&change, &rules));
            past.keys.extend(changed.ok().filter(|_| matches!(change, KeyChange::Create { .. })));
        }
        if past.dice.below(40) == 0 {
            let (key, budget) = (past.dice.pick(&past.keys), past.budget());
            let _ = same!(stores.change_account(&key.account, AccountChange::SetBudget(budget)));
        }
        let key = past.dice.pick(&past.keys);
        match past.dice.below(5) {
            0 => drop(same!(stores.lineage(key.id))),
            1 => drop(same!(stores.account(&key.account))),
            2 => {
                same!(stores.sweep());
            }
            3 => {
                let of =
                    past.dice.pick(&[KeysOf::Account(key.account.clone()), KeysOf::Parent(key.id)]);
                let query = KeyQuery {
                    of,
                    only_subjects: false,
                    after: past.dice.pick(&[None, Some(KeyId::new(2))]),
                    limit: 3,
                };
                same!(stores.keys(&query));
            }
            _ => {
                let hashes: Vec<_> = (0..4)
                    .map(|_| token(past.dice.pick(&[0, 1, 2, 100 + round, 90 + round])).hash)
                    .collect();
                same!(stores.find(&hashes));
            }
        }
    }
    same!(stores.sweep());
    let ids: Vec<_> = past.keys.iter().map(|key| key.id).collect();
    same!(stores.lineages(&ids));
    let since = at("2026-03-01T00:00:00.0000005Z");
    for owner in [account("acme"), account("beta"), account("nobody")] {
        same!(stores.account(&owner));
        let pages =
            [pages(&*stores[0], &owner, since).await, pages(&*stores[1], &owner, since).await];
        assert!(pages[0] == pages[1], "{owner}: other entries, or in another order");
        assert_eq!(pages[0].is_empty(), owner.as_str() == "nobody");
        if let Some(entry) = pages[0].first() {
            same!(stores.entry(entry.id));
        }
        let labels = NAMES.map(|name| UsageBy::Label(name.into()));
        for by in
            labels.into_iter().chain([UsageBy::Key, UsageBy::Hour, UsageBy::Day, UsageBy::Month])
        {
            let query = UsageQuery::for_account(owner.clone(), by);
            same!(stores.usage(&query));
            let query = query.key(KeyId::new(2)).since(since).until(at("2026-06-01T00:00:00Z"));
            same!(stores.usage(&query));
        }
    }
}

/// Returns all entries of an account, and a page of some. Their positions are left out: the order in which accounts are
/// swept is up to the store.
async fn pages(store: &dyn Store, owner: &AccountId, since: Timestamp) -> Vec<Entry> {
    let mut all =
        store.entries(&EntryQuery::for_account(owner.clone()).limit(1_000)).await.unwrap();
    assert!(all.is_sorted_by_key(|(position, _)| *position));
    if let Some((position, _)) = all.get(20) {
        let page = EntryQuery::for_account(owner.clone())
            .key(KeyId::new(2))
            .since(since)
            .after(*position)
            .limit(5);
        all.extend(store.entries(&page).await.unwrap());
    }
    all.into_iter().map(|(_, entry)| entry).collect()
}
