//! Keys that the application's own software has switched off are not let in.

use agentkey::store::SwitchedOff;
use agentkey::{AgentKeys, KeyId, KeyPatch, Refusal};

use super::*;

/// A table with two keys, of which the second one is switched off by these columns.
fn table(columns: &str, on: &str, off: &str) -> String {
    format!(
        "CREATE TABLE sdk_api_keys (id serial PRIMARY KEY, account_id text, key_hash text UNIQUE, {columns}); \
         INSERT INTO sdk_api_keys SELECT 1, 'acme', encode(sha256('obs_1'), 'hex'), {on}; \
         INSERT INTO sdk_api_keys SELECT 2, 'acme', encode(sha256('obs_2'), 'hex'), {off}; \
         INSERT INTO sdk_api_keys VALUES (3, 'acme', encode(sha256('obs_3'), 'hex')); \
         SELECT setval('sdk_api_keys_id_seq', 3)"
    )
}

async fn active(store: &PostgresStore) -> [Result<(), Refusal>; 3] {
    let found = find(store, &["obs_1", "obs_2", "obs_3"]).await;
    let mut found = found.into_iter().map(|found| found.expect("a key").check_active());
    std::array::from_fn(|_| found.next().unwrap())
}

#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn columns_that_say_so_are_read_as_switches() {
    for (columns, on, off) in [
        ("enabled boolean", "true", "false"),
        ("\"isActive\" boolean", "true", "false"),
        ("is_active smallint", "1", "0"),
        ("blocked boolean", "false", "true"),
        ("is_deleted int", "0", "1"),
        ("deleted_at timestamp", "NULL::timestamp", "'2026-01-01'::timestamp"),
        ("suspended_on date", "NULL::date", "'2026-01-01'::date"),
        ("revoked boolean, disabled_at timestamptz", "false, NULL", "true, NULL"),
        (
            "enabled boolean, deleted_at timestamptz",
            "true, NULL",
            "true, '2026-01-01'::timestamptz",
        ),
    ] {
        let Some(mut host) = Host::with(&table(columns, on, off)).await else { return };
        let store = host.open(open_handed()).await.unwrap();
        // The third row has NULL, which is never off.
        assert_eq!(active(&store).await, [Ok(()), Err(Refusal::DisabledKey), Ok(())], "{columns}");

        // It is read on every request, by every opening.
        let first = columns.split_whitespace().next().unwrap();
        let (off, _) = off.split_once(',').unwrap_or((off, ""));
        if !columns.contains("enabled boolean, deleted_at") {
            host.run(&format!("UPDATE sdk_api_keys SET {first} = {off} WHERE id = 1")).await;
            let later = PostgresStore::open(host.options()).await.unwrap();
            for store in [&store, &later] {
                assert_eq!(active(store).await[0], Err(Refusal::DisabledKey), "{columns}");
            }
            let (on, _) = on.split_once(',').unwrap_or((on, ""));
            host.run(&format!("UPDATE sdk_api_keys SET {first} = {on} WHERE id = 2")).await;
            assert_eq!(active(&store).await[1], Ok(()), "{columns}");
        }
    }
}

/// A key is switched on where it was switched off, and a pause of agentkey's own is another matter.
#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_switch_is_the_applications_and_a_pause_is_ours() {
    let Some(mut host) = Host::with(&table("enabled boolean", "true", "false")).await else {
        return;
    };
    let store = host.open(open_handed()).await.unwrap();
    let keys = AgentKeys::new(store.clone()).unwrap();
    let resume = async |id| keys.update(KeyId::new(id), KeyPatch::new().disabled(false)).await;
    let error = resume(2).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "disabled: the column \"enabled\" of the application's own table switches the key off: switch it on there"
    );
    host.run("UPDATE sdk_api_keys SET enabled = true").await;
    assert_eq!(active(&store).await, [Ok(()), Ok(()), Ok(())]);
    keys.update(KeyId::new(1), KeyPatch::new().disabled(true)).await.unwrap();
    assert_eq!(active(&store).await[0], Err(Refusal::DisabledKey));
    assert_eq!(host.text("SELECT enabled FROM sdk_api_keys WHERE id = 1").await, "true");
    resume(1).await.unwrap();
    assert_eq!(active(&store).await, [Ok(()), Ok(()), Ok(())]);
    keys.update(KeyId::new(2), KeyPatch::new().name("x")).await.unwrap();
    let named = "SELECT concat_ws(' ', name, enabled) FROM sdk_api_keys WHERE id = 2";
    assert_eq!(host.text(named).await, "x t");
}

#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_column_that_may_be_a_switch_is_asked_about() {
    let columns = "status text, enabled text, in_use boolean, valid_key boolean";
    let Some(mut host) =
        Host::with(&table(columns, "'on', 'y', true, true", "'off', 'n', false, true")).await
    else {
        return;
    };
    let before = host.everything().await;
    let error = host.refused(host.options().adopt(open_handed())).await;
    for column in ["\"status\" (text)", "\"enabled\" (text)"] {
        let problem =
            format!("the column {column} may switch keys off, and agentkey cannot tell when");
        assert!(error.contains(&problem), "{error}");
    }
    assert!(
        error.contains("`.ignore(\"status\")`") && error.matches("\n- ").count() == 2,
        "{error}"
    );
    for (adoption, reason) in [
        (
            open_handed().switch("status", SwitchedOff::WhenFalse),
            "\"status\" is text, which is neither true nor false",
        ),
        (
            open_handed().switch("nowhere", SwitchedOff::WhenSet),
            "it has no column \"nowhere\" to switch keys off",
        ),
    ] {
        let error = host.refused(host.options().adopt(adoption.ignore("enabled"))).await;
        assert!(error.contains(reason), "{error}");
    }
    assert_eq!(host.everything().await, before);

    // As the error says.
    host.run("ALTER TABLE sdk_api_keys ADD COLUMN is_off boolean GENERATED ALWAYS AS (status <> 'on') STORED").await;
    let adoption = || {
        open_handed()
            .switch("is_off", SwitchedOff::WhenTrue)
            .ignore("status")
            .ignore("enabled")
            .switch("in_use", SwitchedOff::WhenFalse)
    };
    let store = host.open(adoption()).await.unwrap();
    assert_eq!(active(&store).await, [Ok(()), Err(Refusal::DisabledKey), Ok(())]);
    host.run("UPDATE sdk_api_keys SET status = 'on' WHERE id = 2").await;
    assert_eq!(active(&store).await[1], Err(Refusal::DisabledKey), "it is not in use");
    host.run("UPDATE sdk_api_keys SET in_use = true WHERE id = 2").await;
    assert_eq!(active(&store).await[1], Ok(()));
    drop(host.open(adoption()).await.unwrap());
    let error = host
        .refused(host.options().adopt(open_handed().switch("valid_key", SwitchedOff::WhenFalse)))
        .await;
    assert!(
        error.contains("was adopted with another meaning of the column \"valid_key\""),
        "{error}"
    );

    // Without the column, nothing would keep such keys out.
    host.run("ALTER TABLE sdk_api_keys DROP COLUMN is_off").await;
    let error = host.refused(host.options()).await;
    let change = "UPDATE \"public\".\"agentkey_adoption\" SET switches = switches - 'is_off'";
    assert!(error.contains("no column \"is_off\" any more") && error.contains(change), "{error}");
    host.run(change).await;
    drop(PostgresStore::open(host.options()).await.unwrap());
}
