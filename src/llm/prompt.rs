//! What a request to a model says about its cost: an estimate of the whole prompt.

use serde_json::{Map, Value};

use super::estimator::TokenEstimator;

/// What an image counts where the provider has not told its tokens.
///
/// It is what Anthropic's documentation says of the largest image that is not scaled down. OpenAI's
/// models count less for most.
pub const IMAGE_TOKENS: u64 = 1_600;

/// How many characters of encoded sound are a token. It is on the safe side: at ten tokens for a
/// second, a token of MP3 with 128 kbit/s is 2,000 characters.
const SOUND_CHARS_PER_TOKEN: usize = 100;

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
    /// The most tokens that it lets the model write, over all choices and prompts;
    /// `None` where it does not say.
    pub max_output: Option<u64>,
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
        let request: Map<String, Value> = serde_json::from_slice(body).map_err(PromptError)?;
        let mut prompt = Self::default();
        let (mut max_output, mut choices, mut prompts) = (None::<u64>, 1, 1);
        for (name, value) in &request {
            let counted = match &**name {
                "model" => {
                    prompt.model = value.as_str().map(str::to_owned);
                    continue;
                }
                "stream" => {
                    prompt.is_stream = value.as_bool().unwrap_or(false);
                    continue;
                }
                "max_tokens" | "max_completion_tokens" | "max_output_tokens" => {
                    max_output = value.as_u64().max(max_output);
                    continue;
                }
                "n" | "best_of" => {
                    choices = value.as_u64().unwrap_or(1).max(choices);
                    continue;
                }
                name if UNREAD.contains(&name) => continue,
                "prompt" => {
                    prompts = count_prompts(value);
                    message(value, estimator)
                }
                "messages" | "input" | "system" => message(value, estimator),
                _ => Counted::text(free(value, estimator)),
            };
            prompt.text = prompt.text.saturating_add(counted.text);
            prompt.media = prompt.media.saturating_add(counted.media);
        }
        prompt.max_output =
            max_output.map(|tokens| tokens.saturating_mul(choices).saturating_mul(prompts));
        Ok(prompt)
    }

    /// Returns the estimate of the whole prompt.
    pub fn tokens(&self) -> u64 {
        self.text.saturating_add(self.media)
    }
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
fn count_prompts(prompt: &Value) -> u64 {
    let prompts = prompt.as_array().filter(|items| !items.iter().all(Value::is_number));
    prompts.map_or(1, |prompts| prompts.len() as u64)
}

#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    text: u64,
    media: u64,
}

impl Counted {
    fn text(text: u64) -> Self {
        Self { text, media: 0 }
    }

    fn media(media: u64) -> Self {
        Self { text: 0, media }
    }

    fn tokens(self) -> u64 {
        self.text.saturating_add(self.media)
    }

    fn add(self, other: Self) -> Self {
        Self {
            text: self.text.saturating_add(other.text),
            media: self.media.saturating_add(other.media),
        }
    }
}

/// Counts messages, or a part of one. Their names are those of the protocol, and are no text.
fn message(value: &Value, estimator: &dyn TokenEstimator) -> Counted {
    match value {
        Value::String(text) => Counted::text(estimator.tokens(text)),
        // A token by its number: the prompt of a legacy completion may be a list of them.
        Value::Number(_) => Counted::text(1),
        Value::Array(items) => {
            items.iter().fold(Counted::default(), |sum, item| sum.add(message(item, estimator)))
        }
        Value::Object(members) => {
            let kind = members.get("type").and_then(Value::as_str).unwrap_or_default();
            let image = if IMAGES.contains(&kind) { IMAGE_TOKENS } else { 0 };
            members.iter().fold(Counted::media(image), |sum, (name, value)| {
                sum.add(member(kind, name, value, estimator))
            })
        }
        Value::Null | Value::Bool(_) => Counted::default(),
    }
}

