//! What an agent's code sees with the SDKs of OpenAI and Anthropic behind the proxy.
//!
//! `scripts/test` runs it where Python is there: it makes the environment and names its Python by `AGENTKEY_TEST_PYTHON`.

use std::collections::BTreeMap;
use std::future::IntoFuture;
use std::process::Command;
use std::time::Duration;

use agentkey::model::{TokenPrice, TokenUsage};
use agentkey::{AgentKeys, Amount, Budget, EntryQuery, KeyId, NewKey, ScopeSet};
use example_llm_proxy::fake::{self, Fake};
use example_llm_proxy::{Proxy, app};
use serde_json::{Value, json};
use tokio::net::TcpListener;

const PRICE: TokenPrice = TokenPrice::new(Amount::units(3), Amount::units(15));
const ENOUGH: Amount = Amount::units(1);
const LITTLE: Amount = Amount::cents(1);

/// The keys of the agent, by the step that uses them, and their limits.
const KEYS: [(&str, Amount); 13] = [
    ("chat stream", ENOUGH),
    ("completion stream", ENOUGH),
    ("response stream", ENOUGH),
    ("message stream", ENOUGH),
    ("chat", ENOUGH),
    ("response", ENOUGH),
    ("message", ENOUGH),
    ("chat default", ENOUGH),
    ("chat cut", LITTLE),
    ("response cut", LITTLE),
    ("message cut", LITTLE),
    ("chat left", ENOUGH),
    ("poor", Amount::micros(1_000)),
];

struct World {
    keys: AgentKeys,
    ids: BTreeMap<&'static str, KeyId>,
    steps: BTreeMap<String, Value>,
}

