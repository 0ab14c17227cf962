//! The request as it is sent to the upstream.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::format::Format;
use super::prompt::PromptError;

const STREAM_OPTIONS: &str = "stream_options";

impl Format {
    /// Returns the body of a request as it is to be sent to the upstream.
    ///
    /// It asks for the usage of a stream, which OpenAI's completions do not tell by themselves. What a
    /// model reasons in secret is in no text, so without the usage nobody would pay for it.
    ///
    /// It does not pass on `background` of a Responses request. Such a response is answered before the
    /// model writes, so nobody would pay for what it writes later; without it the answer is complete.
    ///
    /// Each member of the request is sent once. Where a client sends one twice, it is the last that
    /// counts, here and in [`Prompt::read`](super::Prompt::read); otherwise the upstream might answer
    /// by another model than the one that is priced. The other members stay as they are.
    ///
    /// # Errors
    ///
    /// [`PromptError`] where the body is not a JSON object.
    ///
    /// ```
    /// use agentkey::llm::Format;
    ///
    /// let body = br#"{"stream":true,"model":"small-1"}"#;
    /// let sent = Format::ChatCompletions.to_upstream(body)?;
    /// assert_eq!(sent, r#"{"model":"small-1","stream":true,"stream_options":{"include_usage":true}}"#);
    /// # Ok::<(), agentkey::llm::PromptError>(())
    /// ```
    pub fn to_upstream(self, body: &[u8]) -> Result<Bytes, PromptError> {
        let mut members: BTreeMap<String, Box<RawValue>> =
            serde_json::from_slice(body).map_err(PromptError)?;
        if self == Self::Responses {
            members.remove("background");
        }
        let is_stream = members.get("stream").is_some_and(|stream| stream.get() == "true");
        if is_stream && matches!(self, Self::ChatCompletions | Self::Completions) {
            let options = members.get(STREAM_OPTIONS).map_or("{}", |options| options.get());
            let mut options: Map<String, Value> = serde_json::from_str(options).unwrap_or_default();
            options.insert("include_usage".into(), true.into());
            let options = serde_json::value::to_raw_value(&options).map_err(PromptError)?;
            members.insert(STREAM_OPTIONS.into(), options);
        }
        serde_json::to_vec(&members).map(Bytes::from).map_err(PromptError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::estimator::FourBytes;
    use crate::llm::prompt::Prompt;

    fn sent(format: Format, body: &str) -> String {
        String::from_utf8(format.to_upstream(body.as_bytes()).unwrap().to_vec()).unwrap()
    }

    #[test]
    fn a_stream_of_completions_is_asked_for_its_usage() {
        let usage = r#"{"stream":true,"stream_options":{"include_usage":true}}"#;
        for format in [Format::ChatCompletions, Format::Completions] {
            for body in [
                r#"{"stream":true}"#,
                r#"{"stream":true,"stream_options":null}"#,
                r#"{"stream_options":{"include_usage":false},"stream": true }"#,
            ] {
                assert_eq!(sent(format, body), usage, "{body}");
            }
            let others =
                sent(format, r#"{"stream":true,"stream_options":{"include_obfuscation":false}}"#);
            assert!(
                others.contains(r#""include_obfuscation":false"#)
                    && others.contains(r#""include_usage":true"#)
            );
            assert_eq!(sent(format, r#"{"stream":false}"#), r#"{"stream":false}"#);
        }
        for format in [Format::Responses, Format::Messages] {
            assert_eq!(sent(format, r#"{"stream":true}"#), r#"{"stream":true}"#);
        }
    }

    #[test]
    fn a_response_is_not_written_in_the_background() {
        for body in [r#"{"background":true,"model":"m"}"#, r#"{"background":false,"model":"m"}"#] {
            assert_eq!(sent(Format::Responses, body), r#"{"model":"m"}"#);
        }
    }

    #[test]
    fn what_is_priced_is_what_is_sent() {
        let body = r#"{"model":"small-1","messages":[{"b":1,"a":1.50}],"model":"large-1"}"#;
        let sent = sent(Format::ChatCompletions, body);
        assert_eq!(sent, r#"{"messages":[{"b":1,"a":1.50}],"model":"large-1"}"#);
        let prompt = Prompt::read(body.as_bytes(), &FourBytes).unwrap();
        assert_eq!(prompt.model.as_deref(), Some("large-1"));
    }
}
