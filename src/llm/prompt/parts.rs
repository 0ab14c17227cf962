//! Counts the messages, tools and schemas of a request.

use super::super::estimator::TokenEstimator;
use super::json::Json;

/// What an image counts where the provider has not told its tokens.
///
/// It is what Anthropic's documentation says of the largest image that is not scaled down. OpenAI's
/// models count less for most.
pub const IMAGE_TOKENS: u64 = 1_600;

/// How many characters of encoded sound are a token. It is on the safe side: at ten tokens for a
/// second, a token of MP3 with 128 kbit/s is 2,000 characters.
const SOUND_CHARS_PER_TOKEN: usize = 100;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counted {
    pub(super) text: u64,
    pub(super) media: u64,
}

impl Counted {
    pub(super) fn text(text: u64) -> Self {
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
pub(super) fn message(value: &Json, estimator: &dyn TokenEstimator) -> Counted {
    match value {
        Json::String(text) => Counted::text(estimator.tokens(text)),
        // A token by its number: the prompt of a legacy completion may be a list of them.
        Json::Number(_) => Counted::text(1),
        Json::Array(items) => {
            items.iter().fold(Counted::default(), |sum, item| sum.add(message(item, estimator)))
        }
        Json::Object(members) => part(members, estimator),
        Json::Null | Json::Bool(_) => Counted::default(),
    }
}

/// Counts a message, or a part of one.
fn part(members: &[(String, Json)], estimator: &dyn TokenEstimator) -> Counted {
    let mut kinds = members.iter().filter_map(|(name, kind)| match kind {
        Json::String(kind) if name == "type" => Some(kind.as_str()),
        _ => None,
    });
    let is_image = kinds.clone().any(|kind| IMAGES.contains(&kind));
    // Of several types an upstream reads any: then all counts as text, beside the image.
    let kind = kinds.next().filter(|_| kinds.next().is_none()).unwrap_or_default();
    let image = Counted::media(if is_image { IMAGE_TOKENS } else { 0 });
    members.iter().fold(image, |sum, (name, value)| sum.add(member(kind, name, value, estimator)))
}

/// The types of parts that are an image.
const IMAGES: [&str; 4] = ["image", "image_url", "input_image", "computer_screenshot"];

/// Counts a member of a part of this type. What an image or a sound has beside it is text: its type
/// is what the client says.
fn member(kind: &str, name: &str, value: &Json, estimator: &dyn TokenEstimator) -> Counted {
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
pub(super) fn free(value: &Json, estimator: &dyn TokenEstimator) -> u64 {
    match value {
        Json::Null => 0,
        Json::Bool(_) => estimator.tokens("true"),
        Json::Number(number) => estimator.tokens(&number.to_string()),
        Json::String(text) => estimator.tokens(text),
        Json::Array(items) => {
            items.iter().fold(0, |sum, item| sum.saturating_add(free(item, estimator)))
        }
        Json::Object(members) => members.iter().fold(0, |sum, (name, member)| {
            sum.saturating_add(estimator.tokens(name)).saturating_add(free(member, estimator))
        }),
    }
}

/// Returns the length of all strings in a value.
fn chars(value: &Json) -> usize {
    match value {
        Json::String(text) => text.len(),
        Json::Array(items) => items.iter().map(chars).sum(),
        Json::Object(members) => members.iter().map(|(_, member)| chars(member)).sum(),
        Json::Null | Json::Bool(_) | Json::Number(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::llm::estimator::FourBytes;
    use crate::llm::prompt::Prompt;

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

    /// Which of two members an upstream reads depends on its parser.
    #[test]
    fn a_member_that_comes_twice_counts_twice() {
        let long = "a".repeat(4_000);
        let read = |message: &str| {
            let body = format!(r#"{{"messages":[{message}],"tools":[{{"a":1,"a":2}}]}}"#);
            Prompt::read(body.as_bytes(), &FourBytes).unwrap().tokens() - 4
        };
        assert_eq!(read(r#"{"role":"user"}"#), 1);
        for (first, second) in [(&*long, "b"), ("b", &*long)] {
            let twice = format!(r#"{{"role":"user","content":"{first}","content":"{second}"}}"#);
            assert_eq!(read(&twice), 1 + 1_000 + 1);
            let input =
                format!(r#"{{"type":"tool_use","input":{{"city":"{first}","city":"{second}"}}}}"#);
            assert_eq!(read(&input), 1 + 1_000 + 1 + 1);
        }
        // By one of its types this is an image, and by the other a text of any length.
        for types in [r#""type":"image","type":"text""#, r#""type":"text","type":"image""#] {
            let part = format!(r#"{{{types},"source":"{long}"}}"#);
            assert_eq!(read(&part), IMAGE_TOKENS + 1_000);
        }
    }
}
