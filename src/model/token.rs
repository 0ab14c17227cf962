//! Tokens: the secret strings that clients send, and the hashes that stores keep of them.
//!
//! ```text
//! ak_live _ 003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf 0gEjkH
//! prefix    32 random bytes, 43 base62 digits           CRC-32 of all before it, 6 base62 digits
//! ```

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// The secret string that stands for a key: `<prefix>_<43 base62 digits><6 base62 digits>`.
///
/// The digits are `0-9A-Za-z`, big-endian, padded with zeros. The first 43 are 32 random bytes. The
/// last 6 are the CRC-32 (IEEE 802.3) of everything before them, which detects a mistyped token
/// without a store.
///
/// It is shown once, through [`expose`](Self::expose). It cannot be cloned, displayed or
/// serialized. `Debug` shows its prefix and start only, and its memory is wiped when it is dropped.
///
/// ```
/// use agentkey::Token;
/// use agentkey::model::{TokenHash, TokenPrefix};
///
/// let token = Token::generate(&TokenPrefix::try_from("ak_live")?)?;
/// assert!(token.expose().starts_with("ak_live_"));
///
/// let received = Token::parse(token.expose())?;
/// assert_eq!(received.hash(), token.hash());
/// assert_eq!(received.hash(), TokenHash::digest(token.expose()));
/// # Ok::<(), agentkey::model::TokenError>(())
/// ```
pub struct Token {
    text: Zeroizing<String>,
    /// The length of its prefix; zero for a foreign token.
    prefix: usize,
}

impl Token {
    /// A regular expression for secret scanners, which matches a token with any prefix.
    ///
    /// It matches more than [`parse`](Self::parse) accepts: prefixes of up to 39 characters with
    /// many `_`, and wrong checksums. Put your own prefix in place of the first part to match only
    /// your tokens.
    pub const SECRET_SCANNER_REGEX: &str = r"\b[a-z](?:_?[a-z0-9]){0,19}_[0-9A-Za-z]{49}\b";

    #[cfg(feature = "sessions")]
    const MAX_SESSION_LEN: usize = 2_048;
    const SECRET_LEN: usize = 43;
    const CHECKSUM_LEN: usize = 6;
    const BODY_LEN: usize = Self::SECRET_LEN + Self::CHECKSUM_LEN;
    const MAX_LEN: usize = TokenPrefix::MAX_LEN + 1 + Self::BODY_LEN;
    const START_LEN: usize = 8;
    const FOREIGN_START_LEN: usize = 4;
    /// A shorter foreign token would reveal too much of its secret by showing a start.
    const FOREIGN_START_FROM: usize = 24;

    /// Generates a token from the operating system's random bytes.
    ///
    /// # Errors
    ///
    /// [`TokenError::Random`] where the operating system has none.
    pub fn generate(prefix: &TokenPrefix) -> Result<Self, TokenError> {
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(secret.as_mut_slice()).map_err(|_| TokenError::Random)?;
        Ok(Self::from_bytes(prefix, &secret))
    }

    pub(crate) fn from_bytes(prefix: &TokenPrefix, secret: &[u8; 32]) -> Self {
        // The capacity is for the whole token: growing would leave copies of the secret behind.
        let mut text = Zeroizing::new(String::with_capacity(Self::MAX_LEN));
        text.push_str(prefix.as_str());
        text.push('_');
        let mut words = Zeroizing::new([0_u32; 8]);
        for (word, bytes) in words.iter_mut().zip(secret.as_chunks().0) {
            *word = u32::from_be_bytes(*bytes);
        }
        let digits: Zeroizing<[u8; Self::SECRET_LEN]> =
            Zeroizing::new(base62(words.as_mut_slice()));
        text.extend(digits.iter().copied().map(char::from));
        let checksum = checksum(text.as_bytes());
        text.extend(checksum.map(char::from));
        Self { text, prefix: prefix.as_str().len() }
    }

