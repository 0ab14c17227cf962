//! Sessions through `AgentKeys`, on every store: their policy, their end, and their signing keys.

#![cfg(all(feature = "sessions", feature = "sqlite"))]

use std::time::Duration;

use agentkey::model::{ChangeError, ManualClock};
use agentkey::session::{NewSession, OpenedSession, SessionId, Sessions, SigningKey};
use agentkey::store::{SqliteOptions, Store};
use agentkey::{
    AgentKeys, Amount, Budget, Error, Grace, KeyId, KeyPatch, MemoryStore, NewKey, Refusal,
    ScopeSet, SqliteStore, Token,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

#[cfg(feature = "postgres")]
#[path = "support/postgres.rs"]
mod postgres_server;

const MINUTE: Duration = Duration::from_secs(60);
const MICRO: Duration = Duration::from_micros(1);

fn clock() -> ManualClock {
    // No whole second, so that a token that counts in seconds ends after its session.
    ManualClock::at("2026-01-31T12:00:00.250001Z".parse().unwrap())
}

fn keys_on(store: impl Store) -> AgentKeys {
    AgentKeys::builder().sessions(Sessions::new()).build(store).unwrap()
}

fn memory(clock: &ManualClock) -> AgentKeys {
    keys_on(MemoryStore::with_clock(clock))
}

async fn sqlite(path: &std::path::Path, clock: &ManualClock) -> AgentKeys {
    keys_on(SqliteStore::open(SqliteOptions::new(path).clock(clock)).await.unwrap())
}

fn root() -> NewKey {
    let scopes = ScopeSet::parse(["read", "buy"]).unwrap();
    NewKey::new("acme".parse().unwrap()).scopes(scopes).delegated_by("alice")
}

async fn create(keys: &AgentKeys, new: NewKey) -> (KeyId, Token) {
    let created = keys.create(new).await.unwrap();
    (created.key.id, created.token)
}

async fn open(keys: &AgentKeys, parent: KeyId, new: NewSession) -> OpenedSession {
    keys.open_session(parent, new).await.unwrap()
}

async fn refusal(keys: &AgentKeys, token: &Token) -> Option<Refusal> {
    keys.authorize(token).await.err().map(|rejection| rejection.refusal().clone())
}

fn part(token: &Token, index: usize) -> serde_json::Value {
    let part = token.expose().split('.').nth(index).unwrap();
    serde_json::from_slice(&BASE64.decode(part).unwrap()).unwrap()
}

#[tokio::test]
async fn a_session_stays_inside_its_parent() {
    let clock = clock();
    let keys = memory(&clock);
    let new = root().budget(Budget::lifetime(Amount::cents(50))).expires_in("1h".parse().unwrap());
    let (parent, _) = create(&keys, new).await;

    let session = open(&keys, parent, NewSession::new()).await;
    assert_eq!(session.session_id, SessionId::new(session.key.id));
    assert_eq!(session.scopes.to_string(), "buy read");
    assert_eq!((session.key.parent, session.spend_cap), (Some(parent), None));
    assert_eq!(session.key.delegated_by.as_deref(), Some("alice"));
    assert!(session.key.is_session());
    let context = keys.authorize(&session.token).await.unwrap();
    assert_eq!((context.id(), context.remaining()), (session.key.id, Some(Amount::cents(50))));

    // What would outlive the parent ends with it.
    let long = open(&keys, parent, NewSession::new().ttl(20 * 60 * MINUTE)).await;
    let parents = keys.find_by_id(parent).await.unwrap().unwrap().key().expires_at;
    assert_eq!(Some(long.expires_at), parents);

    let refused = async |new: NewSession| match keys.open_session(parent, new).await {
        Err(Error::Change(ChangeError::Invalid { field, .. })) => field,
        other => panic!("{other:?}"),
    };
    let scopes = ScopeSet::parse(["read", "admin"]).unwrap();
    assert_eq!(refused(NewSession::new().scopes(scopes)).await, "scopes");
    assert_eq!(refused(NewSession::new().spend_cap(Amount::cents(51))).await, "budgets");
    assert_eq!(refused(NewSession::new().spend_cap(Amount::cents(-1))).await, "spend_cap");
    assert_eq!(refused(NewSession::new().ttl(MINUTE - MICRO)).await, "ttl_seconds");
    assert_eq!(refused(NewSession::new().ttl(24 * 60 * MINUTE + MICRO)).await, "ttl_seconds");
    for ttl in [MINUTE, 24 * 60 * MINUTE] {
        open(&keys, parent, NewSession::new().ttl(ttl)).await;
    }
}

#[tokio::test]
async fn a_session_makes_no_keys_and_is_not_rotated() {
    let keys = memory(&clock());
    let (parent, _) = create(&keys, root()).await;
    let session = open(&keys, parent, NewSession::new()).await.key.id;
    let field = |error: Error| match error {
        Error::Change(ChangeError::Invalid { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(keys.create(NewKey::child_of(session)).await.unwrap_err()), "parent");
    assert_eq!(field(keys.open_session(session, NewSession::new()).await.unwrap_err()), "parent");
    assert_eq!(field(keys.rotate(session, Grace::NONE).await.unwrap_err()), "key");
    // A key that is no session is not ended as one.
    let ended = keys.end_session(SessionId::new(parent), None).await.unwrap_err();
    assert!(matches!(ended, Error::Change(ChangeError::UnknownKey(_))), "{ended:?}");
}

#[tokio::test]
async fn what_ends_or_narrows_the_parent_does_so_to_the_session() {
    let keys = memory(&clock());
    let (grandparent, _) = create(&keys, root()).await;
    let scopes = ScopeSet::parse(["read", "buy"]).unwrap();
    let (parent, _) = create(&keys, NewKey::child_of(grandparent).scopes(scopes)).await;
    let sessions = [
        open(&keys, parent, NewSession::new()).await,
        open(&keys, parent, NewSession::new()).await,
    ];
    let [first, second] = &sessions;
    let narrower = KeyPatch::new().scopes(ScopeSet::parse(["read"]).unwrap());
    keys.update(grandparent, narrower).await.unwrap();
    assert!(!keys.authorize(&first.token).await.unwrap().has_scope("buy"));

    keys.end_session(first.session_id, Some("logged out")).await.unwrap();
    assert_eq!(refusal(&keys, &first.token).await, Some(Refusal::RevokedKey));
    assert_eq!(refusal(&keys, &second.token).await, None);
    keys.disable(parent).await.unwrap();
    assert_eq!(refusal(&keys, &second.token).await, Some(Refusal::DisabledKey));
    let opened = keys.open_session(parent, NewSession::new()).await.unwrap_err();
    assert!(matches!(opened, Error::Change(ChangeError::NotInForce { .. })), "{opened:?}");
    keys.enable(parent).await.unwrap();
    assert_eq!(refusal(&keys, &second.token).await, None);
    keys.revoke(grandparent, None).await.unwrap();
    assert_eq!(refusal(&keys, &second.token).await, Some(Refusal::RevokedKey));
}

#[tokio::test]
async fn a_token_can_be_read_back_and_says_nothing_in_debug() {
    let keys = memory(&clock());
    let (parent, _) = create(&keys, root()).await;
    let session = open(&keys, parent, NewSession::new()).await;
    let text = session.token.expose();
    let read = Token::parse_session(text).unwrap();
    assert_eq!(refusal(&keys, &read).await, None);
    assert!(Token::parse(text).is_err());
    for bad in ["", "eyJ", "eyJ.a", "eyJ.a.b.c", "eyJ.a.", "abc.d.e", "eyJ.a .b"] {
        assert!(Token::parse_session(bad).is_err(), "{bad:?}");
    }
    let jti = part(&session.token, 1)["jti"].as_str().unwrap().to_owned();
    let debug = format!("{session:?}");
    assert!(!debug.contains(&text[20..60]) && !debug.contains(&jti), "{debug}");
    let key = SigningKey::hs256("k", b"0123456789abcdef0123456789abcdef").unwrap();
    assert_eq!(format!("{key:?}"), r#"SigningKey { kid: "k", algorithm: Hs256, .. }"#);
}

#[tokio::test]
async fn sessions_that_are_not_set_up_are_an_error() {
    let keys = AgentKeys::new(MemoryStore::new()).unwrap();
    let (parent, _) = create(&keys, root()).await;
    let error = keys.open_session(parent, NewSession::new()).await.unwrap_err();
    assert!(matches!(error, Error::Refused(Refusal::Misconfigured)), "{error:?}");
    for (min, max) in [(0, 60), (60, 59), (60, 367 * 24 * 60 * 60)] {
        let sessions = Sessions::new().ttl(Duration::from_secs(min), Duration::from_secs(max));
        let built = AgentKeys::builder().sessions(sessions).build(MemoryStore::new());
        assert!(built.is_err(), "{min} {max}");
    }
}

/// Two instances on one store with one clock: a session and a grace end in both at their very microsecond.
async fn ends_are_exact(keys: [AgentKeys; 2], clock: &ManualClock) {
    let [here, there] = &keys;
    let (parent, first) = create(here, root()).await;
    let session = open(here, parent, NewSession::new().ttl(MINUTE)).await;
    assert_eq!(session.expires_at, clock.now() + MINUTE);
    let rotated = here.rotate(parent, Grace::lasting(MINUTE)).await.unwrap().token;
    let all = async |token: &Token| {
        let mut refusals = Vec::new();
        for _ in 0..2 {
            for keys in [here, there] {
                refusals.push(refusal(keys, token).await);
            }
        }
        refusals
    };
    for token in [&first, &session.token, &rotated] {
        assert_eq!(all(token).await, [const { None }; 4]);
    }
    clock.advance(MINUTE - MICRO);
    for token in [&first, &session.token, &rotated] {
        assert_eq!(all(token).await, [const { None }; 4]);
    }
    clock.advance(MICRO);
    assert_eq!(all(&session.token).await, [const { Some(Refusal::ExpiredKey) }; 4]);
    assert_eq!(all(&first).await, [const { Some(Refusal::InvalidKey) }; 4]);
    assert_eq!(all(&rotated).await, [const { None }; 4]);
    // After the end of the whole second, the token itself has expired.
    clock.advance(Duration::from_secs(1));
    assert_eq!(all(&session.token).await, [const { Some(Refusal::ExpiredKey) }; 4]);
}

/// Two instances: the first key is made once, a second one signs after five minutes, and the first is dropped when
/// its sessions have ended.
async fn signing_keys_are_shared(keys: [AgentKeys; 2], clock: &ManualClock) {
    let [here, there] = &keys;
    let (parent, _) = create(here, root()).await;
    let new = || NewSession::new().ttl(24 * 60 * MINUTE);
    // Both make the first key, and one of them has made it.
    let (old, other) = tokio::join!(open(here, parent, new()), open(there, parent, new()));
    let kid = |session: &OpenedSession| part(&session.token, 0)["kid"].clone();
    assert_eq!(kid(&old), kid(&other));
    let second = here.rotate_signing_key().await.unwrap();
    assert_eq!(kid(&open(here, parent, new()).await), kid(&old));
    // Keys that are made in one microsecond follow each other by one.
    clock.advance(5 * MINUTE + MICRO);
    let young = open(here, parent, new()).await;
    assert_eq!(kid(&young), second);
    there.reload_signing_keys().await.unwrap();
    for keys in [here, there] {
        for session in [&old, &other, &young] {
            assert_eq!(refusal(keys, &session.token).await, None);
        }
    }
    // The key of the old sessions stays until they have ended.
    let third = there.rotate_signing_key().await.unwrap();
    here.reload_signing_keys().await.unwrap();
    assert_eq!(refusal(here, &old.token).await, None);
    clock.advance(24 * 60 * MINUTE + 5 * MINUTE);
    there.rotate_signing_key().await.unwrap();
    here.reload_signing_keys().await.unwrap();
    assert_eq!(refusal(here, &old.token).await, Some(Refusal::InvalidKey));
    assert_eq!(kid(&open(here, parent, new()).await), third);
}

/// Crossing the cap on one instance ends the session on the other, from the next request.
async fn a_cap_holds_on_both(keys: [AgentKeys; 2]) {
    let [here, there] = &keys;
    let (parent, _) = create(here, root()).await;
    let session = open(here, parent, NewSession::new().spend_cap(Amount::cents(10))).await;
    let (first, second) = (
        here.authorize(&session.token).await.unwrap(),
        there.authorize(&session.token).await.unwrap(),
    );
    here.charge(&first).await.unwrap().pay(Amount::cents(10)).await.unwrap();
    assert_eq!(refusal(there, &session.token).await, None);
    // The charge of zero left is refused where it begins.
    let refused = there.charge(&second).await.unwrap_err();
    assert!(matches!(refused.refusal(), Refusal::BudgetExceeded(_)), "{refused:?}");
    for keys in [here, there] {
        assert_eq!(refusal(keys, &session.token).await, Some(Refusal::RevokedKey));
    }
}

mod on_sqlite {
    use super::*;

    async fn two(clock: &ManualClock) -> (tempfile::TempDir, [AgentKeys; 2]) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.db");
        let keys = [sqlite(&path, clock).await, sqlite(&path, clock).await];
        (directory, keys)
    }

    #[tokio::test]
    async fn ends_are_exact() {
        let clock = clock();
        let (_directory, keys) = two(&clock).await;
        super::ends_are_exact(keys, &clock).await;
    }

    #[tokio::test]
    async fn signing_keys_are_shared() {
        let clock = clock();
        let (_directory, keys) = two(&clock).await;
        super::signing_keys_are_shared(keys, &clock).await;
    }

    #[tokio::test]
    async fn a_cap_holds_on_both_and_its_reason_is_in_the_events() {
        let (directory, keys) = two(&clock()).await;
        super::a_cap_holds_on_both(keys).await;
        let file = rusqlite::Connection::open(directory.path().join("keys.db")).unwrap();
        let sql = "SELECT detail ->> 'reason' FROM agentkey_events WHERE kind = 'session.ended' AND actor ->> 'type' = 'ledger'";
        let reason: String = file.query_row(sql, [], |row| row.get(0)).unwrap();
        assert_eq!(reason, "spend cap reached");
    }
}

#[cfg(feature = "postgres")]
mod on_postgres {
    use agentkey::PostgresStore;
    use agentkey::store::PostgresOptions;

    use super::postgres_server::{Database, Server};
    use super::*;

    async fn two(server: &Server, clock: &ManualClock) -> (Database, [AgentKeys; 2]) {
        let database = server.database().await;
        let open = async || {
            let options = PostgresOptions::new(database.url()).clock(clock);
            keys_on(PostgresStore::open(options).await.unwrap())
        };
        let keys = [open().await, open().await];
        (database, keys)
    }

    #[tokio::test]
    #[ignore = "needs PostgreSQL: ./scripts/test"]
    async fn ends_are_exact() {
        let (Some(server), clock) = (Server::shared(), clock()) else { return };
        let (_database, keys) = two(server, &clock).await;
        super::ends_are_exact(keys, &clock).await;
    }

    #[tokio::test]
    #[ignore = "needs PostgreSQL: ./scripts/test"]
    async fn signing_keys_are_shared() {
        let (Some(server), clock) = (Server::shared(), clock()) else { return };
        let (_database, keys) = two(server, &clock).await;
        super::signing_keys_are_shared(keys, &clock).await;
    }

    #[tokio::test]
    #[ignore = "needs PostgreSQL: ./scripts/test"]
    async fn a_cap_holds_on_both() {
        let Some(server) = Server::shared() else { return };
        let (_database, keys) = two(server, &clock()).await;
        super::a_cap_holds_on_both(keys).await;
    }
}
