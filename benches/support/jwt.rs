//! Tokens of an issuer, signed with RS256 as most issuers do.

use agentkey::identity::{JwtVerifier, Subject};
use agentkey::{AgentKeyLayer, AgentKeys, NewKey};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::rsa::{KeyPair, PublicKeyComponents};
use ring::signature::RSA_PKCS1_SHA256;

use super::{Result, service};

const ISSUER: &str = "https://issuer.example";

/// A layer for the tokens of [`make_tokens`].
pub fn layer(keys: &AgentKeys) -> Result<AgentKeyLayer> {
    let PublicKeyComponents::<Vec<u8>> { n, e } = key()?.public().into();
    let (n, e) = (URL_SAFE_NO_PAD.encode(n), URL_SAFE_NO_PAD.encode(e));
    let jwks =
        format!(r#"{{"keys":[{{"kty":"RSA","kid":"bench","alg":"RS256","n":"{n}","e":"{e}"}}]}}"#);
    let verifier = JwtVerifier::from_jwks(ISSUER, jwks).audience("bench").build()?;
    Ok(AgentKeyLayer::new(keys).verifier(verifier))
}

/// The tokens of so many subjects of one account, each with its key.
pub async fn make_tokens(keys: &AgentKeys, count: usize) -> Result<Vec<String>> {
    let (key, mut tokens) = (key()?, Vec::with_capacity(count));
    for number in 0..count {
        let id = format!("machine-{number}");
        let new = service::policy(NewKey::new("machines".parse()?))?;
        keys.ensure_subject(Subject::new(ISSUER, &id)?, new).await?;
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","kid":"bench","typ":"at+jwt"}"#);
        let claims = format!(
            r#"{{"iss":"{ISSUER}","sub":"{id}","aud":"bench","iat":1700000000,"exp":4102444800,"scope":"read"}}"#
        );
        let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
        let mut signature = vec![0; key.public().modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature)
            .map_err(|_| "a signature")?;
        tokens.push(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)));
    }
    Ok(tokens)
}

fn key() -> Result<KeyPair> {
    let text = include_str!("../../tests/identity/keys/rsa.pkcs8.base64");
    let der = STANDARD.decode(text.split_whitespace().collect::<String>())?;
    Ok(KeyPair::from_pkcs8(&der).map_err(|_| "an RSA key")?)
}