    /// Reads a token of this crate's format and checks its checksum. It does not ask a store
    /// whether a key has it.
    ///
    /// # Errors
    ///
    /// [`TokenError::Malformed`] where it has another form; [`TokenError::Checksum`] where it is
    /// mistyped.
    ///
    /// ```
    /// use agentkey::Token;
    /// use agentkey::model::TokenError;
    ///
    /// assert_eq!(Token::parse("hello").err(), Some(TokenError::Malformed));
    /// let mistyped = "ak_live_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlg0gEjkH";
    /// assert_eq!(Token::parse(mistyped).err(), Some(TokenError::Checksum));
    /// ```
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let prefix = Self::check(text)?;
        Ok(Self { text: Zeroizing::new(text.to_owned()), prefix: prefix.len() })
    }

    /// Returns the prefix of a text that [`parse`](Self::parse) accepts.
    fn check(text: &str) -> Result<&str, TokenError> {
        let prefix = split(text).ok_or(TokenError::Malformed)?;
        let sum_at = text.len().saturating_sub(Self::CHECKSUM_LEN);
        match text.as_bytes().split_at_checked(sum_at) {
            Some((covered, sum)) if checksum(covered) == sum => Ok(prefix),
            _ => Err(TokenError::Checksum),
        }
    }

    /// Returns the hash of a text that [`parse`](Self::parse) accepts, without a copy of the
    /// secret.
    pub(crate) fn hash_of(text: &str) -> Result<TokenHash, TokenError> {
        Self::check(text).map(|_| TokenHash::digest(text))
    }

    /// Returns the hash of a text that [`parse_foreign`](Self::parse_foreign) accepts, without a
    /// copy of the secret.
    pub(crate) fn hash_foreign(text: &str) -> Result<TokenHash, TokenError> {
        Self::check_foreign(text).map(|()| TokenHash::digest(text))
    }

    fn check_foreign(text: &str) -> Result<(), TokenError> {
        let fits =
            (8..=512).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if fits { Ok(()) } else { Err(TokenError::Foreign) }
    }

    /// Reads a token that another program made: 8 to 512 visible ASCII characters of any format.
    ///
    /// # Errors
    ///
    /// [`TokenError::Foreign`] where it is shorter, longer, or has other characters.
    ///
    /// ```
    /// use agentkey::Token;
    ///
    /// let token = Token::parse_foreign("sk-0123456789abcdef0123456789abcdef")?;
    /// assert_eq!((token.prefix(), token.start()), ("", "sk-0"));
    /// # Ok::<(), agentkey::model::TokenError>(())
    /// ```
    pub fn parse_foreign(text: &str) -> Result<Self, TokenError> {
        Self::check_foreign(text)?;
        Ok(Self { text: Zeroizing::new(text.to_owned()), prefix: 0 })
    }

    /// Reads the token of a session: three parts of base64url with a dot between them. A handle
    /// verifies it when it looks it up.
    ///
    /// # Errors
    ///
    /// [`TokenError::Malformed`] where it has another form.
    #[cfg(feature = "sessions")]
    pub fn parse_session(text: &str) -> Result<Self, TokenError> {
        let is_part = |part: &str| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            !part.is_empty() && part.bytes().all(fits)
        };
        let is_session = text.len() <= Self::MAX_SESSION_LEN
            && text.starts_with("eyJ")
            && text.split('.').count() == 3
            && text.split('.').all(is_part);
        let token = || Self { text: Zeroizing::new(text.to_owned()), prefix: 0 };
        is_session.then(token).ok_or(TokenError::Malformed)
    }

    /// Returns the token of a session, as it was signed.
    #[cfg(feature = "sessions")]
    pub(crate) const fn from_session(text: Zeroizing<String>) -> Self {
        Self { text, prefix: 0 }
    }

    /// Returns the secret itself. Show it once, to its user, and don't log or store it.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// Returns the hash that a store keeps of the token and finds it by. A session is found by the hash
    /// of another text.
    pub fn hash(&self) -> TokenHash {
        TokenHash::digest(&self.text)
    }

    /// Returns the prefix, without the `_` after it; empty for a foreign token.
    pub fn prefix(&self) -> &str {
        self.text.get(..self.prefix).unwrap_or_default()
    }

    /// Returns the characters that people recognise the token by: the first 8 after the prefix and
    /// its `_`.
    ///
    /// A foreign token shows its first 4 characters, if it has at least 24; else nothing.
    pub fn start(&self) -> &str {
        let start = match self.prefix {
            0 if self.text.len() < Self::FOREIGN_START_FROM => 0..0,
            0 => 0..Self::FOREIGN_START_LEN,
            prefix => prefix + 1..prefix + 1 + Self::START_LEN,
        };
        self.text.get(start).unwrap_or_default()
    }
}

