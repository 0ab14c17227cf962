//! Balances that SQL has falsified are found, and mended on the word of the application.

use proptest::prelude::*;

use super::*;
use crate::ledger::OnExpiry;
use crate::model::{
    Actor, Difference, EntryKind, Event, EventKind, Figure, Holder, KeyPatch, Origin, Period,
    Reconciled,
};

/// Opens a store with a parent, key 1, and a child, key 2: it has spent 2 cents and holds 3, and 9 cents of the account
/// are an adjustment of its own.
async fn family(options: SqliteOptions) -> SqliteStore {
    let store = SqliteStore::open(options).await.unwrap();
    let limits = Budget::lifetime(Amount::cents(50)).and_daily(Amount::cents(40));
    let parent = create(&store, 0, draft("acme", None, limits)).await;
    let child = create(&store, 1, draft("acme", Some(parent.id), limits)).await;
    let note = Note::default();
    let hold = Action::Hold {
        amount: Amount::cents(3),
        ttl: Duration::from_secs(3_600),
        on_expiry: OnExpiry::Release,
        note: note.clone(),
        claim: None,
    };
    let (amount, origin) = (Amount::cents(9), Box::default());
    let adjust = Action::Adjust { amount, note, origin };
    let change = AccountChange::SetBudget(limits);
    store.change_account(&account("acme"), change, &Origin::new()).await.unwrap().unwrap();
    for posting in [
        pay(child.id, 2),
        Posting::new(account("acme"), child.id, hold),
        Posting::new(account("acme"), None, adjust),
    ] {
        store.post(&[posting]).await.unwrap().pop().unwrap().unwrap();
    }
    store
}

fn in_memory() -> SqliteOptions {
    SqliteOptions::new(":memory:")
}

fn pay(key: KeyId, cents: i32) -> Posting {
    let action = Action::Pay { amount: Amount::cents(cents), note: Note::default(), claim: None };
    Posting::new(account("acme"), key, action)
}

fn holders() -> [Holder; 3] {
    [account("acme").into(), KeyId::new(1).into(), KeyId::new(2).into()]
}

/// Runs SQL in a database in memory, beside all that the store knows of it.
async fn falsify(store: &SqliteStore, sql: impl Into<String>) {
    let sql = sql.into();
    let run =
        move |open: &mut Open, _: &Cache, _: &Clock| Ok(open.connection.execute_batch(&sql)?);
    store.write_with(run).await.unwrap();
}

async fn differences(store: &SqliteStore) -> Vec<(Holder, Difference)> {
    let mut all = Vec::new();
    for holder in holders() {
        let found = store.reconcile(&holder).await.unwrap().unwrap();
        all.extend(found.differences.into_iter().map(|difference| (holder.clone(), difference)));
    }
    all
}

async fn mend(store: &SqliteStore, holder: &Holder) -> Reconciled {
    let origin = Origin::by(Actor::principal("ops@acme")).request_id("8f2c");
    store.mend(holder, &origin).await.unwrap().unwrap()
}

async fn entries(store: &SqliteStore) -> Vec<Entry> {
    let page = store.entries(&EntryQuery::for_account(account("acme"))).await.unwrap();
    page.into_iter().map(|(_, entry)| entry).collect()
}

async fn mends(store: &SqliteStore) -> Vec<Event> {
    let query = EventQuery::for_account(account("acme")).kind(EventKind::BalanceReconciled);
    store.events(&query).await.unwrap().into_iter().map(|(_, event)| event).collect()
}

#[tokio::test]
async fn each_falsified_figure_is_found_and_mended() {
    let [of_account, of_parent, of_child] = holders();
    let (lifetime, day) = (Period::Lifetime, Period::Day);
    for (sql, holder, period, from, to) in [
        (
            "UPDATE agentkey_balances SET spent = 70000 WHERE key_id = 2",
            &of_child,
            Some(lifetime),
            7,
            2,
        ),
        (
            "UPDATE agentkey_balances SET spent = -70000 WHERE key_id = 1",
            &of_parent,
            Some(lifetime),
            -7,
            2,
        ),
        (
            "UPDATE agentkey_balances SET more_spent = json_set(more_spent, '$.day[0]', 0) WHERE key_id = 2",
            &of_child,
            Some(day),
            0,
            2,
        ),
        ("UPDATE agentkey_balances SET held = 0 WHERE key_id = 1", &of_parent, None, 0, 3),
        ("UPDATE agentkey_balances SET held = -50000 WHERE key_id = 2", &of_child, None, -5, 3),
        ("UPDATE agentkey_accounts SET spent = 0", &of_account, Some(lifetime), 0, 11),
        (
            "UPDATE agentkey_accounts SET more_spent = json_set(more_spent, '$.day[0]', 990000)",
            &of_account,
            Some(day),
            99,
            11,
        ),
        ("UPDATE agentkey_accounts SET held = 40000", &of_account, None, 4, 3),
    ] {
        let store = family(in_memory()).await;
        assert_eq!(differences(&store).await, [], "before {sql}");
        let before = entries(&store).await;
        falsify(&store, sql).await;

        let found = differences(&store).await;
        let [(found_of, found)] = &found[..] else { panic!("{sql}: {found:?}") };
        assert_eq!((found_of, found.figure.period()), (holder, period), "{sql}");
        let (from, to) = (Amount::cents(from), Amount::cents(to));
        assert_eq!((found.stored, found.computed), (from, to), "{sql}");
        assert_eq!(entries(&store).await, before, "nothing is mended unless it is said: {sql}");

        let mended = mend(&store, holder).await;
        assert_eq!(mended.differences, std::slice::from_ref(found), "{sql}");
        assert_eq!(differences(&store).await, [], "after {sql}");
        assert_eq!(mend(&store, holder).await.differences, [], "a second time: {sql}");
        assert_told(&store, &before, holder, found).await;
        let left = store.post(&[pay(KeyId::new(2), 26), pay(KeyId::new(2), 1)]).await.unwrap();
        assert!(
            left[0].is_ok() && left[1].is_err(),
            "40 of the account − 11 − 3 − 26: {sql} {left:?}"
        );
    }
}

