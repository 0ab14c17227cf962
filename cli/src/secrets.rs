//! Words that may be secret, and must not be shown.

use std::ffi::OsString;

use agentkey::Token;

/// Shorter words are too common to be tokens: names, ids, flags.
const MIN_SECRET: usize = 16;

/// What stands in the place of a secret.
const HIDDEN: &str = "…";

/// Replaces every argument that may be a token or a password in a text about the arguments.
pub(crate) fn without_arguments(text: &str, arguments: &[OsString]) -> String {
    let words = arguments.iter().skip(1).filter_map(|argument| argument.to_str());
    let values = words.flat_map(|word| [Some(word), word.split_once('=').map(|(_, value)| value)]);
    let secrets: Vec<_> = values.flatten().filter(|word| may_be_secret(word)).collect();
    without(text, secrets)
}

/// Replaces these values in a text, if they are long enough to be tokens.
pub(crate) fn without_values<'t>(text: &str, values: impl IntoIterator<Item = &'t str>) -> String {
    without(text, values.into_iter().filter(|value| value.len() >= 8).collect())
}

/// Replaces the longest first: one may be part of another.
fn without(text: &str, mut secrets: Vec<&str>) -> String {
    secrets.sort_unstable_by_key(|secret| std::cmp::Reverse(secret.len()));
    secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, HIDDEN))
}

/// Returns whether a word may be a token, or an URL with a password.
fn may_be_secret(word: &str) -> bool {
    if word.starts_with("--") {
        return false;
    }
    let is_mixed = word.bytes().any(|byte| byte.is_ascii_digit())
        && word.bytes().any(|byte| byte.is_ascii_alphabetic());
    Token::parse(word).is_ok() || word.contains("://") || (word.len() >= MIN_SECRET && is_mixed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_passwords_are_hidden_and_the_rest_is_not() {
        let arguments = [
            "agentkey",
            "key",
            "--spend-limt",
            "sk-proj-0123456789abcdef",
            "--database=postgres://app:s3cret@db/app",
        ]
        .map(OsString::from);
        let text =
            "unexpected '--spend-limt', 'sk-proj-0123456789abcdef', 'postgres://app:s3cret@db/app'";
        assert_eq!(without_arguments(text, &arguments), "unexpected '--spend-limt', '…', '…'");
    }
}
