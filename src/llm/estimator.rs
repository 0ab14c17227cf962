//! Estimates of how many tokens a text is.

/// Estimates how many tokens a text is.
///
/// A [`Meter`](super::Meter) asks it for each piece of text that it sees, and sums the answers. So
/// an answer should not be below what the model counts: the estimate is what a client pays that hangs
/// up before the model tells its usage.
///
/// An application may ask the model's own tokenizer. The `llm-proxy` example does so by tiktoken.
///
/// ```
/// use agentkey::llm::TokenEstimator;
///
/// struct Words;
///
/// impl TokenEstimator for Words {
///     fn tokens(&self, text: &str) -> u64 {
///         text.split_whitespace().count() as u64 * 2
///     }
/// }
/// # assert_eq!(Words.tokens("once upon a time"), 8);
/// ```
pub trait TokenEstimator: Send + Sync {
    /// Returns an estimate of the tokens of `text`, which is a message, a part of one, or what a
    /// model wrote in one event.
    fn tokens(&self, text: &str) -> u64;
}

/// The default estimate: a token for every four bytes of UTF-8, rounded up for each piece.
///
/// It counts bytes and not characters, because a character beyond ASCII is up to a token of its
/// own: three bytes of Chinese are three quarters of a token, and an emoji is a whole one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FourBytes;

impl TokenEstimator for FourBytes {
    fn tokens(&self, text: &str) -> u64 {
        text.len().div_ceil(4) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_four_bytes() {
        for (text, tokens) in [("", 0), ("a", 1), ("once", 1), ("once upon a time, ", 5), ("語", 1)]
        {
            assert_eq!(FourBytes.tokens(text), tokens, "{text:?}");
        }
    }
}