/// Checks the entry and the event of what was mended.
async fn assert_told(store: &SqliteStore, before: &[Entry], holder: &Holder, found: &Difference) {
    let after = entries(store).await;
    let [told] = &after[before.len()..] else { panic!("one entry: {after:?}") };
    let key = match holder {
        Holder::Key(key) => Some(*key),
        Holder::Account(_) => None,
    };
    assert_eq!((told.kind, told.key, told.amount), (EntryKind::Adjust, key, Amount::ZERO));
    let cents = |amount: Amount| (amount.as_micros() / 10_000).to_string();
    let (from, to) = (cents(found.stored), cents(found.computed));
    let mut labels = vec![("figure", found.figure.as_str()), ("from_cents", &*from)];
    labels.extend(found.figure.period().map(|period| ("period", period.as_str())));
    labels.extend([("reason", Note::RECONCILED), ("to_cents", &*to)]);
    assert_eq!(told.note.labels.iter().collect::<Vec<_>>(), labels);

    let events = mends(store).await;
    let [event] = &events[..] else { panic!("one event: {events:?}") };
    assert_eq!((event.key, &event.account, event.at), (key, &account("acme"), told.at));
    assert_eq!(event.lineage.len(), key.map_or(0, |key| usize::try_from(key.get()).unwrap()));
    assert_eq!(event.origin.actor, Actor::principal("ops@acme"));
    assert_eq!(event.origin.request_id.as_deref(), Some("8f2c"));
    let detail = serde_json::json!({
        "entry": told.id, "figure": found.figure.as_str(), "period": found.figure.period(),
        "from_cents": found.stored, "to_cents": found.computed,
    });
    assert_eq!(event.detail, detail);
}

/// A balance that was deleted has spent nothing, which differs from its entries.
#[tokio::test]
async fn a_balance_that_was_deleted_is_made_again() {
    let store = family(in_memory()).await;
    falsify(&store, "DELETE FROM agentkey_balances WHERE key_id = 2").await;
    let found: Vec<_> = differences(&store).await.into_iter().map(|(_, found)| found).collect();
    let figures: Vec<_> = found.iter().map(|it| (it.figure.period(), it.computed)).collect();
    let (spent, held) = (Amount::cents(2), Amount::cents(3));
    let wanted = [(Some(Period::Lifetime), spent), (Some(Period::Day), spent), (None, held)];
    assert_eq!(figures, wanted);
    assert_eq!(mend(&store, &holders()[2]).await.differences, found);
    assert_eq!(differences(&store).await, []);
    assert_eq!((entries(&store).await.len(), mends(&store).await.len()), (5, 3));
}

/// A period of the application's own SQL is counted when the key is next used. Until then, and after it, all agrees.
#[tokio::test]
async fn periods_of_the_applications_sql_agree() {
    let store = family(in_memory()).await;
    for set in [
        "period = 'week', more_limits = NULL",
        "period = 'calendar_month', more_limits = '{\"day\": 500000}'",
        "period = 'lifetime', more_limits = '{\"week\": 600000, \"day\": 500000}'",
    ] {
        falsify(&store, format!("UPDATE agent_keys SET {set}")).await;
        assert_eq!(differences(&store).await, [], "before it is used: {set}");
        assert_eq!(mend(&store, &holders()[2]).await.differences, []);
        store.post(&[pay(KeyId::new(2), 1)]).await.unwrap().pop().unwrap().unwrap();
        assert_eq!(differences(&store).await, [], "{set}");
    }
    assert_eq!(mends(&store).await, []);
}