/// Returns the prefix of a text that has the form of a token.
fn split(text: &str) -> Option<&str> {
    if text.len() > Token::MAX_LEN {
        return None;
    }
    let (head, body) = text.split_at_checked(text.len().checked_sub(Token::BODY_LEN)?)?;
    let prefix = head.strip_suffix('_')?;
    let whole =
        TokenPrefix::accepts(prefix) && body.bytes().all(|byte| byte.is_ascii_alphanumeric());
    whole.then_some(prefix)
}

fn checksum(covered: &[u8]) -> [u8; Token::CHECKSUM_LEN] {
    base62(&mut [crc32fast::hash(covered)])
}

/// Returns the digits of the big-endian number in `words`, and leaves there what did not fit into
/// `N` digits.
fn base62<const N: usize>(words: &mut [u32]) -> [u8; N] {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        let mut rest = 0;
        for word in words.iter_mut() {
            let dividend = rest << 32 | u64::from(*word);
            *word = (dividend / 62) as u32; // fits: rest < 62
            rest = dividend % 62;
        }
        let rest = rest as u8;
        *digit = match rest {
            0..10 => b'0' + rest,
            10..36 => b'A' + (rest - 10),
            _ => b'a' + (rest - 36),
        };
    }
    digits
}

/// Shows the prefix and the start, and nothing more: `Token(ak_live_003aUlTJ…)`.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let underscore = if self.prefix == 0 { "" } else { "_" };
        write!(f, "Token({}{underscore}{}…)", self.prefix(), self.start())
    }
}

/// The prefix of tokens, such as `ak`, `ak_live` or `ak_test`.
///
/// It has 1 to 20 characters: `a` to `z`, `0` to `9`, and single `_` between them. The first is a
/// letter. The default is `ak`.
///
/// ```
/// use agentkey::model::TokenPrefix;
///
/// let prefix: TokenPrefix = "ak_live".parse()?;
/// assert_eq!(prefix.as_str(), "ak_live");
/// assert!("AK".parse::<TokenPrefix>().is_err());
/// # Ok::<(), agentkey::model::TokenError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenPrefix(Box<str>);

impl TokenPrefix {
    const MAX_LEN: usize = 20;

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn accepts(text: &str) -> bool {
        let letter_or_digit = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        text.len() <= Self::MAX_LEN
            && text.starts_with(|first: char| first.is_ascii_lowercase())
            && text.split('_').all(|part| !part.is_empty() && part.bytes().all(letter_or_digit))
    }
}

impl Default for TokenPrefix {
    fn default() -> Self {
        Self("ak".into())
    }
}

impl TryFrom<&str> for TokenPrefix {
    type Error = TokenError;

    fn try_from(text: &str) -> Result<Self, TokenError> {
        if Self::accepts(text) { Ok(Self(text.into())) } else { Err(TokenError::Prefix) }
    }
}

impl FromStr for TokenPrefix {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        text.try_into()
    }
}

impl fmt::Display for TokenPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The SHA-256 of a token, which is what stores keep. Its text is 64 lower-case hexadecimal digits.
///
/// A fast hash is enough: a token is 256 random bits, too many to try.
///
/// ```
/// use agentkey::model::TokenHash;
///
/// let hash = TokenHash::digest("abc");
/// assert_eq!(hash.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
/// assert_eq!(hash.to_string().parse(), Ok(hash));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenHash([u8; 32]);

