//! The request as it is sent to the upstream.

use bytes::Bytes;
use serde_json::value::to_raw_value;
use serde_json::{Map, Value};

use super::format::Format;
use super::meter::Meter;
use super::prompt::{ANSWERS, LIMITS, Members, PromptError, limit};

const STREAM_OPTIONS: &str = "stream_options";

/// What some upstreams read as another model than `model`, or as another limit than those of the
/// protocols: `models` of OpenRouter, `n_predict` of llama.cpp, which takes it before `max_tokens`, and
/// the names of others for the same.
const OVERRIDES: [&str; 6] =
    ["models", "fallbacks", "route", "n_predict", "num_predict", "max_new_tokens"];

/// The most tokens of a legacy completion that names no limit: the default of its protocol.
const LEGACY_OUTPUT: u64 = 16;

impl Meter {
    /// Returns the body of a request as it is to be sent to the upstream.
    ///
    /// A stream is asked for its usage, which OpenAI's completions do not tell by themselves. What a
    /// model reasons without sending it is in no text, so without the usage nobody would pay for it.
    ///
    /// An answer that is held whole gets a limit where its request has none: the
    /// [most output](Self::max_output) that is held for it. A legacy completion gets 16 tokens at most,
    /// the default of its protocol. A limit that has the name of another format is sent by the name of
    /// this one.
    ///
    /// What might be answered otherwise than it is priced is not passed on:
    ///
    /// - `background` of a Responses request. Such a response is answered before the model writes;
    ///   without it the answer is complete.
    /// - A number of answers (`n`, `best_of`) that is no number, such as `" 3"`.
    /// - What some upstreams read as another model (`models`, `fallbacks`, `route`) or as another limit
    ///   (`n_predict`, `num_predict`, `max_new_tokens`).
    /// - `echo` of a legacy completion, by which the prompt is a part of the answer.
    /// - All but the last of members with the same name, and a name that differs only in its case from
    ///   `model` or another that the meter reads. Which of them counts depends on the upstream's parser.
    ///
    /// The other members stay as they are.
    ///
    /// # Errors
    ///
    /// [`PromptError`] where the body is not a JSON object.
    ///
    /// ```
    /// use agentkey::Amount;
    /// use agentkey::llm::{Format, FourBytes, Meter, Prompt};
    /// use agentkey::model::TokenPrice;
    ///
    /// let price = TokenPrice::new(Amount::units(3), Amount::units(15));
    /// let sent = |body: &[u8]| {
    ///     let meter = Meter::new(price).prompt(Prompt::read(body, &FourBytes)?);
    ///     meter.to_upstream(Format::ChatCompletions, body)
    /// };
    /// assert_eq!(
    ///     sent(br#"{"stream":true,"model":"small-1"}"#)?,
    ///     r#"{"model":"small-1","stream":true,"stream_options":{"include_usage":true}}"#,
    /// );
    /// assert_eq!(
    ///     sent(br#"{"model":"small-1"}"#)?,
    ///     r#"{"max_completion_tokens":4096,"model":"small-1"}"#,
    /// );
    /// # Ok::<(), agentkey::llm::PromptError>(())
    /// ```
    pub fn to_upstream(&self, format: Format, body: &[u8]) -> Result<Bytes, PromptError> {
        let (options, most);
        let mut members: Members<'_> = serde_json::from_slice(body).map_err(PromptError)?;
        let names = self.limit_names(format);
        members.retain(|name, _| !is_look_alike(name, names));
        match format {
            Format::Responses => members.remove("background"),
            Format::Completions => members.remove("echo"),
            Format::ChatCompletions | Format::Messages => None,
        };
        let is_stream = members.get("stream").is_some_and(|stream| stream.get() == "true");

        // What is no number here may be one there: pydantic reads " 3" and "1_0", and llama.cpp takes a
        // limit of -1 for none.
        members.retain(|name, value| {
            let name = &**name;
            match (LIMITS.contains(&name), names.contains(&name)) {
                (false, false) if ANSWERS.contains(&name) => limit(value).is_some(),
                (false, false) => !OVERRIDES.contains(&name),
                (true, true) => limit(value).is_some(),
                // A limit that this upstream does not read, or one that was not read here.
                _ => false,
            }
        });
        let said = self.request().max_output;
        let is_limited = names.into_iter().any(|name| members.contains_key(name));
        if !is_limited && (self.is_held_whole() || said.is_some()) {
            let output = match (format, said) {
                (Format::Completions, None) => self.most_output().min(LEGACY_OUTPUT),
                _ => self.most_output(),
            };
            most = to_raw_value(&output).map_err(PromptError)?;
            members.insert(names[0].to_owned(), &most);
        }

        if is_stream && matches!(format, Format::ChatCompletions | Format::Completions) {
            let given = members.get(STREAM_OPTIONS).map_or("{}", |given| given.get());
            let mut given: Map<String, Value> = serde_json::from_str(given).unwrap_or_default();
            given.insert("include_usage".into(), true.into());
            options = to_raw_value(&given).map_err(PromptError)?;
            members.insert(STREAM_OPTIONS.into(), &options);
        }
        serde_json::to_vec(&members).map(Bytes::from).map_err(PromptError)
    }
}

