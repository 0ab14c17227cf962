//! What one event, or a whole answer, says: its text and its usage.
//!
//! The shapes are those of `ChatCompletionChunk`, `Completion` and `ResponseStreamEvent` in the
//! Python package openai 3.57, and of `RawMessageStreamEvent` in anthropic 2.14. All are read
//! alike, because what calls itself compatible mixes them.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::estimator::TokenEstimator;
use super::lenient::{NameOf, ObjectOr, ReadMembers};
use super::told::{ReadTold, Told, figure};
use super::walk::Text;
use super::written::Tokens;

/// What one event says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) text: Tokens,
    /// The item that the text is of, by its place in the output: a Responses answer has many.
    pub(super) item: Option<u64>,
    pub(super) told: Option<Told>,
    /// Whether the protocol ends with this event.
    pub(super) is_last: bool,
}

impl Answer {
    /// Reads the data of an event, or a whole answer. What is no JSON object is text.
    pub(super) fn read(data: &[u8], estimator: &dyn TokenEstimator) -> Self {
        // Which is many times as fast as the other where all is well.
        let data = match std::str::from_utf8(data) {
            Ok(data) => Cow::Borrowed(data),
            Err(_) => String::from_utf8_lossy(data),
        };
        match data.trim_ascii() {
            "" => Self::default(),
            "[DONE]" => Self { is_last: true, ..Self::default() },
            json => Self::parse(json, estimator)
                .or_else(|_| Self::parse(&without_surrogates(json), estimator))
                .unwrap_or_else(|_| Self::text(json, estimator)),
        }
    }

    /// Returns what counts where nothing is understood: every byte.
    pub(super) fn text(text: &str, estimator: &dyn TokenEstimator) -> Self {
        let text = Tokens { delta: estimator.tokens(text), ..Tokens::default() };
        Self { text, ..Self::default() }
    }

    fn parse(json: &str, estimator: &dyn TokenEstimator) -> serde_json::Result<Self> {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let answer = deserializer.deserialize_any(ReadAnswer { estimator })?;
        deserializer.end()?;
        Ok(answer)
    }
}

/// Reads an object. Anything else is an error, so that it counts as text.
struct ReadAnswer<'e> {
    estimator: &'e dyn TokenEstimator,
}

impl<'de> Visitor<'de> for ReadAnswer<'_> {
    type Value = Answer;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Answer, A::Error> {
        let protocol = Text::protocol(self.estimator);
        let mut read = Answer::default();
        let (mut told, mut kind) = (Told::default(), Kind::Other);
        while let Some(place) = members.next_key_seed(NameOf(Place::of))? {
            let mut text = Tokens::default();
            match place {
                Place::Delta => text.delta = members.next_value_seed(protocol)?,
                Place::Item => text.item = members.next_value_seed(protocol)?,
                Place::Whole => text.whole = members.next_value_seed(protocol)?,
                Place::Part => text.part = members.next_value_seed(ReadText(self.estimator))?,
                Place::Inner => {
                    let inner = members.next_value_seed(ReadInner(protocol))?;
                    text.whole = inner.whole;
                    told.merge(inner.told);
                }
                Place::Usage => told.merge(members.next_value_seed(ReadTold)?),
                Place::ItemIndex => read.item = figure(members.next_value()?),
                Place::Type => kind = members.next_value_seed(ReadType)?,
                Place::Other => drop(members.next_value::<IgnoredAny>()?),
            }
            read.text.add(text);
        }
        match kind {
            Kind::Last => read.is_last = true,
            Kind::Beginning => (read.text.item, read.text.part) = (0, 0),
            Kind::NoText => read.text = Tokens::default(),
            Kind::Other => {}
        }
        read.told = Some(told).filter(|told| *told != Told::default());
        Ok(read)
    }
}

/// What a member of an event says, by its name.
enum Place {
    Delta,
    Part,
    Item,
    Whole,
    Inner,
    Usage,
    ItemIndex,
    Type,
    Other,
}

