//! The meter: bytes in, and out of it what they cost. No I/O.

use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::answer::Answer;
use super::estimator::{FourBytes, TokenEstimator};
use super::events::{EventBuffer, EventTooLong, without_mark};
use super::format::Format;
use super::prompt::Prompt;
use super::repeated::EventReader;
use super::tally::Tally;
use crate::model::{Amount, TokenPrice, TokenUsage};

/// The default bound on one event, and on a whole answer.
const MAX_EVENT: usize = 16 << 20;

/// The default of the most tokens of a whole answer.
const MAX_OUTPUT: u64 = 4_096;

/// For how many tokens of output money is held at a time, at the least.
const STEP: u64 = 256;

/// More is held at once for a long answer: this part of what it has cost.
const PART_OF_COST: i64 = 8;

/// Says what a model's answer costs, while it comes.
///
/// It reads event streams and whole answers in every [format](super::Format). Feed it bytes as they
/// come; what it says does not depend on how they are cut.
///
/// - While the answer comes, the estimate is the floor: of the prompt, and of the text that was seen.
/// - A told figure raises the cost at any time.
/// - A told figure lowers the cost only at the end, and only if it is plausible: a quarter of the
///   estimate or more, and told after the last text.
///
/// ```
/// use agentkey::Amount;
/// use agentkey::llm::{Meter, Prompt};
/// use agentkey::model::{TokenPrice, TokenUsage};
///
/// let price = TokenPrice::new(Amount::units(3), Amount::units(15)); // 3 and 15 micros a token
/// let mut meter = Meter::new(price);
/// meter.feed(br#"data: {"choices":[{"delta":{"content":"once upon a time, "}}]}"#)?;
/// meter.feed(b"\n\n")?;
/// assert_eq!((meter.text(), meter.cost()), (5, Amount::micros(75)));
///
/// meter.feed(b"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":4}}\n\n")?;
/// assert_eq!(meter.cost(), Amount::micros(9 * 3 + 75)); // raised at once
/// meter.feed(b"data: [DONE]\n\n")?;
/// assert_eq!(meter.cost(), Amount::micros(9 * 3 + 4 * 15)); // lowered at the end
/// assert_eq!(meter.usage(), TokenUsage::new(9, 4));
/// # Ok::<(), agentkey::llm::MeterError>(())
/// ```
#[derive(Clone)]
pub struct Meter {
    tally: Tally,
    estimator: Arc<dyn TokenEstimator>,
    max_event: usize,
    max_output: u64,
    has_hidden_reasoning: bool,
    chat_limit: Option<String>,
    reader: Reader,
    events: EventReader,
    /// Whether an event was read, so that no byte order mark may come.
    is_begun: bool,
}

/// How the answer is read.
#[derive(Clone, Debug)]
enum Reader {
    /// Not known before its first byte that is no white space. The bytes before it are kept.
    Unknown(BytesMut),
    Events(EventBuffer),
    /// A JSON document. It is kept until its end, so that its usage is known before it is passed on.
    Whole(BytesMut),
}

/// An event, or a whole answer, is longer than the meter's [bound](Meter::max_event).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event or an answer of the model is longer than the bound of its meter")]
#[non_exhaustive]
pub struct MeterError;

impl Meter {
    /// Returns a meter of an answer at this price, with the default estimator and no prompt.
    pub fn new(price: TokenPrice) -> Self {
        Self {
            tally: Tally::new(price),
            estimator: Arc::new(FourBytes),
            max_event: MAX_EVENT,
            max_output: MAX_OUTPUT,
            has_hidden_reasoning: false,
            chat_limit: None,
            reader: Reader::Unknown(BytesMut::new()),
            events: EventReader::default(),
            is_begun: false,
        }
    }

    /// Sets the estimator of the text. Default: [`FourBytes`].
    #[must_use]
    pub fn estimator(mut self, estimator: impl TokenEstimator + 'static) -> Self {
        self.estimator = Arc::new(estimator);
        self
    }

