//! What a key sees of itself and of its spending.

use agentkey::{Amount, Budget, NewKey};
use serde_json::json;

use super::support::{App, acme, scopes};

#[tokio::test]
async fn a_key_sees_its_limits_and_only_what_is_left_above_it() {
    let app = App::new().await;
    app.keys.ensure_account(acme(), Budget::lifetime(Amount::cents(1_000))).await.unwrap();
    let agent = app.agent().await;
    let child = app.child_of(&agent).await;
    app.spend(&child, 4).await;
    let me = app.get(&child, "/keys/me").await.is(200);
    assert_eq!(
        me["budgets"],
        json!([{"scope": "key", "period": "month", "limit_cents": 10, "spent_cents": 4, "held_cents": 0,
                "remaining_cents": 6, "resets_at": "2026-02-28T12:00:00Z"}])
    );
    assert_eq!((&me["remaining_cents"], &me["delegated_by"]), (&json!(6), &json!("user_7")));
    assert_eq!(me["parent"], json!(null), "what is above is not shown");

    app.spend(&agent, 43).await;
    let bound = app.get(&child, "/keys/me").await.is(200);
    assert_eq!(bound["budgets"][1], json!({"scope": "inherited", "remaining_cents": 3}));
    assert_eq!(bound["remaining_cents"], 3);
    let text = bound.to_string();
    for figure in ["47", "43", "53", "1000", "953"] {
        assert!(!text.contains(&format!(":{figure}")), "{figure} is another's: {text}");
    }
}

#[tokio::test]
async fn usage_is_entries_or_sums_of_the_key_or_its_subtree() {
    let app = App::new().await;
    let agent = app.agent().await;
    let child = app.child_of(&agent).await;
    let sibling = app.agent().await;
    app.spend(&agent, 3).await;
    app.spend(&child, 4).await;
    app.spend(&sibling, 5).await;
    app.clock.set("2026-01-31T13:30:00Z".parse().unwrap());
    app.spend(&child, 2).await;

    let amounts = |page: &serde_json::Value| -> Vec<i64> {
        let entries = page["entries"].as_array().unwrap();
        entries.iter().map(|entry| entry["amount_cents"].as_i64().unwrap()).collect()
    };
    let own = app.get(&agent, "/keys/me/usage").await.is(200);
    assert_eq!((amounts(&own), &own["next_cursor"]), (vec![3], &json!(null)));
    assert_eq!(own["entries"][0]["labels"], json!({"job": "crawl"}));
    let all = app.get(&agent, "/keys/me/usage?subtree=true").await.is(200);
    assert_eq!(amounts(&all), [3, 4, 2]);
    assert_eq!(amounts(&app.get(&child, "/keys/me/usage?subtree=true").await.is(200)), [4, 2]);
    let late = "/keys/me/usage?subtree=true&since=2026-01-31T13:00:00Z";
    assert_eq!(amounts(&app.get(&agent, late).await.is(200)), [2]);

    let first = app.get(&agent, "/keys/me/usage?subtree=true&limit=2").await.is(200);
    let cursor = first["next_cursor"].as_str().unwrap();
    let rest = format!("/keys/me/usage?subtree=true&limit=2&cursor={cursor}");
    assert_eq!(
        (amounts(&first), amounts(&app.get(&agent, &rest).await.is(200))),
        (vec![3, 4], vec![2])
    );

    let groups = |page: serde_json::Value| -> Vec<(String, i64)> {
        let groups = page["groups"].as_array().unwrap().clone();
        let group = |sum: &serde_json::Value| {
            (sum["group"].as_str().unwrap().to_owned(), sum["amount_cents"].as_i64().unwrap())
        };
        groups.iter().map(group).collect()
    };
    for (query, expected) in [
        ("group_by=hour", vec![("2026-01-31T12:00:00Z", 7), ("2026-01-31T13:00:00Z", 2)]),
        ("group_by=day", vec![("2026-01-31T00:00:00Z", 9)]),
        ("group_by=month", vec![("2026-01-01T00:00:00Z", 9)]),
        ("group_by=key", vec![("1", 3), ("2", 6)]),
        ("group_by=label&label=job", vec![("crawl", 9)]),
        ("group_by=label&label=other", vec![("", 9)]),
    ] {
        let seen = app.get(&agent, &format!("/keys/me/usage?subtree=true&{query}")).await.is(200);
        let expected: Vec<_> =
            expected.into_iter().map(|(group, sum)| (group.into(), sum)).collect();
        assert_eq!(groups(seen), expected, "{query}");
    }
    let page = app.get(&agent, "/keys/me/usage?subtree=true&group_by=hour&limit=1").await.is(200);
    let cursor = page["next_cursor"].as_str().unwrap();
    let next = format!("/keys/me/usage?subtree=true&group_by=hour&limit=1&cursor={cursor}");
    let next = app.get(&agent, &next).await.is(200);
    assert_eq!(next["next_cursor"], json!(null));
    assert_eq!(groups(next), [("2026-01-31T13:00:00Z".into(), 2)]);

    for (query, field) in [
        ("group_by=year", "group_by"),
        ("group_by=label", "label"),
        ("group_by=label&label=a%00", "label"),
        ("label=job", "label"),
        ("since=yesterday", "since"),
        ("subtree=yes", "subtree"),
        ("cursor=1g61", "cursor"),
        ("group_by=hour&cursor=1e37", "cursor"),
        ("key=1", "key"),
    ] {
        let seen = app.get(&agent, &format!("/keys/me/usage?{query}")).await;
        assert_eq!((seen.status.as_u16(), seen.fields()), (400, vec![field.into()]), "{query}");
    }
}

#[tokio::test]
async fn a_key_that_has_nothing_left_still_sees_itself() {
    let app = App::new().await;
    let new = NewKey::new(acme()).scopes(scopes(&["read"])).budget(Budget::daily(Amount::ZERO));
    let broke = app.create(new).await;
    assert_eq!(app.get(&broke, "/keys/me").await.is(200)["remaining_cents"], 0);
    app.get(&broke, "/keys/me/usage").await.is(200);
}
