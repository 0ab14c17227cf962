//! Subjects: callers with the credential of another issuer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agentkey::identity::{Subject, Verified, VerifyError};
use agentkey::{
    AgentKeyLayer, Amount, Budget, Charge, KeyContext, KeyPatch, NewKey, Refusal, Rejection,
    RequireScope, ScopeSet, Token,
};
use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use http::header::AUTHORIZATION;
use http::{Method, Request};
use serde_json::json;
use tower::ServiceExt;

use super::support::{
    Fault, Faults, Ledger, Seen, Table, World, acme, capture_logs, clock, dollar, logged, subject,
};

fn scopes(scopes: &[&str]) -> ScopeSet {
    ScopeSet::parse(scopes.iter().copied()).unwrap()
}

/// A service whose layer has a verifier of credentials that begin with `ext.`.
struct Service {
    world: World,
    table: Table,
    app: Router,
}

fn routes(layer: AgentKeyLayer) -> Router {
    let pay = async |charge: Charge| -> Result<String, Rejection> {
        charge.pay(Amount::cents(1)).await.map(|receipt| receipt.entry.to_string())
    };
    let me = async |key: KeyContext| {
        let claims = key.verified().map(|verified| verified.claims.clone());
        json!({"id": key.id(), "subject": key.subject(), "scopes": key.scopes(), "claims": claims})
            .to_string()
    };
    let write = get(async || "written").layer(RequireScope::all(["write"]).unwrap());
    let anyone = get(async |key: Option<KeyContext>| format!("{}", key.is_some()));
    Router::new()
        .route("/pay", post(pay))
        .route("/me", get(me))
        .route("/write", write)
        .route("/anyone", anyone)
        .layer(layer)
}

impl Service {
    fn new(world: World, set: impl FnOnce(AgentKeyLayer) -> AgentKeyLayer) -> Self {
        let table = Table::new("ext.");
        let app = routes(set(world.layer().verifier(table.clone())));
        Self { world, table, app }
    }

    async fn plain() -> Self {
        Self::new(World::new().await, |layer| layer)
    }

    /// Gives a subject a key of a dollar, and a credential that is its id.
    async fn known(&self, id: &str) -> agentkey::Key {
        self.table.set(&format!("ext.{id}"), Ok(Verified::new(subject(id))));
        let new = NewKey::new(acme()).scopes(scopes(&["read", "write"])).budget(dollar());
        self.world.keys.ensure_subject(subject(id), new).await.unwrap()
    }

    async fn send(&self, method: Method, path: &str, credential: &str) -> Seen {
        let request = Request::builder().method(method).uri(path);
        let request = request.header(AUTHORIZATION, format!("Bearer {credential}"));
        let response = self.app.clone().oneshot(request.body(Body::empty()).unwrap()).await;
        Seen::read(response.unwrap()).await
    }

    async fn get(&self, path: &str, credential: &str) -> Seen {
        self.send(Method::GET, path, credential).await
    }

    async fn pay(&self, credential: &str) -> Seen {
        self.send(Method::POST, "/pay", credential).await
    }
}

fn refused(status: u16, error: &str) -> (u16, String) {
    (status, error.to_owned())
}

#[tokio::test]
async fn a_subject_is_charged_as_a_key_is() {
    let service = Service::plain().await;
    let key = service.known("m7").await;
    assert_eq!(service.pay("ext.m7").await.status, 200);
    let me = service.get("/me", "ext.m7").await.json();
    assert_eq!(me["id"], json!(key.id));
    assert_eq!(me["subject"], json!({"issuer": "https://issuer.example", "sub": "m7"}));
    assert_eq!(service.get("/write", "ext.m7").await.status, 200);
    assert_eq!(service.world.ledger().await, Ledger::of(&[("pay", 1)]));

    // A worker that has verified who calls.
    let context = service.world.keys.authorize_subject(&subject("m7")).await.unwrap();
    let charge = service.world.keys.charge(&context).await.unwrap();
    charge.pay(Amount::cents(2)).await.unwrap();
    assert_eq!(service.world.ledger().await, Ledger::of(&[("pay", 1), ("pay", 2)]));
    let unknown = service.world.keys.authorize_subject(&subject("m8")).await.unwrap_err();
    assert_eq!(unknown.refusal(), &Refusal::InvalidKey);
}

