//! What the self-serve routes ask of the store.

use agentkey::NewKey;
use agentkey::routes::SelfServe;
use axum::body::Body;
use http::Request;
use http::header::AUTHORIZATION;
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::support::World;

#[tokio::test]
async fn a_page_of_keys_is_one_look_up() {
    let world = World::new().await;
    let (parent, token) = world.key().await;
    for n in 0..60 {
        world.keys.create(NewKey::child_of(parent).name(format!("{n}"))).await.unwrap();
    }
    let router = SelfServe::new(&world.keys).manage().into_router().unwrap();
    for (query, keys, look_ups) in
        [("limit=50", 50, 1), ("limit=50&name=7", 6, 1), ("limit=1&state=revoked", 0, 1)]
    {
        let before = world.spy.lineages();
        let request = Request::get(format!("/keys?{query}"))
            .header(AUTHORIZATION, format!("Bearer {}", token.expose()))
            .body(Body::empty())
            .unwrap();
        let answer = router.clone().oneshot(request).await.unwrap().into_body();
        let answer = answer.collect().await.unwrap().to_bytes();
        let page: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(page["keys"].as_array().unwrap().len(), keys, "{query}: {page}");
        assert_eq!(world.spy.lineages() - before, look_ups, "{query}");
    }
}
