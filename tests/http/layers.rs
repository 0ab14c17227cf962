//! The layer among others: tower's contract, a layer within a layer, and what an upstream says.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use agentkey::{AgentKeys, Amount, Budget, Charge, KeyContext, NewKey, ScopeSet, Token};
use axum::body::Body;
use http::{Request, Response};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::support::{World, acme, dollar};

/// Panics when it is called without having been made ready itself; its clones are not ready.
#[derive(Default)]
struct Strict {
    ready: bool,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Service<Request<Body>> for Strict {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called without having been made ready");
        ready(Ok(Response::new(Body::from("let in"))))
    }
}

fn ask(token: Option<&Token>) -> Request<Body> {
    let request = Request::get("/");
    let request = match token {
        Some(token) => request.header("x-api-key", token.expose()),
        None => request,
    };
    request.body(Body::empty()).unwrap()
}

fn remaining(response: &Response<impl Sized>) -> Option<&str> {
    response.headers().get("agentkey-remaining-cents").map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn the_service_that_is_called_is_the_one_that_was_made_ready() {
    for builder in
        [AgentKeys::builder(), AgentKeys::builder().cache(std::time::Duration::from_secs(60))]
    {
        let world = World::with(builder).await;
        let (_, token) = world.key().await;
        let noise = Token::generate(&"ak".parse().unwrap()).unwrap();
        let mut service = world.layer().optional(true).layer(Strict::default());
        for (token, status) in
            [(Some(&token), 200), (Some(&token), 200), (Some(&noise), 401), (None, 200)]
        {
            let response = service.ready().await.unwrap().call(ask(token)).await.unwrap();
            assert_eq!(response.status(), status);
        }
        // While one request is still looked up, the next may come.
        let first = service.ready().await.unwrap().call(ask(Some(&token)));
        let second = service.ready().await.unwrap().call(ask(Some(&token)));
        assert_eq!(first.await.unwrap().status(), 200);
        assert_eq!(second.await.unwrap().status(), 200);
    }
}

/// Pays so many cents, and says what came of it.
async fn pay(request: Request<Body>, cents: i32) -> Result<Response<Body>, Infallible> {
    let key = KeyContext::from_extensions(request.extensions()).unwrap();
    let paid = match Charge::begin(key).await {
        Ok(charge) => charge.pay(Amount::cents(cents)).await.map(drop),
        Err(error) => Err(error),
    };
    Ok(paid.map_or_else(
        |error| error.to_response().map(Body::from),
        |()| Response::new(Body::empty()),
    ))
}

#[tokio::test]
async fn of_two_layers_the_inner_one_says_what_is_left() {
    let world = World::new().await;
    let (_, token) = world.create(NewKey::new(acme()).budget(dollar())).await;
    let once = world.layer().layer(service_fn(|request| pay(request, 30)));
    assert_eq!(remaining(&once.clone().oneshot(ask(Some(&token))).await.unwrap()), Some("70"));
    let twice = world.layer().layer(once);
    assert_eq!(remaining(&twice.oneshot(ask(Some(&token))).await.unwrap()), Some("40"));
}

#[tokio::test]
async fn a_refusal_and_its_header_say_the_same() {
    // From memory, where the look-up does not know what another key has spent.
    let world = World::with(AgentKeys::builder().cache(std::time::Duration::from_secs(60))).await;
    world.keys.ensure_account(acme(), Budget::lifetime(Amount::cents(100))).await.unwrap();
    let (_, one) = world.create(NewKey::new(acme())).await;
    let (_, two) = world.create(NewKey::new(acme())).await;
    let free = world.layer().layer(service_fn(async |_: Request<Body>| {
        Ok::<_, Infallible>(Response::new(Body::empty()))
    }));
    assert_eq!(remaining(&free.oneshot(ask(Some(&one))).await.unwrap()), Some("100"));
    let service = world.layer().layer(service_fn(|request| pay(request, 90)));
    assert_eq!(remaining(&service.clone().oneshot(ask(Some(&two))).await.unwrap()), Some("10"));
    let refused = service.oneshot(ask(Some(&one))).await.unwrap();
    assert_eq!((refused.status().as_u16(), remaining(&refused)), (402, Some("10")));
}

#[tokio::test]
async fn a_remaining_header_of_an_upstream_is_replaced_or_removed() {
    let world = World::new().await;
    let upstream = service_fn(async |_: Request<Body>| {
        Ok::<_, Infallible>(
            Response::builder()
                .header("agentkey-remaining-cents", "77")
                .body(Body::empty())
                .unwrap(),
        )
    });
    let (_, limited) = world.create(NewKey::new(acme()).budget(dollar())).await;
    let (_, free) = world.create(NewKey::new(acme())).await;
    let service = world.layer().layer(upstream);
    assert_eq!(
        remaining(&service.clone().oneshot(ask(Some(&limited))).await.unwrap()),
        Some("100")
    );
    assert_eq!(remaining(&service.oneshot(ask(Some(&free))).await.unwrap()), None);
}

/// A key is asked for a scope by its name. What is no scope, it does not have.
#[tokio::test]
async fn a_key_has_the_scopes_of_its_whole_lineage() {
    let admin = "admin".parse().unwrap();
    let world = World::with(AgentKeys::builder().admin_scope(admin)).await;
    let scopes = |list: &[&str]| ScopeSet::parse(list.iter().copied()).unwrap();
    let new = NewKey::new(acme()).scopes(scopes(&["read", "proxy.*"]));
    let (parent, token) = world.create(new).await;
    let (_, child) = world.create(NewKey::child_of(parent).scopes(scopes(&["proxy.chat"]))).await;
    let (_, all) = world.create(NewKey::new(acme()).scopes(ScopeSet::unrestricted())).await;
    let (_, admin) = world.create(NewKey::new(acme()).scopes(scopes(&["admin"]))).await;
    let names = ["read", "proxy.chat", "proxy.embed", "write", "", "two words", "a,b", "img*"];
    let has = async |token: &Token| {
        let seen = std::sync::Mutex::new(Vec::new());
        let service = world.layer().layer(service_fn(async |request: Request<Body>| {
            let key = KeyContext::from_extensions(request.extensions()).unwrap();
            *seen.lock().unwrap() =
                names.iter().copied().filter(|name| key.has_scope(name)).collect();
            Ok::<_, Infallible>(Response::new(Body::empty()))
        }));
        assert_eq!(service.oneshot(ask(Some(token))).await.unwrap().status(), 200);
        seen.into_inner().unwrap()
    };
    assert_eq!(has(&token).await, ["read", "proxy.chat", "proxy.embed"]);
    assert_eq!(has(&child).await, ["proxy.chat"]);
    for token in [&all, &admin] {
        assert_eq!(has(token).await, ["read", "proxy.chat", "proxy.embed", "write"]);
    }
}
