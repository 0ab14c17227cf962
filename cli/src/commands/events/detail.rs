//! What an event adds, in words.

use std::collections::BTreeMap;

use agentkey::Budget;
use agentkey::model::RateLimit;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::requests;
use crate::ui;

/// Returns `name=value` of what is there, and of changes `name: before → after`, in the order of the
/// names.
pub(super) fn words(detail: &Value) -> String {
    let words = sorted(detail.as_object()).filter_map(|(name, value)| match (name, value) {
        ("changed", Value::Object(fields)) => Some(changes(fields)),
        (_, Value::Null) => None,
        (_, Value::Object(members)) if members.is_empty() => None,
        (name, value) => Some(format!("{name}={}", word(name, value))),
    });
    words.collect::<Vec<_>>().join(" ")
}

fn changes(fields: &Map<String, Value>) -> String {
    let changes = sorted(Some(fields)).map(|(name, change)| {
        format!("{name}: {} → {}", word(name, &change["from"]), word(name, &change["to"]))
    });
    changes.collect::<Vec<_>>().join(", ")
}

fn sorted(members: Option<&Map<String, Value>>) -> impl Iterator<Item = (&str, &Value)> {
    let members: BTreeMap<_, _> =
        members.into_iter().flatten().map(|(name, value)| (name.as_str(), value)).collect();
    members.into_iter()
}

/// Returns limits as flags have them, a text as it is if it is one word, and everything else as JSON.
fn word(name: &str, value: &Value) -> String {
    let limits = match name {
        "budgets" => read(value).map(|budget: Budget| ui::limits(&budget).replace(' ', ",")),
        "rate_limit" => read(value).map(|limit: RateLimit| requests::word(&limit)),
        _ => None,
    };
    match (limits, value) {
        (_, Value::Null) => "none".to_owned(),
        (Some(limits), _) if !limits.is_empty() => limits,
        (_, Value::String(text)) if is_word(text) => text.clone(),
        (_, Value::String(text)) => format!("{text:?}"),
        (_, value) => value.to_string(),
    }
}

fn read<T: DeserializeOwned>(value: &Value) -> Option<T> {
    T::deserialize(value).ok()
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|char| char.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn details_are_words_and_forge_no_line() {
        for (event, text) in [
            (json!(null), ""),
            (json!({ "reason": "rate_limited" }), "reason=rate_limited"),
            (json!({ "reason": null, "descendants": 2 }), "descendants=2"),
            (json!({ "reason": "a b\n\u{9b}2J" }), r#"reason="a b\n\u{9b}2J""#),
            (json!({ "scopes": ["chat"], "metadata": {} }), r#"scopes=["chat"]"#),
            (
                json!({ "rate_limit": { "requests": 5, "window_seconds": 60, "in_flight": 2 },
                    "budgets": [{ "limit_cents": 2, "period": "day" }, { "limit_cents": 50, "period": "month" }] }),
                "budgets=0.02/day,0.50/month rate_limit=5/60s,in_flight:2",
            ),
            (
                json!({ "changed": { "name": { "from": "a", "to": "" }, "rate_limit": { "from": { "in_flight": 1 }, "to": null } } }),
                r#"name: a → "", rate_limit: in_flight:1 → none"#,
            ),
        ] {
            assert_eq!(words(&event), text);
        }
    }
}