    /// Sets the prompt, which costs from now on.
    #[must_use]
    pub fn prompt(mut self, prompt: Prompt) -> Self {
        self.tally.set_prompt(prompt);
        self
    }

    /// Sets the most bytes of one event, and of an answer that is no event stream. Default: 16 MiB.
    ///
    /// The meter keeps no more than that in memory.
    #[must_use]
    pub fn max_event(mut self, bytes: usize) -> Self {
        self.max_event = bytes;
        self
    }

    /// Sets the most tokens of an answer that is held whole, where its request does not say: one that is
    /// no event stream, or that has [hidden reasoning](Self::hidden_reasoning). Default: 4,096.
    ///
    /// Nobody can stop such an answer halfway. So [`Charge::hold_for`](crate::Charge::hold_for) holds
    /// the whole of it before the model is asked, and [`to_upstream`](Self::to_upstream) tells the
    /// upstream to write no more. A model that reasons counts its reasoning too, and may need more.
    ///
    /// A request that sets its limit to zero is held for as one that does not say: some gateways leave
    /// a zero out.
    #[must_use]
    pub fn max_output(mut self, tokens: u64) -> Self {
        self.max_output = tokens;
        self
    }

    /// Sets whether the model reasons in tokens that it bills and does not send, as OpenAI's reasoning
    /// models do. Default: no.
    ///
    /// Such tokens are in no event before the usage at the end, so no meter sees them coming. An event
    /// stream is then held and limited as an answer that is [no stream](Self::max_output), and a client
    /// that leaves it early is charged the whole hold.
    #[must_use]
    pub fn hidden_reasoning(mut self, has_hidden_reasoning: bool) -> Self {
        self.has_hidden_reasoning = has_hidden_reasoning;
        self
    }

    /// Sets the name by which [`to_upstream`](Self::to_upstream) tells an upstream of Chat Completions
    /// the most tokens. Default: what the request calls it, else `max_completion_tokens`.
    ///
    /// OpenAI's newer models refuse `max_tokens`. Mistral, and others that call themselves compatible,
    /// know nothing else.
    #[must_use]
    pub fn chat_limit_name(mut self, name: impl Into<String>) -> Self {
        self.chat_limit = Some(name.into());
        self
    }

