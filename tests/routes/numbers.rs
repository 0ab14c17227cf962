//! Every numeric field with absent, null, 0, −1, 1e30 and "10", for oneself and for a child.

use http::Method;
use serde_json::{Value, json};

use super::support::{App, Seen};

/// What is sent as the number.
const VALUES: [&str; 6] = ["absent", "null", "0", "-1", "1e30", "\"10\""];

fn limit(value: &str) -> String {
    match value {
        "absent" => r#"{"budgets": [{"period": "day"}]}"#.to_owned(),
        value => format!(r#"{{"budgets": [{{"limit_cents": {value}, "period": "day"}}]}}"#),
    }
}

fn budgets(value: &str) -> String {
    match value {
        "absent" => "{}".to_owned(),
        value => format!(r#"{{"budgets": {value}}}"#),
    }
}

fn grace(value: &str) -> String {
    match value {
        "absent" => "{}".to_owned(),
        value => format!(r#"{{"grace_seconds": {value}}}"#),
    }
}

/// The status and, of a refusal, the code and its fields.
fn answer(seen: &Seen) -> String {
    if seen.status.is_success() {
        return seen.status.as_u16().to_string();
    }
    let (status, code) = seen.refused();
    format!("{status} {code} {}", seen.fields().join(","))
}

#[tokio::test]
async fn the_table_of_answers() {
    let refused_limit = "400 invalid_request budgets[0].limit_cents";
    let refused_budgets = "400 invalid_request budgets";
    let refused_grace = "400 invalid_request grace_seconds";
    // Each row: absent, null, 0, −1, 1e30, "10".
    let mut wrong = Vec::new();
    for (case, expected) in [
        (
            "mint limit_cents",
            [refused_limit, refused_limit, "201", refused_limit, refused_limit, refused_limit],
        ),
        (
            "mint budgets",
            ["201", "201", refused_budgets, refused_budgets, refused_budgets, refused_budgets],
        ),
        (
            "patch own limit_cents",
            [
                refused_limit,
                refused_limit,
                "403 own_key ",
                refused_limit,
                refused_limit,
                refused_limit,
            ],
        ),
        (
            "patch own budgets",
            [
                "403 own_key ",
                "403 own_key ",
                refused_budgets,
                refused_budgets,
                refused_budgets,
                refused_budgets,
            ],
        ),
        (
            "patch child's limit_cents",
            [refused_limit, refused_limit, "200", refused_limit, refused_limit, refused_limit],
        ),
        (
            "patch child's budgets",
            [
                "200",
                "403 beyond_caller budgets",
                refused_budgets,
                refused_budgets,
                refused_budgets,
                refused_budgets,
            ],
        ),
        (
            "rotate own grace_seconds",
            ["200", refused_grace, "200", refused_grace, refused_grace, refused_grace],
        ),
        (
            "rotate child's grace_seconds",
            ["200", refused_grace, "200", refused_grace, refused_grace, refused_grace],
        ),
    ] {
        for (value, expected) in VALUES.into_iter().zip(expected) {
            let app = App::new().await;
            let agent = app.agent().await;
            let body = r#"{"budgets": [{"limit_cents": 9, "period": "day"}]}"#;
            let child = app.post(&agent, "/keys", body).await.created();
            let path = |key: agentkey::KeyId| format!("/keys/{key}/rotate");
            let seen = match case {
                "mint limit_cents" => app.post(&agent, "/keys", &limit(value)).await,
                "mint budgets" => app.post(&agent, "/keys", &budgets(value)).await,
                "patch own limit_cents" => app.patch(&agent, agent.id, &limit(value)).await,
                "patch own budgets" => app.patch(&agent, agent.id, &budgets(value)).await,
                "patch child's limit_cents" => app.patch(&agent, child.id, &limit(value)).await,
                "patch child's budgets" => app.patch(&agent, child.id, &budgets(value)).await,
                "rotate own grace_seconds" => {
                    app.post(&agent, &path(agent.id), &grace(value)).await
                }
                _ => app.post(&agent, &path(child.id), &grace(value)).await,
            };
            if answer(&seen) != expected {
                wrong.push(format!("{case} {value}: {}, not {expected}", answer(&seen)));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[tokio::test]
async fn the_table_of_answers_to_sign_ups() {
    let refused_limit = "400 invalid_request budgets[0].limit_cents";
    let refused_budgets = "400 invalid_request budgets";
    for (of_limit, expected) in [
        (true, [refused_limit, refused_limit, "201", refused_limit, refused_limit, refused_limit]),
        (
            false,
            [
                "201",
                refused_budgets,
                refused_budgets,
                refused_budgets,
                refused_budgets,
                refused_budgets,
            ],
        ),
    ] {
        for (value, expected) in VALUES.into_iter().zip(expected) {
            let app = App::new().await;
            let body = if of_limit { limit(value) } else { budgets(value) };
            let mut body: Value = serde_json::from_str(&body).unwrap();
            body["email"] = json!("a@example.com");
            let seen = app.call(None, Method::POST, "/signup", &body.to_string()).await;
            assert_eq!(answer(&seen), expected, "{value}");
        }
    }
}

#[tokio::test]
async fn zero_means_nothing_may_be_spent_and_null_never_lifts_a_limit() {
    let app = App::new().await;
    let agent = app.agent().await;
    let zero = r#"{"budgets": [{"limit_cents": 0, "period": "lifetime"}]}"#;
    let child = app.post(&agent, "/keys", zero).await.created();
    let key = app.keys.authorize(&child.token).await.unwrap();
    let refused = app.keys.charge(&key).await.unwrap_err();
    assert_eq!(refused.refusal().code(), "budget_exceeded");
    let seen = app.patch(&agent, child.id, r#"{"budgets": null}"#).await;
    assert_eq!(answer(&seen), "403 beyond_caller budgets");
    assert_eq!(app.get(&child, "/keys/me").await.is(200)["remaining_cents"], 0);
}
