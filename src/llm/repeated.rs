//! Reads events, and parses only those that differ from the last one in more than their text.
//!
//! A model writes most of a stream in events that are alike but for one string: its text. OpenAI adds
//! a padding to it and numbers them. Such an event says what the last one said, with another text. To
//! compare them costs a tenth of what it costs to parse one.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use memchr::memmem;

use super::answer::Answer;
use super::estimator::TokenEstimator;
use super::events::data;
use super::written::Tokens;

/// The longest event that the next one is compared with. It bounds what is kept of it.
const MAX_SHAPE: usize = 4096;

/// Reads events one after the other.
#[derive(Clone, Debug, Default)]
pub(super) struct EventReader {
    last: Option<Shape>,
}

impl EventReader {
    pub(super) fn read(&mut self, event: &[u8], estimator: &dyn TokenEstimator) -> Answer {
        if let Some(answer) = self.last.as_ref().and_then(|last| last.read(event, estimator)) {
            return answer;
        }
        let (answer, shape) = Shape::of(event, estimator);
        self.last = shape.or_else(|| self.last.take());
        answer
    }
}

/// What an event is but for its text: its bytes, with holes in them, and what it says.
#[derive(Clone, Debug)]
struct Shape {
    event: Vec<u8>,
    holes: Vec<Hole>,
    answer: Answer,
}

#[derive(Clone, Debug)]
struct Hole {
    at: Range<usize>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The string that counts.
    Text,
    /// A string that says nothing.
    Padding,
    /// A number that says nothing.
    Number,
}

/// Members that differ from event to event and say nothing wherever they are.
///
/// These bytes are nowhere but before such a member. In a string of JSON a quote follows a backslash,
/// and this one follows a comma.
const HOLES: [(&[u8], Kind); 2] =
    [(br#","obfuscation":""#, Kind::Padding), (br#","sequence_number":"#, Kind::Number)];

impl Shape {
    /// Parses an event. It has a shape where one string counts, and nothing beside it.
    fn of(event: &[u8], estimator: &dyn TokenEstimator) -> (Answer, Option<Self>) {
        let observed = Observed::new(estimator);
        let answer = parse(event, &observed);
        let shape = observed.text(event).filter(|_| event.len() <= MAX_SHAPE).and_then(|text| {
            let Tokens { delta, part, item, whole } = answer.text;
            let places = [delta, part, item, whole].into_iter().filter(|place| *place > 0);
            (places.count() == 1).then(|| Self::around(event, text, answer))
        });
        (answer, shape)
    }

    fn around(event: &[u8], text: Range<usize>, answer: Answer) -> Self {
        let others = HOLES.into_iter().filter_map(|(before, kind)| {
            let start = memmem::find(event, before)? + before.len();
            let length = kind.length(event.get(start..)?)?;
            Some(Hole { at: start..start + length, kind })
        });
        let mut holes: Vec<_> = others.chain([Hole { at: text, kind: Kind::Text }]).collect();
        holes.sort_by_key(|hole| hole.at.start);
        Self { event: event.to_owned(), holes, answer }
    }

    /// Returns what an event of this shape says, and `None` for any other.
    fn read(&self, event: &[u8], estimator: &dyn TokenEstimator) -> Option<Answer> {
        let (mut rest, mut read, mut text) = (event, 0, None);
        for Hole { at, kind } in &self.holes {
            rest = rest.strip_prefix(self.event.get(read..at.start)?)?;
            let (value, after) = rest.split_at_checked(kind.length(rest)?)?;
            if *kind == Kind::Text {
                let start = event.len().checked_sub(rest.len())?;
                text = Some(string(event, start..start + value.len())?);
            }
            (rest, read) = (after, at.end);
        }
        if rest != self.event.get(read..)? {
            return None;
        }
        let tokens = estimator.tokens(&text?);
        let place = |shape: u64| if shape > 0 { tokens } else { 0 };
        let Tokens { delta, part, item, whole } = self.answer.text;
        let text = Tokens {
            delta: place(delta),
            part: place(part),
            item: place(item),
            whole: place(whole),
        };
        Some(Answer { text, ..self.answer })
    }
}

impl Kind {
    /// Returns the length of the value that these bytes begin with, and `None` where it is no string
    /// or number of JSON.
    fn length(self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::Text => length_of_string(bytes),
            Self::Padding => {
                let length = length_of_string(bytes)?;
                (!bytes.get(..length)?.contains(&b'\\')).then_some(length)
            }
            Self::Number => {
                let length = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
                let is_plain = bytes.first() != Some(&b'0') || length == 1;
                (is_plain && (1..=15).contains(&length)).then_some(length)
            }
        }
    }
}

fn length_of_string(bytes: &[u8]) -> Option<usize> {
    let mut is_escaped = false;
    let length = bytes.iter().position(|byte| match byte {
        _ if std::mem::take(&mut is_escaped) => false,
        b'\\' => {
            is_escaped = true;
            false
        }
        byte => matches!(byte, b'"' | ..b' '),
    })?;
    (bytes.get(length) == Some(&b'"')).then_some(length)
}

/// Returns the string between the quotes that stand around this range.
fn string(event: &[u8], at: Range<usize>) -> Option<Cow<'_, str>> {
    let plain = event.get(at.clone())?;
    if !plain.contains(&b'\\') {
        return std::str::from_utf8(plain).ok().map(Cow::Borrowed);
    }
    let quoted = event.get(at.start.checked_sub(1)?..=at.end)?;
    serde_json::from_slice(quoted).ok().map(Cow::Owned)
}

