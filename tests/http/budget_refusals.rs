//! Refusals for want of budget: whose figures they show, and when waiting helps.

use std::time::Duration;

use agentkey::model::BlockedBy;
use agentkey::{Amount, Budget, Charge, KeyId, NewKey, Refusal, Token};
use axum::Router;
use axum::routing::get;

use super::refusals::{Answer, answer, app, ask_with, paid, row};
use super::support::{Ledger, World, acme, clock};

#[tokio::test]
async fn a_window_that_will_reset_says_when() {
    let clock = clock();
    let world = World::at(&clock).await;
    let app = app(&world.layer());
    let (_, token) =
        world.create(NewKey::new(acme()).budget(Budget::daily(Amount::cents(15)))).await;
    assert_eq!(answer(&app, ask_with("/paid", &token)).await.status, 200);
    // 0.25 s into the day: the rest of it is rounded up, so that nobody comes back too early.
    clock.advance(Duration::from_millis(250));
    let refused = answer(&app, ask_with("/paid", &token)).await;
    row(
        ask_with("/paid", &token),
        402,
        "budget_exceeded",
        r#""the budget does not cover this request","limit_cents":15,"spent_cents":10,"held_cents":0,"remaining_cents":5,"required_cents":10,"period":"day","resets_at":"2026-02-01T12:00:00Z","blocked_by":"key""#,
    )
    .retry_after("86400")
    .check(&refused);
    clock.set("2026-02-01T12:00:00Z".parse().unwrap());
    assert_eq!(answer(&app, ask_with("/paid", &token)).await.status, 200);
}

/// A cost beyond the limit is posted; the next request is refused with figures that say so.
#[tokio::test]
async fn debt_is_shown_and_refuses_new_work() {
    let world = World::at(&clock()).await;
    let dear = get(async |charge: Charge| -> Answer {
        charge.hold(Amount::cents(10)).await?;
        charge.add(Amount::micros(1_234_567));
        Ok("dear")
    });
    let app = Router::new().route("/dear", dear).layer(world.layer());
    let (_, token) =
        world.create(NewKey::new(acme()).budget(Budget::monthly(Amount::units(1)))).await;
    let seen = answer(&app, ask_with("/dear", &token)).await;
    assert_eq!((seen.status.as_u16(), seen.header("agentkey-remaining-cents")), (200, Some("0")));
    let refused = answer(&app, ask_with("/dear", &token)).await;
    row(
        ask_with("/dear", &token),
        402,
        "budget_exceeded",
        r#""the budget does not cover this request","limit_cents":100,"spent_cents":123.4567,"held_cents":0,"remaining_cents":0,"required_cents":0,"period":"month","resets_at":"2026-02-28T12:00:00Z","blocked_by":"key""#,
    )
    .retry_after("2419200")
    .check(&refused);
    assert_eq!(world.ledger().await.entries, [("settle", Amount::micros(1_234_567))]);
}

/// A child, its parent and their account, each with another limit, and the parent's own spending.
async fn family(world: &World, parent: i32, account: i32) -> (KeyId, Token) {
    world.keys.ensure_account(acme(), Budget::lifetime(Amount::cents(account))).await.unwrap();
    let (parent, token) =
        world.create(NewKey::new(acme()).budget(Budget::lifetime(Amount::cents(parent)))).await;
    assert_eq!(answer(&app(&world.layer()), ask_with("/paid", &token)).await.status, 200);
    world.create(NewKey::child_of(parent)).await
}

#[tokio::test]
async fn figures_of_others_are_not_shown() {
    for (parent, account, by, name) in
        [(17, 1_000, BlockedBy::Ancestor, "ancestor"), (900, 17, BlockedBy::Account, "account")]
    {
        let world = World::at(&clock()).await;
        let (_, token) = family(&world, parent, account).await;
        let refused = answer(&app(&world.layer()), ask_with("/paid", &token)).await;
        row(
            ask_with("/paid", &token),
            402,
            "budget_exceeded",
            &format!(
                r#""the budget does not cover this request","limit_cents":null,"spent_cents":0,"held_cents":0,"remaining_cents":7,"required_cents":10,"period":"lifetime","resets_at":null,"blocked_by":"{name}""#
            ),
        )
        .check(&refused);
        let Some(Refusal::BudgetExceeded(shortfall)) = refused.refusal else {
            panic!("{:?}", refused.refusal)
        };
        assert_eq!(shortfall.blocked_by, by);
        assert_eq!(world.ledger().await, Ledger::of(&[("settle", 10)]));
    }
}

/// The key itself is named where it refuses, even if others would too.
#[tokio::test]
async fn the_nearest_member_that_refuses_is_named() {
    let world = World::at(&clock()).await;
    let (parent, _) =
        world.create(NewKey::new(acme()).budget(Budget::lifetime(Amount::cents(8)))).await;
    let (_, token) =
        world.create(NewKey::child_of(parent).budget(Budget::lifetime(Amount::cents(6)))).await;
    let json = answer(&app(&world.layer()), ask_with("/paid", &token)).await.json();
    assert_eq!((&json["blocked_by"], &json["remaining_cents"]), (&"key".into(), &6.into()));
}

#[tokio::test]
async fn holds_of_other_requests_block_and_are_reported_apart_from_spending() {
    let world = World::at(&clock()).await;
    let (_, token) =
        world.create(NewKey::new(acme()).budget(Budget::lifetime(Amount::cents(15)))).await;
    let (entered, mut inside) = tokio::sync::mpsc::unbounded_channel();
    let leave = tokio::sync::watch::Sender::new(false);
    let slow = {
        let leave = leave.clone();
        get(async move |charge: Charge| -> Answer {
            charge.hold(Amount::cents(10)).await?;
            entered.send(()).unwrap();
            leave.subscribe().wait_for(|leave| *leave).await.unwrap();
            Ok("slow")
        })
    };
    let app = Router::new().route("/slow", slow).route("/paid", get(paid)).layer(world.layer());
    let first = tokio::spawn({
        let (app, request) = (app.clone(), ask_with("/slow", &token));
        async move { answer(&app, request).await }
    });
    inside.recv().await.unwrap();
    let json = answer(&app, ask_with("/paid", &token)).await.json();
    assert_eq!(
        (&json["spent_cents"], &json["held_cents"], &json["remaining_cents"]),
        (&0.into(), &10.into(), &5.into())
    );
    leave.send_replace(true);
    assert_eq!(first.await.unwrap().data, "slow");
    assert_eq!(answer(&app, ask_with("/paid", &token)).await.data, "paid");
}
