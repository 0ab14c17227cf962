//! An adoption happens once, however many processes open the store, and also if its SQL is run by `psql`.

use agentkey::Amount;
use agentkey::store::KeyColumn;

use super::*;

/// All that an adoption makes, but for ids and instants.
const MADE: &str = "SELECT concat_ws(' ', (SELECT count(*) FROM agentkey_entries), (SELECT sum(amount) FROM agentkey_entries), \
    (SELECT sum(spent) FROM agentkey_balances), (SELECT count(anchor) FROM agentkey_balances), \
    (SELECT sum(spent) FROM agentkey_accounts), (SELECT string_agg(columns::text, '') FROM agentkey_adoption), \
    (SELECT count(*) FROM agentkey_migrations))";

const ROWS: &str = "INSERT INTO sdk_api_keys (account_id, key_prefix, key_hash, budget_cents, budget_used_cents, budget_period, \
    budget_reset_at, external_subject) SELECT 1 + n % 3, 'obs_', encode(sha256(('obs_' || n)::bytea), 'hex'), 100, n, 'month', \
    now() + interval '2 days', E'it''s \\\\ ' || n FROM generate_series(1, 20) n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn eight_open_at_once_and_again() {
    let Some(mut host) = Host::with(&npm::TABLE).await else { return };
    host.run(ROWS).await;
    host.clock.set(jiff::Timestamp::now());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let options = host.options().adopt(open_handed());
        tasks.spawn(async move { PostgresStore::open(options).await.map(drop) });
    }
    for opened in tasks.join_all().await {
        opened.unwrap();
    }
    let (made, shape) = (host.text(MADE).await, host.everything().await);
    assert!(made.starts_with("20 2100000 2100000 20 2100000 "), "{made}");
    // What the old package would have written since is not looked at.
    host.run("UPDATE sdk_api_keys SET budget_used_cents = 99").await;
    for options in
        [host.options(), host.options().adopt(open_handed()), host.options().migrate(false)]
    {
        assert_eq!(PostgresStore::migration_sql(options.clone()).await.unwrap(), "");
        drop(PostgresStore::open(options).await.unwrap());
    }
    assert_eq!((host.text(MADE).await, host.everything().await), (made, shape));
}

#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn by_hand_it_is_the_same() {
    let Some(mut opened) = Host::with(&npm::TABLE).await else { return };
    let Some(mut by_hand) = Host::with(&npm::TABLE).await else { return };
    let adoption = || {
        let scopes = ScopeSet::parse(["read", "it's", "a\\b"].into_iter().take(2)).unwrap();
        Adoption::new(scopes, Budget::daily(Amount::cents(7)))
            .column(KeyColumn::Prefix, "the 'prefix' \\")
    };
    opened.clock.set(jiff::Timestamp::now());
    opened.run(ROWS).await;
    opened.open(adoption()).await.unwrap();

    by_hand.run(ROWS).await;
    let before = by_hand.everything().await;
    let sql = PostgresStore::migration_sql(by_hand.options().adopt(adoption())).await.unwrap();
    assert_eq!(by_hand.everything().await, before);
    assert!(
        sql.starts_with("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;")
            && sql.ends_with("COMMIT;\n"),
        "{sql}"
    );
    // As psql would, whatever the session's settings are.
    by_hand.run("SET standard_conforming_strings = off; SET escape_string_warning = off").await;
    by_hand.run(&sql).await;
    assert_eq!(by_hand.text(MADE).await, opened.text(MADE).await);
    assert_eq!(by_hand.everything().await, opened.everything().await);
    by_hand.clock.set(jiff::Timestamp::now());
    for host in [&by_hand, &opened] {
        let store = PostgresStore::open(host.options().migrate(false)).await.unwrap();
        let found = find(&store, &["obs_20"]).await.remove(0).unwrap();
        assert_eq!(found.remaining(), Some(Amount::cents(80)));
        assert_eq!(found.scopes(None), ScopeSet::parse(["read", "it's"]).unwrap());
    }
    // A second run fails whole, as the first one stands.
    assert!(by_hand.connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.is_err());
}