/// Reads the fields of an event, and its data. What is no field counts as text.
fn parse(event: &[u8], estimator: &dyn TokenEstimator) -> Answer {
    let mut stray = Tokens::default();
    let data = data(event, |line| {
        stray.add(Answer::text(&String::from_utf8_lossy(line), estimator).text);
    });
    let mut answer = data.map(|data| Answer::read(&data, estimator)).unwrap_or_default();
    answer.text.add(stray);
    answer
}

/// An estimator that observes which text it is asked for.
struct Observed<'e> {
    estimator: &'e dyn TokenEstimator,
    calls: AtomicUsize,
    address: AtomicUsize,
    length: AtomicUsize,
}

impl<'e> Observed<'e> {
    fn new(estimator: &'e dyn TokenEstimator) -> Self {
        let (calls, address, length) = Default::default();
        Self { estimator, calls, address, length }
    }

    /// Returns where in an event the text is, if it was asked for one text, and that is a string of
    /// the event. A string with an escape is not, because it was decoded into another place.
    fn text(&self, event: &[u8]) -> Option<Range<usize>> {
        if self.calls.load(Ordering::Relaxed) != 1 {
            return None;
        }
        let start = self.address.load(Ordering::Relaxed).checked_sub(event.as_ptr().addr())?;
        let end = start.checked_add(self.length.load(Ordering::Relaxed))?;
        let is_quote = |at: usize| event.get(at) == Some(&b'"');
        (is_quote(start.checked_sub(1)?) && is_quote(end)).then_some(start..end)
    }
}

