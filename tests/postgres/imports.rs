//! Keys of other programs, imported with the SELECTs of docs/adoption.md.

use agentkey::model::{ChangeError, Clock, Lineage, ManualClock, TokenHash};
use agentkey::store::{Adoption, PostgresOptions, Store};
use agentkey::{
    AgentKeys, Amount, Budget, KeyImport, NewKey, Opening, PostgresStore, Refusal, ScopeSet,
};
use jiff::Timestamp;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPool;

use crate::documented::{block, import, is_in};
use crate::postgres_server::{Database, Server};

const DOCUMENT: &str = include_str!("../../docs/adoption.md");

/// The noon at which the keys of another program are imported.
struct Imported {
    clock: ManualClock,
    store: PostgresStore,
    /// How many keys were imported.
    new: usize,
    _database: Database,
}

impl Imported {
    /// Imports the keys of these tables with the SELECT below a heading, twice.
    async fn from(heading: &str, tables: &str) -> Option<Self> {
        is_in(DOCUMENT, "import");
        let database = Server::shared()?.database().await;
        let pool = PgPool::connect(database.url()).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(tables.to_owned())).execute(&pool).await.unwrap();
        let clock = ManualClock::at("2026-11-26T12:00:00Z".parse().unwrap());
        // Programs call their table as ours may be called: ours have a schema of their own.
        let options =
            PostgresOptions::new(database.url()).schema("agentkey").clock(Clock::from(&clock));
        let store = PostgresStore::open(options).await.unwrap();
        let keys = AgentKeys::new(store.clone()).unwrap();
        let select = block(DOCUMENT, heading, "sql");
        let new = import(&keys, &pool, &select).await.unwrap();
        assert_eq!(import(&keys, &pool, &select).await.unwrap(), 0, "all are known");
        pool.close().await;
        Some(Self { clock, store, new, _database: database })
    }

    async fn try_find(&self, token: &str) -> Option<Lineage> {
        let found = self.store.find(&[TokenHash::digest(token)]).await.unwrap().remove(0);
        found.map(|found| found.lineage)
    }

    async fn find(&self, token: &str) -> Lineage {
        self.try_find(token).await.unwrap_or_else(|| panic!("{token} was not imported"))
    }

    fn resets_at(&self, found: &Lineage) -> Option<Timestamp> {
        found.key().resets_at(self.clock.now())
    }

    async fn spent_by(&self, account: &str) -> Amount {
        let account = self.store.account(&account.parse().unwrap()).await.unwrap();
        account.map_or(Amount::ZERO, |account| account.balance.spent())
    }
}