impl Place {
    fn of(name: &str) -> Self {
        match name {
            "choices" | "delta" | "content_block" | "content" | "completion" => Self::Delta,
            "text" | "arguments" | "refusal" | "transcript" | "code" | "command" | "input" => {
                Self::Part
            }
            "item" => Self::Item,
            "output" => Self::Whole,
            "message" | "response" | "x_groq" => Self::Inner,
            "usage" => Self::Usage,
            "output_index" => Self::ItemIndex,
            "type" => Self::Type,
            _ => Self::Other,
        }
    }
}

/// Counts a string. Anything else is no text.
struct ReadText<'e>(&'e dyn TokenEstimator);

impl<'de> DeserializeSeed<'de> for ReadText<'_> {
    type Value = u64;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u64, D::Error> {
        deserializer.deserialize_any(ObjectOr(self))
    }
}

impl ReadMembers for ReadText<'_> {
    type Value = u64;

    fn text(self, text: &str) -> u64 {
        self.0.tokens(text)
    }
}

/// What an event is, by its type.
#[derive(Clone, Copy, Default)]
enum Kind {
    /// It ends the stream.
    Last,
    /// It begins an item or a part, whose text comes later.
    Beginning,
    /// It has encoded sound, or what a tool on the provider's side answered.
    NoText,
    #[default]
    Other,
}

struct ReadType;

impl<'de> DeserializeSeed<'de> for ReadType {
    type Value = Kind;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Kind, D::Error> {
        deserializer.deserialize_any(ObjectOr(self))
    }
}

impl ReadMembers for ReadType {
    type Value = Kind;

    fn text(self, kind: &str) -> Kind {
        match kind {
            "message_stop" | "response.completed" | "response.incomplete" | "response.failed" => {
                Kind::Last
            }
            "response.audio.delta"
            | "response.shell_call_output_content.delta"
            | "response.shell_call_output_content.done" => Kind::NoText,
            kind if kind.ends_with(".added") => Kind::Beginning,
            _ => Kind::Other,
        }
    }
}

/// What an event says in an object of its own: the message of `message_start`, and the response of
/// `response.completed`.
#[derive(Default)]
struct Inner {
    whole: u64,
    told: Told,
}

struct ReadInner<'e>(Text<'e>);

impl<'de> DeserializeSeed<'de> for ReadInner<'_> {
    type Value = Inner;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Inner, D::Error> {
        deserializer.deserialize_any(ObjectOr(self))
    }
}

