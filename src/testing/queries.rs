//! Lists of keys and entries, and usage.

use super::world::*;
use crate::ledger::{Action, Posting};
use crate::model::{
    Account, AccountId, Amount, Budget, Clock, EntryId, Key, KeyId, NewKey, PostingId,
};
use crate::store::{AccountQuery, EntryQuery, KeyQuery, KeysOf, Store, Usage, UsageBy, UsageQuery};

async fn key_ids<S: Store>(
    w: &World<S>,
    of: KeysOf,
    after: Option<KeyId>,
    limit: u32,
) -> Vec<KeyId> {
    let keys = w.store.keys(&KeyQuery { of, only_subjects: false, after, limit }).await.unwrap();
    keys.iter().map(|key| key.id).collect()
}

/// Keys are listed in the order of their ids, page by page, of an account or of a parent, with
/// their balances.
pub async fn keys_come_in_pages<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let root = w.create(acme().budget(Budget::daily(c(10)))).await;
    let (mut children, mut all, mut every) = (Vec::new(), vec![root.id], vec![root.id]);
    for n in 0..12 {
        let child = w.create(NewKey::child_of(root.id)).await;
        let grandchild = w.create(NewKey::child_of(child.id)).await;
        let theirs = w.create(NewKey::new(account("other"))).await;
        assert!(child.id < grandchild.id && grandchild.id < theirs.id, "ids grow");
        children.push(child.id);
        all.extend([child.id, grandchild.id]);
        every.extend([child.id, grandchild.id, theirs.id]);
        if n == 5 {
            w.revoke(&child).await;
        }
    }
    for (of, wanted) in [
        (KeysOf::Account(account("acme")), all),
        (KeysOf::Parent(root.id), children),
        (KeysOf::All, every),
    ] {
        assert_eq!(key_ids(&w, of.clone(), None, 1_001).await, wanted);
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = key_ids(&w, of.clone(), after, 5).await;
            assert!(page.len() <= 5);
            after = page.last().copied();
            if page.is_empty() {
                break;
            }
            seen.extend(page);
        }
        assert_eq!(seen, wanted);
    }
    assert!(key_ids(&w, KeysOf::Account(account("unknown")), None, 10).await.is_empty());
    assert!(key_ids(&w, KeysOf::Parent(KeyId::new(987_654)), None, 10).await.is_empty());

    w.paid(&root, 7).await;
    let first = |w: &World<S>| {
        let store = w.store.clone();
        async move {
            let query = KeyQuery::for_account(account("acme")).limit(1);
            store.keys(&query).await.unwrap().pop().expect("the root")
        }
    };
    let listed: Key = first(&w).await;
    assert_eq!((listed.id, &listed.scopes, listed.budget), (root.id, &root.scopes, root.budget));
    assert_eq!(listed.balance.spent(), c(7));
    w.clock.advance(secs(DAY));
    assert_eq!(first(&w).await.balance.spent(), NOTHING, "the day is over");
}

