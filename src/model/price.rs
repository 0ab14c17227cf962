//! Prices of language models.

use crate::model::Amount;

/// The price of a language model, per million tokens of each kind.
///
/// A negative price counts as zero.
///
/// ```
/// use agentkey::Amount;
/// use agentkey::model::{TokenPrice, TokenUsage};
///
/// // $3 per million input tokens, $15 per million output tokens, $0.30 per million input tokens read from the cache
/// const PRICE: TokenPrice = TokenPrice::new(Amount::units(3), Amount::units(15)).cached(Amount::cents(30));
///
/// let usage = TokenUsage::new(1_200, 350).cached(1_000);
/// assert_eq!(PRICE.cost(usage), Amount::micros(200 * 3 + 1_000 * 30 / 100 + 350 * 15));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "a price is used by `cost`"]
pub struct TokenPrice {
    input: Amount,
    output: Amount,
    cached: Amount,
    cache_write: Amount,
    reasoning: Amount,
}

impl TokenPrice {
    /// Returns a price per million input tokens and per million output tokens. Input that is cached
    /// or written to the cache costs the same as other input, and reasoning the same as other output.
    pub const fn new(input: Amount, output: Amount) -> Self {
        Self { input, output, cached: input, cache_write: input, reasoning: output }
    }

    /// Sets the price per million input tokens that the model's provider had in its cache.
    pub const fn cached(mut self, cached: Amount) -> Self {
        self.cached = cached;
        self
    }

    /// Sets the price per million input tokens that the model's provider wrote to its cache.
    pub const fn cache_write(mut self, cache_write: Amount) -> Self {
        self.cache_write = cache_write;
        self
    }

    /// Sets the price per million output tokens that the model used to reason.
    pub const fn reasoning(mut self, reasoning: Amount) -> Self {
        self.reasoning = reasoning;
        self
    }

    /// Returns what `usage` costs. The sum is rounded up, once, to a micro-unit. It saturates at
    /// [`Amount::MAX`].
    pub fn cost(&self, usage: TokenUsage) -> Amount {
        const TOKENS: u128 = 1_000_000;
        let cached = usage.cached.min(usage.input);
        let cache_write = usage.cache_write.min(usage.input - cached);
        let reasoning = usage.reasoning.min(usage.output);
        // Cannot overflow: a price is below 2⁶³, and all tokens of input together are below 2⁶⁴, as
        // are those of output.
        let millionths = part(self.input, usage.input - cached - cache_write)
            + part(self.cached, cached)
            + part(self.cache_write, cache_write)
            + part(self.output, usage.output - reasoning)
            + part(self.reasoning, reasoning);
        i64::try_from(millionths.div_ceil(TOKENS)).map_or(Amount::MAX, Amount::micros)
    }
}

fn part(price: Amount, tokens: u64) -> u128 {
    u128::try_from(price.as_micros()).unwrap_or(0) * u128::from(tokens)
}

/// The number of tokens that a call to a language model used.
///
/// ```
/// use agentkey::model::TokenUsage;
///
/// let usage = TokenUsage::new(1_200, 350).cached(1_000);
/// assert_eq!((usage.input, usage.cached, usage.output), (1_200, 1_000, 350));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[must_use = "usage is priced by `TokenPrice::cost`"]
pub struct TokenUsage {
    /// Tokens read, those from the cache included.
    pub input: u64,
    /// How many of `input` came from the cache, as OpenAI reports it
    /// (`prompt_tokens_details.cached_tokens`).
    ///
    /// Anthropic counts them apart; there `input` is the sum of both. What exceeds `input` is
    /// ignored.
    pub cached: u64,
    /// How many of `input` were written to the cache, as Anthropic reports it
    /// (`cache_creation_input_tokens`). What exceeds the rest of `input` is ignored.
    pub cache_write: u64,
    /// Tokens written, those of reasoning included.
    pub output: u64,
    /// How many of `output` the model used to reason, as OpenAI reports it
    /// (`completion_tokens_details.reasoning_tokens`). What exceeds `output` is ignored.
    pub reasoning: u64,
}

impl TokenUsage {
    /// Returns the usage of `input` tokens read, none of them from the cache, and `output` tokens
    /// written.
    pub const fn new(input: u64, output: u64) -> Self {
        Self { input, cached: 0, cache_write: 0, output, reasoning: 0 }
    }