/// The types of parts that are an image.
const IMAGES: [&str; 4] = ["image", "image_url", "input_image", "computer_screenshot"];

/// Counts a member of a part of this type. What an image or a sound has beside it is text: its type
/// is what the client says.
fn member(kind: &str, name: &str, value: &Value, estimator: &dyn TokenEstimator) -> Counted {
    match (kind, name) {
        (
            _,
            "type" | "id" | "call_id" | "tool_call_id" | "tool_use_id" | "cache_control" | "status"
            | "signature",
        ) => Counted::default(),
        (kind, "image_url" | "source" | "file_id" | "detail") if IMAGES.contains(&kind) => {
            Counted::default()
        }
        ("input_audio" | "audio", "input_audio" | "audio" | "source") => {
            Counted::media(chars(value).div_ceil(SOUND_CHARS_PER_TOKEN) as u64)
        }
        (_, "input" | "arguments") => Counted::text(free(value, estimator)),
        // Encoded: what the model reads of it may be much less.
        (_, "file_data" | "encrypted_content") | ("base64" | "redacted_thinking", "data") => {
            Counted::media(message(value, estimator).tokens())
        }
        _ => message(value, estimator),
    }
}

/// Counts a schema, a tool or a tool's input: the model reads names and numbers too.
fn free(value: &Value, estimator: &dyn TokenEstimator) -> u64 {
    match value {
        Value::Null => 0,
        Value::Bool(_) => estimator.tokens("true"),
        Value::Number(number) => estimator.tokens(&number.to_string()),
        Value::String(text) => estimator.tokens(text),
        Value::Array(items) => {
            items.iter().fold(0, |sum, item| sum.saturating_add(free(item, estimator)))
        }
        Value::Object(members) => members.iter().fold(0, |sum, (name, member)| {
            sum.saturating_add(estimator.tokens(name)).saturating_add(free(member, estimator))
        }),
    }
}