/// Accounts are listed by the bytes of their ids, page by page, each as it is now.
pub async fn accounts_come_in_pages<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let page = async |after: Option<&str>, limit| {
        let query = AccountQuery { after: after.map(account), limit };
        w.store.accounts(&query).await.unwrap()
    };
    assert!(page(None, 10).await.is_empty());
    for name in ["b", "a", "\u{e4}", "Z", "a b"] {
        w.ensure(&account(name), Budget::daily(c(10))).await;
    }
    let ids = async |after, limit| {
        let page = page(after, limit).await;
        page.into_iter().map(|account| account.id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(ids(None, 1_001).await, ["Z", "a", "a b", "b", "\u{e4}"]);
    assert_eq!(ids(None, 2).await, ["Z", "a"]);
    assert_eq!(ids(Some("a"), 2).await, ["a b", "b"]);
    assert_eq!(ids(Some("aa"), 9).await, ["b", "\u{e4}"]);
    assert_eq!(ids(Some("\u{e4}"), 9).await, [""; 0]);

    let key = w.create(NewKey::new(account("b"))).await;
    w.paid(&key, 7).await;
    w.accept(&hold(&key, c(2), MINUTE)).await;
    let listed = async || page(Some("a b"), 1).await.pop().expect("b");
    assert_eq!(Some(listed().await), w.store.account(&account("b")).await.unwrap());
    assert_eq!((listed().await.balance.spent(), listed().await.balance.held), (c(7), c(2)));
    w.clock.advance(secs(MINUTE));
    assert_eq!(listed().await.balance.held, NOTHING, "the hold is over");
    w.clock.advance(secs(DAY));
    assert_eq!(listed().await.balance.spent(), NOTHING, "the day is over");
}

/// Open holds are listed oldest first, of all accounts. One that was settled or ended is gone.
pub async fn open_holds_come_oldest_first<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let (mine, theirs) = (w.create(acme()).await, w.create(NewKey::new(account("other"))).await);
    let holds =
        [hold(&mine, c(3), MINUTE), hold(&theirs, c(2), 2 * MINUTE), hold(&mine, c(1), 3 * MINUTE)];
    let started = w.clock.now();
    for hold in &holds {
        w.accept(hold).await;
        w.clock.advance(secs(1));
    }
    let open = async |limit| w.store.open_holds(limit).await.unwrap();
    let ids = async |limit| open(limit).await.iter().map(|hold| hold.id).collect::<Vec<_>>();
    assert_eq!(ids(1_000).await, holds.each_ref().map(|hold| hold.id));
    assert_eq!(ids(2).await, [holds[0].id, holds[1].id]);
    let first = open(1).await.pop().expect("the oldest");
    assert_eq!((first.account, first.key, first.amount), (mine.account.clone(), mine.id, c(3)));
    assert_eq!((first.created_at, first.expires_at), (started, started + secs(MINUTE)));

    w.accept(&settle(&mine, &[&holds[2]], NOTHING)).await;
    assert_eq!(ids(9).await, [holds[0].id, holds[1].id]);
    w.clock.advance(secs(MINUTE));
    assert_eq!(ids(9).await.len(), 2, "what is over stays until it is ended");
    w.store.sweep().await.unwrap();
    assert_eq!(ids(9).await, [holds[1].id]);
}

/// Entries are listed oldest first, page by page. Entries that are written meanwhile come last.
pub async fn entries_come_in_pages<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let (key, theirs) = (w.create(acme()).await, w.create(NewKey::new(account("other"))).await);
    let mut wanted = Vec::new();
    for n in 1..=12 {
        wanted.push(w.paid(&key, n).await);
        w.paid(&theirs, n).await;
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let query = EntryQuery::for_account(account("acme")).limit(5);
        let query = if let Some(after) = after { query.after(after) } else { query };
        let page = w.store.entries(&query).await.unwrap();
        let Some((last, _)) = page.last() else { break };
        assert!(page.len() <= 5 && page.iter().all(|(place, _)| Some(*place) > after));
        after = Some(*last);
        if seen.is_empty() {
            wanted.push(w.paid(&key, 100).await);
        }
        seen.extend(page.into_iter().map(|(_, entry)| entry.id));
    }
    assert_eq!(seen, wanted);
    assert!(w.entries(EntryQuery::for_account(account("unknown"))).await.is_empty());
}