    /// Reads the next bytes of the answer.
    ///
    /// # Errors
    ///
    /// [`MeterError`] where an event is longer than the bound. Nothing more can be read then.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), MeterError> {
        let mut bytes = Bytes::copy_from_slice(bytes);
        while self.next_event(&mut bytes)?.is_some() {}
        Ok(())
    }

    /// Reads the end of the answer.
    pub fn finish(&mut self) {
        drop(self.rest());
        self.end();
    }

    /// Returns the estimated tokens of the text that was seen.
    pub fn text(&self) -> u64 {
        self.tally.text()
    }

    /// Returns the usage that was told last, if any.
    pub fn told(&self) -> Option<TokenUsage> {
        self.tally.told()
    }

    /// Returns the usage that is charged, as it stands.
    pub fn usage(&self) -> TokenUsage {
        self.tally.usage()
    }

    /// Returns what the answer has cost so far.
    pub fn cost(&self) -> Amount {
        self.tally.cost()
    }

    /// Takes the bytes up to the end of an event, counts it, and returns it. Takes all bytes where
    /// none ends.
    pub(super) fn next_event(&mut self, bytes: &mut Bytes) -> Result<Option<Bytes>, MeterError> {
        if let Reader::Unknown(kept) = &mut self.reader
            && let Some(first) = bytes.iter().copied().find(|byte| !is_white(*byte))
        {
            if !kept.is_empty() {
                kept.extend_from_slice(bytes);
                *bytes = std::mem::take(kept).freeze();
            }
            self.reader = match first {
                b'{' | b'[' => Reader::Whole(BytesMut::new()),
                _ => Reader::Events(EventBuffer::new(self.max_event)),
            };
        }
        match &mut self.reader {
            Reader::Unknown(kept) | Reader::Whole(kept) => {
                if kept.len() + bytes.len() > self.max_event {
                    return Err(MeterError);
                }
                kept.extend_from_slice(bytes);
                bytes.clear();
                Ok(None)
            }
            Reader::Events(buffer) => {
                let event = buffer.take(bytes).map_err(|EventTooLong| MeterError)?;
                if let Some(event) = &event {
                    self.count_event(event);
                }
                Ok(event)
            }
        }
    }

    /// Counts what the answer ended with, and returns it: an event without an end, or the whole
    /// answer.
    pub(super) fn rest(&mut self) -> Option<Bytes> {
        match &mut self.reader {
            Reader::Unknown(kept) => Some(kept.split().freeze()).filter(|kept| !kept.is_empty()),
            Reader::Events(buffer) => {
                let rest = buffer.rest()?;
                self.count_event(&rest);
                Some(rest)
            }
            Reader::Whole(kept) => {
                let whole = kept.split().freeze();
                self.tally.add_whole(Answer::read(without_mark(&whole), &*self.estimator));
                Some(whole)
            }
        }
    }

    /// Records that the answer has ended, so that a told figure may lower the cost.
    pub(super) fn end(&mut self) {
        self.tally.end();
    }

    /// Returns whether the answer is an event stream, as far as it came.
    pub(super) fn is_events(&self) -> bool {
        matches!(self.reader, Reader::Events(_))
    }

    pub(super) fn request(&self) -> &Prompt {
        self.tally.prompt()
    }

    /// Returns whether the most that the answer may cost is held before the model is asked.
    pub(super) fn is_held_whole(&self) -> bool {
        !self.request().is_stream || self.has_hidden_reasoning
    }

    /// Returns whether the answer has ended, so that its cost is known.
    pub(super) fn is_ended(&self) -> bool {
        self.tally.is_ended()
    }

    /// Returns the most tokens that the model may write in one answer.
    pub(super) fn most_output(&self) -> u64 {
        self.request().max_output.filter(|most| *most > 0).unwrap_or(self.max_output)
    }

    /// Returns the names by which an upstream reads the most tokens. The first is sent where the request
    /// has neither.
    pub(super) fn limit_names(&self, format: Format) -> [&str; 2] {
        match (format, &self.chat_limit) {
            (Format::ChatCompletions, Some(name)) => [name; 2],
            (Format::ChatCompletions, None) => ["max_completion_tokens", "max_tokens"],
            (Format::Completions | Format::Messages, _) => ["max_tokens"; 2],
            (Format::Responses, _) => ["max_output_tokens"; 2],
        }
    }

    /// Returns what is held before the model is asked: the most that the answer may cost, or the beginning
    /// of a stream.
    pub(super) fn first_hold(&self) -> Amount {
        let output = self.most_output().saturating_mul(self.request().answers.max(1));
        if self.is_held_whole() {
            self.tally.most(output)
        } else {
            self.cost().saturating_add(self.tally.output_cost(output.min(STEP)))
        }
    }

    /// Returns what is held ahead with an event: more for an answer that has cost more.
    pub(super) fn next_hold(&self) -> Amount {
        let part = Amount::micros(self.cost().as_micros() / PART_OF_COST);
        self.tally.output_cost(STEP).max(part)
    }

    fn count_event(&mut self, event: &[u8]) {
        let is_first = !std::mem::replace(&mut self.is_begun, true);
        let event = if is_first { without_mark(event) } else { event };
        let answer = self.events.read(event, &*self.estimator);
        self.tally.add(answer);
    }
}

/// Whether a byte may stand before JSON, or is of a byte order mark.
fn is_white(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0xEF | 0xBB | 0xBF)
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter")
            .field("text", &self.text())
            .field("told", &self.told())
            .field("cost", &self.cost())
            .finish_non_exhaustive()
    }
}
