//! The table that the npm package agentkey 0.2.0 left, adopted as it is.

use agentkey::model::{EntryKind, Lineage};
use agentkey::store::Store;
use agentkey::{AgentKeyLayer, AgentKeys, Amount, Budget, EntryQuery, KeyContext, NewKey, Refusal};
use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::{Request, StatusCode};
use jiff::Timestamp;
use tower::ServiceExt;

use super::npm::DUMP;
use super::*;

/// The token that the head of the dump names so.
fn token(name: char) -> &'static str {
    let line = DUMP.lines().find_map(|line| line.strip_prefix(&format!("-- {name}: ")));
    line.expect("a token in the head of the dump")
}

/// The dump, at the noon of the day when it was made.
async fn dumped() -> Option<Host> {
    let host = Host::with(DUMP).await?;
    host.clock.set("2026-11-26T12:00:00Z".parse().unwrap());
    Some(host)
}

async fn one(store: &PostgresStore, name: char) -> Lineage {
    find(store, &[token(name)]).await.remove(0).unwrap_or_else(|| panic!("{name} was not found"))
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn every_living_key_is_what_it_was() {
    let Some(mut host) = dumped().await else { return };
    let rows =
        "SELECT md5(string_agg(concat_ws(',', xmin, ctid), ';' ORDER BY id)) FROM sdk_api_keys";
    let before = host.text(rows).await;
    let store = host.open(open_handed()).await.unwrap();
    assert_eq!(host.text(rows).await, before, "no row was rewritten");
    let now = host.clock.now();

    let a = one(&store, 'a').await;
    assert_eq!(
        (a.id().get(), a.account_id().as_str(), a.key().name.as_str()),
        (1, "acct_123", "sales-agent")
    );
    assert_eq!((a.key().prefix.as_str(), a.key().start.as_str()), ("ak", "588e90fe"));
    assert_eq!(a.key().scopes, ScopeSet::parse(["usage.read", "proxy.chat"]).unwrap());
    assert_eq!(a.key().budget, Budget::monthly(Amount::cents(5_000)));
    assert_eq!(a.remaining(), Some(Amount::cents(3_800)));
    assert_eq!(a.key().resets_at(now), Some(at("2026-12-26T00:00:00Z")));
    assert_eq!(a.expires_at(), Some(at("2026-12-03T01:52:09.436Z")));
    assert_eq!((a.delegated_by(), a.key().parent), (Some("user_456"), None));

    let b = one(&store, 'b').await;
    assert!(b.key().scopes.is_unrestricted());
    assert_eq!((b.remaining(), b.delegated_by()), (None, None));
    let c = one(&store, 'c').await;
    assert_eq!((c.scopes(None), c.remaining()), (ScopeSet::none(), Some(Amount::ZERO)));
    let e = one(&store, 'e').await;
    assert_eq!(
        (e.key().budget, e.remaining()),
        (Budget::lifetime(Amount::cents(10)), Some(Amount::ZERO))
    );
    for living in [&a, &b, &c, &e] {
        assert_eq!(living.check_active(), Ok(()));
    }
    assert_eq!(one(&store, 'd').await.check_active(), Err(Refusal::RevokedKey));

    let bound = store.find_by_subject("mch_abc").await.unwrap();
    assert_eq!(bound.len(), 1);
    let bound = &bound[0];
    assert_eq!((bound.id().get(), bound.account_id().as_str()), (4, "mch_abc"));
    assert_eq!(
        (bound.remaining(), bound.delegated_by()),
        (Some(Amount::cents(260)), Some("user_9"))
    );
    assert_eq!(bound.key().resets_at(now), Some(at("2026-11-27T01:52:09.455Z")));
    assert!(store.find_by_subject("mch_ab").await.unwrap().is_empty());

    // What was spent is in the ledger, and in the accounts.
    let account = store.account(&"acct_123".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(account.balance.spent(), Amount::cents(1_200));
    let entries = store
        .entries(&EntryQuery::for_account("mch_abc".parse().unwrap()).limit(10))
        .await
        .unwrap();
    let [(_, entry)] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!((entry.kind, entry.amount), (EntryKind::Opening, Amount::cents(40)));
    assert_eq!(entry.note.labels.get("external_subject"), Some("mch_abc"));
}

/// The package writes the start of a token into a column that must not be NULL, and so does agentkey.
#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn new_keys_have_what_the_package_would_look_for() {
    let Some(mut host) = dumped().await else { return };
    let keys = AgentKeys::new(host.open(open_handed()).await.unwrap()).unwrap();
    let new = || {
        NewKey::new("acct_123".parse().unwrap())
            .name("made by agentkey")
            .scopes(ScopeSet::parse(["read"]).unwrap())
            .budget(Budget::monthly(Amount::cents(300)))
            .delegated_by("user_1")
    };
    let made = keys.create(new()).await.unwrap();
    let row = format!(
        "SELECT concat_ws('|', account_id, key_prefix, name, scopes, budget_cents, budget_period, delegated_by) \
         FROM sdk_api_keys WHERE key_hash = encode(sha256('{}'), 'hex')",
        made.token.expose()
    );
    let start = &made.token.expose()[..11];
    assert_eq!(
        host.text(&row).await,
        format!("acct_123|{start}|made by agentkey|{{read}}|300|month|user_1")
    );
    assert_eq!(*keys.find(&made.token).await.unwrap().unwrap().key(), made.key);
    assert_eq!((made.key.prefix.as_str(), made.key.start.as_str()), ("ak", &start[3..]));
    let rotated = keys.rotate(made.key.id, agentkey::Grace::NONE).await.unwrap();
    let start = &rotated.token.expose()[..11];
    let shown = format!("SELECT key_prefix FROM sdk_api_keys WHERE id = {}", made.key.id);
    assert_eq!(host.text(&shown).await, start);
    let child = keys.create(NewKey::child_of(made.key.id)).await.unwrap();
    assert_eq!(keys.find(&child.token).await.unwrap().unwrap().delegated_by(), Some("user_1"));
    let listed =
        keys.keys(&agentkey::KeyQuery::for_account("acct_123".parse().unwrap())).await.unwrap();
    let shown: Vec<_> =
        listed.items.iter().map(|key| (key.prefix.as_str(), key.start.len())).collect();
    assert_eq!(shown, [("ak", 8), ("ak", 8), ("ak", 8), ("ak", 8), ("ak", 8)]);
}

/// The values of the package's README: a key for $50.00 a month, of which $12.00 are spent.
#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn the_readme_of_the_package_goes_through() {
    let Some(host) = dumped().await else { return };
    let keys = AgentKeys::new(host.open(open_handed()).await.unwrap()).unwrap();
    let created = keys
        .create(
            NewKey::new("acct_123".parse().unwrap())
                .scopes(ScopeSet::parse(["usage.read", "proxy.chat"]).unwrap())
                .budget(Budget::monthly(Amount::cents(5_000)))
                .expires_in("7d".parse().unwrap())
                .delegated_by("user_456")
                .name("sales-agent"),
        )
        .await
        .unwrap();
    // `validate` and `trackUsage`.
    let validate = async || keys.authorize(&created.token).await.unwrap();
    let track = async |cents| {
        let charge = keys.charge(&validate().await).await.unwrap();
        charge.add(Amount::cents(cents));
        charge.settle().await.unwrap();
    };
    track(1_200).await;
    let key = validate().await;
    let result = key.lineage();
    assert_eq!(result.key().budget.limit, Some(Amount::cents(5_000)));
    assert_eq!(result.key().balance.spent(), Amount::cents(1_200));
    assert_eq!(result.remaining(), Some(Amount::cents(3_800)));
    assert_eq!(
        (result.delegated_by(), result.account_id().as_str()),
        (Some("user_456"), "acct_123")
    );
    assert_eq!(result.expires_at(), Some(at("2026-12-03T12:00:00Z")));
    let has_scope = |scope: &str| result.scopes(None).allows(&scope.parse().unwrap());
    assert!(has_scope("proxy.chat") && !has_scope("billing.write"));
    track(15).await;
    assert_eq!(validate().await.lineage().remaining(), Some(Amount::cents(3_785)));
    keys.shutdown().await;
}