/// Entries can be narrowed to one key, and to the time they were written: from `since` on, before
/// `until`.
pub async fn entries_are_narrowed_by_key_and_time<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let root = w.create(acme()).await;
    let child = w.create(NewKey::child_of(root.id)).await;
    let start = w.clock.now();
    let mut paid = Vec::new();
    for _ in 0..3 {
        paid.push(w.paid(&root, 1).await);
        paid.push(w.paid(&child, 2).await);
        w.clock.advance(secs(MINUTE));
    }
    let back = refund(&root, paid[0], c(1));
    w.accept(&back).await; // written now, though it counts at the start
    let back = EntryId::from(back.id);
    let all = || EntryQuery::for_account(account("acme"));
    let minute = |n| start + secs(n * MINUTE);
    for (query, wanted) in [
        (all().key(child.id), vec![paid[1], paid[3], paid[5]]),
        (all().key(root.id), vec![paid[0], paid[2], paid[4], back]),
        (all().since(minute(1)), vec![paid[2], paid[3], paid[4], paid[5], back]),
        (all().until(minute(1)), vec![paid[0], paid[1]]),
        (all().since(minute(1)).until(minute(2)), vec![paid[2], paid[3]]),
        (all().since(minute(2)).key(child.id), vec![paid[5]]),
        (all().since(minute(3)), vec![back]),
        (all().since(minute(4)), vec![]),
        (all().key(child.id).limit(2), vec![paid[1], paid[3]]),
    ] {
        let seen: Vec<_> = w.entries(query.clone()).await.iter().map(|entry| entry.id).collect();
        assert_eq!(seen, wanted, "{query:?}");
    }
}

/// One entry is found by its id, and equals the one in the list.
pub async fn one_entry_is_found<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.create(acme()).await;
    let payment = w.paid(&key, 3).await;
    w.accept(&refund(&key, payment, c(1))).await;
    for listed in w.entries(EntryQuery::for_account(account("acme"))).await {
        assert_eq!(w.store.entry(listed.id).await.unwrap(), Some(listed));
    }
    assert_eq!(w.store.entry(PostingId::new().into()).await.unwrap(), None);
}

/// The times of last use are returned in the order of the keys, and never go back.
pub async fn last_used_never_goes_back<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let [one, two, three] = [KeyId::new(1), KeyId::new(2), KeyId::new(3)];
    let [early, late] = [at("2026-01-31T12:00:00Z"), at("2026-01-31T12:00:00.000001Z")];
    w.store.record_last_used(&[]).await.unwrap();
    w.store.record_last_used(&[(one, early), (two, late)]).await.unwrap();
    w.store.record_last_used(&[(one, late), (two, early)]).await.unwrap();
    let last_used = w.store.last_used(&[three, two, one, two]).await.unwrap();
    assert_eq!(last_used, [None, Some(late), Some(late), Some(late)]);
}

fn sums(usage: &[Usage]) -> Vec<(&str, Amount, u64)> {
    usage.iter().map(|usage| (usage.group.as_str(), usage.amount, usage.charges)).collect()
}

/// Usage by key is in the order of the groups as text. Refunds lower the amount and are not counted
/// as charges.
pub async fn usage_by_key<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let mut wanted = Vec::new();
    for n in 1..=12 {
        let key = w.create(acme()).await;
        let entry = w.paid(&key, n).await;
        w.paid(&key, 10).await;
        w.accept(&refund(&key, entry, c(1))).await;
        // The charge of one cent was refunded whole.
        wanted.push((key.id.to_string(), c(n + 9), if n == 1 { 1 } else { 2 }));
    }
    wanted.sort();
    let usage =
        w.store.usage(&UsageQuery::for_account(account("acme"), UsageBy::Key)).await.unwrap();
    let wanted: Vec<_> =
        wanted.iter().map(|(group, amount, charges)| (group.as_str(), *amount, *charges)).collect();
    assert_eq!(sums(&usage), wanted);
    assert!(
        w.store
            .usage(&UsageQuery::for_account(account("unknown"), UsageBy::Key))
            .await
            .unwrap()
            .is_empty()
    );
}

fn labelled(key: &Key, name: &str, value: &str, cents: i32) -> Posting {
    posting(key, Action::Pay { amount: c(cents), note: note(name, value, "r"), claim: None })
}

