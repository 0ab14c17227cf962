//! Sessions on the request path: tokens that are refused without a look-up, and what a cap does.

use agentkey::session::{NewSession, SessionAlgorithm, Sessions, SigningKey};
use agentkey::{
    AgentKeyLayer, AgentKeys, Amount, Budget, Charge, Error, KeyContext, KeyId, KeyPatch, NewKey,
    Refusal, Rejection, ScopeSet, Token,
};
use axum::Router;
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::hmac;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

use super::support::{
    Client, Fault, Faults, Seen, Version, World, acme, clock, dollar, is_pay, is_settle, serve,
    soon,
};

const SEED: [u8; 32] = [7; 32];
const OTHER_SEED: [u8; 32] = [8; 32];
const HMAC: [u8; 32] = [9; 32];

fn ed(kid: &str) -> SigningKey {
    SigningKey::ed25519(kid, &SEED).unwrap()
}

fn own_keys() -> Sessions {
    Sessions::new().signing_keys(ed("ed"), [SigningKey::hs256("hs", &HMAC).unwrap()])
}

fn app(layer: AgentKeyLayer) -> Router {
    Router::new()
        .route("/free", get(async |key: KeyContext| key.scopes().to_string()))
        .route(
            "/pay",
            get(async |charge: Charge| -> Result<(), Rejection> {
                charge.pay(Amount::cents(10)).await.map(drop)
            }),
        )
        .route("/add", get(async |charge: Charge| charge.add(Amount::cents(10))))
        .layer(layer)
}

async fn parent(world: &World) -> KeyId {
    let scopes = ScopeSet::parse(["read", "buy"]).unwrap();
    world.create(NewKey::new(acme()).scopes(scopes).budget(dollar())).await.0
}

fn part(value: &Value) -> String {
    BASE64.encode(value.to_string())
}

fn with_ed(seed: &[u8], message: &str) -> Vec<u8> {
    Ed25519KeyPair::from_seed_unchecked(seed).unwrap().sign(message.as_bytes()).as_ref().to_vec()
}

fn with_hmac(secret: &[u8], message: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    hmac::sign(&key, message.as_bytes()).as_ref().to_vec()
}

/// A token of this header and these claims.
fn token(header: &Value, claims: &Value, sign: impl Fn(&str) -> Vec<u8>) -> String {
    let message = format!("{}.{}", part(header), part(claims));
    let signature = BASE64.encode(sign(&message));
    format!("{message}.{signature}")
}

fn claims_of(token: &Token) -> Value {
    let part = token.expose().split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64.decode(part).unwrap()).unwrap()
}

fn changed(claims: &Value, name: &str, value: Value) -> Value {
    let mut changed = claims.clone();
    match value {
        Value::Null => drop(changed.as_object_mut().unwrap().remove(name)),
        value => changed[name] = value,
    }
    changed
}

async fn ask(addr: std::net::SocketAddr, path: &str, token: &str) -> Seen {
    let client =
        Client::new(Version::Http1, addr, &Token::parse_foreign("unused-credential").unwrap());
    let mut request = client.request(http::Method::GET, path);
    let bearer = format!("Bearer {token}").parse().unwrap();
    request.headers_mut().insert("authorization", bearer);
    client.send(request).await
}

