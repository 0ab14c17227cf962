//! What a model's provider tells of the usage.
//!
//! The names are those of `CompletionUsage` and `ResponseUsage` in the Python package openai 3.57,
//! and of `Usage` and `MessageDeltaUsage` in anthropic 2.14.

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess};
use serde_json::value::RawValue;

use super::lenient::{NameOf, ObjectOr, ReadMembers};
use crate::model::TokenUsage;

/// The largest figure that is believed: beyond what any model reads or writes for one request.
pub(super) const MAX_TOLD: u64 = 10_000_000;

/// The figures that were told so far. A later one replaces an earlier one of the same name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    input: Option<u64>,
    output: Option<u64>,
    total: Option<u64>,
    reasoning: Option<u64>,
    /// Part of `input`.
    cached: Option<u64>,
    /// Part of `input`.
    cache_write: Option<u64>,
    /// Beside `input`, as Anthropic tells it.
    cache_read_apart: Option<u64>,
    /// Beside `input`, as Anthropic tells it.
    cache_write_apart: Option<u64>,
}

impl Told {
    /// Returns whether a figure of the output is told.
    pub(super) fn has_output(&self) -> bool {
        self.output.is_some()
    }

    /// Returns the first figure that nobody would believe.
    pub(super) fn beyond_belief(&self) -> Option<u64> {
        let figures = [
            self.input,
            self.output,
            self.total,
            self.reasoning,
            self.cached,
            self.cache_write,
            self.cache_read_apart,
            self.cache_write_apart,
        ];
        figures.into_iter().flatten().find(|figure| *figure > MAX_TOLD)
    }

    /// Adds what was told later.
    pub(super) fn merge(&mut self, later: Self) {
        self.input = later.input.or(self.input);
        self.output = later.output.or(self.output);
        self.total = later.total.or(self.total);
        self.reasoning = later.reasoning.or(self.reasoning);
        self.cached = later.cached.or(self.cached);
        self.cache_write = later.cache_write.or(self.cache_write);
        self.cache_read_apart = later.cache_read_apart.or(self.cache_read_apart);
        self.cache_write_apart = later.cache_write_apart.or(self.cache_write_apart);
    }

    /// Returns what was read, if that was told.
    pub(super) fn input(&self) -> Option<TokenUsage> {
        let apart = [self.cache_read_apart, self.cache_write_apart];
        let input = self.input.or(apart[0]).or(apart[1])?;
        let beside = if self.input.is_some() { apart } else { [None, apart[1]] };
        let input = beside.into_iter().flatten().fold(input, u64::saturating_add);
        let cached = self.cached.or(self.cache_read_apart).unwrap_or(0);
        let cache_write = self.cache_write.or(self.cache_write_apart).unwrap_or(0);
        Some(TokenUsage::new(input, 0).cached(cached).cache_write(cache_write))
    }

    /// Returns what was written, if that was told.
    ///
    /// Some upstreams count the reasoning apart from the output. Then it is the total that says so.
    pub(super) fn output(&self) -> Option<TokenUsage> {
        let (output, reasoning) = (self.output?, self.reasoning.unwrap_or(0));
        let both = self.input.unwrap_or(0).saturating_add(output);
        let beside = self.total.unwrap_or(0).saturating_sub(both).min(reasoning);
        Some(TokenUsage::new(0, output.saturating_add(beside)).reasoning(reasoning))
    }
}

/// Reads the usage in a value. What is no usage says nothing.
#[derive(Clone, Copy)]
pub(super) struct ReadTold;

impl<'de> DeserializeSeed<'de> for ReadTold {
    type Value = Told;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Told, D::Error> {
        deserializer.deserialize_any(ObjectOr(ReadTold))
    }
}

impl ReadMembers for ReadTold {
    type Value = Told;