/// Returns whether a name differs only in its case from one that is read here. Parsers in Go take it
/// for the same, and the last of them counts.
fn is_look_alike(name: &str, limits: [&str; 2]) -> bool {
    const READ: [&str; 6] = ["model", "prompt", "stream", STREAM_OPTIONS, "background", "echo"];
    // Both ways: `ſ` is no capital letter, and `K` (Kelvin) no small one.
    let folded = name.to_uppercase().to_lowercase();
    let read = READ.iter().chain(&ANSWERS).chain(&LIMITS).chain(&OVERRIDES).chain(&limits);
    folded != name && read.into_iter().any(|read| *read == folded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::estimator::FourBytes;
    use crate::llm::prompt::Prompt;
    use crate::model::{Amount, TokenPrice};

    fn meter(body: &str) -> Meter {
        let price = TokenPrice::new(Amount::units(3), Amount::units(15));
        Meter::new(price).prompt(Prompt::read(body.as_bytes(), &FourBytes).unwrap())
    }

    fn sent(format: Format, body: &str) -> String {
        let sent = meter(body).to_upstream(format, body.as_bytes()).unwrap();
        String::from_utf8(sent.to_vec()).unwrap()
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
        }
        for format in [Format::Responses, Format::Messages] {
            assert_eq!(sent(format, r#"{"stream":true}"#), r#"{"stream":true}"#);
        }
    }

    #[test]
    fn a_whole_answer_has_the_limit_that_is_held_for_it() {
        for (format, body, right) in [
            (Format::ChatCompletions, r#"{}"#, r#"{"max_completion_tokens":4096}"#),
            (
                Format::Responses,
                r#"{"stream":false}"#,
                r#"{"max_output_tokens":4096,"stream":false}"#,
            ),
            (Format::Messages, r#"{"max_tokens":null}"#, r#"{"max_tokens":4096}"#),
            (Format::Completions, r#"{}"#, r#"{"max_tokens":16}"#),
            // The request has one.
            (Format::ChatCompletions, r#"{"max_tokens":7}"#, r#"{"max_tokens":7}"#),
            (
                Format::ChatCompletions,
                r#"{"max_completion_tokens":64000}"#,
                r#"{"max_completion_tokens":64000}"#,
            ),
            (Format::Completions, r#"{"max_tokens":1e3}"#, r#"{"max_tokens":1e3}"#),
            (Format::Messages, r#"{"max_tokens":0}"#, r#"{"max_tokens":0}"#),
            // It has one by a name that this upstream does not read.
            (Format::Responses, r#"{"max_tokens":7}"#, r#"{"max_output_tokens":7}"#),
            (Format::Completions, r#"{"max_completion_tokens":99}"#, r#"{"max_tokens":99}"#),
            (Format::Messages, r#"{"max_output_tokens":99,"max_tokens":7}"#, r#"{"max_tokens":7}"#),
            // It has none that is a number.
            (Format::ChatCompletions, r#"{"max_tokens":-1}"#, r#"{"max_completion_tokens":4096}"#),
            (Format::Messages, r#"{"max_tokens":"many"}"#, r#"{"max_tokens":4096}"#),
            // What others read as another model or limit.
            (
                Format::ChatCompletions,
                r#"{"max_tokens":7,"models":["large-1"],"fallbacks":[],"route":"fallback","n_predict":9}"#,
                r#"{"max_tokens":7}"#,
            ),
            (
                Format::Completions,
                r#"{"max_tokens":7,"echo":true,"num_predict":9,"N_Predict":9,"max_new_tokens":9}"#,
                r#"{"max_tokens":7}"#,
            ),
            // A stream is held while it comes.
            (Format::Messages, r#"{"stream":true}"#, r#"{"stream":true}"#),
            (
                Format::Responses,
                r#"{"max_tokens":7,"stream":true}"#,
                r#"{"max_output_tokens":7,"stream":true}"#,
            ),
        ] {
            assert_eq!(sent(format, body), right, "{body}");
        }
    }

    #[test]
    fn the_application_says_the_limit_and_its_name() {
        let sent = |body: &str| {
            let meter = meter(body).max_output(1_000).chat_limit_name("max_tokens");
            meter.to_upstream(Format::ChatCompletions, body.as_bytes()).unwrap()
        };
        assert_eq!(sent(r#"{"n":2}"#), r#"{"max_tokens":1000,"n":2}"#);
        assert_eq!(sent(r#"{"max_tokens":7}"#), r#"{"max_tokens":7}"#);
        assert_eq!(sent(r#"{"max_completion_tokens":7}"#), r#"{"max_tokens":7}"#);

        // By a name of its own, what the client says was not read and is not held.
        let body = r#"{"max_new_tokens":1000000,"Max_New_Tokenſ":1000000}"#;
        let meter = meter(body).max_output(1_000).chat_limit_name("max_new_tokens");
        let sent = meter.to_upstream(Format::ChatCompletions, body.as_bytes()).unwrap();
        assert_eq!(sent, r#"{"max_new_tokens":1000}"#);
    }

    #[test]
    fn a_stream_with_hidden_reasoning_has_the_limit_that_is_held_for_it() {
        for (body, right) in [
            (r#"{"stream":true}"#, r#"{"max_output_tokens":4096,"stream":true}"#),
            (
                r#"{"max_output_tokens":70000,"stream":true}"#,
                r#"{"max_output_tokens":70000,"stream":true}"#,
            ),
        ] {
            let meter = meter(body).hidden_reasoning(true);
            assert_eq!(meter.to_upstream(Format::Responses, body.as_bytes()).unwrap(), right);
        }
    }

    /// Each is a number to pydantic 2, which many an upstream reads requests by, but not to the meter.
    #[test]
    fn no_more_answers_are_asked_for_than_are_held() {
        for name in ANSWERS {
            for number in [r#"" 3""#, r#""1_0""#, r#""\u0033""#] {
                let body = format!(r#"{{"max_tokens":7,"{name}":{number}}}"#);
                assert_eq!(meter(&body).request().answers, 1, "{body}");
                assert_eq!(sent(Format::ChatCompletions, &body), r#"{"max_tokens":7}"#);
            }
            let body = format!(r#"{{"max_tokens":7,"{name}":"3"}}"#);
            assert_eq!(meter(&body).request().answers, 3, "{body}");
            assert_eq!(sent(Format::ChatCompletions, &body).matches("\"3\"").count(), 1);
        }
        let body = r#"{"max_tokens":7,"Prompt":["a","b","c"],"prompt":"a"}"#;
        assert_eq!(sent(Format::Completions, body), r#"{"max_tokens":7,"prompt":"a"}"#);
    }

    #[test]
    fn a_response_is_not_written_in_the_background() {
        for body in [
            r#"{"background":true,"max_output_tokens":7,"model":"m"}"#,
            r#"{"background":false,"Background":true,"max_output_tokens":7,"model":"m"}"#,
        ] {
            let right = r#"{"max_output_tokens":7,"model":"m"}"#;
            assert_eq!(sent(Format::Responses, body), right);
        }
    }

    #[test]
    fn what_is_priced_is_what_is_sent() {
        let body =
            r#"{"model":"small-1","messages":[{"b":1,"a":1.50}],"model":"large-1","stream":true}"#;
        let right = r#"{"messages":[{"b":1,"a":1.50}],"model":"large-1","stream":true}"#;
        assert_eq!(sent(Format::Messages, body), right);
        let prompt = Prompt::read(body.as_bytes(), &FourBytes).unwrap();
        assert_eq!(prompt.model.as_deref(), Some("large-1"));

        let body = r#"{"model":"small-1","Model":"large-1","ſtream":true,"max_toKens":9,"Max_Tokens":9,"max_tokens":7,"N":9,"Tools":[]}"#;
        let right = r#"{"Tools":[],"max_tokens":7,"model":"small-1"}"#;
        assert_eq!(sent(Format::Messages, body), right);
    }
}
