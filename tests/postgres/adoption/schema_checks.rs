//! Tables that cannot be adopted are left as they were, and one error says why.

use agentkey::model::Period;
use agentkey::store::KeyColumn;

use super::*;

#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn one_error_lists_everything_that_is_wrong_and_nothing_is_changed() {
    let table = "CREATE TABLE sdk_api_keys (id text PRIMARY KEY, key_hash bytea, scopes text, name varchar(50), \
        period interval, expires_at date, limit_micros integer, prefix text GENERATED ALWAYS AS ('x') STORED)";
    let Some(mut host) = Host::with(table).await else { return };
    let before = host.everything().await;
    let error = host.refused(host.options().adopt(open_handed())).await;
    assert_eq!(
        error,
        "the store failed: agentkey cannot keep its keys in \"public\".\"sdk_api_keys\"; nothing was changed:\n\
         - the column \"id\" is text; Id is smallint, integer or bigint: change its type, or name another column with \
         `.column(KeyColumn::Id, …)`\n\
         - it has no column \"account_id\" for Account: name its column with `.column(KeyColumn::Account, …)`\n\
         - the column \"key_hash\" is bytea; Hash is text, varchar or char(64): change its type, or name another column \
         with `.column(KeyColumn::Hash, …)`\n\
         - the column \"prefix\" is generated, so Prefix cannot be written: name another with \
         `.column(KeyColumn::Prefix, …)`\n\
         - the column \"scopes\" is text; Scopes is text[] or varchar[]: change its type: a column added in its place \
         would be NULL for the existing keys, and would lift their restrictions\n\
         - the column \"limit_micros\" is integer; LimitMicros is bigint: take another column for it with \
         `.column(KeyColumn::LimitMicros, …)`; if there is no such column, it is added\n\
         - the column \"period\" is interval; Period is text or varchar: take another column for it with \
         `.column(KeyColumn::Period, …)`; if there is no such column, it is added\n\
         - the column \"expires_at\" is date; ExpiresAt is timestamp with or without time zone: change its type: a \
         column added in its place would be NULL for the existing keys, and would lift their restrictions\n\
         Or leave the table as it is and import its keys instead, with `AgentKeys::import`, if their hashes are SHA-256 in \
         hexadecimal or base64: see docs/adoption.md"
    );
    assert_eq!(host.everything().await, before);
}

