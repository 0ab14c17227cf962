//! Random streams, limits, cuts, disconnects and told figures, against a count of their own.

use agentkey::Amount;
use agentkey::llm::{Format, Meter};
use agentkey::model::TokenUsage;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, FileFailurePersistence};
use serde_json::json;

use crate::support::{ASK, DONE, End, PRICE, Setting, Upstream, World};

/// The tokens of the prompt.
const PROMPT: u64 = 5;

#[derive(Clone, Debug)]
struct Event {
    text: String,
    told: Option<(u64, u64)>,
    shape: Shape,
}

#[derive(Clone, Copy, Debug)]
enum Shape {
    Chat,
    Legacy,
    Anthropic,
    Noise,
}

impl Event {
    fn write(&self, end_of_line: &str) -> String {
        let mut data = match self.shape {
            Shape::Chat => {
                json!({ "choices": [{ "index": 0, "delta": { "content": self.text } }] })
            }
            Shape::Legacy => json!({ "choices": [{ "index": 0, "text": self.text }] }),
            Shape::Anthropic => {
                json!({ "type": "content_block_delta", "delta": { "type": "text_delta", "text": self.text } })
            }
            Shape::Noise => return format!(": {}{end_of_line}{end_of_line}", self.text),
        };
        if let Some((input, output)) = self.told {
            data["usage"] = json!({ "prompt_tokens": input, "completion_tokens": output });
        }
        format!("data: {data}{end_of_line}{end_of_line}")
    }

    fn tokens(&self) -> u64 {
        if let Shape::Noise = self.shape { 0 } else { self.text.len().div_ceil(4) as u64 }
    }

    fn told(&self) -> Option<(u64, u64)> {
        if let Shape::Noise = self.shape { None } else { self.told }
    }
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let text =
        prop_oneof![3 => "[a-z ]{0,40}", 1 => "[a-zé語🙂\"\\\\]{0,20}", 1 => "[a-z]{400,4000}"];
    let told = prop_oneof![
        6 => Just(None),
        1 => Just(Some((0, 0))),
        2 => (0..200_u64, 0..500_u64).prop_map(Some),
        1 => Just(Some((u64::MAX, 7))),
    ];
    let shape =
        select(vec![Shape::Chat, Shape::Chat, Shape::Legacy, Shape::Anthropic, Shape::Noise]);
    let event = (text, told, shape).prop_map(|(text, told, shape)| Event { text, told, shape });
    proptest::collection::vec(event, 0..40)
}

#[derive(Clone, Debug)]
struct Story {
    events: Vec<Event>,
    end_of_line: &'static str,
    limit: i64,
    piece: usize,
    end: End,
    is_done: bool,
    /// After so many bytes the client hangs up.
    hangs_up: Option<usize>,
}

fn stories() -> impl Strategy<Value = Story> {
    let limit = prop_oneof![4_000..20_000_i64, 20_000..1_000_000_i64];
    let end = select(vec![End::Ends, End::Ends, End::Fails, End::Trailers]);
    let hangs_up = proptest::option::weighted(0.3, 1..8_000_usize);
    let end_of_line = select(vec!["\n", "\r\n", "\r"]);
    let piece = prop_oneof![1..200_usize, Just(100_000)];
    (events(), end_of_line, limit, piece, end, any::<bool>(), hangs_up).prop_map(
        |(events, end_of_line, limit, piece, end, is_done, hangs_up)| Story {
            events,
            end_of_line,
            limit,
            piece,
            end,
            is_done,
            hangs_up,
        },
    )
}

/// A count by the rules of `docs/llm.md`, as plain as can be.
#[derive(Default)]
struct Count {
    text: u64,
    highest: (u64, u64),
    last: (Option<u64>, Option<u64>),
    is_covered: bool,
}

impl Count {
    fn add(&mut self, event: &Event) {
        self.text += event.tokens();
        if event.tokens() > 0 {
            self.is_covered = false;
        }
        let believed = event.told().filter(|(input, output)| *input.max(output) <= 10_000_000);
        if let Some((input, output)) = believed {
            self.highest = (self.highest.0.max(input), self.highest.1.max(output));
            self.last = (Some(input), Some(output));
            self.is_covered |= event.tokens() == 0;
        }
    }

    fn running(&self) -> i64 {
        micros(PROMPT.max(self.highest.0), self.text.max(self.highest.1))
    }

    fn estimate(&self) -> i64 {
        micros(PROMPT, self.text)
    }