#[tokio::test]
async fn a_bad_token_is_refused_without_a_look_up() {
    let (clock, builder) = (clock(), AgentKeys::builder().sessions(own_keys()));
    let world = World::with_clock(builder, &clock).await;
    let addr = serve(app(world.layer())).await;
    let session = world.keys.open_session(parent(&world).await, NewSession::new()).await.unwrap();
    let good = session.token.expose();
    let claims = claims_of(&session.token);
    let header = json!({"typ": "JWT", "alg": "EdDSA", "kid": "ed"});
    let own = |message: &str| with_ed(&SEED, message);
    assert_eq!(token(&header, &claims, own).len(), good.len());

    let public = Ed25519KeyPair::from_seed_unchecked(&SEED).unwrap();
    let public = public.public_key().as_ref().to_vec();
    let head = |alg: &str, kid: &str| json!({"typ": "JWT", "alg": alg, "kid": kid});
    let claim = |name: &str, value: Value| token(&header, &changed(&claims, name, value), own);
    let (message, signature) = good.rsplit_once('.').unwrap();
    let forged = token(&header, &changed(&claims, "sub", json!("ses_1")), |_| Vec::new());
    let bad = [
        ("claims that were not signed", format!("{forged}{signature}")),
        ("another key", token(&header, &claims, |message| with_ed(&OTHER_SEED, message))),
        ("no signature", format!("{message}.")),
        ("a signature cut short", format!("{message}.{}", &signature[..40])),
        ("alg none", token(&head("none", "ed"), &claims, |_| Vec::new())),
        ("alg none, signed", token(&head("none", "ed"), &claims, own)),
        ("alg NONE", token(&head("NONE", "ed"), &claims, |_| Vec::new())),
        (
            "HS256 by the public key",
            token(&head("HS256", "ed"), &claims, |m| with_hmac(&public, m)),
        ),
        (
            "HS256 by another's secret",
            token(&head("HS256", "ed"), &claims, |m| with_hmac(&HMAC, m)),
        ),
        ("EdDSA under the kid of HS256", token(&head("EdDSA", "hs"), &claims, own)),
        ("RS256 for EdDSA", token(&head("RS256", "ed"), &claims, own)),
        ("HS384 for HS256", token(&head("HS384", "hs"), &claims, |m| with_hmac(&HMAC, m))),
        ("an unknown kid", token(&head("EdDSA", "other"), &claims, own)),
        ("no kid", token(&json!({"typ": "JWT", "alg": "EdDSA"}), &claims, own)),
        (
            "a critical extension",
            token(&json!({"alg": "EdDSA", "kid": "ed", "crit": ["x"], "x": 1}), &claims, own),
        ),
        ("another issuer", claim("iss", json!("other"))),
        ("no issuer", claim("iss", Value::Null)),
        ("another audience", claim("aud", json!("other"))),
        ("several audiences", claim("aud", json!(["agentkey", "other"]))),
        ("no audience", claim("aud", Value::Null)),
        ("no end", claim("exp", Value::Null)),
        ("an end that is no number", claim("exp", json!("9999999999"))),
        ("no jti", claim("jti", Value::Null)),
        ("a fourth part", format!("{good}.{signature}")),
        ("padding", format!("{good}==")),
        ("claims that are no JSON", {
            let message = format!("{}.{}", part(&header), BASE64.encode("{"));
            format!("{message}.{}", BASE64.encode(with_ed(&SEED, &message)))
        }),
        ("too long", claim("x", json!("x".repeat(3_000)))),
    ];
    for (what, bad) in &bad {
        assert_eq!(ask(addr, "/free", bad).await.refused(), (401, "invalid_key".into()), "{what}");
    }
    for past in [0, claims["iat"].as_i64().unwrap()] {
        let expired = claim("exp", json!(past));
        assert_eq!(ask(addr, "/free", &expired).await.refused(), (401, "expired_key".into()));
    }
    assert_eq!(world.spy.finds(), 0);

    // What is signed by a key of ours, and was never opened, costs one look-up.
    let unknown = claim("jti", json!("another"));
    assert_eq!(ask(addr, "/free", &unknown).await.refused(), (401, "invalid_key".into()));
    assert_eq!(world.spy.finds(), 1);
    assert_eq!(ask(addr, "/free", good).await.data, "buy read");
    // The same claims, signed by the other key of ours.
    let hmac = token(&head("HS256", "hs"), &claims, |message| with_hmac(&HMAC, message));
    assert_eq!(ask(addr, "/free", &hmac).await.data, "buy read");
}

#[tokio::test]
async fn a_layer_without_sessions_refuses_their_tokens() {
    let here = World::with(AgentKeys::builder().sessions(own_keys())).await;
    let session = here.keys.open_session(parent(&here).await, NewSession::new()).await.unwrap();
    let there = World::new().await;
    let addr = serve(app(there.layer())).await;
    let refused = ask(addr, "/free", session.token.expose()).await.refused();
    assert_eq!(refused, (401, "invalid_key".into()));
    assert_eq!(there.spy.finds(), 0);
}