impl ReadMembers for ReadInner<'_> {
    type Value = Inner;

    fn read<'de, A: MapAccess<'de>>(self, mut members: A) -> Result<Inner, A::Error> {
        let mut inner = Inner::default();
        while let Some(place) = members.next_key_seed(NameOf(Place::of))? {
            match place {
                Place::Delta | Place::Whole => {
                    inner.whole = inner.whole.max(members.next_value_seed(self.0)?);
                }
                Place::Usage => inner.told.merge(members.next_value_seed(ReadTold)?),
                _ => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        Ok(inner)
    }
}

/// Replaces escaped halves of characters, which JSON allows and no string of Rust can hold. An
/// upstream that streams in pieces of UTF-16 cuts characters in two.
fn without_surrogates(json: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        let is_half = escape.get(..6).is_some_and(|escape| {
            let hex = escape.as_bytes();
            matches!(hex, [b'\\', b'u', b'd' | b'D', b'8'..=b'9' | b'a'..=b'f' | b'A'..=b'F', ..])
        });
        let len = if is_half { 6 } else { escape.chars().take(2).map(char::len_utf8).sum() };
        out.push_str(before);
        out.push_str(if is_half { "\\ufffd" } else { escape.get(..len).unwrap_or_default() });
        rest = escape.get(len..).unwrap_or_default();
    }
    if out.is_empty() {
        return Cow::Borrowed(json);
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::estimator::FourBytes;

    fn read(data: &str) -> Answer {
        Answer::read(data.as_bytes(), &FourBytes)
    }

    fn text(data: &str) -> u64 {
        read(data).text.max()
    }

    #[test]
    fn text_is_found_in_the_shape_of_each_format() {
        for (data, tokens) in [
            // ChatCompletionChunk, Completion: openai 3.57
            (
                r#"{"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":"Hello"}}]}"#,
                2,
            ),
            (r#"{"choices":[{"index":0,"delta":null,"text":"Hello"}]}"#, 2),
            (
                r#"{"choices":[{"index":0,"delta":{"content":"Hi"}},{"index":1,"delta":{"content":"Ho"}}]}"#,
                2,
            ),
            (
                r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"city\":"}}]}}]}"#,
                2,
            ),
            (r#"{"choices":null}"#, 0),
            // ResponseTextDeltaEvent, ResponseFunctionCallArgumentsDoneEvent, ResponseCompletedEvent
            (
                r#"{"type":"response.output_text.delta","item_id":"msg_1","delta":"Hello","logprobs":[]}"#,
                2,
            ),
            (
                r#"{"type":"response.function_call_arguments.done","item_id":"fc_1","arguments":"{\"a\":1}"}"#,
                2,
            ),
            (
                r#"{"item":{"type":"message","content":[{"type":"output_text","text":"Hello"}]},"type":"response.output_item.done"}"#,
                2,
            ),
            (
                r#"{"item":{"type":"message","content":[{"type":"output_text","text":"Hello"}]},"type":"response.output_item.added"}"#,
                0,
            ),
            (
                r#"{"type":"response.completed","response":{"instructions":"long and longer","output":[{"content":[{"text":"Hello"}]}]}}"#,
                2,
            ),
            (r#"{"type":"response.audio.delta","delta":"AAAAAAAAAAAA"}"#, 0),
            (r#"{"type":"response.audio.transcript.delta","delta":"Hello"}"#, 2),
            (r#"{"type":"response.shell_call_command.done","command":"ls -l"}"#, 2),
            (
                r#"{"type":"response.shell_call_output_content.delta","delta":{"stdout":"Hello"}}"#,
                0,
            ),
            (
                r#"{"type":"response.shell_call_output_content.done","output":[{"stdout":"Hello","stderr":""}]}"#,
                0,
            ),
            // RawMessageStreamEvent: anthropic 2.14
            (
                r#"{"type":"content_block_start","index":1,"content_block":{"type":"mcp_tool_result","tool_use_id":"t","content":[{"type":"text","text":"Hello"}]}}"#,
                0,
            ),
            (
                r#"{"content":[{"content":{"stdout":"Hello"},"type":"bash_code_execution_tool_result"},{"type":"text","text":"Hello"}]}"#,
                2,
            ),
            (
                r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}"#,
                2,
            ),
            (
                r#"{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{\"city\":"}}"#,
                2,
            ),
            (
                r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"Hello"}}"#,
                2,
            ),
            (
                r#"{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"EqQBCgIYAhIM1gbcDa9GJwZA2b3h"}}"#,
                0,
            ),
            (
                r#"{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null}}"#,
                0,
            ),
        ] {
            assert_eq!(text(data), tokens, "{data}");
        }
    }

    #[test]
    fn what_is_not_understood_counts_whole() {
        for data in ["once upon a time, ", "[[\"a\"]]", "{\"choices\":", "12345"] {
            assert_eq!(text(data), FourBytes.tokens(data.trim()), "{data}");
        }
        let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
        let deep = format!("{{\"choices\":{deep}}}");
        assert_eq!(text(&deep), FourBytes.tokens(&deep));
        assert_eq!(Answer::read(b"\xff\xfe\xfd", &FourBytes).text.max(), 3);
    }

    #[test]
    fn half_a_character_is_text() {
        let halves =
            r#"{"choices":[{"delta":{"content":"\ud83d"}}],"usage":{"completion_tokens":7}}"#;
        assert_eq!(text(halves), 1);
        assert!(read(halves).told.is_some());
        assert_eq!(text(r#"{"choices":[{"delta":{"content":"\\ud83d \"\ude00"}}]}"#), 3);
    }

    #[test]
    fn the_last_event_is_known() {
        for data in [
            "[DONE]",
            " [DONE] ",
            r#"{"type":"message_stop"}"#,
            r#"{"type":"response.failed","response":{}}"#,
        ] {
            assert!(read(data).is_last, "{data}");
        }
        assert!(!read(r#"{"type":"message_delta"}"#).is_last);
    }
}
