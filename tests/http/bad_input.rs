//! Noise instead of credentials: refused without asking the store, and without a panic.

use agentkey::model::{ChangeError, Note, PostingId};
use agentkey::{
    Amount, Budget, Charge, EntryQuery, Error, KeyContext, KeyId, NewKey, Refusal, Token,
};
use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::{HeaderValue, Request};
use tower::ServiceExt;

use super::support::{Client, Seen, Version, World, acme, capture_logs, logged, raw, serve};

fn app(world: &World) -> Router {
    Router::new()
        .route("/", get(async |_: KeyContext| "let in"))
        .route("/paid", get(async |_: Charge| "begun"))
        .layer(world.layer())
}

/// What a request with these headers gets: "let in", or status and code.
async fn answer(app: &Router, headers: &[(&'static str, Vec<u8>)]) -> String {
    answer_at(app, "/", headers).await
}

async fn answer_at(app: &Router, path: &str, headers: &[(&'static str, Vec<u8>)]) -> String {
    let mut request = Request::get(path).body(Body::empty()).unwrap();
    for (name, value) in headers {
        request.headers_mut().append(*name, HeaderValue::from_bytes(value).unwrap());
    }
    let seen = Seen::read(app.clone().oneshot(request).await.unwrap()).await;
    if seen.status == 200 {
        seen.data
    } else {
        format!("{} {}", seen.status.as_u16(), seen.refused().1)
    }
}

fn bearer(token: &str) -> (&'static str, Vec<u8>) {
    ("authorization", format!("Bearer {token}").into_bytes())
}

fn api_key(token: impl AsRef<[u8]>) -> (&'static str, Vec<u8>) {
    ("x-api-key", token.as_ref().to_vec())
}

fn authorization(value: impl AsRef<[u8]>) -> (&'static str, Vec<u8>) {
    ("authorization", value.as_ref().to_vec())
}

const INVALID: &str = "401 invalid_key";
const MISSING: &str = "401 missing_key";
const AMBIGUOUS: &str = "400 ambiguous_credentials";

#[tokio::test]
async fn tokens_are_found_where_they_may_be() {
    let world = World::new().await;
    let (app, (_, token)) = (app(&world), world.key().await);
    let token = token.expose();
    for headers in [
        vec![bearer(token)],
        vec![authorization(format!("bearer {token}"))],
        vec![authorization(format!("BEARER {token}"))],
        vec![authorization(format!("Bearer    {token}  "))],
        vec![authorization(format!("Bearer\t{token}"))],
        vec![api_key(token)],
        vec![api_key(format!("  {token} "))],
        // The same one twice is one.
        vec![bearer(token), api_key(token)],
        vec![bearer(token), bearer(token)],
        vec![bearer(token), authorization(format!("bearer   {token}"))],
        // Another scheme is none of our business.
        vec![authorization("Basic dXNlcjpwYXNz"), api_key(token)],
        vec![authorization("Basic dXNlcjpwYXNz"), bearer(token)],
        // An empty one is none.
        vec![bearer(token), api_key("")],
        vec![bearer(token), api_key("  ")],
        vec![bearer(""), api_key(token)],
        vec![authorization("Bearer"), api_key(token)],
        vec![api_key(""), api_key(token)],
        // So is one without a scheme, as any other value of `Authorization`.
        vec![authorization(token), api_key(token)],
    ] {
        assert_eq!(answer(&app, &headers).await, "let in", "{headers:?}");
    }
    assert_eq!(world.spy.finds(), 18);
}

#[tokio::test]
async fn noise_is_refused_without_a_look_up() {
    let world = World::new().await;
    let (app, (_, token)) = (app(&world), world.key().await);
    let token = token.expose();
    let other = Token::generate(&"ak".parse().unwrap()).unwrap();
    let swapped: String = {
        // Two characters the other way round: what a typo looks like, and what the checksum is for.
        let mut bytes = token.as_bytes().to_vec();
        let at = (4..bytes.len() - 7).find(|at| bytes[*at] != bytes[*at + 1]).unwrap();
        bytes.swap(at, at + 1);
        String::from_utf8(bytes).unwrap()
    };
    let cut = &token[..token.len() - 1];
    for (headers, wanted) in [
        (vec![], MISSING),
        (vec![authorization("Basic dXNlcjpwYXNz")], MISSING),
        (vec![authorization("Digest username=\"x\"")], MISSING),
        (vec![authorization("")], MISSING),
        (vec![authorization(format!("Bearer{token}"))], MISSING),
        (vec![authorization(token)], INVALID),
        (vec![authorization(cut)], MISSING),
        (vec![authorization(format!("{token} {token}"))], MISSING),
        (vec![authorization("Bearer")], INVALID),
        (vec![authorization("Bearer ")], INVALID),
        (vec![authorization("Bearer      ")], INVALID),
        (vec![authorization(format!("Bearer {token} {token}"))], INVALID),
        (vec![authorization(format!("Bearer \"{token}\""))], INVALID),
        (vec![authorization(format!("Bearer {token},"))], INVALID),
        (vec![authorization(b"Bearer \xff\xfe\x80")], INVALID),
        (
            vec![authorization([b"Bearer ".as_slice(), &token.as_bytes()[..20], b"\xff"].concat())],
            INVALID,
        ),
        (vec![authorization(format!("Bearer {}", "ü".repeat(24)))], INVALID),
        (vec![authorization(b"\xff\xff\xff")], MISSING),
        (vec![api_key("")], INVALID),
        (vec![api_key("   ")], INVALID),
        (vec![api_key(b"\xf0\x9f\xa6\x80")], INVALID),
        (vec![api_key("_")], INVALID),
        (vec![api_key("ak_")], INVALID),
        (vec![api_key("sk-0123456789abcdef0123456789abcdef")], INVALID),
        (vec![api_key(&swapped)], INVALID),
        (vec![api_key(cut)], INVALID),
        (vec![api_key(format!("{token}A"))], INVALID),
        (vec![api_key(format!("A{token}"))], INVALID),
        (vec![api_key(token.to_uppercase())], INVALID),
        (vec![api_key(format!("{token}{token}"))], INVALID),
        (vec![api_key("A".repeat(1 << 20))], INVALID),
        (vec![api_key("_".repeat(1 << 20))], INVALID),
        (vec![api_key(format!("ak_{}", "A".repeat(1 << 20)))], INVALID),
        (vec![bearer(&" ".repeat(1 << 20))], INVALID),
        (vec![bearer(token), api_key(other.expose())], AMBIGUOUS),
        (vec![bearer(token), api_key("noise")], AMBIGUOUS),
        (vec![bearer(""), api_key("")], INVALID),
        (vec![bearer(token), bearer(other.expose())], AMBIGUOUS),
        (vec![api_key(token), api_key(other.expose())], AMBIGUOUS),
        (vec![api_key(token), api_key(b"\xff")], AMBIGUOUS),
    ] {
        let named = format!("{:.200}", format!("{headers:?}"));
        assert_eq!(answer(&app, &headers).await, wanted, "{named}");
    }
    assert_eq!(world.spy.finds(), 0);
    // A token that could be one is looked up.
    assert_eq!(answer(&app, &[api_key(other.expose())]).await, INVALID);
    assert_eq!(world.spy.finds(), 1);
}

#[tokio::test]
async fn the_headers_of_two_credentials_are_named() {
    let world = World::new().await;
    let (app, (_, token)) = (app(&world), world.key().await);
    let token = token.expose();
    for (headers, wanted) in [
        ([bearer(token), api_key("noise")], "in authorization and x-api-key"),
        ([api_key("noise"), bearer(token)], "in x-api-key and authorization"),
        ([api_key(token), api_key("noise")], "both in x-api-key"),
    ] {
        let mut request = Request::get("/").body(Body::empty()).unwrap();
        for (name, value) in &headers {
            request.headers_mut().append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        let seen = Seen::read(app.clone().oneshot(request).await.unwrap()).await;
        let detail = format!("the request has two different credentials, {wanted}; send one");
        assert_eq!(seen.json()["detail"], *detail);
    }
}

/// With prefixes, what has another one is absent: it neither hides a key nor is refused.
#[tokio::test]
async fn only_credentials_with_these_prefixes_count() {
    let world = World::new().await;
    let (_, token) = world.key().await;
    let (_, test) = world.create(NewKey::new(acme()).prefix("ak_test".parse().unwrap())).await;
    let (_, live) = world.create(NewKey::new(acme()).prefix("ak_live".parse().unwrap())).await;
    let [token, test, live] = [&token, &test, &live].map(|token| token.expose());
    let layer = world.layer().credential_prefixes(["ak", "ak_test"].map(|it| it.parse().unwrap()));
    let routes = |layer| Router::new().route("/", get(async |_: KeyContext| "let in")).layer(layer);
    let app = routes(layer.clone());
    for (headers, wanted) in [
        (vec![bearer("dummy"), api_key(token)], "let in"),
        (vec![bearer("-"), api_key(token)], "let in"),
        (vec![bearer("sk-0123456789abcdef"), api_key(test)], "let in"),
        (vec![bearer("eyJhbGciOiJub25lIn0.e30."), api_key(token)], "let in"),
        (vec![bearer(token), api_key("ak_live_noise")], "let in"),
        (vec![bearer(live), api_key(test)], "let in"),
        (vec![authorization(live), api_key(token)], "let in"),
        (vec![authorization(b"Bearer \xff\xfe"), api_key(token)], "let in"),
        (vec![bearer("dummy")], MISSING),
        (vec![bearer("")], MISSING),
        (vec![api_key("")], MISSING),
        (vec![api_key(b"\xff_")], MISSING),
        (vec![bearer(live)], MISSING),
        (vec![authorization(live)], MISSING),
        // With one of these prefixes, a credential is what it was.
        (vec![api_key("ak_noise")], INVALID),
        (vec![api_key(&token[..30])], INVALID),
        (vec![authorization(token)], INVALID),
        (vec![bearer(token), api_key(test)], AMBIGUOUS),
        (vec![bearer(token), api_key("ak_noise")], AMBIGUOUS),
    ] {
        assert_eq!(answer(&app, &headers).await, wanted, "{headers:?}");
    }
    // Foreign tokens need one of the prefixes, too.
    let foreign = routes(layer.clone().foreign_tokens(true));
    assert_eq!(answer(&foreign, &[bearer("another-system"), api_key(token)]).await, "let in");
    assert_eq!(answer(&foreign, &[bearer("another-system")]).await, MISSING);
    // An optional layer lets a request through whose only credential is another system's.
    let open = Router::new()
        .route(
            "/",
            get(async |key: Option<KeyContext>| if key.is_none() { "anonymous" } else { "known" }),
        )
        .layer(layer.optional(true));
    assert_eq!(answer(&open, &[bearer("another-system")]).await, "anonymous");
    assert_eq!(answer(&open, &[bearer("another-system"), api_key(token)]).await, "known");
}

/// Every value a header can have, shorter than a token: no panic, no look-up, never let in.
#[tokio::test]
async fn any_bytes_are_refused() {
    let world = World::new().await;
    let (app, (_, token)) = (app(&world), world.key().await);
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..2_000 {
        let mut value = if round % 2 == 0 { b"Bearer ".to_vec() } else { Vec::new() };
        // Half of it is a token with some bytes changed, half of it is any bytes.
        let mut noise =
            if round % 4 < 2 { token.expose().as_bytes().to_vec() } else { vec![b'a'; round % 60] };
        for change in 0..=round % 7 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let byte = random.to_le_bytes()[0];
            let at = usize::try_from(random >> 32).unwrap() % noise.len().max(1);
            if let Some(place) = noise.get_mut(at).filter(|_| byte >= 32 && byte != 127) {
                // The first change must change something.
                *place = if change == 0 && *place == byte { b'!' } else { byte };
            }
        }
        if noise == token.expose().as_bytes() {
            continue;
        }
        value.extend_from_slice(&noise);
        let name = if round % 2 == 0 { "authorization" } else { "x-api-key" };
        let got = answer(&app, &[(name, value)]).await;
        assert_eq!(got, INVALID);
    }
    assert_eq!(world.spy.finds(), 0);
}

#[tokio::test]
async fn other_headers_and_other_tokens_where_the_application_says_so() {
    let world = World::new().await;
    let (_, token) = world.key().await;
    let token = token.expose();
    let routes = || Router::new().route("/", get(async |_: KeyContext| "let in"));
    let named = routes().layer(world.layer().credential_headers(["x-agent-key".parse().unwrap()]));
    assert_eq!(answer(&named, &[("x-agent-key", token.as_bytes().to_vec())]).await, "let in");
    assert_eq!(answer(&named, &[bearer(token)]).await, MISSING);
    assert_eq!(answer(&named, &[api_key(token)]).await, MISSING);
    let looked_up = world.spy.finds();
    let foreign = routes().layer(world.layer().foreign_tokens(true));
    assert_eq!(answer(&foreign, &[bearer(token)]).await, "let in");
    for (noise, finds) in [
        ("1234567", 0),
        ("12345678", 1),
        (&*"x".repeat(512), 1),
        (&*"x".repeat(513), 0),
        ("1234 5678", 0),
    ] {
        let before = world.spy.finds();
        assert_eq!(answer(&foreign, &[bearer(noise)]).await, INVALID);
        assert_eq!(world.spy.finds() - before, finds, "{noise:.20}");
    }
    assert_eq!(world.spy.finds(), looked_up + 3);
}

const BAD_IDEMPOTENCY_KEY: &str = "400 invalid_idempotency_key";

#[tokio::test]
async fn bad_idempotency_keys_are_refused_where_money_is_asked_for() {
    let world = World::new().await;
    let (app, (_, token)) = (app(&world), world.key().await);
    let keyed = |value: &[u8]| vec![api_key(token.expose()), ("idempotency-key", value.to_vec())];
    let mut twice = keyed(b"a");
    twice.push(("idempotency-key", b"a".to_vec()));
    for headers in [
        keyed(b""),
        keyed(b"   "),
        keyed(b"\"\""),
        keyed(b"two words"),
        keyed(b"tab\tbed"),
        keyed(b"\xff\xfe"),
        keyed("ключ".as_bytes()),
        keyed(&[b'x'; 256]),
        keyed(&vec![b'x'; 1 << 20]),
        twice,
    ] {
        assert_eq!(answer_at(&app, "/paid", &headers).await, BAD_IDEMPOTENCY_KEY);
        // A route that charges nothing does not read it.
        assert_eq!(answer_at(&app, "/", &headers).await, "let in");
    }
    assert_eq!(world.spy.count(|_| true), 0);
    for value in [
        &b"a"[..],
        b"\"quoted\"",
        b"  padded  ",
        &[b'x'; 255],
        b"8e03978e-40d5-43e8-bc93-6894a57f9324",
    ] {
        assert_eq!(answer_at(&app, "/paid", &keyed(value)).await, "begun");
    }
}

/// A provider reports an absurd usage, and the handler adds its price.
#[tokio::test]
async fn a_cost_that_is_no_price_leaves_room_for_others_and_can_be_taken_back() {
    capture_logs();
    let world = World::new().await;
    let (id, absurd) = world.create(NewKey::new(acme())).await;
    let (_, sound) = world.create(NewKey::new(acme())).await;
    let routes =
        Router::new().route("/absurd", get(async |charge: Charge| charge.add(Amount::MAX))).route(
            "/pay",
            get(async |charge: Charge| charge.pay(Amount::cents(60)).await.map(|_| "paid")),
        );
    let addr = serve(routes.layer(world.layer())).await;
    let (absurd, sound) =
        (Client::new(Version::Http1, addr, &absurd), Client::new(Version::Http1, addr, &sound));
    for _ in 0..2 {
        assert_eq!(absurd.get("/absurd").await.status, 200);
        assert_eq!(sound.get("/pay").await.data, "paid");
    }
    for entry in world.keys.entries(&EntryQuery::for_account(acme())).await.unwrap().items {
        if entry.key == Some(id) {
            world.keys.refund(&acme(), entry.id, entry.amount).await.unwrap();
        }
    }
    assert_eq!(world.ledger().await.spent, Amount::cents(120));
    let wanted = format!("cost_micros={}", Amount::MAX.as_micros());
    assert_eq!(logged(&["ERROR", "capped a charge", &format!("key={id}"), &wanted]).len(), 2);
}

/// A charge tops no key up, for any amount that a client can choose; only the application's own call does.
#[tokio::test]
async fn only_the_application_adjusts() {
    let world = World::new().await;
    let new = NewKey::new(acme()).budget(Budget::lifetime(Amount::cents(10)));
    let (key, token) = world.create(new).await;
    let routes = Router::new()
        .route(
            "/pay",
            get(async |charge: Charge| charge.pay(Amount::cents(-5)).await.map(|_| "paid")),
        )
        .route(
            "/hold",
            get(async |charge: Charge| charge.hold(Amount::cents(-5)).await.map(|_| "held")),
        )
        .route("/add", get(async |charge: Charge| charge.add(Amount::cents(-5))))
        .route(
            "/ten",
            get(async |charge: Charge| charge.pay(Amount::cents(10)).await.map(|_| "paid")),
        );
    let app = routes.layer(world.layer());
    let ask = async |path| answer_at(&app, path, &[bearer(token.expose())]).await;
    assert_eq!(ask("/pay").await, "400 negative_amount");
    assert_eq!(ask("/hold").await, "400 negative_amount");
    ask("/add").await;
    let spent = async || world.keys.find_by_id(key).await.unwrap().unwrap().key().balance.spent();
    assert_eq!(spent().await, Amount::ZERO);
    assert_eq!(
        (ask("/ten").await, ask("/ten").await),
        ("paid".into(), "402 budget_exceeded".into())
    );

    let adjusted =
        world.keys.adjust(key, Amount::cents(-10), "goodwill", Some("ticket 17")).await.unwrap();
    assert_eq!((ask("/ten").await, spent().await), ("paid".into(), Amount::cents(10)));
    let refund = world.keys.refund(&acme(), adjusted, Amount::ZERO).await;
    assert!(matches!(refund, Err(Error::Refused(Refusal::UnknownEntry))), "{refund:?}");
}

/// What an adjustment needs, and what it answers where that lacks.
#[tokio::test]
async fn an_adjustment_needs_a_holder_an_amount_and_a_reason() {
    let world = World::new().await;
    let (key, _) = world.create(NewKey::new(acme())).await;
    let keys = &world.keys;
    let cents = Amount::cents(1);
    for reason in ["", " \t", "a\nb", &"x".repeat(256)] {
        let refused = keys.adjust(key, cents, reason, None).await;
        assert!(
            matches!(refused, Err(Error::Change(ChangeError::Invalid { field: "reason", .. }))),
            "{refused:?}"
        );
    }
    let refused = keys.adjust(key, cents, "goodwill", Some("")).await;
    assert!(
        matches!(refused, Err(Error::Change(ChangeError::Invalid { field: "reference", .. }))),
        "{refused:?}"
    );
    let refused = keys.adjust(key, Amount::ZERO, "goodwill", None).await;
    assert!(matches!(refused, Err(Error::Refused(Refusal::ZeroAdjustment))), "{refused:?}");
    let (nobody, nowhere) = (KeyId::new(987_654), agentkey::AccountId::new("nobody").unwrap());
    let refused = keys.adjust(nobody, cents, "goodwill", None).await;
    assert!(matches!(refused, Err(Error::Change(ChangeError::UnknownKey(id))) if id == nobody));
    let refused = keys.adjust(nowhere.clone(), cents, "goodwill", None).await;
    assert!(
        matches!(refused, Err(Error::Change(ChangeError::UnknownAccount(id))) if id == nowhere)
    );

    let id = PostingId::new();
    let reason = "ü".repeat(255);
    for _ in 0..2 {
        let entry = keys.adjust_as(id, acme(), cents, &reason, Some("17")).await.unwrap();
        assert_eq!(entry, id.into());
    }
    let entries = keys.entries(&EntryQuery::for_account(acme())).await.unwrap().items;
    let [entry] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!((entry.key, entry.note.labels.get(Note::REASON)), (None, Some(&*reason)));
    assert_eq!(entry.note.reference.as_deref(), Some("17"));
}

/// Over a socket, where the server has a say as well: whatever it answers, it goes on serving.
#[tokio::test]
async fn noise_over_a_socket() {
    let world = World::new().await;
    let (_, token) = world.key().await;
    let addr = serve(app(&world)).await;
    let get = |headers: &[u8]| {
        [b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n".as_slice(), headers, b"\r\n\r\n"]
            .concat()
    };
    let status = |answer: &str| answer.split(' ').nth(1).unwrap_or("closed").to_owned();
    for (headers, wanted) in [
        (b"authorization: Bearer \xff\xfe\xfd".to_vec(), &["401"][..]),
        (b"authorization: Bearer\r\nx-api-key: \xc3\x28".to_vec(), &["401"]),
        (b"x-api-key:".to_vec(), &["401"]),
        // Not a header at all: hyper's to refuse.
        (b"x-api-key: a\x00b".to_vec(), &["400"]),
        (b"x-api-key: a\nb".to_vec(), &["400"]),
        // A head of a megabyte: hyper's limit of its buffer decides.
        ([b"x-api-key: ".as_slice(), &vec![b'A'; 1 << 20]].concat(), &["431", "401", "closed"]),
    ] {
        let answer = raw(addr, &get(&headers)).await;
        assert!(
            wanted.contains(&&*status(&answer)),
            "{:.60}: {answer:.300}",
            String::from_utf8_lossy(&headers)
        );
        let good =
            raw(addr, &get(format!("authorization: bearer {}", token.expose()).as_bytes())).await;
        assert!(good.starts_with("HTTP/1.1 200") && good.ends_with("let in"), "{good}");
    }
    assert_eq!(world.spy.finds(), 6);
}
