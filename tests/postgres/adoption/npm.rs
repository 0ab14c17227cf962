//! A table of the npm package agentkey: taken over with its balances and windows.

use std::collections::HashMap;
use std::sync::LazyLock;

use agentkey::ledger::{Action, Posting};
use agentkey::model::{EntryKind, Note, Period};
use agentkey::store::Store;
use agentkey::{AgentKeyLayer, AgentKeys, Amount, Budget, Charge, EntryQuery, KeyContext};
use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::{Request, StatusCode};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use tower::ServiceExt;

use super::*;

/// A table as the package itself leaves it, with its rows. The tokens are in its head.
pub(crate) const DUMP: &str = include_str!("../tables/npm-agentkey-0.2.0.sql");

/// The same table without its rows.
pub(crate) static TABLE: LazyLock<String> = LazyLock::new(|| {
    let rows = |line: &&str| line.starts_with("INSERT INTO") || line.contains("setval");
    DUMP.lines().filter(|line| !rows(line)).collect::<Vec<_>>().join("\n")
});

/// Tokens as the package makes them: `obs_` and 48 hexadecimal digits.
fn token(n: i64) -> String {
    format!("obs_{n:048x}")
}

/// 10,000 keys of 500 accounts: day, month and lifetime budgets, windows that run, that are over since hours or months,
/// and that never began; every seventh has no budget, every eleventh no account.
const KEYS: &str = "INSERT INTO sdk_api_keys (account_id, key_hash, key_prefix, name, scopes, budget_cents, \
    budget_used_cents, budget_period, budget_reset_at, external_subject, created_at) \
    SELECT CASE WHEN n % 11 > 0 THEN n % 500 END, \
    encode(sha256(('obs_' || lpad(to_hex(n), 48, '0'))::bytea), 'hex'), 'obs_0000', 'key ' || n, \
    CASE n % 3 WHEN 0 THEN NULL WHEN 1 THEN ARRAY['read'] ELSE ARRAY['read', 'proxy.*'] END, \
    CASE WHEN n % 7 > 0 THEN 100 + n % 900 END, n % 130, \
    (ARRAY['day', 'month', NULL])[n % 3 + 1], \
    CASE n % 5 WHEN 0 THEN NULL ELSE '2026-01-31T12:00:00Z'::timestamptz + ((n * 7919) % 97 - 72) * CASE n % 3 WHEN 1 THEN interval '28 hours' ELSE interval '1 hour' END END, \
    CASE WHEN n % 2 = 0 THEN 'user-' || n END, '2024-01-31T09:30:00Z'::timestamptz + n * interval '1 hour' \
    FROM generate_series(1, 10000) n";

/// What the package would say of a key, worked out from its columns as it does.
struct Old {
    limit: Option<i32>,
    used: i32,
    resets_at: Option<Timestamp>,
}