    fn at_end(&self) -> i64 {
        let input = self.last.0.filter(|told| told * 4 >= PROMPT);
        let output = self.last.1.filter(|told| self.is_covered && told * 4 >= self.text);
        micros(
            input.unwrap_or(PROMPT.max(self.highest.0)),
            output.unwrap_or(self.text.max(self.highest.1)),
        )
    }
}

fn micros(input: u64, output: u64) -> i64 {
    PRICE.cost(TokenUsage::new(input, output)).as_micros()
}

async fn check(story: Story) -> Result<(), TestCaseError> {
    let world = World::new(Amount::micros(story.limit)).await;
    let texts: Vec<_> = story.events.iter().map(|event| event.write(story.end_of_line)).collect();
    let mut stream = texts.concat();
    if story.is_done {
        stream += DONE;
    }
    // A client that hangs up does so while the upstream still sends.
    let end = if story.hangs_up.is_some() { End::Hangs } else { story.end.clone() };
    let upstream = Upstream::pieces(stream.as_bytes(), story.piece).end(end);
    let setting = Setting { upstream, format: Format::ChatCompletions, meter: Meter::new(PRICE) };
    let mut answer = world.send(setting, ASK).await;
    if answer.status == 402 {
        prop_assert!(story.limit < 15 + 256 * 15);
        prop_assert_eq!(world.ledger().await, (0, 0));
        return Ok(());
    }

    // The first event that cannot be paid for, and what was spent up to each event.
    let mut count = Count::default();
    let mut after = vec![(0, count.running(), count.estimate())];
    let mut cut = None;
    for (event, text) in story.events.iter().zip(&texts) {
        count.add(event);
        let length = after.last().map_or(0, |(length, ..)| *length) + text.len();
        after.push((length, count.running(), count.estimate()));
        if cut.is_none() && count.running() > story.limit {
            cut = Some(after.len() - 1);
        }
    }

    if let Some(bytes) = story.hangs_up {
        let passable = cut.map_or(stream.len(), |cut| after[cut - 1].0);
        answer.read(bytes.min(passable)).await;
        let passed = answer.text.len().min(passable);
        drop(answer);
        let spent = world.settled().await;
        // Whole events only, so what was passed on has an estimate.
        let estimate = after.iter().take_while(|(length, ..)| *length <= passed).last();
        if !(story.is_done && passed == stream.len()) {
            prop_assert!(
                spent >= estimate.map_or(0, |(.., estimate)| *estimate),
                "{} spent",
                spent
            );
        }
        prop_assert!(spent <= after[cut.unwrap_or(after.len() - 1)].1.max(count.at_end()));
        return Ok(());
    }

    let ended = answer.read_all().await;
    let spent = world.settled().await;
    match cut {
        Some(cut) => {
            prop_assert!(ended.is_cut(), "{:?}", ended);
            prop_assert_eq!(&ended.text[..after[cut - 1].0], &stream[..after[cut - 1].0]);
            prop_assert_eq!(spent, after[cut].1, "the limit, and the event in hand");
            prop_assert!(after[cut - 1].1 <= story.limit);
        }
        None => {
            prop_assert_eq!(&ended.text, &stream);
            let is_last = story.is_done || story.end != End::Fails;
            prop_assert_eq!(ended.error.is_some(), story.end == End::Fails);
            prop_assert_eq!(spent, if is_last { count.at_end() } else { count.running() });
        }
    }
    Ok(())
}

fn config() -> Config {
    let file = FileFailurePersistence::Direct("proptest-regressions/llm.txt");
    Config { cases: 200, failure_persistence: Some(Box::new(file)), ..Config::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_metered_stream_never_overruns_and_is_never_free(story in stories()) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(check(story))?;
    }

    #[test]
    fn noise_is_read_the_same_in_any_pieces(
        lines in proptest::collection::vec("(data:|event:|)[ \\[\\]{}\",:0-9a-z\u{feff}]{0,30}(\n|\r|\r\n)", 0..20),
        piece in 1..40_usize,
    ) {
        let stream = lines.concat();
        let read = |size: usize| {
            let mut meter = Meter::new(PRICE);
            stream.as_bytes().chunks(size).for_each(|piece| meter.feed(piece).unwrap());
            meter.finish();
            (meter.text(), meter.told(), meter.cost())
        };
        prop_assert_eq!(read(piece), read(usize::MAX));
    }
}
