//! `POST /signup`: what a client without a key gets, and how often.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use agentkey::routes::{SelfServe, Signup, SignupDecision};
use agentkey::{AgentKeys, Amount, Budget, KeyQuery, MemoryStore, ScopeSet};
use axum::extract::ConnectInfo;
use http::Method;
use serde_json::json;

use super::support::{App, Seen, acme, request, scopes, signup};

const EMAIL: &str = r#"{"email": "a@example.com"}"#;

async fn sign_up(app: &App, body: &str) -> Seen {
    app.call(None, Method::POST, "/signup", body).await
}

/// Signs up from an address, with headers.
async fn from(app: &App, peer: &str, headers: &[(&'static str, &str)]) -> u16 {
    let mut request = request(None, Method::POST, "/signup", EMAIL);
    let peer: SocketAddr = peer.parse().unwrap();
    request.extensions_mut().insert(ConnectInfo(peer));
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    app.send(request).await.status.as_u16()
}

#[tokio::test]
async fn a_client_gets_what_the_host_gives_to_clients() {
    let app = App::new().await;
    let seen = sign_up(&app, EMAIL).await;
    let key = seen.is(201)["key"].clone();
    assert_eq!(key["scopes"], json!(["read", "write.*"]));
    assert_eq!(key["expires_at"], "2026-02-01T12:00:00Z");
    assert_eq!(
        (&key["remaining_cents"], &key["metadata"]),
        (&json!(50), &json!({"email": "a@example.com"}))
    );
    app.get(&seen.created(), "/keys/me").await.is(200);

    let less = r#"{"email": "a@example.com", "name": "bot", "scopes": ["write.a"], "expires_in": "1h",
        "budgets": [{"limit_cents": 5, "period": "week"}]}"#;
    let key = sign_up(&app, less).await.is(201)["key"].clone();
    assert_eq!(
        (&key["scopes"], &key["expires_at"]),
        (&json!(["write.a"]), &json!("2026-01-31T13:00:00Z"))
    );
    let limits: Vec<_> = key["budgets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|limit| (limit["period"].as_str().unwrap(), &limit["limit_cents"]))
        .collect();
    assert_eq!(limits, [("week", &json!(5)), ("day", &json!(50)), ("lifetime", &json!(200))]);
}

#[tokio::test]
async fn what_is_beyond_the_caps_is_refused_all_at_once() {
    let app = App::new().await;
    let body = r#"{"email": "nobody", "scopes": ["read", "admin"], "expires_in": "25h", "prefix": "x",
        "budgets": [{"limit_cents": 51, "period": "day"}]}"#;
    let seen = sign_up(&app, body).await;
    assert_eq!(seen.refused(), (400, "invalid_request".into()));
    assert_eq!(seen.fields(), ["email", "scopes", "budgets", "expires_in", "prefix"]);
    assert!(seen.json().to_string().contains("these are: read write.*"), "{}", seen.json());
    for (body, field) in [
        ("", "email"),
        (r#"{"email": null}"#, "email"),
        (r#"{"email": "a@b@c"}"#, "email"),
        (r#"{"email": "@example.com"}"#, "email"),
        (r#"{"email": "a@example.com", "scopes": null}"#, "scopes"),
        (r#"{"email": "a@example.com", "scopes": ["*"]}"#, "scopes"),
        (r#"{"email": "a@example.com", "expires_in": null}"#, "expires_in"),
        (r#"{"email": "a@example.com", "expires_in": "2y"}"#, "expires_in"),
        (r#"{"email": "a@example.com", "expires_in": 24}"#, "expires_in"),
        (r#"{"email": "a@example.com", "expires_at": null}"#, "expires_at"),
        (r#"{"email": "a@example.com", "budgets": null}"#, "budgets"),
        (
            r#"{"email": "a@example.com", "budgets": [{"limit_cents": 201, "period": "month"}]}"#,
            "budgets",
        ),
        (
            r#"{"email": "a@example.com", "budgets": [{"limit_cents": 1, "period": "calendar_day"}]}"#,
            "budgets",
        ),
    ] {
        let seen = sign_up(&app, body).await;
        assert_eq!((seen.status.as_u16(), seen.fields()), (400, vec![field.into()]), "{body}");
    }
    // An empty list of budgets asks for no other limits than the caps.
    let body = r#"{"email": "a@example.com", "budgets": []}"#;
    assert_eq!(sign_up(&app, body).await.is(201)["key"]["budgets"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn without_scopes_set_by_the_host_a_key_may_do_nothing() {
    let bare = Signup::new(Budget::lifetime(Amount::cents(1)));
    let app = App::with(|serve| serve.signup(bare)).await;
    assert_eq!(sign_up(&app, EMAIL).await.is(201)["key"]["scopes"], json!([]));
    let seen = sign_up(&app, r#"{"email": "a@example.com", "scopes": ["read"]}"#).await;
    assert_eq!((seen.status.as_u16(), seen.fields()), (400, vec!["scopes".into()]));
}

#[tokio::test]
async fn each_sign_up_is_isolated_from_every_other() {
    for sponsored in [false, true] {
        let new = signup().require_email(false);
        let new = if sponsored { new.sponsor(acme()) } else { new };
        let app = App::with(|serve| serve.signup(new).account_scope("keys".parse().unwrap())).await;
        let mut callers = Vec::new();
        for body in ["", "{}", EMAIL, EMAIL] {
            callers.push(sign_up(&app, body).await.created());
        }
        for caller in &callers {
            let keys = app.get(caller, "/keys").await.is(200)["keys"].as_array().unwrap().len();
            assert_eq!(keys, 1);
            for other in callers.iter().filter(|other| other.id != caller.id) {
                let seen = app.delete(caller, other.id, "").await;
                assert_eq!(seen.refused(), (404, "not_found".into()));
            }
        }
        let of_acme = app.keys.keys(&KeyQuery::for_account(acme())).await.unwrap().items.len();
        assert_eq!(of_acme, if sponsored { 4 } else { 0 });
    }
}

#[tokio::test]
async fn the_sponsors_ceiling_holds_all_sign_ups_together() {
    let app = App::with(|serve| serve.signup(signup().sponsor(acme()))).await;
    app.keys.ensure_account(acme(), Budget::lifetime(Amount::cents(60))).await.unwrap();
    let (one, two) = (sign_up(&app, EMAIL).await.created(), sign_up(&app, EMAIL).await.created());
    app.spend(&one, 45).await;
    let left = app.get(&two, "/keys/me").await.is(200);
    assert_eq!(left["remaining_cents"], 15);
    assert_eq!(left["budgets"][2], json!({"scope": "inherited", "remaining_cents": 15}));
}

#[tokio::test]
async fn the_hook_may_refuse_narrow_and_open_an_account() {
    let hook = |client: agentkey::routes::NewClient| async move {
        match client.email.as_deref() {
            Some("spam@example.com") => SignupDecision::refuse("not here"),
            Some("known@example.com") => SignupDecision::accept()
                .account(acme())
                .scopes(ScopeSet::unrestricted())
                .budget(Budget::lifetime(Amount::units(1_000)))
                .expires_in("1y".parse().unwrap())
                .delegated_by("user_9"),
            _ => SignupDecision::accept()
                .scopes(scopes(&["read", "admin"]))
                .budget(Budget::daily(Amount::cents(7)).and_monthly(Amount::cents(9)))
                .expires_in("1h".parse().unwrap()),
        }
    };
    let app = App::with(|serve| serve.signup(signup().on_signup(hook))).await;
    let seen = sign_up(&app, r#"{"email": "spam@example.com"}"#).await;
    assert_eq!(seen.refused(), (403, "signup_refused".into()));
    assert_eq!(seen.json()["detail"], "not here");

    let key = sign_up(&app, EMAIL).await.is(201)["key"].clone();
    assert_eq!(
        (&key["scopes"], &key["expires_at"]),
        (&json!(["read"]), &json!("2026-01-31T13:00:00Z"))
    );
    let limits: Vec<_> =
        key["budgets"].as_array().unwrap().iter().map(|limit| &limit["limit_cents"]).collect();
    assert_eq!(limits, [&json!(200), &json!(7), &json!(9)]);

    // It gives no more than the host's caps.
    let known = sign_up(&app, r#"{"email": "known@example.com"}"#).await;
    let key = known.is(201)["key"].clone();
    assert_eq!(
        (&key["scopes"], &key["expires_at"]),
        (&json!(["read", "write.*"]), &json!("2026-02-01T12:00:00Z"))
    );
    assert_eq!((&key["remaining_cents"], &key["delegated_by"]), (&json!(50), &json!("user_9")));
    let lineage = app.keys.find_by_id(known.created().id).await.unwrap().unwrap();
    assert_eq!(*lineage.account_id(), acme());
}

#[tokio::test]
async fn the_caps_hold_in_the_shortest_month_too() {
    let hook = |client: agentkey::routes::NewClient| async move {
        match client.name {
            Some(_) => SignupDecision::accept(),
            None => SignupDecision::accept().expires_in("30d".parse().unwrap()),
        }
    };
    let signup = signup().expires_in("1mo".parse().unwrap()).on_signup(hook);
    let app = App::with(|serve| serve.signup(signup)).await;
    app.clock.set("2026-02-01T12:00:00Z".parse().unwrap());
    let key = sign_up(&app, EMAIL).await.is(201)["key"].clone();
    assert_eq!(key["expires_at"], "2026-03-01T12:00:00Z", "the hook's 30 days are more");
    let asked = r#"{"email": "a@example.com", "name": "bot", "expires_in": "30d"}"#;
    let seen = sign_up(&app, asked).await;
    assert_eq!(seen.refused(), (400, "invalid_request".into()));
}

#[tokio::test]
async fn forged_addresses_move_no_limit() {
    let app =
        App::with(|serve| serve.signup(signup().limits(2, 100, Duration::from_secs(60)))).await;
    let forged = |n: u8| {
        [
            ("x-forwarded-for", format!("203.0.113.{n}")),
            ("cf-connecting-ip", format!("203.0.113.{n}")),
            ("x-real-ip", format!("203.0.113.{n}")),
            ("forwarded", format!("for=203.0.113.{n}")),
        ]
    };
    for n in 0..4 {
        let headers = forged(n);
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let status = from(&app, "192.0.2.1:1000", &headers).await;
        assert_eq!(status, if n < 2 { 201 } else { 429 }, "{n}");
    }
    assert_eq!(from(&app, "192.0.2.2:1000", &[]).await, 201);
    for (n, peer) in
        ["[2001:db8::1]:1", "[2001:db8::ffff:1]:1", "[2001:db8::2]:1"].into_iter().enumerate()
    {
        assert_eq!(from(&app, peer, &[]).await, if n < 2 { 201 } else { 429 }, "{peer}");
    }

    let behind = signup().limits(1, 100, Duration::from_secs(60)).trusted_hops(1);
    let app = App::with(|serve| serve.signup(behind)).await;
    let mut statuses = Vec::new();
    for forwarded in ["203.0.113.1", "203.0.113.2", "8.8.8.8, 203.0.113.1", "9.9.9.9,203.0.113.2"] {
        statuses.push(from(&app, "10.0.0.1:1", &[("x-forwarded-for", forwarded)]).await);
    }
    assert_eq!(statuses, [201, 201, 429, 429]);
    // What comes past the proxy is one client, from whichever address.
    assert_eq!(from(&app, "10.0.0.2:1", &[]).await, 201);
    assert_eq!(from(&app, "10.0.0.3:1", &[("x-forwarded-for", "nonsense")]).await, 429);
}

#[tokio::test]
async fn sign_ups_are_limited_in_total_and_say_when_to_come_back() {
    let asked = Arc::new(AtomicU32::new(0));
    let hook = {
        let asked = asked.clone();
        move |_| {
            asked.fetch_add(1, Ordering::SeqCst);
            async { SignupDecision::accept() }
        }
    };
    let new = signup().limits(10, 3, Duration::from_secs(60)).on_signup(hook);
    let app = App::with(|serve| serve.signup(new)).await;
    // A request that is wrong does not count.
    sign_up(&app, "{}").await.is(400);
    for n in 0..3 {
        assert_eq!(from(&app, &format!("192.0.2.{n}:1"), &[]).await, 201);
    }
    let seen = sign_up(&app, EMAIL).await;
    assert_eq!(seen.refused(), (429, "rate_limited".into()));
    let seconds: u32 = seen.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds), "{seconds}");
    assert_eq!(asked.load(Ordering::SeqCst), 3, "the hook is not asked beyond the limit");
}

#[tokio::test]
async fn without_addresses_all_clients_have_the_limit_of_one() {
    let app =
        App::with(|serve| serve.signup(signup().limits(1, 100, Duration::from_secs(60)))).await;
    let mut statuses = Vec::new();
    for _ in 0..2 {
        statuses.push(sign_up(&app, EMAIL).await.status.as_u16());
    }
    assert_eq!(statuses, [201, 429]);
}

#[tokio::test]
async fn a_sign_up_without_bounds_is_not_built() {
    let keys = AgentKeys::new(MemoryStore::new()).unwrap();
    let cap = Budget::lifetime(Amount::cents(1));
    let named = Signup::new(cap).scopes(scopes(&["keys.*"])).sponsor(acme());
    for (signup, text) in [
        (Signup::new(Budget::unlimited()), "anybody may sign up"),
        (Signup::new(Budget::lifetime(Amount::cents(-1))), "anybody may sign up"),
        (Signup::new(cap).scopes(ScopeSet::unrestricted()), "named scopes"),
        (Signup::new(cap).scopes(scopes(&["*"])), "named scopes"),
        (Signup::new(cap).limits(1, 0, Duration::from_secs(1)), "in total"),
        (Signup::new(cap).limits(1, 1, Duration::ZERO), "a window"),
        (named.clone(), "all others"),
    ] {
        let serve = SelfServe::new(&keys).account_scope("keys.all".parse().unwrap());
        let error = serve.signup(signup).into_router().unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
    assert!(SelfServe::new(&keys).signup(named).into_router().is_ok());
    assert!(SelfServe::new(&keys).max_depth(0).into_router().is_err());
}
