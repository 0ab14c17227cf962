//! A proxy that leads to a standby that lags: no request is answered by its data.

use std::time::Instant;

use agentkey::{AgentKeys, Error};

use super::*;
use crate::proxy::Proxy;

fn is_refused<T>(found: &Result<T, Error>) -> bool {
    matches!(found, Err(Error::Refused(Refusal::Unavailable { .. })))
}

async fn a_key_revoked_on_the_primary_is_in_force_nowhere(max_staleness: Duration) {
    let Some(primary) = Server::start(&[]) else { return };
    let database = primary.database().await;
    let direct = AgentKeys::postgres(database.url()).await.unwrap();
    let created = direct.create(NewKey::new("acme".parse().unwrap())).await.unwrap();
    let standby = Arc::new(primary.replica(false).await);
    let own = host(&standby.url(database.name())).await;
    until(async || count(&own, "SELECT count(*) FROM agent_keys").await == 1).await;
    execute(&own, "ALTER SYSTEM SET recovery_min_apply_delay = '1h'").await;
    execute(&own, "SELECT pg_reload_conf()").await;
    let proxy = Proxy::to(&primary).await;
    let keys = AgentKeys::builder()
        .cache(max_staleness)
        .build(PostgresStore::connect(&proxy.url(database.name())).await.unwrap())
        .unwrap();
    let found = async || keys.find(&created.token).await;
    for _ in 0..20 {
        // Long enough for a cache to be trusted.
        tokio::time::sleep(Duration::from_millis(20)).await;
        found().await.unwrap().unwrap().check_active().unwrap();
    }

    proxy.turn_to(&standby);
    direct.revoke(created.key.id, None).await.unwrap();
    let revoked_at = Instant::now();
    until(async || {
        let (asked_at, found) = (revoked_at.elapsed(), found().await);
        assert!(is_refused(&found) || asked_at < max_staleness, "{asked_at:?}: {found:?}");
        is_refused(&found)
    })
    .await;
    let late = direct.create(NewKey::new("acme".parse().unwrap())).await.unwrap();
    for _ in 0..5 {
        assert!(is_refused(&found().await), "{:?}", found().await);
        let missing = keys.find(&late.token).await;
        assert!(is_refused(&missing), "one that the standby does not have: {missing:?}");
        assert!(
            matches!(keys.find_by_id(created.key.id).await, Err(Error::Store(error)) if error.is_transient())
        );
    }
    assert_eq!(
        count(&own, "SELECT count(*) FROM agent_keys WHERE revoked_at IS NULL").await,
        1,
        "it is behind"
    );

    proxy.turn_to(&primary);
    until(async || !is_refused(&found().await)).await;
    assert!(found().await.unwrap().unwrap().check_active().is_err());

    proxy.turn_to(&standby);
    until(async || is_refused(&found().await)).await;
    blocking(&standby, |standby| standby.promote()).await;
    until(async || !is_refused(&found().await)).await;
    assert!(found().await.unwrap().unwrap().check_active().is_err());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_standby_that_lags_lets_no_revoked_key_in() {
    a_key_revoked_on_the_primary_is_in_force_nowhere(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_standby_that_lags_lets_no_cached_key_in() {
    a_key_revoked_on_the_primary_is_in_force_nowhere(Duration::from_millis(500)).await;
}
