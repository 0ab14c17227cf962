//! The audit trail of requests: what was refused, and which request an entry came from.

use agentkey::model::{Actor, Event, EventKind, Note, Origin};
use agentkey::{
    Amount, Budget, Charge, EntryQuery, EventQuery, KeyContext, NewKey, RequireScope, ScopeSet,
    Token,
};
use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tower::{ServiceBuilder, ServiceExt, service_fn};

use super::support::{Faults, World, acme, capture_logs, clock, logged};

async fn charged(charge: Charge) -> &'static str {
    charge.add(Amount::cents(3));
    "done"
}

async fn labelled(charge: Charge) -> &'static str {
    charge.label("route", "mine").unwrap();
    charge.add(Amount::cents(3));
    "done"
}

fn app(world: &World) -> Router {
    let chat = get(charged).layer(RequireScope::one("chat").unwrap());
    let held = get(async || "held").layer(agentkey::RequireBudget::hold(Amount::cents(50)));
    let routes = Router::new()
        .route("/chat/{id}", chat)
        .route("/held", held)
        .route("/free", get(async |_: KeyContext| "free"))
        .route("/labelled", get(labelled));
    Router::new().nest("/v1", routes).layer(world.layer())
}

async fn ask(app: &Router, token: &Token, path: &str, request_id: &str) -> u16 {
    let request = Request::get(path)
        .header("x-api-key", token.expose())
        .header("x-request-id", request_id)
        .body(Body::empty())
        .unwrap();
    app.clone().oneshot(request).await.unwrap().status().as_u16()
}

async fn refused(world: &World) -> Vec<Event> {
    let query = EventQuery::for_account(acme()).kind(EventKind::Refused);
    world.keys.events(&query).await.unwrap().items
}

#[tokio::test]
async fn a_flood_of_refusals_leaves_a_handful_of_events() {
    let clock = clock();
    let world = World::at(&clock).await;
    let app = app(&world);
    let new = || NewKey::new(acme()).name("agent").delegated_by("user_7");
    let (agent, token) = world
        .create(new().scopes(ScopeSet::none()).budget(Budget::lifetime(Amount::cents(9))))
        .await;
    let (child, childs) =
        world.create(NewKey::child_of(agent).name("child").scopes(ScopeSet::none())).await;
    for n in 0..500 {
        assert_eq!(ask(&app, &token, &format!("/v1/chat/{n}"), &format!("req-{n}")).await, 403);
        assert_eq!(ask(&app, &token, "/v1/held", "h").await, 402);
    }
    assert_eq!(ask(&app, &token, "/v1/free", "f").await, 200);
    world.keys.revoke(agent, None).await.unwrap();
    for _ in 0..500 {
        assert_eq!(ask(&app, &childs, "/v1/free", "c").await, 401);
    }
    assert!(refused(&world).await.is_empty(), "no request writes");

    world.keys.shutdown().await;
    let mut refused = refused(&world).await;
    refused.sort_by_key(|event| (event.key, event.reason().map(str::to_owned)));
    let seen: Vec<_> = refused
        .iter()
        .map(|it| (it.key, it.reason().unwrap(), it.origin.route.as_deref().unwrap(), it.count))
        .collect();
    assert_eq!(
        seen,
        [
            (Some(agent), "budget_exceeded", "/v1/held", 500),
            (Some(agent), "insufficient_scope", "/v1/chat/{id}", 500),
            (Some(child), "revoked_key", "/v1/free", 500),
        ]
    );
    assert_eq!(refused[1].origin.request_id.as_deref(), Some("req-0"), "that of the first");
    assert_eq!(refused[2].lineage, [child, agent]);
    assert_eq!(refused[2].delegated_by.as_deref(), Some("user_7"));
    assert_eq!(refused[2].origin.actor, Actor::Key { id: child });
    assert!(refused.iter().all(|event| event.at == "2026-01-31T12:00:00Z".parse().unwrap()));
}