#[tokio::test]
async fn a_session_beside_a_foreign_credential_is_the_key_of_the_request() {
    for sessions in [Sessions::new(), own_keys()] {
        let world = World::with(AgentKeys::builder().sessions(sessions)).await;
        let layer = world.layer().credential_prefixes(["ak".parse().unwrap()]);
        let addr = serve(app(layer)).await;
        let session =
            world.keys.open_session(parent(&world).await, NewSession::new()).await.unwrap();
        let client = Client::new(Version::Http1, addr, &session.token);
        let mut request = client.request(http::Method::GET, "/free");
        request.headers_mut().insert("x-api-key", "a-placeholder".parse().unwrap());
        assert_eq!(client.send(request).await.data, "buy read");
        // A JWT of another issuer is the foreign credential.
        let foreign = token(&json!({"alg": "HS256", "kid": "x"}), &json!({}), |_| Vec::new());
        let mut request = client.request(http::Method::GET, "/free");
        request.headers_mut().insert("x-api-key", session.token.expose().parse().unwrap());
        let bearer = format!("Bearer {foreign}").parse().unwrap();
        request.headers_mut().insert("authorization", bearer);
        assert_eq!(client.send(request).await.data, "buy read");
    }
}

#[tokio::test]
async fn a_cap_of_zero_ends_the_session_with_its_first_charge() {
    let world = World::with(AgentKeys::builder().sessions(Sessions::new())).await;
    let addr = serve(app(world.layer())).await;
    let new = NewSession::new().spend_cap(Amount::ZERO);
    for path in ["/pay", "/add"] {
        let session = world.keys.open_session(parent(&world).await, new.clone()).await.unwrap();
        let client = Client::new(Version::Http1, addr, &session.token);
        assert_eq!(client.get("/free").await.data, "buy read");
        assert_eq!(client.get("/free").await.data, "buy read");
        assert_eq!(client.get(path).await.refused(), (402, "budget_exceeded".into()), "{path}");
        assert_eq!(client.get("/free").await.refused(), (401, "revoked_key".into()), "{path}");
        let ended = world.keys.session(session.session_id).await.unwrap().unwrap();
        assert_eq!(ended.key().revoked_reason.as_deref(), Some("spend cap reached"));
    }
}

#[tokio::test]
async fn crossing_the_cap_ends_the_session_and_reaching_it_does_not() {
    let world = World::with(AgentKeys::builder().sessions(Sessions::new())).await;
    let addr = serve(app(world.layer())).await;
    let open = async |cap| {
        let new = NewSession::new().spend_cap(Amount::cents(cap));
        let session = world.keys.open_session(parent(&world).await, new).await.unwrap();
        (Client::new(Version::Http1, addr, &session.token), session.key.id)
    };
    // A payment that would cross it is refused, and nothing is paid.
    let (client, id) = open(20).await;
    for _ in 0..2 {
        assert_eq!(client.get("/pay").await.status, 200);
    }
    assert_eq!(client.get("/free").await.status, 200);
    assert_eq!(client.get("/pay").await.refused(), (402, "budget_exceeded".into()));
    assert_eq!(client.get("/free").await.refused(), (401, "revoked_key".into()));
    let ended = world.keys.find_by_id(id).await.unwrap().unwrap();
    assert_eq!(ended.key().balance.spent(), Amount::cents(20));
    // Work whose cost is only known afterwards is charged, and ends the session before the answer.
    let (client, id) = open(15).await;
    assert_eq!(client.get("/add").await.status, 200);
    assert_eq!(client.get("/add").await.status, 200);
    assert_eq!(client.get("/free").await.refused(), (401, "revoked_key".into()));
    let ended = world.keys.find_by_id(id).await.unwrap().unwrap();
    assert_eq!(ended.key().balance.spent(), Amount::cents(20));
    assert_eq!(ended.key().revoked_reason.as_deref(), Some("spend cap reached"));
}