/// Everything that is wrong with another kind of table is told too, and with the kind of its hashes.
#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn one_error_tells_of_the_kind_of_the_table_and_of_the_hashes_too() {
    let sql = "CREATE TABLE t (id text, account_id text, key_hash text); \
        INSERT INTO t VALUES ('a', 'acme', '$2b$10$N9qo8uLOickgx2ZMRZoMye'); CREATE VIEW v AS TABLE t; \
        CREATE TABLE p (id text, account_id text, key_hash text) PARTITION BY HASH (id); \
        CREATE TABLE p0 PARTITION OF p FOR VALUES WITH (MODULUS 1, REMAINDER 0); \
        INSERT INTO p VALUES ('a', 'acme', 'ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0')";
    let Some(mut host) = Host::with(sql).await else { return };
    let before = host.everything().await;
    for (table, kind, hashes) in [
        ("v", "it is a view", "keys with a hash of another kind need new tokens"),
        ("p", "it is a partitioned table", "in base64, as they seem to be, keys can be imported"),
    ] {
        let error = host.refused(host.options().table(table).adopt(open_handed())).await;
        let reasons =
            [kind, "\"id\" is text", "none of the 1 values", hashes, "import its keys instead"];
        assert!(reasons.iter().all(|reason| error.contains(reason)), "{table}: {error}");
        assert_eq!(error.matches("\n- ").count(), 3, "{table}: {error}");
    }
    assert_eq!(host.everything().await, before);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn an_id_and_a_hash_are_unique_by_themselves() {
    for (rest, wrong) in [
        ("UNIQUE (key_hash)", "\"id\" is not unique"),
        ("PRIMARY KEY (id)", "\"key_hash\" is not unique"),
        ("PRIMARY KEY (id), UNIQUE (key_hash, account_id)", "\"key_hash\" is not unique"),
        ("PRIMARY KEY (id), UNIQUE (key_hash) DEFERRABLE", "\"key_hash\" is not unique"),
        (
            "PRIMARY KEY (id)); CREATE UNIQUE INDEX ON sdk_api_keys (key_hash) WHERE (id > 0",
            "\"key_hash\" is not unique",
        ),
        (
            "PRIMARY KEY (id)); CREATE UNIQUE INDEX ON sdk_api_keys (lower(key_hash)",
            "\"key_hash\" is not unique",
        ),
        ("PRIMARY KEY (id)); CREATE INDEX ON sdk_api_keys (key_hash", "\"key_hash\" is not unique"),
    ] {
        let table =
            format!("CREATE TABLE sdk_api_keys (id int, account_id text, key_hash text, {rest})");
        let Some(mut host) = Host::with(&table).await else { return };
        let before = host.everything().await;
        let error = host.refused(host.options().adopt(open_handed())).await;
        assert!(error.contains(wrong) && error.matches("\n- ").count() == 1, "{rest}: {error}");
        assert_eq!(host.everything().await, before, "{rest}");
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn other_things_than_a_table_with_keys() {
    let sql = "CREATE TABLE t (id int PRIMARY KEY, account_id text, key_hash text UNIQUE); CREATE VIEW v AS TABLE t; \
        CREATE SCHEMA other; CREATE TABLE other.elsewhere (); \
        CREATE TABLE short (id int PRIMARY KEY, account_id text, key_hash varchar(63) UNIQUE); \
        CREATE TABLE upper (id int PRIMARY KEY, account_id text, key_hash text UNIQUE); \
        INSERT INTO upper VALUES (1, 'acme', upper(encode(sha256('a'), 'hex'))); \
        CREATE TABLE \"both\" (id int PRIMARY KEY, account_id text, key_hash text UNIQUE, limit_micros bigint, budget_cents int); \
        CREATE TABLE parts (id int, account_id text, key_hash text) PARTITION BY HASH (id)";
    let Some(mut host) = Host::with(sql).await else { return };
    let before = host.everything().await;
    for (table, reason) in [
        ("nowhere", "there is no such table in this database"),
        ("elsewhere", "there is one in the schema \"other\": `.table(\"other.elsewhere\")`"),
        ("v", "it is a view"),
        ("parts", "it is a partitioned table"),
        ("short", "\"key_hash\" is character varying(63); a hash has 64 characters"),
        ("upper", "none of the 1 values of \"key_hash\" is a SHA-256 in lower-case hexadecimal"),
        ("both", "it has both \"budget_cents\" and \"limit_micros\""),
        ("", "\"\" is not a valid name"),
        ("a{b", "no braces"),
    ] {
        let error = host.refused(host.options().table(table).adopt(open_handed())).await;
        assert!(error.contains(reason), "{table}: {error}");
    }
    for (adoption, reason) in [
        (open_handed().column(KeyColumn::Account, "key_hash"), "cannot be both Account and Hash"),
        (
            open_handed().column(KeyColumn::UsedCents, "used"),
            "it has no column \"used\" for UsedCents",
        ),
        (
            open_handed().column(KeyColumn::LimitCents, "cents"),
            "it has no column \"cents\" for LimitCents",
        ),
        (
            Adoption::new(ScopeSet::none(), Budget::daily(agentkey::Amount::micros(-1))),
            "a limit is zero or more",
        ),
        (
            Adoption::new(
                ScopeSet::none(),
                Budget::new(None, Period::Month).and_daily(agentkey::Amount::cents(5)),
            ),
            "has one limit",
        ),
    ] {
        let error = host.refused(host.options().table("t").adopt(adoption)).await;
        assert!(error.contains(reason), "{error}");
    }
    let error = host.refused(host.options().table("t")).await;
    assert!(
        error.contains("has not been adopted yet: say with `PostgresOptions::adopt"),
        "{error}"
    );
    let error = host.refused(host.options().table("t").adopt(open_handed()).migrate(false)).await;
    assert!(error.contains("PostgresStore::migration_sql"), "{error}");
    assert_eq!(host.everything().await, before);
}

/// Accounts are compared by their bytes wherever agentkey keeps them.
#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn accounts_that_are_equal_and_not_the_same_are_refused() {
    let sql = "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
        CREATE DOMAIN owner AS text COLLATE loose; \
        CREATE TABLE sdk_api_keys (id int PRIMARY KEY, account_id text COLLATE loose, key_hash text UNIQUE); \
        CREATE TABLE others (id int PRIMARY KEY, account_id owner, key_hash text UNIQUE); \
        CREATE TABLE fine (id int PRIMARY KEY, account_id text, key_hash text COLLATE loose UNIQUE, \
        budget_cents int, budget_used_cents int, external_subject text COLLATE loose); \
        INSERT INTO fine VALUES (1, 'acme', encode(sha256('obs_1'), 'hex'), 100, 1, 'Somebody')";
    let Some(mut host) = Host::with(sql).await else { return };
    let before = host.everything().await;
    for table in ["sdk_api_keys", "others"] {
        let error = host.refused(host.options().table(table).adopt(open_handed())).await;
        assert!(
            error.contains("- the column \"account_id\" has a collation that is not deterministic"),
            "{error}"
        );
    }
    assert_eq!(host.everything().await, before);
    let store =
        PostgresStore::open(host.options().table("fine").adopt(open_handed())).await.unwrap();
    assert_eq!(find(&store, &["obs_1"]).await.map_some(), [true]);
}

/// A service that says it in another way, such as with a boolean, would have those keys back.
#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn columns_that_are_added_to_keys_and_restrict_none_are_warned_of() {
    use crate::logs::{capture_logs, logged};

    let sql = "CREATE TABLE flags (id int PRIMARY KEY, account_id text, key_hash text UNIQUE, is_active bool); \
        CREATE TABLE no_keys_yet (LIKE flags INCLUDING ALL); \
        INSERT INTO flags VALUES (1, 'acme', encode(sha256('obs_1'), 'hex'), false)";
    let Some(host) = Host::with(sql).await else { return };
    capture_logs();
    for (schema, table, warnings) in [("a", "flags", 1), ("b", "no_keys_yet", 0)] {
        let options =
            host.options().schema(schema).table(format!("public.{table}")).adopt(open_handed());
        drop(PostgresStore::open(options.clone()).await.unwrap());
        drop(PostgresStore::open(options).await.unwrap());
        for column in ["expires_at", "revoked_at"] {
            let lines = logged(&["WARN", "is NULL for those keys", &format!("\"{table}"), column]);
            assert_eq!(lines.len(), warnings, "{table}: {lines:?}");
        }
    }
}