/// A subject without a key is refused, and so is one that is out of force, though its credential lives.
#[tokio::test]
async fn what_is_revoked_is_refused_from_the_next_request_on() {
    let service = Service::plain().await;
    service.table.set("ext.stranger", Ok(Verified::new(subject("stranger"))));
    assert_eq!(service.pay("ext.stranger").await.refused(), refused(401, "invalid_key"));

    let key = service.known("m7").await;
    assert_eq!(service.pay("ext.m7").await.status, 200);
    service.world.keys.disable(key.id).await.unwrap();
    assert_eq!(service.pay("ext.m7").await.refused(), refused(401, "disabled_key"));
    service.world.keys.enable(key.id).await.unwrap();
    assert_eq!(service.pay("ext.m7").await.status, 200);
    let fewer =
        KeyPatch::new().scopes(scopes(&["read"])).budget(Budget::lifetime(Amount::cents(2)));
    service.world.keys.update(key.id, fewer).await.unwrap();
    assert_eq!(service.get("/write", "ext.m7").await.refused(), refused(403, "insufficient_scope"));
    assert_eq!(service.pay("ext.m7").await.refused(), refused(402, "budget_exceeded"));
    service.world.keys.revoke(key.id, None).await.unwrap();
    assert_eq!(service.pay("ext.m7").await.refused(), refused(401, "revoked_key"));
    let rotated = service.world.keys.rotate(key.id, agentkey::Grace::NONE).await;
    assert!(rotated.is_err());
}

/// The same id of another issuer, and the same e-mail with another id, are other subjects.
#[tokio::test]
async fn a_subject_is_an_issuer_and_an_id() {
    let service = Service::plain().await;
    service.known("m7").await;
    let other = Subject::new("https://other.example", "m7").unwrap();
    service.table.set("ext.other", Ok(Verified::new(other)));
    assert_eq!(service.pay("ext.other").await.refused(), refused(401, "invalid_key"));

    let service = Service::new(World::new().await, |layer| {
        layer.on_first_seen(async |_| Ok(NewKey::new(acme()).budget(dollar())))
    });
    let ids = async |credential: &str, id: &str| {
        let mut verified = Verified::new(subject(id));
        verified.claims.insert("email".to_owned(), "ann@example.com".into());
        service.table.set(credential, Ok(verified));
        service.get("/me", credential).await.json()["id"].clone()
    };
    assert_ne!(ids("ext.one", "ann-1").await, ids("ext.two", "ann-2").await);
}

#[tokio::test]
async fn the_claims_narrow_a_request_and_never_widen_it() {
    let service = Service::plain().await;
    service.known("m7").await;
    for (claimed, left, may_write) in [
        (None, json!(["read", "write"]), true),
        (Some(scopes(&["read"])), json!(["read"]), false),
        (Some(scopes(&["write", "delete"])), json!(["write"]), true),
        (Some(scopes(&["*"])), json!(["read", "write"]), true),
        (Some(ScopeSet::none()), json!([]), false),
    ] {
        let mut verified = Verified::new(subject("m7"));
        verified.scopes = claimed;
        verified.claims.insert("tier".to_owned(), "gold".into());
        service.table.set("ext.m7", Ok(verified));
        let me = service.get("/me", "ext.m7").await.json();
        assert_eq!((&me["scopes"], &me["claims"]), (&left, &json!({"tier": "gold"})));
        let written = service.get("/write", "ext.m7").await;
        assert_eq!(written.status == 200, may_write, "{left}");
        if !may_write {
            assert_eq!(written.json()["key_scopes"], left);
        }
    }
    // What the request may do is not what the subject may do.
    let context = service.world.keys.authorize_subject(&subject("m7")).await.unwrap();
    assert!(context.has_scope("write") && context.verified().is_none());
}