#[tokio::test]
async fn a_charge_that_is_posted_again_ends_its_session() {
    for fault in [Fault::Down, Fault::LoseAnswer] {
        let world = World::with(AgentKeys::builder().sessions(Sessions::new())).await;
        let addr = serve(app(world.layer())).await;
        let new = NewSession::new().spend_cap(Amount::cents(5));
        let session = world.keys.open_session(parent(&world).await, new).await.unwrap();
        let client = Client::new(Version::Http1, addr, &session.token);
        world.spy.set(Faults::posts(fault).only(is_settle));
        let mend = async {
            world.spy.arrived(1, is_settle).await;
            world.spy.mend();
        };
        let (added, ()) = tokio::join!(client.get("/add"), mend);
        assert_eq!(added.status, 200, "{fault:?}");
        assert_eq!(client.get("/free").await.refused(), (401, "revoked_key".into()), "{fault:?}");
    }
}

#[tokio::test]
async fn an_answer_waits_for_the_revocation_and_other_accounts_do_not() {
    // How often the revocation is tried before the store is well again: it hangs, or is down.
    for (fault, tries) in [(Fault::Hang, 1), (Fault::Down, 3)] {
        for (path, status) in [("/pay", 402), ("/add", 200)] {
            let world = World::with(AgentKeys::builder().sessions(Sessions::new())).await;
            let addr = serve(app(world.layer())).await;
            let new = NewSession::new().spend_cap(Amount::cents(5));
            let session = world.keys.open_session(parent(&world).await, new).await.unwrap();
            let client = Client::new(Version::Http1, addr, &session.token);
            let other = NewKey::new("other".parse().unwrap()).budget(dollar());
            let other = Client::new(Version::Http1, addr, &world.create(other).await.1);
            world.spy.set(Faults { revocations: fault, ..Faults::default() });
            let mut answer = Box::pin(client.get(path));
            let revoked = async {
                world.spy.revoked(tries).await;
                assert_eq!(other.get("/pay").await.status, 200);
            };
            tokio::select! {
                early = &mut answer => panic!("{fault:?}: {path} was answered with {early:?}"),
                () = revoked => world.spy.mend(),
            }
            assert_eq!(answer.await.status, status, "{fault:?} {path}");
            assert_eq!(client.get("/free").await.refused(), (401, "revoked_key".into()));
        }
    }
}

#[tokio::test]
async fn charges_that_are_refused_together_end_their_session_once() {
    let world = World::with(AgentKeys::builder().sessions(Sessions::new())).await;
    let new = NewSession::new().spend_cap(Amount::cents(5));
    let session = world.keys.open_session(parent(&world).await, new).await.unwrap();
    let context = world.keys.authorize(&session.token).await.unwrap();
    let mut charges = Vec::new();
    for _ in 0..20 {
        charges.push(world.keys.charge(&context).await.unwrap());
    }
    // The first payment waits for the store, and the others wait together behind it.
    world.spy.set(Faults::posts(Fault::Hang).only(is_pay));
    let mut paying = tokio::task::JoinSet::new();
    for charge in charges {
        paying.spawn(async move { charge.pay(Amount::cents(10)).await.unwrap_err() });
    }
    world.spy.arrived(1, is_pay).await;
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    world.spy.mend();
    for refused in paying.join_all().await {
        assert!(matches!(refused.refusal(), Refusal::BudgetExceeded(_)), "{refused:?}");
    }
    assert!(world.spy.revocations() <= 2, "{}", world.spy.revocations());
}