/// Usage by the value of a label works for any characters in its name. Entries without the label
/// are in the group "".
pub async fn usage_by_label_of_any_name<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    for (n, name) in [
        "model",
        "a.b",
        "a",
        "\"",
        "'",
        "a\"b.c",
        "\\",
        "$",
        "[0]",
        "größe \u{1F916}",
        " ",
        "*",
        "%",
        "0",
    ]
    .into_iter()
    .enumerate()
    {
        let key = w.create(NewKey::new(account(&format!("account {n}")))).await;
        for (value, cents) in [("x", 1), ("é\"'.\\", 2), ("x", 4), ("", 8), ("1", 32), ("null", 64)]
        {
            w.accept(&labelled(&key, name, value, cents)).await;
        }
        w.accept(&labelled(&key, "another", "y", 16)).await;
        let by = UsageBy::Label(name.to_owned());
        let usage = w.store.usage(&UsageQuery::for_account(key.account.clone(), by)).await.unwrap();
        let wanted = [
            ("", c(24), 2),
            ("1", c(32), 1),
            ("null", c(64), 1),
            ("x", c(5), 2),
            ("é\"'.\\", c(2), 1),
        ];
        assert_eq!(sums(&usage), wanted, "label {name:?}");
    }
    // A name that looks like a JSON path is not read as one.
    let key = w.create(acme()).await;
    w.accept(&labelled(&key, "a", "{\"b\":\"x\"}", 1)).await;
    let by = UsageBy::Label("a.b".to_owned());
    let usage = w.store.usage(&UsageQuery::for_account(account("acme"), by)).await.unwrap();
    assert_eq!(sums(&usage), [("", c(1), 1)]);
}

/// Usage by hour, day and month is in UTC, narrowed by key and time.
pub async fn usage_by_time<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let (key, other) = (w.create(acme()).await, w.create(acme()).await);
    for (instant, cents) in [
        ("2026-01-31T14:00:00Z", 1),
        ("2026-01-31T14:59:59.999999Z", 2),
        ("2026-01-31T15:00:00Z", 4),
        ("2026-01-31T23:59:59.999999Z", 8),
        ("2026-02-01T00:00:00Z", 16),
        ("2027-01-01T00:00:00.5Z", 32),
    ] {
        w.clock.set(at(instant));
        w.paid(&key, cents).await;
        w.paid(&other, 100).await;
    }
    let mine = |by| UsageQuery::for_account(account("acme"), by).key(key.id);
    for (query, wanted) in [
        (
            mine(UsageBy::Hour),
            &[
                ("2026-01-31T14:00:00Z", c(3), 2),
                ("2026-01-31T15:00:00Z", c(4), 1),
                ("2026-01-31T23:00:00Z", c(8), 1),
                ("2026-02-01T00:00:00Z", c(16), 1),
                ("2027-01-01T00:00:00Z", c(32), 1),
            ][..],
        ),
        (
            mine(UsageBy::Day),
            &[
                ("2026-01-31T00:00:00Z", c(15), 4),
                ("2026-02-01T00:00:00Z", c(16), 1),
                ("2027-01-01T00:00:00Z", c(32), 1),
            ],
        ),
        (
            mine(UsageBy::Month),
            &[
                ("2026-01-01T00:00:00Z", c(15), 4),
                ("2026-02-01T00:00:00Z", c(16), 1),
                ("2027-01-01T00:00:00Z", c(32), 1),
            ],
        ),
        (
            mine(UsageBy::Day).since(at("2026-01-31T15:00:00Z")).until(at("2026-02-01T00:00:00Z")),
            &[("2026-01-31T00:00:00Z", c(12), 2)],
        ),
        (
            UsageQuery::for_account(account("acme"), UsageBy::Month)
                .since(at("2026-12-31T00:00:00Z")),
            &[("2027-01-01T00:00:00Z", c(132), 2)],
        ),
        (mine(UsageBy::Hour).since(at("2028-01-01T00:00:00Z")), &[]),
    ] {
        assert_eq!(sums(&w.store.usage(&query).await.unwrap()), wanted, "{query:?}");
    }
}

