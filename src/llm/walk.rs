//! Counts the text in JSON while it is parsed, without a copy of it.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::estimator::TokenEstimator;
use super::lenient::{ObjectOr, ReadMembers};

/// Counts the tokens of the strings in a value.
///
/// Every string counts except under a name that is known to say no text. So text in a member that
/// nobody has thought of is counted.
#[derive(Clone, Copy)]
pub(super) struct Text<'e> {
    estimator: &'e dyn TokenEstimator,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Of the protocol: its names are no text, and some of its members neither.
    Protocol,
    /// Free JSON, such as a schema or a tool's input. Names, numbers and strings are text.
    Free,
}

impl<'e> Text<'e> {
    /// Returns a count of what the protocol has as text.
    pub(super) fn protocol(estimator: &'e dyn TokenEstimator) -> Self {
        Self { estimator, kind: Kind::Protocol }
    }

    /// Returns a count of everything.
    pub(super) fn free(estimator: &'e dyn TokenEstimator) -> Self {
        Self { estimator, kind: Kind::Free }
    }

    fn scalar(self, text: &str) -> u64 {
        match self.kind {
            Kind::Protocol => 0,
            Kind::Free => self.estimator.tokens(text),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Text<'_> {
    type Value = u64;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u64, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Text<'_> {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
        Ok(self.estimator.tokens(text))
    }

    fn visit_unit<E: Error>(self) -> Result<u64, E> {
        Ok(0)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<u64, E> {
        Ok(self.scalar("true"))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<u64, E> {
        Ok(self.scalar(&number.to_string()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<u64, E> {
        Ok(self.scalar(&number.to_string()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<u64, E> {
        Ok(self.scalar(&number.to_string()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<u64, A::Error> {
        let mut tokens = 0_u64;
        while let Some(item) = items.next_element_seed(self)? {
            tokens = tokens.saturating_add(item);
        }
        Ok(tokens)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<u64, A::Error> {
        let (mut tokens, mut reasoning, mut is_read) = (0_u64, 0_u64, false);
        while let Some((member, name)) = members.next_key_seed(Name(self))? {
            let text = match member {
                Member::NoText => {
                    members.next_value::<IgnoredAny>()?;
                    0
                }
                Member::Type => {
                    is_read = members.next_value_seed(ReadByModel)?;
                    0
                }
                Member::Text => members.next_value_seed(self)?,
                Member::Free => members.next_value_seed(Self::free(self.estimator))?,
                Member::Reasoning => {
                    reasoning = reasoning.max(members.next_value_seed(self)?);
                    0
                }
            };
            tokens = tokens.saturating_add(name).saturating_add(text);
        }
        Ok(if is_read { 0 } else { tokens.saturating_add(reasoning) })
    }
}

/// Reads a type, and says whether it is what a tool on the provider's side answered. The model reads
/// that, and does not write it: `WebSearchToolResultBlock` and its like in anthropic 2.14.
struct ReadByModel;

impl<'de> DeserializeSeed<'de> for ReadByModel {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(ObjectOr(self))
    }
}

impl ReadMembers for ReadByModel {
    type Value = bool;

    fn text(self, kind: &str) -> bool {
        kind.ends_with("_tool_result")
    }
}

/// What a name says about its member.
enum Member {
    Text,
    /// What the model reasoned. Upstreams send the same under several of these names, for clients of
    /// different ages.
    Reasoning,
    Free,
    Type,
    NoText,
}

impl Member {
    fn of(name: &str) -> Self {
        match name {
            "reasoning" | "reasoning_content" | "reasoning_details" | "thinking_blocks" => {
                Self::Reasoning
            }
            // An object here is a tool's input; a string counts in the same way.
            "input" | "arguments" | "parameters" | "action" => Self::Free,
            "type" => Self::Type,
            // Names, states and figures of the protocol.
            "id"
            | "role"
            | "object"
            | "index"
            | "model"
            | "format"
            | "status"
            | "phase"
            | "call_id"
            | "tool_call_id"
            | "tool_use_id"
            | "item_id"
            | "file_id"
            | "caller"
            | "container"
            | "finish_reason"
            | "native_finish_reason"
            | "stop_reason"
            | "stop_sequence"
            | "stop_details"
            | "logprobs"
            | "obfuscation" => Self::NoText,
            // What is encrypted, encoded or quoted: the tokens of a model are not in its length.
            "signature" | "encrypted_content" | "data" | "b64_json" | "result" | "citation"
            | "citations" | "annotations" | "url" => Self::NoText,
            // What a tool on the provider's side read or answered.
            "results" | "outputs" | "output" | "tools" => Self::NoText,
            _ => Self::Text,
        }
    }
}

/// Reads a name, and counts it where names are text.
struct Name<'e>(Text<'e>);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = (Member, u64);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = (Member, u64);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(match self.0.kind {
            Kind::Protocol => (Member::of(name), 0),
            Kind::Free => (Member::Text, self.0.estimator.tokens(name)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::estimator::FourBytes;

    fn count(text: Text<'_>, json: &str) -> u64 {
        text.deserialize(&mut serde_json::Deserializer::from_str(json)).unwrap()
    }

    #[test]
    fn strings_count_except_those_that_say_no_text() {
        for (json, tokens) in [
            (r#"[{"index":0,"delta":{"content":"once upon a time, "}}]"#, 5),
            (
                r#"[{"delta":{"role":"assistant","content":"a"},"logprobs":{"content":[{"token":"aaaaa"}]}}]"#,
                1,
            ),
            (r#"[{"delta":{"content":"aaaa"}},{"delta":{"content":"bbbb"}}]"#, 2),
            (
                r#"[{"delta":{"tool_calls":[{"id":"call_1","function":{"name":"look","arguments":"{\"a\":1}"}}]}}]"#,
                3,
            ),
            (r#"[{"delta":{"surprise":{"deep":["aaaa"]}}}]"#, 1),
            (
                r#"{"type":"tool_use","id":"t","name":"look","input":{"id":"aaaa","list":[true,17]}}"#,
                6,
            ),
            (r#"{"audio":{"id":"a","data":"AAAAAAAA","transcript":"Hi"}}"#, 1),
        ] {
            assert_eq!(count(Text::protocol(&FourBytes), json), tokens, "{json}");
        }
    }

    #[test]
    fn reasoning_under_several_names_counts_once() {
        let json = r#"{"content":"aaaa","reasoning":"bbbbbbbb","reasoning_content":"bbbbbbbb",
            "reasoning_details":[{"type":"reasoning.text","text":"bbbbbbbb"}]}"#;
        assert_eq!(count(Text::protocol(&FourBytes), json), 3);
    }

    #[test]
    fn free_json_counts_whole() {
        assert_eq!(
            count(Text::free(&FourBytes), r#"{"type":"object","id":[null,1.5]}"#),
            1 + 2 + 1 + 1
        );
    }
}
