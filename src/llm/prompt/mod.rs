//! What a request to a model says about its cost: an estimate of the whole prompt.

mod json;
mod parts;

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use self::json::Json;
pub use self::parts::IMAGE_TOKENS;
use self::parts::{Counted, free, message};
use super::estimator::TokenEstimator;

/// What a request to a model says: its model, and an estimate of its prompt.
///
/// ```
/// use agentkey::llm::{FourBytes, Prompt};
///
/// let body = br#"{"model":"small-1","stream":true,"max_tokens":100,"messages":[{"role":"user","content":"Tell me a tale."}]}"#;
/// let prompt = Prompt::read(body, &FourBytes)?;
/// assert_eq!((prompt.model.as_deref(), prompt.is_stream), (Some("small-1"), true));
/// assert_eq!((prompt.tokens(), prompt.max_output), (5, Some(100)));
/// # Ok::<(), agentkey::llm::PromptError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Prompt {
    /// The model that it names.
    pub model: Option<String>,
    /// Whether it asks for an event stream.
    pub is_stream: bool,
    /// The most tokens that it lets the model write in one answer; `None` where it does not say.
    pub max_output: Option<u64>,
    /// How many answers it asks for: its choices (`n`, `best_of`), for each of its prompts.
    pub answers: u64,
    /// The estimated tokens of its text.
    pub text: u64,
    /// The tokens that its images and sounds count, by stated figures, and its encoded files. A told
    /// figure is not compared with them.
    pub media: u64,
}