/// A refund is summed where its charge was, so that usage agrees with the budgets' `spent`.
pub async fn usage_counts_a_refund_where_its_charge_was<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.create(acme().budget(Budget::daily(c(100)).calendar())).await;
    let entry = w.paid(&key, 10).await;
    w.clock.advance(secs(DAY));
    w.paid(&key, 5).await;
    w.accept(&refund(&key, entry, c(4))).await;
    let usage =
        w.store.usage(&UsageQuery::for_account(account("acme"), UsageBy::Day)).await.unwrap();
    assert_eq!(
        sums(&usage),
        [("2026-01-31T00:00:00Z", c(6), 1), ("2026-02-01T00:00:00Z", c(5), 1)]
    );
    let today =
        UsageQuery::for_account(account("acme"), UsageBy::Key).since(at("2026-02-01T00:00:00Z"));
    let usage = w.store.usage(&today).await.unwrap();
    assert_eq!(usage[0].amount, w.balance(&key).await.0);
}

/// A charge that was refunded whole, at once or in parts, is none of the charges.
pub async fn usage_leaves_out_what_was_refunded_whole<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.create(acme()).await;
    let [whole, in_parts, in_part] =
        [w.paid(&key, 5).await, w.paid(&key, 7).await, w.paid(&key, 9).await];
    w.paid(&key, 0).await;
    w.clock.advance(secs(DAY));
    w.paid(&key, 1).await;
    for (entry, cents) in [(whole, 5), (in_parts, 3), (in_parts, 4), (in_part, 8)] {
        w.accept(&refund(&key, entry, c(cents))).await;
    }
    let days = [("2026-01-31T00:00:00Z", c(1), 2), ("2026-02-01T00:00:00Z", c(1), 1)];
    let of_key = key.id.to_string();
    for (by, wanted) in [
        (UsageBy::Day, &days[..]),
        (UsageBy::Month, &[("2026-01-01T00:00:00Z", c(1), 2), ("2026-02-01T00:00:00Z", c(1), 1)]),
        (UsageBy::Key, &[(of_key.as_str(), c(2), 3)]),
        (UsageBy::Label("x".into()), &[("", c(2), 3)]),
    ] {
        let query = UsageQuery::for_account(account("acme"), by);
        for query in [query.clone(), query.key(key.id)] {
            assert_eq!(sums(&w.store.usage(&query).await.unwrap()), wanted, "{query:?}");
        }
    }
}

/// Usage by two groups has a sum for each pair that has entries, in the order of both.
pub async fn usage_by_two_groups<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let (one, two) = (w.create(acme()).await, w.create(acme()).await);
    for (day, key, model, cents) in [
        (0, &one, "a", 1),
        (0, &two, "b", 2),
        (0, &two, "a", 4),
        (1, &two, "b", 8),
        (0, &two, "b", 16),
    ] {
        w.clock.advance(secs(day * DAY));
        w.accept(&labelled(key, "model", model, cents)).await;
    }
    let top_up = Action::Adjust { amount: c(-32), note: crate::model::Note::default() };
    w.accept(&posting(&one, top_up)).await;
    let [one, two] = [&one, &two].map(|key| key.id.to_string());
    let (first, second) = ("2026-01-31T00:00:00Z", "2026-02-01T00:00:00Z");
    let (hour, next) = ("2026-01-31T12:00:00Z", "2026-02-01T12:00:00Z");
    let model = || UsageBy::Label("model".into());
    for (by, then_by, wanted) in [
        (
            UsageBy::Day,
            UsageBy::Key,
            vec![
                (first, &*one, 1, 1, 0),
                (first, &two, 6, 2, 0),
                (second, &one, 0, 0, -32),
                (second, &two, 24, 2, 0),
            ],
        ),
        (
            UsageBy::Key,
            UsageBy::Day,
            vec![
                (&one, first, 1, 1, 0),
                (&one, second, 0, 0, -32),
                (&two, first, 6, 2, 0),
                (&two, second, 24, 2, 0),
            ],
        ),
        (
            model(),
            UsageBy::Hour,
            vec![
                ("", next, 0, 0, -32),
                ("a", hour, 5, 2, 0),
                ("b", hour, 2, 1, 0),
                ("b", next, 24, 2, 0),
            ],
        ),
        (
            UsageBy::Month,
            model(),
            vec![
                ("2026-01-01T00:00:00Z", "a", 5, 2, 0),
                ("2026-01-01T00:00:00Z", "b", 2, 1, 0),
                ("2026-02-01T00:00:00Z", "", 0, 0, -32),
                ("2026-02-01T00:00:00Z", "b", 24, 2, 0),
            ],
        ),
        (
            model(),
            UsageBy::Label("none".into()),
            vec![("", "", 0, 0, -32), ("a", "", 5, 2, 0), ("b", "", 26, 3, 0)],
        ),
    ] {
        let query = UsageQuery::for_account(account("acme"), by).then_by(then_by);
        let usage = w.store.usage(&query).await.unwrap();
        let seen: Vec<_> = usage
            .iter()
            .map(|it| {
                (
                    &*it.group,
                    it.subgroup.as_deref().unwrap_or("none"),
                    it.amount,
                    it.charges,
                    it.adjusted,
                )
            })
            .collect();
        let wanted: Vec<_> = wanted
            .into_iter()
            .map(|(group, subgroup, amount, charges, adjusted)| {
                (group, subgroup, c(amount), charges, c(adjusted))
            })
            .collect();
        assert_eq!(seen, wanted, "{query:?}");
    }
    let single =
        w.store.usage(&UsageQuery::for_account(account("acme"), UsageBy::Day)).await.unwrap();
    assert!(single.iter().all(|usage| usage.subgroup.is_none()));
}