#[tokio::test]
async fn only_its_own_cap_ends_a_session() {
    let world = World::with(AgentKeys::builder().sessions(Sessions::new())).await;
    let addr = serve(app(world.layer())).await;
    let new = NewKey::new(acme()).budget(Budget::lifetime(Amount::cents(15)));
    let (parent, token) = world.create(new).await;
    let mut clients = vec![Client::new(Version::Http1, addr, &token)];
    for new in [NewSession::new(), NewSession::new().spend_cap(Amount::cents(15))] {
        let session = world.keys.open_session(parent, new).await.unwrap();
        clients.push(Client::new(Version::Http1, addr, &session.token));
    }
    assert_eq!(clients[0].get("/pay").await.status, 200);
    for client in &clients {
        assert_eq!(client.get("/pay").await.refused(), (402, "budget_exceeded".into()));
        assert_eq!(client.get("/free").await.status, 200);
    }
}

#[tokio::test]
async fn a_limit_that_resets_ends_no_session() {
    let world = World::with(AgentKeys::builder().sessions(Sessions::new())).await;
    let addr = serve(app(world.layer())).await;
    let session = world.keys.open_session(parent(&world).await, NewSession::new()).await.unwrap();
    let daily = KeyPatch::new().budget(Budget::daily(Amount::cents(15)));
    world.keys.update(session.key.id, daily).await.unwrap();
    let client = Client::new(Version::Http1, addr, &session.token);
    assert_eq!(client.get("/pay").await.status, 200);
    assert_eq!(client.get("/pay").await.refused(), (402, "budget_exceeded".into()));
    assert_eq!(client.get("/add").await.status, 200);
    assert_eq!(client.get("/free").await.data, "buy read");
    // What is above a limit by day and above the cap too ends it.
    let new = NewSession::new().spend_cap(Amount::cents(5));
    let session = world.keys.open_session(parent(&world).await, new).await.unwrap();
    let both = Budget::daily(Amount::cents(5)).and_lifetime(Amount::cents(5));
    world.keys.update(session.key.id, KeyPatch::new().budget(both)).await.unwrap();
    let client = Client::new(Version::Http1, addr, &session.token);
    assert_eq!(client.get("/pay").await.refused(), (402, "budget_exceeded".into()));
    assert_eq!(client.get("/free").await.refused(), (401, "revoked_key".into()));
}

#[tokio::test]
async fn signing_keys_change_while_requests_go_on() {
    let (first, second) = (ed("first"), SigningKey::ed25519("second", &OTHER_SEED).unwrap());
    let sessions = Sessions::new().signing_keys(first.clone(), []);
    let world = World::with(AgentKeys::builder().sessions(sessions)).await;
    let addr = serve(app(world.layer())).await;
    let parent = parent(&world).await;
    let open = async || world.keys.open_session(parent, NewSession::new()).await.unwrap();
    let old = open().await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let client = Client::new(Version::Http1, addr, &old.token);
    let asking = tokio::spawn(async move {
        let mut asked = 0;
        while !*stopped.borrow() {
            assert_eq!(client.get("/free").await.data, "buy read");
            asked += 1;
        }
        asked
    });
    let keys = &world.keys;
    keys.set_signing_keys(first.clone(), [second.clone()]).unwrap();
    assert_eq!(kid(&open().await.token), "first");
    keys.set_signing_keys(second.clone(), [first]).unwrap();
    let new = open().await;
    assert_eq!(kid(&new.token), "second");
    for session in [&old, &new] {
        assert_eq!(ask(addr, "/free", session.token.expose()).await.data, "buy read");
    }
    stop.send_replace(true);
    assert!(asking.await.unwrap() > 0);
    // Without the first key, its sessions are over.
    keys.set_signing_keys(second, []).unwrap();
    let refused = ask(addr, "/free", old.token.expose()).await.refused();
    assert_eq!(refused, (401, "invalid_key".into()));
    assert_eq!(ask(addr, "/free", new.token.expose()).await.data, "buy read");
}