/// The balances of an adopted table are its own: ids of two tables would be mixed up.
#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn one_schema_is_for_one_table_of_keys() {
    use agentkey::{AgentKeys, NewKey};

    let sql = "CREATE TABLE sdk_api_keys (id int PRIMARY KEY, account_id text, key_hash text UNIQUE); \
        CREATE TABLE others (LIKE sdk_api_keys INCLUDING ALL)";
    let Some(host) = Host::with(sql).await else { return };
    let plain = PostgresOptions::new(host.database.url());
    let keys = AgentKeys::new(PostgresStore::open(plain.clone()).await.unwrap()).unwrap();
    keys.create(NewKey::new("acme".parse().unwrap())).await.unwrap();
    let error = host.refused(host.options().adopt(open_handed())).await;
    assert!(error.contains("choose another schema"), "{error}");
    let options = host.options().table("public.sdk_api_keys").schema("beside").adopt(open_handed());
    PostgresStore::open(options.clone()).await.unwrap();
    let error = host.refused(options.table("public.others")).await;
    assert!(error.contains("belong to \"public\".\"sdk_api_keys\""), "{error}");
    let error = host.refused(plain.schema("beside")).await;
    assert!(error.contains("open it with `PostgresOptions::table`"), "{error}");
}

/// What the role cannot see it could not take over.
#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn balances_are_not_taken_over_behind_row_security() {
    let Some(mut host) = Host::with(&npm::TABLE).await else { return };
    let role = format!("{}_role", host.database.name());
    host.run(&format!(
        "CREATE ROLE {role} LOGIN; ALTER TABLE sdk_api_keys OWNER TO {role}; GRANT ALL ON SCHEMA public TO {role}; \
         ALTER TABLE sdk_api_keys ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
    ))
    .await;
    let error = host.refused(host.options_as(&role).adopt(open_handed())).await;
    assert!(error.contains("row security is in force"), "{error}");
    host.run("ALTER TABLE sdk_api_keys NO FORCE ROW LEVEL SECURITY").await;
    drop(PostgresStore::open(host.options_as(&role).adopt(open_handed())).await.unwrap());
    host.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}
