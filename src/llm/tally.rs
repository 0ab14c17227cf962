//! What a stream has used so far: by estimate, and by what its provider told.

use super::answer::Answer;
use super::prompt::Prompt;
use super::told::Told;
use super::written::Written;
use crate::model::{Amount, TokenPrice, TokenUsage};

/// How many times as much as the told figure the estimate may be. Beyond that, the told figure is
/// not that of the text.
const PLAUSIBLE: u64 = 4;

/// The usage of one request.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    price: TokenPrice,
    prompt: Prompt,
    text: Written,
    /// Of all inputs that were told, the one that costs most.
    dearest_input: TokenUsage,
    /// Of all outputs that were told, the one that costs most.
    dearest_output: TokenUsage,
    /// What was told last.
    told: Told,
    /// Whether an output was told after all text.
    is_covered: bool,
    is_ended: bool,
}

impl Tally {
    pub(super) fn new(price: TokenPrice) -> Self {
        Self {
            price,
            prompt: Prompt::default(),
            text: Written::default(),
            dearest_input: TokenUsage::default(),
            dearest_output: TokenUsage::default(),
            told: Told::default(),
            is_covered: false,
            is_ended: false,
        }
    }

    pub(super) fn set_prompt(&mut self, prompt: Prompt) {
        self.prompt = prompt;
    }

    pub(super) fn prompt(&self) -> &Prompt {
        &self.prompt
    }

    /// Adds what one event says.
    pub(super) fn add(&mut self, answer: Answer) {
        let has_text = answer.text.delta > 0 && !answer.is_last;
        self.text.add(answer.item, answer.text);
        if has_text {
            (self.is_covered, self.is_ended) = (false, false);
        }
        if let Some(told) = answer.told {
            self.hear(told, has_text);
        }
        self.is_ended |= answer.is_last;
    }

    /// Adds a whole answer. Its usage is that of its text.
    pub(super) fn add_whole(&mut self, answer: Answer) {
        self.add(Answer { is_last: true, ..answer });
    }

    fn hear(&mut self, told: Told, has_text: bool) {
        if let Some(figure) = told.beyond_belief() {
            tracing::warn!(figure, "agentkey ignored a usage that no request to a model has");
            return;
        }
        self.told.merge(told);
        self.is_covered |= told.has_output() && !has_text;
        if let Some(input) = self.told.input() {
            self.dearest_input = self.dearer(self.dearest_input, input);
        }
        if let Some(output) = self.told.output() {
            self.dearest_output = self.dearer(self.dearest_output, output);
        }
    }

    /// Records that nothing more comes.
    pub(super) fn end(&mut self) {
        self.is_ended = true;
    }

    pub(super) fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// Returns the estimated tokens of the text.
    pub(super) fn text(&self) -> u64 {
        self.text.tokens()
    }

    /// Returns what was told last.
    pub(super) fn told(&self) -> Option<TokenUsage> {
        match (self.told.input(), self.told.output()) {
            (None, None) => None,
            (input, output) => Some(join(input.unwrap_or_default(), output.unwrap_or_default())),
        }
    }

    /// Returns the usage to be charged, as it stands.
    pub(super) fn usage(&self) -> TokenUsage {
        join(self.input(), self.output())
    }

    pub(super) fn cost(&self) -> Amount {
        self.price.cost(self.usage())
    }

    /// Returns what so many tokens of output cost.
    pub(super) fn output_cost(&self, tokens: u64) -> Amount {
        self.price.cost(TokenUsage::new(0, tokens))
    }

    /// Returns the most that the prompt and so many tokens of output cost: what of them is written to a
    /// cache, or is reasoning, may be dearer.
    pub(super) fn most(&self, output: u64) -> Amount {
        let input = TokenUsage::new(self.prompt.tokens(), 0);
        let output = TokenUsage::new(0, output);
        let input = self.dearer(input, input.cache_write(input.input));
        let output = self.dearer(output, output.reasoning(output.output));
        self.price.cost(join(input, output))
    }

    fn input(&self) -> TokenUsage {
        let told = self.told.input().filter(|_| self.is_ended);
        told.filter(|told| is_plausible(told.input, self.prompt.text)).unwrap_or_else(|| {
            self.dearer(TokenUsage::new(self.prompt.tokens(), 0), self.dearest_input)
        })
    }

    fn output(&self) -> TokenUsage {
        let told = self.told.output().filter(|_| self.is_ended && self.is_covered);
        told.filter(|told| is_plausible(told.output, self.text()))
            .unwrap_or_else(|| self.dearer(TokenUsage::new(0, self.text()), self.dearest_output))
    }

    fn dearer(&self, one: TokenUsage, other: TokenUsage) -> TokenUsage {
        // Where nothing is told, there is nothing to price: most events tell nothing.
        let is_dearer =
            other != TokenUsage::default() && self.price.cost(other) > self.price.cost(one);
        if is_dearer { other } else { one }
    }
}

fn is_plausible(told: u64, estimate: u64) -> bool {
    told.saturating_mul(PLAUSIBLE) >= estimate
}

/// Returns the input of one usage with the output of another.
fn join(input: TokenUsage, output: TokenUsage) -> TokenUsage {
    TokenUsage { output: output.output, reasoning: output.reasoning, ..input }
}