#[tokio::test]
async fn an_entry_says_its_route_and_its_request() {
    let world = World::new().await;
    let (_, token) = world.key().await;
    let app = app(&world);
    assert_eq!(ask(&app, &token, "/v1/chat/7", "req-1").await, 200);
    assert_eq!(ask(&app, &token, "/v1/labelled", &"x".repeat(129)).await, 200);
    assert_eq!(ask(&app, &token, "/v1/labelled", token.expose()).await, 200);
    let entries = world.keys.entries(&EntryQuery::for_account(acme())).await.unwrap().items;
    let labels: Vec<_> = entries
        .iter()
        .map(|it| (it.note.labels.get(Note::ROUTE), it.note.labels.get(Note::REQUEST_ID)))
        .collect();
    assert_eq!(
        labels,
        [(Some("/v1/chat/{id}"), Some("req-1")), (Some("mine"), None), (Some("mine"), None)]
    );
}

#[tokio::test]
async fn a_service_without_a_router_has_its_path() {
    let world = World::new().await;
    let (id, token) = world.create(NewKey::new(acme()).scopes(ScopeSet::none())).await;
    let service = ServiceBuilder::new()
        .layer(world.layer())
        .layer(RequireScope::one("chat").unwrap())
        .service(service_fn(async |_: Request<Full<Bytes>>| {
            Ok::<_, std::convert::Infallible>(http::Response::new(Full::<Bytes>::default()))
        }));
    let path = format!("/chat/{}?secret=1", token.expose());
    let request = Request::get(path).header("x-api-key", token.expose());
    let response = service.oneshot(request.body(Full::default()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 403);
    world.keys.shutdown().await;
    let refused = refused(&world).await;
    assert_eq!((refused[0].key, refused[0].count), (Some(id), 1));
    assert_eq!(refused[0].origin.route.as_deref(), Some("/chat/{token}"));
}

/// A request for a tunnel has no path, and stores tell an empty route from none no better than readers do.
#[tokio::test]
async fn a_request_without_a_path_is_counted_with_those_without_a_route() {
    let world = World::new().await;
    let (id, token) = world.create(NewKey::new(acme())).await;
    world.keys.revoke(id, None).await.unwrap();
    let app = Router::new().layer(world.layer());
    let request = Request::builder().method("CONNECT").uri("api.example.com:443");
    let request = request.header("x-api-key", token.expose()).body(Body::empty()).unwrap();
    assert_eq!(app.oneshot(request).await.unwrap().status(), 401);
    world.keys.authorize(&token).await.unwrap_err();
    world.keys.shutdown().await;
    let refused = refused(&world).await;
    let shown: Vec<_> = refused.iter().map(|it| (it.count, it.origin.route.as_deref())).collect();
    assert_eq!(shown, [(2, None)]);
}

#[tokio::test]
async fn an_event_that_the_store_rejects_keeps_no_other_one_out() {
    let world = World::new().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let (id, token) = world.create(NewKey::new(acme())).await;
        world.keys.revoke(id, None).await.unwrap();
        world.keys.authorize(&token).await.unwrap_err();
        ids.push(id);
    }
    world.spy.set(Faults { refusals_of: Some(ids[1]), ..Faults::default() });
    capture_logs();
    world.keys.shutdown().await;
    let written: Vec<_> = refused(&world).await.iter().filter_map(|event| event.key).collect();
    assert_eq!(written, [ids[0], ids[2]]);
    assert_eq!(logged(&["an event is rejected", "lost"]).len(), 1);
}

#[tokio::test]
async fn work_outside_of_a_request_is_counted_too() {
    let world = World::new().await;
    let none = Budget::lifetime(Amount::ZERO);
    let (poor, poors) = world.create(NewKey::new(acme()).budget(none)).await;
    let (revoked, revokeds) = world.create(NewKey::new(acme())).await;
    world.keys.revoke(revoked, None).await.unwrap();
    let keys = world.keys.with_origin(Origin::new().request_id("job-1"));
    keys.authorize(&revokeds).await.unwrap_err();
    keys.authorize_by_id(revoked).await.unwrap_err();
    let key = keys.authorize(&poors).await.unwrap();
    keys.charge(&key).await.unwrap_err();
    world.keys.shutdown().await;
    let mut seen: Vec<_> = refused(&world)
        .await
        .iter()
        .map(|it| (it.key, it.count, it.origin.request_id.clone()))
        .collect();
    seen.sort();
    assert_eq!(seen, [(Some(poor), 1, None), (Some(revoked), 2, Some("job-1".to_owned()))]);
}