/// Returns the length of all strings in a value.
fn chars(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(chars).sum(),
        Value::Object(members) => members.values().map(chars).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::llm::estimator::FourBytes;

    fn read(request: Value) -> Prompt {
        Prompt::read(request.to_string().as_bytes(), &FourBytes).unwrap()
    }

    #[test]
    fn the_whole_request_counts() {
        let message = json!([{ "role": "user", "content": "Tell me a tale." }]);
        assert_eq!(read(json!({ "model": "tales-1", "messages": message })).text, 5);
        let with_tools = json!({ "model": "tales-1", "messages": message, "tools": [{
            "type": "function",
            "function": { "name": "look", "parameters": { "type": "object", "properties": { "city": { "type": "string" } } } },
        }] });
        assert_eq!(read(with_tools).text, 5 + 20);
        let large =
            json!({ "messages": message, "tools": [{ "description": "a".repeat(400_000) }] });
        assert!((100_000..100_020).contains(&read(large).text));
        let instructions = json!({ "input": "Tell me a tale.", "instructions": "Be brief." });
        assert_eq!(read(instructions).text, 4 + 3);
        let parts = json!({ "system": [{ "type": "text", "text": "Be brief.", "cache_control": { "type": "ephemeral" } }],
            "messages": [{ "role": "assistant", "content": [{ "type": "tool_use", "id": "toolu_1", "name": "look", "input": { "city": "Rome" } }] }] });
        assert_eq!(read(parts).text, 3 + 3 + 1 + 2);
        let knobs = json!({ "prompt": "aaaa", "temperature": 0.5, "user": "ann", "metadata": { "a": "b" }, "stream_options": { "include_usage": true } });
        assert_eq!(read(knobs).text, 1);
    }

    #[test]
    fn images_and_sounds_count_by_stated_figures() {
        let data = "A".repeat(100_000);
        for (part, media) in [
            (
                json!({ "type": "image_url", "image_url": { "url": format!("data:image/png;base64,{data}") } }),
                IMAGE_TOKENS,
            ),
            (
                json!({ "type": "image_url", "image_url": { "url": "https://example.com/a.png" } }),
                IMAGE_TOKENS,
            ),
            (
                json!({ "type": "input_image", "image_url": "https://example.com/a.png" }),
                IMAGE_TOKENS,
            ),
            (
                json!({ "type": "image", "source": { "type": "base64", "media_type": "image/png", "data": data } }),
                IMAGE_TOKENS,
            ),
            (
                json!({ "type": "input_audio", "input_audio": { "data": data, "format": "wav" } }),
                1_001,
            ),
        ] {
            let prompt = read(json!({ "messages": [{ "role": "user", "content": [part] }] }));
            assert_eq!((prompt.text, prompt.media), (1, media), "{part}");
        }
    }

    #[test]
    fn what_is_encoded_counts_whole_and_is_not_compared() {
        let data = "a".repeat(100_000);
        for part in [
            json!({ "type": "file", "file": { "file_data": data } }),
            json!({ "type": "input_file", "file_data": data }),
            json!({ "type": "document", "source": { "type": "base64", "data": data } }),
            json!({ "type": "redacted_thinking", "data": data }),
            json!({ "type": "reasoning", "encrypted_content": data }),
        ] {
            let prompt = read(json!({ "messages": [{ "content": [part] }] }));
            assert_eq!((prompt.text, prompt.media), (0, 25_000), "{}", part["type"]);
        }
        let text = json!({ "type": "document", "source": { "type": "text", "data": data } });
        assert_eq!(read(json!({ "messages": [{ "content": [text] }] })).text, 25_000);
    }

    #[test]
    fn text_that_calls_itself_an_image_or_a_sound_is_text() {
        let text = format!("data:image/{}", "a".repeat(400_000));
        for message in [
            json!({ "content": text }),
            json!({ "content": [{ "type": "text", "text": text }] }),
            json!({ "content": text, "type": "image" }),
            json!({ "content": text, "type": "input_audio" }),
        ] {
            assert_eq!(read(json!({ "messages": [message] })).text, 100_003);
            assert_eq!(read(json!({ "input": [message] })).text, 100_003);
        }
        assert_eq!(read(json!({ "input": text })).text, 100_003);
    }

    #[test]
    fn a_prompt_of_tokens_counts_each_of_them() {
        assert_eq!(read(json!({ "prompt": [17, 4, 100_000] })).text, 3);
        assert_eq!(read(json!({ "prompt": [[17, 4], [100_000]] })).text, 3);
    }

    #[test]
    fn the_most_that_may_be_written_is_over_all_choices() {
        for (request, max) in [
            (json!({}), None),
            (json!({ "max_tokens": 100 }), Some(100)),
            (json!({ "max_completion_tokens": 100, "n": 3 }), Some(300)),
            (json!({ "max_output_tokens": 100, "n": 0 }), Some(100)),
            (json!({ "max_tokens": 100, "prompt": "a" }), Some(100)),
            (json!({ "max_tokens": 100, "prompt": [17, 4] }), Some(100)),
            (json!({ "max_tokens": 100, "prompt": [] }), Some(100)),
            (json!({ "max_tokens": 100, "prompt": ["a", "b"], "n": 2 }), Some(400)),
            (json!({ "max_tokens": 100, "prompt": [[17], [4], [1]] }), Some(300)),
            (json!({ "max_completion_tokens": 100, "max_tokens": 1 }), Some(100)),
            (json!({ "max_completion_tokens": 1, "max_tokens": 100 }), Some(100)),
            (json!({ "max_completion_tokens": 100, "max_tokens": null }), Some(100)),
            (json!({ "max_tokens": null, "n": u64::MAX }), None),
        ] {
            assert_eq!(read(request.clone()).max_output, max, "{request}");
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for body in ["", "[]", "\"a\"", "{\"a\":", "{} {}"] {
            assert!(Prompt::read(body.as_bytes(), &FourBytes).is_err(), "{body}");
        }
    }
}
