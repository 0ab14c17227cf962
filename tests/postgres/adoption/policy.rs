//! A change of one field of a key changes neither the other columns of the application's row nor what they mean.

use agentkey::model::Metadata;
use agentkey::{AgentKeys, Amount, KeyId, KeyPatch, NewKey};

use super::*;

const FIRST: KeyId = KeyId::new(1);

/// All that the first row says.
const ROW: &str = "SELECT concat_ws('|', coalesce(name, 'NULL'), coalesce(scopes::text, 'NULL'), \
    coalesce(budget_cents::text, 'NULL'), coalesce(budget_period, 'NULL'), coalesce(expires_at::text, 'NULL')) \
    FROM sdk_api_keys WHERE id = 1";

/// An application with one row, in a table whose rule for periods is this.
async fn with_row(rule: &str, columns: &str, values: &str) -> Option<Host> {
    let table = npm::TABLE.replace("budget_period text", &format!("budget_period text {rule}"));
    let mut host = Host::with(&table).await?;
    host.run(&format!(
        "SET timezone = 'UTC'; INSERT INTO sdk_api_keys (account_id, key_prefix, key_hash, {columns}) \
         VALUES (5, 'obs_', encode(sha256('obs_1'), 'hex'), {values})"
    ))
    .await;
    Some(host)
}

fn reading(budget: Budget) -> Adoption {
    Adoption::new(ScopeSet::parse(["read"]).unwrap(), budget)
}

#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn another_name_leaves_what_the_row_says_of_all_else() {
    for (columns, values, says) in [
        (
            "scopes, budget_cents, budget_period, expires_at",
            "'{read}', 1000, 'monthly', '9999-12-31'",
            "{read}|1000|monthly|9999-12-31 00:00:00+00",
        ),
        ("expires_at", "NULL", "NULL|NULL|NULL|NULL"),
        ("budget_period", "'daily'", "NULL|NULL|daily|NULL"),
    ] {
        let rule = "CHECK (budget_period IN ('daily', 'monthly'))";
        let Some(mut host) = with_row(rule, columns, values).await else { return };
        let keys = AgentKeys::new(
            host.open(reading(Budget::monthly(Amount::cents(1_000)))).await.unwrap(),
        )
        .unwrap();
        keys.update(FIRST, KeyPatch::new().name("x")).await.unwrap();
        assert_eq!(host.text(ROW).await, format!("x|{says}"));
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_row_keeps_its_policy_when_null_comes_to_mean_another() {
    let Some(mut host) =
        with_row("", "scopes, budget_cents, budget_period", "'{read}', 1000, 'monthly'").await
    else {
        return;
    };
    let keys =
        AgentKeys::new(host.open(reading(Budget::monthly(Amount::cents(1_000)))).await.unwrap())
            .unwrap();
    let old = keys.update(FIRST, KeyPatch::new().name("x")).await.unwrap();
    let new = NewKey::new(old.account.clone()).scopes(old.scopes.clone()).budget(old.budget);
    let made = keys.create(new).await.unwrap();
    // The SQL that the error names if an opening states another meaning.
    host.run("UPDATE agentkey_adoption SET scopes = NULL, limit_micros = NULL").await;
    let store = PostgresStore::open(host.options()).await.unwrap();
    for found in find(&store, &["obs_1", made.token.expose()]).await {
        let key = found.unwrap().key().clone();
        assert_eq!((key.budget, key.scopes), (old.budget, old.scopes.clone()));
    }
}

/// The period goes with the limit: beside one, NULL is once and for all.
#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn another_budget_is_read_back_as_it_was_given() {
    let (limits, periods) = (["NULL", "1000"], ["NULL", "'day'", "'month'"]);
    for (limit, period) in
        limits.iter().flat_map(|limit| periods.iter().map(move |period| (limit, period)))
    {
        for default in [Budget::monthly(Amount::cents(300)), Budget::unlimited()] {
            let values = format!("{limit}, {period}");
            let Some(host) = with_row("", "budget_cents, budget_period", &values).await else {
                return;
            };
            let keys = AgentKeys::new(host.open(reading(default)).await.unwrap()).unwrap();
            for budget in [
                Budget::lifetime(Amount::cents(300)),
                Budget::monthly(Amount::cents(300)),
                Budget::monthly(Amount::cents(500)),
                Budget::lifetime(Amount::cents(500)),
                default,
                Budget::daily(Amount::cents(500)),
            ] {
                keys.update(FIRST, KeyPatch::new().budget(budget)).await.unwrap();
                let store = PostgresStore::open(host.options()).await.unwrap();
                let found = find(&store, &["obs_1"]).await.remove(0).unwrap();
                assert_eq!(found.key().budget, budget, "{values} {default:?}");
            }
        }
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn columns_that_are_not_null_take_updates_and_new_keys() {
    let table = "CREATE TABLE sdk_api_keys (id serial PRIMARY KEY, account_id text, key_hash text UNIQUE, \
        scopes text[] NOT NULL DEFAULT '{}', budget_cents int NOT NULL DEFAULT 1000, \
        budget_period text NOT NULL DEFAULT 'month', metadata json NOT NULL DEFAULT '{}', \
        revoked_reason text NOT NULL DEFAULT 'none'); \
        INSERT INTO sdk_api_keys (account_id, key_hash) VALUES ('acme', encode(sha256('obs_1'), 'hex'))";
    let Some(host) = Host::with(table).await else { return };
    let adoption = Adoption::new(ScopeSet::none(), Budget::monthly(Amount::cents(1_000)));
    let keys = AgentKeys::new(host.open(adoption).await.unwrap()).unwrap();
    keys.update(FIRST, KeyPatch::new().name("x")).await.unwrap();
    let some = ScopeSet::parse(["a"]).unwrap();
    for (scopes, cents) in [(ScopeSet::none(), 5), (some.clone(), 1_000), (some, 5)] {
        let new = NewKey::new("acme".parse().unwrap())
            .scopes(scopes)
            .budget(Budget::monthly(Amount::cents(cents)));
        let made = keys.create(new).await.unwrap();
        let mut found = keys.find(&made.token).await.unwrap().unwrap().key().clone();
        assert_eq!(found.revoked_reason.take().as_deref(), Some("none"));
        assert_eq!(found, made.key);
    }
    for metadata in [r#"{"a": 1}"#, "{}"] {
        let metadata: Metadata = metadata.parse().unwrap();
        let updated = keys.update(FIRST, KeyPatch::new().metadata(metadata.clone())).await.unwrap();
        assert_eq!(updated.metadata, metadata);
    }
    keys.revoke(FIRST, None).await.unwrap();
}

#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn keys_without_a_name_stay_without_one() {
    let table = "CREATE TABLE sdk_api_keys (id serial PRIMARY KEY, account_id text, key_hash text UNIQUE, name text, \
        UNIQUE (account_id, name)); INSERT INTO sdk_api_keys (account_id, key_hash) \
        SELECT 'acme', encode(sha256(n::text::bytea), 'hex') FROM generate_series(1, 2) n";
    let Some(mut host) = Host::with(table).await else { return };
    let keys = AgentKeys::new(host.open(open_handed()).await.unwrap()).unwrap();
    for id in [1, 2] {
        keys.update(KeyId::new(id), KeyPatch::new().scopes(ScopeSet::none())).await.unwrap();
    }
    assert_eq!(
        host.text("SELECT string_agg(coalesce(name, 'NULL'), ',') FROM sdk_api_keys").await,
        "NULL,NULL"
    );
}