fn old(row: &PgRow, now: Timestamp) -> Old {
    let instant = |column| {
        let text: Option<String> = row.get(column);
        text.map(|text| text.parse::<Timestamp>().unwrap())
    };
    let (limit, used): (Option<i32>, i32) = (row.get("budget_cents"), row.get("budget_used_cents"));
    // One without a budget goes by that of the adoption.
    let period = row.get::<Option<&str>, _>("budget_period").or(limit.is_none().then_some("day"));
    let mut old = Old { limit, used, resets_at: None };
    let (Some(period), Some(begun)) = (period, instant("resets")) else { return old };
    // From reset to reset, until one is ahead.
    let begun = begun.to_zoned(TimeZone::UTC);
    let mut n = 0;
    loop {
        let step = if period == "day" { Span::new().hours(24 * n) } else { Span::new().months(n) };
        let reset = begun.checked_add(step).unwrap().timestamp();
        if reset > now {
            old.resets_at = Some(reset);
            return old;
        }
        (old.used, n) = (0, n + 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn ten_thousand_keys_are_taken_over() {
    let Some(mut host) = Host::with(&TABLE).await else { return };
    host.run(KEYS).await;
    // Every write to the table from here on fails, even one that changes nothing.
    host.run(
        "CREATE FUNCTION caught() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'the table was written'; END $$; \
         CREATE TRIGGER caught BEFORE INSERT OR UPDATE OR DELETE ON sdk_api_keys FOR EACH STATEMENT \
         EXECUTE FUNCTION caught()",
    )
    .await;
    let rows = "SELECT md5(string_agg(concat_ws(',', xmin, ctid, k.*::text), ';' ORDER BY id)) FROM sdk_api_keys k";
    let policy = "SELECT id, account_id, budget_cents, budget_used_cents, budget_period, external_subject, \
        to_char(budget_reset_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS resets \
        FROM sdk_api_keys ORDER BY id";
    let (policy, stamps) =
        (host.rows(policy).await, host.rows("SELECT id, xmin::text FROM sdk_api_keys").await);
    let adoption =
        Adoption::new(ScopeSet::parse(["read"]).unwrap(), Budget::daily(Amount::cents(7)));
    let store = host.open(adoption).await.unwrap();
    let adopted = host.text(rows).await;
    let after = host.rows("SELECT id, xmin::text FROM sdk_api_keys").await;
    assert!(
        stamps.iter().zip(&after).all(|(old, new)| old.get::<&str, _>(1) == new.get::<&str, _>(1))
    );

    let now = host.clock.now();
    let mut postings = Vec::new();
    let mut openings = HashMap::new();
    for (page, rows) in policy.chunks(250).enumerate() {
        let tokens: Vec<_> =
            (1..=250).map(|n| token(i64::try_from(page).unwrap() * 250 + n)).collect();
        let tokens: Vec<_> = tokens.iter().map(String::as_str).collect();
        for (row, lineage) in rows.iter().zip(find(&store, &tokens).await) {
            let (id, account): (i32, Option<&str>) = (row.get(0), row.get(1));
            let Some(account) = account else {
                assert!(lineage.is_none(), "{id} is nobody's");
                continue;
            };
            let lineage = lineage.unwrap_or_else(|| panic!("{id} was not found"));
            let old = old(row, now);
            let (key, spent) = (lineage.key(), old.used.max(0));
            assert_eq!(
                (key.id.get(), lineage.account_id().to_string()),
                (id.into(), account.to_string())
            );
            // Without a budget of its own it has the one of the adoption, in its own period.
            let limit = old.limit.unwrap_or(7);
            let period: Option<&str> = row.get("budget_period");
            let period = match (period, old.limit) {
                (Some("day"), _) | (None, None) => Period::Day,
                (Some("month"), _) => Period::Month,
                _ => Period::Lifetime,
            };
            assert_eq!(key.budget, Budget::new(Some(Amount::cents(limit)), period), "{id}");
            assert_eq!(key.remaining(), Some(Amount::cents((limit - spent).max(0))), "{id}");
            match old.resets_at {
                Some(at) => assert_eq!(key.resets_at(now), Some(at), "{id}"),
                None => assert_eq!(key.anchor, key.created_at, "{id}"),
            }
            if spent > 0 {
                openings.insert(
                    key.id,
                    (Amount::cents(spent), row.get::<Option<String>, _>("external_subject")),
                );
            }
            if id % 4 > 0 {
                continue;
            }
            postings.push(Posting::new(
                lineage.account_id().clone(),
                key.id,
                Action::Pay { amount: Amount::micros(1), note: Note::default(), claim: None },
            ));
        }
    }
    assert!(openings.len() > 4_000 && postings.len() > 2_000);
    check_openings(&store, openings).await;
    assert_eq!(crate::reconcile::differences(&store).await, []);

    // The windows go on from there, and charges write nothing to the table.
    let refused = async |postings: &[Posting]| {
        let mut refused = 0;
        for batch in postings.chunks(500) {
            refused +=
                store.post(batch).await.unwrap().iter().filter(|posted| posted.is_err()).count();
        }
        refused
    };
    let spent = host.text("SELECT count(*) FROM agentkey_entries").await.parse::<usize>().unwrap();
    let poor = refused(&postings).await;
    assert!(poor > 0 && poor < 500, "{poor}");
    host.clock.set("2026-03-31T12:00:00Z".parse().unwrap());
    for posting in &mut postings {
        posting.id = agentkey::model::PostingId::new();
    }
    assert!(
        refused(&postings).await < poor,
        "two months later only lifetime budgets are still spent"
    );
    let entries =
        host.text("SELECT count(*) FROM agentkey_entries").await.parse::<usize>().unwrap();
    assert!(entries > spent + postings.len() - poor);
    assert_eq!(host.text(rows).await, adopted);
    books_balance(&mut host).await;

    // The application's own SQL holds at once.
    host.run("DROP TRIGGER caught ON sdk_api_keys; UPDATE sdk_api_keys SET revoked_at = now() WHERE id = 1").await;
    let found = find(&store, &[&token(1), &token(2)]).await;
    let stands: Vec<_> =
        found.iter().map(|found| found.as_ref().unwrap().check_active().is_ok()).collect();
    assert_eq!(stands, [false, true]);
}

/// Every key has one opening entry, of what it had spent, with the one it was spent for.
async fn check_openings(
    store: &PostgresStore,
    mut openings: HashMap<agentkey::KeyId, (Amount, Option<String>)>,
) {
    for account in 0..500 {
        let account: agentkey::AccountId = account.to_string().parse().unwrap();
        let entries =
            store.entries(&EntryQuery::for_account(account.clone()).limit(1_000)).await.unwrap();
        let mut total = Amount::ZERO;
        for (_, entry) in entries {
            let (amount, subject) =
                entry.key.and_then(|key| openings.remove(&key)).expect("it had spent nothing");
            assert_eq!((entry.kind, entry.amount), (EntryKind::Opening, amount));
            assert_eq!(entry.note.labels.get("external_subject"), subject.as_deref());
            total = total.checked_add(amount).unwrap();
        }
        let record = store.account(&account).await.unwrap();
        assert_eq!(record.map_or(Amount::ZERO, |record| record.balance.spent()), total);
    }
    assert!(openings.is_empty(), "{} are missing", openings.len());
}

/// What is spent is the sum of the entries of the window, by a key and everything under it.
async fn books_balance(host: &mut Host) {
    let wrong = "WITH RECURSIVE family AS (SELECT id AS top, id FROM sdk_api_keys UNION \
        SELECT f.top, k.id FROM family f JOIN sdk_api_keys k ON k.parent_id = f.id) \
        SELECT count(*) FROM (SELECT FROM agentkey_balances b JOIN family f ON f.top = b.key_id LEFT JOIN agentkey_entries e \
        ON e.key_id = f.id AND e.account_id = b.account_id AND e.counts_at >= b.since \
        GROUP BY b.key_id, b.account_id HAVING b.spent <> coalesce(sum(e.amount), 0)) wrong";
    assert_eq!(host.text(wrong).await, "0");
    let wrong = "SELECT count(*) FROM agentkey_accounts a WHERE a.spent <> \
        (SELECT coalesce(sum(e.amount), 0) FROM agentkey_entries e WHERE e.account_id = a.id) \
        OR a.last_entry <> (SELECT max(seq) FROM agentkey_entries e WHERE e.account_id = a.id)";
    assert_eq!(host.text(wrong).await, "0");
}

/// What a child had spent counts on its parents, as everything does that it spends from now on.
#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn children_count_on_their_parents() {
    let Some(mut host) = Host::with(&TABLE).await else { return };
    host.run(
        "ALTER TABLE sdk_api_keys ADD parent_id int; \
         INSERT INTO sdk_api_keys (id, account_id, key_prefix, key_hash, budget_cents, budget_used_cents, budget_period, \
         budget_reset_at, parent_id) SELECT id, account, 'obs_0000', encode(sha256(('obs_' || lpad(to_hex(id), 48, '0'))::bytea), \
         'hex'), 1000, used, period, reset::timestamptz, parent FROM (VALUES \
         (1, 5, 100, NULL, NULL, NULL), (2, 5, 20, 'month', '2026-02-10', 1), (3, 5, 3, 'day', '2026-02-01', 2), \
         (4, 5, 9, 'day', '2026-01-31', 2), (5, 6, 7, NULL, NULL, 1), (6, 5, 1, NULL, NULL, 99), \
         (7, 5, 50, NULL, NULL, 7)) v (id, account, used, period, reset, parent)",
    )
    .await;
    let store = host.open(open_handed()).await.unwrap();
    let tokens: Vec<_> = (1..=7).map(token).collect();
    let tokens: Vec<_> = tokens.iter().map(String::as_str).collect();
    let found = find(&store, &tokens).await;
    let spent: Vec<_> = found
        .iter()
        .map(|found| found.as_ref().map(|it| it.key().balance.spent().as_micros() / 10_000))
        .collect();
    // The window of 4 is over. 5 is in another account than its parent, 6 has none, 7 is its own: out of service.
    assert_eq!(spent, [Some(123), Some(23), Some(3), Some(0), None, None, None]);
    assert_eq!(found[2].as_ref().unwrap().depth(), 3);
    let account = store.account(&"5".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(account.balance.spent(), Amount::cents(174), "all that was taken over for it");
    host.run(
        "DELETE FROM sdk_api_keys WHERE id = 7; DELETE FROM agentkey_balances WHERE key_id = 7",
    )
    .await;
    books_balance(&mut host).await;
}

/// An old token works over HTTP as a new one does, and is charged.
#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn an_old_token_works_over_http() {
    let Some(mut host) = Host::with(&TABLE).await else { return };
    host.run(KEYS).await;
    let keys = AgentKeys::new(host.open(open_handed()).await.unwrap()).unwrap();
    let app = Router::new()
        .route("/me", get(async |key: KeyContext| key.lineage().id().to_string()))
        .route(
            "/buy",
            get(async |charge: Charge| charge.pay(Amount::cents(1)).await.map(|_| "bought")),
        )
        .layer(AgentKeyLayer::new(&keys));
    let ask = async |path: &str, token: &str| {
        let request =
            Request::builder().uri(path).header("authorization", format!("Bearer {token}"));
        app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status()
    };
    assert_eq!(ask("/me", &token(8)).await, StatusCode::OK);
    assert_eq!(ask("/me", &token(10_001)).await, StatusCode::UNAUTHORIZED);
    assert_eq!(ask("/me", &token(11)).await, StatusCode::UNAUTHORIZED, "it has no account");
    assert_eq!(ask("/buy", &token(8)).await, StatusCode::OK);
    let spent = "SELECT spent / 10000 - 8 FROM agentkey_balances WHERE key_id = 8";
    assert_eq!(host.text(spent).await, "1");
    host.run("UPDATE sdk_api_keys SET revoked_at = now() WHERE id = 8").await;
    assert_eq!(ask("/me", &token(8)).await, StatusCode::UNAUTHORIZED);
    keys.shutdown().await;
}

/// What agentkey writes into such a table, the package would understand.
#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn new_keys_are_written_as_the_package_writes_them() {
    use agentkey::model::ChangeError;
    use agentkey::{Error, NewKey};

    let Some(mut host) = Host::with(&TABLE).await else { return };
    let adoption = Adoption::new(ScopeSet::none(), Budget::monthly(Amount::cents(300)));
    let keys = AgentKeys::new(host.open(adoption).await.unwrap()).unwrap();
    let new = |budget| NewKey::new("5".parse().unwrap()).scopes(ScopeSet::none()).budget(budget);
    let written = "SELECT string_agg(concat_ws(',', id, coalesce(budget_cents::text, '-'), coalesce(budget_period, '-')), ' ' \
        ORDER BY id) FROM sdk_api_keys";
    for budget in [
        Budget::lifetime(Amount::cents(500)),
        Budget::monthly(Amount::cents(500)),
        Budget::monthly(Amount::cents(300)),
        Budget::daily(Amount::cents(300)),
    ] {
        let made = keys.create(new(budget)).await.unwrap();
        assert_eq!(keys.find(&made.token).await.unwrap().unwrap().key().budget, budget);
    }
    assert_eq!(host.text(written).await, "1,500,- 2,500,month 3,300,month 4,300,day");
    for budget in [Budget::lifetime(Amount::micros(1)), Budget::unlimited()] {
        let error = keys.create(new(budget)).await.unwrap_err();
        assert!(
            matches!(&error, Error::Change(ChangeError::Invalid { field: "budgets", .. })),
            "{error}"
        );
    }
}

/// People write the end of time for "never resets". Those windows too are the same whenever they are read again.
#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_reset_at_the_end_of_time_is_an_anchor_like_any_other() {
    for (resets, created) in [
        ("9999-12-30 00:00Z", "2025-05-31 12:00Z"),
        ("9999-12-31 23:59:59.999999Z", "2025-05-31 12:00Z"),
        ("10000-01-01 00:00Z", "2025-05-31 12:00Z"),
        ("infinity", "infinity"),
    ] {
        let Some(mut host) = Host::with(&TABLE).await else { return };
        host.run(&format!(
            "INSERT INTO sdk_api_keys (account_id, key_prefix, key_hash, budget_cents, budget_used_cents, budget_period, \
             budget_reset_at, created_at) VALUES (5, 'obs_', encode(sha256('obs_1'), 'hex'), 100, 50, 'month', '{resets}', '{created}')"
        ))
        .await;
        host.open(open_handed()).await.unwrap();
        host.clock.set("2026-03-05T12:00:00Z".parse().unwrap());
        let mut paid = 0;
        for _ in 0..3 {
            // By what another process wrote.
            let store = PostgresStore::open(host.options()).await.unwrap();
            let action =
                Action::Pay { amount: Amount::cents(60), note: Note::default(), claim: None };
            let posting = Posting::new("5".parse().unwrap(), agentkey::KeyId::new(1), action);
            paid += i32::from(store.post(&[posting]).await.unwrap()[0].is_ok());
            assert_eq!(
                find(&store, &["obs_1"]).await[0].as_ref().unwrap().remaining(),
                Some(Amount::cents(40))
            );
        }
        assert_eq!(paid, 1, "{resets}");
    }
}