#[tokio::test]
async fn a_credential_ends_to_the_second() {
    let clock = clock();
    let service = Service::new(World::at(&clock).await, |layer| layer);
    service.known("m7").await;
    let mut verified = Verified::new(subject("m7"));
    verified.expires_at = Some(clock.now() + Duration::from_secs(60));
    service.table.set("ext.m7", Ok(verified));
    clock.advance(Duration::from_millis(59_999));
    assert_eq!(service.pay("ext.m7").await.status, 200);
    clock.advance(Duration::from_millis(1));
    assert_eq!(service.pay("ext.m7").await.refused(), refused(401, "expired_key"));
    assert_eq!(service.world.ledger().await, Ledger::of(&[("pay", 1)]));
    // Without a key, it is refused before the hook.
    service.table.set("ext.m8", {
        let mut verified = Verified::new(subject("m8"));
        verified.expires_at = Some(clock.now());
        Ok(verified)
    });
    assert_eq!(service.pay("ext.m8").await.refused(), refused(401, "expired_key"));
}

/// An issuer that does not answer is no reason for a client to throw its credential away.
#[tokio::test]
async fn what_a_verifier_says_is_the_answer() {
    capture_logs();
    let service = Service::plain().await;
    let down = VerifyError::Unavailable {
        reason: "the issuer of logged-outage is down".to_owned(),
        retry_after: Duration::from_secs(17),
    };
    service.table.set("ext.forged", Err(VerifyError::Invalid("logged-forgery".to_owned())));
    service.table.set("ext.old", Err(VerifyError::Expired));
    service.table.set("ext.down", Err(down.clone()));
    assert_eq!(service.pay("ext.forged").await.refused(), refused(401, "invalid_key"));
    assert_eq!(service.pay("ext.old").await.refused(), refused(401, "expired_key"));
    let unavailable = service.pay("ext.down").await;
    assert_eq!(unavailable.refused(), refused(503, "unavailable"));
    assert_eq!(unavailable.header("retry-after"), Some("17"));
    for answer in ["forged", "old", "down"] {
        let body = service.pay(&format!("ext.{answer}")).await.data;
        assert!(!body.contains("logged-") && !body.contains("ext."), "{body}");
    }
    assert!(!logged(&["DEBUG", "logged-forgery"]).is_empty());
    assert!(!logged(&["WARN", "logged-outage"]).is_empty());
    assert_eq!(logged(&["ext.forged"]), [""; 0], "no credential is logged");

    let open = Service::new(World::new().await, |layer| layer.fail_open(true).optional(true));
    open.table.set("ext.down", Err(down));
    assert_eq!(open.get("/anyone", "ext.down").await.data, "false");
    assert_eq!(open.get("/anyone", "ext.unknown").await.refused(), refused(401, "invalid_key"));
    assert_eq!(open.pay("ext.down").await.refused(), refused(503, "unavailable"));
}

