//! Whole answers, from an upstream that writes no more than it was told.

use std::sync::atomic::Ordering;

use agentkey::Amount;
use agentkey::llm::{Format, Meter};
use agentkey::model::{TokenPrice, TokenUsage};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use crate::support::{Setting, Upstream, World};

/// Reasoning and what is written to a cache are dearer than the rest.
fn price() -> TokenPrice {
    TokenPrice::new(Amount::units(3), Amount::units(15))
        .cached(Amount::cents(30))
        .cache_write(Amount::cents(375))
        .reasoning(Amount::units(20))
}

/// What a model would write.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tale {
    /// The tokens of each answer, if nothing limits it.
    tokens: u64,
    /// Whether it tells its usage, and as what it bills it.
    told: Told,
    /// How many tokens it counts the prompt beyond the estimate.
    beyond_estimate: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Told {
    #[default]
    Nothing,
    Plain,
    Dearest,
}

impl Tale {
    /// Returns the answer to a request, as the upstream of a format reads it.
    pub(crate) fn tell(&self, format: Format, request: &[u8]) -> String {
        let request: Value = serde_json::from_slice(request).unwrap();
        let (limit, answers) = match format {
            Format::ChatCompletions => {
                let limit = request["max_completion_tokens"].as_u64();
                (limit.or_else(|| request["max_tokens"].as_u64()), request["n"].as_u64())
            }
            Format::Completions => {
                let limit = request["max_tokens"].as_u64().unwrap_or(16);
                (Some(limit), request["n"].as_u64())
            }
            Format::Responses => (request["max_output_tokens"].as_u64(), None),
            _ => (request["max_tokens"].as_u64(), None),
        };
        let tokens = limit.map_or(self.tokens, |limit| limit.min(self.tokens));
        let answers = answers.unwrap_or(1);
        let content = json!([{ "type": "text", "text": "tale".repeat(tokens as usize) }]);
        let mut answer = match format {
            Format::Messages => json!({ "type": "message", "content": content }),
            Format::Responses => {
                json!({ "object": "response", "output": [{ "content": content }] })
            }
            _ => {
                json!({ "choices": vec![json!({ "message": { "content": content } }); answers as usize] })
            }
        };
        let (input, output) = (PROMPT + self.beyond_estimate, tokens * answers);
        let dear = |tokens: u64| if self.told == Told::Dearest { tokens } else { 0 };
        if self.told != Told::Nothing {
            answer["usage"] = json!({
                "input_tokens": input, "input_tokens_details": { "cache_write_tokens": dear(input) },
                "output_tokens": output, "output_tokens_details": { "reasoning_tokens": dear(output) },
            });
        }
        answer.to_string()
    }
}

/// The tokens of the prompt of [`request`], by estimate.
const PROMPT: u64 = 5;

fn request(limit: Option<(&str, u64)>, answers: Option<u64>) -> String {
    let mut request = json!({ "model": "tales-1", "messages": [{ "role": "user", "content": "Tell me a tale." }] });
    if let Some((name, tokens)) = limit {
        request[name] = tokens.into();
    }
    if let Some(answers) = answers {
        request["n"] = answers.into();
    }
    request.to_string()
}

fn setting(format: Format, tale: Tale, max_output: u64) -> Setting {
    let upstream = Upstream { tale: Some(tale), ..Upstream::default() };
    Setting { upstream, format, meter: Meter::new(price()).max_output(max_output) }
}