    fn read<'de, A: MapAccess<'de>>(self, mut members: A) -> Result<Told, A::Error> {
        let mut told = Told::default();
        while let Some(member) = members.next_key_seed(NameOf(Member::of))? {
            match member {
                Member::Figure(of) => *of(&mut told) = figure(members.next_value()?),
                Member::Details => told.merge(members.next_value_seed(ReadTold)?),
                Member::Other => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        Ok(told)
    }
}

/// What a member of a usage says, by its name.
enum Member {
    Figure(fn(&mut Told) -> &mut Option<u64>),
    Details,
    Other,
}

impl Member {
    fn of(name: &str) -> Self {
        match name {
            "prompt_tokens" | "input_tokens" => Self::Figure(|told| &mut told.input),
            "completion_tokens" | "output_tokens" => Self::Figure(|told| &mut told.output),
            "total_tokens" => Self::Figure(|told| &mut told.total),
            "reasoning_tokens" | "thinking_tokens" => Self::Figure(|told| &mut told.reasoning),
            "cached_tokens" | "prompt_cache_hit_tokens" => Self::Figure(|told| &mut told.cached),
            "cache_write_tokens" => Self::Figure(|told| &mut told.cache_write),
            "cache_read_input_tokens" => Self::Figure(|told| &mut told.cache_read_apart),
            "cache_creation_input_tokens" => Self::Figure(|told| &mut told.cache_write_apart),
            "prompt_tokens_details"
            | "input_tokens_details"
            | "completion_tokens_details"
            | "output_tokens_details" => Self::Details,
            _ => Self::Other,
        }
    }
}

/// Returns a whole number of tokens. Anything else, a negative number and a fraction too, says nothing.
pub(super) fn figure(value: &RawValue) -> Option<u64> {
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    match value.get() {
        // What is beyond any count is told too, so that it is found to be.
        digits if is_digits(digits) => Some(digits.parse().unwrap_or(u64::MAX)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(json: &str) -> Told {
        ReadTold.deserialize(&mut serde_json::Deserializer::from_str(json)).unwrap()
    }

    fn both(json: &str) -> (Option<TokenUsage>, Option<TokenUsage>) {
        (told(json).input(), told(json).output())
    }

    #[test]
    fn the_names_of_each_provider_are_read() {
        let openai = r#"{"prompt_tokens":100,"completion_tokens":50,"total_tokens":150,
            "prompt_tokens_details":{"cached_tokens":40,"audio_tokens":0},
            "completion_tokens_details":{"reasoning_tokens":30}}"#;
        let (input, output) = both(openai);
        assert_eq!(input, Some(TokenUsage::new(100, 0).cached(40)));
        assert_eq!(output, Some(TokenUsage::new(0, 50).reasoning(30)));

        let responses = r#"{"input_tokens":100,"output_tokens":50,"total_tokens":150,
            "input_tokens_details":{"cached_tokens":40,"cache_write_tokens":20},
            "output_tokens_details":{"reasoning_tokens":30}}"#;
        let (input, output) = both(responses);
        assert_eq!(input, Some(TokenUsage::new(100, 0).cached(40).cache_write(20)));
        assert_eq!(output, Some(TokenUsage::new(0, 50).reasoning(30)));

        let anthropic = r#"{"input_tokens":10,"cache_read_input_tokens":40,"cache_creation_input_tokens":20,
            "output_tokens":50,"output_tokens_details":{"thinking_tokens":30},
            "cache_creation":{"ephemeral_5m_input_tokens":20},"service_tier":"standard"}"#;
        let (input, output) = both(anthropic);
        assert_eq!(input, Some(TokenUsage::new(70, 0).cached(40).cache_write(20)));
        assert_eq!(output, Some(TokenUsage::new(0, 50).reasoning(30)));
    }

    #[test]
    fn a_broken_figure_says_nothing() {
        for json in [
            "{}",
            "null",
            "[]",
            "7",
            "\"many\"",
            r#"{"prompt_tokens":-1,"completion_tokens":-5}"#,
            r#"{"prompt_tokens":1.5,"completion_tokens":2e3}"#,
            r#"{"prompt_tokens":"9","completion_tokens":[5]}"#,
            r#"{"prompt_tokens":null,"completion_tokens":{"a":1}}"#,
            r#"{"total_tokens":14}"#,
        ] {
            assert_eq!(both(json), (None, None), "{json}");
        }
    }

    #[test]
    fn reasoning_that_is_told_apart_is_output_too() {
        let apart = r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":45,
            "completion_tokens_details":{"reasoning_tokens":30}}"#;
        assert_eq!(told(apart).output(), Some(TokenUsage::new(0, 35).reasoning(30)));
    }

    #[test]
    fn a_figure_beyond_belief_is_found_anywhere() {
        for json in [
            r#"{"completion_tokens":18446744073709551615}"#,
            r#"{"completion_tokens":99999999999999999999999}"#,
            r#"{"input_tokens":1,"cache_read_input_tokens":10000001}"#,
            r#"{"prompt_tokens_details":{"cached_tokens":10000001}}"#,
        ] {
            assert!(told(json).beyond_belief().is_some(), "{json}");
        }
        assert_eq!(told(r#"{"prompt_tokens":10000000}"#).beyond_belief(), None);
    }
}