/// A delegator is a human, whatever type the application gave its users' ids. It is never a parent.
#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_delegator_of_any_type_is_the_human() {
    for (kind, human, other) in [
        ("integer", "1", "x"),
        ("smallint", "1", "70000"),
        ("bigint", "1", "1.5"),
        ("varchar(10)", "1", "more than ten"),
        ("uuid", "0191f0c0-0000-7000-8000-000000000000", "1"),
    ] {
        let sql = format!(
            "CREATE TABLE sdk_api_keys (id serial PRIMARY KEY, account_id text, key_hash text UNIQUE, budget_cents int, \
             budget_used_cents int, delegated_by {kind}); INSERT INTO sdk_api_keys (account_id, key_hash, budget_cents, \
             budget_used_cents, delegated_by) VALUES ('a', encode(sha256('obs_1'), 'hex'), 100, 10, NULL), \
             ('a', encode(sha256('obs_2'), 'hex'), 100, 5, '{human}'), ('b', encode(sha256('obs_3'), 'hex'), 100, 5, '{human}')"
        );
        let Some(host) = Host::with(&sql).await else { return };
        let store = host.open(open_handed()).await.unwrap();
        for (found, spent) in
            find(&store, &["obs_1", "obs_2", "obs_3"]).await.iter().zip([10, 5, 5])
        {
            let found = found.as_ref().unwrap_or_else(|| panic!("{kind}"));
            assert_eq!((found.check_active(), found.depth()), (Ok(()), 1), "{kind}");
            assert_eq!(found.key().balance.spent(), Amount::cents(spent), "{kind}");
            let delegated = (spent == 5).then_some(human);
            assert_eq!(found.delegated_by(), delegated, "{kind}");
        }
        let keys = AgentKeys::new(store).unwrap();
        let new = || NewKey::new("a".parse().unwrap());
        let made = keys.create(new().delegated_by(human)).await.unwrap();
        assert_eq!(keys.find(&made.token).await.unwrap().unwrap().delegated_by(), Some(human));
        let error = keys.create(new().delegated_by(other)).await.unwrap_err().to_string();
        assert!(error.starts_with("delegated_by: is not what"), "{kind}: {error}");
    }
}