fn scopes(list: &[&str]) -> ScopeSet {
    ScopeSet::parse(list).unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn money(text: &str) -> Amount {
    text.parse().unwrap()
}

#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn keys_of_litellm() {
    let Some(it) = Imported::from("### From LiteLLM", include_str!("tables/litellm.sql")).await
    else {
        return;
    };
    let found = it.find("sk-litellm-monthly-0001").await;
    let key = found.key();
    assert_eq!((key.name.as_str(), key.start.as_str()), ("monthly", "sk-...0001"));
    assert_eq!((found.account_id().as_str(), found.delegated_by()), ("user-1", Some("user-1")));
    assert_eq!(key.scopes, scopes(&["model:gpt-4o"]));
    assert_eq!(key.budget, Budget::monthly(money("25")));
    // The float is 0.30000000000000004, and what is finer than a micro-unit counts as one.
    assert_eq!(key.balance.spent(), money("0.300001"));
    assert_eq!(it.resets_at(&found), Some(at("2026-12-01T00:00:00Z")));
    assert_eq!(found.expires_at(), Some(at("2027-01-01T00:00:00Z")));
    assert_eq!(key.metadata.to_string(), r#"{"team":"a"}"#);

    let found = it.find("sk-litellm-lifetime-0002").await;
    assert_eq!(found.key().scopes, scopes(&["model:*"]));
    assert_eq!(found.key().budget, Budget::lifetime(money("0.1")));
    assert_eq!(found.key().balance.spent(), money("0.00001"));
    assert_eq!(it.spent_by("user-1").await, money("0.300011"));

    let found = it.find("sk-litellm-team-0003").await;
    assert_eq!((found.account_id().as_str(), found.delegated_by()), ("search", Some("user-2")));
    assert_eq!(found.key().scopes, scopes(&["model:gpt-4o", "model:gpt-4o-mini"]));
    assert_eq!((found.remaining(), found.key().balance.spent()), (None, money("7")));
    let found = it.find("sk-litellm-budget-0004").await;
    assert_eq!(found.key().scopes, scopes(&["model:gpt-4o"]), "what the team allows too");
    assert_eq!(found.key().budget, Budget::daily(money("2.5")));
    assert_eq!(
        (found.remaining(), it.resets_at(&found)),
        (Some(Amount::ZERO), Some(at("2026-11-27T00:00:00Z")))
    );
    assert_eq!(it.spent_by("search").await, money("9.5"));

    for (token, refusal) in [
        ("sk-litellm-blocked-0005", Refusal::DisabledKey),
        ("sk-litellm-blockedteam-0006", Refusal::DisabledKey),
        ("sk-litellm-expired-0007", Refusal::ExpiredKey),
    ] {
        assert_eq!(it.find(token).await.check_active(), Err(refusal), "{token}");
    }
    // No period is half an hour, and no scope is a pattern of that kind: a line says so.
    for token in ["sk-litellm-minutes-0008", "sk-litellm-wildcard-0009"] {
        assert!(it.try_find(token).await.is_none(), "{token}");
    }
    assert_eq!(it.new, 7);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn keys_of_better_auth() {
    let tables = include_str!("tables/better-auth.sql");
    let Some(it) = Imported::from("### From Better Auth", tables).await else { return };
    let token = |n: u32| format!("app_QwErTyUiOpAsDfGhJkLzXcVbNm{n:04}");
    let found = it.find(&token(1)).await;
    let key = found.key();
    assert_eq!((key.name.as_str(), key.start.as_str()), ("plain", "app_Qw"));
    assert_eq!((found.account_id().as_str(), found.remaining()), ("user-1", None));
    assert_eq!(key.scopes, scopes(&["files:read", "files:write", "chat:send"]));
    assert_eq!(key.metadata.to_string(), r#"{"plan":"pro"}"#);
    let found = it.find(&token(2)).await;
    assert_eq!(found.key().budget, Budget::lifetime(Amount::cents(40)));
    assert_eq!(
        (found.key().scopes.clone(), found.expires_at()),
        (ScopeSet::none(), Some(at("2027-01-01T00:00:00Z")))
    );
    assert_eq!(found.key().metadata.to_string(), "{}");
    let found = it.find(&token(3)).await;
    assert_eq!(found.key().budget, Budget::daily(Amount::cents(100)));
    assert_eq!(
        (found.remaining(), it.resets_at(&found)),
        (Some(Amount::cents(25)), Some(at("2026-11-27T06:00:00Z")))
    );
    assert_eq!(found.key().metadata.to_string(), r#"{"plan":"free"}"#);
    assert_eq!(it.find(&token(4)).await.check_active(), Err(Refusal::DisabledKey));
    assert!(it.try_find(&token(5)).await.is_none(), "no period is an hour");
    assert_eq!((it.new, it.spent_by("user-2").await), (4, Amount::cents(75)));
}

#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn keys_of_unkey() {
    let Some(it) = Imported::from("### From Unkey", include_str!("tables/unkey.sql")).await else {
        return;
    };
    let token = |n: u32| format!("uk_3ZyTqK8mWbRxNvCdLpHs{n:04}");
    let found = it.find(&token(1)).await;
    assert_eq!((found.account_id().as_str(), found.key().start.as_str()), ("user-1", "uk_3ZyT"));
    assert_eq!(found.key().scopes, scopes(&["documents.read", "settings.*"]));
    assert_eq!(found.expires_at(), Some(at("2027-01-01T00:00:00Z")));
    assert_eq!(found.key().metadata.to_string(), r#"{"plan":"pro"}"#);
    let found = it.find(&token(2)).await;
    assert_eq!(
        (found.account_id().as_str(), found.key().budget),
        ("ws_1", Budget::lifetime(Amount::cents(40)))
    );
    let found = it.find(&token(3)).await;
    assert_eq!(found.key().budget, Budget::daily(Amount::cents(100)).calendar());
    assert_eq!(
        (found.remaining(), it.resets_at(&found)),
        (Some(Amount::cents(25)), Some(at("2026-11-27T00:00:00Z")))
    );
    let found = it.find(&token(4)).await;
    assert_eq!(found.key().budget, Budget::monthly(Amount::cents(1_000)));
    assert_eq!(
        (found.remaining(), it.resets_at(&found)),
        (Some(Amount::cents(900)), Some(at("2026-12-15T00:00:00Z")))
    );
    assert_eq!(it.find(&token(5)).await.check_active(), Err(Refusal::DisabledKey));
    for left_out in [6, 7] {
        assert!(it.try_find(&token(left_out)).await.is_none(), "{left_out}");
    }
    assert_eq!(it.new, 5);
}

fn of_account(account: &str, n: usize) -> KeyImport {
    let key = NewKey::new(account.parse().unwrap()).name(format!("key {n}"));
    let hash = TokenHash::digest(&format!("sk-{n:08}"));
    KeyImport::new(key, hash).opening(Opening::spent(Amount::cents(1)))
}

/// Two processes that import the same keys at once, into different accounts, make each of them once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn two_imports_at_once_make_each_key_once() {
    const KEYS: usize = 1_000;
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let open = async || AgentKeys::postgres(database.url()).await.unwrap();
    let (here, there) = (open().await, open().await);
    let imports = |account: &'static str| (0..KEYS).map(move |n| of_account(account, n));
    let (mine, yours) = tokio::join!(here.import(imports("mine")), there.import(imports("yours")));
    let (mine, yours) = (mine.unwrap(), yours.unwrap());
    for (mine, yours) in mine.iter().zip(&yours) {
        let (mine, yours) = (mine.as_ref().unwrap(), yours.as_ref().unwrap());
        assert_eq!(mine.key(), yours.key());
        assert_ne!(mine, yours, "one of them made it");
    }
    let mut spent = Amount::ZERO;
    for account in ["mine", "yours"] {
        if let Some(account) = here.account(&account.parse().unwrap()).await.unwrap() {
            spent = spent.checked_add(account.balance.spent()).unwrap();
        }
    }
    assert_eq!(spent, Amount::cents(1_000));
    here.shutdown().await;
    there.shutdown().await;
}

/// A rule of an adopted table refuses the keys that it does not allow, and no others.
#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_rule_of_the_table_refuses_one_key() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let pool = PgPool::connect(database.url()).await.unwrap();
    let table = "CREATE TABLE sdk_api_keys (id serial PRIMARY KEY, account_id text, key_hash text UNIQUE, \
        name text UNIQUE CHECK (name <> 'key 3'))";
    sqlx::raw_sql(table).execute(&pool).await.unwrap();
    let adoption = Adoption::new(ScopeSet::none(), Budget::unlimited());
    let options = PostgresOptions::new(database.url()).table("sdk_api_keys").adopt(adoption);
    let keys = AgentKeys::new(PostgresStore::open(options).await.unwrap()).unwrap();
    let taken = KeyImport::new(
        NewKey::new("acme".parse().unwrap()).name("key 1"),
        TokenHash::digest("sk-taken-name"),
    );
    let imports = (0..5).map(|n| of_account("acme", n)).chain([taken]);
    let answers = keys.import(imports).await.unwrap();
    for (n, answer) in answers.iter().enumerate() {
        match n {
            3 | 5 => {
                assert!(matches!(answer, Err(ChangeError::TableRule { .. })), "{n}: {answer:?}")
            }
            _ => assert!(matches!(answer, Ok(agentkey::Imported::New(_))), "{n}: {answer:?}"),
        }
    }
    let account = keys.account(&"acme".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(account.balance.spent(), Amount::cents(4));
    keys.shutdown().await;
    pool.close().await;
}
