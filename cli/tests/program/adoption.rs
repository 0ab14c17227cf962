//! `adopt`: keys in a table of the application's own.

use agentkey::Token;
use agentkey::model::TokenHash;
use sqlx::{AssertSqlSafe, Connection};

use crate::world::World;

async fn execute(url: &str, sql: &str) {
    let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

const TOKEN: &str = "sk-adopted-0123456789";

async fn with_table() -> Option<World> {
    let world = World::empty_postgres().await?;
    let hash = TokenHash::digest(TOKEN);
    let table = format!(
        "CREATE TABLE user_keys (id bigserial PRIMARY KEY, user_id text NOT NULL, key_hash text UNIQUE NOT NULL, \
         scopes text[], status text); \
         INSERT INTO user_keys (user_id, key_hash, status) VALUES ('acme', '{hash}', 'ok')"
    );
    execute(world.database(), &table).await;
    Some(world)
}

const ADOPT: [&str; 10] = [
    "adopt",
    "user_keys",
    "--null-scopes",
    "read",
    "--null-limit",
    "20/month",
    "--column",
    "account=user_id",
    "--ignore",
    "status",
];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_table_is_adopted_and_used() {
    let Some(world) = with_table().await else { return };
    let sql = world.ok(&[&ADOPT[..], &["--print"]].concat());
    assert!(sql.contains("ALTER TABLE") && sql.contains("user_keys"), "{sql}");
    let table = ["--table", "user_keys"];
    world.fails(&[&["key", "list"][..], &table].concat(), 4, &["`agentkey adopt`"]);

    let said = world.ok(&ADOPT);
    assert!(said.contains("`--table user_keys`"), "{said}");
    assert_eq!(world.json(&ADOPT)["was_needed"], false, "a second time changes nothing");
    let listed = world.json(&[&["key", "list"][..], &table].concat());
    assert_eq!(listed["keys"][0]["account"], "acme");
    assert_eq!(listed["keys"][0]["scopes"][0], "read");
    assert_eq!(listed["keys"][0]["budgets"][0]["limit_cents"], 2_000);
    world.ok(&[&["key", "disable", "1"][..], &table].concat());
    world.fails(&["key", "list"], 4, &["`--table`"]);

    let options = agentkey::store::PostgresOptions::new(world.database()).table("user_keys");
    let store = agentkey::PostgresStore::open(options).await.unwrap();
    let service = agentkey::AgentKeys::new(store).unwrap();
    let found = service.find(&Token::parse_foreign(TOKEN).unwrap()).await.unwrap().unwrap();
    assert!(found.key().disabled_at.is_some());
    service.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_table_that_cannot_be_adopted_says_all_that_is_wrong() {
    let Some(world) = with_table().await else { return };
    let bare = ["adopt", "user_keys", "--null-scopes", "*", "--null-limit", "none"];
    let said = world.fails(
        &bare,
        4,
        &["account_id", "`--column account=COLUMN`", "`--ignore status`", "nothing was changed"],
    );
    assert!(said.contains("`agentkey key import`"), "{said}");
    world.fails(
        &["adopt", "no_such", "--null-scopes", "*", "--null-limit", "none"],
        4,
        &["no_such"],
    );
    world.fails(&["adopt", "user_keys", "--null-scopes", "*"], 2, &["--null-limit"]);
    world.fails(
        &[&bare[..], &["--column", "owner=user_id"]].concat(),
        2,
        &["FIELD=COLUMN", "account"],
    );
    world.fails(&[&bare[..], &["--off", "status=never"]].concat(), 2, &["COLUMN=false"]);
    world.fails(&[&bare[..], &["--table", "others"]].concat(), 2, &["leave them out"]);
}