impl Hash for TokenHash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // The first bytes choose queues and shards, and within one of them they do not vary.
        let [.., a, b, c, d, e, f, g, h] = self.0;
        state.write_u64(u64::from_ne_bytes([a, b, c, d, e, f, g, h]));
    }
}

impl TokenHash {
    /// Returns the hash of a token's text.
    pub fn digest(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }

    /// Reads a SHA-256 as other programs keep it: 64 hexadecimal digits, or the 43 characters of
    /// base64 or base64url, with or without the `=` after them.
    ///
    /// # Errors
    ///
    /// [`TokenError::ForeignHash`] where it is none of these.
    ///
    /// ```
    /// use agentkey::model::TokenHash;
    ///
    /// let hash = TokenHash::digest("abc");
    /// for text in [
    ///     "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    ///     "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD",
    ///     "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0",
    ///     "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=",
    /// ] {
    ///     assert_eq!(TokenHash::parse(text), Ok(hash));
    /// }
    /// # Ok::<(), agentkey::model::TokenError>(())
    /// ```
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let base64 = text.strip_suffix('=').unwrap_or(text);
        match base64.len() {
            43 => from_base64(base64.as_bytes()).map(Self).ok_or(TokenError::ForeignHash),
            _ => text.to_ascii_lowercase().parse().map_err(|_| TokenError::ForeignHash),
        }
    }

    /// Returns the 32 bytes of the hash.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Decodes the 43 characters of base64 or base64url that 32 bytes have, without padding.
fn from_base64(text: &[u8]) -> Option<[u8; 32]> {
    let (mut bytes, mut bits, mut rest) = (Vec::with_capacity(32), 0, 0_u32);
    for character in text {
        let digit = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        (rest, bits) = (rest << 6 | u32::from(digit), bits + 6);
        if bits >= 8 {
            bits -= 8;
            bytes.push((rest >> bits) as u8); // the bits above were taken before
            rest &= (1 << bits) - 1;
        }
    }
    // The last character has two bits too many. They are zero, or two texts would be one hash.
    bytes.try_into().ok().filter(|_| rest == 0)
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for TokenHash {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut bytes = [0; 32];
        let (pairs, odd) = text.as_bytes().as_chunks();
        if pairs.len() != bytes.len() || !odd.is_empty() {
            return Err(TokenError::Hash);
        }
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = nibble(*high)? << 4 | nibble(*low)?;
        }
        Ok(Self(bytes))
    }
}

fn nibble(digit: u8) -> Result<u8, TokenError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(TokenError::Hash),
    }
}

/// Shows the first 8 digits: enough to tell hashes apart in a log, too few to look one up.
impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(")?;
        self.0.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("…)")
    }
}