impl World {
    /// Runs the agent to its end; `None` where there is no Python for it.
    async fn run() -> Option<Self> {
        let python = std::env::var_os("AGENTKEY_TEST_PYTHON").filter(|it| !it.is_empty())?;
        let fake = Fake::start().await.unwrap();
        let keys = AgentKeys::in_memory().await.unwrap();
        let proxy = Proxy::new(fake.url.clone(), fake::KEY.to_owned()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(axum::serve(listener, app(&keys, proxy).unwrap()).into_future());

        let (mut ids, mut tokens) = (BTreeMap::new(), BTreeMap::new());
        for (name, limit) in KEYS {
            let new = NewKey::new("acme".parse().unwrap())
                .scopes(ScopeSet::parse(["chat"]).unwrap())
                .budget(Budget::lifetime(limit));
            let created = keys.create(new).await.unwrap();
            ids.insert(name, created.key.id);
            tokens.insert(name, created.token.expose().to_owned());
        }
        let agent = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sdks/agent.py");
        let tokens = json!(tokens).to_string();
        let mut command = Command::new(python);
        command.args([agent, &url, &tokens]);
        let ran = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let shown = String::from_utf8(ran.stdout).unwrap();
        assert!(ran.status.success(), "{shown}{}", String::from_utf8_lossy(&ran.stderr));
        let steps = shown.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let steps = steps.map(|step| (step["step"].as_str().unwrap().to_owned(), step)).collect();
        Some(Self { keys, ids, steps })
    }

    fn pieces(&self, step: &str) -> u64 {
        self.steps[step]["pieces"].as_u64().unwrap()
    }

    /// What the ledger says of a key once nothing is held.
    async fn spent(&self, key: &str) -> i64 {
        let id = self.ids[key];
        let settled = async {
            loop {
                let lineage = self.keys.find_by_id(id).await.unwrap().unwrap();
                let balance = lineage.key().balance;
                if balance.held.is_zero() && balance.spent().is_positive() {
                    return balance.spent().as_micros();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), settled).await.expect("it settles")
    }
}

fn cost(input: u64, pieces: u64) -> i64 {
    PRICE.cost(TokenUsage::new(input, pieces * fake::PIECE_TOKENS)).as_micros()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdks_read_streams_cuts_and_refusals() {
    let Some(world) = World::run().await else {
        eprintln!(
            "left out: AGENTKEY_TEST_PYTHON names no Python with the SDKs; scripts/test makes one"
        );
        return;
    };

    for step in ["chat stream", "completion stream", "response stream", "message stream"] {
        let seen = &world.steps[step];
        assert_eq!(
            (world.pieces(step), &seen["usage"], &seen["error"]),
            (10, &json!(60), &Value::Null),
            "{seen}"
        );
        assert_eq!(world.spent(step).await, cost(fake::PROMPT_TOKENS, 10), "{step}");
    }
    for step in ["chat", "response", "message"] {
        assert_eq!((world.pieces(step), &world.steps[step]["usage"]), (10, &json!(60)));
        assert_eq!(world.spent(step).await, cost(fake::PROMPT_TOKENS, 10), "{step}");
    }
    // A tale without end ends at the limit that the proxy sets.
    let pieces = 4_096 / fake::PIECE_TOKENS;
    assert_eq!(world.pieces("chat default"), pieces);
    assert_eq!(world.spent("chat default").await, cost(fake::PROMPT_TOKENS, pieces));

    for (step, class, module, kind, status) in [
        ("chat cut", "APIError", "openai", "insufficient_quota", Value::Null),
        ("response cut", "APIError", "openai", "insufficient_quota", Value::Null),
        ("message cut", "APIStatusError", "anthropic", "billing_error", json!(200)),
    ] {
        let error = &world.steps[step]["error"];
        assert_eq!((&error["error"], &error["module"]), (&json!(class), &json!(module)), "{error}");
        assert_eq!((&error["code"], &error["type"]), (&json!("budget_exceeded"), &json!(kind)));
        assert_eq!((&error["status"], &error["limit_cents"]), (&status, &json!(1)), "{error}");
        let (spent, limit, piece) = (world.spent(step).await, LITTLE.as_micros(), cost(0, 1));
        assert!(limit - piece < spent && spent <= limit + piece, "{step}: {spent}");
        // The agent has all but the last piece of what is charged.
        let passed = spent - cost(0, world.pieces(step));
        assert!((piece..piece + 60).contains(&passed), "{step}: {passed}");
    }
    assert!(world.spent("chat left").await >= cost(0, world.pieces("chat left")));

    for (step, class, status, code, kind) in [
        ("chat refused", "APIStatusError", 402, "budget_exceeded", "insufficient_quota"),
        ("default refused", "APIStatusError", 402, "budget_exceeded", "insufficient_quota"),
        ("response refused", "APIStatusError", 402, "budget_exceeded", "insufficient_quota"),
        ("message refused", "PaymentRequiredError", 402, "budget_exceeded", "billing_error"),
        ("chat unknown", "AuthenticationError", 401, "invalid_key", "invalid_request_error"),
        ("message unknown", "AuthenticationError", 401, "invalid_key", "authentication_error"),
        ("model unknown", "NotFoundError", 404, "model_not_found", "invalid_request_error"),
    ] {
        let error = &world.steps[step]["error"];
        assert_eq!(
            (&error["error"], &error["status"]),
            (&json!(class), &json!(status)),
            "{step}: {error}"
        );
        assert_eq!((&error["code"], &error["type"]), (&json!(code), &json!(kind)), "{step}");
        if status == 402 {
            assert_eq!(
                (&error["limit_cents"], &error["remaining_cents"]),
                (&json!(0.1), &json!(0.1)),
                "{step}"
            );
        }
    }
    // The agent may ask again with a limit that it can pay for: 4,096 tokens are 6.144 cents.
    let required = &world.steps["default refused"]["error"]["required_cents"];
    assert!(required.as_f64().is_some_and(|cents| (6.144..6.2).contains(&cents)), "{required}");

    // Each charge says which model, which upstream and which request it was.
    let query = EntryQuery::for_account("acme".parse().unwrap()).key(world.ids["chat"]);
    let entries = world.keys.entries(&query).await.unwrap().items;
    let labels = json!(entries[0].note.labels);
    assert_eq!((&labels["model"], &labels["request_id"]), (&json!("tales-1"), &json!("req_1")));
    assert!(labels["upstream"].as_str().unwrap().starts_with("http://"));
}