/// What a key was charged that is gone may count for each key of its account, so it makes no difference; and no key is
/// given money back that it may have spent.
#[tokio::test]
async fn what_a_key_was_charged_that_is_gone_makes_no_difference() {
    let store = family(in_memory()).await;
    let hash = token(1).hash;
    // SQLite fires no trigger for the row that is replaced by its token.
    let replace =
        "INSERT OR REPLACE INTO agent_keys (account_id, key_hash, created_at) VALUES ('acme'";
    falsify(&store, format!("{replace}, '{hash}', 0)")).await;
    let [of_account, of_parent, _] = holders();
    for holder in [&of_account, &of_parent] {
        assert_eq!(store.reconcile(holder).await.unwrap().unwrap().differences, []);
    }
    falsify(&store, "UPDATE agentkey_balances SET spent = 30000 WHERE key_id = 1").await;
    let found = mend(&store, &of_parent).await.differences;
    let lifetime = Figure::Spent { period: Period::Lifetime, since: None };
    assert_eq!(found, [Difference::new(lifetime, Amount::cents(3), Amount::cents(2))]);
}

/// Another store on the file, which knew the false balance, decides by the mended one.
#[tokio::test]
async fn another_process_decides_by_the_mended_balance() {
    let directory = directory();
    let options = SqliteOptions::new(directory.path().join("keys.db"));
    let here = family(options.clone()).await;
    raw(
        &directory.path().join("keys.db"),
        "UPDATE agentkey_balances SET spent = 480000 WHERE key_id = 2",
    );
    let there = SqliteStore::open(options).await.unwrap();
    let pay_there = async || there.post(&[pay(KeyId::new(2), 1)]).await.unwrap().pop().unwrap();
    let Err(Refusal::BudgetExceeded(short)) = pay_there().await else { panic!("48 + 3 > 50") };
    assert_eq!(short.spent, Amount::cents(48));
    let find = async || there.find(&[token(1).hash]).await.unwrap().pop().unwrap().unwrap().lineage;
    assert_eq!(find().await.key().balance.spent(), Amount::cents(48));

    assert!(!mend(&here, &holders()[2]).await.agrees());
    assert_eq!(find().await.key().balance.spent(), Amount::cents(2));
    pay_there().await.unwrap();
    assert_eq!(differences(&there).await, []);
}

/// The clock of another machine may be ahead: a balance that was rolled by it agrees all the same.
#[tokio::test]
async fn a_clock_that_goes_back_makes_no_difference() {
    let clock = crate::model::ManualClock::at(at("2026-01-31T12:00:00Z"));
    let store = family(in_memory().clock(&clock)).await;
    clock.set(at("2026-02-03T12:00:00Z"));
    store.post(&[pay(KeyId::new(2), 1)]).await.unwrap().pop().unwrap().unwrap();
    clock.set(at("2026-02-01T12:00:00Z"));
    assert_eq!(differences(&store).await, []);
    let patch = KeyPatch::new().budget(Budget::weekly(Amount::cents(50)));
    let change = KeyChange::Update { key: KeyId::new(2), patch };
    store.change_key(&change, &Rules::default()).await.unwrap().unwrap();
    assert_eq!(differences(&store).await, []);
}

/// A figure to falsify: its row, and its SQL.
fn figures() -> impl Strategy<Value = (usize, String)> {
    let rows = ["agentkey_accounts", "agentkey_balances", "agentkey_balances"];
    let to = prop_oneof![-90_000_i64..90_000, Just(i64::MAX), Just(0), Just(i64::MIN)];
    (0..3_usize, 0..3_usize, to).prop_map(move |(row, column, to)| {
        let set = match column {
            0 => format!("spent = {to}"),
            1 => format!("held = {}", to.unsigned_abs() >> 1),
            _ => format!("more_spent = json_set(more_spent, '$.day[0]', {to})"),
        };
        let of = if row == 0 { "true".to_owned() } else { format!("key_id = {row}") };
        (row, format!("UPDATE {} SET {set} WHERE {of}", rows[row]))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever was falsified, mending brings back the balances that there were, and the entries add up to the same.
    #[test]
    fn mending_brings_the_balances_back(falsified in proptest::collection::vec(figures(), 1..6)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = family(in_memory()).await;
            let balances = async || {
                let child = store.lineage(KeyId::new(2)).await.unwrap().unwrap();
                let keys: Vec<_> = child.keys().map(|key| key.balance).collect();
                (keys, child.account().balance)
            };
            let usage = async || {
                let query = UsageQuery::for_account(account("acme"), UsageBy::Day);
                store.usage(&query).await.unwrap()
            };
            let before = (balances().await, usage().await);
            for (_, sql) in &falsified {
                falsify(&store, sql.clone()).await;
            }
            let is_changed = balances().await != before.0;
            let found = differences(&store).await;
            assert_eq!(!found.is_empty(), is_changed, "{found:?}");
            for (holder, _) in &found {
                let row = holders().iter().position(|it| it == holder).unwrap();
                assert!(falsified.iter().any(|(of, _)| *of == row), "{holder:?}");
            }
            for holder in holders() {
                mend(&store, &holder).await;
            }
            assert_eq!(differences(&store).await, []);
            assert_eq!((balances().await, usage().await), before);
            assert_eq!(mends(&store).await.len(), found.len());
            store.close().await;
        });
    }
}