/// Tokens of another format are accepted without a setting. A setting wins.
#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn tokens_of_the_package_are_accepted_over_http() {
    let Some(host) = dumped().await else { return };
    let keys = AgentKeys::new(host.open(open_handed()).await.unwrap()).unwrap();
    let ask = async |layer: AgentKeyLayer, token: &str| {
        let app: Router = Router::new()
            .route("/me", get(async |key: KeyContext| key.lineage().id().to_string()))
            .layer(layer);
        let request = Request::get("/me").header("authorization", format!("Bearer {token}"));
        app.oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status()
    };
    let layer = || AgentKeyLayer::new(&keys);
    for name in ['a', 'b', 'c', 'e'] {
        assert_eq!(ask(layer(), token(name)).await, StatusCode::OK, "{name}");
    }
    assert_eq!(ask(layer(), token('d')).await, StatusCode::UNAUTHORIZED);
    assert_eq!(ask(layer().foreign_tokens(false), token('a')).await, StatusCode::UNAUTHORIZED);
    let made = keys.create(NewKey::new("acct_9".parse().unwrap())).await.unwrap();
    assert_eq!(ask(layer(), made.token.expose()).await, StatusCode::OK);
    let own = AgentKeys::new(agentkey::MemoryStore::new()).unwrap();
    assert_eq!(ask(AgentKeyLayer::new(&own), token('a')).await, StatusCode::UNAUTHORIZED);
}

/// The steps of the README and of docs/adoption.md, word for word.
#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn the_documents_can_be_followed_on_the_dump() {
    use crate::documented::{adopt, block, is_in};

    let (readme, document) =
        (include_str!("../../../README.md"), include_str!("../../../docs/adoption.md"));
    is_in(readme, "adopt");
    is_in(document, "adopt");
    let Some(mut host) = Host::with(DUMP).await else { return };
    for (text, heading) in [(readme, "## Adopt a keys table"), (document, "### The adoption")] {
        let shown = block(text, heading, "sql");
        let (select, answer) = shown.split_once("\n-- ").unwrap();
        host.run("SET timezone = 'UTC'").await;
        let row = host.text(&format!("SELECT r FROM ({}) r", select.trim_end_matches(';'))).await;
        let row = row.trim_matches(['(', ')']).replace('"', "").replace(',', " | ");
        assert_eq!(row, answer.trim());
    }
    // The server's clock is that of the reader, so the dates of the dump are moved to the present.
    host.run(
        "UPDATE sdk_api_keys SET expires_at = expires_at + d, budget_reset_at = budget_reset_at + d, \
         created_at = created_at + d FROM (SELECT date_trunc('day', now()) - '2026-11-26 00:00Z' AS d) d",
    )
    .await;
    let app: Router = Router::new().route(
        "/me",
        get(async |key: KeyContext| {
            let left = key.lineage().remaining().map(|left| left.to_string());
            format!("{} {:?} {:?}", key.lineage().id(), left, key.lineage().delegated_by())
        }),
    );
    let app = adopt(host.database.url(), app).await.unwrap();
    let ask = async |token: &str| {
        let request = Request::get("/me").header("authorization", format!("Bearer {token}"));
        let response = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    };
    assert_eq!(
        ask(token('a')).await,
        (StatusCode::OK, "1 Some(\"38.00\") Some(\"user_456\")".to_owned())
    );
    assert_eq!(ask(token('b')).await.0, StatusCode::OK);
    let (status, body) = ask(token('d')).await;
    assert!(status == StatusCode::UNAUTHORIZED && body.contains("revoked_key"), "{body}");
    host.run("UPDATE sdk_api_keys SET revoked_at = now() WHERE id = 1").await;
    assert_eq!(ask(token('a')).await.0, StatusCode::UNAUTHORIZED);
}