impl TokenEstimator for Observed<'_> {
    fn tokens(&self, text: &str) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.address.store(text.as_ptr().addr(), Ordering::Relaxed);
        self.length.store(text.len(), Ordering::Relaxed);
        self.estimator.tokens(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::llm::estimator::FourBytes;

    const CHAT: &str = "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" time\"},\"logprobs\":null}],\"usage\":null,\"obfuscation\":\"x8Bq\"}\n\n";
    const RESPONSES: &str = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":17,\"delta\":\" time\",\"logprobs\":[],\"obfuscation\":\"x8\"}\n\n";
    const MESSAGES: &str = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\" time\"}}\n\n";
    const DONE: &str = "data: {\"type\":\"response.output_text.done\",\"sequence_number\":0,\"text\":\" time\"}\r\n\r\n";
    const USAGE: &str = "data: {\"choices\":[{\"delta\":{\"content\":\" time\"}}],\"usage\":{\"completion_tokens\":7}}\n\n";
    const TOOL: &str = "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"function\":{\"arguments\":\" time\"}}]}}]}\n\n";
    const ITEM: &str = "data: {\"type\":\"response.output_text.delta\",\"output_index\":4,\"delta\":\" time\"}\n\n";
    const EVENTS: [&str; 7] = [CHAT, RESPONSES, MESSAGES, DONE, USAGE, TOOL, ITEM];

    fn shape(event: &str) -> Shape {
        Shape::of(event.as_bytes(), &FourBytes).1.expect("it has a shape")
    }

    fn read(shape: &Shape, event: &str) -> Option<Answer> {
        shape.read(event.as_bytes(), &FourBytes)
    }

    #[test]
    fn an_event_with_another_text_is_not_parsed() {
        for event in EVENTS {
            let escaped = r#"\n\"\u8a9e\ud83d\ude00\\"#;
            for text in [" time", "", "語", " once upon a time, there lived", escaped] {
                let next = event
                    .replace(" time", text)
                    .replace("x8", "")
                    .replace(":17,", ":18,")
                    .replace(":0,\"text", ":123456,\"text");
                let answer = read(&shape(event), &next);
                assert_eq!(answer, Some(parse(next.as_bytes(), &FourBytes)), "{next}");
                assert!(text != escaped || answer.unwrap().text.max() == 3);
            }
        }
    }

    #[test]
    fn an_event_of_another_shape_is_parsed() {
        for (event, from, to) in [
            (CHAT, " time", "\\ud83d"),
            (CHAT, " time", "\\a"),
            (CHAT, " time", "\\"),
            (CHAT, " time", "\\\na"),
            (CHAT, " time", "a\",\"b\":\"c"),
            (CHAT, " time", "a\nb"),
            (CHAT, "content", "reasoning"),
            (CHAT, "null}]", "null}"),
            (CHAT, "x8Bq", "x\\"),
            (CHAT, "\n\n", "\n"),
            (RESPONSES, ":17,", ":017,"),
            (RESPONSES, ":17,", ":,"),
            (RESPONSES, ":17,", ":1.5,"),
            (RESPONSES, ":17,", ":1234567890123456,"),
            (RESPONSES, "output_text", "other"),
            (MESSAGES, "\"index\":0", "\"index\":1"),
            (USAGE, ":7", ":8"),
            (ITEM, ":4", ":5"),
        ] {
            let next = event.replace(from, to);
            assert_ne!(next, event, "{from}");
            assert_eq!(read(&shape(event), &next), None, "{next}");
        }
    }

    #[test]
    fn an_event_with_more_than_one_text_has_no_shape() {
        let long = CHAT.replace(" time", &"a".repeat(MAX_SHAPE));
        for event in [
            "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}},{\"delta\":{\"content\":\"b\"}}]}\n\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"a\\n\"}}]}\n\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"\"}}]}\n\n",
            "data: {\"choices\":[],\"usage\":{\"completion_tokens\":7}}\n\n",
            "data: {\"delta\":\ndata: \"a\"}\n\n",
            "data: {\"delta\":\"a\"}\nstray\n\n",
            "data: {\"delta\":{\"input\":{\"obfuscation\":\"a\",\"b\":1}}}\n\n",
            "data: {\"delta\":\"a\"\n\n",
            "data: \"a\"\n\n",
            "data: once\n\n",
            "\"once\"\n\n",
            &long,
        ] {
            assert!(Shape::of(event.as_bytes(), &FourBytes).1.is_none(), "{event}");
        }
    }

    /// An event with some of its bytes replaced by what is near to a hole.
    fn mutated(event: &'static str) -> impl Strategy<Value = Vec<u8>> {
        let pieces = [
            "",
            "\"",
            "\\",
            "\\\"",
            ",",
            "0",
            "12",
            "a",
            " ",
            "\n",
            "\r\n",
            "}",
            "{",
            "[",
            ":",
            "\u{feff}",
            ",\"obfuscation\":\"",
            ",\"sequence_number\":",
            "\"content\":\"",
            "\"input\":",
            "data: ",
            "\\ud83d",
        ];
        let edit = (0..=event.len(), 0..12_usize, select(pieces.to_vec()));
        proptest::collection::vec(edit, 0..4).prop_map(move |edits| {
            let mut bytes = event.as_bytes().to_owned();
            for (at, length, piece) in edits {
                let at = at.min(bytes.len());
                let end = (at + length).min(bytes.len());
                bytes.splice(at..end, piece.bytes());
            }
            bytes
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever the first event was, and however the second differs from it.
        #[test]
        fn an_event_says_the_same_after_any_other(
            (first, second) in select(EVENTS.to_vec()).prop_flat_map(|event| (mutated(event), mutated(event)))
        ) {
            let mut reader = EventReader::default();
            for event in [&first, &second, &first] {
                prop_assert_eq!(reader.read(event, &FourBytes), parse(event, &FourBytes));
            }
        }
    }
}