/// Why a text is not a token, a prefix or a hash. It never contains any of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The text does not have the form of a token.
    #[error("a token is a prefix, _ and 49 letters and digits")]
    Malformed,
    /// The text has the form of a token, but its checksum is wrong.
    #[error("the token's checksum is wrong; copy the whole token again")]
    Checksum,
    /// The text is not a foreign token.
    #[error("a foreign token is 8 to 512 visible ASCII characters")]
    Foreign,
    /// The text is not a token prefix.
    #[error(
        "a token prefix is 1 to 20 of a-z, 0-9 and single _ between them, with a letter first, such as ak_live"
    )]
    Prefix,
    /// The text is not a token hash.
    #[error("a token hash is 64 lower-case hexadecimal digits")]
    Hash,
    /// The text is not a SHA-256 as other programs keep it.
    #[error("a SHA-256 is 64 hexadecimal digits, or 43 characters of base64 or base64url")]
    ForeignHash,
    /// The operating system gave no random bytes.
    #[error("the operating system has no random bytes; try again later")]
    Random,
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const PINNED: &str = "ak_live_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf0gEjkH";

    fn prefix(text: &str) -> TokenPrefix {
        text.parse().unwrap()
    }

    fn counting() -> [u8; 32] {
        std::array::from_fn(|n| u8::try_from(n).unwrap())
    }

    /// The format never changes. Python's zlib and hashlib computed these values.
    #[test]
    fn the_format_is_pinned() {
        for (bytes, token, hash) in [
            (
                counting(),
                PINNED,
                "fbb34b5909ceb8a398043729f93ad020b7658bc239962ccbfeeb177c52f3399e",
            ),
            (
                [0xFF; 32],
                "ak_live_yhjskwdA6OZ1AL1YmHWZWm8LLG7HjnuCA2j5rOw8Xp12zsbnN",
                "fb627fea534fc0da673b375feb1fd0cf42238a5e5eb5900bcf4f08dd1227848b",
            ),
            (
                [0; 32],
                "ak_live_000000000000000000000000000000000000000000009KvW5",
                "18f3217a76a71d096383362aae6fc9a680355deaae8c31abf57ab0568e351458",
            ),
        ] {
            let made = Token::from_bytes(&prefix("ak_live"), &bytes);
            assert_eq!(made.expose(), token);
            assert_eq!(made.hash().to_string(), hash);
            assert_eq!(Token::parse(token).unwrap().hash(), made.hash());
        }
    }

    #[test]
    fn parts() {
        let token = Token::parse(PINNED).unwrap();
        assert_eq!((token.prefix(), token.start()), ("ak_live", "003aUlTJ"));
        let generated = Token::generate(&TokenPrefix::default()).unwrap();
        assert_eq!(
            (generated.prefix(), generated.start().len(), generated.expose().len()),
            ("ak", 8, 52)
        );
    }

    #[test]
    fn debug_hides_the_secret() {
        assert_eq!(format!("{:?}", Token::parse(PINNED).unwrap()), "Token(ak_live_003aUlTJ…)");
        let foreign = |text| format!("{:?}", Token::parse_foreign(text).unwrap());
        assert_eq!(foreign("sk-0123456789abcdef01234"), "Token(sk-0…)");
        assert_eq!(foreign("sk-0123456789abcdef0123"), "Token(…)");
        assert_eq!(format!("{:?}", TokenHash::digest("abc")), "TokenHash(ba7816bf…)");
    }

    #[test]
    fn mistyped_tokens_are_detected() {
        for at in 0..PINNED.len() {
            let mut text = PINNED.as_bytes().to_vec();
            text[at] = if text[at] == b'x' { b'y' } else { b'x' };
            assert!(Token::parse(std::str::from_utf8(&text).unwrap()).is_err(), "{at}");
        }
        let swapped = PINNED.replace("003a", "030a");
        assert_eq!(Token::parse(&swapped).err(), Some(TokenError::Checksum));
        let other_prefix = PINNED.replace("live", "test");
        assert_eq!(Token::parse(&other_prefix).err(), Some(TokenError::Checksum));
    }

    #[test]
    fn other_forms_are_refused() {
        let body = &PINNED["ak_live_".len()..];
        for text in [
            "",
            "_",
            body,
            &format!("_{body}"),
            &format!("ak{body}"),
            &format!("AK_{body}"),
            &format!("ak__{body}"),
            &format!("ak_{body}x"),
            &format!("{}_{body}", "a".repeat(21)),
            &format!(" {PINNED}"),
            &format!("{PINNED}\n"),
            &PINNED.replace('T', "-"),
            &PINNED.replace("TJ", "é"),
            &"é".repeat(26),
            &"a".repeat(1 << 20),
        ] {
            assert_eq!(Token::parse(text).err(), Some(TokenError::Malformed));
        }
    }

    #[test]
    fn foreign_tokens_are_visible_ascii() {
        for text in ["12345678", "a-b.c~d/e+f==", &"x".repeat(512), PINNED] {
            let token = Token::parse_foreign(text).unwrap();
            assert_eq!((token.expose(), token.prefix()), (text, ""));
            assert_eq!(token.hash(), TokenHash::digest(text));
        }
        for text in
            ["", "1234567", "1234 5678", "12345678\n", "1234567é", "12345678\x7f", &"x".repeat(513)]
        {
            assert_eq!(Token::parse_foreign(text).err(), Some(TokenError::Foreign), "{text:?}");
        }
    }

    #[test]
    fn prefixes() {
        for text in ["a", "ak", "ak_live", "a1_2", "a_b_c", &"a".repeat(20)] {
            assert_eq!(prefix(text).to_string(), text);
            assert_eq!(
                Token::parse(Token::generate(&prefix(text)).unwrap().expose()).unwrap().prefix(),
                text
            );
        }
        for text in ["", "_", "1a", "_a", "a_", "a__b", "A", "a-b", "a b", "é", &"a".repeat(21)] {
            assert_eq!(text.parse::<TokenPrefix>(), Err(TokenError::Prefix), "{text:?}");
        }
        assert_eq!(TokenPrefix::default().as_str(), "ak");
    }

    #[test]
    fn hashes_of_other_programs_are_hex_or_base64() {
        for text in [
            "",
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015a",
            "ga7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "$2b$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy",
            "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa",
            "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa1",
            "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0==",
            "ungWv48Bz.pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0",
            "éngWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa",
        ] {
            assert_eq!(TokenHash::parse(text), Err(TokenError::ForeignHash), "{text:?}");
        }
    }

    #[test]
    fn hashes_are_lower_case_hex() {
        let hash = TokenHash::digest("abc").to_string();
        for text in [
            "",
            &hash[1..],
            &format!("{hash}0"),
            &format!("{hash}00"),
            &hash.to_uppercase(),
            &hash.replace('b', "g"),
        ] {
            assert_eq!(text.parse::<TokenHash>(), Err(TokenError::Hash), "{text:?}");
        }
    }

    #[test]
    fn errors_say_what_is_accepted() {
        for (error, text) in [
            (TokenError::Malformed, "a token is a prefix, _ and 49 letters and digits"),
            (TokenError::Checksum, "the token's checksum is wrong; copy the whole token again"),
            (TokenError::Foreign, "a foreign token is 8 to 512 visible ASCII characters"),
            (
                TokenError::Prefix,
                "a token prefix is 1 to 20 of a-z, 0-9 and single _ between them, with a letter first, such as ak_live",
            ),
            (TokenError::Hash, "a token hash is 64 lower-case hexadecimal digits"),
            (
                TokenError::ForeignHash,
                "a SHA-256 is 64 hexadecimal digits, or 43 characters of base64 or base64url",
            ),
            (TokenError::Random, "the operating system has no random bytes; try again later"),
        ] {
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn no_two_are_alike() {
        let hashes: HashSet<_> =
            (0..1000).map(|_| Token::generate(&TokenPrefix::default()).unwrap().hash()).collect();
        assert_eq!(hashes.len(), 1000);
    }

    proptest! {
        #[test]
        fn what_is_made_can_be_read(bytes: [u8; 32], prefix in "[a-z][a-z0-9]{0,8}(_[a-z0-9]{1,9})?") {
            let token = Token::from_bytes(&prefix.parse().unwrap(), &bytes);
            let read = Token::parse(token.expose()).unwrap();
            prop_assert_eq!(read.prefix(), prefix);
            prop_assert_eq!(read.start(), token.start());
            let (shown, secret) = (format!("{read:?}"), &token.expose()[token.prefix().len() + 9..]);
            prop_assert!(!shown.contains(secret));
        }

        #[test]
        fn hashes_round_trip(bytes: [u8; 32]) {
            prop_assert_eq!(TokenHash(bytes).to_string().parse(), Ok(TokenHash(bytes)));
        }

        #[test]
        fn nothing_panics(text in "\\PC*", sized in "[a_é]{0,80}") {
            for text in [text, sized] {
                let _ = (Token::parse(&text), Token::parse_foreign(&text));
                let _ = (text.parse::<TokenPrefix>(), text.parse::<TokenHash>());
                let _ = TokenHash::parse(&text);
            }
        }
    }
}
