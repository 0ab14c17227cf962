//! The seventeen streams that upstreams send: see `docs/llm.md`.

use agentkey::Amount;
use agentkey::llm::{Format, FourBytes, Meter, Prompt};
use agentkey::model::TokenUsage;
use serde_json::json;

use crate::support::{ASK, DONE, End, PRICE, Setting, Upstream, W, World, event, w_with};

/// A row of the table.
struct Row {
    limit: Amount,
    request: String,
    stream: Vec<u8>,
    /// Whether the upstream goes on, and the client hangs up on it.
    hangs_up: bool,
    right: Right,
}

/// What is right, in micros.
enum Right {
    Spent(i64),
    /// Cut with the event that brings the spending there.
    Cut(i64),
}

const CENT: Amount = Amount::cents(1);
const DOLLAR: Amount = Amount::units(1);
const TEN: Amount = Amount::units(10);

fn row(limit: Amount, stream: impl Into<Vec<u8>>, right: Right) -> Row {
    Row { limit, request: ASK.to_owned(), stream: stream.into(), hangs_up: false, right }
}

fn hung_up(row: Row) -> Row {
    Row { hangs_up: true, ..row }
}

/// So many of an event, by its place.
fn many(count: usize, data: impl Fn(usize) -> String) -> String {
    (0..count).map(|at| event(data(at))).collect()
}

/// An event with so many tokens of text.
fn large(tokens: usize) -> String {
    event(
        json!({ "choices": [{ "index": 0, "delta": { "content": "tale".repeat(tokens) } }] })
            .to_string(),
    )
}

/// Three micros for each of five tokens of the prompt, 75 for each W. A told prompt is nine tokens.
const SPENT_BY_ESTIMATE: i64 = 15 + 50 * 75;
const CUT_BY_ESTIMATE: i64 = 15 + 134 * 75;
const CUT_BY_TOLD: i64 = 27 + 133 * 75;

