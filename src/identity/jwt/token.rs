//! The form of a signed token: the compact serialisation of RFC 7515 §7.1.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;

use super::algorithm::JwtAlgorithm;
use crate::identity::claims::invalid;
use crate::identity::json::parse_object;
use crate::identity::verifier::VerifyError;

/// A longer text is refused before it is read.
pub(super) const MAX_LEN: usize = 16 * 1024;

/// A token that is taken apart, and not yet verified.
pub(super) struct Token<'a> {
    pub(super) algorithm: JwtAlgorithm,
    pub(super) kid: Option<String>,
    pub(super) typ: Option<String>,
    /// What is signed.
    pub(super) message: &'a [u8],
    pub(super) signature: Vec<u8>,
    payload: &'a str,
}

impl<'a> Token<'a> {
    /// Takes a text apart.
    pub(super) fn parse(text: &'a str) -> Result<Self, VerifyError> {
        let [header, payload, signature] =
            parts(text).ok_or_else(|| invalid("it is no signed JWT"))?;
        let header = decode(header).and_then(|header| parse_object(&header));
        let header = header.ok_or_else(|| invalid("its header cannot be read"))?;
        if header.contains_key("crit") {
            return Err(invalid("its header has `crit`, of which nothing is understood"));
        }
        let text_of = |name: &str| match header.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(invalid("a member of its header is no text")),
        };
        let algorithm = text_of("alg")?.as_deref().and_then(JwtAlgorithm::from_name);
        let message_len = text.len() - signature.len() - 1;
        Ok(Self {
            algorithm: algorithm.ok_or_else(|| invalid("its algorithm is not accepted"))?,
            kid: text_of("kid")?,
            typ: text_of("typ")?,
            message: text.as_bytes().get(..message_len).unwrap_or_default(),
            signature: decode(signature).ok_or_else(|| invalid("its signature cannot be read"))?,
            payload,
        })
    }

    /// Reads the claims.
    pub(super) fn claims(&self) -> Result<serde_json::Map<String, Value>, VerifyError> {
        let claims = decode(self.payload).and_then(|payload| parse_object(&payload));
        claims.ok_or_else(|| invalid("its claims cannot be read, or one is repeated"))
    }
}

/// Returns the issuer that a text names, where it has the form of a signed token.
pub(super) fn unverified_issuer(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Issuer {
        iss: String,
    }
    let [_, payload, _] = parts(text)?;
    Some(serde_json::from_slice::<Issuer>(&decode(payload)?).ok()?.iss)
}

fn parts(text: &str) -> Option<[&str; 3]> {
    if text.len() > MAX_LEN {
        return None;
    }
    let mut parts = text.split('.');
    let three = [parts.next()?, parts.next()?, parts.next()?];
    parts.next().is_none().then_some(three)
}

fn decode(part: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(part).ok()
}