/// Behind a pooler that gives every transaction another session, nothing is different.
#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn with_transactions_only() {
    let Some(mut host) = Host::with(&npm::TABLE).await else { return };
    host.run(ROWS).await;
    host.clock.set(jiff::Timestamp::now());
    let store = PostgresStore::open(host.options().adopt(open_handed()).transaction_pooling(true))
        .await
        .unwrap();
    assert_eq!(
        find(&store, &["obs_20"]).await[0].as_ref().unwrap().remaining(),
        Some(Amount::cents(80))
    );
}

#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn an_adoption_is_of_a_table() {
    let Some(host) = Host::with("").await else { return };
    let options = PostgresOptions::new(host.database.url()).adopt(open_handed());
    assert!(host.refused(options).await.contains("name it with `table`"));
}

/// Our own tables are printed as well.
#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn without_a_table_of_the_application_it_is_printed_too() {
    let Some(mut host) = Host::with("").await else { return };
    let options = PostgresOptions::new(host.database.url()).schema("keys of ours");
    let sql = PostgresStore::migration_sql(options.clone()).await.unwrap();
    host.run(&sql).await;
    assert_eq!(PostgresStore::migration_sql(options.clone()).await.unwrap(), "");
    let store = PostgresStore::open(options.migrate(false)).await.unwrap();
    assert_eq!(find(&store, &["obs_1"]).await.map_some(), [false]);
}

/// A later opening cannot change what NULL means.
#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn what_was_said_stands() {
    let Some(mut host) = Host::with(&npm::TABLE).await else { return };
    host.run(ROWS).await;
    host.open(open_handed()).await.unwrap();
    let other = Adoption::new(ScopeSet::parse(["read"]).unwrap(), Budget::daily(Amount::cents(7)));
    let error = host.refused(host.options().adopt(other.clone())).await;
    let change = "UPDATE \"public\".\"agentkey_adoption\" SET scopes = ARRAY['read']::text[], limit_micros = 70000, \
        period = 'day'";
    assert!(
        error.contains(&format!("{change}; and restart every process that has it open")),
        "{error}"
    );
    host.run(change).await;
    let store = host.open(other).await.unwrap();
    let found = find(&store, &["obs_1"]).await.remove(0).unwrap();
    assert_eq!(found.scopes(None), ScopeSet::parse(["read"]).unwrap());
    let error = host
        .refused(host.options().adopt(open_handed().column(KeyColumn::Account, "user_id")))
        .await;
    assert!(error.contains("was adopted with the column \"account_id\" for Account"), "{error}");
}

/// Added again they would be empty: what was revoked, has expired or may do little would be in force.
#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn dropped_columns_are_reported_and_not_added_again() {
    let Some(mut host) = Host::with(&npm::TABLE).await else { return };
    host.run(
        "INSERT INTO sdk_api_keys (account_id, key_prefix, key_hash, revoked_at) VALUES (5, 'obs_', encode(sha256('obs_1'), 'hex'), now())",
    )
    .await;
    drop(host.open(open_handed()).await.unwrap());
    host.run(
        "ALTER TABLE sdk_api_keys RENAME revoked_at TO ended_at; ALTER TABLE sdk_api_keys RENAME scopes TO rights; \
         ALTER TABLE sdk_api_keys DROP COLUMN budget_cents",
    )
    .await;
    let before = host.everything().await;
    for options in
        [host.options(), host.options().adopt(open_handed()), host.options().migrate(false)]
    {
        let error = host.refused(options.clone()).await;
        for (column, field) in
            [("scopes", "Scopes"), ("budget_cents", "LimitCents"), ("revoked_at", "RevokedAt")]
        {
            assert!(
                error.contains(&format!("it has no column \"{column}\" for {field}")),
                "{error}"
            );
        }
        assert_eq!(error.matches("\n- ").count(), 3, "{error}");
        assert_eq!(super::text(&PostgresStore::migration_sql(options).await.unwrap_err()), error);
    }
    assert_eq!(host.everything().await, before);

    // As the error says.
    host.run(
        "ALTER TABLE sdk_api_keys ADD COLUMN budget_cents int; UPDATE \"public\".\"agentkey_adoption\" \
         SET columns = columns || '{\"revoked_at\": \"ended_at\"}' || '{\"scopes\": \"rights\"}'",
    )
    .await;
    let store = PostgresStore::open(host.options()).await.unwrap();
    assert!(find(&store, &["obs_1"]).await[0].as_ref().unwrap().check_active().is_err());
}