fn with_zero_usage() -> String {
    w_with(r#""usage":{"prompt_tokens":0,"completion_tokens":0}"#)
}

fn rows() -> Vec<(&'static str, Vec<Row>)> {
    let end = |usage: &str| format!("{}{}{DONE}", many(50, |_| W.into()), event(usage));
    let long = |member: &'static str| format!("{}{DONE}", many(5_000, |_| w_with(member)));
    vec![
        (
            "1: usage of zero in each chunk, and the client hangs up",
            vec![hung_up(row(TEN, many(20, |_| with_zero_usage()), Right::Spent(1_515)))],
        ),
        (
            "2: usage of zero in each of 5,000 chunks",
            vec![row(CENT, many(5_000, |_| with_zero_usage()) + DONE, Right::Cut(CUT_BY_ESTIMATE))],
        ),
        (
            "3: usage of zero at the end",
            vec![row(
                TEN,
                end(r#"{"choices":[],"usage":{"prompt_tokens":0,"completion_tokens":0}}"#),
                Right::Spent(SPENT_BY_ESTIMATE),
            )],
        ),
        (
            "4: running usage in each chunk",
            vec![row(
                CENT,
                many(5_000, |at| {
                    w_with(&format!(r#""usage":{{"prompt_tokens":9,"completion_tokens":{}}}"#, 5 * (at + 1)))
                }) + DONE,
                Right::Cut(CUT_BY_TOLD),
            )],
        ),
        (
            "5: usage of each chunk in it",
            vec![row(CENT, long(r#""usage":{"prompt_tokens":9,"completion_tokens":5}"#), Right::Cut(CUT_BY_TOLD))],
        ),
        (
            "6: usage in the first chunk only",
            vec![row(
                TEN,
                event(w_with(r#""usage":{"prompt_tokens":9,"completion_tokens":5}"#)) + &many(49, |_| W.into()) + DONE,
                Right::Spent(27 + 50 * 75),
            )],
        ),
        (
            "7: an empty usage",
            vec![row(TEN, many(50, |_| w_with(r#""usage":{}"#)) + DONE, Right::Spent(SPENT_BY_ESTIMATE))],
        ),
        (
            "8: usage under other names, in part, negative, as floats",
            vec![
                row(CENT, long(r#""usage":{"input_tokens":9,"output_tokens":5}"#), Right::Cut(CUT_BY_TOLD)),
                row(CENT, long(r#""usage":{"total_tokens":14}"#), Right::Cut(CUT_BY_ESTIMATE)),
                row(
                    CENT,
                    long(r#""usage":{"prompt_tokens":-9,"completion_tokens":-5}"#),
                    Right::Cut(CUT_BY_ESTIMATE),
                ),
                row(
                    CENT,
                    long(r#""usage":{"prompt_tokens":9.5,"completion_tokens":5.0}"#),
                    Right::Cut(CUT_BY_ESTIMATE),
                ),
            ],
        ),
        (
            "9: choices of null with the usage at the end",
            vec![row(
                TEN,
                end(r#"{"choices":null,"usage":{"prompt_tokens":10,"completion_tokens":1000}}"#),
                Right::Spent(15_030),
            )],
        ),
        (
            "10: a usage of 18446744073709551615",
            vec![row(
                TEN,
                end(
                    r#"{"choices":[],"usage":{"prompt_tokens":18446744073709551615,"completion_tokens":18446744073709551615}}"#,
                ),
                Right::Spent(SPENT_BY_ESTIMATE),
            )],
        ),
        (
            "11: what the event-stream standard allows",
            vec![
                row(CENT, format!("event: message\ndata: {W}\n\n").repeat(5_000), Right::Cut(CUT_BY_ESTIMATE)),
                row(
                    CENT,
                    format!("data: {}\ndata: {}\n\n", &W[..12], &W[12..]).repeat(5_000),
                    Right::Cut(CUT_BY_ESTIMATE),
                ),
                row(CENT, format!("data: {W}\r\r").repeat(5_000), Right::Cut(CUT_BY_ESTIMATE)),
                row(
                    CENT,
                    "\u{feff}".to_owned() + &format!("data:{W}\r\n\r\n").repeat(5_000),
                    Right::Cut(CUT_BY_ESTIMATE),
                ),
            ],
        ),
        (
            "12: text of the legacy format",
            vec![row(
                CENT,
                many(5_000, |_| {
                    r#"{"choices":[{"index":0,"delta":null,"text":"once upon a time, "}]}"#.into()
                }),
                Right::Cut(CUT_BY_ESTIMATE),
            )],
        ),
        (
            "13: JSON in place of a stream",
            vec![row(
                CENT,
                json!({
                    "choices": [{ "index": 0, "message": { "role": "assistant", "content": "once upon a time, ".repeat(1_000) } }],
                    "usage": { "prompt_tokens": 9, "completion_tokens": 5_000 },
                })
                .to_string(),
                Right::Spent(75_027),
            )],
        ),
        (
            "14: events of 1,000 tokens",
            vec![row(DOLLAR, large(1_000).repeat(100), Right::Cut(15 + 67 * 15_000))],
        ),
        (
            "15: events of 20,000 tokens",
            vec![row(DOLLAR, large(20_000).repeat(10), Right::Cut(15 + 4 * 300_000))],
        ),
        (
            "16: tools of 400 KB, and the client hangs up",
            vec![Row {
                request: json!({
                    "model": "tales-1",
                    "stream": true,
                    "messages": [{ "role": "user", "content": "Tell me a tale." }],
                    "tools": [{ "type": "function", "function": { "name": "look", "description": "a".repeat(400_000) } }],
                })
                .to_string(),
                ..hung_up(row(TEN, many(3, |_| W.into()), Right::Spent((5 + 100_000 + 10) * 3 + 3 * 75)))
            }],
        ),
        (
            "17: a request that asks for no stream",
            vec![Row {
                request: r#"{"model":"tales-1","messages":[{"role":"user","content":"Tell me a tale."}]}"#.into(),
                ..row(
                    TEN,
                    r#"{"id":"c","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"Once."},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}"#,
                    Right::Spent(9 * 3 + 2 * 15),
                )
            }],
        ),
    ]
}

impl Row {
    /// Sends the stream in pieces of a size, and checks what the client sees and the ledger says.
    async fn check(&self, name: &str, size: usize) {
        let world = World::new(self.limit).await;
        let end = if self.hangs_up { End::Hangs } else { End::Ends };
        let upstream = Upstream::pieces(&self.stream, size).end(end);
        let seen = upstream.seen.clone();
        let setting =
            Setting { upstream, format: Format::ChatCompletions, meter: Meter::new(PRICE) };
        let mut answer = world.send(setting, &self.request).await;
        assert_eq!(answer.status, 200, "{name}");
        if self.hangs_up {
            answer.read(self.stream.len()).await;
            assert_eq!(answer.text, self.stream, "{name}");
            drop(answer);
        } else {
            let ended = answer.read_all().await;
            let is_whole = ended.text.as_bytes() == self.stream;
            assert_eq!(
                (ended.is_cut(), is_whole),
                match self.right {
                    Right::Spent(_) => (false, true),
                    Right::Cut(_) => (true, false),
                },
                "{name} in pieces of {size}"
            );
            let passed = ended.text.rfind("data: {\"error\"").unwrap_or(ended.text.len());
            assert!(self.stream.starts_with(&ended.text.as_bytes()[..passed]), "{name}");
        }
        let (Right::Spent(right) | Right::Cut(right)) = self.right;
        assert_eq!(world.settled().await, right, "{name} in pieces of {size}");
        assert!(seen.is_hung_up.load(std::sync::atomic::Ordering::SeqCst), "{name}");
    }

    fn meter(&self) -> Meter {
        let prompt = Prompt::read(self.request.as_bytes(), &FourBytes).unwrap();
        Meter::new(PRICE).prompt(prompt)
    }
}

#[tokio::test]
async fn each_stream_is_charged_what_is_right() {
    let rows = rows();
    assert_eq!(rows.len(), 17);
    for (name, rows) in &rows {
        for row in rows {
            for size in [37, 4_096, usize::MAX] {
                row.check(name, size).await;
            }
        }
    }
}

#[tokio::test]
async fn each_stream_is_charged_the_same_byte_by_byte() {
    for (name, rows) in rows() {
        for mut row in rows {
            // What is behind the cut is not read.
            row.stream.truncate(row.stream.len().min(400_000));
            row.check(name, 1).await;
        }
    }
}

/// What a meter says, as far as the stream has come.
fn said(meter: &Meter) -> (u64, Option<TokenUsage>, TokenUsage, Amount) {
    (meter.text(), meter.told(), meter.usage(), meter.cost())
}

/// Cut at every byte of its first 20 KB: the next 400 bytes are four events or more, where they are
/// short, and say the same in one piece as byte by byte.
#[test]
fn what_a_meter_says_does_not_depend_on_where_bytes_are_cut() {
    for (name, rows) in rows() {
        for row in rows {
            let stream = &row.stream[..row.stream.len().min(20_000)];
            let mut single = row.meter();
            let mut says = vec![said(&single)];
            for byte in stream.chunks(1) {
                single.feed(byte).unwrap();
                says.push(said(&single));
            }
            let mut before = row.meter();
            for (at, byte) in stream.chunks(1).enumerate() {
                let end = stream.len().min(at + 400);
                let mut cut = before.clone();
                cut.feed(&stream[at..end]).unwrap();
                assert_eq!(said(&cut), says[end], "{name} cut at {at}");
                before.feed(byte).unwrap();
            }
            let mut whole = row.meter();
            whole.feed(stream).unwrap();
            whole.finish();
            single.finish();
            assert_eq!(said(&single), said(&whole), "{name} byte by byte");
            assert!(whole.text() > 0, "{name}");
        }
    }
}