#[derive(Clone, Debug)]
struct Story {
    format: Format,
    tale: Tale,
    /// The limit of the request, and of the meter.
    limit: Option<(&'static str, u64)>,
    max_output: u64,
    answers: Option<u64>,
    /// The limit of the key, in micros.
    budget: i64,
}

fn stories() -> impl Strategy<Value = Story> {
    let format = select(vec![
        Format::ChatCompletions,
        Format::Completions,
        Format::Responses,
        Format::Messages,
    ]);
    let name = select(vec!["max_tokens", "max_completion_tokens", "max_output_tokens"]);
    let limit = proptest::option::of((name, 0..3_000_u64));
    let told = select(vec![Told::Nothing, Told::Plain, Told::Dearest]);
    let tale = (0..5_000_u64, told, 0..20_u64).prop_map(|(tokens, told, beyond_estimate)| Tale {
        tokens,
        told,
        beyond_estimate,
    });
    let answers = proptest::option::of(1..4_u64);
    (format, tale, limit, 0..3_000_u64, answers, 0..200_000_i64).prop_map(
        |(format, tale, limit, max_output, answers, budget)| Story {
            format,
            tale,
            limit,
            max_output,
            answers,
            budget,
        },
    )
}

/// What is held: the limit of the request, whatever its name, or else that of the meter, for each
/// answer; all of it at the dearest price.
fn most(story: &Story) -> i64 {
    let limit = story.limit.map_or(story.max_output, |(_, tokens)| tokens);
    let output = limit * story.answers.unwrap_or(1);
    let usage = TokenUsage::new(PROMPT, output).cache_write(PROMPT).reasoning(output);
    price().cost(usage).as_micros()
}

async fn check(story: Story) -> Result<(), TestCaseError> {
    let world = World::new(Amount::micros(story.budget)).await;
    let setting = setting(story.format, story.tale.clone(), story.max_output);
    let seen = setting.upstream.seen.clone();
    let answer = world.send(setting, &request(story.limit, story.answers)).await;
    if story.budget < most(&story) {
        prop_assert_eq!(answer.status, 402);
        prop_assert!(!seen.is_asked.load(Ordering::SeqCst));
        prop_assert_eq!(world.ledger().await, (0, 0));
        return Ok(());
    }
    prop_assert_eq!(answer.status, 200);
    let ended = answer.read_all().await;
    prop_assert!(ended.error.is_none() && !ended.is_cut());
    let spent = world.settled().await;
    let output = ended.text.matches("tale").count() as u64;
    let input = PROMPT + story.tale.beyond_estimate;
    let usage = match story.tale.told {
        Told::Nothing => TokenUsage::new(PROMPT, output),
        Told::Plain => TokenUsage::new(input, output),
        Told::Dearest => TokenUsage::new(input, output).cache_write(input).reasoning(output),
    };
    prop_assert_eq!(spent, price().cost(usage).as_micros());
    // Nobody knows before how many tokens the upstream counts the prompt.
    let beyond = TokenUsage::new(usage.input - PROMPT, 0).cache_write(usage.input - PROMPT);
    let held = most(&story);
    prop_assert!(
        spent <= held + price().cost(beyond).as_micros(),
        "{} held, {} spent",
        held,
        spent
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_whole_answer_never_overruns(story in stories()) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(check(story))?;
    }
}

/// As an SDK asks by default: no stream, and no limit.
#[tokio::test]
async fn an_answer_without_a_limit_has_that_of_the_meter() {
    for (format, name) in [
        (Format::ChatCompletions, "max_completion_tokens"),
        (Format::Responses, "max_output_tokens"),
        (Format::Messages, "max_tokens"),
    ] {
        let world = World::new(Amount::units(1)).await;
        let endless = Tale { tokens: 1_000_000, told: Told::Plain, ..Tale::default() };
        let ended = world.send(setting(format, endless, 1_000), &request(None, None)).await;
        let text = ended.read_all().await.text;
        assert_eq!(text.matches("tale").count(), 1_000, "{name}");
        assert_eq!(world.settled().await, 15 + 1_000 * 15);
    }
}

/// Each holds all that it may cost, so that together they do not overrun either.
#[tokio::test]
async fn concurrent_answers_do_not_overrun_their_limit() {
    let tale = Tale { tokens: 10_000, told: Told::Dearest, ..Tale::default() };
    let most = 19 + 1_000 * 20;
    let world = World::new(Amount::micros(3 * most + 1)).await;
    let answers = (0..6).map(|_| {
        let setting = setting(Format::Messages, tale.clone(), 1_000);
        async { world.send(setting, &request(None, None)).await }
    });
    let answers = futures_util::future::join_all(answers).await;
    let statuses = answers.iter().map(|answer| answer.status.as_u16());
    assert_eq!(statuses.filter(|status| *status == 402).count(), 3);
    for answer in answers {
        drop(answer.read_all().await);
    }
    assert_eq!(world.settled().await, 3 * most);
}