/// The body of a request is no JSON object.
#[derive(Debug, thiserror::Error)]
#[error("the request to the model is not a JSON object")]
pub struct PromptError(#[source] pub(super) serde_json::Error);

impl Prompt {
    /// Reads the body of a request, as any of the [formats](super::Format) has it.
    ///
    /// The estimate is over the whole request: messages, instructions, tools, schemas. An image counts
    /// [`IMAGE_TOKENS`], sound a token for every 100 characters, and a file as its encoding.
    ///
    /// # Errors
    ///
    /// [`PromptError`] where the body is not a JSON object.
    pub fn read(body: &[u8], estimator: &dyn TokenEstimator) -> Result<Self, PromptError> {
        let request: Members<'_> = serde_json::from_slice(body).map_err(PromptError)?;
        let mut prompt = Self::default();
        let (mut choices, mut prompts) = (1, 1);
        for (name, value) in request {
            let counted = match &*name {
                "model" => {
                    prompt.model = serde_json::from_str(value.get()).ok();
                    continue;
                }
                "stream" => {
                    prompt.is_stream = value.get() == "true";
                    continue;
                }
                name if LIMITS.contains(&name) => {
                    prompt.max_output = limit(value).max(prompt.max_output);
                    continue;
                }
                name if ANSWERS.contains(&name) => {
                    choices = limit(value).unwrap_or(1).max(choices);
                    continue;
                }
                name if UNREAD.contains(&name) => continue,
                "prompt" => {
                    let value = parse(value)?;
                    prompts = count_prompts(&value);
                    message(&value, estimator)
                }
                "messages" | "input" | "system" => message(&parse(value)?, estimator),
                _ => Counted::text(free(&parse(value)?, estimator)),
            };
            prompt.text = prompt.text.saturating_add(counted.text);
            prompt.media = prompt.media.saturating_add(counted.media);
        }
        prompt.answers = choices.saturating_mul(prompts);
        Ok(prompt)
    }

    /// Returns the estimate of the whole prompt.
    pub fn tokens(&self) -> u64 {
        self.text.saturating_add(self.media)
    }
}

/// The members of a request, as they came. Of two with the same name it is the last: only that one is
/// sent to the upstream.
pub(super) type Members<'a> = BTreeMap<String, &'a RawValue>;

/// The names of the most tokens that a model may write.
pub(super) const LIMITS: [&str; 3] = ["max_completion_tokens", "max_tokens", "max_output_tokens"];

/// The names of how many answers a model writes. Only the largest counts: of the best of five, it
/// writes five.
pub(super) const ANSWERS: [&str; 2] = ["n", "best_of"];

/// Reads a limit as the most lenient upstream does: also from a fraction, and from a string.
pub(super) fn limit(value: &RawValue) -> Option<u64> {
    let text = value.get().trim_matches('"');
    let of_fraction = || text.parse().ok().filter(|limit: &f64| *limit >= 0.0);
    text.parse().ok().or_else(|| of_fraction().map(|limit| limit.ceil() as u64))
}

fn parse(value: &RawValue) -> Result<Json, PromptError> {
    serde_json::from_str(value.get()).map_err(PromptError)
}

/// What no model reads, by the names in `CompletionCreateParams`, `ResponseCreateParams` (openai 3.57)
/// and `MessageCreateParams` (anthropic 2.14).
const UNREAD: [&str; 22] = [
    "background",
    "container",
    "conversation",
    "include",
    "logit_bias",
    "metadata",
    "previous_response_id",
    "prompt_cache_key",
    "prompt_cache_retention",
    "reasoning_effort",
    "safety_identifier",
    "seed",
    "service_tier",
    "store",
    "stream_options",
    "temperature",
    "top_k",
    "top_logprobs",
    "top_p",
    "truncation",
    "user",
    "verbosity",
];

/// Returns how many prompts a legacy completion has: a list may be one of prompts, or of the tokens of
/// one prompt. The model answers each.
fn count_prompts(prompt: &Json) -> u64 {
    match prompt {
        Json::Array(items) if !items.iter().all(|item| matches!(item, Json::Number(_))) => {
            items.len() as u64
        }
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::llm::estimator::FourBytes;

    fn read(request: Value) -> Prompt {
        Prompt::read(request.to_string().as_bytes(), &FourBytes).unwrap()
    }

    #[test]
    fn the_most_that_may_be_written_is_read() {
        for (request, max) in [
            (r#"{}"#, None),
            (r#"{"max_tokens":100}"#, Some(100)),
            (r#"{"max_completion_tokens":100,"max_tokens":1}"#, Some(100)),
            (r#"{"max_completion_tokens":1,"max_output_tokens":100}"#, Some(100)),
            (r#"{"max_completion_tokens":100,"max_tokens":null}"#, Some(100)),
            (r#"{"max_tokens":100,"max_tokens":7}"#, Some(7)),
            (r#"{"max_tokens":0}"#, Some(0)),
            // What a lenient upstream takes for a number.
            (r#"{"max_tokens":1e6}"#, Some(1_000_000)),
            (r#"{"max_tokens":99.5}"#, Some(100)),
            (r#"{"max_tokens":"100"}"#, Some(100)),
            (r#"{"max_tokens":1e300}"#, Some(u64::MAX)),
            (r#"{"max_tokens":9007199254740993}"#, Some(9_007_199_254_740_993)),
            // No limit: llama.cpp takes -1 for none.
            (r#"{"max_tokens":-1}"#, None),
            (r#"{"max_tokens":true}"#, None),
            (r#"{"max_tokens":"many"}"#, None),
            (r#"{"max_tokens":[100]}"#, None),
        ] {
            let prompt = Prompt::read(request.as_bytes(), &FourBytes).unwrap();
            assert_eq!(prompt.max_output, max, "{request}");
        }
    }

    #[test]
    fn answers_are_choices_for_each_prompt() {
        for (request, answers) in [
            (json!({}), 1),
            (json!({ "n": 3 }), 3),
            (json!({ "n": 0 }), 1),
            (json!({ "n": 2, "best_of": 5 }), 5),
            (json!({ "n": 3.0 }), 3),
            (json!({ "n": "3" }), 3),
            (json!({ "n": -1, "prompt": "a" }), 1),
            (json!({ "prompt": [17, 4] }), 1),
            (json!({ "prompt": [] }), 1),
            (json!({ "prompt": ["a", "b"], "n": 2 }), 4),
            (json!({ "prompt": [[17], [4], [1]] }), 3),
            (json!({ "prompt": ["a", "b"], "n": u64::MAX }), u64::MAX),
        ] {
            assert_eq!(read(request.clone()).answers, answers, "{request}");
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for body in ["", "[]", "\"a\"", "{\"a\":", "{} {}"] {
            assert!(Prompt::read(body.as_bytes(), &FourBytes).is_err(), "{body}");
        }
    }
}