#[tokio::test]
async fn two_keys_with_one_kid_are_both_accepted() {
    let (old, new) = (ed("main"), SigningKey::ed25519("main", &OTHER_SEED).unwrap());
    let sessions = Sessions::new().signing_keys(old.clone(), []);
    let world = World::with(AgentKeys::builder().sessions(sessions)).await;
    let parent = parent(&world).await;
    let first = world.keys.open_session(parent, NewSession::new()).await.unwrap();
    world.keys.set_signing_keys(new, [old]).unwrap();
    let second = world.keys.open_session(parent, NewSession::new()).await.unwrap();
    for session in [first, second] {
        world.keys.authorize(&session.token).await.unwrap();
    }
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn while_signing_keys_cannot_be_read_a_session_is_503_and_not_401() {
    use agentkey::SqliteStore;
    use agentkey::store::SqliteOptions;

    let (clock, directory) = (clock(), tempfile::tempdir().unwrap());
    let store = async || {
        let options = SqliteOptions::new(directory.path().join("keys.db")).clock(&clock);
        SqliteStore::open(options).await.unwrap()
    };
    let builder = || AgentKeys::builder().sessions(Sessions::new());
    let here = builder().build(store().await).unwrap();
    let there = World::on(builder(), Box::new(store().await));
    let addr = serve(app(there.layer())).await;
    let parent = here.create(NewKey::new(acme())).await.unwrap().key.id;
    let open = async || here.open_session(parent, NewSession::new()).await.unwrap();
    let down = || there.spy.set(Faults { signing_keys: Fault::Down, ..Faults::default() });
    let is_unavailable = async |session: &agentkey::session::OpenedSession| {
        assert_eq!(ask(addr, "/free", session.token.expose()).await.status, 503);
    };
    let passes = async |session: &agentkey::session::OpenedSession| {
        assert_eq!(ask(addr, "/free", session.token.expose()).await.status, 200);
    };
    // None is read yet.
    let old = open().await;
    down();
    is_unavailable(&old).await;
    there.spy.mend();
    passes(&old).await;
    // One that signs by now was not read.
    here.rotate_signing_key().await.unwrap();
    clock.advance(std::time::Duration::from_secs(301));
    let young = open().await;
    assert_ne!(kid(&young.token), kid(&old.token));
    down();
    is_unavailable(&young).await;
    passes(&old).await;
    there.spy.mend();
    passes(&young).await;
    // All that may sign are read now, so nothing is asked.
    down();
    let header = json!({"alg": "EdDSA", "kid": "agentkey-0123456789abcdef"});
    let unknown = token(&header, &claims_of(&young.token), |message| with_ed(&SEED, message));
    assert_eq!(ask(addr, "/free", &unknown).await.refused(), (401, "invalid_key".into()));
}

#[tokio::test(start_paused = true)]
async fn signing_keys_are_read_again_after_the_store_hung() {
    let builder = AgentKeys::builder().sessions(Sessions::new());
    let world = World::on(builder, Box::new(agentkey::MemoryStore::new()));
    world.keys.open_session(parent(&world).await, NewSession::new()).await.unwrap();
    world.spy.set(Faults { signing_keys: Fault::Hang, ..Faults::default() });
    let error = soon(world.keys.reload_signing_keys()).await.unwrap_err();
    assert!(matches!(error, Error::Store(_)), "{error:?}");
    let error = soon(world.keys.rotate_signing_key()).await.unwrap_err();
    assert!(matches!(error, Error::Store(_)), "{error:?}");
    world.spy.mend();
    world.keys.rotate_signing_key().await.unwrap();
}

#[tokio::test]
async fn the_algorithm_of_stored_keys_can_be_chosen() {
    for (algorithm, name) in
        [(SessionAlgorithm::EdDsa, "EdDSA"), (SessionAlgorithm::Hs256, "HS256")]
    {
        let sessions = Sessions::new().algorithm(algorithm);
        let world = World::with(AgentKeys::builder().sessions(sessions)).await;
        let session =
            world.keys.open_session(parent(&world).await, NewSession::new()).await.unwrap();
        assert_eq!(header_of(&session.token)["alg"], name);
        world.keys.authorize(&session.token).await.unwrap();
    }
}

fn header_of(token: &Token) -> Value {
    let part = token.expose().split('.').next().unwrap();
    serde_json::from_slice(&BASE64.decode(part).unwrap()).unwrap()
}

fn kid(token: &Token) -> String {
    header_of(token)["kid"].as_str().unwrap().to_owned()
}
