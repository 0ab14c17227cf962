//! What is logged while all is well: changes, charges, debt and refusals, and never a token.

use agentkey::{
    AccountId, Amount, Budget, Charge, Grace, KeyPatch, NewKey, Rejection, RequireScope, Token,
};
use axum::Router;
use axum::routing::{get, post};

use super::refusals::{answer, ask, ask_with, paid};
use super::support::{Client, Version, World, capture_logs, logged, serve};

/// Logs are those of the whole process, so each test has an account of its own.
fn account(name: &str) -> AccountId {
    capture_logs();
    name.parse().unwrap()
}

fn never_logged(tokens: &[&Token]) {
    for token in tokens {
        let secret = &token.expose()[token.prefix().len() + 1 + token.start().len()..];
        assert_eq!(logged(&[secret]), [""; 0]);
    }
}

#[tokio::test]
async fn changes_are_logged_with_the_key() {
    let owner = account("logged-changes");
    let keys = World::new().await.keys;
    let created = keys.create(NewKey::new(owner.clone())).await.unwrap();
    let (id, child) =
        (created.key.id, keys.create(NewKey::child_of(created.key.id)).await.unwrap());
    keys.update(id, KeyPatch::new().name("b")).await.unwrap();
    let rotated = keys.rotate(id, Grace::NONE).await.unwrap();
    keys.revoke(id, None).await.unwrap();
    keys.set_account_budget(&owner, Budget::daily(Amount::cents(5))).await.unwrap();

    let lines =
        |parts: &[&str]| logged(&[&["INFO", "account=logged-changes"], parts].concat()).len();
    let of_key = format!("key={id} ");
    for done in ["created", "updated", "rotated", "revoked"] {
        assert_eq!(lines(&[&of_key, &format!("agentkey {done} a key")]), 1, "{done}");
    }
    let of_child = [&*format!("key={} ", child.key.id), &format!("parent={id}"), "created a key"];
    assert_eq!(lines(&of_child), 1);
    assert_eq!(lines(&["set the ceiling of an account"]), 1);
    // What was not done is not logged.
    keys.update(id, KeyPatch::new().name("c")).await.unwrap_err();
    assert_eq!(lines(&["updated a key"]), 1);
    never_logged(&[&created.token, &child.token, &rotated.token]);
}

#[tokio::test]
async fn charges_are_logged_and_debt_by_itself() {
    let owner = account("logged-charges");
    let world = World::new().await;
    let new = NewKey::new(owner).budget(Budget::lifetime(Amount::cents(10)));
    let (id, token) = world.create(new).await;
    let meter = async |charge: Charge| -> Result<(), Rejection> {
        charge.hold(Amount::cents(1)).await?;
        let receipt = charge.pay(Amount::cents(3)).await?;
        charge.refund(&receipt, Amount::cents(1)).await?;
        charge.add(Amount::cents(4));
        Ok(())
    };
    let addr = serve(Router::new().route("/", post(meter)).layer(world.layer())).await;
    let client = Client::new(Version::Http1, addr, &token);
    let lines = |parts: &[&str]| logged(&[&["account=logged-charges"], parts].concat()).len();
    let entry = |kind: &str, micros: u32| {
        let (kind, micros) = (format!("kind=\"{kind}\""), format!("amount_micros={micros}"));
        lines(&["DEBUG", &kind, &format!("key={id} "), &micros, "entry="])
    };
    assert_eq!(client.post("/", "a").await.status, 200);
    assert_eq!([entry("pay", 30_000), entry("refund", 10_000), entry("settle", 40_000)], [1; 3]);
    assert_eq!(lines(&["INFO", "more than the budget had left"]), 0);

    // 4 are left; 3 are paid and 1 of them given back, so 2 of the next 4 are debt.
    assert_eq!(client.post("/", "b").await.status, 200);
    let debt = ["INFO", "cost_micros=40000", "debt_micros=20000", "more than the budget had left"];
    assert_eq!(lines(&debt), 1);
    world.keys.adjust(id, Amount::cents(-5), "goodwill", None).await.unwrap();
    assert_eq!(lines(&["DEBUG", "kind=\"adjust\"", "amount_micros=-50000"]), 1);
    never_logged(&[&token]);
}

#[tokio::test]
async fn refusals_are_logged_with_key_reason_and_route() {
    let owner = account("logged-refusals");
    let world = World::new().await;
    let (id, token) =
        world.create(NewKey::new(owner.clone()).budget(Budget::lifetime(Amount::ZERO))).await;
    let (gone, revoked) = world.create(NewKey::new(owner)).await;
    world.keys.revoke(gone, None).await.unwrap();
    let routes = Router::new()
        .route("/paid", get(paid))
        .route("/scoped", get(async || "").layer(RequireScope::one("docs.write").unwrap()))
        .layer(world.layer());
    let app = Router::new().nest("/logged-refusals", routes);
    for (request, line) in [
        (
            ask("/logged-refusals/paid"),
            r#"code="missing_key" status=401 method="GET" path="/logged-refusals/paid""#,
        ),
        (
            ask_with("/logged-refusals/paid?secret=s3cret", &revoked),
            &*format!(
                r#"key={gone} code="revoked_key" status=401 method="GET" path="/logged-refusals/paid""#
            ),
        ),
        (
            ask_with("/logged-refusals/paid", &token),
            &format!(
                r#"key={id} code="budget_exceeded" status=402 method="GET" path="/logged-refusals/paid""#
            ),
        ),
        (
            ask_with("/logged-refusals/scoped", &token),
            &format!(
                r#"key={id} code="insufficient_scope" status=403 method="GET" path="/logged-refusals/scoped""#
            ),
        ),
    ] {
        assert!(answer(&app, request).await.status.is_client_error());
        let wanted = ["DEBUG ", &format!(" agentkey::refusal: agentkey refused a request {line}")];
        assert_eq!(logged(&wanted).len(), 1, "{line}: {:#?}", logged(&["path=\"/logged-refusals"]));
    }
    assert_eq!(logged(&["s3cret"]), [""; 0]);
    never_logged(&[&token, &revoked]);
}