/// A sum saturates at the largest amount, in usage as in recounted balances.
pub async fn usage_saturates<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let daily = Budget::new(None, crate::model::Period::Day);
    let key = w.create(acme().budget(daily)).await;
    w.ceiling(&key.account, daily).await;
    let first = settle(&key, &[], Amount::MAX);
    w.accept(&first).await;
    w.clock.advance(secs(DAY));
    w.accept(&settle(&key, &[], Amount::MAX)).await;
    for by in [UsageBy::Key, UsageBy::Label("x".to_owned())] {
        let usage =
            w.store.usage(&UsageQuery::for_account(account("acme"), by.clone())).await.unwrap();
        assert_eq!((usage[0].amount, usage[0].charges), (Amount::MAX, 2), "{by:?}");
    }
    let lifetime = Budget::unlimited();
    let updated = w
        .update(&key, crate::model::KeyPatch::new().budget(lifetime))
        .await
        .expect("another period");
    assert_eq!(updated.balance.spent(), Amount::MAX);
    let account: Account = w.ceiling(&key.account, lifetime).await;
    assert_eq!(account.balance.spent(), Amount::MAX);
    // The order of the entries does not matter: MAX + MAX - MAX is MAX.
    w.accept(&refund(&key, first.id.into(), Amount::MAX)).await;
    let usage =
        w.store.usage(&UsageQuery::for_account(key.account.clone(), UsageBy::Key)).await.unwrap();
    assert_eq!(usage[0].amount, Amount::MAX);
}

/// A query of one account never returns anything of another.
pub async fn accounts_do_not_see_each_other<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let names: [AccountId; 4] = ["a", "A", "a%", "_"].map(account);
    let mut keys = Vec::new();
    for (name, cents) in names.iter().zip([1, 2, 4, 8]) {
        let key = w.create(NewKey::new(name.clone())).await;
        w.paid(&key, cents).await;
        keys.push(key);
    }
    for (key, cents) in keys.iter().zip([1, 2, 4, 8]) {
        assert_eq!(w.account_balance(key).await, (c(cents), NOTHING));
        assert_eq!(w.ledger(&key.account).await, [("pay", c(cents))]);
        assert_eq!(key_ids(&w, KeysOf::Account(key.account.clone()), None, 10).await, [key.id]);
        let usage = w
            .store
            .usage(&UsageQuery::for_account(key.account.clone(), UsageBy::Key))
            .await
            .unwrap();
        assert_eq!(sums(&usage), [(key.id.to_string().as_str(), c(cents), 1)]);
        let theirs = EntryQuery::for_account(key.account.clone()).key(keys[0].id);
        assert_eq!(w.entries(theirs).await.is_empty(), key.id != keys[0].id);
    }
}