    /// Sets how many of the input tokens came from the cache.
    pub const fn cached(mut self, cached: u64) -> Self {
        self.cached = cached;
        self
    }

    /// Sets how many of the input tokens were written to the cache.
    pub const fn cache_write(mut self, cache_write: u64) -> Self {
        self.cache_write = cache_write;
        self
    }

    /// Sets how many of the output tokens were used to reason.
    pub const fn reasoning(mut self, reasoning: u64) -> Self {
        self.reasoning = reasoning;
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PRICE: TokenPrice = TokenPrice::new(Amount::units(3), Amount::units(15));

    #[test]
    fn three_dollars_a_million() {
        assert_eq!(PRICE.cost(TokenUsage::new(1_000_000, 0)), Amount::units(3));
        assert_eq!(PRICE.cost(TokenUsage::new(100, 0)), Amount::micros(300));
        assert_eq!(PRICE.cost(TokenUsage::new(100, 10)), Amount::micros(450));
        assert_eq!(PRICE.cost(TokenUsage::default()), Amount::ZERO);
    }

    #[test]
    fn the_sum_is_rounded_up_once() {
        let price = TokenPrice::new(Amount::cents(15), Amount::cents(60)); // 0.15 and 0.6 micros a token
        assert_eq!(price.cost(TokenUsage::new(1, 0)), Amount::micros(1));
        assert_eq!(price.cost(TokenUsage::new(1, 1)), Amount::micros(1));
        assert_eq!(price.cost(TokenUsage::new(2, 2)), Amount::micros(2)); // 1.5
        assert_eq!(price.cost(TokenUsage::new(20, 0)), Amount::micros(3)); // 3.0
    }

    #[test]
    fn cached_input_has_its_own_price_where_given() {
        let usage = TokenUsage::new(1_000_000, 0).cached(500_000);
        assert_eq!(PRICE.cost(usage), Amount::units(3));
        assert_eq!(PRICE.cached(Amount::ZERO).cost(usage), Amount::cents(150));
        assert_eq!(
            PRICE.cached(Amount::units(1)).cost(TokenUsage::new(1_000_000, 0).cached(u64::MAX)),
            Amount::units(1)
        );
    }

    #[test]
    fn reasoning_and_written_input_have_their_own_prices_where_given() {
        let usage = TokenUsage::new(1_000_000, 1_000_000).cache_write(400_000).reasoning(500_000);
        assert_eq!(PRICE.cost(usage), Amount::units(18));
        let price = PRICE.cache_write(Amount::cents(375)).reasoning(Amount::units(30));
        assert_eq!(price.cost(usage), Amount::cents(180 + 150 + 750 + 1_500));
        // Input is counted once: what came from the cache was not written to it.
        let usage = TokenUsage::new(10, 10).cached(8).cache_write(8).reasoning(u64::MAX);
        assert_eq!(price.cost(usage), Amount::micros(32 + 300));
    }

    #[test]
    fn extremes_saturate_and_negative_prices_are_zero() {
        let dear = TokenPrice::new(Amount::MAX, Amount::MAX);
        assert_eq!(
            dear.cost(TokenUsage::new(u64::MAX, u64::MAX).cached(u64::MAX / 2).reasoning(1)),
            Amount::MAX
        );
        assert_eq!(dear.cost(TokenUsage::new(1_000_000, 0)), Amount::MAX);
        let odd = TokenPrice::new(Amount::micros(i64::MIN), Amount::units(1));
        assert_eq!(odd.cost(TokenUsage::new(u64::MAX, 1_000_000)), Amount::units(1));
    }

    proptest! {
        #[test]
        fn never_below_the_exact_cost_and_less_than_a_micro_above(
            input in 0_u32.., output in 0_u32.., dear in 0..1_000_000_000_i64, cheap in 0..1_000_000_000_i64,
        ) {
            let price = TokenPrice::new(Amount::micros(dear), Amount::micros(cheap));
            let exact = i128::from(input) * i128::from(dear) + i128::from(output) * i128::from(cheap);
            let cost = i128::from(price.cost(TokenUsage::new(input.into(), output.into())).as_micros()) * 1_000_000;
            prop_assert!(cost >= exact && cost - exact < 1_000_000);
        }
    }
}