/// Tokens of ours go their way, also those that were copied wrongly; so do foreign tokens that no
/// verifier accepts.
#[tokio::test]
async fn a_verifier_is_asked_for_what_is_not_ours() {
    #[derive(Debug)]
    struct Greedy(Table);
    impl agentkey::identity::Verifier for Greedy {
        fn accepts(&self, _: &str) -> bool {
            true
        }
        fn verify<'a>(&'a self, credential: &'a str) -> agentkey::identity::VerifyFuture<'a> {
            self.0.verify(credential)
        }
    }
    let world = World::new().await;
    let (_, token) = world.key().await;
    let (first, greedy) = (Table::new("ext."), Table::new(""));
    let layer = world.layer().verifier(first.clone()).verifier(Greedy(greedy.clone()));
    let service = Service { app: routes(layer), table: first, world };
    assert_eq!(service.pay(token.expose()).await.status, 200);
    let mut typo = token.expose().to_owned();
    let last = if typo.pop() == Some('0') { '1' } else { '0' };
    typo.push(last);
    assert_eq!(service.pay(&typo).await.refused(), refused(401, "invalid_key"));
    assert_eq!((service.table.asked(), greedy.asked()), (0, 0));
    // The first that accepts a credential decides, whatever the next would say.
    greedy.set("ext.m7", Ok(Verified::new(subject("m7"))));
    assert_eq!(service.pay("ext.m7").await.refused(), refused(401, "invalid_key"));
    assert_eq!((service.table.asked(), greedy.asked()), (1, 0));
    assert_eq!(service.pay("something else").await.refused(), refused(401, "invalid_key"));
    assert_eq!(greedy.asked(), 1);

    // A foreign token is looked up where no verifier accepts it.
    let world = World::new().await;
    let foreign = Token::parse_foreign("sk-foreign-token").unwrap();
    let import = agentkey::KeyImport::new(NewKey::new(acme()).budget(dollar()), foreign.hash());
    world.keys.import([import]).await.unwrap().pop().unwrap().unwrap();
    let service = Service::new(world, |layer| layer.foreign_tokens(true));
    assert_eq!(service.pay("sk-foreign-token").await.status, 200);
    assert_eq!(service.pay("ext.unknown-token").await.refused(), refused(401, "invalid_key"));
    assert_eq!(service.table.asked(), 1);

    // Its credentials count beside those with a prefix of ours.
    let prefixed = |layer: AgentKeyLayer| layer.credential_prefixes(["ak".parse().unwrap()]);
    let service = Service::new(World::new().await, prefixed);
    service.known("m7").await;
    assert_eq!(service.pay("ext.m7").await.status, 200);
    assert_eq!(service.pay("dummy").await.refused(), refused(401, "missing_key"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hook_is_asked_once_for_many_first_requests() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let service = Service::new(World::new().await, |layer| {
        layer.on_first_seen(move |verified| {
            let asked = counted.clone();
            async move {
                asked.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                Ok(NewKey::new(acme()).name(verified.subject.id()).budget(dollar()))
            }
        })
    });
    service.table.set("ext.m7", Ok(Verified::new(subject("m7"))));
    let service = Arc::new(service);
    let mut storm = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let service = service.clone();
        storm.spawn(async move { service.pay("ext.m7").await.status.as_u16() });
    }
    let answers = storm.join_all().await;
    assert_eq!(answers.iter().filter(|status| **status == 200).count(), 100, "{answers:?}");
    assert_eq!(answers.iter().filter(|status| **status == 402).count(), 100, "{answers:?}");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert_eq!(service.world.ledger().await.spent, Amount::units(1));
}

#[tokio::test]
async fn a_refusal_of_the_hook_is_the_answer_and_is_not_remembered() {
    let asked = Arc::new(AtomicUsize::new(0));
    let service = Service::new(World::new().await, |layer| {
        layer.on_first_seen(move |verified| {
            let first = asked.fetch_add(1, Ordering::SeqCst);
            async move {
                match (verified.subject.id(), first) {
                    ("m7", 0) => Err(Refusal::InvalidKey),
                    ("m7", 1) => panic!("a bug in the hook"),
                    ("wide", _) => Ok(NewKey::new(acme()).budget(Budget::daily(Amount::cents(-1)))),
                    _ => Ok(NewKey::new(acme()).budget(dollar())),
                }
            }
        })
    });
    for id in ["m7", "wide"] {
        service.table.set(&format!("ext.{id}"), Ok(Verified::new(subject(id))));
    }
    assert_eq!(service.pay("ext.m7").await.refused(), refused(401, "invalid_key"));
    assert_eq!(service.pay("ext.m7").await.refused(), refused(503, "unavailable"));
    assert_eq!(service.pay("ext.m7").await.status, 200);
    // A key that cannot be made is a fault of the service.
    assert_eq!(service.pay("ext.wide").await.refused(), refused(500, "misconfigured"));
    assert_eq!(service.world.keys.find_subject(&subject("wide")).await.unwrap(), None);
    // A store that does not answer is no unknown subject.
    service.world.spy.set(Faults { finds: Fault::Down, ..Faults::default() });
    service.table.set("ext.m9", Ok(Verified::new(subject("m9"))));
    assert_eq!(service.pay("ext.m9").await.refused(), refused(503, "unavailable"));
}

#[tokio::test]
async fn claims_are_in_no_debug_text() {
    let mut verified = Verified::new(subject("m7"));
    verified.claims.insert("email".to_owned(), "ann@example.com".into());
    assert!(!format!("{verified:?}").contains("ann@"));
    let world = World::new().await;
    world.keys.ensure_subject(subject("m7"), NewKey::new(acme())).await.unwrap();
    let table = Table::new("ext.");
    table.set("ext.m7", Ok(verified));
    let app = Router::new()
        .route("/debug", get(async |key: KeyContext| format!("{key:?}")))
        .layer(world.layer().verifier(table.clone()));
    let service = Service { world, table, app };
    let shown = service.get("/debug", "ext.m7").await;
    assert!(shown.data.starts_with("KeyContext") && !shown.data.contains("ann@"), "{}", shown.data);
}
